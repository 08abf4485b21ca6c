package api

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/apis/core"
	openid "k8s.io/kubernetes/pkg/serviceaccount"

	"podd/api/accounts"
	"podd/store"
)

// AccessAnnotation of a service account says what its tokens may do; without it they may ask about themselves.
const AccessAnnotation = "podd.dev/access"

// The values of AccessAnnotation: upstream's roles of these names, view and edit in the account's own namespace, and
// everything everywhere.
const (
	accessView  = "view"
	accessEdit  = "edit"
	accessAdmin = "admin"
)

// access looks up what service accounts may do.
type access struct{ store *store.Store }

// of is what the user may do, and in which namespace; nothing for users that are no service accounts.
func (a access) of(who userinfo.Info) (level, namespace string) {
	namespace, name, err := serviceaccount.SplitUsername(who.GetName())
	if err != nil || a.store == nil {
		return "", ""
	}
	account, err := accounts.Account(a.store, namespace, name)
	if err != nil || who.GetUID() != "" && who.GetUID() != string(account.UID) {
		return "", ""
	}
	return account.Annotations[AccessAnnotation], namespace
}

// accountPaths are what every service account may read. (Upstream: the roles system:discovery, system:public-info-viewer and
// system:service-account-issuer-discovery.)
var accountPaths = []string{
	"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/", "/livez", "/readyz", "/healthz",
	openid.OpenIDConfigPath, openid.JWKSPath,
}

// grant is a line of a role: verbs on resources and subresources of one group.
type grant struct {
	verbs     []string
	group     string
	resources []string
}

var writeVerbs = []string{"create", "update", "patch", "delete", "deletecollection"}

// viewGrants and editGrants are the rules of upstream's roles view and edit, as far as podd has the kinds. (Upstream:
// plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go; that of metrics.k8s.io comes with the metrics server.) edit has
// those of view, too.
var (
	viewGrants = []grant{
		{readVerbs, "", []string{"pods", "pods/status", "pods/log", "serviceaccounts", "services", "services/status", "endpoints",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "configmaps", "bindings", "namespaces", "namespaces/status",
			"events"}},
		{readVerbs, "events.k8s.io", []string{"events"}},
		{readVerbs, "discovery.k8s.io", []string{"endpointslices"}},
		{readVerbs, "metrics.k8s.io", []string{"pods"}},
	}
	editGrants = []grant{
		{readVerbs, "", []string{"pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"}},
		{writeVerbs, "", []string{"pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "serviceaccounts", "services",
			"services/proxy", "persistentvolumeclaims", "configmaps", "secrets", "events"}},
		{[]string{"create"}, "", []string{"pods/eviction", "serviceaccounts/token"}},
		{writeVerbs, "events.k8s.io", []string{"events"}},
		{slices.Concat(readVerbs, writeVerbs), "coordination.k8s.io", []string{"leases"}},
	}
)

// grants are the rules of an access level within a namespace.
func grants(level string) []grant {
	switch level {
	case accessView:
		return viewGrants
	case accessEdit:
		return slices.Concat(viewGrants, editGrants)
	}
	return nil
}

func (g grant) allows(a authorizer.Attributes) bool {
	resource := a.GetResource()
	if sub := a.GetSubresource(); sub != "" {
		resource += "/" + sub
	}
	return g.group == a.GetAPIGroup() && slices.Contains(g.verbs, a.GetVerb()) && slices.Contains(g.resources, resource)
}

// everything tells whether the user may do everything.
func (r *roles) everything(who userinfo.Info) bool {
	if slices.Contains(who.GetGroups(), userinfo.SystemPrivilegedGroup) {
		return true
	}
	level, _ := r.access.of(who)
	return level == accessAdmin
}

// accountMay tells whether a service account may do this, beyond what everybody may who is known.
func (r *roles) accountMay(a authorizer.Attributes) bool {
	who := a.GetUser()
	if !a.IsResourceRequest() {
		return slices.Contains(who.GetGroups(), serviceaccount.AllServiceAccountsGroup) && (a.GetVerb() == "get" || a.GetVerb() == "head") &&
			slices.ContainsFunc(accountPaths, func(pattern string) bool { return fits(pattern, a.GetPath()) })
	}
	level, namespace := r.access.of(who)
	return namespace != "" && namespace == a.GetNamespace() &&
		slices.ContainsFunc(grants(level), func(g grant) bool { return g.allows(a) })
}

// accountRules lists what accountMay allows in a namespace.
func (r *roles) accountRules(who userinfo.Info, namespace string) (resources []authorizer.ResourceRuleInfo, paths []authorizer.NonResourceRuleInfo) {
	if level, own := r.access.of(who); own != "" && own == namespace {
		for _, g := range grants(level) {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: g.verbs, APIGroups: []string{g.group}, Resources: g.resources})
		}
	}
	if slices.Contains(who.GetGroups(), serviceaccount.AllServiceAccountsGroup) {
		paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get", "head"}, NonResourceURLs: accountPaths})
	}
	return resources, paths
}

// serviceAccount refuses what an account may not be granted: a word that is none of the levels, and, of whoever may not do
// everything himself, any change of the annotation.
func (a *admit) serviceAccount(attr admission.Attributes, account *core.ServiceAccount) error {
	was := ""
	if old, ok := attr.GetOldObject().(*core.ServiceAccount); ok {
		was = old.Annotations[AccessAnnotation]
	}
	level, set := account.Annotations[AccessAnnotation]
	if level == was {
		return nil
	}
	if set && level != accessView && level != accessEdit && level != accessAdmin {
		return apierrors.NewInvalid(core.Kind("ServiceAccount"), account.Name, field.ErrorList{field.NotSupported(
			field.NewPath("metadata", "annotations").Key(AccessAnnotation), level, []string{accessView, accessEdit, accessAdmin})})
	}
	if !a.server.authorizer.everything(attr.GetUserInfo()) {
		return admission.NewForbidden(attr, fmt.Errorf("only an administrator changes the annotation %s", AccessAnnotation))
	}
	return nil
}
