package api

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// metrics is the group metrics.k8s.io.
func (s *Server) metrics() map[schema.GroupVersion]map[string]rest.Storage {
	return nil
}
