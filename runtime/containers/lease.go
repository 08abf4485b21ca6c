package containers

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"

	"podd/runtime/killpoint"
)

// EnsureLease makes the lease of a pod, under which everything of it is made. It does not expire: it goes with the pod.
func (c *Client) EnsureLease(ctx context.Context, uid string) error {
	killpoint.At("containers.lease.before")
	_, err := c.cc.LeasesService().Create(c.Context(ctx), leases.WithID(leaseID(uid)), leases.WithLabel(labelUID, uid))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("create lease of %s: %w", uid, err)
	}
	killpoint.At("containers.lease.created")
	return nil
}

// RemoveLease drops the lease of a pod: what it held and nothing else holds is collected.
func (c *Client) RemoveLease(ctx context.Context, uid string) error {
	killpoint.At("containers.lease.remove")
	err := c.cc.LeasesService().Delete(c.Context(ctx), leases.Lease{ID: leaseID(uid)})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete lease of %s: %w", uid, err)
	}
	killpoint.At("containers.lease.removed")
	return nil
}

// Leases is the uids of all pods that have a lease.
func (c *Client) Leases(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	all, err := c.cc.LeasesService().List(c.Context(ctx))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var uids []string
	for _, l := range all {
		if uid, ok := l.Labels[labelUID]; ok && strings.HasPrefix(l.ID, leaseID("")) {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}
