package logs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

var errTodo = errors.New("not built yet")

// Writer asks the podd-logd of a socket. Every call makes a connection of its own.
type Writer struct{ socket string }

// Hello is what a podd-logd says of itself.
type Hello struct {
	Protocol int    `json:"protocol"`
	Build    string `json:"build"`
	PID      int    `json:"pid"`
}

// Dial names the socket that is asked; nothing is connected yet.
func Dial(socket string) *Writer { return &Writer{socket} }

// Hello asks who serves. An error means that nobody does.
func (w *Writer) Hello(ctx context.Context) (Hello, error) { return Hello{}, errTodo }

// Ensure makes the FIFOs of t and has them read.
func (w *Writer) Ensure(ctx context.Context, t Target) error { return errTodo }

// Drain returns when all that the container wrote is in its file: both FIFOs came to their end.
func (w *Writer) Drain(ctx context.Context, id string) error { return errTodo }

// Remove ends the writing for a container and removes its FIFOs.
func (w *Writer) Remove(ctx context.Context, id string) error { return errTodo }

// List names the containers that are written for.
func (w *Writer) List(ctx context.Context) ([]string, error) { return nil, errTodo }

// Shutdown has podd-logd write what it has read and exit.
func (w *Writer) Shutdown(ctx context.Context) error { return errTodo }

// ServeOptions are what podd-logd is started with.
type ServeOptions struct {
	State string // directory with a record per target
	Build string
	Log   *slog.Logger
}

// Serve is podd-logd.
func Serve(ctx context.Context, l net.Listener, o ServeOptions) error { return errTodo }

// Path names the log file of one container instance.
func Path(logDir, namespace, pod, uid, container string, attempt int) string { return "" }

// PodDir names the directory that holds the log files of a pod.
func PodDir(logDir, namespace, pod, uid string) string { return "" }

// EnsureLink makes <logDir>/containers/<pod>_<namespace>_<container>-<id>.log point to path.
func EnsureLink(logDir, namespace, pod, container, id, path string) error { return errTodo }

// RemoveLink takes that link away.
func RemoveLink(logDir, namespace, pod, container, id string) error { return errTodo }

// RemovePod removes the log files and links of a pod.
func RemovePod(logDir, namespace, pod, uid string) error { return errTodo }

// RemoveContainer removes the log files of one instance: the live one and the rotated ones.
func RemoveContainer(path string) error { return errTodo }

// ReadOptions are those of v1.PodLogOptions.
type ReadOptions struct {
	Follow     bool
	TailLines  *int64
	SinceTime  time.Time // zero: all
	LimitBytes *int64
	Timestamps bool
	Done       <-chan struct{} // closed when nothing more will be written
}

// Read writes the log at path to stdout and stderr.
func Read(ctx context.Context, path string, o ReadOptions, stdout, stderr io.Writer) error {
	return errTodo
}
