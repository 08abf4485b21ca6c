package api

import (
	"context"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	podstorage "k8s.io/kubernetes/pkg/registry/core/pod/storage"

	"podd/api/fit"
)

// podREST gives pods that are made their node.
type podREST struct {
	*podstorage.REST
	server *Server
}

// Create places the pod and stores it.
func (p *podREST) Create(ctx context.Context, obj runtime.Object, valid rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	if pod, ok := obj.(*core.Pod); ok {
		defer p.server.place(pod)()
	}
	return p.REST.Create(ctx, obj, valid, opts)
}

// place gives a pod that is made to this node, if it is podd's to place, may run here and has room. Any other stays
// Pending, and the scheduler says why. stored is to be called when the pod is stored, or will not be.
func (s *Server) place(pod *core.Pod) (stored func()) {
	nothing := func() {}
	if pod.Spec.NodeName != "" && pod.Annotations[SourceAnnotation] != SourceFile { // of which only the file decides
		s.labelPlace(&pod.ObjectMeta, pod.Spec.NodeName)
	}
	if pod.Spec.NodeName != "" || len(pod.Spec.SchedulingGates) > 0 || pod.Spec.SchedulerName != v1.DefaultSchedulerName {
		return nothing
	}
	node := s.thisNode()
	if node == nil {
		pod.Spec.NodeName = s.NodeName
		return nothing
	}
	external := &v1.Pod{}
	if err := legacyscheme.Scheme.Convert(pod, external, nil); err != nil || unfit(external, node) != "" {
		return nothing
	}
	if n, err := s.needs(external, node); err != nil || n.why != "" || len(n.delayed) > 0 || n.alone {
		return nothing
	}
	if keyed(external) { // its registry has yet to make selectors of its label keys
		return nothing
	}
	stored, lacks, why := s.reserve(external, node)
	if len(lacks) > 0 || why != "" {
		return nothing
	}
	pod.Spec.NodeName = s.NodeName
	s.labelPlace(&pod.ObjectMeta, s.NodeName)
	return stored
}

// labelPlace gives a pod, or what binds one, the node's labels of its place, if that is this node and has them (upstream: the
// admission plugin PodTopologyLabels).
func (s *Server) labelPlace(of *metav1.ObjectMeta, nodeName string) {
	if nodeName != s.NodeName {
		return
	}
	has := s.Labels()
	for _, key := range []string{v1.LabelTopologyZone, v1.LabelTopologyRegion} {
		if value, ok := has[key]; ok {
			metav1.SetMetaDataLabel(of, key, value)
		}
	}
}

// room is what of the node is promised to pods that are just being bound to it, so that no two get the same.
type room struct {
	mu       sync.Mutex
	settled  sync.Cond // something promised has been stored, or given back
	promised fit.Amount
	ports    []fit.Port
	pods     []*v1.Pod
}

func newRoom() *room {
	r := &room{}
	r.settled.L = &r.mu
	return r
}

// reserve promises the pod what it asks for, until stored is called. lacks says what there is too little of, why what the
// others of the node, or their absence, have against it; nothing is promised then. If that is only because of what is promised
// to others, it waits for what becomes of that: they may be stored by now, and count twice.
func (s *Server) reserve(pod *v1.Pod, node *v1.Node) (stored func(), lacks []fit.Lack, why string) {
	want, all, ports := fit.Of(pod), fit.Capacity(node.Status.Allocatable), fit.Ports(pod)
	counts := len(node.Status.Allocatable) > 0 // else it was made just now
	others := fit.Others{Labels: node.Labels, Namespace: s.namespaceLabels()}
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		others.Pods = slices.DeleteFunc(s.Store.Pods(), func(other *v1.Pod) bool { return !s.takesRoom(other) })
		used, taken := fit.Together(others.Pods, len(ports) > 0)
		if lacks = fit.Taken(ports, taken); counts && len(lacks) > 0 { // a scheduler looks at these first, and no further
			return nil, lacks, ""
		}
		if lacks = fit.Lacks(want, used, all); counts && len(lacks) > 0 {
			return nil, lacks, ""
		}
		if why = fit.Beside(pod, others); why != "" {
			return nil, nil, why
		}
		room := !counts || len(fit.Lacks(want, used.Plus(r.promised), all)) == 0 && len(fit.Taken(ports, r.ports)) == 0
		if others.Pods = append(others.Pods, r.pods...); room && fit.Beside(pod, others) == "" {
			break
		}
		r.settled.Wait()
	}
	r.promised = r.promised.Plus(want)
	r.ports, r.pods = append(r.ports, ports...), append(r.pods, pod)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.promised = r.promised.Minus(want)
		r.ports = slices.DeleteFunc(r.ports, func(p fit.Port) bool { return slices.Contains(ports, p) })
		r.pods = slices.DeleteFunc(r.pods, func(p *v1.Pod) bool { return p == pod })
		r.settled.Broadcast()
	}, nil, ""
}

// namespaceLabels reads the labels of namespaces, each once.
func (s *Server) namespaceLabels() func(name string) (labels.Set, bool) {
	read := s.objects()
	return func(name string) (labels.Set, bool) {
		ns, err := read.get(namespacePrefix+name, v1.SchemeGroupVersion)
		if err != nil || ns == nil {
			return nil, false
		}
		return ns.GetLabels(), true
	}
}

// keyed tells whether terms of the pod's affinity mean others by its own labels.
func keyed(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []v1.PodAffinityTerm
	if a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
	}
	if a.PodAntiAffinity != nil {
		terms = append(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
	}
	return slices.ContainsFunc(terms, func(t v1.PodAffinityTerm) bool { return len(t.MatchLabelKeys)+len(t.MismatchLabelKeys) > 0 })
}

// takesRoom tells whether the pod is on this node and not over.
func (s *Server) takesRoom(pod *v1.Pod) bool {
	return pod.Spec.NodeName == s.NodeName && pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed
}

// unschedulable is upstream's message for a node that lacks something.
func unschedulable(lacks []fit.Lack) string {
	var whys []string
	for _, l := range lacks {
		whys = append(whys, "1 "+l.Why())
	}
	slices.Sort(whys)
	return "0/1 nodes are available: " + strings.Join(whys, ", ") + "."
}

// Allocatable is what pods may have of this node in all, shared and read-only; nil while it is not known.
func (s *Server) Allocatable() v1.ResourceList {
	if node := s.thisNode(); node != nil && len(node.Status.Allocatable) > 0 {
		return node.Status.Allocatable
	}
	return nil
}

// Labels are this node's, shared and read-only.
func (s *Server) Labels() map[string]string {
	if node := s.thisNode(); node != nil {
		return node.Labels
	}
	return nil
}
