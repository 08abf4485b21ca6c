package api

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/credentials"
)

// credentialPaths hand out what a client of the TLS port needs. Only administrators are authorized for them.
func (s *Server) credentialPaths(mux *http.ServeMux) {
	mux.HandleFunc("GET "+credentials.Path, s.serveCredentials)
}

// serveCredentials makes a certificate for each that asks: what is not stored needs no keeping.
func (s *Server) serveCredentials(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("user")
	if name == "" {
		name = credentials.Admin
	}
	who, ok := users[name]
	server := s.serverURL()
	switch {
	case !ok:
		respondError(w, r, apierrors.NewBadRequest(fmt.Sprintf("there is no user %q: it is %s or %s", name,
			credentials.Admin, credentials.Reader)))
		return
	case server == "":
		respondError(w, r, apierrors.NewBadRequest("podd does not serve TLS: it was started with --tls-listen \"\""))
		return
	}
	out := credentials.Credentials{User: name, Server: server, CA: s.pki.Authority(), Token: s.pki.Token(name), NodeName: s.NodeName}
	var err error
	if out.ClientCertificate, out.ClientKey, out.Expires, err = s.pki.Client(who.Name, who.Groups[:1]); err != nil {
		respondError(w, r, apierrors.NewInternalError(err))
		return
	}
	s.Log.Info("credentials handed out", "for", who.Name, "to", requester(r))
	w.Header().Set("Cache-Control", "no-store")
	respondJSON(w, http.StatusOK, out)
}
