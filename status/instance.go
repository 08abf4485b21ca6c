package status

import (
	v1 "k8s.io/api/core/v1"
)

// Up tells whether i, an instance of c, runs and its postStart hook has ended well.
func Up(c *v1.Container, i Container) bool {
	if i.State != Running {
		return false
	}
	return !HasPostStart(c) || !i.PostStart.Ended.IsZero() && i.PostStart.Failed == ""
}

// Started tells whether i, an instance of c, is up and has passed its startup probe.
func Started(c *v1.Container, i Container) bool {
	return Up(c, i) && (c.StartupProbe == nil || i.Startup == Success)
}

// ready tells whether i, an instance of c, is started and its last readiness probe was a success
// (pkg/kubelet/prober/prober_manager.go UpdatePodStatus).
func ready(c *v1.Container, i Container) bool {
	return Started(c, i) && (c.ReadinessProbe == nil || i.Readiness == Success)
}

// HasPostStart tells whether c has a postStart hook.
func HasPostStart(c *v1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.PostStart != nil }

// HasPreStop tells whether c has a preStop hook.
func HasPreStop(c *v1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.PreStop != nil }

// Outdated tells whether i was made from another image than the one c asks for.
func Outdated(c *v1.Container, i Container) bool { return i.Ref != "" && i.Ref != c.Image }
