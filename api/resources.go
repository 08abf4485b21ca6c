package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
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

// install makes the handler of all requests.
func (s *Server) install() error {
	table, err := s.resources()
	if err != nil {
		return err
	}
	s.authorizer.served = table
	s.stored = makeStoredKinds(table)
	s.routes = s.newRoutes(table)
	s.handler = s.chain(s.mux())
	return nil
}
