package claims

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// Provisioned tells whether podd has made the volume, and so deletes what it holds.
func Provisioned(v *v1.PersistentVolume) bool {
	return v.Annotations[volumehelpers.AnnDynamicallyProvisioned] == Provisioner
}

// Fate is what is to become of a volume.
type Fate int

// What is to become of a volume.
const (
	Keep    Fate = iota // nothing changes
	Free                // any claim may have it: Available
	Taken               // its claim has it: Bound
	Finish              // its claim is to be looked at, which has all but got it
	Unbind              // its claim has another one
	Release             // its claim is gone
)

// FateOf says what becomes of a volume, by the claim of the name that it has: nil if there is none.
func FateOf(v *v1.PersistentVolume, claim *v1.PersistentVolumeClaim) Fate {
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "":
		return Free
	case claim == nil || claim.UID != ref.UID:
		return Release
	case claim.Spec.VolumeName == "":
		return Finish
	case claim.Spec.VolumeName == v.Name && !metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBindCompleted):
		return Finish
	case claim.Spec.VolumeName == v.Name:
		return Taken
	case Provisioned(v) && v.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete:
		return Release // it was made for a claim that got another one
	}
	return Unbind
}

// Unbound is a volume without the claim that has got another one. What a user has reserved stays reserved.
func Unbound(v *v1.PersistentVolume) *v1.PersistentVolume {
	next := v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volumehelpers.AnnBoundByController) {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, volumehelpers.AnnBoundByController)
		return next
	}
	next.Spec.ClaimRef.UID, next.Spec.ClaimRef.ResourceVersion = "", ""
	return next
}

// OfVolume is the claim of a pod's ephemeral volume: it goes with the pod.
func OfVolume(pod *v1.Pod, vol *v1.Volume) *v1.PersistentVolumeClaim {
	template, yes := vol.Ephemeral.VolumeClaimTemplate, true
	return &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, vol), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		Spec: template.Spec,
	}
}

// Reclaim is what is to be done with what a volume holds.
type Reclaim int

// What is to be done with what a volume holds.
const (
	Nothing    Reclaim = iota
	Delete             // it, and then the volume's object
	Impossible         // to delete it, which the volume's policy asks for
)

// Reclaims says what is to be done with what a volume holds. What another provisioner has made it also deletes.
func Reclaims(v *v1.PersistentVolume) Reclaim {
	released := v.Status.Phase == v1.VolumeReleased || v.Status.Phase == v1.VolumeFailed
	going := v.DeletionTimestamp != nil && v.Status.Phase != v1.VolumeBound && slices.Contains(v.Finalizers, DirectoryProtection)
	switch {
	case v.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete:
		return Nothing
	case Provisioned(v) && (released || going):
		return Delete
	case released && v.DeletionTimestamp == nil && !metav1.HasAnnotation(v.ObjectMeta, volumehelpers.AnnDynamicallyProvisioned):
		return Impossible
	}
	return Nothing
}
