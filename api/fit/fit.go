// Package fit says what pods ask of a node, and what of it the node has not got. It is pure.
package fit

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// Amount is what pods ask for together, or what a node has: pods, thousandths of a cpu, bytes.
type Amount struct{ Pods, CPU, Memory int64 }

// Of is what one pod asks for by its spec, with its overhead.
func Of(pod *v1.Pod) Amount { return of(pod, resource.PodResourcesOptions{}) }

// Counted is what a scheduler counts for a pod: the most of what is asked for, admitted and given, so that a resize under
// way has room both before and after (pkg/scheduler/framework/types.go).
func Counted(pod *v1.Pod) Amount {
	return of(pod, resource.PodResourcesOptions{UseStatusResources: true})
}

func of(pod *v1.Pod, o resource.PodResourcesOptions) Amount {
	if asksNothing(pod) {
		return Amount{Pods: 1}
	}
	r := resource.PodRequests(pod, o)
	return Amount{Pods: 1, CPU: r.Cpu().MilliValue(), Memory: r.Memory().Value()}
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
	return Amount{Pods: r.Pods().Value(), CPU: r.Cpu().MilliValue(), Memory: r.Memory().Value()}
}

// Plus is both together.
func (a Amount) Plus(b Amount) Amount {
	return Amount{Pods: a.Pods + b.Pods, CPU: a.CPU + b.CPU, Memory: a.Memory + b.Memory}
}

// Minus is a without b.
func (a Amount) Minus(b Amount) Amount {
	return Amount{Pods: a.Pods - b.Pods, CPU: a.CPU - b.CPU, Memory: a.Memory - b.Memory}
}

// Max is of everything the more that a or b has.
func (a Amount) Max(b Amount) Amount {
	return Amount{Pods: max(a.Pods, b.Pods), CPU: max(a.CPU, b.CPU), Memory: max(a.Memory, b.Memory)}
}

// Less tells whether a has less of anything than b.
func (a Amount) Less(b Amount) bool { return a.Pods < b.Pods || a.CPU < b.CPU || a.Memory < b.Memory }

// Lack is a resource of which a node has not got enough left for a pod. Cpu is in thousandths, memory in bytes.
type Lack struct {
	Resource                  v1.ResourceName
	Requested, Used, Capacity int64
}

// Lacks is what there is too little of for a pod that asks for want, beside those that have used of all. What is not
// asked for is never lacking (pkg/scheduler/framework/plugins/noderesources/fit.go).
func Lacks(want, used, all Amount) []Lack {
	var lacks []Lack
	for _, l := range []Lack{
		{v1.ResourcePods, want.Pods, used.Pods, all.Pods},
		{v1.ResourceCPU, want.CPU, used.CPU, all.CPU},
		{v1.ResourceMemory, want.Memory, used.Memory, all.Memory},
	} {
		if l.Requested > 0 && l.Requested > l.Capacity-l.Used {
			lacks = append(lacks, l)
		}
	}
	return lacks
}

// Why is how a scheduler says it.
func (l Lack) Why() string {
	if l.Resource == v1.ResourcePods {
		return "Too many pods"
	}
	return "Insufficient " + string(l.Resource)
}

// Reason is the kubelet's for a pod that it does not take (pkg/kubelet/lifecycle/predicate.go).
func (l Lack) Reason() string { return "OutOf" + string(l.Resource) }

func (l Lack) String() string {
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", l.Resource, l.Requested, l.Used, l.Capacity)
}
