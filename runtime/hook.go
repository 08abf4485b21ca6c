package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
	"podd/runtime/plan"
	"podd/runtime/probes"
	"podd/status"
)

// postStart runs the hook of an instance that has just been started. How it ended is noted; when podd dies before, it runs
// again.
func (h *host) postStart(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	t, err := h.asked(pod, s)
	if err != nil {
		return err
	}
	if l := t.Container.Lifecycle; l == nil || l.PostStart == nil {
		return h.noteHook(s, nil)
	}
	failed := h.hook(ctx, pod, t, t.Container.Lifecycle.PostStart)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errdefs.IsUnavailable(failed) {
		return fmt.Errorf("hook postStart: %w", failed)
	}
	detail(ctx, hasFailed(failed))
	killpoint.At("post-start.ended")
	if failed != nil { // events do not tell what hooks say, as upstream
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	}
	return h.noteHook(s, failed)
}

// errCut is the end of a hook that took all the time there is for it.
var errCut = errors.New("the hook did not end in the grace period")

// preStop runs the hook of an instance that is to end, until the deadline at the latest.
func (h *host) preStop(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	h.announce(pod, s)
	t, err := h.asked(pod, s)
	if err != nil {
		return err
	}
	l := t.Container.Lifecycle
	if l == nil || l.PreStop == nil {
		return h.noteHook(s, nil)
	}
	limited, cancel := context.WithDeadline(ctx, s.Deadline)
	defer cancel()
	failed := h.hook(limited, pod, t, l.PreStop)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if limited.Err() == nil && errdefs.IsUnavailable(failed) {
		return fmt.Errorf("hook preStop: %w", failed)
	}
	tell := failed != nil
	if failed != nil && limited.Err() != nil {
		failed = errCut
		tell = l.PreStop.Sleep == nil // for upstream a sleep that is cut short has not failed
	}
	detail(ctx, hasFailed(failed))
	killpoint.At("pre-stop.ended")
	if tell {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
	return h.noteHook(s, failed)
}

// hook runs a hook; the error says how it failed, or is ctx's. One that is Unavailable is of a containerd that was or went
// away: how a command in the container ended is not known, and it is run again.
func (h *host) hook(ctx context.Context, pod *v1.Pod, t probes.Target, handler *v1.LifecycleHandler) error {
	return h.r.prober.Hook(ctx, handler, t, func(message string) {
		h.containerEvent(pod, t.Container.Name, v1.EventTypeWarning, "LifecycleHTTPFallback", "%s", message)
	})
}

// noteHook notes how a hook has ended.
func (h *host) noteHook(s plan.Step, failed error) error {
	ended := status.Hook{Ended: time.Now()}
	if failed != nil {
		ended.Failed = failed.Error()
	}
	return h.marks.put(found(status.ContainerID(h.uid, s.Name, s.Attempt), string(s.Op)), ended)
}

// condemn notes that podd ends an instance, why, and since when. What was noted before stays: its time runs already.
func (h *host) condemn(pod *v1.Pod, s plan.Step) error {
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	var before status.Condemned
	if h.marks.get(found(id, condemned), &before) {
		return nil
	}
	if s.Cause == status.ByDeadline {
		if err := h.tellOverdue(pod); err != nil {
			return err
		}
	}
	if err := h.marks.put(found(id, condemned), status.Condemned{By: s.Cause, At: time.Now(), Message: s.Why}); err != nil {
		return err
	}
	killpoint.At("condemn.noted")
	h.containerEvent(pod, s.Name, v1.EventTypeNormal, "Killing", "%s", s.Why)
	return nil
}

// tellOverdue tells once that the pod's deadline has passed (pkg/kubelet/active_deadline.go).
func (h *host) tellOverdue(pod *v1.Pod) error {
	h.mu.Lock()
	told := h.marks.has("overdue")
	var err error
	if !told {
		err = h.marks.put("overdue", true)
	}
	h.mu.Unlock()
	if told || err != nil {
		return err
	}
	h.event(pod, v1.EventTypeNormal, status.DeadlineExceeded, status.Overdue)
	return nil
}

// announce tells once that an instance is to end. That of a condemned one was told with the reason.
func (h *host) announce(pod *v1.Pod, s plan.Step) {
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	h.mu.Lock()
	told := h.announced[id]
	h.announced[id] = true
	h.mu.Unlock()
	var why status.Condemned
	if !told && !h.marks.get(found(id, condemned), &why) {
		h.containerEvent(pod, s.Name, v1.EventTypeNormal, "Killing", "Stopping container %s", s.Name)
	}
}

// findings adds to c what podd has found out about the instance since it runs.
func (h *host) findings(c *status.Container) {
	if !h.marks.has(found(c.ID, "")) {
		return
	}
	h.marks.get(found(c.ID, string(plan.PostStart)), &c.PostStart)
	h.marks.get(found(c.ID, string(plan.PreStop)), &c.PreStop)
	h.marks.get(found(c.ID, string(plan.Startup)), &c.Startup)
	h.marks.get(found(c.ID, string(plan.Readiness)), &c.Readiness)
	h.marks.get(found(c.ID, string(plan.Liveness)), &c.Liveness)
	var why status.Condemned
	if h.marks.get(found(c.ID, condemned), &why) {
		c.Condemned = &why
		c.Replace = c.State == status.Exited && (why.By == status.BySpec || why.By == status.ByResources)
	}
}
