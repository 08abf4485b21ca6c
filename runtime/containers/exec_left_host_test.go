//go:build host

package containers_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"podd/runtime/containers"
)

// TestLeftExecs: podd was killed while execs were under way, one of which the shim has not opened the output of, another
// runs and writes, and a third is not begun. The next podd ends them, and the end of the container is seen at once.
func TestLeftExecs(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	run := filepath.Join(t.TempDir(), "run")
	svc, ctx := client.Containerd().TaskService(), client.Context(t.Context())
	begin := func(exec string, read bool) (fifos []string) {
		t.Helper()
		dir := filepath.Join(run, "exec", cfg.ID+"."+exec)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"out", "err"} {
			fifo := filepath.Join(dir, name)
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			if read {
				f, err := os.OpenFile(fifo, unix.O_RDWR|unix.O_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = f.Close() }()
			}
			fifos = append(fifos, fifo)
		}
		_, err := svc.Exec(ctx, &tasks.ExecProcessRequest{
			ContainerID: cfg.ID, ExecID: exec, Stdout: fifos[0], Stderr: fifos[1],
			Spec: &anypb.Any{
				TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
				Value:   []byte(`{"args":["sh","-c","while :; do echo '` + exec + `' padding padding; done"],"cwd":"/","env":["PATH=/bin"]}`),
			},
		})
		if err == nil && exec != "not-begun" {
			started := make(chan error, 1)
			go func() {
				_, err := svc.Start(ctx, &tasks.StartRequest{ContainerID: cfg.ID, ExecID: exec})
				started <- err
			}()
			if read {
				err = <-started
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return fifos
	}
	begin("not-begun", false)
	begin("runs", true)
	begin("hangs", false)
	for !strings.Contains(execOut(t, cfg.ID, "ps -o args"), "'hangs'") {
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.MkdirAll(filepath.Join(run, "exec", "of-an-older-podd"), 0o700); err != nil {
		t.Fatal(err)
	}

	next, err := containers.Connect(containers.Options{
		Address: ctrd.Address, Namespace: namespace, Runc: ctrd.Runc, CgroupParent: parent, RunDir: run,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	began := time.Now()
	next.EndLeftExecs(t.Context())
	want(t, "commands", execOut(t, cfg.ID, "ps -o args | grep -c '[p]adding'"), "0")
	for _, exec := range []string{"not-begun", "runs", "hangs"} {
		if _, err := svc.Get(ctx, &tasks.GetRequest{ContainerID: cfg.ID, ExecID: exec}); err == nil {
			t.Errorf("containerd still knows exec %s", exec)
		}
	}
	if left, err := os.ReadDir(filepath.Join(run, "exec")); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := next.Signal(t.Context(), cfg.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Opening the output gives up by itself after 30 s.
	limit, cancel := context.WithDeadline(t.Context(), began.Add(25*time.Second))
	defer cancel()
	if _, err := next.Wait(limit, cfg.ID); err != nil && !errors.Is(err, containers.ErrGone) {
		t.Errorf("the end of the container is not seen: %v", err)
	}
}
