package plan

import (
	"slices"
	"time"

	"podd/status"
)

// empty ends and takes away every container of the pod. One that has not started cannot be stopped and one that is
// being made cannot be removed: both wait until podd's own work on it has ended.
func (p *planner) empty(until time.Time) {
	for _, i := range p.f.Containers {
		l := limit{until: until, ordered: true}
		m, ok := status.MemberOf(p.pod, i.Name)
		stays := ok && !p.f.Gone && p.pod.DeletionTimestamp == nil
		switch {
		case stays && i.Condemned != nil:
			l = p.condemned(m, i) // its time has begun already
			l.ordered = true
		case stays && m.Kind == status.Ephemeral && i.State == status.Running && !until.IsZero():
			p.condemn(m, i, status.ByEnd, "Stopping container "+i.Name) // the others may have ended long ago
			continue
		}
		p.end(i, l, "the pod ends")
	}
}

// retire ends what still runs of a pod that is spent. Ephemeral containers go with the sandbox, unless there are others
// to be ended before. What runs is condemned first: its grace period counts from when podd saw that the pod is over, which
// may be long after it was, and goes on if podd is restarted.
func (p *planner) retire(g goal) {
	by, exceeded := status.ByEnd, status.Exceeded(p.pod, p.f)
	if exceeded {
		by = status.ByDeadline
	}
	if p.f.Evicted != nil {
		by = status.ByEviction
	}
	for _, i := range p.f.Containers {
		var l limit // of what is no longer in the spec: at once
		m, ok := status.MemberOf(p.pod, i.Name)
		switch {
		case ok && m.Kind == status.Ephemeral && !exceeded && !status.HasSidecars(p.pod):
			continue
		case i.State == status.Running && (!g.running || i.Sandbox != g.id):
			continue // it is swept away
		case ok && i.State == status.Running && i.Condemned != nil:
			l = p.condemned(m, i)
			l.ordered = true
		case ok && i.State == status.Running:
			p.condemn(m, i, by, "Stopping container "+i.Name)
			continue
		}
		p.end(i, l, "the pod is over")
	}
}

// sweep takes away what does not belong to a living pod: instances of another sandbox, sandboxes before g. Exits are recorded.
func (p *planner) sweep(g goal) {
	for _, i := range p.f.Containers {
		if i.Sandbox == g.id && status.Past(p.pod, p.f, i) {
			continue // renew does it
		}
		newest, _ := p.f.Newest(i.Name)
		m, inSpec := status.MemberOf(p.pod, i.Name)
		belongs := i.Sandbox == g.id && i.Attempt == newest.Attempt && inSpec
		orphan := i.State == status.Running && !g.running
		stale := inSpec && i.State == status.Created && status.Outdated(m.Container, i)
		if !p.spent(i, g) && (i.State == status.Exited || orphan || !belongs || stale) {
			p.end(i, limit{}, "not of the living sandbox")
		}
	}
	if g.dead != nil && g.dead.Present {
		p.detach()
		if p.f.Network.Attached {
			return // the network must be gone before the sandbox: it shows whose network there is
		}
	}
	p.removeOlder(g)
}

// spent tells whether i has nothing left to do but to go, and is in nobody's way.
func (p *planner) spent(i status.Container, g goal) bool {
	return i.State == status.Exited && i.Recorded && i.Sandbox == g.id
}

// removeExited takes away what has ended in g, beside all else but the next instance, which comes first.
func (p *planner) removeExited(g goal) {
	for _, i := range p.f.Containers {
		if p.spent(i, g) && !status.Past(p.pod, p.f, i) && !p.has(Create, i.Name) && !p.has(Start, i.Name) {
			p.end(i, limit{}, "it has ended")
		}
	}
}

// has tells whether a step is in the set.
func (p *planner) has(op status.Op, name string) bool {
	return slices.ContainsFunc(p.set, func(s Step) bool { return s.Op == op && s.Name == name })
}

// renew takes away what is left of earlier eras in g: regular containers, then init containers, and last the one whose
// exit began this era (pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions).
func (p *planner) renew(g goal) {
	rank := func(i status.Container) int {
		m, _ := status.MemberOf(p.pod, i.Name)
		switch {
		case i.Name == p.f.EraBy:
			return 2
		case m.Kind == status.Regular:
			return 0
		}
		return 1
	}
	lowest := 2
	for _, i := range p.f.Containers {
		if status.Past(p.pod, p.f, i) && (i.Present || i.State != status.Exited) {
			lowest = min(lowest, rank(i))
		}
	}
	for _, i := range p.f.Containers {
		if i.Sandbox == g.id && status.Past(p.pod, p.f, i) && rank(i) <= lowest {
			p.end(i, limit{}, "all containers are restarted")
		}
	}
}

// end brings one instance one step nearer to being gone: stop, record, remove.
func (p *planner) end(i status.Container, l limit, why string) {
	going := p.busy(Remove, i.Name) && i.State == status.Exited && i.Recorded // while the next one is being made
	if (p.busy(Create, i.Name) || p.busy(Start, i.Name)) && !going {
		return
	}
	step := Step{Name: i.Name, Attempt: i.Attempt, Why: why}
	switch {
	case i.State == status.Running:
		p.stop(i, l, why)
		return
	case p.busy(Condemn, i.Name) || p.busy(Resize, i.Name):
		return
	case i.State == status.Exited && !i.Recorded && (!p.f.Gone || p.busy(Record, i.Name)):
		step.Op = Record // nobody will ask for the exits of an object that is gone
	case i.Present || i.State == status.Created:
		step.Op = Remove
	default:
		return
	}
	p.try(step)
}

// removeOlder removes every sandbox that is not g.
func (p *planner) removeOlder(g goal) {
	for _, s := range p.f.Sandboxes {
		if s.Present && s.ID != g.id && !p.inhabited(s.ID) && !p.building() {
			p.try(Step{Op: RemoveSandbox, Attempt: s.Attempt, Sandbox: s.ID, Why: "replaced"})
		}
	}
}

// removeSandboxes removes every sandbox, when nothing lives in it and nothing is being made in it.
func (p *planner) removeSandboxes() {
	for _, s := range p.f.Sandboxes {
		if s.Present && !p.inhabited("") && !p.building() {
			p.try(Step{Op: RemoveSandbox, Attempt: s.Attempt, Sandbox: s.ID, Why: "the pod ends"})
		}
	}
}

// inhabited tells whether something of a container is left to do in the sandbox with that id, or in any if it is "".
func (p *planner) inhabited(id string) bool {
	for _, i := range p.f.Containers {
		if (i.Present || i.State != status.Exited || !i.Recorded && !p.f.Gone) && (id == "" || i.Sandbox == id) {
			return true
		}
	}
	return false
}

// running tells whether a container runs.
func (p *planner) running() bool {
	for _, i := range p.f.Containers {
		if i.State == status.Running {
			return true
		}
	}
	return false
}

// building tells whether podd works on something that needs the sandbox.
func (p *planner) building() bool { return p.f.BusyWith(EnsureSandbox, Create, Start) }

// detach takes the network away once no process can use it.
func (p *planner) detach() {
	if !p.f.Network.Attached || p.running() || p.building() || p.f.BusyWith(EnsureNetwork) {
		return
	}
	p.try(Step{Op: DetachNetwork, Why: "no container is left to use it"})
}

// clear takes the ground away when nothing stands on it, and lets the object go when nothing at all is left.
func (p *planner) clear() {
	if p.inhabited("") || p.f.Network.Attached || p.building() ||
		p.f.BusyWith(EnsureGround, ResizePod, Refresh, EnsureNetwork, RemoveSandbox, DetachNetwork, Stop, Condemn, Record, Remove, Vacate) {
		return
	}
	for _, s := range p.f.Sandboxes {
		if s.Present {
			return
		}
	}
	switch {
	case p.f.Ground || p.f.GroundLeft || p.busy(RemoveGround, ""):
		p.try(Step{Op: RemoveGround, Why: "the pod is gone"})
	case p.f.Verdict == nil && !p.f.Gone && status.Outcome(p.pod, p.f) != nil:
		// its record is in the set
	case !p.f.BusyWith(Conclude, Evict, BeginEra, Allocate): // what they store would stay behind
		p.try(Step{Op: Finish, Why: "nothing is left on the host"})
	}
}

// vacate takes the volumes of an evicted pod away when nothing can use them any more, and what has become of it is known.
func (p *planner) vacate() {
	if !status.Expelled(p.f) || !p.f.Stored && !p.busy(Vacate, "") || p.inhabited("") || p.building() ||
		p.f.BusyWith(EnsureGround, ResizePod, Refresh, RemoveSandbox, Remove) {
		return
	}
	if slices.ContainsFunc(p.f.Sandboxes, func(s status.Sandbox) bool { return s.Present }) {
		return
	}
	p.try(Step{Op: Vacate, Why: "the pod was evicted"})
}
