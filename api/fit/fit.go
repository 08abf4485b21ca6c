// Package fit says what pods ask of a node, and what of it the node has not got. It is pure.
package fit

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// Amount is what pods ask for together, or what a node has: pods, thousandths of a cpu, bytes of memory, bytes of
// ephemeral-storage, and bytes of huge pages by the name of the resource. Amounts share that map: it is never written to.
type Amount struct {
	Pods, CPU, Memory, Storage int64
	Huge                       map[v1.ResourceName]int64 // nil is none
}

// Of is what one pod asks for by its spec, with its overhead.
func Of(pod *v1.Pod) Amount { return of(pod, resource.PodResourcesOptions{}) }

// Counted is what a scheduler counts for a pod: the most of what is asked for, admitted and given, so that a resize under
// way has room both before and after (pkg/scheduler/framework/types.go).
func Counted(pod *v1.Pod) Amount {
	if s := pod.Status; s.Resources != nil && len(pod.Spec.Overhead) > 0 { // which the helper adds to what it finds there
		own := *s.Resources
		own.Requests, s.AllocatedResources = without(own.Requests, pod.Spec.Overhead), without(s.AllocatedResources, pod.Spec.Overhead)
		s.Resources = &own
		pod = &v1.Pod{Spec: pod.Spec, Status: s}
	}
	return of(pod, resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})
}

// without is what is left of a list without another one.
func without(list, other v1.ResourceList) v1.ResourceList {
	left := v1.ResourceList{}
	for name, q := range list {
		q = q.DeepCopy()
		q.Sub(other[name])
		left[name] = q
	}
	return left
}

func of(pod *v1.Pod, o resource.PodResourcesOptions) Amount {
	if asksNothing(pod) {
		return Amount{Pods: 1}
	}
	r := resource.PodRequests(pod, o)
	return Amount{Pods: 1, CPU: r.Cpu().MilliValue(), Memory: r.Memory().Value(), Storage: r.StorageEphemeral().Value(), Huge: huge(r)}
}

// huge is the huge pages of a list.
func huge(r v1.ResourceList) (pages map[v1.ResourceName]int64) {
	for name, q := range r {
		if v1helper.IsHugePageResourceName(name) {
			if pages == nil {
				pages = map[v1.ResourceName]int64{}
			}
			pages[name] = q.Value()
		}
	}
	return pages
}

// asksNothing spares the sums of the many pods that ask for nothing.
func asksNothing(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if len(list[i].Resources.Requests) > 0 {
				return false
			}
		}
	}
	return len(pod.Spec.Overhead) == 0 && pod.Spec.Resources == nil
}

// Capacity is what a node has by its status.
func Capacity(r v1.ResourceList) Amount {
	return Amount{Pods: r.Pods().Value(), CPU: r.Cpu().MilliValue(), Memory: r.Memory().Value(), Storage: r.StorageEphemeral().Value(), Huge: huge(r)}
}

// Plus is both together.
func (a Amount) Plus(b Amount) Amount {
	return a.with(b, func(a, b int64) int64 { return a + b })
}

// Minus is a without b.
func (a Amount) Minus(b Amount) Amount {
	return a.with(b, func(a, b int64) int64 { return a - b })
}

// Max is of everything the more that a or b has.
func (a Amount) Max(b Amount) Amount {
	return a.with(b, func(a, b int64) int64 { return max(a, b) })
}

// with is f of everything that a and b have.
func (a Amount) with(b Amount, f func(a, b int64) int64) Amount {
	out := Amount{Pods: f(a.Pods, b.Pods), CPU: f(a.CPU, b.CPU), Memory: f(a.Memory, b.Memory), Storage: f(a.Storage, b.Storage)}
	if len(a.Huge)+len(b.Huge) == 0 {
		return out
	}
	out.Huge = map[v1.ResourceName]int64{}
	for _, pages := range []map[v1.ResourceName]int64{a.Huge, b.Huge} {
		for name := range pages {
			out.Huge[name] = f(a.Huge[name], b.Huge[name])
		}
	}
	return out
}

// Less tells whether a has less of anything than b.
func (a Amount) Less(b Amount) bool {
	for name, n := range b.Huge {
		if a.Huge[name] < n {
			return true
		}
	}
	return a.Pods < b.Pods || a.CPU < b.CPU || a.Memory < b.Memory || a.Storage < b.Storage
}

// Same tells whether both have as much of everything.
func (a Amount) Same(b Amount) bool { return !a.Less(b) && !b.Less(a) }

// Port is a port of the host that a pod asks for. On the address 0.0.0.0 it is one of every address.
type Port struct {
	IP       string
	Protocol v1.Protocol
	Number   int32
}

const anyIP = "0.0.0.0"

// Ports are the ports of the host that a pod asks for, with those of its sidecars (upstream: GetHostPorts in
// pkg/scheduler/util).
func Ports(pod *v1.Pod) (ports []Port) {
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := Port{IP: p.HostIP, Protocol: p.Protocol, Number: p.HostPort}
			if port.IP == "" {
				port.IP = anyIP
			}
			if port.Protocol == "" {
				port.Protocol = v1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// Taken is the lack of a pod that wants ports of the host of which others have one; none if they have not
// (pkg/scheduler/framework/plugins/nodeports).
func Taken(want, others []Port) []Lack {
	for _, w := range want {
		if slices.ContainsFunc(others, func(o Port) bool {
			return w.Number == o.Number && w.Protocol == o.Protocol && (w.IP == o.IP || w.IP == anyIP || o.IP == anyIP)
		}) {
			return []Lack{{Resource: hostPorts}}
		}
	}
	return nil
}

// hostPorts is no resource, but may be lacking as one.
const (
	hostPorts  v1.ResourceName = "NodePorts"
	takenPorts string          = "node(s) didn't have free ports for the requested pod ports"
)

// Lack is a resource of which a node has not got enough left for a pod. Cpu is in thousandths, memory and storage in bytes.
type Lack struct {
	Resource                  v1.ResourceName
	Requested, Used, Capacity int64
}

// Together is what pods take in all, and, if that is asked for, which ports of the host.
func Together(pods []*v1.Pod, withPorts bool) (sum Amount, ports []Port) {
	for _, pod := range pods {
		sum = sum.Plus(Counted(pod))
		if withPorts {
			ports = append(ports, Ports(pod)...)
		}
	}
	return sum, ports
}

// Lacks is what there is too little of for a pod that asks for want, beside those that have used of all. What is not
// asked for is never lacking (pkg/scheduler/framework/plugins/noderesources/fit.go).
func Lacks(want, used, all Amount) []Lack {
	var lacks []Lack
	asked := []Lack{
		{v1.ResourcePods, want.Pods, used.Pods, all.Pods},
		{v1.ResourceCPU, want.CPU, used.CPU, all.CPU},
		{v1.ResourceMemory, want.Memory, used.Memory, all.Memory},
		{v1.ResourceEphemeralStorage, want.Storage, used.Storage, all.Storage},
	}
	for _, name := range slices.Sorted(maps.Keys(want.Huge)) {
		asked = append(asked, Lack{name, want.Huge[name], used.Huge[name], all.Huge[name]})
	}
	for _, l := range asked {
		if l.Requested > 0 && l.Requested > l.Capacity-l.Used {
			lacks = append(lacks, l)
		}
	}
	return lacks
}

// Why is how a scheduler says it.
func (l Lack) Why() string {
	switch l.Resource {
	case v1.ResourcePods:
		return "Too many pods"
	case hostPorts:
		return takenPorts
	}
	return "Insufficient " + string(l.Resource)
}

// Reason is the kubelet's for a pod that it does not take (pkg/kubelet/lifecycle/predicate.go).
func (l Lack) Reason() string {
	if l.Resource == hostPorts {
		return string(hostPorts)
	}
	return "OutOf" + string(l.Resource)
}

func (l Lack) String() string {
	if l.Resource == hostPorts {
		return "Predicate " + string(hostPorts) + " failed: " + takenPorts
	}
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", l.Resource, l.Requested, l.Used, l.Capacity)
}
