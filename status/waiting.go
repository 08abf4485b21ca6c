package status

import (
	"fmt"
	"slices"
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
	postStartHook      = "PostStartHookError"
	defaultPullFailure = "image pull failed"
)

// PullErrorShown is how long a failed pull shows its own error before the status says that podd backs off.
const PullErrorShown = 2 * time.Second

// waiting tells what m waits for, nil when it does not wait: it is up, has ended for good, or its next start is at hand
// and its last exit says more.
func waiting(pod *v1.Pod, f Facts, m Member) *v1.ContainerStateWaiting {
	last, known := f.Newest(m.Name)
	exited := known && last.State == Exited
	past := exited && Past(pod, f, last)
	switch {
	case known && last.State == Running:
		return startingUp(pod, m, last)
	case exited && !startsAgain(pod, f, m, last):
		return nil
	case past && renewing(pod, f):
		return &v1.ContainerStateWaiting{Reason: restartingAll, Message: "The container is removed because RestartAllContainers in place"}
	}
	if m.Kind == Ephemeral || isDue(pod, f, m.Name) {
		if w := obstacle(pod, f, m, last, known); w != nil && !ending(pod, f) {
			return w
		}
	}
	if exited && !past {
		return nil
	}
	return &v1.ContainerStateWaiting{Reason: coming(pod)}
}

// startingUp is what i, which runs, waits for: its postStart hook. It is nil when there is none, or it has ended well.
func startingUp(pod *v1.Pod, m Member, i Container) *v1.ContainerStateWaiting {
	switch {
	case Up(m.Container, i):
		return nil
	case i.PostStart.Failed != "":
		return &v1.ContainerStateWaiting{Reason: postStartHook, Message: i.PostStart.Failed}
	}
	return &v1.ContainerStateWaiting{Reason: coming(pod)}
}

// coming is the reason of a wait that nothing holds back.
func coming(pod *v1.Pod) string {
	if len(pod.Spec.InitContainers) > 0 {
		return podInitializing
	}
	return containerCreating
}

// ending tells whether no container of the pod is started any more.
func ending(pod *v1.Pod, f Facts) bool {
	return pod.DeletionTimestamp != nil || f.Gone || f.Verdict != nil
}

// startsAgain tells whether m gets another instance after last, which has exited.
func startsAgain(pod *v1.Pod, f Facts, m Member, last Container) bool {
	switch {
	case ending(pod, f) || m.Kind == Ephemeral || Spent(pod, f):
		return false
	case m.Kind == PlainInit && last.ExitCode == 0:
		return last.Era < f.Era
	}
	return RunsAgain(pod, f, m.Container, last)
}

// obstacle is what holds the next start of m back, in the order in which a start meets them.
func obstacle(pod *v1.Pod, f Facts, m Member, last Container, known bool) *v1.ContainerStateWaiting {
	c := m.Container
	if known && last.State == Created {
		return failed(f, Task{Op: OpStart, Name: c.Name}, runContainer)
	}
	loop, holds := crashLoop(pod, f, m, last, known)
	if holds {
		return loop
	}
	if w := imagesObstacle(pod, f, c); w != nil {
		return w
	}
	if w := failed(f, Task{Op: OpCreate, Name: c.Name}, createContainer); w != nil {
		return w
	}
	if loop == nil && known && last.PostStart.Failed != "" {
		return &v1.ContainerStateWaiting{Reason: postStartHook, Message: last.PostStart.Failed}
	}
	return loop
}

// crashLoop is the back-off after last, and whether it holds c back still. When it is over it stays the reason until
// there is a new instance, so that the status does not flicker.
func crashLoop(pod *v1.Pod, f Facts, m Member, last Container, known bool) (*v1.ContainerStateWaiting, bool) {
	if !known || fresh(last, RestartKey(pod, m.Container)) {
		return nil, false
	}
	until, _ := NextStart(pod, f, m, last)
	if !until.After(last.FinishedAt) {
		return nil, false // nothing holds it: podd took it away itself
	}
	return &v1.ContainerStateWaiting{Reason: crashLoopBackOff, Message: fmt.Sprintf(
		"back-off %s restarting failed container=%s pod=%s_%s(%s)",
		min(last.Backoff, f.Limits.RestartMax), m.Name, pod.Name, pod.Namespace, pod.UID)}, until.After(f.Now)
}

// imagesObstacle is what holds back an image that c needs. Volumes come before the container's own image, and of several
// the last one counts (pkg/kubelet/kuberuntime/kuberuntime_manager.go toKubeContainerImageVolumes).
func imagesObstacle(pod *v1.Pod, f Facts, c *v1.Container) *v1.ContainerStateWaiting {
	for _, v := range slices.Backward(ImageVolumes(pod, c)) {
		if w := imageObstacle(f, v.Image.Reference, v.Image.PullPolicy); w != nil && !f.Mounted[v.Name] {
			return w
		}
	}
	return imageObstacle(f, c.Image, c.ImagePullPolicy)
}

// imageObstacle is what holds an image back: the error of the last pull while it is fresh, then the back-off.
func imageObstacle(f Facts, image string, policy v1.PullPolicy) *v1.ContainerStateWaiting {
	_, have := f.Images[image]
	if policy == v1.PullNever {
		if have {
			return nil
		}
		return &v1.ContainerStateWaiting{Reason: errImageNeverPull,
			Message: fmt.Sprintf("Container image %q is not present with pull policy of Never", image)}
	}
	w := failed(f, Task{Op: OpPull, Name: image}, errImagePull)
	if w == nil || have && policy != v1.PullAlways {
		return nil
	}
	if w.Message == "" {
		w.Message = defaultPullFailure
	}
	at := f.Failures[Task{Op: OpPull, Name: image}].Last
	if f.Now.Sub(at) >= PullErrorShown && w.Reason != invalidImageName {
		return &v1.ContainerStateWaiting{Reason: imagePullBackOff,
			Message: fmt.Sprintf("Back-off pulling image %q: %s", image, w.Message)}
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
