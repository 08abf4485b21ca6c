//go:build host

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// testHugePages is what a pod sees of the huge pages that it asks for: volumes of them, what it may take, what it is told
// of them, and that they stay as they are.
func testHugePages(t *testing.T, s *suite) {
	if s.huge != nil {
		t.Skip(s.huge)
	}
	asks := func(pages string) string {
		return "resources: {limits: {memory: 64Mi, hugepages-2Mi: " + pages + "}, requests: {cpu: 1m, memory: 1Mi}}"
	}
	p := sleeper("huge")
	p.Spec = "volumes: [{name: a, emptyDir: {medium: HugePages, sizeLimit: 4Mi}}, {name: b, emptyDir: {medium: HugePages-2Mi}}, " +
		"{name: d, downwardAPI: {items: [{path: pages, resourceFieldRef: {containerName: other, resource: limits.hugepages-2Mi, divisor: 1Ki}}]}}]"
	mounts := "volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, {name: d, mountPath: /d}]\n"
	p.Container = asks("4Mi") + "\n" + mounts +
		"env: [{name: PAGES, valueFrom: {resourceFieldRef: {resource: limits.hugepages-2Mi, divisor: 1Mi}}}, {name: ASKED, valueFrom: {resourceFieldRef: {resource: requests.hugepages-2Mi}}}]"
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n" + indent(2, asks("2Mi")+"\n"+mounts)
	pod := s.running(t, p)
	for _, c := range []struct{ does, want string }{
		{"awk '$2 ~ \"^/[ab]$\" {print $2, $3, $4}' /proc/mounts | sed 's/rw,relatime,//'", "/a hugetlbfs mode=777,pagesize=2M,size=4194304\n/b hugetlbfs mode=777,pagesize=2M,size=6291456"},
		{"echo $PAGES $ASKED; cat /d/pages", "4 4194304\n2048"},
		{"fallocate -l 4M /a/x && stat -c %s /a/x; fallocate -l 6M /a/y 2>&1; rm -f /a/y", "4194304\nfallocate: fallocate '/a/y': No space left on device"},
	} {
		if got := s.sh(t, p.Name, c.does+"; true"); got != c.want {
			t.Errorf("%s: %q, want %q", c.does, got, c.want)
		}
	}
	if got := s.must(t, "exec", p.Name, "-c", "other", "--", "stat", "-c", "%s", "/a/x"); got != "4194304\n" {
		t.Errorf("the other member sees %q", got)
	}
	s.hugeLimits(t, pod)
	if got := app(pod).Resources.Limits["hugepages-2Mi"]; got.Value() != 4<<20 {
		t.Errorf("the status says %s", got.String())
	}
	patch := `{"spec":{"containers":[{"name":"app","resources":{"requests":{"hugepages-2Mi":"2Mi"},"limits":{"hugepages-2Mi":"2Mi"}}}]}}`
	_, err := s.client.CoreV1().Pods("default").Patch(t.Context(), p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	if err == nil || !strings.Contains(err.Error(), "only cpu and memory resources are mutable") {
		t.Errorf("resize: %v", err)
	}
	got := s.must(t, "describe", "node", s.NodeName)
	for _, want := range []string{`Capacity:(\n  .*)*\n  hugepages-2Mi: +\d{2,}`, `Allocated resources:(\n  .*)*\n  hugepages-2Mi +[1-9]\S* \(\d+%\)`} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("podctl describe node has no %q:\n%s", want, got)
		}
	}
	s.remove(t, p.Name)
	if err := s.unmounted(pod, ""); err != nil {
		t.Error(err)
	}
}

// hugeLimits: the pod, which has 4 MiB in /a already, gets what it asks for of huge pages and no more, where the host limits
// that at all; where not, an event says so.
func (s *suite) hugeLimits(t *testing.T, pod *v1.Pod) {
	t.Helper()
	files, err := filepath.Glob("/sys/fs/cgroup/*/*/kubepods/burstable/pod" + string(pod.UID) + "/hugetlb.2MB.*")
	v2, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods/burstable/pod" + string(pod.UID) + "/hugetlb.2MB.*")
	must(t, err)
	limits := 0
	for _, file := range append(files, v2...) {
		if name := strings.TrimPrefix(filepath.Base(file), "hugetlb.2MB."); name != "max" && name != "rsvd.max" && !strings.HasSuffix(name, "limit_in_bytes") {
			continue
		}
		limits++
		if got, err := os.ReadFile(file); err != nil || string(got) != "6291456\n" {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	if limits == 0 {
		s.event(t, pod.Name, "HugePagesNotLimited")
		return
	}
	const want = "2097152\nfallocate: fallocate '/b/y': No space left on device"
	if got := s.sh(t, pod.Name, "fallocate -l 2M /b/x && stat -c %s /b/x; rm -f /b/x; fallocate -l 4M /b/y 2>&1; rm -f /b/y"); got != want {
		t.Errorf("within and beyond what the pod asks for: %q, want %q", got, want)
	}
}

// What cannot be had of huge pages is one clear reason, and the pod starts when it can.
func testHugePagesLacking(t *testing.T, s *suite) {
	ask := func(name, medium, pages string) pod {
		p := sleeper(name)
		p.Spec = "volumes: [{name: v, emptyDir: {medium: " + medium + "}}]"
		p.Container = "resources: {limits: {memory: 8Mi" + pages + "}, requests: {memory: 1Mi}}\nvolumeMounts: [{name: v, mountPath: /v}]"
		return p
	}
	for name, c := range map[string]struct {
		pod           pod
		reason, event string
	}{
		"size":  {ask("huge-size", "HugePages-3Mi", ", hugepages-3Mi: 3Mi"), "FailedScheduling", "0/1 nodes are available: 1 Insufficient hugepages-3Mi."},
		"many":  {ask("huge-many", "HugePages", ", hugepages-2Mi: 1Ti"), "FailedScheduling", "0/1 nodes are available: 1 Insufficient hugepages-2Mi."},
		"none":  {ask("huge-none", "HugePages", ""), "FailedMount", `MountVolume.SetUp failed for volume "v" : medium HugePages: hugePages storage requested, but there is no resource request for huge pages`},
		"named": {ask("huge-named", "HugePages-1Gi", ", hugepages-2Mi: 0"), "FailedMount", `MountVolume.SetUp failed for volume "v" : medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.apply(t, c.pod)
			if got := s.event(t, c.pod.Name, c.reason); got != c.event {
				t.Errorf("event %s: %q, want %q", c.reason, got, c.event)
			}
			s.remove(t, c.pod.Name)
		})
	}
	t.Run("bound", func(t *testing.T) {
		t.Parallel()
		p := ask("huge-bound", "HugePages", ", hugepages-3Mi: 3Mi")
		p.Spec += "\nnodeName: " + s.NodeName
		s.apply(t, p)
		pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
		if got := pod.Status.Reason + ": " + pod.Status.Message; got != "OutOfhugepages-3Mi: Pod was rejected: Node didn't have enough resource: hugepages-3Mi, requested: 3145728, used: 0, capacity: 0" {
			t.Errorf("it is %s", got)
		}
		s.remove(t, p.Name)
	})
}

// hugePagesKilled: a volume of huge pages and what is in it outlive podd, which is killed; it goes by the teardown.
func (s *suite) hugePagesKilled(t *testing.T) (torn func()) {
	t.Helper()
	p := sleeper("huge-killed")
	p.Spec = "volumes: [{name: v, emptyDir: {medium: HugePages}}]"
	p.Container = "resources: {limits: {memory: 64Mi, hugepages-2Mi: 2Mi}}\nvolumeMounts: [{name: v, mountPath: /v}]"
	pod := s.running(t, p)
	s.sh(t, p.Name, "fallocate -l 2M /v/x")
	s.Kill()
	s.Restart()
	if got := s.sh(t, p.Name, "stat -c %s /v/x"); got != "2097152" {
		t.Errorf("after podd was killed: %q", got)
	}
	if err := s.unmounted(pod, "/v"); err == nil {
		t.Error("nothing is mounted for the pod that runs")
	}
	return func() {
		if err := s.unmounted(pod, ""); err != nil {
			t.Error(err)
		}
	}
}
