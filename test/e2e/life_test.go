//go:build host

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

func testLife(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"ends":              testEnds,
		"on-failure":        testOnFailure,
		"always":            testAlways,
		"two-members":       testTwoMembers,
		"phases":            testPhases,
		"status-of-running": testStatusOfRunning,
		"stop-signals":      testStopSignals,
		"grace-periods":     testGracePeriods,
		"ignores-term":      testIgnoresTerm,
		"force":             testForce,
		"whole-cgroup":      testWholeCgroup,
		"killed-container":  testKilledContainer,
		"killed-pause":      testKilledPause,
		"broken-member":     testBrokenMember,
		"address-released":  testAddressReleased,
		"image-changed":     testImageChanged,
		"member-oom":        testMemberOOM,
		"exec-oom":          testExecOOM,
		"messages":          testMessages,
		"other-os":          testOtherOS,
		"finalizers":        testFinalizers,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// How a container ends shows in its status, and decides the phase.
func testEnds(t *testing.T, s *suite) {
	for _, c := range []struct {
		pod    pod
		phase  v1.PodPhase
		code   int32
		reason string
	}{
		{pod{Name: "end-0", Script: "exit 0"}, v1.PodSucceeded, 0, "Completed"},
		{pod{Name: "end-0-on-failure", Script: "exit 0", Spec: "restartPolicy: OnFailure"}, v1.PodSucceeded, 0, "Completed"},
		{pod{Name: "end-1", Script: "exit 1"}, v1.PodFailed, 1, "Error"},
		{pod{Name: "end-137", Script: "exit 137"}, v1.PodFailed, 137, "Error"},
		{pod{Name: "end-139", Script: "exit 139"}, v1.PodFailed, 139, "Error"},
		{pod{Name: "end-143", Script: "exit 143"}, v1.PodFailed, 143, "Error"},
		{pod{Name: "end-term", Script: "kill -TERM $$$$", Spec: "shareProcessNamespace: true"}, v1.PodFailed, 143, "Error"},
		{pod{Name: "end-255", Script: "exit 255"}, v1.PodFailed, 255, "Error"},
		{pod{Name: "end-kill", Script: "kill -KILL $$$$", Spec: "shareProcessNamespace: true"}, v1.PodFailed, 137, "Error"},
		{pod{Name: "end-segv", Script: "kill -SEGV $$$$", Spec: "shareProcessNamespace: true"}, v1.PodFailed, 139, "Error"},
		{pod{Name: "end-oom", Container: "command: [dd, if=/dev/zero, of=/dev/null, bs=200M, count=1]\nresources: {limits: {memory: 16Mi}}"}, v1.PodFailed, 137, "OOMKilled"},
		{pod{Name: "end-no-command", Container: "command: [/no/such/command]"}, v1.PodFailed, 128, "StartError"},
		{pod{Name: "end-not-executable", Container: "command: [/etc/passwd]"}, v1.PodFailed, 128, "StartError"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			s.apply(t, c.pod)
			pod := s.until(t, c.pod.Name, string(c.phase), phase(c.phase))
			got := app(pod).State.Terminated
			if got == nil || got.ExitCode != c.code || got.Reason != c.reason {
				t.Fatalf("terminated: %+v, want exit code %d and reason %s", got, c.code, c.reason)
			}
			if got.FinishedAt.IsZero() || got.FinishedAt.Before(&got.StartedAt) || got.ContainerID != app(pod).ContainerID {
				t.Errorf("terminated: %+v", got)
			}
			if c.reason == "StartError" && !strings.Contains(got.Message, strings.Trim(strings.Fields(c.pod.Container)[1], "[]")) {
				t.Errorf("message does not name the command: %q", got.Message)
			}
			if st := app(pod); st.Ready || *st.Started || st.RestartCount != 0 {
				t.Errorf("ready %v, started %v, restartCount %d", st.Ready, *st.Started, st.RestartCount)
			}
			why := "PodCompleted"
			if c.phase == v1.PodFailed {
				why = "PodFailed"
			}
			for _, kind := range []v1.PodConditionType{v1.PodReady, v1.ContainersReady} {
				if i := slices.IndexFunc(pod.Status.Conditions, func(x v1.PodCondition) bool { return x.Type == kind }); i < 0 ||
					pod.Status.Conditions[i].Status != v1.ConditionFalse || pod.Status.Conditions[i].Reason != why {
					t.Errorf("condition %s: %+v, want False for %s", kind, pod.Status.Conditions, why)
				}
			}
			s.remove(t, c.pod.Name)
		})
	}
}

// failing fails n times, then runs or succeeds; it counts in a volume.
func failing(name string, n int, then string) pod {
	return pod{Name: name, Script: fmt.Sprintf("echo run $(($(cat /v/n 2>/dev/null)+1)); echo $(($(cat /v/n 2>/dev/null)+1)) >/v/n; [ $(cat /v/n) -gt %d ] || exit 7; %s", n, then),
		Spec: "volumes: [{name: v, emptyDir: {}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]"}
}

// With OnFailure a container is tried until it succeeds.
func testOnFailure(t *testing.T, s *suite) {
	p := failing("on-failure", 2, "exit 0")
	p.Spec += "\nrestartPolicy: OnFailure"
	s.apply(t, p)
	pod := s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
	c := app(pod)
	if c.RestartCount != 2 || c.State.Terminated.ExitCode != 0 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 7 {
		t.Errorf("status: %+v", c)
	}
	if got := s.must(t, "logs", p.Name); got != "run 3\n" {
		t.Errorf("log: %q", got)
	}
	if got := s.must(t, "logs", p.Name, "-p"); got != "run 2\n" {
		t.Errorf("previous log: %q", got)
	}
}

// With Always a container that ends well is started again, at once the first time, and then held back.
func testAlways(t *testing.T, s *suite) {
	p := pod{Name: "always", Script: "echo done", Spec: "restartPolicy: Always"}
	s.apply(t, p)
	pod := s.until(t, p.Name, "held back", waiting("CrashLoopBackOff"))
	c := app(pod)
	if pod.Status.Phase != v1.PodRunning || c.RestartCount != 1 || c.Ready {
		t.Errorf("phase %s, restartCount %d, ready %v in CrashLoopBackOff", pod.Status.Phase, c.RestartCount, c.Ready)
	}
	if !strings.Contains(c.State.Waiting.Message, "back-off 1s") || !strings.Contains(c.State.Waiting.Message, "restarting failed container=app") {
		t.Errorf("message: %q", c.State.Waiting.Message)
	}
	if last := c.LastTerminationState.Terminated; last == nil || last.Reason != "Completed" || last.ContainerID == "" {
		t.Errorf("lastState: %+v", c.LastTerminationState)
	}
	s.event(t, p.Name, "BackOff")
	pod = s.until(t, p.Name, "held back longer", func(pod *v1.Pod) bool {
		return waiting("CrashLoopBackOff")(pod) && app(pod).RestartCount == 2
	})
	if got := app(pod).State.Waiting.Message; !strings.Contains(got, "back-off 2s") {
		t.Errorf("message after the second restart: %q", got)
	}
	if got := strings.Fields(s.must(t, "get", "pod", p.Name, "--no-headers")); got[2] != "CrashLoopBackOff" {
		t.Errorf("podctl get shows %q", got)
	}
	s.remove(t, p.Name)
}

// The phase of a pod of two: what one of them does is not all.
func testTwoMembers(t *testing.T, s *suite) {
	for _, c := range []struct {
		name, app, other, policy string
		want                     v1.PodPhase
	}{
		{"two-succeed", "exit 0", "exit 0", "Never", v1.PodSucceeded},
		{"two-one-fails", "exit 0", "exit 1", "Never", v1.PodFailed},
		{"two-one-runs", "exit 1", sleepScript, "Never", v1.PodRunning},
		{"two-one-is-retried", "exit 0", "exit 1", "OnFailure", v1.PodRunning},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := pod{Name: c.name, Script: c.app, Spec: "restartPolicy: " + c.policy,
				More: "- name: other\n  image: " + busybox + "\n  command: [sh, -c, " + strconv.Quote(c.other) + "]"}
			s.apply(t, p)
			pod := s.until(t, p.Name, "app ended, and "+string(c.want), func(pod *v1.Pod) bool {
				return phase(c.want)(pod) && app(pod).State.Terminated != nil &&
					(c.policy == "Never" || container(pod, "other").RestartCount > 0)
			})
			if condition(pod, v1.PodReady) != v1.ConditionFalse {
				t.Error("it is ready with a member that has ended")
			}
			s.remove(t, p.Name)
		})
	}
}

// phases are those that a watcher sees of a pod from now on, each once, in order.
func (s *suite) phases(t *testing.T, name string, end func(*v1.Pod) bool) <-chan []v1.PodPhase {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	w, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan []v1.PodPhase, 1)
	go func() {
		defer cancel()
		var all []v1.PodPhase
		among(w, func(pod *v1.Pod) bool {
			if pod != nil && (len(all) == 0 || all[len(all)-1] != pod.Status.Phase) {
				all = append(all, pod.Status.Phase)
			}
			return end(pod)
		})
		w.Stop()
		seen <- all
	}()
	return seen
}

func testPhases(t *testing.T, s *suite) {
	seen := s.phases(t, "phases", phase(v1.PodSucceeded))
	s.apply(t, pod{Name: "phases", Script: "sleep 0.3"})
	if got, want := fmt.Sprint(<-seen), "[Pending Running Succeeded]"; got != want {
		t.Errorf("phases: %s, want %s", got, want)
	}
	seen = s.phases(t, "phases", gone) // a pod that has ended stays as it is until it goes
	s.remove(t, "phases")
	if got, want := fmt.Sprint(<-seen), "[Succeeded]"; got != want {
		t.Errorf("phases of the deleted pod: %s, want %s", got, want)
	}
}

func testStatusOfRunning(t *testing.T, s *suite) {
	p := sleeper("status-of-running")
	pod := s.running(t, p)
	for _, kind := range []v1.PodConditionType{v1.PodScheduled, v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady} {
		if condition(pod, kind) != v1.ConditionTrue {
			t.Errorf("condition %s = %q", kind, condition(pod, kind))
		}
	}
	c := app(pod)
	id, isContainerd := strings.CutPrefix(c.ContainerID, "containerd://")
	switch {
	case pod.Status.Phase != v1.PodRunning, pod.Status.StartTime.IsZero(), pod.Status.QOSClass != v1.PodQOSBestEffort:
		t.Errorf("status: %+v", pod.Status)
	case !c.Ready, !*c.Started, c.State.Running.StartedAt.IsZero(), !isContainerd, len(id) != 64:
		t.Errorf("container status: %+v", c)
	case !strings.HasSuffix(c.Image, busybox), !strings.Contains(c.ImageID, "sha256:"):
		t.Errorf("image %q, imageID %q", c.Image, c.ImageID)
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		s.event(t, p.Name, reason)
	}
	if pod.Generation != 1 || pod.Status.ObservedGeneration != 1 {
		t.Errorf("generation %d, observed %d", pod.Generation, pod.Status.ObservedGeneration)
	}
}

// hostDir is a volume with a directory of the host at /host.
func hostDir(p pod, dir string) pod {
	p.Spec += "\nvolumes: [{name: host, hostPath: {path: " + dir + "}}]"
	p.Container += "\nvolumeMounts: [{name: host, mountPath: /host}]"
	return p
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// SIGTERM, or what the image says instead, is what a container is asked to end with; how it ends still shows.
func testStopSignals(t *testing.T, s *suite) {
	for name, c := range map[string]struct{ image, spec, more, want string }{
		"term": {busybox, "", "", "TERM\n"}, "of-image": {"entrypoint:e2e", "", "", "USR1\n"},
		"of-spec": {"entrypoint:e2e", "os: {name: linux}\n", "\nlifecycle: {stopSignal: SIGTERM}", "TERM\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := hostDir(pod{Name: "stop-" + name, Script: "trap 'echo TERM >>/host/got; exit 5' TERM; trap 'echo USR1 >>/host/got; exit 5' USR1; touch /host/ready; sleep 1000000 & wait",
				Spec: c.spec + "terminationGracePeriodSeconds: 30", Container: "image: " + c.image + c.more}, dir)
			shows := func(pod *v1.Pod) {
				t.Helper()
				if got := app(pod).StopSignal; got == nil || "SIG"+c.want != string(*got)+"\n" {
					t.Errorf("the status says that it is stopped by %v", got)
				}
			}
			shows(s.running(t, p))
			eventually(t, func() error { _, err := os.Stat(filepath.Join(dir, "ready")); return err })
			last := s.lastState(t, p.Name)
			s.must(t, "delete", "pod", p.Name)
			if got := read(t, filepath.Join(dir, "got")); got != c.want {
				t.Errorf("it got %q, want %q", got, c.want)
			}
			pod := <-last
			shows(pod)
			if st := app(pod).State.Terminated; st == nil || st.ExitCode != 5 || st.Reason != "Error" {
				t.Errorf("the last that was seen: %+v", app(pod))
			}
			if pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 || pod.Status.Phase != v1.PodFailed {
				t.Errorf("deletionTimestamp %v, phase %s", pod.DeletionTimestamp, pod.Status.Phase)
			}
		})
	}
}

// lastState gives the pod as it was when it went.
func (s *suite) lastState(t *testing.T, name string) <-chan *v1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	w, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan *v1.Pod, 1)
	go func() {
		defer cancel()
		last := &v1.Pod{}
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*v1.Pod); ok {
				last = pod
			}
			if e.Type == "DELETED" {
				w.Stop()
			}
		}
		out <- last
	}()
	return out
}

// Which grace period holds: the pod's, or that of the deletion. It shows in how long a container goes on that does not
// end by itself, counted in its own tenths of a second.
func testGracePeriods(t *testing.T, s *suite) {
	for name, c := range map[string]struct {
		spec         int
		args         []string
		least, below int // ticks
	}{
		"of-pod":       {2, nil, 6, 60},
		"of-delete":    {60, []string{"--grace-period=2"}, 6, 60},
		"of-delete-up": {0, []string{"--grace-period=2"}, 6, 60},
		"now":          {60, []string{"--now"}, 1, 40},
		"zero":         {0, nil, 0, 0}, // SIGKILL at once
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := hostDir(pod{Name: "grace-" + name, Script: "trap 'term=1; echo tick >>/host/ticks' TERM; touch /host/ready; while :; do [ -z $term ] || echo tick >>/host/ticks; sleep 0.1 & wait $!; done",
				Spec: fmt.Sprintf("terminationGracePeriodSeconds: %d", c.spec)}, dir)
			s.running(t, p)
			eventually(t, func() error { _, err := os.Stat(filepath.Join(dir, "ready")); return err })
			s.must(t, append([]string{"delete", "pod", p.Name}, c.args...)...)
			data, err := os.ReadFile(filepath.Join(dir, "ticks"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("\n")); n < c.least || n > c.below {
				t.Errorf("it went on for %d ticks after SIGTERM, want %d to %d", n, c.least, c.below)
			}
		})
	}
}

// A process 1 that ignores SIGTERM is killed when the grace period is over, not before.
func testIgnoresTerm(t *testing.T, s *suite) {
	dir := t.TempDir()
	p := hostDir(pod{Name: "ignores-term", Script: "trap '' TERM; touch /host/ready; while :; do sleep 1; done", Spec: "terminationGracePeriodSeconds: 2"}, dir)
	s.running(t, p)
	eventually(t, func() error { _, err := os.Stat(filepath.Join(dir, "ready")); return err })
	last := s.lastState(t, p.Name)
	s.must(t, "delete", "pod", p.Name, "--wait=false")
	pod := s.until(t, p.Name, "being deleted", func(pod *v1.Pod) bool { return pod.DeletionTimestamp != nil })
	if app(pod).State.Running == nil || !phase(v1.PodRunning)(pod) {
		t.Errorf("it does not run any more when it was only asked to end: %+v", pod.Status)
	}
	if got := strings.Fields(s.must(t, "get", "pod", p.Name, "--no-headers")); got[2] != "Terminating" {
		t.Errorf("podctl get shows %q", got)
	}
	s.until(t, p.Name, "gone", gone)
	if st := app(<-last).State.Terminated; st == nil || st.ExitCode != 137 {
		t.Errorf("the last that was seen: %+v, want exit code 137", st)
	}
	s.event(t, p.Name, "Killing")
}

// --force takes the object away at once; the host follows.
func testForce(t *testing.T, s *suite) {
	p := pod{Name: "force", Script: "trap '' TERM; while :; do sleep 1; done", Spec: "terminationGracePeriodSeconds: 1000"}
	uid := string(s.running(t, p).UID)
	s.must(t, "delete", "pod", p.Name, "--force")
	s.until(t, p.Name, "gone", gone)
	eventually(t, func() error {
		if left := pids(t, s, uid); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
	s.running(t, sleeper(p.Name)) // the name is free again
}

// Nothing in a pod's cgroup survives its end, whatever it did to get away: here with a PID namespace that does not die
// with its first process.
func testWholeCgroup(t *testing.T, s *suite) {
	const daemon = "(setsid sh -c \"trap '' TERM HUP INT; while :; do sleep 1; done\" </dev/null >/dev/null 2>&1 &)"
	for name, c := range map[string]struct{ then, namespace string }{
		"deleted-host-pid": {sleepScript, "hostPID: true"},
		"deleted-shared":   {sleepScript, "shareProcessNamespace: true"},
		"deleted-own":      {sleepScript, ""},
		"ended-host-pid":   {"sleep 0.1", "hostPID: true"},
		"ended-shared":     {"sleep 0.1", "shareProcessNamespace: true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pod{Name: "whole-" + name, Script: daemon + "; " + daemon + "; " + c.then, Spec: c.namespace}
			s.apply(t, p)
			var uid string
			if strings.HasPrefix(name, "deleted") {
				uid = string(s.until(t, p.Name, "ready", ready).UID)
				eventually(t, func() error {
					if n := len(pids(t, s, uid)); n < 5 {
						return fmt.Errorf("%d processes", n)
					}
					return nil
				})
				s.must(t, "delete", "pod", p.Name)
			} else {
				uid = string(s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded)).UID)
			}
			eventually(t, func() error {
				if left := pids(t, s, uid); len(left) > 0 {
					return fmt.Errorf("processes %v are left", left)
				}
				return nil
			})
		})
	}
}

// find is the process of a pod whose command line begins like this. One that has just been started is runc's for a moment.
func (s *suite) find(t *testing.T, uid, command string) (found int) {
	t.Helper()
	eventually(t, func() error {
		for _, pid := range pids(t, s, uid) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			words := strings.ReplaceAll(string(line), "\x00", " ")
			if strings.HasPrefix(words, command) || strings.HasPrefix(words, "/"+command) {
				found = pid
				return nil
			}
		}
		return fmt.Errorf("no process %q in pod %s", command, uid)
	})
	return found
}

// A container that is killed from outside is restarted by policy, and the pod keeps its sandbox.
func testKilledContainer(t *testing.T, s *suite) {
	p := pod{Name: "killed-container", Container: "command: [sleep, '12345']", Spec: "restartPolicy: Always"}
	before := s.running(t, p)
	if err := unix.Kill(s.find(t, string(before.UID), "sleep 12345"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after := s.until(t, p.Name, "restarted", restarts(1))
	if last := app(after).LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Reason != "Error" || last.ContainerID != app(before).ContainerID {
		t.Errorf("lastState: %+v", last)
	}
	if app(after).ContainerID == app(before).ContainerID || after.Status.PodIP != before.Status.PodIP {
		t.Errorf("containerID %s, podIP %s; were %s, %s", app(after).ContainerID, after.Status.PodIP, app(before).ContainerID, before.Status.PodIP)
	}
}

// A pod whose sandbox dies gets a new one, and its containers are restarted once if their policy says so.
func testKilledPause(t *testing.T, s *suite) {
	for policy, again := range map[string]bool{"Always": true, "OnFailure": true, "Never": false} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := server("killed-pause-" + strings.ToLower(policy))
			p.Spec = "restartPolicy: " + policy
			before := s.running(t, p)
			if err := unix.Kill(s.find(t, string(before.UID), "pause"), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if !again {
				after := s.until(t, p.Name, "failed", phase(v1.PodFailed))
				if app(after).RestartCount != 0 || app(after).State.Terminated == nil {
					t.Errorf("status: %+v", app(after))
				}
				return
			}
			after := s.until(t, p.Name, "restarted", func(pod *v1.Pod) bool { return restarts(1)(pod) && ready(pod) })
			if app(after).RestartCount != 1 || app(after).LastTerminationState.Terminated == nil {
				t.Errorf("status: %+v", app(after))
			}
			if got := get(t, after.Status.PodIP+":8080"); got != p.Name {
				t.Errorf("it answers %q", got)
			}
		})
	}
}

// A container that the runtime cannot make harms neither its sandbox nor the others, which are made at the same time.
func testBrokenMember(t *testing.T, s *suite) {
	for i := range 3 { // it depends on who is done first
		name := fmt.Sprintf("broken-member-%d", i)
		s.apply(t, pod{Name: name, Script: sleepScript, Spec: "restartPolicy: Always\nvolumes: [{name: v, emptyDir: {}}]",
			More: "- {name: bad, image: " + busybox + ", command: [sleep, \"1\"], volumeMounts: [{name: v, mountPath: /etc/passwd}]}"})
		p := s.until(t, name, "one is up and the other one not", func(p *v1.Pod) bool {
			bad := container(p, "bad")
			return app(p).State.Running != nil && (bad.LastTerminationState.Terminated != nil || bad.State.Terminated != nil)
		})
		if app(p).RestartCount != 0 {
			t.Errorf("the other one: %+v", app(p))
		}
		last := container(p, "bad").State.Terminated
		if last == nil {
			last = container(p, "bad").LastTerminationState.Terminated
		}
		if last.Reason != "StartError" || last.StartedAt.Unix() != 0 || !strings.Contains(last.Message, "not a directory") {
			t.Errorf("the broken one: %+v", last)
		}
		eventually(t, func() error { // not while the next one is being made
			got := strings.Join(strings.Fields(s.must(t, "why", name)), " ")
			if !strings.Contains(got, "not a directory -> ") || !strings.Contains(got, "A directory is mounted onto a file") {
				return fmt.Errorf("podctl why says %s", got)
			}
			return nil
		})
		for _, e := range s.events(t, name) {
			if strings.Contains(e, "Warning") && !strings.HasPrefix(e, "spec.containers{bad}") {
				t.Errorf("event: %s", e)
			}
		}
		s.remove(t, name)
	}
}

// addresses are the files of the address plugin for one IP.
func (s *suite) addresses(t *testing.T, ip string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(s.Root, "cni"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ip {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A pod that has ended gives its address back, and still shows which it had.
func testAddressReleased(t *testing.T, s *suite) {
	dir := t.TempDir()
	p := hostDir(pod{Name: "address-released", Script: "until [ -e /host/end ]; do sleep 0.05; done"}, dir)
	ip := s.running(t, p).Status.PodIP
	if held := s.addresses(t, ip); len(held) != 1 {
		t.Fatalf("the address is held by %v", held)
	}
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	uid := string(s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded)).UID)
	eventually(t, func() error {
		if held := s.addresses(t, ip); len(held) > 0 && strings.Contains(read(t, held[0]), uid) {
			return fmt.Errorf("the address is held by %v", held)
		}
		return nil
	})
	if pod := s.until(t, p.Name, "there", phase(v1.PodSucceeded)); pod.Status.PodIP != ip {
		t.Errorf("podIP = %q after the end, was %q", pod.Status.PodIP, ip)
	}
	eventually(t, func() error {
		if left := pids(t, s, uid); len(left) > 0 {
			return fmt.Errorf("processes %v are left of a pod that has ended", left)
		}
		return nil
	})
	if got := s.must(t, "logs", p.Name); got != "" {
		t.Errorf("log: %q", got)
	}
}

// Another image restarts that container alone, whatever the pod's policy: it is told to end, and runs again from the new image.
func testImageChanged(t *testing.T, s *suite) {
	for _, policy := range []string{"Always", "Never"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := sleeper("image-changed-" + strings.ToLower(policy))
			p.Spec, p.Container = "terminationGracePeriodSeconds: 30\nrestartPolicy: "+policy, "image: user-1000:e2e"
			p.More = "- {name: other, image: " + busybox + ", command: [sleep, infinity]}\n"
			before := s.running(t, p)
			p.Container = "image: " + busybox
			s.apply(t, p)
			after := s.until(t, p.Name, "running from the other image", func(pod *v1.Pod) bool {
				return ready(pod) && strings.HasSuffix(app(pod).Image, busybox)
			})
			if after.Generation != 2 || app(after).RestartCount != 1 || app(after).ContainerID == app(before).ContainerID {
				t.Errorf("generation %d, app %+v", after.Generation, app(after))
			}
			if last := app(after).LastTerminationState.Terminated; last == nil || last.ExitCode != 0 {
				t.Errorf("app ended before as %+v, want that it was told to", last)
			}
			if was, is := container(before, "other"), container(after, "other"); is.ContainerID != was.ContainerID || is.RestartCount != 0 {
				t.Errorf("the other container is %+v, was %+v", is, was)
			}
			if got := s.sh(t, p.Name, "id -u"); got != "0" {
				t.Errorf("it runs as %s", got)
			}
			p.Container = "image: user-1000:e2e\nenv: [{name: A, value: b}]"
			if got := s.refused(t, p.String(), "apply", "-f", "-"); !strings.Contains(got, "pod updates may not change fields other than") {
				t.Errorf("podctl apply of another field says %q", got)
			}
			s.remove(t, p.Name)
		})
	}
}

// Not the first process but another one goes over the limit: that is no OOMKilled container, unless all go together.
func testMemberOOM(t *testing.T, s *suite) {
	p := pod{Name: "member-oom", Script: "dd if=/dev/zero of=/dev/null bs=200M count=1; echo dd ended with $?", Container: "resources: {limits: {memory: 16Mi}}"}
	s.apply(t, p)
	pod := s.until(t, p.Name, "ended", func(pod *v1.Pod) bool { return phase(v1.PodSucceeded)(pod) || phase(v1.PodFailed)(pod) })
	got, want := app(pod).State.Terminated.Reason, "Completed"
	if unified() { // memory.oom.group
		want = "OOMKilled"
	}
	if got != want {
		t.Errorf("reason %s, want %s; log %q", got, want, s.must(t, "logs", p.Name))
	}
}

// What is run in a container goes over the limit: that is the command's end and not the container's, unless all go together.
// Neither is a container that podd kills later one that ran out of memory.
func testExecOOM(t *testing.T, s *suite) {
	p := pod{Name: "exec-oom", Script: "trap '' TERM; while :; do sleep 1; done", Container: "resources: {limits: {memory: 32Mi}}"}
	before := app(s.running(t, p))
	last := s.lastState(t, p.Name)
	_, errs, code := s.Podctl("exec", p.Name, "--", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
	if code != 137 {
		t.Errorf("exec: exit code %d, want 137\n%s", code, errs)
	}
	want := "Error"
	if unified() { // memory.oom.group
		want = "OOMKilled"
	} else if now := app(s.until(t, p.Name, "there", ready)); now.ContainerID != before.ContainerID || now.RestartCount != 0 {
		t.Errorf("after the exec: %+v", now)
	}
	s.remove(t, p.Name)
	if st := app(<-last).State.Terminated; st == nil || st.ExitCode != 137 || st.Reason != want {
		t.Errorf("killed in the end: %+v, want 137 for %s", st, want)
	}
}

// What a container says of its end is in its status: from the file, or from its log where that is empty.
func testMessages(t *testing.T, s *suite) {
	const fallback = "terminationMessagePolicy: FallbackToLogsOnError"
	long := strings.Repeat("0123456789abcde\n", 512)
	for _, c := range []struct {
		pod  pod
		want string
	}{
		{pod{Name: "says", Script: "echo -n the end >/dev/termination-log"}, "the end"},
		{pod{Name: "says-as-user", Script: "echo -n the end >/dev/termination-log; exit 1", Spec: "securityContext: {runAsUser: 1000}", Container: fallback}, "the end"},
		{pod{Name: "says-elsewhere", Script: "echo -n the end >/var/said", Container: "terminationMessagePath: /var/said\nsecurityContext: {readOnlyRootFilesystem: true}"}, "the end"},
		{pod{Name: "says-much", Script: "i=0; while [ $i -lt 512 ]; do echo 0123456789abcde; i=$((i+1)); done >/dev/termination-log"}, long[len(long)-4096:]},
		{pod{Name: "says-nothing", Script: "echo a log; exit 1"}, ""},
		{pod{Name: "says-in-log", Script: "echo a log; echo of two lines; exit 1", Container: fallback}, "a log\nof two lines\n"},
		{pod{Name: "says-in-long-log", Script: "i=0; while [ $i -lt 512 ]; do echo 0123456789abcde; i=$((i+1)); done; exit 1", Container: fallback}, long[:80*16]},
		{pod{Name: "says-in-long-lines", Script: "i=0; while [ $i -lt 512 ]; do echo -n 0123456789abcde,; i=$((i+1)); done; exit 1", Container: fallback},
			strings.ReplaceAll(long, "\n", ",")[1:2048] + "\n"},
		{pod{Name: "says-no-error", Script: "echo a log", Container: fallback}, ""},
		{pod{Name: "says-link", Script: "echo -n mine >/dev/termination-log; rm /dev/termination-log; ln -sf /etc/passwd /dev/termination-log; exit 1"}, "mine"},
		{pod{Name: "says-pipe", Script: "rm -f /m/said; mkfifo /m/said; exit 1", Container: "terminationMessagePath: /m/said\nvolumeMounts: [{name: m, mountPath: /m}]",
			Spec: "volumes: [{name: m, emptyDir: {}}]"}, ""},
		// Privileged, it can take the mount away, and what it then makes is in its own root.
		{pod{Name: "says-own-link", Script: "umount /dev/termination-log && rm /dev/termination-log && ln -s /etc/passwd /dev/termination-log; exit 1",
			Container: "securityContext: {privileged: true}"}, ""},
		{pod{Name: "says-no-end", Script: "cat /dev/zero >/dev/termination-log; [ $(wc -c </dev/termination-log) -le 1048576 ] || exit 1; echo full >/dev/termination-log"}, "full\n"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			s.apply(t, c.pod)
			pod := s.until(t, c.pod.Name, "ended", func(pod *v1.Pod) bool { return phase(v1.PodSucceeded)(pod) || phase(v1.PodFailed)(pod) })
			st := app(pod).State.Terminated
			if st == nil || st.Message != c.want {
				t.Errorf("terminated: %+v, want the message %.60q of %d bytes", st, c.want, len(c.want))
			}
			if want := phase(v1.PodSucceeded)(pod); want == strings.Contains(c.pod.Script, "exit 1") && c.pod.Name != "says-no-end" {
				t.Errorf("phase %s", pod.Status.Phase)
			}
			s.remove(t, c.pod.Name)
		})
	}
}

// A pod for another system is taken, and fails here.
func testOtherOS(t *testing.T, s *suite) {
	p := pod{Name: "other-os", Script: "exit 0", Spec: "os: {name: windows}"}
	s.apply(t, p)
	pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
	if pod.Status.Reason != "PodOSNotSupported" || !strings.HasPrefix(pod.Status.Message, "Pod was rejected: ") || len(pod.Status.ContainerStatuses) != 0 {
		t.Errorf("status: %+v", pod.Status)
	}
}

// A finalizer keeps the object of a deleted pod, not what runs.
func testFinalizers(t *testing.T, s *suite) {
	p := sleeper("finalizers")
	p.Meta = "finalizers: [example.com/keep]"
	uid := string(s.running(t, p).UID)
	s.must(t, "delete", "pod", p.Name, "--wait=false")
	eventually(t, func() error {
		if left := pids(t, s, uid); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
	s.until(t, p.Name, "over, and still there", func(pod *v1.Pod) bool {
		return pod.DeletionTimestamp != nil && pod.Status.Phase == v1.PodSucceeded
	})
	if _, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(t.Context(), p.Name, types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, p.Name, "gone", gone)
}

// TestUnknown: while containerd cannot be asked, the phase is Unknown and the containers stay as they were last seen.
func TestUnknown(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := sleeper("unknown")
	before := s.running(t, p)
	pid := s.containerd(t)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(pid, unix.SIGCONT) }
	t.Cleanup(goOn)
	// podd looks again by itself only now and then; a change of the pod makes it look now.
	if _, err := s.client.CoreV1().Pods(before.Namespace).Patch(t.Context(), p.Name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"look":"now"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := s.until(t, p.Name, "Unknown", phase(v1.PodUnknown))
	if app(pod).State.Running == nil || app(pod).ContainerID != app(before).ContainerID {
		t.Errorf("the last known state is not kept: %+v", app(pod))
	}
	s.hears(t, p.Name, " Warning FailedSync error determining status: ")
	began := time.Now()
	s.must(t, "get", "pods")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("podctl get takes %s while containerd hangs", took)
	}
	goOn()
	if pod = s.until(t, p.Name, "Running again", ready); app(pod).RestartCount != 0 || app(pod).ContainerID != app(before).ContainerID {
		t.Errorf("it was restarted: %+v", app(pod))
	}
}

// TestNoCgroup: a pod whose cgroup cannot be made is told of, and runs when it can be made.
func TestNoCgroup(t *testing.T) {
	t.Parallel()
	s := start(t)
	small, big := sleeper("small"), sleeper("big")
	small.Container, big.Container = "resources: {requests: {cpu: 1m}}", "resources: {requests: {cpu: 1m}, limits: {cpu: 1}}"
	s.running(t, small)
	file, closed, open := "/sys/fs/cgroup/cpu/%s/cpu.cfs_quota_us", "50000", "-1" // a child cannot have more
	if unified() {
		file, closed, open = "/sys/fs/cgroup/%s/cgroup.max.descendants", "0", "max"
	}
	set := func(value string) {
		must(t, os.WriteFile(fmt.Sprintf(file, filepath.Join(s.CgroupParent, "kubepods", "burstable")), []byte(value), 0o600))
	}
	set(closed)
	s.apply(t, big)
	s.hears(t, big.Name, " Warning FailedCreatePodContainer unable to ensure pod container exists: ensure cgroup: ")
	set(open)
	s.until(t, big.Name, "ready", ready)
}

// containerd is the process of podd's own.
func (s *suite) containerd(t *testing.T) int {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		line, _ := os.ReadFile(file)
		words := strings.Split(string(line), "\x00")
		if filepath.Base(words[0]) == "containerd" && strings.Contains(string(line), s.State+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	t.Fatal("podd's containerd is not running")
	return 0
}
