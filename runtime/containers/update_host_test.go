//go:build host

package containers_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func given(cpu, memory string) v1.ResourceRequirements {
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	return v1.ResourceRequirements{Requests: list, Limits: list}
}

// limitsOf is the shares, the quota and the memory limit of a cgroup.
func limitsOf(t *testing.T, cgroup string) string {
	t.Helper()
	files := []string{"cpu/%/cpu.shares", "cpu/%/cpu.cfs_quota_us", "memory/%/memory.limit_in_bytes"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		files = []string{"%/cpu.weight", "%/cpu.max", "%/memory.max"}
	}
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.Replace(f, "%", cgroup, 1)))
		if err != nil {
			t.Fatal(err)
		}
		value, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		out = append(out, value)
	}
	if len(files[0]) < len("cpu/%/cpu.shares") {
		out[0] = map[string]string{"4": "102", "8": "204", "2": "51"}[out[0]] // weights, as runc converts them
	}
	return strings.Join(out, " ")
}

// TestUpdate resizes a running container and its pod's cgroup, up and down, and not below the memory that is in use.
func TestUpdate(t *testing.T) {
	const holding = "busybox dd if=/dev/zero of=/dev/shm/held bs=1000000 count=20; echo held; sleep 1000"
	small, big, least := given("100m", "64Mi"), given("200m", "96Mi"), given("50m", "8Mi")
	container := v1.Container{Name: "app", Resources: small}
	p := newPod(t, func(pod *v1.Pod) { pod.Spec.Containers = []v1.Container{container} })
	cfg := p.config("app", holding, func(c *v1.Container) { c.Resources = small })
	out := p.start(cfg)
	if _, err := out.ReadFull(make([]byte, len("held\n"))); err != nil {
		t.Fatal(err)
	}
	cgroup, pods := p.look(cfg.ID).Cgroup, p.ref.CgroupPath
	at := func(step, wantPod, wantOwn string) {
		t.Helper()
		if got := limitsOf(t, pods); got != wantPod {
			t.Errorf("%s: the pod has %s, want %s", step, got, wantPod)
		}
		if got := limitsOf(t, cgroup); got != wantOwn {
			t.Errorf("%s: the container has %s, want %s", step, got, wantOwn)
		}
	}
	const atSmall, atBig = "102 10000 67108864", "204 20000 100663296"
	at("made", atSmall, atSmall)

	p.Spec.Containers[0].Resources = big
	p.check(boxes.CheckCgroup(p.Pod))
	p.check(boxes.RaiseCgroup(p.Pod))
	at("raised", atBig, atSmall)
	p.check(client.UpdateTask(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]))
	at("updated", atBig, atBig)
	if r := p.look(cfg.ID).Resources; r.Limits.Cpu().MilliValue() != 100 {
		t.Errorf("noted before it is: %v", r)
	}
	p.check(client.NoteResources(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]))
	if r := p.look(cfg.ID).Resources; r.Limits.Cpu().MilliValue() != 200 || r.Requests.Memory().Value() != 96<<20 {
		t.Errorf("noted %v", r)
	}

	if whole := p.look(cfg.ID).Whole; whole == nil || len(whole.Limits) != 0 {
		t.Errorf("noted %v of the pod", whole)
	}
	// Without a limit of its own it is held to the pod's, in a cgroup that has that.
	own := given("300m", "128Mi")
	p.Spec.Containers[0].Resources, p.Spec.Resources = v1.ResourceRequirements{}, &own
	p.check(boxes.RaiseCgroup(p.Pod))
	p.check(client.UpdateTask(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]))
	p.check(client.NoteResources(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]))
	for _, dir := range []string{pods, cgroup} {
		if got := limitsOf(t, dir); !strings.HasSuffix(got, " 30000 134217728") {
			t.Errorf("of the pod's: %s has %s", dir, got)
		}
	}
	if whole := p.look(cfg.ID).Whole; whole == nil || whole.Limits.Memory().Value() != 128<<20 {
		t.Errorf("noted %v of the pod", whole)
	}
	p.Spec.Resources = nil

	p.Spec.Containers[0].Resources = small
	p.check(boxes.RaiseCgroup(p.Pod)) // takes no limit back
	if got := limitsOf(t, pods); !strings.HasSuffix(got, " 30000 134217728") {
		t.Errorf("the pod has %s", got)
	}
	p.check(client.UpdateTask(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]))
	p.check(boxes.LowerCgroup(p.Pod))
	at("lowered", atSmall, atSmall)

	used, err := client.MemoryInUse(cgroup)
	if err != nil || used < 20000000 || used > 64<<20 {
		t.Errorf("in use: %d, %v", used, err)
	}
	p.Spec.Containers[0].Resources = least
	for what, err := range map[string]error{
		"CheckCgroup": boxes.CheckCgroup(p.Pod), "LowerCgroup": boxes.LowerCgroup(p.Pod), "UpdateTask": client.UpdateTask(t.Context(), cfg.ID, p.Pod, &p.Spec.Containers[0]),
	} {
		if err == nil || what != "UpdateTask" && !strings.Contains(err.Error(), "attempting to set pod memory limit (8388608) below current usage (") {
			t.Errorf("%s below what is in use: %v", what, err)
		}
	}
	if got := limitsOf(t, cgroup); !strings.HasSuffix(got, " 67108864") {
		t.Errorf("the container has %s", got)
	}
	if i := p.look(cfg.ID); i.Task != "running" {
		t.Errorf("it is %s", i.Task)
	}
}
