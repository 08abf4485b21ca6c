//lint:file-ignore SA1019 podd keeps the endpoints of its service for clients that know no slices

package api

import (
	"context"
	"fmt"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/discovery"

	"podd/store"
)

// kubernetesService is the service in the namespace default by which pods find the API. (Upstream:
// pkg/controlplane/controller/kubernetesservice.)
const kubernetesService = "kubernetes"

// kubernetesKinds are what the keys of the service and of its endpoints begin with.
var kubernetesKinds = []string{"/services/", "/endpoints/", "/discovery.k8s.io/endpointslices/"}

// ensureKubernetes makes the service, and its endpoints say where pods are led. Without a TLS port there is neither.
func (s *Server) ensureKubernetes(ctx context.Context) error {
	if s.inside == nil {
		return nil
	}
	ctx = store.Lazily(ctx) // made again at the next start
	if err := s.ensureService(ctx); err != nil {
		return err
	}
	var addresses []string
	for _, g := range s.inside.gates {
		if a, err := netip.ParseAddrPort(g.Addr().String()); err == nil && !a.Addr().IsLoopback() {
			addresses = append(addresses, a.Addr().String())
		}
	}
	port, name, protocol := int32(s.inside.port), "https", v1.ProtocolTCP
	labels := map[string]string{discoveryv1.LabelSkipMirror: "true"}
	endpoints := &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService, Namespace: metav1.NamespaceDefault, Labels: labels}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService, Namespace: metav1.NamespaceDefault,
		Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesService}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}}
	if s.inside.service.Addr().Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	if len(addresses) > 0 {
		subset := v1.EndpointSubset{Ports: []v1.EndpointPort{{Name: name, Port: port, Protocol: protocol}}}
		ready := true
		for _, a := range addresses {
			subset.Addresses = append(subset.Addresses, v1.EndpointAddress{IP: a})
		}
		endpoints.Subsets = []v1.EndpointSubset{subset}
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: addresses[:1], Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}
	}
	if err := s.put(ctx, "endpoints", endpoints, &core.Endpoints{}, func(old, want runtimeObject) {
		old.(*core.Endpoints).Subsets = want.(*core.Endpoints).Subsets
	}); err != nil {
		return err
	}
	return s.put(ctx, "discovery.k8s.io/endpointslices", slice, &discovery.EndpointSlice{}, func(old, want runtimeObject) {
		was, is := old.(*discovery.EndpointSlice), want.(*discovery.EndpointSlice)
		was.Endpoints, was.Ports = is.Endpoints, is.Ports
	})
}

// put makes an object be there and be what is wanted, as far as change says.
func (s *Server) put(ctx context.Context, prefix string, external runtimeObject, internal runtimeObject, change func(old, want runtimeObject)) error {
	kind := s.stored.byPrefix[prefix]
	if kind == nil {
		return fmt.Errorf("make %s %s: not served", prefix, kubernetesService)
	}
	legacyscheme.Scheme.Default(external)
	if err := legacyscheme.Scheme.Convert(external, internal, nil); err != nil {
		return fmt.Errorf("make %s %s: %w", prefix, kubernetesService, err)
	}
	if err := kind.ensure(ctx, metav1.NamespaceDefault, kubernetesService, internal.DeepCopyObject()); err != nil {
		return err
	}
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtimeObject) (runtimeObject, error) {
		next := old.DeepCopyObject()
		change(next, internal)
		return next, nil
	})
	_, _, err := kind.storage.Update(kind.scope(ctx, metav1.NamespaceDefault), kubernetesService, info, rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("make %s %s: %w", prefix, kubernetesService, err)
	}
	return nil
}

// ensureService makes the service; one with another address, of a range that was changed, is replaced.
func (s *Server) ensureService(ctx context.Context) error {
	ip, single := s.inside.service.Addr().String(), v1.IPFamilyPolicySingleStack
	service := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: v1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilyPolicy: &single, Type: v1.ServiceTypeClusterIP,
			SessionAffinity: v1.ServiceAffinityNone, Ports: []v1.ServicePort{{Name: "https", Protocol: v1.ProtocolTCP,
				Port: servicePort, TargetPort: intstr.FromInt32(int32(s.inside.port))}}},
	}
	if old, uid := s.formerService(ctx); old != nil && old.Spec.ClusterIP != ip {
		kind := s.stored.byPrefix["services"]
		if err := kind.delete(ctx, metav1.NamespaceDefault, kubernetesService, uid, metav1.DeletePropagationBackground); err != nil {
			return err
		}
	}
	err := s.put(ctx, "services", service, &core.Service{}, func(old, want runtimeObject) {
		old.(*core.Service).Spec.Ports = want.(*core.Service).Spec.Ports
	})
	if apierrors.IsInvalid(err) { // another service has that address
		s.Log.Error("pods do not find podd's API: its service cannot have its address; delete the service that has it, and start podd again",
			"address", ip, "error", err)
		return nil
	}
	return err
}

// formerService is the service as it is stored; nil when it is not.
func (s *Server) formerService(ctx context.Context) (*core.Service, types.UID) {
	kind := s.stored.byPrefix["services"]
	if kind == nil {
		return nil, ""
	}
	obj, err := kind.storage.(rest.Getter).Get(kind.scope(ctx, metav1.NamespaceDefault), kubernetesService, &metav1.GetOptions{})
	if err != nil {
		return nil, ""
	}
	service, ok := obj.(*core.Service)
	if !ok {
		return nil, ""
	}
	return service, service.UID
}

// formerPort is where pods were led before; 0 when they were not.
func (s *Server) formerPort(ctx context.Context) uint16 {
	if service, _ := s.formerService(ctx); service != nil && len(service.Spec.Ports) == 1 {
		return uint16(service.Spec.Ports[0].TargetPort.IntVal)
	}
	return 0
}
