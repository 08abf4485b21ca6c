package plan

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/status"
)

// world is a host in memory with a time of its own: what containerd, the kernel and the store would hold of one pod.
// Steps take effect somewhere inside their run time, so podd sees the effect while its own work is still under way, as it
// does on a real host.
type world struct {
	clock
	t    reporter
	name string

	// Durable.
	pod       *v1.Pod
	gone      bool // the object was taken from the store by force
	verdict   *status.Verdict
	records   map[string]*status.Container // exits by container id
	late      map[string]bool              // of records: the pod had to end before
	started   time.Time
	era       int
	eraBy     string
	allocated map[string]v1.ResourceRequirements
	before    *v1.ResourceRequirements
	cgroup    *v1.ResourceRequirements // what the pod's cgroup is held to of the pod's own resources; nil before they are known
	evicted   *status.Eviction
	removed   *status.Sandbox // the newest sandbox that podd has removed: its number is used up

	// On the host.
	reachable   bool
	ground      bool
	groundLeft  bool
	stored      bool                                          // volumes
	sources     int                                           // how often what the pod reads has changed
	written     int                                           // as of which change it was written
	made        map[string]map[string]v1.ResourceRequirements // what was admitted when the making of a container began, by its name
	network     status.Network
	sandboxes   []status.Sandbox
	containers  []status.Container // present in containerd, each with the notes of this boot
	images      map[string]bool
	mounted     map[string]bool // image volumes, by name
	room        v1.ResourceList
	allocatable v1.ResourceList
	proved      map[string]bool // instances that were started once, by id

	// How it behaves.
	networkFirst bool                                                 // status.Facts.NetworkFirst
	run          func(c string, attempt int) (time.Duration, int32)   // how long an instance runs and its exit code; <0 is for ever
	obeys        func(c string) time.Duration                         // how long after SIGTERM it ends; <0 never
	take         func(s Step) (effect, rest time.Duration)            // time until a step's effect, and from there to its end
	fails        func(s Step) fate                                    //
	hooks        func(s Step) (takes time.Duration, failed string)    // how long a hook runs, <0 for ever, and why it fails
	probes       func(s Step) (after time.Duration, is status.Result) // when a probe comes to its next result; <0 never
	lag          func() time.Duration                                 // how long a step that is given up takes to end

	d *daemon

	finished bool
	effects  int
	looks    int
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

const hostIP = "192.0.2.1"

func newWorld(t reporter, pod *v1.Pod) *world {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return &world{
		clock: clock{now: begin},
		t:     t, pod: pod, started: begin, reachable: true,
		records: map[string]*status.Container{}, late: map[string]bool{}, images: map[string]bool{}, mounted: map[string]bool{}, proved: map[string]bool{},
		made:   map[string]map[string]v1.ResourceRequirements{},
		run:    func(string, int) (time.Duration, int32) { return -1, 0 },
		obeys:  func(string) time.Duration { return time.Second },
		take:   func(Step) (time.Duration, time.Duration) { return 100 * time.Millisecond, 0 },
		fails:  func(Step) fate { return works },
		hooks:  func(Step) (time.Duration, string) { return time.Second, "" },
		probes: func(Step) (time.Duration, status.Result) { return -1, "" },
		lag:    func() time.Duration { return 0 },
		log:    func(string, ...any) {},
	}
}

func (w *world) container(name string, attempt int) *status.Container {
	for i := range w.containers {
		if c := &w.containers[i]; c.Name == name && c.Attempt == attempt {
			return c
		}
	}
	return nil
}

// running is the instance of a step, if it runs.
func (w *world) running(s Step) *status.Container {
	if c := w.container(s.Name, s.Attempt); c != nil && c.State == status.Running {
		return c
	}
	return nil
}

// note writes on the instance of a step what podd has found out about it. The notes last as long as the boot.
func (w *world) note(s Step, f func(c *status.Container)) {
	if c := w.running(s); c != nil {
		f(c)
		w.prove(c)
	}
}

// prove remembers an instance that is started.
func (w *world) prove(c *status.Container) {
	all := everyContainer(w.pod)
	i := slices.IndexFunc(all, func(x v1.Container) bool { return x.Name == c.Name })
	if _, started, _ := proven(&all[i], c); started {
		w.proved[c.ID] = true
	}
}

// exitIn lets the instance end after a while, unless it ended before.
func (w *world) exitIn(id string, after time.Duration, code int32) {
	if after >= 0 {
		w.after(after, func() { w.exit(id, code, "") })
	}
}

// exit ends an instance now.
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
		c.State, c.ExitCode, c.Reason, c.FinishedAt = status.Exited, code, reason, w.now
		c.Replace = c.Condemned != nil && (c.Condemned.By == status.BySpec || c.Condemned.By == status.ByResources)
		w.log("exit %s %d: %d", c.Name, c.Attempt, code)
		if j := w.d.jobs[status.Task{Op: Stop, Name: c.Name}]; j != nil && !j.givenUp {
			w.after(100*time.Millisecond, func() { w.end(w.d, j, nil) })
		}
		w.event()
	}
}

// half leaves what a step that breaks off leaves.
func (w *world) half(s Step) {
	switch s.Op {
	case EnsureGround, RemoveGround:
		w.ground, w.groundLeft = false, w.groundLeft || s.Op == EnsureGround
		w.stored = w.stored || s.Op == EnsureGround
	case EnsureNetwork:
		w.network.Attached = !w.pod.Spec.HostNetwork
	case DetachNetwork:
		w.network.Ready = w.pod.Spec.HostNetwork
	case EnsureSandbox:
		if i := w.sandboxAt(s.Attempt); i < 0 {
			w.sandboxes = append(w.sandboxes, status.Sandbox{ID: s.Sandbox, Attempt: s.Attempt, State: status.Created, CreatedAt: w.now, Present: true})
		}
	}
}

// listed are the sandboxes, the newest one that was removed, and one that somebody took away.
func (w *world) listed() []status.Sandbox {
	all := slices.Clone(w.sandboxes)
	if w.removed != nil {
		all = append(all, *w.removed)
	}
	slices.SortFunc(all, func(a, b status.Sandbox) int { return a.Attempt - b.Attempt })
	if w.gone || w.pod.DeletionTimestamp != nil {
		return all
	}
	ran := slices.Clone(w.containers)
	for _, r := range w.records {
		ran = append(ran, *r)
	}
	return status.WithLost(w.pod.UID, all, ran)
}

func (w *world) sandboxAt(attempt int) int {
	return slices.IndexFunc(w.sandboxes, func(s status.Sandbox) bool { return s.Attempt == attempt })
}

// effect does a step, and fails the test if it does harm.
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
		w.ground, w.groundLeft, w.stored, w.written = true, true, true, w.sources
		w.hold(w.allocated)
	case Refresh:
		w.need(s, w.groundLeft, "no ground")
		w.written = w.sources
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
		if c.Era < w.era {
			r.Reason = "RestartingAllContainers"
		}
		hook := r.PostStart // why it failed is shown until the next start
		forget(&r)
		r.PostStart = hook
		r.Late = new(status.Late(w.pod, status.Facts{Now: w.now, Started: w.started, Evicted: w.evicted}, r.FinishedAt))
		end, must := (&model{w: w}).end()
		w.late[c.ID] = must && !r.FinishedAt.Before(end)
		w.records[c.ID] = &r
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
		w.removed = &status.Sandbox{ID: s.Sandbox, Attempt: s.Attempt, State: status.Exited}
		w.sandboxes = slices.DeleteFunc(w.sandboxes, func(x status.Sandbox) bool { return x.Attempt == s.Attempt })
	case DetachNetwork:
		w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.State == status.Running }), "a container uses it")
		w.network = status.Network{Ready: w.pod.Spec.HostNetwork, IPs: w.network.IPs}
	case RemoveGround:
		w.need(s, len(w.containers)+len(w.sandboxes) == 0 && !w.network.Attached, "somebody stands on it")
		w.ground, w.groundLeft, w.stored = false, false, false
	case Vacate:
		w.need(s, newModel(w).expelled(), "its volumes may be wanted yet")
		w.need(s, len(w.containers)+len(w.sandboxes) == 0, "somebody uses them")
		w.stored = false
	case Condemn:
		w.note(s, func(c *status.Container) {
			if c.Condemned == nil {
				c.Condemned = &status.Condemned{By: s.Cause, At: w.now, Message: s.Why}
			}
		})
	case BeginEra:
		w.beginEra(s)
	case Allocate:
		own := status.Own(w.pod)
		if was, ok := w.allocated[status.Whole]; ok && w.before == nil && !reflect.DeepEqual(was, own) {
			w.before = &was
		}
		w.allocated = map[string]v1.ResourceRequirements{status.Whole: *own.DeepCopy()}
		for _, c := range everyContainer(w.pod) {
			w.allocated[c.Name] = *c.Resources.DeepCopy()
		}
	case Resize:
		if c := w.running(s); c != nil {
			c.Resources = w.resources(s.Name, w.allocated)
		}
	case ResizePod:
		w.need(s, w.ground, "no cgroup")
		if !slices.ContainsFunc(w.containers, w.unheld) { // else one has just begun, or others were admitted: they come first
			w.before = nil
			w.hold(w.allocated)
		}
	case Evict:
		if w.evicted == nil {
			e := *s.Eviction
			e.At = w.now
			w.evicted = &e
		}
	case Conclude:
		if wrong := w.misjudged(s); wrong != "" && w.verdict == nil {
			w.harm(s, wrong)
		}
		w.need(s, w.verdict == nil || *w.verdict == *s.Verdict, "another verdict")
		w.need(s, !slices.ContainsFunc(w.containers, func(c status.Container) bool { return c.State == status.Running && c.Name != debugger }), "it runs")
		w.verdict = s.Verdict
	case Finish:
		w.need(s, len(w.containers)+len(w.sandboxes) == 0 && !w.network.Attached && !w.ground && !w.groundLeft, "something is left")
		w.finished = true
		w.log("end")
	}
}

// misjudged says what is wrong with a verdict that is stored now. It may have been right when its step began: a deadline that
// passed or was set since does not change it.
func (w *world) misjudged(s Step) string {
	wrong := newModel(w).verdict(s.Verdict)
	if j := w.d.jobs[s.Task()]; wrong != "" && j != nil {
		return j.wrong
	}
	return wrong
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
	w.sandboxes = append(w.sandboxes, status.Sandbox{ID: s.Sandbox, Attempt: s.Attempt, State: status.Running, CreatedAt: w.now, Present: true})
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
	for _, v := range status.ImageVolumes(w.pod, c) {
		if !w.mounted[v.Name] && !w.images[v.Image.Reference] {
			return
		}
		w.mounted[v.Name] = true
	}
	if !w.images[c.Image] {
		return // it was removed under the step
	}
	id := status.ContainerID(w.pod.UID, s.Name, s.Attempt)
	_, ran := w.records[id]
	w.need(s, !ran, "this instance has run already")
	left := 0
	for _, x := range w.containers {
		if x.Name != s.Name || x.ID == id {
			continue
		}
		left++
		w.need(s, x.State == status.Exited && w.records[x.ID] != nil, "another instance is at it")
	}
	w.need(s, left <= 1, "two instances are left")
	if old, ok := w.records[status.ContainerID(w.pod.UID, s.Name, s.Attempt-1)]; s.Attempt > 0 {
		w.need(s, ok, "the exit before is not recorded")
		anew := old.Sandbox != s.Sandbox && slices.ContainsFunc(w.pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == s.Name })
		if run := old.FinishedAt.Sub(old.CreatedAt); !anew && old.Backoff > 0 && old.Key == s.Key && old.Era == s.Era && run <= 10*time.Minute {
			w.need(s, w.now.Sub(old.FinishedAt) >= min(old.Backoff, 300*time.Second), "too early")
		}
	}
	admitted, begun := w.made[s.Name]
	if !begun {
		admitted = w.allocated
	}
	w.hold(admitted)
	if w.container(s.Name, s.Attempt) == nil {
		w.containers = append(w.containers, status.Container{
			Name: s.Name, Attempt: s.Attempt, ID: id, Sandbox: s.Sandbox, State: status.Created, Key: s.Key,
			Image: c.Image, ImageID: "sha256:" + c.Image, CreatedAt: w.now, Backoff: s.Backoff, Present: true,
			Ref: c.Image, Era: s.Era, Resources: w.resources(s.Name, admitted),
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
		w.need(s, x.Name != s.Name || x.ID == c.ID || !w.sharesPIDs() && x.Reason != status.Unseen, "one before it may go on yet")
	}
	if w.pod.Annotations["bad"] == s.Name {
		c.State, c.ExitCode, c.Reason, c.FinishedAt = status.Exited, 128, "StartError", w.now
		c.Message = "exec: no such file or directory"
		return
	}
	c.State, c.StartedAt = status.Running, w.now
	w.prove(c)
	after, code := w.run(s.Name, s.Attempt)
	w.exitIn(c.ID, after, code)
}

func (w *world) sharesPIDs() bool {
	return w.pod.Spec.ShareProcessNamespace != nil && *w.pod.Spec.ShareProcessNamespace || w.pod.Spec.HostPID
}

// hold holds the pod's cgroup to what is or was admitted of the pod's own resources.
func (w *world) hold(admitted map[string]v1.ResourceRequirements) {
	if own, ok := admitted[status.Whole]; ok {
		w.cgroup = &own
	}
}

// held tells whether the pod's cgroup is held to what is admitted.
func (w *world) held() bool {
	own, ok := w.allocated[status.Whole]
	return !ok || w.cgroup != nil && equality.Semantic.DeepEqual(*w.cgroup, own)
}

// resources are those of a container by what is or was admitted.
func (w *world) resources(name string, admitted map[string]v1.ResourceRequirements) v1.ResourceRequirements {
	r, ok := admitted[name]
	for _, c := range everyContainer(w.pod) {
		if c.Name == name && !ok {
			r = c.Resources
		}
	}
	r = status.Effective(r, admitted[status.Whole])
	return *r.DeepCopy()
}

// unheld tells whether a container that runs, or is made to, has other resources than podd has admitted for it.
func (w *world) unheld(c status.Container) bool {
	_, has := w.allocated[c.Name]
	return has && c.Name != debugger && c.State != status.Exited && !equality.Semantic.DeepEqual(c.Resources, w.resources(c.Name, w.allocated))
}

// forget takes the notes off an instance: they are lost with the boot, and with the instance.
func forget(c *status.Container) {
	c.PostStart, c.PreStop, c.Startup, c.Readiness, c.Liveness, c.Condemned = status.Hook{}, status.Hook{}, "", "", "", nil
}

// beginEra notes a new era, which an exit must have begun that a rule for it matches. Writing that may take so long that others have
// begun meanwhile: it does nothing then.
func (w *world) beginEra(s Step) {
	w.need(s, s.Attempt <= w.era+1, "not the next era")
	if s.Attempt > w.era {
		w.era, w.eraBy = s.Attempt, s.Name
	}
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

func (w *world) happens(f func()) {
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
	for i := range w.containers {
		if c := &w.containers[i]; w.records[c.ID] == nil {
			forget(c)
			c.Replace = false // what is not stored is not known
		}
	}
	w.ground = false
	clear(w.mounted)
	w.network.Ready = false
}

func (w *world) remove(grace time.Duration) {
	if w.pod.DeletionTimestamp != nil {
		return
	}
	at := metav1.NewTime(w.now.Add(grace).Truncate(time.Second)) // as the API keeps it
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
	case Create, Start, Stop, Record, Remove, EnsureSandbox, RemoveSandbox, Condemn, BeginEra, Resize, PostStart, PreStop,
		Startup, Readiness, Liveness:
		line += fmt.Sprintf(" #%d", s.Attempt)
	}
	if s.Op == Stop || s.Op == PreStop {
		if s.Deadline.IsZero() {
			line += " at once"
		} else {
			line += " until " + stamp(s.Deadline.Sub(start))
		}
	}
	if s.Backoff > 0 {
		line += " backoff " + s.Backoff.String()
	}
	if s.Cause != "" {
		line += fmt.Sprintf(" by %s: %s", s.Cause, s.Why)
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
	EnsureGround:  {RemoveGround, Finish, Vacate},
	Refresh:       {RemoveGround, Finish, Vacate},
	Vacate:        {RemoveGround, Finish, Create, Start, Remove, EnsureSandbox, RemoveSandbox},
	EnsureNetwork: {DetachNetwork, RemoveGround, Finish},
	EnsureSandbox: {RemoveSandbox, DetachNetwork, RemoveGround, Finish},
	Create:        {RemoveSandbox, RemoveGround, Finish, Remove, Stop},
	Start:         {RemoveSandbox, DetachNetwork, RemoveGround, Finish, Remove, Stop},
	Remove:        {Finish, RemoveGround},
	Record:        {Finish},
	PostStart:     {Remove, Record, Finish},
	PreStop:       {Remove, Record, Finish, Start, Stop},
	Startup:       {Remove, Record, Finish, PostStart, PreStop, Stop},
	Readiness:     {Remove, Record, Finish, PostStart, Startup},
	Liveness:      {Remove, Record, Finish, PostStart, PreStop, Startup, Stop},
	Condemn:       {Remove, Record},
	Resize:        {Remove, Record},
	ResizePod:     {RemoveGround, Finish, Create},
}

func opposed(a, b Step) bool {
	if attends(a) && attends(b) && a.Attempt != b.Attempt {
		return false // of two instances
	}
	if replaces(a, b) || replaces(b, a) {
		return false
	}
	for _, pair := range [][2]Step{{a, b}, {b, a}} {
		if slices.Contains(opposites[pair[0].Op], pair[1].Op) && (pair[0].Name == pair[1].Name || pair[0].Name == "" || pair[1].Name == "") {
			return true
		}
	}
	return false
}

// replaces tells whether a makes or starts the instance after the one that b takes away, which has ended.
func replaces(a, b Step) bool {
	return (a.Op == Create || a.Op == Start) && b.Op == Remove && a.Attempt > b.Attempt
}

// attends tells whether a step is for one instance of a container that runs or has run.
func attends(s Step) bool { return slices.Contains(attending, s.Op) }

var attending = []status.Op{Stop, Record, Remove, Condemn, Resize, PostStart, PreStop, Startup, Readiness, Liveness}

// checkSet holds every answer of Next to what is true of all of them.
func (w *world) checkSet(pod *v1.Pod, f status.Facts, set []Step) {
	for i, a := range set {
		if a.Op == EnsureSandbox && f.NetworkFirst && !f.Busy(EnsureSandbox, "") && (!f.Network.Ready || f.Busy(EnsureNetwork, "")) {
			w.t.Errorf("%s: %s before the network is ready", w.name, show(a, w.started))
		}
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
	if w.looks++; w.looks%20 != 1 {
		return // it costs as much as all the rest
	}
	if again, _ := Next(pod, f); !reflect.DeepEqual(again, set) {
		w.t.Errorf("%s: asked twice, answered differently: %v, %v", w.name, set, again)
	}
}

// checkBegin holds the beginning of a step to podd's own work under way.
func (w *world) checkBegin(d *daemon, s Step) {
	for _, j := range d.jobs {
		if opposed(s, j.step) && !(Waits(j.step.Op) && j.givenUp) {
			w.t.Errorf("%s: %s begins during %s", w.name, show(s, w.started), show(j.step, w.started))
		}
	}
	if s.Op == ResizePod && (w.before == nil || slices.ContainsFunc(w.containers, w.unheld)) {
		w.t.Errorf("%s: %s begins before what runs in it is held to what it is to have", w.name, show(s, w.started))
	}
}

// publish computes the status and holds it to what must be true of every one after another.
func (w *world) publish(d *daemon, m *model, pod *v1.Pod, f status.Facts) {
	if f.Gone {
		return // there is no object to publish to
	}
	s := status.Of(pod, f)
	for _, wrong := range m.check(s) {
		w.t.Errorf("%s: %s: %s\nfacts %+v", w.name, stamp(w.now.Sub(w.started)), wrong, f)
	}
	over := d.last.Phase == v1.PodSucceeded || d.last.Phase == v1.PodFailed
	if over && (s.Phase != d.last.Phase || s.Reason != d.last.Reason) {
		w.t.Errorf("%s: %s became %s", w.name, d.last.Phase, s.Phase)
	}
	if !f.Reachable && d.seen == nil {
		return // the host leaves what an earlier podd said, until containerd has answered once
	}
	stamped := status.Stamp(d.prev, s, f.Now)
	w.checkCounts(d.prev.InitContainerStatuses, stamped.InitContainerStatuses)
	w.checkCounts(d.prev.ContainerStatuses, stamped.ContainerStatuses)
	if w.tells {
		if now := summary(stamped); now != summary(d.prev) {
			w.log("status %s", now)
		}
	}
	d.last, d.prev = s, stamped
}

// checkCounts holds restart counts to never fall.
func (w *world) checkCounts(before, now []v1.ContainerStatus) {
	for i, c := range now {
		if i < len(before) && c.RestartCount < before[i].RestartCount {
			w.t.Errorf("%s: restart count of %s fell from %d to %d", w.name, c.Name, before[i].RestartCount, c.RestartCount)
		}
	}
}

// summary is a status in one line.
func summary(s v1.PodStatus) string {
	line := string(s.Phase)
	if s.Reason != "" {
		line += " " + s.Reason
	}
	for _, c := range s.Conditions {
		switch {
		case c.Type == v1.DisruptionTarget:
			line += " disrupted " + c.Reason
		case c.Type == v1.PodReady && c.Status == v1.ConditionTrue:
			line += " ready"
		case c.Type == v1.PodInitialized && c.Status == v1.ConditionFalse:
			line += " uninitialized"
		case c.Type == v1.AllContainersRestarting && c.Status == v1.ConditionTrue:
			line += " restarting all"
		case c.Type == v1.PodResizePending:
			line += fmt.Sprintf(" resize %s %q", c.Reason, c.Message)
		case c.Type == v1.PodResizeInProgress:
			line += strings.TrimRight(fmt.Sprintf(" resizing %s %s", c.Reason, c.Message), " ")
		}
	}
	for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses) {
		line += fmt.Sprintf("; %s #%d ", c.Name, c.RestartCount)
		switch {
		case c.State.Running != nil && c.Started != nil && !*c.Started:
			line += "running, not started"
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

// everyContainer is all containers of a pod, as the spec has them: init, regular, ephemeral.
func everyContainer(pod *v1.Pod) []v1.Container {
	all := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
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

// newPod is a pod with containers called NAME, NAME/init or NAME/sidecar, each with the image img-NAME.
func newPod(policy v1.RestartPolicy, rng *rand.Rand, names ...string) *v1.Pod {
	uid := "uid"
	if rng != nil {
		uid = fmt.Sprintf("uid-%d", rng.Uint64())
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID(uid)}}
	pod.Spec.RestartPolicy = policy
	for _, n := range names {
		name, kind, _ := strings.Cut(n, "/")
		c := v1.Container{Name: name, Image: "img-" + name, ImagePullPolicy: v1.PullIfNotPresent}
		switch kind {
		case "sidecar":
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
			fallthrough
		case "init":
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		default:
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
	}
	return pod
}

// addImageVolume gives the pod a volume that is made of an image, which c mounts.
func addImageVolume(pod *v1.Pod, c *v1.Container, ref string, policy v1.PullPolicy) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: ref, VolumeSource: v1.VolumeSource{
		Image: &v1.ImageVolumeSource{Reference: ref, PullPolicy: policy}}})
	c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: ref, MountPath: "/" + ref})
}
