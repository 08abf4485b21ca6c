package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	apihistory "podd/api/history"
	"podd/status"
)

// diagnosis is what is the matter with a pod.
type diagnosis struct {
	fine     bool // nothing is
	starting bool // nothing has gone wrong so far, and it is not ready because it is new
	headline string
	causes   []cause
}

// cause is one thing that holds a pod back, and what to try next.
type cause struct{ what, next string }

// MarshalJSON is for programs that ask why.
func (c cause) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"what": c.what, "next": c.next})
}

// facts are what is known of a pod beside its object.
type facts struct {
	events []v1.Event         // oldest first
	past   []apihistory.Entry // oldest first; nil if it was not asked for or may not be seen
	claims []claim            // of a pod that is not run yet
	room   *room              // for a pod that waits for some
	log    string             // where the logs of a pod are that is deleted at once; empty of one that stays
}

// logsOf is how to see what a container says, or with previous said before it was started again.
func (known facts) logsOf(pod *v1.Pod, container string, previous bool) string {
	switch {
	case known.log != "":
		return known.log
	case previous:
		return "podctl logs " + pod.Name + inNamespace(pod) + " -c " + container + " --previous"
	}
	return "podctl logs " + pod.Name + inNamespace(pod) + " -c " + container
}

// diagnose says what is the matter with a pod.
func diagnose(pod *v1.Pod, known facts, now time.Time) diagnosis {
	d := diagnosis{starting: starting(pod, known.events, now)}
	ready := condition(pod, v1.PodReady)
	switch {
	case pod.DeletionTimestamp != nil:
		d.headline = "is being deleted."
		d.causes = deleting(pod, now)
		return d
	case pod.Status.Phase == v1.PodSucceeded:
		d.fine, d.headline = true, "has done its work: all containers ended with exit code 0."
		return d
	case pod.Status.Phase == v1.PodFailed:
		d.headline = "has failed and is not started again (restartPolicy " + string(pod.Spec.RestartPolicy) + ")."
		if pod.Spec.RestartPolicy == v1.RestartPolicyAlways { // it was ended as a whole
			d.headline = "has failed and is not started again."
		}
		d.causes = failedPod(pod)
	case pod.Status.Phase == v1.PodUnknown:
		d.headline = "is in an unknown state: podd cannot ask containerd about it."
		d.causes = []cause{{"What was known last may not be true any more.", "podctl doctor"}}
		return d
	case unscheduled(pod) != nil && aboutClaims(unscheduled(pod).what):
		d.headline = "waits for its claims."
		d.causes = unclaimed(pod, unscheduled(pod).what, known.claims)
		return d
	case unscheduled(pod) != nil:
		d.headline = "is not run by this host."
		d.causes = []cause{known.room.tell(pod, *unscheduled(pod))}
		return d
	case ready != nil && ready.Status == v1.ConditionTrue:
		d.fine, d.headline = true, "runs and is ready, for "+duration.HumanDuration(now.Sub(ready.LastTransitionTime.Time))+"."
	case slices.ContainsFunc(statuses(pod), crashing):
		d.headline = "is started again and again."
	case pod.Status.Phase == v1.PodRunning:
		d.headline = "runs and is not ready."
	default:
		d.headline = "is not running yet."
	}
	d.causes = append(d.causes, containers(pod, known, now)...)
	if !d.fine && len(d.causes) == 0 {
		d.causes = settled(pod)
	}
	if !d.fine && len(d.causes) == 0 {
		d.causes = preparing(pod, known.events, now)
	}
	if c := logLost(known.events, now); c != nil {
		if d.fine {
			d.fine, d.headline = false, "runs and is ready, and its log lacks lines."
		}
		d.causes = append(d.causes, *c)
	}
	if c := resize(pod); c != nil {
		if d.fine {
			d.fine, d.headline = false, "runs and is ready, and has not got the resources that it asks for now."
		}
		d.causes = append(d.causes, *c)
	}
	return d
}

// usualStart is how long a start may take before it is worth telling.
const usualStart = time.Minute

// starting tells whether a pod is not ready only because it is new: nothing has failed, ended or been put off.
func starting(pod *v1.Pod, events []v1.Event, now time.Time) bool {
	scheduled, ready := condition(pod, v1.PodScheduled), condition(pod, v1.PodReady)
	switch {
	case now.Sub(pod.CreationTimestamp.Time) > usualStart, pod.DeletionTimestamp != nil, len(pod.Spec.SchedulingGates) > 0,
		pod.Status.Phase != v1.PodPending && pod.Status.Phase != v1.PodRunning,
		scheduled != nil && scheduled.Status == v1.ConditionFalse,
		ready != nil && ready.Status == v1.ConditionTrue:
		return false
	}
	return !slices.ContainsFunc(events, func(e v1.Event) bool { return e.Type == v1.EventTypeWarning }) &&
		!slices.ContainsFunc(statuses(pod), func(s v1.ContainerStatus) bool {
			w, t := s.State.Waiting, s.State.Terminated
			return s.RestartCount > 0 || w != nil && !yetToCome(w) || t != nil && !(t.ExitCode == 0 && isInit(pod, s.Name))
		})
}

// yetToCome tells whether a container waits only for what comes before it.
func yetToCome(w *v1.ContainerStateWaiting) bool {
	return w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" || w.Reason == ""
}

// recently is how long a loss of lines is worth telling.
const recently = 10 * time.Minute

// logLost tells of lines that the disk of the logs has not taken, nil if it took them all.
func logLost(events []v1.Event, now time.Time) *cause {
	for _, e := range slices.Backward(events) {
		if e.Reason != "LogLost" || now.Sub(lastSeen(e)) > recently {
			continue
		}
		return &cause{"Container " + containerOf(e) + ": " + sentence(e.Message, "its log lacks lines"),
			"Make room on the disk of the logs: podctl doctor says how much there is. What is lost stays lost; the container was not held up."}
	}
	return nil
}

// resize is why the pod has not got the resources that its spec asks for, nil if it has or is about to.
func resize(pod *v1.Pod) *cause {
	pending, under := condition(pod, v1.PodResizePending), condition(pod, v1.PodResizeInProgress)
	undo := " It goes on with those that it has. What it asks for is changed by podctl edit pod " + pod.Name + inNamespace(pod) + " --subresource=resize."
	switch {
	case pending != nil && pending.Status == v1.ConditionTrue && pending.Reason == v1.PodReasonDeferred:
		return &cause{"The other pods leave too little of this host for the resources that it asks for: " + sentence(pending.Message, "no more is known"),
			"They are given to it as soon as there is room: podctl describe node shows who has it." + undo}
	case pending != nil && pending.Status == v1.ConditionTrue:
		return &cause{"It can never have the resources that it asks for on this host: " + sentence(pending.Message, pending.Reason), strings.TrimSpace(undo)}
	case under != nil && under.Status == v1.ConditionTrue && under.Reason == v1.PodReasonError:
		return &cause{"Its resources could not be changed: " + sentence(under.Message, "no more is known"), "podd tries again by itself: a memory limit is lowered when less than that is in use."}
	}
	return nil
}

func condition(pod *v1.Pod, of v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == of {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func deleting(pod *v1.Pod, now time.Time) []cause {
	var all []cause
	left := pod.DeletionTimestamp.Sub(now).Round(time.Second)
	switch running := running(pod); {
	case running && left > 0:
		all = append(all, cause{fmt.Sprintf("Its containers were asked to end and have %s left of their grace period.", left),
			"A program that ignores SIGTERM takes all of it: podctl delete pod " + pod.Name + " --now shortens it."})
	case running:
		all = append(all, cause{fmt.Sprintf("Its grace period ended %s ago, and podd ends its containers by force.", -left), "If this stays: podctl doctor"})
	}
	if len(pod.Finalizers) > 0 {
		all = append(all, cause{"It stays until these finalizers are taken away: " + strings.Join(pod.Finalizers, ", ") + ".",
			"They belong to a program that is to clean up first. If that is gone:\npodctl patch pod " + pod.Name + ` --type=merge -p '{"metadata":{"finalizers":null}}'`})
	}
	return all
}

func running(pod *v1.Pod) bool {
	return slices.ContainsFunc(statuses(pod), func(s v1.ContainerStatus) bool { return s.State.Running != nil })
}

func crashing(s v1.ContainerStatus) bool {
	return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
}

func statuses(pod *v1.Pod) []v1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// unscheduled is why no host runs the pod, if none does.
func unscheduled(pod *v1.Pod) *cause {
	if len(pod.Spec.SchedulingGates) > 0 {
		var gates []string
		for _, g := range pod.Spec.SchedulingGates {
			gates = append(gates, g.Name)
		}
		return &cause{"It waits for its scheduling gates to be taken away: " + strings.Join(gates, ", ") + ".",
			"podctl patch pod " + pod.Name + ` --type=json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'`}
	}
	c := condition(pod, v1.PodScheduled)
	if c == nil || c.Status != v1.ConditionFalse {
		return nil
	}
	if strings.Contains(c.Message, "node(s) were unschedulable") {
		return &cause{sentence(c.Message, c.Reason), "The host is cordoned. " + instead["uncordon"] + " ends that; podctl get nodes shows its name."}
	}
	for taint, lacking := range map[string]string{v1.TaintNodeDiskPressure: "disk", v1.TaintNodeMemoryPressure: "memory", v1.TaintNodePIDPressure: "process ids"} {
		if strings.Contains(c.Message, taint) {
			return &cause{sentence(c.Message, c.Reason), "The host has too little left of its " + lacking +
				" (docs/pressure.md): podctl describe node shows more. The pod starts by itself some minutes after there is room."}
		}
	}
	if strings.Contains(c.Message, "affinity rules.") || strings.Contains(c.Message, "topology spread constraints.") {
		return &cause{sentence(c.Message, c.Reason), "podctl get pods -A --show-labels shows the pods of this host. It is run as soon as they let it, or the one comes that it misses."}
	}
	return &cause{sentence(c.Message, c.Reason), "podctl get nodes shows the name of this host and podctl describe node its labels, taints and room."}
}

// failedPod is why a pod as a whole has failed.
func failedPod(pod *v1.Pod) []cause {
	switch pod.Status.Reason {
	case "":
		return nil
	case "DeadlineExceeded":
		return []cause{{"It ran longer than its activeDeadlineSeconds allow.", "Raise spec.activeDeadlineSeconds, or leave it out."}}
	case "SysctlForbidden":
		return []cause{{pod.Status.Reason + ": " + sentence(pod.Status.Message, "no more is known"),
			"Leave it out of spec.securityContext.sysctls, and make the pod anew: podd takes the safe ones (docs/security.md), and has no list of unsafe ones to allow."}}
	case "Evicted":
		return []cause{{sentence(pod.Status.Message, "It was evicted"), evictionHint(pod.Status.Message)}}
	}
	return []cause{{pod.Status.Reason + ": " + sentence(pod.Status.Message, "no more is known"), ""}}
}

// evictionHint is what to do about a limit that a pod was evicted for, or about a host that has too little left.
func evictionHint(message string) string {
	switch {
	case strings.Contains(message, "has larger consumption of"): // than its request
		return "Make room on the host (podctl describe node), or have the pod request what it uses: others go first then. Then make it anew."
	case strings.Contains(message, "The node was low on resource"):
		return "Make room on the host (podctl describe node), then make it anew. With a higher priority (priorityClassName) others go first."
	case strings.Contains(message, "The node had condition"):
		return "Make room on the host (podctl describe node), then make it anew. Without spec.nodeName it waits for that."
	}
	limit := "resources.limits.ephemeral-storage"
	if strings.Contains(message, "EmptyDir") {
		limit = "emptyDir.sizeLimit"
	}
	return "Raise " + limit + ", or have the pod store less. Then make it anew."
}

// endedWithPod tells whether podd ended a container together with its pod.
func endedWithPod(pod *v1.Pod, t *v1.ContainerStateTerminated) bool {
	return (pod.Status.Reason == "Evicted" || pod.Status.Reason == "DeadlineExceeded") && (t.ExitCode == 137 || t.ExitCode == 143) && t.Reason != "OOMKilled" && t.Reason != status.Unseen
}

// settled is why a pod is not ready for good though nothing is wrong with it: some of its containers have done their work.
func settled(pod *v1.Pod) []cause {
	if pod.Status.Phase != v1.PodRunning {
		return nil
	}
	var all []cause
	var still []string
	for _, s := range pod.Status.ContainerStatuses {
		switch t := s.State.Terminated; {
		case s.State.Running != nil:
			still = append(still, s.Name)
		case t != nil && t.ExitCode == 0 && !alwaysRestarted(pod, s.Name):
			all = append(all, cause{"Container " + s.Name + " has ended with exit code 0 and is not started again", ""})
		}
	}
	if len(still) == 0 {
		return nil
	}
	verb := " runs."
	if len(still) > 1 {
		verb = " run."
	}
	for i := range all {
		all[i].what += "; the pod is not ready while " + strings.Join(still, ", ") + verb
	}
	return all
}

func alwaysRestarted(pod *v1.Pod, name string) bool {
	for _, c := range pod.Spec.Containers {
		if c.Name == name && c.RestartPolicy != nil {
			return *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		}
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever && pod.Spec.RestartPolicy != v1.RestartPolicyOnFailure
}

// containers is what is the matter with each container. Those that only wait for an earlier one are left out.
func containers(pod *v1.Pod, known facts, now time.Time) []cause {
	var all []cause
	for _, s := range statuses(pod) {
		if c := container(pod, s, known, now); c != nil {
			all = append(all, *c)
		}
	}
	if gates := condition(pod, v1.PodReady); len(all) == 0 && gates != nil && gates.Reason == "ReadinessGatesNotReady" {
		all = append(all, cause{"Its containers are ready; its readiness gates are not: " + sentence(gates.Message, ""), "Another program sets these conditions."})
	}
	return all
}

// container is what is the matter with one container, nil if nothing is.
func container(pod *v1.Pod, s v1.ContainerStatus, known facts, now time.Time) *cause {
	logs := known.logsOf(pod, s.Name, false)
	name := "Container " + s.Name
	switch {
	case s.State.Waiting != nil:
		return waiting(pod, s, known, now, name)
	case s.State.Terminated != nil && neverBegan(s.State.Terminated):
		return notBegunWithPod(pod, s, known)
	case s.State.Terminated != nil && endedWithPod(pod, s.State.Terminated):
		return (&cause{name + " " + howEnded(pod, s.Name, s.State.Terminated) + ": podd ended it with the pod.", logs}).quoting(s.State.Terminated)
	case s.State.Terminated != nil && (s.State.Terminated.ExitCode != 0 || pod.Status.Phase == v1.PodFailed && s.State.Terminated.Reason != "Completed"):
		return gone(pod, name+" "+howEnded(pod, s.Name, s.State.Terminated), s.State.Terminated, known, s.Name, logs).quoting(s.State.Terminated)
	case s.State.Running != nil && !s.Ready && isInit(pod, s.Name): // it has no probes
		return &cause{fmt.Sprintf("Init container %s has been running for %s%s.", s.Name, since(s.State.Running.StartedAt.Time, now), afterInit(pod, s.Name)), "See what it does: " + logs}
	case s.State.Running != nil && !s.Ready && (s.Started == nil || !*s.Started):
		message := lastWarning(known.events, "Unhealthy", s.Name)
		next := "See what it does: " + logs
		if c := specOf(pod, s.Name); c != nil {
			next = cmp.Or(probeHint(c, "startup", c.StartupProbe, message), next)
		}
		if message != "" {
			return &cause{name + " runs; its startup probe has not succeeded yet: " + message, next}
		}
		return &cause{name + " runs; its startup probe has not succeeded yet.", next}
	case s.State.Running != nil && !s.Ready:
		message := lastWarning(known.events, "Unhealthy", s.Name)
		next := "See what it does: " + logs
		if c := specOf(pod, s.Name); c != nil {
			next = cmp.Or(probeHint(c, "readiness", c.ReadinessProbe, message), next)
		}
		return &cause{name + " runs and is not ready: " + cmp.Or(message, "no answer of its readiness probe so far"), next}
	case s.RestartCount > 0 && s.LastTerminationState.Terminated != nil:
		last := s.LastTerminationState.Terminated
		what := fmt.Sprintf("%s was restarted %s, the last time %s ago: it %s", name, times(s.RestartCount), since(last.FinishedAt.Time, now), howEnded(pod, s.Name, last))
		return gone(pod, what, last, known, s.Name, known.logsOf(pod, s.Name, true)).quoting(last)
	}
	return nil
}

// probeHint is what to do about a probe that can have no answer; empty if it may have one. message is what was said last of
// a probe of the container.
func probeHint(c *v1.Container, kind string, probe *v1.Probe, message string) string {
	switch {
	case probe == nil:
		return ""
	case missingPort(c, probe) != "":
		return "Its " + portless(c, kind, probe) + ". Correct the name, or give it to one of the container's ports, and make the pod anew."
	case probe.Exec != nil && strings.HasPrefix(strings.ToLower(message), kind+" probe ") && notBegun(message):
		return "The command of its " + kind + " probe could not be begun: it is not in the image, or may not be executed. Correct it, and make the pod anew."
	}
	return ""
}

func isInit(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c v1.Container) bool {
		return c.Name == name && (c.RestartPolicy == nil || *c.RestartPolicy != v1.ContainerRestartPolicyAlways)
	})
}

// afterInit is what the end of an init container lets start: the next one, or after the last all others.
func afterInit(pod *v1.Pod, name string) string {
	next := pod.Spec.Containers
	if at := slices.IndexFunc(pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name }); at+1 < len(pod.Spec.InitContainers) {
		next = pod.Spec.InitContainers[at+1 : at+2]
	}
	var names []string
	for _, c := range next {
		names = append(names, c.Name)
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "; " + names[0] + " starts when it has ended"
	}
	return "; " + strings.Join(names, ", ") + " start when it has ended"
}

// neverBegan tells whether a container is counted as lost that its pod has ended before: no time is known at which it began.
func neverBegan(t *v1.ContainerStateTerminated) bool {
	return t.Reason == status.Unseen && t.StartedAt.Unix() <= 0
}

// notBegunWithPod is about a container that did not run when its pod ended.
func notBegunWithPod(pod *v1.Pod, s v1.ContainerStatus, known facts) *cause {
	if last := s.LastTerminationState.Terminated; last != nil {
		return (&cause{"Container " + s.Name + " did not run any more when its pod ended: it " + howEnded(pod, s.Name, last) + ".", known.logsOf(pod, s.Name, false)}).quoting(last)
	}
	what := "Container " + s.Name + " was not started before its pod ended."
	for _, e := range slices.Backward(known.events) {
		if containerOf(e) == s.Name && strings.HasPrefix(e.Message, "Failed to pull image") {
			ref, _, _ := imageOf(pod, s, e.Message)
			return &cause{what + " The last that was said of it: " + sentence(e.Message, ""), "Before the pod is made anew: podctl image pull " + ref}
		}
	}
	return &cause{what, ""}
}

func inNamespace(pod *v1.Pod) string {
	if pod.Namespace == "default" || pod.Namespace == "" {
		return ""
	}
	return " -n " + pod.Namespace
}

func times(n int32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func since(t, now time.Time) string { return duration.HumanDuration(now.Sub(t)) }

// waiting is why a container waits, nil if only for what comes before it.
func waiting(pod *v1.Pod, s v1.ContainerStatus, known facts, now time.Time, name string) *cause {
	w := s.State.Waiting
	if yetToCome(w) {
		return nil
	}
	switch w.Reason {
	case "CrashLoopBackOff":
		what := name + " ends again and again"
		logs := known.logsOf(pod, s.Name, true)
		if last := s.LastTerminationState.Terminated; last != nil {
			c := gone(pod, fmt.Sprintf("%s was restarted %s, and again %s", name, times(s.RestartCount), howEnded(pod, s.Name, last)), last, known, s.Name, logs)
			if left := backoffLeft(w.Message, last.FinishedAt.Time, now); left > 0 {
				c.what += fmt.Sprintf(" It is started again in %s.", left)
			}
			return c.quoting(last)
		}
		return &cause{what + ".", "See what it said before: " + logs}
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable":
		return image(pod, s, w, known.events)
	case "CreateContainerConfigError":
		if strings.Contains(w.Message, "runAsNonRoot") {
			return &cause{name + " may not run as root: " + w.Message, "Set runAsUser in its securityContext, or use an image that has a user."}
		}
		return &cause{name + " cannot be made from its manifest: " + w.Message, configHint(pod, w.Message)}
	case "PostStartHookError":
		return &cause{name + " is killed, since its postStart hook failed: " + hookWords(w.Message), "Look at its lifecycle.postStart, and at what it said: " + known.logsOf(pod, s.Name, true)}
	case "CreateContainerError", "RunContainerError":
		return &cause{name + " could not be started: " + w.Message, startHint(w.Message)}
	}
	return &cause{name + " waits: " + w.Reason + ": " + w.Message, ""}
}

// configHint is what to do about a container that cannot be made from its manifest.
func configHint(pod *v1.Pod, message string) string {
	anew := " Make the pod anew with it."
	switch {
	case strings.Contains(message, "a pod with hostUsers: false has "):
		return "Correct runAsUser, runAsGroup, fsGroup or supplementalGroups, or leave out hostUsers: false, and make the pod anew."
	case strings.Contains(message, "cannot be shown with other ids"):
		return "Leave out hostUsers: false, or use another volume, and make the pod anew."
	case strings.Contains(message, "mountPath"):
		return "Correct mountPath in spec.containers[].volumeMounts." + anew
	case strings.Contains(message, "is not shared"):
		return "Do that on the host, or take mountPropagation away. podd tries again by itself."
	case strings.Contains(message, "subPath") && strings.Contains(message, "out of the volume"):
		return "Change the link in the volume, or correct subPath in spec.containers[].volumeMounts. podd tries again by itself."
	case strings.Contains(message, "subPath") && (strings.Contains(message, "must not") || strings.Contains(message, "missing value")):
		return "Correct subPath in spec.containers[].volumeMounts." + anew
	case strings.Contains(message, "subPath"):
		return "Make that path in the volume, or correct subPath in spec.containers[].volumeMounts. podd tries again by itself."
	case strings.Contains(message, "hostPath"), strings.Contains(message, "persistent volume"):
		return "Make that path on the host, or correct the manifest. podd tries again by itself."
	case strings.Contains(message, "volumeMount"), strings.Contains(message, "volumeDevice"):
		return "Correct spec.volumes or the container's volumeMounts." + anew
	}
	return "Make what is missing (podctl get configmaps,secrets" + inNamespace(pod) + "), or correct the manifest. podd tries again by itself."
}

const tooLittle = "Raise spec.containers[].resources.limits.memory: not even the start of a container fits into it."

// startHint is what to do about an error of the runtime.
func startHint(message string) string {
	switch {
	case strings.Contains(message, "mask paths"):
		return "A volume hides what the container's own /dev or /proc has: give it another mountPath in volumeMounts."
	case strings.Contains(message, "mount") && strings.Contains(message, "not a directory") && !strings.Contains(message, "exec: "):
		return "A directory is mounted onto a file, or a file onto a directory: look at mountPath in spec.containers[].volumeMounts, and at subPath: " +
			"where the volume has nothing of that name, such as a key that is not in the ConfigMap or Secret, it is a new and empty directory."
	case strings.Contains(message, "mount") && strings.Contains(message, "no such file or directory") && !strings.Contains(message, "exec: "):
		return "What was to be mounted is not there. podd makes its own files again, and tries the start once more."
	case strings.Contains(message, "executable file not found"), strings.Contains(message, "no such file or directory"), strings.Contains(message, "not a directory"):
		return "The command is not in the image. Look at spec.containers[].command, and at the image's own: podctl run look --rm -it --image=... -- sh"
	case strings.Contains(message, "permission denied"):
		return "The file is there and may not be executed: see its mode, and runAsUser of the securityContext."
	case strings.Contains(message, "no space left"):
		return "The disk is full: podctl image ls, podctl image rm, podctl doctor"
	case strings.Contains(message, "memory limit too low"):
		return tooLittle
	}
	return "podctl describe pod shows all of its settings; podctl doctor looks at the host."
}

// hookWords is what went wrong, of upstream's words about a hook, which name the pod and the container as well.
func hookWords(message string) string {
	if _, what, ok := strings.Cut(message, " failed - error: "); ok {
		return strings.TrimSuffix(strings.TrimSuffix(what, `, message: ""`), ": ")
	}
	return message
}

const byFile = "\nWithout a registry: podctl image load FILE brings an image from an archive (docker save, podman save)."

// The codes of HTTP for these, which are no part of a port.
var refusal, absence = regexp.MustCompile(`\b40[13]\b`), regexp.MustCompile(`\b404\b`)

// image is why the image of a container is not there.
func image(pod *v1.Pod, s v1.ContainerStatus, w *v1.ContainerStateWaiting, events []v1.Event) *cause {
	ref, of, policy := imageOf(pod, s, w.Message)
	what := fmt.Sprintf("Image %s of %s could not be had: %s", ref, of, w.Message)
	if secrets := lastWarning(events, "FailedToRetrieveImagePullSecret", s.Name); secrets != "" {
		what += "\n" + secrets
	}
	again := " podd tries again by itself, at least every five minutes."
	message := strings.ToLower(w.Message)
	has := func(any ...string) bool {
		return slices.ContainsFunc(any, func(part string) bool { return strings.Contains(message, part) })
	}
	switch {
	case w.Reason == "InvalidImageName":
		return &cause{what, "Correct the name: [REGISTRY/]NAME[:TAG][@DIGEST]."}
	case w.Reason == "ErrImageNeverPull":
		return &cause{fmt.Sprintf("Image %s of %s is not on this host, and %s is Never.", ref, of, policy),
			"podctl image load FILE or podctl image pull " + ref + ", or another " + policy + "."}
	case has("unauthorized", "denied", "authentication"), refusal.MatchString(message):
		return &cause{what, "The registry wants to know who asks, or there is no such image: check the name, then put credentials\n" +
			"into a secret (podctl create secret docker-registry) and name it in spec.imagePullSecrets." + again}
	case has("not found", "manifest unknown", "name unknown"), absence.MatchString(message):
		return &cause{what, "The name or the tag is wrong, or it is not for this processor. Try: podctl image pull " + ref}
	case has("no such host", "server misbehaving"):
		return &cause{what, "The name of the registry cannot be resolved: check the name, and DNS on this host." + again + byFile}
	case has("connection refused", "i/o timeout", "network is unreachable", "no route", "deadline exceeded", "connection reset"):
		return &cause{what, "The registry does not answer: check the network and proxy of this host." + again + byFile}
	case has("x509", "certificate", "http response to https"):
		return &cause{what, "podd does not trust the registry: put its certificate into certs.d in podd's configuration directory." + again}
	case has("no space left"):
		return &cause{what, "The disk is full: podctl image ls, podctl image rm, podctl doctor." + again}
	}
	return &cause{what, "Try it by hand: podctl image pull " + ref + "." + again}
}

// imageOf is which image a container waits for: that of a volume if the message is about that, else its own. policy is the
// field that says when it is pulled.
func imageOf(pod *v1.Pod, s v1.ContainerStatus, message string) (ref, of, policy string) {
	ref, of, policy = s.Image, "container "+s.Name, "imagePullPolicy"
	m, ok := status.MemberOf(pod, s.Name)
	if !ok {
		return ref, of, policy
	}
	if m.Image != "" && strings.Contains(message, m.Image) { // the status has that of the container before
		ref = m.Image
	}
	for _, v := range status.ImageVolumes(pod, m.Container) {
		named := v.Image.Reference
		if named != m.Image && strings.Contains(message, named) && (len(named) > len(m.Image) || !strings.Contains(message, m.Image)) {
			ref, of, policy = named, fmt.Sprintf("volume %s (container %s)", v.Name, s.Name), "image.pullPolicy"
		}
	}
	return ref, of, policy
}

var backoff = regexp.MustCompile(`back-off (\S+) `)

// backoffLeft is how long a container that ended at ended still waits.
func backoffLeft(message string, ended, now time.Time) time.Duration {
	m := backoff.FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	d, err := time.ParseDuration(m[1])
	if err != nil {
		return 0
	}
	return ended.Add(d).Sub(now).Round(time.Second)
}

// ended says how a container ended, and what it said then.
func ended(pod *v1.Pod, name string, t *v1.ContainerStateTerminated) string {
	if message := strings.TrimSpace(t.Message); message != "" {
		return howEnded(pod, name, t) + ", saying: " + message
	}
	return howEnded(pod, name, t)
}

// quoting ends c with what the container said when it ended, or the runtime of it, on lines of its own.
func (c *cause) quoting(t *v1.ContainerStateTerminated) *cause {
	said := " It said:\n"
	if t.Reason == "StartError" {
		said = " The runtime says:\n"
	}
	if message := strings.TrimSpace(t.Message); message != "" {
		c.what += said + message
	}
	return c
}

// howEnded says how a container ended.
func howEnded(pod *v1.Pod, name string, t *v1.ContainerStateTerminated) string {
	var b strings.Builder
	switch {
	case t.Reason == "OOMKilled":
		b.WriteString("ran out of memory and was killed")
		if limit := memoryLimit(pod, name); limit != "" {
			b.WriteString(" (its limit is " + limit + ")")
		}
	case t.Reason == "StartError":
		b.WriteString("could not be started")
	case t.Reason == "ContainerStatusUnknown":
		b.WriteString("was lost: containerd or the host went away while it ran, so its exit code is not known")
	default:
		fmt.Fprintf(&b, "ended with exit code %d", t.ExitCode)
		if meaning := exitMeaning(t.ExitCode, t.Signal); meaning != "" {
			b.WriteString(" (" + meaning + ")")
		}
	}
	if ran := t.FinishedAt.Sub(t.StartedAt.Time); t.StartedAt.Unix() > 0 && ran >= 0 && t.Reason != "StartError" { // the epoch is that it never began
		b.WriteString(" after " + duration.HumanDuration(ran))
	}
	return b.String()
}

func memoryLimit(pod *v1.Pod, name string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if limit, ok := c.Resources.Limits[v1.ResourceMemory]; ok && c.Name == name {
			return limit.String()
		}
	}
	if pod.Spec.Resources != nil {
		if limit, ok := pod.Spec.Resources.Limits[v1.ResourceMemory]; ok {
			return limit.String() + ", of the pod as a whole"
		}
	}
	return ""
}

// unlimited is whether only the host's memory ends what a container takes. An ephemeral container has no limits and is in a
// pod's cgroup that may have one.
func unlimited(pod *v1.Pod, name string) bool {
	isIt := func(c v1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), isIt) && memoryLimit(pod, name) == ""
}

// exitMeaning is what an exit code usually stands for.
func exitMeaning(code, signal int32) string {
	switch {
	case signal > 0:
		return "killed by " + signalName(signal)
	case code == 126:
		return "a shell says: the command may not be executed"
	case code == 127:
		return "a shell says: the command was not found"
	case code > 128 && code < 128+65:
		return signalName(code - 128)
	}
	return ""
}

func signalName(n int32) string {
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", n)
}

// nextAfter is what to do about a container that ended so.
func nextAfter(pod *v1.Pod, name string, t *v1.ContainerStateTerminated, logs string) string {
	switch {
	case t.Reason == "OOMKilled" && unlimited(pod, name):
		return "It has no limit of memory, so the host had none left. Give one to what takes so much: podctl top pod --containers -A, " + logs
	case t.Reason == "OOMKilled":
		return "Raise spec.containers[].resources.limits.memory, or find what takes so much: podctl top pod --containers, " + logs
	case t.Reason == "StartError":
		return startHint(t.Message)
	case t.Reason == "ContainerStatusUnknown":
		return logs
	case t.ExitCode == 137:
		return "SIGKILL comes from a failed liveness probe, from a grace period that was over, or from somebody on the host: the events tell.\n" + logs
	case t.ExitCode == 139:
		return "The program crashed. What it said: " + logs
	case t.ExitCode == 0:
		return "It ended by itself. A program that is to go on must stay in the foreground: " + logs
	}
	return "See what it said: " + logs
}

// gone is that a container has ended, and what to do about it. what is how it ended.
func gone(pod *v1.Pod, what string, t *v1.ContainerStateTerminated, known facts, container, logs string) *cause {
	switch why := condemned(t, known, container); why {
	case "":
		return &cause{sentence(what, ""), nextAfter(pod, container, t, logs)}
	case "FailedPostStartHook":
		c := &cause{what + ". podd ended it because its postStart hook failed.",
			"Correct lifecycle.postStart of the container. What a hook prints is not in the log, which has what came before: " + logs}
		if said := saidByHook(t, known.past, container); said != "" {
			c.what = what + ". podd ended it because its postStart hook failed: " + sentence(said, "")
		}
		return c
	default:
		return &cause{what + ". podd ended it: " + sentence(why, ""), logs}
	}
}

// condemned is what podd ended a container for; empty if it ended by itself. The history tells as well: of many events
// about a pod the later ones are dropped.
func condemned(t *v1.ContainerStateTerminated, known facts, container string) string {
	for _, e := range slices.Backward(known.events) {
		if e.Reason == "Killing" && strings.Contains(e.InvolvedObject.FieldPath, "{"+container+"}") && duringLife(t, e.LastTimestamp.Time) {
			return e.Message
		}
	}
	for _, e := range slices.Backward(known.past) {
		if e.What == apihistory.Condemn && !e.Failed && e.Container == container && e.Message != "" && duringLife(t, e.Time) {
			return e.Message
		}
	}
	return ""
}

// duringLife tells whether a container that has ended ran at a time; one that was never started did not. The times of a status are whole seconds.
func duringLife(t *v1.ContainerStateTerminated, at time.Time) bool {
	at = at.Truncate(time.Second)
	return t.StartedAt.Unix() > 0 && !at.Before(t.StartedAt.Time) && !at.After(t.FinishedAt.Time)
}

// saidByHook is how the postStart hook of a container has failed, empty if that is not known.
func saidByHook(t *v1.ContainerStateTerminated, past []apihistory.Entry, container string) string {
	for _, e := range slices.Backward(past) {
		if e.What == apihistory.Hook && e.Reason == "postStart" && e.Failed && e.Container == container && duringLife(t, e.Time) {
			return e.Message
		}
	}
	return ""
}

// preparing is why nothing has been started yet, when no container says so.
func preparing(pod *v1.Pod, events []v1.Event, now time.Time) []cause {
	for _, e := range slices.Backward(events) {
		if e.Type != v1.EventTypeWarning || strings.Contains(e.Message, "ttrpc: closed") { // another event tells what closed it
			continue
		}
		next := "podctl doctor"
		switch {
		case strings.Contains(e.Reason, "Mount"):
			next = mountHint(e.Message)
		case e.Reason == "FailedCreatePodSandBox" && aboutSysctl(pod, e.Message):
			next = "Correct spec.securityContext.sysctls, and make the pod anew: the kernel does not take that value."
		case strings.Contains(e.Message, `no runtime for "`):
			next = "Start podd with --runtime-handler NAME=RUNTIME, or give the pod another runtimeClassName (podctl get runtimeclasses)."
		case strings.Contains(e.Message, "a shim gives each pod namespaces of its own"):
			next = "Leave them out of the pod, or give it another runtimeClassName, or none."
		case strings.Contains(e.Message, "failed to construct FQDN"):
			next = "Make the name, the subdomain or the namespace of the pod shorter, or leave out spec.setHostnameAsFQDN."
		case strings.Contains(e.Message, `runtime for "`):
			next = "Put that program there, or start podd with another --runtime-handler NAME=RUNTIME. podd tries again by itself."
		case strings.Contains(e.Message, "hostPort") && strings.Contains(e.Message, "in use by pod"):
			next = "Delete that pod, or take another hostPort. podd tries again by itself."
		case strings.Contains(e.Message, "memory limit too low"):
			next = tooLittle
		}
		return []cause{{e.Reason + ": " + e.Message, next}}
	}
	age := since(pod.CreationTimestamp.Time, now)
	what := "podd prepares it, since " + age + "."
	for _, e := range slices.Backward(events) {
		if e.Reason == "Pulling" {
			what += " The last it said: " + e.Message
			break
		}
	}
	next := ""
	if now.Sub(pod.CreationTimestamp.Time) > usualStart {
		next = "This takes long: podctl describe pod " + pod.Name + inNamespace(pod) + ", podctl doctor"
	}
	return []cause{{what, next}}
}

// aboutSysctl tells whether a message is about a sysctl that the pod sets, which has its name or its path.
func aboutSysctl(pod *v1.Pod, message string) bool {
	return pod.Spec.SecurityContext != nil && slices.ContainsFunc(pod.Spec.SecurityContext.Sysctls, func(s v1.Sysctl) bool {
		path := strings.ReplaceAll(s.Name, ".", "/")
		return strings.Contains(message, path) || strings.Contains(message, strings.ReplaceAll(path, "/", "."))
	})
}

// mountHint is what to do about a volume that could not be made.
func mountHint(message string) string {
	has := func(any ...string) bool {
		return slices.ContainsFunc(any, func(part string) bool { return strings.Contains(message, part) })
	}
	const again = "podd tries again by itself."
	switch {
	case has("is not on this host: install", "(modprobe "):
		return "Do that on this host. " + again
	case has("is not an absolute path", "is not the name of", "is not an address", "unknown type", "is not supported"):
		return "Correct that volume, and make the pod anew."
	case has("no space left"):
		return "The disk is full: podctl image ls, podctl image rm, podctl doctor. " + again
	case has("not found", "non-existent", "does not exist", "no such", "hostPath ", ": is not a "):
		return "Look at spec.volumes: what they name must be there. " + again
	}
	return again + " If it stays so: podctl doctor"
}

// oldContent is which volumes of a pod do not follow their sources, by its history, oldest first.
func oldContent(entries []apihistory.Entry, namespace string) []cause {
	old := map[string]string{}
	for _, e := range entries {
		switch {
		case e.What == apihistory.Mounts && !e.Failed: // all are made of what there is
			clear(old)
		case e.What == apihistory.Volume && e.Failed:
			old[e.Reason] = e.Message
		case e.What == apihistory.Volume:
			delete(old, e.Reason)
		}
	}
	var all []cause
	for _, volume := range slices.Sorted(maps.Keys(old)) {
		all = append(all, cause{fmt.Sprintf("Volume %s shows old content: %s.", volume, old[volume]),
			"Make what is missing (podctl get configmaps,secrets" + namespace + "): the volume follows at once."})
	}
	return all
}

// lastWarning is the message of the last warning with a reason that is about a container.
func lastWarning(events []v1.Event, reason, container string) string {
	for _, e := range slices.Backward(events) {
		about := e.InvolvedObject.FieldPath
		if e.Reason == reason && (about == "" || strings.Contains(about, "{"+container+"}")) {
			return strings.TrimSpace(e.Message)
		}
	}
	return ""
}

// sentence is text as one, or instead if there is none.
func sentence(text, instead string) string {
	if text = strings.TrimSpace(text); text == "" {
		text = instead
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
