package containers

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// viewKey names the snapshot of an image volume of a pod.
func viewKey(uid, volume string) string { return "podd-view-" + uid + "-" + volume }

// View has a read-only snapshot of an unpacked image for a volume of a pod, under the pod's lease, and says how to mount it.
// One that is there already is kept, whatever image it was made of: an image volume does not change while its pod lives.
func (c *Client) View(ctx context.Context, uid, volume, chainID string) ([]mount.Mount, error) {
	sn, key := c.cc.SnapshotService(c.opts.Snapshotter), viewKey(uid, volume)
	lctx := c.lease(ctx, uid)
	mounts, err := sn.View(lctx, key, chainID)
	if errdefs.IsNotFound(err) { // the lease is gone, or the image
		if err := c.EnsureLease(ctx, uid); err != nil {
			return nil, err
		}
		mounts, err = sn.View(lctx, key, chainID)
	}
	if errdefs.IsAlreadyExists(err) {
		mounts, err = sn.Mounts(lctx, key)
	}
	if err != nil {
		return nil, fmt.Errorf("view %s: %w", chainID, err)
	}
	for i := range mounts {
		mounts[i].Options = readOnly(mounts[i].Options)
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
