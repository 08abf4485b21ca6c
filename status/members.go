package status

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Kind is the part a container plays in its pod.
type Kind int

// The kinds of containers. A sidecar is an init container that goes on running beside the regular ones.
const (
	Regular Kind = iota
	PlainInit
	Sidecar
	Ephemeral
)

// Member is one container of a pod's spec. Container is not to be changed: that of an ephemeral one is a copy.
type Member struct {
	*v1.Container
	Kind Kind
}

// Members are all containers of a pod: the init containers, the regular ones and the ephemeral ones, each in the order of
// the spec. No two of them have the same name.
func Members(pod *v1.Pod) []Member {
	spec := &pod.Spec
	out := make([]Member, 0, len(spec.InitContainers)+len(spec.Containers)+len(spec.EphemeralContainers))
	for i := range spec.InitContainers {
		m := Member{&spec.InitContainers[i], PlainInit}
		if isSidecar(m.Container) {
			m.Kind = Sidecar
		}
		out = append(out, m)
	}
	for i := range spec.Containers {
		out = append(out, Member{&spec.Containers[i], Regular})
	}
	for i := range spec.EphemeralContainers {
		c := v1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		out = append(out, Member{&c, Ephemeral})
	}
	return out
}

// MemberOf finds a container of the pod by its name.
func MemberOf(pod *v1.Pod, name string) (Member, bool) {
	for _, m := range Members(pod) {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Statuses are those of all containers of a pod, in the order of the kinds as Members has it.
func Statuses(s *v1.PodStatus) []v1.ContainerStatus {
	out := make([]v1.ContainerStatus, 0, len(s.InitContainerStatuses)+len(s.ContainerStatuses)+len(s.EphemeralContainerStatuses))
	out = append(out, s.InitContainerStatuses...)
	out = append(out, s.ContainerStatuses...)
	return append(out, s.EphemeralContainerStatuses...)
}

// NeedsAddress tells whether an address of the pod is in the environment of c, which can be made once the pod's network is.
func NeedsAddress(c *v1.Container) bool {
	return slices.ContainsFunc(c.Env, func(v v1.EnvVar) bool {
		return v.ValueFrom != nil && v.ValueFrom.FieldRef != nil && strings.HasPrefix(v.ValueFrom.FieldRef.FieldPath, "status.podIP")
	})
}

// ImageVolumes are the volumes of the pod that are made of images and mounted by c, in the order of its mounts.
func ImageVolumes(pod *v1.Pod, c *v1.Container) []*v1.Volume {
	var out []*v1.Volume
	for _, m := range c.VolumeMounts {
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.Name == m.Name && v.Image != nil {
				out = append(out, v)
			}
		}
	}
	return out
}
