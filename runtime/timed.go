package runtime

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/plan"
	"podd/runtime/worker"
	"podd/status"
)

// Timing is told how long looks and steps take. Its functions must not block; nil ones are not called.
type Timing struct {
	Turn func(took time.Duration)
	Step func(kind string, took time.Duration, err error)
}

// timed is a host whose work is timed, and told.
type timed struct {
	worker.Host
	timing Timing
	story  *story
	begun  time.Time // of the look under way; of the worker's goroutine
}

// Observe begins a look.
func (t *timed) Observe(ctx context.Context, changed bool) (*v1.Pod, status.Facts, error) {
	t.begun = time.Now()
	pod, facts, err := t.Host.Observe(ctx, changed)
	if err == nil {
		t.story.observed(pod, facts)
	}
	return pod, facts, err
}

// Publish ends it.
func (t *timed) Publish(pod *v1.Pod, next v1.PodStatus) error {
	err := t.Host.Publish(pod, next)
	t.story.published(pod, next)
	if t.timing.Turn != nil {
		t.timing.Turn(time.Since(t.begun))
	}
	return err
}

// Do is one step.
func (t *timed) Do(ctx context.Context, pod *v1.Pod, step plan.Step) error {
	begun := time.Now()
	ctx, end := t.story.begin(ctx, pod, step)
	err := t.Host.Do(ctx, pod, step)
	end(err)
	if t.timing.Step != nil && ctx.Err() == nil { // one that was given up says nothing
		t.timing.Step(string(step.Op), time.Since(begun), err)
	}
	return err
}
