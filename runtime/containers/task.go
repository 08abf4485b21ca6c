package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// Create creates the task of a member without starting its process: all that takes time is then done. One that is there
// is fine; ErrStopped and *StartError as for Start.
func (c *Client) Create(ctx context.Context, id string, io IO) error {
	ctx = c.Context(ctx)
	t, err := c.task(ctx, id)
	switch {
	case err == nil && t.Status == task.Status_STOPPED:
		return ErrStopped
	case err == nil:
		return nil
	case !errors.Is(err, ErrGone):
		return err
	}
	if err := c.settled(ctx, id); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	mounts, err := c.cc.SnapshotService(c.opts.Snapshotter).Mounts(ctx, id)
	if err != nil {
		return fmt.Errorf("create: mounts of snapshot: %w", err)
	}
	if err := forgetMount(mounts); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	req := &tasks.CreateTaskRequest{
		ContainerID: id, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
	}
	for _, m := range mounts {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	_, err = c.create(ctx, req)
	return err
}

// Start creates the task of a member if there is none and starts its process. A running one is fine; ErrStopped if it
// has ended; *StartError if the runtime could not start it, with nothing left of the try. Any other error says nothing
// of the container.
func (c *Client) Start(ctx context.Context, id string, io IO) (Started, error) {
	if err := c.Create(ctx, id, io); err != nil {
		return Started{}, err
	}
	return c.Begin(ctx, id)
}

// Begin starts the process of a member that Create has made; its answers are those of Start.
func (c *Client) Begin(ctx context.Context, id string) (Started, error) {
	return c.begin(c.Context(ctx), id)
}

// ErrShimEnded says that the shim has ended while it made a task. When a member cannot be made, containerd asks the shim to
// end, which it does if it has no other container yet: those that are being made at the same time go with it.
var ErrShimEnded = errors.New("the shim has ended")

// shimEnded tells whether err is containerd's word of a shim that has ended. There is no code for it.
func shimEnded(err error) bool { return strings.Contains(err.Error(), "ttrpc: closed") }

// sandboxTries is how often a sandbox is made whose shim ends meanwhile.
const sandboxTries = 3

// CreateSandbox creates the task of a pause container, so that its namespaces are there, without starting it.
// One that runs is fine. The answer is its pid. root is mounted as its root, if its spec does not name a directory of the
// host.
func (c *Client) CreateSandbox(ctx context.Context, id string, root ...*types.Mount) (pid uint32, err error) {
	for range sandboxTries {
		if pid, err = c.createSandbox(ctx, id, root); !errors.Is(err, ErrShimEnded) || ctx.Err() != nil {
			break
		}
	}
	return pid, err
}

func (c *Client) createSandbox(ctx context.Context, id string, root []*types.Mount) (uint32, error) {
	ctx = c.Context(ctx)
	if _, ok := c.quiet.Load(id); !ok {
		if _, err := c.task(ctx, id); errors.Is(err, ErrGone) {
			if err := c.settled(ctx, id); err != nil {
				return 0, fmt.Errorf("create: %w", err)
			}
		}
	}
	return c.create(ctx, &tasks.CreateTaskRequest{ContainerID: id, Rootfs: root})
}

// StartSandbox starts the process of a pause container that CreateSandbox created. A running one is fine.
func (c *Client) StartSandbox(ctx context.Context, id string) (Started, error) {
	return c.begin(c.Context(ctx), id)
}

// create makes a task. One that is there already is fine unless it has ended.
func (c *Client) create(ctx context.Context, req *tasks.CreateTaskRequest) (uint32, error) {
	killpoint.At("containers.start.create")
	r, err := c.cc.TaskService().Create(ctx, req)
	if err = native(err); err == nil {
		killpoint.At("containers.start.created")
		return r.Pid, nil
	}
	if !errdefs.IsAlreadyExists(err) {
		c.quiet.Delete(req.ContainerID)
		if shimEnded(err) {
			return 0, fmt.Errorf("create task: %w: %w", ErrShimEnded, err)
		}
		return 0, startError("create task", err)
	}
	t, err := c.task(ctx, req.ContainerID)
	if err != nil {
		return 0, fmt.Errorf("create task: %w", err)
	}
	if t.Status == task.Status_STOPPED {
		return 0, ErrStopped
	}
	return t.Pid, nil
}

func (c *Client) begin(ctx context.Context, id string) (Started, error) {
	killpoint.At("containers.start.before")
	r, err := c.cc.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	if err = native(err); err == nil {
		killpoint.At("containers.start.started")
		return Started{Pid: r.Pid, At: time.Now()}, nil
	}
	t, terr := c.task(ctx, id)
	switch {
	case terr != nil:
	case t.Status == task.Status_RUNNING || t.Status == task.Status_PAUSED:
		at := startTime(t.Pid)
		if at.IsZero() {
			at = time.Now()
		}
		return Started{Pid: t.Pid, At: at}, nil
	case t.Status == task.Status_STOPPED && !isRuntime(err):
		return Started{}, ErrStopped
	}
	err = startError("start task", err)
	if se := (*StartError)(nil); errors.As(err, &se) {
		if rerr := c.removeTask(ctx, id); rerr != nil {
			return Started{}, fmt.Errorf("%w; then remove task: %w", se.Err, rerr)
		}
	}
	return Started{}, err
}

// startError tells a runtime that could not start the process from a containerd that is away or has no such container.
func startError(op string, err error) error {
	if isRuntime(err) {
		_, cause, _ := strings.Cut(err.Error(), "OCI runtime ")
		return &StartError{fmt.Errorf("OCI runtime %s", cause)}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// isRuntime says that runc was run and answered with an error. There is no code for it, so the shim's words must do.
func isRuntime(err error) bool {
	for _, away := range []func(error) bool{errdefs.IsUnavailable, errdefs.IsDeadlineExceeded, errdefs.IsCanceled} {
		if away(err) {
			return false
		}
	}
	return strings.Contains(err.Error(), "OCI runtime ")
}

// task asks for one task. ErrGone if there is none.
func (c *Client) task(ctx context.Context, id string) (*task.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	r, err := c.cc.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err = native(err); errdefs.IsNotFound(err) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("get task: %w", err)
	}
	return r.Process, nil
}

// Signal sends sig to the process; nil if it has ended or there is none. A shim that hangs is an error after askLimit.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	killpoint.At("containers.signal.before")
	_, err := c.cc.TaskService().Kill(c.Context(ctx), &tasks.KillRequest{ContainerID: id, Signal: uint32(sig)})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("signal %s: %w", unix.SignalName(sig), err)
	}
	killpoint.At("containers.signal.sent")
	return nil
}

// Wait blocks until the process has ended. ErrGone if there is no task. Any other error says nothing of the process.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) {
	r, err := c.cc.TaskService().Wait(c.Context(ctx), &tasks.WaitRequest{ContainerID: id})
	if err = native(err); errdefs.IsNotFound(err) {
		return Exit{}, ErrGone
	}
	if err != nil {
		return Exit{}, fmt.Errorf("wait: %w", err)
	}
	return Exit{Code: r.ExitStatus, At: r.ExitedAt.AsTime()}, nil
}

// forgetMount lets the root of a container be mounted that was mounted before, for a task that was cut off before its
// process began. The kernel marks a volatile overlay for good, since after a crash its content cannot be trusted; of a
// container that never ran there is none (Documentation/filesystems/overlayfs.rst, "Volatile mount").
func forgetMount(mounts []mount.Mount) error {
	for _, m := range mounts {
		if m.Type != "overlay" || !slices.Contains(m.Options, "volatile") {
			continue
		}
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "workdir="); ok {
				if err := os.RemoveAll(filepath.Join(dir, "work", "incompat", "volatile")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
