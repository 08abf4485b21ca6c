package pressure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
)

// Uses is what a pod uses of one resource, and each of its containers by name, where that is known.
type Uses struct {
	Pod        *v1.Pod
	Known      bool // else the pod could not be measured
	Amount     int64
	Containers map[string]int64
}

// Rank puts the pod first that goes first: for memory, storage and inodes one that uses more than it has asked for, then one of a lower
// priority, then the one that uses the most beyond what it has asked for; for process ids by priority and use alone. What
// could not be measured goes before what could.
func Rank(of v1.ResourceName, pods []Uses) {
	slices.SortStableFunc(pods, func(a, b Uses) int {
		unknown := yes(!a.Known, !b.Known)
		priority := cmp.Compare(corev1.PodPriority(a.Pod), corev1.PodPriority(b.Pod))
		overA, overB := a.Amount-requested(a.Pod, of), b.Amount-requested(b.Pod, of)
		if of == PIDs {
			return cmp.Or(priority, unknown, cmp.Compare(overB, overA))
		}
		if unknown != 0 {
			return unknown
		}
		return cmp.Or(yes(a.Known && overA > 0, b.Known && overB > 0), priority, cmp.Compare(overB, overA))
	})
}

// yes puts true before false.
func yes(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func requested(pod *v1.Pod, of v1.ResourceName) int64 {
	q := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[of]
	return q.Value()
}

// Message says why the pod was chosen, t being the threshold that was met.
func Message(t Threshold, seen Observation, u Uses) string {
	of := t.Resource()
	var s strings.Builder
	fmt.Fprintf(&s, "The node was low on resource: %v. ", of)
	fmt.Fprintf(&s, "Threshold quantity: %v, available: %v. ", t.Quantity(seen.Capacity), quantity(of, seen.Available))
	if own := u.Pod.Spec.Resources; own != nil && of == v1.ResourceMemory && u.Known {
		if request, ok := own.Requests[of]; ok {
			fmt.Fprintf(&s, "Pod %s was using %v, request is %v, has larger consumption of %v. ", u.Pod.Name, quantity(of, u.Amount), &request, of)
		}
	}
	if of != v1.ResourceMemory && of != v1.ResourceEphemeralStorage {
		return s.String()
	}
	for _, c := range slices.Concat(u.Pod.Spec.Containers, u.Pod.Spec.InitContainers) {
		request := c.Resources.Requests[of]
		if used, ok := u.Containers[c.Name]; ok && request.CmpInt64(used) < 0 {
			fmt.Fprintf(&s, "Container %s was using %v, request is %v, has larger consumption of %v. ", c.Name, quantity(of, used), &request, of)
		}
	}
	return s.String()
}

func quantity(of v1.ResourceName, n int64) *resource.Quantity {
	if of == Inodes || of == PIDs {
		return resource.NewQuantity(n, resource.DecimalSI)
	}
	return resource.NewQuantity(n, resource.BinarySI)
}
