package containers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// UpdateTask holds the process of a container to the requests and limits of cpu and memory that it has in pod. What it has
// no limit for stays as it is. A process that has ended, and none, is fine.
func (c *Client) UpdateTask(ctx context.Context, id string, pod *v1.Pod, container *v1.Container) error {
	ctx, cancel := context.WithTimeout(c.Context(ctx), askLimit)
	defer cancel()
	ended := func() (bool, error) {
		t, err := c.task(ctx, id)
		if errors.Is(err, ErrGone) {
			return true, nil
		}
		return err == nil && t.Status == task.Status_STOPPED, err
	}
	if gone, err := ended(); gone || err != nil {
		return err
	}
	r := resources(pod, container, c.host)
	r.Devices, r.HugepageLimits = nil, nil // they stay
	if r.Memory != nil {
		check := true // on v2 the kernel kills for a limit that is too low, where on v1 it refuses it
		r.Memory.CheckBeforeUpdate = &check
	}
	encoded, err := typeurl.MarshalAnyToProto(r)
	if err != nil {
		return fmt.Errorf("update task: %w", err)
	}
	_, err = c.cc.TaskService().Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: encoded})
	if err = native(err); err != nil {
		if gone, _ := ended(); gone {
			return nil
		}
		return fmt.Errorf("update task: %w", err)
	}
	return nil
}

// whole is what a pod has of its own; empty if it has not.
func whole(pod *v1.Pod) *v1.ResourceRequirements {
	if pod.Spec.Resources == nil {
		return &v1.ResourceRequirements{}
	}
	return pod.Spec.Resources.DeepCopy()
}

// NoteResources writes into a container's record what it is held to, as Instance.Resources and Whole, and into its spec.
func (c *Client) NoteResources(ctx context.Context, id string, pod *v1.Pod, container *v1.Container) error {
	ctx = c.Context(ctx)
	there, err := c.cc.ContainerService().Get(ctx, id)
	if err != nil {
		return fmt.Errorf("note resources: %w", err)
	}
	r, err := readRecord(there)
	if err != nil {
		return fmt.Errorf("note resources: %w", err)
	}
	var spec specs.Spec
	if err := typeurl.UnmarshalTo(there.Spec, &spec); err != nil {
		return fmt.Errorf("note resources: read spec: %w", err)
	}
	next := resources(pod, container, c.host)
	spec.Linux.Resources.CPU, spec.Linux.Resources.Memory, spec.Linux.Resources.Unified = next.CPU, next.Memory, next.Unified
	if there.Spec, err = typeurl.MarshalAny(&spec); err != nil {
		return fmt.Errorf("note resources: encode spec: %w", err)
	}
	r.Resources, r.Whole = container.Resources.DeepCopy(), whole(pod)
	if there.Extensions, err = r.extensions(); err != nil {
		return fmt.Errorf("note resources: %w", err)
	}
	if _, err := c.cc.ContainerService().Update(ctx, there, "spec", "extensions"); err != nil {
		return fmt.Errorf("note resources: %w", err)
	}
	return nil
}

// MemoryInUse is what the processes of a cgroup take of its memory limit, in bytes. The path is from the mount point.
func (c *Client) MemoryInUse(cgroup string) (int64, error) {
	file := filepath.Join("/sys/fs/cgroup/memory", cgroup, "memory.usage_in_bytes")
	if c.host.CgroupV2 {
		file = filepath.Join("/sys/fs/cgroup", cgroup, "memory.current")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return int64(min(n, math.MaxInt64)), err
}
