package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/runtime/containers"
	"podd/runtime/logs"
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

// Of a log's lines those come that are as old as was asked for, at most.
func TestLogsSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "0.log")
	var text strings.Builder
	for _, age := range []time.Duration{2 * time.Hour, time.Minute, time.Second} {
		text.WriteString(now.Add(-age).Format(time.RFC3339Nano) + " stdout F " + age.String() + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	seconds := func(n int64) *v1.PodLogOptions { return &v1.PodLogOptions{SinceSeconds: &n} }
	for _, c := range []struct {
		opts *v1.PodLogOptions
		want string
	}{
		{&v1.PodLogOptions{}, "2h0m0s\n1m0s\n1s\n"},
		{seconds(3600), "1m0s\n1s\n"},
		{seconds(30), "1s\n"},
		{&v1.PodLogOptions{SinceTime: &metav1.Time{Time: now.Add(-time.Hour)}}, "1m0s\n1s\n"},
	} {
		var out strings.Builder
		if err := logs.Read(t.Context(), path, chosen(c.opts, now), &out, &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.want {
			t.Errorf("%v: %q, want %q", c.opts, out.String(), c.want)
		}
	}
}
