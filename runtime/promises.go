package runtime

import (
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/fit"
	"podd/status"
)

// promises is what podd has admitted of what its pods ask for: the resources in their records. One that is being stored
// counts already, so that no two pods get the same; beside what is stored, which counts until it is not.
type promises struct {
	mu    sync.Mutex
	known map[types.UID]promise // read from the record when it is asked for first; guarded by mu
	given map[types.UID]promise // and not stored yet; guarded by mu
	waits map[types.UID]bool    // pods that ask for other resources than they have; guarded by mu
}

// promise is what one pod was admitted with.
type promise struct {
	holds     bool // it was admitted, and is not over
	resources map[string]v1.ResourceRequirements
}

func promiseOf(rec record) promise {
	return promise{holds: !rec.Started.IsZero() && rec.Verdict == nil, resources: rec.Allocated}
}

// note keeps what a record says now. When it holds less than before, those that wait are looked at.
func (r *Runtime) note(uid types.UID, rec record) {
	r.promises.mu.Lock()
	before := r.promises.known[uid]
	now := promiseOf(rec)
	r.promises.known[uid] = now
	r.promises.mu.Unlock()
	if before.holds && (!now.holds || !equality.Semantic.DeepEqual(before.resources, now.resources)) {
		r.wakeWaiting()
	}
}

// release forgets a pod that is gone.
func (r *Runtime) release(uid types.UID) {
	r.promises.mu.Lock()
	delete(r.promises.known, uid)
	delete(r.promises.given, uid)
	delete(r.promises.waits, uid)
	r.promises.mu.Unlock()
	r.wakeWaiting()
}

// wakeWaiting has all pods looked at that wait for room.
func (r *Runtime) wakeWaiting() {
	r.promises.mu.Lock()
	defer r.promises.mu.Unlock()
	for uid := range r.promises.waits {
		r.Wake(uid)
	}
}

// others is what all admitted pods of this host but one hold, and their ports of the host. promises.mu is held.
func (r *Runtime) others(but types.UID) (sum fit.Amount, ports []fit.Port) {
	for _, pod := range r.Store.Pods() {
		if pod.UID == but || pod.Spec.NodeName != r.Node.Name || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			continue
		}
		p, ok := r.promises.known[pod.UID]
		if !ok {
			data, _ := r.Store.Record(pod.UID)
			if rec, err := decodeRecord(data); err == nil { // else there is none yet
				p = promiseOf(rec)
				r.promises.known[pod.UID] = p
			}
		}
		sum = sum.Plus(p.of(pod).Max(r.promises.given[pod.UID].of(pod)))
		if p.holds || r.promises.given[pod.UID].holds {
			ports = append(ports, fit.Ports(pod)...)
		}
	}
	return sum, ports
}

// of is what p is of the pod.
func (p promise) of(pod *v1.Pod) fit.Amount {
	if !p.holds {
		return fit.Amount{}
	}
	return fit.Of(withResources(pod, p.resources))
}

// lacks is what there is too little of for an amount and ports that the pod wants, beside the others. promises.mu is held.
func (r *Runtime) lacks(uid types.UID, want fit.Amount, ports []fit.Port) []fit.Lack {
	others, taken := r.others(uid)
	if lacks := fit.Taken(ports, taken); len(lacks) > 0 {
		return lacks
	}
	var all v1.ResourceList
	if r.Allocatable != nil {
		all = r.Allocatable()
	}
	if all == nil {
		return nil
	}
	return fit.Lacks(want, others, fit.Capacity(all))
}

// refusal is the verdict over a pod that asks for more than is left of this host, or that would add to what presses it, nil if it has its place already. It is
// the kubelet's (pkg/kubelet/lifecycle/predicate.go), for a pod that was bound past all scheduling.
func (h *host) refusal(pod *v1.Pod) *status.Verdict {
	if !h.record().Started.IsZero() || len(h.lastSeen().instances) > 0 {
		return nil
	}
	if v := h.r.unsafe(pod); v != nil {
		return v
	}
	h.r.promises.mu.Lock()
	defer h.r.promises.mu.Unlock()
	lacks := h.r.lacks(h.uid, fit.Of(pod), fit.Ports(pod))
	if len(lacks) > 0 && critical(pod) && h.r.preempt(pod, lacks) {
		return nil // it has its place when they are gone
	}
	return refused(lacks)
}

// preempt has pods go for a critical one that lacks something, and tells whether that will do. It may be asked again while they go.
// promises.mu is held.
func (r *Runtime) preempt(critically *v1.Pod, lacks []fit.Lack) bool {
	var going, others []fit.Holder
	for _, pod := range r.Store.Pods() {
		p := r.promises.known[pod.UID]
		if pod.UID == critically.UID || pod.Spec.NodeName != r.Node.Name || ends(pod) || critical(pod) || !p.holds {
			continue
		}
		h := fit.Holder{Pod: pod, Has: p.of(pod)}
		data, _ := r.Store.Record(pod.UID)
		if rec, err := decodeRecord(data); r.isChosen(pod.UID) || err == nil && rec.Evicted != nil {
			going = append(going, h)
		} else {
			others = append(others, h)
		}
	}
	victims, ok := fit.Preempt(lacks, going, others)
	for _, pod := range victims {
		r.Log.Warn("a pod makes room for a critical one", "pod", pod.Namespace+"/"+pod.Name, "for", critically.Namespace+"/"+critically.Name)
		r.choose(pod.UID, status.Eviction{At: time.Now(), Reason: status.Preempting, Message: "Preempted in order to admit critical pod", Disruption: true})
	}
	return ok
}

func refused(lacks []fit.Lack) *status.Verdict {
	if len(lacks) == 0 {
		return nil
	}
	return &status.Verdict{Phase: v1.PodFailed, Reason: lacks[0].Reason(), Message: lacks[0].String()}
}

// promise takes the pod's place for what next says, unless there is too little left for want, or one of the ports is taken.
// It is kept until settle.
func (h *host) promise(want fit.Amount, ports []fit.Port, next record) (lacks []fit.Lack) {
	p := &h.r.promises
	p.mu.Lock()
	defer p.mu.Unlock()
	if lacks = h.r.lacks(h.uid, want, ports); len(lacks) == 0 {
		p.given[h.uid] = promiseOf(next)
	}
	return lacks
}

// settle goes by what is stored from now on.
func (h *host) settle() {
	h.r.promises.mu.Lock()
	defer h.r.promises.mu.Unlock()
	delete(h.r.promises.given, h.uid)
}

// room is what the others leave of this host to a pod that asks for other resources than it has; nil for any other pod,
// and while it is not known.
func (h *host) room(pod *v1.Pod, rec record) v1.ResourceList {
	p := &h.r.promises
	p.mu.Lock()
	defer p.mu.Unlock()
	if sameResources(pod, rec.Allocated) {
		delete(p.waits, h.uid)
		return nil
	}
	p.waits[h.uid] = true
	if h.r.Allocatable == nil {
		return nil
	}
	all := h.r.Allocatable()
	if all == nil {
		return nil
	}
	others, _ := h.r.others(h.uid)
	left := fit.Capacity(all).Minus(others)
	return v1.ResourceList{
		v1.ResourceCPU:    *resource.NewMilliQuantity(left.CPU, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(left.Memory, resource.BinarySI),
	}
}

// resourcesOf is what the pod's spec asks for, as status.Facts.Allocated. Ephemeral containers have no resources.
func resourcesOf(pod *v1.Pod) map[string]v1.ResourceRequirements {
	own := status.Own(pod)
	all := map[string]v1.ResourceRequirements{status.Whole: *own.DeepCopy()}
	for _, m := range status.Members(pod) {
		if m.Kind != status.Ephemeral {
			all[m.Name] = *m.Resources.DeepCopy()
		}
	}
	return all
}

// sameResources tells whether the pod and every container of the spec ask for what they have. What is not said in has was as
// it is.
func sameResources(pod *v1.Pod, has map[string]v1.ResourceRequirements) bool {
	own, ok := has[status.Whole]
	none := pod.Spec.Resources == nil && len(own.Requests)+len(own.Limits) == 0 // of most pods
	if ok && !none && !equality.Semantic.DeepEqual(status.Own(pod), own) {
		return false
	}
	for _, m := range status.Members(pod) {
		if r, ok := has[m.Name]; ok && !equality.Semantic.DeepEqual(m.Resources, r) {
			return false
		}
	}
	return true
}

// withResources is the pod with these resources, of its own and of its containers. It shares everything else with it.
func withResources(pod *v1.Pod, r map[string]v1.ResourceRequirements) *v1.Pod {
	if sameResources(pod, r) {
		return pod
	}
	changed := *pod
	if own, ok := r[status.Whole]; ok {
		changed = *status.WithOwn(pod, own)
	}
	for _, list := range []*[]v1.Container{&changed.Spec.InitContainers, &changed.Spec.Containers} {
		*list = slices.Clone(*list)
		for i := range *list {
			if has, ok := r[(*list)[i].Name]; ok {
				(*list)[i].Resources = has
			}
		}
	}
	return &changed
}

// errRefused is the error of a pod that is not admitted: the next look sees why.
func errRefused(pod *v1.Pod, lacks []fit.Lack) error {
	return fmt.Errorf("admit pod %s: %s", pod.Name, lacks[0])
}
