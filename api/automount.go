package api

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// The volume by which programs in pods find podd's API. (Upstream: plugin/pkg/admission/serviceaccount.)
const (
	tokenVolume = "kube-api-access"
	tokenMount  = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// automounts tells whether a pod gets the token of its account: the pod's word is the first, then the account's. Pods of manifest
// files get none, as upstream's static pods: nobody was asked whether they may.
func (s *Server) automounts(account *core.ServiceAccount, pod *core.Pod) bool {
	switch {
	case s.issuer == nil, pod.Annotations[SourceAnnotation] == SourceFile:
		return false
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the account's token, the API's certificate authority and the namespace's name in every container that mounts
// nothing there itself.
func mountToken(pod *core.Pod) {
	name, has := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolume+"-") {
			name, has = v.Name, true
			break
		}
	}
	if !has {
		name = names.SimpleNameGenerator.GenerateName(tokenVolume + "-")
	}
	needed := false
	mount := core.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMount}
	for _, containers := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if slices.ContainsFunc(containers[i].VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath == tokenMount }) {
				continue
			}
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, mount)
			needed = true
		}
	}
	if needed && !has {
		pod.Spec.Volumes = append(pod.Spec.Volumes, core.Volume{Name: name, VolumeSource: core.VolumeSource{Projected: tokenSource()}})
	}
}

func tokenSource() *core.ProjectedVolumeSource {
	mode := int32(v1.ProjectedVolumeSourceDefaultMode)
	return &core.ProjectedVolumeSource{DefaultMode: &mode, Sources: []core.VolumeProjection{
		{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token",
			ExpirationSeconds: serviceaccount.WarnOnlyBoundTokenExpirationSeconds}},
		{ConfigMap: &core.ConfigMapProjection{LocalObjectReference: core.LocalObjectReference{Name: rootCA},
			Items: []core.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &core.DownwardAPIProjection{Items: []core.DownwardAPIVolumeFile{{Path: "namespace",
			FieldRef: &core.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
	}}
}

// asksForToken finds the source of a volume by which a pod asks for a token.
func asksForToken(pod *core.Pod) (volume, source int, found bool) {
	for i, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for j, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return i, j, true
			}
		}
	}
	return 0, 0, false
}
