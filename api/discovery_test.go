package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDiscovery compares what discovery says, in both its forms, with what there should be.
func TestDiscovery(t *testing.T) {
	e := serve(t)
	plain := map[string]string{}
	groups, err := e.client.Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, group := range groups.Groups {
		order = append(order, group.PreferredVersion.GroupVersion)
		var list metav1.APIResourceList
		path := "/apis/" + group.PreferredVersion.GroupVersion
		if group.Name == "" {
			path = "/api/v1"
		}
		_, _, text := e.ask(t, "GET", path, nil, "")
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			kind := r.Kind
			if r.Group != "" {
				kind = r.Group + "/" + r.Version + " " + r.Kind
			}
			plain[group.PreferredVersion.GroupVersion+" "+r.Name] = fmt.Sprintf("%s|%t|%s|%s|%s|%s", kind, r.Namespaced, r.SingularName,
				strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ","), strings.Join(r.Verbs, ","))
		}
	}
	want := "v1 events.k8s.io/v1 authentication.k8s.io/v1 authorization.k8s.io/v1 storage.k8s.io/v1 scheduling.k8s.io/v1 coordination.k8s.io/v1 " +
		"node.k8s.io/v1 discovery.k8s.io/v1"
	if got := strings.Join(order, " "); got != want && got != want+" metrics.k8s.io/v1beta1" {
		t.Errorf("groups %s", got)
	}
	all := "create,delete,deletecollection,get,list,patch,update,watch"
	for resource, want := range map[string]string{
		"v1 pods":                                     "Pod|true|pod|po|all|" + all,
		"v1 pods/status":                              "Pod|true||||get,patch,update",
		"v1 pods/ephemeralcontainers":                 "Pod|true||||get,patch,update",
		"v1 pods/resize":                              "Pod|true||||get,patch,update",
		"v1 pods/binding":                             "Binding|true||||create",
		"v1 pods/eviction":                            "policy/v1 Eviction|true||||create",
		"v1 pods/log":                                 "Pod|true||||get",
		"v1 pods/exec":                                "PodExecOptions|true||||create,get",
		"v1 pods/attach":                              "PodAttachOptions|true||||create,get",
		"v1 pods/portforward":                         "PodPortForwardOptions|true||||create,get",
		"v1 pods/proxy":                               "PodProxyOptions|true||||create,delete,get,patch,update",
		"v1 nodes/proxy":                              "NodeProxyOptions|false||||create,delete,get,patch,update",
		"v1 bindings":                                 "Binding|true|binding|||create",
		"v1 nodes":                                    "Node|false|node|no||" + all,
		"v1 nodes/status":                             "Node|false||||get,patch,update",
		"v1 namespaces":                               "Namespace|false|namespace|ns||create,delete,get,list,patch,update,watch",
		"v1 namespaces/finalize":                      "Namespace|false||||update",
		"v1 configmaps":                               "ConfigMap|true|configmap|cm||" + all,
		"v1 secrets":                                  "Secret|true|secret|||" + all,
		"v1 serviceaccounts":                          "ServiceAccount|true|serviceaccount|sa||" + all,
		"v1 serviceaccounts/token":                    "authentication.k8s.io/v1 TokenRequest|true||||create",
		"authentication.k8s.io/v1 tokenreviews":       "TokenReview|false|tokenreview|||create",
		"v1 podtemplates":                             "PodTemplate|true|podtemplate|||" + all,
		"v1 services":                                 "Service|true|service|svc|all|" + all,
		"v1 services/status":                          "Service|true||||get,patch,update",
		"v1 endpoints":                                "Endpoints|true|endpoints|ep||" + all,
		"v1 events":                                   "Event|true|event|ev||" + all,
		"events.k8s.io/v1 events":                     "Event|true|event|ev||" + all,
		"discovery.k8s.io/v1 endpointslices":          "EndpointSlice|true|endpointslice|||" + all,
		"coordination.k8s.io/v1 leases":               "Lease|true|lease|||" + all,
		"node.k8s.io/v1 runtimeclasses":               "RuntimeClass|false|runtimeclass|||" + all,
		"v1 persistentvolumes":                        "PersistentVolume|false|persistentvolume|pv||" + all,
		"v1 persistentvolumes/status":                 "PersistentVolume|false||||get,patch,update",
		"v1 persistentvolumeclaims":                   "PersistentVolumeClaim|true|persistentvolumeclaim|pvc||" + all,
		"storage.k8s.io/v1 storageclasses":            "StorageClass|false|storageclass|sc||" + all,
		"scheduling.k8s.io/v1 priorityclasses":        "PriorityClass|false|priorityclass|pc||" + all,
		"authentication.k8s.io/v1 selfsubjectreviews": "SelfSubjectReview|false|selfsubjectreview|||create",
		"authorization.k8s.io/v1 selfsubjectaccessreviews":  "SelfSubjectAccessReview|false|selfsubjectaccessreview|||create",
		"authorization.k8s.io/v1 selfsubjectrulesreviews":   "SelfSubjectRulesReview|false|selfsubjectrulesreview|||create",
		"authorization.k8s.io/v1 subjectaccessreviews":      "SubjectAccessReview|false|subjectaccessreview|||create",
		"authorization.k8s.io/v1 localsubjectaccessreviews": "LocalSubjectAccessReview|true|localsubjectaccessreview|||create",
	} {
		if plain[resource] != want {
			t.Errorf("%s: %s, want %s", resource, plain[resource], want)
		}
	}
	if got := aggregated(t, e); !maps.Equal(got, plain) {
		for _, name := range slices.Sorted(maps.Keys(plain)) {
			if got[name] != plain[name] {
				t.Errorf("aggregated: %s: %s, and plain %s", name, got[name], plain[name])
			}
		}
		t.Errorf("aggregated has %d, plain %d", len(got), len(plain))
	}
}

// aggregated is the same from the newer form.
func aggregated(t *testing.T, e *env) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, path := range []string{"/api", "/apis"} {
		var list apidiscoveryv2.APIGroupDiscoveryList
		_, _, text := e.ask(t, "GET", path, map[string]string{"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, "")
		if err := json.Unmarshal(text, &list); err != nil || list.Kind != "APIGroupDiscoveryList" {
			t.Fatalf("%s: %v %.200s", path, err, text)
		}
		for _, group := range list.Items {
			for _, version := range group.Versions {
				in := strings.TrimPrefix(group.Name+"/"+version.Version, "/")
				put := func(name string, kind *metav1.GroupVersionKind, scoped bool, singular string, short, categories, verbs []string) {
					said := kind.Kind
					if gv := (metav1.GroupVersion{Group: kind.Group, Version: kind.Version}).String(); kind.Group != "" && gv != in {
						said = gv + " " + said
					}
					sort.Strings(verbs)
					found[in+" "+name] = fmt.Sprintf("%s|%t|%s|%s|%s|%s", said, scoped, singular, strings.Join(short, ","),
						strings.Join(categories, ","), strings.Join(verbs, ","))
				}
				for _, r := range version.Resources {
					scoped := r.Scope == apidiscoveryv2.ScopeNamespace
					put(r.Resource, r.ResponseKind, scoped, r.SingularResource, r.ShortNames, r.Categories, r.Verbs)
					for _, sub := range r.Subresources {
						put(r.Resource+"/"+sub.Subresource, sub.ResponseKind, scoped, "", nil, nil, sub.Verbs)
					}
				}
			}
		}
	}
	return found
}

// TestOpenAPIIsCurrent looks for every route in the documents, which go generate makes.
func TestOpenAPIIsCurrent(t *testing.T) {
	e := serve(t)
	paths := func(document string) map[string]map[string]any {
		_, _, text := e.ask(t, "GET", document, nil, "")
		var d struct {
			Paths map[string]map[string]any `json:"paths"`
		}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v %.100s", document, err, text)
		}
		return d.Paths
	}
	v2, routes, missing := paths("/openapi/v2"), 0, []string{}
	pattern := regexp.MustCompile(`:\*}`)
	services, err := e.server.WebServices()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range services {
		v3 := paths("/openapi/v3" + service.RootPath())
		for _, route := range service.Routes() {
			routes++
			path, method := pattern.ReplaceAllString(route.Path, "}"), strings.ToLower(route.Method)
			for name, document := range map[string]map[string]map[string]any{"v2": v2, "v3": v3} {
				if document[path][method] == nil {
					missing = append(missing, name+" "+method+" "+path)
				}
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("%d routes are not in OpenAPI, run go generate ./api: %s ...", len(missing), strings.Join(missing[:min(3, len(missing))], ", "))
	}
	if routes < 200 {
		t.Errorf("only %d routes", routes)
	}
}
