package main

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestDiagnose holds the words for what is the matter with a pod against its status. now is 12:00:00.
func TestDiagnose(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	unhealthy := []v1.Event{{
		Type: "Warning", Reason: "Unhealthy", Message: "Readiness probe failed: 503",
		InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}, LastTimestamp: metav1.NewTime(now),
	}}
	unmounted := []v1.Event{{Type: "Warning", Reason: "FailedMount", Message: `configmap "x" not found`, LastTimestamp: metav1.NewTime(now)}}
	warning := func(message string) []v1.Event {
		return []v1.Event{{Type: "Warning", Reason: "FailedCreatePodSandBox", Message: message, LastTimestamp: metav1.NewTime(now)}}
	}
	killing := func(message string) []v1.Event {
		return []v1.Event{{Type: "Normal", Reason: "Killing", Message: message, LastTimestamp: metav1.NewTime(now.Add(-20 * time.Second)),
			InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}
	}
	killed := "restartCount: 1, lastState: {terminated: {exitCode: 137, startedAt: '2026-01-02T11:59:20Z', finishedAt: '2026-01-02T11:59:50Z'}}, state: "
	app := func(status string) string {
		return "spec: {containers: [{name: app, resources: {limits: {memory: 64Mi}}}], restartPolicy: Always}\nstatus:\n  phase: Running\n  containerStatuses:\n  - {name: app, image: 'x:1', " + status + "}"
	}
	resizing := func(condition, reason, message string) string {
		return "status: {phase: Running, conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-02T11:55:00Z'}, {type: " + condition +
			", status: 'True', reason: '" + reason + "', message: '" + message + "'}]}"
	}
	for name, c := range map[string]struct {
		pod    string
		events []v1.Event
		want   string
	}{
		"fine": {"status: {phase: Running, conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-02T11:55:00Z'}]}", nil, "runs and is ready, for 5m."},
		"log lost": {app("ready: true, started: true, state: {running: {}}") + "\n  conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-02T11:55:00Z'}]", []v1.Event{{
			Type: "Warning", Reason: "LogLost", Message: "7 lines (70 bytes) of its output could not be written to its log: no space left on device",
			InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}, LastTimestamp: metav1.NewTime(now.Add(-time.Minute))}},
			"runs and is ready, and its log lacks lines. | Container app: 7 lines (70 bytes) of its output could not be written to its log: no space left on device. -> Make room on the disk of the logs"},
		"resize never": {resizing("PodResizePending", "Infeasible", "Node did not have enough capacity: cpu"), nil, "runs and is ready, and has not got the resources that it asks for now. | " +
			"It can never have the resources that it asks for on this host: Node did not have enough capacity: cpu. -> It goes on with those that it has. What it asks for is changed by podctl edit pod p --subresource=resize."},
		"resize later": {resizing("PodResizePending", "Deferred", "Node did not have enough resource: cpu"), nil,
			"| The other pods leave too little of this host for the resources that it asks for: Node did not have enough resource: cpu. -> They are given to it as soon as there is room"},
		"resize error": {resizing("PodResizeInProgress", "Error", "cannot decrease memory limits"), nil, "| Its resources could not be changed: cannot decrease memory limits. -> podd tries again by itself"},
		"resize":       {resizing("PodResizeInProgress", "", ""), nil, "runs and is ready, for 5m."},
		"done":         {"status: {phase: Succeeded}", nil, "has done its work: all containers ended with exit code 0."},
		"gate":         {"spec: {schedulingGates: [{name: a}]}\nstatus: {phase: Pending}", nil, "is not run by this host. | It waits for its scheduling gates to be taken away: a. -> podctl patch pod p --type=json"},
		"unschedulable": {"status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no room}]}", nil,
			"is not run by this host. | no room. -> podctl get nodes"},
		"unknown":  {"status: {phase: Unknown}", nil, "is in an unknown state: podd cannot ask containerd about it. | What was known last may not be true any more. -> podctl doctor"},
		"deadline": {"spec: {restartPolicy: Never}\nstatus: {phase: Failed, reason: DeadlineExceeded}", nil, "has failed and is not started again (restartPolicy Never). | It ran longer than its activeDeadlineSeconds allow. ->"},
		"ending": {"metadata: {deletionTimestamp: '2026-01-02T12:00:20Z', finalizers: [a/b]}\n" + app("state: {running: {}}"), nil,
			"is being deleted. | Its containers were asked to end and have 20s left of their grace period. -> A program that ignores SIGTERM takes all of it: podctl delete pod p --now shortens it. | It stays until these finalizers are taken away: a/b."},
		"crash": {app("restartCount: 2, lastState: {terminated: {exitCode: 143, startedAt: '2026-01-02T11:59:20Z', finishedAt: '2026-01-02T11:59:50Z'}}, state: {waiting: {reason: CrashLoopBackOff, message: back-off 40s restarting failed container=app pod=p}}"), nil,
			"is started again and again. | Container app was restarted 2 times and has ended again: it ended with exit code 143 (SIGTERM) after 30s. It is started again in 30s. -> See what it said: podctl logs p -c app --previous"},
		"oom": {app("state: {terminated: {exitCode: 137, reason: OOMKilled}}"), nil, "runs and is not ready. | Container app ran out of memory and was killed (its limit is 64Mi). -> Raise"},
		"restarted": {app("ready: true, started: true, restartCount: 1, lastState: {terminated: {exitCode: 139, finishedAt: '2026-01-02T11:58:00Z'}}, state: {running: {}}"), nil,
			"| Container app was restarted once, the last time 2m ago: it ended with exit code 139 (SIGSEGV). -> The program crashed."},
		"notready":    {app("started: true, state: {running: {}}"), unhealthy, "runs and is not ready. | Container app runs and is not ready: Readiness probe failed: 503 -> See what it does: podctl logs p -c app"},
		"starting":    {app("started: false, state: {running: {}}"), nil, "its startup probe has not succeeded yet."},
		"config":      {app(`state: {waiting: {reason: CreateContainerConfigError, message: 'secret "s" not found'}}`), nil, `cannot be made from its manifest: secret "s" not found -> Make what is missing`},
		"credentials": {app("state: {waiting: {reason: ImagePullBackOff, message: 'pull x: 401 Unauthorized'}}"), nil, "Image x:1 of container app could not be had: pull x: 401 Unauthorized -> The registry wants to know who asks"},
		"tag":         {app("state: {waiting: {reason: ErrImagePull, message: 'x:1: not found'}}"), nil, "-> The name or the tag is wrong"},
		"dns":         {app("state: {waiting: {reason: ErrImagePull, message: 'lookup r: no such host'}}"), nil, "-> The name of the registry cannot be resolved"},
		"trust":       {app("state: {waiting: {reason: ErrImagePull, message: 'tls: x509: unknown authority'}}"), nil, "-> podd does not trust the registry"},
		"name":        {app("state: {waiting: {reason: InvalidImageName, message: 'bad'}}"), nil, "-> Correct the name"},
		"mount":       {"status: {phase: Pending}", unmounted, `is not running yet. | FailedMount: configmap "x" not found -> Look at spec.volumes`},
		"port":        {"status: {phase: Pending}", warning("hostPort 80/tcp: in use by pod default/q"), "in use by pod default/q -> Delete that pod, or take another hostPort."},
		"tiny":        {"status: {phase: Pending}", warning("container init was OOM-killed (memory limit too low?)"), "-> Raise spec.containers[].resources.limits.memory"},
		"shim":        {"status: {phase: Pending}", append(warning("OOM-killed (memory limit too low?)"), warning("create task: ttrpc: closed")...), "-> Raise spec.containers[].resources.limits.memory"},
		"root":        {app(`state: {waiting: {reason: CreateContainerConfigError, message: 'runAsNonRoot is set, and the image will run as root'}}`), nil, "-> Set runAsUser"},
		"lost":        {app("state: {terminated: {exitCode: 137, reason: ContainerStatusUnknown}}"), nil, "its exit code is not known. -> podctl logs p -c app"},
		"liveness": {app(killed + "{waiting: {reason: CrashLoopBackOff, message: back-off 10s restarting}}"), killing("Container app failed liveness probe, will be restarted"),
			"(SIGKILL) after 30s. podd ended it: Container app failed liveness probe, will be restarted. -> podctl logs p -c app --previous"},
		"hook": {app("ready: true, started: true, " + killed + "{running: {}}"), killing("FailedPostStartHook"),
			"(SIGKILL) after 30s. podd ended it because its postStart hook failed. -> podctl logs p -c app --previous"},
		"itself": {app(killed + "{waiting: {reason: CrashLoopBackOff}}"), []v1.Event{{Reason: "Killing", LastTimestamp: metav1.NewTime(now.Add(-time.Minute)),
			InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}, "after 30s. -> SIGKILL comes from"},
		"new":  {"metadata: {creationTimestamp: '2026-01-02T11:59:57Z'}\nstatus: {phase: Pending}", nil, "is not running yet. | podd prepares it, since 3s."},
		"slow": {"metadata: {creationTimestamp: '2026-01-02T11:50:00Z'}\nstatus: {phase: Pending}", nil, "-> This takes long: podctl describe pod p"},
	} {
		pod := &v1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(c.pod), pod); err != nil {
			t.Fatal(name, err)
		}
		pod.Name = "p"
		d := diagnose(pod, c.events, now)
		got := d.headline
		for _, cause := range d.causes {
			got += " | " + cause.what + " -> " + cause.next
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if good := name == "fine" || name == "done" || name == "resize"; d.fine != good {
			t.Errorf("%s: fine is %v", name, d.fine)
		}
	}
}
