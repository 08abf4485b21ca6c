package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/runtime/containers"
	"podd/runtime/logs"
	"podd/status"
)

// Logs writes the log of one container instance to out, by the meaning of v1.PodLogOptions. An empty container name is
// the pod's only container. With Follow it goes on until the instance has ended and its log is read to the end.
func (r *Runtime) Logs(ctx context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error {
	name, err := pick(pod, opts.Container)
	if err != nil {
		return err
	}
	c, err := r.newest(ctx, pod, name, opts.Previous)
	if err != nil {
		return err
	}
	o := chosen(opts, time.Now())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	o.Done = ended
	if c.State == status.Running {
		waited := make(chan struct{})
		defer func() { cancel(); <-waited }()
		go func() {
			defer close(waited)
			r.awaitEnd(ctx, c.ID)
			close(ended)
		}()
	} else {
		r.drain(ctx, c.ID)
		close(ended)
	}
	path := logs.Path(r.LogDir, pod.Namespace, pod.Name, string(pod.UID), name, c.Attempt)
	stdout, stderr := out, out
	if opts.Stream != nil {
		switch *opts.Stream {
		case v1.LogStreamStdout:
			stderr = io.Discard
		case v1.LogStreamStderr:
			stdout = io.Discard
		}
	}
	return logs.Read(ctx, path, o, stdout, stderr)
}

// chosen is what opts choose of a log at the time now.
func chosen(opts *v1.PodLogOptions, now time.Time) logs.ReadOptions {
	o := logs.ReadOptions{
		Follow: opts.Follow, TailLines: opts.TailLines, LimitBytes: opts.LimitBytes, Timestamps: opts.Timestamps,
	}
	if opts.SinceTime != nil {
		o.SinceTime = opts.SinceTime.Time
	}
	if opts.SinceSeconds != nil {
		o.SinceTime = now.Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	return o
}

// awaitEnd returns when an instance has ended and its log is complete, or ctx is done.
func (r *Runtime) awaitEnd(ctx context.Context, id string) {
	for ctx.Err() == nil {
		_, err := r.Containers.Wait(ctx, id)
		if err == nil || err == containers.ErrGone {
			break
		}
		select { // containerd is away: that is no end
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	r.drain(ctx, id)
}

// drainLimit bounds the wait for the last lines of an ended container.
const drainLimit = 5 * time.Second

func (r *Runtime) drain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	if err := r.Writer.Drain(ctx, id); err != nil && ctx.Err() == nil {
		r.Log.Debug("drain log", "id", id, "err", err)
	}
}

// refuse is an error that is the asker's: the API answers 400, as upstream does.
func refuse(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// pick finds the container that is meant by name; empty is the only regular one.
func pick(pod *v1.Pod, name string) (string, error) {
	if name == "" && len(pod.Spec.Containers) == 1 {
		return pod.Spec.Containers[0].Name, nil
	}
	var all []string
	for _, m := range status.Members(pod) {
		all = append(all, m.Name)
	}
	switch {
	case name == "":
		return "", refuse("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(all, " "))
	case !slices.Contains(all, name):
		return "", refuse("container %s is not valid for pod %s: it has [%s]", name, pod.Name, strings.Join(all, " "))
	}
	return name, nil
}

// newest is the newest instance of a container that has run, or, with previous, the one before.
func (r *Runtime) newest(ctx context.Context, pod *v1.Pod, name string, previous bool) (status.Container, error) {
	_, facts, err := newHost(r, pod.UID).Observe(ctx, true)
	if err != nil {
		return status.Container{}, err
	}
	var ran []status.Container
	waiting := true
	for _, c := range facts.Containers {
		if c.Name != name {
			continue
		}
		waiting = c.State == status.Created
		if !waiting {
			ran = append(ran, c)
		}
	}
	switch {
	case previous && waiting && len(ran) > 0: // the newest was not started yet, so the last that ran is the previous one
		return ran[len(ran)-1], nil
	case previous && len(ran) > 1:
		return ran[len(ran)-2], nil
	case previous:
		return status.Container{}, refuse("previous terminated container %q in pod %q not found", name, pod.Name)
	case len(ran) == 0:
		return status.Container{}, refuse("container %q in pod %q is waiting to start: %s", name, pod.Name, whyWaiting(pod, name))
	}
	return ran[len(ran)-1], nil
}

// whyWaiting is the waiting reason that the pod's status shows for a container.
func whyWaiting(pod *v1.Pod, name string) string {
	for _, s := range status.Statuses(&pod.Status) {
		if s.Name == name && s.State.Waiting != nil {
			return s.State.Waiting.Reason
		}
	}
	if len(pod.Spec.InitContainers) > 0 {
		return "PodInitializing"
	}
	return "ContainerCreating"
}

// Exec runs a process in a running container of the pod and returns its exit code. An empty name is the only container.
func (r *Runtime) Exec(ctx context.Context, pod *v1.Pod, name string, e containers.Exec) (int, error) {
	name, err := pick(pod, name)
	if err != nil {
		return 0, err
	}
	id, err := r.runningID(ctx, pod, name)
	if err != nil {
		return 0, err
	}
	return r.Containers.Exec(ctx, id, e)
}

// ImageUsers are the pods, as namespace/name, of which a container, or a volume while they live, is made from the image with
// this full name.
func (r *Runtime) ImageUsers(ctx context.Context, name string) ([]string, error) {
	instances, err := r.Containers.Look(ctx, "")
	if err != nil {
		return nil, err
	}
	users := r.mountsImage(name)
	for _, i := range instances {
		if i.Image == name {
			users = append(users, i.Namespace+"/"+i.Pod)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}
