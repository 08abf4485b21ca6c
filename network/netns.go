package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"podd/runtime/killpoint"
)

// Netns makes and pins the pod's network namespace and returns its path: the sandbox may start in it while Ensure is
// still at work. What is at the path and is not a network namespace is replaced. With HostNetwork the path is empty.
func (n *Network) Netns(ctx context.Context, p Pod) (string, error) {
	if p.HostNetwork {
		return "", nil
	}
	if err := checkUID(p.UID); err != nil {
		return "", err
	}
	path := n.netnsPath(p.UID, p.Attempt)
	release, err := n.pin.take(ctx, p.UID)
	if err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer release()
	if id, err := netnsID(path); err != nil || id != "" {
		return path, err
	}
	if err := unpin(path); err != nil {
		return "", err
	}
	if err := makeNetns(path, p.Made); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	return path, nil
}

func (n *Network) netnsPath(uid string, attempt int) string {
	return filepath.Join(n.o.NetnsDir, attemptID(uid, attempt))
}

// netnsID identifies the namespace that is pinned at path. It is empty when there is none, or when it is the host's own,
// which no pod may be given. An error says that it could not be looked at, which tells neither.
func netnsID(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return "", nil // nothing, a link, a socket or another thing that is no namespace
	case err != nil:
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(fd, &fsys); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	if fsys.Type != unix.NSFS_MAGIC {
		return "", nil
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return "", nil
	}
	var st, host unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Stat("/proc/self/ns/net", &host)); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	if st.Dev == host.Dev && st.Ino == host.Ino {
		return "", nil
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// makeNetns makes a namespace on a thread that is thrown away after: a thread that has been in another namespace
// never runs anything else again.
func makeNetns(path, from string) error {
	killpoint.At("network.netns.before")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	killpoint.At("network.netns.file")
	made := make(chan error, 1)
	go onOwnThread(func() { made <- newNetns(path, from) })
	if err := <-made; err != nil {
		return errors.Join(err, unpin(path))
	}
	killpoint.At("network.netns.after")
	return nil
}

// onOwnThread runs f on a thread that ends with it. The process's first thread cannot end (it would be parked, and
// hold the namespace for good), so f never gets that one.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		done := make(chan struct{})
		go func() { defer close(done); onOwnThread(f) }()
		<-done
		runtime.UnlockOSThread()
		return
	}
	f() // and return while locked: the runtime ends the thread
}

// newNetns has the calling thread enter a new namespace, or the one that is pinned at from, and pins it at path with what
// every pod's has.
func newNetns(path, from string) error {
	ns, err := enterNetns(from)
	if err != nil {
		return err
	}
	defer ns.Close()
	// Pods take no router advertisements from each other (CVE-2020-10749) and do not wait for duplicate address
	// detection, which a bridge port in hairpin mode would even fail. Both before an interface is there.
	for _, where := range []string{"all", "default"} {
		for _, key := range []string{"accept_ra", "accept_dad"} {
			if err := sysctl("ipv6/conf/"+where+"/"+key, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// enterNetns enters the namespace pinned at path, or a new one if that is "".
func enterNetns(path string) (netns.NsHandle, error) {
	if path == "" {
		return netns.New()
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, fmt.Errorf("%s: %w", path, err)
	}
	if err := netns.Set(ns); err != nil {
		ns.Close()
		return netns.None(), fmt.Errorf("enter %s: %w", path, err)
	}
	return ns, nil
}

// sysctl writes /proc/sys/net/<key> of the calling thread's namespace, if it has another value.
func sysctl(key, value string) error {
	path := "/proc/sys/net/" + key
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(old)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// unpin takes away whatever is at path, mounts on top of each other included.
func unpin(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not a mount, or not there
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	killpoint.At("network.netns.unmounted")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
