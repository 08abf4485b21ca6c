package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// stage is how far a pod is, as a run sees it.
type stage uint8

const (
	goesOn stage = iota
	done
	failed   // it has ended, not well
	hopeless // it can never come to what is waited for
)

// verdict is what is to be thought of a pod.
type verdict struct {
	stage     stage
	container string // that it is about; empty if it is about the pod
	why       string // of failed and hopeless
	code      int32  // the exit code of the container; 0 if there is none
}

// rules are what a pod is judged by.
type rules struct {
	until       string
	maxRestarts int32 // below 0 any number
}

// How often something is tried that may work the next time.
const (
	surePulls  = 2                // pulls that the registry has answered with no
	otherPulls = 5                // pulls that have failed otherwise
	startLimit = 10 * time.Second // that making or starting a container goes on failing
	mounts     = 5                // failures to mount a volume or to make the sandbox
	readyFor   = time.Second      // that a pod is ready of which no probe says so: it may be about to crash
)

// history is what a pod's status does not say of its past. The zero history is that of a new pod.
type history struct {
	pulls  map[string]int       // failed pulls by container
	reason map[string]string    // what each container waits for
	since  map[string]time.Time // and since when
	ready  time.Time            // since when the pod is ready; zero if it is not
}

// note keeps what will not be seen later.
func (h *history) note(pod *v1.Pod, now time.Time) {
	if h.pulls == nil {
		h.pulls, h.reason, h.since = map[string]int{}, map[string]string{}, map[string]time.Time{}
	}
	if c := condition(pod, v1.PodReady); c == nil || c.Status != v1.ConditionTrue {
		h.ready = time.Time{}
	} else if h.ready.IsZero() {
		h.ready = now
	}
	for _, s := range statuses(pod) {
		reason := ""
		if s.State.Waiting != nil {
			reason = s.State.Waiting.Reason
		}
		if reason == h.reason[s.Name] {
			continue
		}
		if reason == "ErrImagePull" {
			h.pulls[s.Name]++
		}
		h.reason[s.Name], h.since[s.Name] = reason, now
	}
}

// judge says whether a pod is done, has failed, can never be done, or goes on. The events are the pod's, oldest first.
func judge(pod *v1.Pod, events []v1.Event, h *history, r rules, now time.Time) verdict {
	switch pod.Status.Phase {
	case v1.PodSucceeded:
		if r.until == untilReady {
			return verdict{stage: hopeless, why: "all its containers have ended with exit code 0, so it will not be ready"}
		}
		return verdict{stage: done}
	case v1.PodFailed:
		v := failure(pod)
		if r.until == untilReady {
			v.stage = hopeless
		}
		return v
	}
	if pod.DeletionTimestamp != nil {
		return verdict{stage: hopeless, why: "somebody else deletes it"}
	}
	if c := condition(pod, v1.PodScheduled); c != nil && c.Status == v1.ConditionFalse && c.Reason != v1.PodReasonSchedulingGated {
		if strings.Contains(c.Message, "didn't match pod affinity rules") && now.Sub(c.LastTransitionTime.Time) < startLimit {
			return verdict{} // the run may be about to make the pod that this one misses
		}
		return verdict{stage: hopeless, why: "no host runs it: " + cmp.Or(c.Message, c.Reason)}
	}
	for _, s := range statuses(pod) {
		if v := judgeContainer(pod, s, events, h, r, now); v.stage != goesOn {
			return v
		}
	}
	if why := unprepared(pod, events); why != "" {
		return verdict{stage: hopeless, why: why}
	}
	if r.until == untilReady && !h.ready.IsZero() && (probed(pod) || now.Sub(h.ready) >= readyFor) {
		return verdict{stage: done}
	}
	return verdict{}
}

// probed says whether every container has a readiness probe.
func probed(pod *v1.Pod) bool {
	return !slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return c.ReadinessProbe == nil })
}

// judgeContainer finds what a container can never come out of.
func judgeContainer(pod *v1.Pod, s v1.ContainerStatus, events []v1.Event, h *history, r rules, now time.Time) verdict {
	never := func(format string, args ...any) verdict {
		return verdict{stage: hopeless, container: s.Name, why: "container " + s.Name + ": " + fmt.Sprintf(format, args...)}
	}
	if v := worn(pod, s, events, r); v.stage != goesOn {
		return v
	}
	w := s.State.Waiting
	if w == nil {
		if why := unanswered(pod, s, events, r, now); why != "" {
			return never("%s", why)
		}
		return verdict{}
	}
	switch w.Reason {
	case "ErrImageNeverPull":
		return never("image %s is not on this host, and imagePullPolicy is Never", s.Image)
	case "InvalidImageName", "CreateContainerConfigError":
		return never("%s: %s", w.Reason, w.Message)
	case "ErrImagePull", "ImagePullBackOff":
		if n := max(h.pulls[s.Name], failedPulls(events, s.Image)); n >= otherPulls || n >= surePulls && sure(w.Message) {
			return never("image %s could not be pulled in %d attempts: %s", s.Image, n, w.Message)
		}
	case "ImageInspectError", "CreateContainerError", "RunContainerError":
		if since, known := h.since[s.Name]; known && now.Sub(since) >= startLimit {
			return never("%s: %s", w.Reason, w.Message)
		}
	}
	return verdict{}
}

// unanswered is why a probe that is waited for will never have an answer; empty if it may have one. One that fails may
// succeed yet.
func unanswered(pod *v1.Pod, s v1.ContainerStatus, events []v1.Event, r rules, now time.Time) string {
	c := specOf(pod, s.Name)
	if c == nil || s.State.Running == nil {
		return ""
	}
	kind, probe := "Startup", c.StartupProbe
	if s.Started != nil && *s.Started || probe == nil {
		kind, probe = "Readiness", c.ReadinessProbe
	}
	if probe == nil || s.Ready || r.until != untilReady && (kind == "Readiness" || !isSidecar(pod, s.Name)) {
		return ""
	}
	if missingPort(c, probe) != "" {
		return "its " + portless(c, strings.ToLower(kind), probe)
	}
	if probe.Exec == nil {
		return ""
	}
	for _, e := range slices.Backward(events) {
		if e.Reason != "Unhealthy" || !strings.HasPrefix(e.Message, kind+" probe ") || !strings.Contains(e.InvolvedObject.FieldPath, "{"+s.Name+"}") {
			continue
		}
		if !notBegun(e.Message) {
			return "" // another answer came after it
		}
		begun := e.FirstTimestamp.Time
		if at := s.State.Running.StartedAt.Time; at.After(begun) {
			begun = at
		}
		if max(e.Count, seriesCount(e)) > 1 && now.Sub(begun) >= startLimit {
			return strings.TrimSpace(e.Message)
		}
		return ""
	}
	return ""
}

// notRun is what is said of a command that could not be begun.
var notRun = []string{"executable file not found", "no such file or directory", "permission denied", "exec format error", "not a directory", "is a directory"}

// notBegun tells whether the message of a probe says that its command could not be begun.
func notBegun(message string) bool {
	return strings.Contains(message, " probe errored ") && slices.ContainsFunc(notRun, func(part string) bool { return strings.Contains(message, part) })
}

// portless says of a probe that its port is missing.
func portless(c *v1.Container, kind string, probe *v1.Probe) string {
	return fmt.Sprintf("%s probe asks port %q, and it has no port of that name", kind, missingPort(c, probe))
}

// missingPort is the name of the port that a probe asks, if the container has none of that name.
func missingPort(c *v1.Container, probe *v1.Probe) string {
	var port intstr.IntOrString
	switch {
	case probe.HTTPGet != nil:
		port = probe.HTTPGet.Port
	case probe.TCPSocket != nil:
		port = probe.TCPSocket.Port
	}
	if port.Type != intstr.String || slices.ContainsFunc(c.Ports, func(p v1.ContainerPort) bool { return p.Name == port.StrVal }) {
		return ""
	}
	if _, err := strconv.Atoi(port.StrVal); err == nil {
		return ""
	}
	return port.StrVal
}

// worn finds a container that was restarted as often as it may be and has ended again, or was restarted once more already.
func worn(pod *v1.Pod, s v1.ContainerStatus, events []v1.Event, r rules) verdict {
	last := s.State.Terminated
	again := last != nil && policyOf(pod, s.Name, last.ExitCode) || crashing(s)
	if last == nil {
		last = s.LastTerminationState.Terminated
	}
	if r.maxRestarts < 0 || s.RestartCount < r.maxRestarts || s.RestartCount == r.maxRestarts && !again {
		return verdict{}
	}
	how := "has ended"
	v := verdict{stage: hopeless, container: s.Name}
	if last != nil {
		v.code, how = last.ExitCode, ended(pod, s.Name, last)
	}
	v.why = fmt.Sprintf("container %s %s", s.Name, how)
	if s.RestartCount > 0 {
		v.why = fmt.Sprintf("container %s was restarted %s, and again %s", s.Name, times(s.RestartCount), how)
	}
	if probe := lastWarning(events, "Unhealthy", s.Name); probe != "" {
		v.why += ". " + probe
	}
	return v
}

// failedPulls counts the pulls of an image that events tell of: a status that says the same again is not seen to change.
func failedPulls(events []v1.Event, image string) (n int) {
	for _, e := range events {
		if e.Reason == "Failed" && strings.HasPrefix(e.Message, fmt.Sprintf("Failed to pull image %q", image)) {
			n += int(max(e.Count, seriesCount(e), 1))
		}
	}
	return n
}

// sure tells whether a failed pull is the registry's own answer.
func sure(message string) bool {
	message = strings.ToLower(message)
	return slices.ContainsFunc([]string{"not found", "manifest unknown", "name unknown", "unauthorized", "denied", "manifest has no", "no match for platform", "no such host"},
		func(part string) bool { return strings.Contains(message, part) })
}

// unprepared is why a pod of which nothing runs yet will not come to that.
func unprepared(pod *v1.Pod, events []v1.Event) string {
	if pod.Status.Phase != v1.PodPending || running(pod) {
		return ""
	}
	var n int32
	for _, e := range events {
		if e.Type == v1.EventTypeWarning && (e.Reason == "FailedMount" || e.Reason == "FailedCreatePodSandBox") {
			n += max(e.Count, seriesCount(e), 1)
		}
		if n >= mounts {
			return e.Reason + ": " + strings.TrimSpace(e.Message)
		}
	}
	return ""
}

// failure is the verdict on a pod that has failed: it is about the container that failed first.
func failure(pod *v1.Pod) verdict {
	v := verdict{stage: failed, why: "it has failed"}
	if pod.Status.Reason != "" || pod.Status.Message != "" {
		v.why = strings.Trim(pod.Status.Reason+": "+pod.Status.Message, ": ")
	}
	name, first := firstFailed(pod)
	if first == nil {
		return v
	}
	v.container, v.code = name, first.ExitCode
	why := fmt.Sprintf("container %s %s", name, ended(pod, name, first))
	if pod.Status.Reason != "" {
		why = v.why + "; " + why
	}
	v.why = why
	return v
}

// firstFailed is the container whose failure came first. Sidecars do not count: they are stopped when all else has ended.
func firstFailed(pod *v1.Pod) (string, *v1.ContainerStateTerminated) {
	var name string
	var first *v1.ContainerStateTerminated
	for _, s := range statuses(pod) {
		t := s.State.Terminated
		if t == nil || t.ExitCode == 0 || isSidecar(pod, s.Name) {
			continue
		}
		if first == nil || t.FinishedAt.Before(&first.FinishedAt) {
			name, first = s.Name, t
		}
	}
	return name, first
}

func isSidecar(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c v1.Container) bool {
		return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
	})
}

// exitOf is how a container has ended for good, nil if it has not. The first end of one that is always started again counts.
func exitOf(pod *v1.Pod, name string) *v1.ContainerStateTerminated {
	for _, s := range statuses(pod) {
		if s.Name != name {
			continue
		}
		t := s.State.Terminated
		if t == nil {
			t = s.LastTerminationState.Terminated
			if t == nil || !policyOf(pod, name, 0) { // one that is started again only if it failed goes on
				return nil
			}
			return t
		}
		final := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
		if final || policyOf(pod, name, 0) || !policyOf(pod, name, t.ExitCode) {
			return t
		}
	}
	return nil
}
