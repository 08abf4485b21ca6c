package status

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// The waiting reasons that are podd's to give; the rest come with a Failed.
const (
	containerCreating  = "ContainerCreating"
	podInitializing    = "PodInitializing"
	crashLoopBackOff   = "CrashLoopBackOff"
	errImagePull       = "ErrImagePull"
	imagePullBackOff   = "ImagePullBackOff"
	errImageNeverPull  = "ErrImageNeverPull"
	invalidImageName   = "InvalidImageName"
	createContainer    = "CreateContainerError"
	runContainer       = "RunContainerError"
	defaultPullFailure = "image pull failed"
)

// PullErrorShown is how long a failed pull shows its own error before the status says that podd backs off.
const PullErrorShown = 2 * time.Second

// waiting tells what c waits for, nil when it does not wait: it runs, has ended for good, or its next start is at hand
// and its last exit says more.
func waiting(pod *v1.Pod, f Facts, c *v1.Container, k Kind) *v1.ContainerStateWaiting {
	last, known := f.Newest(c.Name)
	exited := known && last.State == Exited
	if known && last.State == Running {
		return nil
	}
	if exited && !startsAgain(pod, f, c, k, last) {
		return nil
	}
	if w := obstacle(pod, f, c, last, known); w != nil && !ending(pod, f) {
		return w
	}
	if exited {
		return nil
	}
	if len(pod.Spec.InitContainers) > 0 {
		return &v1.ContainerStateWaiting{Reason: podInitializing}
	}
	return &v1.ContainerStateWaiting{Reason: containerCreating}
}

// ending tells whether no container of the pod is started any more.
func ending(pod *v1.Pod, f Facts) bool {
	return pod.DeletionTimestamp != nil || f.Gone || f.Verdict != nil
}

// startsAgain tells whether c gets another instance after last, which has exited.
func startsAgain(pod *v1.Pod, f Facts, c *v1.Container, k Kind, last Container) bool {
	if ending(pod, f) || k == Ephemeral || k == PlainInit && last.ExitCode == 0 {
		return false
	}
	return ShouldRestart(pod, c, last.ExitCode)
}

// obstacle is what holds the next start of c back, in the order in which a start meets them.
func obstacle(pod *v1.Pod, f Facts, c *v1.Container, last Container, known bool) *v1.ContainerStateWaiting {
	if known && last.State == Created {
		return failed(f, Task{Op: OpStart, Name: c.Name}, runContainer)
	}
	loop, holds := crashLoop(pod, f, c, last, known)
	if holds {
		return loop
	}
	if w := imageObstacle(f, c); w != nil {
		return w
	}
	if w := failed(f, Task{Op: OpCreate, Name: c.Name}, createContainer); w != nil {
		return w
	}
	return loop
}

// crashLoop is the back-off after last, and whether it holds c back still. When it is over it stays the reason until
// there is a new instance, so that the status does not flicker.
func crashLoop(pod *v1.Pod, f Facts, c *v1.Container, last Container, known bool) (*v1.ContainerStateWaiting, bool) {
	if !known {
		return nil, false
	}
	key := RestartKey(pod, c)
	if fresh(last, key) {
		return nil, false
	}
	until, _ := RestartBackoff(last, f, key)
	return &v1.ContainerStateWaiting{Reason: crashLoopBackOff, Message: fmt.Sprintf(
		"back-off %s restarting failed container=%s pod=%s_%s(%s)",
		min(last.Backoff, f.Limits.RestartMax), c.Name, pod.Name, pod.Namespace, pod.UID)}, until.After(f.Now)
}

// imageObstacle is what holds the image of c back: the error of the last pull while it is fresh, then the back-off.
func imageObstacle(f Facts, c *v1.Container) *v1.ContainerStateWaiting {
	_, have := f.Images[c.Image]
	if c.ImagePullPolicy == v1.PullNever {
		if have {
			return nil
		}
		return &v1.ContainerStateWaiting{Reason: errImageNeverPull,
			Message: fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)}
	}
	w := failed(f, Task{Op: OpPull, Name: c.Image}, errImagePull)
	if w == nil || have && c.ImagePullPolicy != v1.PullAlways {
		return nil
	}
	if w.Message == "" {
		w.Message = defaultPullFailure
	}
	at := f.Failures[Task{Op: OpPull, Name: c.Image}].Last
	if f.Now.Sub(at) >= PullErrorShown && w.Reason != invalidImageName {
		return &v1.ContainerStateWaiting{Reason: imagePullBackOff,
			Message: fmt.Sprintf("Back-off pulling image %q: %s", c.Image, w.Message)}
	}
	return w
}

// failed is the last failure of t as a waiting reason, nil if t has not failed.
func failed(f Facts, t Task, reason string) *v1.ContainerStateWaiting {
	failure, ok := f.Failures[t]
	if !ok {
		return nil
	}
	if failure.Reason != "" {
		reason = failure.Reason
	}
	return &v1.ContainerStateWaiting{Reason: reason, Message: failure.Message}
}
