package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"podd/api/claims"
	"podd/store"
)

// Directories are what the volumes hold that podd makes itself. A name is that of a PersistentVolume.
type Directories interface {
	// Make makes the directory, durably. It is nil when it is there.
	Make(name string) error
	// Remove deletes it with all that is in it. It is nil when nothing is left.
	Remove(ctx context.Context, name string) error
	// Path is where it is.
	Path(name string) string
}

// Where the store has what claims are about.
const (
	claimPrefix  = "/persistentvolumeclaims/"
	volumePrefix = "/persistentvolumes/"
	classPrefix  = "/storage.k8s.io/storageclasses/"
)

// claimKeeper binds claims to volumes, makes volumes for claims of podd's own class and claims for ephemeral volumes, and
// holds what is in use. What is decided about one claim or volume package claims says. Every step may be repeated: what
// a crash has left half done is seen by the next look.
type claimKeeper struct {
	server  *Server
	read    objectCache
	claims  map[string]bool         // keys of claims to look at
	volumes map[string]bool         // keys of volumes to look at
	pods    map[string]bool         // keys of pods that may lack claims
	waiting map[string]bool         // keys of claims that are not bound
	uses    map[string][]string     // keys of the claims of each pod
	told    map[string]claims.Event // what was told last of an object, by key
}

func (k *claimKeeper) again() time.Time { return time.Time{} }

func (k *claimKeeper) begin(entries []store.Entry) {
	k.read = objectCache{server: k.server, known: map[string]knownObject{}}
	k.claims, k.volumes, k.pods, k.waiting = map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	k.uses, k.told = map[string][]string{}, map[string]claims.Event{}
	for _, e := range entries {
		k.change(store.Change{Key: e.Key, Data: e.Data})
	}
}

func (k *claimKeeper) change(c store.Change) {
	switch {
	case strings.HasPrefix(c.Key, store.PodPrefix):
		k.podChanged(c)
	case strings.HasPrefix(c.Key, claimPrefix):
		k.claims[c.Key] = true
		for _, data := range [][]byte{c.Prev, c.Data} {
			if claim := decodeClaim(data); claim != nil && claim.Spec.VolumeName != "" {
				k.volumes[volumePrefix+claim.Spec.VolumeName] = true
			}
		}
	case strings.HasPrefix(c.Key, volumePrefix):
		k.volumes[c.Key] = true
		for _, data := range [][]byte{c.Prev, c.Data} {
			if v := decodeVolume(data); v != nil && v.Spec.ClaimRef != nil {
				k.claims[claimPrefix+v.Spec.ClaimRef.Namespace+"/"+v.Spec.ClaimRef.Name] = true
			}
		}
		maps.Copy(k.claims, k.waiting)
	case strings.HasPrefix(c.Key, classPrefix), c.Key == "/nodes/"+k.server.NodeName:
		maps.Copy(k.claims, k.waiting)
	}
	if c.Data == nil {
		k.read.forget(c.Key)
		delete(k.told, c.Key)
	}
}

// podChanged makes the claims due that a pod uses, or has used.
func (k *claimKeeper) podChanged(c store.Change) {
	for _, key := range k.uses[c.Key] {
		k.claims[key] = true
	}
	delete(k.uses, c.Key)
	_, namespace, name := k.server.stored.of(c.Key)
	pod, ok := k.server.Store.Pod(namespace, name)
	if c.Data == nil || !ok {
		return
	}
	for i := range pod.Spec.Volumes {
		if claim := claimName(pod, &pod.Spec.Volumes[i]); claim != "" {
			key := claimPrefix + namespace + "/" + claim
			k.uses[c.Key] = append(k.uses[c.Key], key)
			k.claims[key] = true
			k.pods[c.Key] = k.pods[c.Key] || pod.Spec.Volumes[i].Ephemeral != nil
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

func (k *claimKeeper) work(ctx context.Context) (more bool, err error) {
	var errs []error
	each := func(due map[string]bool, look func(context.Context, string) error) {
		for _, key := range slices.Sorted(maps.Keys(due)) {
			delete(due, key)
			err := look(ctx, key)
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // else the change is on its way
				due[key] = true
				errs = append(errs, err)
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
	each(k.pods, k.lookAtPod)
	each(k.volumes, k.lookAtVolume)
	each(k.claims, k.lookAtClaim)
	return false, errors.Join(errs...)
}

// lookAtClaim does what is to be done with one claim.
func (k *claimKeeper) lookAtClaim(ctx context.Context, key string) error {
	delete(k.waiting, key)
	claim, err := k.read.claim(key)
	if err != nil || claim == nil {
		return err
	}
	kind, namespace, name := k.server.stored.of(key)
	users := k.users(claim)
	switch protected := slices.Contains(claim.Finalizers, claims.ClaimProtection); {
	case claim.DeletionTimestamp != nil && protected && !slices.ContainsFunc(users, keepsClaim(claim)):
		return kind.update(ctx, namespace, name, claim.UID, without(claims.ClaimProtection))
	case claim.DeletionTimestamp != nil:
		return nil
	case !protected:
		return kind.update(ctx, namespace, name, claim.UID, with(claims.ClaimProtection))
	}
	world, err := k.world()
	if err != nil {
		return err
	}
	for _, pod := range users {
		if k.server.mayRun(pod) {
			world.Pods = append(world.Pods, pod)
		}
	}
	step := claims.Next(claim, world)
	k.tell(key, claimReference(claim), namespace, step.Event)
	switch step.Op {
	case claims.Wait:
		k.waiting[key] = true
		return k.setClaimStatus(ctx, claim, v1.ClaimPending, nil)
	case claims.Bind:
		return k.bind(ctx, claim, step.Volume)
	case claims.Provision:
		k.waiting[key] = true
		return k.provision(ctx, claim, step.Class)
	case claims.Request:
		k.waiting[key] = true
		return k.request(ctx, claim, step.Class)
	case claims.SetClass:
		next := claim.DeepCopy()
		next.Spec.StorageClassName = &step.Class.Name
		return k.server.putClaim(ctx, next)
	case claims.Lose:
		return k.setClaimStatus(ctx, claim, v1.ClaimLost, nil)
	case claims.Grow:
		return k.grow(ctx, claim, step.Volume)
	}
	return nil
}

// mayRun tells whether the pod is neither over nor on another node.
func (s *Server) mayRun(pod *v1.Pod) bool {
	return (pod.Spec.NodeName == "" || pod.Spec.NodeName == s.NodeName) && pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed
}

// users are the pods that name the claim.
func (k *claimKeeper) users(claim *v1.PersistentVolumeClaim) (found []*v1.Pod) {
	for _, pod := range k.server.Store.Pods() {
		if pod.Namespace == claim.Namespace && slices.ContainsFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return claimName(pod, &vol) == claim.Name }) {
			found = append(found, pod)
		}
	}
	return found
}

// keepsClaim tells of pods whether they hold the claim: until their objects are gone, if they have a node. An ephemeral
// volume's goes before its pod when only finalizers keep that (upstream: pkg/controller/volume/pvcprotection).
func keepsClaim(claim *v1.PersistentVolumeClaim) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool {
		if pod.Spec.NodeName == "" {
			return false
		}
		shut := pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
		return slices.ContainsFunc(pod.Spec.Volumes, func(vol v1.Volume) bool {
			if claimName(pod, &vol) != claim.Name {
				return false
			}
			return vol.Ephemeral == nil || !shut && ephemeral.VolumeIsForPod(pod, claim) == nil
		})
	}
}

func with(finalizer string) func(metav1.Object) {
	return func(o metav1.Object) { o.SetFinalizers(append(slices.Clone(o.GetFinalizers()), finalizer)) }
}

func without(finalizers ...string) func(metav1.Object) {
	return func(o metav1.Object) {
		o.SetFinalizers(slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(finalizers, f) }))
	}
}

// world is what a decision is made from.
func (k *claimKeeper) world() (claims.World, error) {
	w := claims.World{Node: k.server.thisNode()}
	var err error
	if w.Volumes, err = k.read.volumes(); err != nil {
		return w, err
	}
	w.Classes, err = k.read.classes()
	return w, err
}

// tell records an event of an object, if it is not the one that was told last.
func (k *claimKeeper) tell(key string, about v1.ObjectReference, namespace string, event claims.Event) {
	if event.Reason == "" || k.told[key] == event {
		return
	}
	k.told[key] = event
	k.server.event(about, namespace, event.Type, event.Reason, event.Message)
}

func claimReference(c *v1.PersistentVolumeClaim) v1.ObjectReference {
	return v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
		ResourceVersion: c.ResourceVersion}
}

func volumeReference(v *v1.PersistentVolume) v1.ObjectReference {
	return v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolume", Name: v.Name, UID: v.UID, ResourceVersion: v.ResourceVersion}
}

// provision makes the object of a volume for the claim. Its directory is made when the two are bound: what is not bound
// yet holds no data, so that an object without a directory never means that data is lost.
func (k *claimKeeper) provision(ctx context.Context, claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	name := "pvc-" + string(claim.UID)
	if k.server.Directories == nil {
		return fmt.Errorf("provision volume %s: there is no place for directories", name)
	}
	v := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{claims.VolumeProtection}, Annotations: map[string]string{
			volumehelpers.AnnDynamicallyProvisioned: claims.Provisioner, volumehelpers.AnnBoundByController: "yes"}},
		Spec: v1.PersistentVolumeSpec{
			Capacity:         v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			AccessModes:      claim.Spec.AccessModes,
			StorageClassName: class.Name, VolumeMode: claim.Spec.VolumeMode,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef: &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion},
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: k.server.Directories.Path(name)}},
			NodeAffinity:           anyLinux(),
		},
	}
	if class.ReclaimPolicy != nil {
		v.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	if v.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
		v.Finalizers = append(v.Finalizers, claims.DirectoryProtection)
	}
	if err := k.server.createVolume(ctx, v); err != nil {
		return err
	}
	k.server.event(claimReference(claim), claim.Namespace, v1.EventTypeNormal, "ProvisioningSucceeded",
		fmt.Sprintf("Successfully provisioned volume %s using %s", name, claims.Provisioner))
	return nil
}

// anyLinux is the node affinity that a local volume must have. It says nothing, so that a host may be given another name.
func anyLinux() *v1.VolumeNodeAffinity {
	return &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelOSStable, Operator: v1.NodeSelectorOpIn, Values: []string{"linux"}}}}}}}
}

// request asks another provisioner for a volume.
func (k *claimKeeper) request(ctx context.Context, claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if claim.Annotations[volumehelpers.AnnStorageProvisioner] == class.Provisioner {
		return nil
	}
	next := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, volumehelpers.AnnStorageProvisioner, class.Provisioner)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, volumehelpers.AnnBetaStorageProvisioner, class.Provisioner)
	return k.server.putClaim(ctx, next)
}

// bind writes down that the two belong together, the volume first.
func (k *claimKeeper) bind(ctx context.Context, claim *v1.PersistentVolumeClaim, volume *v1.PersistentVolume) error {
	if claims.Provisioned(volume) && volume.Status.Phase != v1.VolumeBound && k.server.Directories != nil {
		if err := k.server.Directories.Make(volume.Name); err != nil {
			k.tell(claimPrefix+claim.Namespace+"/"+claim.Name, claimReference(claim), claim.Namespace, claims.Event{
				Type: v1.EventTypeWarning, Reason: "ProvisioningFailed", Message: err.Error()})
			return err
		}
	}
	next, dirty, err := volumehelpers.GetBindVolumeToClaim(volume, claim)
	if err != nil {
		return fmt.Errorf("bind claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	if dirty {
		if err := k.server.putVolume(ctx, next); err != nil {
			return err
		}
		if volume, err = k.read.volume(volumePrefix + volume.Name); err != nil || volume == nil {
			return err
		}
	}
	if err := k.setVolumePhase(ctx, volume, v1.VolumeBound, ""); err != nil {
		return err
	}
	bound := claim.DeepCopy()
	if claim.Spec.VolumeName != volume.Name {
		bound.Spec.VolumeName = volume.Name
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, volumehelpers.AnnBoundByController, "yes")
	}
	if by := volume.Annotations[volumehelpers.AnnDynamicallyProvisioned]; by == claims.Provisioner {
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, volumehelpers.AnnStorageProvisioner, by)
	}
	if !metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&bound.ObjectMeta, volumehelpers.AnnBindCompleted, "yes")
		if err := k.server.putClaim(ctx, bound); err != nil {
			return err
		}
		if claim, err = k.read.claim(claimPrefix + claim.Namespace + "/" + claim.Name); err != nil || claim == nil {
			return err
		}
	}
	return k.setClaimStatus(ctx, claim, v1.ClaimBound, volume)
}

// grow notes that a volume holds what its claim asks for. Nothing holds a directory to its size.
func (k *claimKeeper) grow(ctx context.Context, claim *v1.PersistentVolumeClaim, volume *v1.PersistentVolume) error {
	next := volume.DeepCopy()
	if size := claim.Spec.Resources.Requests[v1.ResourceStorage]; size.Cmp(next.Spec.Capacity[v1.ResourceStorage]) > 0 {
		next.Spec.Capacity[v1.ResourceStorage] = size
		if err := k.server.putVolume(ctx, next); err != nil {
			return err
		}
	}
	grown := claim.DeepCopy()
	grown.Status.Capacity = next.Spec.Capacity
	return k.server.putClaimStatus(ctx, grown)
}

// setClaimStatus writes the phase of a claim, and what it has of the volume, if that has changed.
func (k *claimKeeper) setClaimStatus(ctx context.Context, claim *v1.PersistentVolumeClaim, phase v1.PersistentVolumeClaimPhase, volume *v1.PersistentVolume) error {
	next := claim.DeepCopy()
	next.Status.Phase = phase
	if volume == nil {
		next.Status.AccessModes, next.Status.Capacity = nil, nil
	} else {
		next.Status.AccessModes = volume.Spec.AccessModes
		if claim.Status.Phase != phase {
			next.Status.Capacity = volume.Spec.Capacity
		}
	}
	if same := claim.Status.Phase == phase && slices.Equal(claim.Status.AccessModes, next.Status.AccessModes) &&
		(volume != nil || len(claim.Status.Capacity) == 0); same {
		return nil
	}
	return k.server.putClaimStatus(ctx, next)
}

func (k *claimKeeper) setVolumePhase(ctx context.Context, v *v1.PersistentVolume, phase v1.PersistentVolumePhase, message string) error {
	if v.Status.Phase == phase {
		return nil
	}
	next := v.DeepCopy()
	next.Status.Phase, next.Status.Message = phase, message
	return k.server.putVolumeStatus(ctx, next)
}

// lookAtVolume does what is to be done with one volume.
func (k *claimKeeper) lookAtVolume(ctx context.Context, key string) error {
	v, err := k.read.volume(key)
	if err != nil || v == nil {
		return err
	}
	kind, _, name := k.server.stored.of(key)
	deleted := claims.Provisioned(v) && v.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete
	protected, holds := slices.Contains(v.Finalizers, claims.VolumeProtection), slices.Contains(v.Finalizers, claims.DirectoryProtection)
	switch {
	case v.DeletionTimestamp != nil && protected && v.Status.Phase != v1.VolumeBound:
		return kind.update(ctx, "", name, v.UID, without(claims.VolumeProtection))
	case v.DeletionTimestamp == nil && !protected:
		return kind.update(ctx, "", name, v.UID, with(claims.VolumeProtection))
	case v.DeletionTimestamp == nil && deleted && !holds:
		return kind.update(ctx, "", name, v.UID, with(claims.DirectoryProtection))
	case claims.Provisioned(v) && !deleted && holds:
		return kind.update(ctx, "", name, v.UID, without(claims.DirectoryProtection))
	}
	var claim *v1.PersistentVolumeClaim
	ref := v.Spec.ClaimRef
	if ref != nil {
		if claim, err = k.read.claim(claimPrefix + ref.Namespace + "/" + ref.Name); err != nil {
			return err
		}
	}
	switch claims.FateOf(v, claim) {
	case claims.Free:
		return k.setVolumePhase(ctx, v, v1.VolumeAvailable, "")
	case claims.Taken:
		return k.setVolumePhase(ctx, v, v1.VolumeBound, "")
	case claims.Finish:
		k.claims[claimPrefix+ref.Namespace+"/"+ref.Name] = true
	case claims.Unbind:
		return k.server.putVolume(ctx, claims.Unbound(v))
	case claims.Release:
		if v.Status.Phase == v1.VolumeReleased || v.Status.Phase == v1.VolumeFailed {
			return nil
		}
		return k.setVolumePhase(ctx, v, v1.VolumeReleased, "")
	}
	return nil
}

// lookAtPod makes the claims of a pod's ephemeral volumes (upstream: pkg/controller/volume/ephemeral).
func (k *claimKeeper) lookAtPod(ctx context.Context, key string) error {
	_, namespace, name := k.server.stored.of(key)
	pod, ok := k.server.Store.Pod(namespace, name)
	if !ok || pod.DeletionTimestamp != nil || !k.server.mayRun(pod) {
		return nil
	}
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.Ephemeral == nil {
			continue
		}
		claim, err := k.read.claim(claimPrefix + namespace + "/" + claimName(pod, vol))
		if err == nil && claim == nil {
			err = k.server.createClaim(ctx, claims.OfVolume(pod, vol))
		} else if err == nil {
			err = ephemeral.VolumeIsForPod(pod, claim)
		}
		if err != nil {
			k.tell(key, podReference(pod, ""), namespace, claims.Event{Type: v1.EventTypeWarning, Reason: "FailedBinding",
				Message: fmt.Sprintf("ephemeral volume %s: %v", vol.Name, err)})
			return nil
		}
	}
	return nil
}

// objectCache reads objects of the store, each once for each of its revisions. What it returns is not to be changed.
type objectCache struct {
	server *Server
	known  map[string]knownObject
}

type knownObject struct {
	revision int64
	object   metav1.Object
}

func (c *objectCache) forget(key string) { delete(c.known, key) }

// get is the object at key; nil if there is none.
func (c *objectCache) get(key string, version schema.GroupVersion) (metav1.Object, error) {
	entry, ok := c.server.Store.Get(key)
	if !ok {
		return nil, nil
	}
	return c.decode(entry, version)
}

func (c *objectCache) decode(entry store.Entry, version schema.GroupVersion) (metav1.Object, error) {
	if known, ok := c.known[entry.Key]; ok && known.revision == entry.Revision {
		return known.object, nil
	}
	obj, _, err := legacyscheme.Codecs.UniversalDecoder(version).Decode(entry.Data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.TrimPrefix(entry.Key, "/"), err)
	}
	object, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("read %s: a %T", strings.TrimPrefix(entry.Key, "/"), obj)
	}
	object.SetResourceVersion(strconv.FormatInt(entry.Revision, 10))
	c.known[entry.Key] = knownObject{entry.Revision, object}
	return object, nil
}

func (c *objectCache) claim(key string) (*v1.PersistentVolumeClaim, error) {
	object, err := c.get(key, v1.SchemeGroupVersion)
	claim, _ := object.(*v1.PersistentVolumeClaim)
	return claim, err
}

func (c *objectCache) volume(key string) (*v1.PersistentVolume, error) {
	object, err := c.get(key, v1.SchemeGroupVersion)
	v, _ := object.(*v1.PersistentVolume)
	return v, err
}

func (c *objectCache) volumes() (all []*v1.PersistentVolume, err error) {
	entries, _, _ := c.server.Store.List(volumePrefix, "", 0)
	for _, e := range entries {
		object, err := c.decode(e, v1.SchemeGroupVersion)
		if err != nil {
			return nil, err
		}
		if v, ok := object.(*v1.PersistentVolume); ok {
			all = append(all, v)
		}
	}
	return all, nil
}

func (c *objectCache) class(name string) (*storagev1.StorageClass, error) {
	object, err := c.get(classPrefix+name, storagev1.SchemeGroupVersion)
	class, _ := object.(*storagev1.StorageClass)
	return class, err
}

func (c *objectCache) classes() (all []*storagev1.StorageClass, err error) {
	entries, _, _ := c.server.Store.List(classPrefix, "", 0)
	for _, e := range entries {
		object, err := c.decode(e, storagev1.SchemeGroupVersion)
		if err != nil {
			return nil, err
		}
		if class, ok := object.(*storagev1.StorageClass); ok {
			all = append(all, class)
		}
	}
	return all, nil
}
