package probes

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"

	"podd/status"
)

// Kind is what a probe is for, as events call it.
type Kind string

// The kinds.
const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// asks is how often in a row a probe is asked that has no answer (upstream: maxProbeRetries).
const asks = 3

// Watch asks one container's probe again and again.
type Watch struct {
	Kind  Kind
	Spec  *v1.Probe
	Since time.Time     // when the container was started: the initial delay counts from it
	Wait  time.Duration // not to ask sooner than after this
	Noted status.Result // what is known already

	// Ask asks once.
	Ask func(context.Context) (result probe.Result, output string, err error)
	// Note is called with every result that is not the one noted last. A liveness probe that succeeds is not noted.
	Note func(status.Result) error
	// Tell is called with what is to become a warning event.
	Tell func(reason, message string)
	// Count, if set, is called with each answer.
	Count func(result status.Result, took time.Duration)
}

// Run asks until the probe has come to its end, which is a failure, and for startup a success as well; readiness never
// ends. It returns an error when ctx ends, or when a result cannot be noted.
func (w *Watch) Run(ctx context.Context) error {
	period := time.Duration(max(w.Spec.PeriodSeconds, 1)) * time.Second
	delay := time.Until(w.Since.Add(time.Duration(w.Spec.InitialDelaySeconds) * time.Second))
	due := time.Now().Add(max(delay, w.Wait, 1))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	var run streak
	for first := true; ; first = false {
		if !first {
			due = following(due, period)
			timer.Reset(time.Until(due))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		result, ok := w.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !ok || !run.reaches(result, w.Spec) {
			continue
		}
		if ends, err := w.note(result); ends || err != nil {
			return err
		}
	}
}

// beat is what the second question of each probe is put off to, so that many probes are asked at the same moments: to wake
// a processor is most of what one costs that is asked alone. The later ones come a period apart and so stay with it.
const beat = time.Second / 4

// following is when the question after the one of due is asked. Of those whose time has passed meanwhile one is asked.
func following(due time.Time, period time.Duration) time.Time {
	due = due.Add(period)
	if over := due.Sub(due.Truncate(beat)); over > 0 {
		due = due.Add(beat - over)
	}
	return due.Add(max(time.Since(due), 0).Truncate(period))
}

// note says what the probe has come to, if that is new, and tells whether it ends with it.
func (w *Watch) note(result status.Result) (ends bool, err error) {
	ends = w.Kind == Startup || w.Kind == Liveness && result == status.Failure
	if result == w.Noted || w.Kind == Liveness && !ends {
		return ends, nil
	}
	if err := w.Note(result); err != nil {
		return false, err
	}
	w.Noted = result
	return ends, nil
}

// once asks, up to asks times if there is no answer; false if there was none then.
func (w *Watch) once(ctx context.Context) (status.Result, bool) {
	begun := time.Now()
	var result probe.Result
	var output string
	var err error
	for range asks {
		if result, output, err = w.Ask(ctx); err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return "", false
	}
	if err != nil {
		w.Tell("Unhealthy", fmt.Sprintf("%s probe errored and resulted in %s state: %s", w.Kind, result, err))
		return "", false
	}
	outcome := status.Success
	switch result {
	case probe.Success:
	case probe.Warning:
		w.Tell("ProbeWarning", fmt.Sprintf("%s probe warning: %s", w.Kind, output))
	default:
		outcome = status.Failure
		w.Tell("Unhealthy", fmt.Sprintf("%s probe failed: %s", w.Kind, output))
	}
	if w.Count != nil {
		w.Count(outcome, time.Since(begun))
	}
	return outcome, true
}

// streak is how often in a row the answer was the same.
type streak struct {
	result status.Result
	n      int32
}

// reaches adds an answer, and tells whether there are enough of it.
func (s *streak) reaches(result status.Result, spec *v1.Probe) bool {
	if s.result != result {
		*s = streak{result: result}
	}
	s.n = min(s.n+1, 1<<30)
	if result == status.Failure {
		return s.n >= spec.FailureThreshold
	}
	return s.n >= spec.SuccessThreshold
}
