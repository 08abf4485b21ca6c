package api

import (
	"context"
	"io"
	"net"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"

	"podd/api/history"
	"podd/api/images"
	"podd/api/usage"
)

// Runtime is what the API asks of whoever runs the pods.
type Runtime interface {
	// Logs writes the log of one container to out until it ends, or, with opts.Follow, until ctx is done.
	Logs(ctx context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error
	// Exec runs cmd in a container of the pod. A command that ends with another code than 0 is a CodeExitError of
	// k8s.io/utils/exec. A nil stream was not asked for.
	Exec(ctx context.Context, pod *v1.Pod, container string, cmd []string, in io.Reader, out, err io.WriteCloser,
		tty bool, resize <-chan remotecommand.TerminalSize) error
	// Attach connects a client with the streams of a running container until that ends, ctx is done or the client ends in; by
	// its stdinOnce that closes the container's stdin. out and err must not block. A nil stream was not asked for.
	Attach(ctx context.Context, pod *v1.Pod, container string, in io.Reader, out, err io.Writer,
		resize <-chan remotecommand.TerminalSize) error

	// Dial connects to a TCP port of the pod's own localhost; of the host's when the pod has the host's network.
	Dial(ctx context.Context, pod *v1.Pod, port int) (net.Conn, error)
	// Addresses are those that the pod was given, primary first, whatever its status says. A pod with the host's network
	// has none of its own.
	Addresses(pod *v1.Pod) ([]string, error)

	Images(ctx context.Context) ([]ImageInfo, error)
	// PullImage pulls ref; progress is called from one goroutine at a time, at most a few times per second.
	PullImage(ctx context.Context, ref string, progress func(PullProgress)) (ImageInfo, error)
	// LoadImages imports every image of an OCI or docker archive.
	LoadImages(ctx context.Context, r io.Reader) ([]ImageInfo, error)
	// RemoveImage removes the reference; nil when it is not there.
	RemoveImage(ctx context.Context, ref string) error

	// History is what happened to the pods of a name, or to the one of a uid, oldest first; also to those that went a while ago.
	History(namespace, name, uid string) ([]history.Pod, error)

	// Usage is what the host and its pods use now, or did at most a second ago.
	Usage(ctx context.Context, want usage.Want) (*usage.Snapshot, error)
	// Probes are those of the pods there are, and what they have answered.
	Probes() []usage.Probe

	// Healthy is nil while pods can be run, and else says why not.
	Healthy() error
}

// ImageInfo is one image on the host.
type ImageInfo = images.Info

// PullProgress is how far a pull has come. The server sets Done, Error and Image of the last line itself.
type PullProgress = images.Progress
