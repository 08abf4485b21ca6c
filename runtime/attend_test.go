package runtime

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestPick(t *testing.T) {
	one := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "init"}},
		Containers:     []v1.Container{{Name: "app"}},
		EphemeralContainers: []v1.EphemeralContainer{
			{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug"}},
		},
	}}
	for name, want := range map[string]string{"": "app", "init": "init", "app": "app", "debug": "debug", "other": ""} {
		got, err := pick(one, name)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("pick %q: %q, %v; want %q", name, got, err, want)
		}
	}
	two := one.DeepCopy()
	two.Spec.Containers = append(two.Spec.Containers, v1.Container{Name: "more"})
	if got, err := pick(two, ""); err == nil {
		t.Errorf("picked %s of two", got)
	}
}
