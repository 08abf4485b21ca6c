package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"podd/network"
	"podd/runtime/containers"
	"podd/runtime/images"
	"podd/status"
	"podd/status/exits"
	"podd/store"
)

// The annotation that tells where a pod comes from, as the kubelet writes it (pkg/kubelet/types).
const (
	SourceAnnotation = "kubernetes.io/config.source"
	SourceFile       = "file"
)

// host is the real world of one pod, as its worker sees it.
type host struct {
	r     *Runtime
	uid   types.UID
	marks markers
	story *story

	adopted bool // rec has resources that are not stored yet; set before the worker starts

	resizing sync.Mutex // one change of what the pod's containers are held to at a time
	writing  sync.Mutex // one writer of the volumes that podd fills at a time

	mu        sync.Mutex
	rec       record                  // as stored; guarded by mu
	last      sight                   // what containerd showed last; guarded by mu
	looked    bool                    // containerd has answered at least once; guarded by mu
	ends      map[string]exits.End    // by id, how instances have ended, as events told; guarded by mu
	removed   map[string]time.Time    // ids that this podd has removed, and when, for looks begun before; guarded by mu
	pulls     map[string]time.Time    // last pull of an image for this pod; guarded by mu
	termed    map[string]bool         // ids that this podd has sent their stop signal; guarded by mu
	announced map[string]bool         // ids whose coming end was told; guarded by mu
	warned    map[status.Task]warning // the last failures that were logged; guarded by mu
	telling   map[string]time.Time    // last time a repeating event was recorded; guarded by mu
}

// newHost reads what is stored of a pod. It stores nothing: it is called under the runtime's lock, and by those who only ask.
func newHost(r *Runtime, uid types.UID) *host {
	h := &host{
		r: r, uid: uid, marks: markersOf(r.RunDir, uid), story: newStory(r, uid),
		pulls: map[string]time.Time{}, ends: map[string]exits.End{}, removed: map[string]time.Time{}, termed: map[string]bool{}, announced: map[string]bool{}, telling: map[string]time.Time{}, warned: map[status.Task]warning{},
	}
	data, ok := r.Store.Record(uid)
	if !ok {
		return h
	}
	rec, err := decodeRecord(data)
	if err != nil {
		r.Log.Error("read the record of a pod; its restart counts start again", "uid", uid, "err", err)
		return h
	}
	h.rec = rec
	h.adoptResources()
	return h
}

func (h *host) record() record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec
}

// change stores a changed record durably, and only then goes by it.
func (h *host) change(ctx context.Context, edit func(record) record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := edit(h.rec)
	data, err := next.encode()
	if err != nil {
		return err
	}
	if err := h.r.Store.PutRecord(ctx, h.uid, data); err != nil {
		return fmt.Errorf("store the record of pod %s: %w", h.uid, err)
	}
	h.story.exits(h.rec, next)
	h.rec = next
	h.r.note(h.uid, next)
	return nil
}

// sight is what containerd and the network showed in one look.
type sight struct {
	instances []containers.Instance
	images    map[string]status.Image // not to be changed
	network   network.State
	answered  bool // it has answered everything; else some of this is older
}

// of finds an instance.
func (s sight) of(name string, attempt int) (containers.Instance, bool) {
	for _, i := range s.instances {
		if i.Name == name && i.Attempt == attempt {
			return i, true
		}
	}
	return containers.Instance{}, false
}

func (h *host) lastSeen() sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// ended notes how the process of an instance has ended. False is that what containerd showed last is not of that process, so
// that it has to be asked.
func (h *host) ended(end exits.End) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends[end.ID] = end
	seen := slices.Clone(h.last.instances) // others may be reading it
	known := h.endSeen(seen)
	h.last.instances = seen
	return known && h.last.answered
}

// strike takes an instance that was removed out of what containerd showed last.
func (h *host) strike(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removed[id] = time.Now()
	seen := slices.Clone(h.last.instances) // others may be reading it
	h.last.instances = slices.DeleteFunc(seen, func(i containers.Instance) bool { return i.ID == id })
}

// endSeen brings what containerd showed up to the ends that were told of meanwhile, and tells whether it shows them all.
// h.mu is held.
func (h *host) endSeen(seen []containers.Instance) (all bool) {
	all = true
	for id, end := range h.ends {
		n := slices.IndexFunc(seen, func(i containers.Instance) bool { return i.ID == id })
		switch {
		case n < 0 || seen[n].Pid != end.Pid:
			all = false
		case seen[n].Task != containers.TaskStopped:
			seen[n] = h.r.Containers.Ended(seen[n], end.Code, end.At)
		}
	}
	return all
}

func (h *host) pulled() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.pulls)
}

// itself is who makes the runtime's changes of status: its workers need not look again after them.
const itself = "runtime"

// Publish writes the status into the store. Until containerd has answered for the first time nothing is known that the
// store does not know better, except that it is not known: Running becomes Unknown, all else stays.
func (h *host) Publish(pod *v1.Pod, next v1.PodStatus) error {
	h.mu.Lock()
	looked := h.looked
	h.mu.Unlock()
	var held []v1.ContainerStatus
	var before v1.PodStatus
	err := h.r.Store.SetStatus(store.By(context.Background(), itself), h.uid, func(prev v1.PodStatus) v1.PodStatus {
		held, before = newlyHeld(prev, next), prev
		if !looked {
			unknown := *prev.DeepCopy()
			if prev.Phase == v1.PodRunning {
				unknown.Phase = v1.PodUnknown
			}
			return unknown
		}
		return status.Stamp(prev, next, time.Now())
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && looked {
		h.resizeNews(pod, before, next)
		for _, c := range held {
			h.heldBack(pod, c)
		}
	}
	return err
}

// Waiting reasons of a container that is held back (upstream: pkg/kubelet/images/types.go, container/sync_result.go).
const crashLoopBackOff, imagePullBackOff = "CrashLoopBackOff", "ImagePullBackOff"

// errImageNeverPull is the one of a container whose image nobody is to fetch.
const errImageNeverPull = "ErrImageNeverPull"

// newlyHeld is the containers that are held back in next, and were not in prev.
func newlyHeld(prev, next v1.PodStatus) []v1.ContainerStatus {
	reason := func(c v1.ContainerStatus) string {
		if w := c.State.Waiting; w != nil && slices.Contains([]string{crashLoopBackOff, imagePullBackOff, errImageNeverPull}, w.Reason) {
			return w.Reason
		}
		return ""
	}
	var held []v1.ContainerStatus
	before := status.Statuses(&prev)
	for _, c := range status.Statuses(&next) {
		same := func(p v1.ContainerStatus) bool { return p.Name == c.Name && reason(p) == reason(c) }
		if reason(c) != "" && !slices.ContainsFunc(before, same) {
			held = append(held, c)
		}
	}
	return held
}

// heldBack records the event for it, in upstream's words.
func (h *host) heldBack(pod *v1.Pod, c v1.ContainerStatus) {
	message := c.State.Waiting.Message
	switch c.State.Waiting.Reason {
	case imagePullBackOff:
		which, _, _ := strings.Cut(message, ": ") // then comes why
		h.containerEvent(pod, c.Name, v1.EventTypeNormal, "BackOff", "%s", which)
	case errImageNeverPull:
		h.containerEvent(pod, c.Name, v1.EventTypeWarning, errImageNeverPull, "%s", message)
	default:
		h.containerEvent(pod, c.Name, v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", c.Name, pod.Name, pod.Namespace, pod.UID)
	}
}

// reasoned is an error with the waiting reason that a status shows for it.
type reasoned struct {
	reason string
	err    error
}

func (e *reasoned) Error() string  { return e.err.Error() }
func (e *reasoned) Unwrap() error  { return e.err }
func (e *reasoned) Reason() string { return e.reason }

func because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &reasoned{reason, err}
}

// pullReason is the waiting reason for a pull that did not work (upstream: pkg/kubelet/images/types.go).
func pullReason(err error) string {
	if errors.Is(err, images.ErrInvalidName) {
		return "InvalidImageName"
	}
	return "ErrImagePull"
}

// createReason is the waiting reason for a container that could not be made.
func createReason(err error) string {
	var config *containers.ConfigError
	if errors.As(err, &config) {
		return "CreateContainerConfigError"
	}
	return "CreateContainerError"
}

// imageID is how a container status names an image: by repository and digest if it has one.
func imageID(i images.Info) string {
	if i.RepoDigest != "" {
		return i.RepoDigest
	}
	return i.ID
}
