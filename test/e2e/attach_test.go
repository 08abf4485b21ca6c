//go:build host

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/retry"
	utilexec "k8s.io/utils/exec"
)

// transports are the two that client-go has: WebSocket (v5) and SPDY (v4).
var transports = map[string]string{"websocket": http.MethodGet, "SPDY": http.MethodPost}

// attachBridge is a TCP address for podd's socket, since client-go's executors dial no unix socket. It keeps nothing back:
// who does not read holds up only himself.
func attachBridge(t *testing.T, s *suite) *rest.Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", s.Socket)
			if err != nil {
				_ = client.Close()
				continue
			}
			all.Go(func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
				_ = client.Close()
			})
			all.Go(func() {
				_, _ = io.Copy(client, server)
				_ = server.Close()
				_ = client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return &rest.Config{Host: "http://" + l.Addr().String()}
}

// attachClient is one client of a container: what it sees, and the end.
type attachClient struct {
	out, errs *attachOutput
	in        *io.PipeWriter // nil: no stdin
	sizes     chan remotecommand.TerminalSize
	end       chan error
	leave     context.CancelFunc
}

// attachOutput is what has come, and can be waited for.
type attachOutput struct {
	mu   sync.Mutex
	all  bytes.Buffer
	more chan struct{} // capacity 1
	hold chan struct{} // nil, or: every Write waits until it is closed
}

func newAttachOutput() *attachOutput { return &attachOutput{more: make(chan struct{}, 1)} }

func (o *attachOutput) Write(p []byte) (int, error) {
	if o.hold != nil {
		<-o.hold
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.all.Write(p)
}

func (o *attachOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// expect waits until all that came contains what is wanted.
func (o *attachOutput) expect(t *testing.T, what string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(o.String(), what) {
		select {
		case <-o.more:
		case <-timeout:
			t.Fatalf("came %q, want %q", o.String(), what)
		}
	}
}

func (c *attachClient) Next() *remotecommand.TerminalSize {
	size, ok := <-c.sizes
	if !ok {
		return nil
	}
	return &size
}

func (c *attachClient) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		t.Fatal(err)
	}
}

// wait is the end of the session.
func (c *attachClient) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.end:
		return err
	case <-time.After(patience):
		t.Fatalf("the session goes on; came %q", c.out)
		return nil
	}
}

// attachStart begins a session of exec or attach.
func attachStart(t *testing.T, config *rest.Config, method, pod, subresource string, opts any) *attachClient {
	t.Helper()
	request := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(pod).SubResource(subresource)
	var stdin, tty, stderr bool
	switch o := opts.(type) {
	case *v1.PodAttachOptions:
		request.VersionedParams(o, scheme.ParameterCodec)
		stdin, tty, stderr = o.Stdin, o.TTY, o.Stderr
	case *v1.PodExecOptions:
		request.VersionedParams(o, scheme.ParameterCodec)
		stdin, tty, stderr = o.Stdin, o.TTY, o.Stderr
	}
	executor, err := remotecommand.NewSPDYExecutor(config, method, request.URL())
	if method == http.MethodGet {
		executor, err = remotecommand.NewWebSocketExecutor(config, method, request.URL().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	c := &attachClient{out: newAttachOutput(), errs: newAttachOutput(), end: make(chan error, 1), leave: leave,
		sizes: make(chan remotecommand.TerminalSize, 1)}
	streams := remotecommand.StreamOptions{Stdout: c.out, Tty: tty}
	if stderr {
		streams.Stderr = c.errs
	}
	var from *io.PipeReader
	if stdin {
		from, c.in = io.Pipe()
		streams.Stdin = from
	}
	if tty {
		c.sizes <- remotecommand.TerminalSize{Width: 101, Height: 33}
		streams.TerminalSizeQueue = c
	}
	t.Cleanup(func() {
		leave()
		if from != nil {
			_ = from.Close()
		}
		close(c.sizes)
	})
	go func() { c.end <- executor.StreamWithContext(ctx, streams) }()
	return c
}

// attachTo is a client of container app.
func attachTo(t *testing.T, config *rest.Config, method, pod string, stdin, tty bool) *attachClient {
	t.Helper()
	return attachStart(t, config, method, pod, "attach", &v1.PodAttachOptions{Container: "app", Stdin: stdin, Stdout: true, Stderr: !tty, TTY: tty})
}

// testAttach: clients at a container's own streams.
func testAttach(t *testing.T, s *suite) {
	config := attachBridge(t, s)
	for name, method := range transports {
		t.Run(name, func(t *testing.T) {
			t.Run("open", func(t *testing.T) { t.Parallel(); testAttachOpen(t, s, config, method, strings.ToLower(name)) })
			t.Run("once", func(t *testing.T) { t.Parallel(); testAttachOnce(t, s, config, method, strings.ToLower(name)) })
			t.Run("terminal", func(t *testing.T) { t.Parallel(); testAttachTerminal(t, s, config, method, strings.ToLower(name)) })
			t.Run("ends", func(t *testing.T) { t.Parallel(); testAttachEnds(t, s, config, method, strings.ToLower(name)) })
			t.Run("behind", func(t *testing.T) { t.Parallel(); testAttachBehind(t, s, config, method, strings.ToLower(name)) })
			t.Run("exec", func(t *testing.T) { t.Parallel(); testAttachExec(t, s, config, method, strings.ToLower(name)) })
		})
	}
	t.Run("debug", func(t *testing.T) { t.Parallel(); testAttachDebug(t, s, config) })
	t.Run("dropped", func(t *testing.T) { t.Parallel(); testAttachDropped(t, s) })
	t.Run("podctl", func(t *testing.T) { t.Parallel(); testAttachPodctl(t, s) })
	t.Run("debug-fails", func(t *testing.T) { t.Parallel(); testAttachDebugFails(t, s) })
	t.Run("debug-outlived", func(t *testing.T) { t.Parallel(); testAttachDebugOutlived(t, s) })
}

// A stdin that stays open: clients come and go, all of them see what is written from when they came, and the container
// notices none of them.
func testAttachOpen(t *testing.T, s *suite, config *rest.Config, method, name string) {
	name = "attach-open-" + name
	s.running(t, pod{Name: name, Container: "stdin: true", Script: "echo before; echo bad >&2; while read line; do echo got $line; echo err $line >&2; done; echo end"})
	eventually(t, func() error {
		if got := s.must(t, "logs", name); !strings.Contains(got, "before\n") || !strings.Contains(got, "bad\n") {
			return fmt.Errorf("the log is %q", got)
		}
		return nil
	})
	first := attachTo(t, config, method, name, true, false)
	first.say(t, "one\n")
	first.out.expect(t, "got one\n")
	first.errs.expect(t, "err one\n")
	second := attachTo(t, config, method, name, true, false)
	second.say(t, "two\n")
	second.out.expect(t, "got two\n")
	first.out.expect(t, "got two\n")
	// A client that ends its stdin, and one that goes without a word, leave the others and the container as they are.
	_ = second.in.Close()
	if err := second.wait(t); err != nil {
		t.Errorf("the second client: %v", err)
	}
	third := attachTo(t, config, method, name, true, false)
	third.say(t, "three\n")
	third.out.expect(t, "got three\n")
	third.leave()
	_ = third.wait(t)
	first.say(t, "four\n")
	first.out.expect(t, "got four\n")
	if got := first.out.String(); got != "got one\ngot two\ngot three\ngot four\n" {
		t.Errorf("the first client saw %q", got)
	}
	if got := second.out.String(); got != "got two\n" {
		t.Errorf("the second client saw %q", got)
	}
	first.leave()
	_ = first.wait(t)
	if got := s.must(t, "logs", name); !strings.Contains(got, "got four\n") || strings.Contains(got, "end\n") {
		t.Errorf("the log is %q", got)
	}
	s.remove(t, name)
}

// stdinOnce: the input ends with the first client, and the output is seen to its end. One that goes without a word ends it
// as well. Who comes later has nothing to say.
func testAttachOnce(t *testing.T, s *suite, config *rest.Config, method, name string) {
	half := pod{Name: "attach-half-" + name, Container: "stdin: true\nstdinOnce: true", Script: "cat; sleep 1; echo end"}
	s.running(t, half)
	first := attachTo(t, config, method, half.Name, true, false)
	first.say(t, "hello\n")
	first.out.expect(t, "hello\n")
	_ = first.in.Close()
	if err := first.wait(t); err != nil || first.out.String() != "hello\nend\n" {
		t.Errorf("%q, %v", first.out, err)
	}
	s.until(t, half.Name, "succeeded", phase(v1.PodSucceeded))

	left := pod{Name: "attach-left-" + name, Container: "stdin: true\nstdinOnce: true", Script: "cat; echo end; read line; echo line $?; " + sleepScript}
	s.running(t, left)
	first = attachTo(t, config, method, left.Name, true, false)
	first.say(t, "hello\n")
	first.out.expect(t, "hello\n")
	first.leave()
	_ = first.wait(t)
	eventually(t, func() error {
		if got := s.must(t, "logs", left.Name); got != "hello\nend\nline 1\n" {
			return fmt.Errorf("the log is %q", got)
		}
		return nil
	})
	late := attachTo(t, config, method, left.Name, true, false)
	late.say(t, strings.Repeat("too late\n", 20000)) // nobody reads it
	s.remove(t, left.Name)
	if err := late.wait(t); err != nil || late.out.String() != "" {
		t.Errorf("a later client: %q, %v", late.out, err)
	}
}

// A terminal: its size and changes of it, control characters; detaching leaves the shell as it is.
func testAttachTerminal(t *testing.T, s *suite, config *rest.Config, method, name string) {
	name = "attach-terminal-" + name
	s.running(t, pod{Name: name, Container: "stdin: true\ntty: true\ncommand: [sh]"})
	c := attachTo(t, config, method, name, true, true)
	c.say(t, "while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; tty; echo si''zed\r")
	c.out.expect(t, "/dev/pts/0\r\nsized\r\n")
	c.sizes <- remotecommand.TerminalSize{Width: 77, Height: 22}
	c.say(t, "while [ \"$(stty size)\" != '22 77' ]; do sleep 0.05; done; echo re''sized\r")
	c.out.expect(t, "resized\r\n")
	c.say(t, "X=kept; sleep 4713\r")
	eventually(t, func() error {
		if s.sh(t, name, "ps | grep -c 'sleep 471[3]'; true") == "0" {
			return errors.New("sleep does not run")
		}
		return nil
	})
	c.say(t, "\x03")
	c.say(t, "echo int''errupted\r")
	c.out.expect(t, "interrupted\r\n")
	_ = c.in.Close()
	if err := c.wait(t); err != nil {
		t.Errorf("detach: %v", err)
	}
	again := attachTo(t, config, method, name, true, true)
	again.say(t, "echo X is $X\r")
	again.out.expect(t, "X is kept\r\n")
	again.say(t, "exit 4\r")
	if err := again.wait(t); err != nil {
		t.Errorf("the end of the container: %v", err)
	}
	pod := s.until(t, name, "failed", phase(v1.PodFailed))
	if code := app(pod).State.Terminated.ExitCode; code != 4 {
		t.Errorf("exit code %d", code)
	}
	if got := s.must(t, "logs", name); !strings.Contains(got, "X is kept\r\n") {
		t.Errorf("the log is %q", got)
	}
}

// The end of the container ends the session, after all that it wrote.
func testAttachEnds(t *testing.T, s *suite, config *rest.Config, method, name string) {
	name = "attach-ends-" + name
	s.running(t, pod{Name: name, Script: "until [ -e /tmp/go ]; do sleep 0.05; done; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3"})
	c := attachTo(t, config, method, name, false, false)
	probe := attachTo(t, config, method, name, true, false) // a container without stdin takes nothing, and goes on
	_, _ = io.WriteString(probe.in, "ignored\n")
	s.sh(t, name, "touch /tmp/go")
	if err := c.wait(t); err != nil {
		t.Errorf("the session: %v", err)
	}
	got := c.out.String()
	// The client may have come after the first lines, but none is missing after that.
	var from int
	if _, err := fmt.Sscanf(got, "line %d", &from); err != nil {
		t.Fatalf("saw %.60q: %v", got, err)
	}
	var want strings.Builder
	for i := from; i < 20000; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got != want.String() {
		t.Errorf("saw %d bytes from line %d, want %d", len(got), from, want.Len())
	}
	if err := probe.wait(t); err != nil {
		t.Errorf("the other session: %v", err)
	}
	for _, c := range []struct{ name, container, want string }{{name, "app", "is not running"}, {name, "nope", "container nope is not valid"}} {
		x := attachStart(t, config, method, c.name, "attach", &v1.PodAttachOptions{Container: c.container, Stdout: true})
		if err := x.wait(t); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("attach to %s: %v, want %q", c.container, err, c.want)
		}
	}
}

// A client that does not read is cut off. The container, its log and another client get on as if it were not there.
func testAttachBehind(t *testing.T, s *suite, config *rest.Config, method, name string) {
	name = "attach-behind-" + name
	const lines = 1 << 19 // of 64 bytes: 32 MiB
	s.running(t, pod{Name: name, Script: fmt.Sprintf(
		"until [ -e /tmp/go ]; do sleep 0.05; done; yes %s | head -n %d; echo done; %s", strings.Repeat("x", 63), lines, sleepScript)})
	slow := attachStart(t, config, method, name, "attach", &v1.PodAttachOptions{Container: "app", Stdout: true})
	slow.out.hold = make(chan struct{})
	free := sync.OnceFunc(func() { close(slow.out.hold) })
	defer free()
	s.sh(t, name, "touch /tmp/go")
	eventually(t, func() error {
		if got := s.must(t, "logs", name, "--tail=1"); got != "done\n" {
			return fmt.Errorf("the container is held up: %.60q", got)
		}
		return nil
	})
	free()
	if err := slow.wait(t); err == nil {
		t.Errorf("the slow client was not cut off; it got %d bytes", len(slow.out.String()))
	}
	s.remove(t, name)
}

// exec by client-go: exit codes, half-close, a terminal and its size, a lot of output.
func testAttachExec(t *testing.T, s *suite, config *rest.Config, method, name string) {
	name = "attach-exec-" + name
	s.running(t, sleeper(name))
	start := func(stdin, tty bool, cmd ...string) *attachClient {
		return attachStart(t, config, method, name, "exec", &v1.PodExecOptions{Container: "app", Command: cmd, Stdin: stdin, Stdout: true, Stderr: !tty, TTY: tty})
	}
	c := start(false, false, "sh", "-c", "echo out; echo bad >&2; exit 42")
	var exit utilexec.ExitError
	if err := c.wait(t); !errors.As(err, &exit) || exit.ExitStatus() != 42 || c.out.String() != "out\n" || c.errs.String() != "bad\n" {
		t.Errorf("exit: %v, %q, %q", err, c.out, c.errs)
	}
	c = start(true, false, "cat")
	c.say(t, "half")
	c.out.expect(t, "half")
	_ = c.in.Close()
	if err := c.wait(t); err != nil || c.out.String() != "half" {
		t.Errorf("half-close: %v, %q", err, c.out)
	}
	c = start(true, true, "sh")
	c.say(t, "while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; echo si''zed\r")
	c.out.expect(t, "sized\r\n")
	c.sizes <- remotecommand.TerminalSize{Width: 66, Height: 11}
	c.say(t, "while [ \"$(stty size)\" != '11 66' ]; do sleep 0.05; done; echo re''sized; exit 7\r")
	c.out.expect(t, "resized\r\n")
	if err := c.wait(t); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("terminal: %v", err)
	}
	const size = 8 << 20
	c = start(false, false, "head", "-c", fmt.Sprint(size), "/dev/zero")
	if err := c.wait(t); err != nil || len(c.out.String()) != size {
		t.Errorf("a lot of output: %d bytes, %v", len(c.out.String()), err)
	}
	// A client that goes leaves its command running, as the kubelet does.
	c = start(false, false, "sh", "-c", "echo begun; sleep 1; touch /tmp/went-on")
	c.out.expect(t, "begun")
	c.leave()
	_ = c.wait(t)
	eventually(t, func() error {
		if s.sh(t, name, "ls /tmp") == "" {
			return errors.New("the command was ended with its client")
		}
		return nil
	})
	s.remove(t, name)
}

// attachDebug puts an ephemeral container into a pod.
func attachDebug(t *testing.T, s *suite, name string, e v1.EphemeralContainer) {
	t.Helper()
	eventually(t, func() error { return tryAttachDebug(t, s, name, e) }) // the status may be written meanwhile: a conflict
}

func tryAttachDebug(t *testing.T, s *suite, name string, e v1.EphemeralContainer) error {
	pods := s.client.CoreV1().Pods(metav1.NamespaceDefault)
	if e.Image == "" {
		e.Image = busybox
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error { // the status may be written meanwhile
		pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, e)
		_, err = pods.UpdateEphemeralContainers(t.Context(), name, pod, metav1.UpdateOptions{})
		return err
	})
}

func attachEphemeral(name string, wanted func(v1.ContainerState) bool) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool {
		if pod != nil {
			for _, c := range pod.Status.EphemeralContainerStatuses {
				if c.Name == name {
					return wanted(c.State)
				}
			}
		}
		return false
	}
}

func attachRuns(c v1.ContainerState) bool  { return c.Running != nil }
func attachEnded(c v1.ContainerState) bool { return c.Terminated != nil }

// An ephemeral container with a terminal sees its target's processes. It can be attached to and entered, has a log, and its
// end changes nothing of the pod.
func testAttachDebug(t *testing.T, s *suite, config *rest.Config) {
	name := "attach-debug"
	target := sleeper(name)
	target.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '4714']"
	before := s.running(t, target)
	attachDebug(t, s, name, v1.EphemeralContainer{TargetContainerName: "other", EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: "debug", Command: []string{"sh"}, Stdin: true, TTY: true}})
	s.until(t, name, "debugged", attachEphemeral("debug", attachRuns))
	c := attachStart(t, config, http.MethodGet, name, "attach", &v1.PodAttachOptions{Container: "debug", Stdin: true, Stdout: true, TTY: true})
	c.say(t, "ps; echo pod''s hostname $(hostname)\r")
	c.out.expect(t, "pods hostname "+name+"\r\n")
	if got := c.out.String(); !strings.Contains(got, "sleep 4714") || strings.Contains(got, "sleep 1000000") {
		t.Errorf("the debugger sees %q", got)
	}
	if got := s.must(t, "exec", name, "-c", "debug", "--", "cat", "/proc/1/cmdline"); got != "sleep\x004714\x00" {
		t.Errorf("the first process in the debugger is %q", got)
	}
	attachDebug(t, s, name, v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "alone", Command: []string{"ps"}}})
	s.until(t, name, "looked at", attachEphemeral("alone", attachEnded))
	if got := s.must(t, "logs", name, "-c", "alone"); strings.Contains(got, "sleep") || !strings.Contains(got, "ps") {
		t.Errorf("a debugger without a target sees %q", got)
	}
	c.say(t, "exit 5\r")
	if err := c.wait(t); err != nil {
		t.Errorf("attach: %v", err)
	}
	pod := s.until(t, name, "no more debugged", attachEphemeral("debug", attachEnded))
	for _, e := range pod.Status.EphemeralContainerStatuses {
		if e.Ready || e.RestartCount != 0 || e.Name == "debug" && e.State.Terminated.ExitCode != 5 {
			t.Errorf("status %+v", e)
		}
	}
	if !ready(pod) || app(pod).RestartCount != 0 || app(pod).ContainerID != app(before).ContainerID {
		t.Errorf("the pod is %+v", pod.Status)
	}
	if got := s.must(t, "logs", name, "-c", "debug"); !strings.Contains(got, "pods hostname "+name) {
		t.Errorf("the log is %q", got)
	}
	events := s.must(t, "get", "events", "--field-selector=involvedObject.name="+name+",involvedObject.fieldPath=spec.ephemeralContainers{debug}")
	for _, want := range []string{"Container created", "Container started"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q in\n%s", want, events)
		}
	}
	s.remove(t, name) // the leak oracle sees to the rest
}

// Clients whose connection breaks anywhere: the leak oracle looks for what podd would keep of them. The container and
// who comes later notice nothing.
func testAttachDropped(t *testing.T, s *suite) {
	name := "attach-dropped"
	s.running(t, pod{Name: name, Container: "stdin: true", Script: "while read line; do echo got $line; done"})
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	query := "?container=app&stdin=true&stdout=true&stderr=true"
	for n := range 200 {
		path := "attach" + query
		if n%2 == 0 {
			path = "exec" + query + "&command=cat"
		}
		protocol := []string{"v5.channel.k8s.io", "v4.channel.k8s.io"}[random.IntN(2)]
		said := "GET /api/v1/namespaces/default/pods/" + name + "/" + path + " HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + protocol + "\r\n\r\n"
		frame := "\x82\x85\x00\x00\x00\x00\x00abc\n" // masked with nothing: channel 0, "abc\n"
		whole := len(said)
		said += strings.Repeat(frame, 3)
		conn, err := net.Dial("unix", s.Socket)
		if err != nil {
			t.Fatal(err)
		}
		cut := random.IntN(len(said) + 1)
		if random.IntN(2) == 0 {
			cut = whole + random.IntN(len(said)-whole+1)
		}
		if _, err := io.WriteString(conn, said[:cut]); err == nil && cut >= whole {
			for answer := make([]byte, 1); random.IntN(200) > 0; { // some of the answer
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				if _, err := conn.Read(answer); err != nil {
					break
				}
			}
		}
		_ = conn.Close()
	}
	c := attachTo(t, attachBridge(t, s), http.MethodGet, name, true, false)
	c.say(t, "\nlast\n")
	c.out.expect(t, "got last\n")
	c.leave()
	_ = c.wait(t)
	s.remove(t, name)
}

// podctl attaches and debugs on a terminal of its own.
func testAttachPodctl(t *testing.T, s *suite) {
	name := "attach-podctl"
	s.running(t, pod{Name: name, Container: "stdin: true\ntty: true\ncommand: [sh]"})
	x := s.terminal(t, "attach", "-it", name, "-c", "app")
	x.say("while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; echo si''zed\r")
	x.expect(t, "sized\r\n")
	x.say("sleep 4715 & echo in back''ground\r")
	x.expect(t, "in background\r\n")
	d := s.terminal(t, "debug", "-it", name, "--image", busybox, "--target", "app", "--profile", "general", "-c", "debugger", "--", "sh")
	d.say("ps; echo se''en\r")
	if got := d.expect(t, "(?s).*seen\r\n"); !strings.Contains(got, "sleep 4715") {
		t.Errorf("the debugger sees %q", got)
	}
	d.say("exit\r")
	s.until(t, name, "no more debugged", attachEphemeral("debugger", attachEnded))
	x.say("exit\r")
	for more := range x.seen { // until the terminal closes
		x.all += more
	}
	if _ = x.cmd.Wait(); x.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("podctl attach: exit %d, %q", x.cmd.ProcessState.ExitCode(), x.all)
	}
	s.until(t, name, "succeeded", phase(v1.PodSucceeded))
}

// What cannot be pulled or started is told; the pod goes on.
func testAttachDebugFails(t *testing.T, s *suite) {
	name := "attach-debug-fails"
	s.running(t, sleeper(name))
	common := func(name, image string, command ...string) v1.EphemeralContainerCommon {
		return v1.EphemeralContainerCommon{Name: name, Image: image, Command: command}
	}
	attachDebug(t, s, name, v1.EphemeralContainer{EphemeralContainerCommon: common("start", busybox, "/no/such")})
	attachDebug(t, s, name, v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "image", Image: "no-such:e2e", ImagePullPolicy: v1.PullNever}})
	s.until(t, name, "StartError", attachEphemeral("start", func(c v1.ContainerState) bool {
		return c.Terminated != nil && c.Terminated.Reason == "StartError" && c.Terminated.ExitCode == 128
	}))
	pod := s.until(t, name, "ErrImageNeverPull", attachEphemeral("image", func(c v1.ContainerState) bool {
		return c.Waiting != nil && c.Waiting.Reason == "ErrImageNeverPull"
	}))
	if !ready(pod) || pod.Status.Phase != v1.PodRunning {
		t.Errorf("the pod is %s", pod.Status.Phase)
	}
	s.remove(t, name)
}

// A pod that is over does not wait for a debugger that runs on.
func testAttachDebugOutlived(t *testing.T, s *suite) {
	name := "attach-debug-outlived"
	s.running(t, pod{Name: name, Script: "until [ -e /tmp/go ]; do sleep 0.05; done; sleep 2"}) // the command that says go ends before
	attachDebug(t, s, name, v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug", Command: []string{"sleep", "1000000"}}})
	s.until(t, name, "debugged", attachEphemeral("debug", attachRuns))
	s.sh(t, name, "touch /tmp/go")
	s.until(t, name, "succeeded", phase(v1.PodSucceeded))
	s.until(t, name, "left", attachEphemeral("debug", attachEnded))
}

// TestAttachRestart: podd and podd-logd are killed, and clients come back to containers that have noticed nothing. A stdin
// that was to be used once, by a client that the first podd had, is closed by the next one.
func TestAttachRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	config := attachBridge(t, s)
	s.running(t, pod{Name: "open", Container: "stdin: true", Script: "while read line; do echo got $line; done; echo end"})
	s.running(t, pod{Name: "terminal", Container: "stdin: true\ntty: true\ncommand: [sh]"})
	s.running(t, pod{Name: "once", Container: "stdin: true\nstdinOnce: true", Script: "cat; echo end; " + sleepScript})
	s.running(t, sleeper("debugged"))
	attachDebug(t, s, "debugged", v1.EphemeralContainer{TargetContainerName: "app", EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: "debug", Command: []string{"sh"}, Stdin: true, TTY: true}})
	s.until(t, "debugged", "debugged", attachEphemeral("debug", attachRuns))
	open := attachTo(t, config, http.MethodGet, "open", true, false)
	open.say(t, "one\n")
	open.out.expect(t, "got one\n")
	terminal := attachTo(t, config, http.MethodPost, "terminal", true, true)
	terminal.say(t, "X=kept; echo be''fore\r")
	terminal.out.expect(t, "before\r\n")
	once := attachTo(t, config, http.MethodGet, "once", true, false)
	once.say(t, "hello\n")
	once.out.expect(t, "hello\n")
	left := podctlFollows(t, s, map[string]string{"logs -f once": "hello\n", "exec once -- sh -c echo${IFS}inside;sleep${IFS}1000": "inside\n", "get pods -w -o name": "pod/once\n",
		"events -w": "Started", "port-forward once :80": "Forwarding from "})
	attached := podctlFollows(t, s, map[string]string{"attach open": ""})
	eventually(t, func() error { // what was said before it was there it does not see
		open.say(t, "more\n")
		return attached[0].says("got more\n")
	})
	s.Kill()
	left.leave(t)
	attached.leave(t)
	for _, c := range []*attachClient{open, terminal, once} {
		_ = c.wait(t)
	}
	s.Restart()
	open = attachTo(t, config, http.MethodGet, "open", true, false)
	open.say(t, "two\n")
	open.out.expect(t, "got two\n")
	terminal = attachTo(t, config, http.MethodPost, "terminal", true, true)
	terminal.say(t, "while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; echo X is $X\r")
	terminal.out.expect(t, "X is kept\r\n")
	eventually(t, func() error {
		if got := s.must(t, "logs", "once"); got != "hello\nend\n" {
			return fmt.Errorf("stdin is open: %q", got)
		}
		return nil
	})
	debug := attachStart(t, config, http.MethodGet, "debugged", "attach", &v1.PodAttachOptions{Container: "debug", Stdin: true, Stdout: true, TTY: true})
	debug.say(t, "ps; echo se''en\r")
	debug.out.expect(t, "seen\r\n")
	if !strings.Contains(debug.out.String(), "sleep 1000000") {
		t.Errorf("the debugger sees %q", debug.out)
	}
	// podd-logd dies under the clients: podd starts another, and they go on.
	logd := attachLogd(t, s)
	if err := syscall.Kill(logd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		open.say(t, "three\n")
		if !strings.Contains(open.out.String(), "got three\n") {
			return fmt.Errorf("the client sees %q", open.out)
		}
		return nil
	})
	if attachLogd(t, s) == logd {
		t.Error("podd-logd is still there")
	}
	for _, name := range []string{"open", "terminal", "once", "debugged"} {
		s.remove(t, name)
	}
}

// attachLogd is the pid of podd-logd.
func attachLogd(t *testing.T, s *suite) int {
	t.Helper()
	var who struct{ PID int }
	record, err := os.ReadFile(s.State + "/logd.json")
	if err == nil {
		err = json.Unmarshal(record, &who)
	}
	if err != nil || who.PID == 0 {
		t.Fatalf("podd-logd is %s: %v", record, err)
	}
	return who.PID
}

// TestAttachDebugKilled kills podd at each step of the start of an ephemeral container: the next one brings it to run, once,
// in the namespace of its target.
func TestAttachDebugKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := s.running(t, sleeper("debugged"))
	for n, point := range []string{
		"containers.create.snapshotted", "containers.create.recorded", "create.logs", "containers.start.created", "create.prepared",
		"start.logs", "start.marked", "containers.start.started", "start.running",
	} {
		name := fmt.Sprintf("debug-%d", n)
		s.Kill()
		s.Launch("PODD_KILL_AT=" + point)
		s.WaitReady()
		err := tryAttachDebug(t, s, "debugged", v1.EphemeralContainer{TargetContainerName: "app", EphemeralContainerCommon: v1.EphemeralContainerCommon{
			Name: name, Command: []string{"sh", "-c", "echo begun; cat /proc/1/comm; sleep 1000000"}}})
		select {
		case <-s.Exited(): // maybe before the answer was out
		case <-time.After(patience):
			t.Fatalf("podd did not pass %s: %v", point, err)
		}
		s.Restart()
		pod := s.until(t, "debugged", name+" runs after "+point, attachEphemeral(name, attachRuns))
		if app(pod).ContainerID != app(before).ContainerID || app(pod).RestartCount != 0 {
			t.Errorf("%s: the target was started anew", point)
		}
		eventually(t, func() error {
			if got := s.must(t, "logs", "debugged", "-c", name); got != "begun\nsh\n" {
				return fmt.Errorf("%s: the log is %q", point, got)
			}
			return nil
		})
	}
	s.remove(t, "debugged")
}
