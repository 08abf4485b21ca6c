package api

import "net/http"

// kubeletPaths are the paths of a kubelet that monitoring tools ask for. nodes/proxy serves the same mux.
func (s *Server) kubeletPaths(mux *http.ServeMux) {}
