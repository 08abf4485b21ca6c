package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// model says what a pod must show, by another way than package status: from what its host holds, container by container,
// with Kubernetes' rules written out once more (pkg/kubelet/kubelet_pods.go getPhase, pkg/kubelet/status/generate.go,
// status_manager.go TerminatePod). It calls nothing of package status.
type model struct {
	w       *world
	sandbox string // id of the newest sandbox, "" if there is none
	boxes   []status.Sandbox
	all     []*being // of init and regular containers, in the order of the spec
	busy    bool     // podd makes or starts one of them
	away    bool     // containerd does not answer, and may know something of the pod
}

// being is one container of the pod.
type being struct {
	spec    *v1.Container
	part    part
	known   []*status.Container // its instances, the oldest first
	last    *status.Container   // the newest of them
	exit    *status.Container   // the newest that has exited
	old     bool                // the newest is of an era that is over
	up      bool                // its process runs and its postStart hook has ended well
	started bool
	ready   bool
}

type part int

const (
	regularPart part = iota
	plainPart
	sidecarPart
)

// newModel looks at the world as podd can see it: while containerd is away that is what it showed last.
func newModel(w *world) *model {
	m := &model{w: w, boxes: w.listed()}
	present := w.containers
	if !w.reachable {
		m.boxes, present = nil, nil
		if seen := w.d.seen; seen != nil {
			m.boxes = seen.Sandboxes
			for _, c := range seen.Containers {
				if c.Present {
					present = append(present, c)
				}
			}
		}
	}
	if n := len(m.boxes); n > 0 {
		m.sandbox = m.boxes[n-1].ID
	}
	for i := range w.pod.Spec.InitContainers {
		c := &w.pod.Spec.InitContainers[i]
		p := plainPart
		if c.RestartPolicy != nil && *c.RestartPolicy == "Always" {
			p = sidecarPart
		}
		m.all = append(m.all, &being{spec: c, part: p})
	}
	for i := range w.pod.Spec.Containers {
		m.all = append(m.all, &being{spec: &w.pod.Spec.Containers[i]})
	}
	for _, b := range m.all {
		b.look(w, present)
		for _, op := range []status.Op{"create", "start"} {
			m.busy = m.busy || w.d.jobs[status.Task{Op: op, Name: b.spec.Name}] != nil
		}
	}
	something := len(m.boxes)+len(present)+len(w.records) > 0
	m.away = !w.reachable && (something || w.network.Attached || w.network.Ready)
	return m
}

func (b *being) look(w *world, present []status.Container) {
	for i := range present {
		c := &present[i]
		if c.Name != b.spec.Name {
			continue
		}
		if r := w.records[c.ID]; r != nil {
			stored := *r
			stored.Present = true
			c = &stored
		}
		b.known = append(b.known, c)
	}
	for _, r := range w.records {
		if r.Name == b.spec.Name && !slices.ContainsFunc(b.known, func(c *status.Container) bool { return c.Attempt == r.Attempt }) {
			b.known = append(b.known, r)
		}
	}
	slices.SortFunc(b.known, func(x, y *status.Container) int { return x.Attempt - y.Attempt })
	for _, i := range b.known {
		b.last = i
		if b.last.State == "exited" {
			b.exit = b.last
		}
	}
	if b.last == nil {
		return
	}
	b.old = b.last.Era < w.era
	b.up, b.started, b.ready = proven(b.spec, b.last)
}

// proven is how far an instance has come by what was found out about it.
func proven(c *v1.Container, i *status.Container) (up, started, ready bool) {
	up = i.State == "running"
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		up = up && !i.PostStart.Ended.IsZero() && i.PostStart.Failed == ""
	}
	started = up && (c.StartupProbe == nil || i.Startup == "success")
	ready = started && (c.ReadinessProbe == nil || i.Readiness == "success")
	return up, started, ready
}

// again tells whether the container is run once more after its newest exit: by the policies, or because podd ended it for
// that (pkg/api/v1/pod/util.go ContainerShouldRestart).
func (m *model) again(b *being) bool {
	e := b.exit
	if e == nil || e.Replace || e.Reason == "RestartingAllContainers" || e.Era < m.w.era {
		return true
	}
	return byRules(m.w.pod, b.spec, e.ExitCode)
}

func byRules(pod *v1.Pod, c *v1.Container, code int32) bool {
	policy := string(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
		if r := ruleFor(c, code); r != nil && (r.Action == "Restart" || r.Action == "RestartAllContainers") {
			return true
		}
	}
	return policy == "Always" || policy == "OnFailure" && code != 0
}

// ruleFor is the first of a container's rules that is for an exit code.
func ruleFor(c *v1.Container, code int32) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if e := r.ExitCodes; e != nil && slices.Contains(e.Values, code) == (e.Operator == "In") {
			return r
		}
	}
	return nil
}

// phase is what the containers add up to (getPhase). over says that nothing of the pod runs again whatever the policies say.
func (m *model) phase(over bool) v1.PodPhase {
	pendingInit, pendingSidecar, failed, running, waiting := false, false, false, false, false
	stopped, back, bad := 0, false, false
	for _, b := range m.all {
		runs, ended := b.up, !b.up && b.exit != nil
		switch b.part {
		case plainPart:
			pendingInit = pendingInit || !ended
			failed = failed || ended && b.exit.ExitCode != 0 && !m.again(b)
		case sidecarPart:
			running = running || runs
			waiting = waiting || !runs && !ended
			pendingSidecar = pendingSidecar || !b.started && !ended
		case regularPart:
			running = running || runs
			waiting = waiting || !runs && !ended
			if ended {
				stopped++
				back = back || m.again(b)
				bad = bad || b.exit.ExitCode != 0 || b.last.State != "exited"
			}
		}
	}
	switch {
	case failed:
		return "Failed"
	case pendingInit, waiting, pendingSidecar && !m.begun():
		return "Pending"
	case running:
		return "Running"
	case stopped == 0:
		return "Pending"
	case !over && back:
		return "Running"
	case bad:
		return "Failed"
	}
	return "Succeeded"
}

// begun tells whether a regular container was made in the newest sandbox, and in this era.
func (m *model) begun() bool {
	for _, b := range m.all {
		for _, i := range b.known {
			if b.part == regularPart && i.Sandbox == m.sandbox && i.Era == m.w.era {
				return true
			}
		}
	}
	return false
}

// settled tells whether nothing runs or is about to, and every exit is stored.
func (m *model) settled() bool {
	for _, b := range m.all {
		for _, i := range b.known {
			if i.State != "exited" || !i.Recorded {
				return false
			}
		}
	}
	return !m.busy
}

// evicted tells whether podd has noted that the pod is to end for what it stores.
func (m *model) evicted() bool { return m.w.evicted != nil && !m.w.now.Before(m.w.evicted.At) }

// expelled tells whether the pod has failed by its eviction.
func (m *model) expelled() bool {
	return m.w.evicted != nil && m.w.verdict != nil && m.w.verdict.Reason == cmp.Or(m.w.evicted.Reason, "Evicted")
}

// end is when the pod had to end, whatever its containers do: by activeDeadlineSeconds or its eviction.
func (m *model) end() (at time.Time, ok bool) {
	if limit := m.w.pod.Spec.ActiveDeadlineSeconds; limit != nil {
		at = m.w.started.Add(time.Duration(*limit) * time.Second)
		ok = !m.w.now.Before(at)
	}
	if m.evicted() && (!ok || m.w.evicted.At.Before(at)) {
		return m.w.evicted.At, true
	}
	return at, ok
}

// overdue tells whether activeDeadlineSeconds are over, or the pod is evicted.
func (m *model) overdue() bool {
	_, ok := m.end()
	return ok
}

// overran tells whether a container was at it yet when the pod had to end, as that was when its exit was recorded.
func (m *model) overran() bool {
	for _, b := range m.all {
		for _, i := range b.known {
			if m.w.late[i.ID] {
				return true
			}
		}
	}
	return false
}

// ran tells whether a regular container has ever been up.
func (m *model) ran() bool {
	return slices.ContainsFunc(m.all, func(b *being) bool { return b.part == regularPart && (b.up || b.exit != nil) })
}

// rejected tells whether the host has refused the pod.
func (m *model) rejected() bool {
	if m.w.pod.Annotations["rejected"] == "" || len(m.boxes) > 0 {
		return false
	}
	return !slices.ContainsFunc(m.all, func(b *being) bool { return b.last != nil })
}

// sidecars tells whether the pod has any: while containerd is away nobody knows whether one was started again.
func (m *model) sidecars() bool {
	return slices.ContainsFunc(m.all, func(b *being) bool { return b.part == sidecarPart })
}

// shown is the phase that the pod must show.
func (m *model) shown() v1.PodPhase {
	phase := m.phase(false)
	terminal := phase == "Succeeded" || phase == "Failed"
	switch {
	case m.w.verdict != nil:
		return m.w.verdict.Phase
	case m.settled() && terminal && !m.overran() && !m.sidecars():
		return phase
	case m.away:
		return "Unknown"
	case terminal && m.ran():
		return "Running" // held back until it is sure
	case terminal:
		return "Pending"
	}
	return phase
}

// verdict tells whether v may be stored as the end of the pod.
func (m *model) verdict(v *status.Verdict) string {
	phase := m.phase(false)
	terminal := phase == "Succeeded" || phase == "Failed"
	want := v1.PodPhase("")
	switch {
	case m.rejected():
		want = "Failed"
	case !m.settled():
		return "something may run yet"
	case terminal && !m.overran():
		want = phase
	case m.overdue():
		want = "Failed"
		reason := "DeadlineExceeded"
		if m.evicted() {
			reason = cmp.Or(m.w.evicted.Reason, "Evicted")
		}
		if v.Reason != reason {
			return "the model says " + reason
		}
	case m.w.pod.DeletionTimestamp != nil && m.w.pod.Annotations["static"] == "":
		if want = m.phase(true); want != "Succeeded" {
			want = "Failed" // what never ran is lost
		}
	case m.stranded():
		want = "Failed"
	default:
		return "the pod is not over"
	}
	if v.Phase != want {
		return fmt.Sprintf("the model says %s", want)
	}
	return ""
}

// stranded tells whether the sandbox is lost and the pod may not have another: its policy is Never, and something ran.
func (m *model) stranded() bool {
	if n := len(m.boxes); m.w.pod.Spec.RestartPolicy != "Never" || n > 0 && m.boxes[n-1].State != "exited" {
		return false
	}
	return slices.ContainsFunc(m.all, func(b *being) bool { return b.last != nil })
}

// condition is one that the pod must show.
type condition struct {
	status          v1.ConditionStatus
	reason, message string
}

// conditions are what the pod must show beside phase. rejected pods have no containers to speak of.
func (m *model) conditions(phase v1.PodPhase) map[v1.PodConditionType]condition {
	over := map[v1.PodPhase]string{"Succeeded": "PodCompleted", "Failed": "PodFailed"}[phase]
	want := map[v1.PodConditionType]condition{
		"PodScheduled":              {status: "True"},
		"PodReadyToStartContainers": {status: truth(m.sandboxUp())},
		"Initialized":               m.initialized(phase),
	}
	var unready []string
	for _, b := range m.all {
		if b.part != plainPart && !b.ready {
			unready = append(unready, b.spec.Name)
		}
	}
	containers := condition{status: "True"}
	switch {
	case over != "":
		containers = condition{"False", over, ""}
	case unready != nil:
		containers = condition{"False", "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)}
	}
	want["ContainersReady"] = containers
	want["Ready"] = containers
	if gates := m.gates(); gates != "" && containers.status == "True" {
		want["Ready"] = condition{"False", "ReadinessGatesNotReady", gates}
	}
	if m.expelled() && m.w.evicted.Disruption {
		message := m.w.evicted.Message
		if m.w.evicted.Reason == "Preempting" {
			message = "Pod was preempted by Kubelet to accommodate a critical pod."
		}
		want["DisruptionTarget"] = condition{"True", "TerminationByKubelet", message}
	}
	if m.mayRestartAll() {
		c := condition{"False", over, ""}
		if over == "" && m.restartsAll() {
			c = condition{"True", "RestartAllContainersStarted", "container exited with restart policy rule"}
		}
		want["AllContainersRestarting"] = c
	}
	return want
}

func truth(yes bool) v1.ConditionStatus {
	if yes {
		return "True"
	}
	return "False"
}

func (m *model) sandboxUp() bool {
	runs := 0
	for _, s := range m.boxes {
		if s.State == "running" {
			runs++
		}
	}
	n := len(m.boxes)
	return n > 0 && m.boxes[n-1].State == "running" && runs == 1 && m.w.network.Ready
}

func (m *model) initialized(phase v1.PodPhase) condition {
	var left []string
	lastDone := true
	for _, b := range m.all {
		if b.part == regularPart {
			continue
		}
		if !m.done(b) {
			left = append(left, b.spec.Name)
		}
		lastDone = b.started || b.part == plainPart && b.exit != nil && b.exit.ExitCode == 0 // in an era before, too
	}
	switch over := phase == "Succeeded" || phase == "Failed"; {
	case phase == "Succeeded":
		return condition{"True", "PodCompleted", ""}
	case m.ran(), left == nil, over && lastDone:
		return condition{status: "True"}
	}
	return condition{"False", "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", left)}
}

// done tells whether an init container is done as the status shows it.
func (m *model) done(b *being) bool {
	if b.part == sidecarPart {
		return b.started
	}
	return b.last != nil && b.last.State == "exited" && b.last.ExitCode == 0 && !b.old
}

func (m *model) gates() string {
	var out []string
	for _, g := range m.w.pod.Spec.ReadinessGates {
		i := slices.IndexFunc(m.w.pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == g.ConditionType })
		if i < 0 {
			out = append(out, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		} else if is := m.w.pod.Status.Conditions[i].Status; is != "True" {
			out = append(out, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %s", g.ConditionType, is))
		}
	}
	return strings.Join(out, ", ")
}

func (m *model) mayRestartAll() bool {
	return slices.ContainsFunc(m.all, func(b *being) bool {
		return slices.ContainsFunc(b.spec.RestartPolicyRules, func(r v1.ContainerRestartRule) bool { return r.Action == "RestartAllContainers" })
	})
}

// restartsAll tells whether something of an era that is over is left on the host, or an exit is about to end this one. The
// former also while the pod ends.
func (m *model) restartsAll() bool {
	for _, b := range m.all {
		if e := b.exit; e != nil && !m.ending() && e == b.last && !b.old && !e.Replace && e.Sandbox == m.sandbox && m.sandboxRuns() {
			if r := ruleFor(b.spec, e.ExitCode); r != nil && r.Action == "RestartAllContainers" {
				return true
			}
		}
		for _, i := range b.known {
			if i.Era < m.w.era && i.Present {
				return true
			}
		}
	}
	return false
}

// check compares a status with what it must be.
func (m *model) check(s v1.PodStatus) []string {
	var wrong []string
	phase := m.shown()
	if s.Phase != phase {
		wrong = append(wrong, fmt.Sprintf("phase %s, the model says %s", s.Phase, phase))
	}
	if m.rejected() && m.w.verdict != nil {
		return wrong
	}
	want := m.conditions(phase)
	for _, c := range s.Conditions {
		w, ok := want[c.Type]
		delete(want, c.Type)
		if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
			continue
		}
		if is := (condition{c.Status, c.Reason, c.Message}); !ok || is != w {
			wrong = append(wrong, fmt.Sprintf("condition %s %q, the model says %q", c.Type, is, w))
		}
	}
	for t := range want {
		wrong = append(wrong, fmt.Sprintf("no condition %s", t))
	}
	return wrong
}
