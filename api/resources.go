package api

import (
	"fmt"
	"maps"
	"time"

	"github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // the kinds
	"k8s.io/kubernetes/pkg/kubelet/client"
	eventstorage "k8s.io/kubernetes/pkg/registry/core/event/storage"
	namespacestorage "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestorage "k8s.io/kubernetes/pkg/registry/core/node/storage"
	podstorage "k8s.io/kubernetes/pkg/registry/core/pod/storage"

	"podd/api/backend"
)

const (
	eventTTL       = time.Hour // upstream's --event-ttl
	maxObjectBytes = 3 << 20   // upstream's limit of a request body
	minWatch       = 30 * time.Minute
)

// registries are the storages that podd itself uses too.
type registries struct {
	pods              *podstorage.REST
	events            *eventstorage.REST
	nodes             *nodestorage.REST
	nodeStatus        *nodestorage.StatusREST
	namespaces        *namespacestorage.REST
	namespaceFinalize *namespacestorage.FinalizeREST
}

// resources is the table of what is served: group and version, then resource or resource/subresource. A further kind
// is a line or two here, after its registry is made.
func (s *Server) resources() (map[schema.GroupVersion]map[string]rest.Storage, error) {
	opts := backend.Options{Store: s.Store}
	pods, err := podstorage.NewStorage(opts, nil, nil, nil, allowAll)
	if err != nil {
		return nil, err
	}
	events, err := eventstorage.NewREST(opts, uint64(eventTTL/time.Second))
	if err != nil {
		return nil, err
	}
	nodes, err := nodestorage.NewStorage(opts, client.KubeletClientConfig{}, nil)
	if err != nil {
		return nil, err
	}
	namespaces, namespaceStatus, namespaceFinalize, err := namespacestorage.NewREST(opts)
	if err != nil {
		return nil, err
	}
	s.registry = registries{pods: pods.Pod, events: events, nodes: nodes.Node, nodeStatus: nodes.Status, namespaces: namespaces,
		namespaceFinalize: namespaceFinalize}
	table := map[schema.GroupVersion]map[string]rest.Storage{
		{Version: "v1"}: {
			"pods":                pods.Pod,
			"pods/status":         pods.Status,
			"events":              events,
			"nodes":               nodes.Node,
			"nodes/status":        nodes.Status,
			"namespaces":          namespaces,
			"namespaces/status":   namespaceStatus,
			"namespaces/finalize": namespaceFinalize,
		},
	}
	for _, part := range []map[schema.GroupVersion]map[string]rest.Storage{s.streams(), s.proxies(), s.metrics()} {
		for version, storage := range part {
			if table[version] == nil {
				table[version] = map[string]rest.Storage{}
			}
			maps.Copy(table[version], storage)
		}
	}
	return table, nil
}

// allowAll is the authorizer: whoever may open the socket may do everything.
var allowAll = authorizer.AuthorizerFunc(allow)

// install makes the handler of everything under /api and /apis.
func (s *Server) install() error {
	table, err := s.resources()
	if err != nil {
		return err
	}
	s.container = restful.NewContainer()
	s.container.Router(restful.CurlyRouter{})
	s.container.DoNotRecover(true) // the filter chain does
	legacy, groups := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	types := &lazyTypes{}
	addresses := discovery.DefaultAddresses{DefaultAddress: "localhost"}
	roots := discovery.NewRootAPIsHandler(addresses, legacyscheme.Codecs)
	for version, storage := range table {
		resources, err := s.installVersion(version, storage, types)
		if err != nil {
			return fmt.Errorf("install %s: %w", version, err)
		}
		found := apidiscoveryv2.APIVersionDiscovery{Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Version: version.Version, Resources: resources}
		if version.Group == "" {
			legacy.AddGroupVersion("", found)
			continue
		}
		groups.AddGroupVersion(version.Group, found)
		preferred := metav1.GroupVersionForDiscovery{GroupVersion: version.String(), Version: version.Version}
		group := metav1.APIGroup{Name: version.Group, Versions: []metav1.GroupVersionForDiscovery{preferred},
			PreferredVersion: preferred}
		roots.AddGroup(group)
		s.container.Add(discovery.NewAPIGroupHandler(legacyscheme.Codecs, group).WebService())
	}
	root := aggregated.WrapAggregatedDiscoveryToHandler(
		discovery.NewLegacyRootAPIHandler(addresses, legacyscheme.Codecs, "/api"), legacy, legacy)
	s.container.Add(root.GenerateWebService("/api", metav1.APIVersions{}))
	root = aggregated.WrapAggregatedDiscoveryToHandler(roots, groups, groups)
	s.container.Add(root.GenerateWebService("/apis", metav1.APIGroupList{}))
	s.handler = s.chain(s.mux())
	return nil
}

func (s *Server) installVersion(version schema.GroupVersion, storage map[string]rest.Storage, types *lazyTypes) (
	[]apidiscoveryv2.APIResourceDiscovery, error) {
	scheme := legacyscheme.Scheme
	root := "/apis"
	if version.Group == "" {
		root = "/api"
	}
	external := schema.GroupVersion{Version: "v1"}
	g := &endpoints.APIGroupVersion{
		Storage: storage, Root: root, GroupVersion: version, OptionsExternalVersion: &external,
		Serializer: legacyscheme.Codecs, ParameterCodec: legacyscheme.ParameterCodec,
		Typer: scheme, Creater: scheme, Convertor: scheme, ConvertabilityChecker: scheme, Defaulter: scheme,
		UnsafeConvertor: runtime.UnsafeObjectConvertor(scheme), Namer: runtime.Namer(meta.NewAccessor()),
		TypeConverter: types, EquivalentResourceRegistry: runtime.NewEquivalentResourceRegistry(),
		Authorizer: allowAll, Admit: s.admit, MinRequestTimeout: minWatch, MaxRequestBodyBytes: maxObjectBytes,
	}
	resources, _, err := g.InstallREST(s.container)
	return resources, err
}
