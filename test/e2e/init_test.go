//go:build host

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/test/harness"
)

// testInit: init containers, sidecars, and what else makes the containers of a pod depend on each other.
func testInit(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"order":             testInitOrder,
		"retry":             testInitRetry,
		"fails":             testInitFails,
		"sidecar-restarted": testSidecarRestarted,
		"sidecar-attended":  testSidecarAttended,
		"completes":         testCompletes,
		"grace-is-one":      testGraceIsOne,
		"restart-all":       testRestartAll,
		"own-policies":      testOwnPolicies,
		"deadline":          testDeadline,
		"readiness-gate":    testReadinessGate,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// note is a shell function: it appends what it is given, and the seconds since boot, to a file that all containers share.
const note = `note() { read now _ </proc/uptime; echo "$1 $now" >>/host/log; }; `

// until is a shell function that waits for a file of that name, which it then takes away.
const until = `until_() { while [ ! -e /host/$1 ]; do usleep 20000; done; rm /host/$1; }; `

// member is an entry of a list of containers: of the busybox image, with the directory that all share.
func member(name, script, more string) string {
	text, _ := json.Marshal(note + until + script)
	return fmt.Sprintf("- {name: %s, image: %s, command: [sh, -c, %s], volumeMounts: [{name: host, mountPath: /host}]%s}\n",
		name, busybox, text, more)
}

// sidecar is an init container that runs until it is told to end, and says so.
func sidecar(name string) string {
	return member(name, fmt.Sprintf("trap 'note \"%[1]s told\"; usleep 100000; note \"%[1]s ends\"; exit 0' TERM; note '%[1]s begins'; while :; do usleep 20000; done", name),
		", restartPolicy: Always")
}

// inits is a pod with init containers, whose containers share a directory of the host.
func inits(t *testing.T, name, script, more string, init ...string) (pod, string) {
	t.Helper()
	dir := t.TempDir()
	p := pod{Name: name, Script: note + until + script, Spec: more}
	if len(init) > 0 {
		p.Spec += "\ninitContainers:\n" + strings.Join(init, "")
	}
	return hostDir(p, dir), dir
}

// notes is what the containers have noted, in the order of their notes, whose times have to be in that order as well.
func notes(t *testing.T, dir string) (events []string, at map[string]float64) {
	t.Helper()
	at = map[string]float64{}
	last := 0.0
	for line := range strings.Lines(read(t, filepath.Join(dir, "log"))) {
		i := strings.LastIndexByte(line, ' ')
		now, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		if err != nil || now < last {
			t.Errorf("noted %q after %v: %v", line, last, err)
		}
		last = now
		events, at[line[:i]] = append(events, line[:i]), now
	}
	return events, at
}

func wantNotes(t *testing.T, dir string, want ...string) map[string]float64 {
	t.Helper()
	got, at := notes(t, dir)
	if !slices.Equal(got, want) {
		t.Errorf("it happened in this order:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return at
}

// awaitNote waits until something was noted.
func awaitNote(t *testing.T, dir, what string) {
	t.Helper()
	eventually(t, func() error {
		data, err := os.ReadFile(filepath.Join(dir, "log"))
		if err == nil && !strings.Contains(string(data), what+" ") {
			err = fmt.Errorf("not noted: %s; only:\n%s", what, data)
		}
		return err
	})
}

// initStatus is the status of an init container; empty while there is none.
func initStatus(pod *v1.Pod, name string) v1.ContainerStatus {
	if pod != nil {
		for _, c := range pod.Status.InitContainerStatuses {
			if c.Name == name {
				return c
			}
		}
	}
	return v1.ContainerStatus{}
}

func conditionOf(pod *v1.Pod, kind v1.PodConditionType) v1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.PodCondition{}
}

// Init containers one after the other, sidecars as soon as their turn has come, then the regular ones. At the end the regular
// ones first, then the sidecars, the last of them first.
func testInitOrder(t *testing.T, s *suite) {
	once := func(name, wait string) string {
		return member(name, fmt.Sprintf("note '%[1]s begins'; %[2]s; echo log of %[1]s; note '%[1]s ends'", name, wait), "")
	}
	p, dir := inits(t, "init-order",
		"trap 'note \"app told\"; usleep 200000; note \"app ends\"; exit 0' TERM; note 'app begins'; while :; do usleep 20000; done",
		"terminationGracePeriodSeconds: 30", once("one", "until_ go"), sidecar("near"), once("two", "usleep 100000"), sidecar("far"))
	s.apply(t, p)
	pod := s.until(t, p.Name, "at its first container", func(pod *v1.Pod) bool { return initStatus(pod, "one").State.Running != nil })
	awaitNote(t, dir, "one begins")
	if w := app(pod).State.Waiting; pod.Status.Phase != v1.PodPending || w == nil || w.Reason != "PodInitializing" {
		t.Errorf("phase %s, app %+v while an init container runs", pod.Status.Phase, app(pod).State)
	}
	if c := conditionOf(pod, v1.PodInitialized); c.Status != v1.ConditionFalse || c.Reason != "ContainersNotInitialized" ||
		c.Message != "containers with incomplete status: [one near two far]" {
		t.Errorf("Initialized: %+v", c)
	}
	touch(t, dir+"/go")
	pod = s.until(t, p.Name, "ready", ready)
	awaitNote(t, dir, "app begins")
	for _, name := range []string{"one", "two"} {
		if c := initStatus(pod, name); c.State.Terminated == nil || c.State.Terminated.Reason != "Completed" || !c.Ready || c.RestartCount != 0 {
			t.Errorf("%s: %+v", name, c)
		}
		if got := s.must(t, "logs", p.Name, "-c", name); got != "log of "+name+"\n" {
			t.Errorf("log of %s: %q", name, got)
		}
	}
	for _, name := range []string{"near", "far"} {
		if c := initStatus(pod, name); c.State.Running == nil || !c.Ready || c.Started == nil || !*c.Started {
			t.Errorf("%s: %+v", name, c)
		}
		if got := s.must(t, "exec", p.Name, "-c", name, "--", "cat", "/host/log"); !strings.Contains(got, name+" begins") {
			t.Errorf("exec in %s: %q", name, got)
		}
	}
	if c := conditionOf(pod, v1.PodInitialized); c.Status != v1.ConditionTrue {
		t.Errorf("Initialized: %+v", c)
	}
	s.must(t, "delete", "pod", p.Name)
	wantNotes(t, dir, "one begins", "one ends", "near begins", "two begins", "two ends", "far begins", "app begins",
		"app told", "app ends", "far told", "far ends", "near told", "near ends")
}

// An init container that fails is tried again, after its back-off, until it succeeds.
func testInitRetry(t *testing.T, s *suite) {
	p, dir := inits(t, "init-retry", "note app", "restartPolicy: OnFailure",
		member("try", `note try; [ $(grep -c try /host/log) -gt 2 ] || exit 7`, ""))
	s.apply(t, p)
	held := s.until(t, p.Name, "held back", func(pod *v1.Pod) bool {
		w := initStatus(pod, "try").State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	if held.Status.Phase != v1.PodPending || app(held).State.Waiting == nil || app(held).State.Waiting.Reason != "PodInitializing" {
		t.Errorf("phase %s, app %+v while the init container is held back", held.Status.Phase, app(held).State)
	}
	pod := s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
	c := initStatus(pod, "try")
	if c.RestartCount != 2 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 7 || !c.Ready {
		t.Errorf("init container: %+v", c)
	}
	var tries []float64
	events, _ := notes(t, dir)
	for line := range strings.Lines(read(t, dir+"/log")) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "try "); ok {
			now, _ := strconv.ParseFloat(at, 64)
			tries = append(tries, now)
		}
	}
	if len(tries) != 3 || events[len(events)-1] != "app" {
		t.Fatalf("it happened: %v", events)
	}
	if gap := tries[2] - tries[1]; gap < 0.95 { // the first restart is immediate, the second is held back by --restart-backoff
		t.Errorf("the second restart came %.2f s after the first", gap)
	}
}

// Under Never an init container that fails is the end of the pod: no other container is made.
func testInitFails(t *testing.T, s *suite) {
	p, dir := inits(t, "init-fails", "note app", "restartPolicy: Never\nterminationGracePeriodSeconds: 30", sidecar("side"), member("bad", "note bad; exit 3", ""), member("next", "note next", ""))
	s.apply(t, p)
	pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
	if c := initStatus(pod, "bad").State.Terminated; c == nil || c.ExitCode != 3 || c.Reason != "Error" {
		t.Errorf("bad: %+v", initStatus(pod, "bad"))
	}
	if c := initStatus(pod, "side").State.Terminated; c == nil {
		t.Errorf("the sidecar goes on: %+v", initStatus(pod, "side"))
	}
	for _, c := range []v1.ContainerStatus{initStatus(pod, "next"), app(pod)} {
		if c.ContainerID != "" || c.State.Running != nil {
			t.Errorf("%s was made: %+v", c.Name, c)
		}
	}
	wantNotes(t, dir, "side begins", "bad", "side told", "side ends")
}

// A sidecar that ends is started again, by itself.
func testSidecarRestarted(t *testing.T, s *suite) {
	p, dir := inits(t, "sidecar-restarted", "note 'app begins'; sleep 1000000 & wait", "restartPolicy: Never",
		member("init", "note init", ""), member("side", "note side; until_ die; exit 9", ", restartPolicy: Always"))
	before := s.running(t, p)
	awaitNote(t, dir, "app begins")
	touch(t, dir+"/die")
	pod := s.until(t, p.Name, "running again", func(pod *v1.Pod) bool {
		return initStatus(pod, "side").RestartCount == 1 && ready(pod)
	})
	if c := initStatus(pod, "side").LastTerminationState.Terminated; c == nil || c.ExitCode != 9 {
		t.Errorf("sidecar: %+v", initStatus(pod, "side"))
	}
	if pod.Status.Phase != v1.PodRunning || app(pod).ContainerID != app(before).ContainerID || app(pod).RestartCount != 0 {
		t.Errorf("phase %s, app %+v", pod.Status.Phase, app(pod))
	}
	eventually(t, func() error {
		if got := strings.Count(read(t, dir+"/log"), "side "); got != 2 {
			return fmt.Errorf("the sidecar ran %d times", got)
		}
		return nil
	})
	wantNotes(t, dir, "init", "side", "app begins", "side")
}

// A sidecar's probes: until it is started nothing comes after it, it counts for the pod's readiness, and it is restarted by
// itself when it is not alive. Its preStop hook goes before its signal, then and in the end.
func testSidecarAttended(t *testing.T, s *suite) {
	hook, _ := json.Marshal(note + "note 'side stops'")
	side := member("side", "rm -f /host/hangs; trap 'note \"side told\"; exit 0' TERM; note 'side begins'; while :; do usleep 20000; done", fmt.Sprintf(`, restartPolicy: Always,
  startupProbe: {exec: {command: [test, -e, /host/started]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1000},
  readinessProbe: {exec: {command: [test, -e, /host/ready]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1},
  livenessProbe: {exec: {command: [test, '!', -e, /host/hangs]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1},
  lifecycle: {preStop: {exec: {command: [sh, -c, %s]}}}`, hook))
	p, dir := inits(t, "sidecar-attended", "trap 'note \"app told\"; exit 0' TERM; note 'app begins'; sleep 1000000 & wait", "terminationGracePeriodSeconds: 60", side)
	s.apply(t, p)
	const of = "spec.initContainers{side} "
	s.until(t, p.Name, "with a sidecar", func(pod *v1.Pod) bool { return initStatus(pod, "side").State.Running != nil })
	s.hears(t, p.Name, of+"Warning Unhealthy Startup probe failed")
	if pod := s.until(t, p.Name, "there", func(pod *v1.Pod) bool { return pod != nil }); *initStatus(pod, "side").Started || app(pod).ContainerID != "" {
		t.Errorf("not started: %+v", pod.Status)
	}
	touch(t, dir+"/started")
	awaitNote(t, dir, "app begins")
	s.hears(t, p.Name, of+"Warning Unhealthy Readiness probe failed")
	before := s.until(t, p.Name, "there", func(pod *v1.Pod) bool { return app(pod).State.Running != nil })
	if side := initStatus(before, "side"); !*side.Started || side.Ready || ready(before) {
		t.Errorf("started: %+v", before.Status)
	}
	touch(t, dir+"/ready")
	s.until(t, p.Name, "ready", ready)
	touch(t, dir+"/hangs")
	pod := s.until(t, p.Name, "running again", func(pod *v1.Pod) bool { return initStatus(pod, "side").RestartCount == 1 && ready(pod) })
	if app(pod).ContainerID != app(before).ContainerID || app(pod).RestartCount != 0 {
		t.Errorf("the other container: %+v", app(pod))
	}
	awaitNote(t, dir, "side told")
	s.removeIn(t, p.Name, 60) // else one that is slow to answer is killed before it can
	got, _ := notes(t, dir)
	if n := len(got); n != 8 || !slices.Equal(got[:5], []string{"side begins", "app begins", "side stops", "side told", "side begins"}) ||
		!slices.Contains(got[5:7], "side stops") || !slices.Contains(got[5:7], "app told") || got[7] != "side told" {
		t.Errorf("it happened in this order:\n%s", strings.Join(got, "\n"))
	}
}

// A pod ends with its regular containers: the sidecars are then told to end.
func testCompletes(t *testing.T, s *suite) {
	for _, c := range []struct {
		name, end string
		phase     v1.PodPhase
	}{{"completes", "exit 0", v1.PodSucceeded}, {"completes-badly", "exit 4", v1.PodFailed}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, dir := inits(t, c.name, "note app; until_ end; note end; "+c.end, "restartPolicy: Never\nterminationGracePeriodSeconds: 30", sidecar("one"), sidecar("two"))
			s.running(t, p)
			awaitNote(t, dir, "app")
			touch(t, dir+"/end")
			pod := s.until(t, p.Name, string(c.phase), phase(c.phase))
			for _, name := range []string{"one", "two"} {
				if st := initStatus(pod, name); st.State.Terminated == nil || st.State.Terminated.ExitCode != 0 || st.RestartCount != 0 || st.Ready {
					t.Errorf("%s: %+v", name, st)
				}
			}
			wantNotes(t, dir, "one begins", "two begins", "app", "end", "two told", "two ends", "one told", "one ends")
		})
	}
}

// The grace period is one for all: what the regular containers have used of it, the sidecars have not.
func testGraceIsOne(t *testing.T, s *suite) {
	deaf := func(name string) string {
		return member(name, fmt.Sprintf("trap 'note \"%[1]s told\"' TERM; note '%[1]s begins'; while :; do usleep 20000; done", name), ", restartPolicy: Always")
	}
	p, dir := inits(t, "grace-is-one", "trap 'note \"app told\"' TERM; note 'app begins'; while :; do usleep 20000; done",
		"terminationGracePeriodSeconds: 3", deaf("one"), deaf("two"))
	s.running(t, p)
	awaitNote(t, dir, "app begins")
	s.must(t, "delete", "pod", p.Name)
	events, at := notes(t, dir)
	if want := []string{"one begins", "two begins", "app begins", "app told"}; len(events) != 6 || !slices.Equal(events[:4], want) {
		t.Errorf("it happened in this order: %v", events)
	}
	// When the time is over all that still run are told at once, and then killed.
	for _, name := range []string{"one", "two"} {
		if wait := at[name+" told"] - at["app told"]; wait < 2.5 || wait > 5.5 {
			t.Errorf("sidecar %s was told to end %.2f s after the regular container, with a grace period of 3 s", name, wait)
		}
	}
}

// An exit that a rule has restart everything: all containers run anew, from the first, with the volumes as they are.
func testRestartAll(t *testing.T, s *suite) {
	const rules = "\nrestartPolicy: Never\nrestartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]"
	p, dir := inits(t, "restart-all", "note app; [ $(grep -c '^app' /host/log) -gt 1 ] || { until_ end; exit 42; }; sleep 1000000 & wait", "restartPolicy: Never",
		member("init", "note init; cat /kept/file >/host/kept 2>/dev/null; echo kept >/kept/file", ""), sidecar("side"))
	p.Spec = strings.Replace(p.Spec, "volumes: [", "volumes: [{name: kept, emptyDir: {}}, ", 1)
	p.Spec = strings.Replace(p.Spec, "volumeMounts: [", "volumeMounts: [{name: kept, mountPath: /kept}, ", 1) // of init
	p.Container += rules
	before := s.running(t, p)
	awaitNote(t, dir, "app")
	touch(t, dir+"/end")
	pod := s.until(t, p.Name, "ready again", func(pod *v1.Pod) bool { return ready(pod) && app(pod).RestartCount == 1 })
	eventually(t, func() error {
		if got, _ := notes(t, dir); len(got) < 6 {
			return errors.New("not all have run")
		}
		return nil
	})
	wantNotes(t, dir, "init", "side begins", "app", "init", "side begins", "app")
	if got := read(t, dir+"/kept"); got != "kept\n" {
		t.Errorf("the volume has %q", got)
	}
	for _, c := range []v1.ContainerStatus{initStatus(pod, "init"), initStatus(pod, "side"), app(pod)} {
		if last := c.LastTerminationState.Terminated; c.RestartCount != 1 || last == nil || last.Reason != "RestartingAllContainers" {
			t.Errorf("%s: restartCount %d, last state %+v", c.Name, c.RestartCount, c.LastTerminationState.Terminated)
		}
	}
	if last := app(pod).LastTerminationState.Terminated; last != nil && last.ExitCode != 42 {
		t.Errorf("app ended with %d, want 42", last.ExitCode)
	}
	if pod.Status.PodIP != before.Status.PodIP {
		t.Errorf("the pod's address was %s and is %s", before.Status.PodIP, pod.Status.PodIP)
	}
	if c := conditionOf(pod, "AllContainersRestarting"); c.Status == v1.ConditionTrue {
		t.Errorf("AllContainersRestarting: %+v", c)
	}
}

// A container's own policy and its rules go before the pod's.
func testOwnPolicies(t *testing.T, s *suite) {
	p, dir := inits(t, "own-policies", "note app; [ $(grep -c '^app' /host/log) -gt 1 ] || exit 5; exit 6", "restartPolicy: Never")
	p.Container += "\nrestartPolicy: Never\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [5]}}]"
	p.More = member("more", "note more; [ $(grep -c '^more' /host/log) -gt 1 ] || exit 1; exit 0", ", restartPolicy: OnFailure")
	s.apply(t, p)
	pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
	if c := app(pod); c.RestartCount != 1 || c.State.Terminated == nil || c.State.Terminated.ExitCode != 6 {
		t.Errorf("app: %+v", c)
	}
	if c := container(pod, "more"); c.RestartCount != 1 || c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
		t.Errorf("more: %+v", c)
	}
	if got, _ := notes(t, dir); len(got) != 4 {
		t.Errorf("it happened: %v", got)
	}
}

const deadlineMessage = "Pod was active on the node longer than the specified deadline"

func exceeded(t *testing.T, pod *v1.Pod, deadline time.Duration) {
	t.Helper()
	if pod.Status.Reason != "DeadlineExceeded" || pod.Status.Message != deadlineMessage {
		t.Errorf("reason %q, message %q", pod.Status.Reason, pod.Status.Message)
	}
	if ran := time.Since(pod.Status.StartTime.Time); ran < deadline {
		t.Errorf("it was ended %s after its start, its deadline is %s", ran, deadline)
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if c.State.Terminated == nil {
			t.Errorf("%s: %+v", c.Name, c.State)
		}
	}
}

// A pod that is active for longer than it may is ended, also while it still has init containers, and when its deadline is
// drawn nearer.
func testDeadline(t *testing.T, s *suite) {
	for name, p := range map[string]pod{
		"deadline":         {Script: sleepScript, Spec: "activeDeadlineSeconds: 2\nrestartPolicy: Always", More: "- {name: other, image: " + busybox + ", command: [sleep, '1000']}"},
		"deadline-pending": {Script: sleepScript, Spec: "activeDeadlineSeconds: 2\nrestartPolicy: Always", Container: "envFrom: [{configMapRef: {name: none}}]"},
		"deadline-init":    {Script: sleepScript, Spec: "activeDeadlineSeconds: 2\nrestartPolicy: Always\ninitContainers: [{name: init, image: " + busybox + ", command: [sleep, infinity]}]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.Name = name
			s.apply(t, p)
			pod := s.until(t, name, "failed", phase(v1.PodFailed))
			if name == "deadline" {
				exceeded(t, pod, 2*time.Second)
			} else if name == "deadline-init" && initStatus(pod, "init").State.Terminated == nil || pod.Status.Reason != "DeadlineExceeded" {
				t.Errorf("status: %+v", pod.Status)
			}
			event := " Normal DeadlineExceeded " + deadlineMessage
			s.hears(t, name, event)
			if n := strings.Count(strings.Join(s.events(t, name), "\n"), event); n != 1 {
				t.Errorf("it was told %d times", n)
			}
		})
	}
	t.Run("deadline-nearer", func(t *testing.T) {
		t.Parallel()
		p := sleeper("deadline-nearer")
		p.Spec = "activeDeadlineSeconds: 1000"
		s.running(t, p)
		if _, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), p.Name, types.MergePatchType,
			[]byte(`{"spec":{"activeDeadlineSeconds":1}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		exceeded(t, s.until(t, p.Name, "failed", phase(v1.PodFailed)), time.Second)
	})
}

// TestDeadlineOverDeath: a deadline that comes while podd is dead is kept as soon as it is back.
func TestDeadlineOverDeath(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"))
	p := sleeper("deadline-death")
	p.Spec = "activeDeadlineSeconds: 1000\nrestartPolicy: Always"
	before := s.running(t, p)
	begin := before.Status.StartTime.Time
	deadline := time.Since(begin).Round(time.Second) + 5*time.Second
	if _, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), p.Name, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"activeDeadlineSeconds":%d}}`, deadline/time.Second), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	time.Sleep(time.Until(begin.Add(deadline + time.Second))) // what is waited for is the time itself
	began := time.Now()
	s.Launch()
	s.WaitReady()
	pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
	exceeded(t, pod, deadline)
	if !pod.Status.StartTime.Equal(before.Status.StartTime) || app(pod).RestartCount != 0 {
		t.Errorf("start time %s, was %s; %+v", pod.Status.StartTime, before.Status.StartTime, app(pod))
	}
	if took := time.Since(began); took > recovery {
		t.Errorf("the pod was ended %s after podd was started", took)
	}
}

// A pod with a readiness gate is ready when its containers are and somebody has said so.
func testReadinessGate(t *testing.T, s *suite) {
	p := sleeper("readiness-gate")
	p.Spec = "readinessGates: [{conditionType: example.com/open}]"
	s.apply(t, p)
	pod := s.until(t, p.Name, "running", func(pod *v1.Pod) bool { return condition(pod, v1.ContainersReady) == v1.ConditionTrue })
	if c := conditionOf(pod, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" ||
		c.Message != `corresponding condition of pod readiness gate "example.com/open" does not exist.` {
		t.Errorf("Ready: %+v", c)
	}
	say := func(status v1.ConditionStatus) {
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"example.com/open","status":"%s"}]}}`, status)
		if _, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), p.Name, types.StrategicMergePatchType,
			[]byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	say(v1.ConditionTrue)
	pod = s.until(t, p.Name, "ready", ready)
	if condition(pod, "example.com/open") != v1.ConditionTrue {
		t.Errorf("conditions: %+v", pod.Status.Conditions)
	}
	say(v1.ConditionFalse)
	pod = s.until(t, p.Name, "not ready", func(pod *v1.Pod) bool { return condition(pod, v1.PodReady) == v1.ConditionFalse })
	if c := conditionOf(pod, v1.PodReady); c.Reason != "ReadinessGatesNotReady" ||
		c.Message != `the status of pod readiness gate "example.com/open" is not "True", but False` {
		t.Errorf("Ready: %+v", c)
	}
}
