package status

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestMembers(t *testing.T) {
	always, never := v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever
	pod := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "z"}, {Name: "y", RestartPolicy: &always}, {Name: "x", RestartPolicy: &never}},
		Containers:     []v1.Container{{Name: "b", RestartPolicy: &always}, {Name: "a"}},
		EphemeralContainers: []v1.EphemeralContainer{
			{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e", Image: "debug"}},
		},
	}}
	want := []struct {
		name string
		kind Kind
	}{{"z", PlainInit}, {"y", Sidecar}, {"x", PlainInit}, {"b", Regular}, {"a", Regular}, {"e", Ephemeral}}
	got := Members(pod)
	if len(got) != len(want) {
		t.Fatalf("%d members, want %d", len(got), len(want))
	}
	for i, m := range got {
		if m.Name != want[i].name || m.Kind != want[i].kind {
			t.Errorf("member %d is %s, a %d, want %s, a %d", i, m.Name, m.Kind, want[i].name, want[i].kind)
		}
	}
	if m, ok := MemberOf(pod, "e"); !ok || m.Image != "debug" {
		t.Errorf("member e: %v, %+v", ok, m)
	}
	if _, ok := MemberOf(pod, "c"); ok {
		t.Error("found a member that is none")
	}
}
