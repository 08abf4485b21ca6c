package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/runtime/plan"
	"podd/status"
)

// scripted is a host whose facts the test sets and whose steps the test answers.
type scripted struct {
	mu        sync.Mutex
	pod       *v1.Pod
	facts     status.Facts
	begun     []status.Op
	published []v1.PodPhase
	asked     []bool // whether something may have changed, by look
	story     []string
	do        func(ctx context.Context, s plan.Step) error
}

func (h *scripted) Observe(_ context.Context, changed bool) (*v1.Pod, status.Facts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, changed)
	f := h.facts
	f.Containers, f.Sandboxes = slices.Clone(f.Containers), slices.Clone(f.Sandboxes) // the steps change the script's own
	f.Now = time.Now()
	return h.pod.DeepCopy(), f, nil
}

func (h *scripted) Do(ctx context.Context, _ *v1.Pod, s plan.Step) error {
	h.mu.Lock()
	h.begun = append(h.begun, s.Op)
	h.story = append(h.story, string(s.Op))
	do := h.do
	h.mu.Unlock()
	return do(ctx, s)
}

func (h *scripted) Publish(_ *v1.Pod, st v1.PodStatus) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.published = append(h.published, st.Phase)
	h.story = append(h.story, string(st.Phase))
	return nil
}

func (h *scripted) set(edit func(h *scripted)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	edit(h)
}

func (h *scripted) ops() []status.Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.begun)
}

func fresh() *scripted {
	return &scripted{
		pod: &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"},
			Spec: v1.PodSpec{
				RestartPolicy: v1.RestartPolicyAlways,
				Containers:    []v1.Container{{Name: "c", Image: "i", ImagePullPolicy: v1.PullIfNotPresent}},
			},
		},
		facts: status.Facts{Reachable: true, Limits: status.DefaultLimits(), Started: time.Now(), Ground: true, GroundLeft: true},
	}
}

// run drives a worker inside a bubble of fake time.
func run(t *testing.T, h *scripted, body func(w *Worker, ended <-chan error, cancel context.CancelFunc)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := New(h)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		body(w, ended, cancel)
	})
}

func TestADeleteGivesUpThePullAndNotTheSandbox(t *testing.T) {
	h := fresh()
	release := make(chan struct{})
	var pullErr, sandboxErr error
	h.do = func(ctx context.Context, s plan.Step) error {
		switch s.Op {
		case plan.PullImage:
			<-ctx.Done()
			pullErr = ctx.Err()
			return ctx.Err()
		case plan.EnsureSandbox:
			<-release
			sandboxErr = ctx.Err()
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{}) // of this bubble
		ctx, cancel := context.WithCancel(t.Context())
		w := New(h)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		if got := h.ops(); !slices.Contains(got, plan.PullImage) || !slices.Contains(got, plan.EnsureSandbox) {
			t.Fatalf("begun = %v, want a pull and a sandbox", got)
		}
		h.set(func(h *scripted) { h.pod.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(30 * time.Second)} })
		w.Poke()
		synctest.Wait()
		if !errors.Is(pullErr, context.Canceled) {
			t.Errorf("the pull ended with %v, want it cancelled", pullErr)
		}
		if got := h.ops(); slices.Contains(got, plan.RemoveSandbox) || slices.Contains(got, plan.RemoveGround) {
			t.Errorf("begun = %v: the sandbox is taken away while it is being made", got)
		}
		cancel()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("the worker ended before the step that changes the host")
		default:
		}
		close(release)
		<-ended
		if sandboxErr != nil {
			t.Errorf("the sandbox step saw %v: it must run to its end", sandboxErr)
		}
	})
}

func TestWhileContainerdIsAwayNothingIsGivenUp(t *testing.T) {
	h := fresh()
	var pullErr error
	h.do = func(ctx context.Context, s plan.Step) error {
		if s.Op == plan.PullImage {
			<-ctx.Done()
			pullErr = ctx.Err()
			return pullErr
		}
		return nil
	}
	run(t, h, func(w *Worker, _ <-chan error, cancel context.CancelFunc) {
		reach := func(reachable bool) {
			h.set(func(h *scripted) { h.facts.Reachable = reachable })
			w.Poke()
			synctest.Wait()
		}
		reach(false)
		h.set(func(h *scripted) { h.pod.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(30 * time.Second)} })
		reach(false)
		if pullErr != nil {
			t.Errorf("the pull ended with %v while containerd was away, want it to go on", pullErr)
		}
		reach(true)
		if !errors.Is(pullErr, context.Canceled) {
			t.Errorf("the pull ended with %v, want it cancelled: the pod is deleted", pullErr)
		}
		cancel()
		synctest.Wait()
	})
}

// over is a pod of policy Never whose container has ended.
func over() *scripted {
	h := fresh()
	h.pod.Spec.RestartPolicy = v1.RestartPolicyNever
	h.facts.Network = status.Network{Ready: true, Attached: true}
	h.facts.Sandboxes = []status.Sandbox{{ID: "s", State: status.Running, Present: true}}
	h.facts.Containers = []status.Container{{Name: "c", ID: "c", Sandbox: "s", State: status.Exited, FinishedAt: time.Now(), Present: true}}
	return h
}

// TestAnEndIsShownBeforeItIsClearedUp: an exit is stored at once, then the phase is published, and only then is anything
// taken away.
func TestAnEndIsShownBeforeItIsClearedUp(t *testing.T) {
	h := over()
	h.do = func(_ context.Context, s plan.Step) error {
		if s.Op == plan.Record {
			h.set(func(h *scripted) { h.facts.Containers[0].Recorded = true })
			return nil
		}
		return errors.New("not now")
	}
	run(t, h, func(_ *Worker, _ <-chan error, cancel context.CancelFunc) {
		h.set(func(h *scripted) {
			shown := slices.Index(h.story, string(v1.PodSucceeded))
			for _, op := range []status.Op{plan.Remove, plan.Conclude} {
				if at := slices.Index(h.story, string(op)); shown < 0 || at < shown {
					t.Errorf("story = %q, want %s after %s", h.story, op, v1.PodSucceeded)
				}
			}
		})
		cancel()
		synctest.Wait()
	})
}

// TestContainerdIsAskedOnlyForWhatMayHaveChanged: after the end of a step whose effect is known, what was seen before stands;
// after anything else it does not.
func TestContainerdIsAskedOnlyForWhatMayHaveChanged(t *testing.T) {
	h := over()
	h.facts.Network = status.Network{}
	h.do = func(ctx context.Context, s plan.Step) error {
		switch s.Op {
		case plan.Record:
			h.set(func(h *scripted) { h.facts.Containers[0].Recorded = true })
		case plan.Conclude:
			h.set(func(h *scripted) { h.facts.Verdict = s.Verdict })
		case plan.Remove:
			h.set(func(h *scripted) { h.facts.Containers[0].Present = false })
		case plan.RemoveSandbox:
			h.set(func(h *scripted) { h.facts.Sandboxes[0].Present = false })
		default:
			return errors.New("not now")
		}
		return nil
	}
	run(t, h, func(w *Worker, _ <-chan error, cancel context.CancelFunc) {
		asked := func() (all []bool) {
			h.set(func(h *scripted) { all, h.asked = h.asked, nil })
			return all
		}
		if got := asked(); len(got) < 4 || !got[0] || got[1] || got[2] || !slices.Contains(got[3:], true) {
			t.Errorf("changed = %v, want true at first, false after the record and the removal, true after that of the sandbox", got)
		}
		w.Poke()
		synctest.Wait()
		if got := asked(); len(got) == 0 || !got[0] {
			t.Errorf("changed = %v after a poke, want true", got)
		}
		w.Note()
		synctest.Wait()
		if got := asked(); len(got) == 0 || got[0] {
			t.Errorf("changed = %v after the host was told what has changed, want false", got)
		}
		time.Sleep(2 * relook)
		synctest.Wait()
		if got := asked(); len(got) == 0 || !got[0] {
			t.Errorf("changed = %v after the longest time without a look, want true", got)
		}
		cancel()
		synctest.Wait()
	})
}

func TestFailuresAreCountedAndForgotten(t *testing.T) {
	h := fresh()
	failing := true
	h.do = func(_ context.Context, s plan.Step) error {
		if s.Op == plan.EnsureNetwork && failing {
			return errors.New("no address left")
		}
		return nil
	}
	run(t, h, func(w *Worker, _ <-chan error, cancel context.CancelFunc) {
		count := func() (n int) {
			for _, op := range h.ops() {
				if op == plan.EnsureNetwork {
					n++
				}
			}
			return n
		}
		if got := count(); got != 1 {
			t.Fatalf("network tried %d times at once, want 1", got)
		}
		time.Sleep(30 * time.Second) // of the bubble's clock
		synctest.Wait()
		if got := count(); got < 4 || got > 8 {
			t.Errorf("network tried %d times in 30 s, want 4 to 8: 1, 2, 4, 8, then every 10 s", got)
		}
		w.wait.Wait()
		h.set(func(*scripted) { failing = false })
		cancel()
		synctest.Wait()
	})
}

func TestTheWorkerEndsWhenThePodIsFinished(t *testing.T) {
	h := fresh()
	h.facts.Gone, h.facts.Ground, h.facts.GroundLeft = true, false, false
	h.do = func(context.Context, plan.Step) error { return nil }
	run(t, h, func(_ *Worker, ended <-chan error, _ context.CancelFunc) {
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		if got := h.ops(); !slices.Equal(got, []status.Op{plan.Finish}) {
			t.Errorf("begun = %v, want only finish", got)
		}
	})
}

func TestAFailedFinishIsTriedAgain(t *testing.T) {
	h := fresh()
	h.facts.Gone, h.facts.Ground, h.facts.GroundLeft = true, false, false
	tries := 0
	h.do = func(context.Context, plan.Step) error {
		if tries++; tries < 3 {
			return errors.New("no space left on device")
		}
		return nil
	}
	run(t, h, func(_ *Worker, ended <-chan error, _ context.CancelFunc) {
		if err := <-ended; err != nil || tries != 3 {
			t.Errorf("Run = %v after %d tries, want nil after 3", err, tries)
		}
	})
}

// What failed for want of something is tried again as soon as that may be there, also if it comes while the step that lacks it
// is under way. Until then it waits for its back-off.
func TestForgive(t *testing.T) {
	h := fresh()
	h.facts.Ground = false
	there := false
	var arrive func()
	h.do = func(_ context.Context, s plan.Step) error {
		missing := !there
		if arrive != nil && s.Op == plan.EnsureGround {
			arrive()
			time.Sleep(time.Millisecond) // the worker looks meanwhile
		}
		if s.Op == plan.EnsureGround && missing {
			return fmt.Errorf("make volume: %w", absent{})
		}
		if s.Op == plan.EnsureGround {
			h.set(func(h *scripted) { h.facts.Ground = true })
		}
		return nil
	}
	tries := func() (n int) {
		for _, op := range h.ops() {
			if op == plan.EnsureGround {
				n++
			}
		}
		return n
	}
	run(t, h, func(w *Worker, _ <-chan error, _ context.CancelFunc) {
		time.Sleep(10 * time.Second) // at 0, 1, 3, 7 s
		synctest.Wait()
		if got := tries(); got != 4 {
			t.Fatalf("%d tries, want 4", got)
		}
		w.Forgive(plan.Create)
		synctest.Wait()
		if got := tries(); got != 4 {
			t.Errorf("%d tries after another step was forgiven", got)
		}
		arrive = func() { arrive, there = nil, true; w.Forgive(plan.EnsureGround) }
		w.Forgive(plan.EnsureGround) // this try fails, as it has looked before what it lacks arrives
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if got := tries(); got != 5 {
			t.Errorf("%d tries, want 5 within milliseconds", got)
		}
		time.Sleep(pardonEvery)
		synctest.Wait()
		if got := tries(); got != 6 || !h.facts.Ground {
			t.Errorf("%d tries, want 6 a second later", got)
		}
	})
}

// absent is an error for want of something.
type absent struct{}

func (absent) Error() string { return "it is missing" }
func (absent) Lacking()      {}

// What changes all the time and is never right is tried once a second, and what fails for another reason waits for its
// back-off.
func TestForgiveIsBounded(t *testing.T) {
	for _, c := range []struct {
		err  error
		most int
	}{{absent{}, 14}, {errors.New("no space left"), 4}} {
		h := fresh()
		h.facts.Ground = false
		var at []time.Time
		h.do = func(_ context.Context, s plan.Step) error {
			if s.Op != plan.EnsureGround {
				return nil
			}
			at = append(at, time.Now())
			return c.err
		}
		run(t, h, func(w *Worker, _ <-chan error, _ context.CancelFunc) {
			for range 1000 { // 10 s
				w.Forgive(plan.EnsureGround)
				time.Sleep(10 * time.Millisecond)
			}
			synctest.Wait()
			if len(at) < 4 || len(at) > c.most {
				t.Errorf("%v: %d tries within 10 s, want 4 to %d", c.err, len(at), c.most)
			}
		})
	}
}
