package fit

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) v1.ResourceList {
	l := v1.ResourceList{}
	if cpu != "" {
		l[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func asks(name string, r v1.ResourceList) v1.Container {
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Requests: r}}
}

func TestLacks(t *testing.T) {
	all := Amount{Pods: 3, CPU: 2000, Memory: 1 << 30}
	for _, c := range []struct {
		name       string
		want, used Amount
		lacks      string
	}{
		{"all of it", Amount{1, 2000, 1 << 30}, Amount{}, "[]"},
		{"a thousandth too much", Amount{1, 2001, 0}, Amount{}, "[Node didn't have enough resource: cpu, requested: 2001, used: 0, capacity: 2000]"},
		{"beside another", Amount{1, 1500, 1}, Amount{1, 501, 1 << 30}, "[Node didn't have enough resource: cpu, requested: 1500, used: 501, capacity: 2000 " +
			"Node didn't have enough resource: memory, requested: 1, used: 1073741824, capacity: 1073741824]"},
		{"nothing asked on a full node", Amount{Pods: 1}, Amount{2, 5000, 2 << 30}, "[]"},
		{"too many", Amount{Pods: 1}, Amount{Pods: 3}, "[Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3]"},
	} {
		if got := fmt.Sprint(Lacks(c.want, c.used, all)); got != c.lacks {
			t.Errorf("%s: %s, want %s", c.name, got, c.lacks)
		}
	}
}

func TestAmounts(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{
		Containers:     []v1.Container{asks("a", list("100m", "10")), asks("b", list("200m", ""))},
		InitContainers: []v1.Container{asks("big", list("1", "5"))},
		Overhead:       list("50m", ""),
	}}
	if got := Of(pod); got != (Amount{1, 1050, 10}) {
		t.Errorf("a pod asks for %+v", got)
	}
	if got := Of(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", nil)}}}); got != (Amount{Pods: 1}) {
		t.Errorf("a pod without requests asks for %+v", got)
	}
	// A resize that is not through counts with the most of what was, is and is to be.
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", list("100m", "10"))}}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", AllocatedResources: list("300m", "7"),
		Resources: &v1.ResourceRequirements{Requests: list("200m", "20")}}}
	if got := Counted(pod); got != (Amount{1, 300, 20}) {
		t.Errorf("a pod under resize counts %+v", got)
	}
}
