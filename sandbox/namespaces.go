package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
	"podd/runtime/killpoint"
)

// EnsureNamespaces has the IPC and UTS namespaces of Ref there, pinned, the hostname set. podd makes them, and pause and
// the members all join them, so that none of these has to wait for another. A shared PID namespace is made by pause,
// whose first process it needs.
func (s *Sandboxes) EnsureNamespaces(pod *v1.Pod, attempt int) error {
	ref := s.Ref(pod, attempt, "")
	s.ns.Lock()
	defer s.ns.Unlock()
	if pinned(ref.IPCNS) && pinned(ref.UTSNS) {
		return nil
	}
	if err := os.MkdirAll(s.nsDir(string(pod.UID), attempt), 0o700); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and with it its namespaces
		done <- makeNamespaces(ref)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	return nil
}

// makeNamespaces makes those that are missing, from a thread that is thrown away.
func makeNamespaces(ref containers.Sandbox) error {
	for _, n := range []struct {
		name, path string
		flag       int
	}{{"ipc", ref.IPCNS, unix.CLONE_NEWIPC}, {"uts", ref.UTSNS, unix.CLONE_NEWUTS}} {
		if pinned(n.path) {
			continue
		}
		if err := unix.Unshare(n.flag); err != nil {
			return fmt.Errorf("unshare %s: %w", n.name, err)
		}
		if n.name == "uts" {
			if err := unix.Sethostname([]byte(ref.Hostname)); err != nil {
				return fmt.Errorf("set hostname %s: %w", ref.Hostname, err)
			}
		}
		if err := pinOne(filepath.Join("/proc/thread-self/ns", n.name), n.path); err != nil {
			return err
		}
	}
	killpoint.At("sandbox.namespaces")
	return nil
}

// pinned says whether a namespace is pinned at path; "" needs none.
func pinned(path string) bool {
	if path == "" {
		return true
	}
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}
