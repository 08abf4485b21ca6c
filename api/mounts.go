package api

import (
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"

	"podd/api/fields"
)

// checkMounts refuses a pod that is about to be made and whose containers could never be, for a mountPath: on the root, at
// or below /proc, at or below /sys but for what the host has there, or where another mount of the container is.
func checkMounts(pod *core.Pod) error {
	var errs field.ErrorList
	for name, list := range map[string][]core.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
		for i := range list {
			at := field.NewPath("spec", name).Index(i).Child("volumeMounts")
			taken := map[string]string{}
			for j, m := range list[i].VolumeMounts {
				at := at.Index(j).Child("mountPath")
				if m.MountPath == "" { // upstream's validation tells
					continue
				}
				isHostPath := !slices.ContainsFunc(pod.Spec.Volumes, func(v core.Volume) bool { return v.Name == m.Name && v.HostPath == nil })
				to, why := fields.MountPath(m.MountPath, isHostPath)
				if first, yes := taken[to]; yes && first != m.MountPath { // else upstream's tells
					errs = append(errs, field.Invalid(at, m.MountPath, "is the same as "+first))
				}
				taken[to] = m.MountPath
				if why != "" {
					errs = append(errs, field.Invalid(at, m.MountPath, why))
				}
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	name := pod.Name
	if name == "" {
		name = pod.GenerateName
	}
	return apierrors.NewInvalid(core.Kind("Pod"), name, errs)
}
