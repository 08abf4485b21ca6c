//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// configure has podd started again with another configuration file. Without a word of images they stay.
func (s *suite) configure(t *testing.T, lines ...string) {
	t.Helper()
	if !strings.Contains(strings.Join(lines, " "), "image-gc-high") {
		lines = append(lines, "image-gc-high-threshold: 100")
	}
	must(t, os.WriteFile(filepath.Join(s.ConfigDir, "config.yaml"), []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	s.Restart()
}

// nodeUntil waits until the node has a condition, and for each kind of pressure just the taint that goes with it.
func (s *suite) nodeUntil(t *testing.T, kind v1.NodeConditionType, status v1.ConditionStatus) {
	t.Helper()
	eventually(t, func() error {
		node, err := s.client.CoreV1().Nodes().Get(t.Context(), s.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == kind && c.Status == status }) {
			return fmt.Errorf("%s is not %s: %+v", kind, status, node.Status.Conditions)
		}
		var has, want []string
		for _, taint := range node.Spec.Taints {
			has = append(has, taint.Key)
		}
		for _, c := range node.Status.Conditions {
			key := map[v1.NodeConditionType]string{v1.NodeMemoryPressure: "node.kubernetes.io/memory-pressure", v1.NodeDiskPressure: "node.kubernetes.io/disk-pressure"}[c.Type]
			if key != "" && c.Status == v1.ConditionTrue {
				want = append(want, key)
			}
		}
		if slices.Sort(has); !slices.Equal(has, slices.Sorted(slices.Values(want))) {
			return fmt.Errorf("taints %v, want %v", has, want)
		}
		return nil
	})
}

// disrupted is the condition DisruptionTarget, which only a pod that has failed may have.
func disrupted(t *testing.T, pod *v1.Pod) (is v1.PodCondition) {
	t.Helper()
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.DisruptionTarget {
			is = c
		}
	}
	if is.Type != "" && pod.Status.Phase != v1.PodFailed {
		t.Errorf("a pod that is %s has %+v", pod.Status.Phase, is)
	}
	return is
}

// evictedFor is what is to be seen of a pod that went for the host's sake.
func evictedFor(t *testing.T, pod *v1.Pod, begins string) {
	t.Helper()
	s := pod.Status
	if s.Phase != v1.PodFailed || s.Reason != "Evicted" || !strings.HasPrefix(s.Message, begins) {
		t.Errorf("%s: phase %s, reason %s, message %q, want %q", pod.Name, s.Phase, s.Reason, s.Message, begins)
	}
	if c := disrupted(t, pod); c.Status != v1.ConditionTrue || c.Reason != "TerminationByKubelet" || c.Message != s.Message {
		t.Errorf("%s: condition %+v", pod.Name, c)
	}
}

// TestDiskPressure: when there is too little room below the state directory, the pod goes that takes the most of it, and its files
// with it; podd may be killed meanwhile. New pods wait until the pressure is over. Those that run, that are critical or of a manifest
// file stay.
func TestDiskPressure(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithConfig(func(p *harness.Podd) {
		must(t, unix.Mount("tmpfs", p.Root, "tmpfs", 0, "size=100m,mode=0700"))
	}))
	write := func(mib int) string {
		return fmt.Sprintf("dd if=/dev/zero of=/v/big bs=1M count=%d 2>/dev/null && touch /tmp/full; %s", mib, sleepScript)
	}
	filler := func(name string, mib int) pod {
		return pod{Name: name, Script: write(mib), Spec: "restartPolicy: Always\nvolumes: [{name: v, emptyDir: {}}]",
			Container: "volumeMounts: [{name: v, mountPath: /v}]\nreadinessProbe: {exec: {command: [test, -e, /tmp/full]}, periodSeconds: 1}"}
	}
	critical := filler("critical", 12)
	critical.Spec += "\npriorityClassName: system-node-critical"
	small, large := filler("small", 1), filler("large", 24)
	s.apply(t, critical, small, large)
	for _, p := range []pod{critical, small, large} {
		s.until(t, p.Name, "full", ready)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(s.Root, &st))
	least := st.Bavail*uint64(st.Bsize) + 8<<20 // the large one has more than that
	s.configure(t, fmt.Sprintf("eviction-hard: nodefs.available<%d", least), "eviction-pressure-transition-period: 2s")
	s.event(t, large.Name, "Evicted")
	s.Restart() // it was noted, and is not forgotten
	gone := s.until(t, large.Name, "failed", phase(v1.PodFailed))
	evictedFor(t, gone, "The node was low on resource: ephemeral-storage. Threshold quantity: ")
	if !strings.Contains(gone.Status.Message, ", available: ") {
		t.Errorf("message %q", gone.Status.Message)
	}
	if got := s.event(t, s.NodeName, "EvictionThresholdMet"); got != "Attempting to reclaim ephemeral-storage" {
		t.Errorf("event %q", got)
	}
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(s.Root, "pods", string(gone.UID), "volumes")); !os.IsNotExist(err) {
			return fmt.Errorf("its volumes are still there (%v)", err)
		}
		return nil
	})
	s.must(t, "logs", large.Name)
	s.nodeUntil(t, v1.NodeDiskPressure, v1.ConditionFalse)

	// Nobody but critical pods is left to go for as much as there is; the others stay.
	for _, p := range []pod{critical, small} {
		if pod := s.until(t, p.Name, "there", func(*v1.Pod) bool { return true }); !ready(pod) || app(pod).RestartCount != 0 {
			t.Errorf("%s: %+v", p.Name, pod.Status)
		}
	}
	testUnsafe(t, s)
}

// testUnsafe: what podd does with new pods while there is too little room.
func testUnsafe(t *testing.T, s *suite) {
	s.configure(t, "eviction-hard: nodefs.available<99%", "eviction-pressure-transition-period: 1s")
	s.until(t, "small", "failed", phase(v1.PodFailed))
	s.nodeUntil(t, v1.NodeDiskPressure, v1.ConditionTrue)
	waits, bound, static, needed := sleeper("waits"), sleeper("bound"), sleeper("static"), sleeper("needed")
	bound.Spec = "nodeName: " + s.NodeName + "\nrestartPolicy: Always"
	needed.Spec = "nodeName: " + s.NodeName + "\npriorityClassName: system-cluster-critical"
	s.apply(t, waits, bound, needed)
	file := filepath.Join(s.ConfigDir, "manifests", "static.yaml")
	must(t, os.WriteFile(file, []byte(static.String()), 0o600))
	if got := s.event(t, "waits", "FailedScheduling"); !strings.Contains(got, "node.kubernetes.io/disk-pressure") {
		t.Errorf("event %q", got)
	}
	refused := s.until(t, "bound", "failed", phase(v1.PodFailed))
	if got, want := refused.Status.Message, "Pod was rejected: The node had condition: [DiskPressure]. "; refused.Status.Reason != "Evicted" || got != want {
		t.Errorf("reason %s, message %q, want %q", refused.Status.Reason, got, want)
	}
	if c := disrupted(t, refused); c.Type != "" || len(refused.Status.ContainerStatuses) != 0 {
		t.Errorf("one that was never taken up has %+v, %+v", c, refused.Status.ContainerStatuses)
	}
	if got := s.event(t, "bound", "Evicted"); got != "The node had condition: [DiskPressure]. " {
		t.Errorf("event %q", got)
	}
	s.until(t, "needed", "ready", ready)
	s.until(t, "static-"+s.NodeName, "ready", ready)
	s.until(t, "critical", "ready", ready)
	must(t, os.Remove(file))
	s.configure(t, `eviction-hard: ""`)
	s.nodeUntil(t, v1.NodeDiskPressure, v1.ConditionFalse)
	s.until(t, "waits", "ready", ready)
}

// TestMemoryPressure: one pod after the other goes, those first that use more than they asked for, of these the least important,
// and of these the one that uses the most beyond its request.
func TestMemoryPressure(t *testing.T) {
	t.Parallel()
	s := start(t)
	hog := func(name string, mib int, more string) pod {
		return pod{Name: name, Script: fmt.Sprintf("dd if=/dev/zero of=/m/big bs=1M count=%d 2>/dev/null && touch /tmp/full; %s", mib, sleepScript),
			Spec:      "restartPolicy: Always\nvolumes: [{name: m, emptyDir: {medium: Memory}}]\n" + more,
			Container: "volumeMounts: [{name: m, mountPath: /m}]\nreadinessProbe: {exec: {command: [test, -e, /tmp/full]}, periodSeconds: 1}"}
	}
	within, beyond := hog("within", 40, ""), hog("beyond", 40, "")
	within.Container += "\nresources: {requests: {memory: 256Mi}}"
	beyond.Container += "\nresources: {requests: {memory: 16Mi}}"
	all := []pod{hog("large", 60, ""), beyond, hog("less", 10, ""), hog("needed", 80, "priorityClassName: system-node-critical"), within}
	for _, p := range all {
		s.apply(t, p)
		s.until(t, p.Name, "full", ready)
	}
	s.configure(t, "eviction-hard: memory.available<99.9%", "eviction-pressure-transition-period: 30s")
	s.nodeUntil(t, v1.NodeMemoryPressure, v1.ConditionTrue)
	var order []string
	var last metav1.Time
	for _, name := range []string{"large", "beyond", "less", "within"} {
		pod := s.until(t, name, "failed", phase(v1.PodFailed))
		evictedFor(t, pod, "The node was low on resource: memory. Threshold quantity: ")
		says := strings.Contains(pod.Status.Message, "Container app was using ") && strings.HasSuffix(pod.Status.Message, "has larger consumption of memory. ")
		if says == (name == "within") {
			t.Errorf("%s: message %q", name, pod.Status.Message)
		}
		if end := app(pod).State.Terminated; end == nil || end.FinishedAt.Before(&last) {
			t.Errorf("%s went before %v: %+v", name, order, app(pod).State)
		} else {
			last = end.FinishedAt
		}
		order = append(order, name)
	}
	if got := s.event(t, s.NodeName, "EvictionThresholdMet"); got != "Attempting to reclaim memory" {
		t.Errorf("event %q", got)
	}
	s.until(t, "needed", "ready", ready)

	// New pods: one that asks for nothing is not taken, unless it tolerates the pressure; one that asks for something is.
	least, tolerant, asks := sleeper("least"), sleeper("tolerant"), sleeper("asks")
	least.Spec = "nodeName: " + s.NodeName
	tolerant.Spec = "nodeName: " + s.NodeName + "\ntolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]"
	asks.Spec, asks.Container = "nodeName: "+s.NodeName, "resources: {requests: {memory: 64Mi}}"
	s.apply(t, least, tolerant, asks)
	refused := s.until(t, "least", "failed", phase(v1.PodFailed))
	if got, want := refused.Status.Message, "Pod was rejected: The node had condition: [MemoryPressure]. "; refused.Status.Reason != "Evicted" || got != want {
		t.Errorf("reason %s, message %q, want %q", refused.Status.Reason, got, want)
	}
	for _, name := range []string{"tolerant", "asks"} { // the pressure goes on: they are taken, and go in their turn
		if pod := s.until(t, name, "evicted", phase(v1.PodFailed)); app(pod).ContainerID == "" {
			t.Errorf("%s did not run: %+v", name, pod.Status)
		}
	}
	s.configure(t, `eviction-hard: ""`)
}

// TestUnusedImages: while the disk is fuller than it should be, images go that podd has pulled and nobody uses. Those of pods, young
// ones, and those that were loaded and may be in no registry stay.
func TestUnusedImages(t *testing.T) {
	t.Parallel()
	h := newHub(t, "gc/used:1", "gc/unused:1", "gc/other:1")
	s := start(t)
	used, unused, loaded := h.address+"/gc/used:1", h.address+"/gc/unused:1", h.address+"/gc/other:1"
	for _, name := range []string{used, unused, loaded} {
		s.must(t, "image", "pull", name)
	}
	s.Image(loaded) // from now on another image, which came from a file
	s.running(t, pod{Name: "user", Script: sleepScript, Container: "image: " + used})
	there := func(name string) bool { return strings.Contains(s.must(t, "image", "ls", "-o", "name"), name) }
	settings := []string{`eviction-hard: ""`, "image-gc-high-threshold: 1", "image-gc-low-threshold: 0"}
	s.configure(t, append(settings, "minimum-image-ttl-duration: 1h")...)
	if got := s.event(t, s.NodeName, "FreeDiskSpaceFailed"); !strings.HasPrefix(got, "Insufficient free disk space on the node's image filesystem (") || !strings.Contains(got, "(freed ") {
		t.Errorf("event %q", got)
	}
	if !there(unused) {
		t.Error("a young image was taken away")
	}
	s.configure(t, append(settings, "minimum-image-ttl-duration: 0s")...)
	eventually(t, func() error {
		if there(unused) {
			return fmt.Errorf("%s is still there", unused)
		}
		return nil
	})
	for _, name := range []string{used, loaded, busybox} {
		if !there(name) {
			t.Errorf("%s was taken away", name)
		}
	}
	s.until(t, "user", "ready", ready)
	s.configure(t, `eviction-hard: ""`)
}

// TestPreemption: a critical pod for which there is no room left is taken all the same: of the others those go that free it, with
// their own grace period, and no more than are needed.
func TestPreemption(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--max-pods=3"))
	small, sure, other := sleeper("small"), sleeper("sure"), sleeper("other")
	sure.Container = "resources: {limits: {cpu: 10m, memory: 16Mi}}"
	small.Spec, small.Script = "terminationGracePeriodSeconds: 60", "trap 'sleep 3; exit 7' TERM; sleep 1000000 & wait"
	other.Container = "resources: {requests: {cpu: 10m}}"
	for _, p := range []pod{small, sure, other} {
		s.running(t, p)
	}
	plain, needed := sleeper("plain"), sleeper("needed")
	plain.Spec, needed.Spec = "nodeName: "+s.NodeName, "nodeName: "+s.NodeName+"\npriorityClassName: system-node-critical"
	s.apply(t, plain)
	if pod := s.until(t, "plain", "failed", phase(v1.PodFailed)); pod.Status.Reason != "OutOfpods" {
		t.Errorf("one that is not critical: %+v", pod.Status)
	}
	s.apply(t, needed)
	gone := s.until(t, "small", "failed", phase(v1.PodFailed))
	if got := gone.Status; got.Reason != "Preempting" || got.Message != "Preempted in order to admit critical pod" {
		t.Errorf("reason %s, message %q", got.Reason, got.Message)
	}
	if end := app(gone).State.Terminated; end == nil || end.ExitCode != 7 {
		t.Errorf("it did not have its grace period: %+v", app(gone).State)
	}
	if c := disrupted(t, gone); c.Reason != "TerminationByKubelet" || c.Message != "Pod was preempted by Kubelet to accommodate a critical pod." {
		t.Errorf("condition %+v", c)
	}
	if got := s.event(t, "small", "Preempting"); got != "Preempted in order to admit critical pod" {
		t.Errorf("event %q", got)
	}
	s.until(t, "needed", "ready", ready)
	for _, name := range []string{"sure", "other"} {
		if pod := s.until(t, name, "there", func(*v1.Pod) bool { return true }); !ready(pod) {
			t.Errorf("%s: %+v", name, pod.Status)
		}
	}
}
