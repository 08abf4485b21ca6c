package images

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestNormalize(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"busybox":                  "docker.io/library/busybox:latest",
		"busybox:1.36":             "docker.io/library/busybox:1.36",
		"me/app":                   "docker.io/me/app:latest",
		"localhost:5000/app":       "localhost:5000/app:latest",
		"quay.io/a/b:c@" + sha:     "quay.io/a/b@" + sha,
		"app@" + sha:               "docker.io/library/app@" + sha,
		"Busybox":                  "",
		"":                         "",
		"a b":                      "",
		"-x":                       "",
		"../../etc/passwd":         "",
		"app:" + "\x00":            "",
		strings.Repeat("a", 10000): "",
	} {
		got, err := Normalize(in)
		if got != want || (want == "") != errors.Is(err, ErrInvalidName) {
			t.Errorf("%.50q: %q, %v", in, got, err)
		}
	}
}

func TestWords(t *testing.T) {
	status := func(code int) error {
		return remoteerrors.ErrUnexpectedStatus{StatusCode: code, Status: fmt.Sprint(code, " ", http.StatusText(code))}
	}
	for want, err := range map[string]error{
		"no data for 1m0s": fmt.Errorf("copy: %w", stalled(time.Minute)),
		"unauthorized: the registry answers 403 Forbidden":              fmt.Errorf("resolve: %w", status(403)),
		"too many requests: the registry answers 429 Too Many Requests": status(429),
		"the registry answers 503 Service Unavailable":                  status(503),
		"not found":               fmt.Errorf("x: %w", errdefs.ErrNotFound),
		"connection refused":      fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		"no space left on device": errors.New("rpc error: write /x: no space left on device"),
	} {
		if got := words(err); got != want {
			t.Errorf("%v: %q, not %q", err, got, want)
		}
	}
	err := error(&PullError{Name: "docker.io/library/x:1", Cause: "not found", Err: errdefs.ErrNotFound})
	if !errors.Is(err, ErrPull) || !errors.Is(err, errdefs.ErrNotFound) || err.Error() != "pull docker.io/library/x:1: not found" {
		t.Errorf("%v", err)
	}
}

func TestTrack(t *testing.T) {
	tr := newTrack("x")
	a, b := digest.FromString("a"), digest.FromString("b")
	show := func() string {
		p := tr.now()
		s := p.Status
		for _, l := range p.Layers {
			s += fmt.Sprintf(" %s %d/%d", l.Status, l.Offset, l.Total)
		}
		return s
	}
	layer := func(d digest.Digest) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: 10}
	}
	steps := []struct {
		do   func()
		want string
	}{
		{func() {}, "resolving"},
		{func() {
			tr.found(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, []ocispec.Descriptor{layer(a), layer(b), layer(a)})
		}, "downloading waiting 0/10 waiting 0/10"},
		{func() { tr.came(a, 4) }, "downloading downloading 4/10 waiting 0/10"},
		{func() { tr.found(layer(a), nil) }, "downloading unpacking 10/10 waiting 0/10"},
		{func() { tr.found(layer(b), nil) }, "unpacking unpacking 10/10 unpacking 10/10"},
		{tr.finish, "done done 10/10 done 10/10"},
	}
	for _, s := range steps {
		s.do()
		if got := show(); got != s.want {
			t.Errorf("%q, not %q", got, s.want)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestCountedBodyCannotAlwaysSeek(t *testing.T) {
	c := &counted{ReadCloser: io.NopCloser(endless{}), track: newTrack("x")}
	if _, err := c.Seek(1, io.SeekStart); !errors.Is(err, errNoSeek) {
		t.Errorf("%v", err)
	}
}
