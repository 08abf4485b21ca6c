package api

import (
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"podd/api/accounts"
)

// baseline is upstream's Pod Security level of that name: what is not known to lead out of a container.
var baseline = sync.OnceValues(func() (policy.Evaluator, error) { return policy.NewEvaluator(policy.DefaultChecks(), nil) })

// beyond says what a pod has that leads to everything: what is not baseline, or an account that may do everything. Empty is
// that it has nothing of it.
func (a *admit) beyond(pod *v1.Pod) (string, error) {
	if a.reigns(pod.Namespace, pod.Spec.ServiceAccountName) {
		return fmt.Sprintf("serviceAccountName %q may do everything", pod.Spec.ServiceAccountName), nil
	}
	evaluator, err := baseline()
	if err != nil {
		return "", err
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelBaseline, Version: podsecurity.LatestVersion()}
	found := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if found.Allowed {
		return "", nil
	}
	return fmt.Sprintf("violates PodSecurity %q: %s", level, found.ForbiddenDetail()), nil
}

// reigns tells whether a service account may do everything.
func (a *admit) reigns(namespace, name string) bool {
	account, err := accounts.Account(a.server.Store, namespace, name)
	return err == nil && account.Annotations[AccessAnnotation] == accessAdmin
}

// confine refuses service accounts that may not do everything what would lead them there: to make, change or enter a pod that
// is beyond the baseline, or to have a token of an account that may do everything.
func (a *admit) confine(attr admission.Attributes) error {
	who := attr.GetUserInfo()
	if who == nil || !slices.Contains(who.GetGroups(), serviceaccount.AllServiceAccountsGroup) || a.server.authorizer.everything(who) {
		return nil
	}
	var why string
	var err error
	switch attr.GetResource().Resource + "/" + attr.GetSubresource() {
	case "pods/", "pods/ephemeralcontainers", "pods/resize":
		why, err = a.confinePod(attr)
	case "pods/exec", "pods/attach":
		if pod, ok := a.server.Store.Pod(attr.GetNamespace(), attr.GetName()); ok {
			why, err = a.beyond(pod)
		}
	case "serviceaccounts/token":
		if a.reigns(attr.GetNamespace(), attr.GetName()) {
			why = "the account may do everything"
		}
	}
	switch {
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("check what the pod may: %w", err))
	case why != "":
		return admission.NewForbidden(attr, fmt.Errorf("%s (this takes an account with %s: %s)", why, AccessAnnotation, accessAdmin))
	}
	return nil
}

// confinePod says why a pod may not be made, or not be made what it is to be. What does not change what runs is let through.
func (a *admit) confinePod(attr admission.Attributes) (why string, err error) {
	pod, ok := attr.GetObject().(*core.Pod)
	if !ok {
		return "", nil
	}
	if old, ok := attr.GetOldObject().(*core.Pod); ok && equality.Semantic.DeepEqual(old.Spec, pod.Spec) {
		return "", nil
	}
	external := &v1.Pod{}
	if err := legacyscheme.Scheme.Convert(pod, external, nil); err != nil {
		return "", err
	}
	external.Namespace = attr.GetNamespace()
	return a.beyond(external)
}
