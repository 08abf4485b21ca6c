package status

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// initStatuses are in the order of the spec, as clients expect them.
func initStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		k := PlainInit
		if isSidecar(c) {
			k = Sidecar
		}
		out = append(out, containerStatus(pod, f, c, k))
	}
	return out
}

// regularStatuses are sorted by name.
func regularStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range pod.Spec.Containers {
		out = append(out, containerStatus(pod, f, &pod.Spec.Containers[i], Regular))
	}
	return byName(out)
}

// ephemeralStatuses are sorted by name.
func ephemeralStatuses(pod *v1.Pod, f Facts) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		out = append(out, containerStatus(pod, f, &c, Ephemeral))
	}
	return byName(out)
}

func byName(s []v1.ContainerStatus) []v1.ContainerStatus {
	slices.SortFunc(s, func(a, b v1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// containerStatus is the status of one container (pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses).
func containerStatus(pod *v1.Pod, f Facts, c *v1.Container, k Kind) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mounts(c)}
	last, known := f.Newest(c.Name)
	if known {
		instance(&s, last, c)
	}
	if before, ok := f.Previous(c.Name); ok && before.State == Exited {
		s.LastTerminationState.Terminated = terminated(before)
		if last.State == Created {
			s.RestartCount = int32(before.Attempt) // counted when it starts: one that never does is made again
		}
	}
	running := known && last.State == Running
	started := running // a startup probe will have a say here
	if k != Ephemeral {
		s.Started = &started
	}
	switch k {
	case Regular, Sidecar:
		s.Ready = started // a readiness probe will have a say here
	case PlainInit:
		s.Ready = known && last.State == Exited && last.ExitCode == 0
	}
	if running {
		s.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt)}
		return s
	}
	if known && last.State == Exited {
		s.State.Terminated = terminated(last)
	}
	if w := waiting(pod, f, c, k); w != nil {
		if s.State.Terminated != nil {
			s.LastTerminationState = s.State
		}
		s.State = v1.ContainerState{Waiting: w}
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
	s.Resources = c.Resources.DeepCopy()
	s.AllocatedResources = s.Resources.Requests.DeepCopy()
}

func terminated(i Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode:    i.ExitCode,
		Signal:      i.Signal,
		Reason:      i.Reason,
		Message:     i.Message,
		FinishedAt:  metav1.NewTime(i.FinishedAt),
		ContainerID: "containerd://" + i.ID,
	}
	if !i.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(i.StartedAt)
	}
	return t
}

// mounts tells how each mount was made. IfPossible means Enabled: the runtime can always do it.
func mounts(c *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}
