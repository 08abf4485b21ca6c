package images

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Progress is how far a pull has come. Each is the whole state.
type Progress struct {
	Ref    string // full name
	Status string // resolving, downloading, unpacking, done
	Layers []Layer
}

// Layer is how far one layer of a pull has come.
type Layer struct {
	Digest string
	Status string // waiting, downloading, unpacking, done
	Offset int64  // bytes
	Total  int64  // bytes
}

// track follows one pull: the bytes that come, for its watchers and for the stall limit.
type track struct {
	ref string

	mu     sync.Mutex
	status string
	order  []digest.Digest
	layers map[digest.Digest]*Layer
	active int       // transfers under way
	last   time.Time // when one of them began or brought something
}

func newTrack(ref string) *track {
	return &track{ref: ref, status: "resolving", layers: map[digest.Digest]*Layer{}}
}

func (t *track) now() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Ref: t.ref, Status: t.status, Layers: make([]Layer, len(t.order))}
	fetched := len(t.order) > 0
	for i, d := range t.order {
		p.Layers[i] = *t.layers[d]
		fetched = fetched && p.Layers[i].Status == "unpacking"
	}
	if fetched {
		p.Status = "unpacking"
	}
	return p
}

// found notes the layers of a manifest, and that a blob is on the host.
func (t *track) found(desc ocispec.Descriptor, children []ocispec.Descriptor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.layers[desc.Digest]; l != nil {
		l.Status, l.Offset = "unpacking", l.Total
	}
	if !images.IsManifestType(desc.MediaType) {
		return
	}
	t.status = "downloading"
	for _, c := range children {
		if images.IsLayerType(c.MediaType) && t.layers[c.Digest] == nil {
			t.layers[c.Digest] = &Layer{Digest: c.Digest.String(), Status: "waiting", Total: c.Size}
			t.order = append(t.order, c.Digest)
		}
	}
}

// finish says that all is on the host. Layers that were unpacked before were never fetched.
func (t *track) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status = "done"
	for _, l := range t.layers {
		l.Status, l.Offset = "done", l.Total
	}
}

// came notes that a blob is at offset now.
func (t *track) came(d digest.Digest, offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
	if l := t.layers[d]; l != nil && l.Status != "unpacking" {
		l.Status, l.Offset = "downloading", offset
	}
}

func (t *track) transfer(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active += n
	t.last = time.Now()
}

// watchStall cancels when transfers are under way and bring nothing. It returns when over is closed.
func (t *track) watchStall(over <-chan struct{}, limit time.Duration, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(limit/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case now := <-tick.C:
			t.mu.Lock()
			hung := t.active > 0 && now.Sub(t.last) > limit
			t.mu.Unlock()
			if hung {
				cancel(stalled(limit))
				<-over
				return
			}
		}
	}
}

// resolver counts what its fetchers bring.
type resolver struct {
	remotes.Resolver
	track *track
}

func (r *resolver) Resolve(ctx context.Context, ref string) (string, ocispec.Descriptor, error) {
	r.track.transfer(1)
	defer r.track.transfer(-1)
	return r.Resolver.Resolve(ctx, ref)
}

func (r *resolver) Fetcher(ctx context.Context, ref string) (remotes.Fetcher, error) {
	f, err := r.Resolver.Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	return remotes.FetcherFunc(func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		r.track.transfer(1)
		body, err := f.Fetch(ctx, desc)
		if err != nil {
			r.track.transfer(-1)
			return nil, err
		}
		return &counted{ReadCloser: body, digest: desc.Digest, track: r.track}, nil
	}), nil
}

// counted is the body of one blob.
type counted struct {
	io.ReadCloser
	digest digest.Digest
	track  *track
	offset int64
	once   sync.Once
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.offset += int64(n)
		c.track.came(c.digest, c.offset)
	}
	return n, err
}

// Seek lets a download go on where an earlier one stopped.
func (c *counted) Seek(offset int64, whence int) (int64, error) {
	s, ok := c.ReadCloser.(io.Seeker)
	if !ok {
		return 0, errNoSeek
	}
	at, err := s.Seek(offset, whence)
	if err == nil {
		c.offset = at
	}
	return at, err
}

func (c *counted) Close() error {
	c.once.Do(func() { c.track.transfer(-1) })
	return c.ReadCloser.Close()
}
