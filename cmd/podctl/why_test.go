package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	apihistory "podd/api/history"
)

// TestDiagnose holds the words for what is the matter with a pod against its status. now is 12:00:00.
func TestDiagnose(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	unhealthy := []v1.Event{{
		Type: "Warning", Reason: "Unhealthy", Message: "Readiness probe failed: 503",
		InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}, LastTimestamp: metav1.NewTime(now),
	}}
	unmounted := []v1.Event{{Type: "Warning", Reason: "FailedMount", Message: `configmap "x" not found`, LastTimestamp: metav1.NewTime(now)}}
	warned := func(message string) []v1.Event {
		return []v1.Event{{Type: "Warning", Reason: "Unhealthy", Message: message, LastTimestamp: metav1.NewTime(now),
			InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}
	}
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
	neverRan := "spec: {restartPolicy: Never, containers: [{name: app, image: 'x:1'}]}\nstatus: {phase: Failed, reason: Evicted, message: 'The node was low on resource: memory. ', containerStatuses: " +
		"[{name: app, image: 'x:1', state: {terminated: {exitCode: 137, reason: ContainerStatusUnknown, message: The container could not be located}}}]}"
	pullFailed := v1.Event{Reason: "Failed", Message: `Failed to pull image "x:1": no`, InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}
	setsSysctl := "spec: {securityContext: {sysctls: [{name: net/ipv4/tcp_syncookies, value: many}]}}\nstatus: {phase: Pending}"
	tainted := func(with string) string {
		return "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', message: '0/1 nodes are available: 1 node(s) had untolerated taint(s) {node.kubernetes.io/" + with + ":NoSchedule}.'}]}"
	}
	resizing := func(condition, reason, message string) string {
		return "status: {phase: Running, conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-02T11:55:00Z'}, {type: " + condition +
			", status: 'True', reason: '" + reason + "', message: '" + message + "'}]}"
	}
	young := map[string]bool{"new": true, "readiness gate": true, "starting": true, "startup port": true, "second of two": true,
		"first init": true, "init before init": true, "init before two": true}
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
		"readiness gate": {"status: {phase: Running, conditions: [{type: Ready, status: 'False', reason: ReadinessGatesNotReady, message: 'gate \"a\" does not exist.'}]}", nil,
			"runs and is not ready. | Its containers are ready; its readiness gates are not: gate \"a\" does not exist. -> Another program sets"},
		"done": {"status: {phase: Succeeded}", nil, "has done its work: all containers ended with exit code 0."},
		"gate": {"spec: {schedulingGates: [{name: a}]}\nstatus: {phase: Pending}", nil, "is not run by this host. | It waits for its scheduling gates to be taken away: a. -> podctl patch pod p --type=json"},
		"unschedulable": {"status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no room}]}", nil,
			"is not run by this host. | no room. -> podctl get nodes"},
		"apart": {"status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: \"0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.\"}]}", nil,
			"1 node(s) didn't match pod anti-affinity rules. -> podctl get pods -A --show-labels"},
		"cordoned": {"status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/1 nodes are available: 1 node(s) were unschedulable.'}]}", nil,
			"is not run by this host. | 0/1 nodes are available: 1 node(s) were unschedulable. -> The host is cordoned. podctl patch node NAME -p '"},
		"unknown":  {"status: {phase: Unknown}", nil, "is in an unknown state: podd cannot ask containerd about it. | What was known last may not be true any more. -> podctl doctor"},
		"deadline": {"spec: {restartPolicy: Never}\nstatus: {phase: Failed, reason: DeadlineExceeded}", nil, "has failed and is not started again (restartPolicy Never). | It ran longer than its activeDeadlineSeconds allow. ->"},
		"ending": {"metadata: {deletionTimestamp: '2026-01-02T12:00:20Z', finalizers: [a/b]}\n" + app("state: {running: {}}"), nil,
			"is being deleted. | Its containers were asked to end and have 20s left of their grace period. -> A program that ignores SIGTERM takes all of it: podctl delete pod p --now shortens it. | It stays until these finalizers are taken away: a/b."},
		"crash": {app("restartCount: 2, lastState: {terminated: {exitCode: 143, startedAt: '2026-01-02T11:59:20Z', finishedAt: '2026-01-02T11:59:50Z'}}, state: {waiting: {reason: CrashLoopBackOff, message: back-off 40s restarting failed container=app pod=p}}"), nil,
			"is started again and again. | Container app was restarted 2 times, and again ended with exit code 143 (SIGTERM) after 30s. It is started again in 30s. -> See what it said: podctl logs p -c app --previous"},
		"oom": {app("state: {terminated: {exitCode: 137, reason: OOMKilled}}"), nil, "runs and is not ready. | Container app ran out of memory and was killed (its limit is 64Mi). -> Raise"},
		"host oom": {"spec: {containers: [{name: app}]}\nstatus: {phase: Running, containerStatuses: [{name: app, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}", nil,
			"Container app ran out of memory and was killed. -> It has no limit of memory, so the host had none left. Give one to what takes so much: podctl top pod --containers -A"},
		"restarted": {app("ready: true, started: true, restartCount: 1, lastState: {terminated: {exitCode: 139, finishedAt: '2026-01-02T11:58:00Z'}}, state: {running: {}}"), nil,
			"| Container app was restarted once, the last time 2m ago: it ended with exit code 139 (SIGSEGV). -> The program crashed."},
		"notready":    {app("started: true, state: {running: {}}"), unhealthy, "runs and is not ready. | Container app runs and is not ready: Readiness probe failed: 503 -> See what it does: podctl logs p -c app"},
		"starting":    {app("started: false, state: {running: {}}"), nil, "its startup probe has not succeeded yet."},
		"config":      {app(`state: {waiting: {reason: CreateContainerConfigError, message: 'secret "s" not found'}}`), nil, `cannot be made from its manifest: secret "s" not found -> Make what is missing`},
		"credentials": {app("state: {waiting: {reason: ImagePullBackOff, message: 'pull x: 401 Unauthorized'}}"), nil, "Image x:1 of container app could not be had: pull x: 401 Unauthorized -> The registry wants to know who asks"},
		"tag":         {app("state: {waiting: {reason: ErrImagePull, message: 'x:1: not found'}}"), nil, "-> The name or the tag is wrong"},
		"postStart": {app("state: {waiting: {reason: PostStartHookError, message: 'Exec lifecycle hook ([false]) for Container \"app\" in Pod \"p_default(1)\" failed - error: command ''false'' exited with 1: , message: \"\"'}}"), nil,
			"Container app is killed, since its postStart hook failed: command 'false' exited with 1 -> Look at its lifecycle.postStart"},
		"dns":           {app("state: {waiting: {reason: ErrImagePull, message: 'lookup r: no such host'}}"), nil, "-> The name of the registry cannot be resolved"},
		"registry port": {app("state: {waiting: {reason: ErrImagePull, message: 'pull 127.0.0.1:40381/x:1: not found'}}"), nil, "-> The name or the tag is wrong"},
		"trust":         {app("state: {waiting: {reason: ErrImagePull, message: 'tls: x509: unknown authority'}}"), nil, "-> podd does not trust the registry"},
		"name":          {app("state: {waiting: {reason: InvalidImageName, message: 'bad'}}"), nil, "-> Correct the name"},
		"mount":         {"status: {phase: Pending}", unmounted, `is not running yet. | FailedMount: configmap "x" not found -> Look at spec.volumes`},
		"port name": {"spec: {containers: [{name: app, ports: [{name: http, containerPort: 80}], readinessProbe: {httpGet: {port: htpp}}}]}\nstatus: {phase: Running, containerStatuses: [{name: app, started: true, state: {running: {}}}]}",
			warned(`Readiness probe errored and resulted in unknown state: strconv.Atoi: parsing "htpp": invalid syntax`),
			`invalid syntax -> Its readiness probe asks port "htpp", and it has no port of that name. Correct the name, or give it to one of the container's ports, and make the pod anew.`},
		"startup port": {"spec: {containers: [{name: app, startupProbe: {tcpSocket: {port: htpp}}}]}\nstatus: {phase: Running, containerStatuses: [{name: app, started: false, state: {running: {}}}]}", nil,
			`not succeeded yet. -> Its startup probe asks port "htpp", and it has no port of that name.`},
		"probe command": {"spec: {containers: [{name: app, readinessProbe: {exec: {command: [nosuchcmd]}}}]}\nstatus: {phase: Running, containerStatuses: [{name: app, started: true, state: {running: {}}}]}",
			warned(`Readiness probe errored and resulted in unknown state: exec: "nosuchcmd": executable file not found in $PATH`),
			"-> The command of its readiness probe could not be begun: it is not in the image, or may not be executed."},
		"another's probe": {"spec: {containers: [{name: app, readinessProbe: {exec: {command: [cat]}}}]}\nstatus: {phase: Running, containerStatuses: [{name: app, started: true, state: {running: {}}}]}",
			warned(`Liveness probe errored and resulted in unknown state: exec: "nosuchcmd": executable file not found in $PATH`), "-> See what it does: podctl logs p -c app"},
		"port": {"status: {phase: Pending}", warning("hostPort 80/tcp: in use by pod default/q"), "in use by pod default/q -> Delete that pod, or take another hostPort."},
		"tiny": {"status: {phase: Pending}", warning("container init was OOM-killed (memory limit too low?)"), "-> Raise spec.containers[].resources.limits.memory"},
		"shim": {"status: {phase: Pending}", append(warning("OOM-killed (memory limit too low?)"), warning("create task: ttrpc: closed")...), "-> Raise spec.containers[].resources.limits.memory"},
		"root": {app(`state: {waiting: {reason: CreateContainerConfigError, message: 'runAsNonRoot is set, and the image will run as root'}}`), nil, "-> Set runAsUser"},
		"lost": {app("state: {terminated: {exitCode: 137, reason: ContainerStatusUnknown, startedAt: '2026-01-02T11:59:20Z'}}"), nil, "its exit code is not known. -> podctl logs p -c app"},
		"liveness": {app(killed + "{waiting: {reason: CrashLoopBackOff, message: back-off 10s restarting}}"), killing("Container app failed liveness probe, will be restarted"),
			"(SIGKILL) after 30s. podd ended it: Container app failed liveness probe, will be restarted. -> podctl logs p -c app --previous"},
		"hook": {app("ready: true, started: true, " + killed + "{running: {}}"), killing("FailedPostStartHook"),
			"(SIGKILL) after 30s. podd ended it because its postStart hook failed. -> Correct lifecycle.postStart of the container."},
		"itself": {app(killed + "{waiting: {reason: CrashLoopBackOff}}"), []v1.Event{{Reason: "Killing", LastTimestamp: metav1.NewTime(now.Add(-time.Minute)),
			InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}, "after 30s. -> SIGKILL comes from"},
		"imagevolume": {"spec: {volumes: [{name: w, image: {reference: 'none:1'}}], containers: [{name: app, image: 'x:1', volumeMounts: [{name: w, mountPath: /w}]}]}\nstatus:\n  phase: Pending\n" +
			"  containerStatuses: [{name: app, image: 'x:1', state: {waiting: {reason: ErrImageNeverPull, message: 'Container image \"none:1\" is not present with pull policy of Never'}}}]", nil,
			"Image none:1 of volume w (container app) is not on this host, and image.pullPolicy is Never. -> podctl image load FILE or podctl image pull none:1, or another image.pullPolicy."},
		"ownimage": {"spec: {volumes: [{name: w, image: {reference: 'none:1'}}], containers: [{name: app, image: 'x:1', volumeMounts: [{name: w, mountPath: /w}]}]}\nstatus:\n  phase: Pending\n" +
			"  containerStatuses: [{name: app, image: 'x:1', state: {waiting: {reason: ErrImageNeverPull, message: 'Container image \"x:1\" is not present with pull policy of Never'}}}]", nil,
			"Image x:1 of container app is not on this host, and imagePullPolicy is Never. -> podctl image load FILE or podctl image pull x:1, or another imagePullPolicy."},
		"newimage": {"spec: {containers: [{name: app, image: 'x:2'}]}\nstatus:\n  phase: Pending\n" +
			"  containerStatuses: [{name: app, image: 'x:1', state: {waiting: {reason: ErrImagePull, message: 'pull x:2: connection refused'}}}]", nil, "Image x:2 of container app could not be had: pull x:2: "},
		"never began":        {app("state: {terminated: {exitCode: 137, reason: Error, startedAt: '1970-01-01T00:00:00Z', finishedAt: '2026-01-02T11:59:00Z'}}"), nil, "(SIGKILL). -> SIGKILL comes"},
		"deadline of Always": {"spec: {restartPolicy: Always}\nstatus: {phase: Failed, reason: DeadlineExceeded}", nil, "has failed and is not started again. | It ran longer"},
		"pullsecret": {app("state: {waiting: {reason: ErrImagePull, message: 'pull x: 401 Unauthorized'}}"),
			[]v1.Event{{Reason: "FailedToRetrieveImagePullSecret", Message: "secret opq is of type Opaque"}}, "pull x: 401 Unauthorized\nsecret opq is of type Opaque -> The registry wants"},
		"emptydir": {"spec: {restartPolicy: Never}\nstatus: {phase: Failed, reason: Evicted, message: 'Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\". ', " +
			"containerStatuses: [{name: app, state: {terminated: {exitCode: 137, reason: Error}}}]}", nil,
			`Usage of EmptyDir volume "d" exceeds the limit "1Mi". -> Raise emptyDir.sizeLimit, or have the pod store less. Then make it anew. | ` +
				"Container app ended with exit code 137 (SIGKILL): podd ended it with the pod. -> podctl logs p -c app"},
		"pressure": {"status: {phase: Failed, reason: Evicted, message: 'The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. '}", nil,
			"available: 80Mi. -> Make room on the host (podctl describe node), then make it anew. With a higher priority"},
		"pressure beyond": {"status: {phase: Failed, reason: Evicted, message: 'The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. " +
			"Container app was using 9Mi, request is 0, has larger consumption of memory. '}", nil, "or have the pod request what it uses: others go first then."},
		"evicted before it ran": {neverRan, []v1.Event{pullFailed, {Reason: "Failed", Message: "Error: ErrImagePull", InvolvedObject: pullFailed.InvolvedObject}},
			"| Container app was not started before its pod ended. The last that was said of it: Failed to pull image \"x:1\": no. -> Before the pod is made anew: podctl image pull x:1"},
		"evicted, no pull": {neverRan, nil, "| Container app was not started before its pod ended. -> "},
		"evicted, waited": {strings.Replace(neverRan, "state: {", "lastState: {terminated: {exitCode: 3, reason: Error}}, state: {", 1), nil,
			"| Container app did not run any more when its pod ended: it ended with exit code 3. -> podctl logs p -c app"},
		"evicted and lost": {strings.Replace(neverRan, "message: The", "startedAt: '2026-01-02T11:59:20Z', message: The", 1), nil, "| Container app was lost: containerd or the host went away while it ran, so its exit code is not known. It said:\nThe container could not be located -> podctl logs"},
		"first init": {"spec: {initContainers: [{name: i}], containers: [{name: c}]}\nstatus: {phase: Pending, initContainerStatuses: [" +
			"{name: i, started: true, state: {running: {startedAt: '2026-01-02T11:59:20Z'}}}]}", nil, "| Init container i has been running for 40s; c starts when it has ended. -> See what it does: podctl logs p -c i"},
		"init before init": {"spec: {initContainers: [{name: i}, {name: j}], containers: [{name: c}]}\nstatus: {phase: Pending, initContainerStatuses: [" +
			"{name: i, state: {running: {startedAt: '2026-01-02T11:59:20Z'}}}]}", nil, "| Init container i has been running for 40s; j starts when it has ended."},
		"init before two": {"spec: {initContainers: [{name: i}], containers: [{name: c}, {name: d}]}\nstatus: {phase: Pending, initContainerStatuses: [" +
			"{name: i, started: true, state: {running: {startedAt: '2026-01-02T11:59:20Z'}}}]}", nil, "| Init container i has been running for 40s; c, d start when it has ended."},
		"sysctl":         {setsSysctl, warning("Failed to create pod sandbox: write /proc/./sys/net/ipv4/tcp_syncookies: invalid argument"), "-> Correct spec.securityContext.sysctls, and make the pod anew"},
		"sysctl's name":  {setsSysctl, warning(`Failed to create pod sandbox: failed to write sysctl "net.ipv4.tcp_syncookies": no`), "-> Correct spec.securityContext.sysctls, and make the pod anew"},
		"another sysctl": {setsSysctl, warning("Failed to create pod sandbox: open /proc/sys/net/ipv6/conf/eth0/accept_dad: read-only file system"), "read-only file system -> podctl doctor"},
		"unsafe sysctl": {"status: {phase: Failed, reason: SysctlForbidden, message: 'forbidden sysctl: \"a.b\" not allowlisted'}", nil,
			"| SysctlForbidden: forbidden sysctl: \"a.b\" not allowlisted. -> Leave it out of spec.securityContext.sysctls, and make the pod anew: podd takes the safe ones"},
		"user beyond": {app("state: {waiting: {reason: CreateContainerConfigError, message: 'user 70000: a pod with hostUsers: false has users 0 to 65535'}}"), nil,
			"-> Correct runAsUser, runAsGroup, fsGroup or supplementalGroups, or leave out hostUsers: false, and make the pod anew."},
		"not to be mapped": {app("state: {waiting: {reason: CreateContainerConfigError, message: 'volumeMount v: its file system (type 0x9fa0) cannot be shown with other ids on this kernel'}}"), nil,
			"-> Leave out hostUsers: false, or use another volume, and make the pod anew."},
		"disk pressure":   {tainted("disk-pressure"), nil, "-> The host has too little left of its disk (docs/pressure.md): podctl describe node shows more. The pod starts by itself"},
		"memory pressure": {tainted("memory-pressure"), nil, "-> The host has too little left of its memory"},
		"pid pressure":    {tainted("pid-pressure"), nil, "-> The host has too little left of its process ids"},
		"tainted":         {tainted("network-unavailable"), nil, "-> podctl get nodes shows"},
		"refused": {"status: {phase: Failed, reason: Evicted, message: 'Pod was rejected: The node had condition: [DiskPressure]. '}", nil,
			"[DiskPressure]. -> Make room on the host (podctl describe node), then make it anew. Without"},
		"storage": {"status: {phase: Failed, reason: Evicted, message: 'Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. '}", nil,
			"-> Raise resources.limits.ephemeral-storage, or have the pod store less."},
		"dev":     {app("state: {waiting: {reason: RunContainerError, message: \"can't mask paths: open /dev/null: no such file or directory\"}}"), nil, "-> A volume hides what"},
		"handler": {"status: {phase: Pending}", warning(`Failed to create pod sandbox: no runtime for "kata" is configured`), "-> Start podd with --runtime-handler NAME=RUNTIME"},
		"long name": {"status: {phase: Pending}", warning("Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN a.b is too long"),
			"FQDN a.b is too long -> Make the name, the subdomain"},
		"program": {"status: {phase: Pending}", warning(`Failed to create pod sandbox: runtime for "kata": stat /nope: no such file or directory`), "-> Put that program there"},
		"root mount": {app("state: {waiting: {reason: CreateContainerConfigError, message: \"volumeMount d: mountPath /: would replace the container's root\"}}"), nil,
			"-> Correct mountPath in spec.containers[].volumeMounts. Make the pod anew with it."},
		"out": {app("state: {waiting: {reason: CreateContainerConfigError, message: 'volumeMount d: subPath \"x\": leads out of the volume'}}"), nil,
			"-> Change the link in the volume, or correct subPath in spec.containers[].volumeMounts. podd"},
		"no such subpath": {app("state: {waiting: {reason: CreateContainerConfigError, message: 'volumeMount d: subPath \"x\": no such file or directory'}}"), nil,
			"-> Make that path in the volume"},
		"settled": {"spec: {restartPolicy: Never, containers: [{name: a}, {name: b}]}\nstatus: {phase: Running, containerStatuses: [" +
			"{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, started: true, state: {running: {}}}]}", nil,
			"runs and is not ready. | Container a has ended with exit code 0 and is not started again; the pod is not ready while b runs. ->"},
		"new": {"metadata: {creationTimestamp: '2026-01-02T11:59:57Z'}\nstatus: {phase: Pending}", nil, "is not running yet. | podd prepares it, since 3s."},
		"second of two": {"metadata: {creationTimestamp: '2026-01-02T11:59:57Z'}\nspec: {initContainers: [{name: a}, {name: b}]}\nstatus: {phase: Pending, initContainerStatuses: [" +
			"{name: a, ready: true, state: {terminated: {exitCode: 0}}}, {name: b, state: {running: {startedAt: '2026-01-02T11:59:58Z'}}}]}", nil, "| Init container b has been running for 2s. ->"},
		"slow": {"metadata: {creationTimestamp: '2026-01-02T11:50:00Z'}\nstatus: {phase: Pending}", nil, "-> This takes long: podctl describe pod p"},
	} {
		pod := &v1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(c.pod), pod); err != nil {
			t.Fatal(name, err)
		}
		pod.Name = "p"
		if pod.CreationTimestamp.IsZero() { // that it is new hides no trouble
			pod.CreationTimestamp = metav1.NewTime(now.Add(-3 * time.Second))
		}
		d := diagnose(pod, facts{events: c.events}, now)
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
		if d.starting != young[name] {
			t.Errorf("%s: starting is %v", name, d.starting)
		}
	}
}

// TestWhyAll: of pods that nothing is wrong with but that they are new only the names are told.
func TestWhyAll(t *testing.T) {
	serve(t)
	why := func(want string) {
		t.Helper()
		if out, errOut, code := ask("", "why"); code != 0 || out != want {
			t.Errorf("podctl why: exit code %d\n%s%s", code, out, errOut)
		}
	}
	runs := func(name string) {
		t.Helper()
		if _, errOut, code := ask("", "run", name, "--image=x"); code != 0 {
			t.Fatal(errOut)
		}
	}
	runs("a")
	why("Nothing is wrong with the 1 pod in namespace default.\nStill starting: a.\n")
	for _, name := range strings.Fields("b c d e f g") {
		runs(name)
	}
	why("Nothing is wrong with the 7 pods in namespace default.\nStill starting: a, b, c, d, e and 2 more.\n")
	for _, name := range []string{"elsewhere", "nowhere"} {
		if _, errOut, code := ask("", "run", name, "--image=x", `--overrides={"spec":{"nodeSelector":{"a":"b"}}}`); code != 0 {
			t.Fatal(errOut)
		}
	}
	if _, errOut, code := ask("", "wait", "--for=condition=PodScheduled=false", "pod/elsewhere", "pod/nowhere"); code != 0 {
		t.Fatal(errOut)
	}
	out, _, _ := ask("", "why")
	if !regexp.MustCompile(`^elsewhere  is not run by this host: 0/1 .*\nnowhere    is not run by this host: 0/1 .*\n\n-> podctl why elsewhere says more of the first, and what to do\.\n\nStill starting: a, b, c, d, e and 2 more\.\n$`).MatchString(out) {
		t.Error(out)
	}
}

// TestSummary: of each pod in trouble there is one line, no wider than a screen, in which what its container said has room.
func TestSummary(t *testing.T) {
	crash := cause{"Container app was restarted 5 times, and again ended with exit code 3 after 0s. It is started again in 1m5s. It said:\nno config\nat all", "x"}
	long := cause{"Container b ended with exit code 3 after 0s. It said:\n" + strings.Repeat("word ", 50), "x"}
	var out strings.Builder
	tellAll(&out, []summary{
		{"team/a", "podctl why a -n team", "is started again and again.", []cause{crash}},
		{"b", "podctl why b", "has failed and is not started again (restartPolicy Never).", []cause{long, crash, crash}},
		{strings.Repeat("c", 90), "podctl why c", "is being deleted.", nil},
	})
	want := regexp.MustCompile(`^team/a {36}is started again and again: Container app ended with ex\.\.\.\nb {41}has failed and is not started again: Container\.\.\. \(2 more\)\nc{90}  is being deleted\n\n-> podctl why a -n team says more of the first, and what to do\.\n$`)
	if !want.MatchString(out.String()) {
		t.Error(out.String())
	}
	out.Reset()
	tellAll(&out, []summary{{"a", "podctl why a", "is started again and again.", []cause{crash}}})
	if out.String() != "a  is started again and again: Container app ended with exit code 3 after 0s: no config at all\n\n-> podctl why a says more, and what to do.\n" {
		t.Error(out.String())
	}
}

// TestCondemned: what podd has ended a container for is found in the history where no event tells it, and what its hook has said.
func TestCondemned(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	condemn := func(at string, why string) apihistory.Entry {
		begun, err := time.Parse(time.RFC3339Nano, "2026-01-02T"+at+"Z")
		if err != nil {
			t.Fatal(err)
		}
		return apihistory.Entry{Time: begun, What: apihistory.Condemn, Container: "app", Message: why}
	}
	hook := condemn("11:59:50.1", "command 'x' exited with 9, message: \"no such host\"\n")
	hook.What, hook.Reason, hook.Failed = apihistory.Hook, "postStart", true
	other := condemn("11:59:40", "Container other failed liveness probe")
	other.Container = "other"
	const liveness = "Container app failed liveness probe"
	ended := "{terminated: {exitCode: 137, startedAt: '2026-01-02T11:59:20Z', finishedAt: '2026-01-02T11:59:50Z'}}"
	for name, c := range map[string]struct {
		status string
		past   []apihistory.Entry
		want   string
	}{
		"liveness":          {"lastState: " + ended + ", state: {waiting: {reason: CrashLoopBackOff}}", []apihistory.Entry{condemn("11:59:50.9", liveness)}, "after 30s. podd ended it: " + liveness + ". -> podctl logs p -c app --previous"},
		"runs again":        {"ready: true, started: true, lastState: " + ended + ", state: {running: {}}", []apihistory.Entry{condemn("11:59:40", liveness)}, "after 30s. podd ended it: " + liveness + ". -> podctl logs p -c app --previous"},
		"for good":          {"state: " + ended, []apihistory.Entry{condemn("11:59:40", liveness)}, "after 30s. podd ended it: " + liveness + ". -> podctl logs p -c app"},
		"hook":              {"lastState: " + ended + ", state: {waiting: {reason: CrashLoopBackOff}}", []apihistory.Entry{hook, condemn("11:59:50.2", "FailedPostStartHook")}, "podd ended it because its postStart hook failed: command 'x' exited with 9, message: \"no such host\". -> Correct lifecycle.postStart of the container."},
		"the one before":    {"state: " + ended, []apihistory.Entry{condemn("11:59:19.9", liveness)}, "after 30s. -> SIGKILL comes from"},
		"another container": {"state: " + ended, []apihistory.Entry{other}, "after 30s. -> SIGKILL comes from"},
	} {
		pod := &v1.Pod{}
		text := "metadata: {name: p}\nspec: {containers: [{name: app}], restartPolicy: Always}\nstatus: {phase: Running, containerStatuses: [{name: app, restartCount: 1, " + c.status + "}]}"
		if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
			t.Fatal(name, err)
		}
		d := diagnose(pod, facts{past: c.past}, now)
		if len(d.causes) != 1 || !strings.Contains(d.causes[0].what+" -> "+d.causes[0].next, c.want) {
			t.Errorf("%s: %+v, want %q", name, d.causes, c.want)
		}
	}
}

// TestLongReason: of what a runtime says at length the end is not lost, in the diagnosis and in the history.
func TestLongReason(t *testing.T) {
	message := "failed to create containerd task: OCI runtime create failed: error mounting \"/run/podd/" + strings.Repeat("ä", 200) + "\" to rootfs at \"/etc/" + strings.Repeat("b", 300) + "\": not a directory"
	pod := &v1.Pod{}
	pod.Spec.Containers = []v1.Container{{Name: "app"}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "app", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: message}}}}
	d := diagnose(pod, facts{}, time.Now())
	if len(d.causes) != 1 || !strings.Contains(d.causes[0].what, ". The runtime says:\nfailed to create containerd task: ") || !strings.HasSuffix(d.causes[0].what, ": not a directory") ||
		!strings.Contains(d.causes[0].next, "such as a key that is not in the ConfigMap or Secret") {
		t.Errorf("it is %+v", d.causes)
	}
	var out strings.Builder
	tellCauses(&out, "p", d.headline, d.causes, inFull)
	if got := strings.Join(strings.Fields(out.String()), " "); !utf8.ValidString(got) || !strings.Contains(got, ": not a directory -> ") {
		t.Errorf("it is\n%s", out.String())
	}
	out.Reset()
	timeline(&out, []apihistory.Entry{{What: apihistory.Started, Container: "app", Failed: true, Message: message}}, time.Now(), screenLines)
	if got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"); len(got) != entryLines || !strings.Contains(got[0], "start failed: failed to create") || !strings.HasSuffix(got[1], "...") ||
		!strings.HasSuffix(strings.Join(strings.Fields(out.String()), " "), ": not a directory") {
		t.Errorf("the history is\n%s", out.String())
	}
	for message, want := range map[string]string{
		`exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory`:                                  "The command is not in the image",
		`exec: "mount": executable file not found in $PATH`:                                           "The command is not in the image",
		"failed to fulfil mount request: open /run/podd/pods/a/messages/b: no such file or directory": "What was to be mounted is not there",
	} {
		if got := startHint(message); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", message, got)
		}
	}
}

// TestRoom: of a pod that waits for room it is said what is lacking and who has it.
func TestRoom(t *testing.T) {
	port := func(n int32, ip string) []v1.Container {
		return []v1.Container{{Name: "c", Ports: []v1.ContainerPort{{HostPort: n, HostIP: ip, ContainerPort: 80}}}}
	}
	asks := func(cpu, memory string) []v1.Container {
		return []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}}}
	}
	pod := func(name string, containers []v1.Container) v1.Pod {
		return v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: containers}}
	}
	r := &room{here: []v1.Pod{pod("a", port(80, "")), pod("b", port(81, "127.0.0.1")), pod("c", asks("1500m", "512Mi"))}}
	r.node.Name = "host"
	r.node.Status.Allocatable = v1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("2Gi"), "pods": resource.MustParse("4")}
	sidecar := pod("p", nil)
	always := v1.ContainerRestartPolicyAlways
	sidecar.Spec.InitContainers = port(80, "127.0.0.1")
	sidecar.Spec.InitContainers[0].RestartPolicy = &always
	const free, lower, soon = "Delete the pod that has the port, or take another hostPort.", "Lower resources.requests of the pod, or of others: podctl describe node host", "It is run as soon as there is room."
	for name, c := range map[string]struct {
		pod        v1.Pod
		what, next string
	}{
		"port":          {pod("p", port(80, "")), "no.\nHost port 80/TCP is taken by pod n/a.", free + " " + soon},
		"sidecar":       {sidecar, "no.\nHost port 80/TCP is taken by pod n/a.", free},
		"one address":   {pod("p", port(81, "")), "no.\nHost port 81/TCP is taken by pod n/b.", free},
		"other address": {pod("p", port(81, "127.0.0.2")), "no.", "next"},
		"itself":        {pod("a", port(80, "")), "no.", "next"},
		"cpu":           {pod("p", asks("600m", "1Mi")), "no.\nIt asks for cpu 0.6: 0.5 of 2 are free.", lower},
		"never":         {pod("p", asks("3", "3Gi")), "no.\nIt asks for cpu 3: 0.5 of 2 are free.\nIt asks for memory 3.0 GiB: 1.5 GiB of 2.0 GiB are free.", "This host can never give that: lower resources.requests of the pod."},
		"meanwhile":     {pod("p", asks("500m", "1Mi")), "no.", "next"},
	} {
		if got := r.tell(&c.pod, cause{"no.", "next"}); got.what != c.what || !strings.HasPrefix(got.next, c.next) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	const affinity, spread = "1 node(s) didn't match pod affinity rules.", "1 node(s) didn't match pod topology spread constraints (missing required label)."
	near, wide := pod("p", nil), pod("p", nil)
	near.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{TopologyKey: "a"}, {TopologyKey: "zone"}}}}
	wide.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{TopologyKey: "rack", WhenUnsatisfiable: v1.ScheduleAnyway}, {TopologyKey: "zone", WhenUnsatisfiable: v1.DoNotSchedule}}
	r.node.Labels = map[string]string{"a": ""}
	for name, c := range map[string]struct {
		pod  v1.Pod
		said string
	}{"affinity": {near, affinity}, "spread": {wide, spread}} {
		c.pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Message: c.said}}
		known := facts{room: (&rooms{asked: true, found: r}).of(t.Context(), &c.pod)}
		if got := diagnose(&c.pod, known, time.Now()).causes; len(got) != 1 || got[0].what != c.said+"\nThe node has no label zone, which is the topologyKey." ||
			!strings.HasPrefix(got[0].next, "podctl label node host zone=VALUE, or correct topologyKey") {
			t.Errorf("%s without its label: %+v", name, got)
		}
	}
	r.node.Labels["zone"] = "z"
	if got := r.tell(&near, cause{affinity, "next"}); got != (cause{affinity, "next"}) {
		t.Errorf("with all labels: %+v", got)
	}
	r.here = append(r.here, pod("d", nil))
	p := pod("p", nil)
	if got := r.tell(&p, cause{"no.", ""}); got.what != "no.\n4 pods are here, and podd takes 4 at most (--max-pods)." {
		t.Errorf("too many: %+v", got)
	}
	if got := (*room)(nil).tell(&p, cause{"no.", "next"}); got != (cause{"no.", "next"}) {
		t.Errorf("where nothing is known: %+v", got)
	}
}

// TestMountHint: what to do about a volume fits what is the matter with it.
func TestMountHint(t *testing.T) {
	const begin = `MountVolume.SetUp failed for volume "v" : `
	for message, want := range map[string]string{
		`configmap "x" not found`:                                           "Look at spec.volumes: what they name must be there. podd tries again",
		`references non-existent secret key: password`:                      "Look at spec.volumes",
		`hostPath /a: does not exist`:                                       "Look at spec.volumes",
		`hostPath /a: is not a directory`:                                   "Look at spec.volumes",
		`mount.nfs: is not on this host: install nfs-common`:                "Do that on this host. podd tries again",
		`mount h:/a: this kernel has no nfs (modprobe nfs): no such device`: "Do that on this host. podd tries again",
		`hostPath "tmp": is not an absolute path`:                           "Correct that volume, and make the pod anew.",
		`nfs server "a b": is not the name of a host`:                       "Correct that volume, and make the pod anew.",
		`write /a: no space left on device`:                                 "The disk is full",
		`mount h:/a: Connection timed out`:                                  "podd tries again by itself. If it stays so: podctl doctor",
	} {
		if got := mountHint(begin + message); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", message, got, want)
		}
	}
}

// TestEvents: the events are no wider than a screen, and say which container they are about.
func TestEvents(t *testing.T) {
	of := func(field, message string) v1.Event {
		return v1.Event{Type: "Warning", Reason: "Unhealthy", Message: message, InvolvedObject: v1.ObjectReference{FieldPath: field}, Count: 3, LastTimestamp: metav1.Now()}
	}
	var out strings.Builder
	tellEvents(&out, []v1.Event{of("spec.containers{app}", strings.Repeat("word ", 30)+"end"), of("spec.initContainers{database}", "short"), of("", "of the pod")})
	for line := range strings.Lines(out.String()) {
		if len(line) > screenWidth+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	got := regexp.MustCompile(`\n +[0-9]+s ago`).ReplaceAllString(out.String(), "\n* ago")
	for _, want := range []string{"\n* ago  Warning  app       Unhealthy: word word", "word end (3 times)\n", "\n* ago  Warning  database  Unhealthy: short (3 times)\n", "\n* ago  Warning            Unhealthy: of the pod (3 times)\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	out.Reset()
	dns := of("", "There is no cluster DNS on this host: dnsPolicy ClusterFirst works like Default")
	dns.Reason = "MissingClusterDNS"
	if tellEvents(&out, []v1.Event{dns}); out.Len() > 0 {
		t.Errorf("of a pod that has the default it is said\n%s", out.String())
	}
	tellEvents(&out, []v1.Event{of("", "no room")})
	if !strings.Contains(out.String(), "ago  Warning  Unhealthy: no room") {
		t.Errorf("without containers they are\n%s", out.String())
	}
}

// TestClaimCauses: a pod that waits for claims is told which, why, and what to do.
func TestClaimCauses(t *testing.T) {
	const affinity = "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "1"}}
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: "Unschedulable"}}
	of := func(text string) *v1.PersistentVolumeClaim {
		c := &v1.PersistentVolumeClaim{}
		if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
			t.Fatal(text, err)
		}
		return c
	}
	said := func(reason, message string) *v1.Event { return &v1.Event{Reason: reason, Message: message} }
	const bound = "metadata: {annotations: {pv.kubernetes.io/bind-completed: 'yes'}}\nstatus: {phase: Bound}\nspec: {volumeName: v, accessModes: [ReadWriteOncePod]}"
	for message, c := range map[string]struct {
		claim claim
		want  string
	}{
		`persistentvolumeclaim "c" not found`: {claim{}, "Claim c of volume data is not there. -> Make it, or correct claimName; podctl get pvc shows which there are."},
		`persistentvolumeclaim "c" is being deleted`: {claim{found: of("metadata: {deletionTimestamp: '2026-01-02T12:00:20Z'}")},
			"Claim c of volume data is being deleted: no other pod may use it. -> podctl describe pvc c shows who does"},
		`persistentvolumeclaim "c" bound to non-existent persistentvolume "v"`: {claim{found: of("spec: {volumeName: v}\nstatus: {phase: Lost}")},
			"Claim c of volume data has lost its volume v, with the data."},
		"PVC default/c was not created for pod default/p (pod is not owner)": {claim{ephemeral: true, found: of("{}")}, "Claim c of volume data was not made for this pod. -> Delete that claim"},
		"pod has unbound immediate PersistentVolumeClaims": {claim{found: of("spec: {storageClassName: fast}\nstatus: {phase: Pending}"),
			last: said("ProvisioningFailed", `storageclass.storage.k8s.io "fast" not found`)},
			`Claim c of volume data (class fast) has no volume yet: ProvisioningFailed: storageclass.storage.k8s.io "fast" not found. -> Make that class, or the claim anew with another one: podctl get sc`},
		"1 node(s) didn't find available persistent volumes to bind": {claim{found: of("status: {phase: Pending}")}, "Claim c of volume data has no volume yet. -> podctl describe pvc c, podctl get pv,sc"},
		"1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod": {claim{found: of(bound)},
			"Claim c of volume data is in use by another pod, and has the access mode ReadWriteOncePod. -> podctl describe pvc c shows by which"},
		affinity: {claim{found: of(bound)}, "Claim c of volume data is bound to volume v: 0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity. -> podctl describe pv v"},
		"1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)": {claim{found: of(bound)}, "bound to non-existent pv(s). -> podctl get pvc,pv,sc shows"},
	} {
		pod.Status.Conditions[0].Message = message
		c.claim.name, c.claim.volume = "c", "data"
		d := diagnose(pod, facts{claims: []claim{c.claim}}, time.Now())
		if d.headline != "waits for its claims." || len(d.causes) != 1 || !strings.Contains(d.causes[0].what+" -> "+d.causes[0].next, c.want) {
			t.Errorf("%s: %+v, want %q", message, d, c.want)
		}
	}
}

// TestWrapped: a diagnosis is no wider than a screen, and a command that is to be copied stays whole.
func TestWrapped(t *testing.T) {
	const command = "podctl patch pod a-pod-with-a-name-that-is-long --type=merge -p '{\"metadata\":{\"finalizers\":null, \"annotations\": null}}'"
	var out strings.Builder
	tellCauses(&out, "p", "waits.", []cause{{strings.Repeat("word ", 50), strings.Repeat("advice ", 40) + "\n" + command}}, inFull)
	for line := range strings.Lines(out.String()) {
		if line = strings.TrimSuffix(line, "\n"); len(line) > screenWidth && !strings.HasSuffix(line, command) {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	if !strings.Contains(out.String(), "\n     "+command+"\n") {
		t.Errorf("the command is broken:\n%s", out.String())
	}
}

// TestOneScreen: however much a pod and its probes say, what is told of it goes on one screen; programs get all of it.
func TestOneScreen(t *testing.T) {
	now := time.Now()
	lines := func(n int, of string) string { return strings.TrimSpace(strings.Repeat(of+"\n", n)) + "\nthe end" }
	crashed := func(name string) v1.ContainerStatus {
		last := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: lines(80, "goroutine "+name),
			StartedAt: metav1.NewTime(now.Add(-20 * time.Second)), FinishedAt: metav1.NewTime(now.Add(-10 * time.Second))}}
		return v1.ContainerStatus{Name: name, RestartCount: 3, LastTerminationState: last,
			State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s restarting"}}}
	}
	no := false
	unhealthy := v1.ContainerStatus{Name: "app", Started: &no, State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}}
	events := []v1.Event{{Reason: "Unhealthy", Message: "Startup probe failed: " + lines(15, strings.Repeat("refused ", 20)), InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}
	var past []apihistory.Entry
	for range 60 {
		past = append(past, apihistory.Entry{Time: now, What: apihistory.Exited, Container: "app", Exit: &apihistory.Exit{Code: 1}, Message: lines(80, "x")})
	}
	of := func(n int) (all []v1.ContainerStatus) {
		for i := range n {
			all = append(all, crashed(fmt.Sprintf("c%d", i)))
		}
		return all
	}
	for name, containers := range map[string][]v1.ContainerStatus{
		"two that crash": {crashed("app"), crashed("more")}, "a probe and one that crashes": {unhealthy, crashed("more")},
		"many": {unhealthy, crashed("b"), crashed("c"), crashed("d"), crashed("e")}, "8": of(8), "10": of(10), "23": of(23), "100": of(100),
	} {
		pod := &v1.Pod{}
		pod.Name, pod.Status.Phase, pod.Status.ContainerStatuses = "p", v1.PodRunning, containers
		d := diagnose(pod, facts{events: events}, now)
		if len(d.causes) != len(containers) || strings.Count(d.causes[0].what, "\n") < 15 {
			t.Errorf("%s: programs get %+v", name, d.causes)
		}
		var out strings.Builder
		report{Name: "p", Headline: d.headline, Causes: d.causes, History: []apihistory.Pod{{Entries: past}}}.tell(&out, now)
		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(got) > screenLines {
			t.Errorf("%s: %d lines\n%s", name, len(got), out.String())
		}
		for _, line := range got {
			if utf8.RuneCountInString(line) > screenWidth {
				t.Errorf("%s: %d columns: %s", name, utf8.RuneCountInString(line), line)
			}
		}
		want := []string{" more lines: -o yaml shows them\n", " 30s. It said:\n", "\n    the end\n  -> ", " more: -o yaml shows them\n"}
		if last := containers[len(containers)-1].Name; len(containers) > 2 && len(containers) < 20 {
			want = append(want, "\n  Container "+last+" was restarted 3 times, and again ended with exit code 1 after 10s: goroutine")
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: there is no %q in\n%s", name, part, out.String())
			}
		}
	}
}

// TestQuoted: of a message of one line the beginning is there, podd says nothing behind it, and what is quoted is not said again.
func TestQuoted(t *testing.T) {
	now := time.Now()
	message := "bad configuration " + strings.Repeat("word ", 120) + "end"
	var statuses []v1.ContainerStatus
	for i := range 9 {
		statuses = append(statuses, v1.ContainerStatus{Name: fmt.Sprintf("c%d", i), RestartCount: 1, State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s restarting"}},
			LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 1, Message: message + "\n", FinishedAt: metav1.NewTime(now)}}})
	}
	pod := &v1.Pod{}
	pod.Name, pod.Status.Phase, pod.Status.ContainerStatuses = "p", v1.PodRunning, statuses
	d := diagnose(pod, facts{}, now)
	if what := d.causes[0].what; what != "Container c0 was restarted once, and again ended with exit code 1. It is started again in 40s. It said:\n"+message {
		t.Errorf("it is %s", what)
	}
	past := []apihistory.Entry{{Time: now, What: apihistory.Exited, Container: "c0", Exit: &apihistory.Exit{Code: 1}, Message: message + "\n"},
		{Time: now, What: apihistory.Exited, Container: "c0", Exit: &apihistory.Exit{Code: 1}, Message: "other"}}
	var out strings.Builder
	report{Name: "p", Headline: d.headline, Causes: d.causes, History: []apihistory.Pod{{Entries: past}}}.tell(&out, now)
	if got := out.String(); !strings.Contains(got, " said:\n    bad configuration word word") || !strings.Contains(got, "word end\n  -> ") || !strings.Contains(got, "c0  exited with code 1\n") || !strings.Contains(got, "exited with code 1: other\n") {
		t.Errorf("it is\n%s", got)
	}
}

// TestOldContent: a volume is told of as long as it does not follow, and not after all were made anew.
func TestOldContent(t *testing.T) {
	lost := func(volume string) apihistory.Entry {
		return apihistory.Entry{What: apihistory.Volume, Reason: volume, Failed: true, Message: `configmap "x" not found`}
	}
	again := func(volume string) apihistory.Entry { return apihistory.Entry{What: apihistory.Volume, Reason: volume} }
	mounts, failed := apihistory.Entry{What: apihistory.Mounts}, apihistory.Entry{What: apihistory.Mounts, Failed: true}
	for _, c := range []struct {
		entries []apihistory.Entry
		want    string
	}{
		{[]apihistory.Entry{mounts, lost("b"), lost("a")}, "a b"},
		{[]apihistory.Entry{mounts, lost("b"), lost("a"), again("b"), {What: apihistory.Daemon}}, "a"},
		{[]apihistory.Entry{mounts, lost("a"), again("a"), lost("a")}, "a"},
		{[]apihistory.Entry{mounts, lost("a"), failed}, "a"},
		{[]apihistory.Entry{mounts, lost("a"), mounts}, ""},
	} {
		var got []string
		for _, found := range oldContent(c.entries, "") {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(found.what, "Volume "), ` shows old content: configmap "x" not found.`))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, want %q", c.entries, got, c.want)
		}
	}
}
