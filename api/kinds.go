package api

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install" // these make the kinds known
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	"k8s.io/kubernetes/pkg/kubelet/client"
	leasestorage "k8s.io/kubernetes/pkg/registry/coordination/lease/storage"
	configmapstorage "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	eventstorage "k8s.io/kubernetes/pkg/registry/core/event/storage"
	namespacestorage "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestorage "k8s.io/kubernetes/pkg/registry/core/node/storage"
	volumestorage "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	claimstorage "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstorage "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestorage "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	secretstorage "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	runtimeclassstorage "k8s.io/kubernetes/pkg/registry/node/runtimeclass/storage"
	priorityclassstorage "k8s.io/kubernetes/pkg/registry/scheduling/priorityclass/storage"
	storageclassstorage "k8s.io/kubernetes/pkg/registry/storage/storageclass/storage"

	"podd/api/backend"
)

// registries are the storages that podd itself uses too.
type registries struct {
	pods              *podREST
	events            *eventstorage.REST
	nodes             *nodestorage.REST
	nodeStatus        *nodestorage.StatusREST
	namespaces        *namespacestorage.REST
	namespaceStatus   *namespacestorage.StatusREST
	namespaceFinalize *namespacestorage.FinalizeREST
	bindings          *podstorage.BindingREST
	serviceAccounts   *registry
	secrets           *secretstorage.REST
	runtimeClasses    *runtimeclassstorage.REST
	priorityClasses   *priorityclassstorage.REST
	leases            *leasestorage.REST
	claims            *claimstorage.REST
	claimStatus       *claimstorage.StatusREST
	volumes           *volumestorage.REST
	volumeStatus      *volumestorage.StatusREST
	storageClasses    *storageclassstorage.REST
}

// versions of the groups that are served.
var (
	coreV1         = schema.GroupVersion{Version: "v1"}
	eventsV1       = schema.GroupVersion{Group: "events.k8s.io", Version: "v1"}
	schedulingV1   = schema.GroupVersion{Group: "scheduling.k8s.io", Version: "v1"}
	coordinationV1 = schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}
	nodeV1         = schema.GroupVersion{Group: "node.k8s.io", Version: "v1"}
	storageV1      = schema.GroupVersion{Group: "storage.k8s.io", Version: "v1"}
	discoveryV1    = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}
)

// kinds is upstream's registries on podd's store.
func (s *Server) kinds() (served, error) {
	opts := backend.Options{Store: s.Store}
	table := served{}
	for _, make := range []func(backend.Options, served) error{s.podKinds, s.hostKinds, s.plainKinds, s.serviceKinds, s.classKinds, s.volumeKinds} {
		if err := make(opts, table); err != nil {
			return nil, err
		}
	}
	return table, nil
}

func (s *Server) podKinds(opts backend.Options, table served) error {
	pods, err := podstorage.NewStorage(opts, nil, nil, noBudgets{}, s.authorizer)
	if err != nil {
		return err
	}
	s.registry.pods, s.registry.bindings = &podREST{pods.Pod, s}, pods.Binding
	table.add(coreV1, map[string]rest.Storage{
		"pods":                     s.registry.pods,
		"pods/status":              pods.Status,
		"pods/ephemeralcontainers": pods.EphemeralContainers,
		"pods/resize":              pods.Resize,
		"pods/binding":             pods.Binding,
		"bindings":                 pods.LegacyBinding,
		"pods/eviction":            pods.Eviction,
	})
	return nil
}

// hostKinds are the node, the namespaces, and the events, which are the same objects in both their groups.
func (s *Server) hostKinds(opts backend.Options, table served) error {
	events, err := eventstorage.NewREST(opts, uint64(eventTTL/time.Second))
	if err != nil {
		return err
	}
	nodes, err := nodestorage.NewStorage(opts, client.KubeletClientConfig{}, nil)
	if err != nil {
		return err
	}
	namespaces, namespaceStatus, namespaceFinalize, err := namespacestorage.NewREST(opts)
	if err != nil {
		return err
	}
	s.registry.events, s.registry.nodes, s.registry.nodeStatus = events, nodes.Node, nodes.Status
	s.registry.namespaces, s.registry.namespaceStatus, s.registry.namespaceFinalize = namespaces, namespaceStatus, namespaceFinalize
	table.add(coreV1, map[string]rest.Storage{
		"events":              events,
		"nodes":               &ownNode{nodes.Node, s.NodeName},
		"nodes/status":        nodes.Status,
		"namespaces":          &namespaceREST{namespaces, s},
		"namespaces/status":   namespaceStatus,
		"namespaces/finalize": namespaceFinalize,
	})
	table.add(eventsV1, map[string]rest.Storage{"events": events})
	return nil
}

// plainKinds are stored and served, and others give them their meaning.
func (s *Server) plainKinds(opts backend.Options, table served) error {
	configMaps, err := configmapstorage.NewREST(opts)
	if err != nil {
		return err
	}
	secrets, err := secretstorage.NewREST(opts)
	if err != nil {
		return err
	}
	templates, err := podtemplatestorage.NewREST(opts)
	if err != nil {
		return err
	}
	leases, err := leasestorage.NewREST(opts)
	if err != nil {
		return err
	}
	slices, err := newEndpointSlices(opts)
	if err != nil {
		return err
	}
	accounts, err := newServiceAccounts(opts)
	if err != nil {
		return err
	}
	s.registry.serviceAccounts, s.registry.secrets, s.registry.leases = accounts, secrets, leases
	table.add(coreV1, map[string]rest.Storage{
		"configmaps": configMaps, "secrets": secrets, "podtemplates": templates, "serviceaccounts": accounts,
		"serviceaccounts/token": &tokenREST{s},
	})
	table.add(coordinationV1, map[string]rest.Storage{"leases": leases})
	table.add(discoveryV1, map[string]rest.Storage{"endpointslices": slices})
	return nil
}

// classKinds are what admission looks up.
func (s *Server) classKinds(opts backend.Options, table served) error {
	runtimes, err := runtimeclassstorage.NewREST(opts)
	if err != nil {
		return err
	}
	priorities, err := priorityclassstorage.NewREST(opts)
	if err != nil {
		return err
	}
	s.registry.runtimeClasses, s.registry.priorityClasses = runtimes, priorities
	table.add(nodeV1, map[string]rest.Storage{"runtimeclasses": runtimes})
	table.add(schedulingV1, map[string]rest.Storage{"priorityclasses": priorities})
	return nil
}

// serviceKinds are services, with the cluster IPs and node ports that are theirs, and endpoints.
func (s *Server) serviceKinds(opts backend.Options, table served) error {
	endpoints, err := newEndpoints(opts)
	if err != nil {
		return err
	}
	services, status, err := s.services(opts, endpoints)
	if err != nil {
		return err
	}
	table.add(coreV1, map[string]rest.Storage{"services": services, "services/status": status, "endpoints": endpoints})
	return nil
}

// volumeKinds are what pods keep data in beyond their own life; claims.go gives them their meaning.
func (s *Server) volumeKinds(opts backend.Options, table served) error {
	volumes, volumeStatus, err := volumestorage.NewREST(opts)
	if err != nil {
		return err
	}
	claims, claimStatus, err := claimstorage.NewREST(opts)
	if err != nil {
		return err
	}
	classes, err := storageclassstorage.NewREST(opts)
	if err != nil {
		return err
	}
	s.registry.volumes, s.registry.volumeStatus = volumes, volumeStatus
	s.registry.claims, s.registry.claimStatus, s.registry.storageClasses = claims, claimStatus, classes
	table.add(coreV1, map[string]rest.Storage{
		"persistentvolumes": volumes, "persistentvolumes/status": volumeStatus,
		"persistentvolumeclaims": claims, "persistentvolumeclaims/status": claimStatus,
	})
	table.add(storageV1, map[string]rest.Storage{"storageclasses": classes})
	return nil
}
