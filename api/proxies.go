package api

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// proxies is the subresources that pass a client's connection or request on: to a port of a pod, or to the kubelet's
// paths of this node.
func (s *Server) proxies() map[schema.GroupVersion]map[string]rest.Storage {
	return nil
}
