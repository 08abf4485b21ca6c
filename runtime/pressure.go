package runtime

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"podd/api/pressure"
	"podd/api/usage"
	"podd/runtime/logs"
	"podd/runtime/stats"
	"podd/status"
)

// Pressure is how a runtime learns that the host has too little left of something, and what it may do about it.
type Pressure struct {
	Thresholds pressure.Thresholds // none: the host never has
	Period     time.Duration       // how long a condition holds after it was seen last

	Left  func() pressure.Observations
	OneFS func() bool // images and writable layers are on the file system of podd's state
	Usage func(ctx context.Context, want usage.Want) (*usage.Snapshot, error)
	// Event records an event on the node. Changed says that Pressed tells something else now. Neither blocks.
	Event   func(eventtype, reason, format string, args ...any)
	Changed func()
}

const (
	roomCheck   = 10 * time.Second // upstream: eviction monitoringInterval
	goingAtMost = 30 * time.Second // an evicted pod is waited for before the next one is (upstream: podCleanupTimeout)
)

// pressed is what was seen of the host's pressure.
type pressed struct {
	mu   sync.Mutex
	seen pressure.Conditions // nil before the first look; guarded by mu
}

// Pressed are the conditions of the host that are true now.
func (r *Runtime) Pressed() []v1.NodeConditionType {
	if len(r.Pressure.Thresholds) == 0 {
		return nil
	}
	r.pressed.mu.Lock()
	defer r.pressed.mu.Unlock()
	if r.pressed.seen == nil {
		r.seeRoom(r.Pressure.Left())
	}
	return r.pressed.seen.Hold(time.Now(), r.Pressure.Period)
}

// seeRoom notes what is left, and gives the thresholds that are met. pressed.mu is held.
func (r *Runtime) seeRoom(left pressure.Observations) pressure.Thresholds {
	if r.pressed.seen == nil {
		r.pressed.seen = pressure.Conditions{}
	}
	met := r.Pressure.Thresholds.Met(left)
	r.pressed.seen.See(met, time.Now())
	return met
}

// keepRoom looks at what the host has left, and ends pods while that is too little, until ctx is done.
func (r *Runtime) keepRoom(ctx context.Context) {
	if len(r.Pressure.Thresholds) == 0 {
		return
	}
	tick := time.NewTicker(roomCheck)
	defer tick.Stop()
	was := r.Pressed()
	for {
		left := r.Pressure.Left()
		r.pressed.mu.Lock()
		met := r.seeRoom(left)
		r.pressed.mu.Unlock()
		if is := r.Pressed(); !slices.Equal(is, was) {
			was = is
			r.Log.Warn("the host has too little left", "conditions", is)
			r.Pressure.Changed()
		}
		if len(met) > 0 && !r.going() {
			r.relieve(ctx, met[0], left[met[0].Signal])
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// going tells whether a pod is being evicted for the host's sake, whose room is not there yet. That is read from the records: podd may have
// been started again meanwhile.
func (r *Runtime) going() bool {
	for _, pod := range r.Store.Pods() {
		if pod.Spec.NodeName != r.Node.Name || pod.Status.Phase == v1.PodSucceeded {
			continue
		}
		r.mu.Lock()
		since, chosen := r.chosen[pod.UID]
		r.mu.Unlock()
		if chosen && pod.Status.Phase != v1.PodFailed && time.Since(since.At) < goingAtMost {
			return true
		}
		data, _ := r.Store.Record(pod.UID)
		rec, err := decodeRecord(data)
		if err != nil || rec.Evicted == nil || !rec.Evicted.Disruption || time.Since(rec.Evicted.At) >= goingAtMost {
			continue
		}
		if rec.Verdict == nil || r.Volumes.Stored(string(pod.UID)) {
			return true
		}
	}
	return false
}

// relieve does what there is to do about a threshold that is met: in the end, one pod has to go.
func (r *Runtime) relieve(ctx context.Context, t pressure.Threshold, left pressure.Observation) {
	r.Pressure.Event(v1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", t.Resource())
	if r.reclaim(ctx, t) {
		return
	}
	pods := r.uses(ctx, t)
	if len(pods) == 0 {
		r.Log.Debug("the host has too little left, and no pod that could go for it", "signal", t.Signal, "available", left.Available)
		return
	}
	pressure.Rank(t.Resource(), pods)
	victim := pods[0].Pod
	r.Log.Warn("a pod is evicted", "signal", t.Signal, "available", left.Available, "pod", victim.Namespace+"/"+victim.Name)
	r.choose(victim.UID, status.Eviction{At: time.Now(), Message: pressure.Message(t, left, pods[0]), Disruption: true})
}

// reclaim takes unused images away, if what is lacking is room where they are, and tells whether that was enough.
func (r *Runtime) reclaim(ctx context.Context, t pressure.Threshold) bool {
	onImages := t.Signal == pressure.ImageFSAvailable || t.Signal == pressure.ImageFSInodesFree
	onState := t.Signal == pressure.NodeFSAvailable || t.Signal == pressure.NodeFSInodesFree
	if r.Collect.High >= 100 || !onImages && !(onState && r.Pressure.OneFS()) {
		return false
	}
	if _, err := r.freeImages(ctx, func() bool { return false }); err != nil {
		r.Log.Warn("take unused images away", "err", err)
	}
	return len(r.Pressure.Thresholds.Met(r.Pressure.Left())) == 0
}

// choose has a pod end for the host or another pod.
func (r *Runtime) choose(uid types.UID, e status.Eviction) {
	r.mu.Lock()
	maps.DeleteFunc(r.chosen, func(uid types.UID, _ status.Eviction) bool {
		_, there := r.Store.PodByUID(uid)
		return !there
	})
	r.chosen[uid] = e
	r.mu.Unlock()
	r.Wake(uid)
}

func (r *Runtime) isChosen(uid types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.chosen[uid]
	return ok
}

// uses is what the pods that may go use of what t is about.
func (r *Runtime) uses(ctx context.Context, t pressure.Threshold) []pressure.Uses {
	var found []pressure.Uses
	var measured *usage.Snapshot
	if of := t.Resource(); of == v1.ResourceMemory || of == pressure.PIDs {
		var err error
		if measured, err = r.Pressure.Usage(ctx, usage.Want{Full: of == pressure.PIDs}); err != nil {
			r.Log.Warn("measure pods", "err", err)
			return nil
		}
	}
	for _, pod := range r.Store.Pods() {
		if pod.Spec.NodeName != r.Node.Name || ends(pod) || critical(pod) || pod.Status.StartTime == nil {
			continue
		}
		if measured == nil {
			found = append(found, r.stored(ctx, pod, t))
			continue
		}
		u := pressure.Uses{Pod: pod, Containers: map[string]int64{}}
		i := slices.IndexFunc(measured.Pods, func(p usage.Pod) bool { return p.UID == string(pod.UID) })
		if i >= 0 {
			p := &measured.Pods[i]
			u.Known, u.Amount = true, int64(p.Memory.WorkingSet)
			if t.Resource() == pressure.PIDs {
				u.Amount = int64(p.Processes)
			}
			for _, c := range p.Containers {
				u.Containers[c.Name] = int64(c.Memory.WorkingSet)
			}
		}
		found = append(found, u)
	}
	return found
}

// stored is what the pod has on the file system that t is about: where images have one of their own, writable layers are
// there, and logs and volumes are on the other one (pkg/kubelet/eviction/helpers.go buildSignalToRankFunc).
func (r *Runtime) stored(ctx context.Context, pod *v1.Pod, t pressure.Threshold) pressure.Uses {
	u := pressure.Uses{Pod: pod, Known: true, Containers: map[string]int64{}}
	layers, files := true, true
	if !r.Pressure.OneFS() {
		layers = t.Signal == pressure.ImageFSAvailable || t.Signal == pressure.ImageFSInodesFree
		files = !layers
	}
	inodes := t.Resource() == pressure.Inodes
	in := func(dir string) int64 {
		bytes, n, _ := stats.Files(ctx, dir) // what was counted before an error counts
		if inodes {
			return int64(n)
		}
		return int64(bytes)
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; files && onDisk(v) {
			u.Amount += in(r.Volumes.Path(string(pod.UID), v.Name))
		}
	}
	for _, c := range status.Statuses(&pod.Status) {
		if c.State.Running == nil {
			continue
		}
		log := in(filepath.Dir(logs.Path(r.LogDir, pod.Namespace, pod.Name, string(pod.UID), c.Name, 0)))
		layer, n, err := r.Containers.LayerSize(ctx, status.ContainerID(pod.UID, c.Name, int(c.RestartCount)))
		if err != nil {
			r.Log.Debug("measure a container's writable layer", "pod", pod.Name, "container", c.Name, "err", err)
		}
		if inodes {
			layer = n
		}
		u.Containers[c.Name] = log + layer
		if files {
			u.Amount += log
		}
		if layers {
			u.Amount += layer
		}
	}
	return u
}

// unsafe is the verdict over a pod that is not taken up while the host has too little left: under pressure of memory alone one
// that asks for nothing and does not tolerate that, else every one but those that the host needs
// (pkg/kubelet/eviction/eviction_manager.go Admit).
func (r *Runtime) unsafe(pod *v1.Pod) *status.Verdict {
	conditions := r.Pressed()
	if len(conditions) == 0 || critical(pod) {
		return nil
	}
	if slices.Equal(conditions, []v1.NodeConditionType{v1.NodeMemoryPressure}) {
		taint := v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qos.GetPodQOS(pod) != v1.PodQOSBestEffort || corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, false) {
			return nil
		}
	}
	return &status.Verdict{Phase: v1.PodFailed, Reason: status.Evicted, Message: fmt.Sprintf("The node had condition: %v. ", conditions)}
}
