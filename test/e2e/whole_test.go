//go:build host

package e2e

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// testWhole is about the resources of a pod as a whole: its cgroup, what its containers have of them, its class, its status,
// the room that it takes, and the kernel's end of a container of a pod that has too much.
func testWhole(t *testing.T, s *suite) {
	t.Run("burstable", func(t *testing.T) {
		t.Parallel()
		p := sleeper("whole")
		p.Spec = "resources: {requests: {cpu: 250m, memory: 64Mi}, limits: {cpu: 500m, memory: 96Mi}}"
		p.Script = "echo $CPU $MEMORY; " + sleepScript
		p.Container = "env:\n- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}\n" +
			"- {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}"
		p.More = "- name: own\n  image: " + busybox + "\n  command: [sleep, '1000000']\n  " + resources("100m", "32Mi")
		pod := s.running(t, p)
		is := func(l v1.ResourceList) string { return l.Cpu().String() + " " + l.Memory().String() }
		if pod.Status.QOSClass != v1.PodQOSBurstable || is(pod.Status.AllocatedResources) != "250m 64Mi" ||
			is(pod.Status.Resources.Limits) != "500m 96Mi" || is(pod.Status.Resources.Requests) != "250m 64Mi" {
			t.Errorf("status: %s, allocated %s, resources %v", pod.Status.QOSClass, is(pod.Status.AllocatedResources), pod.Status.Resources)
		}
		for _, c := range pod.Status.ContainerStatuses {
			want := map[string][3]int{"app": {50000, 96, 512}, "own": {10000, 32, 102}}[c.Name]
			s.holds(t, pod, c, [3]int{50000, 96, 256}, want)
		}
		s.untilLog(t, "whole", "500 96\n")
		s.remove(t, "whole")
	})
	t.Run("guaranteed", func(t *testing.T) {
		t.Parallel()
		p := sleeper("whole-guaranteed")
		p.Spec = "resources: {limits: {cpu: 100m, memory: 64Mi}}"
		pod := s.running(t, p)
		if pod.Status.QOSClass != v1.PodQOSGuaranteed {
			t.Errorf("it is %s", pod.Status.QOSClass)
		}
		s.holds(t, pod, app(pod), [3]int{10000, 64, 102}, [3]int{10000, 64, 102})
		s.remove(t, "whole-guaranteed")
	})
	t.Run("memory", func(t *testing.T) { // each container is within the pod's limit, and both together are not
		t.Parallel()
		p := pod{Name: "whole-memory", Spec: "resources: {limits: {memory: 48Mi}}", Script: "dd if=/dev/zero of=/dev/shm/held bs=1000000 count=30; " + sleepScript,
			More: "- name: other\n  image: " + busybox + "\n  command: [sh, -c, 'until [ \"$(stat -c %s /dev/shm/held)\" = 30000000 ]; do usleep 50000; done; exec dd if=/dev/zero of=/dev/null bs=30000000 count=1']"}
		s.apply(t, p)
		pod := s.until(t, p.Name, "ended", func(pod *v1.Pod) bool {
			return pod != nil && len(pod.Status.ContainerStatuses) == 2 && pod.Status.ContainerStatuses[1].State.Terminated != nil
		})
		if end := pod.Status.ContainerStatuses[1].State.Terminated; end.Reason != "OOMKilled" || end.ExitCode != 137 {
			t.Errorf("it ended by %s, %d", end.Reason, end.ExitCode)
		}
		if app(pod).State.Running == nil {
			t.Errorf("the other one is %v", app(pod).State)
		}
		s.remove(t, p.Name)
	})
	t.Run("no room", func(t *testing.T) {
		t.Parallel()
		p := sleeper("whole-big")
		p.Spec = "resources: {requests: {cpu: '1000'}}"
		s.apply(t, p)
		s.meaningPending(t, p.Name, "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
		s.remove(t, p.Name)
	})
}

// holds checks quota, memory limit in MiB and shares that the kernel was told of a pod and of a container of it.
func (s *suite) holds(t *testing.T, pod *v1.Pod, c v1.ContainerStatus, whole, one [3]int) {
	t.Helper()
	says := func(l [3]int) string {
		if unified() {
			return fmt.Sprint(l[0], l[1]<<20)
		}
		return fmt.Sprint(l[0], l[1]<<20, l[2])
	}
	if own, container := s.kernelOf(t, pod, c); own != says(whole) || container != says(one) {
		t.Errorf("%s: the pod's cgroup has %s, want %s; the container's %s, want %s", c.Name, own, says(whole), container, says(one))
	}
}
