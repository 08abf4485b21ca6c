package status

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Home is the sandbox that the containers of pod are to run in: the newest one, or the one to come after it if it has
// died.
func Home(pod *v1.Pod, f Facts) (id string, attempt int) {
	newest, ok := f.Sandbox()
	switch {
	case !ok: // none yet, or somebody took it away under containers that run on
		return ContainerID(pod.UID, "", 0), 0
	case newest.State != Exited:
		return newest.ID, newest.Attempt
	}
	return ContainerID(pod.UID, "", newest.Attempt+1), newest.Attempt + 1
}

// Due are the containers of pod whose turn has come, in the order of the spec and without ephemeral ones: they run, or
// are to run if their policies say so (pkg/kubelet/kuberuntime/kuberuntime_container.go computeInitContainerActions).
// An init container has its turn when the one before it has exited with 0 or, as a sidecar, is started; it is looked for
// from the end, so that what came before the last one that was made is not asked again. What was done in another sandbox,
// or in an earlier era, is not done. Once a regular container has been made there is no order any more.
func Due(pod *v1.Pod, f Facts) []Member {
	home, _ := Home(pod, f)
	var inits, sidecars, regulars []Member
	initialized, front := false, -1
	for _, m := range Members(pod) {
		last, known := f.Newest(m.Name)
		here := known && last.Sandbox == home && last.Era == f.Era
		switch m.Kind {
		case Regular:
			regulars = append(regulars, m)
			initialized = initialized || here
		case PlainInit, Sidecar:
			if here {
				front = len(inits)
			}
			inits = append(inits, m)
		}
	}
	for i, m := range inits {
		if m.Kind == Sidecar && (initialized || i < front) {
			sidecars = append(sidecars, m)
		}
	}
	if initialized || len(inits) == 0 {
		return append(sidecars, regulars...)
	}
	if front < 0 {
		return inits[:1]
	}
	last, _ := f.Newest(inits[front].Name)
	if inits[front].Kind == Sidecar {
		sidecars = append(sidecars, inits[front])
	}
	switch {
	case inits[front].Kind == Sidecar && !Started(inits[front].Container, last):
		return sidecars
	case inits[front].Kind == PlainInit && (last.State != Exited || last.ExitCode != 0):
		return append(sidecars, inits[front])
	case front+1 < len(inits):
		return append(sidecars, inits[front+1])
	}
	return append(sidecars, regulars...)
}

// isDue tells whether the turn of the container called name has come.
func isDue(pod *v1.Pod, f Facts, name string) bool {
	for _, m := range Due(pod, f) {
		if m.Name == name {
			return true
		}
	}
	return false
}

// Spent tells whether pod is over but for what has still to be ended: no regular container runs or will run again, an init
// container has failed for good, the deadline has passed, or it was evicted. Nothing of it is made again.
func Spent(pod *v1.Pod, f Facts) bool { return over(pod, f) || Exceeded(pod, f) }

// over tells whether pod has come to its end by itself: no regular container runs or will run again, or an init container
// has failed for good.
func over(pod *v1.Pod, f Facts) bool {
	alive := false
	for _, m := range Members(pod) {
		last, known := f.Newest(m.Name)
		ended := known && last.State == Exited
		switch m.Kind {
		case Regular:
			alive = alive || !ended || RunsAgain(pod, f, m.Container, last)
		case PlainInit:
			if ended && last.ExitCode != 0 && !RunsAgain(pod, f, m.Container, last) {
				return true
			}
		}
	}
	return !alive
}

// RunsAgain tells whether another instance of c, which is not ephemeral, follows last, which has exited: because podd ended
// it to run it again, or by its policies.
func RunsAgain(pod *v1.Pod, f Facts, c *v1.Container, last Container) bool {
	return last.Era < f.Era || replaced(last) || ShouldRestart(pod, c, last.ExitCode)
}

// replaced tells whether podd has ended i to run another instance in its place.
func replaced(i Container) bool {
	return i.Replace || i.Condemned != nil && (i.Condemned.By == BySpec || i.Condemned.By == ByResources)
}

// Deadline is when pod has been active for as long as its spec allows (pkg/kubelet/active_deadline.go).
func Deadline(pod *v1.Pod, f Facts) (time.Time, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || f.Started.IsZero() {
		return time.Time{}, false
	}
	return f.Started.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

// Exceeded tells whether the pod's deadline has passed, or it was evicted.
func Exceeded(pod *v1.Pod, f Facts) bool {
	_, ok := cutOff(pod, f)
	return ok
}

// cutOff is since when the pod may not go on, whatever its containers do: by its deadline or its eviction.
func cutOff(pod *v1.Pod, f Facts) (time.Time, bool) {
	at, ok := Deadline(pod, f)
	ok = ok && !f.Now.Before(at)
	if f.Evicted != nil && (!ok || f.Evicted.At.Before(at)) {
		return f.Evicted.At, true
	}
	return at, ok
}

// Late tells whether an instance that ended at finished was at it yet when the pod could not go on any more. It is recorded with
// the exit: a deadline that is shortened later changes nothing about a pod that has completed, and may have been told of.
func Late(pod *v1.Pod, f Facts, finished time.Time) bool {
	at, ok := cutOff(pod, f)
	return ok && !finished.Before(at)
}

// overran tells whether one of the pod's containers was late.
func overran(pod *v1.Pod, f Facts) bool {
	return slices.ContainsFunc(f.Containers, func(i Container) bool {
		switch {
		case i.State != Exited || IsEphemeral(pod, i.Name):
			return false
		case i.Late == nil:
			return Late(pod, f, i.FinishedAt)
		}
		return *i.Late
	})
}
