package plan

import (
	"time"

	"podd/status"
)

// empty ends and takes away every container of the pod. One that has not started cannot be stopped and one that is
// being made cannot be removed: both wait until podd's own work on it has ended.
func (p *planner) empty(deadline time.Time) {
	for _, i := range p.f.Containers {
		p.end(i, deadline, "the pod ends")
	}
}

// sweep takes away what does not belong to a living pod: exits, instances of another sandbox, sandboxes before g.
func (p *planner) sweep(g goal) {
	for _, i := range p.f.Containers {
		newest, _ := p.f.Newest(i.Name)
		belongs := i.Sandbox == g.id && i.Attempt == newest.Attempt && p.inSpec(i.Name)
		orphan := i.State == status.Running && !g.running
		if i.State == status.Exited || orphan || !belongs {
			p.end(i, time.Time{}, "not of the living sandbox")
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

func (p *planner) inSpec(name string) bool {
	for i := range p.pod.Spec.Containers {
		if p.pod.Spec.Containers[i].Name == name {
			return true
		}
	}
	return status.IsEphemeral(p.pod, name)
}

// end brings one instance one step nearer to being gone: stop, record, remove.
func (p *planner) end(i status.Container, deadline time.Time, why string) {
	if p.busy(Create, i.Name) || p.busy(Start, i.Name) {
		return
	}
	step := Step{Name: i.Name, Attempt: i.Attempt, Why: why}
	switch {
	case i.State == status.Running:
		step.Op, step.Deadline = Stop, deadline
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
		p.f.BusyWith(EnsureGround, EnsureNetwork, RemoveSandbox, DetachNetwork, Stop, Record, Remove) {
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
	case !p.busy(Conclude, ""):
		p.try(Step{Op: Finish, Why: "nothing is left on the host"})
	}
}
