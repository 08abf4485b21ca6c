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
	all := Amount{Pods: 3, CPU: 2000, Memory: 1 << 30, Storage: 1000}
	for _, c := range []struct {
		name       string
		want, used Amount
		lacks      string
	}{
		{"all of it", Amount{1, 2000, 1 << 30, 0}, Amount{}, "[]"},
		{"a thousandth too much", Amount{1, 2001, 0, 0}, Amount{}, "[Node didn't have enough resource: cpu, requested: 2001, used: 0, capacity: 2000]"},
		{"beside another", Amount{1, 1500, 1, 0}, Amount{1, 501, 1 << 30, 0}, "[Node didn't have enough resource: cpu, requested: 1500, used: 501, capacity: 2000 " +
			"Node didn't have enough resource: memory, requested: 1, used: 1073741824, capacity: 1073741824]"},
		{"nothing asked on a full node", Amount{Pods: 1}, Amount{2, 5000, 2 << 30, 0}, "[]"},
		{"storage", Amount{Pods: 1, Storage: 501}, Amount{Pods: 1, Storage: 500}, "[Node didn't have enough resource: ephemeral-storage, requested: 501, used: 500, capacity: 1000]"},
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
	if got := Of(pod); got != (Amount{1, 1050, 10, 0}) {
		t.Errorf("a pod asks for %+v", got)
	}
	if got := Of(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", nil)}}}); got != (Amount{Pods: 1}) {
		t.Errorf("a pod without requests asks for %+v", got)
	}
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")})}}}
	if got := Of(pod); got != (Amount{Pods: 1, Storage: 1024}) {
		t.Errorf("a pod that asks for storage asks for %+v", got)
	}
	// A resize that is not through counts with the most of what was, is and is to be.
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", list("100m", "10"))}}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", AllocatedResources: list("300m", "7"),
		Resources: &v1.ResourceRequirements{Requests: list("200m", "20")}}}
	if got := Counted(pod); got != (Amount{1, 300, 20, 0}) {
		t.Errorf("a pod under resize counts %+v", got)
	}
}

// Ports of the host are taken by number and protocol, on one address or on all.
func TestPorts(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	with := func(ports ...v1.ContainerPort) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a", Ports: ports}}}}
	}
	sidecar := with()
	sidecar.Spec.InitContainers = []v1.Container{{Name: "s", RestartPolicy: &always, Ports: []v1.ContainerPort{{HostPort: 80}}},
		{Name: "init", Ports: []v1.ContainerPort{{HostPort: 81}}}}
	for _, c := range []struct {
		name         string
		want, others *v1.Pod
		taken        bool
	}{
		{"none", with(v1.ContainerPort{ContainerPort: 80}), with(v1.ContainerPort{ContainerPort: 80}), false},
		{"the same", with(v1.ContainerPort{HostPort: 80}), with(v1.ContainerPort{HostPort: 80, Protocol: v1.ProtocolTCP}), true},
		{"another number", with(v1.ContainerPort{HostPort: 80}), with(v1.ContainerPort{HostPort: 81}), false},
		{"another protocol", with(v1.ContainerPort{HostPort: 80, Protocol: v1.ProtocolUDP}), with(v1.ContainerPort{HostPort: 80}), false},
		{"another address", with(v1.ContainerPort{HostPort: 80, HostIP: "127.0.0.1"}), with(v1.ContainerPort{HostPort: 80, HostIP: "127.0.0.2"}), false},
		{"one of all", with(v1.ContainerPort{HostPort: 80, HostIP: "127.0.0.1"}), with(v1.ContainerPort{HostPort: 80}), true},
		{"all of one", with(v1.ContainerPort{HostPort: 80, HostIP: "0.0.0.0"}), with(v1.ContainerPort{HostPort: 80, HostIP: "127.0.0.1"}), true},
		{"a sidecar's", with(v1.ContainerPort{HostPort: 80}), sidecar, true},
		{"an init container's", with(v1.ContainerPort{HostPort: 81}), sidecar, false},
	} {
		lacks := Taken(Ports(c.want), Ports(c.others))
		if (len(lacks) > 0) != c.taken {
			t.Errorf("%s: %v", c.name, lacks)
		}
		for _, l := range lacks {
			if l.Why() != "node(s) didn't have free ports for the requested pod ports" || l.Reason() != "NodePorts" ||
				l.String() != "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports" {
				t.Errorf("it says %s, %s, %s", l.Why(), l.Reason(), l)
			}
		}
	}
}
