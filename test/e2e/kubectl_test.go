//go:build host

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"

	"podd/test/harness"
)

// TestKubectl drives an unmodified kubectl over the TLS port, by testdata/kubectl.txt.
func TestKubectl(t *testing.T) {
	t.Parallel()
	checks := readChecks(t, "testdata/kubectl.txt")
	if len(checks) < 80 {
		t.Fatalf("only %d checks: some were not read", len(checks))
	}
	k := newKubectl(t)
	for _, c := range checks {
		t.Run(c.name(), func(t *testing.T) { k.check(t, c) })
	}
	t.Run("sessions", k.sessions)
	t.Run("sessions by SPDY", func(t *testing.T) {
		k.bySPDY = true
		k.sessions(t)
	})
}

// check is one command line and what is to come of it.
type check struct {
	line    int
	command string
	code    int
	want    []want
}

// want is something that one stream has, or has not.
type want struct {
	stream  int // 1 or 2
	not     bool
	pattern *regexp.Regexp
}

func (c check) name() string {
	words := strings.Fields(c.command)
	return fmt.Sprintf("%03d %s", c.line, strings.Join(words[:min(3, len(words))], " "))
}

// readChecks reads a file of checks; its first lines tell the format.
func readChecks(t *testing.T, file string) (all []check) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		mark, rest, _ := strings.Cut(line, " ")
		if mark != "$" && mark != "" && mark != "#" && len(all) == 0 {
			t.Fatalf("%s:%d: what is wanted of no command", file, i+1)
		}
		w := want{stream: 1}
		switch mark {
		case "", "#":
			continue
		case "$":
			all = append(all, check{line: i + 1, command: rest})
			continue
		case "!":
			if all[len(all)-1].code, err = strconv.Atoi(rest); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			continue
		case ">", ">!":
		case "2>", "2>!":
			w.stream = 2
		default:
			t.Fatalf("%s:%d: begins with %q", file, i+1, mark)
		}
		w.not = strings.HasSuffix(mark, "!")
		if w.pattern, err = regexp.Compile("(?m)" + rest); err != nil {
			t.Fatalf("%s:%d: %v", file, i+1, err)
		}
		last := &all[len(all)-1]
		last.want = append(last.want, w)
	}
	return all
}

// kubectl is the binary and what it is run with.
type kubectl struct {
	binary         string
	admin, reader  string // kubeconfigs
	home, tmp      string
	files, node    string
	commandTimeout time.Duration
	bySPDY         bool // and not by WebSockets, as it did up to 1.30 and does for who asks for it
}

func newKubectl(t *testing.T) *kubectl {
	s := start(t)
	files, err := filepath.Abs("testdata/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	k := &kubectl{binary: harness.Kubectl(t), admin: s.Kubeconfig(false), reader: s.Kubeconfig(true), files: files,
		home: t.TempDir(), tmp: t.TempDir(), node: s.NodeName, commandTimeout: 90 * time.Second}
	// What `kubectl edit` opens.
	editor := "#!/bin/sh\nsed -i 's/colour: .*/colour: purple/' \"$1\"\n"
	if err := os.WriteFile(filepath.Join(k.home, "editor"), []byte(editor), 0o700); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kubectl) check(t *testing.T, c check) {
	words, err := split(c.command)
	if err != nil {
		t.Fatalf("line %d: %v", c.line, err)
	}
	config := map[string]string{"kubectl": k.admin, "reader": k.reader}[words[0]]
	if config == "" {
		t.Fatalf("line %d: there is no %q", c.line, words[0])
	}
	for i, w := range words {
		words[i] = strings.NewReplacer("FILES", k.files, "TMP", k.tmp, "NODE", k.node).Replace(w)
	}
	ctx, cancel := context.WithTimeout(t.Context(), k.commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.binary, words[1:]...)
	cmd.WaitDelay = 5 * time.Second // what it was given to read may never end
	cmd.Env = append(k.environment(config), "KUBE_EDITOR="+filepath.Join(k.home, "editor"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	code := 0
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("line %d: %v", c.line, err)
	}
	wrong := ""
	if code != c.code {
		wrong = fmt.Sprintf("exit %d, want %d\n", code, c.code)
	}
	for _, w := range c.want {
		has := w.pattern.Match(map[int][]byte{1: out.Bytes(), 2: errs.Bytes()}[w.stream])
		if has == w.not {
			wrong += fmt.Sprintf("stream %d: match of %q is %t\n", w.stream, w.pattern, has)
		}
	}
	if wrong != "" {
		t.Errorf("line %d: %s\n%s--- stdout\n%s--- stderr\n%s", c.line, c.command, wrong, out.String(), errs.String())
	}
}

func (k *kubectl) environment(config string) []string {
	env := append(os.Environ(), "KUBECONFIG="+config, "HOME="+k.home)
	if k.bySPDY {
		env = append(env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false")
	}
	return env
}

// sessions are commands that go on while something happens to a pod: get -w, logs -f, exec, attach and port-forward.
func (k *kubectl) sessions(t *testing.T) {
	k.check(t, check{command: "kubectl apply -f FILES/talk.yaml", want: []want{{1, false, regexp.MustCompile("^pod/talk created")}}})
	watching := k.begin(t, k.admin, "get", "pods", "-w", "-l", "app=talk")
	watching.says(t, `^talk +1/1 +Running`)
	following := k.begin(t, k.admin, "logs", "-f", "talk", "--timestamps")
	following.says(t, `^\d{4}-\S+Z begun$`)
	attached := k.begin(t, k.admin, "attach", "-i", "talk")
	if _, err := io.WriteString(attached.in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	attached.says(t, `^heard hello$`)
	following.says(t, `^\S+Z heard hello$`)

	k.execs(t)

	forward := k.begin(t, k.admin, "port-forward", "talk", ":8080")
	port := forward.says(t, `^Forwarding from 127\.0\.0\.1:(\d+) -> 8080$`)
	for range 2 {
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://127.0.0.1:" + port + "/index.html")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(body) != "talk of the town\n" {
			t.Errorf("through port-forward came %q, %v", body, err)
		}
	}
	forward.says(t, `^Handling connection for `+port+`$`)
	must(t, forward.cmd.Process.Signal(os.Interrupt))
	_ = forward.ends(t)

	for _, args := range [][]string{{"attach", "-i", "talk"}, {"port-forward", "talk", ":8080"}} {
		refused := k.begin(t, k.reader, args...)
		if code := refused.ends(t); code != 1 || !strings.Contains(refused.errs.String(), "orbidden") {
			t.Errorf("the reader's %v: exit %d, %s", args, code, refused.errs.String())
		}
	}

	// The end of the container ends all that hangs on it, and is seen by who watches.
	if _, err := io.WriteString(attached.in, "end\n"); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]*session{"attach": attached, "logs -f": following} {
		if code := s.ends(t); code != 0 {
			t.Errorf("%s: exit %d, %s", what, code, s.errs.String())
		}
	}
	following.says(t, `^\S+Z heard end$`)
	watching.says(t, `^talk +0/1 +Completed`)
	k.check(t, check{command: "kubectl delete pod talk", want: []want{{1, false, regexp.MustCompile(`^pod "talk" deleted`)}}})
	must(t, watching.cmd.Process.Signal(os.Interrupt))
	_ = watching.ends(t)
}

// execs are commands in the pod: their exit codes, the end of their stdin, that of a command which does not want all of it, and a
// terminal whose size changes.
func (k *kubectl) execs(t *testing.T) {
	const much = 1 << 20
	counting := k.begin(t, k.admin, "-v=6", "exec", "-i", "talk", "--", "sh", "-c", "wc -c; exit 7")
	_, err := counting.in.Write(bytes.Repeat([]byte("x"), much))
	must(t, err)
	must(t, counting.in.Close())
	counting.says(t, fmt.Sprintf("^%d$", much))
	if code := counting.ends(t); code != 7 {
		t.Errorf("exec that reads to the end of its stdin: exit %d, %s", code, counting.errs.String())
	}
	method := "GET" // of WebSockets
	if k.bySPDY {
		method = "POST"
	}
	if !regexp.MustCompile(method + `.*/pods/talk/exec`).MatchString(counting.errs.String()) {
		t.Errorf("that was no %s:\n%s", method, counting.errs.String())
	}

	some := k.begin(t, k.admin, "exec", "-i", "talk", "--", "sh", "-c", "head -n 1; exit 7")
	written := make(chan struct{})
	go func() {
		defer close(written)
		line := bytes.Repeat([]byte("yes\n"), 8<<10)
		for err := error(nil); err == nil; {
			_, err = some.in.Write(line)
		}
	}()
	some.says(t, "^yes$")
	if code := some.ends(t); code != 7 {
		t.Errorf("exec that reads some of its stdin: exit %d, %s", code, some.errs.String())
	}
	<-written

	pty, path, err := console.NewPty()
	must(t, err)
	defer pty.Close()
	must(t, pty.Resize(console.WinSize{Width: 100, Height: 40}))
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	shown := &synced{}
	sized := k.start(t, k.admin, func(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty }, "exec", "-it", "talk", "--", "sh", "-c",
		`until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; echo first; until [ "$(stty size)" = "50 120" ]; do sleep 0.1; done; exit 7`)
	_ = tty.Close()
	sized.out = shown
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(shown, pty) // until kubectl has closed its side
	}()
	sized.says(t, "^first")
	must(t, pty.Resize(console.WinSize{Width: 120, Height: 50}))
	must(t, sized.cmd.Process.Signal(unix.SIGWINCH)) // which the kernel sends to who has the terminal as its own
	if code := sized.ends(t); code != 7 {
		t.Errorf("exec with a terminal: exit %d, %s", code, shown.String())
	}
	<-copied
}

// session is a kubectl that goes on.
type session struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, errs *synced
	done      chan struct{} // closed when it has ended
}

func (k *kubectl) begin(t *testing.T, config string, args ...string) *session {
	t.Helper()
	var in io.WriteCloser
	out, errs := &synced{}, &synced{}
	s := k.start(t, config, func(cmd *exec.Cmd) {
		var err error
		in, err = cmd.StdinPipe()
		must(t, err)
		cmd.Stdout, cmd.Stderr = out, errs
	}, args...)
	s.in, s.out, s.errs = in, out, errs
	return s
}

// start is begin with streams that are given to it.
func (k *kubectl) start(t *testing.T, config string, streams func(*exec.Cmd), args ...string) *session {
	t.Helper()
	s := &session{cmd: exec.Command(k.binary, args...), out: &synced{}, errs: &synced{}, done: make(chan struct{})}
	s.cmd.Env = k.environment(config)
	streams(s.cmd)
	must(t, s.cmd.Start())
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-s.done })
	return s
}

// says waits until standard output has what is wanted, and returns its last group.
func (s *session) says(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var found []string
	eventually(t, func() error {
		if found = re.FindStringSubmatch(s.out.String()); found == nil {
			return fmt.Errorf("%v printed no %s:\n%s%s", s.cmd.Args[1:], pattern, s.out.String(), s.errs.String())
		}
		return nil
	})
	return found[len(found)-1]
}

// ends waits until it has ended, and returns its exit code.
func (s *session) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatalf("%v does not end:\n%s%s", s.cmd.Args[1:], s.out.String(), s.errs.String())
	}
	return s.cmd.ProcessState.ExitCode()
}

// split splits a command line at blanks, but not within single quotes.
func split(line string) (words []string, err error) {
	var word strings.Builder
	in, quoted := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			in, quoted = true, !quoted
		case r == ' ' && !quoted:
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote is not closed: %s", line)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
