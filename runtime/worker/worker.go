// Package worker turns the pure plan into work: one Worker owns one pod. It looks, asks the plan what should be under
// way, starts what is missing, gives up what is unwanted, publishes the status, and waits for the next reason to look.
package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/plan"
	"podd/status"
)

// Host is the seam between the plan and the world.
type Host interface {
	// Observe looks at everything that is known of the pod. Work and Failures are filled in by the worker. Without changed,
	// nothing has come since the last look but the end of steps whose effect is known (plan.Notes) and what the host was
	// told itself (Note): what containerd showed then still holds for all else.
	Observe(ctx context.Context, changed bool) (*v1.Pod, status.Facts, error)
	// Do makes one step so. Doing it twice is the same as doing it once.
	Do(ctx context.Context, pod *v1.Pod, step plan.Step) error
	// Publish makes a status visible. It is called with every look; an unchanged status must cost nothing.
	Publish(pod *v1.Pod, next v1.PodStatus) error
}

// Reasoner is an error that knows the waiting reason it stands for, such as ErrImagePull.
type Reasoner interface {
	error
	Reason() string
}

// Lacking is an error for want of something that others may bring at any time, such as an object that is not there yet.
type Lacking interface {
	error
	Lacking()
}

// HostLimit bounds a step that changes the host: then its context ends. A step that the kernel holds, as on the mount of
// a dead server, stays under way until the kernel lets it go, and so does what has to wait for it.
const HostLimit = 2 * time.Minute

// relook is how long a pod is left alone at most when nothing happens to it.
const relook = 60 * time.Second

// pardonEvery is how often failures are forgiven at most: what a pod lacks may change all the time and still not be right.
const pardonEvery = time.Second

// holdBack is how soon a pod is looked at again after a step without effect; the plan then says when to try again.
const holdBack = 100 * time.Millisecond

// Worker owns one pod.
type Worker struct {
	host Host
	poke chan struct{}
	note chan struct{}

	mu       sync.Mutex
	forgiven map[status.Op]bool // to be tried again at once; guarded by mu

	// Owned by Run's goroutine.
	jobs     map[status.Task]*job
	done     map[status.Task]int // attempt of the steps that succeeded since the last look
	failures map[status.Task]status.Failed
	lacking  map[status.Task]bool // failures for want of something
	pardoned time.Time            // the last pardon
	finished chan *job
	wait     sync.WaitGroup
	timer    *time.Timer
	changed  bool // something may have changed on the host since the last look
}

// job is one step under way.
type job struct {
	step    plan.Step
	since   time.Time
	cancel  context.CancelFunc
	givenUp bool
	pardon  bool // what it needs may have come since it began: if it fails for want of it, it is tried again at once
	err     error
}

// New gives a worker for the pod behind host. It does nothing before Run.
func New(host Host) *Worker {
	return &Worker{
		host:     host,
		poke:     make(chan struct{}, 1),
		note:     make(chan struct{}, 1),
		forgiven: map[status.Op]bool{},
		jobs:     map[status.Task]*job{},
		done:     map[status.Task]int{},
		failures: map[status.Task]status.Failed{},
		lacking:  map[status.Task]bool{},
		finished: make(chan *job),
	}
}

// Poke tells the worker to look again. It never blocks and carries no data.
func (w *Worker) Poke() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// Note tells the worker to look again at what podd knows: the host was told of all that has changed. It never blocks.
func (w *Worker) Note() {
	select {
	case w.note <- struct{}{}:
	default:
	}
}

// Forgive has the steps of ops that have failed for want of something, or are under way and will, tried again at once instead
// of when their back-off is over: what they lacked may be there now. It never blocks.
func (w *Worker) Forgive(ops ...status.Op) {
	w.forgive(ops...)
	w.Poke()
}

func (w *Worker) forgive(ops ...status.Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range ops {
		w.forgiven[op] = true
	}
}

// pardon does what Forgive asked for. If it did so a moment ago it waits until again, else that is zero.
func (w *Worker) pardon() (again time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jobs {
		j.pardon = j.pardon || w.forgiven[j.step.Op]
	}
	var due []status.Task
	for task := range w.failures {
		if w.forgiven[task.Op] && w.lacking[task] {
			due = append(due, task)
		}
	}
	if next := w.pardoned.Add(pardonEvery); len(due) > 0 && time.Now().Before(next) {
		return next
	}
	for _, task := range due {
		w.failures[task], w.pardoned = pardoned(w.failures[task]), time.Now()
	}
	clear(w.forgiven)
	return time.Time{}
}

// pardoned is a failure that holds nothing back. It stays until the next try, so that the status goes on showing it.
func pardoned(f status.Failed) status.Failed {
	f.Count, f.Last = 1, time.Time{}
	return f
}

// Run works until the pod is finished (nil) or ctx ends (its error). Either way no step is under way any more.
func (w *Worker) Run(ctx context.Context) error {
	w.timer, w.changed = time.NewTimer(relook), true
	defer w.timer.Stop()
	defer w.settle()
	for {
		done, err := w.look(ctx)
		if done || ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			w.timer.Reset(time.Second)
		}
		w.sleep(ctx)
	}
}

// look is one turn: observe, plan, act, publish. done is true once the pod has been let go.
func (w *Worker) look(ctx context.Context) (done bool, err error) {
	finish := status.Task{Op: plan.Finish}
	pardon := w.pardon() // before the look, which sees what has come
	pod, facts, err := w.host.Observe(ctx, w.changed)
	if err != nil {
		w.changed = true
		return false, err
	}
	w.changed = false
	facts.Work = w.work()
	facts.Failures = w.failed()
	set, again := plan.Next(pod, facts)
	if facts.Reachable { // while containerd is away nothing new is known of what they are for
		w.giveUp(set)
	}
	again = earliest(w.holdBack(set, again), pardon)
	for _, step := range set {
		if !plan.Follows(step.Op) {
			w.start(ctx, pod, step)
		}
	}
	err = w.publish(pod, facts)
	for _, step := range set {
		switch {
		case !plan.Follows(step.Op):
		case step.Task() != finish:
			w.start(ctx, pod, step)
		case len(w.jobs) == 0 && err == nil:
			return w.finish(ctx, pod, step)
		}
	}
	w.timer.Reset(until(facts.Now, again))
	return false, err
}

func (w *Worker) publish(pod *v1.Pod, facts status.Facts) error {
	return w.host.Publish(pod, status.Of(pod, facts))
}

// finish runs the last step in the worker's own goroutine: nothing may come after it.
func (w *Worker) finish(ctx context.Context, pod *v1.Pod, step plan.Step) (bool, error) {
	if err := w.host.Do(ctx, pod, step); err != nil {
		w.fail(step, err)
		return false, err
	}
	return true, nil
}

// earliest is the first of two times; zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// until is the time to wait for again, at least a millisecond, at most relook.
func until(now, again time.Time) time.Duration {
	if again.IsZero() {
		return relook
	}
	return min(max(again.Sub(now), time.Millisecond), relook)
}

// sleep waits for the next reason to look.
func (w *Worker) sleep(ctx context.Context) {
	select {
	case <-w.poke:
		w.changed = true
	case <-w.note:
	case <-w.timer.C:
		w.changed = true
	case j := <-w.finished:
		w.reap(j)
	case <-ctx.Done():
	}
	for { // everything that is over by now belongs to the same look
		select {
		case j := <-w.finished:
			w.reap(j)
		default:
			return
		}
	}
}

// errNoEffect is the failure of a step that succeeded without the host showing it. It keeps podd from turning in circles
// when somebody undoes its work as fast as it is done.
var errNoEffect = errors.New("done, but the host does not show it")

// holdBack counts every step as failed that is wanted again in the very look after it succeeded, so that it is not tried
// again before its time, which becomes part of the time of the next look.
func (w *Worker) holdBack(set []plan.Step, again time.Time) time.Time {
	for _, s := range set {
		attempt, ok := w.done[s.Task()]
		if !ok || attempt != s.Attempt || s.Op == plan.Finish {
			continue
		}
		w.fail(s, fmt.Errorf("%s %s: %w", s.Op, s.Name, errNoEffect))
		again = earliest(again, time.Now().Add(holdBack))
	}
	for task := range w.done {
		if f, ok := w.failures[task]; !ok || f.Count == 0 {
			delete(w.done, task)
		}
	}
	return again
}

// start runs step unless its task is under way already, or was found to have no effect in this look.
func (w *Worker) start(ctx context.Context, pod *v1.Pod, step plan.Step) {
	if _, ok := w.jobs[step.Task()]; ok {
		return
	}
	if _, ok := w.done[step.Task()]; ok {
		delete(w.done, step.Task())
		return
	}
	var jobCtx context.Context
	j := &job{step: step, since: time.Now()}
	if plan.Waits(step.Op) {
		jobCtx, j.cancel = context.WithCancel(ctx)
	} else {
		jobCtx, j.cancel = context.WithTimeout(context.WithoutCancel(ctx), HostLimit)
	}
	w.jobs[step.Task()] = j
	w.wait.Go(func() {
		j.err = w.host.Do(jobCtx, pod, step)
		j.cancel()
		w.finished <- j
	})
}

// giveUp cancels the waiting steps that are not in the set any more, or that are wanted in another form now.
func (w *Worker) giveUp(set []plan.Step) {
	wanted := make(map[status.Task]plan.Step, len(set))
	for _, s := range set {
		wanted[s.Task()] = s
	}
	for task, j := range w.jobs {
		s, ok := wanted[task]
		same := ok && s.Attempt == j.step.Attempt && sameDeadline(s.Deadline, j.step.Deadline)
		if !same && plan.Waits(task.Op) {
			j.givenUp = true
			j.cancel()
		}
	}
}

// sameDeadline is true for equal deadlines, and for two that have both passed: the kill is then already under way.
func sameDeadline(a, b time.Time) bool {
	now := time.Now()
	return a.Equal(b) || (!a.After(now) && !b.After(now))
}

// reap takes a finished job off the list and keeps its failure as a fact.
func (w *Worker) reap(j *job) {
	task := j.step.Task()
	delete(w.jobs, task)
	w.changed = w.changed || !plan.Notes(j.step.Op) || j.err != nil
	switch {
	case j.err == nil:
		delete(w.failures, task)
		delete(w.lacking, task)
		w.done[task] = j.step.Attempt
	case j.givenUp:
	default:
		w.fail(j.step, j.err)
		if j.pardon {
			w.forgive(task.Op)
		}
	}
}

func (w *Worker) fail(step plan.Step, err error) {
	task := step.Task()
	f := w.failures[task]
	f.Count++
	f.Last = time.Now()
	f.Message = err.Error()
	f.Reason = ""
	var r Reasoner
	if errors.As(err, &r) {
		f.Reason = r.Reason()
	}
	w.failures[task] = f
	w.lacking[task] = errors.As(err, new(Lacking))
}

// work lists what is under way, as a fact for the next look.
func (w *Worker) work() []status.Work {
	out := make([]status.Work, 0, len(w.jobs))
	for task, j := range w.jobs {
		out = append(out, status.Work{Task: task, Attempt: j.step.Attempt, Since: j.since})
	}
	return out
}

func (w *Worker) failed() map[status.Task]status.Failed {
	out := make(map[status.Task]status.Failed, len(w.failures))
	for t, f := range w.failures {
		out[t] = f
	}
	return out
}

// settle waits for every step under way; the waiting ones end at once because their context has ended.
func (w *Worker) settle() {
	for _, j := range w.jobs {
		if plan.Waits(j.step.Op) {
			j.cancel()
		}
	}
	go func() {
		for range w.finished {
		}
	}()
	w.wait.Wait()
	close(w.finished)
}
