package plan

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// leastTime is what the signal has before the kill, whatever a hook has used up.
const leastTime = 2 * time.Second

// checkPlan holds the steps that are about to begin to what is true of the pod on the host.
func (w *world) checkPlan(d *daemon, m *model, set []Step) {
	for _, s := range set {
		if d.jobs[s.Task()] != nil {
			continue
		}
		if wrong := m.judge(s); wrong != "" {
			w.t.Errorf("%s: %s: %s: %s\n%s", w.name, stamp(w.now.Sub(w.started)), show(s, w.started), wrong, state(w))
		}
	}
}

// judge tells what is wrong with a step that begins now.
func (m *model) judge(s Step) string {
	b, i := m.find(s)
	switch s.Op {
	case Create, Start:
		return m.judgeMaking(s, b)
	case Stop, PreStop:
		return m.judgeStop(s, b, i)
	case PostStart, Startup, Readiness, Liveness:
		return m.judgeProbe(s, b, i)
	case Condemn:
		return m.judgeCondemn(s, b, i)
	case Conclude:
		if m.rejected() && m.w.verdict == nil && !m.w.reachable {
			return "containerd may know of it"
		}
	case Evict:
		if m.w.d.beyond == nil || m.w.evicted != nil || m.w.gone || m.w.pod.DeletionTimestamp != nil || m.w.verdict != nil {
			return "there is nothing to evict for"
		}
	case BeginEra:
		switch {
		case b == nil || b.exit == nil || b.last != b.exit || b.old || s.Attempt != m.w.era+1:
			return "no exit of this era begins it"
		case ruleFor(b.spec, b.exit.ExitCode) == nil || ruleFor(b.spec, b.exit.ExitCode).Action != "RestartAllContainers":
			return "no rule says so"
		}
	case Remove:
		if i != nil && i.Era < m.w.era && i.Name == m.w.eraBy && i.Sandbox == m.sandbox && m.sandboxUp() && !m.ending() {
			for _, other := range m.all {
				for _, o := range other.known {
					if o.Present && o.Era < m.w.era && o.Name != i.Name {
						return "it is not the last of its era"
					}
				}
			}
		}
	}
	return ""
}

// find is the container that a step is for, and the instance. Ephemeral containers are none of the model's.
func (m *model) find(s Step) (*being, *status.Container) {
	for _, b := range m.all {
		if b.spec.Name != s.Name {
			continue
		}
		for _, i := range b.known {
			if i.Attempt == s.Attempt {
				return b, i
			}
		}
		return b, nil
	}
	return nil, nil
}

// ending tells whether the pod goes, or has nothing left to live for.
func (m *model) ending() bool {
	return m.w.gone || m.w.pod.DeletionTimestamp != nil || m.w.verdict != nil || m.overdue() || m.spent()
}

// spent tells whether no regular container runs or will run again, or an init container has failed for good.
func (m *model) spent() bool {
	alive := false
	for _, b := range m.all {
		ended := b.last != nil && b.last == b.exit
		switch b.part {
		case regularPart:
			alive = alive || !ended || m.again(b)
		case plainPart:
			if ended && b.exit.ExitCode != 0 && !m.again(b) {
				return true
			}
		}
	}
	return !alive
}

// judgeMaking holds a Create or Start to the order of the containers: each init container after all before it were done in
// this sandbox and era, the regular ones after all of them; and once one of those exists, no plain init container ever.
func (m *model) judgeMaking(s Step, b *being) string {
	if b == nil {
		return "" // ephemeral
	}
	here := func(i *status.Container) bool { return i.Sandbox == s.Sandbox && i.Era == m.w.era }
	begun := false
	for _, o := range m.all {
		for _, i := range o.known {
			begun = begun || o.part == regularPart && here(i)
		}
	}
	if s.Op == Create && s.Era != m.w.era {
		return "of another era"
	}
	if s.Op == Start && (b.last == nil || !here(b.last)) {
		return "it is not of this sandbox and era"
	}
	if m.ending() {
		return "the pod ends"
	}
	if s.Op == Create && m.restartsAll() {
		return "what restarts all containers has not come to its end"
	}
	if begun && b.part == plainPart {
		return "an init container after a regular one"
	}
	for _, o := range m.all {
		if o == b || o.part == regularPart || begun {
			break
		}
		done := false
		for _, i := range o.known {
			done = done || here(i) && (o.part == plainPart && i.State == "exited" && i.ExitCode == 0 || o.part == sidecarPart && m.w.proved[i.ID])
		}
		if !done {
			return o.spec.Name + " comes first"
		}
	}
	for _, i := range b.known {
		if b.part == plainPart && here(i) && i.State == "exited" && i.ExitCode == 0 {
			return "it has done its work"
		}
	}
	return ""
}

// judgeProbe holds hooks and probes to what their instance has come to.
func (m *model) judgeProbe(s Step, b *being, i *status.Container) string {
	if b == nil || i == nil || i.State != "running" {
		return "it does not run"
	}
	up, started, _ := proven(b.spec, i)
	leaves := m.w.gone || m.w.pod.DeletionTimestamp != nil
	switch s.Op {
	case PostStart:
		if !i.PostStart.Ended.IsZero() {
			return "it has ended already"
		}
	case Startup:
		if !up || i.Startup != "" || leaves {
			return "not now"
		}
	case Liveness:
		if !started || i.Condemned != nil || leaves {
			return "not now"
		}
	case Readiness:
		if !started {
			return "it is not started"
		}
	}
	return ""
}

func (m *model) judgeCondemn(s Step, b *being, i *status.Container) string {
	if b == nil {
		return "" // ephemeral
	}
	if i == nil || i.State != "running" || i.Condemned != nil {
		return "nothing to condemn"
	}
	because := map[status.Cause]bool{
		"liveness":  i.Liveness == "failure",
		"startup":   i.Startup == "failure",
		"postStart": i.PostStart.Failed != "",
		"spec":      i.Ref != b.spec.Image,
		"resize":    true,
		"deadline":  m.overdue() && !m.evicted(),
		"eviction":  m.evicted(),
		"end":       m.spent(),
	}
	if !because[s.Cause] {
		return "there is no cause"
	}
	return ""
}

// judgeStop holds the end of an instance to its time: the grace period counts from what cannot change, the hook goes before
// the signal, the signal has its least time, and sidecars wait for their turn.
func (m *model) judgeStop(s Step, b *being, i *status.Container) string {
	if b == nil {
		return "" // ephemeral
	}
	if i == nil || i.State != "running" {
		return "it does not run"
	}
	stray := i != b.last || i.Sandbox != m.sandbox || !m.sandboxRuns() || i.Era < m.w.era
	grace := m.w.pod.DeletionGracePeriodSeconds
	if s.Deadline.IsZero() {
		if s.Op == Stop && (stray || m.w.gone || m.w.pod.DeletionTimestamp != nil && grace != nil && *grace == 0) {
			return ""
		}
		return "it has no time to end"
	}
	for _, until := range m.limits(b, i) {
		if s.Deadline.Before(until) || s.Deadline.After(until.Add(leastTime)) {
			continue
		}
		return m.judgeOrder(s, b, i, until)
	}
	return "this is not its time"
}

// limits are the instants at which a grace period of i ends.
func (m *model) limits(b *being, i *status.Container) (out []time.Time) {
	own := time.Duration(0)
	if g := m.w.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		own = time.Duration(*g) * time.Second
	}
	if at := m.w.pod.DeletionTimestamp; at != nil {
		return []time.Time{at.Add(time.Second)}
	}
	if c := i.Condemned; c != nil {
		probe := map[status.Cause]*v1.Probe{"liveness": b.spec.LivenessProbe, "startup": b.spec.StartupProbe}[c.By]
		if probe != nil && probe.TerminationGracePeriodSeconds != nil {
			own = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
		}
		if c.By == "eviction" && m.w.evicted.Reason != "Preempting" {
			own = min(own, time.Second)
		}
		return []time.Time{c.At.Add(own)}
	}
	return nil // podd has not said that it has to end
}

func (m *model) judgeOrder(s Step, b *being, i *status.Container, until time.Time) string {
	now := m.w.now
	if s.Op == PreStop {
		if !i.PreStop.Ended.IsZero() {
			return "it has ended already"
		}
		return ""
	}
	if b.spec.Lifecycle != nil && b.spec.Lifecycle.PreStop != nil {
		ended := i.PreStop.Ended
		switch {
		case ended.IsZero() && now.Before(until):
			return "its hook comes first"
		case !ended.IsZero() && s.Deadline.Before(ended.Add(leastTime)) && s.Deadline.Before(until.Add(leastTime)):
			return "the signal has no time"
		}
	}
	if b.part != sidecarPart || !m.ending() || !now.Before(until) {
		return ""
	}
	after := false
	for _, o := range m.all {
		if o == b {
			after = true
			continue
		}
		if o.last != nil && o.last.State == "running" && (o.part == regularPart || after && o.part == sidecarPart) {
			return o.spec.Name + " goes first"
		}
	}
	return ""
}

func (m *model) sandboxRuns() bool {
	return len(m.boxes) > 0 && m.boxes[len(m.boxes)-1].State == "running"
}

// checkJobs holds what is under way after a look to what podd saw in it: no hook and no probe beside an instance that is
// gone.
func (w *world) checkJobs(d *daemon, m *model) {
	for _, j := range d.jobs {
		switch j.step.Op {
		case PostStart, PreStop, Startup, Readiness, Liveness:
			if _, i := m.find(j.step); !j.givenUp && w.reachable && (i == nil || i.State != "running") {
				w.t.Errorf("%s: %s: %s goes on beside an instance that is gone", w.name, stamp(w.now.Sub(w.started)), show(j.step, w.started))
			}
		}
	}
}

// attended tells whether podd does for every instance that runs what it has to: ends one that has to go, asks its probes.
func (m *model) attended() bool {
	asks := func(op status.Op, name string) bool { return m.w.d.jobs[status.Task{Op: op, Name: name}] != nil }
	for _, b := range m.all {
		if b.last == nil || b.last.State != "running" {
			continue
		}
		c := b.spec
		switch {
		case b.last.Condemned != nil, b.last.Ref != c.Image && b.part != plainPart, b.old:
			return false
		case !b.up && (b.last.PostStart.Failed != "" || !asks(PostStart, c.Name)),
			b.up && !b.started && (b.last.Startup == "failure" || !asks(Startup, c.Name)),
			b.started && c.ReadinessProbe != nil && !asks(Readiness, c.Name),
			b.started && c.LivenessProbe != nil && (b.last.Liveness == "failure" || !asks(Liveness, c.Name)):
			return false
		}
	}
	return true
}
