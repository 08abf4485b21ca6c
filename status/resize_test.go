package status

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestInitHoldsUpResize: why a plain init container cannot be held to less is told while the resources of the pod wait for it,
// and else it is not spoken of.
func TestInitHoldsUpResize(t *testing.T) {
	s := &story{t: t}
	s.newPod(v1.RestartPolicyAlways, []string{"first/init", "app"})
	memory := func(q string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse(q)}}
	}
	s.pod = WithOwn(s.pod, memory("64Mi"))
	before := memory("128Mi")
	s.f.Ground, s.f.Allocated = true, map[string]v1.ResourceRequirements{Whole: memory("64Mi"), "first": {}, "app": {}}
	s.f.Containers = []Container{{Name: "first", State: Running, Present: true, Resources: before}}
	s.f.Failures = map[Task]Failed{{Op: OpResize, Name: "first"}: {Count: 1, Message: "cannot decrease memory limits"}}
	for name, c := range map[string]struct {
		before *v1.ResourceRequirements
		want   string
	}{"it waits": {&before, "Error cannot decrease memory limits"}, "it does not": {nil, ""}} {
		s.f.Before = c.before
		got := ""
		for _, c := range Of(s.pod, s.f).Conditions {
			if c.Type == v1.PodResizeInProgress {
				got = c.Reason + " " + c.Message
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
