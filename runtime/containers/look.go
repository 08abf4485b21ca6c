package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// askLimit bounds one question to containerd: one that hangs is one that cannot be asked.
const askLimit = 10 * time.Second

// Look is every container of the pod with that uid, or of all pods if uid is "". An error means that containerd did not
// answer, and nothing is known.
func (c *Client) Look(ctx context.Context, uid string) ([]Instance, error) {
	ctx = c.Context(ctx)
	filter := fmt.Sprintf("labels.%q", labelUID)
	if uid != "" {
		filter += fmt.Sprintf("==%q", uid)
	}
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	list, err := c.cc.ContainerService().List(asking, filter)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	known := map[string]*task.Process{}
	if uid == "" {
		r, err := c.cc.TaskService().List(asking, &tasks.ListTasksRequest{})
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", native(err))
		}
		for _, t := range r.Tasks {
			known[t.ID] = t
		}
	}
	if uid == "" {
		c.forget(list)
	}
	out, errs := make([]Instance, len(list)), make([]error, len(list))
	var looks sync.WaitGroup
	for n, ctr := range list {
		one := func() { out[n], errs[n] = c.look(ctx, ctr, known[ctr.ID]) }
		if n+1 == len(list) || known[ctr.ID] != nil {
			one()
		} else {
			looks.Go(one) // its shim is asked, beside the others
		}
	}
	looks.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// forget drops what is remembered of containers that are not there: a look beside a removal remembers what it removes.
// One that is made just now is asked for again when it is needed.
func (c *Client) forget(there []containers.Container) {
	ids := make(map[string]bool, len(there))
	for _, ctr := range there {
		ids[ctr.ID] = true
	}
	for _, known := range []*sync.Map{&c.pods, &c.foreign} {
		known.Range(func(id, _ any) bool {
			if !ids[id.(string)] {
				known.Delete(id)
			}
			return true
		})
	}
}

func (c *Client) noteRuntime(ctr containers.Container) {
	if ctr.Runtime.Name != runtimeName {
		c.foreign.Store(ctr.ID, true)
	}
}

// look is one instance. containerd's list leaves out the tasks it cannot ask just now, so that one that is not in it is
// asked for by itself before it is said to have none.
func (c *Client) look(ctx context.Context, ctr containers.Container, t *task.Process) (Instance, error) {
	r, err := readRecord(ctr)
	if err != nil {
		c.opts.Log.Warn("container has podd's label and no record", "id", ctr.ID, "err", err)
		r = record{UID: ctr.Labels[labelUID], Name: ctr.Labels[labelName]}
		r.Namespace, r.Pod, _ = strings.Cut(ctr.Labels[labelPod], "/")
	}
	c.pods.Store(ctr.ID, r.UID)
	c.noteRuntime(ctr)
	i := r.instance(ctr)
	if t == nil {
		t, err = c.task(ctx, ctr.ID)
		switch {
		case errors.Is(err, ErrGone):
			if exit, ok := c.saved(ctr.ID); ok {
				i.HasTask, i.Task, i.ExitCode, i.ExitedAt, i.OOM = true, TaskStopped, exit.Code, exit.At, exit.OOM
			}
			return i, nil
		case err != nil && ctx.Err() == nil && c.Ready(ctx) == nil: // it answers, but not for this task
			i.HasTask, i.Task = true, TaskUnknown
			return i, nil
		case err != nil:
			return i, fmt.Errorf("look at %s: %w", ctr.ID, err)
		}
	}
	i.HasTask, i.Task, i.Pid = true, taskStatus(t), t.Pid
	switch i.Task {
	case TaskRunning:
		i.StartedAt = startTime(t.Pid)
	case TaskStopped:
		return c.Ended(i, t.ExitStatus, t.ExitedAt.AsTime()), nil
	}
	return i, nil
}

// Ended is i after its process has ended so, as long as its cgroup is there to ask.
func (c *Client) Ended(i Instance, code uint32, at time.Time) Instance {
	i.Task, i.ExitCode, i.ExitedAt = TaskStopped, code, at
	i.OOM = code == 128+uint32(unix.SIGKILL) && oomKills(c.host, i.Cgroup) > 0
	return i
}

func taskStatus(t *task.Process) TaskStatus {
	switch t.Status {
	case task.Status_CREATED:
		return TaskCreated
	case task.Status_RUNNING:
		return TaskRunning
	case task.Status_STOPPED:
		return TaskStopped
	case task.Status_PAUSED, task.Status_PAUSING:
		return TaskPaused
	}
	return TaskUnknown
}

// PodOf is the uid of the pod that a container belongs to; "" if there is no such container or it is not podd's.
func (c *Client) PodOf(ctx context.Context, id string) (string, error) {
	if uid, ok := c.pods.Load(id); ok {
		return uid.(string), nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	ctr, err := c.cc.ContainerService().Get(c.Context(ctx), id)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("get container: %w", err)
	}
	return ctr.Labels[labelUID], nil
}

// oomKills is how often the kernel killed in a cgroup because its memory limit was reached. runc removes the cgroup
// with the task, so it can be asked as long as there is one.
func oomKills(h Host, cgroup string) uint64 {
	file := filepath.Join("/sys/fs/cgroup/memory", cgroup, "memory.oom_control")
	if h.CgroupV2 {
		file = filepath.Join("/sys/fs/cgroup", cgroup, "memory.events")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 64)
			return n
		}
	}
	return 0
}

// startTime is when a process began, to 10 ms; zero if it is gone.
func startTime(pid uint32) time.Time {
	fields := statFields(int(pid))
	const start = 19 // field 22 of proc(5)
	if len(fields) <= start {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(string(fields[start]), 10, 64)
	if err != nil {
		return time.Time{}
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(ticks)*10*time.Millisecond - time.Duration(up.Nano()))
}

// statFields is what /proc/PID/stat says after the name of the command, which may hold anything: the state of the process
// first, which is field 3 of proc(5). nil if it is gone.
func statFields(pid int) [][]byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
}
