package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/fit"
	"podd/status"
	"podd/store"
)

// promising is a runtime with two cpus and three pods' room that runs nothing.
type promising struct {
	*Runtime
	t      *testing.T
	mu     sync.Mutex
	events []string // guarded by mu
}

func newPromising(t *testing.T) *promising {
	t.Helper()
	s, err := store.Open(store.Options{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p := &promising{t: t}
	p.Runtime = New(Options{
		Store: s, Node: status.Node{Name: "host"}, RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Allocatable: func() v1.ResourceList { return amounts("2", "1Gi", "3") },
		Event: func(pod *v1.Pod, _, _, reason, format string, args ...any) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, pod.Name+" "+reason+" "+fmt.Sprintf(format, args...))
		},
	})
	return p
}

func amounts(cpu, memory, pods string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory), v1.ResourcePods: resource.MustParse(pods)}
}

// bound stores a pod of this host that asks for so much cpu, and for ports.
func (p *promising) bound(name, cpu string, ports ...v1.ContainerPort) (*v1.Pod, *host) {
	p.t.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + name), Generation: 1}}
	pod.Spec.NodeName = "host"
	pod.Spec.Containers = []v1.Container{{Name: "c", Image: "i", Ports: ports}}
	if cpu != "" {
		pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	}
	pod, err := p.Store.AdoptPod(p.t.Context(), pod)
	if err != nil {
		p.t.Fatal(err)
	}
	return pod, newHost(p.Runtime, pod.UID)
}

// TestWhoseItIs: a pod that waits for a node is nobody's, also when it is deleted. That of another host is finished here.
func TestWhoseItIs(t *testing.T) {
	p := newPromising(t)
	for _, c := range []struct {
		name, node    string
		deleted, mine bool
	}{
		{"here", "host", false, true},
		{"here-going", "host", true, true},
		{"elsewhere", "other", false, false},
		{"elsewhere-going", "other", true, true},
		{"unbound", "", false, false},
		{"unbound-going", "", true, false},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.name, Namespace: "ns", UID: types.UID(c.name)}, Spec: v1.PodSpec{NodeName: c.node}}
		if c.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		if _, err := p.Store.AdoptPod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if got := p.mine(pod.UID); got != c.mine {
			t.Errorf("%s: mine = %v", c.name, got)
		}
	}
}

func asks(pod *v1.Pod, cpu string) *v1.Pod {
	pod = pod.DeepCopy()
	pod.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse(cpu)
	return pod
}

func (p *promising) woken(uid types.UID) bool {
	p.Runtime.mu.Lock()
	defer p.Runtime.mu.Unlock()
	was := p.dirty[uid]
	delete(p.dirty, uid)
	return was
}

// TestRefusal: a pod that was bound although it does not fit is refused, before it is taken up and when it is.
func TestRefusal(t *testing.T) {
	p := newPromising(t)
	first, host1 := p.bound("first", "1500m")
	second, host2 := p.bound("second", "501m")
	if v := host2.refusal(second); v != nil { // who is bound and not taken up holds nothing
		t.Errorf("refused: %v", v)
	}
	if err := host1.admit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	const says = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
	if v := host2.refusal(second); v == nil || *v != (status.Verdict{Phase: v1.PodFailed, Reason: "OutOfcpu", Message: says}) {
		t.Errorf("refused: %v", v)
	}
	if err := host2.admit(t.Context(), second); err == nil || !strings.Contains(err.Error(), says) || !host2.record().Started.IsZero() {
		t.Errorf("taken up: %v", err)
	}
	if v := host1.refusal(asks(first, "100")); v != nil { // who has its place keeps it
		t.Errorf("refused: %v", v)
	}
	if err := host1.conclude(t.Context(), first, &status.Verdict{Phase: v1.PodSucceeded}); err != nil { // who is over holds nothing
		t.Fatal(err)
	}
	if v := host2.refusal(second); v != nil {
		t.Errorf("refused: %v", v)
	}
	if err := host2.conclude(t.Context(), second, &status.Verdict{Phase: v1.PodFailed, Reason: "OutOfcpu", Message: "Pod was rejected: why"}); err != nil {
		t.Fatal(err)
	}
	if len(p.events) != 1 || p.events[0] != "second OutOfcpu why" {
		t.Errorf("events: %q", p.events)
	}
}

// TestRefusalPorts: a port of the host is one pod's, for those as well that no scheduler has seen.
func TestRefusalPorts(t *testing.T) {
	p := newPromising(t)
	port := v1.ContainerPort{ContainerPort: 80, HostPort: 8080}
	first, host1 := p.bound("first", "", port)
	second, host2 := p.bound("second", "", port)
	if err := host1.admit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	const says = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
	if v := host2.refusal(second); v == nil || *v != (status.Verdict{Phase: v1.PodFailed, Reason: "NodePorts", Message: says}) {
		t.Errorf("refused: %v", v)
	}
	if err := host2.admit(t.Context(), second); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("taken up: %v", err)
	}
	if err := host1.conclude(t.Context(), first, &status.Verdict{Phase: v1.PodSucceeded}); err != nil {
		t.Fatal(err)
	}
	if v := host2.refusal(second); v != nil {
		t.Errorf("refused when the port is free: %v", v)
	}
}

// TestRefusalPods: the node has room for a number of pods, whatever they ask for.
func TestRefusalPods(t *testing.T) {
	p := newPromising(t)
	for i := range 4 {
		pod, h := p.bound(fmt.Sprint("p", i), "")
		v := h.refusal(pod)
		if i < 3 && v != nil || i == 3 && (v == nil || v.Reason != "OutOfpods") {
			t.Errorf("pod %d: %v", i, v)
		}
		if i < 3 {
			if err := h.admit(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAdmitAtOnce: of pods that are taken up at the same time as many are as there is room for.
func TestAdmitAtOnce(t *testing.T) {
	p := newPromising(t)
	var taking sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for i := range 16 {
		pod, h := p.bound(fmt.Sprint("p", i), "1")
		taking.Go(func() {
			if err := h.admit(context.Background(), pod); err == nil {
				mu.Lock()
				taken++
				mu.Unlock()
			}
		})
	}
	taking.Wait()
	if taken != 2 {
		t.Errorf("%d pods of one cpu are taken up on two", taken)
	}
}

// TestAllocate: what a resize asks for is admitted when it is there, one that has to wait is told how much there is, and
// woken when there may be more. All of it is known to a podd that comes back.
func TestAllocate(t *testing.T) {
	p := newPromising(t)
	a, hostA := p.bound("a", "500m")
	b, hostB := p.bound("b", "1")
	if err := errors.Join(hostA.admit(t.Context(), a), hostB.admit(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	if room := hostA.room(a, hostA.record()); room != nil {
		t.Errorf("a pod that asks for what it has is told of room: %v", room)
	}
	more := asks(a, "1500m")
	room := hostA.room(more, hostA.record())
	if room.Cpu().MilliValue() != 1000 || room.Memory().Value() != 1<<30 {
		t.Errorf("room %v", room)
	}
	if err := hostA.allocate(t.Context(), more); err != nil || hostA.admitted(more).Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 500 {
		t.Errorf("it got what is not there: %v, %v", hostA.record().Allocated, err)
	}
	p.woken(a.UID)
	less := asks(b, "500m")
	if err := hostB.allocate(t.Context(), less); err != nil {
		t.Fatal(err)
	}
	if !p.woken(a.UID) {
		t.Error("nobody told the one that waits that the other has shrunk")
	}
	p.Runtime = New(p.Options) // podd comes back
	hostA = newHost(p.Runtime, a.UID)
	if room := hostA.room(more, hostA.record()); room.Cpu().MilliValue() != 1500 {
		t.Errorf("room %v", room)
	}
	if err := hostA.allocate(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if r := newHost(p.Runtime, a.UID).record(); !r.Resized || fit.Of(withResources(a, r.Allocated)).CPU != 1500 {
		t.Errorf("stored %+v", r)
	}
	want := []string{
		`b ResizeStarted Pod resize started: {"containers":[{"name":"c","resources":{"requests":{"cpu":"500m"}}}],"generation":1}`,
		`b ResizeCompleted Pod resize completed: {"containers":[{"name":"c","resources":{"requests":{"cpu":"500m"}}}],"generation":1}`,
		`a ResizeStarted Pod resize started: {"containers":[{"name":"c","resources":{"requests":{"cpu":"1500m"}}}],"generation":1}`,
		`a ResizeCompleted Pod resize completed: {"containers":[{"name":"c","resources":{"requests":{"cpu":"1500m"}}}],"generation":1}`,
	}
	if strings.Join(p.events, "\n") != strings.Join(want, "\n") {
		t.Errorf("events:\n%s", strings.Join(p.events, "\n"))
	}
}

// TestAllocatedOfOlder: a pod of a podd that noted no resources has those of its spec once its worker runs. Who only asks stores
// nothing: the runtime asks under a lock that the store waits for.
func TestAllocatedOfOlder(t *testing.T) {
	p := newPromising(t)
	pod, h := p.bound("old", "1")
	if err := h.change(t.Context(), func(r record) record { r.Started = time.Now(); return r }); err != nil {
		t.Fatal(err)
	}
	newHost(p.Runtime, pod.UID).storeAdopted(t.Context())
	data, _ := p.Store.Record(pod.UID)
	if r, err := decodeRecord(data); err != nil || !sameResources(pod, r.Allocated) || sameResources(asks(pod, "2"), r.Allocated) {
		t.Errorf("stored %+v, %v", r, err)
	}
}

// TestPromiseBesideAnotherChange: what a pod was given counts while it is being stored, whatever else is stored of the pod
// meanwhile; and what it gives back counts until that is stored.
func TestPromiseBesideAnotherChange(t *testing.T) {
	p := newPromising(t)
	pod, h := p.bound("a", "500m")
	if err := h.admit(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	left := func(want string) {
		t.Helper()
		p.promises.mu.Lock()
		defer p.promises.mu.Unlock()
		if got, _ := p.others("another"); got.CPU != quantity(want) {
			t.Errorf("the pod holds %vm of cpu, want %s", got, want)
		}
	}
	promise := func(cpu string) {
		t.Helper()
		next := h.record()
		next.Allocated = resourcesOf(asks(pod, cpu))
		if lacks := h.promise(fit.Amount{}, nil, next); lacks != nil {
			t.Fatal(lacks)
		}
	}
	promise("1500m")
	left("1500m")
	if err := h.change(t.Context(), func(r record) record { r.IPs = []string{"10.0.0.1"}; return r }); err != nil {
		t.Fatal(err)
	}
	left("1500m")
	h.settle()
	left("500m")
	promise("100m")
	left("500m")
	if err := h.change(t.Context(), func(r record) record { r.Allocated = resourcesOf(asks(pod, "100m")); return r }); err != nil {
		t.Fatal(err)
	}
	h.settle()
	left("100m")
}

func quantity(cpu string) int64 { q := resource.MustParse(cpu); return q.MilliValue() }

// TestImagesCame: pods that lack an image look at once when one comes, and no others.
func TestImagesCame(t *testing.T) {
	p := newPromising(t)
	for name, reason := range map[string]string{
		"back-off": "ImagePullBackOff", "failed": "ErrImagePull", "never": "ErrImageNeverPull", "crash": "CrashLoopBackOff", "new": "ContainerCreating", "runs": "",
	} {
		_, h := p.bound(name, "")
		c := v1.ContainerStatus{Name: "c"}
		if reason != "" {
			c.State.Waiting = &v1.ContainerStateWaiting{Reason: reason}
		}
		err := p.Store.SetStatus(t.Context(), h.uid, func(s v1.PodStatus) v1.PodStatus {
			s.ContainerStatuses = []v1.ContainerStatus{c}
			return s
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	clear(p.dirty)
	p.ImagesCame()
	if got, want := slices.Sorted(maps.Keys(p.dirty)), []types.UID{"uid-back-off", "uid-failed", "uid-never"}; !slices.Equal(got, want) {
		t.Errorf("woken: %v, want %v", got, want)
	}
}
