package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"podd/runtime/containers"
	"podd/store"
	"podd/volumes"
)

// Claims finds in the store what the claims of pods are bound to (upstream: createVolumeSpec in
// pkg/kubelet/volumemanager/populator). labels are the node's.
func Claims(s *store.Store, labels func() map[string]string) func(*v1.Pod, *v1.Volume) (volumes.Claimed, error) {
	return func(pod *v1.Pod, vol *v1.Volume) (volumes.Claimed, error) {
		v, err := volumeOf(s, pod, vol, claimName(pod, vol))
		if err != nil {
			return volumes.Claimed{}, err
		}
		if err := volumehelpers.CheckNodeAffinity(v, labels()); err != nil {
			return volumes.Claimed{}, fmt.Errorf("persistent volume %s: this node didn't match its node affinity", v.Name)
		}
		c := volumes.Claimed{Name: v.Name, HostPath: v.Spec.HostPath, NFS: v.Spec.NFS, ISCSI: v.Spec.ISCSI, MountOptions: v.Spec.MountOptions,
			ReadOnly: vol.PersistentVolumeClaim != nil && vol.PersistentVolumeClaim.ReadOnly}
		if v.Spec.VolumeMode != nil {
			c.Block = *v.Spec.VolumeMode == v1.PersistentVolumeBlock
		}
		switch {
		case v.Spec.Local != nil:
			c.Local = v.Spec.Local.Path
		case v.Spec.HostPath == nil && v.Spec.NFS == nil && v.Spec.ISCSI == nil:
			return c, fmt.Errorf("persistent volume %s: its source is not supported", v.Name)
		}
		users := others(s, pod, claimName(pod, vol))
		c.Shared = slices.ContainsFunc(users, func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning })
		if slices.Contains(v.Spec.AccessModes, v1.ReadWriteOncePod) && taken(s, pod, users) {
			return c, fmt.Errorf("persistentvolumeclaim %q has the access mode ReadWriteOncePod and is in use by another pod", claimName(pod, vol))
		}
		return c, usedAs(pod, vol.Name, c.Block)
	}
}

// others are the other pods of the same node that have a claim and are not over.
func others(s *store.Store, pod *v1.Pod, claim string) (found []*v1.Pod) {
	for _, p := range s.Pods() {
		if p.UID != pod.UID && p.Namespace == pod.Namespace && p.Spec.NodeName == pod.Spec.NodeName &&
			p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed &&
			slices.ContainsFunc(p.Spec.Volumes, func(vol v1.Volume) bool { return claimName(p, &vol) == claim }) {
			found = append(found, p)
		}
	}
	return found
}

// taken tells whether one of the others has what only one pod may have: the one that runs, else the oldest.
func taken(s *store.Store, pod *v1.Pod, others []*v1.Pod) bool {
	if now, ok := s.PodByUID(pod.UID); ok && now.Status.Phase == v1.PodRunning {
		return false
	}
	return slices.ContainsFunc(others, func(p *v1.Pod) bool {
		older := p.CreationTimestamp.Before(&pod.CreationTimestamp) || p.CreationTimestamp.Equal(&pod.CreationTimestamp) && p.UID < pod.UID
		return p.Status.Phase == v1.PodRunning || older
	})
}

// devices are the block devices of a container.
func (h *host) devices(pod *v1.Pod, c *v1.Container) (all []containers.Device, err error) {
	devices, err := h.r.Volumes.Devices(pod, c)
	for _, d := range devices {
		access := "rwm"
		if d.ReadOnly {
			access = "r"
		}
		all = append(all, containers.Device{LinuxDevice: d.LinuxDevice, Access: access})
	}
	return all, err
}

// volumeOf is the volume that a claim of the pod's namespace is bound to.
func volumeOf(s *store.Store, pod *v1.Pod, vol *v1.Volume, name string) (*v1.PersistentVolume, error) {
	claim, v := &v1.PersistentVolumeClaim{}, &v1.PersistentVolume{}
	if ok, err := readObject(s, claimPrefix+pod.Namespace+"/"+name, claim); err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("persistentvolumeclaim %q not found", name))
	}
	if vol.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err
		}
	}
	switch {
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, "kubernetes.io/pvc-protection"):
		return nil, fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
	case claim.Status.Phase == v1.ClaimLost:
		return nil, fmt.Errorf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.Status.Phase != v1.ClaimBound || claim.Spec.VolumeName == "":
		return nil, fmt.Errorf("persistentvolumeclaim %q is not bound", name)
	}
	if ok, err := readObject(s, volumePrefix+claim.Spec.VolumeName, v); err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("persistentvolumeclaim %q: persistentvolume %q not found", name, claim.Spec.VolumeName))
	}
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID {
		return nil, fmt.Errorf("persistentvolumeclaim %q: persistentvolume %q is not bound to it", name, v.Name)
	}
	return v, nil
}

// usedAs is an error if containers use a volume as what it is not.
func usedAs(pod *v1.Pod, name string, block bool) error {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if block && slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == name }) {
				return errors.New("has volumeMode Block, but is specified in volumeMounts")
			}
			if !block && slices.ContainsFunc(c.VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == name }) {
				return errors.New("has volumeMode Filesystem, but is specified in volumeDevices")
			}
		}
	}
	return nil
}

// readObject reads the object at key; ok is false if there is none.
func readObject(s *store.Store, key string, into interface{ Unmarshal(data []byte) error }) (ok bool, err error) {
	entry, ok := s.Get(key)
	if !ok {
		return false, nil
	}
	if err := store.Decode(entry.Data, into); err != nil {
		return false, fmt.Errorf("read %s: %w", strings.TrimPrefix(key, "/"), err)
	}
	return true, nil
}

// Where the API keeps claims and volumes.
const (
	claimPrefix  = "/persistentvolumeclaims/"
	volumePrefix = "/persistentvolumes/"
)

// claimChanged has the pods looked at that name the claim of a key, and what failed of them for want of it tried again at
// once. A volume of a key is looked at by the claim that it is bound to. It does not block.
func (r *Runtime) claimChanged(key string) {
	claim, ok := strings.CutPrefix(key, claimPrefix)
	if name, isVolume := strings.CutPrefix(key, volumePrefix); isVolume {
		v := &v1.PersistentVolume{}
		if there, err := readObject(r.Store, volumePrefix+name, v); err == nil && there && v.Spec.ClaimRef != nil {
			claim, ok = v.Spec.ClaimRef.Namespace+"/"+v.Spec.ClaimRef.Name, true
		}
	}
	if !ok {
		return
	}
	namespace, name, _ := strings.Cut(claim, "/")
	for _, pod := range r.Store.Pods() {
		if pod.Namespace == namespace && pod.Spec.NodeName == r.Node.Name &&
			slices.ContainsFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return claimName(pod, &vol) == name }) {
			r.forgive(pod.UID)
		}
	}
}

// claimName is the name of the claim that a volume of a pod is; empty if it is none.
func claimName(pod *v1.Pod, vol *v1.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return vol.PersistentVolumeClaim.ClaimName
	case vol.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, vol)
	}
	return ""
}
