package fit

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// Others is what a pod finds on the node.
type Others struct {
	Labels map[string]string // of the node
	Pods   []*v1.Pod         // of the node that are not over

	// Namespace is the labels of a namespace, and whether there is one. It is asked only for selectors that are not empty.
	Namespace func(name string) (labels.Set, bool)
}

// Beside says what keeps a pod from a node, in upstream's words: the topology spread constraints that are not to be broken, then
// required affinity and anti-affinity, its own and what the others have against it. Empty is that nothing does. It is what the
// plugins PodTopologySpread and InterPodAffinity of a scheduler say of a cluster of this one node, which the pod's
// node affinity and tolerations fit.
func Beside(pod *v1.Pod, o Others) string {
	if why := unspread(pod, o); why != "" {
		return why
	}
	switch {
	case !o.attract(pod):
		return "node(s) didn't match pod affinity rules"
	case slices.ContainsFunc(o.Pods, func(other *v1.Pod) bool { return o.repels(pod, other) }):
		return "node(s) didn't match pod anti-affinity rules"
	case slices.ContainsFunc(o.Pods, func(other *v1.Pod) bool { return o.repels(other, pod) }):
		return "node(s) didn't satisfy existing pods anti-affinity rules"
	}
	return ""
}

// unspread looks at the constraints. With one node there is one domain: the others that match are the least of all domains
// as well, unless the constraint wants more domains, which counts as one that has none. The node has its place in the count
// whatever nodeAffinityPolicy and nodeTaintsPolicy say, as the pod fits it by both.
func unspread(pod *v1.Pod, o Others) string {
	const unmatched = "node(s) didn't match pod topology spread constraints"
	constraints := slices.DeleteFunc(slices.Clone(pod.Spec.TopologySpreadConstraints), func(c v1.TopologySpreadConstraint) bool {
		return c.WhenUnsatisfiable != v1.DoNotSchedule
	})
	for _, c := range constraints {
		if _, ok := o.Labels[c.TopologyKey]; !ok {
			return unmatched + " (missing required label)"
		}
	}
	for _, c := range constraints {
		selector := selectorOf(c.LabelSelector)
		for _, key := range c.MatchLabelKeys {
			if value, ok := pod.Labels[key]; ok {
				only, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements()
				selector = selector.Add(only...)
			}
		}
		matched := 0
		for _, other := range o.Pods {
			if !selector.Empty() && other.DeletionTimestamp == nil && other.Namespace == pod.Namespace && selector.Matches(labels.Set(other.Labels)) {
				matched++
			}
		}
		skew, least := matched, matched
		if selector.Matches(labels.Set(pod.Labels)) {
			skew++
		}
		if ptr.Deref(c.MinDomains, 1) > 1 {
			least = 0
		}
		if skew-least > int(c.MaxSkew) {
			return unmatched
		}
	}
	return ""
}

// attract tells whether each term of the pod's affinity has its topology on the node, and one of the others matches all of
// them. The first of a group, which would match them itself, has nobody to wait for.
func (o Others) attract(pod *v1.Pod) bool {
	var terms []v1.PodAffinityTerm
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		terms = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if len(terms) == 0 {
		return true
	}
	for _, t := range terms {
		if _, ok := o.Labels[t.TopologyKey]; !ok {
			return false
		}
	}
	all := func(other *v1.Pod) bool {
		return !slices.ContainsFunc(terms, func(t v1.PodAffinityTerm) bool { return !o.matches(t, pod, other) })
	}
	return slices.ContainsFunc(o.Pods, all) || all(pod)
}

// repels tells whether a term of the pod's anti-affinity matches the other one, and has its topology on the node.
func (o Others) repels(pod, other *v1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && a.PodAntiAffinity != nil && slices.ContainsFunc(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
		func(t v1.PodAffinityTerm) bool {
			_, ok := o.Labels[t.TopologyKey]
			return ok && o.matches(t, pod, other)
		})
}

// matches tells whether a term of the pod's means the other pod. matchLabelKeys and mismatchLabelKeys are part of the selector
// by the time that a pod is stored.
func (o Others) matches(t v1.PodAffinityTerm, pod, other *v1.Pod) bool {
	return o.inside(t, pod, other.Namespace) && selectorOf(t.LabelSelector).Matches(labels.Set(other.Labels))
}

// inside tells whether a term of the pod's means the namespace: the pod's own one if it names none.
func (o Others) inside(t v1.PodAffinityTerm, pod *v1.Pod, namespace string) bool {
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		return namespace == pod.Namespace
	}
	if slices.Contains(t.Namespaces, namespace) {
		return true
	}
	selector := selectorOf(t.NamespaceSelector)
	if _, selectable := selector.Requirements(); !selectable || selector.Empty() {
		return selectable
	}
	has, ok := o.Namespace(namespace)
	return ok && selector.Matches(has)
}

// selectorOf is nothing for nil, and for what validation would have refused.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}
