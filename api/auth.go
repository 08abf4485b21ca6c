package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	openid "k8s.io/kubernetes/pkg/serviceaccount"

	"podd/api/credentials"
	"podd/api/history"
	"podd/api/images"
)

// readersGroup may get, list and watch what is no secret. Administrators are in upstream's system:masters.
const readersGroup = "podd:readers"

// users are those of the TLS port.
var users = map[string]*userinfo.DefaultInfo{
	credentials.Admin:  {Name: "podd-admin", Groups: []string{userinfo.SystemPrivilegedGroup, userinfo.AllAuthenticated}},
	credentials.Reader: {Name: "podd-reader", Groups: []string{readersGroup, userinfo.AllAuthenticated}},
}

var anonymous = &userinfo.DefaultInfo{Name: userinfo.Anonymous, Groups: []string{userinfo.AllUnauthenticated}}

var root = &userinfo.DefaultInfo{Name: "root", UID: "0",
	Groups: []string{userinfo.SystemPrivilegedGroup, userinfo.AllAuthenticated}}

type identityKey struct{}

// as gives every request an identity that needs no proof: the caller has it.
func as(who userinfo.Info, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, who)))
	})
}

// withPeer asks the kernel who is at the other end of the socket. Its mode has already decided that it may speak.
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
	return context.WithValue(ctx, identityKey{}, who)
}

// errCredentials is what is wrong with a request that brings some.
var errCredentials = errors.New("unknown credentials")

// identity is who asks, and for how long that holds; without an end for ever.
type identity struct {
	who  userinfo.Info
	ends time.Time
}

// identify finds out who asks: the peer of the socket, the holder of a client certificate, of a token, or nobody. What
// the TLS handshake let through has been verified there.
func (s *Server) identify(r *http.Request) (identity, error) {
	if who, ok := r.Context().Value(identityKey{}).(userinfo.Info); ok {
		return identity{who: who}, nil
	}
	if r.TLS == nil || s.pki == nil {
		return identity{}, errCredentials
	}
	if len(r.TLS.VerifiedChains) > 0 {
		leaf := r.TLS.VerifiedChains[0][0]
		if time.Now().After(leaf.NotAfter) { // since the handshake
			return identity{}, errCredentials
		}
		return identity{ends: leaf.NotAfter, who: &userinfo.DefaultInfo{Name: leaf.Subject.CommonName,
			Groups: append(slices.Clone(leaf.Subject.Organization), userinfo.AllAuthenticated)}}, nil
	}
	if r.Header.Get("Authorization") == "" {
		return identity{who: anonymous}, nil
	}
	answer, err := s.bearer(r)
	if err != nil {
		return identity{}, err
	}
	return identity{who: answer.User, ends: answer.ends}, nil
}

// withUser lets nobody in without an identity, except to the paths that anybody may ask. No request goes on for longer than
// the credentials hold that it came with, and none of a service account when its token is void or its access taken back.
func (s *Server) withUser(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is, err := s.identify(r)
		if err != nil || is.who == anonymous && !public(r) {
			w.Header().Set("Connection", "close") // strangers do not keep connections
			respondError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		if is.who == anonymous {
			w.Header().Set("Connection", "close")
		} else if conn := connOf(r.Context()); conn != nil && !conn.welcome(seatOf(is.who)) {
			w.Header().Set("Connection", "close")
			respondError(w, r, apierrors.NewTooManyRequests("podd has too many connections, try again later", retryAfter))
			return
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				respondError(w, r, apierrors.NewForbidden(schema.GroupResource{Resource: "users"}, r.Header.Get("Impersonate-User"),
					errors.New("podd does not impersonate: use the credentials of that user")))
				return
			}
		}
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		r.Header.Del("Authorization")
		ctx, over := s.keep(request.WithUser(r.Context(), is.who), r, is.who, strings.TrimSpace(token))
		defer over()
		if !is.ends.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, is.ends)
			defer cancel()
		}
		handler.ServeHTTP(w, r.WithContext(ctx))
	})
}

// seatOf is the place that a known connection of this user takes.
func seatOf(who userinfo.Info) seat {
	s := seat{limit: maxReaders}
	if slices.Contains(who.GetGroups(), userinfo.SystemPrivilegedGroup) {
		s.limit = maxKnown
	}
	if slices.Contains(who.GetGroups(), serviceaccount.AllServiceAccountsGroup) {
		s.of = who.GetName() + " " + strings.Join(who.GetExtra()[serviceaccount.PodUIDKey], " ")
	}
	return s
}

// public tells whether anybody may ask this.
func public(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return r.URL.Path == "/livez" || r.URL.Path == "/readyz" || r.URL.Path == "/version"
}

// withAuthorization answers 403 to what the user may not do.
func (s *Server) withAuthorization(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attributes, err := filters.GetAuthorizerAttributes(r.Context())
		if err != nil {
			respondError(w, r, apierrors.NewInternalError(err))
			return
		}
		decision, reason, err := s.authorizer.Authorize(r.Context(), attributes)
		if decision != authorizer.DecisionAllow {
			if err != nil {
				reason = err.Error()
			}
			responsewriters.Forbidden(attributes, w, r, reason, legacyscheme.Codecs)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// roles is the authorizer: administrators may do everything, readers what the lists below say, service accounts what access.go
// says; all who are known may ask about themselves.
type roles struct {
	served map[schema.GroupVersion]map[string]rest.Storage // complete before the first request
	access access
}

var (
	_ authorizer.Authorizer   = (*roles)(nil)
	_ authorizer.RuleResolver = (*roles)(nil)
)

var (
	readVerbs = []string{"get", "list", "watch"}
	// readPaths are below no resource; a path ending in "*" is a beginning.
	readPaths = []string{
		"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/",
		"/livez", "/livez/*", "/readyz", "/readyz/*", "/healthz", "/healthz/*",
		"/metrics", "/metrics/*", "/stats/*", "/pods", "/pods/", "/runningpods", "/runningpods/", "/configz", images.Path, history.Path,
		openid.OpenIDConfigPath, openid.JWKSPath,
	}
	// readSubresources change nothing and lead nowhere else: exec, attach, portforward and proxy are not among them, which
	// clients of WebSocket would ask for with GET.
	readSubresources = []string{"", "status", "log", "scale", "ephemeralcontainers", "resize"}
	selfReviews      = map[string][]string{
		"authentication.k8s.io": {"selfsubjectreviews"},
		"authorization.k8s.io":  {"selfsubjectaccessreviews", "selfsubjectrulesreviews"},
	}
)

// readable tells whether readers may read it: everything but secrets, as upstream's role "view".
func readable(group, resource, subresource string) bool {
	return (group != "" || resource != "secrets") && slices.Contains(readSubresources, subresource)
}

// Authorize decides; there is no opinion, since no other authorizer is asked.
func (r *roles) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	who := a.GetUser()
	if who == nil {
		return authorizer.DecisionDeny, "", nil
	}
	groups := who.GetGroups()
	switch {
	case r.everything(who), r.accountMay(a):
		return authorizer.DecisionAllow, "", nil
	case !a.IsResourceRequest() && slices.Contains(groups, userinfo.AllUnauthenticated):
		if a.GetPath() == "/livez" || a.GetPath() == "/readyz" || a.GetPath() == "/version" {
			return authorizer.DecisionAllow, "", nil
		}
	case a.IsResourceRequest() && a.GetVerb() == "create" && slices.Contains(groups, userinfo.AllAuthenticated) &&
		a.GetSubresource() == "" && slices.Contains(selfReviews[a.GetAPIGroup()], a.GetResource()):
		return authorizer.DecisionAllow, "", nil
	case !slices.Contains(groups, readersGroup):
	case a.IsResourceRequest():
		if slices.Contains(readVerbs, a.GetVerb()) && readable(a.GetAPIGroup(), a.GetResource(), a.GetSubresource()) {
			return authorizer.DecisionAllow, "", nil
		}
	case a.GetVerb() == "get" || a.GetVerb() == "head":
		if slices.ContainsFunc(readPaths, func(pattern string) bool { return fits(pattern, a.GetPath()) }) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionDeny, "", nil
}

func fits(pattern, path string) bool {
	if beginning, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, beginning)
	}
	return pattern == path
}

// RulesFor lists what Authorize allows, for self subject rules reviews. It is complete.
func (r *roles) RulesFor(_ context.Context, who userinfo.Info, namespace string) (
	resources []authorizer.ResourceRuleInfo, paths []authorizer.NonResourceRuleInfo, incomplete bool, err error) {
	if r.everything(who) {
		all := []string{"*"}
		return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: all, APIGroups: all, Resources: all}},
			[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: all, NonResourceURLs: all}}, false, nil
	}
	for _, group := range []string{"authentication.k8s.io", "authorization.k8s.io"} {
		resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: []string{"create"}, APIGroups: []string{group},
			Resources: selfReviews[group]})
	}
	if !slices.Contains(who.GetGroups(), readersGroup) {
		more, paths := r.accountRules(who, namespace)
		return append(resources, more...), paths, false, nil
	}
	for _, group := range r.groups() {
		resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: readVerbs, APIGroups: []string{group},
			Resources: r.readableIn(group)})
	}
	paths = []authorizer.NonResourceRuleInfo{
		&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get", "head"}, NonResourceURLs: readPaths}}
	return resources, paths, false, nil
}

// groups is the API groups that have something to read.
func (r *roles) groups() []string {
	var groups []string
	for version := range r.served {
		if !slices.Contains(groups, version.Group) && len(r.readableIn(version.Group)) > 0 {
			groups = append(groups, version.Group)
		}
	}
	slices.Sort(groups)
	return groups
}

func (r *roles) readableIn(group string) []string {
	var names []string
	for version, storage := range r.served {
		if version.Group != group {
			continue
		}
		for name, s := range storage {
			resource, subresource, _ := strings.Cut(name, "/")
			_, gets := s.(rest.Getter)
			_, lists := s.(rest.Lister)
			if (gets || lists || subresource == "log") && readable(group, resource, subresource) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}
