package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image, in bytes (CVE-2026-47262).
const maxAccounts = 1 << 20

// ReadAccounts reads /etc/passwd and /etc/group of an unpacked image through a read-only view that is gone when it
// returns. A file that is not there is nil; one that is not a regular file or too large is an error. Callers keep the
// answer per chain id.
func (c *Client) ReadAccounts(ctx context.Context, chainID string) (passwd, group []byte, err error) {
	c.accounts.Lock()
	defer c.accounts.Unlock()
	ctx = c.Context(ctx)
	sn, service, key := c.cc.SnapshotService(c.opts.Snapshotter), c.cc.LeasesService(), accountsKey
	lease := leases.Lease{ID: key}
	if err := service.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) { // left by a crash
		return nil, nil, fmt.Errorf("read accounts: remove old lease: %w", err)
	}
	if _, err := service.Create(ctx, leases.WithID(lease.ID), leases.WithExpiration(time.Minute)); err != nil {
		return nil, nil, fmt.Errorf("read accounts: create lease: %w", err)
	}
	defer func() { err = errors.Join(err, service.Delete(context.WithoutCancel(ctx), lease)) }()
	ctx = leases.WithLease(ctx, lease.ID)
	if err := sn.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) { // left by a crash
		return nil, nil, fmt.Errorf("read accounts: remove old view: %w", err)
	}
	mounts, err := sn.View(ctx, key, chainID)
	if err != nil {
		return nil, nil, fmt.Errorf("read accounts: view %s: %w", chainID, err)
	}
	defer func() {
		if e := sn.Remove(context.WithoutCancel(ctx), key); e != nil && !errdefs.IsNotFound(e) {
			err = errors.Join(err, e)
		}
	}()
	err = c.withMount(mounts, func(root string) (err error) {
		if passwd, err = readIn(root, "etc/passwd"); err == nil {
			group, err = readIn(root, "etc/group")
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read accounts of %s: %w", chainID, err)
	}
	return passwd, group, nil
}

// accountsKey names the lease and the view that ReadAccounts has for a moment.
const accountsKey = "podd-accounts"

// sweepAccounts removes what a ReadAccounts that was cut off has left.
func (c *Client) sweepAccounts(ctx context.Context) error {
	at := filepath.Join(c.opts.RunDir, "view")
	if err := mount.UnmountAll(at, unix.MNT_DETACH); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := c.cc.SnapshotService(c.opts.Snapshotter).Remove(c.Context(ctx), accountsKey)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove old view: %w", err)
	}
	err = c.cc.LeasesService().Delete(c.Context(ctx), leases.Lease{ID: accountsKey})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove old lease: %w", err)
	}
	return nil
}

// withMount mounts read-only at a fixed place, so that what a crash left there is found again and taken away.
func (c *Client) withMount(mounts []mount.Mount, f func(root string) error) (err error) {
	at := filepath.Join(c.opts.RunDir, "view")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := mount.UnmountAll(at, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	for i := range mounts {
		mounts[i].Options = append(readOnly(mounts[i].Options), "nosuid", "nodev", "noexec")
	}
	if err := mount.All(mounts, at); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	defer func() {
		err = errors.Join(err, mount.UnmountAll(at, unix.MNT_DETACH), os.Remove(at))
	}()
	return f(at)
}

func readOnly(options []string) []string {
	out := []string{"ro"}
	for _, o := range options {
		if o != "rw" && o != "ro" {
			out = append(out, o)
		}
	}
	return out
}

// readIn reads a small regular file as seen from inside root: links are followed there and nowhere else.
func readIn(root, name string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open /%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), "/"+name)
	defer func() { _ = f.Close() }()
	return readAtMost(f, maxAccounts)
}
