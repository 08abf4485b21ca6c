package plan

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// goal is the sandbox that the pod's containers are to run in.
type goal struct {
	id      string
	attempt int
	running bool
	dead    *status.Sandbox // the newest one, which has died and is to be replaced
	clear   bool            // nothing of another one is left, and podd takes nothing away: building may begin
}

// target is the newest sandbox, or the one to come after it if it has died. Of the next one nothing is begun until the
// dead one is gone, so that what is found on the host belongs to one sandbox at a time.
func (p *planner) target() goal {
	idle := !p.f.BusyWith(RemoveSandbox, DetachNetwork)
	newest, ok := p.f.Sandbox()
	for _, s := range p.f.Sandboxes {
		idle = idle && (!s.Present || s.ID == newest.ID)
	}
	switch {
	case !ok: // none yet, or somebody took it away under containers that run on
		return goal{id: status.ContainerID(p.pod.UID, "", 0), clear: idle && !p.running()}
	case newest.State != status.Exited:
		return goal{id: newest.ID, attempt: newest.Attempt, running: newest.State == status.Running, clear: idle}
	}
	next := newest.Attempt + 1
	return goal{id: status.ContainerID(p.pod.UID, "", next), attempt: next, dead: &newest, clear: idle && !newest.Present}
}

// needed tells whether a container runs or is to run, now or after its back-off.
func (p *planner) needed() bool {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		last, known := p.f.Newest(c.Name)
		if !known || last.State != status.Exited || status.ShouldRestart(p.pod, c, last.ExitCode) {
			return true
		}
	}
	return false
}

// ground asks for the directories, the cgroup and the volumes.
func (p *planner) ground() {
	if !p.f.Ground || p.busy(EnsureGround, "") {
		p.try(Step{Op: EnsureGround, Why: "volumes, directories and cgroup"})
	}
}

// grounded tells whether the ground is there and nobody works on it.
func (p *planner) grounded() bool { return p.f.Ground && !p.busy(EnsureGround, "") }

// sandbox asks for the pause container and the network, beside each other: neither needs the other.
func (p *planner) sandbox(g goal) {
	if !p.grounded() || !g.clear {
		return
	}
	if !p.f.Network.Ready || p.busy(EnsureNetwork, "") {
		p.try(Step{Op: EnsureNetwork, Attempt: g.attempt, Sandbox: g.id, Why: "network of the sandbox"})
	}
	if !g.running || p.busy(EnsureSandbox, "") {
		p.try(Step{Op: EnsureSandbox, Attempt: g.attempt, Sandbox: g.id, Why: "sandbox of the pod"})
	}
}

// container brings c one step nearer to running.
func (p *planner) container(c *v1.Container, g goal) {
	last, known := p.f.Newest(c.Name)
	if known && last.State == status.Running {
		return
	}
	if known && last.State == status.Created {
		p.start(last, g)
		return
	}
	step := Step{Op: Create, Name: c.Name, Sandbox: g.id, Key: status.RestartKey(p.pod, c), Why: "first start"}
	if known {
		if !status.ShouldRestart(p.pod, c, last.ExitCode) {
			return
		}
		until, next := status.RestartBackoff(last, p.f, step.Key)
		if until.After(p.f.Now) {
			p.wait(until)
			return
		}
		step.Attempt, step.Backoff, step.Why = last.Attempt+1, next, "restart after an exit"
	}
	if p.image(c, last, known) && p.grounded() && g.clear && p.free(c.Name) {
		p.try(step)
	}
}

// ephemeral runs e once, whatever becomes of it, in a sandbox that runs (pkg/kubelet/kuberuntime/kuberuntime_manager.go
// computePodActions).
func (p *planner) ephemeral(e *v1.EphemeralContainer, g goal) {
	last, known := p.f.Newest(e.Name)
	if known && last.State == status.Created {
		p.start(last, g)
	}
	if known || !g.running && !p.busy(Create, e.Name) {
		return
	}
	c := v1.Container(e.EphemeralContainerCommon)
	step := Step{Op: Create, Name: c.Name, Sandbox: g.id, Key: status.RestartKey(p.pod, &c), Why: "ephemeral"}
	if p.image(&c, last, known) && p.grounded() && g.clear && p.free(c.Name) {
		p.try(step)
	}
}

// free tells whether nothing of an instance of name is left, so that the next one can be made. An exit must be
// recorded before, too, which its removal waits for.
func (p *planner) free(name string) bool {
	for _, i := range p.f.Containers {
		if i.Name == name && (i.Present || i.State != status.Exited || !i.Recorded) {
			return false
		}
	}
	return !p.busy(Remove, name) && !p.busy(Stop, name)
}

// start asks for the process of i once all it needs is there and has come to rest.
func (p *planner) start(i status.Container, g goal) {
	if i.Sandbox != g.id {
		return // it is swept away
	}
	if p.busy(Create, i.Name) {
		p.try(Step{Op: Create, Name: i.Name, Attempt: i.Attempt, Sandbox: i.Sandbox, Key: i.Key, Backoff: i.Backoff,
			Why: "all but done"})
		return
	}
	for _, other := range p.f.Containers {
		if other.Name == i.Name && other.Attempt < i.Attempt && (other.Present || other.State != status.Exited) {
			return // never two instances on the host
		}
	}
	ready := g.running && g.clear && p.f.Network.Ready && p.grounded() && !p.f.BusyWith(EnsureSandbox, EnsureNetwork)
	if ready && !p.busy(Remove, i.Name) && !p.busy(Stop, i.Name) {
		p.try(Step{Op: Start, Name: i.Name, Attempt: i.Attempt, Sandbox: i.Sandbox, Why: "sandbox and network are ready"})
	}
}

// image tells whether the image of c is there for its next instance, and asks for a pull if not. Policy Always pulls
// once per instance: after the exit of the one before.
func (p *planner) image(c *v1.Container, last status.Container, known bool) bool {
	_, have := p.f.Images[c.Image]
	if c.ImagePullPolicy == v1.PullNever {
		if !have {
			p.wait(p.f.Now.Add(p.f.Limits.RetryMax)) // it may be loaded without an event
		}
		return have
	}
	pulled, ok := p.f.Pulled[c.Image]
	fresh := ok && (!known || !pulled.Before(last.FinishedAt) || last.FinishedAt.After(p.f.Now))
	if have && (c.ImagePullPolicy != v1.PullAlways || fresh) && !p.busy(PullImage, c.Image) {
		return true
	}
	p.pull(c.Image)
	return false
}

func (p *planner) pull(image string) {
	t := status.Task{Op: PullImage, Name: image}
	if failure, ok := p.f.Failures[t]; ok && !p.busy(PullImage, image) {
		p.wait(failure.Last.Add(status.PullErrorShown)) // the status changes then
	}
	p.try(Step{Op: PullImage, Name: image, Why: "image of a container to be made"})
}

// closeTime is when the ephemeral containers of a pod are killed that is over by itself: a grace period after the last of
// its containers has ended. Nothing else runs in it then.
func (p *planner) closeTime() time.Time {
	var last time.Time
	for _, c := range p.f.Containers {
		if c.State == status.Exited && !status.IsEphemeral(p.pod, c.Name) && c.FinishedAt.After(last) {
			last = c.FinishedAt
		}
	}
	grace := p.pod.Spec.TerminationGracePeriodSeconds
	if last.IsZero() || grace == nil {
		return time.Time{}
	}
	return last.Add(time.Duration(*grace) * time.Second)
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
