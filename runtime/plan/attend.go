package plan

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

// attend does for a running instance of m what its life asks for: its hook, its probes, its end.
func (p *planner) attend(m status.Member, g goal) {
	i, known := p.f.Newest(m.Name)
	if !known || i.State != status.Running || !p.here(i, g) || !g.running || p.busy(Start, m.Name) {
		return
	}
	if i.Condemned != nil {
		p.end(i, p.condemned(m, i), i.Condemned.Message)
		return
	}
	p.readiness(i)
	if by, why := p.guilt(m, i); by != "" {
		p.condemn(m, i, by, why)
		return
	}
	if differs, _ := status.Unapplied(p.pod, m.Container, p.f, i); differs {
		p.try(Step{Op: Resize, Name: m.Name, Attempt: i.Attempt, Why: "resources have changed"})
	}
	step := Step{Name: m.Name, Attempt: i.Attempt}
	switch {
	case !status.Up(m.Container, i):
		step.Op, step.Why = PostStart, "postStart hook"
	case !status.Started(m.Container, i):
		step.Op, step.Why = Startup, "startup probe"
	case m.LivenessProbe != nil:
		step.Op, step.Why = Liveness, "liveness probe"
	default:
		return
	}
	p.try(step)
}

// readiness asks whether i is ready, for as long as somebody may want to know.
func (p *planner) readiness(i status.Container) {
	m, ok := status.MemberOf(p.pod, i.Name)
	if ok && m.ReadinessProbe != nil && !p.f.Gone && status.Started(m.Container, i) {
		p.try(Step{Op: Readiness, Name: i.Name, Attempt: i.Attempt, Why: "readiness probe"})
	}
}

// guilt is why i, a running instance of m, has to go though its pod goes on, in upstream's words; "" if it has not
// (pkg/kubelet/kuberuntime: computePodActions, computeInitContainerActions, startContainer).
func (p *planner) guilt(m status.Member, i status.Container) (by status.Cause, why string) {
	what := "Container " + m.Name
	if m.Kind == status.Sidecar {
		what = "Init container " + m.Name
	}
	again := ", will be restarted"
	if m.Kind == status.Sidecar {
		again = ""
	}
	probed := again
	if !mayRestart(p.pod, m.Container) {
		probed = ""
	}
	switch {
	case m.Kind != status.PlainInit && status.Outdated(m.Container, i):
		return status.BySpec, what + " definition changed" + again
	case i.PostStart.Failed != "":
		return status.ByPostStart, "FailedPostStartHook"
	case i.Liveness == status.Failure && m.LivenessProbe != nil:
		return status.ByLiveness, what + " failed liveness probe" + probed
	case i.Startup == status.Failure && m.StartupProbe != nil:
		return status.ByStartup, what + " failed startup probe" + probed
	}
	if _, restart := status.Unapplied(p.pod, m.Container, p.f, i); restart {
		return status.ByResources, "Container " + m.Name + " resize requires restart"
	}
	return "", ""
}

// allocate admits the resources that the spec asks for, if they fit.
func (p *planner) allocate() {
	if r := status.ResizeOf(p.spec, p.f); r.Wanted && r.Reason == "" {
		p.try(Step{Op: Allocate, Why: "resources have changed"})
	}
}

// whole holds the pod's cgroup to what it has of its own, when all that runs in it is held to what it is to have: those get
// more in a cgroup that was raised for them, and have got less before it is lowered. One that is being made may be made with
// what was admitted before, and comes first.
func (p *planner) whole() {
	making := p.f.BusyWith(Create) || slices.ContainsFunc(p.set, func(s Step) bool { return s.Op == Create })
	if !p.grounded() || making || !status.UnappliedOwn(p.f) {
		return
	}
	for _, m := range status.Members(p.pod) {
		if i, known := p.f.Newest(m.Name); known && m.Kind != status.Ephemeral && status.Unheld(p.pod, m.Container, p.f, i) {
			return
		}
	}
	p.try(Step{Op: ResizePod, Why: "the resources of the pod as a whole have changed"})
}

// mayRestart tells whether c may run again after podd has killed it, whatever its exit code will be.
func mayRestart(pod *v1.Pod, c *v1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

// condemn notes that i, a running instance of m, has to go, unless podd still works on its start.
func (p *planner) condemn(m status.Member, i status.Container, by status.Cause, why string) {
	p.readiness(i)
	if !p.busy(Start, m.Name) {
		p.try(Step{Op: Condemn, Name: m.Name, Attempt: i.Attempt, Cause: by, Why: why})
	}
}
