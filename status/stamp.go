package status

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Stamp turns next, made by Of, into what is published after prev; it is the only reader of an old status. A condition
// whose status did not change keeps its transition time, conditions and fields that are not podd's stay as they are,
// a terminal phase is never left, and while containerd cannot be asked a container whose newest instance is not known
// keeps the status it had. Times are truncated to seconds. Stamping again changes nothing.
func Stamp(prev, next v1.PodStatus, now time.Time) v1.PodStatus {
	out := *next.DeepCopy()
	if terminalReason(prev.Phase) != "" && terminalReason(out.Phase) == "" {
		stay(&out, prev)
	}
	if out.Phase == v1.PodUnknown {
		keepUnseen(out.InitContainerStatuses, prev.InitContainerStatuses)
		keepUnseen(out.ContainerStatuses, prev.ContainerStatuses)
		keepUnseen(out.EphemeralContainerStatuses, prev.EphemeralContainerStatuses)
	}
	staysInitialized(out.Conditions, prev.Conditions)
	var merged, before []v1.PodCondition
	for _, c := range prev.Conditions {
		ours := func(n v1.PodCondition) bool { return n.Type == c.Type } // DisruptionTarget is whose turn it was
		if slices.Contains(owned, c.Type) || slices.ContainsFunc(out.Conditions, ours) {
			before = append(before, c)
		} else {
			merged = append(merged, c)
		}
	}
	if out.Phase == v1.PodUnknown && len(before) > 0 {
		out.Conditions = before // they speak of the states that are kept
	}
	for _, c := range out.Conditions {
		c.LastTransitionTime = second(metav1.NewTime(now))
		for _, old := range prev.Conditions {
			if old.Type == c.Type && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		merged = append(merged, c)
	}
	out.Conditions = merged
	out.NominatedNodeName = prev.NominatedNodeName
	out.ResourceClaimStatuses = prev.ResourceClaimStatuses
	out.ExtendedResourceClaimStatus = prev.ExtendedResourceClaimStatus
	out.NodeAllocatableResourceClaimStatuses = prev.NodeAllocatableResourceClaimStatuses
	truncate(&out)
	return out
}

// stay keeps the terminal phase of prev and what goes with it.
func stay(out *v1.PodStatus, prev v1.PodStatus) {
	out.Phase, out.Reason, out.Message = prev.Phase, prev.Reason, prev.Message
	for i := range out.Conditions {
		c := &out.Conditions[i]
		if c.Type == v1.PodReady || c.Type == v1.ContainersReady {
			c.Status, c.Reason, c.Message = v1.ConditionFalse, terminalReason(prev.Phase), ""
		}
	}
}

// staysInitialized keeps a pod initialized that has been, also while its init containers run once more
// (pkg/kubelet/status/generate.go GeneratePodInitializedCondition).
func staysInitialized(next, prev []v1.PodCondition) {
	was := slices.ContainsFunc(prev, func(c v1.PodCondition) bool {
		return c.Type == v1.PodInitialized && c.Status == v1.ConditionTrue
	})
	for i := range next {
		if c := &next[i]; was && c.Type == v1.PodInitialized && c.Reason == notInitialized {
			c.Status, c.Reason, c.Message = v1.ConditionTrue, "", ""
		}
	}
}

// keepUnseen puts the old status of a container in the place of one whose newest instance only containerd knows.
func keepUnseen(statuses, old []v1.ContainerStatus) {
	for i := range statuses {
		before := find(old, statuses[i].Name)
		if before != nil && (statuses[i].ContainerID == "" || statuses[i].RestartCount < before.RestartCount) {
			statuses[i] = *before.DeepCopy()
		}
	}
}

func truncate(s *v1.PodStatus) {
	if s.StartTime != nil {
		t := second(*s.StartTime)
		s.StartTime = &t
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			truncateState(&list[i].State)
			truncateState(&list[i].LastTerminationState)
		}
	}
}

func truncateState(s *v1.ContainerState) {
	if s.Running != nil {
		s.Running.StartedAt = second(s.Running.StartedAt)
	}
	if s.Terminated != nil {
		s.Terminated.StartedAt = second(s.Terminated.StartedAt)
		s.Terminated.FinishedAt = second(s.Terminated.FinishedAt)
	}
}

func second(t metav1.Time) metav1.Time {
	return metav1.Time{Time: t.Truncate(time.Second)}
}
