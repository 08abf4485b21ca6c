package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Reasons of conditions (pkg/kubelet/status/generate.go).
const (
	unknownStatuses = "UnknownContainerStatuses"
	podCompleted    = "PodCompleted"
	podFailed       = "PodFailed"
	notReady        = "ContainersNotReady"
	notInitialized  = "ContainersNotInitialized"
	gatesNotReady   = "ReadinessGatesNotReady"

	restartAllStarted = "RestartAllContainersStarted"
)

// owned are the conditions that podd writes; Stamp keeps all others as they are.
var owned = []v1.PodConditionType{
	v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled,
	v1.AllContainersRestarting, v1.PodResizePending, v1.PodResizeInProgress,
}

// conditions are podd's, in the order in which they are written.
func conditions(pod *v1.Pod, f Facts, s v1.PodStatus) []v1.PodCondition {
	containers := containersReady(pod, s)
	out := append(resizeConditions(pod, f, s.Phase), disruption(f, s)...)
	out = append(out, []v1.PodCondition{
		{Type: v1.PodReadyToStartContainers, Status: truth(readyToStart(f))},
		initializedCondition(pod, s),
		readyCondition(pod, containers),
		containers,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}...)
	if restartsAll(pod) {
		c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
		switch c.Reason = terminalReason(s.Phase); {
		case c.Reason == "" && renewing(pod, f):
			c.Status, c.Reason, c.Message = v1.ConditionTrue, restartAllStarted, "container exited with restart policy rule"
		}
		out = append(out, c)
	}
	for i := range out {
		out[i].ObservedGeneration = pod.Generation
	}
	return out
}

// disruption is the condition of a pod that podd has ended for the host's sake or another pod's. It comes with the terminal
// phase (pkg/kubelet/status/status_manager.go mergePodStatus).
func disruption(f Facts, s v1.PodStatus) []v1.PodCondition {
	if e := f.Evicted; e == nil || !e.Disruption || s.Phase != v1.PodFailed || s.Reason != e.reason() {
		return nil
	}
	message := f.Evicted.Message
	if f.Evicted.Reason == Preempting { // pkg/kubelet/preemption
		message = "Pod was preempted by Kubelet to accommodate a critical pod."
	}
	return []v1.PodCondition{{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: message}}
}

func truth(b bool) v1.ConditionStatus {
	if b {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}

// readyToStart tells whether the newest sandbox runs, is the only one that does, and has its network
// (pkg/kubelet/kuberuntime/util/util.go PodSandboxChanged).
func readyToStart(f Facts) bool {
	runs := 0
	for _, s := range f.Sandboxes {
		if s.State == Running {
			runs++
		}
	}
	newest, ok := f.Sandbox()
	return ok && newest.State == Running && runs == 1 && f.Network.Ready
}

func initializedCondition(pod *v1.Pod, s v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	var incomplete, unknown []string
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		cs := find(s.InitContainerStatuses, spec.Name)
		switch {
		case cs == nil:
			unknown = append(unknown, spec.Name)
		case isSidecar(spec) && (cs.Started == nil || !*cs.Started), !isSidecar(spec) && !cs.Ready:
			incomplete = append(incomplete, spec.Name)
		}
	}
	message := told("unknown", unknown, "incomplete", incomplete)
	switch {
	case s.Phase == v1.PodSucceeded && len(unknown) == 0:
		c.Reason = podCompleted
	case message == "" || anyStarted(s.ContainerStatuses):
	case len(s.InitContainerStatuses)+len(s.ContainerStatuses) == 0:
		c.Status, c.Reason = v1.ConditionFalse, unknownStatuses
	default:
		c.Status, c.Reason, c.Message = v1.ConditionFalse, notInitialized, message
	}
	return c
}

func containersReady(pod *v1.Pod, s v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
	var unready, unknown []string
	look := func(spec *v1.Container, statuses []v1.ContainerStatus) {
		if cs := find(statuses, spec.Name); cs == nil {
			unknown = append(unknown, spec.Name)
		} else if !cs.Ready {
			unready = append(unready, spec.Name)
		}
	}
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			look(&pod.Spec.InitContainers[i], s.InitContainerStatuses)
		}
	}
	for i := range pod.Spec.Containers {
		look(&pod.Spec.Containers[i], s.ContainerStatuses)
	}
	switch {
	case terminalReason(s.Phase) != "":
		c.Status, c.Reason = v1.ConditionFalse, terminalReason(s.Phase)
	case len(unready)+len(unknown) > 0:
		c.Status, c.Reason = v1.ConditionFalse, notReady
		c.Message = told("unknown", unknown, "unready", unready)
	}
	return c
}

// readyCondition is the Ready condition: all containers ready, and every readiness gate passed by who is responsible for it.
func readyCondition(pod *v1.Pod, containers v1.PodCondition) v1.PodCondition {
	c := containers
	c.Type = v1.PodReady
	if c.Status != v1.ConditionTrue {
		return c
	}
	var messages []string
	for _, gate := range pod.Spec.ReadinessGates {
		at := slices.IndexFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == gate.ConditionType })
		if at < 0 {
			messages = append(messages, fmt.Sprintf(
				"corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		} else if is := pod.Status.Conditions[at].Status; is != v1.ConditionTrue {
			messages = append(messages, fmt.Sprintf(
				"the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), is))
		}
	}
	if len(messages) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, gatesNotReady, strings.Join(messages, ", ")
	}
	return c
}

// told lists containers by what is wrong with them, in upstream's words.
func told(what1 string, names1 []string, what2 string, names2 []string) string {
	var parts []string
	if len(names1) > 0 {
		parts = append(parts, fmt.Sprintf("containers with %s status: %s", what1, names1))
	}
	if len(names2) > 0 {
		parts = append(parts, fmt.Sprintf("containers with %s status: %s", what2, names2))
	}
	return strings.Join(parts, ", ")
}

func terminalReason(phase v1.PodPhase) string {
	switch phase {
	case v1.PodSucceeded:
		return podCompleted
	case v1.PodFailed:
		return podFailed
	}
	return ""
}

// restartsAll tells whether a rule of the pod may restart all its containers.
func restartsAll(pod *v1.Pod) bool {
	has := func(cs []v1.Container) bool {
		return slices.ContainsFunc(cs, func(c v1.Container) bool {
			return slices.ContainsFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
				return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
			})
		})
	}
	return has(pod.Spec.InitContainers) || has(pod.Spec.Containers)
}
