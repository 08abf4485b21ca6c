package api

import (
	"encoding/json"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/api/images"
)

func (s *Server) listImages(w http.ResponseWriter, r *http.Request) {
	found, err := s.Runtime.Images(r.Context())
	if err != nil {
		respondError(w, r, statusOf(err))
		return
	}
	if found == nil {
		found = []ImageInfo{}
	}
	respondJSON(w, http.StatusOK, images.List{Images: found})
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) {
	ref, ok := refOf(w, r)
	if !ok {
		return
	}
	if err := s.Runtime.RemoveImage(r.Context(), ref); err != nil {
		respondError(w, r, statusOf(err))
		return
	}
	s.imagesOld.Store(true)
	w.WriteHeader(http.StatusNoContent)
}

// refOf is the reference asked for.
func refOf(w http.ResponseWriter, r *http.Request) (string, bool) {
	ref := r.URL.Query().Get("ref")
	if ref == "" {
		respondError(w, r, apierrors.NewBadRequest("which image? the parameter ref is missing"))
	}
	return ref, ref != ""
}

func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) {
	ref, ok := refOf(w, r)
	if !ok {
		return
	}
	lines := newLines(w)
	image, err := s.Runtime.PullImage(r.Context(), ref, lines.write)
	s.imagesOld.Store(true)
	last := PullProgress{Ref: ref, Status: images.Done, Done: true}
	if err != nil {
		last.Status, last.Error = "failed", err.Error()
	} else {
		last.Image = &image
	}
	lines.write(last)
}

func (s *Server) loadImages(w http.ResponseWriter, r *http.Request) {
	lines := newLines(w)
	// The archive is read while nothing was answered yet; the runtime reports no progress of it.
	loaded, err := s.Runtime.LoadImages(r.Context(), r.Body)
	s.imagesOld.Store(true)
	last := PullProgress{Status: images.Done, Done: true, Images: loaded}
	if err != nil {
		last.Status, last.Error = "failed", err.Error()
	}
	lines.write(last)
}

// lines writes JSON values, each on its line and at once.
type lines struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	encoder *json.Encoder
}

func newLines(w http.ResponseWriter) *lines {
	w.Header().Set("Content-Type", "application/json")
	return &lines{w: w, encoder: json.NewEncoder(w)}
}

func (l *lines) write(p PullProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.encoder.Encode(p)
	_ = http.NewResponseController(l.w).Flush()
}
