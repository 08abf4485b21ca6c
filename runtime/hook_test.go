package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"podd/runtime/containers"
	"podd/runtime/plan"
	"podd/status"
)

// lone is the host of one pod in the network of this machine, without a containerd: for what needs none.
type lone struct {
	*host
	pod *v1.Pod

	mu     sync.Mutex
	events []string
}

func newLone(t *testing.T, c v1.Container) *lone {
	l := &lone{}
	c.Name = "app"
	l.pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: types.UID("uid")}}
	l.pod.Spec = v1.PodSpec{HostNetwork: true, Containers: []v1.Container{c}}
	r := New(Options{RunDir: t.TempDir(), Node: status.Node{IPs: []string{"127.0.0.1"}}, Log: slog.New(slog.DiscardHandler),
		Event: func(_ *v1.Pod, container, kind, reason, format string, args ...any) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.events = append(l.events, fmt.Sprintf("%s %s %s "+format, append([]any{container, kind, reason}, args...)...))
		}})
	l.host = &host{r: r, uid: l.pod.UID, marks: markersOf(r.RunDir, l.pod.UID), story: newStory(r, l.pod.UID), announced: map[string]bool{}}
	return l
}

func (l *lone) step(op status.Op) plan.Step { return plan.Step{Op: op, Name: "app"} }

// seen is what the next look finds of the instance.
func (l *lone) seen(state status.State) status.Container {
	c := status.Container{ID: status.ContainerID(l.uid, "app", 0), State: state}
	l.findings(&c)
	return c
}

func (l *lone) told(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.events, want) {
		t.Errorf("events %q, not %q", l.events, want)
	}
}

// deaf is the port of a server that never answers.
func deaf(t *testing.T) intstr.IntOrString {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return intstr.FromInt(l.Addr().(*net.TCPAddr).Port)
}

func TestPostStart(t *testing.T) {
	hook := func(h v1.LifecycleHandler) v1.Container { return v1.Container{Lifecycle: &v1.Lifecycle{PostStart: &h}} }
	l := newLone(t, hook(v1.LifecycleHandler{Sleep: &v1.SleepAction{}}))
	if err := l.do(t.Context(), l.pod, l.step(plan.PostStart)); err != nil {
		t.Fatal(err)
	}
	if got := l.seen(status.Running).PostStart; got.Ended.IsZero() || got.Failed != "" {
		t.Errorf("a hook that went well: %+v", got)
	}
	l.told(t)

	l = newLone(t, hook(v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{}}))
	if err := l.do(t.Context(), l.pod, l.step(plan.PostStart)); err != nil {
		t.Fatal(err)
	}
	if got := l.seen(status.Running).PostStart; got.Ended.IsZero() || !strings.HasPrefix(got.Failed, "Cannot run handler: invalid handler: ") {
		t.Errorf("a hook that cannot go well: %+v", got)
	}
	l.told(t, "app Warning FailedPostStartHook PostStartHook failed")

	l = newLone(t, hook(v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: deaf(t)}}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.do(ctx, l.pod, l.step(plan.PostStart)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up: %v", err)
	}
	if got := l.seen(status.Running).PostStart; got != (status.Hook{}) {
		t.Errorf("a hook that was given up: %+v", got)
	}
	l.told(t)
}

// TestHookWithoutContainerd: a command whose end nobody can tell has not failed. It is run again.
func TestHookWithoutContainerd(t *testing.T) {
	command := v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}
	l := newLone(t, v1.Container{Lifecycle: &v1.Lifecycle{PostStart: &command, PreStop: &command}})
	client, err := containers.Connect(containers.Options{Address: filepath.Join(t.TempDir(), "none.sock"), RunDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	l.r.Containers = client
	for _, op := range []status.Op{plan.PostStart, plan.PreStop} {
		s := l.step(op)
		s.Deadline = time.Now().Add(time.Hour)
		if err := l.do(t.Context(), l.pod, s); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", op, err)
		}
	}
	if got := l.seen(status.Running); got.PostStart != (status.Hook{}) || got.PreStop != (status.Hook{}) {
		t.Errorf("noted: %+v %+v", got.PostStart, got.PreStop)
	}
	l.told(t, "app Normal Killing Stopping container app")
}

// TestPreStopIsCut at its deadline, whatever it does; that of a sleep is no failure that is told of.
func TestPreStopIsCut(t *testing.T) {
	const killing, failed = "app Normal Killing Stopping container app", "app Warning FailedPreStopHook PreStopHook failed"
	for _, c := range []struct {
		name string
		hook v1.LifecycleHandler
		note string
		told []string
	}{
		{"sleep", v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 60}}, errCut.Error(), []string{killing}},
		{"http", v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: deaf(t)}}, errCut.Error(), []string{killing, failed}},
		{"in time", v1.LifecycleHandler{Sleep: &v1.SleepAction{}}, "", []string{killing}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLone(t, v1.Container{Lifecycle: &v1.Lifecycle{PreStop: &c.hook}})
			s := l.step(plan.PreStop)
			s.Deadline = time.Now().Add(100 * time.Millisecond)
			if err := l.do(t.Context(), l.pod, s); err != nil {
				t.Fatal(err)
			}
			if got := l.seen(status.Running).PreStop; got.Ended.IsZero() || got.Failed != c.note {
				t.Errorf("noted %+v", got)
			}
			if late := time.Since(s.Deadline); late > time.Second {
				t.Errorf("it ended %s after its deadline", late)
			}
			l.announce(l.pod, s)
			l.told(t, c.told...)
		})
	}
}

func TestCondemn(t *testing.T) {
	l := newLone(t, v1.Container{})
	s := l.step(plan.Condemn)
	s.Cause, s.Why = status.ByLiveness, "Container app failed liveness probe, will be restarted"
	if err := l.do(t.Context(), l.pod, s); err != nil {
		t.Fatal(err)
	}
	first := l.seen(status.Running)
	if first.Condemned == nil || first.Condemned.By != status.ByLiveness || first.Condemned.Message != s.Why || time.Since(first.Condemned.At) > time.Minute {
		t.Fatalf("noted %+v", first.Condemned)
	}
	again := s
	again.Cause = status.BySpec
	if err := l.do(t.Context(), l.pod, again); err != nil {
		t.Fatal(err)
	}
	if next := l.seen(status.Exited); *next.Condemned != *first.Condemned || next.Replace {
		t.Errorf("condemned again: %+v, to be replaced %v", next.Condemned, next.Replace)
	}
	l.announced = map[string]bool{} // as another podd
	l.announce(l.pod, s)
	l.told(t, "app Normal Killing "+s.Why)

	l = newLone(t, v1.Container{})
	if err := l.do(t.Context(), l.pod, again); err != nil {
		t.Fatal(err)
	}
	if l.seen(status.Running).Replace || !l.seen(status.Exited).Replace {
		t.Error("one that was condemned for another spec is to be replaced when it has ended")
	}
}

// TestOverdue: that a pod's deadline has passed is told once, before its first container is ended.
func TestOverdue(t *testing.T) {
	l := newLone(t, v1.Container{})
	for _, name := range []string{"app", "other"} {
		if err := l.do(t.Context(), l.pod, plan.Step{Op: plan.Condemn, Name: name, Cause: status.ByDeadline, Why: "Stopping container " + name}); err != nil {
			t.Fatal(err)
		}
	}
	const event = " Normal DeadlineExceeded Pod was active on the node longer than the specified deadline"
	l.told(t, event, "app Normal Killing Stopping container app", "other Normal Killing Stopping container other")
}

// TestFailedKillPod: that a pod cannot be taken away is told of, and that podd has given that up is not.
func TestFailedKillPod(t *testing.T) {
	for name, c := range map[string]struct {
		end  func() (context.Context, context.CancelFunc)
		op   status.Op
		told []string
	}{
		"fails":    {func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 0) }, plan.DetachNetwork, []string{" Warning FailedKillPod error killing pod: context deadline exceeded"}},
		"given up": {func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, plan.DetachNetwork, nil},
		"another":  {func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 0) }, plan.Remove, nil},
	} {
		l := newLone(t, v1.Container{})
		l.warned = map[status.Task]warning{}
		l.r.ends = make(chan struct{}) // nothing can be taken away
		ctx, cancel := c.end()
		cancel()
		if err := l.Do(ctx, l.pod, l.step(c.op)); err == nil {
			t.Errorf("%s: no error", name)
		}
		l.told(t, c.told...)
	}
}

// TestProbeNotes: a result is noted and has the pod looked at; what is known of an instance goes with it.
func TestProbeNotes(t *testing.T) {
	spec := &v1.Probe{TimeoutSeconds: 1, PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 2, ProbeHandler: v1.ProbeHandler{
		TCPSocket: &v1.TCPSocketAction{Port: deaf(t)}}}
	l := newLone(t, v1.Container{StartupProbe: spec, ReadinessProbe: spec, LivenessProbe: spec})
	if err := l.do(t.Context(), l.pod, l.step(plan.Startup)); err != nil {
		t.Fatal(err)
	}
	if c := l.seen(status.Running); c.Startup != status.Success || c.Readiness != "" || c.Liveness != "" {
		t.Errorf("after startup: %+v", c)
	}
	l.r.mu.Lock()
	woken := l.r.dirty[l.uid]
	l.r.mu.Unlock()
	if !woken {
		t.Error("nobody was woken")
	}
	bad := spec.DeepCopy()
	bad.Exec, bad.TCPSocket = nil, &v1.TCPSocketAction{Port: intstr.FromInt(1)}
	l.pod.Spec.Containers[0].LivenessProbe = bad
	if err := l.do(t.Context(), l.pod, l.step(plan.Liveness)); err != nil {
		t.Fatal(err)
	}
	if c := l.seen(status.Running); c.Liveness != status.Failure {
		t.Errorf("after liveness: %+v", c)
	}
	const failed = "app Warning Unhealthy Liveness probe failed: dial tcp 127.0.0.1:1: connect: connection refused"
	l.told(t, failed, failed)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := l.do(ctx, l.pod, l.step(plan.Readiness)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("readiness ended: %v", err)
	}
	id := status.ContainerID(l.uid, "app", 0)
	if c := l.seen(status.Running); c.Readiness != status.Success {
		t.Errorf("after readiness: %+v", c)
	}
	if err := l.marks.forget(id); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(l.marks.dir + "/found"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if c := l.seen(status.Running); c.Startup != "" || c.Liveness != "" || c.Readiness != "" {
		t.Errorf("after all: %+v", c)
	}
}

func TestJitter(t *testing.T) {
	r := New(Options{})
	spec := &v1.Probe{PeriodSeconds: 3600}
	if got := r.jitter(spec, r.begun.Add(time.Second)); got != 0 {
		t.Errorf("what podd has started waits for %s", got)
	}
	var waits []time.Duration
	for range 20 {
		waits = append(waits, r.jitter(spec, r.begun.Add(-time.Second)))
	}
	if slices.Max(waits) == slices.Min(waits) || slices.Max(waits) >= time.Hour || slices.Min(waits) < 0 {
		t.Errorf("what podd has found waits for %v", waits)
	}
	r.begun = r.begun.Add(-2 * time.Hour)
	if got := r.jitter(spec, r.begun.Add(-time.Second)); got != 0 {
		t.Errorf("under an old podd it waits for %s", got)
	}
}
