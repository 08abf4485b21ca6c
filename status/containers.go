package status

import (
	"slices"
	"strings"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// statusesOf are the statuses of the containers of pod whose kinds are given, in the order of the spec.
func statusesOf(pod *v1.Pod, f Facts, kinds ...Kind) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for _, m := range Members(pod) {
		if slices.Contains(kinds, m.Kind) {
			out = append(out, containerStatus(pod, f, m))
		}
	}
	return out
}

// initStatuses are in the order of the spec, as clients expect them.
func initStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	return statusesOf(pod, f, PlainInit, Sidecar)
}

// regularStatuses are sorted by name.
func regularStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	return byName(statusesOf(pod, f, Regular))
}

// ephemeralStatuses are sorted by name.
func ephemeralStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	return byName(statusesOf(pod, f, Ephemeral))
}

func byName(s []v1.ContainerStatus) []v1.ContainerStatus {
	slices.SortFunc(s, func(a, b v1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// containerStatus is the status of one container (pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses).
func containerStatus(pod *v1.Pod, f Facts, m Member) v1.ContainerStatus {
	c := m.Container
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mounts(c, f.Node.RecursiveReadOnly)}
	last, known := f.Newest(c.Name)
	if known {
		instance(&s, last, c)
	}
	if before, ok := f.Previous(c.Name); ok && before.State == Exited {
		s.LastTerminationState.Terminated = terminated(pod, f, before)
		if last.State == Created {
			s.RestartCount = int32(before.Attempt) // counted when it starts: one that never does is made again
		}
	}
	started := known && Started(c, last)
	if m.Kind != Ephemeral {
		s.Started = &started
	}
	switch m.Kind {
	case Regular, Sidecar:
		s.Ready = known && ready(c, last)
	case PlainInit:
		s.Ready = known && last.State == Exited && last.ExitCode == 0 && last.Era == f.Era
	}
	switch w := waiting(pod, f, m); {
	case w != nil && known && last.State == Exited:
		s.LastTerminationState.Terminated = terminated(pod, f, last)
		s.State.Waiting = w
	case w != nil:
		s.State.Waiting = w
	case known && last.State == Exited:
		s.State.Terminated = terminated(pod, f, last)
	case known:
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt)}
	}
	return s
}

// instance puts in what is known of the newest instance i of c.
func instance(s *v1.ContainerStatus, i Container, c *v1.Container) {
	if i.Image != "" {
		s.Image = i.Image
	}
	s.ImageID = i.ImageID
	s.ContainerID = "containerd://" + i.ID
	s.RestartCount = int32(i.Attempt)
	s.User = i.User.DeepCopy()
	if i.StopSignal != "" {
		s.StopSignal = &i.StopSignal
	}
	s.Resources = actual(c, i)
	s.AllocatedResources = c.Resources.Requests.DeepCopy()
}

// longestMessages is how many bytes of termination messages a pod's status may have in all
// (pkg/kubelet/container/runtime.go MaxPodTerminationMessageLogLength).
const longestMessages = 12288

// terminated is an exit as the status shows it. One of an earlier era was taken away so that all containers are restarted.
func terminated(pod *v1.Pod, f Facts, i Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode:    i.ExitCode,
		Signal:      i.Signal,
		Reason:      i.Reason,
		Message:     cut(i.Message, longestMessages/max(1, len(Members(pod)))),
		FinishedAt:  metav1.NewTime(i.FinishedAt),
		ContainerID: "containerd://" + i.ID,
	}
	if !i.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(i.StartedAt)
	}
	if Past(pod, f, i) {
		t.Reason = restartingAll
	}
	return t
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// mounts tells how each mount was made. IfPossible means Enabled where it is possible.
func mounts(c *v1.Container, recursive bool) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if recursive && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}
