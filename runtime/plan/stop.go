package plan

import (
	"time"

	"podd/status"
)

// leastGrace is what an instance has between its signal and the kill, however much of its grace period its hook or its
// turn took (pkg/kubelet/kuberuntime/kuberuntime_manager.go minimumGracePeriodInSeconds).
const leastGrace = 2 * time.Second

// evictionGrace is the grace period of a pod that is evicted (pkg/kubelet/eviction immediateEvictionGracePeriodSeconds).
const evictionGrace = time.Second

// limit is the time that an instance has to end in.
type limit struct {
	until   time.Time // when its grace period is over; zero is at once, without a hook
	least   time.Time // not to be killed before
	ordered bool      // the pod ends: sidecars wait for their turn
}

// stop ends i, which runs: its preStop hook, its turn, the signal. The grace period is one for all three, but the signal
// has leastGrace (pkg/kubelet/kuberuntime/kuberuntime_container.go killContainer).
func (p *planner) stop(i status.Container, l limit, why string) {
	step := Step{Op: Stop, Name: i.Name, Attempt: i.Attempt, Deadline: l.until, Why: why}
	m, ok := status.MemberOf(p.pod, i.Name)
	if l.until.IsZero() || !ok {
		p.try(step)
		return
	}
	p.readiness(i)
	kill := later(l.until, l.least)
	p.wait(l.until)
	if status.HasPreStop(m.Container) {
		if p.preStop(i, l.until, why) {
			return
		}
		ended := l.until
		if !i.PreStop.Ended.IsZero() && i.PreStop.Ended.Before(ended) {
			ended = i.PreStop.Ended
		}
		kill = later(kill, ended.Add(leastGrace))
	}
	if l.ordered && m.Kind == status.Sidecar {
		since, come := p.turn(m)
		switch {
		case !come && p.f.Now.Before(l.until):
			return
		case !come || since.After(l.until):
			since = l.until
		}
		if !since.IsZero() {
			kill = later(kill, since.Add(leastGrace))
		}
	}
	step.Deadline = kill
	p.try(step)
}

// preStop asks for the hook of i and tells whether the signal has to wait for it. A hook that does not end when its time is
// over is left alone when the signal's time is over, too.
func (p *planner) preStop(i status.Container, until time.Time, why string) bool {
	last := until.Add(leastGrace)
	if !i.PreStop.Ended.IsZero() || !p.f.Now.Before(last) || !p.f.Now.Before(until) && !p.busy(PreStop, i.Name) {
		return false
	}
	p.wait(last)
	p.try(Step{Op: PreStop, Name: i.Name, Attempt: i.Attempt, Deadline: until, Why: why})
	return true
}

// turn tells whether a sidecar may be told to end, since all that it lives for has ended, and since when: the regular
// containers and the later sidecars (pkg/kubelet/kuberuntime/kuberuntime_termination_order.go).
func (p *planner) turn(sidecar status.Member) (since time.Time, come bool) {
	come, after := true, false
	for _, m := range status.Members(p.pod) {
		if m.Name == sidecar.Name {
			after = true
			continue
		}
		if m.Kind != status.Regular && (m.Kind != status.Sidecar || !after) {
			continue
		}
		i, known := p.f.Newest(m.Name)
		switch {
		case p.busy(Start, m.Name) || known && i.State == status.Running:
			come = false
		case known && i.State == status.Exited && i.Sandbox == p.sandboxOf(sidecar.Name):
			since = later(since, i.FinishedAt)
		}
	}
	return since, come
}

func (p *planner) sandboxOf(name string) string {
	i, _ := p.f.Newest(name)
	return i.Sandbox
}

// killTime is when the containers of a deleted pod are killed: the deletion time, which the API set to the request's
// plus the grace period and cut to whole seconds. Rounded up again, or a short grace period would be next to none. Zero
// is at once.
func (p *planner) killTime() time.Time {
	grace := p.pod.DeletionGracePeriodSeconds
	if p.f.Gone || p.pod.DeletionTimestamp == nil || grace != nil && *grace == 0 {
		return time.Time{}
	}
	return p.pod.DeletionTimestamp.Add(time.Second)
}

// closeTime is when the containers are killed that are left of a pod which is over by itself: a grace period after the
// last of those that it consists of has ended. Sidecars and ephemeral containers do not count.
func (p *planner) closeTime() time.Time {
	var last time.Time
	for _, i := range p.f.Containers {
		m, ok := status.MemberOf(p.pod, i.Name)
		if i.State == status.Exited && ok && (m.Kind == status.Regular || m.Kind == status.PlainInit) {
			last = later(last, i.FinishedAt)
		}
	}
	if last.IsZero() {
		return time.Time{}
	}
	return last.Add(p.grace())
}

// grace is the pod's own grace period.
func (p *planner) grace() time.Duration {
	if s := p.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return leastGrace
}

// condemned is the time that i, an instance of m, has since podd condemned it: as its probe says, else the pod
// (kuberuntime_container.go setTerminationGracePeriod).
func (p *planner) condemned(m status.Member, i status.Container) limit {
	grace := p.grace()
	probe := m.LivenessProbe
	if i.Condemned.By == status.ByStartup {
		probe = m.StartupProbe
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil && (i.Condemned.By == status.ByStartup || i.Condemned.By == status.ByLiveness) {
		grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	if e := p.f.Evicted; i.Condemned.By == status.ByEviction && (e == nil || e.Reason != status.Preempting) {
		grace = min(grace, evictionGrace)
	}
	return limit{until: i.Condemned.At.Add(grace), least: i.Condemned.At.Add(leastGrace)}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
