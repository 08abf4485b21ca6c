package api_test

import (
	"slices"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"podd/api"
)

// Under pressure the node has its condition and its taint at once, pods wait that do not tolerate it, and are bound when it is
// over. Taints of others stay.
func TestPressure(t *testing.T) {
	var pressed atomic.Pointer[[]v1.NodeConditionType]
	pressed.Store(&[]v1.NodeConditionType{})
	e := serveIn(t, t.TempDir(), func(c *api.Config) {
		c.Host.Pressure = func() []v1.NodeConditionType { return *pressed.Load() }
	})
	change := func(conditions ...v1.NodeConditionType) {
		pressed.Store(&conditions)
		e.server.PressureChanged()
	}
	mine := v1.Taint{Key: "mine", Value: "yes", Effect: v1.TaintEffectPreferNoSchedule}
	nodes := e.client.CoreV1().Nodes()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(t.Context(), "host", metav1.GetOptions{})
		if err == nil {
			node.Spec.Taints = append(node.Spec.Taints, mine)
			_, err = nodes.Update(t.Context(), node, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	is := func(kind v1.NodeConditionType, status v1.ConditionStatus, taints ...string) {
		t.Helper()
		e.until(t, string(kind)+" "+string(status), func() bool {
			node, err := nodes.Get(t.Context(), "host", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var has []string
			for _, taint := range node.Spec.Taints {
				has = append(has, taint.Key+":"+string(taint.Effect))
				if taint.Key != mine.Key && (taint.Value != "" || taint.TimeAdded == nil) {
					t.Errorf("taint %+v", taint)
				}
			}
			slices.Sort(has)
			return hasCondition(node, kind, status) && slices.Equal(has, taints)
		})
	}
	change(v1.NodeDiskPressure)
	is(v1.NodeDiskPressure, v1.ConditionTrue, "mine:PreferNoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule")
	pods := e.client.CoreV1().Pods("default")
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "waits"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "x"}}}}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	tolerant := pod.DeepCopy()
	tolerant.Name, tolerant.Spec.Tolerations = "tolerates", []v1.Toleration{{Key: v1.TaintNodeDiskPressure, Operator: v1.TolerationOpExists}}
	if made, err := pods.Create(t.Context(), tolerant, metav1.CreateOptions{}); err != nil || made.Spec.NodeName != "host" {
		t.Errorf("one that tolerates it is bound to %q, %v", made.Spec.NodeName, err)
	}
	bound := func() bool {
		got, err := pods.Get(t.Context(), "waits", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Spec.NodeName == "host"
	}
	e.until(t, "told why it waits", func() bool {
		got, err := pods.Get(t.Context(), "waits", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(got.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodScheduled && c.Message == "0/1 nodes are available: 1 node(s) had untolerated taint(s) {node.kubernetes.io/disk-pressure:NoSchedule}."
		})
	})
	if bound() {
		t.Error("it is bound to a node that it does not tolerate")
	}
	change(v1.NodeMemoryPressure, v1.NodePIDPressure)
	is(v1.NodeMemoryPressure, v1.ConditionTrue, "mine:PreferNoSchedule", "node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule")
	change()
	is(v1.NodeMemoryPressure, v1.ConditionFalse, "mine:PreferNoSchedule")
	e.until(t, "bound", bound)
}
