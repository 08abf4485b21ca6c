package plan

import (
	"math/rand/v2"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/status"
)

// TestAnyFacts asks for the plan of facts that chance put together, most of which no host would show, and holds every
// answer to what is true of all of them: no step beside its opposite, none against podd's own work under way.
func TestAnyFacts(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	for range 30000 {
		pod, f := anyFacts(rng)
		w := newWorld(t, pod)
		set, _ := Next(pod, f)
		w.checkSet(pod, f, set)
		for _, s := range set {
			if f.Busy(s.Op, s.Name) {
				continue // it goes on; it is not begun now
			}
			for _, work := range f.Work {
				under := Step{Op: work.Task.Op, Name: work.Task.Name, Attempt: work.Attempt}
				if attends(s) && attends(under) {
					continue // facts do not say of which instance; on no host another is made before this has ended
				}
				if opposed(s, under) && !Waits(under.Op) {
					t.Errorf("%s while %s is under way: %+v", show(s, f.Now), show(under, f.Now), f)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

func anyFacts(rng *rand.Rand) (*v1.Pod, status.Facts) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	yes := func() bool { return rng.IntN(2) == 0 }
	ago := func() time.Time { return now.Add(-time.Duration(rng.Int64N(int64(20 * time.Minute)))) }
	pod := randomPod(rng)
	all := everyContainer(pod)
	f := status.Facts{
		Now: now, Reachable: rng.IntN(5) > 0, Limits: status.DefaultLimits(), Gone: rng.IntN(10) == 0, Static: rng.IntN(5) == 0,
		Ground: yes(), GroundLeft: yes(), Stale: rng.IntN(2), Network: status.Network{Ready: yes(), Attached: yes()}, NetworkFirst: yes(),
		Images: map[string]status.Image{}, Failures: map[status.Task]status.Failed{},
		Started: ago(), Era: rng.IntN(2), EraBy: all[rng.IntN(len(all))].Name,
	}
	if rng.IntN(3) == 0 {
		at := metav1.NewTime(now.Add(time.Minute))
		pod.DeletionTimestamp = &at
	}
	if rng.IntN(3) == 0 {
		f.Allocated, f.Before = map[string]v1.ResourceRequirements{}, &v1.ResourceRequirements{}
	}
	if rng.IntN(6) == 0 {
		f.Verdict = &status.Verdict{Phase: v1.PodFailed}
	}
	states := []status.State{status.Created, status.Running, status.Exited}
	for n := range rng.IntN(3) {
		f.Sandboxes = append(f.Sandboxes, status.Sandbox{ID: status.ContainerID(pod.UID, "", n), Attempt: n, State: states[rng.IntN(3)], Present: yes()})
	}
	results := []status.Result{"", status.Success, status.Failure}
	for i := range all {
		c := &all[i]
		if yes() {
			f.Images[c.Image] = status.Image{}
		}
		for n := range rng.IntN(4) {
			x := status.Container{
				Name: c.Name, Attempt: n, Sandbox: status.ContainerID(pod.UID, "", rng.IntN(3)), State: states[rng.IntN(3)],
				CreatedAt: ago(), FinishedAt: ago(), ExitCode: int32(rng.IntN(2)), Backoff: time.Duration(rng.IntN(3)) * 10 * time.Second,
				Key: status.RestartKey(pod, c), Present: yes(), Recorded: yes(), Era: rng.IntN(f.Era + 1), Ref: c.Image,
				Startup: results[rng.IntN(3)], Readiness: results[rng.IntN(3)], Liveness: results[rng.IntN(3)], Replace: rng.IntN(5) == 0,
			}
			if yes() {
				x.PostStart.Ended, x.PostStart.Failed = ago(), []string{"", "it exited with 1"}[rng.IntN(2)]
			}
			if yes() {
				x.PreStop.Ended = ago()
			}
			if rng.IntN(4) == 0 {
				x.Condemned = &status.Condemned{By: []status.Cause{status.ByLiveness, status.BySpec, status.ByEnd}[rng.IntN(3)], At: ago()}
			}
			f.Containers = append(f.Containers, x)
		}
	}
	ops := []status.Op{EnsureGround, EnsureNetwork, EnsureSandbox, PullImage, Create, Start, Stop, Record, Remove, RemoveSandbox,
		DetachNetwork, Conclude, Condemn, PostStart, PreStop, Startup, Readiness, Liveness, BeginEra, Allocate, Resize, ResizePod, Refresh} // RemoveGround and Finish begin when nothing is left: nothing is wanted beside them
	for range rng.IntN(4) {
		task := status.Task{Op: ops[rng.IntN(len(ops))]}
		switch task.Op {
		case Create, Start, Stop, Record, Remove, Condemn, PostStart, PreStop, Startup, Readiness, Liveness, BeginEra, Resize:
			task.Name = all[rng.IntN(len(all))].Name
		case PullImage:
			task.Name = "x"
		}
		if yes() {
			f.Work = append(f.Work, status.Work{Task: task, Attempt: rng.IntN(4)})
		} else {
			f.Failures[task] = status.Failed{Count: 1 + rng.IntN(5), Last: ago()}
		}
	}
	return pod, f
}
