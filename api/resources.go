package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

const (
	eventTTL       = time.Hour // upstream's --event-ttl
	maxObjectBytes = 3 << 20   // upstream's limit of a request body
	minWatch       = 30 * time.Minute
)

// served is a table of what is served: group and version, then resource or resource/subresource.
type served map[schema.GroupVersion]map[string]rest.Storage

func (t served) add(version schema.GroupVersion, storage map[string]rest.Storage) {
	if t[version] == nil {
		t[version] = map[string]rest.Storage{}
	}
	maps.Copy(t[version], storage)
}

// priorities order the groups in discovery, as upstream's aggregator does: of two groups that have a resource of the
// same name, clients take the first.
var priorities = map[string]int{
	"": 18000, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"storage.k8s.io": 16800, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200,
	"metrics.k8s.io": 100,
}

// versions are those of the table, the most important group first.
func (t served) versions() []schema.GroupVersion {
	return slices.SortedFunc(maps.Keys(t), func(a, b schema.GroupVersion) int {
		return cmp.Or(priorities[b.Group]-priorities[a.Group], strings.Compare(a.String(), b.String()))
	})
}

// resources is the table of everything. A further kind is a line or two in kinds.go, or in the part that it belongs to.
func (s *Server) resources() (served, error) {
	table, err := s.kinds()
	if err != nil {
		return nil, err
	}
	for _, part := range []served{s.reviews(), s.streams(), s.proxies(), s.metrics()} {
		for version, storage := range part {
			table.add(version, storage)
		}
	}
	return table, nil
}

// install makes the handler of everything under /api and /apis.
func (s *Server) install() error {
	table, err := s.resources()
	if err != nil {
		return err
	}
	s.authorizer.served = table
	s.stored = makeStoredKinds(table)
	s.container = restful.NewContainer()
	s.container.Router(restful.CurlyRouter{})
	s.container.DoNotRecover(true) // the filter chain does
	legacy, groups := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	types := &lazyTypes{}
	addresses := discovery.DefaultAddresses{DefaultAddress: "localhost"}
	roots := discovery.NewRootAPIsHandler(addresses, legacyscheme.Codecs)
	versions := table.versions()
	resources, errs := make([][]apidiscoveryv2.APIResourceDiscovery, len(versions)), make([]error, len(versions))
	var installs sync.WaitGroup
	for i, version := range versions { // beside each other: podd's start waits for it
		installs.Go(func() { resources[i], errs[i] = s.installVersion(version, table[version], types) })
	}
	installs.Wait()
	for i, version := range versions {
		if errs[i] != nil {
			return fmt.Errorf("install %s: %w", version, errs[i])
		}
		found := apidiscoveryv2.APIVersionDiscovery{Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Version: version.Version, Resources: resources[i]}
		if version.Group == "" {
			legacy.AddGroupVersion("", found)
			continue
		}
		groups.AddGroupVersion(version.Group, found)
		groups.SetGroupVersionPriority(metav1.GroupVersion(version), priorities[version.Group], 15)
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
		Authorizer: s.authorizer, Admit: s.admit, MinRequestTimeout: minWatch, MaxRequestBodyBytes: maxObjectBytes,
	}
	resources, _, err := g.InstallREST(s.container)
	return resources, err
}
