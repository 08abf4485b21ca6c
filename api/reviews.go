package api

import (
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
		{Group: "authentication.k8s.io", Version: "v1"}: {
			"selfsubjectreviews": selfsubjectreview.NewREST(), "tokenreviews": s.tokenReviews()},
		{Group: "authorization.k8s.io", Version: "v1"}: {
			"selfsubjectaccessreviews":  selfsubjectaccessreview.NewREST(s.authorizer),
			"selfsubjectrulesreviews":   selfsubjectrulesreview.NewREST(s.authorizer),
			"subjectaccessreviews":      subjectaccessreview.NewREST(s.authorizer),
			"localsubjectaccessreviews": localsubjectaccessreview.NewREST(s.authorizer),
		},
	}
}
