package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"podd/runtime/containers"
	"podd/runtime/killpoint"
)

// pinPID has the PID namespace of the pause process at the path of ref, if members share it. The process is held by a
// descriptor while it is checked to be the pod's and its namespace is bound, so that a pid used again cannot be taken
// for it.
func (s *Sandboxes) pinPID(uid string, pid uint32, ref containers.Sandbox) error {
	if ref.PIDNS == "" {
		return nil
	}
	proc, err := os.OpenFile(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	defer func() { _ = proc.Close() }()
	at := fmt.Sprintf("/proc/self/fd/%d", proc.Fd())
	cgroup, err := os.ReadFile(at + "/cgroup")
	if err != nil {
		return fmt.Errorf("pin namespaces: %w", err)
	}
	if !strings.Contains(string(cgroup), "/pod"+uid+"/"+ref.ID) {
		return fmt.Errorf("pin namespaces: process %d is not the pause of pod %s", pid, uid)
	}
	if err := pinOne(at+"/ns/pid", ref.PIDNS); err != nil {
		return fmt.Errorf("pin pid namespace: %w", err)
	}
	killpoint.At("sandbox.pinned")
	return nil
}

// pinOne binds a namespace to a path. A pin of another one, as a crash or a restart may have left, is replaced.
func pinOne(ns, path string) error {
	if sameFile(ns, path) {
		return nil
	}
	if err := unmountAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	killpoint.At("sandbox.pin")
	if err := unix.Mount(ns, path, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind", Path: path, Err: err}
	}
	return nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// RemovePins takes the pinned namespaces of all attempts of a pod's sandbox away; nil when nothing is left. They are made
// before the sandbox has a record in containerd, so that one that never came to have one leaves them behind.
func (s *Sandboxes) RemovePins(uid string) error {
	dir := filepath.Join(s.podDir(uid), "ns")
	attempts, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pins: %w", err)
	}
	for _, a := range attempts {
		if err := unpin(filepath.Join(dir, a.Name())); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	return removeEmpty(dir)
}

// unpin takes a directory of pins away.
func unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := unmountAll(path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// unmountAll takes away every mount on a path, without following a link there. None is fine.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}
