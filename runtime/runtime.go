// Package runtime makes the pods of the store run on this host, and writes back what becomes of them.
//
// The supervisor (this file) has one worker per pod. A worker's turn is: Observe, plan.Next, start what is missing,
// publish status.Of. Everything that happens, in the store, in containerd or by the clock, only makes a worker look
// again; podd's start is nothing but the first look at every pod of which anything is known.
package runtime

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/network"
	"podd/runtime/containers"
	"podd/runtime/history"
	"podd/runtime/images"
	"podd/runtime/logs"
	"podd/runtime/probes"
	"podd/runtime/sources"
	"podd/runtime/worker"
	"podd/sandbox"
	"podd/status"
	"podd/status/exits"
	"podd/store"
	"podd/volumes"
)

// Options are the parts a runtime is put together from. All of them are needed.
type Options struct {
	Store      *store.Store
	Containers *containers.Client
	Sandboxes  *sandbox.Sandboxes
	Images     *images.Images
	Network    *network.Network
	Volumes    *volumes.Volumes
	Writer     *logs.Writer
	History    *history.History // nil keeps none

	Namespace string // of containerd
	Node      status.Node
	Limits    status.Limits
	BootID    string // changes with every boot of the host
	RunDir    string // tmpfs: markers of what was done in this boot
	PodsDir   string // durable: one directory per pod, made by volumes
	LogDir    string // parent of pods/ and containers/
	LogSize   int64  // bytes at which a log is rotated
	LogFiles  int    // files kept of a log
	Parallel  int    // container starts at the same time, over all pods, and removals

	// Event records an event on a pod, or on one of its containers if that is named; it must not block. Adopt gives the
	// store a pod that runs, but that it has lost.
	Event func(pod *v1.Pod, container, eventtype, reason, format string, args ...any)
	Adopt func(ctx context.Context, pod *v1.Pod) error
	Log   *slog.Logger
	// Reject, if set, says why this host does not take a pod that was bound to it; nil is that it does. It is asked often.
	Reject func(pod *v1.Pod) *status.Verdict
	// Allocatable, if set, is what pods may have of this host in all; nil is that it is not known, and everything fits.
	Allocatable func() v1.ResourceList
	// Handler is the handler of a runtime class.
	Handler func(class string) (string, error)
	// Tokens, if set, makes the service account tokens of projected volumes.
	Tokens sources.Tokens

	Timing   Timing
	Pressure Pressure
	Collect  Collect
}

// Runtime runs the pods of one host.
type Runtime struct {
	Options
	starts chan struct{} // a slot per container that may be started at the same time
	ends   chan struct{} // the same of those that may be taken away
	prober *probes.Prober
	probes probes.Counts
	begun  time.Time // of this podd

	accounts accountCache
	promises promises
	users    users
	stdins   feeds
	pressed  pressed
	unused   unused

	mu      sync.Mutex
	beyond  map[types.UID]string          // which of its limits a pod is beyond; guarded by mu
	chosen  map[types.UID]status.Eviction // pods that are to end for the host or another pod, and since when; guarded by mu
	dirty   map[types.UID]bool            // to be looked at; guarded by mu
	workers map[types.UID]crew            // one per pod; guarded by mu
	wake    chan struct{}                 // capacity 1: dirty is not empty
	again   chan struct{}                 // capacity 1: everything is to be looked at
	down    chan struct{}                 // closed when Run is to end
	claimed chan struct{}                 // closed once the host was searched for pods that the store has lost
	running sync.WaitGroup
}

// crew is the worker of a pod with the host that it works on.
type crew struct {
	*worker.Worker
	host *host
}

// relist is how often everything is looked at even if nothing told to; it is jittered.
const relist = 60 * time.Second

// renet is how soon rules are back that somebody flushed. It costs a millisecond, and keeps short the time in which a
// host port would lack its guard.
const renet = 15 * time.Second

// New gives a runtime that does nothing before Run.
func New(o Options) *Runtime {
	return &Runtime{
		Options:  o,
		starts:   make(chan struct{}, max(o.Parallel, 1)),
		ends:     make(chan struct{}, max(o.Parallel, 1)),
		prober:   probes.New(),
		begun:    time.Now(),
		dirty:    map[types.UID]bool{},
		beyond:   map[types.UID]string{},
		chosen:   map[types.UID]status.Eviction{},
		workers:  map[types.UID]crew{},
		wake:     make(chan struct{}, 1),
		again:    make(chan struct{}, 1),
		down:     make(chan struct{}),
		claimed:  make(chan struct{}),
		promises: promises{known: map[types.UID]promise{}, given: map[types.UID]promise{}, waits: map[types.UID]bool{}},
	}
}

// Run runs pods until ctx ends. Then it waits for the steps under way and leaves all pods running.
func (r *Runtime) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { close(r.down) })()
	defer r.Store.OnPodChangeByOthers(itself, r.Wake)()
	defer r.Store.OnObjectChange(r.sourceChanged)()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer r.running.Wait()
	parts.Go(func() { r.watchExits(ctx) })
	parts.Go(func() { r.watchContainerd(ctx) })
	parts.Go(func() { r.keepNetwork(ctx) })
	parts.Go(func() { r.keepHistory(ctx) })
	parts.Go(func() { r.watchLosses(ctx) })
	parts.Go(func() { r.keepLimits(ctx) })
	parts.Go(func() { r.keepRoom(ctx) })
	parts.Go(func() { r.keepImages(ctx) })
	if err := r.claimFirst(ctx); err != nil {
		return err
	}
	close(r.claimed)
	r.wakeAll(ctx)
	timer := time.NewTimer(jitter(relist))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			r.poke(ctx)
		case <-r.again:
			r.wakeAll(ctx)
		case <-timer.C:
			r.wakeAll(ctx)
			timer.Reset(jitter(relist))
		}
	}
}

func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5) }

// Wake says that something about a pod may have changed. It does not block.
func (r *Runtime) Wake(uid types.UID) {
	r.mu.Lock()
	r.dirty[uid] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// ImagesCame says that somebody has loaded or pulled images: pods that wait for one, or are to try again later, look at once.
func (r *Runtime) ImagesCame() {
	for _, pod := range r.Store.Pods() {
		if slices.ContainsFunc(status.Statuses(&pod.Status), lacksImage) {
			r.Wake(pod.UID)
		}
	}
}

// lacksImage tells whether a container waits for its image, or for that of a volume.
func lacksImage(c v1.ContainerStatus) bool {
	w := c.State.Waiting
	return w != nil && slices.Contains([]string{"ErrImagePull", imagePullBackOff, errImageNeverPull, "ImageInspectError", "RegistryUnavailable"}, w.Reason)
}

// poke hands every dirty pod to its worker, and gives one to a pod that has none.
func (r *Runtime) poke(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid := range r.dirty {
		if w, ok := r.workers[uid]; ok {
			w.Poke()
		} else if r.mine(uid) {
			r.start(ctx, uid)
		}
	}
	clear(r.dirty)
}

// mine tells whether this host has anything to do for uid: a pod bound to it, or something left of one. A deleted pod of
// another node is finished here as well: no one else would. One that is bound nowhere was on no host; the API lets it go.
func (r *Runtime) mine(uid types.UID) bool {
	if pod, ok := r.Store.PodByUID(uid); ok {
		return pod.Spec.NodeName == r.Node.Name || pod.Spec.NodeName != "" && pod.DeletionTimestamp != nil
	}
	_, ok := r.Store.Record(uid)
	return ok
}

// start gives uid a worker. r.mu is held.
func (r *Runtime) start(ctx context.Context, uid types.UID) {
	h := newHost(r, uid)
	w := worker.New(&timed{Host: h, timing: r.Timing, story: h.story})
	r.workers[uid] = crew{w, h}
	r.running.Go(func() {
		h.storeAdopted(ctx)
		r.History.Resume(string(uid))
		r.endStdins(ctx, uid)
		if err := w.Run(ctx); err == nil {
			r.Log.Debug("pod finished", "uid", uid)
		}
		r.probes.Forget(string(uid))
		r.mu.Lock()
		delete(r.workers, uid)
		r.mu.Unlock()
		r.release(uid)
		if r.mine(uid) { // the same pod again, such as that of a manifest file that came back
			r.Wake(uid)
		}
	})
}

// wakeAll makes every pod be looked at of which anything is known, in the store or on the host.
func (r *Runtime) wakeAll(ctx context.Context) {
	for _, pod := range r.Store.Pods() {
		r.Wake(pod.UID)
	}
	for uid := range r.Store.Records() {
		r.Wake(uid)
	}
	r.poke(ctx) // the search for more takes long when containerd hangs
	if err := r.claim(ctx); err != nil && ctx.Err() == nil {
		r.Log.Warn("look for pods that the state file does not know", "err", err)
	}
}

// hasDir tells whether the pod still has its directory of volumes.
func (r *Runtime) hasDir(uid types.UID) bool {
	_, err := os.Lstat(filepath.Join(r.PodsDir, string(uid)))
	return err == nil
}

// watchExits turns containerd's events into looks, and looks at everything after each gap in them.
func (r *Runtime) watchExits(ctx context.Context) {
	l := exits.Listener{
		Pod: func(ctx context.Context, id string) string {
			uid, err := r.Containers.PodOf(ctx, id)
			if err != nil {
				r.Log.Debug("find the pod of a container", "id", id, "err", err)
			}
			return uid
		},
		Ended: func(uid string, end exits.End) { r.ended(types.UID(uid), end) },
		Wake:  func(uid string) { r.Wake(types.UID(uid)) },
		Lost:  r.wakeSoon,
	}
	if err := exits.Run(ctx, r.Containers.Containerd(), r.Namespace, l); err != nil && ctx.Err() == nil {
		r.Log.Error("watch exits", "err", err)
	}
}

// ended has a pod looked at after a process of its containers has ended, without containerd being asked for it if what it
// showed last is of that very process.
func (r *Runtime) ended(uid types.UID, end exits.End) {
	r.mu.Lock()
	c, ok := r.workers[uid]
	r.mu.Unlock()
	if ok && c.host.ended(end) {
		c.Note()
		return
	}
	r.Wake(uid)
}

// wakeSoon makes everything be looked at. It does not block.
func (r *Runtime) wakeSoon() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// askEvery is how often containerd is asked whether it answers: when it hangs or stays away no event tells.
const askEvery = 5 * time.Second

// watchContainerd looks at everything when containerd stops to answer, and when it answers again.
func (r *Runtime) watchContainerd(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for answered := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.Healthy()
		if (err == nil) == answered {
			continue
		}
		answered = err == nil
		r.Log.Warn("containerd", "answers", answered, "err", err)
		r.wakeSoon()
	}
}

// askLosses is how often podd-logd is asked what the disk did not take.
const askLosses = 10 * time.Second

// watchLosses tells the pods' owners of lines that their logs lack.
func (r *Runtime) watchLosses(ctx context.Context) {
	tick := time.NewTicker(askLosses)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ask, cancel := context.WithTimeout(ctx, askLosses)
		losses, err := r.Writer.Losses(ask) // one that is away, or older than podd, has nothing to tell
		if err == nil && len(losses) > 0 {
			r.tellLosses(ask, losses)
		}
		cancel()
	}
}

func (r *Runtime) tellLosses(ctx context.Context, losses []logs.Loss) {
	instances, err := r.Containers.Look(ctx, "")
	if err != nil {
		r.Log.Warn("tell of lost lines of logs", "lost", losses, "err", err)
		return
	}
	for _, l := range losses {
		i := slices.IndexFunc(instances, func(i containers.Instance) bool { return i.ID == l.ID })
		if i < 0 {
			continue
		}
		if pod, ok := r.Store.PodByUID(types.UID(instances[i].UID)); ok {
			r.Event(pod, instances[i].Name, v1.EventTypeWarning, "LogLost", "%d lines (%d bytes) of its output could not be written to its log: %s", l.Lines, l.Bytes, l.Cause)
		}
	}
}

// keepNetwork makes the host's part of the pod network, and makes it again if somebody took it away.
func (r *Runtime) keepNetwork(ctx context.Context) {
	for {
		wait := jitter(renet)
		if err := r.Network.Setup(ctx); err != nil && ctx.Err() == nil {
			r.Log.Error("set up the pod network", "err", err)
			wait = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Healthy is nil while containerd answers.
func (r *Runtime) Healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return r.Containers.Ready(ctx)
}
