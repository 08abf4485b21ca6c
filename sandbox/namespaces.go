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

// EnsureNamespaces has the IPC and UTS namespaces of Ref there, pinned, the hostname set; for a pod with users of its own,
// whose root first is, its user namespace and all that belong to it as well, the network's too: see MadeNetNS. podd makes them, and pause and
// the members all join them, so that none of these has to wait for another. A shared PID namespace is made by pause,
// whose first process it needs.
func (s *Sandboxes) EnsureNamespaces(pod *v1.Pod, attempt int, first uint32) error {
	ref := s.Ref(pod, attempt, s.MadeNetNS(string(pod.UID), attempt), first)
	s.ns.Lock()
	defer s.ns.Unlock()
	if pinned(ref.IPCNS) && pinned(ref.UTSNS) && (first == 0 || pinned(ref.UserNS) && pinned(ref.NetNS)) {
		return nil
	}
	if err := os.MkdirAll(s.nsDir(string(pod.UID), attempt), 0o700); err != nil {
		return err
	}
	making := makeNamespaces
	if first != 0 {
		making = s.makeOwned
	}
	done := make(chan error, 1)
	go onSpareThread(done, func() error { return making(ref) })
	if err := <-done; err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	return nil
}

// onSpareThread runs f on a thread that ends with it, and with it its namespaces. The process's first thread never ends:
// a goroutine that finds itself there keeps it busy while another one does the work.
func onSpareThread(done chan<- error, f func() error) {
	runtime.LockOSThread() // not unlocked on a spare thread
	if unix.Gettid() != unix.Getpid() {
		done <- f()
		return
	}
	spare := make(chan error)
	go onSpareThread(spare, f)
	done <- <-spare
	runtime.UnlockOSThread()
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
