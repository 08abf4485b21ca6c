package runtime

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"

	"podd/api/usage"
	"podd/runtime/containers"
	"podd/runtime/killpoint"
	"podd/runtime/plan"
	"podd/runtime/probes"
	"podd/status"
)

// probe asks an instance how it is until the step is given up or the probe has come to its end.
func (h *host) probe(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	t, err := h.asked(pod, s)
	if err != nil {
		return err
	}
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	w := probes.Watch{
		Since: time.Now(),
		Note: func(r status.Result) error {
			if err := h.marks.put(found(id, string(s.Op)), r); err != nil {
				return err
			}
			killpoint.At("probe.noted")
			h.r.Wake(h.uid)
			return nil
		},
		Tell: func(reason, message string) {
			h.containerEvent(pod, s.Name, v1.EventTypeWarning, reason, "%s", message)
		},
	}
	switch s.Op {
	case plan.Startup:
		w.Kind, w.Spec = probes.Startup, t.Container.StartupProbe
	case plan.Readiness:
		w.Kind, w.Spec = probes.Readiness, t.Container.ReadinessProbe
	default:
		w.Kind, w.Spec = probes.Liveness, t.Container.LivenessProbe
	}
	if w.Spec == nil {
		return fmt.Errorf("%s probe of container %s: there is none", s.Op, s.Name)
	}
	w.Ask = func(ctx context.Context) (probe.Result, string, error) { return h.r.prober.Ask(ctx, w.Spec, t) }
	h.marks.get(found(id, string(s.Op)), &w.Noted)
	if at, ok := h.marks.started(id); ok && !at.IsZero() {
		w.Since = at
	}
	of := usage.Probe{Namespace: pod.Namespace, Pod: pod.Name, UID: string(h.uid), Container: s.Name, Kind: string(w.Kind)}
	w.Count = func(r status.Result, took time.Duration) { h.r.probes.Add(of, r, took) }
	w.Wait = h.r.jitter(w.Spec, w.Since)
	return w.Run(ctx)
}

// jitter is what a probe of an instance that ran before podd did waits for at first, so that a podd that comes back does
// not ask all containers at once. As upstream has it, that is a part of the period, and only while podd is younger than
// that (pkg/kubelet/prober/worker.go); what podd itself has started need not wait.
func (r *Runtime) jitter(spec *v1.Probe, since time.Time) time.Duration {
	period := time.Duration(spec.PeriodSeconds) * time.Second
	if period <= 0 || time.Since(r.begun) >= period || !since.Before(r.begun) {
		return 0
	}
	return rand.N(period)
}

// Probes are those of the pods there are, and what they have answered since podd runs.
func (r *Runtime) Probes() []usage.Probe { return r.probes.All() }

// asked is the container of a step, as probes and hooks reach it.
func (h *host) asked(pod *v1.Pod, s plan.Step) (probes.Target, error) {
	c, err := containerOf(pod, s.Name)
	if err != nil {
		return probes.Target{}, err
	}
	var ips []string
	if !pod.Spec.HostNetwork {
		st, err := h.r.Network.Look(string(h.uid))
		if err != nil {
			return probes.Target{}, err
		}
		ips = st.Result.IPs
	}
	ips = status.PodIPs(pod, ips, h.r.Node.IPs)
	t := probes.Target{Container: c, Pod: fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)}
	if len(ips) > 0 {
		t.IP = ips[0]
	}
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	t.Run = func(ctx context.Context, command []string, stdout, stderr io.Writer, started func()) (int, error) {
		return h.r.Containers.Exec(ctx, id, containers.Exec{Cmd: command, Stdout: stdout, Stderr: stderr, Started: started, Own: true})
	}
	return t, nil
}
