package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// judged is a pod called p. now is noon.
func judged(t *testing.T, text string) *v1.Pod {
	t.Helper()
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	pod.Name = "p"
	return pod
}

// TestJudge holds what a run makes of a pod against its status.
func TestJudge(t *testing.T) {
	app := func(status string) string {
		return "spec: {containers: [{name: app}]}\nstatus:\n  phase: Running\n  containerStatuses:\n  - {name: app, image: 'x:1', " + status + "}"
	}
	ended := func(code string) string {
		return "{terminated: {exitCode: " + code + ", reason: Error, startedAt: '2026-01-02T11:59:00Z', finishedAt: '2026-01-02T11:59:30Z'}}"
	}
	pull := func(reason, message string) string {
		return app("state: {waiting: {reason: " + reason + ", message: '" + message + "'}}")
	}
	pulls := func(n int) *history { return &history{pulls: map[string]int{"app": n}} }
	crash := func(n string) string {
		return app("restartCount: " + n + ", lastState: " + ended("3") + ", state: {waiting: {reason: CrashLoopBackOff}}")
	}
	probed := func(probe, more string) string {
		return strings.Replace(app("state: {running: {startedAt: '2026-01-02T11:50:00Z'}}"), "name: app}", "name: app, "+probe+"}", 1) + more
	}
	errored := func(kind, message string, count int32, ago time.Duration) []v1.Event {
		at := v1.ObjectReference{FieldPath: "spec.containers{app}"}
		return []v1.Event{
			{Type: "Warning", Reason: "Unhealthy", Message: kind + " probe errored and resulted in unknown state: " + message, Count: count, InvolvedObject: at, FirstTimestamp: metav1.NewTime(noon.Add(-ago))},
			{Type: "Warning", Reason: "Unhealthy", Message: "Liveness probe failed: 503", Count: 9, InvolvedObject: at},
		}
	}
	const run = "readinessProbe: {exec: {command: [x]}}"
	sidecar := func(probe string) string {
		return "spec: {initContainers: [{name: app, restartPolicy: Always, " + probe + "}]}\nstatus: {phase: Pending, initContainerStatuses: [{name: app, state: {running: {}}}]}"
	}
	isReady := "status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}"
	warned := func(reason, message string, count int32) []v1.Event {
		return []v1.Event{{Type: "Warning", Reason: reason, Message: message, Count: count}}
	}
	for name, c := range map[string]struct {
		pod     string
		events  []v1.Event
		history *history
		until   string
		stage   stage
		why     string
		code    int32
	}{
		"new":                  {pod: "status: {}"},
		"pending":              {pod: "status: {phase: Pending}"},
		"running":              {pod: isReady},
		"succeeded":            {pod: "status: {phase: Succeeded}", stage: done},
		"succeeded, not ready": {pod: "status: {phase: Succeeded}", until: untilReady, stage: hopeless, why: "will not be ready"},
		"ready just now":       {pod: isReady + "\nspec: {containers: [{name: app}]}", until: untilReady, history: &history{ready: noon}},
		"ready for a while":    {pod: isReady + "\nspec: {containers: [{name: app}]}", until: untilReady, history: &history{ready: noon.Add(-readyFor)}, stage: done},
		"ready, says a probe":  {pod: isReady + "\nspec: {containers: [{name: app, readinessProbe: {tcpSocket: {port: 1}}}]}", until: untilReady, history: &history{ready: noon}, stage: done},
		"failed":               {pod: strings.Replace(app("state: "+ended("3")), "Running", "Failed", 1), stage: failed, why: "container app ended with exit code 3 after 30s", code: 3},
		"failed, not ready":    {pod: strings.Replace(app("state: "+ended("3")), "Running", "Failed", 1), until: untilReady, stage: hopeless, why: "container app ended with exit code 3", code: 3},
		"rejected":             {pod: "status: {phase: Failed, reason: NodeAffinity, message: 'Pod was rejected'}", stage: failed, why: "NodeAffinity: Pod was rejected"},
		"deadline":             {pod: strings.Replace(app("state: "+ended("137")), "phase: Running", "phase: Failed\n  reason: DeadlineExceeded", 1), stage: failed, why: "DeadlineExceeded; container app ended with exit code 137 (SIGKILL)", code: 137},
		"one of two ended":     {pod: app("state: " + ended("3"))},
		"deleted":              {pod: "metadata: {deletionTimestamp: '2026-01-02T12:00:00Z'}", stage: hopeless, why: "somebody else deletes it"},
		"unschedulable":        {pod: "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no room}]}", stage: hopeless, why: "no host runs it: no room"},
		"others to come": {pod: "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, lastTransitionTime: '2026-01-02T11:59:55Z', " +
			"message: \"0/1 nodes are available: 1 node(s) didn't match pod affinity rules.\"}]}"},
		"no others": {pod: "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, lastTransitionTime: '2026-01-02T11:59:50Z', " +
			"message: \"0/1 nodes are available: 1 node(s) didn't match pod affinity rules.\"}]}", stage: hopeless, why: "no host runs it: 0/1 nodes"},
		"gated":                    {pod: "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}"},
		"unknown":                  {pod: "status: {phase: Unknown, reason: RuntimeUnreachable}"},
		"never pulled":             {pod: pull("ErrImageNeverPull", ""), stage: hopeless, why: "image x:1 is not on this host"},
		"invalid name":             {pod: pull("InvalidImageName", "bad"), stage: hopeless, why: "InvalidImageName: bad"},
		"config":                   {pod: pull("CreateContainerConfigError", "no secret"), stage: hopeless, why: "CreateContainerConfigError: no secret"},
		"not found once":           {pod: pull("ErrImagePull", "x: not found"), history: pulls(1)},
		"not found twice":          {pod: pull("ImagePullBackOff", "x: not found"), history: pulls(2), stage: hopeless, why: "image x:1 could not be pulled in 2 attempts: x: not found"},
		"not found, say events":    {pod: pull("ErrImagePull", "x: not found"), events: warned("Failed", `Failed to pull image "x:1": not found`, 2), stage: hopeless, why: "in 2 attempts"},
		"events of another image":  {pod: pull("ErrImagePull", "x: not found"), events: warned("Failed", `Failed to pull image "y:1": not found`, 2)},
		"refused four times":       {pod: pull("ErrImagePull", "connection refused"), history: pulls(4)},
		"refused five times":       {pod: pull("ErrImagePull", "connection refused"), history: pulls(5), stage: hopeless, why: "in 5 attempts"},
		"does not start, just now": {pod: pull("RunContainerError", "no such file"), history: &history{since: map[string]time.Time{"app": noon.Add(-startLimit + 1)}}},
		"does not start":           {pod: pull("RunContainerError", "no such file"), history: &history{since: map[string]time.Time{"app": noon.Add(-startLimit)}}, stage: hopeless, why: "RunContainerError: no such file"},
		"is not inspected":         {pod: pull("ImageInspectError", "no such blob"), history: &history{since: map[string]time.Time{"app": noon.Add(-startLimit)}}, stage: hopeless, why: "ImageInspectError: no such blob"},
		"creating":                 {pod: pull("ContainerCreating", "")},
		"crashed twice":            {pod: crash("2")},
		"crashed three times":      {pod: crash("3"), stage: hopeless, why: "container app was restarted 3 times, and again ended with exit code 3", code: 3},
		"killed by a probe":        {pod: crash("3"), events: []v1.Event{{Type: "Warning", Reason: "Unhealthy", Message: "Liveness probe failed: 503", InvolvedObject: v1.ObjectReference{FieldPath: "spec.containers{app}"}}}, stage: hopeless, why: "Liveness probe failed: 503", code: 3},
		"runs again":               {pod: app("restartCount: 3, lastState: " + ended("3") + ", state: {running: {}}")},
		"runs once more":           {pod: app("restartCount: 4, lastState: " + ended("3") + ", state: {running: {}}"), stage: hopeless, why: "restarted 4 times", code: 3},
		"ended, runs again soon":   {pod: "spec: {restartPolicy: OnFailure, containers: [{name: app}]}\n" + strings.SplitN(app("restartCount: 3, state: "+ended("4")), "\n", 2)[1], stage: hopeless, why: "restarted 3 times, and again ended with exit code 4", code: 4},
		"no such port":             {pod: probed("readinessProbe: {httpGet: {port: web}}", ""), until: untilReady, stage: hopeless, why: `its readiness probe asks port "web", and it has no port of that name`},
		"no such port to start":    {pod: probed("startupProbe: {tcpSocket: {port: web}}, "+run, ""), until: untilReady, stage: hopeless, why: `its startup probe asks port "web"`},
		"port as text":             {pod: probed("readinessProbe: {httpGet: {port: '80'}}", ""), until: untilReady},
		"port of that name":        {pod: probed("ports: [{name: web, containerPort: 80}], readinessProbe: {httpGet: {port: web}}", ""), until: untilReady},
		"nobody waits for ready":   {pod: probed("readinessProbe: {httpGet: {port: web}}", "")},
		"sidecar never starts":     {pod: sidecar("startupProbe: {tcpSocket: {port: web}}"), stage: hopeless, why: "startup probe asks"},
		"sidecar is never ready":   {pod: sidecar("readinessProbe: {tcpSocket: {port: web}}")},
		"liveness has no answer":   {pod: probed("livenessProbe: {tcpSocket: {port: web}}", ""), until: untilReady},
		"no such command":          {pod: probed(run, ""), events: errored("Readiness", "executable file not found", 2, startLimit), until: untilReady, stage: hopeless, why: "executable file not found"},
		"no such command just now": {pod: probed(run, ""), events: errored("Readiness", "executable file not found", 2, startLimit-1), until: untilReady},
		"no such command once":     {pod: probed(run, ""), events: errored("Readiness", "executable file not found", 1, startLimit), until: untilReady},
		"command of another probe": {pod: probed(run, ""), events: errored("Startup", "executable file not found", 2, startLimit), until: untilReady},
		"no answer, it may yet":    {pod: probed(run, ""), events: errored("Readiness", "containerd is away", 2, startLimit), until: untilReady},
		"probe fails, it may yet":  {pod: probed(run, ""), events: warned("Unhealthy", "Readiness probe failed: no such file or directory", 9), until: untilReady},
		"mounts fail":              {pod: "status: {phase: Pending}", events: warned("FailedMount", "no such directory", mounts), stage: hopeless, why: "FailedMount: no such directory"},
		"a mount failed":           {pod: "status: {phase: Pending}", events: warned("FailedMount", "no such directory", mounts-1)},
		"init is done":             {pod: "spec: {initContainers: [{name: i}], containers: [{name: app}]}\nstatus: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 3, state: {terminated: {exitCode: 0}}}]}"},
		"init":                     {pod: "spec: {initContainers: [{name: i}], containers: [{name: app}]}\nstatus: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}}]}", stage: hopeless, why: "container i was restarted 3 times, and again has ended"},
	} {
		h := c.history
		if h == nil {
			h = &history{}
		}
		got := judge(judged(t, c.pod), c.events, h, rules{until: c.until, maxRestarts: 3}, noon)
		if got.stage != c.stage || !strings.Contains(got.why, c.why) || (got.why == "") != (c.why == "") || got.code != c.code {
			t.Errorf("%s: %+v, want stage %d, %q, code %d", name, got, c.stage, c.why, c.code)
		}
	}
	once := "spec: {restartPolicy: OnFailure, containers: [{name: app}]}\nstatus: {phase: Running, containerStatuses: [{name: app, state: " + ended("4") + "}]}"
	if got := judge(judged(t, once), nil, &history{}, rules{}, noon); got.stage != hopeless || got.code != 4 {
		t.Errorf("no restart at all: %+v", got)
	}
	if got := judge(judged(t, crash("30")), nil, &history{}, rules{maxRestarts: -1}, noon); got.stage != goesOn {
		t.Errorf("any number of restarts: %+v", got)
	}
}

// TestHistory holds what is kept of a pod's past: each failed pull, and since when it has been as it is.
func TestHistory(t *testing.T) {
	h := &history{}
	at := func(second int, reason, ready string) {
		h.note(judged(t, "status: {conditions: [{type: Ready, status: '"+ready+"'}], containerStatuses: [{name: app, state: {waiting: {reason: "+reason+"}}}]}"),
			noon.Add(time.Duration(second)*time.Second))
	}
	for i, reason := range []string{"ContainerCreating", "ErrImagePull", "ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"} {
		at(i, reason, "False")
	}
	if h.pulls["app"] != 2 || !h.since["app"].Equal(noon.Add(5*time.Second)) || !h.ready.IsZero() {
		t.Errorf("history: %+v", h)
	}
	at(6, "x", "True")
	at(7, "x", "True")
	if !h.ready.Equal(noon.Add(6 * time.Second)) {
		t.Errorf("ready since %s", h.ready)
	}
	at(8, "x", "False")
	if !h.ready.IsZero() {
		t.Errorf("ready since %s, and it is not", h.ready)
	}
}

// TestExitOf holds when the container of --exit-from has ended for good.
func TestExitOf(t *testing.T) {
	pod := func(policy, more, status string) string {
		return "spec: {restartPolicy: " + policy + ", containers: [{name: app" + more + "}]}\nstatus: {phase: Running, containerStatuses: [{name: app, " + status + "}]}"
	}
	ended := func(code string) string { return "{terminated: {exitCode: " + code + "}}" }
	for name, c := range map[string]struct {
		pod  string
		want int32 // -1: it goes on
	}{
		"runs":               {pod("Never", "", "state: {running: {}}"), -1},
		"never":              {pod("Never", "", "state: "+ended("3")), 3},
		"on failure, good":   {pod("OnFailure", "", "state: "+ended("0")), 0},
		"on failure, bad":    {pod("OnFailure", "", "state: "+ended("3")), -1},
		"on failure, again":  {pod("OnFailure", "", "state: {running: {}}, lastState: "+ended("3")), -1},
		"on failure, failed": {strings.Replace(pod("OnFailure", "", "state: "+ended("3")), "Running", "Failed", 1), 3},
		"always":             {pod("Always", "", "state: "+ended("3")), 3},
		"always, again":      {pod("Always", "", "state: {running: {}}, lastState: "+ended("4")), 4},
		"own policy":         {pod("Always", ", restartPolicy: Never", "state: "+ended("5")), 5},
		"own rule": {pod("Never", ", restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]",
			"state: "+ended("42")), -1},
		"no rule for it": {pod("Never", ", restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]",
			"state: "+ended("43")), 43},
		"init":      {"spec: {initContainers: [{name: app}]}\nstatus: {phase: Pending, initContainerStatuses: [{name: app, state: " + ended("0") + "}]}", 0},
		"not there": {"status: {phase: Pending}", -1},
	} {
		got := int32(-1)
		if end := exitOf(judged(t, c.pod), "app"); end != nil {
			got = end.ExitCode
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestFirstFailed holds whose exit code a failed pod's is: that of the failure that came first, and never a sidecar's.
func TestFirstFailed(t *testing.T) {
	status := func(name, code, at string) string {
		return "{name: " + name + ", state: {terminated: {exitCode: " + code + ", finishedAt: '2026-01-02T12:00:" + at + "Z'}}}"
	}
	spec := "spec: {initContainers: [{name: side, restartPolicy: Always}], containers: [{name: a}, {name: b}, {name: c}]}\nstatus: {initContainerStatuses: [" +
		status("side", "9", "00") + "], containerStatuses: ["
	for statuses, want := range map[string]string{
		status("a", "0", "01") + "," + status("b", "3", "05") + "," + status("c", "4", "04"): "c",
		status("a", "2", "04") + "," + status("b", "3", "04"):                                "a",
		status("a", "0", "01"): "",
	} {
		if got, _ := firstFailed(judged(t, spec+statuses+"]}")); got != want {
			t.Errorf("%s: %q, want %q", statuses, got, want)
		}
	}
}

func TestPrefixes(t *testing.T) {
	if got, want := prefixes([]string{"a/b", "a/longer"}, false), []string{"a/b      | ", "a/longer | "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	got := prefixes(make([]string, 12), true)
	if got[0] == got[1] || got[0] != got[10] || got[0] != "\x1b[36m | \x1b[0m" {
		t.Errorf("colours: %q", got)
	}
}

// broken is a log that is cut off.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// TestLogLines: over cuts at any place every line is printed once, also those of one instant, and nothing is cut in two.
func TestLogLines(t *testing.T) {
	stamp := func(second int) string { return noon.Add(time.Duration(second) * time.Second).Format(time.RFC3339Nano) }
	long := strings.Repeat("x", 100_000)
	log := stamp(1) + " a\n" + stamp(1) + " a\n" + stamp(1) + " b\n" + stamp(2) + " \n" + stamp(3) + " " + long + "\n" + stamp(3) + " c\n" + stamp(4) + " end"
	want := "p| a\np| a\np| b\np| \np| " + long + "\np| c\np| end\n"
	for _, cut := range []int{0, 1, 20, 24, 25, 30, 47, 50, 75, 76, 80, 100, 120, 50_000, 100_110, 100_130, len(log) - 1} {
		var out bytes.Buffer
		s := &stream{logs: &runLogs{board: newBoard(), out: &out}, prefix: "p| "}
		if err := s.lines(broken{strings.NewReader(log[:cut])}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if err := s.lines(strings.NewReader(log[:cut])); err != nil { // podd ends in good order, in the middle of a line
			t.Fatal(err)
		}
		if err := s.lines(strings.NewReader(log)); err != nil {
			t.Fatal(err)
		}
		s.printed(0)
		if out.String() != want {
			t.Errorf("cut at %d: %d bytes, want %d: %.200q", cut, out.Len(), len(want), out.String())
		}
	}
}

// TestLogLine: a line's open escape sequence is not the next one's on a terminal, and who reads no more is written no more.
func TestLogLine(t *testing.T) {
	var out bytes.Buffer
	s := &stream{logs: &runLogs{out: &out, clean: true}, prefix: "p| "}
	s.line([]byte("a\x1b]0;title"))
	s.line([]byte("b\x1b[31"))
	s.line([]byte("c"))
	if got := out.String(); got != "p| a\np| b\np| c\n" {
		t.Errorf("%q", got)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	s.logs.out = w
	s.line([]byte("d"))
	if !s.logs.broken {
		t.Error("a broken pipe was not noticed")
	}
}

// TestInstance holds which instance of a container a status is about.
func TestInstance(t *testing.T) {
	for status, want := range map[string]string{
		"state: {waiting: {reason: ContainerCreating}}":                                                     "-1 false",
		"state: {running: {}}":                                                                              "0 false",
		"restartCount: 2, state: {running: {}}":                                                             "2 false",
		"state: {terminated: {exitCode: 1, startedAt: '2026-01-02T12:00:00Z'}}":                             "0 true",
		"restartCount: 1, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {}}":        "1 true",
		"state: {terminated: {exitCode: 128, reason: StartError}}":                                          "-1 false",
		"restartCount: 1, state: {terminated: {exitCode: 1}}, lastState: {terminated: {exitCode: 1}}":       "1 true",
		"restartCount: 1, state: {waiting: {reason: ErrImagePull}}, lastState: {terminated: {exitCode: 1}}": "1 true",
	} {
		n, over := instance(judged(t, "status: {containerStatuses: [{name: app, "+status+"}]}"), "app")
		if got := fmt.Sprint(n, over); got != want {
			t.Errorf("%s: %s, want %s", status, got, want)
		}
	}
}

// TestJUnit: the report says of each container what became of it, and is XML whatever they wrote.
func TestJUnit(t *testing.T) {
	ended := func(code string) string {
		return "{terminated: {exitCode: " + code + ", reason: Error, startedAt: '2026-01-02T11:59:00Z', finishedAt: '2026-01-02T11:59:30Z'}}"
	}
	pod := judged(t, `spec: {containers: [{name: bad}, {name: good}, {name: slow}, {name: late}]}
status:
  phase: Running
  containerStatuses:
  - {name: bad, state: `+ended("3")+`}
  - {name: good, state: `+ended("0")+`}
  - {name: slow, state: {running: {startedAt: '2026-01-02T11:59:50Z'}}}
  - {name: late, state: {waiting: {reason: ContainerCreating}}}`)
	out := "a\x00\x1b\ufffe]]>\xff<&\r\n"
	suite := junitSuiteOf("ns", "p", pod, verdict{}, outcome{why: "not complete after 10s", code: codeTimeout}, noon.Add(-time.Minute), noon, func(string) string { return out })
	report := &junitReport{Name: "podctl run", Suites: []junitSuite{suite}}
	text, err := report.encode()
	if err != nil {
		t.Fatal(err)
	}
	var back junitReport
	if err := xml.Unmarshal(text, &back); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if back.Tests != 5 || back.Failures != 1 || back.Errors != 2 || back.Skipped != 1 {
		t.Errorf("counts: %+v", back.junitCounts)
	}
	var got []string
	for _, c := range back.Suites[0].Cases {
		line := c.Class + " " + c.Name + " " + c.Time
		for _, said := range []*junitSaid{c.Failure, c.Error, c.Skipped} {
			if said != nil {
				line += " " + said.Type + ": " + said.Message
			}
		}
		got = append(got, line)
	}
	want := []string{
		"ns.p pod 60.000 Unfinished: not complete after 10s",
		"ns.p bad 30.000 Error: ended with exit code 3 after 30s",
		"ns.p good 30.000",
		"ns.p slow 10.000 Unfinished: it runs and is not ready: not complete after 10s",
		"ns.p late 0.000 : ContainerCreating",
	}
	if !slices.Equal(got, want) {
		t.Errorf("cases:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if said := back.Suites[0].Cases[1].Out; said != "a\ufffd\ufffd\ufffd]]>\ufffd<&\r\n" {
		t.Errorf("what it wrote: %q", said)
	}
}

// TestLogHint: what a run says of logs depends on whether podctl logs will find the pod.
func TestLogHint(t *testing.T) {
	pod := judged(t, "metadata: {name: p}\nspec: {restartPolicy: Never, containers: [{name: app}]}\nstatus: {phase: Failed, containerStatuses: [{name: app, state: {terminated: {exitCode: 3}}}]}")
	for _, c := range []struct {
		keep string
		logs bool
		code int
		want string
	}{
		{"", false, 3, "See what it said: the last lines are below. --logs prints all of them, --keep=always leaves the pod"},
		{keepSuccess, false, 3, "See what it said: the last lines are below. --logs prints all of them, --keep=always leaves the pod"},
		{"", true, 3, "See what it said: its log is above. --keep=always leaves the pod"},
		{keepAlways, false, 3, "See what it said: podctl logs p -c app"},
	} {
		r := &runner{o: &runFlags{keep: c.keep}}
		if c.logs {
			r.logs = &runLogs{}
		}
		d := diagnose(pod, facts{log: r.whereLogs(outcome{code: c.code})}, noon)
		if n := len(d.causes); n != 1 || d.causes[0].next != c.want {
			t.Errorf("--keep=%s, logs %v: %+v, want %q", c.keep, c.logs, d.causes, c.want)
		}
	}
	for next, want := range map[string]string{
		"podctl describe pod p": "podctl describe pod p\nThe pod is deleted now: --keep=always leaves it for that.",
		"podctl get nodes":      "podctl get nodes",
	} {
		if got := passing([]cause{{"what", next}})[0].next; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestReplaceFile: a report that cannot be written leaves the old one, and nothing beside it.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "r.xml")
	for _, text := range []string{"one", "two"} {
		if err := replaceFile(file, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if err := replaceFile(filepath.Join(dir, "nowhere", "r.xml"), nil); err == nil {
		t.Error("no error")
	}
}

// TestEnding keeps the end of what is written, from the beginning of a line.
func TestEnding(t *testing.T) {
	e := &ending{most: 10}
	for range 100 {
		fmt.Fprint(e, "abc\ndefg\n")
	}
	if got := e.String(); got != "abc\ndefg\n" {
		t.Errorf("%q", got)
	}
	if got := lastLines("a\nb\nc\n\n", 2); got != "b\nc" {
		t.Errorf("%q", got)
	}
}

func TestOfManifests(t *testing.T) {
	for args, want := range map[string]bool{
		"-f x":                          true,
		"-fx --logs":                    true,
		"--filename=x":                  true,
		"-k dir":                        true,
		"web --image=x":                 false,
		"web --image x -f y":            false,
		"web --image=x -- tar -f y":     false,
		"-it x --image=x -- sh -c -f":   false,
		"web":                           false,
		"":                              false,
		"--until=ready -f x --keep":     true,
		"--junit x":                     true,
		"x -- -f y":                     false,
		"--field-manager=x web --image": false,
	} {
		if got := ofManifests(strings.Fields(args)); got != want {
			t.Errorf("run %s: %v", args, got)
		}
	}
}

// TestRunKubectl: without -f, run is kubectl's, and its help tells of the other.
func TestRunKubectl(t *testing.T) {
	serve(t)
	if out, errOut, code := ask("", "run", "web", "--image=busybox", "--restart=Never"); code != 0 || out != "pod/web created\n" {
		t.Errorf("exit %d, %q, %q", code, out, errOut)
	}
	if out, _, code := ask("", "run", "--help"); code != 0 || !strings.Contains(out, "--image=") || !strings.Contains(out, "podctl run -f pod.yaml --logs") {
		t.Errorf("exit %d, %s", code, out)
	}
	if out, _, code := ask("", "run", "-f", "x", "--help"); code != 0 || !strings.Contains(out, "--exit-from") || strings.Contains(out, "--image=''") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// TestRunDeleted: a pod that somebody else deletes ends the run, with the reason.
func TestRunDeleted(t *testing.T) {
	serve(t)
	type result struct {
		errOut string
		code   int
	}
	ended := make(chan result)
	go func() {
		_, errOut, code := ask(strings.ReplaceAll(pod, "spec:\n", "spec:\n  restartPolicy: Never\n"), "run", "-f", "-", "--timeout=1m")
		ended <- result{errOut, code}
	}()
	for !forceDeleted(t, "web") {
		select {
		case r := <-ended:
			t.Fatalf("%+v", r)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if r := <-ended; r.code != codeNever || !strings.Contains(r.errOut, "somebody else") {
		t.Errorf("%+v", r)
	}
}

// forceDeleted deletes a pod at once by a plain request, beside a podctl that runs: two of them in one process share what
// kubectl's packages keep in variables. It is false while there is no such pod.
func forceDeleted(t *testing.T, name string) bool {
	t.Helper()
	socket := os.Getenv("PODD_SOCKET")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	url := "http://podd/api/v1/namespaces/default/pods/" + name + "?gracePeriodSeconds=0"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// TestSilence: podd may be away for a while, and the run says so; what is away for too long has failed.
func TestSilence(t *testing.T) {
	var said bytes.Buffer
	p := &podctl{}
	p.shown.ErrOut = &said
	r := &runner{p: p, o: &runFlags{}, board: newBoard(), told: map[string]bool{}, histories: map[string]*history{}}
	r.board.answered(false)
	began := r.board.silence()
	for range 2 {
		if _, over := r.decide(began.Add(awayLimit)); over {
			t.Error("it was given up too early")
		}
	}
	if o, over := r.decide(began.Add(awayLimit + 1)); !over || o.code != codeNever || !strings.Contains(o.why, "podd has not answered for 2m0s") {
		t.Errorf("%v, %+v", over, o)
	}
	if got := said.String(); got != "podd does not answer; waiting for it\n" {
		t.Errorf("%q", got)
	}
	r.board.answered(true)
	if !r.board.silence().IsZero() {
		t.Error("it answers, and is said not to")
	}
}
