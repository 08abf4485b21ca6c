package api_test

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/drain"
)

func TestEviction(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	running := e.create(t, pod("a"))
	ready := func(s v1.PodStatus) v1.PodStatus {
		s.Phase, s.Conditions = v1.PodRunning, []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
		return s
	}
	if err := e.store.SetStatus(ctx, running.UID, ready); err != nil {
		t.Fatal(err)
	}
	if version, err := drain.CheckEvictionSupport(e.client); err != nil || version != policyv1.SchemeGroupVersion {
		t.Errorf("kubectl drain finds %v, %v", version, err)
	}
	grace := int64(3)
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"}, DeleteOptions: &metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions("another")}}
	if err := pods.EvictV1(ctx, eviction); !apierrors.IsConflict(err) {
		t.Errorf("another pod of that name: %v", err)
	}
	eviction.DeleteOptions.Preconditions, eviction.DeleteOptions.DryRun = nil, []string{"All"}
	if err := pods.EvictV1(ctx, eviction); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if p, err := pods.Get(ctx, "a", metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("a dry run evicted: %v, %v", p, err)
	}
	eviction.DeleteOptions.DryRun = nil
	if err := pods.EvictV1(ctx, eviction); err != nil {
		t.Fatal(err)
	}
	p, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != grace || p.Generation != 2 {
		t.Fatalf("evicted: %+v, %v", p, err)
	}
	if err := e.store.FinishPod(ctx, running.UID); err != nil {
		t.Fatal(err)
	}
	if err := pods.EvictV1(ctx, eviction); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that is gone: %v", err)
	}
}

func TestBinding(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	waiting := pod("a")
	waiting.Spec.SchedulerName = "example.com/mine"
	if p := e.create(t, waiting); p.Spec.NodeName != "" || p.Status.Phase != v1.PodPending {
		t.Errorf("another scheduler's pod: %+v", p)
	}
	binding := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: v1.ObjectReference{Kind: "Node", Name: "host"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || p.Spec.NodeName != "host" {
		t.Errorf("bound: %v, %v", p, err)
	}
	if stored, ok := e.store.PodByUID(p.UID); !ok || stored.Spec.NodeName != "host" {
		t.Errorf("the runtime sees %v", stored)
	}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	waiting.Name = "b"
	e.create(t, waiting)
	code, _, answer := e.ask(t, "POST", "/api/v1/namespaces/default/bindings", map[string]string{"Content-Type": "application/json"},
		`{"metadata":{"name":"b"},"target":{"kind":"Node","name":"host"}}`)
	if p, err := pods.Get(ctx, "b", metav1.GetOptions{}); code != 201 || err != nil || p.Spec.NodeName != "host" {
		t.Errorf("by bindings: %d %s", code, answer)
	}
}

// TestResizeWhole: the subresource changes cpu and memory of the pod as a whole as it does those of its containers.
func TestResizeWhole(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	p := pod("whole")
	p.Spec.Resources = &v1.ResourceRequirements{
		Limits:   v1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("64Mi"), "hugepages-2Mi": resource.MustParse("2Mi")},
		Requests: v1.ResourceList{"cpu": resource.MustParse("500m"), "hugepages-2Mi": resource.MustParse("2Mi")},
	}
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("100m")}
	e.create(t, p)
	plain := pod("plain")
	plain.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("100m")}
	e.create(t, plain)
	for _, c := range []struct {
		name, patch, want string
		generation        int64
	}{
		{"whole", `{"resources":{"limits":{"cpu":"2"}}}`, "", 2},
		{"whole", `{"resources":{"limits":{"memory":"128Mi"},"requests":{"cpu":"750m"}},"containers":[{"name":"app","resources":{"requests":{"cpu":"200m"}}}]}`, "", 3},
		{"whole", `{"resources":{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}}`, "", 4}, // more than any node has: that is for the host to say
		{"whole", `{"resources":{"requests":{"cpu":"100m"}}}`, "must be greater than or equal to aggregate container requests of 200m", 4},
		{"whole", `{"resources":{"requests":{"cpu":"2000"}}}`, "must be less than or equal to cpu limit", 4},
		{"whole", `{"resources":{"limits":{"memory":null}}}`, "pod-level resource limits cannot be removed", 4},
		{"whole", `{"resources":null}`, "pod-level resources cannot be removed", 4},
		{"whole", `{"resources":{"limits":{"hugepages-2Mi":"4Mi"},"requests":{"hugepages-2Mi":"4Mi"}}}`, "only cpu and memory resources are mutable at pod-level", 4},
		{"whole", `{"resources":{"requests":{"cpu":"1000","memory":"128Mi"}}}`, "Pod QOS Class may not change as a result of resizing", 4},
		{"plain", `{"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"200m"}}}`, "", 2}, // it had none
		{"plain", `{"resources":{"requests":{"ephemeral-storage":"1Gi"}}}`, "ephemeral-storage", 2},
	} {
		_, err := pods.Patch(ctx, c.name, types.StrategicMergePatchType, []byte(`{"spec":`+c.patch+`}`), metav1.PatchOptions{}, "resize")
		if c.want == "" && err != nil || c.want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.patch, err)
		}
		if p, _ := e.store.Pod("default", c.name); p.Generation != c.generation {
			t.Errorf("%s: generation %d, want %d", c.patch, p.Generation, c.generation)
		}
	}
	got, _ := e.store.Pod("default", "whole")
	if r := got.Spec.Resources; r.Limits.Cpu().String() != "1k" || r.Limits.Memory().String() != "128Mi" || r.Requests.Memory().String() != "64Mi" {
		t.Errorf("it asks for %v", r)
	}
	// It is not possible by the pod itself, as upstream.
	got.Spec.Resources.Limits["memory"] = resource.MustParse("256Mi")
	if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an update of the resources: %v", err)
	}
}

// TestResize: cpu and memory of containers are changed by the subresource, and by nothing else; it changes nothing else.
func TestResize(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	p := pod("a")
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("100m")}
	p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: v1.RestartContainer}}
	e.create(t, p)
	container := func(rest string) string { return `{"spec":{"containers":[{"name":"app",` + rest + `}]}}` }
	for _, c := range []struct {
		patch, want string
		generation  int64
	}{
		{container(`"resources":{"requests":{"cpu":"200m"}}`), "", 2},
		{container(`"resources":{"requests":{"cpu":"200m"}}`), "", 2}, // nothing new
		{container(`"image":"other"`), "", 2},                         // nothing that it changes
		{container(`"resources":{"requests":{"cpu":"200m","memory":"1Gi"},"limits":{"memory":"2Gi"}}`), "", 3},
		{container(`"resources":{"requests":{"cpu":"100"}}`), "", 4}, // more than any node has: that is for the host to say
		{container(`"resources":{"requests":{"cpu":"-1"}}`), "must be greater than or equal to 0", 4},
		{container(`"resources":{"requests":{"cpu":null}}`), "resource requests cannot be removed", 4},
		{container(`"resources":{"limits":{"memory":"1Mi"}}`), "must be less than or equal to memory limit", 4},
		{container(`"resources":{"limits":{"cpu":"100","memory":"2Gi"},"requests":{"memory":"2Gi"}}`), "Pod QOS Class may not change as a result of resizing", 4},
		{container(`"resources":{"requests":{"ephemeral-storage":"1Gi"}}`), "only cpu and memory resources are mutable", 4},
	} {
		p, err := pods.Patch(ctx, "a", types.StrategicMergePatchType, []byte(c.patch), metav1.PatchOptions{}, "resize")
		switch {
		case c.want == "" && (err != nil || p.Spec.Containers[0].Image != "busybox"):
			t.Errorf("%s: %v, %v", c.patch, p, err)
		case c.want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", c.patch, err)
		}
		if p, _ := e.store.Pod("default", "a"); p.Generation != c.generation {
			t.Errorf("%s: generation %d, want %d", c.patch, p.Generation, c.generation)
		}
	}
	// By PUT: what the body says beside resources is not looked at.
	p, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("300m")
	p.Spec.Containers[0].Image, p.Labels = "other", map[string]string{"a": "b"}
	p, err = pods.UpdateResize(ctx, "a", p, metav1.UpdateOptions{})
	if err != nil || p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 300 || p.Spec.Containers[0].Image != "busybox" || p.Generation != 5 {
		t.Errorf("PUT: %v, %v", p, err)
	}
	// It is not possible by the pod itself, as upstream.
	p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("200m")
	if _, err := pods.Update(ctx, p, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an update of the resources: %v", err)
	}
	// Of a pod of a manifest file only the file decides.
	static := pod("static")
	static.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("100m")}
	if _, err := e.server.PutStatic(ctx, static); err != nil {
		t.Fatal(err)
	}
	_, err = pods.Patch(ctx, "static", types.StrategicMergePatchType, []byte(container(`"resources":{"requests":{"cpu":"1m"}}`)), metav1.PatchOptions{}, "resize")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "static pods cannot be resized") {
		t.Errorf("a static pod: %v", err)
	}
}

func TestEphemeralContainers(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	pods := e.client.CoreV1().Pods("default")
	p := e.create(t, pod("a"))
	got, err := e.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("a").SubResource("ephemeralcontainers").Do(ctx).Get()
	if read, ok := got.(*v1.Pod); err != nil || !ok || read.UID != p.UID {
		t.Errorf("get: %v, %v", got, err)
	}
	debug := v1.EphemeralContainer{TargetContainerName: "app", EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: "debug", Image: "busybox", Stdin: true, TTY: true, ImagePullPolicy: v1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile}}
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{debug}
	if _, err := pods.Update(ctx, p, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("by the pod itself: %v", err)
	}
	updated, err := pods.UpdateEphemeralContainers(ctx, "a", p, metav1.UpdateOptions{})
	if err != nil || len(updated.Spec.EphemeralContainers) != 1 || updated.Generation != 2 {
		t.Fatalf("%v, %v", updated, err)
	}
	bad := updated.DeepCopy()
	bad.Spec.EphemeralContainers = append(bad.Spec.EphemeralContainers, debug)
	bad.Spec.EphemeralContainers[1].Name = "asks"
	bad.Spec.EphemeralContainers[1].SecurityContext = &v1.SecurityContext{SELinuxOptions: &v1.SELinuxOptions{Level: "s0"}}
	if _, err := pods.UpdateEphemeralContainers(ctx, "a", bad, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.ephemeralContainers[1].securityContext.seLinuxOptions") {
		t.Errorf("with what podd does not honour: %v", err)
	}
	bad.Spec.EphemeralContainers[1].SecurityContext = nil
	bad.Spec.EphemeralContainers[1].LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	if _, err := pods.UpdateEphemeralContainers(ctx, "a", bad, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.ephemeralContainers[1].livenessProbe") {
		t.Errorf("with a probe: %v", err)
	}
	less := updated.DeepCopy()
	less.Spec.EphemeralContainers = nil
	if _, err := pods.UpdateEphemeralContainers(ctx, "a", less, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("taken away: %v", err)
	}
	first := pod("first")
	first.Spec.EphemeralContainers = []v1.EphemeralContainer{debug}
	if _, err := pods.Create(ctx, first, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("in a new pod: %v", err)
	}
}

func TestAccessReviews(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	self, err := e.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "root" {
		t.Errorf("who am I: %v, %v", self, err)
	}
	authorization := e.client.AuthorizationV1()
	secrets := &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: "secrets"}
	own, err := authorization.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: secrets}}, metav1.CreateOptions{})
	if err != nil || !own.Status.Allowed {
		t.Errorf("may I read secrets: %v, %v", own, err)
	}
	rules, err := authorization.SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || len(rules.Status.ResourceRules) == 0 || rules.Status.ResourceRules[0].Verbs[0] != "*" || rules.Status.Incomplete {
		t.Errorf("what may I: %v, %v", rules, err)
	}
	for resource, want := range map[string]bool{"pods": true, "configmaps": true, "secrets": false} {
		spec := authorizationv1.SubjectAccessReviewSpec{User: "podd-reader", Groups: []string{"podd:readers"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Resource: resource}}
		review, err := authorization.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil || review.Status.Allowed != want {
			t.Errorf("may a reader list %s: %v, %v", resource, review, err)
		}
		local := &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: spec}
		here, err := authorization.LocalSubjectAccessReviews("default").Create(ctx, local, metav1.CreateOptions{})
		if err != nil || here.Status.Allowed != want {
			t.Errorf("may a reader list %s here: %v, %v", resource, here, err)
		}
	}
}

// TestEventsOfBothGroups: they are the same objects, in two forms and under two sets of field names.
func TestEventsOfBothGroups(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	about := v1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "x", UID: "u", FieldPath: "spec.containers{app}"}
	old := &v1.Event{ObjectMeta: metav1.ObjectMeta{Name: "old"}, InvolvedObject: about, Reason: "Old", Message: "m", Type: "Warning",
		Source: v1.EventSource{Component: "test"}}
	if _, err := e.client.CoreV1().Events("default").Create(ctx, old, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	about.Name = "y"
	young := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "young"}, EventTime: metav1.NowMicro(), Regarding: about, Reason: "Young",
		Action: "Test", Note: "m", Type: "Normal", ReportingController: "example.com/test", ReportingInstance: "test-1"}
	if _, err := e.client.EventsV1().Events("default").Create(ctx, young, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.EventsV1().Events("default").Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "z"}, Regarding: about},
		metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the rules of the younger group: %v", err)
	}
	if got, err := e.client.EventsV1().Events("default").Get(ctx, "old", metav1.GetOptions{}); err != nil || got.Note != "m" || got.Regarding.Name != "x" {
		t.Errorf("the old one: %v, %v", got, err)
	}
	for selector, want := range map[string]string{
		"involvedObject.name=x": "old", "involvedObject.kind=Pod,involvedObject.name=y": "young", "involvedObject.uid=u": "old young",
		"reason=Young": "young", "type=Warning": "old", "type!=Warning,involvedObject.kind=Pod": "young", "source=test": "old",
		"reportingComponent=example.com/test": "young", "involvedObject.fieldPath=spec.containers{app}": "old young",
		"involvedObject.namespace=other": "",
	} {
		list, err := e.client.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: selector})
		var names []string
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("core/v1 %s: %q, %v", selector, names, err)
		}
	}
	for selector, want := range map[string]string{"regarding.name=y": "young", "reason=Old": "old", "reportingController=example.com/test": "young"} {
		list, err := e.client.EventsV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != want {
			t.Errorf("events.k8s.io %s: %v, %v", selector, list, err)
		}
	}
}

func TestFieldSelectors(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	e.create(t, pod("plain"))
	host := pod("host")
	host.Spec.HostNetwork, host.Spec.RestartPolicy = true, v1.RestartPolicyNever
	uid := e.create(t, host).UID
	foreign := pod("foreign")
	foreign.Spec.NodeName, foreign.Spec.SchedulerName = "elsewhere", "example.com/mine"
	e.create(t, foreign)
	if err := e.store.SetStatus(ctx, uid, func(s v1.PodStatus) v1.PodStatus {
		s.Phase, s.PodIP, s.PodIPs, s.NominatedNodeName = v1.PodRunning, "192.0.2.9", []v1.PodIP{{IP: "192.0.2.9"}}, "n"
		return s
	}); err != nil {
		t.Fatal(err)
	}
	for selector, want := range map[string]string{
		"metadata.name=plain": "plain", "metadata.name!=plain": "foreign host", "metadata.namespace=default": "foreign host plain",
		"spec.nodeName=host": "host plain", "spec.nodeName=elsewhere": "foreign", "spec.restartPolicy=Never": "host",
		"spec.schedulerName=example.com/mine": "foreign", "spec.serviceAccountName=default": "foreign host plain",
		"spec.hostNetwork=true": "host", "status.phase=Running": "host", "status.podIP=192.0.2.9": "host",
		"status.nominatedNodeName=n": "host", "status.phase=Pending,spec.nodeName=host": "plain",
	} {
		list, err := e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: selector})
		var names []string
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s: %q, want %q; %v", selector, names, want, err)
		}
	}
	if _, err := e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.volumes=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field that cannot be selected by: %v", err)
	}
	nodes := e.client.CoreV1().Nodes()
	for selector, want := range map[string]int{"spec.unschedulable=false": 1, "spec.unschedulable=true": 0, "metadata.name=host": 1} {
		if list, err := nodes.List(ctx, metav1.ListOptions{FieldSelector: selector}); err != nil || len(list.Items) != want {
			t.Errorf("nodes %s: %v, %v", selector, list, err)
		}
	}
	if _, err := nodes.Patch(ctx, "host", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := nodes.List(ctx, metav1.ListOptions{FieldSelector: "spec.unschedulable=true"}); err != nil || len(list.Items) != 1 {
		t.Errorf("a cordoned node: %v, %v", list, err)
	}
	for selector, want := range map[string]int{"type=Opaque": 1, "type=kubernetes.io/tls": 0} {
		_, _ = e.client.CoreV1().Secrets("default").Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
		if list, err := e.client.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{FieldSelector: selector}); err != nil || len(list.Items) != want {
			t.Errorf("secrets %s: %v, %v", selector, list, err)
		}
	}
}
