package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func asking(name string, milli int64, memory string) *v1.Pod {
	p := pod(name)
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(milli, resource.DecimalSI)}
	if memory != "" {
		p.Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return p
}

// allocatable is the thousandths of a cpu that the node has.
func (e *env) allocatable(t testing.TB) int64 {
	t.Helper()
	node, err := e.client.CoreV1().Nodes().Get(t.Context(), "host", metav1.GetOptions{})
	if err != nil || node.Status.Allocatable.Cpu().IsZero() {
		t.Fatalf("node: %v, %v", node, err)
	}
	return node.Status.Allocatable.Cpu().MilliValue()
}

// leave takes a pod away as the host does when it has let go.
func (e *env) leave(t testing.TB, name string) {
	t.Helper()
	none := int64(0)
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		t.Fatal(err)
	}
}

func (e *env) ends(t testing.TB, name string, phase v1.PodPhase) {
	t.Helper()
	p, _ := e.store.Pod("default", name)
	err := e.store.SetStatus(t.Context(), p.UID, func(s v1.PodStatus) v1.PodStatus { s.Phase = phase; return s })
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoom: a pod that asks for more than is left waits, says so, and gets its node when there is room: a pod is gone, or
// over, or takes less.
func TestRoom(t *testing.T) {
	const cpu = "0/1 nodes are available: 1 Insufficient cpu."
	e := serve(t)
	all := e.allocatable(t)
	for _, p := range []*v1.Pod{asking("whole", all, ""), pod("asks-for-nothing")} {
		if p = e.create(t, p); p.Spec.NodeName != "host" {
			t.Fatalf("%s: made on %q", p.Name, p.Spec.NodeName)
		}
	}

	e.create(t, asking("second", all, ""))
	e.scheduled(t, "second", "", "Unschedulable", cpu)
	e.eventually(t, "second", "FailedScheduling", cpu)
	e.create(t, asking("huge", all+1, "1000Ti"))
	e.scheduled(t, "huge", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.")

	e.leave(t, "whole")
	e.scheduled(t, "second", "host", "", "")
	e.create(t, asking("third", all, ""))
	e.scheduled(t, "third", "", "Unschedulable", cpu)
	e.stop() // what waits, and for what, is found again
	e = serveIn(t, e.dir)
	e.ends(t, "second", v1.PodSucceeded)
	e.scheduled(t, "third", "host", "", "")
	e.scheduled(t, "huge", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.")
}

// Huge pages are counted by their size, and those of a size that the node has not are lacking.
func TestRoomOfHugePages(t *testing.T) {
	e := serve(t)
	asks := func(name, size, amount string) *v1.Pod {
		p, pages := asking(name, 1, ""), v1.ResourceName("hugepages-"+size)
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{pages: resource.MustParse(amount)}
		return p
	}
	e.create(t, asks("odd", "3Mi", "3Mi"))
	e.scheduled(t, "odd", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient hugepages-3Mi.")
	e.create(t, asks("many", "2Mi", "1Ti"))
	e.scheduled(t, "many", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient hugepages-2Mi.")
	for _, c := range []struct {
		name, want string
		r          v1.ResourceRequirements
	}{
		{"alone", "HugePages require cpu or memory", v1.ResourceRequirements{Limits: v1.ResourceList{"hugepages-2Mi": resource.MustParse("2Mi")}}},
		{"half", "must be equal to hugepages-2Mi limit of 4Mi", v1.ResourceRequirements{Limits: v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")},
			Requests: v1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("2Mi")}}},
		{"unlimited", "Limit must be set for non overcommitable resources", v1.ResourceRequirements{
			Requests: v1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("2Mi")}}},
		{"part", "3Mi is not positive integer multiple of hugepages-2Mi", v1.ResourceRequirements{
			Limits: v1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("3Mi")}}},
	} {
		p := pod("wrong-" + c.name)
		p.Spec.Containers[0].Resources = c.r
		if _, err := e.client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestRoomPriority: of those that wait the one of more priority is first, then the older one.
func TestRoomPriority(t *testing.T) {
	e := serve(t)
	all := e.allocatable(t)
	e.create(t, asking("whole", all, ""))
	for _, name := range []string{"b", "a"} {
		e.create(t, asking(name, all, ""))
		e.scheduled(t, name, "", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
	}
	first := asking("first", all, "")
	first.Spec.PriorityClassName = "system-cluster-critical"
	e.create(t, first)
	e.scheduled(t, "first", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
	e.leave(t, "whole")
	e.scheduled(t, "first", "host", "", "")
	for _, name := range []string{"a", "b"} {
		if p, _ := e.store.Pod("default", name); p.Spec.NodeName != "" {
			t.Errorf("%s is bound as well", name)
		}
	}
}

// TestRoomPorts: a port of the host goes to one pod; another one that asks for it waits, says so, and has it when the first
// is gone or over. What is asked for at once is promised once. Ephemeral storage is counted as well.
func TestRoomPorts(t *testing.T) {
	const taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
	e := serve(t)
	on := func(name, ip string, port int32) *v1.Pod {
		p := pod(name)
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: port, HostIP: ip}}
		return p
	}
	if p := e.create(t, on("first", "", 8080)); p.Spec.NodeName != "host" {
		t.Fatal("the first port of all is taken")
	}
	if p := e.create(t, on("beside", "", 8081)); p.Spec.NodeName != "host" {
		t.Error("another port is taken")
	}
	e.create(t, on("second", "127.0.0.1", 8080))
	e.scheduled(t, "second", "", "Unschedulable", taken)
	e.eventually(t, "second", "FailedScheduling", taken)
	e.leave(t, "first")
	e.scheduled(t, "second", "host", "", "")
	e.create(t, on("third", "0.0.0.0", 8080))
	e.scheduled(t, "third", "", "Unschedulable", taken)
	e.ends(t, "second", v1.PodFailed)
	e.scheduled(t, "third", "host", "", "")

	var making sync.WaitGroup
	for i := range 8 {
		making.Go(func() { e.create(t, on(fmt.Sprintf("p-%d", i), "", 9090)) })
	}
	making.Wait()
	bound := 0
	for i := range 8 {
		if p, ok := e.store.Pod("default", fmt.Sprintf("p-%d", i)); ok && p.Spec.NodeName == "host" {
			bound++
		}
	}
	if bound != 1 {
		t.Errorf("%d pods have the same port", bound)
	}
	big := pod("big")
	big.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("7Ei")}
	e.create(t, big)
	e.scheduled(t, "big", "", "Unschedulable", "0/1 nodes are available: 1 Insufficient ephemeral-storage.")
}

// TestRoomAtOnce: of pods that are made at the same time as many get the node as there is room for, and all others wait.
func TestRoomAtOnce(t *testing.T) {
	e := serve(t)
	quarter := e.allocatable(t) / 4
	const pods = 24
	var making sync.WaitGroup
	for i := range pods {
		making.Go(func() { e.create(t, asking(fmt.Sprintf("p-%d", i), quarter, "")) })
	}
	making.Wait()
	bound := func() (n, waiting int) {
		for i := range pods {
			p, ok := e.store.Pod("default", fmt.Sprintf("p-%d", i))
			if ok && p.Spec.NodeName == "host" {
				n++
			} else if ok && len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Reason == "Unschedulable" {
				waiting++
			}
		}
		return n, waiting
	}
	e.until(t, "all others wait", func() bool { _, waiting := bound(); return waiting == pods-4 })
	if n, _ := bound(); n != 4 {
		t.Errorf("%d pods of a quarter of the node each are bound to it", n)
	}
}
