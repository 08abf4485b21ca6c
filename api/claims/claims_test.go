package claims

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

func aClaim(change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	class := "static"
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u"}, Spec: v1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("5Mi")}}}}
	for _, f := range change {
		f(c)
	}
	return c
}

func aVolume(name, size string, change ...func(*v1.PersistentVolume)) *v1.PersistentVolume {
	v := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": name}}, Spec: v1.PersistentVolumeSpec{
		StorageClassName: "static", AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadOnlyMany},
		Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)},
		PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/x"}}},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable}}
	for _, f := range change {
		f(v)
	}
	return v
}

// ofPodd makes a volume one of podd's.
func ofPodd(v *v1.PersistentVolume) {
	metav1.SetMetaDataAnnotation(&v.ObjectMeta, volumehelpers.AnnDynamicallyProvisioned, Provisioner)
}

// has makes a claim say that it has so much.
func has(size string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) {
		c.Status.Capacity = v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}
	}
}

// taken gives a volume to the claim of a name.
func taken(name string, uid types.UID) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) {
		v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "ns", Name: name, UID: uid}
	}
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode, change ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	for _, f := range change {
		f(c)
	}
	return c
}

func asDefault(c *storagev1.StorageClass) { c.Annotations = map[string]string{isDefault: "true"} }

func ofClass(name string) func(*v1.PersistentVolumeClaim) {
	return func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func onHost(labels ...string) func(*v1.PersistentVolume) {
	return func(v *v1.PersistentVolume) {
		v.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: v1.NodeSelectorOpIn, Values: labels}}}}}}
	}
}

var host = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host", Labels: map[string]string{"kubernetes.io/hostname": "host"}}}

const (
	now  = storagev1.VolumeBindingImmediate
	wait = storagev1.VolumeBindingWaitForFirstConsumer
)

func TestNext(t *testing.T) {
	block := v1.PersistentVolumeBlock
	boundTo := func(volume string) func(*v1.PersistentVolumeClaim) {
		return func(c *v1.PersistentVolumeClaim) {
			c.Spec.VolumeName, c.Status.Phase = volume, v1.ClaimBound
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumehelpers.AnnBindCompleted, "yes")
		}
	}
	named := func(volume string) func(*v1.PersistentVolumeClaim) {
		return func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
	}
	noClass := func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }
	placed := func(p *v1.Pod) { p.Spec.NodeName = "host" }
	aPod := func(name string, change ...func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	own, static := class("own", Provisioner, now), class("static", volumehelpers.NotSupportedProvisioner, now)
	for name, c := range map[string]struct {
		claim   *v1.PersistentVolumeClaim
		volumes []*v1.PersistentVolume
		classes []*storagev1.StorageClass
		pods    []*v1.Pod
		op      Op
		volume  string // or class
		reason  string
	}{
		"the smallest that does": {claim: aClaim(), op: Bind, volume: "b",
			volumes: []*v1.PersistentVolume{aVolume("a", "9Mi"), aVolume("b", "6Mi"), aVolume("small", "4Mi"), aVolume("d", "7Mi")}},
		"another class": {claim: aClaim(ofClass("own")), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi")},
			classes: []*storagev1.StorageClass{own}, op: Provision, volume: "own"},
		"another mode": {claim: aClaim(), classes: []*storagev1.StorageClass{static}, reason: "FailedBinding",
			volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", func(v *v1.PersistentVolume) { v.Spec.VolumeMode = &block })}},
		"another access": {claim: aClaim(), classes: []*storagev1.StorageClass{static}, reason: "FailedBinding",
			volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", func(v *v1.PersistentVolume) { v.Spec.AccessModes = v.Spec.AccessModes[1:] })}},
		"another node": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", onHost("other"))},
			classes: []*storagev1.StorageClass{static}, reason: "FailedBinding"},
		"this node": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", onHost("other", "host"))}, op: Bind, volume: "a"},
		"selector": {claim: aClaim(func(c *v1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "b"}}
		}), volumes: []*v1.PersistentVolume{aVolume("a", "5Mi"), aVolume("b", "9Mi")}, op: Bind, volume: "b"},
		"reserved for it": {claim: aClaim(), op: Bind, volume: "b",
			volumes: []*v1.PersistentVolume{aVolume("a", "5Mi"), aVolume("b", "9Mi", taken("c", ""))}},
		"reserved for another": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "5Mi", taken("d", ""))},
			classes: []*storagev1.StorageClass{static}, reason: "FailedBinding"},
		"released": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "5Mi", taken("c", "earlier"), func(v *v1.PersistentVolume) { v.Status.Phase = v1.VolumeReleased })},
			classes: []*storagev1.StorageClass{static}, reason: "FailedBinding"},
		"names its volume": {claim: aClaim(named("b")), volumes: []*v1.PersistentVolume{aVolume("a", "5Mi"), aVolume("b", "9Mi")}, op: Bind, volume: "b"},
		"names none":       {claim: aClaim(named("b")), reason: "FailedBinding"},
		"names one that is too small": {claim: aClaim(named("b")), volumes: []*v1.PersistentVolume{aVolume("b", "1Mi")},
			reason: "VolumeMismatch"},
		"names one of another": {claim: aClaim(named("b")), volumes: []*v1.PersistentVolume{aVolume("b", "9Mi", taken("d", "x"))}, reason: "FailedBinding"},
		"no class, and a default": {claim: aClaim(noClass), classes: []*storagev1.StorageClass{class("d", Provisioner, now, asDefault)},
			op: SetClass, volume: "d"},
		"no class":      {claim: aClaim(noClass), classes: []*storagev1.StorageClass{own}, reason: "FailedBinding"},
		"empty class":   {claim: aClaim(ofClass("")), classes: []*storagev1.StorageClass{class("d", Provisioner, now, asDefault)}, reason: "FailedBinding"},
		"no such class": {claim: aClaim(ofClass("none")), reason: "ProvisioningFailed"},
		"another's provisioner": {claim: aClaim(ofClass("theirs")), classes: []*storagev1.StorageClass{class("theirs", "example.com/disks", now)},
			op: Request, volume: "theirs", reason: "ExternalProvisioning"},
		"a block device": {claim: aClaim(ofClass("own"), func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block }),
			classes: []*storagev1.StorageClass{own}, reason: "ProvisioningFailed"},
		"a selector of a directory": {claim: aClaim(ofClass("own"), func(c *v1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }),
			classes: []*storagev1.StorageClass{own}, reason: "ProvisioningFailed"},
		"not on this host": {claim: aClaim(ofClass("own")), reason: "ProvisioningFailed",
			classes: []*storagev1.StorageClass{class("own", Provisioner, now, func(c *storagev1.StorageClass) {
				c.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: "kubernetes.io/hostname", Values: []string{"other"}}}}}
			})}},
		"waits for a pod": {claim: aClaim(ofClass("own")), classes: []*storagev1.StorageClass{class("own", Provisioner, wait)}, reason: "WaitForFirstConsumer"},
		"waits for its pod": {claim: aClaim(ofClass("own")), classes: []*storagev1.StorageClass{class("own", Provisioner, wait)},
			pods: []*v1.Pod{aPod("p")}, reason: "WaitForPodScheduled"},
		"its pod was placed": {claim: aClaim(ofClass("own"), func(c *v1.PersistentVolumeClaim) {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumehelpers.AnnSelectedNode, "host")
		}), classes: []*storagev1.StorageClass{class("own", Provisioner, wait)}, pods: []*v1.Pod{aPod("p")}, op: Provision, volume: "own"},
		"its pod was placed past all scheduling": {claim: aClaim(ofClass("own")), classes: []*storagev1.StorageClass{class("own", Provisioner, wait)},
			pods: []*v1.Pod{aPod("p", placed)}, op: Provision, volume: "own"},
		"waits though a volume would do": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi")},
			classes: []*storagev1.StorageClass{class("static", Provisioner, wait)}, reason: "WaitForFirstConsumer"},
		"does not wait for what is reserved": {claim: aClaim(), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", taken("c", ""))},
			classes: []*storagev1.StorageClass{class("static", Provisioner, wait)}, op: Bind, volume: "a"},
		"bound":                                {claim: aClaim(boundTo("a")), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", taken("c", "u"))}, op: Bind, volume: "a"},
		"bound to nothing":                     {claim: aClaim(boundTo("a")), op: Lose, reason: "ClaimLost"},
		"bound to what another has":            {claim: aClaim(boundTo("a")), volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", taken("d", "x"))}, op: Lose, reason: "ClaimMisbound"},
		"asks for more":                        {claim: aClaim(boundTo("a"), has("4Mi")), op: Grow, volume: "a", volumes: []*v1.PersistentVolume{aVolume("a", "4Mi", taken("c", "u"), ofPodd)}},
		"is said to have less than its volume": {claim: aClaim(boundTo("a"), has("4Mi")), op: Grow, volume: "a", volumes: []*v1.PersistentVolume{aVolume("a", "5Mi", taken("c", "u"), ofPodd)}},
		"has what its volume has":              {claim: aClaim(boundTo("a"), has("9Mi")), op: Bind, volume: "a", volumes: []*v1.PersistentVolume{aVolume("a", "9Mi", taken("c", "u"), ofPodd)}},
		"has less than it asks for":            {claim: aClaim(boundTo("a")), op: Bind, volume: "a", volumes: []*v1.PersistentVolume{aVolume("a", "4Mi", taken("c", "u"))}},
	} {
		got := Next(c.claim, World{Node: host, Volumes: c.volumes, Classes: c.classes, Pods: c.pods})
		what := ""
		switch {
		case got.Volume != nil:
			what = got.Volume.Name
		case got.Class != nil:
			what = got.Class.Name
		}
		if got.Op != c.op || what != c.volume || got.Event.Reason != c.reason {
			t.Errorf("%s: op %d of %q, told %+v; want %d of %q, %s", name, got.Op, what, got.Event, c.op, c.volume, c.reason)
		}
	}
}

func TestDefault(t *testing.T) {
	at := func(second int64) func(*storagev1.StorageClass) {
		return func(c *storagev1.StorageClass) { c.CreationTimestamp = metav1.NewTime(time.Unix(second, 0)) }
	}
	all := []*storagev1.StorageClass{class("a", "x", now, asDefault, at(1)), class("c", "x", now, asDefault, at(2)), class("b", "x", now, asDefault, at(2)), class("z", "x", now, at(3))}
	if got := Default(all); got == nil || got.Name != "b" {
		t.Errorf("default %v, want b: the newest, and of those the first", got)
	}
	if got := Default(all[3:]); got != nil {
		t.Errorf("default %v, and none is marked", got)
	}
}

func TestFate(t *testing.T) {
	done := func(volume string) func(*v1.PersistentVolumeClaim) {
		return func(c *v1.PersistentVolumeClaim) {
			c.Spec.VolumeName = volume
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, volumehelpers.AnnBindCompleted, "yes")
		}
	}
	ours := func(v *v1.PersistentVolume) {
		v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: Provisioner}
		v.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimDelete
	}
	for name, c := range map[string]struct {
		volume *v1.PersistentVolume
		claim  *v1.PersistentVolumeClaim
		want   Fate
	}{
		"nobody's":                      {aVolume("a", "1Mi"), nil, Free},
		"reserved":                      {aVolume("a", "1Mi", taken("c", "")), aClaim(), Free},
		"its claim is gone":             {aVolume("a", "1Mi", taken("c", "u")), nil, Release},
		"its claim is another":          {aVolume("a", "1Mi", taken("c", "before")), aClaim(done("a")), Release},
		"all but bound":                 {aVolume("a", "1Mi", taken("c", "u")), aClaim(), Finish},
		"bound":                         {aVolume("a", "1Mi", taken("c", "u")), aClaim(done("a")), Taken},
		"its claim has another":         {aVolume("a", "1Mi", taken("c", "u")), aClaim(done("b")), Unbind},
		"made for one that has another": {aVolume("a", "1Mi", taken("c", "u"), ours), aClaim(done("b")), Release},
	} {
		if got := FateOf(c.volume, c.claim); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestReclaims(t *testing.T) {
	for name, c := range map[string]struct {
		policy      v1.PersistentVolumeReclaimPolicy
		phase       v1.PersistentVolumePhase
		provisioner string
		deleting    bool
		want        Reclaim
	}{
		"in use":                    {v1.PersistentVolumeReclaimDelete, v1.VolumeBound, Provisioner, false, Nothing},
		"in use, and to be deleted": {v1.PersistentVolumeReclaimDelete, v1.VolumeBound, Provisioner, true, Nothing},
		"released":                  {v1.PersistentVolumeReclaimDelete, v1.VolumeReleased, Provisioner, false, Delete},
		"again":                     {v1.PersistentVolumeReclaimDelete, v1.VolumeFailed, Provisioner, false, Delete},
		"never bound, deleted":      {v1.PersistentVolumeReclaimDelete, v1.VolumePending, Provisioner, true, Delete},
		"never bound":               {v1.PersistentVolumeReclaimDelete, v1.VolumePending, Provisioner, false, Nothing},
		"retained":                  {v1.PersistentVolumeReclaimRetain, v1.VolumeReleased, Provisioner, false, Nothing},
		"retained, deleted":         {v1.PersistentVolumeReclaimRetain, v1.VolumeReleased, Provisioner, true, Nothing},
		"a user's":                  {v1.PersistentVolumeReclaimDelete, v1.VolumeReleased, "", false, Impossible},
		"a user's, deleted":         {v1.PersistentVolumeReclaimDelete, v1.VolumeReleased, "", true, Nothing},
		"another provisioner's":     {v1.PersistentVolumeReclaimDelete, v1.VolumeReleased, "example.com/disks", false, Nothing},
	} {
		v := aVolume("a", "1Mi", func(v *v1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy, v.Status.Phase, v.Finalizers = c.policy, c.phase, []string{DirectoryProtection}
			if c.provisioner != "" {
				v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: c.provisioner}
			}
			if c.deleting {
				v.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
			}
		})
		if got := Reclaims(v); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
