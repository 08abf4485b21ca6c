package status

import (
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Whole is the name in Facts.Allocated of the pod's own resources (spec.resources). No container has it.
const Whole = ""

// Own is what pod asks for as a whole; empty if it does not.
func Own(pod *v1.Pod) v1.ResourceRequirements {
	if pod.Spec.Resources == nil {
		return v1.ResourceRequirements{}
	}
	return *pod.Spec.Resources
}

// WithOwn is pod with other resources of its own. It shares everything else with it.
func WithOwn(pod *v1.Pod, own v1.ResourceRequirements) *v1.Pod {
	out := *pod
	out.Spec.Resources = &own
	if len(own.Requests)+len(own.Limits) == 0 {
		out.Spec.Resources = nil
	}
	return &out
}

// Effective is what a container that asks for r is held to, in a pod with resources of its own: r, with the limits of the
// pod for what of cpu and memory it has none (pkg/kubelet/util GetLimits). Its limits are not nil.
func Effective(r, own v1.ResourceRequirements) v1.ResourceRequirements {
	limits := v1.ResourceList{}
	maps.Copy(limits, r.Limits)
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if limit := limits[name]; limit.IsZero() {
			if whole, ok := own.Limits[name]; ok && !whole.IsZero() {
				limits[name] = whole
			}
		}
	}
	return v1.ResourceRequirements{Requests: r.Requests, Limits: limits}
}

// Admitted is pod with the resources that podd has admitted in the place of those that its spec asks for now. Everything
// but the decision over a resize goes by it.
func Admitted(pod *v1.Pod, f Facts) *v1.Pod {
	out := pod
	if own, ok := f.Allocated[Whole]; ok && !same(own, Own(pod)) {
		out = WithOwn(pod.DeepCopy(), *own.DeepCopy())
	}
	for i, m := range Members(pod) {
		r, ok := f.Allocated[m.Name]
		if !ok || m.Kind == Ephemeral || same(r, m.Resources) {
			continue
		}
		if out == pod {
			out = pod.DeepCopy()
		}
		Members(out)[i].Resources = *r.DeepCopy()
	}
	return out
}

// Resize is what is to become of the resources that the spec asks for and that are not admitted.
type Resize struct {
	Wanted  bool
	Reason  string // why they are not admitted now: Deferred or Infeasible; "" if they can be
	Message string
}

// ResizeOf tells whether the spec asks for other resources than podd has admitted, and whether they fit: never, if the
// node has not got them in all (Infeasible); not now, if the other pods leave too little (Deferred). What asks for no more
// than before always fits. pod is as its spec has it. Upstream calls both Deferred
// (pkg/kubelet/allocation/allocation_manager.go handlePodResourcesResize), the API's own words do not.
func ResizeOf(pod *v1.Pod, f Facts) Resize {
	before := Admitted(pod, f)
	if f.Allocated == nil || before == pod {
		return Resize{}
	}
	had := resourcehelper.PodRequests(before, resourcehelper.PodResourcesOptions{})
	asks := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	out := Resize{Wanted: true}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		want, all, room := asks[name], f.Node.Allocatable, f.Room
		if want.Cmp(had[name]) <= 0 {
			continue
		}
		if capacity, known := all[name]; known && want.Cmp(capacity) > 0 {
			return Resize{Wanted: true, Reason: v1.PodReasonInfeasible, Message: fmt.Sprintf(
				"Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, want), amount(name, capacity))}
		}
		if left, known := room[name]; known && want.Cmp(left) > 0 && out.Reason == "" {
			capacity, ok := all[name]
			if !ok {
				capacity = left
			}
			out.Reason, out.Message = v1.PodReasonDeferred, fmt.Sprintf(
				"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, amount(name, want), amount(name, capacity)-amount(name, left), amount(name, capacity))
		}
	}
	return out
}

// amount is a quantity as messages give it: thousandths of a cpu, or bytes.
func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// Unapplied tells whether i, a running instance of c, is held to other resources than podd has admitted, and whether that
// is to be changed by a restart. pod, of which c is, is as Admitted has it. Of an instance whose resources are not known
// nothing is restarted.
func Unapplied(pod *v1.Pod, c *v1.Container, f Facts, i Container) (differs, restart bool) {
	if i.State != Running {
		return false, false
	}
	return unheld(pod, c, f, i)
}

// Unheld tells whether i, an instance of c that runs or is made to run, is held to other resources than podd has admitted.
func Unheld(pod *v1.Pod, c *v1.Container, f Facts, i Container) bool {
	differs, _ := unheld(pod, c, f, i)
	return differs && i.State != Exited
}

func unheld(pod *v1.Pod, c *v1.Container, f Facts, i Container) (differs, restart bool) {
	if f.Allocated == nil {
		return false, false
	}
	known := i.Resources.Requests != nil || i.Resources.Limits != nil
	wanted := Effective(c.Resources, Own(pod))
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if sameOf(name, wanted, i.Resources) {
			continue
		}
		differs = true
		for _, policy := range c.ResizePolicy {
			restart = restart || known && policy.ResourceName == name && policy.RestartPolicy == v1.RestartContainer
		}
	}
	return differs, restart
}

// UnappliedOwn tells whether the pod's cgroup may still be held to what the pod had of its own before.
func UnappliedOwn(f Facts) bool { return f.Before != nil && f.Ground }

// whole is the resources that the status shows of a pod that is as Admitted has it: what it requests and what it is limited
// to, with those of its own that it had before until others are applied.
func whole(pod *v1.Pod, f Facts) *v1.ResourceRequirements {
	if UnappliedOwn(f) {
		pod = WithOwn(pod, *f.Before)
	}
	return &v1.ResourceRequirements{
		Requests: resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}),
		Limits:   resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{}),
	}
}

// The least that the kernel knows: a cgroup holds no cpu request below 2 shares and no cpu limit below 1 ms in 100
// (pkg/kubelet/cm/helpers_linux.go).
const (
	leastCPURequest = 2
	leastCPULimit   = 10
)

// same tells whether a and b are the same in cpu and memory.
func same(a, b v1.ResourceRequirements) bool {
	return sameOf(v1.ResourceCPU, a, b) && sameOf(v1.ResourceMemory, a, b)
}

func sameOf(name v1.ResourceName, a, b v1.ResourceRequirements) bool {
	return amount(name, a.Requests[name]) == amount(name, b.Requests[name]) &&
		amount(name, a.Limits[name]) == amount(name, b.Limits[name])
}

// actual are the resources that i, an instance of c, has: those admitted, with what the runtime holds it to in their place
// as long as it runs (pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses).
func actual(c *v1.Container, i Container) *v1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	if i.State != Running {
		return r
	}
	put := func(into, from v1.ResourceList, name v1.ResourceName, least int64) {
		q, ok := from[name]
		admitted := into[name]
		if into != nil && ok && (amount(name, q) > least || amount(name, admitted) > least) {
			into[name] = q.DeepCopy()
		}
	}
	put(r.Limits, i.Resources.Limits, v1.ResourceCPU, leastCPULimit)
	put(r.Limits, i.Resources.Limits, v1.ResourceMemory, 0)
	put(r.Requests, i.Resources.Requests, v1.ResourceCPU, leastCPURequest)
	put(r.Requests, i.Resources.Requests, v1.ResourceMemory, 0)
	return r
}

// resizeConditions are those of a resize that is wanted, and of one that is admitted but not applied yet to all that runs. A
// plain init container is only spoken of while it holds up a resize of the pod.
func resizeConditions(pod *v1.Pod, f Facts, phase v1.PodPhase) []v1.PodCondition {
	var out []v1.PodCondition
	if f.Allocated == nil || terminalReason(phase) != "" {
		return nil
	}
	if r := ResizeOf(pod, f); r.Reason != "" {
		out = append(out, v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: r.Reason, Message: r.Message})
	}
	progress := v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue}
	found := UnappliedOwn(f)
	if w := failed(f, Task{Op: OpResizePod}, ""); found && w != nil {
		progress.Reason, progress.Message = v1.PodReasonError, w.Message
	}
	pod = Admitted(pod, f)
	for _, m := range Members(pod) {
		i, known := f.Newest(m.Name)
		if !known || m.Kind == Ephemeral || m.Kind == PlainInit && !UnappliedOwn(f) {
			continue
		}
		differs, _ := Unapplied(pod, m.Container, f, i)
		found = found || differs
		if w := failed(f, Task{Op: OpResize, Name: m.Name}, ""); differs && w != nil && progress.Reason == "" {
			progress.Reason, progress.Message = v1.PodReasonError, w.Message
		}
	}
	if found {
		out = append(out, progress)
	}
	return out
}
