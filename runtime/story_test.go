package runtime

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	told "podd/api/history"
	"podd/runtime/history"
	"podd/runtime/plan"
	"podd/status"
)

// telling is a story with a pod, and what was told of it.
func telling(t *testing.T) (*story, *v1.Pod, func() []told.Entry) {
	t.Helper()
	to, err := history.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"}}
	s := newStory(&Runtime{Options: Options{History: to, Limits: status.DefaultLimits()}}, pod.UID)
	return s, pod, func() []told.Entry {
		t.Helper()
		pods, err := to.Pods("default", "web", "")
		if err != nil || len(pods) > 1 {
			t.Fatalf("%+v, %v", pods, err)
		}
		if len(pods) == 0 {
			return nil
		}
		return pods[0].Entries
	}
}

// TestStepsAreTold: a pull by its beginning and its end, and until when the next is held back; a step that is given up
// not at all; one that goes on for long while it does; a hook by how it ended, though its step ends well.
func TestStepsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, pod, entries := telling(t)
		pull := plan.Step{Op: plan.PullImage, Name: "i", Why: "why"}
		for n, delay := range []time.Duration{10 * time.Second, 20 * time.Second} {
			_, end := s.begin(t.Context(), pod, pull)
			end(because("ErrImagePull", errors.New("refused")))
			got := entries()
			if len(got) != 3*(n+1) {
				t.Fatalf("told: %+v", got)
			}
			failed, held := got[len(got)-2], got[len(got)-1]
			if !failed.Failed || failed.Message != "refused" || failed.Reason != "ErrImagePull" || failed.Image != "i" || failed.What != told.Pulled ||
				held.What != told.BackOff || !held.Until.Equal(time.Now().Add(delay)) {
				t.Errorf("failure %d: %+v, %+v", n, failed, held)
			}
			time.Sleep(delay)
		}
		before := len(entries())
		ctx, cancel := context.WithCancel(t.Context())
		stepCtx, end := s.begin(ctx, pod, pull)
		detail(stepCtx, func(e *told.Entry) { e.Bytes = 7 })
		cancel()
		end(ctx.Err())
		if got := entries()[before:]; len(got) != 1 || got[0].What != told.Pulling {
			t.Errorf("of a pull that was given up: %+v", got)
		}
		stepCtx, end = s.begin(t.Context(), pod, pull)
		detail(stepCtx, func(e *told.Entry) { e.Bytes = 7 })
		time.Sleep(7 * time.Second)
		synctest.Wait()
		end(nil)
		got := entries()[before+1:]
		if len(got) != 3 || got[1].What != told.Slow || got[2].What != told.Pulled || got[2].Bytes != 7 || got[2].Seconds != 7 || got[2].Failed {
			t.Errorf("of a pull that took seven seconds: %+v", got)
		}
		before = len(entries())
		stepCtx, end = s.begin(t.Context(), pod, plan.Step{Op: plan.PreStop, Name: "app", Attempt: 2})
		detail(stepCtx, hasFailed(errors.New("exit 1")))
		end(nil)
		for _, op := range []status.Op{plan.Stop, plan.Record, plan.Remove} { // others tell of these, unless they fail
			_, end = s.begin(t.Context(), pod, plan.Step{Op: op, Name: "app"})
			end(nil)
		}
		_, end = s.begin(t.Context(), pod, plan.Step{Op: plan.Remove, Name: "app"})
		end(errors.New("busy"))
		got = entries()[before:]
		if len(got) != 2 || got[0].What != told.Hook || got[0].Reason != "preStop" || !got[0].Failed || got[0].Message != "exit 1" || got[0].Attempt != 2 ||
			got[1].What != told.Untold || got[1].Reason != "remove" || got[1].Message != "busy" {
			t.Errorf("told: %+v", got)
		}
	})
}

// TestLifeIsTold: exits where they are recorded, what a look sees once, and no event twice.
func TestLifeIsTold(t *testing.T) {
	s, pod, entries := telling(t)
	now := time.Now().Truncate(time.Second)
	first := status.Container{Name: "app", StartedAt: now.Add(-3 * time.Second), FinishedAt: now, ExitCode: 137, Signal: 9, Reason: "OOMKilled", Message: "last words",
		Backoff: 10 * time.Second}
	before := record{Namespace: "default", Name: "web"}
	next := before.withExit(first)
	s.exits(before, next)
	s.exits(next, next)
	condition := func(ready v1.ConditionStatus) []v1.PodCondition {
		return []v1.PodCondition{{Type: v1.PodReady, Status: ready}}
	}
	held := v1.PodStatus{Conditions: condition(v1.ConditionFalse), ContainerStatuses: []v1.ContainerStatus{{Name: "app",
		State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: crashLoopBackOff}}}}}
	for range 3 {
		s.observed(pod, status.Facts{Reachable: true, Containers: []status.Container{first}})
		s.published(pod, v1.PodStatus{Conditions: condition(v1.ConditionTrue)})
	}
	for range 3 {
		s.published(pod, held)
	}
	s.observed(pod, status.Facts{}) // containerd is away: what is known now is not published
	s.published(pod, v1.PodStatus{Conditions: condition(v1.ConditionTrue)})
	s.event(pod, "app", "Started", "Container started") // the step tells
	s.event(pod, "app", "Unhealthy", "Liveness probe failed: 503")
	pod.DeletionTimestamp = &metav1.Time{Time: now.Add(30 * time.Second)}
	for range 3 {
		s.observed(pod, status.Facts{Reachable: true})
	}
	s.observed(skeleton("u", record{}), status.Facts{Reachable: true, Gone: true})
	s.published(skeleton("u", record{}), v1.PodStatus{Conditions: condition(v1.ConditionTrue)}) // without containers it would be ready
	s.add(skeleton("u", record{}), told.Entry{What: told.Deleted})                              // neither object nor record names it now
	nobody, _, nothing := telling(t)
	nobody.add(skeleton("u", record{}), told.Entry{What: told.Deleted}) // nor has anything before
	if got := nothing(); len(got) > 0 {
		t.Errorf("of a pod that nobody knows: %+v", got)
	}
	got := entries()
	var kinds []string
	for _, e := range got {
		kinds = append(kinds, e.What)
	}
	want := []string{told.Exited, told.Ready, told.BackOff, told.Unready, told.Event, told.Delete, told.Deleted}
	if len(got) != len(want) {
		t.Fatalf("told: %v, want %v", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Fatalf("told: %v, want %v", kinds, want)
		}
	}
	if e := got[0]; !e.Time.Equal(now) || e.Seconds != 3 || e.Message != "last words" || *e.Exit != (told.Exit{Code: 137, Signal: 9, Reason: "OOMKilled"}) {
		t.Errorf("the exit is %+v", e)
	}
	if e := got[2]; e.Container != "app" || e.Attempt != 1 || !e.Until.Equal(now.Add(10*time.Second)) {
		t.Errorf("the back-off is %+v", e)
	}
	if e := got[5]; !e.Until.Equal(now.Add(30 * time.Second)) {
		t.Errorf("the deletion is %+v", e)
	}
}
