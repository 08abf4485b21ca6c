//go:build host

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// TestLostState is a podd whose state file is damaged and that dies before it can ask containerd what runs. The next one
// finds a sound, empty file: it adopts the pods and ends none of them. A containerd that hangs is neither an end of a pod
// nor a podd that hangs.
func TestLostState(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := s.running(t, pod{Name: "lost", Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always"})
	s.sleeping(t, 1)
	processes := s.mustTasks(t)
	s.Kill()
	file := filepath.Join(s.Root, "state.db")
	if err := os.WriteFile(file, bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	resume := s.suspendContainerd(t)
	s.Launch()
	eventually(t, func() error {
		moved, err := filepath.Glob(file + ".corrupt-*")
		if _, serr := os.Stat(file); err != nil || serr != nil || len(moved) != 1 {
			return fmt.Errorf("%s is not moved aside and made anew: %v %v %v", file, moved, err, serr)
		}
		return nil
	})
	s.Kill()
	resume()
	s.Restart()
	after := s.until(t, "lost", "is Running again", phase(v1.PodRunning))
	if after.UID != before.UID || app(after).RestartCount != 0 || after.Status.StartTime == nil {
		t.Errorf("adopted as uid %s with %d restarts, started %v; it was uid %s", after.UID, app(after).RestartCount,
			after.Status.StartTime, before.UID)
	}
	if now := s.mustTasks(t); !maps.Equal(now, processes) {
		t.Errorf("processes of pods: %v, before podd died: %v", now, processes)
	}

	resume = s.suspendContainerd(t)
	s.until(t, "lost", "is Unknown", phase(v1.PodUnknown))
	resume()
	s.until(t, "lost", "is Running", phase(v1.PodRunning))
	if now := s.mustTasks(t); !maps.Equal(now, processes) {
		t.Errorf("processes of pods: %v, before containerd hung: %v", now, processes)
	}
	if out := s.must(t, "get", "pod", "lost", "--no-headers"); out == "" {
		t.Error("the pod is gone")
	}
	s.remove(t, "lost")
}

// suspendContainerd makes containerd hang until resume is called.
func (s *suite) suspendContainerd(t *testing.T) (resume func()) {
	t.Helper()
	conn, err := net.Dial("unix", s.ContainerdSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil || pid == 0 {
		t.Fatalf("ask who listens on %s: pid %d, %v", s.ContainerdSocket, pid, err)
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume = func() { _ = unix.Kill(pid, unix.SIGCONT) }
	t.Cleanup(resume)
	return resume
}
