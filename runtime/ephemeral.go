package runtime

import (
	v1 "k8s.io/api/core/v1"
)

// ephemeralOf finds an ephemeral container of the spec by its name; nil if there is none.
func ephemeralOf(pod *v1.Pod, name string) *v1.EphemeralContainer {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return &pod.Spec.EphemeralContainers[i]
		}
	}
	return nil
}
