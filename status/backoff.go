package status

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// forgetAfter is how long after the last back-off step an instance must end for its crash loop to be forgotten:
// it ran well for that long (pkg/kubelet/kubelet.go, crashLoopBackOff.HasExpiredFunc).
const forgetAfter = 600 * time.Second

// NextStart tells when the instance of m after last, which has exited, may be created and which delay it is to carry. What
// podd itself took away to restart the whole pod has not crashed, and an init container is made anew with the sandbox; but
// an exit that restarts the whole pod counts for its container as any other does.
func NextStart(pod *v1.Pod, f Facts, m Member, last Container) (until time.Time, next time.Duration) {
	home, _ := Home(pod, f)
	switch {
	case last.Era < f.Era && (m.Name != f.EraBy || last.Era != f.Era-1):
		return earlier(last.FinishedAt, f.Now), last.Backoff
	case (m.Kind == PlainInit || m.Kind == Sidecar) && last.Sandbox != home:
		return earlier(last.FinishedAt, f.Now), 0
	}
	return RestartBackoff(last, f, RestartKey(pod, m.Container))
}

// RestartBackoff tells from the newest instance of a container, which has exited, when the next one may be created
// and which delay that one is to carry in Container.Backoff. key is the RestartKey of the spec as it is now: another
// key forgets the loop. The first restart is immediate, then the delay doubles from Limits.RestartInitial up to
// Limits.RestartMax, measured from the exit. (client-go/util/flowcontrol/backoff.go, kuberuntime_manager.go doBackOff.)
func RestartBackoff(last Container, f Facts, key string) (until time.Time, next time.Duration) {
	if fresh(last, key) {
		return earlier(last.FinishedAt, f.Now), f.Limits.RestartInitial
	}
	delay := min(last.Backoff, f.Limits.RestartMax)
	until = last.FinishedAt.Add(delay)
	if until.Sub(f.Now) > 2*delay {
		until = f.Now // the clock was set back: an exit in the future must not hold the container for years
	}
	return until, min(2*delay, f.Limits.RestartMax)
}

// fresh tells whether the exit of last begins a new loop rather than going on with one.
func fresh(last Container, key string) bool {
	return last.Backoff == 0 || last.Key != key || last.FinishedAt.Sub(last.CreatedAt) > forgetAfter
}

// RetryAt tells when a failed task may be tried again: exponential from the first failure on, a pull by the Pull
// limits, everything else by the Retry limits.
func RetryAt(t Task, f Failed, l Limits) time.Time {
	delay, longest := l.RetryInitial, l.RetryMax
	if t.Op == OpPull {
		delay, longest = l.PullInitial, l.PullMax
	}
	for n := 1; n < f.Count && delay < longest; n++ {
		delay *= 2
	}
	return f.Last.Add(min(delay, longest))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
