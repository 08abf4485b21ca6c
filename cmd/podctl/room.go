package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// room is what there is to give to a pod that waits for room on this host.
type room struct {
	node v1.Node
	here []v1.Pod // those that have it: bound, and not ended
}

// ofRoom is what the scheduler says where room is lacking, ofLabels where a label of the node may be.
var ofRoom, ofLabels = []string{"free ports", "Insufficient ", "Too many pods"}, []string{"match pod affinity rules", "missing required label"}

// rooms asks for the room of this host at most once, when the first pod waits for some.
type rooms struct {
	api   corev1.CoreV1Interface
	asked bool
	found *room
}

// of is the room for a pod that waits for some, or for a label of the node; nil for any other, and if who asks may not see it.
func (r *rooms) of(ctx context.Context, pod *v1.Pod) *room {
	c := condition(pod, v1.PodScheduled)
	if c == nil || c.Status != v1.ConditionFalse || !slices.ContainsFunc(slices.Concat(ofRoom, ofLabels), func(s string) bool {
		return strings.Contains(c.Message, s)
	}) {
		return nil
	}
	if !r.asked {
		r.asked, r.found = true, lookAtRoom(ctx, r.api)
	}
	return r.found
}

func lookAtRoom(ctx context.Context, api corev1.CoreV1Interface) *room {
	nodes, err := api.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		return nil
	}
	pods, err := api.Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	here := slices.DeleteFunc(pods.Items, func(p v1.Pod) bool {
		return p.Spec.NodeName == "" || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
	})
	return &room{nodes.Items[0], here}
}

// tell adds to a cause, that pod waits for room, what of it is lacking, and who has it; or which label the node lacks.
func (r *room) tell(pod *v1.Pod, c cause) cause {
	if r == nil {
		return c
	}
	if key := r.unlabelled(pod); key != "" && slices.ContainsFunc(ofLabels, func(s string) bool { return strings.Contains(c.what, s) }) {
		c.what += "\nThe node has no label " + key + ", which is the topologyKey."
		c.next = "podctl label node " + r.node.Name + " " + key + "=VALUE, or correct topologyKey and make the pod anew."
		return c
	}
	ports := r.ports(pod)
	short, never := r.short(pod)
	if len(ports)+len(short) == 0 { // there is room meanwhile
		return c
	}
	c.what += "\n" + strings.Join(slices.Concat(ports, short), "\n")
	var next []string
	if len(ports) > 0 {
		next = append(next, "Delete the pod that has the port, or take another hostPort.")
	}
	switch {
	case never:
		next = append(next, "This host can never give that: lower resources.requests of the pod.")
	case len(short) > 0:
		next = append(next, "Lower resources.requests of the pod, or of others: podctl describe node "+r.node.Name+" shows who has how much.")
	}
	if !never {
		next = append(next, "It is run as soon as there is room.")
	}
	c.next = strings.Join(next, " ")
	return c
}

// unlabelled is the first topologyKey of what a pod requires that the node does not have; empty if it has them all.
func (r *room) unlabelled(pod *v1.Pod) string {
	var keys []string
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == v1.DoNotSchedule {
			keys = append(keys, c.TopologyKey)
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		for _, t := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			keys = append(keys, t.TopologyKey)
		}
	}
	for _, key := range keys {
		if _, ok := r.node.Labels[key]; !ok {
			return key
		}
	}
	return ""
}

// ports says which host ports of a pod are taken, by whom.
func (r *room) ports(pod *v1.Pod) (taken []string) {
	for _, want := range hostPorts(pod) {
		for i := range r.here {
			other := &r.here[i]
			if other.UID != pod.UID && slices.ContainsFunc(hostPorts(other), func(has v1.ContainerPort) bool { return collide(want, has) }) {
				taken = append(taken, fmt.Sprintf("Host port %d/%s is taken by pod %s/%s.", want.HostPort, want.Protocol, other.Namespace, other.Name))
			}
		}
	}
	return slices.Compact(taken)
}

// hostPorts is those of the containers that run as long as their pod.
func hostPorts(pod *v1.Pod) (all []v1.ContainerPort) {
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				p.Protocol = cmp.Or(p.Protocol, v1.ProtocolTCP)
				all = append(all, p)
			}
		}
	}
	return all
}

func collide(a, b v1.ContainerPort) bool {
	every := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.HostPort == b.HostPort && a.Protocol == b.Protocol && (every(a.HostIP) || every(b.HostIP) || a.HostIP == b.HostIP)
}

// short says of what the pod asks for more than is free. never is that it is more than this host has in all.
func (r *room) short(pod *v1.Pod) (lacking []string, never bool) {
	asked := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	free := r.node.Status.Allocatable.DeepCopy()
	for i := range r.here {
		for name, has := range resourcehelper.PodRequests(&r.here[i], resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
			if left, ok := free[name]; ok {
				left.Sub(has)
				free[name] = left
			}
		}
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		want, all, left := asked[name], r.node.Status.Allocatable[name], free[name]
		if want.IsZero() || want.Cmp(left) <= 0 {
			continue
		}
		never = never || want.Cmp(all) > 0
		if left.Sign() < 0 {
			left.Set(0)
		}
		lacking = append(lacking, fmt.Sprintf("It asks for %s %s: %s of %s are free.", name, amount(name, want.MilliValue()),
			amount(name, left.MilliValue()), amount(name, all.MilliValue())))
	}
	if most := r.node.Status.Allocatable.Pods().Value(); int64(len(r.here)) >= most {
		lacking = append(lacking, fmt.Sprintf("%d pods are here, and podd takes %d at most (--max-pods).", len(r.here), most))
	}
	return lacking, never
}

// amount is so many thousandths of a resource, for people.
func amount(name v1.ResourceName, milli int64) string {
	if name == v1.ResourceCPU {
		return strconv.FormatFloat(float64(milli)/1000, 'g', -1, 64)
	}
	return bytesOf(milli / 1000)
}
