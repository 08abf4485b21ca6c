//go:build host

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/protobuf/types/known/anypb"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"podd/runtime/bundle"
	"podd/status"
	"podd/test/harness"
)

// TestContainerdDies stops containerd under twenty pods, lets it go on, and kills it: the phase is Unknown meanwhile and the
// API answers, no container is restarted, and all are running again by themselves. What ended while containerd was stopped
// is reported with its exit code. What ended while it was dead has the code, or else says that it is unknown: containerd 2.4
// takes tasks that have ended for leaked ones when it starts, and deletes them with their exit status.
func TestContainerdDies(t *testing.T) {
	t.Parallel()
	harness.Built(t)
	began := time.Now()
	s := start(t)
	usual := time.Since(began) // a containerd that starts
	var pods []fmt.Stringer
	for i := range 20 {
		pods = append(pods, pod{Name: fmt.Sprintf("sleeper-%d", i), Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always"})
	}
	s.apply(t, append(pods, waiter("stopped", s.Dir+"/stopped", 3, "restartPolicy: Never"), waiter("dead", s.Dir+"/dead", 4, "restartPolicy: Never"))...)
	for i := range pods {
		s.until(t, fmt.Sprintf("sleeper-%d", i), "ready", ready)
	}
	ids := map[string]string{}
	for _, name := range []string{"stopped", "dead"} {
		ids[name] = strings.TrimPrefix(app(s.until(t, name, "ready", ready)).ContainerID, "containerd://")
	}
	before := s.mustTasks(t)
	containerd := s.service(t, "containerd/process.json")
	must(t, syscall.Kill(containerd, syscall.SIGSTOP))
	touch(t, s.Dir+"/stopped")
	eventually(t, func() error { return ended(before[ids["stopped"]]) })
	s.until(t, "sleeper-0", "unknown", phase(v1.PodUnknown))
	began = time.Now()
	if pod := s.until(t, "sleeper-1", "there", func(p *v1.Pod) bool { return p != nil }); app(pod).State.Running == nil {
		t.Errorf("while containerd hangs, the last known state is lost: %v", app(pod).State)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("while containerd hangs, the API took %s to answer", took)
	}
	must(t, syscall.Kill(containerd, syscall.SIGCONT))
	began = time.Now()
	pod := s.until(t, "stopped", "failed", phase(v1.PodFailed))
	if end := app(pod).State.Terminated; end == nil || end.ExitCode != 3 || end.Reason != "Error" {
		t.Errorf("the container that ended while containerd was stopped is %v, want exit code 3", app(pod).State)
	}
	for i := range pods {
		s.until(t, fmt.Sprintf("sleeper-%d", i), "running", phase(v1.PodRunning))
	}
	usual += time.Since(began) // and one that answers again is asked about all pods
	must(t, syscall.Kill(containerd, syscall.SIGSTOP))
	touch(t, s.Dir+"/dead")
	eventually(t, func() error { return ended(before[ids["dead"]]) })
	must(t, syscall.Kill(containerd, syscall.SIGKILL))
	began = time.Now()
	listed := make(chan string, 1)
	go func() {
		out, errs, code := s.Podctl("image", "ls")
		listed <- fmt.Sprintf("%s%s%d", out, errs, code)
	}()
	pod = s.until(t, "dead", "failed", phase(v1.PodFailed))
	if end := app(pod).State.Terminated; end == nil || end.ExitCode != 4 || end.Reason != "Error" {
		t.Errorf("the container that ended while containerd was dead is %v, want exit code 4", app(pod).State)
	}
	for i := range pods {
		s.until(t, fmt.Sprintf("sleeper-%d", i), "running again", phase(v1.PodRunning))
	}
	inTime(t, "containerd was killed", time.Since(began), usual, nil)
	if said := <-listed; !strings.HasSuffix(said, "\n0") { // the exit code
		t.Errorf("image ls while containerd is started again: %s", said)
	}
	s.same(t, before, ids["stopped"], ids["dead"], status.ContainerID(pod.UID, "", 0),
		status.ContainerID(s.until(t, "stopped", "there", phase(v1.PodFailed)).UID, "", 0))
}

// inTime fails if after a death it took longer until all was right than recovery, beyond what the same work takes without one.
// Of that twice is granted, and it is measured once more if need be: a busy host gets busier.
func inTime(t *testing.T, death string, took, usual time.Duration, measure func() time.Duration) {
	t.Helper()
	if measure != nil && took > recovery+2*usual {
		usual = max(usual, measure())
	}
	if took > recovery+2*usual {
		t.Errorf("%s: all was right only %s later, where the same work takes %s", death, took, usual)
		return
	}
	t.Logf("%s: all was right %s later, where the same work takes %s", death, took.Round(time.Millisecond), usual.Round(time.Millisecond))
}

// TestShimDies kills the shim that all containers of a pod have in common: no process of the pod goes on, and the
// containers are restarted by their policy, after the init container. So it is when somebody takes the whole sandbox away
// while podd is away.
func TestShimDies(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"))
	side := "- {name: side, image: " + busybox + ", command: [sleep, infinity]}\n"
	init := "\ninitContainers: [{name: init, image: " + busybox + ", command: ['true']}]"
	create := func(prefix string) time.Duration {
		began := time.Now()
		for _, policy := range []string{"Always", "Never"} {
			s.apply(t, pod{Name: prefix + strings.ToLower(policy), Container: "command: [sleep, infinity]", Spec: "restartPolicy: " + policy + init, More: side})
		}
		for _, name := range []string{"always", "never"} {
			s.until(t, prefix+name, "ready", ready)
		}
		return time.Since(began)
	}
	usual := create("")
	s.sleeping(t, 4)
	before := s.mustTasks(t)
	shims := map[int]bool{} // two, or more on a host that is busy: see lone
	for _, p := range before {
		shims[parent(t, p.pid)] = true
	}
	began := time.Now()
	for pid := range shims {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	always := s.until(t, "always", "restarted", func(p *v1.Pod) bool {
		return ready(p) && container(p, "app").RestartCount == 1 && container(p, "side").RestartCount == 1 && initStatus(p, "init").RestartCount == 1
	})
	never := s.until(t, "never", "failed", phase(v1.PodFailed))
	inTime(t, "all shims were killed", time.Since(began), usual, func() time.Duration {
		took := create("other-")
		s.must(t, "delete", "pod", "other-always", "other-never")
		return took
	})
	for name, end := range map[string]*v1.ContainerStateTerminated{
		"always": app(always).LastTerminationState.Terminated, "never": app(never).State.Terminated,
	} {
		if end == nil || end.ExitCode != 137 {
			t.Errorf("pod %s: the end of a container whose shim was killed is %v, want 137", name, end)
		}
	}
	eventually(t, func() (err error) { // those whose parent was the shim are the first process's to reap
		for id, p := range before {
			if e := ended(p); e != nil {
				err = errors.Join(err, fmt.Errorf("container %s: %w", id, e))
			}
		}
		return err
	})

	s.Kill()
	s.unsandbox(t, status.ContainerID(always.UID, "", 1))
	s.Restart()
	s.until(t, "always", "restarted again", func(p *v1.Pod) bool {
		return ready(p) && container(p, "app").RestartCount == 2 && container(p, "side").RestartCount == 2 && initStatus(p, "init").RestartCount == 2
	})
	all := s.mustTasks(t)
	if next := status.ContainerID(always.UID, "", 2); !all[next].running || len(all) != 3 {
		t.Errorf("of the next sandbox, %s, and its containers there are %v", next, all)
	}
}

// unsandbox takes away all that containerd has of a sandbox, and leaves what runs in it.
func (s *suite) unsandbox(t *testing.T, id string) {
	t.Helper()
	c, err := client.New(s.ContainerdSocket)
	must(t, err)
	defer func() { _ = c.Close() }()
	ctx := namespaces.WithNamespace(t.Context(), s.Namespace)
	_, err = c.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL)})
	must(t, err)
	_, err = c.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
	must(t, err)
	_, err = c.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	must(t, err)
	must(t, c.ContainerService().Delete(ctx, id))
}

// TestLogWriterDies kills podd-logd while a container writes: the container goes on, and so does its log.
func TestLogWriterDies(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.running(t, pod{Name: "writer", Script: "i=0; while :; do i=$((i+1)); echo line $i; echo $i >/next; mv /next /count; usleep 2000; done"})
	s.untilLog(t, "writer", "line 20\n")
	before := s.mustTasks(t)
	must(t, syscall.Kill(s.service(t, "logd.json"), syscall.SIGKILL))
	at := s.sh(t, "writer", "cat /count")
	n, err := strconv.Atoi(at)
	must(t, err)
	s.untilLog(t, "writer", fmt.Sprintf("line %d\n", n+500))
	s.same(t, before)
}

// TestUpgrade puts new binaries in the place of all that podd runs, and restarts podd: containerd and the log writer are
// replaced, no container notices, and its log goes on.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	bundleDir := t.TempDir()
	install(t, bundleDir)
	s := start(t, harness.WithArgs("--bundle", bundleDir))
	s.running(t, pod{Name: "writer", Script: "i=0; while :; do i=$((i+1)); echo line $i; echo $i >/next; mv /next /count; usleep 5000; done"})
	s.untilLog(t, "writer", "line 20\n")
	before := s.mustTasks(t)
	old := []int{s.service(t, "containerd/process.json"), s.service(t, "logd.json")}
	install(t, bundleDir)
	s.Restart()
	eventually(t, func() error {
		if now := []int{s.service(t, "containerd/process.json"), s.service(t, "logd.json")}; now[0] == old[0] || now[1] == old[1] {
			return fmt.Errorf("containerd and podd-logd are %v, were %v", now, old)
		}
		return nil
	})
	n, err := strconv.Atoi(s.sh(t, "writer", "cat /count"))
	must(t, err)
	s.untilLog(t, "writer", fmt.Sprintf("line %d\n", n+100))
	s.same(t, before)
}

// TestReboot ends everything as a reboot does: processes, mounts and the run directory are gone, the boot id is another.
func TestReboot(t *testing.T) {
	t.Parallel()
	harness.Built(t)
	began := time.Now()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"))
	fixed := "fixed-" + s.NodeName
	was := s.beforeReboot(t)
	usual := time.Since(began)
	s.until(t, "done", "succeeded", phase(v1.PodSucceeded))
	s.must(t, "delete", "pod", "leaving", "--wait=false")
	s.reboot(t)
	began = time.Now()
	s.Restart()
	for _, name := range []string{"always", fixed} {
		now := s.until(t, name, "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
		if now.UID != was[name].UID {
			t.Errorf("pod %s has another uid after the reboot", name)
		}
		if end := app(now).LastTerminationState.Terminated; end == nil || end.ExitCode != 137 || end.Reason != "ContainerStatusUnknown" {
			t.Errorf("pod %s: what ran before the reboot is %v, want 137 and ContainerStatusUnknown", name, end)
		}
	}
	never := s.until(t, "never", "failed", phase(v1.PodFailed))
	if end := app(never).State.Terminated; end == nil || end.ExitCode != 137 || end.Reason != "ContainerStatusUnknown" {
		t.Errorf("pod never: what ran before the reboot is %v, want 137 and ContainerStatusUnknown", end)
	}
	s.until(t, "leaving", "gone", gone)
	inTime(t, "the host was started again", time.Since(began), usual, func() time.Duration {
		began := time.Now()
		start(t).beforeReboot(t)
		return time.Since(began)
	})
	s.eventsOf(t, s.NodeName,
		wantedEvent{v1.EventTypeNormal, "Starting", "", "Starting podd.", 1},
		wantedEvent{v1.EventTypeWarning, "Rebooted", "", "Node " + s.NodeName + " has been rebooted, boot id: boot-2", 1})
	s.must(t, "exec", "always", "--", "test", "-e", "/image/bin/busybox")
	if pod := s.until(t, "done", "there", func(p *v1.Pod) bool { return p != nil }); pod.Status.Phase != v1.PodSucceeded {
		t.Errorf("the pod that had succeeded is %s", pod.Status.Phase)
	}
	addresses, err := filepath.Glob(s.Root + "/cni/ipam/*/*.*.*.*")
	must(t, err)
	if len(addresses) != 2 {
		t.Errorf("two pods are on the network, and these addresses are taken: %v", addresses)
	}
	must(t, os.Remove(s.ConfigDir+"/manifests/fixed.yaml"))
	s.until(t, fixed, "gone", gone)
}

// beforeReboot makes the pods that a reboot is to meet, and returns those that run when all of them do.
func (s *suite) beforeReboot(t *testing.T) map[string]*v1.Pod {
	t.Helper()
	s.apply(t,
		pod{Name: "always", Script: "cat /about/name && exec sleep infinity",
			Container: "volumeMounts: [{name: about, mountPath: /about}, {name: image, mountPath: /image}]",
			Spec: "restartPolicy: Always\nvolumes: [{name: image, image: {reference: '" + busybox + "'}}, " +
				"{name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]"},
		pod{Name: "never", Container: "command: [sleep, infinity]"},
		pod{Name: "done", Container: "command: [\"true\"]"},
		pod{Name: "leaving", Container: "command: [sleep, infinity]", Spec: "terminationGracePeriodSeconds: 1000"})
	manifest := s.ConfigDir + "/manifests/fixed.yaml"
	must(t, os.WriteFile(manifest, []byte(pod{Name: "fixed", Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always"}.String()), 0o600))
	t.Cleanup(func() { _ = os.Remove(manifest) })
	running := map[string]*v1.Pod{}
	for _, name := range []string{"always", "never", "leaving", "fixed-" + s.NodeName} {
		running[name] = s.until(t, name, "ready", ready)
	}
	return running
}

// TestStateFile damages the state file in many ways: podd starts all the same, says what it did, and has all pods that run.
func TestStateFile(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"))
	s.apply(t, waiter("again", s.Dir+"/go", 1, "restartPolicy: Always"),
		pod{Name: "steady", Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always"})
	s.until(t, "again", "ready", ready)
	touch(t, s.Dir+"/go")
	s.until(t, "again", "restarted", restarts(1))
	must(t, os.Remove(s.Dir+"/go"))
	// Every look at the file makes one restart of "again" at most, until it has found the file gone.
	eventually(t, func() error { return s.quiet("again") })
	count := app(s.until(t, "again", "ready", ready)).RestartCount
	s.until(t, "steady", "ready", ready)
	s.sleeping(t, 1)
	before := s.mustTasks(t)
	s.second(t)
	file := s.Root + "/state.db"
	random := rand.New(rand.NewPCG(1, 2))
	for name, damage := range map[string]func([]byte) []byte{
		"empty":        func([]byte) []byte { return nil },
		"one byte":     func(b []byte) []byte { return b[:1] },
		"half":         func(b []byte) []byte { return b[:len(b)/2] },
		"a page less":  func(b []byte) []byte { return b[:len(b)-4096] },
		"text":         func([]byte) []byte { return []byte("this is no database\n") },
		"zeroes":       func(b []byte) []byte { return make([]byte, len(b)) },
		"random":       func(b []byte) []byte { return noise(random, len(b)) },
		"no meta":      func(b []byte) []byte { return append(make([]byte, 8192), b[8192:]...) },
		"bit in meta":  func(b []byte) []byte { b[40] ^= 1; b[4096+40] ^= 1; return b },
		"bit in data":  func(b []byte) []byte { return flip(b, []byte("steady")) },
		"bit in again": func(b []byte) []byte { return flip(b, []byte("again")) },
		"bit anywhere": func(b []byte) []byte { b[8192+random.IntN(len(b)-8192)] ^= 4; return b },
	} {
		s.Terminate()
		content, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, damage(content), 0o600))
		told := strings.Count(s.Logs(), "the state file was corrupt")
		s.Restart()
		for _, pod := range []string{"steady", "again"} {
			s.until(t, pod, "ready with "+name, ready)
		}
		if n := app(s.until(t, "again", "there", ready)).RestartCount; n != count {
			t.Errorf("%s: restart count %d, was %d", name, n, count)
		}
		if harmless := name == "bit anywhere" || name == "a page less"; !harmless && strings.Count(s.Logs(), "the state file was corrupt") == told {
			t.Errorf("%s: podd's log does not tell that the state file was corrupt", name)
		}
		s.same(t, before)
		if t.Failed() {
			t.Fatalf("after damage %q", name)
		}
	}
}

// second starts another podd on the same directories: it refuses, and the first does not notice.
func (s *suite) second(t *testing.T) {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.Pid()))
	must(t, err)
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another podd") {
		t.Errorf("a second podd on the same directories: %v, %s", err, out)
	}
	s.must(t, "get", "pods")
}

// quiet is nil when the pod's container runs and looks at an absent file: it sleeps.
func (s *suite) quiet(name string) error {
	out, errs, code := s.Podctl("exec", name, "-c", "app", "--", "sh", "-c", "test ! -e /host/go && cat /proc/1/cmdline")
	if code != 0 {
		return fmt.Errorf("exec: %s%s", out, errs)
	}
	return nil
}

// reboot leaves of podd what a reboot leaves.
func (s *suite) reboot(t *testing.T) {
	t.Helper()
	s.Terminate()
	must(t, bundle.Stop(t.Context(), bundle.Options{StateDir: s.Root, RunDir: s.State}))
	eventually(t, func() error {
		left := s.processes()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		return nil
	})
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	lines := strings.Split(string(table), "\n")
	for _, line := range slices.Backward(lines) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], s.State+"/") || strings.HasPrefix(f[4], s.Root+"/")) {
			must(t, syscall.Unmount(f[4], syscall.MNT_DETACH))
		}
	}
	tops, err := filepath.Glob("/sys/fs/cgroup/*" + s.CgroupParent)
	must(t, err)
	for _, top := range append(tops, "/sys/fs/cgroup"+s.CgroupParent) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = syscall.Rmdir(d)
		}
	}
	must(t, os.RemoveAll(s.State))
	must(t, os.WriteFile(s.BootFile, []byte("boot-2\n"), 0o600))
}

// processes are the shims and everything in the pods' cgroups.
func (s *suite) processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		groups, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		if bytes.Contains(line, []byte("containerd-shim")) && bytes.Contains(line, []byte(s.State+"/")) ||
			bytes.Contains(groups, []byte(":"+s.CgroupParent+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// waiter is a pod whose container ends with that code once a file of the host is there.
func waiter(name, file string, code int, spec string) pod {
	return pod{
		Name:      name,
		Script:    fmt.Sprintf("while [ ! -e /host/%s ]; do usleep 20000; done; exit %d", filepath.Base(file), code),
		Spec:      spec + "\nvolumes: [{name: host, hostPath: {path: " + filepath.Dir(file) + "}}]",
		Container: "volumeMounts: [{name: host, mountPath: /host}]",
	}
}

// install puts new copies of the programs that podd runs into dir.
func install(t *testing.T, dir string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(harness.Built(t), "../libexec/podd/*"))
	must(t, err)
	for _, from := range list {
		content, err := os.ReadFile(from)
		must(t, err)
		to := filepath.Join(dir, filepath.Base(from))
		must(t, os.WriteFile(to+".new", content, 0o755))
		must(t, os.Rename(to+".new", to))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func touch(t *testing.T, file string) {
	t.Helper()
	must(t, os.WriteFile(file, nil, 0o600))
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.UintN(256))
	}
	return b
}

// flip turns one bit in every place where the word stands.
func flip(b, word []byte) []byte {
	return bytes.ReplaceAll(b, word, append([]byte{word[0] ^ 1}, word[1:]...))
}

// service is the pid of a process that podd keeps running.
func (s *suite) service(t *testing.T, record string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.State, record))
	must(t, err)
	var id struct{ Pid int }
	must(t, json.Unmarshal(data, &id))
	return id.Pid
}

// untilLog waits until the log of a pod has some text.
func (s *suite) untilLog(t *testing.T, name, text string) {
	t.Helper()
	eventually(t, func() error {
		if !strings.Contains(s.must(t, "logs", name, "-c", "app"), text) {
			return fmt.Errorf("the log of %s has no %q", name, text)
		}
		return nil
	})
}

// same asks that containerd runs the same processes as before, but for those named. What had ended by then may be taken away.
func (s *suite) same(t *testing.T, before map[string]process, but ...string) {
	t.Helper()
	now := s.mustTasks(t)
	for id, p := range before {
		if now[id] != p && p.running && !slices.Contains(but, id) {
			t.Errorf("container %s is %+v, was %+v", id, now[id], p)
		}
	}
}

// parent is the pid of a process's parent: of a container's process, the shim.
func parent(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	ppid, err := strconv.Atoi(string(bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])[1]))
	must(t, err)
	return ppid
}

// ended is nil when that very process is no more.
func ended(p process) error {
	if began, err := startOf(p.pid); err == nil && began == p.began {
		return fmt.Errorf("process %d goes on", p.pid)
	}
	return nil
}

// process is the first process of a container.
type process struct {
	pid     int
	began   uint64 // clock ticks since boot: tells it from a later process of the same number
	running bool
}

// tasks is what containerd runs in podd's namespace, by container id.
func (s *suite) tasks(ctx context.Context) (map[string]process, error) {
	c, err := client.New(s.ContainerdSocket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	r, err := c.TaskService().List(namespaces.WithNamespace(ctx, s.Namespace), &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	all := map[string]process{}
	for _, t := range r.Tasks {
		began, _ := startOf(int(t.Pid))
		all[t.ID] = process{int(t.Pid), began, t.Status == task.Status_RUNNING}
	}
	return all, nil
}

func (s *suite) mustTasks(t *testing.T) map[string]process {
	t.Helper()
	all, err := s.tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fleeting is a client that keeps no connection: podd may be killed, and its descriptors counted, at any time.
func (s *suite) fleeting(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
	}
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://podd", QPS: -1},
		&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sleeping waits until so many processes of pods have become what they are to be, "sleep": from then on the list of all
// processes does not change by itself.
func (s *suite) sleeping(t *testing.T, want int) {
	t.Helper()
	eventually(t, func() error {
		n := 0
		for _, p := range s.mustTasks(t) {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); bytes.HasPrefix(line, []byte("sleep\x00")) {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d processes sleep, want %d", n, want)
		}
		return nil
	})
}

// plant makes a container in containerd that podd does not know.
func (s *suite) plant(ctx context.Context, id string) error {
	c, err := client.New(s.ContainerdSocket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.ContainerService().Create(namespaces.WithNamespace(ctx, s.Namespace), containers.Container{
		ID: id, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}, Spec: &anypb.Any{TypeUrl: "x", Value: []byte("{}")},
	})
	return err
}

// startOf is field 22 of /proc/PID/stat.
func startOf(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
