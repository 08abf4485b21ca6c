// Package harness runs a private podd for a test, beside whatever else the host runs, and ends each test with the leak
// oracle: what a podd has left behind, of any class, fails the test.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"podd/test/ociimage"
)

// How long the harness waits before it calls something broken. They are far above what is measured elsewhere.
const (
	startLimit  = 60 * time.Second
	deleteLimit = 60 * time.Second
	settleLimit = 45 * time.Second // for what goes asynchronously: collected snapshots, idle connections
)

// Podd is one podd with everything that belongs to it.
type Podd struct {
	idle struct { // what closes the idle connections of Client
		sync.Mutex
		close []func()
	}

	Name string // unique; part of all other names
	Dir  string // holds root/, config/, log/, images/
	// What podd was told to use.
	Root, State, ConfigDir, LogDir, Socket string
	CgroupParent, Namespace, Bridge, Table string
	CIDR, ServiceCIDR, NodeName, BootFile  string
	ContainerdSocket                       string // podd's own, or the one of WithContainerd

	t        testing.TB
	external bool
	args     []string
	env      []string
	bin      string
	cmd      *exec.Cmd
	exited   chan struct{} // closed when cmd has ended and was reaped
	before   Snapshot      // of the host, before podd was there
	baseline Snapshot      // podd ready, no pod yet
}

// Option changes how a podd is started.
type Option func(*Podd)

// WithArgs adds flags of podd.
func WithArgs(args ...string) Option { return func(p *Podd) { p.args = append(p.args, args...) } }

// WithEnv sets environment variables of the first podd process, such as PODD_KILL_AT=NAME. Restart does not repeat them.
func WithEnv(env ...string) Option { return func(p *Podd) { p.env = append(p.env, env...) } }

// WithContainerd makes podd use a containerd that the test runs.
func WithContainerd(socket string) Option {
	return func(p *Podd) {
		p.external, p.ContainerdSocket = true, socket
		p.args = append(p.args, "--containerd", socket)
	}
}

// WithConfig is called before podd starts, to put manifests or network configuration into p.ConfigDir.
func WithConfig(prepare func(p *Podd)) Option { return func(p *Podd) { prepare(p) } }

// Group is the group that may use the API: one that every Linux host has and that is not root's.
const Group = "daemon"

// Start runs a podd and returns when it serves. When the test ends all its pods are deleted, podd and its bundle are
// stopped, and the leak oracle looks, first with podd still running and then at what all of it left on the host.
func Start(t testing.TB, opts ...Option) *Podd {
	t.Helper()
	p := place(t)
	for _, o := range opts {
		o(p)
	}
	ctx := t.Context()
	var err error
	if p.before, err = Look(ctx, p.hostScope()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.finish)
	p.launch(p.env)
	p.WaitReady()
	p.Rebase()
	return p
}

// place gives names to everything and makes the directories.
func place(t testing.TB) *Podd {
	t.Helper()
	bin := Built(t)
	dir, err := os.MkdirTemp("/var/tmp", "pt")
	if err != nil {
		t.Fatal(err)
	}
	name := "pt" + strings.TrimPrefix(filepath.Base(dir), "pt")
	p := &Podd{
		Name: name, Dir: dir, t: t, bin: bin,
		Root: dir + "/root", State: "/run/" + name, ConfigDir: dir + "/config", LogDir: dir + "/log",
		CgroupParent: "/" + name, Namespace: name, Bridge: name, Table: name,
		NodeName: "node-" + name, BootFile: dir + "/boot_id", CIDR: freeRange(t),
	}
	p.ServiceCIDR = strings.Replace(p.CIDR, "10.213.", "10.214.", 1) // beside those of others, since the host's rules lead there
	if len(p.Bridge) > 15 {
		t.Fatalf("bridge name %s: longer than 15 bytes", p.Bridge)
	}
	p.Socket = p.State + "/podd.sock"
	p.ContainerdSocket = p.State + "/containerd/containerd.sock"
	for _, d := range []string{p.Root, p.State, p.ConfigDir, p.LogDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The machine may have little room left, which is no concern of most tests.
	for file, content := range map[string]string{p.BootFile: "boot-1\n", p.ConfigDir + "/config.yaml": "eviction-hard: \"\"\nimage-gc-high-threshold: 100\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// ranges are those that tests of this process have now: a podd that starts has no bridge in its own yet.
var ranges struct {
	sync.Mutex
	taken map[string]bool
	next  int
}

// freeRange is a /24 that no interface of this host is in and no other podd of this process has. The test has it until its end.
func freeRange(t testing.TB) string {
	t.Helper()
	ranges.Lock()
	defer ranges.Unlock()
	if ranges.taken == nil {
		ranges.taken, ranges.next = map[string]bool{}, os.Getpid()
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	const all = 250
	for range all {
		base := net.IPv4(10, 213, byte(ranges.next%all), 0)
		ranges.next++
		candidate := &net.IPNet{IP: base, Mask: net.CIDRMask(24, 32)}
		key := candidate.String()
		if ranges.taken[key] || slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && (n.Contains(base) || candidate.Contains(n.IP))
		}) {
			continue
		}
		ranges.taken[key] = true
		t.Cleanup(func() {
			ranges.Lock()
			defer ranges.Unlock()
			delete(ranges.taken, key)
		})
		return key
	}
	t.Fatal("no free range of addresses below 10.213.0.0/16")
	return ""
}

var built = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("PODD_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("make", "-s", "-C", root, "build").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(root, "bin"), nil
})

// Built is the directory of podd and podctl, built once for a test binary. PODD_BIN names another one.
func Built(t testing.TB) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// ModuleRoot is the directory of go.mod.
func ModuleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find go.mod: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// launch starts a podd process on the directories that are there.
func (p *Podd) launch(env []string) {
	p.t.Helper()
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(p.bin, "podd"), p.flags()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in the log and in ProcessState
		close(exited)
	}()
	p.cmd, p.exited = cmd, exited
}

// flags are those of every podd process here.
func (p *Podd) flags() []string {
	return append([]string{
		"--config", p.ConfigDir + "/config.yaml", "--root", p.Root, "--state", p.State, "--config-dir", p.ConfigDir,
		"--log-dir", p.LogDir, "--listen", p.Socket, "--cgroup-parent", p.CgroupParent, "--namespace", p.Namespace,
		"--bridge", p.Bridge, "--pod-cidr", p.CIDR, "--service-cidr", p.ServiceCIDR, "--nft-table", p.Table, "--node-name", p.NodeName,
		"--boot-id-file", p.BootFile, "--group", Group, "--tls-listen", "127.0.0.1:0",
	}, p.args...)
}

// Teardown runs `podd teardown` on this podd, which has to succeed and to leave nothing on the host. A Restart is possible
// after it.
func (p *Podd) Teardown() {
	p.t.Helper()
	if said, err := p.TryTeardown(); err != nil {
		p.t.Fatalf("podd teardown: %v\n%s", err, said)
	}
	<-p.exited
	p.checkHost()
}

// TryTeardown runs `podd teardown` with more flags and returns what it said.
func (p *Podd) TryTeardown(flags ...string) (said string, err error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "podd"), slices.Concat([]string{"teardown"}, p.flags(), flags)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *Podd) logFile() string { return p.Dir + "/podd.log" }

// Logs is what podd has written so far, over all its restarts.
func (p *Podd) Logs() string {
	data, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Pid is the process id of podd.
func (p *Podd) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the podd process that runs now has ended, as a kill point makes it.
func (p *Podd) Exited() <-chan struct{} { return p.exited }

// Kill sends SIGKILL to podd and waits until it is gone. Its bundle and its pods go on.
func (p *Podd) Kill() { p.end(syscall.SIGKILL) }

// Terminate sends SIGTERM to podd and waits until it is gone. Its bundle and its pods go on.
func (p *Podd) Terminate() { p.end(syscall.SIGTERM) }

func (p *Podd) end(sig syscall.Signal) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(sig) // one that has ended needs none
	select {
	case <-p.exited:
	case <-time.After(startLimit):
		_ = p.cmd.Process.Kill()
		<-p.exited
		p.t.Errorf("podd did not end on %v within %s", sig, startLimit)
	}
}

// Restart ends podd with SIGKILL if it runs, starts it on the same directories and waits until it serves.
func (p *Podd) Restart(env ...string) {
	p.t.Helper()
	p.Launch(env...)
	p.WaitReady()
}

// Launch ends podd with SIGKILL if it runs and starts it on the same directories, without waiting until it serves: it may
// be meant to die on the way.
func (p *Podd) Launch(env ...string) {
	p.t.Helper()
	p.Kill()
	p.launch(env)
}

// WaitReady returns when podd says on /readyz that it can run pods.
func (p *Podd) WaitReady() {
	p.t.Helper()
	c := p.httpClient()
	defer c.CloseIdleConnections()
	last := errors.New("nothing tried")
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		select {
		case <-p.exited:
			p.t.Fatalf("podd ended while it started (%v):\n%s", p.cmd.ProcessState, p.tail())
		case <-time.After(5 * time.Millisecond):
		}
		var r *http.Response
		r, last = c.Get("http://podd/readyz")
		if last != nil {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return
		}
		last = fmt.Errorf("%s: %s", r.Status, body)
	}
	p.t.Fatalf("podd is not ready after %s: %v\n%s", startLimit, last, p.tail())
}

// tail is the end of podd's log.
func (p *Podd) tail() string {
	lines := strings.Split(strings.TrimSpace(p.Logs()), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// Podctl runs podctl against this podd and returns what it wrote and its exit code.
func (p *Podd) Podctl(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	return p.PodctlInput(nil, args...)
}

// PodctlInput is Podctl with a standard input.
func (p *Podd) PodctlInput(in io.Reader, args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "podctl"), args...)
	cmd.WaitDelay = 5 * time.Second // what it was given to read may never end
	cmd.Env = append(os.Environ(), "PODD_SOCKET="+p.Socket)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("podctl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Must runs podctl, fails the test unless it succeeds, and returns its standard output.
func (p *Podd) Must(args ...string) string {
	p.t.Helper()
	out, errs, code := p.Podctl(args...)
	if code != 0 {
		p.t.Fatalf("podctl %s: exit %d\n%s%s\npodd:\n%s", strings.Join(args, " "), code, out, errs, p.tail())
	}
	return out
}

// Apply gives a manifest to `podctl apply -f -`.
func (p *Podd) Apply(manifest string) {
	p.t.Helper()
	out, errs, code := p.PodctlInput(strings.NewReader(manifest), "apply", "-f", "-")
	if code != 0 {
		p.t.Fatalf("podctl apply: exit %d\n%s%s\npodd:\n%s", code, out, errs, p.tail())
	}
}

// Image loads an image made from busybox under the given name and makes that the state to compare leaks with.
func (p *Podd) Image(name string) {
	p.t.Helper()
	image, err := ociimage.Busybox(name, "/bin/busybox")
	if err != nil {
		p.t.Fatal(err)
	}
	p.Load(image)
}

// Load loads an image and makes that the state to compare leaks with.
func (p *Podd) Load(image ociimage.Image) {
	p.t.Helper()
	built, err := image.Build()
	if err != nil {
		p.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := ociimage.WriteOCI(&archive, built); err != nil {
		p.t.Fatal(err)
	}
	if out, errs, code := p.PodctlInput(&archive, "image", "load", "-"); code != 0 {
		p.t.Fatalf("podctl image load: exit %d\n%s%s\npodd:\n%s", code, out, errs, p.tail())
	}
	p.Rebase()
}

func (p *Podd) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
}

func (p *Podd) httpClient() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
}

// Config is for client-go, over podd's socket.
func (p *Podd) Config() *rest.Config { return &rest.Config{Host: "http://podd", Dial: p.dial, QPS: -1} }

// Client is a client-go client over podd's socket. Its idle connections are closed before podd is looked at for leaks.
func (p *Podd) Client() *kubernetes.Clientset {
	p.t.Helper()
	c, closeIdle, err := p.client()
	if err != nil {
		p.t.Fatal(err)
	}
	p.idle.Lock()
	p.idle.close = append(p.idle.close, closeIdle)
	p.idle.Unlock()
	p.t.Cleanup(closeIdle)
	return c
}

// client also returns what closes its idle connections, which are descriptors and goroutines of podd.
func (p *Podd) client() (*kubernetes.Clientset, func(), error) {
	transport := &http.Transport{DialContext: p.dial}
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://podd", QPS: -1}, &http.Client{Transport: transport})
	return c, transport.CloseIdleConnections, err
}

// goroutines asks podd's debug endpoint.
func (p *Podd) goroutines() (map[string]int, error) {
	c := p.httpClient()
	defer c.CloseIdleConnections()
	r, err := c.Get("http://podd/debug/podd/goroutines")
	if err != nil {
		return nil, fmt.Errorf("read goroutines: %w", err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read goroutines: %s: %w", r.Status, err)
	}
	return parseGoroutines(data)
}

// DeletePods deletes every pod of every namespace at once and waits until the API has none. Pods of manifest files
// have to be removed from p.ConfigDir by the test.
func (p *Podd) DeletePods() error {
	ctx, cancel := context.WithTimeout(context.Background(), deleteLimit)
	defer cancel()
	c, closeIdle, err := p.client()
	if err != nil {
		return err
	}
	defer closeIdle()
	now := int64(0)
	for {
		list, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		var left []string
		for i := range list.Items {
			pod := &list.Items[i]
			left = append(left, pod.Namespace+"/"+pod.Name)
			if pod.DeletionTimestamp == nil || time.Until(pod.DeletionTimestamp.Time) > 0 {
				_ = c.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			}
		}
		select {
		case <-ctx.Done():
			status, _ := json.Marshal(list.Items[0].Status)
			return fmt.Errorf("delete pods: after %s there still are %s; status of the first: %s", deleteLimit, left, status)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
