package api_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api"
	"podd/volumes"
)

// disks is volumes.Directories that may fail, or tell when it is asked.
type disks struct {
	*volumes.Directories
	dir    string
	mu     sync.Mutex
	before func(what, name string) error
}

func newDisks(t testing.TB) *disks {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "claims")
	d, err := volumes.OpenDirectories(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &disks{Directories: d, dir: dir}
}

func (d *disks) call(what, name string) error {
	d.mu.Lock()
	f := d.before
	d.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(what, name)
}

func (d *disks) set(f func(what, name string) error) {
	d.mu.Lock()
	d.before = f
	d.mu.Unlock()
}

func (d *disks) Make(name string) error {
	if err := d.call("make", name); err != nil {
		return err
	}
	if err := d.Directories.Make(name); err != nil {
		return err
	}
	return d.call("made", name)
}

func (d *disks) Remove(ctx context.Context, name string) error {
	if err := d.call("remove", name); err != nil {
		return err
	}
	if err := d.Directories.Remove(ctx, name); err != nil {
		return err
	}
	return d.call("removed", name)
}

func (d *disks) names(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func withDisks(d *disks) func(*api.Config) { return func(c *api.Config) { c.Directories = d } }

func serveClaims(t testing.TB) (*env, *disks) {
	t.Helper()
	d := newDisks(t)
	return serveIn(t, t.TempDir(), withDisks(d)), d
}

func claimOf(name string, change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PersistentVolumeClaimSpec{
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Resources:   v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")}}}}
	for _, f := range change {
		f(c)
	}
	return c
}

func inClass(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func (e *env) claim(t testing.TB, c *v1.PersistentVolumeClaim) *v1.PersistentVolumeClaim {
	t.Helper()
	made, err := e.client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (e *env) deleteClaim(t testing.TB, name string) {
	t.Helper()
	if err := e.client.CoreV1().PersistentVolumeClaims("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// claimUntil waits until it is true of the claim; of one that is gone, nil.
func (e *env) claimUntil(t testing.TB, name, what string, ok func(*v1.PersistentVolumeClaim) bool) (found *v1.PersistentVolumeClaim) {
	t.Helper()
	e.until(t, "claim "+name+" "+what, func() bool {
		c, err := e.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			c, err = nil, nil
		}
		found = c
		return err == nil && ok(c)
	})
	return found
}

func isBound(c *v1.PersistentVolumeClaim) bool { return c != nil && c.Status.Phase == v1.ClaimBound }
func isGone(c *v1.PersistentVolumeClaim) bool  { return c == nil }

func (e *env) volumeUntil(t testing.TB, name, what string, ok func(*v1.PersistentVolume) bool) (found *v1.PersistentVolume) {
	t.Helper()
	e.until(t, "volume "+name+" "+what, func() bool {
		v, err := e.client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			v, err = nil, nil
		}
		found = v
		return err == nil && ok(v)
	})
	return found
}

func inPhase(phase v1.PersistentVolumePhase) func(*v1.PersistentVolume) bool {
	return func(v *v1.PersistentVolume) bool { return v != nil && v.Status.Phase == phase }
}

func noVolume(v *v1.PersistentVolume) bool { return v == nil }

// nothing waits until no volume and no directory is left.
func (e *env) nothing(t testing.TB, d *disks) {
	t.Helper()
	e.until(t, "no volume", func() bool { return len(e.keys("/persistentvolumes/")) == 0 })
	if names := d.names(t); len(names) != 0 {
		t.Errorf("directories without an object: %v", names)
	}
}

func using(name, claim string) *v1.Pod {
	p := pod(name)
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return p
}

func (e *env) finish(t testing.TB, name string) {
	t.Helper()
	p, ok := e.store.Pod("default", name)
	if !ok {
		t.Fatalf("no pod %s", name)
	}
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.store.FinishPod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
}

// A pod that is made before its claim starts with it, and keeps it as long as it is there.
func TestClaimOfTheDefaultClass(t *testing.T) {
	e, d := serveClaims(t)
	e.create(t, using("p", "c"))
	e.scheduled(t, "p", "", v1.PodReasonUnschedulable, `0/1 nodes are available: persistentvolumeclaim "c" not found.`)
	c := e.claim(t, claimOf("c"))
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "standard" || len(c.Finalizers) != 1 {
		t.Errorf("the new claim: %+v", c)
	}
	e.scheduled(t, "p", "host", "", "")
	c = e.claimUntil(t, "c", "bound", isBound)
	if c.Status.Capacity.Storage().String() != "1Mi" || len(c.Status.AccessModes) != 1 || c.Spec.VolumeName != "pvc-"+string(c.UID) {
		t.Errorf("the bound claim: %+v", c)
	}
	v := e.volumeUntil(t, c.Spec.VolumeName, "bound", inPhase(v1.VolumeBound))
	if v.Spec.Local == nil || v.Spec.Local.Path != filepath.Join(d.dir, v.Name) || v.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		t.Errorf("the volume: %+v", v.Spec)
	}
	if names := d.names(t); len(names) != 1 || names[0] != v.Name {
		t.Errorf("directories %v", names)
	}
	e.eventually(t, "c", "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name+" using podd.dev/local")
	if err := os.WriteFile(filepath.Join(d.dir, v.Name, "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.deleteClaim(t, "c")
	if err := e.client.CoreV1().PersistentVolumes().Delete(t.Context(), v.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.create(t, using("late", "c"))
	e.scheduled(t, "late", "", v1.PodReasonUnschedulable, `0/1 nodes are available: persistentvolumeclaim "c" is being deleted.`)
	e.claimUntil(t, "c", "kept by the pod", func(c *v1.PersistentVolumeClaim) bool { return isBound(c) && c.DeletionTimestamp != nil })
	if _, err := os.Stat(filepath.Join(d.dir, v.Name, "data")); err != nil {
		t.Error(err)
	}
	e.finish(t, "p")
	e.claimUntil(t, "c", "gone", isGone)
	e.nothing(t, d)
	e.scheduled(t, "late", "", v1.PodReasonUnschedulable, `0/1 nodes are available: persistentvolumeclaim "c" not found.`)
}

// podd dies at every step of making and deleting a directory: after the next start there is an object for each directory,
// and a directory for each object.
func TestClaimAfterACrash(t *testing.T) {
	for _, at := range []string{"make", "made", "remove", "removed"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			e, d := serveClaims(t)
			hit := make(chan struct{})
			d.set(func(what, name string) error {
				if what != at {
					return nil
				}
				d.set(func(string, string) error { return errors.New("the end") })
				close(hit)
				return errors.New("the end")
			})
			e.claim(t, claimOf("c"))
			if strings.HasPrefix(at, "remove") {
				e.claimUntil(t, "c", "bound", isBound)
				e.deleteClaim(t, "c")
			}
			<-hit
			next := e.crash(t, withDisks(d))
			e.stop()
			d.set(nil)
			e = next
			if !strings.HasPrefix(at, "remove") {
				c := e.claimUntil(t, "c", "bound", isBound)
				if names := d.names(t); len(names) != 1 || names[0] != c.Spec.VolumeName {
					t.Errorf("directories %v, the claim has %s", names, c.Spec.VolumeName)
				}
				e.deleteClaim(t, "c")
			}
			e.claimUntil(t, "c", "gone", isGone)
			e.nothing(t, d)
		})
	}
}

// A directory that cannot be deleted is told of, and deleted when it can be.
func TestVolumeFailedDelete(t *testing.T) {
	e, d := serveClaims(t)
	e.claim(t, claimOf("c"))
	c := e.claimUntil(t, "c", "bound", isBound)
	d.set(func(what, name string) error {
		if what == "remove" {
			return errors.New("x: is a mount")
		}
		return nil
	})
	e.deleteClaim(t, "c")
	v := e.volumeUntil(t, c.Spec.VolumeName, "failed", inPhase(v1.VolumeFailed))
	if v.Status.Message != "x: is a mount" {
		t.Errorf("message %q", v.Status.Message)
	}
	e.eventually(t, v.Name, "VolumeFailedDelete", "x: is a mount")
	d.set(nil)
	e.nothing(t, d)
}

// What is retained stays when its claim goes, and another claim gets it when an admin lets it.
func TestRetain(t *testing.T) {
	e, d := serveClaims(t)
	retain, immediate := v1.PersistentVolumeReclaimRetain, storagev1.VolumeBindingImmediate
	_, err := e.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "kept"},
		Provisioner: "podd.dev/local", ReclaimPolicy: &retain, VolumeBindingMode: &immediate}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.claim(t, claimOf("a", inClass("kept")))
	name := e.claimUntil(t, "a", "bound", isBound).Spec.VolumeName
	e.deleteClaim(t, "a")
	e.volumeUntil(t, name, "released", inPhase(v1.VolumeReleased))
	e.claim(t, claimOf("a", inClass("kept"))) // of the same name, and another
	if other := e.claimUntil(t, "a", "bound", isBound).Spec.VolumeName; other == name {
		t.Error("a claim got the volume of an earlier one")
	}
	patch := func(patch string) {
		t.Helper()
		if _, err := e.client.CoreV1().PersistentVolumes().Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"spec":{"claimRef":null}}`)
	e.volumeUntil(t, name, "available", inPhase(v1.VolumeAvailable))
	e.claim(t, claimOf("b", inClass("kept")))
	if got := e.claimUntil(t, "b", "bound", isBound).Spec.VolumeName; got != name {
		t.Errorf("claim b has %s, and not the volume that is free", got)
	}
	patch(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	e.volumeUntil(t, name, "deletable", func(v *v1.PersistentVolume) bool { return v != nil && len(v.Finalizers) == 2 })
	e.deleteClaim(t, "b")
	e.volumeUntil(t, name, "gone", noVolume)
	if _, err := os.Stat(filepath.Join(d.dir, name)); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
}

func TestFirstConsumer(t *testing.T) {
	e, d := serveClaims(t)
	waits := storagev1.VolumeBindingWaitForFirstConsumer
	for name, provisioner := range map[string]string{"later": "podd.dev/local", "static": "kubernetes.io/no-provisioner"} {
		_, err := e.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name},
			Provisioner: provisioner, VolumeBindingMode: &waits}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	e.claim(t, claimOf("c", inClass("later")))
	e.eventually(t, "c", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	e.create(t, using("p", "c"))
	e.scheduled(t, "p", "host", "", "")
	e.claimUntil(t, "c", "bound", isBound)
	e.claim(t, claimOf("s", inClass("static")))
	e.create(t, using("q", "s"))
	e.scheduled(t, "q", "", v1.PodReasonUnschedulable, "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.")
	e.volume(t, "disk", "static")
	e.scheduled(t, "q", "host", "", "")
	if got := e.claimUntil(t, "s", "bound", isBound).Spec.VolumeName; got != "disk" {
		t.Errorf("claim s has %s", got)
	}
	if names := d.names(t); len(names) != 1 {
		t.Errorf("directories %v", names)
	}
}

func (e *env) volume(t testing.TB, name, class string, change ...func(*v1.PersistentVolume)) {
	t.Helper()
	v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PersistentVolumeSpec{StorageClassName: class,
		AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
		PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/data/" + name}}}}
	for _, f := range change {
		f(v)
	}
	if _, err := e.client.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// The claims of ephemeral volumes are made for a pod and go with it. One of that name that is another's is left alone.
func TestEphemeralVolumes(t *testing.T) {
	e, d := serveClaims(t)
	ephemeral := func(name string) *v1.Pod {
		p := pod(name)
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{
			VolumeClaimTemplate: &v1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"of": name}}, Spec: claimOf("").Spec}}}}}
		return p
	}
	made := e.create(t, ephemeral("p"))
	e.scheduled(t, "p", "host", "", "")
	c := e.claimUntil(t, "p-v", "bound", isBound)
	if len(c.OwnerReferences) != 1 || c.OwnerReferences[0].UID != made.UID || !*c.OwnerReferences[0].Controller || c.Labels["of"] != "p" {
		t.Errorf("the claim: %+v", c.ObjectMeta)
	}
	list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=FailedScheduling"})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("told of what podd was about to do: %v, %v", list.Items, err)
	}
	e.finish(t, "p")
	e.claimUntil(t, "p-v", "gone", isGone)
	e.nothing(t, d)
	e.claim(t, claimOf("q-v"))
	e.create(t, ephemeral("q"))
	e.scheduled(t, "q", "", v1.PodReasonUnschedulable, "0/1 nodes are available: PVC default/q-v was not created for pod default/q (pod is not owner).")
	e.eventually(t, "q", "FailedBinding", "ephemeral volume v: PVC default/q-v was not created for pod default/q (pod is not owner)")
	e.deleteClaim(t, "q-v")
	e.scheduled(t, "q", "host", "", "")
}

func TestReadWriteOncePod(t *testing.T) {
	e, _ := serveClaims(t)
	e.claim(t, claimOf("c", func(c *v1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	}))
	e.create(t, using("p", "c"))
	e.scheduled(t, "p", "host", "", "")
	e.create(t, using("q", "c"))
	e.scheduled(t, "q", "", v1.PodReasonUnschedulable, "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with "+
		"ReadWriteOncePod access mode already in-use by another pod.")
	e.finish(t, "p")
	e.scheduled(t, "q", "host", "", "")
}

func TestExpand(t *testing.T) {
	e, _ := serveClaims(t)
	grow := func(name string) error {
		_, err := e.client.CoreV1().PersistentVolumeClaims("default").Patch(t.Context(), name, types.MergePatchType,
			[]byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{})
		return err
	}
	e.claim(t, claimOf("c"))
	name := e.claimUntil(t, "c", "bound", isBound).Spec.VolumeName
	if err := grow("c"); err != nil {
		t.Fatal(err)
	}
	e.claimUntil(t, "c", "larger", func(c *v1.PersistentVolumeClaim) bool { return c.Status.Capacity.Storage().String() == "2Gi" })
	e.volumeUntil(t, name, "larger", func(v *v1.PersistentVolume) bool { return v.Spec.Capacity.Storage().String() == "2Gi" })
	e.volume(t, "disk", "")
	e.claim(t, claimOf("s", inClass("")))
	e.claimUntil(t, "s", "bound", isBound)
	if err := grow("s"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "only dynamically provisioned pvc can be resized") {
		t.Errorf("a larger claim to a volume of the host: %v", err)
	}
}

// Volumes and claims that name each other belong together, and nobody else gets them; one that is deleted by hand goes
// when its claim does.
func TestStaticBinding(t *testing.T) {
	e, _ := serveClaims(t)
	e.volume(t, "reserved", "", func(v *v1.PersistentVolume) {
		v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: "mine"}
	})
	e.volumeUntil(t, "reserved", "available", inPhase(v1.VolumeAvailable))
	e.claim(t, claimOf("other", inClass("")))
	e.eventually(t, "other", "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	e.claim(t, claimOf("mine", inClass("")))
	e.claimUntil(t, "mine", "bound", isBound)
	e.volume(t, "asked", "")
	e.claimUntil(t, "other", "bound", isBound)
	e.claim(t, claimOf("late", inClass(""), func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName = "asked" }))
	e.eventually(t, "late", "FailedBinding", `volume "asked" already bound to a different claim.`)
	if err := e.client.CoreV1().PersistentVolumes().Delete(t.Context(), "asked", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.deleteClaim(t, "other")
	e.volumeUntil(t, "asked", "gone", noVolume)
	e.volume(t, "asked", "", func(v *v1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimDelete })
	e.claimUntil(t, "late", "bound", isBound)
	e.deleteClaim(t, "late")
	e.volumeUntil(t, "asked", "failed", inPhase(v1.VolumeFailed))
}

func TestClaimRefusals(t *testing.T) {
	e, _ := serveClaims(t)
	for path, c := range map[string]struct{ body, want string }{
		"/api/v1/persistentvolumes": {`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"x"},"spec":{"capacity":{"storage":"1Mi"},` +
			`"accessModes":["ReadWriteOnce"],"fc":{"targetWWNs":["w"],"lun":0}}}`,
			"spec.fc: Forbidden: not supported by podd (of the sources of volumes it has hostPath, local, nfs and iscsi)"},
		"/api/v1/persistentvolumes?dryRun=All": {`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"x"},"spec":{"capacity":{"storage":"1Mi"},` +
			`"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"},"mountOptions":["ro"]}}`,
			"spec.mountOptions: Forbidden: not supported by podd (hostPath and local are not mounted, but bound)"},
		"/api/v1/namespaces/default/persistentvolumeclaims": {`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"x"},"spec":` +
			`{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}},"dataSource":{"kind":"PersistentVolumeClaim","name":"y"}}}`,
			"spec.dataSource: Forbidden: not supported by podd"},
		"/apis/storage.k8s.io/v1/storageclasses": {`{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"x"},"provisioner":"podd.dev/local","parameters":{"a":"b"}}`,
			"parameters[a]: Forbidden: not supported by podd.dev/local"},
	} {
		status, _, text := e.ask(t, "POST", path, map[string]string{"Content-Type": "application/json"}, c.body)
		if status != 422 || !strings.Contains(string(text), c.want) {
			t.Errorf("%s: %d %s; want %s", path, status, text, c.want)
		}
	}
}

// A namespace goes with its claims, and they go after the pods.
func TestNamespaceWithClaims(t *testing.T) {
	e, d := serveClaims(t)
	e.namespace(t, "mine")
	client := e.client.CoreV1()
	if _, err := client.PersistentVolumeClaims("mine").Create(t.Context(), claimOf("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Pods("mine").Create(t.Context(), using("p", "c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the pod is placed", func() bool { p, ok := e.store.Pod("mine", "p"); return ok && p.Spec.NodeName != "" })
	e.deleteNamespace(t, "mine")
	e.says(t, "mine", v1.NamespaceContentRemaining, "SomeResourcesRemain", "Some resources are remaining: pods. has 1 resource instances")
	if names := d.names(t); len(names) != 1 {
		t.Errorf("directories %v", names)
	}
	p, _ := e.store.Pod("mine", "p")
	if err := e.store.FinishPod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	e.gone(t, "mine")
	e.nothing(t, d)
}
