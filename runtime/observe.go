package runtime

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/network"
	"podd/runtime/containers"
	"podd/status"
	"podd/status/exits"
)

// lostCode is the exit code of a container whose real one nobody knows (upstream: pkg/kubelet/kubelet_pods.go).
const lostCode = 137

// neverStarted is when a container has started that never did (upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go).
var neverStarted = time.Unix(0, 0)

// Observe looks at the pod: its object, its record, containerd, the network, the markers. It changes nothing. Unless
// something may have changed there, containerd is not asked again after it has answered, and neither is the network.
func (h *host) Observe(ctx context.Context, changed bool) (*v1.Pod, status.Facts, error) {
	rec := h.record()
	pod, ok := h.r.Store.PodByUID(h.uid)
	if !ok {
		pod = skeleton(h.uid, rec)
	}
	f := status.Facts{
		Now:     time.Now(),
		Node:    h.r.Node,
		Limits:  h.r.Limits,
		Started: rec.Started,
		Static:  pod.Annotations[SourceAnnotation] == SourceFile,
		Gone:    !ok,
		Verdict: rec.Verdict,
		Era:     rec.Era,
		EraBy:   rec.EraBy,
		Beyond:  h.r.isBeyond(h.uid),
		Evicted: rec.Evicted,
		Pulled:  h.pulled(),
	}
	bound := ok && pod.Spec.NodeName == h.r.Node.Name // only of such does this host judge
	if bound && h.r.Reject != nil {
		f.Rejected = h.r.Reject(pod)
	}
	if bound && f.Rejected == nil && f.Verdict == nil {
		f.Rejected = h.refusal(pod)
	}
	f.Allocated, f.Before, f.Room = rec.Allocated, rec.Before, h.room(pod, rec)
	if h.r.Allocatable != nil {
		f.Node.Allocatable = h.r.Allocatable()
	}
	if !ok {
		h.r.wakeWaiting() // it counts no more
	}
	now := h.lastSeen()
	if changed || !now.answered {
		var err error
		if now, err = h.look(ctx, pod, f.Gone); err != nil {
			h.r.Log.Debug("look at containers", "pod", pod.Name, "err", err)
			if ok && ctx.Err() == nil && h.tell("FailedSync", time.Minute) {
				h.event(pod, v1.EventTypeWarning, "FailedSync", "error determining status: %v", err)
			}
		}
		if now.network, err = h.lookNetwork(pod); err != nil {
			return pod, f, err
		}
	}
	f.Reachable, f.Images, f.Mounted = now.answered, now.images, h.mountedImages(pod)
	instances := now.instances
	for _, i := range instances {
		if i.Name == "" {
			f.Sandboxes = append(f.Sandboxes, h.sandbox(i))
		} else if _, ended := rec.exit(i.Name, i.Attempt); !ended {
			c := h.container(i, f.Now)
			first := asMade(instances, c)
			if i.Resources == nil && first.Name != "" {
				i.Resources = &first.Resources
			}
			if held := rec.heldTo(i); held != nil {
				c.Resources = *held
			}
			if c.Ref == "" {
				c.Ref = first.Image
			}
			f.Containers = append(f.Containers, c)
		}
	}
	f.Sandboxes = withGone(f.Sandboxes, rec.Sandbox)
	for _, c := range rec.Exits {
		c.Recorded = true
		c.Present = slices.ContainsFunc(instances, func(i containers.Instance) bool {
			return i.Name == c.Name && i.Attempt == c.Attempt
		})
		f.Containers = append(f.Containers, c)
	}
	slices.SortFunc(f.Containers, byNameAttempt)
	slices.SortFunc(f.Sandboxes, func(a, b status.Sandbox) int { return a.Attempt - b.Attempt })
	if f.Reachable && h.living(pod) { // in the end what podd removes is not recorded
		f.Sandboxes = status.WithLost(h.uid, f.Sandboxes, f.Containers)
	}
	h.observeGround(&f)
	f.Stored = f.Evicted != nil && h.r.Volumes.Stored(string(h.uid))
	if err := h.observeContent(pod, &f); err != nil {
		return pod, f, err
	}
	h.observeNetwork(pod, rec, now.network, &f)
	f.NetworkFirst = h.r.Containers.IsShim(h.handler())
	return pod, f, nil
}

// skeleton stands for a pod whose object is gone: what is needed to take away what is left of it.
func skeleton(uid types.UID, rec record) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: rec.Namespace, Name: rec.Name}}
}

// asMade is what a container was made from whose record does not say so, since an older podd made it, which changed nothing
// of a pod: what its sandbox has of the pod.
func asMade(instances []containers.Instance, c status.Container) v1.Container {
	for _, i := range instances {
		if i.ID != c.Sandbox || i.PodSpec == nil {
			continue
		}
		if m, ok := status.MemberOf(i.PodSpec, c.Name); ok {
			return *m.Container
		}
	}
	return v1.Container{}
}

// withGone adds the newest sandbox that was removed, so that the next one gets another attempt.
func withGone(present []status.Sandbox, gone *status.Sandbox) []status.Sandbox {
	if gone == nil || slices.ContainsFunc(present, func(s status.Sandbox) bool { return s.Attempt == gone.Attempt }) {
		return present
	}
	s := *gone
	s.Present, s.State = false, status.Exited
	return append(present, s)
}

func (h *host) sandbox(i containers.Instance) status.Sandbox {
	state, _ := h.state(i)
	return status.Sandbox{ID: i.ID, Attempt: i.Attempt, State: state, CreatedAt: i.CreatedAt, Present: true}
}

// state tells what an instance is doing, and whether it was lost: started once, but without a task now, because the host
// was booted again or somebody took the task away.
func (h *host) state(i containers.Instance) (state status.State, lost bool) {
	if !i.HasTask {
		_, started := h.marks.started(i.ID)
		if started || i.Boot != h.r.BootID {
			return status.Exited, true
		}
		return status.Created, false
	}
	switch {
	case i.Task.Runs():
		return status.Running, false
	case i.Task == containers.TaskStopped:
		return status.Exited, false
	default:
		return status.Created, false
	}
}

// container turns what containerd says of an instance that has no recorded exit into a fact.
func (h *host) container(i containers.Instance, now time.Time) status.Container {
	state, lost := h.state(i)
	c := status.Container{
		Name: i.Name, Attempt: i.Attempt, ID: i.ID, Sandbox: i.Sandbox, State: state, Key: i.Key,
		Image: i.Image, ImageID: i.ImageID, User: i.User,
		Ref: i.Ref, Era: i.Era, StopSignal: signalName(i.StopSignal),
		CreatedAt: i.CreatedAt, Backoff: i.Backoff, Present: true,
	}
	if state == status.Created {
		return c
	}
	h.findings(&c)
	c.StartedAt = i.CreatedAt
	switch at, ok := h.marks.started(i.ID); {
	case ok && !at.IsZero():
		c.StartedAt = at
	case !i.StartedAt.IsZero():
		c.StartedAt = i.StartedAt
	case !ok && state == status.Exited && !lost:
		c.StartedAt = neverStarted // it was made, and ended before its start
	}
	if state != status.Exited {
		return c
	}
	if lost {
		c.FinishedAt, c.ExitCode, c.Reason = now, lostCode, status.Unseen
		c.Message = "The container could not be located when the pod was terminated"
		return c
	}
	c.FinishedAt, c.ExitCode, c.Message = i.ExitedAt, int32(i.ExitCode), h.r.Sandboxes.Message(string(h.uid), i.ID)
	if c.StartedAt.After(c.FinishedAt) { // it ended before podd had noted that it began
		c.StartedAt = c.FinishedAt
	}
	killed := false
	switch {
	case i.OOM && !(h.marks.get(filepath.Join("killed", i.ID), &killed) && killed):
		c.Reason = "OOMKilled"
	case i.ExitCode == 0:
		c.Reason = "Completed"
	default:
		c.Reason = "Error"
	}
	return c
}

// observeGround tells whether all of the pod's directories are there, and whether any is left.
func (h *host) observeGround(f *status.Facts) {
	var made bool
	f.Ground = h.marks.get("ground", &made) && made
	f.GroundLeft = f.Ground || h.marks.any() || h.r.hasDir(h.uid)
}

// lookNetwork looks at the pod's own network, if it has one.
func (h *host) lookNetwork(pod *v1.Pod) (st network.State, err error) {
	if !pod.Spec.HostNetwork {
		st, err = h.r.Network.Look(string(h.uid))
	}
	h.mu.Lock()
	h.last.network = st
	h.mu.Unlock()
	return st, err
}

func (h *host) observeNetwork(pod *v1.Pod, rec record, st network.State, f *status.Facts) {
	if pod.Spec.HostNetwork {
		f.Network = status.Network{Ready: f.Ground, IPs: h.r.Node.IPs}
		return
	}
	var written []string
	wrote := h.marks.get("network", &written)
	f.Network = status.Network{
		Ready:    st.Ready && wrote && slices.Equal(written, st.Result.IPs),
		Attached: st.Attached,
		IPs:      st.Result.IPs,
	}
	if len(f.Network.IPs) == 0 {
		f.Network.IPs = rec.IPs
	}
}

// look asks containerd for everything. When it does not answer, what it showed before stands for that; the error says why
// it did not show the containers.
func (h *host) look(ctx context.Context, pod *v1.Pod, gone bool) (sight, error) {
	var images map[string]status.Image
	known := true
	var asking sync.WaitGroup
	if !gone {
		asking.Go(func() { images, known = h.images(ctx, pod) })
	}
	asked := time.Now()
	instances, err := h.r.Containers.Look(ctx, string(h.uid))
	asking.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last.answered = err == nil && known
	if err == nil {
		instances = h.meanwhile(instances, asked)
		h.last.instances, h.last.images, h.looked = instances, images, true
	}
	return h.last, err
}

// meanwhile brings an answer of containerd up to what podd was told, and has done, since it asked. h.mu is held.
func (h *host) meanwhile(seen []containers.Instance, asked time.Time) []containers.Instance {
	maps.DeleteFunc(h.removed, func(_ string, at time.Time) bool { return at.Before(asked) })
	seen = slices.DeleteFunc(seen, func(i containers.Instance) bool { return !h.removed[i.ID].IsZero() })
	maps.DeleteFunc(h.ends, func(id string, _ exits.End) bool {
		return !slices.ContainsFunc(seen, func(i containers.Instance) bool { return i.ID == id })
	})
	h.endSeen(seen)
	return seen
}

// images says which of the pod's images are on the host. False when containerd goes away meanwhile: an image that cannot
// be asked for must not be pulled as if it were missing.
func (h *host) images(ctx context.Context, pod *v1.Pod) (map[string]status.Image, bool) {
	images := map[string]status.Image{}
	for _, ref := range imagesOf(pod) {
		if _, known := images[ref]; known {
			continue
		}
		info, ok, err := h.r.Images.Look(ctx, ref)
		if errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) || errors.Is(err, context.DeadlineExceeded) {
			return images, false
		}
		if err == nil && ok {
			images[ref] = status.Image{ID: imageID(info)}
		}
	}
	return images, true
}
