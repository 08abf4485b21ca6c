package containers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// viewKey names the snapshot of an image volume of a pod.
func viewKey(uid, volume string) string { return "podd-view-" + uid + "-" + volume }

// View has a read-only snapshot of an unpacked image for a volume of a pod, under the pod's lease, and says how to mount it.
// One that is there already is kept, whatever image it was made of: an image volume does not change while its pod lives.
// The files of an image of several layers are shown with the ids of a pod whose root is first on the host, 0 for the host's
// own: an overlay cannot be mapped later. Those of one layer can, and are mapped where they are mounted (containerd's own
// mount does not map what is read-only).
func (c *Client) View(ctx context.Context, uid, volume, chainID string, first uint32) ([]mount.Mount, error) {
	sn, key, opts := c.cc.SnapshotService(c.opts.Snapshotter), viewKey(uid, volume), snapshotOpts(first)
	lctx := c.lease(ctx, uid)
	mounts, err := sn.View(lctx, key, chainID, opts...)
	if errdefs.IsNotFound(err) { // the lease is gone, or the image
		if err := c.EnsureLease(ctx, uid); err != nil {
			return nil, err
		}
		mounts, err = sn.View(lctx, key, chainID, opts...)
	}
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(lctx, key)
	}
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", chainID, err)
	}
	for i := range mounts {
		mounts[i].Options = readOnly(mounts[i].Options)
		if mounts[i].Type != "overlay" {
			mounts[i].Options = slices.DeleteFunc(mounts[i].Options, func(o string) bool { return strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") })
		}
	}
	return mounts, nil
}

// RemoveView takes that snapshot away; nil when there is none. Nothing of it may be mounted any more.
func (c *Client) RemoveView(ctx context.Context, uid, volume string) error {
	err := c.cc.SnapshotService(c.opts.Snapshotter).Remove(c.Context(ctx), viewKey(uid, volume))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove view of volume %s: %w", volume, err)
	}
	return nil
}

// Layered tells whether what is at path is an overlay of several layers.
func Layered(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}
