package status

import (
	"cmp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Outcome is the verdict that pod has come to and that is to be recorded, nil while there is none. It is there only
// when every exit is recorded and nothing of the pod can run any more.
func Outcome(pod *v1.Pod, f Facts) *Verdict {
	if f.Verdict != nil {
		return f.Verdict
	}
	if v := rejected(f); v != nil {
		return v
	}
	if v := completed(pod, f); v != nil {
		return v
	}
	if v := expired(pod, f); v != nil {
		return v
	}
	if !f.Reachable || f.Gone || !settled(pod, f) {
		return nil
	}
	if pod.DeletionTimestamp != nil && !f.Static {
		return ended(pod, f)
	}
	if Stranded(pod, f) {
		return &Verdict{Phase: v1.PodFailed, Message: "The pod's sandbox was lost, and its restart policy allows no other."}
	}
	return nil
}

// rejected is the verdict over a pod that the host does not take. A pod that has been taken is never rejected later, and
// whether it has been may be known to containerd alone. The host may have room for it a moment later, so it is not shown
// before it is recorded.
func rejected(f Facts) *Verdict {
	if f.Rejected == nil || !f.Reachable || len(f.Sandboxes) > 0 || len(f.Containers) > 0 {
		return nil
	}
	v := *f.Rejected
	v.Phase = v1.PodFailed
	if prefix := "Pod was rejected: "; !strings.HasPrefix(v.Message, prefix) {
		v.Message = prefix + v.Message
	}
	return &v
}

// completed is the verdict over a pod whose containers have all ended for good by their policies. It follows from
// recorded exits alone, so it holds whether containerd can be asked or not, whatever becomes of the pod's deadline, and before the
// verdict is recorded. Only of a
// sidecar no exit is the last one: that none runs is known from containerd alone.
// One whose containers were still at it when its deadline came has not completed.
func completed(pod *v1.Pod, f Facts) *Verdict {
	if !f.Reachable && HasSidecars(pod) || !settled(pod, f) || overran(pod, f) || !over(pod, f) {
		return nil
	}
	statuses := append(initStatuses(pod, f), regularStatuses(pod, f)...)
	phase := phaseOf(pod, statuses, false, initialized(pod, f))
	if phase != v1.PodSucceeded && phase != v1.PodFailed {
		return nil
	}
	return &Verdict{Phase: phase}
}

// HasSidecars tells whether a pod has init containers that live beside the others.
func HasSidecars(pod *v1.Pod) bool {
	return slices.ContainsFunc(Members(pod), func(m Member) bool { return m.Kind == Sidecar })
}

// expired is the verdict over a pod whose deadline has passed, or that was evicted, and of which nothing is left to end. That there is nothing may
// be known from containerd alone, so it is not shown before it is recorded: containerd may go away in between.
func expired(pod *v1.Pod, f Facts) *Verdict {
	if !f.Reachable || f.Gone || !Exceeded(pod, f) || !settled(pod, f) {
		return nil
	}
	if f.Evicted != nil {
		return &Verdict{Phase: v1.PodFailed, Reason: f.Evicted.reason(), Message: f.Evicted.Message}
	}
	return &Verdict{Phase: v1.PodFailed, Reason: DeadlineExceeded, Message: Overdue}
}

// ended is the verdict over a deleted pod that has stopped: what its exits say, and Failed when some container never
// got to run (pkg/kubelet/status/status_manager.go TerminatePod).
func ended(pod *v1.Pod, f Facts) *Verdict {
	statuses := append(initStatuses(pod, f), regularStatuses(pod, f)...)
	phase := phaseOf(pod, statuses, true, initialized(pod, f))
	if phase != v1.PodSucceeded {
		phase = v1.PodFailed
	}
	return &Verdict{Phase: phase}
}

// settled tells whether nothing of the pod runs or is about to, and every exit is recorded. Ephemeral containers do not
// count: a pod ends under them.
func settled(pod *v1.Pod, f Facts) bool {
	for _, c := range f.Containers {
		if (c.State != Exited || !c.Recorded) && !IsEphemeral(pod, c.Name) {
			return false
		}
	}
	for _, w := range f.Work {
		if (w.Task.Op == OpCreate || w.Task.Op == OpStart) && !IsEphemeral(pod, w.Task.Name) {
			return false
		}
	}
	return true
}

// IsEphemeral tells whether name is that of an ephemeral container of the pod.
func IsEphemeral(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c v1.EphemeralContainer) bool { return c.Name == name })
}

// Stranded tells whether pod has lost its sandbox and may not have another: under restartPolicy Never, once a
// container has run, unless one of them is to run again by a policy of its own or because podd ended it for that. A
// sidecar's policy does not count: it lives for the others. What has not run yet never will
// (pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions).
func Stranded(pod *v1.Pod, f Facts) bool {
	if sandbox, ok := f.Sandbox(); ok && sandbox.State != Exited || pod.Spec.RestartPolicy != v1.RestartPolicyNever {
		return false
	}
	ran := false
	for _, m := range Members(pod) {
		last, ok := f.Newest(m.Name)
		if ok && last.State == Created {
			last, ok = f.Previous(m.Name)
		}
		if !ok || m.Kind == Ephemeral {
			continue
		}
		ran = true
		done := m.Kind == PlainInit && last.ExitCode == 0 && last.Era == f.Era
		if last.State == Exited && m.Kind != Sidecar && !done && RunsAgain(pod, f, m.Container, last) {
			return false
		}
	}
	return ran
}

// DeadlineExceeded is the reason of a pod that was active for longer than it may be, and of the event that tells so; Overdue
// is the message of both.
const (
	DeadlineExceeded = "DeadlineExceeded"
	Overdue          = "Pod was active on the node longer than the specified deadline"
)

// Evicted is the reason of a pod that uses more than it may, or than the host has left.
const Evicted = "Evicted"

// Preempting is the reason of a pod that has made room for a critical one. Its containers have their own grace period.
const Preempting = "Preempting"

func (e *Eviction) reason() string { return cmp.Or(e.Reason, Evicted) }

// Expelled tells whether the pod has ended by its eviction, and not by itself before.
func Expelled(f Facts) bool {
	return f.Evicted != nil && f.Verdict != nil && f.Verdict.Reason == f.Evicted.reason()
}

// Unseen is the reason of an end that nobody has seen: the container is not there any more, or its process is not.
const Unseen = "ContainerStatusUnknown"

// refused tells whether v is that of a pod which the host did not take: there is no container to report on.
func refused(v Verdict, f Facts) bool {
	return v.Reason != "" && v.Reason != DeadlineExceeded && f.Evicted == nil && len(f.Containers) == 0
}

// terminate makes the container statuses of a pod with a verdict final: what had a chance to run and has no exit is
// counted as lost (pkg/kubelet/status/status_manager.go TerminatePod).
func terminate(s *v1.PodStatus, pod *v1.Pod) {
	if len(pod.Spec.InitContainers) == 0 || anyStarted(s.ContainerStatuses) || lastInitDone(s, pod) {
		lose(s.ContainerStatuses)
	}
	begun := min(1, len(s.InitContainerStatuses)) // the first one always had its chance
	for i := range s.InitContainerStatuses {
		if anyStarted(s.InitContainerStatuses[i : i+1]) {
			begun = i + 1
		}
	}
	lose(s.InitContainerStatuses[:begun])
}

func lose(statuses []v1.ContainerStatus) {
	no := false
	for i := range statuses {
		if statuses[i].State.Terminated != nil {
			continue
		}
		statuses[i].Ready, statuses[i].Started = false, &no
		statuses[i].State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: 137,
			Reason:   Unseen,
			Message:  "The container could not be located when the pod was terminated",
		}}
	}
}

// lastInitDone tells whether the last init container did what the regular ones wait for.
func lastInitDone(s *v1.PodStatus, pod *v1.Pod) bool {
	n := len(s.InitContainerStatuses)
	if n == 0 {
		return false
	}
	last := &s.InitContainerStatuses[n-1]
	if isSidecar(&pod.Spec.InitContainers[n-1]) {
		return last.State.Running != nil && last.Started != nil && *last.Started
	}
	exit := lastExit(last)
	return exit != nil && exit.ExitCode == 0
}
