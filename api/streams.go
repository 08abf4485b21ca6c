package api

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// streams is the subresources that connect a client with a container.
func (s *Server) streams() map[schema.GroupVersion]map[string]rest.Storage {
	return map[schema.GroupVersion]map[string]rest.Storage{{Version: "v1"}: {
		"pods/log":    &logREST{server: s},
		"pods/exec":   &execREST{server: s},
		"pods/attach": &attachREST{server: s},
	}}
}

// upgraded is what a storage says of itself whose answer is a connection that is taken over, not an object.
type upgraded struct{}

func (upgraded) Destroy()                          {}
func (upgraded) ProducesMIMETypes(string) []string { return nil }
func (upgraded) ProducesObject(string) any         { return "" }
func (upgraded) ConnectMethods() []string          { return []string{http.MethodGet, http.MethodPost} }
