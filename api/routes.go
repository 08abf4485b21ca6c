package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// routes are the endpoints below /api and /apis. Upstream's library compiles some regular expressions for each of their
// hundreds, which is a fifth of what podd's start would take and some megabytes. So those of a resource are made when it is
// first asked for, and all of them when somebody asks what there is.
type routes struct {
	server *Server
	table  served
	types  *lazyTypes

	whole atomic.Pointer[restful.Container] // all endpoints and discovery, once that is made
	mu    sync.Mutex
	parts map[schema.GroupVersionResource]*restful.Container // guarded by mu; nil once there is whole
}

func (s *Server) newRoutes(table served) *routes {
	return &routes{server: s, table: table, types: &lazyTypes{}, parts: map[schema.GroupVersionResource]*restful.Container{}}
}

func (r *routes) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	container, err := r.of(req.Context())
	if err != nil {
		r.server.Log.Error("make the API's endpoints", "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	container.Dispatch(w, req)
}

// of is a container that has what the request of ctx asks for, if there is that.
func (r *routes) of(ctx context.Context) (*restful.Container, error) {
	if whole := r.whole.Load(); whole != nil {
		return whole, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if whole := r.whole.Load(); whole != nil {
		return whole, nil
	}
	info, ok := request.RequestInfoFrom(ctx)
	if !ok || !info.IsResourceRequest {
		return r.all()
	}
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	if part := r.parts[gvr]; part != nil {
		return part, nil
	}
	storage := map[string]rest.Storage{}
	for name, of := range r.table[gvr.GroupVersion()] {
		if resource, _, _ := strings.Cut(name, "/"); resource == gvr.Resource {
			storage[name] = of
		}
	}
	if len(storage) == 0 {
		return r.all()
	}
	part := newContainer()
	if _, err := r.install(part, gvr.GroupVersion(), storage); err != nil {
		return nil, err
	}
	r.parts[gvr] = part
	return part, nil
}

func newContainer() *restful.Container {
	c := restful.NewContainer()
	c.Router(restful.CurlyRouter{})
	c.DoNotRecover(true) // the filter chain does
	return c
}

// all makes the container of everything. r.mu is held.
func (r *routes) all() (*restful.Container, error) {
	container := newContainer()
	legacy, groups := aggregated.NewResourceManager("api"), aggregated.NewResourceManager("apis")
	addresses := discovery.DefaultAddresses{DefaultAddress: "localhost"}
	roots := discovery.NewRootAPIsHandler(addresses, legacyscheme.Codecs)
	versions := r.table.versions()
	resources, errs := make([][]apidiscoveryv2.APIResourceDiscovery, len(versions)), make([]error, len(versions))
	var installs sync.WaitGroup
	for i, version := range versions { // beside each other: somebody waits for it
		installs.Go(func() { resources[i], errs[i] = r.install(container, version, r.table[version]) })
	}
	installs.Wait()
	for i, version := range versions {
		if errs[i] != nil {
			return nil, errs[i]
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
		container.Add(discovery.NewAPIGroupHandler(legacyscheme.Codecs, group).WebService())
	}
	root := aggregated.WrapAggregatedDiscoveryToHandler(
		discovery.NewLegacyRootAPIHandler(addresses, legacyscheme.Codecs, "/api"), legacy, legacy)
	container.Add(root.GenerateWebService("/api", metav1.APIVersions{}))
	root = aggregated.WrapAggregatedDiscoveryToHandler(roots, groups, groups)
	container.Add(root.GenerateWebService("/apis", metav1.APIGroupList{}))
	r.whole.Store(container)
	r.parts = nil
	return container, nil
}

// install adds the endpoints of the resources in storage, and says how discovery has them.
func (r *routes) install(to *restful.Container, version schema.GroupVersion, storage map[string]rest.Storage) (
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
		TypeConverter: r.types, EquivalentResourceRegistry: runtime.NewEquivalentResourceRegistry(),
		Authorizer: r.server.authorizer, Admit: r.server.admit, MinRequestTimeout: minWatch, MaxRequestBodyBytes: maxObjectBytes,
	}
	resources, _, err := g.InstallREST(to)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", version, err)
	}
	return resources, nil
}
