package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// claim is what is known of a claim that a pod names.
type claim struct {
	name, volume string
	ephemeral    bool
	found        *v1.PersistentVolumeClaim // nil: there is none
	last         *v1.Event                 // about it, nil: none
}

// claimsOf are the claims of a pod that is not run yet.
func claimsOf(ctx context.Context, api corev1.CoreV1Interface, pod *v1.Pod) ([]claim, error) {
	if c := condition(pod, v1.PodScheduled); c == nil || c.Status != v1.ConditionFalse {
		return nil, nil
	}
	var all []claim
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		c := claim{volume: vol.Name, ephemeral: vol.Ephemeral != nil}
		switch {
		case vol.PersistentVolumeClaim != nil:
			c.name = vol.PersistentVolumeClaim.ClaimName
		case vol.Ephemeral != nil:
			c.name = ephemeral.VolumeClaimName(pod, vol)
		default:
			continue
		}
		found, err := api.PersistentVolumeClaims(pod.Namespace).Get(ctx, c.name, metav1.GetOptions{})
		switch {
		case apierrors.IsForbidden(err): // who asks may look at pods alone
			continue
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, err
		default:
			events, err := eventsOf(ctx, api, pod.Namespace, "PersistentVolumeClaim", c.name, found.UID)
			if err != nil {
				return nil, err
			}
			if c.found = found; len(events) > 0 {
				c.last = &events[len(events)-1]
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// aboutClaims tells whether claims are why no host runs a pod, by the message of that.
func aboutClaims(message string) bool {
	return slices.ContainsFunc([]string{"persistentvolumeclaim", "PersistentVolume", "persistent volume", "pvc(s)", "ephemeral volume", "PVC "},
		func(part string) bool { return strings.Contains(message, part) })
}

// unclaimed is why a pod waits for its claims: message, and what is known of them.
func unclaimed(pod *v1.Pod, message string, claims []claim) []cause {
	var all []cause
	for _, c := range claims {
		if what := c.cause(pod, message); what.what != "" {
			all = append(all, what)
		}
	}
	if len(all) == 0 {
		all = []cause{{sentence(message, "It waits for a claim"), "podctl get pvc,pv,sc" + inNamespace(pod) + " shows what there is."}}
	}
	return all
}

// cause is what is the matter with a claim; without text, nothing.
func (c claim) cause(pod *v1.Pod, message string) cause {
	name := "Claim " + c.name + " of volume " + c.volume
	describe := "podctl describe pvc " + c.name + inNamespace(pod)
	const by = " podd goes on by itself."
	switch {
	case c.found == nil && c.ephemeral:
		return cause{name + " is not made yet.", "podctl describe pod " + pod.Name + inNamespace(pod)}
	case c.found == nil:
		return cause{name + " is not there.", "Make it, or correct claimName; podctl get pvc" + inNamespace(pod) + " shows which there are." + by}
	case c.found.Status.Phase == v1.ClaimLost:
		return cause{fmt.Sprintf("%s has lost its volume %s, with the data.", name, c.found.Spec.VolumeName), "Delete the claim and make it anew." + by}
	case c.found.DeletionTimestamp != nil:
		return cause{name + " is being deleted: no other pod may use it.", describe + " shows who does (Used By). Make it anew when it is gone."}
	case c.ephemeral && !metav1.IsControlledBy(c.found, pod):
		return cause{name + " was not made for this pod.", "Delete that claim, or give the pod or the volume another name: such a claim is called POD-VOLUME." + by}
	case !c.bound():
		return cause{name + " " + c.unbound(), c.bind(pod, describe)}
	case strings.Contains(message, "ReadWriteOncePod") && slices.Contains(c.found.Spec.AccessModes, v1.ReadWriteOncePod):
		return cause{name + " is in use by another pod, and has the access mode ReadWriteOncePod.", describe + " shows by which (Used By). It must end first." + by}
	case strings.Contains(message, "node affinity"):
		return cause{fmt.Sprintf("%s is bound to volume %s: %s", name, c.found.Spec.VolumeName, sentence(message, "")),
			"podctl describe pv " + c.found.Spec.VolumeName + ", podctl get nodes --show-labels"}
	}
	return cause{}
}

func (c claim) bound() bool {
	return c.found.Status.Phase == v1.ClaimBound && metav1.HasAnnotation(c.found.ObjectMeta, volumehelpers.AnnBindCompleted)
}

// unbound is what keeps a claim from having a volume, in the words of its last event.
func (c claim) unbound() string {
	text := "has no volume yet"
	if class := volumehelpers.GetPersistentVolumeClaimClass(c.found); class != "" {
		text = "(class " + class + ") " + text
	}
	if c.last != nil {
		return text + ": " + sentence(c.last.Reason+": "+strings.TrimSpace(c.last.Message), "")
	}
	return text + "."
}

func (c claim) bind(pod *v1.Pod, describe string) string {
	switch {
	case c.last != nil && strings.Contains(c.last.Message, "storageclass") && strings.Contains(c.last.Message, "not found"):
		return "Make that class, or the claim anew with another one: podctl get sc shows which there are."
	case c.last != nil && c.last.Reason == "FailedBinding":
		return "Make a volume that fits, or a claim with a class that makes one: " + describe + ", podctl get pv,sc"
	}
	return describe + ", podctl get pv,sc"
}
