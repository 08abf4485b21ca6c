package images

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

// instanceLabel marks podd's leases with the process that made them.
const instanceLabel = "podd/images"

// cleanLimit bounds taking back a lease, and with it the garbage collection that follows work that did not succeed.
const cleanLimit = time.Minute

// leased runs do with a lease that keeps the garbage collector away from what do makes. Work that did not succeed has
// left nothing in containerd when leased returns.
func (im *Images) leased(ctx context.Context, what string, do func(ctx context.Context) error) error {
	service := im.client.LeasesService()
	making, made := context.WithTimeout(context.WithoutCancel(ctx), askLimit) // a lease whose making is given up may be there
	lease, err := service.Create(making, leases.WithRandomID(), leases.WithExpiration(24*time.Hour),
		leases.WithLabel(instanceLabel, im.instance))
	made()
	if err != nil {
		return err
	}
	err = do(leases.WithLease(ctx, lease.ID))
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	var opts []leases.DeleteOpt
	if err != nil {
		opts = append(opts, leases.SynchronousDelete)
	}
	if derr := service.Delete(clean, lease, opts...); derr != nil {
		im.log.Warn("a lease is left until the next start", "lease", lease.ID, "for", what, "err", derr)
	}
	return err
}

// Sweep removes what work that was cut off by the death of an earlier podd has left: its leases, and with them unfinished
// downloads and half unpacked layers. It is for the start of podd.
func (im *Images) Sweep(ctx context.Context) error {
	ctx = im.context(ctx)
	service := im.client.LeasesService()
	all, err := service.List(ctx, `labels."`+instanceLabel+`"`)
	if err != nil {
		return fmt.Errorf("sweep images: %w", err)
	}
	for _, lease := range all {
		if lease.Labels[instanceLabel] == im.instance {
			continue
		}
		if err := service.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
			return fmt.Errorf("sweep images: lease %s: %w", lease.ID, err)
		}
	}
	return nil
}
