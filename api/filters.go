package api

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"podd/api/images"
)

const (
	requestTimeout = time.Minute // of everything that is not a watch or a stream
	maxReads       = 400         // in flight, as upstream
	maxWrites      = 200
	kubeVersion    = "1.36.3" // what podd's API is level with
)

func allow(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

var requestInfo = &request.RequestInfoFactory{
	APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
}

var longVerbs = serverfilters.BasicLongRunningRequestCheck(
	sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))

func longRunning(r *http.Request, info *request.RequestInfo) bool {
	return longVerbs(r, info) || strings.HasPrefix(r.URL.Path, images.Path+"/")
}

// chain puts podd's filters before the handler; the last line is the first to see a request.
func (s *Server) chain(handler http.Handler) http.Handler {
	handler = serverfilters.WithMaxInFlightLimit(handler, maxReads, maxWrites, longRunning)
	handler = filters.WithWarningRecorder(handler)
	handler = serverfilters.WithTimeoutForNonLongRunningRequests(handler, longRunning)
	handler = filters.WithRequestDeadline(handler, nil, nil, longRunning, legacyscheme.Codecs, requestTimeout)
	handler = withBodyDeadline(handler)
	handler = filters.WithCacheControl(handler)
	handler = withUser(handler)
	handler = filters.WithRequestInfo(handler, requestInfo)
	handler = filters.WithRequestReceivedTimestamp(handler)
	handler = filters.WithAuditInit(handler) // patch wants an audit context
	return withRecovery(handler, s.Log)
}

// withRecovery answers 500 when a handler panics.
func withRecovery(handler http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause != http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
				log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "cause", cause, "stack", string(debug.Stack()))
			}
			http.Error(w, "this request made podd panic: see its log", http.StatusInternalServerError)
		}()
		handler.ServeHTTP(w, r)
	})
}

// withBodyDeadline gives up on clients that send their request too slowly.
func withBodyDeadline(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if info, ok := request.RequestInfoFrom(r.Context()); ok && !longRunning(r, info) {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout))
		}
		handler.ServeHTTP(w, r)
	})
}

type peerKey struct{}

// withPeer asks the kernel who is at the other end. The socket's mode has already decided that it may speak.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	_ = raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if peer == nil {
		return ctx
	}
	name := strconv.Itoa(int(peer.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	who := &userinfo.DefaultInfo{Name: name, UID: strconv.Itoa(int(peer.Uid)),
		Groups: []string{userinfo.SystemPrivilegedGroup, userinfo.AllAuthenticated}}
	return context.WithValue(ctx, peerKey{}, who)
}

func withUser(handler http.Handler) http.Handler {
	root := &userinfo.DefaultInfo{Name: "root", UID: "0",
		Groups: []string{userinfo.SystemPrivilegedGroup, userinfo.AllAuthenticated}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := r.Context().Value(peerKey{}).(userinfo.Info)
		if !ok {
			who = root
		}
		handler.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), who)))
	})
}

// mux is all paths.
func (s *Server) mux() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/api", "/api/", "/apis", "/apis/"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { s.container.Dispatch(w, r) })
	}
	for _, path := range []string{"/livez", "/readyz", "/healthz"} {
		mux.HandleFunc("GET "+path, s.serveHealth)
	}
	mux.HandleFunc("GET /version", s.serveVersion)
	mux.HandleFunc("GET /openapi/v2", serveOpenAPIv2)
	mux.HandleFunc("GET /openapi/v3", serveOpenAPIv3Index)
	mux.HandleFunc("GET /openapi/v3/{group...}", serveOpenAPIv3)
	mux.HandleFunc("GET "+images.Path, s.listImages)
	mux.HandleFunc("DELETE "+images.Path, s.removeImage)
	mux.HandleFunc("POST "+images.PullPath, s.pullImage)
	mux.HandleFunc("POST "+images.LoadPath, s.loadImages)
	mux.HandleFunc("GET /debug/podd/goroutines", serveGoroutines)
	s.kubeletPaths(mux)
	s.credentialPaths(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		respondError(w, r, apierrors.NewGenericServerResponse(http.StatusNotFound, r.Method, schema.GroupResource{}, "",
			fmt.Sprintf("there is nothing at %s", r.URL.Path), 0, true))
	})
	return mux
}

// serveGoroutines tells what podd is busy with: the tests' leak oracle counts it. Whoever may open the socket may ask.
func serveGoroutines(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = pprof.Lookup("goroutine").WriteTo(w, 2)
}

// serveHealth: podd lives when it answers; it is ready when pods can be run.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" {
		if err := s.Runtime.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = w.Write([]byte("ok"))
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
