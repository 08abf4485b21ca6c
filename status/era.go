package status

import (
	v1 "k8s.io/api/core/v1"
)

// restartingAll is the reason of an exit, and of the wait for the next start, in a pod whose containers are all restarted:
// such a container runs again whatever its policy says.
const restartingAll = "RestartingAllContainers"

// Trigger is the container whose exit is to begin a new era, by a rule of its own with the action RestartAllContainers
// (pkg/kubelet/container/helpers.go ShouldAllContainersRestart).
func Trigger(pod *v1.Pod, f Facts) (name string, ok bool) {
	if !restartsAll(pod) || ending(pod, f) || Spent(pod, f) {
		return "", false
	}
	sandbox, ok := f.Sandbox()
	if !ok || sandbox.State != Running {
		return "", false // there will be another, in which all containers start anyway
	}
	for _, m := range Members(pod) {
		last, known := f.Newest(m.Name)
		if !known || last.State != Exited || last.Sandbox != sandbox.ID || last.Era != f.Era || replaced(last) || m.Kind == Ephemeral {
			continue
		}
		if rule := firstRule(m.Container, last.ExitCode); rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers {
			return m.Name, true
		}
	}
	return "", false
}

// Past tells whether i is of an earlier era: it does not belong any more.
func Past(pod *v1.Pod, f Facts, i Container) bool {
	return i.Era < f.Era && !IsEphemeral(pod, i.Name)
}

// Renewing tells whether something of an earlier era is left to be taken away, before which nothing is made.
func Renewing(pod *v1.Pod, f Facts) bool {
	for _, i := range f.Containers {
		if Past(pod, f, i) && (i.Present || i.State != Exited) {
			return true
		}
	}
	return false
}

// renewing tells whether the condition AllContainersRestarting holds.
func renewing(pod *v1.Pod, f Facts) bool {
	_, begins := Trigger(pod, f)
	return begins || Renewing(pod, f)
}
