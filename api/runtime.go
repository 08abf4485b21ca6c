package api

import (
	"context"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
)

// Runtime is what the API asks of whoever runs the pods.
type Runtime interface {
	// Logs writes the log of one container to out until it ends, or, with opts.Follow, until ctx is done.
	Logs(ctx context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error
	// Exec runs cmd in a container of the pod. A command that ends with another code than 0 is a CodeExitError of
	// k8s.io/utils/exec. A nil stream was not asked for.
	Exec(ctx context.Context, pod *v1.Pod, container string, cmd []string, in io.Reader, out, err io.WriteCloser,
		tty bool, resize <-chan remotecommand.TerminalSize) error

	Images(ctx context.Context) ([]ImageInfo, error)
	// PullImage pulls ref; progress is called from one goroutine at a time, at most a few times per second.
	PullImage(ctx context.Context, ref string, progress func(PullProgress)) (ImageInfo, error)
	// LoadImages imports every image of an OCI or docker archive.
	LoadImages(ctx context.Context, r io.Reader) ([]ImageInfo, error)
	// RemoveImage removes the reference; one that is not there is an error for which errdefs.IsNotFound is true.
	RemoveImage(ctx context.Context, ref string) error

	// Healthy is nil while pods can be run, and else says why not.
	Healthy() error
}

// ImageInfo is one image on the host.
type ImageInfo struct {
	ID      string    `json:"id"`                // digest of the image's configuration
	Names   []string  `json:"names,omitempty"`   // references with a tag
	Digests []string  `json:"digests,omitempty"` // references with a digest
	Size    int64     `json:"size"`              // bytes of the content in the content store
	Created time.Time `json:"created,omitzero"`
}

// PullProgress is how far a pull has come.
type PullProgress struct {
	Ref    string          `json:"ref"`
	Status string          `json:"status"` // resolving, pulling, unpacking, done
	Layers []LayerProgress `json:"layers,omitempty"`
	Done   int64           `json:"done"`  // bytes fetched, of all layers
	Total  int64           `json:"total"` // bytes to fetch, of all layers; 0 while not known
}

// LayerProgress is one blob of a pull.
type LayerProgress struct {
	Digest string `json:"digest"`
	Status string `json:"status"` // waiting, downloading, exists, done
	Done   int64  `json:"done"`   // bytes
	Total  int64  `json:"total"`  // bytes
}

// PullMessage is one line of the answer to POST /podd/v1/images/pull: progress, or at the end a result or an error.
type PullMessage struct {
	Progress *PullProgress `json:"progress,omitempty"`
	Image    *ImageInfo    `json:"image,omitempty"`
	Error    string        `json:"error,omitempty"`
}
