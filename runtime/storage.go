package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"podd/runtime/logs"
	"podd/runtime/stats"
	"podd/status"
)

const (
	limitCheck = 10 * time.Second // what pods store is measured this often (upstream: eviction monitoringInterval),
	limitShare = 20               // and at most for one part in this many of the time

	systemCritical = 2_000_000_000 // priority from which on a pod is not evicted (pkg/kubelet/types IsCriticalPod)
)

// keepLimits measures what pods store that have limits for it, until ctx is done.
func (r *Runtime) keepLimits(ctx context.Context) {
	timer := time.NewTimer(limitCheck)
	defer timer.Stop()
	due := map[types.UID]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		kept := map[types.UID]time.Time{}
		for _, pod := range r.Store.Pods() {
			if ctx.Err() != nil {
				return
			}
			if pod.Spec.NodeName != r.Node.Name || !evictable(pod) {
				continue
			}
			kept[pod.UID] = due[pod.UID]
			if began := time.Now(); !began.Before(due[pod.UID]) {
				r.noteBeyond(pod.UID, r.exceeds(ctx, pod))
				kept[pod.UID] = time.Now().Add(limitShare * time.Since(began))
			}
		}
		due = kept
		r.mu.Lock()
		for uid := range r.beyond {
			if _, ok := due[uid]; !ok {
				delete(r.beyond, uid)
			}
		}
		r.mu.Unlock()
		timer.Reset(limitCheck)
	}
}

// critical tells whether the host needs the pod whatever it uses: pods of manifest files, and those of a priority for that.
func critical(pod *v1.Pod) bool {
	return pod.Annotations[SourceAnnotation] == SourceFile || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// ends tells whether a pod is over or is to go.
func ends(pod *v1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// evictable tells whether a pod runs, has a limit on what it stores, and may be evicted for it.
func evictable(pod *v1.Pod) bool {
	if ends(pod) || critical(pod) {
		return false
	}
	sized := func(v v1.Volume) bool {
		return onDisk(&v) && v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() > 0
	}
	_, limited := storageLimit(pod)
	return limited || slices.ContainsFunc(pod.Spec.Volumes, sized)
}

func onDisk(v *v1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault
}

// storageLimit is how much all that the pod stores may be.
func storageLimit(pod *v1.Pod) (resource.Quantity, bool) {
	limit, ok := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	return limit, ok
}

// exceeds says which of its limits what the pod stores is beyond, in upstream's words and order; "" if it is not
// (pkg/kubelet/eviction/eviction_manager.go localStorageEviction). A container stores its log and its writable layer. What is
// made so that it cannot be counted is beyond every limit.
func (r *Runtime) exceeds(ctx context.Context, pod *v1.Pod) string {
	used := func(dir string) int64 {
		n, _, err := stats.Files(ctx, dir)
		if errors.Is(err, stats.ErrTooDeep) {
			return math.MaxInt64
		}
		return int64(n)
	}
	var total int64
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !onDisk(v) {
			continue
		}
		n := used(r.Volumes.Path(string(pod.UID), v.Name))
		if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Sign() > 0 && limit.CmpInt64(n) < 0 {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
		total = min(total, math.MaxInt64-n) + n
	}
	limit, limited := storageLimit(pod)
	if !limited {
		return ""
	}
	beyond := ""
	for _, c := range status.Statuses(&pod.Status) {
		if c.State.Running == nil {
			continue
		}
		n := used(filepath.Dir(logs.Path(r.LogDir, pod.Namespace, pod.Name, string(pod.UID), c.Name, 0)))
		root, _, err := r.Containers.LayerSize(ctx, status.ContainerID(pod.UID, c.Name, int(c.RestartCount)))
		if err != nil {
			r.Log.Debug("measure a container's writable layer", "pod", pod.Name, "container", c.Name, "err", err)
		}
		n += root
		total = min(total, math.MaxInt64-n) + n
		m, ok := status.MemberOf(pod, c.Name)
		if !ok || m.Kind != status.Regular {
			continue
		}
		if own := m.Resources.Limits.StorageEphemeral(); beyond == "" && own.Sign() > 0 && own.CmpInt64(n) < 0 {
			beyond = fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, own.String())
		}
	}
	if limit.CmpInt64(total) < 0 {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	return beyond
}

func (r *Runtime) noteBeyond(uid types.UID, message string) {
	r.mu.Lock()
	if message == "" {
		delete(r.beyond, uid)
	} else {
		r.beyond[uid] = message
	}
	r.mu.Unlock()
	if message != "" {
		r.Wake(uid)
	}
}

// isBeyond says why the pod is to end, if it is.
func (r *Runtime) isBeyond(uid types.UID) *status.Eviction {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.chosen[uid]; ok {
		return &e
	}
	if message := r.beyond[uid]; message != "" {
		return &status.Eviction{Message: message}
	}
	return nil
}

// evict notes that the pod is to end for what it uses.
func (h *host) evict(ctx context.Context, pod *v1.Pod, e status.Eviction) error {
	if h.record().Evicted != nil {
		return nil
	}
	e.At = time.Now()
	if err := h.change(ctx, func(r record) record {
		r.Evicted = &e
		return r
	}); err != nil {
		return err
	}
	h.event(pod, v1.EventTypeWarning, cmp.Or(e.Reason, status.Evicted), "%s", e.Message)
	return nil
}

// vacate takes the volumes of an evicted pod away.
func (h *host) vacate(ctx context.Context) error {
	if err := h.removeImageVolumes(ctx); err != nil {
		return err
	}
	return h.r.Volumes.Vacate(ctx, string(h.uid))
}
