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
	all := Amount{Pods: 3, CPU: 2000, Memory: 1 << 30, Storage: 1000, Huge: map[v1.ResourceName]int64{"hugepages-2Mi": 4}}
	for _, c := range []struct {
		name       string
		want, used Amount
		lacks      string
	}{
		{"all of it", Amount{Pods: 1, CPU: 2000, Memory: 1 << 30}, Amount{}, "[]"},
		{"a thousandth too much", Amount{Pods: 1, CPU: 2001}, Amount{}, "[Node didn't have enough resource: cpu, requested: 2001, used: 0, capacity: 2000]"},
		{"beside another", Amount{Pods: 1, CPU: 1500, Memory: 1}, Amount{Pods: 1, CPU: 501, Memory: 1 << 30}, "[Node didn't have enough resource: cpu, requested: 1500, used: 501, capacity: 2000 " +
			"Node didn't have enough resource: memory, requested: 1, used: 1073741824, capacity: 1073741824]"},
		{"nothing asked on a full node", Amount{Pods: 1}, Amount{Pods: 2, CPU: 5000, Memory: 2 << 30}, "[]"},
		{"storage", Amount{Pods: 1, Storage: 501}, Amount{Pods: 1, Storage: 500}, "[Node didn't have enough resource: ephemeral-storage, requested: 501, used: 500, capacity: 1000]"},
		{"huge pages", Amount{Pods: 1, Huge: map[v1.ResourceName]int64{"hugepages-2Mi": 3, "hugepages-1Gi": 1}}, Amount{Pods: 1, Huge: map[v1.ResourceName]int64{"hugepages-2Mi": 2}},
			"[Node didn't have enough resource: hugepages-1Gi, requested: 1, used: 0, capacity: 0 Node didn't have enough resource: hugepages-2Mi, requested: 3, used: 2, capacity: 4]"},
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
	if got := Of(pod); !got.Same(Amount{Pods: 1, CPU: 1050, Memory: 10}) {
		t.Errorf("a pod asks for %+v", got)
	}
	if got := Of(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", nil)}}}); !got.Same(Amount{Pods: 1}) {
		t.Errorf("a pod without requests asks for %+v", got)
	}
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")})}}}
	if got := Of(pod); !got.Same(Amount{Pods: 1, Storage: 1024}) {
		t.Errorf("a pod that asks for storage asks for %+v", got)
	}
	huge := v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("4Mi")}
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", huge), asks("b", huge)}}}
	one, two := Amount{Huge: map[v1.ResourceName]int64{"hugepages-2Mi": 4 << 20}}, Of(pod)
	if want := (Amount{Pods: 1, CPU: 2000}).Plus(one).Plus(one); !two.Same(want) || two.Less(one) || !one.Less(two) || !two.Max(one).Same(want) ||
		!two.Minus(one).Same(Amount{Pods: 1, CPU: 2000}.Plus(one)) || two.Same(Amount{Pods: 1, CPU: 2000}) {
		t.Errorf("a pod that asks for huge pages asks for %+v", two)
	}
	// A resize that is not through counts with the most of what was, is and is to be.
	pod = &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{asks("a", list("100m", "10"))}}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", AllocatedResources: list("300m", "7"),
		Resources: &v1.ResourceRequirements{Requests: list("200m", "20")}}}
	if got := Counted(pod); !got.Same(Amount{Pods: 1, CPU: 300, Memory: 20}) {
		t.Errorf("a pod under resize counts %+v", got)
	}
	// So does one of the pod as a whole, whose status has the overhead in it.
	pod.Spec.Resources = &v1.ResourceRequirements{Requests: list("500m", "100")}
	pod.Spec.Overhead = list("50m", "1")
	pod.Status.AllocatedResources = list("750m", "51")
	pod.Status.Resources = &v1.ResourceRequirements{Requests: list("650m", "201")}
	if got := Counted(pod); !got.Same(Amount{Pods: 1, CPU: 750, Memory: 201}) {
		t.Errorf("a pod under a resize as a whole counts %+v", got)
	}
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Reason: v1.PodReasonInfeasible}}
	pod.Spec.Resources.Requests = list("500", "100")
	if got := Counted(pod); !got.Same(Amount{Pods: 1, CPU: 750, Memory: 201}) {
		t.Errorf("one that can never be counts %+v", got)
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
