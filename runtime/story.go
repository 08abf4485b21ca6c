package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	told "podd/api/history"
	"podd/runtime/history"
	"podd/runtime/plan"
	"podd/runtime/worker"
	"podd/status"
)

// story tells the history of one pod. It hears of everything where everything passes: steps and statuses in timed, exits
// where they are recorded, events where they are made.
type story struct {
	to     *history.History
	uid    types.UID
	limits status.Limits

	mu     sync.Mutex
	failed map[string]status.Failed // pulls that failed in a row, by image; guarded by mu
	named  *v1.Pod                  // the newest of which something was told; guarded by mu

	facts status.Facts // of the look under way; of the worker's goroutine
	going bool         // the deletion is told; of the worker's goroutine
}

func newStory(r *Runtime, uid types.UID) *story {
	return &story{to: r.History, uid: uid, limits: r.Limits, failed: map[string]status.Failed{}}
}

// add tells one thing. A pod whose object and record are both gone has no name but the one it was told of by; without that,
// nobody would find its story.
func (s *story) add(pod *v1.Pod, e told.Entry) {
	s.mu.Lock()
	if pod.Name != "" {
		s.named = pod
	} else if pod = s.named; pod == nil {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.to.Add(pod.Namespace, pod.Name, string(s.uid), e)
}

// steps are what the end of a step is told as. Others are told of when they fail.
var steps = map[status.Op]string{
	plan.EnsureGround: told.Mounts, plan.EnsureNetwork: told.Network, plan.EnsureSandbox: told.Sandbox, plan.PullImage: told.Pulled,
	plan.Create: told.Created, plan.Start: told.Started, plan.PostStart: told.Hook, plan.PreStop: told.Hook, plan.Condemn: told.Condemn,
	plan.BeginEra: told.Restart, plan.Resize: told.Resized, plan.ResizePod: told.Resized, plan.Conclude: told.Verdict, plan.Finish: told.Deleted,
	plan.RemoveSandbox: told.Unmade, plan.DetachNetwork: told.Unmade, plan.RemoveGround: told.Unmade,
}

// unmade is what a step takes away, in the words of what made it.
var unmade = map[status.Op]string{plan.RemoveSandbox: told.Sandbox, plan.DetachNetwork: told.Network, plan.RemoveGround: told.Mounts}

// patient are the steps that may take any time.
var patient = []status.Op{plan.Stop, plan.Startup, plan.Readiness, plan.Liveness}

// slowStep is when a step under way is told of.
const slowStep = 5 * time.Second

// entryKey is where in its context a step finds what will be told of it.
type entryKey struct{}

// detail adds to what is told of the step of this context, if it is told of.
func detail(ctx context.Context, add func(e *told.Entry)) {
	if e, ok := ctx.Value(entryKey{}).(*told.Entry); ok {
		add(e)
	}
}

// hasFailed is the detail of a step that goes on though what it did has failed.
func hasFailed(err error) func(e *told.Entry) {
	return func(e *told.Entry) {
		if err != nil {
			e.Failed, e.Message = true, err.Error()
		}
	}
}

// begin tells that a step begins, as far as that is worth it. What it gives is called at the end of the step.
func (s *story) begin(ctx context.Context, pod *v1.Pod, step plan.Step) (_ context.Context, end func(err error)) {
	e := &told.Entry{What: steps[step.Op], Attempt: step.Attempt, Message: step.Why}
	switch step.Op {
	case plan.PullImage:
		e.Image, e.Message = step.Name, ""
		s.add(pod, told.Entry{What: told.Pulling, Image: e.Image})
	case plan.PostStart, plan.PreStop:
		e.Container, e.Reason, e.Message = step.Name, hooks[step.Op], ""
	case plan.Conclude:
		e.Reason, e.Message = step.Verdict.Reason, step.Verdict.Message
		if e.Reason == "" {
			e.Reason = string(step.Verdict.Phase)
		}
	case plan.RemoveSandbox, plan.DetachNetwork, plan.RemoveGround:
		e.Reason, e.Message = unmade[step.Op], ""
	case plan.Condemn, plan.BeginEra:
		e.Container = step.Name
	default:
		e.Container, e.Message = step.Name, ""
	}
	begun := time.Now()
	slow := func() bool { return true }
	if !slices.Contains(patient, step.Op) {
		slow = time.AfterFunc(slowStep, func() {
			s.add(pod, told.Entry{What: told.Slow, Container: e.Container, Image: e.Image, Reason: string(step.Op), Seconds: slowStep.Seconds()})
		}).Stop
	}
	return context.WithValue(ctx, entryKey{}, e), func(err error) {
		slow()
		if errors.Is(ctx.Err(), context.Canceled) { // given up
			return
		}
		e.Seconds = time.Since(begun).Round(time.Millisecond).Seconds()
		s.end(pod, step, *e, err)
	}
}

// hooks are the names of the hooks.
var hooks = map[status.Op]string{plan.PostStart: "postStart", plan.PreStop: "preStop"}

func (s *story) end(pod *v1.Pod, step plan.Step, e told.Entry, err error) {
	if err == nil {
		if e.What != "" {
			s.add(pod, e)
		}
		if step.Op == plan.PullImage {
			s.mu.Lock()
			delete(s.failed, step.Name)
			s.mu.Unlock()
		}
		return
	}
	if e.What == "" || e.What == told.Verdict || e.What == told.Deleted {
		e.What, e.Reason = told.Untold, string(step.Op)
	}
	e.Failed, e.Message = true, err.Error()
	var r worker.Reasoner
	if errors.As(err, &r) && e.Reason == "" {
		e.Reason = r.Reason()
	}
	s.add(pod, e)
	if step.Op != plan.PullImage {
		return
	}
	s.mu.Lock()
	f := s.failed[step.Name]
	f.Count, f.Last = f.Count+1, time.Now()
	s.failed[step.Name] = f
	s.mu.Unlock()
	until := status.RetryAt(step.Task(), f, s.limits)
	s.add(pod, told.Entry{What: told.BackOff, Image: step.Name, Until: &until})
}

// exits tells of the ends in next that are not in before.
func (s *story) exits(before, next record) {
	pod := skeleton(s.uid, next)
	for _, c := range next.Exits {
		if _, ok := before.exit(c.Name, c.Attempt); ok {
			continue
		}
		e := told.Entry{Time: c.FinishedAt, What: told.Exited, Container: c.Name, Attempt: c.Attempt, Message: c.Message,
			Exit: &told.Exit{Code: c.ExitCode, Signal: c.Signal, Reason: c.Reason}}
		if c.StartedAt.Unix() > 0 {
			e.Seconds = max(c.FinishedAt.Sub(c.StartedAt), 0).Round(time.Millisecond).Seconds()
		}
		s.add(pod, e)
	}
}

// elsewhere are the events whose story the steps and statuses tell, with more in it.
var elsewhere = []string{"Created", "Started", "Pulling", "Pulled", "Failed", "BackOff", "FailedMount", "FailedCreatePodSandBox", "FailedCreatePodContainer",
	"FailedKillPod", "InspectFailed"}

// event tells of an event.
func (s *story) event(pod *v1.Pod, container, reason, message string) {
	if !slices.Contains(elsewhere, reason) {
		s.add(pod, told.Entry{What: told.Event, Container: container, Reason: reason, Message: message})
	}
}

// observed hears of every look.
func (s *story) observed(pod *v1.Pod, facts status.Facts) {
	s.facts = facts
	if s.going || pod.DeletionTimestamp == nil && !facts.Gone {
		return
	}
	s.going = true
	e := told.Entry{What: told.Delete}
	if at := pod.DeletionTimestamp; at != nil {
		e.Until = &at.Time
	} else {
		e.Message = "its object is gone"
	}
	s.add(pod, e)
}

// published hears of every status: who is held back until when, and whether the pod is ready.
func (s *story) published(pod *v1.Pod, next v1.PodStatus) {
	if !s.facts.Reachable || s.facts.Gone {
		return // the old status stays, or there is none
	}
	for _, c := range status.Statuses(&next) {
		if c.State.Waiting == nil || c.State.Waiting.Reason != crashLoopBackOff {
			continue
		}
		if last, ok := s.facts.Newest(c.Name); ok {
			until := last.FinishedAt.Add(min(last.Backoff, s.limits.RestartMax))
			s.add(pod, told.Entry{What: told.BackOff, Container: c.Name, Attempt: last.Attempt + 1, Until: &until})
		}
	}
	for _, c := range next.Conditions {
		switch {
		case c.Type != v1.PodReady:
		case c.Status == v1.ConditionTrue:
			s.add(pod, told.Entry{What: told.Ready})
		case c.Status == v1.ConditionFalse:
			s.add(pod, told.Entry{What: told.Unready, Reason: c.Reason, Message: c.Message})
		}
	}
}

// keepHistory removes the histories of pods that are gone for long.
func (r *Runtime) keepHistory(ctx context.Context) {
	tick := time.NewTicker(jitter(time.Minute))
	defer tick.Stop()
	for {
		r.mu.Lock()
		busy := maps.Clone(r.workers)
		r.mu.Unlock()
		known := func(uid string) bool {
			_, ok := busy[types.UID(uid)]
			return ok || r.mine(types.UID(uid))
		}
		if err := r.History.Sweep(known); err != nil {
			r.Log.Warn("old histories of pods stay", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// withoutID is the text of an error with the container's name in place of its id, so that events count well.
func withoutID(err error, id, name string) string {
	return strings.ReplaceAll(fmt.Sprint(err), id, name)
}
