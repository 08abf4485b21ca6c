package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api"
)

func (e *env) patchNode(t testing.TB, patch string) {
	t.Helper()
	if _, err := e.client.CoreV1().Nodes().Patch(t.Context(), "host", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (e *env) patchPod(t testing.TB, name, patch string) {
	t.Helper()
	if _, err := e.client.CoreV1().Pods("default").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// scheduled waits for the condition PodScheduled: a node, or a reason and a message.
func (e *env) scheduled(t testing.TB, name, node, reason, message string) {
	t.Helper()
	e.until(t, name+": "+node+reason, func() bool {
		p, ok := e.store.Pod("default", name)
		if !ok || p.Spec.NodeName != node && reason == "" {
			return false
		}
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodScheduled {
				return c.Reason == reason && c.Message == message && (c.Status == v1.ConditionTrue) == (reason == "")
			}
		}
		return false
	})
}

// eventually waits for an event about a pod.
func (e *env) eventually(t testing.TB, name, reason, message string) {
	t.Helper()
	e.until(t, "event "+reason, func() bool {
		list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",reason=" + reason})
		return err == nil && len(list.Items) == 1 && list.Items[0].Message == message && list.Items[0].Count == 1
	})
}

func TestScheduling(t *testing.T) {
	const unmatched = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
	const cordoned = "0/1 nodes are available: 1 node(s) were unschedulable."
	const tainted = "0/1 nodes are available: 1 node(s) had untolerated taint(s) {example.com/t=v:NoSchedule}."
	zone := func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} }
	for name, story := range map[string]struct {
		before string // patch of the node
		spec   func(*v1.Pod)
		node   string // where it is when it was made
		reason string
		says   string
		event  bool
		after  func(t *testing.T, e *env) // makes it fit
	}{
		"plain":              {node: "host"},
		"selector that fits": {before: `{"metadata":{"labels":{"zone":"a"}}}`, spec: zone, node: "host"},
		"selector":           {spec: zone, reason: "Unschedulable", says: unmatched, event: true, after: func(t *testing.T, e *env) { e.patchNode(t, `{"metadata":{"labels":{"zone":"a"}}}`) }},
		"cordon":             {before: `{"spec":{"unschedulable":true}}`, reason: "Unschedulable", says: cordoned, event: true, after: func(t *testing.T, e *env) { e.patchNode(t, `{"spec":{"unschedulable":null}}`) }},
		"taint":              {before: `{"spec":{"taints":[{"key":"example.com/t","value":"v","effect":"NoSchedule"}]}}`, reason: "Unschedulable", says: tainted, event: true, after: func(t *testing.T, e *env) { e.patchNode(t, `{"spec":{"taints":[]}}`) }},
		"toleration is added": {before: `{"spec":{"taints":[{"key":"example.com/t","value":"v","effect":"NoSchedule"}]}}`, reason: "Unschedulable", says: tainted, event: true, after: func(t *testing.T, e *env) {
			e.patchPod(t, "p", `{"spec":{"tolerations":[{"key":"example.com/t","operator":"Exists"}]}}`)
		}},
		"tolerated": {before: `{"spec":{"taints":[{"key":"example.com/t","effect":"NoSchedule"}]}}`, node: "host",
			spec: func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}} }},
		"preferred taint": {before: `{"spec":{"taints":[{"key":"example.com/t","effect":"PreferNoSchedule"}]}}`, node: "host"},
		"affinity": {spec: func(p *v1.Pod) {
			term := v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "zone", Operator: v1.NodeSelectorOpIn, Values: []string{"a", "b"}}}}
			p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{term}}}}
		}, reason: "Unschedulable", says: unmatched, event: true, after: func(t *testing.T, e *env) { e.patchNode(t, `{"metadata":{"labels":{"zone":"b"}}}`) }},
		"affinity by name": {spec: func(p *v1.Pod) {
			term := v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{"host"}}}}
			p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{term}}}}
		}, node: "host"},
		"gates": {spec: func(p *v1.Pod) {
			p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/one"}, {Name: "example.com/two"}}
		}, reason: "SchedulingGated", says: "Scheduling is blocked due to non-empty scheduling gates", after: func(t *testing.T, e *env) {
			e.patchPod(t, "p", `{"spec":{"schedulingGates":[{"$patch":"delete","name":"example.com/one"}]}}`)
			if p, _ := e.store.Pod("default", "p"); len(p.Spec.SchedulingGates) != 1 || p.Spec.NodeName != "" {
				t.Errorf("with one gate left: %v", p.Spec)
			}
			e.patchPod(t, "p", `{"spec":{"schedulingGates":[{"$patch":"delete","name":"example.com/two"}]}}`)
		}},
		"another scheduler": {spec: func(p *v1.Pod) { p.Spec.SchedulerName = "mine" }, reason: "OtherScheduler",
			says: `the pod waits for scheduler "mine" to bind it: podd binds the pods of "default-scheduler"`, after: func(t *testing.T, e *env) {
				err := e.client.CoreV1().Pods("default").Bind(t.Context(), &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: v1.ObjectReference{Kind: "Node", Name: "host"}}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
			}},
		"another node": {spec: func(p *v1.Pod) { p.Spec.NodeName = "elsewhere" }, node: "elsewhere", reason: "OtherNode", event: true,
			says: `the pod is bound to node "elsewhere", and podd runs the pods of node "host"`},
		"this node by name": {before: `{"spec":{"unschedulable":true}}`, spec: func(p *v1.Pod) { p.Spec.NodeName = "host" }, node: "host"},
	} {
		t.Run(name, func(t *testing.T) {
			e := serve(t)
			if story.before != "" {
				e.patchNode(t, story.before)
			}
			p := pod("p")
			if story.spec != nil {
				story.spec(p)
			}
			if p = e.create(t, p); p.Spec.NodeName != story.node || p.Status.Phase != v1.PodPending {
				t.Errorf("made on %q, %s", p.Spec.NodeName, p.Status.Phase)
			}
			if story.reason == "" {
				return
			}
			e.scheduled(t, "p", story.node, story.reason, story.says)
			if story.event {
				e.eventually(t, "p", "FailedScheduling", story.says)
			}
			e.stop() // what is known of the pod, and what it waits for, is found again
			e = serveIn(t, e.dir)
			if story.after != nil {
				story.after(t, e)
				e.scheduled(t, "p", "host", "", "")
			}
		})
	}
}

// TestTaintEviction: a NoExecute taint drives away what does not tolerate it, or only for a time.
func TestTaintEviction(t *testing.T) {
	e := serve(t)
	tolerating := func(name string, seconds *int64) *v1.Pod {
		p := pod(name)
		p.Spec.Tolerations = []v1.Toleration{{Key: "example.com/t", Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: seconds}}
		return e.create(t, p)
	}
	one, long := int64(1), int64(3600)
	e.create(t, pod("leaves"))
	tolerating("stays", nil)
	tolerating("stays-long", &long)
	begun := tolerating("stays-short", &one)
	e.patchNode(t, `{"spec":{"taints":[{"key":"example.com/t","effect":"NoExecute"}]}}`)
	deleted := func(name string) bool {
		p, ok := e.store.Pod("default", name)
		return ok && p.DeletionTimestamp != nil
	}
	e.until(t, "the pod leaves", func() bool { return deleted("leaves") })
	e.eventually(t, "leaves", "TaintManagerEviction", "Marking for deletion Pod default/leaves")
	p, _ := e.store.Pod("default", "leaves")
	if c := p.Status.Conditions; len(c) == 0 || c[len(c)-1].Type != v1.DisruptionTarget || c[len(c)-1].Reason != "DeletionByTaintManager" {
		t.Errorf("conditions: %v", c)
	}
	e.until(t, "the pod that may stay a second leaves", func() bool { return deleted("stays-short") })
	if deleted("stays") || deleted("stays-long") || begun.DeletionTimestamp != nil {
		t.Error("a pod that tolerates the taint is deleted")
	}
}

// TestSeveralTaints: the message names the one that is not tolerated.
func TestSeveralTaints(t *testing.T) {
	e := serve(t)
	e.patchNode(t, `{"spec":{"taints":[{"key":"example.com/a","effect":"NoSchedule"},{"key":"example.com/b","effect":"NoExecute"}]}}`)
	p := pod("p")
	p.Spec.Tolerations = []v1.Toleration{{Key: "example.com/a", Operator: v1.TolerationOpExists}}
	e.create(t, p)
	e.until(t, "the second taint is told", func() bool {
		p, ok := e.store.Pod("default", "p")
		return ok && len(p.Status.Conditions) == 1 && strings.Contains(p.Status.Conditions[0].Message, "{example.com/b:NoExecute}")
	})
}

// TestBeside: a pod that the others of the node keep away waits, says so in the scheduler's words, and gets its node when they go
// or change, or the one comes that it misses.
func TestBeside(t *testing.T) {
	const (
		affinity = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."
		anti     = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
		existing = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
		spread   = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints."
		missing  = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."
	)
	web := func(p *v1.Pod) { p.Labels = map[string]string{"app": "web", "hash": "1"} }
	isWeb := v1.PodAffinityTerm{TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	near := func(term v1.PodAffinityTerm) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{term}}}
		}
	}
	apart := func(term v1.PodAffinityTerm) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{term}}}
		}
	}
	even := func(key string, domains int32) func(*v1.Pod) {
		return func(p *v1.Pod) {
			web(p)
			p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: v1.DoNotSchedule,
				MinDomains: &domains, LabelSelector: isWeb.LabelSelector}}
		}
	}
	byKey, byTeam := isWeb, isWeb
	byKey.MatchLabelKeys = []string{"hash"}
	byTeam.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "blue"}}
	otherGoes := func(t *testing.T, e *env) { e.leave(t, "other") }
	otherComes := func(t *testing.T, e *env) {
		p := pod("late")
		web(p)
		e.create(t, p)
	}
	for name, story := range map[string]struct {
		other, spec func(*v1.Pod) // what is here, if anything is, and the pod that is made beside it
		says        string        // nothing: it gets its node at once
		after       func(t *testing.T, e *env)
	}{
		"affinity":                 {spec: near(isWeb), says: affinity, after: otherComes},
		"affinity, here":           {other: web, spec: near(isWeb)},
		"affinity, it is labelled": {other: func(*v1.Pod) {}, spec: near(isWeb), says: affinity, after: func(t *testing.T, e *env) { e.patchPod(t, "other", `{"metadata":{"labels":{"app":"web"}}}`) }},
		"affinity, first":          {spec: func(p *v1.Pod) { web(p); near(isWeb)(p) }},
		"affinity, topology": {other: web, spec: near(v1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: isWeb.LabelSelector}), says: affinity,
			after: func(t *testing.T, e *env) { e.patchNode(t, `{"metadata":{"labels":{"zone":"a"}}}`) }},
		"affinity, namespace": {other: web, spec: near(byTeam), says: affinity, after: func(t *testing.T, e *env) {
			if _, err := e.client.CoreV1().Namespaces().Patch(t.Context(), "default", types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"blue"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"anti":                 {other: web, spec: apart(isWeb), says: anti, after: otherGoes},
		"anti, it ends":        {other: web, spec: apart(isWeb), says: anti, after: func(t *testing.T, e *env) { e.ends(t, "other", v1.PodSucceeded) }},
		"anti, it is another":  {other: web, spec: apart(isWeb), says: anti, after: func(t *testing.T, e *env) { e.patchPod(t, "other", `{"metadata":{"labels":{"app":"db"}}}`) }},
		"anti, none":           {other: func(*v1.Pod) {}, spec: apart(isWeb)},
		"existing":             {other: apart(isWeb), spec: web, says: existing, after: otherGoes},
		"existing, relabelled": {other: apart(isWeb), spec: web, says: existing, after: func(t *testing.T, e *env) { e.patchPod(t, "p", `{"metadata":{"labels":{"app":"db"}}}`) }},
		"spread":               {other: web, spec: even(v1.LabelHostname, 2), says: spread, after: otherGoes},
		"spread, one domain":   {other: web, spec: even(v1.LabelHostname, 1)},
		"spread, label":        {spec: even("zone", 1), says: missing, after: func(t *testing.T, e *env) { e.patchNode(t, `{"metadata":{"labels":{"zone":"a"}}}`) }},
		"keys":                 {other: web, spec: func(p *v1.Pod) { web(p); apart(byKey)(p) }, says: anti, after: func(t *testing.T, e *env) { e.patchPod(t, "other", `{"metadata":{"labels":{"hash":"2"}}}`) }},
	} {
		t.Run(name, func(t *testing.T) {
			e := serve(t)
			if story.other != nil {
				other := pod("other")
				story.other(other)
				if other = e.create(t, other); other.Spec.NodeName != "host" {
					t.Fatal("the other pod has no node")
				}
			}
			p := pod("p")
			story.spec(p)
			if p = e.create(t, p); (p.Spec.NodeName == "host") != (story.says == "") {
				t.Errorf("made on %q", p.Spec.NodeName)
			}
			if story.says == "" {
				return
			}
			e.scheduled(t, "p", "", "Unschedulable", story.says)
			e.eventually(t, "p", "FailedScheduling", story.says)
			story.after(t, e)
			e.scheduled(t, "p", "host", "", "")
		})
	}
}

// Pods that are made at once keep away from each other as well: one of them gets the node.
func TestApartAtOnce(t *testing.T) {
	e := serve(t)
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			p := pod(fmt.Sprint("p", i))
			p.Labels = map[string]string{"app": "web"}
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}}}
			if _, err := e.client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for left := n; left > 0; left-- {
		var here []string
		e.until(t, "one has the node, and the others say why not", func() bool {
			here = nil
			told := 0
			for _, p := range e.store.Pods() {
				if p.Spec.NodeName == "host" {
					here = append(here, p.Name)
				} else if len(p.Status.Conditions) == 1 {
					told++
				}
			}
			return len(here) > 0 && len(here)+told == left
		})
		if len(here) != 1 {
			t.Fatalf("%d pods are here: %v", len(here), here)
		}
		e.leave(t, here[0])
	}
}

// TestRejects: what the kubelet does not take, though it was bound here past all scheduling.
func TestRejects(t *testing.T) {
	e := serve(t)
	for name, c := range map[string]struct {
		taint  v1.TaintEffect
		change func(*v1.Pod)
		reason string
	}{
		"plain":             {},
		"tainted":           {taint: v1.TaintEffectNoExecute, reason: "TaintToleration"},
		"not to be started": {taint: v1.TaintEffectNoSchedule},
		"of a file":         {taint: v1.TaintEffectNoExecute, change: func(p *v1.Pod) { p.Annotations = map[string]string{api.SourceAnnotation: api.SourceFile} }},
		"on its way":        {taint: v1.TaintEffectNoExecute, change: func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{} }},
		"tolerant for now": {taint: v1.TaintEffectNoExecute, change: func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists, TolerationSeconds: new(int64), Effect: v1.TaintEffectNoExecute}}
		}},
		"selector":     {change: func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} }, reason: "NodeAffinity"},
		"os":           {change: func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }, reason: "PodOSNotSupported"},
		"label of os":  {change: func(p *v1.Pod) { p.Labels = map[string]string{v1.LabelOSStable: "windows"} }, reason: "PodOSSelectorNodeLabelDoesNotMatch"},
		"label, linux": {change: func(p *v1.Pod) { p.Labels = map[string]string{v1.LabelOSStable: "linux"} }},
	} {
		taints := `[]`
		if c.taint != "" {
			taints = fmt.Sprintf(`[{"key":"example.com/t","effect":%q}]`, c.taint)
		}
		e.patchNode(t, `{"spec":{"taints":`+taints+`}}`)
		p := pod("p")
		if c.change != nil {
			c.change(p)
		}
		if reason, message := e.server.Rejects(p); reason != c.reason || (message == "") != (reason == "") {
			t.Errorf("%s: %q, %q, want %q", name, reason, message, c.reason)
		}
	}
}

// TestLabelsOfPlace: a pod has the labels that say where its node is, however it got there.
func TestLabelsOfPlace(t *testing.T) {
	e := serve(t)
	e.patchNode(t, `{"metadata":{"labels":{"topology.kubernetes.io/zone":"a","other":"b"}}}`)
	made := func(name string, change func(*v1.Pod)) {
		p := pod(name)
		p.Labels = map[string]string{v1.LabelTopologyZone: "mine"}
		change(p)
		e.create(t, p)
	}
	made("plain", func(*v1.Pod) {})
	made("named", func(p *v1.Pod) { p.Spec.NodeName = "host" })
	made("elsewhere", func(p *v1.Pod) { p.Spec.NodeName = "elsewhere" })
	made("gated", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/one"}} })
	made("bound", func(p *v1.Pod) { p.Spec.SchedulerName = "mine" })
	e.patchPod(t, "gated", `{"spec":{"schedulingGates":[{"$patch":"delete","name":"example.com/one"}]}}`)
	e.scheduled(t, "gated", "host", "", "")
	binding := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: v1.ObjectReference{Kind: "Node", Name: "host"}}
	if err := e.client.CoreV1().Pods("default").Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"plain": "a", "named": "a", "elsewhere": "mine", "gated": "a", "bound": "a"} {
		if p, _ := e.store.Pod("default", name); p.Labels[v1.LabelTopologyZone] != want || len(p.Labels) != 1 {
			t.Errorf("%s: labels %v, want zone %s", name, p.Labels, want)
		}
	}
}
