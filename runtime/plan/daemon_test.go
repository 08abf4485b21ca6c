package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// daemon is podd with its memory, which is lost when it is killed. It plays the part of the worker.
type daemon struct {
	dead     bool
	next     *event // the look that is due
	poked    bool   // it is due now
	jobs     map[status.Task]*job
	failures map[status.Task]status.Failed
	pulled   map[string]time.Time
	beyond   *status.Eviction // why the pod was found to have to end
	seen     *status.Facts    // the last look while containerd answered
	prev     v1.PodStatus
	last     v1.PodStatus // the last result of status.Of
}

// job is one step under way.
type job struct {
	step    Step
	since   time.Time
	next    *event // its next move
	givenUp bool
	over    bool
	wrong   string // what was wrong with its verdict when it began
}

// boot starts podd on the world; kill ends it as SIGKILL does.
func (w *world) boot() {
	d := &daemon{jobs: map[status.Task]*job{}, failures: map[status.Task]status.Failed{}, pulled: map[string]time.Time{}}
	if w.d != nil {
		d.prev, d.last = w.d.prev, w.d.last
	}
	w.d = d
	w.event()
}

func (w *world) kill() {
	w.d.dead = true
	w.d.next.off()
	for _, j := range w.d.jobs {
		j.next.off()
	}
}

// event makes podd look again.
func (w *world) event() {
	d := w.d
	if d == nil || d.dead || d.poked || w.finished {
		return
	}
	d.next.off()
	d.poked = true
	d.next = w.after(0, func() { w.look(d) })
}

// look is one turn of podd: observe, plan, publish, begin and give up.
func (w *world) look(d *daemon) {
	d.poked = false
	if d.dead || w.finished {
		return
	}
	pod, f := w.observe(d)
	m := newModel(w)
	set, again := Next(pod, f)
	w.checkSet(pod, f, set)
	w.checkPlan(d, m, set)
	w.publish(d, m, pod, f)
	if f.Reachable {
		for _, work := range f.Work { // sorted, as the jobs are not
			w.review(d, d.jobs[work.Task], set)
		}
	}
	for _, s := range set {
		if d.jobs[s.Task()] == nil {
			w.begin(d, s)
		}
	}
	w.checkJobs(d, m)
	if !again.IsZero() && !d.poked {
		d.next = w.after(again.Sub(w.now), func() { w.look(d) })
	}
}

// review gives j up if it is no longer in set as it was begun. What only waits ends by that.
func (w *world) review(d *daemon, j *job, set []Step) {
	i := slices.IndexFunc(set, func(s Step) bool { return s.Task() == j.step.Task() })
	same := i >= 0 && set[i].Attempt == j.step.Attempt && set[i].Deadline.Equal(j.step.Deadline) && set[i].Sandbox == j.step.Sandbox
	if same || j.givenUp {
		return
	}
	j.givenUp = true
	if !Waits(j.step.Op) {
		return
	}
	if w.tells {
		w.log("give up %s", show(j.step, w.started))
	}
	j.next.off()
	j.next = w.after(w.lag(), func() { w.end(d, j, nil) })
}

func (w *world) observe(d *daemon) (*v1.Pod, status.Facts) {
	f := status.Facts{
		Now: w.now, Reachable: w.reachable, Limits: status.DefaultLimits(), Started: w.started, Gone: w.gone, Verdict: w.verdict,
		Node:   status.Node{Name: "host", IPs: []string{hostIP}, Allocatable: w.allocatable},
		Static: w.pod.Annotations["static"] != "",
		Beyond: d.beyond, Evicted: w.evicted,
		Era: w.era, EraBy: w.eraBy, Allocated: maps.Clone(w.allocated), Before: w.before, Room: w.room,
		Ground: w.ground, GroundLeft: w.groundLeft, Stored: w.stored && w.evicted != nil, Network: w.network, NetworkFirst: w.networkFirst,
		Images: map[string]status.Image{}, Pulled: maps.Clone(d.pulled), Mounted: maps.Clone(w.mounted), Failures: maps.Clone(d.failures),
	}
	if w.ground && w.written != w.sources {
		f.Stale = w.sources
	}
	if r := w.pod.Annotations["rejected"]; r != "" {
		f.Rejected = &status.Verdict{Phase: v1.PodFailed, Reason: "PodOSNotSupported", Message: r}
	}
	for i := range w.images {
		f.Images[i] = status.Image{ID: "sha256:" + i}
	}
	for t, j := range d.jobs {
		f.Work = append(f.Work, status.Work{Task: t, Attempt: j.step.Attempt, Since: j.since})
	}
	slices.SortFunc(f.Work, func(a, b status.Work) int {
		return cmp.Or(cmp.Compare(a.Task.Op, b.Task.Op), cmp.Compare(a.Task.Name, b.Task.Name))
	})
	switch {
	case w.reachable:
		f.Sandboxes = w.listed()
		f.Containers = w.instances(w.containers)
		d.seen = &f
	case d.seen != nil:
		f.Sandboxes = d.seen.Sandboxes
		f.Containers = w.instances(slices.DeleteFunc(slices.Clone(d.seen.Containers), func(c status.Container) bool { return !c.Present }))
	default:
		f.Containers = w.instances(nil)
	}
	return w.pod, f
}

// instances joins what containerd has with the two newest records of each container.
func (w *world) instances(present []status.Container) []status.Container {
	all := make([]status.Container, 0, len(present)+len(w.records))
	for _, c := range present {
		if r := w.records[c.ID]; r != nil {
			c = *r
			c.Present = true
		}
		all = append(all, c)
	}
	for id, r := range w.records {
		newer := 0 // of those that are not the two newest there is nothing to see
		for _, o := range w.records {
			if o.Name == r.Name && o.Attempt > r.Attempt {
				newer++
			}
		}
		if newer < 2 && !slices.ContainsFunc(present, func(c status.Container) bool { return c.ID == id }) {
			all = append(all, *r)
		}
	}
	slices.SortFunc(all, func(a, b status.Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attempt, b.Attempt))
	})
	kept := all[:0:0]
	for i, c := range all {
		if c.Present || i+2 >= len(all) || all[i+2].Name != c.Name {
			kept = append(kept, c)
		}
	}
	return kept
}

// begin starts a step. It takes effect after a while and ends a while later.
func (w *world) begin(d *daemon, s Step) {
	w.checkBegin(d, s)
	if w.tells {
		w.log("%s", show(s, w.started))
	}
	j := &job{step: s, since: w.now}
	if s.Op == Conclude {
		j.wrong = newModel(w).verdict(s.Verdict)
	}
	d.jobs[s.Task()] = j
	if s.Op == Create { // it goes by what is admitted now, to its end
		w.made[s.Name] = maps.Clone(w.allocated)
	}
	effect, rest := w.take(s)
	how := w.fails(s)
	switch s.Op {
	case Stop:
		w.stop(d, j, effect%time.Millisecond)
	case PostStart, PreStop:
		w.hook(d, j, how)
	case Startup, Readiness, Liveness:
		w.probe(d, j, how)
	default:
		j.next = w.after(effect, func() {
			err := w.try(s, how)
			if rest <= 0 {
				w.end(d, j, err)
				return
			}
			w.event()
			j.next = w.after(rest, func() { w.end(d, j, err) })
		})
	}
}

// end is the end of a job, with what its step answered.
func (w *world) end(d *daemon, j *job, err error) {
	if j.over || d.dead {
		return
	}
	j.over = true
	task := j.step.Task()
	delete(d.jobs, task)
	switch {
	case j.givenUp && Waits(task.Op): // neither a success nor a failure
	case err != nil:
		f := d.failures[task]
		d.failures[task] = status.Failed{Count: f.Count + 1, Last: w.now, Reason: reasons[task.Op], Message: err.Error()}
		w.log("failed %s %s: %v", task.Op, task.Name, err)
	default:
		delete(d.failures, task)
		if task.Op == PullImage {
			d.pulled[task.Name] = w.now
		}
	}
	w.event()
}

var reasons = map[status.Op]string{PullImage: "ErrImagePull", Create: "CreateContainerError", Start: "RunContainerError"}

// try is the instant at which a step takes effect, or does not.
func (w *world) try(s Step, how fate) error {
	switch {
	case !w.reachable && needsContainerd(s):
		return fmt.Errorf("containerd does not answer")
	case how == failsBefore:
		return fmt.Errorf("broken")
	case how == failsHalfway:
		w.half(s)
		return fmt.Errorf("half done")
	}
	w.effect(s)
	if how == failsAfter {
		return fmt.Errorf("no answer")
	}
	return nil
}

func needsContainerd(s Step) bool {
	return slices.Contains([]status.Op{EnsureSandbox, PullImage, Create, Start, Stop, Remove, RemoveSandbox, Resize, ResizePod}, s.Op)
}

// stop sends the signal, waits until the deadline, kills, and waits for the exit.
func (w *world) stop(d *daemon, j *job, jitter time.Duration) {
	c := w.running(j.step)
	if !w.reachable || c == nil {
		j.next = w.after(0, func() { w.end(d, j, nil) })
		return
	}
	id, wait := c.ID, j.step.Deadline.Sub(w.now)
	if grace := w.obeys(j.step.Name); grace >= 0 && wait > 0 {
		w.exitIn(id, grace+jitter, 143)
	}
	j.next = w.after(wait, func() {
		if !w.reachable {
			w.end(d, j, fmt.Errorf("containerd does not answer"))
			return
		}
		w.exitIn(id, time.Millisecond+jitter, 137)
		j.next = w.after(2*time.Millisecond+jitter, func() { w.end(d, j, nil) })
	})
}

// hook runs a hook and notes how it ended.
func (w *world) hook(d *daemon, j *job, how fate) {
	s := j.step
	takes, failed := w.hooks(s)
	if s.Op == PreStop && (takes < 0 || w.now.Add(takes).After(s.Deadline)) {
		takes, failed = s.Deadline.Sub(w.now), "it ran until the end of the grace period"
	}
	if takes < 0 && s.Op == PostStart {
		return // for ever
	}
	j.next = w.after(takes, func() {
		if how == failsBefore || how == failsHalfway {
			w.end(d, j, fmt.Errorf("broken"))
			return
		}
		w.note(s, func(c *status.Container) {
			at := &c.PostStart
			if s.Op == PreStop {
				at = &c.PreStop
			}
			*at = status.Hook{Ended: w.now, Failed: failed}
		})
		w.log("%s of %s ends %s", s.Op, s.Name, cmp.Or(failed, "well"))
		w.end(d, j, nil)
	})
}

// probe asks an instance until it has its answer, or for readiness as long as it is wanted.
func (w *world) probe(d *daemon, j *job, how fate) {
	s := j.step
	after, result := w.probes(s)
	if after < 0 {
		return // no news
	}
	j.next = w.after(after, func() {
		if how == failsBefore || how == failsHalfway {
			w.end(d, j, fmt.Errorf("broken"))
			return
		}
		changed := false
		w.note(s, func(c *status.Container) {
			at := map[status.Op]*status.Result{Startup: &c.Startup, Readiness: &c.Readiness, Liveness: &c.Liveness}[s.Op]
			changed = *at != result
			*at = result
		})
		if changed {
			w.log("%s of %s: %s", s.Op, s.Name, result)
			w.event()
		}
		if s.Op == Readiness {
			w.probe(d, j, works)
			return
		}
		w.end(d, j, nil)
	})
}
