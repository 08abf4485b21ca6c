package main

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/restmapper"
)

// mapper finds a resource for a name or kind. Those that are always served are known without asking podd, which
// saves the everyday command the discovery.
type mapper struct {
	known meta.RESTMapper
	asked func() (meta.RESTMapper, error)
}

var shortNames = map[string]string{
	"po": "pods", "ev": "events", "no": "nodes", "ns": "namespaces", "cm": "configmaps", "sa": "serviceaccounts", "svc": "services", "ep": "endpoints",
}

func newMapper(c *client) meta.RESTMapper {
	v1 := schema.GroupVersion{Version: "v1"}
	known := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1})
	for _, kind := range []string{"Pod", "Event", "ConfigMap", "Secret", "ServiceAccount", "Service"} {
		known.Add(v1.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"Node", "Namespace"} {
		known.Add(v1.WithKind(kind), meta.RESTScopeRoot)
	}
	endpoints := v1.WithResource("endpoints")
	known.AddSpecific(v1.WithKind("Endpoints"), endpoints, endpoints, meta.RESTScopeNamespace)
	return &mapper{known: known, asked: sync.OnceValues(func() (meta.RESTMapper, error) {
		d, err := c.discovery()
		if err != nil {
			return nil, err
		}
		return restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(d), d, nil), nil
	})}
}

// first is what the known mapper says, or else what discovery does.
func first[T any](m *mapper, ask func(meta.RESTMapper) (T, error)) (T, error) {
	if got, err := ask(m.known); err == nil {
		return got, nil
	}
	asked, err := m.asked()
	if err != nil {
		var none T
		return none, err
	}
	return ask(asked)
}

func long(r schema.GroupVersionResource) schema.GroupVersionResource {
	if name := shortNames[r.Resource]; name != "" && r.Group == "" {
		r.Resource = name
	}
	return r
}

func (m *mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return first(m, func(in meta.RESTMapper) (schema.GroupVersionKind, error) { return in.KindFor(long(r)) })
}

func (m *mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return first(m, func(in meta.RESTMapper) ([]schema.GroupVersionKind, error) { return in.KindsFor(long(r)) })
}

func (m *mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return first(m, func(in meta.RESTMapper) (schema.GroupVersionResource, error) { return in.ResourceFor(long(r)) })
}

func (m *mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return first(m, func(in meta.RESTMapper) ([]schema.GroupVersionResource, error) { return in.ResourcesFor(long(r)) })
}

func (m *mapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return first(m, func(in meta.RESTMapper) (*meta.RESTMapping, error) { return in.RESTMapping(gk, versions...) })
}

func (m *mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return first(m, func(in meta.RESTMapper) ([]*meta.RESTMapping, error) { return in.RESTMappings(gk, versions...) })
}

func (m *mapper) ResourceSingularizer(resource string) (string, error) {
	return first(m, func(in meta.RESTMapper) (string, error) { return in.ResourceSingularizer(resource) })
}
