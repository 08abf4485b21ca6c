package status

import (
	v1 "k8s.io/api/core/v1"
)

// tally counts the containers of a pod by what they mean for its phase.
type tally struct {
	initPending, initFinal            int // plain init containers: still to come; failed for good
	sidecarPending                    int
	unknown, running, waiting         int
	stopped, stoppedFinal, successful int // regular containers only
}

// phaseOf is the phase that statuses, of init and regular containers, add up to (pkg/kubelet/kubelet_pods.go getPhase).
// terminal says that nothing will run any more whatever the policies say; hasInitialized that a regular container
// exists in the current sandbox.
func phaseOf(pod *v1.Pod, statuses []v1.ContainerStatus, terminal, hasInitialized bool) v1.PodPhase {
	var n tally
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if isSidecar(c) {
			n.sidecar(find(statuses, c.Name))
		} else {
			n.init(pod, c, find(statuses, c.Name))
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		n.regular(pod, c, find(statuses, c.Name))
	}
	return n.phase(terminal, hasInitialized)
}

// init counts a plain init container.
func (n *tally) init(pod *v1.Pod, c *v1.Container, s *v1.ContainerStatus) {
	exit := lastExit(s)
	switch {
	case s == nil || s.State.Running != nil || exit == nil:
		n.initPending++
	case exit.ExitCode != 0 && !runsAgain(pod, c, exit):
		n.initFinal++
	}
}

// sidecar counts a restartable init container. One that has ended, or that ended and waits, counts for nothing.
func (n *tally) sidecar(s *v1.ContainerStatus) {
	switch {
	case s == nil:
		n.unknown++
	case s.State.Running != nil:
		n.running++
		if s.Started == nil || !*s.Started {
			n.sidecarPending++
		}
	case lastExit(s) != nil:
	case s.State.Waiting != nil:
		n.sidecarPending++
		n.waiting++
	default:
		n.sidecarPending++
		n.unknown++
	}
}

// regular counts a regular container. One that waits for its next start has stopped, but has not succeeded.
func (n *tally) regular(pod *v1.Pod, c *v1.Container, s *v1.ContainerStatus) {
	exit := lastExit(s)
	switch {
	case s == nil:
		n.unknown++
	case s.State.Running != nil:
		n.running++
	case exit != nil:
		n.stopped++
		if !runsAgain(pod, c, exit) {
			n.stoppedFinal++
		}
		if s.State.Terminated != nil && exit.ExitCode == 0 {
			n.successful++
		}
	case s.State.Waiting != nil:
		n.waiting++
	default:
		n.unknown++
	}
}

func (n *tally) phase(terminal, hasInitialized bool) v1.PodPhase {
	switch {
	case n.initFinal > 0:
		return v1.PodFailed
	case n.initPending > 0, n.sidecarPending > 0 && !hasInitialized, n.waiting > 0:
		return v1.PodPending
	case n.unknown > 0:
		return v1.PodPending
	case n.running > 0:
		return v1.PodRunning
	case n.stopped == 0:
		return v1.PodPending
	case !terminal && n.stopped != n.stoppedFinal:
		return v1.PodRunning // something will run again
	case n.stopped == n.successful:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

// runsAgain tells whether c runs again after exit.
func runsAgain(pod *v1.Pod, c *v1.Container, exit *v1.ContainerStateTerminated) bool {
	return exit.Reason == restartingAll || ShouldRestart(pod, c, exit.ExitCode)
}

// lastExit is the exit that s speaks of: its state's, or while it waits its last state's.
func lastExit(s *v1.ContainerStatus) *v1.ContainerStateTerminated {
	switch {
	case s == nil || s.State.Running != nil:
		return nil
	case s.State.Terminated != nil:
		return s.State.Terminated
	case s.State.Waiting != nil:
		return s.LastTerminationState.Terminated
	}
	return nil
}

func find(statuses []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range statuses {
		if statuses[i].Name == name {
			return &statuses[i]
		}
	}
	return nil
}

// isSidecar tells whether an init container is one that goes on running beside the regular ones.
func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// anyStarted tells whether one of statuses shows that its container has ever run.
func anyStarted(statuses []v1.ContainerStatus) bool {
	for i := range statuses {
		if statuses[i].State.Running != nil || lastExit(&statuses[i]) != nil {
			return true
		}
	}
	return false
}

// initialized tells whether a regular container exists in the current sandbox, and era.
func initialized(pod *v1.Pod, f Facts) bool {
	sandbox, ok := f.Sandbox()
	for _, c := range pod.Spec.Containers {
		if i, known := f.Newest(c.Name); ok && known && i.Sandbox == sandbox.ID && i.Era == f.Era {
			return true
		}
	}
	return false
}
