package api

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"testing"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestRoutesInParts asks for every endpoint of a server that has made none yet: what it makes for that must have the endpoint,
// and for what is about a resource it must not be the whole.
func TestRoutesInParts(t *testing.T) {
	open := func() *routes {
		s, err := New(Config{NodeName: "node", Runtime: struct{ Runtime }{}})
		if err != nil {
			t.Fatal(err)
		}
		return s.routes
	}
	reference := open()
	reference.mu.Lock()
	whole, err := reference.all()
	reference.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	lazy := open()
	discovery := regexp.MustCompile(`^/apis?(/[a-z0-9.]+){0,2}/$`)
	variable, asked := regexp.MustCompile(`\{[^}]*\}`), 0
	for _, service := range whole.RegisteredWebServices() {
		for _, route := range service.Routes() {
			if discovery.MatchString(route.Path) {
				continue
			}
			asked++
			req := httptest.NewRequest(route.Method, variable.ReplaceAllString(route.Path, "x"), nil)
			info, err := requestInfo.NewRequestInfo(req)
			if err != nil {
				t.Fatal(err)
			}
			part, err := lazy.of(request.WithRequestInfo(t.Context(), info))
			if err != nil {
				t.Fatal(err)
			}
			if lazy.whole.Load() != nil {
				t.Fatalf("%s %s: made all endpoints", route.Method, route.Path)
			}
			if !has(part, route) {
				t.Errorf("%s %s: is not among those of %v", route.Method, route.Path, info.Resource)
			}
		}
	}
	if asked < 200 {
		t.Errorf("only %d endpoints", asked)
	}
	for _, path := range []string{"/api", "/apis", "/api/v1", "/apis/events.k8s.io", "/apis/none/v1/things", "/api/v1/namespaces/x/nothing"} {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		info, err := requestInfo.NewRequestInfo(req)
		if err != nil {
			t.Fatal(err)
		}
		r := open()
		got, err := r.of(request.WithRequestInfo(t.Context(), info))
		if err != nil || got == nil || got != r.whole.Load() {
			t.Errorf("%s: %v, not all endpoints", path, err)
		}
		if again, err := r.of(t.Context()); err != nil || again != got {
			t.Errorf("%s: made all endpoints twice: %v", path, err)
		}
	}
}

func has(c *restful.Container, want restful.Route) bool {
	return slices.ContainsFunc(c.RegisteredWebServices(), func(service *restful.WebService) bool {
		return slices.ContainsFunc(service.Routes(), func(r restful.Route) bool {
			return r.Method == want.Method && r.Path == want.Path && r.Operation == want.Operation
		})
	})
}
