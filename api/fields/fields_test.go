package fields

import (
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// leaves calls visit for every field of t that a manifest could set, with its path in the table.
func leaves(t reflect.Type, path string, depth int, visit func(path string)) {
	if rule, listed := table[path]; listed || depth > 12 {
		_ = rule
		visit(path)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		leaves(t.Elem(), path, depth+1, visit)
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Struct {
			visit(path)
			return
		}
		leaves(t.Elem(), path+"[]", depth+1, visit)
	case reflect.Struct:
		for i := range t.NumField() {
			name, inline := jsonName(t.Field(i))
			if inline {
				leaves(t.Field(i).Type, path, depth+1, visit)
				continue
			}
			leaves(t.Field(i).Type, path+"."+name, depth+1, visit)
		}
	default:
		visit(path)
	}
}

// TestEveryFieldHasARow walks the types: a field of a later Kubernetes shows here, and is refused until it has a row.
func TestEveryFieldHasARow(t *testing.T) {
	seen := map[string]bool{}
	check := func(path string) {
		seen[path] = true
		if _, ok := table[path]; !ok {
			t.Errorf("%s has no row: it is refused as unknown", path)
		}
	}
	leaves(reflect.TypeFor[metav1.ObjectMeta](), "metadata", 0, check)
	leaves(reflect.TypeFor[v1.PodSpec](), "spec", 0, check)
	for path := range table {
		if !seen[path] {
			t.Errorf("the row %s is of no field", path)
		}
	}
	t.Logf("%d rows", len(table))
}

// TestEveryRowIsObeyed sets each field that is not honoured to something, by reflection, and expects an error there.
func TestEveryRowIsObeyed(t *testing.T) {
	for path, rule := range table {
		if rule.Verdict == Honoured {
			continue
		}
		pod := &v1.Pod{}
		set(reflect.ValueOf(pod).Elem(), strings.Split(strings.ReplaceAll(path, "[]", ".[]"), "."))
		want := strings.ReplaceAll(path, "[]", "[0]")
		found := false
		for _, err := range Check(pod) {
			found = found || err.Field == want && err.Type == field.ErrorTypeForbidden
		}
		if !found {
			t.Errorf("%s set: errors %v", want, Check(pod))
		}
	}
}

// set puts something into the field at path.
func set(v reflect.Value, path []string) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if len(path) == 0 {
		something(v)
		return
	}
	if path[0] == "[]" {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		set(v.Index(0), path[1:])
		return
	}
	for i := range v.NumField() {
		name, inline := jsonName(v.Type().Field(i))
		if name == path[0] && !inline {
			set(v.Field(i), path[1:])
			return
		}
		if inline {
			if _, ok := fieldByTag(v.Field(i), path[0]); ok {
				set(v.Field(i), path)
				return
			}
		}
	}
	panic("no field " + strings.Join(path, "."))
}

func fieldByTag(v reflect.Value, tag string) (reflect.Value, bool) {
	if v.Kind() != reflect.Struct {
		return v, false
	}
	for i := range v.NumField() {
		if name, _ := jsonName(v.Type().Field(i)); name == tag {
			return v.Field(i), true
		}
	}
	return v, false
}

func something(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	}
}

func TestValues(t *testing.T) {
	yes, no := true, false
	unmasked, usr1, sized := v1.UnmaskedProcMount, v1.SIGUSR1, resource.MustParse("1Mi")
	container := func(change func(*v1.Container)) *v1.Pod {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
		change(&pod.Spec.Containers[0])
		return pod
	}
	volume := func(source v1.VolumeSource) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: source}}}}
	}
	for _, test := range []struct {
		name string
		pod  *v1.Pod
		want string // the field refused, or none
	}{
		{"defaults", container(func(c *v1.Container) {
			c.TerminationMessagePath, c.TerminationMessagePolicy = "/dev/termination-log", v1.TerminationMessageReadFile
		}), ""},
		{"another message path", container(func(c *v1.Container) { c.TerminationMessagePath = "/x" }), ""},
		{"a stop signal", container(func(c *v1.Container) { c.Lifecycle = &v1.Lifecycle{StopSignal: &usr1} }), ""},
		{"unmasked proc", container(func(c *v1.Container) { c.SecurityContext = &v1.SecurityContext{ProcMount: &unmasked} }), ""}, // validation wants hostUsers: false
		{"huge pages", container(func(c *v1.Container) {
			c.Resources.Limits = v1.ResourceList{"hugepages-2Mi": sized, "cpu": sized}
		}), ""},
		{"another resource", container(func(c *v1.Container) {
			c.Resources.Limits = v1.ResourceList{"example.com/hugepages-2Mi": sized, "cpu": sized}
		}), "spec.containers[0].resources.limits[example.com/hugepages-2Mi]"},
		{"huge pages of a pod", &v1.Pod{Spec: v1.PodSpec{Resources: &v1.ResourceRequirements{
			Limits: v1.ResourceList{"hugepages-2Mi": sized, "cpu": sized}}}}, ""},
		{"no token", &v1.Pod{Spec: v1.PodSpec{AutomountServiceAccountToken: &no}}, ""},
		{"a token", &v1.Pod{Spec: v1.PodSpec{AutomountServiceAccountToken: &yes}}, ""},
		{"user namespace", &v1.Pod{Spec: v1.PodSpec{HostUsers: &no}}, ""},
		{"nfs in a user namespace", &v1.Pod{Spec: v1.PodSpec{HostUsers: &no, Volumes: []v1.Volume{{VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}}}}}, "spec.volumes[0].nfs"},
		{"disk", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}), ""},
		{"memory with a limit", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "Memory", SizeLimit: &sized}}), ""},
		{"disk with a limit", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &sized}}), ""},
		{"storage", container(func(c *v1.Container) {
			c.Resources.Limits = v1.ResourceList{"ephemeral-storage": sized}
		}), ""},
		{"huge page volume", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages", SizeLimit: &sized}}), ""},
		{"huge pages of a size", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages-1Gi"}}), ""},
		{"huge pages of no size", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages-"}}),
			"spec.volumes[0].emptyDir.medium"},
		{"memory of small letters", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "memory"}}),
			"spec.volumes[0].emptyDir.medium"},
		{"another medium", volume(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "Tape"}}),
			"spec.volumes[0].emptyDir.medium"},
		{"bandwidth", limited("1k", "1P", false), ""},
		{"bandwidths that are none", limited("999", "fast", false),
			"metadata.annotations[kubernetes.io/ingress-bandwidth],metadata.annotations[kubernetes.io/egress-bandwidth]"},
		{"more than there is", limited("1001T", "10M", false), "metadata.annotations[kubernetes.io/ingress-bandwidth]"},
		{"bandwidth of the host", limited("1M", "", true),
			"metadata.annotations[kubernetes.io/ingress-bandwidth],metadata.annotations[kubernetes.io/egress-bandwidth]"},
		{"AppArmor by annotation", &v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			"container.apparmor.security.beta.kubernetes.io/app": "localhost/x"}}},
			"metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]"},
	} {
		var got []string
		for _, err := range Check(test.pod) {
			got = append(got, err.Field)
		}
		if strings.Join(got, ",") != test.want {
			t.Errorf("%s: refused %q, want %q", test.name, got, test.want)
		}
	}
}

func TestLookup(t *testing.T) {
	for path, want := range map[string]Verdict{
		"spec.containers[].image": Honoured, "spec.securityContext.seLinuxOptions": NotYet, "spec.containers[].new": Unknown,
		"spec.volumes[].gitRepo": Refused,
	} {
		if got := Lookup(path).Verdict; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// TestWhy: a source of volumes that podd has not says what to use instead.
func TestWhy(t *testing.T) {
	for want, source := range map[string]v1.VolumeSource{
		"not supported by podd yet (a CSI driver runs only where a cluster registers it: use a hostPath, nfs or a persistentVolumeClaim)": {CSI: &v1.CSIVolumeSource{Driver: "d.example"}},
		"not supported by podd yet (mount it on the host, and use a hostPath)":                                                            {FC: &v1.FCVolumeSource{}},
	} {
		if errs := Check(&v1.Pod{Spec: v1.PodSpec{Volumes: []v1.Volume{{VolumeSource: source}}}}); len(errs) != 1 || errs[0].Detail != want {
			t.Errorf("%v, want %s", errs, want)
		}
	}
}

// limited is a pod that asks for bandwidth.
func limited(ingress, egress string, host bool) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{IngressBandwidth: ingress, EgressBandwidth: egress}},
		Spec: v1.PodSpec{HostNetwork: host}}
}

func TestBandwidth(t *testing.T) {
	for _, c := range []struct {
		pod             *v1.Pod
		ingress, egress uint64
	}{{limited("10M", "1.5G", false), 10_000_000, 1_500_000_000}, {&v1.Pod{}, 0, 0}, {limited("1Mi", "0", false), 1 << 20, 0}} {
		if in, out, _ := Bandwidth(c.pod); in != c.ingress || out != c.egress {
			t.Errorf("%v: %d, %d", c.pod.Annotations, in, out)
		}
	}
}

// TestMedium: what was meant by a medium that is none.
func TestMedium(t *testing.T) {
	for value, want := range map[string]string{
		"memory": `"memory" (did you mean Memory? `, "Memroy": "did you mean Memory?", "tmpfs": "did you mean Memory?", "HugePages-2MB": "did you mean HugePages-2Mi?",
		"hugepages-1g": "did you mean HugePages-1Gi?", "HugePages-0Mi": "did you mean HugePages?", "Tape": "yet (Memory, HugePages and HugePages-<size> are)",
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Volumes: []v1.Volume{{VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMedium(value)}}}}}}
		if errs := Check(pod); len(errs) != 1 || !strings.Contains(errs[0].Detail, want) {
			t.Errorf("%s: %v", value, errs)
		}
	}
}
