package api

import (
	"context"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install" // the kinds
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
)

// reviews answer who somebody is and what they may do.
func (s *Server) reviews() served {
	return served{
		{Group: "authentication.k8s.io", Version: "v1"}: {"selfsubjectreviews": selfsubjectreview.NewREST()},
		{Group: "authorization.k8s.io", Version: "v1"}: {
			"selfsubjectaccessreviews":  selfsubjectaccessreview.NewREST(s.authorizer),
			"selfsubjectrulesreviews":   selfsubjectrulesreview.NewREST(rules{s.authorizer}),
			"subjectaccessreviews":      subjectaccessreview.NewREST(s.authorizer),
			"localsubjectaccessreviews": localsubjectaccessreview.NewREST(s.authorizer),
		},
	}
}

// rules puts what an authorizer decides into words. An authorizer that can do so itself is asked.
type rules struct{ authorizer.Authorizer }

// RulesFor says that everything is allowed, or nothing that could be listed.
func (r rules) RulesFor(ctx context.Context, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo,
	[]authorizer.NonResourceRuleInfo, bool, error) {
	if resolver, ok := r.Authorizer.(authorizer.RuleResolver); ok {
		return resolver.RulesFor(ctx, who, namespace)
	}
	all := []string{"*"}
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: all, APIGroups: all, Resources: all}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: all, NonResourceURLs: all}}, false, nil
}
