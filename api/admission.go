package api

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"

	"podd/api/fields"
)

// admit is what podd adds to upstream's validation: the namespace must be there, a pod without a node gets this one,
// and what podd does not honour is refused.
type admit struct{ server *Server }

// Handles says that every operation is looked at.
func (a *admit) Handles(admission.Operation) bool { return true }

// Admit runs before upstream drops fields of features that are off, so that nothing is dropped without a word.
func (a *admit) Admit(ctx context.Context, attr admission.Attributes, _ admission.ObjectInterfaces) error {
	if err := a.namespace(ctx, attr); err != nil {
		return err
	}
	pod, ok := attr.GetObject().(*core.Pod)
	if !ok || attr.GetSubresource() != "" {
		return nil
	}
	if attr.GetOperation() == admission.Create {
		bind(pod, a.server.NodeName)
	}
	if old, ok := attr.GetOldObject().(*core.Pod); ok && attr.GetOperation() == admission.Update {
		if err := checkImages(pod, old); err != nil {
			return err
		}
	}
	return checkPod(pod)
}

// checkImages refuses another image for a container: Kubernetes restarts that container then, which podd cannot do yet.
func checkImages(pod, old *core.Pod) error {
	var errs field.ErrorList
	for i, c := range pod.Spec.Containers {
		if i < len(old.Spec.Containers) && old.Spec.Containers[i].Name == c.Name && old.Spec.Containers[i].Image != c.Image {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "containers").Index(i).Child("image"),
				"podd cannot change the image of a pod yet; delete the pod and create it again"))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(core.Kind("Pod"), pod.Name, errs)
}

// bind gives the pod to this node. A pod for another node or another scheduler stays Pending.
func bind(pod *core.Pod, node string) {
	if pod.Spec.NodeName == "" && len(pod.Spec.SchedulingGates) == 0 && pod.Spec.SchedulerName == v1.DefaultSchedulerName {
		pod.Spec.NodeName = node
	}
}

// checkPod refuses what podd does not honour, with one cause per field.
func checkPod(pod *core.Pod) error {
	external := &v1.Pod{}
	if err := legacyscheme.Scheme.Convert(pod, external, nil); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("check pod: %w", err))
	}
	if errs := fields.Check(external); len(errs) > 0 {
		name := pod.Name
		if name == "" {
			name = pod.GenerateName
		}
		return apierrors.NewInvalid(core.Kind("Pod"), name, errs)
	}
	return nil
}

// namespace holds upstream's rules of a namespace's life: nothing is created in one that is missing or going away, and
// the ones that podd needs stay.
func (a *admit) namespace(ctx context.Context, attr admission.Attributes) error {
	if attr.GetKind().GroupKind() == core.Kind("Namespace") {
		if attr.GetOperation() == admission.Delete && permanent[attr.GetName()] {
			return apierrors.NewForbidden(attr.GetResource().GroupResource(), attr.GetName(),
				fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if attr.GetNamespace() == "" || attr.GetOperation() != admission.Create || attr.GetSubresource() != "" {
		return nil
	}
	obj, err := a.server.registry.namespaces.Get(clusterScope(ctx), attr.GetNamespace(), &metav1.GetOptions{})
	if apierrors.IsNotFound(err) { // the registry's own error names the kind that was asked to be made
		return apierrors.NewNotFound(v1.Resource("namespaces"), attr.GetNamespace())
	}
	if err != nil {
		return err
	}
	ns, ok := obj.(*core.Namespace)
	if ok && ns.DeletionTimestamp == nil {
		return nil
	}
	err = admission.NewForbidden(attr, fmt.Errorf(
		"unable to create new content in namespace %s because it is being terminated", attr.GetNamespace()))
	if status, ok := err.(*apierrors.StatusError); ok {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: v1.NamespaceTerminatingCause, Field: "metadata.namespace",
			Message: fmt.Sprintf("namespace %s is being terminated", attr.GetNamespace())})
	}
	return err
}
