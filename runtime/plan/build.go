package plan

import (
	"slices"

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

// target is the sandbox that is to be there. Of the next one nothing is begun until the dead one is gone, so that what is
// found on the host belongs to one sandbox at a time.
func (p *planner) target() goal {
	idle := !p.f.BusyWith(RemoveSandbox, DetachNetwork)
	newest, ok := p.f.Sandbox()
	for _, s := range p.f.Sandboxes {
		idle = idle && (!s.Present || s.ID == newest.ID)
	}
	g := goal{clear: idle}
	g.id, g.attempt = status.Home(p.pod, p.f)
	switch {
	case !ok: // none yet, or somebody took it away under containers that run on
		g.clear = idle && !p.running()
	case newest.State == status.Exited:
		g.dead, g.clear = &newest, idle && !newest.Present && !p.running()
	default:
		g.running = newest.State == status.Running
	}
	return g
}

// ground asks for the directories, the cgroup and the volumes.
func (p *planner) ground() {
	if !p.f.Ground || p.busy(EnsureGround, "") {
		p.try(Step{Op: EnsureGround, Why: "volumes, directories and cgroup"})
	}
}

// refresh asks for the volumes to follow their sources, beside everything else.
func (p *planner) refresh() {
	if !p.grounded() {
		return
	}
	if p.f.Stale != 0 || p.busy(Refresh, "") {
		p.try(Step{Op: Refresh, Attempt: p.f.Stale, Why: "a source has changed"})
	}
	p.wait(p.f.RefreshAt)
}

// grounded tells whether the ground is there and nobody works on it.
func (p *planner) grounded() bool { return p.f.Ground && !p.busy(EnsureGround, "") }

// sandbox asks for the pause container and the network, beside each other: neither needs the other, with runc.
func (p *planner) sandbox(g goal) {
	if !p.grounded() || !g.clear {
		return
	}
	if !p.f.Network.Ready || p.busy(EnsureNetwork, "") {
		p.try(Step{Op: EnsureNetwork, Attempt: g.attempt, Sandbox: g.id, Why: "network of the sandbox"})
	}
	networked := p.f.Network.Ready && !p.busy(EnsureNetwork, "")
	if (!g.running && (networked || !p.f.NetworkFirst)) || p.busy(EnsureSandbox, "") {
		p.try(Step{Op: EnsureSandbox, Attempt: g.attempt, Sandbox: g.id, Why: "sandbox of the pod"})
	}
}

// container brings m, whose turn has come, one step nearer to running.
func (p *planner) container(m status.Member, g goal) {
	last, known := p.f.Newest(m.Name)
	if known && last.State == status.Running {
		return
	}
	if known && last.State == status.Created {
		p.start(m, last, g)
		return
	}
	step := Step{Op: Create, Name: m.Name, Sandbox: g.id, Key: status.RestartKey(p.pod, m.Container), Era: p.f.Era, Why: "first start"}
	if known {
		anew := m.Kind != status.Regular && !p.here(last, g)
		if !anew && !status.RunsAgain(p.pod, p.f, m.Container, last) {
			return
		}
		until, next := status.NextStart(p.pod, p.f, m, last)
		if until.After(p.f.Now) {
			p.wait(until)
			return
		}
		step.Attempt, step.Backoff, step.Why = last.Attempt+1, next, "restart after an exit"
	}
	p.create(m, last, known, step, g)
}

// create asks for the next instance of m once its image is there and nothing is in its way.
func (p *planner) create(m status.Member, last status.Container, known bool, step Step, g goal) {
	fits := !p.f.BusyWith(ResizePod) // the cgroup is not changed under it
	if p.images(m.Container, last, known) && p.grounded() && g.clear && fits && p.addressed(m) && p.free(m.Name, step.Attempt) {
		p.try(step)
	}
}

// addressed tells whether the pod has the addresses that the environment of m is made with.
func (p *planner) addressed(m status.Member) bool {
	return !status.NeedsAddress(m.Container) || p.f.Network.Ready && !p.busy(EnsureNetwork, "")
}

// here tells whether i is of the sandbox that is to be there and of this era.
func (p *planner) here(i status.Container, g goal) bool {
	return i.Sandbox == g.id && !status.Past(p.pod, p.f, i)
}

// ephemeral runs e once, whatever becomes of it, in a sandbox that runs (pkg/kubelet/kuberuntime/kuberuntime_manager.go
// computePodActions).
func (p *planner) ephemeral(e status.Member, g goal) {
	last, known := p.f.Newest(e.Name)
	if known && last.State == status.Created {
		p.start(e, last, g)
	}
	if known || !g.running && !p.busy(Create, e.Name) {
		return
	}
	p.create(e, last, known, Step{Op: Create, Name: e.Name, Sandbox: g.id, Key: status.RestartKey(p.pod, e.Container), Era: p.f.Era,
		Why: "ephemeral"}, g)
}

// free tells whether the instance attempt of name can be made: each before it has ended and is recorded, and of those at most
// one is left, which is taken away when the next one runs.
func (p *planner) free(name string, attempt int) bool {
	left := 0
	for _, i := range p.f.Containers {
		if i.Name == name && i.Present {
			left++
		}
		if i.Name == name && (i.State != status.Exited || !i.Recorded) {
			return false
		}
	}
	return left <= 1 && !p.removing(name, attempt) && !p.busy(Stop, name)
}

// over tells whether nothing of the instances of name before attempt goes on. With the main process of one all others have
// ended, except where they are in a namespace of processes that they share: there they may be on their way out. Of an end
// that nobody has seen nothing is sure before the instance is gone, nor of one that containerd tells of because the shim has died
// that the container had for itself.
func (p *planner) over(name string, attempt int) bool {
	shared := p.f.NetworkFirst || p.pod.Spec.HostPID || p.pod.Spec.ShareProcessNamespace != nil && *p.pod.Spec.ShareProcessNamespace
	for _, i := range p.f.Containers {
		if i.Name == name && i.Attempt < attempt && (i.State != status.Exited || i.Present && (shared || i.Reason == status.Unseen)) {
			return false
		}
	}
	return !p.removing(name, attempt) && !(shared && p.busy(Remove, name))
}

// removing tells whether podd takes away an instance of name that is not older than attempt.
func (p *planner) removing(name string, attempt int) bool {
	return slices.ContainsFunc(p.f.Work, func(w status.Work) bool {
		return w.Task == status.Task{Op: Remove, Name: name} && w.Attempt >= attempt
	})
}

// start asks for the process of i, an instance of m, once all it needs is there and has come to rest.
func (p *planner) start(m status.Member, i status.Container, g goal) {
	if !p.here(i, g) || status.Outdated(m.Container, i) {
		return // it is swept away
	}
	if p.busy(Create, i.Name) {
		p.try(Step{Op: Create, Name: i.Name, Attempt: i.Attempt, Sandbox: i.Sandbox, Key: i.Key, Backoff: i.Backoff, Era: i.Era,
			Why: "all but done"})
		return
	}
	ready := g.running && g.clear && p.f.Network.Ready && p.grounded() && !p.f.BusyWith(EnsureSandbox, EnsureNetwork)
	if ready && p.over(i.Name, i.Attempt) && !p.busy(Stop, i.Name) {
		p.try(Step{Op: Start, Name: i.Name, Attempt: i.Attempt, Sandbox: i.Sandbox, Why: "sandbox and network are ready"})
	}
}

// images tells whether all images are there for the next instance of c, its own and those of its volumes, and asks for
// pulls if not. Policy Always pulls once per instance, after the exit of the one before; for a volume once, before it is
// mounted.
func (p *planner) images(c *v1.Container, last status.Container, known bool) bool {
	pulled, ok := p.f.Pulled[c.Image]
	fresh := ok && (!known || !pulled.Before(last.FinishedAt) || last.FinishedAt.After(p.f.Now))
	all := p.image(c.Image, c.ImagePullPolicy, fresh)
	for _, v := range status.ImageVolumes(p.pod, c) {
		if p.f.Mounted[v.Name] {
			continue
		}
		_, fresh := p.f.Pulled[v.Image.Reference]
		all = p.image(v.Image.Reference, v.Image.PullPolicy, fresh) && all
	}
	return all
}

// image tells whether an image is there by its policy; fresh is that the registry need not be asked again.
func (p *planner) image(image string, policy v1.PullPolicy, fresh bool) bool {
	_, have := p.f.Images[image]
	if policy == v1.PullNever {
		if !have {
			p.wait(p.f.Now.Add(p.f.Limits.RetryMax)) // it may be loaded without an event
		}
		return have
	}
	if have && (policy != v1.PullAlways || fresh) && !p.busy(PullImage, image) {
		return true
	}
	p.pull(image)
	return false
}

func (p *planner) pull(image string) {
	t := status.Task{Op: PullImage, Name: image}
	if failure, ok := p.f.Failures[t]; ok && !p.busy(PullImage, image) {
		p.wait(failure.Last.Add(status.PullErrorShown)) // the status changes then
	}
	p.try(Step{Op: PullImage, Name: image, Why: "image of a container to be made"})
}
