package api

import (
	"context"
	"errors"
	"fmt"
	"net"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestorage "k8s.io/kubernetes/pkg/registry/core/service/storage"
	netutils "k8s.io/utils/net"

	"podd/api/backend"
)

// DefaultServiceCIDR is where services get their cluster IPs from.
const DefaultServiceCIDR = "10.84.0.0/16"

var nodePorts = utilnet.PortRange{Base: 30000, Size: 2768} // upstream's --service-node-port-range

// services is the registry of services. Which addresses and ports are taken is nowhere written down but in the services
// themselves: it is found out again at start, so that nothing can disagree with them.
func (s *Server) services(opts backend.Options, endpoints *registry) (*servicestorage.REST, rest.Storage, error) {
	_, cidr, err := net.ParseCIDR(s.ServiceCIDR)
	if err != nil {
		return nil, nil, fmt.Errorf("range of cluster IPs: %w", err)
	}
	ips, err := ipallocator.NewInMemory(cidr)
	if err != nil {
		return nil, nil, fmt.Errorf("range of cluster IPs: %w", err)
	}
	ports, err := portallocator.NewInMemory(nodePorts)
	if err != nil {
		return nil, nil, fmt.Errorf("range of node ports: %w", err)
	}
	family := core.IPv4Protocol
	if netutils.IsIPv6CIDR(cidr) {
		family = core.IPv6Protocol
	}
	allocators := map[core.IPFamily]ipallocator.Interface{family: ips}
	services, status, _, err := servicestorage.NewREST(opts, family, allocators, ports, endpoints, s.registry.pods, nil)
	if err != nil {
		return nil, nil, err
	}
	if s.Store == nil { // the generator of the OpenAPI documents has none
		return services, status, nil
	}
	return services, status, s.takeAddresses(services, ips, ports)
}

// takeAddresses marks what the stored services have. What lies outside of the ranges stays with its service: the ranges
// may have been others once.
func (s *Server) takeAddresses(services *servicestorage.REST, ips *ipallocator.Range, ports *portallocator.PortAllocator) error {
	list, err := services.List(clusterScope(context.Background()), &internalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	found, ok := list.(*core.ServiceList)
	if !ok {
		return fmt.Errorf("read services: not a list of them: %T", list)
	}
	for _, service := range found.Items {
		var errs []error
		for _, address := range service.Spec.ClusterIPs {
			if ip := net.ParseIP(address); ip != nil {
				errs = append(errs, ips.Allocate(ip))
			}
		}
		if port := service.Spec.HealthCheckNodePort; port != 0 {
			errs = append(errs, ports.Allocate(int(port)))
		}
		for _, port := range service.Spec.Ports {
			if port.NodePort != 0 {
				err := ports.Allocate(int(port.NodePort))
				if !errors.Is(err, portallocator.ErrAllocated) { // two protocols of one service share a port
					errs = append(errs, err)
				}
			}
		}
		if err := errors.Join(errs...); err != nil {
			s.Log.Warn("service keeps an address that is not podd's to give", "namespace", service.Namespace,
				"service", service.Name, "error", err)
		}
	}
	return nil
}

// service tells who makes one that nothing answers there yet.
func (a *admit) service(ctx context.Context, service *core.Service) {
	if service.Spec.Type == core.ServiceTypeExternalName || service.Spec.ClusterIP == core.ClusterIPNone {
		return
	}
	warning.AddWarning(ctx, "", "podd stores services and does not route them yet: nothing answers at the cluster IP or a node port")
}
