//go:build host

package e2e

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// kindsManifest has one object of each kind that podd keeps, and a pod that uses its account and classes.
const kindsManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: k}
data: {key: value}
---
apiVersion: v1
kind: Secret
metadata: {name: k}
stringData: {key: value}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: k}
---
apiVersion: v1
kind: Service
metadata: {name: k}
spec: {type: NodePort, selector: {app: k}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: k}
subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: PodTemplate
metadata: {name: k}
template: {spec: {containers: [{name: app, image: busybox}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: k}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: k}
spec: {holderIdentity: me}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: k}
value: 7
globalDefault: true
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: k}
handler: runc
overhead: {podFixed: {memory: 8Mi}}
---
`

// kindsServed is where those objects are.
var kindsServed = map[schema.GroupVersionResource]bool{ // true: in a namespace
	{Version: "v1", Resource: "configmaps"}: true, {Version: "v1", Resource: "secrets"}: true,
	{Version: "v1", Resource: "serviceaccounts"}: true, {Version: "v1", Resource: "services"}: true,
	{Version: "v1", Resource: "endpoints"}: true, {Version: "v1", Resource: "podtemplates"}: true,
	{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}:   true,
	{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}:        true,
	{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}: false,
	{Group: "node.k8s.io", Version: "v1", Resource: "runtimeclasses"}:        false,
}

// TestKinds is every kind that podd keeps, applied by podctl, kept over the death of podd, and what the classes of a pod
// mean for its processes. The default priority class that it makes is everybody's, so it has a podd of its own.
func TestKinds(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.kindsPods(t)
	before := s.kindsAll(t)
	if len(before) != len(kindsServed) {
		t.Fatalf("%d objects, want %d", len(before), len(kindsServed))
	}
	s.Restart()
	if after := s.kindsAll(t); !maps.Equal(before, after) {
		for resource, object := range before {
			if after[resource] != object {
				t.Errorf("%s\nbefore %s\nafter  %s", resource, object, after[resource])
			}
		}
	}
	var service struct{ Spec struct{ ClusterIP string } }
	if err := json.Unmarshal([]byte(before["services"]), &service); err != nil {
		t.Fatal(err)
	}
	taken := "apiVersion: v1\nkind: Service\nmetadata: {name: taken}\nspec: {clusterIP: " + service.Spec.ClusterIP + ", ports: [{port: 80}]}\n"
	if got := s.refused(t, taken, "create", "-f", "-"); !strings.Contains(got, "provided IP is already allocated") {
		t.Errorf("the address of another service after a restart: %s", got)
	}
	if out := s.must(t, "delete", "pod", "kinds-critical", "kinds-default", "--wait=true"); !strings.Contains(out, "deleted") {
		t.Errorf("delete: %s", out)
	}
}

// kindsAll is those objects as text, each by its resource.
func (s *suite) kindsAll(t *testing.T) map[string]string {
	t.Helper()
	config := s.Config()
	transport := &http.Transport{DialContext: config.Dial}
	defer transport.CloseIdleConnections()
	client, err := dynamic.NewForConfigAndClient(&rest.Config{Host: config.Host}, &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for resource, namespaced := range kindsServed {
		var from dynamic.ResourceInterface = client.Resource(resource)
		if namespaced {
			from = client.Resource(resource).Namespace(metav1.NamespaceDefault)
		}
		object, err := from.Get(t.Context(), "k", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found[resource.Resource] = kindsText(t, object)
	}
	return found
}

func kindsText(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	text, err := json.Marshal(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// kindsPods applies everything and two pods, and looks at what the kernel was told.
func (s *suite) kindsPods(t *testing.T) {
	t.Helper()
	const score = "cat /proc/self/oom_score_adj; "
	critical := pod{Name: "kinds-critical", Script: score + sleepScript,
		Spec:      "serviceAccountName: k\nruntimeClassName: k\npriorityClassName: system-node-critical",
		Container: "resources: {limits: {memory: 24Mi, cpu: '1'}, requests: {memory: 1Mi}}"}
	out, errs, code := s.PodctlInput(strings.NewReader(kindsManifest+critical.String()), "apply", "-f", "-")
	if code != 0 || strings.Count(out, " created\n") != len(kindsServed)+1 {
		t.Fatalf("apply: exit %d\n%s%s", code, out, errs)
	}
	if !strings.Contains(errs, "does not route them yet") {
		t.Errorf("no warning about the service: %s", errs)
	}
	s.apply(t, pod{Name: "kinds-default", Script: score + sleepScript})
	running := s.until(t, "kinds-critical", "ready", ready)
	mount, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if unified() {
		mount, file = "/sys/fs/cgroup", "memory.max"
	}
	limit, err := os.ReadFile(filepath.Join(mount, s.CgroupParent, "kubepods", "burstable", "pod"+string(running.UID), file))
	if err != nil || strings.TrimSpace(string(limit)) != "33554432" {
		t.Errorf("24 Mi and 8 Mi of overhead: %s, %v", limit, err)
	}
	usual := s.until(t, "kinds-default", "ready", ready)
	if usual.Spec.PriorityClassName != "k" || *usual.Spec.Priority != 7 || usual.Spec.ServiceAccountName != "default" {
		t.Errorf("defaults: %+v", usual.Spec)
	}
	// It is -997, or as low as this host lets podd go. No burstable pod without the class gets below 3.
	eventually(t, func() error {
		if s.must(t, "logs", "kinds-critical") == "" {
			return errors.New("critical: says nothing yet")
		}
		return nil
	})
	if got, err := strconv.Atoi(strings.TrimSpace(s.must(t, "logs", "kinds-critical"))); err != nil || got > 2 {
		t.Errorf("critical: oom_score_adj %d, %v", got, err)
	}
	s.logged(t, "1000\n", "kinds-default") // best effort
}
