package containers

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"podd/runtime/killpoint"
)

// deleteTimeout bounds the deletion of a task whose process has ended. It runs to its end even if the caller's context
// does not: given up halfway, containerd may keep a shim that it knows nothing of.
const deleteTimeout = 30 * time.Second

// removeTimeout bounds the whole removal of a task, from the kill on. A process in the kernel's hands may take longer:
// then it is an error, and the caller comes back.
const removeTimeout = 30 * time.Second

// Remove kills what runs, waits, and takes away task, record and snapshot, in this order, which containerd needs.
// nil when nothing is left. It never forces the deletion of a running task, which costs runc 100 ms.
func (c *Client) Remove(ctx context.Context, id string) error {
	uid, err := c.PodOf(ctx, id)
	if err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	if err := c.removeTask(c.Context(ctx), id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	if err := c.settled(ctx, id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	if uid != "" {
		ctx = c.lease(ctx, uid)
	} else {
		ctx = c.Context(ctx)
	}
	killpoint.At("containers.remove.record")
	if err := c.cc.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove %s: delete record: %w", id, err)
	}
	killpoint.At("containers.remove.snapshot")
	if err := c.cc.SnapshotService(c.opts.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove %s: remove snapshot: %w", id, err)
	}
	if err := c.forgetExit(id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	c.pods.Delete(id)
	c.foreign.Delete(id)
	c.quiet.Delete(id)
	killpoint.At("containers.remove.removed")
	return nil
}

// RemoveTask kills what runs in a sandbox, waits, and takes the task away; the record stays. nil when there is no task.
// Another shim than runc's that cannot do it is ended, and with it all it runs: then containerd takes that away.
func (c *Client) RemoveTask(ctx context.Context, id string) error {
	err := c.removeTask(c.Context(ctx), id)
	if err != nil && ctx.Err() == nil && c.isForeign(id) && c.Ready(ctx) == nil {
		c.opts.Log.Warn("ending a shim that cannot end its sandbox", "id", id, "err", err)
		if err = c.endShims(ctx, id); err == nil {
			err = c.removeTask(c.Context(ctx), id)
		}
	}
	if err != nil {
		return fmt.Errorf("remove task %s: %w", id, err)
	}
	return nil
}

// removeTask has no task of that id. While containerd takes away what a shim that died has left, which takes runc a
// moment, it can do nothing else for those tasks: that is waited for.
func (c *Client) removeTask(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := c.tryRemoveTask(ctx, id)
		if err == nil || !shimEnded(err) && !errdefs.IsFailedPrecondition(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// tryRemoveTask is SIGKILL, wait, delete, each of which may find that there is no task.
func (c *Client) tryRemoveTask(ctx context.Context, id string) error {
	killpoint.At("containers.remove.kill")
	if err := c.Signal(ctx, id, syscall.SIGKILL); err != nil {
		return c.removeUnstarted(ctx, id, err)
	}
	killpoint.At("containers.remove.killed")
	_, err := c.Wait(ctx, id)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.deleteTask(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete task: %w", err)
	}
	killpoint.At("containers.remove.deleted")
	return nil
}

// removeUnstarted takes away a task that cannot be killed if it was never started: a runtime may not signal what does not
// run, as gVisor's does not. Else the answer is why it cannot be killed.
func (c *Client) removeUnstarted(ctx context.Context, id string, cause error) error {
	if t, err := c.task(ctx, id); err != nil || t.Status != task.Status_CREATED {
		return cause
	}
	if err := c.deleteTask(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("%w; then delete task: %w", cause, err)
	}
	return nil
}

func (c *Client) deleteTask(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	killpoint.At("containers.remove.delete")
	_, err := c.cc.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	return native(err)
}
