// Package stats measures what the host and its pods use: cpu, memory, block I/O, processes, network, and what their files
// take.
//
// Everything is read from the kernel, from cgroups, /proc and the file systems, when somebody asks; containerd is not
// asked, and when nobody asks nothing is done. Which pods and containers there are is what the store says. A measurement
// serves all who ask within a second. Files are counted in the background, at most once a minute each and at most for a
// twentieth of the time.
package stats

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/api/usage"
)

// Options say where things are.
type Options struct {
	Pods       func() []*v1.Pod // as they are in the store; not changed
	Node       string           // only pods of this node are measured
	Trees      []Tree
	Parent     string                                     // podd's parent cgroup
	Cgroup     func(pod *v1.Pod) string                   // path of a pod's cgroup
	Sandbox    func(uid string, attempt int) string       // container id of a pod's sandbox
	Volume     func(uid, name string) string              // directory of an emptyDir
	Logs       func(pod *v1.Pod, container string) string // directory of a container's logs
	Root       string                                     // state directory: its file system is the node's
	Containerd func() int                                 // pid of containerd, 0 if it is not there
	Log        *slog.Logger
}

// Stats measures. Its methods may be called from any goroutine.
type Stats struct {
	Options
	trees trees

	mu      sync.Mutex        // one measurement at a time; guards all below
	files   reader            //
	namer   reader            // for what is asked while a file is still being looked through
	devices map[string]string // names of block devices, by number
	last    *usage.Snapshot   // the newest measurement
	points  map[string]*point // by cgroup path
	static  machine           // what does not change while the host is up
	disks   disks             // has a lock of its own
	clock   func() time.Time  // time.Now
}

// point is where rates of one cgroup begin: the newest look at it, and the one before that.
type point struct {
	usage, before time.Duration
	at, since     time.Time
}

const (
	fresh   = time.Second            // a measurement serves this long
	stale   = 2 * time.Minute        // a rate over a longer time says nothing of now
	shortly = 500 * time.Millisecond // how long a first question for rates takes
)

// New gives a Stats that does nothing until it is asked.
func New(o Options) *Stats {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stats{Options: o, trees: newTrees(o.Trees), devices: map[string]string{}, points: map[string]*point{}, clock: time.Now}
	s.disks.init()
	return s
}

// Look measures, or gives a measurement that is at most a second old.
func (s *Stats) Look(ctx context.Context, want usage.Want) (*usage.Snapshot, error) {
	if want.Full {
		s.disks.begin(ctx, s.targets())
	}
	snapshot := s.look(want.Full)
	if !want.Rates || snapshot.Node.CPU.Window > 0 && !slices.ContainsFunc(snapshot.Pods, unrated) {
		return snapshot, nil
	}
	wait := time.NewTimer(shortly)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clock().Sub(s.last.At) >= shortly { // nobody else has looked meanwhile
		s.measure(want.Full)
	}
	return s.last, nil
}

// unrated tells of a pod that has just been seen for the first time.
func unrated(p usage.Pod) bool {
	return p.CPU.Window == 0 || slices.ContainsFunc(p.Containers, func(c usage.Container) bool { return c.CPU.Window == 0 })
}

func (s *Stats) look(full bool) *usage.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || s.clock().Sub(s.last.At) >= fresh || full && !s.last.Full {
		s.measure(full)
	}
	return s.last
}

// measure looks at everything and keeps it as the newest. s.mu is held.
func (s *Stats) measure(full bool) {
	snapshot := &usage.Snapshot{At: s.clock(), Full: full}
	seen := make(map[string]*point, len(s.points))
	rate := func(g *usage.Group) {
		s.rate(g, snapshot.At)
		seen[g.ID] = s.points[g.ID]
	}
	snapshot.Node = s.node(full, rate)
	roots := s.disks.roots()
	for _, pod := range s.Pods() {
		if pod.Spec.NodeName != s.Node || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			continue
		}
		if p, ok := s.pod(pod, full, rate, roots); ok {
			snapshot.Pods = append(snapshot.Pods, p)
		}
	}
	slices.SortFunc(snapshot.Pods, func(a, b usage.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.points = seen
	s.last = snapshot
}

// rate works out how much cpu the group has used since the look before; it forgets looks that are too old.
func (s *Stats) rate(g *usage.Group, now time.Time) {
	p := s.points[g.ID]
	switch {
	case p == nil || g.CPU.Usage < p.usage || now.Sub(p.at) > stale: // new, another one of that name, or too long ago
		p = &point{usage: g.CPU.Usage, at: now}
	case now.Sub(p.at) >= shortly:
		p = &point{usage: g.CPU.Usage, at: now, before: p.usage, since: p.at}
	}
	s.points[g.ID] = p
	if !p.since.IsZero() && now.Sub(p.since) <= 2*stale {
		g.CPU.Window = p.at.Sub(p.since)
		g.CPU.Rate = float64(p.usage-p.before) / float64(g.CPU.Window)
	}
}

// maxSandboxes bounds the search for a pod's sandbox: sandboxes are hardly ever made anew.
const maxSandboxes = 32

// pod measures one pod; false when it has no cgroup.
func (s *Stats) pod(pod *v1.Pod, full bool, rate func(*usage.Group), roots map[string]usage.Disk) (usage.Pod, bool) {
	path := s.Cgroup(pod)
	g, ok := s.group(path, full)
	if !ok {
		return usage.Pod{}, false
	}
	rate(&g)
	p := usage.Pod{Group: g, Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), HostNetwork: pod.Spec.HostNetwork}
	if pod.Status.StartTime != nil {
		p.Started = pod.Status.StartTime.Time
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if c, ok := s.container(pod, path, &status, full, rate, roots); ok {
			p.Containers = append(p.Containers, c)
		}
	}
	if !full {
		return p, true
	}
	s.sandbox(&p, path, rate)
	p.Processes = 0 // what is in the pod's own cgroup is none
	for _, c := range p.Containers {
		p.Processes += c.Processes
	}
	if p.Sandbox != nil {
		p.Processes += p.Sandbox.Processes
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil {
			p.Volumes = append(p.Volumes, usage.Volume{Name: v.Name, Memory: v.EmptyDir.Medium != v1.StorageMediumDefault, Disk: s.disks.get(s.Volume(p.UID, v.Name))})
		}
	}
	return p, true
}

func (s *Stats) container(pod *v1.Pod, path string, status *v1.ContainerStatus, full bool, rate func(*usage.Group), roots map[string]usage.Disk) (usage.Container, bool) {
	if status.State.Running == nil {
		return usage.Container{}, false
	}
	id := plainID(status.ContainerID)
	g, ok := s.group(path+"/"+id, full)
	if id == "" || !ok {
		return usage.Container{}, false
	}
	rate(&g)
	g.Started = status.State.Running.StartedAt.Time
	c := usage.Container{Group: g, Name: status.Name, Image: status.Image, ContainerID: id}
	if full {
		c.Root, c.Logs = roots[id], s.disks.get(s.Logs(pod, status.Name))
	}
	return c, true
}

// sandbox finds the pod's sandbox by its id, and reads the pod's network through its process.
func (s *Stats) sandbox(p *usage.Pod, path string, rate func(*usage.Group)) {
	for attempt := range maxSandboxes {
		id := s.Sandbox(p.UID, attempt)
		g, ok := s.group(path+"/"+id, true)
		if !ok {
			continue
		}
		rate(&g)
		g.Started = p.Started
		p.Sandbox = &usage.Container{Group: g, ContainerID: id}
		if p.HostNetwork {
			return
		}
		if pid := s.firstPid(g.ID); pid > 0 {
			p.Interfaces = s.interfaces(pid)
			return
		}
	}
}

// plainID is a container id without the name of the runtime.
func plainID(id string) string {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i] == '/' {
			return id[i+1:]
		}
	}
	return id
}

// Run counts files when a look asks for them, until ctx is done.
func (s *Stats) Run(ctx context.Context) error { return s.disks.run(ctx) }

// targets is every tree of files that is counted.
func (s *Stats) targets() []target {
	var out []target
	running := map[string]bool{}
	for _, pod := range s.Pods() {
		if pod.Spec.NodeName != s.Node {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			if c.State.Running == nil {
				continue
			}
			running[plainID(c.ContainerID)] = true
			out = append(out, target{dir: s.Logs(pod, c.Name)})
		}
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil {
				out = append(out, target{dir: s.Volume(string(pod.UID), v.Name), whole: v.EmptyDir.Medium != v1.StorageMediumDefault})
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return out
	}
	for id, upper := range uppers(mounts, running) {
		out = append(out, target{dir: upper, container: id})
	}
	return out
}
