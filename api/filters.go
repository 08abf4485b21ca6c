package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"podd/api/history"
	"podd/api/images"
)

const kubeVersion = "1.36.3" // what podd's API is level with

var requestInfo = &request.RequestInfoFactory{
	APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
}

var longVerbs = serverfilters.BasicLongRunningRequestCheck(
	sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))

func longRunning(r *http.Request, info *request.RequestInfo) bool {
	return longVerbs(r, info) || strings.HasPrefix(r.URL.Path, images.Path+"/")
}

// chain puts podd's filters before the handler; the last line is the first to see a request. Who asks and whether he may
// is found out before a request takes any place. Handlers end by the deadline of their context: upstream's filter that answers
// in their place would let a request that the client takes back go on behind HTTP/2's bound of streams.
func (s *Server) chain(handler http.Handler) http.Handler {
	handler = s.withTakeover(handler)
	handler = newClients().withBounds(handler)
	handler = filters.WithWarningRecorder(handler)
	handler = filters.WithRequestDeadline(handler, nil, nil, longRunning, legacyscheme.Codecs, requestTimeout)
	handler = withWholePatches(handler)
	handler = s.withStalls(handler)
	handler = s.withDeadlines(handler)
	handler = s.withAuthorization(handler)
	handler = s.withUser(handler)
	handler = filters.WithCacheControl(handler)
	handler = filters.WithRequestInfo(handler, requestInfo)
	handler = filters.WithRequestReceivedTimestamp(handler)
	handler = filters.WithAuditInit(handler) // patch wants an audit context
	return withRecovery(handler, s.Log)
}

// withRecovery answers 500 when a handler panics. An answer that has begun is cut off instead, so that its reader sees that
// it is not whole. http.ErrAbortHandler goes on to net/http, which does that: it is also what a proxy says when the other
// side has broken off in the middle of an answer.
func withRecovery(handler http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answered{ResponseWriter: w}
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
				panic(cause)
			}
			log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
			if answer.begun {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "this request made podd panic: see its log", http.StatusInternalServerError)
		}()
		handler.ServeHTTP(responsewriter.WrapForHTTP1Or2(answer), r)
	})
}

// answered knows whether anything of the answer was written.
type answered struct {
	http.ResponseWriter
	begun bool
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answered) WriteHeader(code int) {
	a.begun = a.begun || code >= http.StatusOK // others come before the answer
	a.ResponseWriter.WriteHeader(code)
}

func (a *answered) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// mux is all paths.
func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/api", "/api/", "/apis", "/apis/"} {
		mux.Handle(path, s.routes)
	}
	s.logPaths(mux)
	s.healthPaths(mux)
	mux.HandleFunc("GET /version", s.serveVersion)
	mux.HandleFunc("GET /openapi/v2", serveOpenAPIv2)
	mux.HandleFunc("GET /openapi/v3", serveOpenAPIv3Index)
	mux.HandleFunc("GET /openapi/v3/{group...}", serveOpenAPIv3)
	mux.HandleFunc("GET "+images.Path, s.listImages)
	mux.HandleFunc("DELETE "+images.Path, s.removeImage)
	mux.HandleFunc("POST "+images.PullPath, s.pullImage)
	mux.HandleFunc("POST "+images.LoadPath, s.loadImages)
	mux.HandleFunc("GET "+history.Path, s.podHistory)
	mux.HandleFunc("GET /debug/podd/goroutines", serveGoroutines)
	mux.HandleFunc("POST /debug/podd/memory", serveMemory)
	mux.HandleFunc("GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions", serveNoDefinitions)
	s.kubeletPaths(mux)
	s.credentialPaths(mux)
	s.openIDPaths(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		respondError(w, r, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "",
			fmt.Sprintf("there is nothing at %s", r.URL.Path), 0, true))
	})
	return mux
}

// serveNoDefinitions says that there are no kinds but those of discovery. kubectl asks for it when it is given a kind that is not
// there, and can only say so when it has an answer.
func serveNoDefinitions(w http.ResponseWriter, _ *http.Request) {
	respondJSON(w, http.StatusOK, map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList", "metadata": map[string]any{}, "items": []any{},
	})
}

// serveGoroutines tells what podd is busy with: the tests' leak oracle counts it. Whoever may open the socket may ask.
func serveGoroutines(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = pprof.Lookup("goroutine").WriteTo(w, 2)
}

// serveMemory gives back to the kernel what podd has and does not use, and tells what it does use, in bytes. What is kept for
// reuse is dropped by the second collection after its last use.
func serveMemory(w http.ResponseWriter, _ *http.Request) {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	respondJSON(w, http.StatusOK, map[string]uint64{"heap": m.HeapAlloc, "objects": m.HeapObjects, "stacks": m.StackInuse})
}

// gitVersion is how clients see which Kubernetes this is.
func (s *Server) gitVersion() string {
	if s.Version == "" {
		return "v" + kubeVersion + "+podd"
	}
	return "v" + kubeVersion + "+podd." + strings.NewReplacer("+", "-", "/", "-", " ", "-").Replace(s.Version)
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	respondJSON(w, http.StatusOK, version.Info{Major: "1", Minor: "36", GitVersion: s.gitVersion(), GitTreeState: "clean",
		Platform: platform()})
}

func respondJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}

// respondError writes a metav1.Status, as everywhere in the API.
func respondError(w http.ResponseWriter, r *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: "v1"}, w, r)
}
