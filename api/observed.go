package api

import (
	"net/http"

	"k8s.io/component-base/metrics/legacyregistry"
)

func (s *Server) ownMetrics() http.Handler { return legacyregistry.Handler() }
