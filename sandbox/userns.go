package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"podd/runtime/containers"
	"podd/runtime/killpoint"
)

// MadeNetNS is where EnsureNamespaces pins the network namespace of a pod with users of its own. It has to be made together
// with the user namespace, for the pod's root to rule over it; nothing is in it yet.
func (s *Sandboxes) MadeNetNS(uid string, attempt int) string {
	return filepath.Join(s.nsDir(uid, attempt), "net")
}

// owned are a user namespace and those that belong to it.
const owned = syscall.CLONE_NEWUSER | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET

// makeOwned makes a user namespace and those that belong to it, all anew. That takes a process that begins in them: a process
// with threads cannot enter a user namespace. It is pause, which waits to be ended and dies with podd.
func (s *Sandboxes) makeOwned(ref containers.Sandbox) (err error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(ref.FirstID), Size: containers.IDs}}
	p, err := os.StartProcess(s.opts.Pause, []string{"pause"}, &os.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{
		Cloneflags: owned, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true, Pdeathsig: syscall.SIGKILL,
	}})
	if errors.Is(err, unix.ENOSPC) {
		return errors.New("the host has no room for another user namespace (sysctl user.max_user_namespaces)")
	}
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer func() {
		_ = p.Kill()
		_, werr := p.Wait()
		err = errors.Join(err, werr)
	}()
	killpoint.At("sandbox.users.made")
	at := fmt.Sprintf("/proc/%d/ns", p.Pid)
	if err := inNamespace(at+"/uts", unix.CLONE_NEWUTS, func() error { return unix.Sethostname([]byte(ref.Hostname)) }); err != nil {
		return fmt.Errorf("set hostname %s: %w", ref.Hostname, err)
	}
	for _, n := range []struct{ name, path string }{{"ipc", ref.IPCNS}, {"uts", ref.UTSNS}, {"net", ref.NetNS}, {"user", ref.UserNS}} {
		if err := pinOne(filepath.Join(at, n.name), n.path); err != nil {
			return err
		}
	}
	killpoint.At("sandbox.users.pinned")
	return nil
}

// inNamespace runs f in a namespace, on a thread that is thrown away: the caller's.
func inNamespace(path string, kind int, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, kind); err != nil {
		return err
	}
	return f()
}
