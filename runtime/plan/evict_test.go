package plan

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// A pod that stores more than it may is evicted: that is noted first, then what runs has a second, and the verdict says why.
// A container that had failed before and waits to run again does not run again.
func TestEviction(t *testing.T) {
	pod := newPod(v1.RestartPolicyAlways, nil, "app", "crashing")
	grace := int64(100)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	const why = `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `
	f := status.Facts{
		Now: now, Reachable: true, Limits: status.DefaultLimits(), Started: now.Add(-time.Minute), Ground: true, GroundLeft: true,
		Network: status.Network{Ready: true}, Beyond: &status.Eviction{Message: why},
		Sandboxes: []status.Sandbox{{ID: "box", State: status.Running, Present: true}},
		Images:    map[string]status.Image{"img-app": {}, "img-crashing": {}},
		Containers: []status.Container{
			{Name: "app", ID: "a", Sandbox: "box", State: status.Running, StartedAt: now.Add(-time.Minute), Present: true},
			{Name: "crashing", ID: "c", Sandbox: "box", State: status.Exited, ExitCode: 1, FinishedAt: now.Add(-time.Second), Backoff: time.Minute, Recorded: true},
		},
	}
	step := func(op status.Op) (Step, bool) {
		set, _ := Next(pod, f)
		i := slices.IndexFunc(set, func(s Step) bool { return s.Op == op })
		if i < 0 {
			return Step{}, false
		}
		return set[i], true
	}
	if s, ok := step(Evict); !ok || s.Why != why {
		t.Errorf("beyond its limit: %+v, %v", s, ok)
	}
	if s, ok := step(Condemn); ok {
		t.Errorf("before it is noted: %+v", s)
	}
	f.Evicted = &status.Eviction{At: now, Message: why}
	if s, ok := step(Evict); ok {
		t.Errorf("when it is noted: %+v", s)
	}
	if s, ok := step(Condemn); !ok || s.Cause != status.ByEviction || s.Name != "app" {
		t.Errorf("when it is noted: %+v, %v", s, ok)
	}
	f.Containers[0].Condemned = &status.Condemned{By: status.ByEviction, At: now}
	if s, ok := step(Stop); !ok || s.Deadline.Sub(now) != 2*time.Second {
		t.Errorf("when it is condemned: %+v, %v", s, ok)
	}
	f.Containers[0].State, f.Containers[0].FinishedAt, f.Containers[0].Recorded = status.Exited, now.Add(time.Second), true
	f.Now = now.Add(2 * time.Minute)
	f.Beyond = nil
	want := status.Verdict{Phase: v1.PodFailed, Reason: "Evicted", Message: why}
	if s, ok := step(Conclude); !ok || s.Verdict == nil || *s.Verdict != want {
		t.Errorf("when it has ended: %+v, %v", s, ok)
	}
	if s, ok := step(Create); ok {
		t.Errorf("it runs again: %+v", s)
	}
	f.Verdict = &want
	if got := status.Of(pod, f); got.Phase != v1.PodFailed || got.Reason != "Evicted" || got.Message != why || len(got.ContainerStatuses) != 2 {
		t.Errorf("status %+v", got)
	}
}
