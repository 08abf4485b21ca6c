package sources

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Uses tells whether a pod refers to an object, in the environment of a container or in a volume that podd fills.
func Uses(pod *v1.Pod, ref Ref) bool {
	for i := range pod.Spec.Volumes {
		if slices.Contains(refsOf(&pod.Spec.Volumes[i]), ref) {
			return true
		}
		if s := pod.Spec.Volumes[i].ISCSI; s != nil && s.SecretRef != nil && ref == (Ref{Secret, s.SecretRef.Name}) {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if inEnvironment(&pod.Spec.InitContainers[i], ref) {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		if inEnvironment(&pod.Spec.Containers[i], ref) {
			return true
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon); inEnvironment(&c, ref) {
			return true
		}
	}
	return false
}

func inEnvironment(c *v1.Container, ref Ref) bool {
	for _, f := range c.EnvFrom {
		switch {
		case f.ConfigMapRef != nil && ref == Ref{ConfigMap, f.ConfigMapRef.Name}, f.SecretRef != nil && ref == Ref{Secret, f.SecretRef.Name}:
			return true
		}
	}
	for _, v := range c.Env {
		switch f := v.ValueFrom; {
		case f == nil:
		case f.ConfigMapKeyRef != nil && ref == Ref{ConfigMap, f.ConfigMapKeyRef.Name}, f.SecretKeyRef != nil && ref == Ref{Secret, f.SecretKeyRef.Name}:
			return true
		}
	}
	return false
}

// refsOf is what a volume is filled from.
func refsOf(vol *v1.Volume) []Ref {
	var refs []Ref
	if vol.ConfigMap != nil {
		refs = append(refs, Ref{ConfigMap, vol.ConfigMap.Name})
	}
	if vol.Secret != nil {
		refs = append(refs, Ref{Secret, vol.Secret.SecretName})
	}
	if vol.Projected != nil {
		for _, s := range vol.Projected.Sources {
			if s.ConfigMap != nil {
				refs = append(refs, Ref{ConfigMap, s.ConfigMap.Name})
			}
			if s.Secret != nil {
				refs = append(refs, Ref{Secret, s.Secret.Name})
			}
		}
	}
	return refs
}
