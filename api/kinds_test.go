package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// kind is one of those that are stored, and an object of it. The object's name is "a".
type kind struct {
	resource schema.GroupVersionResource
	object   string   // YAML, without metadata
	global   bool     // no namespace
	columns  []string // of its table, as kubectl prints them
	present  int      // objects that are there from the start
}

var kinds = []kind{
	{resource: core("configmaps"), columns: []string{"Name", "Data", "Age"}, object: `
apiVersion: v1
kind: ConfigMap
data: {key: value}`},
	{resource: core("secrets"), columns: []string{"Name", "Type", "Data", "Age"}, object: `
apiVersion: v1
kind: Secret
stringData: {key: value}`},
	{resource: core("serviceaccounts"), columns: []string{"Name", "Age"}, object: `
apiVersion: v1
kind: ServiceAccount
automountServiceAccountToken: false`},
	{resource: core("podtemplates"), columns: []string{"Name", "Containers", "Images", "Pod Labels"}, object: `
apiVersion: v1
kind: PodTemplate
template: {metadata: {labels: {app: x}}, spec: {containers: [{name: app, image: busybox}]}}`},
	{resource: core("services"), columns: []string{"Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"}, object: `
apiVersion: v1
kind: Service
spec: {selector: {app: x}, ports: [{port: 80}]}`},
	{resource: core("endpoints"), columns: []string{"Name", "Endpoints", "Age"}, object: `
apiVersion: v1
kind: Endpoints
subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]`},
	{resource: core("pods"), columns: []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"}, object: `
apiVersion: v1
kind: Pod
spec: {containers: [{name: app, image: busybox}]}`},
	{resource: core("namespaces"), global: true, columns: []string{"Name", "Status", "Age"}, present: 4, object: `
apiVersion: v1
kind: Namespace`},
	{resource: core("events"), columns: []string{"Last Seen", "Type", "Reason", "Object", "Subobject", "Source", "Message", "First Seen", "Count", "Name"}, object: `
apiVersion: v1
kind: Event
involvedObject: {kind: Pod, namespace: default, name: x}
reason: Tested
type: Normal`},
	{resource: group("events.k8s.io", "events"), columns: []string{"Last Seen", "Type", "Reason", "Object", "Subobject", "Source", "Message", "First Seen", "Count", "Name"}, object: `
apiVersion: events.k8s.io/v1
kind: Event
eventTime: "2026-01-01T00:00:00.000000Z"
action: Test
reason: Tested
type: Normal
reportingController: example.com/test
reportingInstance: test-1
regarding: {kind: Pod, namespace: kube-public, name: x}`},
	{resource: group("discovery.k8s.io", "endpointslices"), columns: []string{"Name", "AddressType", "Ports", "Endpoints", "Age"}, object: `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
ports: [{name: http, port: 80}]`},
	{resource: group("coordination.k8s.io", "leases"), columns: []string{"Name", "Holder", "Age"}, object: `
apiVersion: coordination.k8s.io/v1
kind: Lease
spec: {holderIdentity: me, leaseDurationSeconds: 10}`},
	{resource: group("node.k8s.io", "runtimeclasses"), global: true, columns: []string{"Name", "Handler", "Age"}, object: `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
handler: runc`},
	{resource: group("scheduling.k8s.io", "priorityclasses"), global: true, present: 2,
		columns: []string{"Name", "Value", "Global-Default", "Age", "PreemptionPolicy"}, object: `
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
value: 1000`},
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func group(name, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: name, Version: "v1", Resource: resource}
}

// make is the kind's object with that name, and the label app of that value.
func (k kind) make(t testing.TB, name string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(k.object), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetName(name)
	if !k.global {
		u.SetNamespace(k.namespace())
	}
	u.SetLabels(map[string]string{"app": name})
	return u
}

func (k kind) client(c dynamic.Interface) dynamic.ResourceInterface {
	if k.global {
		return c.Resource(k.resource)
	}
	return c.Resource(k.resource).Namespace(k.namespace())
}

// path of the collection.
func (k kind) path() string {
	path := "/apis/" + k.resource.Group + "/v1/"
	if k.resource.Group == "" {
		path = "/api/v1/"
	}
	if !k.global {
		path += "namespaces/" + k.namespace() + "/"
	}
	return path + k.resource.Resource
}

// ask makes a request and returns the answer.
func (e *env) ask(t testing.TB, method, path string, header map[string]string, body string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://podd"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := e.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, text
}

// eachKind runs test for each kind, all on one server.
func eachKind(t *testing.T, test func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface)) {
	e := serve(t)
	client := dynamic.NewForConfigOrDie(e.config)
	for _, k := range kinds {
		t.Run(k.resource.GroupResource().String(), func(t *testing.T) { test(t, e, k, k.client(client)) })
	}
}

// namespace of the kind's objects. Events of both groups are the same objects, so those of one have another.
func (k kind) namespace() string {
	if k.resource.Group == "events.k8s.io" {
		return "kube-public"
	}
	return "default"
}

func TestKindVerbs(t *testing.T) {
	eachKind(t, func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface) {
		ctx := t.Context()
		w, err := client.Watch(ctx, metav1.ListOptions{LabelSelector: "app=a"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		first, err := client.Create(ctx, k.make(t, "a"), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if first.GetUID() == "" || first.GetResourceVersion() == "" || first.GetCreationTimestamp().Unix() <= 0 || len(first.GetManagedFields()) == 0 {
			t.Errorf("metadata: %v", first.Object["metadata"])
		}
		if _, err := client.Create(ctx, k.make(t, "b"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Create(ctx, k.make(t, "a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("a second one of that name: %v", err)
		}
		if _, err := client.Create(ctx, k.make(t, "dry"), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
			t.Errorf("dry run: %v", err)
		}
		if _, err := client.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the dry run was stored: %v", err)
		}
		for selector, want := range map[metav1.ListOptions]int{
			{}: 2 + k.present, {LabelSelector: "app in (a,c)"}: 1, {FieldSelector: "metadata.name=b"}: 1, {LabelSelector: "app"}: 2,
		} {
			list, err := client.List(ctx, selector)
			if err != nil || len(list.Items) != want+k.more(list) {
				t.Errorf("list %+v: %d, want %d; %v", selector, len(list.Items), want, err)
			}
		}
		changed := first.DeepCopy()
		changed.SetAnnotations(map[string]string{"x": "y"})
		if changed, err = client.Update(ctx, changed, metav1.UpdateOptions{}); err != nil || changed.GetResourceVersion() == first.GetResourceVersion() {
			t.Errorf("update: %v", err)
		}
		if _, err := client.Update(ctx, first, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("a stale update: %v", err)
		}
		for patch, kind := range map[string]types.PatchType{
			`{"metadata":{"annotations":{"p":"merge"}}}`:                         types.MergePatchType,
			`[{"op":"replace","path":"/metadata/annotations/x","value":"json"}]`: types.JSONPatchType,
			`{"metadata":{"annotations":{"s":"strategic"}}}`:                     types.StrategicMergePatchType,
		} {
			if _, err := client.Patch(ctx, "a", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		err = client.Delete(ctx, "a", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("another")})
		if !apierrors.IsConflict(err) {
			t.Errorf("delete of another uid: %v", err)
		}
		zero := int64(0)
		if err := client.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Errorf("delete: %v", err)
		}
		k.watched(t, w)
		if k.resource.Resource == "namespaces" {
			return // there is no collection of them to delete
		}
		if err := client.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{LabelSelector: "app=b"}); err != nil {
			t.Errorf("delete the collection: %v", err)
		}
		if _, err := client.Get(ctx, "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("after that: %v", err)
		}
	})
}

// more counts objects that podd itself may have made meanwhile, and that no label of the test is on.
func (k kind) more(list *unstructured.UnstructuredList) (n int) {
	for _, item := range list.Items {
		if item.GetLabels()["app"] == "" && !slices.Contains([]string{"namespaces", "priorityclasses"}, k.resource.Resource) {
			n++
		}
	}
	return n
}

// watched expects the life of an object: created, changed at least four times, deleted.
func (k kind) watched(t *testing.T, w watch.Interface) {
	t.Helper()
	var seen []watch.EventType
	for event := range w.ResultChan() {
		seen = append(seen, event.Type)
		if event.Type == watch.Deleted {
			break
		}
	}
	if len(seen) < 6 || seen[0] != watch.Added || seen[1] != watch.Modified || seen[len(seen)-1] != watch.Deleted {
		t.Errorf("watched %v", seen)
	}
}

func TestKindApply(t *testing.T) {
	eachKind(t, func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface) {
		ctx := t.Context()
		u := k.make(t, "a")
		if _, err := client.Apply(ctx, "a", u, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
			t.Fatal(err)
		}
		u.SetLabels(map[string]string{"app": "other"})
		if _, err := client.Apply(ctx, "a", u, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
			t.Errorf("two managers of a label: %v", err)
		}
		forced, err := client.Apply(ctx, "a", u, metav1.ApplyOptions{FieldManager: "two", Force: true})
		if err != nil || forced.GetLabels()["app"] != "other" {
			t.Errorf("forced: %v", err)
		}
		managers := map[string]bool{}
		for _, entry := range forced.GetManagedFields() {
			managers[entry.Manager] = entry.Operation == metav1.ManagedFieldsOperationApply
		}
		if !managers["two"] {
			t.Errorf("managers: %v", managers)
		}
	})
}

func TestKindEncodings(t *testing.T) {
	eachKind(t, func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface) {
		text, err := yaml.Marshal(k.make(t, "a").Object)
		if err != nil {
			t.Fatal(err)
		}
		code, header, answer := e.ask(t, "POST", k.path(), map[string]string{"Content-Type": "application/yaml", "Accept": "application/yaml"}, string(text))
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(answer, &u.Object); code != 201 || header.Get("Content-Type") != "application/yaml" || err != nil || u.GetName() != "a" {
			t.Fatalf("YAML: %d %s", code, answer)
		}
		code, _, answer = e.ask(t, "GET", k.path()+"/a", map[string]string{"Accept": "application/vnd.kubernetes.protobuf"}, "")
		obj, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(answer, nil, nil)
		if code != 200 || err != nil || gvk.Kind != u.GetKind() {
			t.Fatalf("protobuf: %d %v %v", code, gvk, err)
		}
		k.copyByProtobuf(t, e, obj)
		code, _, answer = e.ask(t, "GET", k.path()+"?fieldSelector=metadata.name%3Da", map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, "")
		table := metav1.Table{}
		if err := json.Unmarshal(answer, &table); code != 200 || err != nil || len(table.Rows) != 1 {
			t.Fatalf("table: %d %s", code, answer)
		}
		var columns []string
		for _, column := range table.ColumnDefinitions {
			columns = append(columns, column.Name)
		}
		if !slices.Equal(columns, k.columns) {
			t.Errorf("columns %q, want %q", columns, k.columns)
		}
		code, _, answer = e.ask(t, "GET", k.path(), map[string]string{"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, "")
		list := metav1.PartialObjectMetadataList{}
		if err := json.Unmarshal(answer, &list); code != 200 || err != nil || list.Kind != "PartialObjectMetadataList" ||
			!slices.ContainsFunc(list.Items, func(o metav1.PartialObjectMetadata) bool { return o.Name == "a" && o.Labels["app"] == "a" }) {
			t.Errorf("metadata only: %d %.300s", code, answer)
		}
	})
}

// copyByProtobuf posts the object under another name, as typed clients do.
func (k kind) copyByProtobuf(t *testing.T, e *env, obj runtime.Object) {
	t.Helper()
	meta := obj.(metav1.Object)
	meta.SetName("by-protobuf")
	meta.SetResourceVersion("")
	meta.SetUID("")
	meta.SetManagedFields(nil)
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, k.resource.GroupVersion()), obj)
	if err != nil {
		t.Fatal(err)
	}
	kind := map[string]string{"Content-Type": runtime.ContentTypeProtobuf, "Accept": "application/json"}
	code, _, answer := e.ask(t, "POST", k.path()+"?dryRun=All", kind, string(data))
	if code != 201 || !strings.Contains(string(answer), `"name":"by-protobuf"`) {
		t.Errorf("protobuf: %d %s", code, answer)
	}
}

func TestKindFieldValidation(t *testing.T) {
	eachKind(t, func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface) {
		u := k.make(t, "a")
		u.Object["noSuchField"] = "x"
		_, err := client.Create(t.Context(), u, metav1.CreateOptions{FieldValidation: "Strict"})
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "noSuchField"`) {
			t.Errorf("strict: %v", err)
		}
		text, err := json.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		for mode, want := range map[string]bool{"Warn": true, "Ignore": false} {
			code, header, answer := e.ask(t, "POST", k.path()+"?dryRun=All&fieldValidation="+mode, map[string]string{"Content-Type": "application/json"}, string(text))
			warned := slices.ContainsFunc(header["Warning"], func(w string) bool { return strings.Contains(w, "noSuchField") })
			if code != 201 || warned != want {
				t.Errorf("%s: %d %v %.200s", mode, code, header["Warning"], answer)
			}
		}
		generated := k.make(t, "")
		generated.SetGenerateName("made-")
		made, err := client.Create(t.Context(), generated, metav1.CreateOptions{})
		if err != nil || !strings.HasPrefix(made.GetName(), "made-") || len(made.GetName()) != len("made-")+5 {
			t.Errorf("generateName: %v", err)
		}
	})
}

func TestKindPagesAndWatchList(t *testing.T) {
	eachKind(t, func(t *testing.T, e *env, k kind, client dynamic.ResourceInterface) {
		for i := range 5 {
			u := k.make(t, fmt.Sprintf("o%d", i))
			u.SetLabels(map[string]string{"app": "page"})
			if _, err := client.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		var names []string
		page := metav1.ListOptions{Limit: 2, LabelSelector: "app=page"}
		for {
			list, err := client.List(t.Context(), page)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range list.Items {
				names = append(names, item.GetName())
			}
			if page.Continue = list.GetContinue(); page.Continue == "" {
				break
			}
		}
		if got := strings.Join(names, " "); got != "o0 o1 o2 o3 o4" {
			t.Errorf("pages: %s", got)
		}
		yes := true
		w, err := client.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, LabelSelector: "app=page",
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for i := range 5 {
			event := <-w.ResultChan()
			if u, ok := event.Object.(*unstructured.Unstructured); !ok || event.Type != watch.Added || u.GetName() != fmt.Sprintf("o%d", i) {
				t.Errorf("watch list: %v", event)
			}
		}
		event := <-w.ResultChan()
		if u, ok := event.Object.(*unstructured.Unstructured); !ok || event.Type != watch.Bookmark || u.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
			t.Errorf("end of the watch list: %v", event)
		}
	})
}
