package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/claims"
	"podd/store"
)

// reclaimer deletes what released volumes hold, by their policy: first the directory, then the object. It has a
// goroutine of its own, as a large directory takes its time: a slice, then it is the turn of the next one.
type reclaimer struct {
	server *Server
	read   objectCache
	due    map[string]bool // keys of volumes
}

// reclaimSlice is how long one directory is worked on at a time.
const reclaimSlice = 30 * time.Second

func (r *reclaimer) again() time.Time { return time.Time{} }

func (r *reclaimer) begin(entries []store.Entry) {
	r.read, r.due = objectCache{server: r.server, known: map[string]knownObject{}}, map[string]bool{}
	for _, e := range entries {
		r.change(store.Change{Key: e.Key, Data: e.Data})
	}
}

func (r *reclaimer) change(c store.Change) {
	if strings.HasPrefix(c.Key, volumePrefix) {
		r.due[c.Key] = true
		if c.Data == nil {
			r.read.forget(c.Key)
		}
	}
}

func (r *reclaimer) work(ctx context.Context) (more bool, err error) { return r.each(ctx, r.reclaim) }

// each has a look at every volume that is due, for a slice of time. One that takes longer stays due, and so does one that fails.
func (r *reclaimer) each(ctx context.Context, look func(ctx context.Context, key string) error) (more bool, err error) {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(r.due)) {
		delete(r.due, key)
		slice, cancel := context.WithTimeout(ctx, reclaimSlice)
		err := look(slice, key)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			r.due[key], more = true, true
		case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
			r.due[key] = true
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return more, errors.Join(errs...)
}

// reclaim looks at one volume.
func (r *reclaimer) reclaim(ctx context.Context, key string) error {
	v, err := r.read.volume(key)
	if err != nil || v == nil {
		return err
	}
	kind, _, name := r.server.stored.of(key)
	switch claims.Reclaims(v) {
	case claims.Nothing:
		return nil
	case claims.Impossible:
		return r.fail(ctx, v, "podd deletes the volumes that it has provisioned, and no others: the reclaim policy of this one should be Retain")
	}
	if r.server.Directories == nil {
		return nil
	}
	if err := r.server.Directories.Remove(ctx, name); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, r.fail(ctx, v, err.Error()))
		}
		return err
	}
	// The object goes by this and by the protection, which ends with its being in use.
	if v.DeletionTimestamp == nil {
		if err := kind.delete(ctx, "", name, v.UID, metav1.DeletePropagationBackground); err != nil {
			return err
		}
	}
	return kind.update(ctx, "", name, v.UID, without(claims.DirectoryProtection))
}

// fail says of a volume that it cannot be deleted.
func (r *reclaimer) fail(ctx context.Context, v *v1.PersistentVolume, why string) error {
	if v.Status.Phase == v1.VolumeFailed && v.Status.Message == why {
		return nil
	}
	r.server.event(volumeReference(v), metav1.NamespaceDefault, v1.EventTypeWarning, "VolumeFailedDelete", why)
	next := v.DeepCopy()
	next.Status.Phase, next.Status.Message = v1.VolumeFailed, why
	if err := r.server.putVolumeStatus(ctx, next); err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return nil
}
