package runtime

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
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

// The host ports of a pod are those of its regular containers and its sidecars: they listen at the same time.
func TestHostPorts(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	with := func(port int32) v1.Container { return v1.Container{Ports: []v1.ContainerPort{{HostPort: port}}} }
	pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{with(1), with(2)}, Containers: []v1.Container{with(3), with(4)}}}
	pod.Spec.InitContainers[1].RestartPolicy = &always
	var got []int32
	for _, p := range (&host{r: &Runtime{Options: Options{Containers: &containers.Client{}}}}).netPod(pod, 0).Ports {
		got = append(got, p.HostPort)
	}
	if !slices.Equal(got, []int32{2, 3, 4}) {
		t.Errorf("host ports %v", got)
	}
}
