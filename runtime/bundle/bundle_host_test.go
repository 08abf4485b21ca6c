//go:build host

package bundle

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// options are those of a bundle of its own; what it started is ended with the test.
func options(t *testing.T) Options {
	t.Helper()
	bin := os.Getenv("PODD_BUNDLE")
	if bin == "" {
		bin = "../../libexec/podd"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("/run", "podd-bt-")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{BinDir: bin, StateDir: t.TempDir(), RunDir: run, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Stop(ctx, o); err != nil {
			t.Error(err)
		}
		for _, s := range New(o).services {
			if p, err := s.look(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s after Stop: %v, %v", s.name, p, err)
			}
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	return o
}

// begin runs a bundle until the returned function is called; that leaves its processes running.
func begin(t *testing.T, o Options) (b *Bundle, end func()) {
	t.Helper()
	b = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	ready, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	if err := b.Ready(ready); err != nil {
		cancel()
		t.Fatal(err, <-done)
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	}
	t.Cleanup(end)
	return b, end
}

// who is the pid behind a socket.
func who(t *testing.T, socket string) int {
	t.Helper()
	p, err := listener(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	return p.pid
}

// replaced waits until another process than old listens, and returns it.
func replaced(t *testing.T, socket string, old int) int {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		p, err := listener(socket)
		if err != nil {
			continue
		}
		pid := p.pid
		p.close()
		if pid != old {
			return pid
		}
	}
	t.Fatalf("%s: still nobody but %d", socket, old)
	return 0
}

func hello(t *testing.T, socket string) string {
	t.Helper()
	c, err := client.New(socket, client.WithTimeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := c.Version(namespaces.WithNamespace(t.Context(), "podd"))
	if err != nil {
		t.Fatal(err)
	}
	return v.Version
}

// A killed process is back within a second and answers.
func TestKilledIsBack(t *testing.T) {
	b, _ := begin(t, options(t))
	hello(t, b.ContainerdSocket())
	for name, socket := range map[string]string{"containerd": b.ContainerdSocket(), "podd-logd": b.LogdSocket()} {
		old := who(t, socket)
		killed := time.Now()
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		replaced(t, socket, old)
		took := time.Since(killed)
		t.Logf("%s back after %s", name, took)
		if took > time.Second {
			t.Errorf("%s was back after %s, want at most 1s", name, took)
		}
	}
	hello(t, b.ContainerdSocket())
}

// A second Run, as of a podd that was restarted, takes over the processes of the first.
func TestTakeOver(t *testing.T) {
	o := options(t)
	b, end := begin(t, o)
	ctrd, logd := who(t, b.ContainerdSocket()), who(t, b.LogdSocket())
	end()
	b, end = begin(t, o)
	if got := who(t, b.ContainerdSocket()); got != ctrd {
		t.Errorf("containerd is %d, was %d", got, ctrd)
	}
	if got := who(t, b.LogdSocket()); got != logd {
		t.Errorf("podd-logd is %d, was %d", got, logd)
	}
	if err := unix.Kill(ctrd, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	replaced(t, b.ContainerdSocket(), ctrd) // it watches what it took over
	end()
}

// A process that was started but does not listen yet is found by its record, not started twice.
func TestTakeOverBeforeItListens(t *testing.T) {
	o := options(t)
	s := o.containerd()
	if err := s.makeDirs(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.writeFiles(); err != nil {
		t.Fatal(err)
	}
	p, err := s.spawn()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.record(s.record); err != nil {
		t.Fatal(err)
	}
	b, _ := begin(t, o)
	if got := who(t, b.ContainerdSocket()); got != p.pid {
		t.Errorf("containerd is %d, want the recorded %d", got, p.pid)
	}
}

// A changed configuration, as after an upgrade, gives a new containerd; the same one does not.
func TestChangedConfiguration(t *testing.T) {
	o := options(t)
	b, end := begin(t, o)
	old := who(t, b.ContainerdSocket())
	end()
	config := filepath.Join(o.containerdDir(), "config.toml")
	if err := os.WriteFile(config, []byte("# older\n"+o.containerdConfig()), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ = begin(t, o)
	if got := who(t, b.ContainerdSocket()); got == old {
		t.Error("containerd runs on with the older configuration")
	}
}

// Neither process is in podd's session, so that no signal to podd's terminal or group reaches it.
func TestOwnSession(t *testing.T) {
	b, _ := begin(t, options(t))
	own, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{b.ContainerdSocket(), b.LogdSocket()} {
		pid := who(t, socket)
		if sid, err := unix.Getsid(pid); err != nil || sid == own || sid != pid {
			t.Errorf("process %d is in session %d (own %d): %v", pid, sid, own, err)
		}
	}
}

// An external containerd is used where it is, and left alone by Stop.
func TestExternal(t *testing.T) {
	theirs, _ := begin(t, options(t))
	pid := who(t, theirs.ContainerdSocket())
	o := options(t)
	o.ContainerdAddress = theirs.ContainerdSocket()
	b, end := begin(t, o)
	if b.ContainerdSocket() != theirs.ContainerdSocket() {
		t.Errorf("socket = %s", b.ContainerdSocket())
	}
	end()
	if err := Stop(t.Context(), o); err != nil {
		t.Error(err)
	}
	if got := who(t, theirs.ContainerdSocket()); got != pid {
		t.Errorf("containerd is %d, was %d", got, pid)
	}
}

// A missing binary ends Run with an error that names it.
func TestMissingBinary(t *testing.T) {
	o := options(t)
	o.BinDir = t.TempDir()
	err := New(o).Run(t.Context())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "podd-logd") {
		t.Errorf("Run = %v", err)
	}
}

// Only plugins that are known to containerd can be left out; a new version may rename them.
func TestConfigurationIsUnderstood(t *testing.T) {
	o := options(t)
	begin(t, o)
	for _, file := range []string{"containerd.log"} {
		data, err := os.ReadFile(filepath.Join(o.StateDir, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, "level=error") || strings.Contains(line, "level=fatal") || strings.Contains(line, "migrat") {
				t.Error(line)
			}
		}
	}
}

// Nobody else's pods are made by podd's containerd: the CRI plugin is not in it. Of what podd needs, one plugin is looked for, to
// see that the list is one.
func TestNoCRI(t *testing.T) {
	o := options(t)
	b, _ := begin(t, o)
	c, err := client.New(b.ContainerdSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	list, err := c.IntrospectionService().Plugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	snapshots := false
	for _, p := range list.Plugins {
		if strings.Contains(p.Type+"."+p.ID, "cri") {
			t.Errorf("containerd has the plugin %s.%s", p.Type, p.ID)
		}
		snapshots = snapshots || p.Type == "io.containerd.snapshotter.v1" && p.ID == "overlayfs"
	}
	if !snapshots {
		t.Errorf("no overlayfs among %d plugins", len(list.Plugins))
	}
}
