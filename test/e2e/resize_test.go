//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/status"
	"podd/test/harness"
)

// TestResize changes cpu and memory of running pods, and looks at what the kernel was told. It fills the node, so it has a
// podd of its own.
func TestResize(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms", "--restart-backoff-max=50ms"))
	t.Run("in place", s.resizeInPlace)
	t.Run("below usage", s.resizeBelowUsage)
	t.Run("restart", s.resizeRestart)
	t.Run("sidecar", s.resizeSidecar)
	t.Run("whole", s.resizeWhole)
	t.Run("infeasible", s.resizeInfeasible)
	t.Run("deferred", s.resizeDeferred)
	t.Run("killed", s.resizeKilled)
	t.Run("no room", s.resizeNoRoom)
}

// resources is what a container has, in YAML.
func resources(cpu, memory string) string {
	return fmt.Sprintf("resources: {limits: {cpu: %s, memory: %s}}", cpu, memory)
}

// resize asks for other limits and requests of container app.
func (s *suite) resize(t *testing.T, name, cpu, memory string) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":%q,"memory":%q},"limits":{"cpu":%[1]q,"memory":%[2]q}}}]}}`, cpu, memory)
	_, err := s.client.CoreV1().Pods("default").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	if err != nil {
		t.Fatal(err)
	}
}

// resized waits until container app has got what it asks for, and no condition speaks of a resize.
func (s *suite) resized(t *testing.T, name string) *v1.Pod {
	t.Helper()
	return s.until(t, name, "resized", func(pod *v1.Pod) bool {
		if pod == nil || !ready(pod) || pod.Status.ObservedGeneration != pod.Generation ||
			resizeCondition(pod, v1.PodResizePending) != "" || resizeCondition(pod, v1.PodResizeInProgress) != "" {
			return false
		}
		want, is := pod.Spec.Containers[0].Resources, app(pod)
		return is.Resources != nil && is.Resources.Limits.Cpu().Equal(*want.Limits.Cpu()) && is.Resources.Limits.Memory().Equal(*want.Limits.Memory()) &&
			is.AllocatedResources.Cpu().Equal(*want.Requests.Cpu()) && is.AllocatedResources.Memory().Equal(*want.Requests.Memory())
	})
}

// resizeCondition is the reason and the message of a condition; "" if there is none.
func resizeCondition(pod *v1.Pod, kind v1.PodConditionType) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind && c.Status == v1.ConditionTrue {
			return strings.TrimSpace("True " + c.Reason + " " + c.Message)
		}
	}
	return ""
}

// kernel is the quota, the memory limit and the shares that a guaranteed pod's cgroup has, and those of its container app.
func (s *suite) kernel(t *testing.T, pod *v1.Pod) (own, container string) {
	t.Helper()
	return s.kernelOf(t, pod, app(pod))
}

// kernelOf is kernel with any container of the pod.
func (s *suite) kernelOf(t *testing.T, pod *v1.Pod, of v1.ContainerStatus) (own, container string) {
	t.Helper()
	read := func(dir, file string) string {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.Replace(file, "%", dir, 1)))
		if err != nil {
			t.Fatal(err)
		}
		value, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		return value
	}
	files := []string{"cpu/%/cpu.cfs_quota_us", "memory/%/memory.limit_in_bytes", "cpu/%/cpu.shares"}
	if unified() {
		files = []string{"%/cpu.max", "%/memory.max"}
	}
	class := ""
	if pod.Status.QOSClass != v1.PodQOSGuaranteed {
		class = strings.ToLower(string(pod.Status.QOSClass))
	}
	dir := filepath.Join(s.CgroupParent, "kubepods", class, "pod"+string(pod.UID))
	in := strings.TrimPrefix(of.ContainerID, "containerd://")
	var all [2][]string
	for _, f := range files {
		all[0] = append(all[0], read(dir, f))
		all[1] = append(all[1], read(filepath.Join(dir, in), f))
	}
	return strings.Join(all[0], " "), strings.Join(all[1], " ")
}

// has checks what the kernel was told of a pod with one container.
func (s *suite) has(t *testing.T, pod *v1.Pod, quota, memory, shares int) {
	t.Helper()
	want := fmt.Sprint(quota, memory<<20, shares)
	if unified() {
		want = fmt.Sprint(quota, memory<<20)
	}
	if own, container := s.kernel(t, pod); own != want || container != want {
		t.Errorf("the pod's cgroup has %s, the container's %s, want %s", own, container, want)
	}
}

// tells checks the reasons of the resize events of a pod, in any order.
func (s *suite) tells(t *testing.T, name string, wanted ...string) {
	t.Helper()
	eventually(t, func() error {
		list, err := s.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var all []string
		for _, e := range list.Items {
			all = append(all, e.Reason+" "+e.Message)
		}
		for _, w := range wanted {
			if !strings.Contains(strings.Join(all, "\n"), w) {
				return fmt.Errorf("no event %s in\n%s", w, strings.Join(all, "\n"))
			}
		}
		return nil
	})
}

func (s *suite) resizing(t *testing.T, name, cpu, memory string) (pod, *v1.Pod) {
	t.Helper()
	p := sleeper(name)
	p.Container = resources(cpu, memory)
	p.Spec = "restartPolicy: Always"
	return p, s.running(t, p)
}

// Cpu and memory, up and down, of a process that goes on.
func (s *suite) resizeInPlace(t *testing.T) {
	_, pod := s.resizing(t, "in-place", "100m", "64Mi")
	s.has(t, pod, 10000, 64, 102)
	begun := app(pod).State.Running.StartedAt
	for _, c := range []struct {
		cpu, memory          string
		quota, limit, shares int
	}{
		{"200m", "64Mi", 20000, 64, 204},
		{"50m", "64Mi", 5000, 64, 51},
		{"50m", "128Mi", 5000, 128, 51},
		{"50m", "32Mi", 5000, 32, 51},
		{"300m", "16Mi", 30000, 16, 307},
		{"5m", "48Mi", 1000, 48, 5}, // the kernel has no less than 10m; what is said is what was asked for
	} {
		s.resize(t, "in-place", c.cpu, c.memory)
		pod = s.resized(t, "in-place")
		s.has(t, pod, c.quota, c.limit, c.shares)
	}
	if is := app(pod); is.RestartCount != 0 || !is.State.Running.StartedAt.Equal(&begun) || pod.Generation != 7 {
		t.Errorf("restarted %d times, generation %d: %v", is.RestartCount, pod.Generation, is.State)
	}
	s.tells(t, "in-place",
		`ResizeStarted Pod resize started: {"containers":[{"name":"app","resources":{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"200m","memory":"64Mi"}}}],"generation":2}`,
		`ResizeCompleted Pod resize completed: {"containers":[{"name":"app","resources":{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"200m","memory":"64Mi"}}}],"generation":2}`)
	s.remove(t, "in-place")
}

// A memory limit is not set below what is in use, and is as soon as less is.
func (s *suite) resizeBelowUsage(t *testing.T) {
	p := pod{Name: "holds", Spec: "restartPolicy: Always", Container: resources("500m", "96Mi"),
		Script: "dd if=/dev/zero of=/dev/shm/held bs=1000000 count=40; " + sleepScript}
	s.running(t, p)
	eventually(t, func() error {
		if got := s.sh(t, "holds", "stat -c %s /dev/shm/held"); got != "40000000" {
			return fmt.Errorf("it holds %s", got)
		}
		return nil
	})
	s.resize(t, "holds", "500m", "16Mi")
	pod := s.until(t, "holds", "held back", func(pod *v1.Pod) bool {
		return pod != nil && strings.HasPrefix(resizeCondition(pod, v1.PodResizeInProgress), "True Error cannot decrease memory limits: attempting to set pod memory limit (16777216) below current usage (")
	})
	if is := app(pod); is.Resources.Limits.Memory().Value() != 96<<20 || is.AllocatedResources.Memory().Value() != 16<<20 {
		t.Errorf("shown: %v, allocated %v", is.Resources, is.AllocatedResources)
	}
	s.has(t, pod, 50000, 96, 512)
	s.tells(t, "holds", "ResizeError Pod resize error: {")
	s.sh(t, "holds", "rm /dev/shm/held")
	pod = s.resized(t, "holds")
	s.has(t, pod, 50000, 16, 512)
	if app(pod).RestartCount != 0 {
		t.Errorf("restarted %d times", app(pod).RestartCount)
	}
	s.remove(t, "holds")
}

// A container whose resizePolicy wants it is made anew with the new resources; one that says so of memory is not for cpu.
func (s *suite) resizeRestart(t *testing.T) {
	p := sleeper("anew")
	p.Spec = "restartPolicy: Always"
	p.Container = resources("100m", "64Mi") + "\nresizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]"
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000000']\n  " + resources("100m", "32Mi")
	s.running(t, p)
	s.resize(t, "anew", "200m", "64Mi")
	if pod := s.resized(t, "anew"); app(pod).RestartCount != 0 {
		t.Errorf("restarted for cpu")
	}
	for i, memory := range []string{"96Mi", "48Mi"} {
		s.resize(t, "anew", "200m", memory)
		s.until(t, "anew", "restarted", func(pod *v1.Pod) bool { return pod != nil && int(app(pod).RestartCount) == i+1 })
		pod := s.resized(t, "anew")
		limit := []int{96, 48}[i]
		own, container := s.kernel(t, pod)
		wantOwn, want := fmt.Sprint(30000, (limit+32)<<20, 307), fmt.Sprint(20000, limit<<20, 204)
		if unified() {
			wantOwn, want = fmt.Sprint(30000, (limit+32)<<20), fmt.Sprint(20000, limit<<20)
		}
		if own != wantOwn || container != want {
			t.Errorf("%s: the pod's cgroup has %s, want %s; the container's %s, want %s", memory, own, wantOwn, container, want)
		}
		for _, c := range pod.Status.ContainerStatuses {
			if c.Name == "other" && c.RestartCount != 0 {
				t.Error("the other container was restarted as well")
			}
		}
	}
	s.remove(t, "anew")
}

// A sidecar is resized as a regular container is: in place, or by a restart of it alone.
func (s *suite) resizeSidecar(t *testing.T) {
	p := sleeper("beside")
	p.Container = resources("100m", "64Mi")
	p.Spec = "restartPolicy: Always\ninitContainers:\n- name: side\n  image: " + busybox + "\n  command: [sh, -c, \"" + sleepScript + "\"]\n  restartPolicy: Always\n  " +
		resources("100m", "32Mi") + "\n  resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]"
	pod := s.running(t, p)
	begun := pod.Status.InitContainerStatuses[0].State.Running.StartedAt
	for _, c := range []struct {
		cpu, memory             string
		quota, podShares, limit int
		restarts                int32
	}{{"200m", "32Mi", 20000, 307, 32, 0}, {"50m", "32Mi", 5000, 153, 32, 0}, {"50m", "48Mi", 5000, 153, 48, 1}} {
		patch := fmt.Sprintf(`{"spec":{"initContainers":[{"name":"side","resources":{"requests":{"cpu":%q,"memory":%q},"limits":{"cpu":%[1]q,"memory":%[2]q}}}]}}`, c.cpu, c.memory)
		_, err := s.client.CoreV1().Pods("default").Patch(t.Context(), "beside", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
		must(t, err)
		pod = s.until(t, "beside", "resized", func(pod *v1.Pod) bool {
			if pod == nil || !ready(pod) || pod.Status.ObservedGeneration != pod.Generation || resizeCondition(pod, v1.PodResizePending) != "" ||
				resizeCondition(pod, v1.PodResizeInProgress) != "" {
				return false
			}
			is, want := pod.Status.InitContainerStatuses[0], pod.Spec.InitContainers[0].Resources
			return is.RestartCount == c.restarts && is.State.Running != nil && is.Resources.Limits.Cpu().Equal(*want.Limits.Cpu()) &&
				is.Resources.Limits.Memory().Equal(*want.Limits.Memory()) && is.AllocatedResources.Cpu().Equal(*want.Requests.Cpu())
		})
		side := pod.Status.InitContainerStatuses[0]
		if app(pod).RestartCount != 0 || c.restarts == 0 && !side.State.Running.StartedAt.Equal(&begun) {
			t.Errorf("%s %s: app was restarted %d times; the sidecar runs since %s, at first since %s", c.cpu, c.memory, app(pod).RestartCount, side.State.Running.StartedAt, begun)
		}
		s.holds(t, pod, side, [3]int{10000 + c.quota, 64 + c.limit, c.podShares}, [3]int{c.quota, c.limit, c.quota * 1024 / 100000})
	}
	s.remove(t, "beside")
}

// A pod that has resources of its own gets others, of its own or with those of a container: its cgroup does, and the containers
// without a limit do, in place or by a restart as each has it.
func (s *suite) resizeWhole(t *testing.T) {
	const hold = "dd if=/dev/zero of=/dev/shm/held bs=1000000 count=40"
	p := sleeper("of-all")
	p.Spec = "restartPolicy: Always\nresources: {limits: {cpu: 200m, memory: 96Mi}, requests: {cpu: 100m}}"
	p.More = "- name: own\n  image: " + busybox + "\n  command: [sleep, '1000000']\n  " + resources("50m", "16Mi") +
		"\n- name: anew\n  image: " + busybox + "\n  command: [sh, -c, \"" + sleepScript + "\"]" +
		"\n  resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]"
	s.running(t, p)
	resize := func(whole, own string) {
		t.Helper()
		patch := fmt.Sprintf(`{"spec":{"resources":%s,"containers":[{"name":"own","resources":%s}]}}`, whole, own)
		_, err := s.client.CoreV1().Pods("default").Patch(t.Context(), p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
		must(t, err)
	}
	has := func(whole, app, own, anew [3]int, restarts int32) {
		t.Helper()
		pod := s.until(t, p.Name, "resized", func(pod *v1.Pod) bool {
			if pod == nil || !ready(pod) || pod.Status.ObservedGeneration != pod.Generation || container(pod, "anew").RestartCount != restarts ||
				resizeCondition(pod, v1.PodResizePending) != "" || resizeCondition(pod, v1.PodResizeInProgress) != "" {
				return false
			}
			has, want := pod.Status.Resources, pod.Spec.Resources
			return has.Limits.Cpu().Equal(*want.Limits.Cpu()) && has.Limits.Memory().Equal(*want.Limits.Memory()) &&
				has.Requests.Cpu().Equal(*want.Requests.Cpu()) && pod.Status.AllocatedResources.Cpu().Equal(*want.Requests.Cpu())
		})
		for name, want := range map[string][3]int{"app": app, "own": own, "anew": anew} {
			s.holds(t, pod, container(pod, name), whole, want)
			if n := container(pod, name).RestartCount; name != "anew" && n != 0 {
				t.Errorf("%s was restarted %d times", name, n)
			}
		}
	}
	own := [3]int{5000, 16, 51}
	has([3]int{20000, 96, 102}, [3]int{20000, 96, 204}, own, [3]int{20000, 96, 204}, 0)
	resize(`{"limits":{"cpu":"400m"},"requests":{"cpu":"150m"}}`, `{}`)
	has([3]int{40000, 96, 153}, [3]int{40000, 96, 409}, own, [3]int{40000, 96, 409}, 0)
	s.tells(t, p.Name, "ResizeStarted Pod resize started: {", "ResizeCompleted Pod resize completed: {")
	resize(`{"limits":{"cpu":"100m","memory":"128Mi"},"requests":{"cpu":"100m","memory":"24Mi"}}`, `{"limits":{"memory":"24Mi"},"requests":{"memory":"24Mi"}}`)
	own[1] = 24
	has([3]int{10000, 128, 102}, [3]int{10000, 128, 102}, own, [3]int{10000, 128, 102}, 1)

	must(t, tryAttachDebug(t, s, p.Name, v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: "debugger", Command: []string{"sleep", "1000000"}}})) // it has no limits but the pod's
	s.until(t, p.Name, "debugged", func(pod *v1.Pod) bool {
		return pod != nil && len(pod.Status.EphemeralContainerStatuses) == 1 && pod.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
	resize(`{"limits":{"cpu":"70m"},"requests":{"cpu":"60m"}}`, `{}`)
	has([3]int{7000, 128, 61}, [3]int{7000, 128, 71}, own, [3]int{7000, 128, 71}, 1)

	s.sh(t, p.Name, hold)
	resize(`{"limits":{"cpu":"300m","memory":"32Mi"}}`, `{}`)
	pod := s.until(t, p.Name, "held back", func(pod *v1.Pod) bool {
		return pod != nil && ready(pod) && container(pod, "anew").RestartCount == 2 && strings.HasPrefix(resizeCondition(pod, v1.PodResizeInProgress),
			"True Error cannot decrease memory limits: attempting to set pod memory limit (33554432) below current usage (")
	})
	if limit := pod.Status.Resources.Limits; limit.Memory().Value() != 128<<20 || limit.Cpu().MilliValue() != 70 {
		t.Errorf("it is said to have %v", pod.Status.Resources)
	}
	if whole, _ := s.kernelOf(t, pod, app(pod)); !strings.Contains(whole, fmt.Sprint(128<<20)) {
		t.Errorf("the kernel was told %s", whole)
	}
	s.sh(t, p.Name, "rm /dev/shm/held")
	has([3]int{30000, 32, 61}, [3]int{30000, 32, 307}, own, [3]int{30000, 32, 307}, 2)

	resize(`{"limits":{"cpu":"10000"},"requests":{"cpu":"10000"}}`, `{}`)
	pod = s.until(t, p.Name, "refused", func(pod *v1.Pod) bool {
		return pod != nil && strings.HasPrefix(resizeCondition(pod, v1.PodResizePending), "True Infeasible Node didn't have enough capacity: cpu, requested: 10000000, capacity: ")
	})
	s.holds(t, pod, app(pod), [3]int{30000, 32, 61}, [3]int{30000, 32, 307})
	s.remove(t, p.Name)
}

// More than the node has never fits, and the pod goes on with what it has, also after podd was killed.
func (s *suite) resizeInfeasible(t *testing.T) {
	_, pod := s.resizing(t, "never", "100m", "32Mi")
	s.resize(t, "never", "10000", "32Mi")
	pending := func(pod *v1.Pod) bool {
		return pod != nil && ready(pod) && strings.HasPrefix(resizeCondition(pod, v1.PodResizePending), "True Infeasible Node didn't have enough capacity: cpu, requested: 10000000, capacity: ")
	}
	s.until(t, "never", "refused", pending)
	s.tells(t, "never", "ResizeInfeasible Pod resize Infeasible: {")
	s.Restart()
	s.until(t, "never", "refused", pending)
	s.has(t, pod, 10000, 32, 102)
	s.resize(t, "never", "100m", "32Mi") // it is given up
	s.resized(t, "never")
	s.remove(t, "never")
}

// cpus is what the node can give, in thousandths.
func (s *suite) cpus(t *testing.T) int64 {
	t.Helper()
	nodes, err := s.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("%d nodes, %v", len(nodes.Items), err)
	}
	return nodes.Items[0].Status.Allocatable.Cpu().MilliValue()
}

// What does not fit beside the others waits until one of them goes.
func (s *suite) resizeDeferred(t *testing.T) {
	most := s.cpus(t) - 200
	other := sleeper("in-the-way")
	other.Container = fmt.Sprintf("resources: {requests: {cpu: %dm}}", most)
	s.running(t, other)
	s.resizing(t, "waits", "100m", "32Mi")
	s.resize(t, "waits", "500m", "32Mi")
	want := fmt.Sprintf("True Deferred Node didn't have enough resource: cpu, requested: 500, used: %d, capacity: %d", most, most+200)
	pod := s.until(t, "waits", "deferred", func(pod *v1.Pod) bool { return pod != nil && resizeCondition(pod, v1.PodResizePending) == want })
	s.has(t, pod, 10000, 32, 102)
	s.tells(t, "waits", "ResizeDeferred Pod resize Deferred: {")
	s.remove(t, "in-the-way")
	s.has(t, s.resized(t, "waits"), 50000, 32, 512)
	s.remove(t, "waits")
}

// A pod is resized while podd is away, and again while it works on it: it has what was asked for last, and its process ran
// on. What was applied is known to a podd that comes back.
func (s *suite) resizeKilled(t *testing.T) {
	_, pod := s.resizing(t, "outlives", "100m", "64Mi")
	for i, c := range []struct {
		cpu, memory          string
		quota, limit, shares int
	}{{"200m", "96Mi", 20000, 96, 204}, {"50m", "32Mi", 5000, 32, 51}, {"150m", "48Mi", 15000, 48, 153}} {
		s.resize(t, "outlives", c.cpu, c.memory)
		if i > 0 { // else: while podd may work on it
			s.resized(t, "outlives")
		}
		s.Kill()
		s.Launch()
		s.WaitReady()
		pod = s.resized(t, "outlives")
		s.has(t, pod, c.quota, c.limit, c.shares)
	}
	if app(pod).RestartCount != 0 {
		t.Errorf("restarted %d times", app(pod).RestartCount)
	}
	s.remove(t, "outlives")
}

// A pod that asks for more than is left waits for its node, and one that was bound past all scheduling is turned away.
func (s *suite) resizeNoRoom(t *testing.T) {
	all := s.cpus(t)
	filling := sleeper("fills")
	filling.Container = fmt.Sprintf("resources: {requests: {cpu: %dm}}", all)
	s.running(t, filling)
	late := sleeper("late")
	late.Container = "resources: {requests: {cpu: 10m}}"
	s.apply(t, late)
	s.meaningPending(t, "late", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
	s.tells(t, "late", "FailedScheduling 0/1 nodes are available: 1 Insufficient cpu.")

	nodes, err := s.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bound := late
	bound.Name, bound.Spec = "bound", "nodeName: "+nodes.Items[0].Name
	s.apply(t, bound)
	pod := s.until(t, "bound", "failed", phase(v1.PodFailed))
	says := fmt.Sprintf("Node didn't have enough resource: cpu, requested: 10, used: %d, capacity: %[1]d", all)
	if pod.Status.Reason != "OutOfcpu" || pod.Status.Message != "Pod was rejected: "+says || len(status.Statuses(&pod.Status)) != 0 {
		t.Errorf("%s: %s %v", pod.Status.Reason, pod.Status.Message, pod.Status.ContainerStatuses)
	}
	s.tells(t, "bound", "OutOfcpu "+says)
	s.remove(t, "bound")
	s.remove(t, "fills")
	s.until(t, "late", "ready", ready)
	s.remove(t, "late")
}
