package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// healthCheck is one thing that has to be well.
type healthCheck struct {
	name  string
	check func() error
}

// health is what is looked at: podd lives when it answers; it is ready when pods can be run. /healthz is the kubelet's.
func (s *Server) health(path string) []healthCheck {
	fine := func() error { return nil }
	switch path {
	case "/livez":
		return []healthCheck{{"ping", fine}}
	case "/readyz":
		return []healthCheck{{"ping", fine}, {"runtime", s.Runtime.Healthy}}
	case "/healthz":
		return []healthCheck{{"ping", fine}, {"log", fine}, {"syncloop", fine}}
	}
	return nil
}

// healthPaths are the checks of health, and below them each check by its name.
func (s *Server) healthPaths(mux *http.ServeMux) {
	for _, path := range []string{"/livez", "/readyz", "/healthz"} {
		mux.HandleFunc("GET "+path, s.serveHealth)
		for _, c := range s.health(path) {
			mux.HandleFunc("GET "+path+"/"+c.name, func(w http.ResponseWriter, _ *http.Request) {
				if err := c.check(); err != nil {
					http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
					return
				}
				plainText(w, "ok")
			})
		}
	}
}

func plainText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(text))
}

// serveHealth answers as upstream: "ok", with ?verbose or after a failure a line for each check; ?exclude leaves one out.
// What is wrong is told to those who have said who they are.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	query := r.URL.Query()
	unknown := slices.Clone(query["exclude"])
	var lines strings.Builder
	failed := false
	for _, c := range s.health(r.URL.Path) {
		if slices.Contains(query["exclude"], c.name) {
			unknown = slices.DeleteFunc(unknown, func(x string) bool { return x == c.name })
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.name)
			continue
		}
		err := c.check()
		switch {
		case err == nil:
			fmt.Fprintf(&lines, "[+]%s ok\n", c.name)
		case known(r):
			failed = true
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.name, err)
		default:
			failed = true
			fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", c.name)
		}
	}
	if len(unknown) > 0 {
		fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %q\n", unknown)
	}
	_, verbose := query["verbose"]
	switch {
	case failed:
		http.Error(w, lines.String()+name+" check failed", http.StatusInternalServerError)
	case verbose:
		plainText(w, lines.String()+name+" check passed\n")
	default:
		plainText(w, "ok")
	}
}

// known tells whether whoever asks has proved who he is.
func known(r *http.Request) bool {
	who, ok := request.UserFrom(r.Context())
	return ok && slices.Contains(who.GetGroups(), userinfo.AllAuthenticated)
}

// requester is the name of whoever asks.
func requester(r *http.Request) string {
	if who, ok := request.UserFrom(r.Context()); ok {
		return who.GetName()
	}
	return ""
}
