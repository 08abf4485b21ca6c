package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"podd/api/fit"
	"podd/runtime/containers"
	"podd/runtime/killpoint"
	"podd/runtime/plan"
	"podd/status"
)

// admit takes the pod up, with the resources that it asks for, and stores both.
func (h *host) admit(ctx context.Context, pod *v1.Pod) error {
	took := func(r record) record {
		r.Namespace, r.Name, r.Started, r.Allocated = pod.Namespace, pod.Name, time.Now(), resourcesOf(pod)
		return r
	}
	want, ports := fit.Of(pod), fit.Ports(pod)
	if len(h.lastSeen().instances) > 0 { // it runs, and was lost from the store
		want, ports = fit.Amount{}, nil
	}
	if lacks := h.promise(want, ports, took(h.record())); len(lacks) > 0 {
		return errRefused(pod, lacks)
	}
	defer h.settle()
	if err := h.change(ctx, took); err != nil {
		return err
	}
	if len(fit.Of(pod).Huge) > 0 && !h.r.Sandboxes.LimitsHugePages() {
		h.event(pod, v1.EventTypeWarning, "HugePagesNotLimited", "nothing holds the pod to the huge pages that it asks for: the cgroup controller hugetlb is not mounted")
	}
	return nil
}

// conclude stores the verdict over the pod. One that was never taken up is told why, as the kubelet does.
func (h *host) conclude(ctx context.Context, pod *v1.Pod, v *status.Verdict) error {
	if v.Reason == status.DeadlineExceeded { // of a pod without a running container nobody has told
		if err := h.tellOverdue(pod); err != nil {
			return err
		}
	}
	err := h.change(ctx, func(r record) record { r.Verdict = v; return r })
	if err == nil && v.Reason != "" && h.record().Started.IsZero() {
		h.event(pod, v1.EventTypeWarning, v.Reason, "%s", strings.TrimPrefix(v.Message, "Pod was rejected: "))
	}
	return err
}

// adoptResources takes for admitted what the spec says, for a pod that an older podd took up, which changed no resources and
// noted none, or none of the pod's own. Its worker stores that before there is a change of them.
func (h *host) adoptResources() {
	pod, ok := h.r.Store.PodByUID(h.uid)
	if _, known := h.rec.Allocated[status.Whole]; known || !ok || h.rec.Started.IsZero() {
		return
	}
	all := resourcesOf(pod)
	maps.Copy(all, h.rec.Allocated)
	h.rec.Allocated, h.adopted = all, true
}

// storeAdopted stores what adoptResources took for admitted.
func (h *host) storeAdopted(ctx context.Context) {
	if !h.adopted {
		return
	}
	if err := h.change(ctx, func(r record) record { return r }); err != nil && ctx.Err() == nil {
		h.r.Log.Error("note the resources of a pod of an older podd", "uid", h.uid, "err", err)
	}
}

// admitted is the pod with the resources that podd has admitted, which may be others than it asks for now.
func (h *host) admitted(pod *v1.Pod) *v1.Pod { return withResources(pod, h.record().Allocated) }

// allocate admits the resources that the pod asks for now. When another pod has taken the room meanwhile, nothing is done:
// the next look sees it.
func (h *host) allocate(ctx context.Context, pod *v1.Pod) error {
	rec := h.record()
	if sameResources(pod, rec.Allocated) {
		return nil
	}
	had, want := fit.Of(withResources(pod, rec.Allocated)), fit.Of(pod)
	grows := fit.Amount{}
	if want.CPU > had.CPU {
		grows.CPU = want.CPU
	}
	if want.Memory > had.Memory {
		grows.Memory = want.Memory
	}
	allocated := func(r record) record {
		own := r.Allocated[status.Whole]
		if r.Before == nil && !sameAmounts(own, status.Own(pod)) {
			r.Before = &own
		}
		r.Allocated, r.Resized = resourcesOf(pod), true
		return r
	}
	if lacks := h.promise(grows, nil, allocated(rec)); len(lacks) > 0 {
		h.r.Log.Info("a resize waits: another pod was faster", "namespace", pod.Namespace, "pod", pod.Name, "lacks", lacks)
		return nil
	}
	defer h.settle()
	killpoint.At("allocate.before")
	if err := h.change(ctx, allocated); err != nil {
		return err
	}
	killpoint.At("allocate.after")
	h.r.wakeWaiting()
	h.event(pod, v1.EventTypeNormal, events.ResizeStarted, "%s", events.PodResizeStartedMsg(klog.Background(), pod, pod.Generation))
	if h.record().Before == nil && h.held(h.lastSeen().instances, pod, "") { // nothing runs that has to be changed
		h.event(pod, v1.EventTypeNormal, events.ResizeCompleted, "%s", events.PodResizeCompletedMsg(klog.Background(), pod, pod.Generation))
	}
	return nil
}

// held tells whether all containers of the pod but one are held to what is admitted, those that run and those that are made.
func (h *host) held(instances []containers.Instance, admitted *v1.Pod, but string) bool {
	rec := h.record()
	for _, i := range instances {
		m, ok := status.MemberOf(admitted, i.Name)
		has := rec.heldTo(i)
		if !ok || i.Name == but || m.Kind == status.Ephemeral || has == nil {
			continue
		}
		if state, _ := h.state(i); state != status.Exited && !sameAmounts(status.Effective(m.Resources, status.Own(admitted)), *has) {
			return false
		}
	}
	return true
}

// sameAmounts tells whether two say the same of cpu and memory.
func sameAmounts(a, b v1.ResourceRequirements) bool {
	pick := func(l v1.ResourceList) [2]int64 { return [2]int64{l.Cpu().MilliValue(), l.Memory().Value()} }
	return pick(a.Requests) == pick(b.Requests) && pick(a.Limits) == pick(b.Limits)
}

// resize holds one running container to what is admitted. The pod's cgroup gets more before it does, and less when all
// containers are held to theirs (pkg/kubelet/kuberuntime/kuberuntime_manager.go doPodResizeAction). That is noted last: a
// resize that was cut off is done again.
func (h *host) resize(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	h.resizing.Lock()
	defer h.resizing.Unlock()
	pod = h.admitted(pod)
	c, err := containerOf(pod, s.Name)
	if err != nil {
		return err
	}
	i, ok, err := h.instance(ctx, s)
	if state, _ := h.state(i); err != nil || !ok || state != status.Running {
		return err
	}
	if err := h.checkMemory(pod, c, i); err != nil {
		return err
	}
	if err := h.r.Sandboxes.RaiseCgroup(pod); err != nil {
		return err
	}
	killpoint.At("resize.raised")
	if err := h.r.Containers.UpdateTask(ctx, i.ID, pod, c); err != nil {
		return err
	}
	killpoint.At("resize.updated")
	if _, err := h.lowerCgroup(ctx, pod, s.Name); err != nil {
		return err
	}
	killpoint.At("resize.lowered")
	return h.r.Containers.NoteResources(ctx, i.ID, pod, c)
}

// resizePod holds the pod's cgroup to what is admitted of the pod's own resources, and notes last that it is: one that was
// cut off is done again. Its containers were held to theirs before.
func (h *host) resizePod(ctx context.Context, pod *v1.Pod) error {
	h.resizing.Lock()
	defer h.resizing.Unlock()
	pod = h.admitted(pod)
	if err := h.r.Sandboxes.CheckCgroup(pod); err != nil {
		return fmt.Errorf("cannot decrease memory limits: %w", err)
	}
	if err := h.r.Sandboxes.RaiseCgroup(pod); err != nil {
		return err
	}
	if lowered, err := h.lowerCgroup(ctx, pod, ""); err != nil || !lowered {
		return err // one that has just been made is held to it first
	}
	killpoint.At("resize-pod.lowered")
	return h.change(ctx, func(r record) record {
		if sameAmounts(r.Allocated[status.Whole], status.Own(pod)) { // else others were admitted meanwhile
			r.Before = nil
		}
		return r
	})
}

// checkMemory is the error of a resize that would set a memory limit below what is in use, in upstream's words
// (validateMemoryResizeAction).
func (h *host) checkMemory(admitted *v1.Pod, c *v1.Container, i containers.Instance) error {
	errs := []error{h.r.Sandboxes.CheckCgroup(admitted)}
	now := int64(0)
	if has := h.record().heldTo(i); has != nil {
		now = has.Limits.Memory().Value()
	}
	whole := containers.Limit(admitted, c, v1.ResourceMemory)
	if limit := whole.Value(); limit > 0 && (now == 0 || limit < now) {
		used, err := h.r.Containers.MemoryInUse(i.Cgroup)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("read memory of container %q: %w", c.Name, err))
		case used >= limit:
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Name, limit, used))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot decrease memory limits: %w", err)
	}
	return nil
}

// lowerCgroup gives the pod's cgroup its limits if all containers but one are held to theirs, and tells whether it has them.
func (h *host) lowerCgroup(ctx context.Context, admitted *v1.Pod, but string) (lowered bool, err error) {
	instances, err := h.r.Containers.Look(ctx, string(h.uid))
	if err != nil || !h.held(instances, admitted, but) {
		return false, err
	}
	if err := h.resizeEphemeral(ctx, instances, admitted); err != nil {
		return false, err
	}
	return true, h.r.Sandboxes.LowerCgroup(admitted)
}

// resizeEphemeral holds the ephemeral containers that run to the limits of the pod, which are all they have: cgroup v1 lowers
// no cpu quota below one within.
func (h *host) resizeEphemeral(ctx context.Context, instances []containers.Instance, admitted *v1.Pod) error {
	for _, i := range instances {
		m, ok := status.MemberOf(admitted, i.Name)
		has := h.record().heldTo(i)
		if state, _ := h.state(i); !ok || m.Kind != status.Ephemeral || state != status.Running || has == nil ||
			sameAmounts(status.Effective(m.Resources, status.Own(admitted)), *has) {
			continue
		}
		if err := h.r.Containers.UpdateTask(ctx, i.ID, admitted, m.Container); err != nil {
			return err
		}
		if err := h.r.Containers.NoteResources(ctx, i.ID, admitted, m.Container); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom fits the pod's cgroup to a container that is to be made with what is admitted, after another one of it with
// other resources, and gives the pod as it is admitted by then: pod may be older. What cannot be taken back just now is not
// worth holding the container back for.
func (h *host) makeRoom(ctx context.Context, pod *v1.Pod, name string) (admitted *v1.Pod, err error) {
	h.resizing.Lock()
	defer h.resizing.Unlock()
	admitted = h.admitted(pod)
	if !h.record().Resized {
		return admitted, nil
	}
	if err := h.r.Sandboxes.RaiseCgroup(admitted); err != nil {
		return nil, err
	}
	if _, err := h.lowerCgroup(ctx, admitted, name); err != nil {
		h.r.Log.Warn("the pod's cgroup keeps more than the pod's limits", "namespace", admitted.Namespace, "pod", admitted.Name, "err", err)
	}
	return admitted, nil
}

// resizeNews is the events that a change of the pod's status is worth, in upstream's words.
func (h *host) resizeNews(pod *v1.Pod, prev, next v1.PodStatus) {
	find := func(s v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
		for i := range s.Conditions {
			if s.Conditions[i].Type == t {
				return &s.Conditions[i]
			}
		}
		return nil
	}
	log := klog.Background()
	was, is := find(prev, v1.PodResizePending), find(next, v1.PodResizePending)
	if is != nil && (was == nil || was.Reason != is.Reason || was.ObservedGeneration != is.ObservedGeneration) {
		reason := events.ResizeDeferred
		if is.Reason == v1.PodReasonInfeasible {
			reason = events.ResizeInfeasible
		}
		h.event(pod, v1.EventTypeWarning, reason, "%s", events.PodResizePendingMsg(log, pod, is.Reason, is.Message, pod.Generation))
	}
	was, is = find(prev, v1.PodResizeInProgress), find(next, v1.PodResizeInProgress)
	switch {
	case is != nil && is.Reason == v1.PodReasonError && (was == nil || was.Reason != is.Reason || was.Message != is.Message):
		h.event(pod, v1.EventTypeWarning, events.ResizeError, "%s", events.PodResizeErrorMsg(log, h.admitted(pod), is.ObservedGeneration, is.Message))
	case was != nil && is == nil && (next.Phase == v1.PodRunning || next.Phase == v1.PodPending):
		h.event(pod, v1.EventTypeNormal, events.ResizeCompleted, "%s", events.PodResizeCompletedMsg(log, h.admitted(pod), was.ObservedGeneration))
	}
}
