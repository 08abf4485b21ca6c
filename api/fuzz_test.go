package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"podd/api"
	"podd/store"
)

// fuzzed is a server without a socket, with a pod and a configmap, both named "a", and pods with other labels.
type fuzzed struct {
	handler http.Handler
	pods    []*v1.Pod
}

func openFuzzed(f *testing.F) *fuzzed {
	f.Helper()
	e := serve(f)
	var z fuzzed
	for name, labels := range map[string]map[string]string{
		"a": {"app": "a", "tier": "web"}, "b": {"app": "b"}, "c": nil, "d": {"app": "a", "example.com/x": ""}} {
		p := pod(name)
		p.Labels = labels
		z.pods = append(z.pods, e.create(f, p))
	}
	config := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}}
	if _, err := e.client.CoreV1().ConfigMaps("default").Create(f.Context(), config, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	e.stop()
	// The same state, behind a handler alone.
	s, err := store.Open(store.Options{Path: filepath.Join(e.dir, "state.db")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	server, err := api.New(api.Config{Store: s, Runtime: &pods{}, NodeName: "host", NodeIPs: []string{"192.0.2.1"},
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	z.handler = server.Handler()
	return &z
}

func (z *fuzzed) do(method, path string, query url.Values, contentType string, body []byte) *httptest.ResponseRecorder {
	target := url.URL{Path: path, RawQuery: query.Encode()}
	req := httptest.NewRequestWithContext(context.Background(), method, target.String(), bytes.NewReader(body))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res := httptest.NewRecorder()
	z.handler.ServeHTTP(res, req)
	return res
}

// FuzzSelectors lists pods with any selectors: the answer is a list of exactly those that match, or 400.
func FuzzSelectors(f *testing.F) {
	for _, label := range []string{"", "app=a", "app in (a,b),tier", "!app", "app!=a", "example.com/x=", "a=b,,", "app notin (a)", "x>1", "=", "(", "a in ()"} {
		f.Add(label, "")
	}
	for _, field := range []string{"metadata.name=a", "status.phase!=Running", "spec.nodeName=host,metadata.namespace=default", "x=y", `metadata.name=\,`, "a==b", "=", `\`} {
		f.Add("", field)
	}
	z := openFuzzed(f)
	f.Fuzz(func(t *testing.T, label, field string) {
		res := z.do(http.MethodGet, "/api/v1/namespaces/default/pods", url.Values{"labelSelector": {label}, "fieldSelector": {field}}, "", nil)
		selector, err := labels.Parse(label)
		switch {
		case res.Code == http.StatusBadRequest && (err != nil || field != ""):
			return
		case res.Code != http.StatusOK || err != nil:
			t.Fatalf("%d, and the selector %q: %v\n%s", res.Code, label, err, res.Body)
		}
		var list v1.PodList
		if err := json.Unmarshal(res.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, p := range list.Items {
			found[p.Name] = true
		}
		for _, p := range z.pods {
			want := selector.Matches(labels.Set(p.Labels))
			if found[p.Name] && !want || want && !found[p.Name] && field == "" {
				t.Errorf("pod %s with %v: listed %v by %q", p.Name, p.Labels, found[p.Name], label)
			}
		}
	})
}

// patchKinds are the media types of patches.
var patchKinds = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}

// FuzzPatch sends any patch of each kind for a pod and a configmap. The answer is the object with the identity it had, or
// an error that says what is wrong with the patch.
func FuzzPatch(f *testing.F) {
	for kind, patches := range [][]string{
		{`[{"op":"replace","path":"/metadata/labels/app","value":"z"}]`, `[{"op":"test","path":"/kind","value":"Pod"},{"op":"remove","path":"/data/k"}]`,
			`[{"op":"copy","from":"/metadata","path":"/metadata/annotations"}]`, `[{"op":"move","from":"/spec","path":"/status"}]`, `[]`, `{}`, `[{"op":"add","path":"/spec/containers/-","value":null}]`},
		{`{"metadata":{"labels":{"x":"y"}}}`, `{"metadata":null}`, `{"spec":{"containers":[]}}`, `{"data":{"k":null,"l":"m"}}`, `null`, `[1]`, `{"metadata":{"uid":"x"}}`, `{"kind":"Node"}`},
		{`{"spec":{"containers":[{"name":"app","image":"other"}]}}`, `{"spec":{"$patch":"replace"}}`, `{"spec":{"containers":[{"$patch":"delete","name":"app"}]}}`,
			`{"spec":{"$setElementOrder/containers":[{"name":"app"}]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}`, `{"$retainKeys":["spec"]}`},
		{"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {m: n}}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: w}\n", "a: &x [*x]", "", "{", "kind: Pod"},
	} {
		for _, patch := range patches {
			f.Add(uint8(kind), patch)
			f.Add(uint8(kind)+4, patch)
		}
	}
	z := openFuzzed(f)
	f.Fuzz(func(t *testing.T, kind uint8, patch string) {
		path := "/api/v1/namespaces/default/pods/a"
		if kind&4 != 0 {
			path = "/api/v1/namespaces/default/configmaps/a"
		}
		query := url.Values{"dryRun": {"All"}, "fieldManager": {"fuzz"}}
		contentType := patchKinds[kind&3]
		if kind&3 == 3 {
			query.Set("force", "true")
		}
		before := z.identity(t, path)
		res := z.do(http.MethodPatch, path, query, contentType, []byte(patch))
		switch {
		case res.Code == http.StatusOK:
			if got := identify(t, res.Body.Bytes()); got != before {
				t.Errorf("%s: the object was %v and is %v", contentType, before, got)
			}
		case res.Code == http.StatusInternalServerError && reason(t, res.Body.Bytes()) == "":
			// Upstream's answer to what its patch libraries refuse. One of podd's own has a reason; a panic is no Status.
		case res.Code < 400 || res.Code >= 500:
			t.Errorf("%s: %d: %s", contentType, res.Code, res.Body)
		}
		if after := z.identity(t, path); after != before {
			t.Errorf("a dry run changed the object: it was %v and is %v", before, after)
		}
	})
}

// identity is what no patch may change.
type identity struct{ Kind, Namespace, Name, UID string }

func (z *fuzzed) identity(t *testing.T, path string) identity {
	t.Helper()
	res := z.do(http.MethodGet, path, nil, "", nil)
	if res.Code != http.StatusOK {
		t.Fatalf("get: %d: %s", res.Code, res.Body)
	}
	return identify(t, res.Body.Bytes())
}

func reason(t *testing.T, data []byte) metav1.StatusReason {
	t.Helper()
	var status metav1.Status
	if err := json.Unmarshal(data, &status); err != nil || status.Kind != "Status" {
		t.Fatalf("no Status: %s", data)
	}
	return status.Reason
}

func identify(t *testing.T, data []byte) identity {
	t.Helper()
	var o metav1.PartialObjectMetadata
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	return identity{o.Kind, o.Namespace, o.Name, string(o.UID)}
}
