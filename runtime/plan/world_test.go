package plan

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/status"
)

// world is a host in memory: what containerd, the kernel and the store would hold of one pod. It plays the part of the
// worker's host so that whole lives of a pod run in synctest's time. Steps take effect somewhere inside their run time,
// so podd sees the effect while its own work is still under way, as it does on a real host.
type world struct {
	mu   sync.Mutex
	t    reporter
	name string

	// Durable.
	pod     *v1.Pod // nil once the object is gone
	gone    bool    // the object was taken from the store by force
	verdict *status.Verdict
	records map[string]status.Container // exits by container id
	started time.Time

	// On the host.
	reachable  bool
	ground     bool
	groundLeft bool
	network    status.Network
	sandboxes  []status.Sandbox
	containers []status.Container // present in containerd
	images     map[string]bool

	// How it behaves.
	run   func(c string, attempt int) (time.Duration, int32) // how long an instance runs and its exit code; <0 is for ever
	obeys func(c string) time.Duration                       // how long after SIGTERM it ends; <0 never
	take  func(s Step) (effect, rest time.Duration)          // time until a step's effect, and from there to its end
	fails func(s Step) fate
	life  map[string]int // invalidates the exit that was going to happen

	d *daemon

	finished bool
	effects  int
	tells    bool // whether log is listened to
	log      func(format string, args ...any)
}

type reporter interface {
	Helper()
	Errorf(string, ...any)
}

// fate is how one try of a step goes.
type fate int

const (
	works fate = iota
	failsBefore
	failsHalfway // something is left
	failsAfter   // all is done, the answer is an error
)

// daemon is podd's memory: lost when it is killed.
type daemon struct {
	ctx      context.Context
	cancel   context.CancelFunc
	poke     chan struct{}
	jobs     map[status.Task]*job
	failures map[status.Task]status.Failed
	pulled   map[string]time.Time
	seen     *status.Facts // the last look while containerd answered
	prev     v1.PodStatus
	last     v1.PodStatus // the last result of status.Of
	wg       sync.WaitGroup
}

type job struct {
	step   Step
	cancel context.CancelFunc
	since  time.Time
	done   bool
}

const hostIP = "192.0.2.1"

func newWorld(t reporter, pod *v1.Pod) *world {
	w := &world{
		t: t, pod: pod, started: time.Now(), reachable: true,
		records: map[string]status.Container{}, images: map[string]bool{}, life: map[string]int{},
		run:   func(string, int) (time.Duration, int32) { return -1, 0 },
		obeys: func(string) time.Duration { return time.Second },
		take:  func(Step) (time.Duration, time.Duration) { return 100 * time.Millisecond, 0 },
		fails: func(Step) fate { return works },
		log:   func(string, ...any) {},
	}
	return w
}

// boot starts podd on the world; kill ends it as SIGKILL does.
func (w *world) boot() {
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{ctx: ctx, cancel: cancel, poke: make(chan struct{}, 1), jobs: map[status.Task]*job{},
		failures: map[status.Task]status.Failed{}, pulled: map[string]time.Time{}}
	w.mu.Lock()
	if w.d != nil {
		d.prev, d.last = w.d.prev, w.d.last
	}
	w.d = d
	w.mu.Unlock()
	d.wg.Add(1)
	go w.work(d)
}

func (w *world) kill() {
	w.mu.Lock()
	d := w.d
	w.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}

func (w *world) alive(d *daemon) bool { return d.ctx.Err() == nil }

// work is the worker's loop.
func (w *world) work(d *daemon) {
	defer d.wg.Done()
	for {
		again, over := w.look(d)
		if over {
			return
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-d.ctx.Done():
			return
		case <-d.poke:
		case <-timer:
		}
	}
}

// event makes podd look again.
func (w *world) event() {
	select {
	case w.d.poke <- struct{}{}:
	default:
	}
}

// look is one turn of the loop: observe, plan, begin and give up, publish.
func (w *world) look(d *daemon) (again time.Time, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive(d) || w.finished {
		return time.Time{}, true
	}
	pod, f := w.observe(d)
	set, again := Next(pod, f)
	w.checkSet(pod, f, set)
	w.publish(d, pod, f)
	for _, work := range f.Work { // sorted, as the jobs are not
		task, j := work.Task, d.jobs[work.Task]
		i := slices.IndexFunc(set, func(s Step) bool { return s.Task() == task })
		if i < 0 || set[i].Attempt != j.step.Attempt || !set[i].Deadline.Equal(j.step.Deadline) || set[i].Sandbox != j.step.Sandbox {
			if !j.done {
				j.done = true
				if Waits(j.step.Op) {
					w.log("give up %s", show(j.step, w.started))
				}
				j.cancel()
			}
		}
	}
	for _, s := range set {
		if d.jobs[s.Task()] == nil {
			w.begin(d, s)
		}
	}
	return again, false
}

func (w *world) observe(d *daemon) (*v1.Pod, status.Facts) {
	f := status.Facts{
		Now: time.Now(), Reachable: w.reachable, Node: status.Node{Name: "host", IPs: []string{hostIP}},
		Limits: status.DefaultLimits(), Started: w.started, Gone: w.gone, Verdict: w.verdict,
		Static: w.pod.Annotations["static"] != "",
		Ground: w.ground, GroundLeft: w.groundLeft, Network: w.network,
		Images: map[string]status.Image{}, Pulled: map[string]time.Time{}, Failures: map[status.Task]status.Failed{},
	}
	if r := w.pod.Annotations["rejected"]; r != "" {
		f.Rejected = &status.Verdict{Phase: v1.PodFailed, Reason: "PodOSNotSupported", Message: r}
	}
	for i := range w.images {
		f.Images[i] = status.Image{ID: "sha256:" + i}
	}
	for i, at := range d.pulled {
		f.Pulled[i] = at
	}
	for t, x := range d.failures {
		f.Failures[t] = x
	}
	for t, j := range d.jobs {
		f.Work = append(f.Work, status.Work{Task: t, Since: j.since})
	}
	slices.SortFunc(f.Work, func(a, b status.Work) int { return strings.Compare(fmt.Sprint(a.Task), fmt.Sprint(b.Task)) })
	switch {
	case w.reachable:
		f.Sandboxes = slices.Clone(w.sandboxes)
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
	var all []status.Container
	for _, c := range present {
		if r, ok := w.records[c.ID]; ok {
			c = r
			c.Present = true
		}
		all = append(all, c)
	}
	for id, r := range w.records {
		if !slices.ContainsFunc(all, func(c status.Container) bool { return c.ID == id }) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b status.Container) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Attempt - b.Attempt
	})
	var kept []status.Container
	for i, c := range all {
		if c.Present || i+2 >= len(all) || all[i+2].Name != c.Name {
			kept = append(kept, c)
		}
	}
	return kept
}

// begin starts a job. The caller holds the lock.
func (w *world) begin(d *daemon, s Step) {
	w.checkBegin(d, s)
	w.log("%s", show(s, w.started))
	ctx, cancel := context.WithCancel(d.ctx)
	j := &job{step: s, cancel: cancel, since: time.Now()}
	d.jobs[s.Task()] = j
	effect, rest := w.take(s)
	how := w.fails(s)
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		defer cancel()
		err := w.do(d, ctx, s, how, effect, rest)
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.alive(d) {
			return
		}
		delete(d.jobs, s.Task())
		switch {
		case ctx.Err() != nil && Waits(s.Op): // given up: neither a success nor a failure
		case err != nil:
			f := d.failures[s.Task()]
			d.failures[s.Task()] = status.Failed{Count: f.Count + 1, Last: time.Now(), Reason: reasons[s.Op], Message: err.Error()}
			w.log("failed %s %s: %v", s.Op, s.Name, err)
		default:
			delete(d.failures, s.Task())
			if s.Op == PullImage {
				d.pulled[s.Name] = time.Now()
			}
		}
		w.event()
	}()
}

var reasons = map[status.Op]string{PullImage: "ErrImagePull", Create: "CreateContainerError", Start: "RunContainerError"}

// do runs one step: it takes effect after a while and ends a while later. A step that waits ends early when ctx does,
// every other one only when podd is killed.
func (w *world) do(d *daemon, ctx context.Context, s Step, how fate, effect, rest time.Duration) error {
	stop := d.ctx
	if Waits(s.Op) {
		stop = ctx
	}
	if s.Op == Stop {
		return w.stop(ctx, s, effect%time.Millisecond)
	}
	sleep(stop, effect)
	if stop.Err() != nil {
		return stop.Err()
	}
	w.mu.Lock()
	if !w.alive(d) {
		w.mu.Unlock()
		return d.ctx.Err()
	}
	var err error
	switch {
	case !w.reachable && needsContainerd(s):
		err = fmt.Errorf("containerd does not answer")
	case how == failsBefore:
		err = fmt.Errorf("broken")
	case how == failsHalfway:
		w.half(s)
		err = fmt.Errorf("half done")
	default:
		w.effect(s)
		if how == failsAfter {
			err = fmt.Errorf("no answer")
		}
	}
	if !w.finished {
		w.event()
	}
	w.mu.Unlock()
	sleep(stop, rest)
	return err
}

func needsContainerd(s Step) bool {
	return slices.Contains([]status.Op{EnsureSandbox, PullImage, Create, Start, Stop, Remove, RemoveSandbox}, s.Op)
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// stop asks, waits until the deadline, kills, and waits for the exit.
func (w *world) stop(ctx context.Context, s Step, jitter time.Duration) error {
	w.mu.Lock()
	if !w.reachable {
		w.mu.Unlock()
		return fmt.Errorf("containerd does not answer")
	}
	c := w.container(s.Name, s.Attempt)
	if c == nil || c.State != status.Running {
		w.mu.Unlock()
		return nil
	}
	id := c.ID
	if grace := w.obeys(s.Name); grace >= 0 && s.Deadline.After(time.Now()) {
		w.exitIn(id, grace+jitter, 143, false)
	}
	w.mu.Unlock()
	for ctx.Err() == nil && w.isRunning(id) {
		if wait := time.Until(s.Deadline); wait > 0 {
			sleep(ctx, min(wait, 250*time.Millisecond))
			continue
		}
		w.exitIn(id, time.Millisecond+jitter, 137, true)
		sleep(ctx, 2*time.Millisecond)
	}
	return ctx.Err()
}

func (w *world) isRunning(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.ID == id && c.State == status.Running })
}

func (w *world) container(name string, attempt int) *status.Container {
	for i := range w.containers {
		if c := &w.containers[i]; c.Name == name && c.Attempt == attempt {
			return c
		}
	}
	return nil
}

// exitIn lets the instance end after a while, unless it ended before.
func (w *world) exitIn(id string, after time.Duration, code int32, lock bool) {
	if after < 0 {
		return
	}
	if lock {
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	time.AfterFunc(after, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.exit(id, code, "")
	})
}

// exit ends an instance now. The caller holds the lock.
func (w *world) exit(id string, code int32, reason string) {
	for i := range w.containers {
		c := &w.containers[i]
		if c.ID != id || c.State != status.Running {
			continue
		}
		if reason == "" {
			reason = "Error"
			if code == 0 {
				reason = "Completed"
			}
		}
		c.State, c.ExitCode, c.Reason, c.FinishedAt = status.Exited, code, reason, time.Now()
		w.log("exit %s %d: %d", c.Name, c.Attempt, code)
		w.event()
	}
}

// half leaves what a step that breaks off leaves.
func (w *world) half(s Step) {
	switch s.Op {
	case EnsureGround, RemoveGround:
		w.ground, w.groundLeft = false, w.groundLeft || s.Op == EnsureGround
	case EnsureNetwork:
		w.network.Attached = !w.pod.Spec.HostNetwork
	case DetachNetwork:
		w.network.Ready = w.pod.Spec.HostNetwork
	case EnsureSandbox:
		if i := w.sandboxAt(s.Attempt); i < 0 {
			w.sandboxes = append(w.sandboxes, status.Sandbox{ID: s.Sandbox, Attempt: s.Attempt, State: status.Created, CreatedAt: time.Now(), Present: true})
		}
	}
}

func (w *world) sandboxAt(attempt int) int {
	return slices.IndexFunc(w.sandboxes, func(s status.Sandbox) bool { return s.Attempt == attempt })
}

// effect does a step, and fails the test if it does harm. The caller holds the lock.
func (w *world) effect(s Step) {
	if w.effects++; w.effects > 20000 {
		w.t.Errorf("%s: podd does not come to rest: %s", w.name, show(s, w.started))
		w.finished = true
	}
	if w.finished {
		w.harm(s, "after the end")
		return
	}
	switch s.Op {
	case EnsureGround:
		w.ground, w.groundLeft = true, true
	case EnsureNetwork:
		w.need(s, w.ground, "no ground")
		w.network = status.Network{Ready: true, Attached: !w.pod.Spec.HostNetwork, IPs: []string{"10.88.0.2"}}
	case EnsureSandbox:
		w.ensureSandbox(s)
	case PullImage:
		w.images[s.Name] = true
	case Create:
		w.create(s)
	case Start:
		w.start(s)
	case Record:
		c := w.container(s.Name, s.Attempt)
		w.need(s, c != nil && c.State == status.Exited, "not an exit")
		r := *c
		r.Recorded, r.Present = true, false
		w.records[c.ID] = r
	case Remove:
		c := w.container(s.Name, s.Attempt)
		if c == nil {
			return
		}
		_, recorded := w.records[c.ID]
		w.need(s, c.State != status.Running, "it runs")
		w.need(s, c.State == status.Created || recorded || w.gone, "its exit is not recorded")
		w.containers = slices.DeleteFunc(w.containers, func(x status.Container) bool { return x.ID == c.ID })
	case RemoveSandbox:
		w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.Sandbox == s.Sandbox }), "members left")
		w.sandboxes = slices.DeleteFunc(w.sandboxes, func(x status.Sandbox) bool { return x.Attempt == s.Attempt })
	case DetachNetwork:
		w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.State == status.Running }), "a container uses it")
		w.network = status.Network{Ready: w.pod.Spec.HostNetwork, IPs: w.network.IPs}
	case RemoveGround:
		w.need(s, len(w.containers)+len(w.sandboxes) == 0 && !w.network.Attached, "somebody stands on it")
		w.ground, w.groundLeft = false, false
	case Conclude:
		w.need(s, w.verdict == nil || *w.verdict == *s.Verdict, "another verdict")
		w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.State == status.Running && c.Name != debugger }), "it runs")
		w.verdict = s.Verdict
	case Finish:
		w.need(s, len(w.containers)+len(w.sandboxes) == 0 && !w.network.Attached && !w.ground && !w.groundLeft, "something is left")
		w.finished = true
		w.log("end")
	}
}

func (w *world) ensureSandbox(s Step) {
	w.need(s, w.ground, "no ground")
	for _, x := range w.sandboxes {
		w.need(s, x.Attempt == s.Attempt, "another sandbox is left")
	}
	if i := w.sandboxAt(s.Attempt); i >= 0 {
		w.need(s, w.sandboxes[i].State != status.Exited, "it is dead")
		w.sandboxes[i].State = status.Running
		return
	}
	w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.State == status.Running }), "a container of another runs")
	w.sandboxes = append(w.sandboxes, status.Sandbox{ID: s.Sandbox, Attempt: s.Attempt, State: status.Running, CreatedAt: time.Now(), Present: true})
}

func (w *world) create(s Step) {
	w.need(s, w.ground, "no ground")
	var c *v1.Container
	all := everyContainer(w.pod)
	for i := range all {
		if all[i].Name == s.Name {
			c = &all[i]
		}
	}
	if !w.images[c.Image] {
		return // it was removed under the step
	}
	id := status.ContainerID(w.pod.UID, s.Name, s.Attempt)
	_, ran := w.records[id]
	w.need(s, !ran, "this instance has run already")
	for _, x := range w.containers {
		w.need(s, x.Name != s.Name || x.ID == id, "another instance is left")
	}
	if old, ok := w.records[status.ContainerID(w.pod.UID, s.Name, s.Attempt-1)]; s.Attempt > 0 {
		w.need(s, ok, "the exit before is not recorded")
		if run := old.FinishedAt.Sub(old.CreatedAt); old.Backoff > 0 && run <= 10*time.Minute {
			w.need(s, time.Since(old.FinishedAt) >= min(old.Backoff, 300*time.Second), "too early")
		}
	}
	if w.container(s.Name, s.Attempt) == nil {
		w.containers = append(w.containers, status.Container{
			Name: s.Name, Attempt: s.Attempt, ID: id, Sandbox: s.Sandbox, State: status.Created, Key: s.Key,
			Image: c.Image, ImageID: "sha256:" + c.Image, CreatedAt: time.Now(), Backoff: s.Backoff, Present: true,
		})
	}
}

func (w *world) start(s Step) {
	c := w.container(s.Name, s.Attempt)
	w.need(s, c != nil, "no such container")
	w.need(s, w.network.Ready, "no network")
	if c.State != status.Created {
		return
	}
	i := slices.IndexFunc(w.sandboxes, func(x status.Sandbox) bool { return x.ID == c.Sandbox })
	if i < 0 || w.sandboxes[i].State != status.Running {
		return // the sandbox died under the step: nothing starts
	}
	for _, x := range w.containers {
		w.need(s, x.Name != s.Name || x.State != status.Running, "it runs twice")
	}
	if w.pod.Annotations["bad"] == s.Name {
		c.State, c.ExitCode, c.Reason, c.FinishedAt = status.Exited, 128, "StartError", time.Now()
		c.Message = "exec: no such file or directory"
		return
	}
	c.State, c.StartedAt = status.Running, time.Now()
	after, code := w.run(s.Name, s.Attempt)
	w.exitIn(c.ID, after, code, false)
}

func (w *world) need(s Step, ok bool, what string) {
	if !ok {
		w.harm(s, what)
	}
}

func (w *world) harm(s Step, what string) {
	w.t.Helper()
	w.t.Errorf("%s: %s does harm: %s", w.name, show(s, w.started), what)
}

// The things that happen to a host.

func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.event()
}

// sandboxDies kills the pause container of the newest sandbox, and all its members if the shim dies with it.
func (w *world) sandboxDies(all bool) {
	for i := range w.sandboxes {
		if w.sandboxes[i].State == status.Running {
			w.sandboxes[i].State = status.Exited
		}
	}
	if all {
		for _, c := range slices.Clone(w.containers) {
			w.exit(c.ID, 137, "ContainerStatusUnknown")
		}
	}
}

// reboot is what is left after one: records, containerd's containers, images and addresses.
func (w *world) reboot() {
	w.sandboxDies(true)
	w.ground = false
	w.network.Ready = false
}

func (w *world) remove(grace time.Duration) {
	if w.pod.DeletionTimestamp != nil {
		return
	}
	at := metav1.NewTime(time.Now().Add(grace).Truncate(time.Second)) // as the API keeps it
	seconds := int64(grace / time.Second)
	w.pod.DeletionTimestamp, w.pod.DeletionGracePeriodSeconds = &at, &seconds
}

// show is a step in one line.
func show(s Step, start time.Time) string {
	line := string(s.Op)
	if s.Name != "" {
		line += " " + s.Name
	}
	switch s.Op {
	case Create, Start, Stop, Record, Remove, EnsureSandbox, RemoveSandbox:
		line += fmt.Sprintf(" #%d", s.Attempt)
	}
	if s.Op == Stop {
		if s.Deadline.IsZero() {
			line += " at once"
		} else {
			line += " until " + stamp(s.Deadline.Sub(start))
		}
	}
	if s.Backoff > 0 {
		line += " backoff " + s.Backoff.String()
	}
	if s.Verdict != nil {
		line += " " + string(s.Verdict.Phase)
		if s.Verdict.Reason != "" {
			line += " " + s.Verdict.Reason
		}
	}
	return line
}

func stamp(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

// opposites are the pairs that must never be wanted or done at once for the same target.
var opposites = map[status.Op][]status.Op{
	EnsureGround:  {RemoveGround, Finish},
	EnsureNetwork: {DetachNetwork, RemoveGround, Finish},
	EnsureSandbox: {RemoveSandbox, DetachNetwork, RemoveGround, Finish},
	Create:        {RemoveSandbox, RemoveGround, Finish, Remove, Stop},
	Start:         {RemoveSandbox, DetachNetwork, RemoveGround, Finish, Remove, Stop},
	Remove:        {Finish, RemoveGround},
	Record:        {Finish},
}

func opposed(a, b Step) bool {
	for _, pair := range [][2]Step{{a, b}, {b, a}} {
		if slices.Contains(opposites[pair[0].Op], pair[1].Op) && (pair[0].Name == pair[1].Name || pair[0].Name == "" || pair[1].Name == "") {
			return true
		}
	}
	return false
}

// checkSet holds every answer of Next to what is true of all of them.
func (w *world) checkSet(pod *v1.Pod, f status.Facts, set []Step) {
	for i, a := range set {
		for _, b := range set[i+1:] {
			if opposed(a, b) || a.Task() == b.Task() {
				w.t.Errorf("%s: %s beside %s", w.name, show(a, w.started), show(b, w.started))
			}
		}
		if !f.Reachable && needsContainerd(a) {
			w.t.Errorf("%s: %s while containerd is away", w.name, show(a, w.started))
		}
		if (f.Gone || pod.DeletionTimestamp != nil) && slices.Contains([]status.Op{EnsureGround, EnsureNetwork, EnsureSandbox, PullImage, Create, Start}, a.Op) {
			w.t.Errorf("%s: %s for a deleted pod", w.name, show(a, w.started))
		}
	}
	if again, _ := Next(pod, f); !reflect.DeepEqual(again, set) {
		w.t.Errorf("%s: asked twice, answered differently: %v, %v", w.name, set, again)
	}
}

// checkBegin holds the beginning of a step to podd's own work under way.
func (w *world) checkBegin(d *daemon, s Step) {
	for _, j := range d.jobs {
		if opposed(s, j.step) && !(Waits(j.step.Op) && j.done) {
			w.t.Errorf("%s: %s begins during %s", w.name, show(s, w.started), show(j.step, w.started))
		}
	}
}

// publish computes the status and holds it to what must be true of every one after another.
func (w *world) publish(d *daemon, pod *v1.Pod, f status.Facts) {
	if f.Gone {
		return // there is no object to publish to
	}
	s := status.Of(pod, f)
	if want := modelPhase(pod, f); s.Phase != want {
		w.t.Errorf("%s: phase %s, the model says %s\nfacts %+v", w.name, s.Phase, want, f)
	}
	over := d.last.Phase == v1.PodSucceeded || d.last.Phase == v1.PodFailed
	if over && (s.Phase != d.last.Phase || s.Reason != d.last.Reason) {
		w.t.Errorf("%s: %s became %s", w.name, d.last.Phase, s.Phase)
	}
	stamped := status.Stamp(d.prev, s, f.Now)
	for i, c := range stamped.ContainerStatuses {
		if i < len(d.prev.ContainerStatuses) && c.RestartCount < d.prev.ContainerStatuses[i].RestartCount {
			w.t.Errorf("%s: restart count of %s fell from %d to %d", w.name, c.Name, d.prev.ContainerStatuses[i].RestartCount, c.RestartCount)
		}
	}
	if w.tells {
		if now := summary(stamped); now != summary(d.prev) {
			w.log("status %s", now)
		}
	}
	d.last, d.prev = s, stamped
}

// summary is a status in one line.
func summary(s v1.PodStatus) string {
	line := string(s.Phase)
	if s.Reason != "" {
		line += " " + s.Reason
	}
	for _, c := range s.Conditions {
		if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
			line += " ready"
		}
	}
	for _, c := range slices.Concat(s.ContainerStatuses, s.EphemeralContainerStatuses) {
		line += fmt.Sprintf("; %s #%d ", c.Name, c.RestartCount)
		switch {
		case c.State.Running != nil:
			line += "running"
		case c.State.Terminated != nil:
			line += fmt.Sprintf("%s(%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		case c.State.Waiting != nil:
			line += c.State.Waiting.Reason
			if m := c.State.Waiting.Message; m != "" {
				line += fmt.Sprintf(" %q", m)
			}
		}
		if l := c.LastTerminationState.Terminated; l != nil {
			line += fmt.Sprintf(" last %s(%d)", l.Reason, l.ExitCode)
		}
	}
	return line
}

// modelPhase is the phase by another way: what is known of each container, without statuses and without counters.
// It knows regular containers only.
func modelPhase(pod *v1.Pod, f status.Facts) v1.PodPhase {
	if f.Verdict != nil {
		return f.Verdict.Phase
	}
	if f.Rejected != nil && len(f.Containers)+len(f.Sandboxes) == 0 {
		return v1.PodFailed
	}
	fresh, live, again, good, bad := false, false, false, true, false
	sure := !slices.ContainsFunc(f.Work, func(w status.Work) bool {
		return (w.Task.Op == Create || w.Task.Op == Start) && w.Task.Name != debugger
	})
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		var ever []status.Container
		for _, x := range f.Containers {
			if x.Name == c.Name {
				ever = append(ever, x)
				sure = sure && x.State == status.Exited && x.Recorded
			}
		}
		if n := len(ever); n > 0 && ever[n-1].State == status.Running {
			live = true
			continue
		}
		exits := slices.DeleteFunc(ever, func(x status.Container) bool { return x.State != status.Exited })
		if len(exits) == 0 {
			fresh = true
			continue
		}
		code := exits[len(exits)-1].ExitCode
		again = again || status.ShouldRestart(pod, c, code)
		good = good && code == 0
		bad = bad || code != 0
	}
	final := !fresh && !live && !again && sure
	switch {
	case !final && !f.Reachable && (len(f.Sandboxes)+len(f.Containers) > 0 || f.Network.Attached || f.Network.Ready):
		return v1.PodUnknown
	case fresh:
		return v1.PodPending
	case !final:
		return v1.PodRunning
	case bad:
		return v1.PodFailed
	}
	return v1.PodSucceeded
}

// everyContainer is the regular and the ephemeral containers of a pod.
func everyContainer(pod *v1.Pod) []v1.Container {
	all := slices.Clone(pod.Spec.Containers)
	for _, e := range pod.Spec.EphemeralContainers {
		all = append(all, v1.Container(e.EphemeralContainerCommon))
	}
	return all
}

// debugger is the name of the ephemeral container that a pod of these tests may get.
const debugger = "debugger"

// debug gives the pod its ephemeral container.
func (w *world) debug() {
	if w.pod == nil || len(w.pod.Spec.EphemeralContainers) > 0 {
		return
	}
	w.pod = w.pod.DeepCopy()
	w.pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: debugger, Image: "img-" + debugger, ImagePullPolicy: v1.PullIfNotPresent,
	}}}
}

func newPod(policy v1.RestartPolicy, rng *rand.Rand, names ...string) *v1.Pod {
	uid := "uid"
	if rng != nil {
		uid = fmt.Sprintf("uid-%d", rng.Uint64())
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID(uid)}}
	pod.Spec.RestartPolicy = policy
	for _, n := range names {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: n, Image: "img-" + n, ImagePullPolicy: v1.PullIfNotPresent})
	}
	return pod
}
