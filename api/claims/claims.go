// Package claims decides what becomes of claims to storage and of the volumes that they are bound to. It is pure: what is
// known comes in, one step comes out, and the same again once that is done. The rules, and the words of events, are
// upstream's (pkg/controller/volume/persistentvolume/pv_controller.go).
package claims

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

const (
	// Provisioner is the one that podd has: it makes a directory for a claim.
	Provisioner = "podd.dev/local"
	// Standard is the class that is there from the start.
	Standard = "standard"
	// ClaimProtection and VolumeProtection are the finalizers that keep what is in use (pkg/volume/util).
	ClaimProtection, VolumeProtection = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
	// DirectoryProtection is the finalizer of a volume whose directory goes before it does.
	DirectoryProtection = volumehelpers.PVDeletionInTreeProtectionFinalizer
)

// World is what is known beside the claim or the volume that is decided about. Nothing in it is changed.
type World struct {
	Node    *v1.Node // this host; nil while it is not known
	Volumes []*v1.PersistentVolume
	Classes []*storagev1.StorageClass
	// Pods are those that use the claim, and are neither over nor on another node.
	Pods []*v1.Pod
}

// Op is what is to be done.
type Op int

// What is to be done with a claim.
const (
	Wait      Op = iota // it stays Pending
	Bind                // to Volume, also if that is all but done
	Provision           // make a volume of Class
	Request             // ask another provisioner for a volume of Class
	SetClass            // to Class, the default one
	Lose                // its volume is gone for good
	Grow                // Volume is to hold what the claim asks for now
)

// Step is what is to be done with a claim, and what is to be told of it.
type Step struct {
	Op     Op
	Volume *v1.PersistentVolume
	Class  *storagev1.StorageClass
	Event  Event
}

// Event is what is told of an object; none if it has no reason.
type Event struct{ Type, Reason, Message string }

func normal(reason, format string, args ...any) Event {
	return Event{v1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warning(reason, format string, args ...any) Event {
	return Event{v1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

// Reasons of events (pkg/controller/volume/events).
const (
	failedBinding        = "FailedBinding"
	volumeMismatch       = "VolumeMismatch"
	provisioningFailed   = "ProvisioningFailed"
	externalProvisioning = "ExternalProvisioning"
	waitForFirstConsumer = "WaitForFirstConsumer"
	waitForPodScheduled  = "WaitForPodScheduled"
)

// Next is what is to be done with a claim.
func Next(claim *v1.PersistentVolumeClaim, w World) Step {
	if metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBindCompleted) {
		return bound(claim, w)
	}
	if claim.Spec.VolumeName != "" {
		return asked(claim, w)
	}
	class := classOf(claim, w)
	delayed := class != nil && IsDelayed(class) && !selected(claim, w)
	volume, err := match(claim, w, delayed)
	switch {
	case err != nil:
		return Step{Event: warning(failedBinding, "%v", err)}
	case volume != nil:
		return Step{Op: Bind, Volume: volume}
	case !volumehelpers.PersistentVolumeClaimHasClass(claim):
		if d := Default(w.Classes); d != nil {
			return Step{Op: SetClass, Class: d}
		}
		return Step{Event: normal(failedBinding, "no persistent volumes available for this claim and no storage class is set")}
	case delayed:
		return Step{Event: consumers(w.Pods)}
	case volumehelpers.GetPersistentVolumeClaimClass(claim) == "":
		return Step{Event: normal(failedBinding, "no persistent volumes available for this claim and no storage class is set")}
	case class == nil:
		return Step{Event: warning(provisioningFailed, "storageclass.storage.k8s.io %q not found", *claim.Spec.StorageClassName)}
	}
	return provision(claim, class, w.Node)
}

// match is the volume that the claim gets: the one that is bound to it, or the smallest that does. A volume of another
// node is none. While the claim waits for a pod only the former.
func match(claim *v1.PersistentVolumeClaim, w World, delayed bool) (*v1.PersistentVolume, error) {
	if !delayed && w.Node == nil {
		return nil, nil
	}
	node := w.Node
	if delayed {
		node = nil
	}
	return volumehelpers.FindMatchingVolume(claim, w.Volumes, node, nil, delayed, false)
}

// bound is the step of a claim that was bound once.
func bound(claim *v1.PersistentVolumeClaim, w World) Step {
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case claim.Spec.VolumeName == "":
		return Step{Op: Lose, Event: warning("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")}
	case volume == nil:
		return Step{Op: Lose, Event: warning("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")}
	case volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.UID != claim.UID:
		return Step{Op: Lose, Event: warning("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")}
	case grows(claim, volume):
		return Step{Op: Grow, Volume: volume}
	}
	return Step{Op: Bind, Volume: volume}
}

// grows tells whether podd's own volume is to be larger than it is said to be, by itself or by its claim.
func grows(claim *v1.PersistentVolumeClaim, volume *v1.PersistentVolume) bool {
	want, have, said := claim.Spec.Resources.Requests[v1.ResourceStorage], volume.Spec.Capacity[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	return Provisioned(volume) && claim.Status.Phase == v1.ClaimBound && (want.Cmp(have) > 0 || said.Cmp(have) < 0)
}

// asked is the step of a claim that names its volume.
func asked(claim *v1.PersistentVolumeClaim, w World) Step {
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case volume == nil:
		return Step{Event: warning(failedBinding, "volume %q not found", claim.Spec.VolumeName)}
	case volume.Spec.ClaimRef == nil:
		if why := unfit(volume, claim); why != "" {
			return Step{Event: warning(volumeMismatch, "Cannot bind to requested volume %q: %s", volume.Name, why)}
		}
	case !volumehelpers.IsVolumeBoundToClaim(volume, claim):
		return Step{Event: warning(failedBinding, "volume %q already bound to a different claim.", volume.Name)}
	}
	return Step{Op: Bind, Volume: volume}
}

// unfit is why a claim cannot have the volume that it names.
func unfit(volume *v1.PersistentVolume, claim *v1.PersistentVolumeClaim) string {
	want, have := claim.Spec.Resources.Requests[v1.ResourceStorage], volume.Spec.Capacity[v1.ResourceStorage]
	switch {
	case volume.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", volume.Name)
	case have.Cmp(want) < 0:
		return "requested PV is too small"
	case volumehelpers.GetPersistentVolumeClass(volume) != volumehelpers.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case volumehelpers.CheckVolumeModeMismatches(&claim.Spec, &volume.Spec):
		return "incompatible volumeMode"
	case !volumehelpers.CheckAccessModes(claim, volume):
		return "incompatible accessMode"
	}
	return ""
}

// provision is the step of a claim for which there is no volume yet, though all it waits for is there.
func provision(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, node *v1.Node) Step {
	switch {
	case class.Provisioner == volumehelpers.NotSupportedProvisioner:
		return Step{Event: normal(failedBinding, "no persistent volumes available for this claim and no storage class is set")}
	case class.Provisioner != Provisioner:
		return Step{Op: Request, Class: class, Event: normal(externalProvisioning, "Waiting for a volume to be created either by the "+
			"external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that "+
			"the provisioner is running and correctly registered.", class.Provisioner)}
	}
	if why := Unprovisionable(claim, class, node); why != "" {
		return Step{Event: warning(provisioningFailed, "Failed to provision volume with StorageClass %q: %s", class.Name, why)}
	}
	return Step{Op: Provision, Class: class}
}

// Unprovisionable is why podd cannot make a volume of its own class for the claim; empty is that it can.
func Unprovisionable(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, node *v1.Node) string {
	switch {
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == v1.PersistentVolumeBlock:
		return "volumeMode Block is not supported: the volumes of " + Provisioner + " are directories"
	case claim.Spec.Selector != nil:
		return "claim.Spec.Selector is not supported for dynamic provisioning"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "a data source is not supported"
	case !onNode(class.AllowedTopologies, node):
		return "this host is not among the class's allowedTopologies"
	}
	return ""
}

// onNode tells whether one of the terms, if there are any, is true of the node.
func onNode(terms []v1.TopologySelectorTerm, node *v1.Node) bool {
	if len(terms) == 0 {
		return true
	}
	return node != nil && slices.ContainsFunc(terms, func(term v1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(e v1.TopologySelectorLabelRequirement) bool {
			value, ok := node.Labels[e.Key]
			return !ok || !slices.Contains(e.Values, value)
		})
	})
}

// selected tells whether a claim that waits for its first pod need not wait any more: a scheduler has placed that pod, or
// it was bound to this host past all scheduling.
func selected(claim *v1.PersistentVolumeClaim, w World) bool {
	return volumehelpers.IsDelayBindingProvisioning(claim) ||
		slices.ContainsFunc(w.Pods, func(pod *v1.Pod) bool { return pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil })
}

// consumers is what a claim waits for that is to be bound with its first pod.
func consumers(pods []*v1.Pod) Event {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		return normal(waitForFirstConsumer, "waiting for first consumer to be created before binding")
	case 1:
		return normal(waitForPodScheduled, "waiting for pod %s to be scheduled", names[0])
	}
	return normal(waitForPodScheduled, "waiting for pods %s to be scheduled", strings.Join(names, ","))
}

func (w World) volume(name string) *v1.PersistentVolume {
	i := slices.IndexFunc(w.Volumes, func(v *v1.PersistentVolume) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return w.Volumes[i]
}

func classOf(claim *v1.PersistentVolumeClaim, w World) *storagev1.StorageClass {
	name := volumehelpers.GetPersistentVolumeClaimClass(claim)
	i := slices.IndexFunc(w.Classes, func(c *storagev1.StorageClass) bool { return name != "" && c.Name == name })
	if i < 0 {
		return nil
	}
	return w.Classes[i]
}

// IsDelayed tells whether claims of the class are bound with their first pod.
func IsDelayed(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// The annotations of a class that is the default one (pkg/volume/util/storageclass.go).
const (
	isDefault     = "storageclass.kubernetes.io/is-default-class"
	isDefaultBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// Default is the class of claims that name none: of those that are marked the newest, else the first by name. nil is that
// there is none.
func Default(classes []*storagev1.StorageClass) (found *storagev1.StorageClass) {
	for _, c := range classes {
		if c.Annotations[isDefault] != "true" && c.Annotations[isDefaultBeta] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&c.CreationTimestamp) ||
			found.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < found.Name {
			found = c
		}
	}
	return found
}
