package status

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// TestConditionsOfAGeneration: each condition tells the generation of the pod that it was made of, also where a new generation
// changes nothing of it; what somebody else wrote is left as it is.
func TestConditionsOfAGeneration(t *testing.T) {
	s := &story{t: t}
	s.newPod(v1.RestartPolicyAlways, []string{"app"})
	s.pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	others := v1.PodCondition{Type: "example.com/gate", Status: v1.ConditionTrue, ObservedGeneration: 1}
	s.pod.Status.Conditions = []v1.PodCondition{others}
	s.prev.Conditions = []v1.PodCondition{others}
	var first []v1.PodCondition
	for i, generation := range []int64{3, 4} {
		s.pod.Generation = generation
		s.f.Now = zero.Add(time.Duration(i) * time.Minute)
		s.prev = Stamp(s.prev, Of(s.pod, s.f), s.f.Now)
		if len(s.prev.Conditions) < 6 {
			t.Fatalf("generation %d: conditions %v", generation, s.prev.Conditions)
		}
		for j, c := range s.prev.Conditions {
			want := generation
			if c.Type == others.Type {
				want = 1
			}
			if c.ObservedGeneration != want {
				t.Errorf("generation %d: %s observed %d", generation, c.Type, c.ObservedGeneration)
			}
			if first != nil && !c.LastTransitionTime.Equal(&first[j].LastTransitionTime) {
				t.Errorf("%s had a transition with generation %d", c.Type, generation)
			}
		}
		first = s.prev.Conditions
	}
}
