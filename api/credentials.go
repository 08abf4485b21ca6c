package api

import "net/http"

// credentialPaths hand out what a client of the TLS port needs.
func (s *Server) credentialPaths(mux *http.ServeMux) {}
