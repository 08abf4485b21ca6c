// Package registry is a small OCI registry for tests, on loopback: it gives away what it was handed, counts who asks, and
// misbehaves on demand.
package registry

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"podd/test/ociimage"
)

// Request is one that came.
type Request struct {
	Method, Path, Range, Authorization string
}

// Fault is how requests go wrong.
type Fault struct {
	Path  string // part of the path of the requests that it is for, for example "/blobs/"
	Skip  int    // so many requests go well before
	Times int    // so many go wrong; 0: all

	Status     int           // answer with this status
	Redirect   string        // answer with a redirect to this URL, followed by the path of the request
	After      int           // bytes of the body that come, for the next ones
	Reset      bool          // then the connection is reset
	Stall      chan struct{} // then nothing comes until this is closed or the client goes
	WrongBytes bool          // the body is of the right length and wrong
}

// Registry is an http.Handler; make it with New.
type Registry struct {
	mu        sync.Mutex
	token     string
	manifests map[string]blob // by "repository@reference"
	blobs     map[string][]byte
	requests  []Request
	faults    []*Fault
}

type blob struct {
	mediaType string
	content   []byte
}

// New makes an empty registry.
func New() *Registry {
	return &Registry{manifests: map[string]blob{}, blobs: map[string][]byte{}}
}

// Require makes the registry answer only to this user and secret.
func (r *Registry) Require(user, secret string) {
	req, _ := http.NewRequest(http.MethodGet, "http://x", nil)
	req.SetBasicAuth(user, secret)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token = req.Header.Get("Authorization")
}

// Push adds an image, under the repository and tag of its name, whatever the host in it.
func (r *Registry) Push(images ...ociimage.Built) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range images {
		repo, tag, err := split(b.Name)
		if err != nil {
			return err
		}
		for d, content := range b.Blobs {
			r.blobs[d.String()] = content
		}
		m := blob{b.Manifest.MediaType, b.Blobs[b.Manifest.Digest]}
		r.manifests[repo+"@"+tag] = m
		r.manifests[repo+"@"+b.Manifest.Digest.String()] = m
	}
	return nil
}

// PushIndex adds an index over images that differ in their platform, under the name of the first.
func (r *Registry) PushIndex(images ...ociimage.Built) error {
	if err := r.Push(images...); err != nil {
		return err
	}
	repo, tag, err := split(images[0].Name)
	if err != nil {
		return err
	}
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, b := range images {
		idx.Manifests = append(idx.Manifests, b.Manifest)
	}
	content, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[repo+"@"+tag] = blob{idx.MediaType, content}
	r.manifests[repo+"@"+digest.FromBytes(content).String()] = r.manifests[repo+"@"+tag]
	return nil
}

func split(name string) (repo, tag string, err error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", "", fmt.Errorf("push %q: %w", name, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return "", "", fmt.Errorf("push %q: no tag", name)
	}
	return reference.Path(named), tagged.Tag(), nil
}

// Fail sets how requests go wrong; none: all go well.
func (r *Registry) Fail(faults ...*Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = faults
}

// Requests gives those that came since the last call.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.requests
	r.requests = nil
	return all
}

// fault notes the request and picks what goes wrong with it.
func (r *Registry) fault(req *http.Request) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, Request{req.Method, req.URL.Path, req.Header.Get("Range"), req.Header.Get("Authorization")})
	for _, f := range r.faults {
		if !strings.Contains(req.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			return nil
		}
		if f.Times < 0 {
			return nil
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1
			}
		}
		return f
	}
	return nil
}

// ServeHTTP answers as the distribution specification says.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	f := r.fault(req)
	switch {
	case f != nil && f.Status != 0:
		http.Error(w, `{"errors":[{"code":"UNKNOWN"}]}`, f.Status)
		return
	case f != nil && f.Redirect != "":
		http.Redirect(w, req, f.Redirect+req.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	r.mu.Lock()
	token := r.token
	r.mu.Unlock()
	if token != "" && req.Header.Get("Authorization") != token {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return
	}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok || req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.NotFound(w, req)
		return
	}
	if rest == "" {
		return
	}
	if repo, ref, ok := strings.Cut(rest, "/manifests/"); ok {
		r.mu.Lock()
		m, ok := r.manifests[repo+"@"+ref]
		r.mu.Unlock()
		if !ok {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.content).String())
		give(w, req, f, m.mediaType, m.content)
		return
	}
	if _, d, ok := strings.Cut(rest, "/blobs/"); ok {
		r.mu.Lock()
		content, ok := r.blobs[d]
		r.mu.Unlock()
		if !ok {
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		give(w, req, f, "application/octet-stream", content)
		return
	}
	http.NotFound(w, req)
}

// give sends a body, or as much of it as the fault lets through.
func give(w http.ResponseWriter, req *http.Request, f *Fault, mediaType string, content []byte) {
	status := http.StatusOK
	if from, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes="); ok {
		start, _, _ := strings.Cut(from, "-")
		if n, err := strconv.Atoi(start); err == nil && n < len(content) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, len(content)-1, len(content)))
			content, status = content[n:], http.StatusPartialContent
		}
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(status)
	if req.Method == http.MethodHead {
		return
	}
	if f == nil {
		_, _ = w.Write(content)
		return
	}
	if f.WrongBytes {
		wrong := make([]byte, len(content))
		_, _ = w.Write(wrong)
		return
	}
	_, _ = w.Write(content[:min(f.After, len(content))])
	_ = http.NewResponseController(w).Flush()
	if f.Stall != nil {
		select {
		case <-f.Stall:
		case <-req.Context().Done():
		}
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok && f.Reset {
		_ = tcp.SetLinger(0) // the close sends RST
	}
	_ = conn.Close()
}
