package fit

import (
	"maps"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Holder is a pod with what it holds of the node.
type Holder struct {
	Pod *v1.Pod
	Has Amount
}

// Preempt chooses the pods that have to go so that nothing is lacking, when those that go anyway are gone: guaranteed pods only for what all
// others would not free, then burstable ones, then those that ask for nothing; of each class those that fit
// what is lacking best (pkg/kubelet/preemption). It is false when all of them would not do, or a port of the host is
// lacking.
func Preempt(lacks []Lack, going, pods []Holder) ([]*v1.Pod, bool) {
	need := needs{}
	for _, l := range lacks {
		if l.Resource == hostPorts {
			return nil, false
		}
		need[l.Resource] = l.Requested - (l.Capacity - l.Used)
	}
	need = need.without(going)
	if len(need.without(pods)) > 0 {
		return nil, false
	}
	classes := map[v1.PodQOSClass][]Holder{}
	for _, h := range pods {
		class := qos.GetPodQOS(h.Pod)
		classes[class] = append(classes[class], h)
	}
	least, some, most := classes[v1.PodQOSBestEffort], classes[v1.PodQOSBurstable], classes[v1.PodQOSGuaranteed]
	most = need.without(least).without(some).closest(most)
	some = need.without(least).without(most).closest(some)
	least = need.without(some).without(most).closest(least)
	var chosen []*v1.Pod
	for _, h := range slices.Concat(least, some, most) {
		chosen = append(chosen, h.Pod)
	}
	return chosen, true
}

// needs is how much there is too little of, without what there is enough of.
type needs map[v1.ResourceName]int64

func (n needs) without(gone []Holder) needs {
	left := maps.Clone(n)
	for name := range left {
		for _, h := range gone {
			left[name] -= h.Has.of(name)
		}
	}
	maps.DeleteFunc(left, func(_ v1.ResourceName, n int64) bool { return n <= 0 })
	return left
}

// closest takes pods until nothing is needed: always the one that leaves the least, of two the one that holds less.
func (n needs) closest(pods []Holder) (taken []Holder) {
	for pods = slices.Clone(pods); len(n) > 0 && len(pods) > 0; {
		best := 0
		for i, h := range pods {
			if d, least := n.distance(h), n.distance(pods[best]); d < least || d == least && smaller(h.Has, pods[best].Has) {
				best = i
			}
		}
		n, taken = n.without(pods[best:best+1]), append(taken, pods[best])
		pods = slices.Delete(pods, best, best+1)
	}
	return taken
}

func (n needs) distance(h Holder) (sum float64) {
	for name, need := range n {
		if left := need - h.Has.of(name); left > 0 {
			sum += math.Pow(float64(left)/float64(need), 2)
		}
	}
	return sum
}

func smaller(a, b Amount) bool {
	if a.Memory != b.Memory {
		return a.Memory < b.Memory
	}
	return a.CPU < b.CPU
}

// of is how much of a resource is in a.
func (a Amount) of(name v1.ResourceName) int64 {
	switch name {
	case v1.ResourcePods:
		return a.Pods
	case v1.ResourceCPU:
		return a.CPU
	case v1.ResourceMemory:
		return a.Memory
	case v1.ResourceEphemeralStorage:
		return a.Storage
	}
	return a.Huge[name]
}
