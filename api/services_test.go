package api_test

import (
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"podd/api"
)

func service(name, ip string, kind v1.ServiceType, nodePort int32) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Type: kind,
		Selector: map[string]string{"app": "x"}, Ports: []v1.ServicePort{{Port: 80, NodePort: nodePort}}}}
}

func TestServiceAddresses(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	services := e.client.CoreV1().Services("default")
	create := func(s *v1.Service) *v1.Service {
		t.Helper()
		made, err := services.Create(ctx, s, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	first := create(service("first", "", "", 0))
	if ip, err := netip.ParseAddr(first.Spec.ClusterIP); err != nil || !netip.MustParsePrefix(api.DefaultServiceCIDR).Contains(ip) ||
		first.Spec.ClusterIPs[0] != first.Spec.ClusterIP || first.Spec.IPFamilies[0] != v1.IPv4Protocol {
		t.Errorf("a cluster IP: %+v", first.Spec)
	}
	if headless := create(service("headless", "None", "", 0)); headless.Spec.ClusterIP != "None" {
		t.Errorf("headless: %+v", headless.Spec)
	}
	external := service("external", "", v1.ServiceTypeExternalName, 0)
	external.Spec.ExternalName, external.Spec.Ports = "example.com", nil
	if external = create(external); external.Spec.ClusterIP != "" {
		t.Errorf("an external name: %+v", external.Spec)
	}
	node := create(service("node", "", v1.ServiceTypeNodePort, 0))
	if port := node.Spec.Ports[0].NodePort; port < 30000 || port > 32767 {
		t.Errorf("a node port: %d", port)
	}
	refused := map[string]*v1.Service{
		"provided IP is already allocated":        service("twice", first.Spec.ClusterIP, "", 0),
		"The range of valid IPs is 10.84.0.0/16":  service("far", "192.0.2.1", "", 0),
		"provided port is already allocated":      service("port", "", v1.ServiceTypeNodePort, node.Spec.Ports[0].NodePort),
		"The range of valid ports is 30000-32767": service("low", "", v1.ServiceTypeNodePort, 80),
	}
	check := func(where string, client kubernetes.Interface) {
		t.Helper()
		for want, s := range refused {
			_, err := client.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
				t.Errorf("%s: %s: %v", where, s.Name, err)
			}
		}
	}
	check("at first", e.client)

	// The services themselves are all that a restart has to go by.
	again, err := api.New(api.Config{Store: e.store, Runtime: e.runtime, NodeName: "host"})
	if err != nil {
		t.Fatal(err)
	}
	tcp := httptest.NewServer(again.Handler())
	defer tcp.Close()
	restarted := kubernetes.NewForConfigOrDie(&rest.Config{Host: tcp.URL})
	check("after a restart", restarted)

	// What is deleted is free again, and a dry run takes nothing.
	if err := services.Delete(ctx, "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []metav1.CreateOptions{{DryRun: []string{"All"}}, {}} {
		if _, err := services.Create(ctx, service("next", first.Spec.ClusterIP, "", 0), opts); err != nil {
			t.Errorf("the address of a deleted service, %v: %v", opts.DryRun, err)
		}
	}
	_, header, _ := e.ask(t, "POST", "/api/v1/namespaces/default/services", map[string]string{"Content-Type": "application/json"},
		`{"metadata":{"name":"warned"},"spec":{"ports":[{"port":80}]}}`)
	if !strings.Contains(strings.Join(header["Warning"], " "), "does not route them yet") {
		t.Errorf("warnings %q", header["Warning"])
	}
}
