package bundle

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A record that names a process of another start time, or nothing sensible, names nobody.
func TestStaleRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "process.json")
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	me := &process{pid: os.Getpid()}
	if err := me.record(file); err != nil {
		t.Fatal(err)
	}
	p, err := recorded(file)
	if err != nil {
		t.Fatal("a true record:", err)
	}
	p.close()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	now := string(data)
	for _, content := range []string{"", "{", `{"pid":-1}`, strings.Replace(now, `"start":`, `"start":1`, 1), `{"pid":4194305,"start":1}`} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := recorded(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("record %q (start %d): %v, %v", content, start, p, err)
		}
	}
}

// wait obeys its context, again and again, and sees the end of the process.
func TestWait(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("wait = %v, want the context's error", err)
		}
	}
	if p.gone() {
		t.Error("a running process counts as gone")
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t.Context()); err != nil || !p.gone() {
		t.Errorf("wait after SIGKILL = %v, gone = %v", err, p.gone())
	}
	if q, err := open(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a zombie can be opened: %v, %v", q, err)
	}
	_ = cmd.Wait()
	if err := p.signal(unix.SIGTERM); err != nil {
		t.Errorf("signal to a process that has ended = %v, want nil", err)
	}
}

// The listener of a socket is found; a socket file without one, or none, is nobody.
func TestListener(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if p, err := listener(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v, %v", p, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	p, err := listener(socket)
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != os.Getpid() {
		t.Errorf("listener is %d, want %d", p.pid, os.Getpid())
	}
	p.close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := listener(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket that nobody listens on: %v, %v", p, err)
	}
}

// The sockets of shims are podd's own as long as containerd takes so long a path.
func TestConfigSockets(t *testing.T) {
	short := Options{StateDir: "/var/lib/podd", RunDir: "/run/podd"}.containerdConfig()
	if !strings.Contains(short, `socket_dir = "/run/podd/containerd/s"`) {
		t.Errorf("no socket_dir in\n%s", short)
	}
	long := Options{StateDir: "/var/lib/podd", RunDir: "/run/" + strings.Repeat("p", 40)}.containerdConfig()
	if strings.Contains(long, "socket_dir") {
		t.Errorf("socket_dir in\n%s", long)
	}
}

// A log that has grown large is moved on while its writer keeps writing to the same file.
func TestTrim(t *testing.T) {
	s := &service{output: filepath.Join(t.TempDir(), "out.log")}
	w, err := s.openOutput()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(maxOutput); err != nil {
		t.Fatal(err)
	}
	if err := s.trim(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("later\n"); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(s.output)
	if err != nil || string(now) != "later\n" {
		t.Errorf("log after trim = %.20q, %v", now, err)
	}
	if info, err := os.Stat(s.output + ".1"); err != nil || info.Size() != maxOutput {
		t.Errorf("older log: %v, %v", info, err)
	}
}
