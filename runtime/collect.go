package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/api/pressure"
	"podd/runtime/images"
)

// Collect says when unused images are taken away (pkg/kubelet/images/image_gc_manager.go).
type Collect struct {
	High, Low int           // percent of their file system in use at which it begins, and at which it ends; High 100 is never
	Age       time.Duration // how long an image stays at least
	Changed   func()        // the host has other images now; does not block
}

const imageCheck = 5 * time.Minute // upstream: ImageGCPeriod

// unused is since when images are known, and when they were last in use, by id.
type unused struct {
	mu    sync.Mutex
	since map[string]time.Time // guarded by mu
	used  map[string]time.Time // guarded by mu
}

// keepImages looks for images that nobody uses, until ctx is done.
func (r *Runtime) keepImages(ctx context.Context) {
	if r.Collect.High >= 100 || r.Pressure.Left == nil {
		return
	}
	select { // a pod that the store has lost may use some
	case <-r.claimed:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(imageCheck)
	defer tick.Stop()
	for failed := false; ; {
		err := r.collectImages(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			failed = false
		case failed: // once may be because containerd was away
			r.Pressure.Event(v1.EventTypeWarning, "ImageGCFailed", "%v", err)
			fallthrough
		default:
			r.Log.Warn("take unused images away", "err", err)
			failed = true
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// collectImages takes unused images away if there is too little room where images are.
func (r *Runtime) collectImages(ctx context.Context) error {
	full := func() (percent int, left pressure.Observation) {
		left, ok := r.Pressure.Left()[pressure.ImageFSAvailable]
		if !ok {
			return 0, left
		}
		return 100 - int(min(left.Available, left.Capacity)*100/left.Capacity), left
	}
	percent, before := full()
	if percent < r.Collect.High {
		_, _, err := r.lookForUnused(ctx) // images are known from now on
		return err
	}
	enough := func() bool { now, _ := full(); return now <= r.Collect.Low }
	if ok, err := r.freeImages(ctx, enough); ok || err != nil {
		return err
	}
	_, after := full()
	message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
		"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
		percent, size(before.Capacity), max(0, after.Available-before.Available))
	r.Pressure.Event(v1.EventTypeWarning, "FreeDiskSpaceFailed", "%s", message)
	return errors.New(message)
}

// size is a number of bytes as upstream's message has it.
func size(bytes int64) string {
	n, unit := float64(bytes), 0
	for ; n >= 1024 && unit < 4; unit++ {
		n /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", n, []string{"", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// freeImages takes images away that nobody uses, those first that were not used for the longest time, until it is enough, and tells
// whether it was.
func (r *Runtime) freeImages(ctx context.Context, enough func() bool) (bool, error) {
	ids, names, err := r.lookForUnused(ctx)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, id := range ids {
		if enough() {
			break
		}
		err := r.Images.Remove(ctx, id, func(name string) ([]string, error) { return r.ImageUsers(ctx, name) })
		if errors.Is(err, images.ErrInUse) {
			continue
		}
		errs = append(errs, err)
		if err == nil {
			r.Log.Info("an unused image was taken away", "image", names[id])
			r.Collect.Changed()
		}
	}
	return enough(), errors.Join(errs...)
}

// lookForUnused gives the ids of the images that may go, those first that were not used for the longest time, and their names. An image
// stays that a container, or a pod that is not over, may need; that is pinned; and one of which podd does not know that a
// registry has it: those that were loaded.
func (r *Runtime) lookForUnused(ctx context.Context) (ids []string, names map[string][]string, err error) {
	needed := map[string]bool{} // before the images are listed: one that is pulled meanwhile is young
	instances, err := r.Containers.Look(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	for _, i := range instances {
		needed[i.Image] = true
	}
	for _, pod := range r.Store.Pods() {
		if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			continue
		}
		for _, ref := range imagesOf(pod) {
			if name, err := images.Normalize(ref); err == nil {
				needed[name] = true
			}
		}
	}
	all, err := r.Images.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, used, stays := map[string][]string{}, map[string]bool{}, map[string]bool{}
	for _, i := range all {
		names[i.ID] = append(names[i.ID], i.Name)
		used[i.ID] = used[i.ID] || needed[i.Name]
		stays[i.ID] = stays[i.ID] || i.Pinned || !i.Pulled
	}
	u, now := &r.unused, time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	since, last := map[string]time.Time{}, map[string]time.Time{}
	for id := range names {
		since[id], last[id] = now, u.used[id]
		if at, known := u.since[id]; known {
			since[id] = at
		}
		if used[id] {
			last[id] = now
		} else if !stays[id] && now.Sub(since[id]) >= r.Collect.Age {
			ids = append(ids, id)
		}
	}
	u.since, u.used = since, last
	slices.SortFunc(ids, func(a, b string) int {
		if c := last[a].Compare(last[b]); c != 0 {
			return c
		}
		return since[a].Compare(since[b])
	})
	return ids, names, nil
}
