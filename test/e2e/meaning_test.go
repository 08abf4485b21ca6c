//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestMeaning is what objects mean to each other, seen on real pods: who may be where, who goes with whom, and that a
// podd that is killed goes on with it. It changes the node, so it has a podd of its own.
func TestMeaning(t *testing.T) {
	t.Parallel()
	s := start(t)
	t.Run("cordon", s.meaningCordon)
	t.Run("unbound", s.meaningUnbound)
	t.Run("gates", s.meaningGates)
	t.Run("elsewhere", s.meaningElsewhere)
	t.Run("rejected", s.meaningRejected)
	t.Run("apart", s.meaningApart)
	t.Run("taint", s.meaningTaint)
	t.Run("owner", s.meaningOwner)
	t.Run("namespace", s.meaningNamespace)
}

func (s *suite) meaningNode(t *testing.T, patch string) {
	t.Helper()
	nodes, err := s.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("%d nodes, %v", len(nodes.Items), err)
	}
	_, err = s.client.CoreV1().Nodes().Patch(t.Context(), nodes.Items[0].Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// meaningPending waits until the pod says why it is not bound.
func (s *suite) meaningPending(t *testing.T, name, reason, message string) {
	t.Helper()
	s.until(t, name, reason, func(pod *v1.Pod) bool {
		if pod == nil || pod.Status.Phase != v1.PodPending {
			return false
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, message) {
				return true
			}
		}
		return false
	})
}

func (s *suite) meaningCordon(t *testing.T) {
	s.meaningNode(t, `{"spec":{"unschedulable":true}}`)
	s.apply(t, sleeper("cordoned"))
	s.meaningPending(t, "cordoned", "Unschedulable", "1 node(s) were unschedulable")
	s.meaningNode(t, `{"spec":{"unschedulable":null}}`)
	s.until(t, "cordoned", "ready", ready)
	if events := s.must(t, "events", "--for", "pod/cordoned"); !strings.Contains(events, "FailedScheduling") || !strings.Contains(events, "Scheduled") {
		t.Errorf("events:\n%s", events)
	}
	s.remove(t, "cordoned")
}

func (s *suite) meaningGates(t *testing.T) {
	p := sleeper("gated")
	p.Spec = "schedulingGates: [{name: example.com/gate}]"
	s.apply(t, p)
	s.meaningPending(t, "gated", "SchedulingGated", "gates")
	if _, err := s.client.CoreV1().Pods("default").Patch(t.Context(), "gated", types.JSONPatchType,
		[]byte(`[{"op":"remove","path":"/spec/schedulingGates"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := s.until(t, "gated", "ready", ready)
	if pod.Status.ObservedGeneration != pod.Generation || pod.Generation < 1 {
		t.Errorf("generation %d, observed %d", pod.Generation, pod.Status.ObservedGeneration)
	}
	s.remove(t, "gated")
}

func (s *suite) meaningElsewhere(t *testing.T) {
	p := sleeper("elsewhere")
	p.Spec = "nodeName: elsewhere\nnodeSelector: {zone: nowhere}"
	s.apply(t, p)
	s.meaningPending(t, "elsewhere", "OtherNode", `"elsewhere"`)
	s.remove(t, "elsewhere") // nobody else would confirm it
	s.until(t, "elsewhere", "gone", gone)
	if why := s.must(t, "why", "elsewhere"); !strings.Contains(why, "it was deleted") || strings.Contains(why, "rejected") {
		t.Errorf("of a pod that another host was to judge:\n%s", why)
	}
}

// A pod that is bound nowhere goes at once when it is deleted: no host rejects it.
func (s *suite) meaningUnbound(t *testing.T) {
	for name, c := range map[string]struct{ spec, container, reason string }{
		"unbound-memory":   {container: "resources: {requests: {memory: 900Gi}}", reason: "Unschedulable"},
		"unbound-selector": {spec: "nodeSelector: {zone: nowhere}", reason: "Unschedulable"},
		"unbound-gate":     {spec: "schedulingGates: [{name: example.com/gate}]", reason: "SchedulingGated"},
	} {
		p := sleeper(name)
		p.Spec, p.Container = c.spec, c.container
		s.apply(t, p)
		s.meaningPending(t, name, c.reason, "")
		if got, want := s.refused(t, "", "logs", name), fmt.Sprintf("waiting to start: the pod has no node yet (Pending, %s)", c.reason); !strings.Contains(got, want) {
			t.Errorf("podctl logs %s says %q, want %q", name, got, want)
		}
		if err := s.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if pod, err := s.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s was deleted, and is there: %v, %v", name, pod, err)
		}
		if c.reason == "SchedulingGated" { // nothing was said of it but in its object
			if why := s.refused(t, "", "why", name); !strings.Contains(why, "there is no pod "+name) {
				t.Errorf("why %s: %s", name, why)
			}
			continue
		}
		if why := s.must(t, "why", name); !strings.Contains(why, "it was deleted before it had a node") {
			t.Errorf("why %s: %s", name, why)
		}
		events, err := s.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "FailedScheduling" {
			t.Errorf("events of %s: %v, %v", name, events, err)
		}
	}
}

// Pods that keep away from each other are here one at a time. One of a manifest file asks nobody, as
// it is not scheduled, and the others see it.
func (s *suite) meaningApart(t *testing.T) {
	const term = "requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]"
	apart := func(name string) pod {
		p := sleeper(name)
		p.Meta, p.Spec = "labels: {app: apart}", "affinity: {podAntiAffinity: {"+term+"}}"
		return p
	}
	const says = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
	near := sleeper("near")
	near.Spec = "affinity: {podAffinity: {" + term + "}}"
	s.apply(t, near)
	s.meaningPending(t, near.Name, "Unschedulable", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.")
	s.running(t, apart("apart-one"))
	s.until(t, near.Name, "ready", ready)
	s.apply(t, apart("apart-two"))
	s.meaningPending(t, "apart-two", "Unschedulable", says)
	if got := s.event(t, "apart-two", "FailedScheduling"); got != says {
		t.Errorf("event FailedScheduling: %q", got)
	}
	if why := strings.Join(strings.Fields(s.must(t, "why", "apart-two")), " "); !strings.Contains(why, says+" -> podctl get pods -A --show-labels") {
		t.Errorf("podctl why:\n%s", why)
	}
	file := filepath.Join(s.ConfigDir, "manifests", "apart.yaml")
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file+".new", []byte(apart("apart-file").String()), 0o644))
	must(t, os.Rename(file+".new", file))
	t.Cleanup(func() { _ = os.Remove(file) })
	static := "apart-file-" + s.NodeName
	s.until(t, static, "ready", ready)
	s.remove(t, "apart-one")
	s.until(t, "apart-one", "gone", gone)
	s.meaningPending(t, "apart-two", "Unschedulable", says)
	must(t, os.Remove(file))
	s.until(t, static, "gone", gone)
	s.until(t, "apart-two", "ready", ready)
	s.remove(t, "apart-two")
	s.remove(t, near.Name)
}

// A pod that names this node is bound, and then refused by it.
func (s *suite) meaningRejected(t *testing.T) {
	nodes := s.must(t, "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	p := sleeper("rejected")
	p.Spec = "nodeName: " + nodes + "\nnodeSelector: {zone: nowhere}"
	s.apply(t, p)
	pod := s.until(t, "rejected", "failed", phase(v1.PodFailed))
	if pod.Status.Reason != "NodeAffinity" || !strings.Contains(pod.Status.Message, "didn't match Pod's node affinity/selector") {
		t.Errorf("%s: %s", pod.Status.Reason, pod.Status.Message)
	}
	s.remove(t, "rejected")
}

func (s *suite) meaningTaint(t *testing.T) {
	s.running(t, sleeper("driven"))
	tolerant := sleeper("tolerant")
	tolerant.Spec = "tolerations: [{key: example.com/out, operator: Exists}]"
	s.running(t, tolerant)
	s.meaningNode(t, `{"spec":{"taints":[{"key":"example.com/out","effect":"NoExecute"}]}}`)
	s.until(t, "driven", "gone", gone)
	s.until(t, "tolerant", "still ready", func(pod *v1.Pod) bool { return ready(pod) && pod.DeletionTimestamp == nil })
	s.meaningNode(t, `{"spec":{"taints":null}}`)
	s.remove(t, "tolerant")
}

// An owner that is deleted in the foreground stays until the host has let go of the pod, whatever happens to podd.
func (s *suite) meaningOwner(t *testing.T) {
	maps := s.client.CoreV1().ConfigMaps("default")
	owner, err := maps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod{Name: "owned", Script: "trap : TERM; while true; do sleep 1; done", Spec: "terminationGracePeriodSeconds: 3"}
	p.Meta = fmt.Sprintf("ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: %s, blockOwnerDeletion: true}]", owner.UID)
	uid := string(s.running(t, p).UID)
	policy := metav1.DeletePropagationForeground
	if err := maps.Delete(t.Context(), "owner", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "owned", "asked to go", func(pod *v1.Pod) bool { return pod == nil || pod.DeletionTimestamp != nil })
	s.Kill()
	s.Restart()
	eventually(t, func() error {
		if _, err := maps.Get(t.Context(), "owner", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the owner is there: %v", err)
		}
		return nil
	})
	if left := pids(t, s, uid); len(left) > 0 {
		t.Errorf("the owner went before processes %v", left)
	}
	s.until(t, "owned", "gone", gone)
}

// A namespace takes all with it, pods first, also when podd is killed meanwhile.
func (s *suite) meaningNamespace(t *testing.T) {
	s.must(t, "create", "namespace", "meaning")
	p := pod{Name: "inside", Script: "trap : TERM; while true; do sleep 1; done", Spec: "terminationGracePeriodSeconds: 3", Meta: "namespace: meaning"}
	s.apply(t, p)
	s.must(t, "create", "configmap", "inside", "-n", "meaning", "--from-literal=a=b")
	s.must(t, "wait", "-n", "meaning", "--for=condition=Ready", "pod/inside")
	s.must(t, "delete", "namespace", "meaning", "--wait=false")
	eventually(t, func() error {
		ns, err := s.client.CoreV1().Namespaces().Get(t.Context(), "meaning", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == v1.NamespaceContentRemaining && c.Message == "Some resources are remaining: pods. has 1 resource instances" {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", ns.Status.Conditions)
	})
	s.Kill()
	s.Restart()
	eventually(t, func() error {
		if _, err := s.client.CoreV1().Namespaces().Get(t.Context(), "meaning", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the namespace is there: %v", err)
		}
		return nil
	})
	if out := s.must(t, "get", "configmaps,pods", "-n", "meaning", "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("left behind: %s", out)
	}
}
