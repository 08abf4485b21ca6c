package api

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/node"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/pkg/util/tolerations"
)

// defaultHandler is the one that every host has, also without a class.
const defaultHandler = "runc"

// RuntimeHandler is the handler of a runtime class.
func (s *Server) RuntimeHandler(class string) (string, error) {
	obj, err := s.registry.runtimeClasses.Get(clusterScope(context.Background()), class, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("RuntimeClass %q not found", class)
	}
	if err != nil {
		return "", fmt.Errorf("look up runtime class %s: %w", class, err)
	}
	found, ok := obj.(*node.RuntimeClass)
	if !ok {
		return "", fmt.Errorf("look up runtime class %s: a %T", class, obj)
	}
	return found.Handler, nil
}

// ensureClasses makes the priority classes that every cluster has.
func (s *Server) ensureClasses(ctx context.Context) error {
	for _, class := range schedulingv1.SystemPriorityClasses() {
		internal := &scheduling.PriorityClass{}
		legacyscheme.Scheme.Default(class)
		if err := legacyscheme.Scheme.Convert(class, internal, nil); err != nil {
			return fmt.Errorf("make priority class %s: %w", class.Name, err)
		}
		_, err := s.registry.priorityClasses.Create(clusterScope(ctx), internal, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// priority writes down what the pod's class, or the default one, says. (Upstream: the admission plugin Priority.)
func (a *admit) priority(ctx context.Context, attr admission.Attributes, pod *core.Pod) error {
	preempt := core.PreemptLowerPriority
	value, policy := int32(scheduling.DefaultPriorityWhenNoDefaultClassExists), &preempt
	class, err := a.priorityClass(ctx, attr, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	if class != nil {
		pod.Spec.PriorityClassName, value, policy = class.Name, class.Value, class.PreemptionPolicy
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return admission.NewForbidden(attr, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; "+
			"priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	pod.Spec.Priority = &value
	if policy == nil {
		return nil
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != *policy {
		return admission.NewForbidden(attr, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; "+
			"priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, *policy))
	}
	set := *policy
	pod.Spec.PreemptionPolicy = &set
	return nil
}

// priorityClass is the class of that name, or the default one; nil when there is none.
func (a *admit) priorityClass(ctx context.Context, attr admission.Attributes, name string) (*scheduling.PriorityClass, error) {
	if name == "" {
		return a.defaultPriority(ctx)
	}
	obj, err := a.server.registry.priorityClasses.Get(clusterScope(ctx), name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(attr, fmt.Errorf("no PriorityClass with name %v was found", name))
	}
	if err != nil {
		return nil, fmt.Errorf("look up priority class %s: %w", name, err)
	}
	class, ok := obj.(*scheduling.PriorityClass)
	if !ok {
		return nil, fmt.Errorf("look up priority class %s: a %T", name, obj)
	}
	return class, nil
}

// defaultPriority is the class that is marked as the default: the lowest, should there be several.
func (a *admit) defaultPriority(ctx context.Context) (*scheduling.PriorityClass, error) {
	obj, err := a.server.registry.priorityClasses.List(clusterScope(ctx), &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("look up the default priority class: %w", err)
	}
	list, ok := obj.(*scheduling.PriorityClassList)
	if !ok {
		return nil, fmt.Errorf("look up the default priority class: a %T", obj)
	}
	var found *scheduling.PriorityClass
	for i, class := range list.Items {
		if class.GlobalDefault && (found == nil || class.Value < found.Value) {
			found = &list.Items[i]
		}
	}
	return found, nil
}

// oneDefault refuses a second default among the priority classes.
func (a *admit) oneDefault(ctx context.Context, attr admission.Attributes, class *scheduling.PriorityClass) error {
	if !class.GlobalDefault {
		return nil
	}
	present, err := a.defaultPriority(ctx)
	if err != nil {
		return err
	}
	if present != nil && present.Name != class.Name {
		return admission.NewForbidden(attr, fmt.Errorf(
			"PriorityClass %v is already marked as default. Only one default can exist", present.Name))
	}
	return nil
}

// runtimeClass gives the pod what its class says of overhead and scheduling. (Upstream: the admission plugin
// RuntimeClass.) A handler that this host does not have keeps the pod from starting: it may come.
func (a *admit) runtimeClass(ctx context.Context, attr admission.Attributes, pod *core.Pod) error {
	class := &node.RuntimeClass{}
	if name := pod.Spec.RuntimeClassName; name != nil {
		obj, err := a.server.registry.runtimeClasses.Get(clusterScope(ctx), *name, &metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(attr, fmt.Errorf("pod rejected: RuntimeClass %q not found", *name))
		}
		if err != nil {
			return fmt.Errorf("look up runtime class %s: %w", *name, err)
		}
		found, ok := obj.(*node.RuntimeClass)
		if !ok {
			return fmt.Errorf("look up runtime class %s: a %T", *name, obj)
		}
		class = found
	}
	if err := setOverhead(attr, pod, class); err != nil {
		return err
	}
	return setScheduling(attr, pod, class)
}

func setOverhead(attr admission.Attributes, pod *core.Pod, class *node.RuntimeClass) error {
	if class.Overhead == nil {
		if pod.Spec.Overhead != nil {
			return admission.NewForbidden(attr, fmt.Errorf(
				"pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
		}
		return nil
	}
	if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
		return admission.NewForbidden(attr, fmt.Errorf(
			"pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
	}
	pod.Spec.Overhead = class.Overhead.PodFixed
	return nil
}

func setScheduling(attr admission.Attributes, pod *core.Pod, class *node.RuntimeClass) error {
	if class.Scheduling == nil {
		return nil
	}
	selector := map[string]string{}
	for key, value := range pod.Spec.NodeSelector {
		selector[key] = value
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, ok := selector[key]; ok && own != value {
			return admission.NewForbidden(attr, fmt.Errorf(
				"conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own))
		}
		selector[key] = value
	}
	if len(selector) > 0 {
		pod.Spec.NodeSelector = selector
	}
	pod.Spec.Tolerations = tolerations.MergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}
