package plan

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// Next is the complete set of steps that should be under way for pod now, and when to ask again if nothing happens
// before; a zero again waits for an event. What must come later is not in the set yet. A step under way that is no
// longer in the set is given up, and one whose Attempt, Deadline or Sandbox has changed is given up and begun anew.
//
// At most one step of a task (Step.Task) is in the set, so a task under way stands for the step that began it.
func Next(pod *v1.Pod, f status.Facts) (set []Step, again time.Time) {
	p := &planner{spec: pod, pod: status.Admitted(pod, f), f: f}
	pod = p.pod
	switch {
	case !f.Reachable:
		p.blind()
	case f.Gone || pod.DeletionTimestamp != nil:
		p.leave()
	case status.Outcome(pod, f) != nil || status.Stranded(pod, f):
		p.close()
	default:
		p.live()
	}
	return p.set, p.again
}

// planner gathers one answer of Next.
type planner struct {
	spec *v1.Pod // as the object has it
	pod  *v1.Pod // with the resources that are admitted
	f    status.Facts

	set   []Step
	again time.Time
}

// blind is all there is to do while containerd cannot be asked: what follows from records.
func (p *planner) blind() {
	p.conclude()
	p.wait(p.f.Now.Add(p.f.Limits.RetryMax))
}

// leave takes a deleted pod off the host: stop, record, take away, and let the object go at the very end.
func (p *planner) leave() {
	p.conclude()
	p.empty(p.killTime())
	p.removeSandboxes()
	p.detach()
	p.clear()
}

// close ends a pod that is over by itself: the sandbox and the network go, the volumes and logs stay until it is
// deleted. Of one that was evicted the volumes go, too: their room may be what it was evicted for.
func (p *planner) close() {
	p.conclude()
	until := p.closeTime()
	if status.Stranded(p.pod, p.f) {
		until = time.Time{} // they are orphans
	}
	p.empty(until)
	p.removeSandboxes()
	p.detach()
	p.vacate()
}

// live keeps a pod running.
func (p *planner) live() {
	if at, ok := status.Deadline(p.pod, p.f); ok {
		p.wait(at)
	}
	if name, ok := status.Trigger(p.pod, p.f); ok {
		p.try(Step{Op: BeginEra, Name: name, Attempt: p.f.Era + 1, Why: "container exited with restart policy rule"})
		return // nothing is done before it is noted
	}
	if p.f.Beyond != nil && p.f.Evicted == nil {
		p.try(Step{Op: Evict, Eviction: p.f.Beyond, Why: p.f.Beyond.Message})
	}
	g := p.target()
	p.renew(g)
	p.sweep(g)
	p.refresh()
	if status.Spent(p.pod, p.f) {
		p.retire(g)
		return
	}
	p.allocate()
	p.ground()
	p.sandbox(g)
	if !status.Renewing(p.pod, p.f) {
		for _, m := range status.Due(p.pod, p.f) {
			p.container(m, g)
		}
	}
	p.removeExited(g)
	for _, m := range status.Members(p.pod) {
		if m.Kind == status.Ephemeral {
			p.ephemeral(m, g)
			continue
		}
		p.attend(m, g)
	}
	p.whole()
}

// conclude records the verdict.
func (p *planner) conclude() {
	if p.f.Verdict != nil || p.f.Gone {
		return
	}
	if v := status.Outcome(p.pod, p.f); v != nil {
		p.try(Step{Op: Conclude, Verdict: v, Why: "the pod is over"})
	}
}

// try puts s into the set, unless it failed so recently that it has to wait. One that is under way stays.
func (p *planner) try(s Step) {
	t := s.Task()
	for _, have := range p.set {
		if have.Task() == t {
			return
		}
	}
	if failure, failed := p.f.Failures[t]; failed && !p.busy(s.Op, s.Name) {
		at := status.RetryAt(t, failure, p.f.Limits)
		// An instant further away than the delay itself means that the clock was set back: no reason to wait.
		if at.After(p.f.Now) && !failure.Last.After(p.f.Now.Add(time.Minute)) {
			p.wait(at)
			return
		}
	}
	p.set = append(p.set, s)
}

// wait makes sure that Next is asked again at t.
func (p *planner) wait(t time.Time) {
	if t.After(p.f.Now) && (p.again.IsZero() || t.Before(p.again)) {
		p.again = t
	}
}

func (p *planner) busy(op status.Op, name string) bool { return p.f.Busy(op, name) }
