package api

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/history"
)

func (s *Server) podHistory(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name, uid := query.Get("pod"), query.Get("uid")
	if name == "" && uid == "" {
		respondError(w, r, apierrors.NewBadRequest("which pod? the parameters pod and uid are missing"))
		return
	}
	namespace := query.Get("namespace")
	if namespace == "" && uid == "" {
		namespace = "default"
	}
	pods, err := s.Runtime.History(namespace, name, uid)
	if err != nil {
		respondError(w, r, statusOf(err))
		return
	}
	if pods == nil {
		pods = []history.Pod{}
	}
	respondJSON(w, http.StatusOK, history.List{Pods: pods})
}
