package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"podd/api/claims"
)

// need is what a pod needs of claims, and what keeps it from having them.
type need struct {
	why     string                      // it cannot be bound now, in upstream's words; empty: nothing of claims keeps it
	soon    bool                        // podd is just about to change that
	delayed []*v1.PersistentVolumeClaim // those that are bound with this pod
	alone   bool                        // it has a claim that no other pod may have
}

// needs looks at the claims that a pod names (upstream: the plugins VolumeBinding and VolumeRestrictions of the scheduler).
func (s *Server) needs(pod *v1.Pod, node *v1.Node) (n need, err error) {
	read := s.objects()
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		name := claimName(pod, vol)
		if name == "" {
			continue
		}
		claim, err := read.claim(claimPrefix + pod.Namespace + "/" + name)
		if err != nil {
			return n, err
		}
		if n.why, n.soon = unusable(pod, vol, claim, name); n.why != "" {
			return n, nil
		}
		if slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) {
			n.alone = true
			if s.inUse(claim, pod) {
				n.why = "1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
				return n, nil
			}
		}
		if why, soon, delayed, err := read.binding(claim, node); err != nil || why != "" {
			n.why, n.soon = why, soon
			return n, err
		} else if delayed {
			n.delayed = append(n.delayed, claim)
		}
	}
	return n, nil
}

// unusable is why a claim is none for the pod, whatever it is bound to.
func unusable(pod *v1.Pod, vol *v1.Volume, claim *v1.PersistentVolumeClaim, name string) (why string, soon bool) {
	switch {
	case claim == nil && vol.Ephemeral != nil:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name), true
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", name), false
	case claim.Status.Phase == v1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName), false
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", name), false
	}
	if vol.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return err.Error(), false
		}
	}
	return "", false
}

// binding is what keeps a claim from being bound to a volume that the node has. delayed is that it is bound with a pod, and
// can be.
func (c *objectCache) binding(claim *v1.PersistentVolumeClaim, node *v1.Node) (why string, soon, delayed bool, err error) {
	if claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBindCompleted) {
		v, err := c.volume(volumePrefix + claim.Spec.VolumeName)
		switch {
		case err != nil:
			return "", false, false, err
		case v == nil:
			return "1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)", false, false, nil
		case volumehelpers.CheckNodeAffinity(v, node.Labels) != nil:
			return "1 node(s) didn't match PersistentVolume's node affinity", false, false, nil
		case claim.Status.Phase != v1.ClaimBound:
			return unboundClaims, true, false, nil
		}
		return "", false, false, nil
	}
	class, err := c.class(volumehelpers.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return "", false, false, err
	}
	own := class != nil && class.Provisioner == claims.Provisioner
	if class == nil || !claims.IsDelayed(class) || claim.Spec.VolumeName != "" {
		return unboundClaims, own, false, nil
	}
	all, err := c.volumes()
	if err != nil {
		return "", false, false, err
	}
	v, err := volumehelpers.FindMatchingVolume(claim, all, node, nil, false, false)
	provisions := class.Provisioner != volumehelpers.NotSupportedProvisioner && (!own || claims.Unprovisionable(claim, class, node) == "")
	if err != nil || v == nil && !provisions {
		return "1 node(s) didn't find available persistent volumes to bind", false, false, nil
	}
	return "", false, true, nil
}

const unboundClaims = "pod has unbound immediate PersistentVolumeClaims"

// inUse tells whether another pod of this node has the claim.
func (s *Server) inUse(claim *v1.PersistentVolumeClaim, but *v1.Pod) bool {
	return slices.ContainsFunc(s.Store.Pods(), func(pod *v1.Pod) bool {
		return pod.UID != but.UID && pod.Namespace == claim.Namespace && s.takesRoom(pod) &&
			slices.ContainsFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return claimName(pod, &vol) == claim.Name })
	})
}

// choose has the claims bound that wait for a pod, now that it has its place.
func (s *scheduler) choose(ctx context.Context, delayed []*v1.PersistentVolumeClaim) error {
	for _, claim := range delayed {
		if claim.Annotations[volumehelpers.AnnSelectedNode] == s.server.NodeName {
			continue
		}
		next := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, volumehelpers.AnnSelectedNode, s.server.NodeName)
		if err := s.server.putClaim(ctx, next); err != nil && !apierrors.IsConflict(err) { // else it has changed, and is looked at
			return err
		}
	}
	return nil
}

// hush is how long a pod may wait for what podd is about to do before that is told as the reason why it waits.
const hush = 2 * time.Second

// awaitClaims leaves a pod Pending until something of claims changes, and says why.
func (s *scheduler) awaitClaims(ctx context.Context, key string, pod *v1.Pod, n need, now time.Time) error {
	s.pending[key], s.claiming[key] = true, true
	if n.soon {
		if s.hushed[key].IsZero() {
			s.hushed[key] = now.Add(hush)
		}
		if s.hushed[key].After(now) {
			return nil
		}
	}
	delete(s.hushed, key)
	return s.explain(ctx, pod, v1.PodReasonUnschedulable, "0/1 nodes are available: "+n.why+".")
}
