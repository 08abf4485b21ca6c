package api_test

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestAccounts(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	if p := e.create(t, pod("plain")); p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" || len(p.Spec.Volumes) != 0 {
		t.Errorf("a pod without an account: %+v", p.Spec)
	}
	accounts := e.client.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Get(ctx, "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	mine := pod("mine")
	mine.Spec.ServiceAccountName = "mine"
	_, err := e.client.CoreV1().Pods("default").Create(ctx, mine, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) ||
		err.Error() != `pods "mine" is forbidden: error looking up service account default/mine: serviceaccount "mine" not found` {
		t.Errorf("a missing account: %v", err)
	}
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Secrets: []v1.ObjectReference{{Namespace: "other", Name: "s"}}}
	if account, err = accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if account.Secrets[0] != (v1.ObjectReference{Name: "s"}) {
		t.Errorf("a secret of another namespace: %v", account.Secrets)
	}
	if p := e.create(t, mine); p.Spec.ServiceAccountName != "mine" {
		t.Errorf("its account: %q", p.Spec.ServiceAccountName)
	}
	account.ImagePullSecrets = []v1.LocalObjectReference{{Name: "registry"}}
	if _, err := accounts.Update(ctx, account, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mine.Name = "pulls"
	if p := e.create(t, mine); len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "registry" {
		t.Errorf("an account with pull secrets: %v", p.Spec.ImagePullSecrets)
	}
	if err := accounts.Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.create(t, pod("makes-it-again"))
	// A pod may follow its namespace at once, and a dry run makes no account.
	if _, err := e.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []metav1.CreateOptions{{DryRun: []string{"All"}}, {}} {
		if _, err := e.client.CoreV1().Pods("fresh").Create(ctx, pod("a"), opts); err != nil {
			t.Errorf("%v: %v", opts, err)
		}
	}
	if _, err := e.client.CoreV1().ServiceAccounts("fresh").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPriorities(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	classes, pods := e.client.SchedulingV1().PriorityClasses(), e.client.CoreV1().Pods("default")
	for name, value := range map[string]int32{"system-node-critical": 2000001000, "system-cluster-critical": 2000000000} {
		class, err := classes.Get(ctx, name, metav1.GetOptions{})
		if err != nil || class.Value != value || *class.PreemptionPolicy != v1.PreemptLowerPriority {
			t.Errorf("%s: %v, %v", name, class, err)
		}
		if err := classes.Delete(ctx, name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if p := e.create(t, pod("none")); *p.Spec.Priority != 0 || *p.Spec.PreemptionPolicy != v1.PreemptLowerPriority || p.Spec.PriorityClassName != "" {
		t.Errorf("no class: %+v", p.Spec)
	}
	never := v1.PreemptNever
	for _, class := range []schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: &never},
		{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 10, GlobalDefault: true},
	} {
		if _, err := classes.Create(ctx, &class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	second := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Value: 11, GlobalDefault: true}
	if _, err := classes.Create(ctx, second, metav1.CreateOptions{}); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), "PriorityClass usual is already marked as default") {
		t.Errorf("a second default: %v", err)
	}
	mine := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-mine"}, Value: 11}
	if _, err := classes.Create(ctx, mine, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a system class: %v", err)
	}
	other := int32(5)
	for _, test := range []struct {
		name, class string
		priority    *int32
		want        int32
		err         string
	}{
		{name: "by-default", want: 10},
		{name: "high", class: "high", want: 1000},
		{name: "critical", class: "system-node-critical", want: 2000001000},
		{name: "unknown", class: "unknown", err: `pods "unknown" is forbidden: no PriorityClass with name unknown was found`},
		{name: "own-number", class: "high", priority: &other, err: "the integer value of priority (5) must not be provided"},
	} {
		p := pod(test.name)
		p.Spec.PriorityClassName, p.Spec.Priority = test.class, test.priority
		got, err := pods.Create(ctx, p, metav1.CreateOptions{})
		switch {
		case test.err != "":
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v", test.name, err)
			}
		case err != nil || *got.Spec.Priority != test.want:
			t.Errorf("%s: %v, %v", test.name, got.Spec.Priority, err)
		}
	}
	high, err := pods.Get(ctx, "high", metav1.GetOptions{})
	if err != nil || *high.Spec.PreemptionPolicy != never {
		t.Fatalf("%v, %v", high, err)
	}
	high.Spec.Priority, high.Spec.PreemptionPolicy = nil, nil // as in a manifest that is replaced
	if high, err = pods.Update(ctx, high, metav1.UpdateOptions{}); err != nil || *high.Spec.Priority != 1000 {
		t.Errorf("an update that says nothing of priority: %v", err)
	}
}

func TestRuntimeClasses(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	classes, pods := e.client.NodeV1().RuntimeClasses(), e.client.CoreV1().Pods("default")
	overhead := v1.ResourceList{"cpu": resource.MustParse("10m"), "memory": resource.MustParse("16Mi")}
	for _, class := range []nodev1.RuntimeClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Handler: "runc"},
		{ObjectMeta: metav1.ObjectMeta{Name: "heavy"}, Handler: "runc", Overhead: &nodev1.Overhead{PodFixed: overhead},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
				Tolerations: []v1.Toleration{{Key: "heavy", Operator: v1.TolerationOpExists}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "box"}, Handler: "kata"},
	} {
		if _, err := classes.Create(ctx, &class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	with := func(name, class string) *v1.Pod {
		p := pod(name)
		p.Spec.RuntimeClassName = &class
		return p
	}
	e.create(t, with("plain", "plain"))
	heavy := e.create(t, with("heavy", "heavy"))
	if !heavy.Spec.Overhead.Memory().Equal(overhead["memory"]) || heavy.Spec.NodeSelector["kubernetes.io/os"] != "linux" ||
		len(heavy.Spec.Tolerations) != 1 || heavy.Spec.NodeName != "host" {
		t.Errorf("what the class says: %+v", heavy.Spec)
	}
	own := with("own", "heavy")
	own.Spec.Overhead = v1.ResourceList{"cpu": resource.MustParse("1")}
	stray := pod("stray")
	stray.Spec.Overhead = overhead
	clash := with("clash", "heavy")
	clash.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "other"}
	for p, want := range map[*v1.Pod]string{
		with("missing", "missing"): `pod rejected: RuntimeClass "missing" not found`,
		own:                        "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
		stray:                      "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
		clash:                      "conflict: runtimeClass.scheduling.nodeSelector[kubernetes.io/os] = linux",
	} {
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	if _, err := pods.Create(ctx, with("box", "box"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a handler that the host may not have: %v", err)
	}
}

func TestImmutable(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	yes, no := true, false
	maps, secrets := e.client.CoreV1().ConfigMaps("default"), e.client.CoreV1().Secrets("default")
	config, err := maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}, Immutable: &yes}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := secrets.Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string][]byte{"k": []byte("v")}, Immutable: &yes}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config.Data["k"], secret.Data["k"] = "w", []byte("w")
	_, mapErr := maps.Update(ctx, config, metav1.UpdateOptions{})
	_, secretErr := secrets.Update(ctx, secret, metav1.UpdateOptions{})
	config.Data["k"], secret.Data["k"], config.Immutable, secret.Immutable = "v", []byte("v"), &no, nil
	_, unsetMap := maps.Update(ctx, config, metav1.UpdateOptions{})
	_, unsetSecret := secrets.Update(ctx, secret, metav1.UpdateOptions{})
	for what, err := range map[string]error{"config map": mapErr, "secret": secretErr, "unset config map": unsetMap, "unset secret": unsetSecret} {
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "when `immutable` is set") {
			t.Errorf("%s: %v", what, err)
		}
	}
	config.Immutable, secret.Immutable = &yes, &yes
	config.Labels, secret.Labels = map[string]string{"x": "y"}, map[string]string{"x": "y"}
	if _, err := maps.Update(ctx, config, metav1.UpdateOptions{}); err != nil {
		t.Errorf("a label of an immutable map: %v", err)
	}
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Errorf("a label of an immutable secret: %v", err)
	}
	tls := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "tls"}, Type: v1.SecretTypeTLS}
	if _, err := secrets.Create(ctx, tls, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "data[tls.crt]") {
		t.Errorf("a secret without what its type needs: %v", err)
	}
	big := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Data: map[string]string{"k": strings.Repeat("x", 1<<20+1)}}
	if _, err := maps.Create(ctx, big, metav1.CreateOptions{}); !apierrors.IsRequestEntityTooLargeError(err) && !apierrors.IsInvalid(err) {
		t.Errorf("a map of more than 1 MiB: %v", err)
	}
	most, more := make([]byte, v1.MaxSecretSize-1), make([]byte, v1.MaxSecretSize)
	for size, data := range map[string]map[string][]byte{"as large as it may be": {"a": most, "b": {1}}, "larger": {"a": more, "b": {1}}} {
		_, err := secrets.Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "big-"}, Data: data}, metav1.CreateOptions{})
		if large := apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsInvalid(err); large != (size == "larger") || !large && err != nil {
			t.Errorf("a secret that is %s: %v", size, err)
		}
	}
}

// TestSliceGeneration: endpoint slices have no status, so everything but annotations counts.
func TestSliceGeneration(t *testing.T) {
	e := serve(t)
	slices := e.client.DiscoveryV1().EndpointSlices("default")
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 7}, AddressType: discoveryv1.AddressTypeIPv4}
	if made, err := slices.Create(t.Context(), slice, metav1.CreateOptions{}); err != nil || made.Generation != 1 {
		t.Fatalf("%v, %v", made, err)
	}
	for i, step := range []struct {
		patch string
		want  int64
	}{
		{`{"metadata":{"annotations":{"x":"y"}}}`, 1},
		{`{"metadata":{"labels":{"x":"y"}}}`, 2},
		{`{"endpoints":[{"addresses":["192.0.2.1"],"deprecatedTopology":{"a":"b"}}]}`, 3},
	} {
		got, err := slices.Patch(t.Context(), "a", types.MergePatchType, []byte(step.patch), metav1.PatchOptions{})
		if err != nil || got.Generation != step.want || len(got.Endpoints) > 0 && got.Endpoints[0].DeprecatedTopology != nil {
			t.Errorf("step %d: %v, %v", i, got, err)
		}
	}
	patch := []byte(`{"addressType":"IPv6"}`)
	if _, err := slices.Patch(t.Context(), "a", types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another address type: %v", err)
	}
}

// TestGeneration: 1 at the start whatever the client says, one more with each change of the spec and with nothing else.
func TestGeneration(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	p := pod("a")
	p.Generation = 7
	p.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M"}
	p.Status = v1.PodStatus{Phase: v1.PodSucceeded, PodIP: "192.0.2.9", Message: "made up", Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}
	p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/wait"}}
	p = e.create(t, p)
	steps := []struct {
		what, patch string
		want        int64
	}{
		{"a label", `{"metadata":{"labels":{"x":"y"}}}`, 1},
		{"a generation", `{"metadata":{"generation":9}}`, 1},
		{"another annotation", `{"metadata":{"annotations":{"x":"y","kubernetes.io/ingress-bandwidth":"10M"}}}`, 1},
		{"a toleration", `{"spec":{"tolerations":[{"key":"x","operator":"Exists"}]}}`, 2},
		{"the last gate", `{"spec":{"schedulingGates":null}}`, 3},
	}
	if p.Generation != 1 {
		t.Errorf("at first: %d", p.Generation)
	}
	if st := p.Status; st.Phase != v1.PodPending || st.PodIP != "" || st.Message != "" || slices.ContainsFunc(st.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady }) {
		t.Errorf("a pod is created with the status that its maker gave it: %+v", st)
	}
	for _, step := range steps {
		p, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(step.patch), metav1.PatchOptions{})
		if err != nil || p.Generation != step.want {
			t.Errorf("%s: %d, want %d; %v", step.what, p.Generation, step.want, err)
		}
	}
	for _, limit := range []string{`"kubernetes.io/ingress-bandwidth":"20M"`, `"kubernetes.io/ingress-bandwidth":null`, `"kubernetes.io/egress-bandwidth":"10M"`} {
		_, err := pods.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"annotations":{`+limit+`}}}`), metav1.PatchOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not be changed: the limit is made with the pod's network") {
			t.Errorf("another limit, %s: %v", limit, err)
		}
	}
	status := []byte(`{"status":{"message":"x"},"spec":{"activeDeadlineSeconds":1}}`)
	if p, err := pods.Patch(ctx, "a", types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil ||
		p.Status.Message != "x" || p.Spec.ActiveDeadlineSeconds != nil {
		t.Errorf("a status: %v, %v", p, err)
	}
	spec := []byte(`{"metadata":{"labels":{"z":"z"}},"status":{"message":"y"}}`)
	if p, err := pods.Patch(ctx, "a", types.MergePatchType, spec, metav1.PatchOptions{}); err != nil || p.Status.Message != "x" {
		t.Errorf("the other half: %v, %v", p, err)
	}
}

// TestMountPaths: what no container could be made with is refused, with its field; what some agents need is not.
func TestMountPaths(t *testing.T) {
	e := serve(t)
	for name, c := range map[string]struct {
		mounts string // VOLUME:PATH
		want   string // FIELD: ERROR; empty: it is made
	}{
		"root":     {"dir:/", "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/\": would replace the container's root"},
		"around":   {"dir:/x/..", "would replace the container's root"},
		"proc":     {"dir:/ok dir:/proc/../proc/y", "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/proc/../proc/y\": may not be at or below /proc"},
		"hostproc": {"host:/proc/sys", "may not be at or below /proc"},
		"sys":      {"dir:/sys/x", "only a hostPath may be at or below /sys"},
		"same":     {"dir:/aa host:/aa/", "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/aa/\": is the same as /aa"},
		"hostsys":  {"host:/sys/fs/cgroup", ""},
		"likely":   {"dir:/process dir:/system dir:/host/proc host:/host/sys dir:/aa dir:/aa/b", ""},
	} {
		p := pod("mounts-" + name)
		p.Spec.Volumes = []v1.Volume{{Name: "dir", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/sys"}}}}
		for _, m := range strings.Fields(c.mounts) {
			volume, path, _ := strings.Cut(m, ":")
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: volume, MountPath: path})
		}
		_, err := e.client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
		if c.want == "" && err != nil || c.want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
