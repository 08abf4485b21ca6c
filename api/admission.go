package api

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	"k8s.io/kubernetes/pkg/apis/storage"

	"podd/api/fields"
)

// admit is what podd adds to upstream's validation: the namespace must be there, a pod gets the account and the classes
// that it names, and what podd does not honour is refused.
type admit struct{ server *Server }

var (
	_ admission.MutationInterface   = (*admit)(nil)
	_ admission.ValidationInterface = (*admit)(nil)
)

// Handles says that every operation is looked at.
func (a *admit) Handles(admission.Operation) bool { return true }

// Admit runs before upstream drops fields of features that are off, so that nothing is dropped without a word.
func (a *admit) Admit(ctx context.Context, attr admission.Attributes, _ admission.ObjectInterfaces) error {
	if err := a.namespace(ctx, attr); err != nil {
		return err
	}
	switch obj := attr.GetObject().(type) {
	case *core.Pod:
		return a.pod(ctx, attr, obj)
	case *core.ServiceAccount:
		return a.serviceAccount(attr, obj)
	case *core.PersistentVolumeClaim:
		return a.claim(attr, obj)
	case *core.PersistentVolume:
		return a.volume(attr, obj)
	case *storage.StorageClass:
		return checkClass(obj)
	case *core.Binding:
		if attr.GetResource().Resource == "pods" {
			a.server.labelPlace(&obj.ObjectMeta, obj.Target.Name)
		}
	case *core.Service:
		if attr.GetOperation() == admission.Create && attr.GetSubresource() == "" {
			a.service(ctx, obj)
		}
	}
	return nil
}

// Validate runs after upstream's validation, so that an object that is wrong in itself is told so first.
func (a *admit) Validate(ctx context.Context, attr admission.Attributes, _ admission.ObjectInterfaces) error {
	if err := a.confine(attr); err != nil {
		return err
	}
	switch obj := attr.GetObject().(type) {
	case *core.Pod:
		if old, ok := attr.GetOldObject().(*core.Pod); ok && attr.GetSubresource() == "resize" {
			return checkResize(obj, old)
		}
	case *scheduling.PriorityClass:
		return a.oneDefault(ctx, attr, obj)
	}
	return nil
}

func (a *admit) pod(ctx context.Context, attr admission.Attributes, pod *core.Pod) error {
	if attr.GetSubresource() == "ephemeralcontainers" {
		return checkPod(pod)
	}
	if attr.GetSubresource() != "" {
		return nil
	}
	switch attr.GetOperation() {
	case admission.Create:
		for _, step := range []func(context.Context, admission.Attributes, *core.Pod) error{a.account, a.runtimeClass, a.priority} {
			if err := step(ctx, attr, pod); err != nil {
				return err
			}
		}
		if err := checkMounts(pod); err != nil {
			return err
		}
	case admission.Update:
		old, ok := attr.GetOldObject().(*core.Pod)
		if !ok {
			break
		}
		if pod.Spec.Priority == nil { // a manifest that is put back says nothing of what admission wrote
			pod.Spec.Priority = old.Spec.Priority
		}
		if pod.Spec.PreemptionPolicy == nil {
			pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
		if err := checkBandwidth(pod, old); err != nil {
			return err
		}
	}
	return checkPod(pod)
}

// account gives a pod without an account the default one, and what its account has for pods: a token, unless it is told not to,
// and secrets for pulling images. (Upstream: the admission plugin ServiceAccount.)
func (a *admit) account(ctx context.Context, attr admission.Attributes, pod *core.Pod) error {
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	account, err := a.server.account(ctx, attr.GetNamespace(), pod.Spec.ServiceAccountName, attr.IsDryRun())
	if err != nil {
		return admission.NewForbidden(attr, fmt.Errorf("error looking up service account %s/%s: %w", attr.GetNamespace(),
			pod.Spec.ServiceAccountName, err))
	}
	if volume, source, found := asksForToken(pod); found && pod.Annotations[SourceAnnotation] == SourceFile {
		path := field.NewPath("spec", "volumes").Index(volume).Child("projected", "sources").Index(source).Child("serviceAccountToken")
		return apierrors.NewInvalid(core.Kind("Pod"), pod.Name, field.ErrorList{field.Forbidden(path, "a pod of a manifest file has no token")})
	}
	if a.server.automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// defaultAccount is in every namespace. Whoever is first to need it makes it, so that a pod may follow its namespace at once.
const defaultAccount = "default"

func (s *Server) account(ctx context.Context, namespace, name string, dryRun bool) (*core.ServiceAccount, error) {
	ctx = request.WithNamespace(ctx, namespace)
	obj, err := s.registry.serviceAccounts.Get(ctx, name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) && name == defaultAccount {
		account := &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
		if dryRun {
			return account, nil
		}
		obj, err = s.registry.serviceAccounts.Create(ctx, account, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			obj, err = s.registry.serviceAccounts.Get(ctx, name, &metav1.GetOptions{})
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(core.Resource("serviceaccount"), name)
	}
	if err != nil {
		return nil, err
	}
	account, ok := obj.(*core.ServiceAccount)
	if !ok {
		return nil, fmt.Errorf("a %T", obj)
	}
	return account, nil
}

// checkResize refuses what podd does not honour of what a resize would leave, and all of a pod of a manifest file: only the
// file decides (upstream: ValidatePodResize, of mirror pods).
func checkResize(pod, old *core.Pod) error {
	if old.Annotations[SourceAnnotation] == SourceFile {
		return apierrors.NewInvalid(core.Kind("Pod"), pod.Name,
			field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")})
	}
	return checkPod(pod)
}

// checkBandwidth refuses another limit for a pod that is there: nobody would look at it before the next sandbox.
func checkBandwidth(pod, old *core.Pod) error {
	var errs field.ErrorList
	for _, key := range []string{fields.IngressBandwidth, fields.EgressBandwidth} {
		if pod.Annotations[key] != old.Annotations[key] {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations").Key(key), "may not be changed: the limit is made with the pod's network"))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(core.Kind("Pod"), pod.Name, errs)
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
