package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrNoStdin says that a container's stdin has been closed, or that it has ended.
var ErrNoStdin = errors.New("stdin is closed")

// OpenStdin opens the FIFO of a container's stdin for writing. Closing it does not end the container's input: the shim
// keeps an end of its own until CloseStdin. A Write waits while the container does not read, and ends when the file is
// closed.
func OpenStdin(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoStdin
	}
	return f, err
}

// CloseStdin ends the input of a container, once everybody has closed what OpenStdin gave. nil if it has ended or there is
// none.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(c.Context(ctx), askLimit)
	defer cancel()
	_, err := c.cc.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, Stdin: true})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("close stdin: %w", err)
	}
	return nil
}

// Resize sets the size of a container's terminal.
func (c *Client) Resize(ctx context.Context, id string, size Size) error {
	ctx, cancel := context.WithTimeout(c.Context(ctx), askLimit)
	defer cancel()
	_, err := c.cc.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{
		ContainerID: id, Width: uint32(size.Width), Height: uint32(size.Height),
	})
	if err = native(err); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// Feed copies in to a container's stdin until in ends, or ctx is done. It is true when the container takes no more, and in
// may have more. A Read under way when ctx ends is left to the caller, who ends it by closing what is behind it.
func Feed(ctx context.Context, to *os.File, in io.Reader) (refused bool) {
	stop := context.AfterFunc(ctx, func() { _ = to.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	out := &sink{to: to}
	_, _ = io.Copy(out, in)
	return out.failed && ctx.Err() == nil
}

// sink remembers whether it was the writing that failed. It hides the file's ReadFrom, which would splice.
type sink struct {
	to     *os.File
	failed bool
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.failed = err != nil
	return n, err
}

// Pid is the process of a container's task; ErrGone if there is none.
func (c *Client) Pid(ctx context.Context, id string) (uint32, error) {
	t, err := c.task(c.Context(ctx), id)
	if err != nil {
		return 0, err
	}
	return t.Pid, nil
}
