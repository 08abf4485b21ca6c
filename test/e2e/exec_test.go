//go:build host

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"

	"podd/test/harness"
)

// testExec: commands in containers, with and without a terminal.
func testExec(t *testing.T, s *suite) {
	p := sleeper("exec")
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n  env: [{name: WHO, value: other}]"
	s.running(t, p)
	done := pod{Name: "exec-done", Script: "exit 0"}
	s.apply(t, done)
	s.until(t, done.Name, "succeeded", phase("Succeeded"))
	for name, c := range map[string]struct {
		args      []string
		in        string
		out, errs string // exactly, and a part
		code      int    // -1: any but 0
	}{
		"output":            {[]string{"exec", "-c", "app", "--", "echo", "hello"}, "", "hello\n", "", 0},
		"first-container":   {[]string{"exec", "--", "sh", "-c", "echo first $WHO"}, "", "first\n", "Defaulted container", 0},
		"other-container":   {[]string{"exec", "-c", "other", "--", "sh", "-c", "echo $WHO"}, "", "other\n", "", 0},
		"by-resource":       {[]string{"pod/exec", "-c", "app", "--", "echo", "hello"}, "", "hello\n", "", 0},
		"stderr":            {[]string{"exec", "-c", "app", "--", "ls", "/no/such"}, "", "", "/no/such: No such file", 1},
		"exit-code":         {[]string{"exec", "-c", "app", "--", "sh", "-c", "exit 42"}, "", "", "exit code 42", 42},
		"killed":            {[]string{"exec", "-c", "app", "--", "sh", "-c", "kill -KILL $$"}, "", "", "exit code 137", 137},
		"stdin":             {[]string{"exec", "-i", "-c", "app", "--", "wc", "-c"}, "four", "4\n", "", 0},
		"stdin-unasked":     {[]string{"exec", "-c", "app", "--", "wc", "-c"}, "four", "0\n", "", 0},
		"no-such-command":   {[]string{"exec", "-c", "app", "--", "/no/such/command"}, "", "", "/no/such/command", -1},
		"no-such-container": {[]string{"exec", "-c", "nope", "--", "true"}, "", "", "container nope", 1},
		"no-such-pod":       {[]string{"nobody", "--", "true"}, "", "", `pods "nobody" not found`, 1},
		"no-command":        {[]string{"exec"}, "", "", "you must specify at least one command", 1},
		"not-running":       {[]string{"exec-done", "--", "true"}, "", "", "completed pod", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := s.PodctlInput(strings.NewReader(c.in), append([]string{"exec"}, c.args...)...)
			if out != c.out || !strings.Contains(errs, c.errs) || code != c.code && (c.code >= 0 || code == 0) {
				t.Errorf("podctl exec %s: exit %d, %q, %q; want exit %d, %q, %q", c.args, code, out, errs, c.code, c.out, c.errs)
			}
		})
	}
	t.Run("much", func(t *testing.T) { t.Parallel(); testMuch(t, s, p.Name) })
	t.Run("terminal", func(t *testing.T) { t.Parallel(); testTerminal(t, s, p.Name) })
	t.Run("client-gone", func(t *testing.T) { t.Parallel(); testClientGone(t, s, p.Name) })
}

// A lot goes in and out without loss.
func testMuch(t *testing.T, s *suite, name string) {
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18) // 4 MiB
	out, errs, code := s.PodctlInput(bytes.NewReader(data), "exec", "-i", name, "-c", "app", "--", "tee", "/dev/stderr")
	for stream, got := range map[string]string{"stdout": out, "stderr": errs} {
		if sha256.Sum256([]byte(got)) != sha256.Sum256(data) {
			t.Errorf("%s has %d bytes, not the %d that went in (exit %d)", stream, len(got), len(data), code)
		}
	}
}

// terminal is podctl on a pseudo terminal.
type terminal struct {
	console.Console
	cmd  *exec.Cmd
	seen chan string // what comes, in pieces; closed at the end
	all  string
}

func (s *suite) terminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	x := &terminal{Console: pty, seen: make(chan string), cmd: exec.Command(filepath.Join(harness.Built(t), "podctl"), args...)}
	x.cmd.Env = append(os.Environ(), "PODD_SOCKET="+s.Socket)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := pty.Resize(console.WinSize{Width: 101, Height: 33}); err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.seen)
		buf := make([]byte, 4096)
		for {
			n, err := pty.Read(buf)
			if n > 0 {
				x.seen <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		_ = pty.Close()
		for range x.seen {
		}
	})
	return x
}

// expect reads until the terminal shows what matches.
func (x *terminal) expect(t *testing.T, like string) string {
	t.Helper()
	re := regexp.MustCompile(like)
	timeout := time.After(patience)
	for {
		if at := re.FindStringIndex(x.all); at != nil {
			found := x.all[at[0]:at[1]]
			x.all = x.all[at[1]:]
			return found
		}
		select {
		case more, ok := <-x.seen:
			if !ok {
				t.Fatalf("the terminal ends with %q, want %q", x.all, like)
			}
			x.all += more
		case <-timeout:
			t.Fatalf("the terminal shows %q, want %q", x.all, like)
		}
	}
}

func (x *terminal) say(text string) { _, _ = io.WriteString(x, text) }

// A shell on a terminal: its size, a change of it, control characters, the exit code.
func testTerminal(t *testing.T, s *suite, name string) {
	x := s.terminal(t, "exec", "-it", name, "-c", "app", "--", "sh")
	x.expect(t, "/ # ")
	x.say("tty; stty size\r")
	x.expect(t, "/dev/pts/[0-9]+\r\n33 101\r\n")
	if err := x.Resize(console.WinSize{Width: 77, Height: 22}); err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Process.Signal(syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	x.say("while [ \"$(stty size)\" != '22 77' ]; do sleep 0.05; done; echo re''sized\r")
	x.expect(t, "resized\r\n")
	x.say("sleep 4712\r")
	eventually(t, func() error {
		if s.sh(t, name, "ps | grep -c 'sleep 471[2]'; true") == "0" {
			return errors.New("sleep does not run")
		}
		return nil
	})
	x.expect(t, "sleep 4712\r\n")
	x.say("\x03")
	x.expect(t, "/ # ")
	x.say("exit 9\r")
	x.expect(t, "command terminated with exit code 9")
	for more := range x.seen { // until the terminal closes
		x.all += more
	}
	if _ = x.cmd.Wait(); x.cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("podctl exec -it: exit %d", x.cmd.ProcessState.ExitCode())
	}
}

// When the client goes, what it ran without a terminal may go on or end, but podd keeps nothing of it: the leak oracle
// sees to that. A new exec works.
func testClientGone(t *testing.T, s *suite, name string) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, filepath.Join(harness.Built(t), "podctl"), "exec", "-i", name, "-c", "app", "--", "sh", "-c", "touch /tmp/begun; cat")
	cmd.Env = append(os.Environ(), "PODD_SOCKET="+s.Socket)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if s.sh(t, name, "ls /tmp") == "" {
			return fmt.Errorf("it has not begun")
		}
		return nil
	})
	cancel()
	_ = cmd.Wait()
	if got := s.sh(t, name, "echo again"); got != "again" {
		t.Errorf("the next exec: %q", got)
	}
}
