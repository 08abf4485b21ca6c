package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
	"podd/runtime/plan"
)

// ephemeralOf finds an ephemeral container of the spec by its name; nil if there is none.
func ephemeralOf(pod *v1.Pod, name string) *v1.EphemeralContainer {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return &pod.Spec.EphemeralContainers[i]
		}
	}
	return nil
}

// targetOf is the container whose processes name is to see; "" if it is none, or the pod shares one namespace anyway.
func targetOf(pod *v1.Pod, name string) string {
	e := ephemeralOf(pod, name)
	shared := pod.Spec.ShareProcessNamespace
	if e == nil || pod.Spec.HostPID || shared != nil && *shared {
		return ""
	}
	return e.TargetContainerName
}

// aim has an ephemeral container join the PID namespace of its target. The namespace is named by the target's process, so
// that the instance is made for that one only: it is part of the key, and onTarget looks again before the start.
func (h *host) aim(ctx context.Context, pod *v1.Pod, cfg *containers.Config) error {
	target := targetOf(pod, cfg.Container.Name)
	if target == "" {
		return nil
	}
	if h.r.Containers.IsShim(cfg.Handler) { // its processes may be in a kernel of their own
		return fmt.Errorf("target container %q: the shim of the pod cannot show its processes to another container", target)
	}
	i, err := h.target(ctx, target)
	if err != nil {
		return err
	}
	cfg.Sandbox.PIDNS = pidNamespace(i.Pid)
	cfg.Key += targetKey(i)
	return nil
}

func targetKey(i containers.Instance) string { return fmt.Sprintf("/%s/%d", i.ID, i.Pid) }

// aimed makes sure that the target of an ephemeral container is the one it was made for: podd may have been killed between
// the two. Otherwise the instance is taken away, to be made again.
func (h *host) aimed(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	target := targetOf(pod, s.Name)
	if target == "" {
		return nil
	}
	mine, ok, err := h.instance(ctx, s)
	if err != nil || !ok || mine.HasTask {
		return err
	}
	i, err := h.target(ctx, target)
	if err == nil && strings.HasSuffix(mine.Key, targetKey(i)) {
		return nil
	}
	return errors.Join(astray(target, err), h.r.Containers.Remove(ctx, mine.ID))
}

func astray(target string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("target container %q was started anew", target)
}

func pidNamespace(pid uint32) string { return fmt.Sprintf("/proc/%d/ns/pid", pid) }

// target is the running instance of a container that an ephemeral one is aimed at.
func (h *host) target(ctx context.Context, name string) (containers.Instance, error) {
	instances, err := h.r.Containers.Look(ctx, string(h.uid))
	if err != nil {
		return containers.Instance{}, err
	}
	for _, i := range instances {
		if i.Name == name && i.Task == containers.TaskRunning {
			return i, nil
		}
	}
	return containers.Instance{}, fmt.Errorf("unable to find target container %q: it is not running", name)
}

// onTarget makes sure that an ephemeral container, whose process was made and not started yet, is in the PID namespace of
// its target. If the target was started anew since, the instance is taken away, to be made again.
func (h *host) onTarget(ctx context.Context, pod *v1.Pod, name, id string) error {
	target := targetOf(pod, name)
	if target == "" {
		return nil
	}
	i, err := h.target(ctx, target)
	if err == nil {
		var mine uint32
		if mine, err = h.r.Containers.Pid(ctx, id); err == nil && samePIDNamespace(mine, i.Pid) {
			return nil
		}
	}
	return errors.Join(astray(target, err), h.r.Containers.Remove(ctx, id))
}

func samePIDNamespace(a, b uint32) bool {
	x, errX := os.Stat(pidNamespace(a))
	y, errY := os.Stat(pidNamespace(b))
	return errX == nil && errY == nil && os.SameFile(x, y)
}
