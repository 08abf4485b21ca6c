package probes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"

	"podd/status"
)

// answers is what a probe is answered: one letter each, s(uccess), f(ailure), w(arning), e(rror), h(ang for 25 s, then
// failure). The last one goes on for ever.
type answers string

func (a answers) at(i int) byte { return a[min(i, len(a)-1)] }

// TestWatch tells what a Watch does in two minutes: the second of every question, of every note and of every event.
func TestWatch(t *testing.T) {
	defaults := v1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}
	with := func(edit func(*v1.Probe)) v1.Probe {
		p := defaults
		edit(&p)
		return p
	}
	for _, c := range []struct {
		name    string
		kind    Kind
		spec    v1.Probe
		ago     time.Duration // since when the container runs
		wait    time.Duration
		noted   status.Result
		answers answers
		until   time.Duration
		want    string
	}{
		{"readiness", Readiness, defaults, 0, 0, "", "sffff", 45 * time.Second,
			"0:ask 0:success 10:ask 10:failed 20:ask 20:failed 30:ask 30:failed 30:failure 40:ask 40:failed"},
		{"readiness comes back", Readiness, with(func(p *v1.Probe) { p.FailureThreshold, p.SuccessThreshold = 1, 2 }), 0, 0, status.Success, "fsfss", 45 * time.Second,
			"0:ask 0:failed 0:failure 10:ask 20:ask 20:failed 30:ask 40:ask 40:success"},
		{"readiness is known already", Readiness, defaults, time.Hour, 0, status.Success, "s", 25 * time.Second, "0:ask 10:ask 20:ask"},
		{"liveness", Liveness, defaults, 0, 0, "", "sfsfff", 2 * time.Minute,
			"0:ask 10:ask 10:failed 20:ask 30:ask 30:failed 40:ask 40:failed 50:ask 50:failed 50:failure end"},
		{"startup succeeds", Startup, defaults, 0, 0, "", "ffs", 2 * time.Minute, "0:ask 0:failed 10:ask 10:failed 20:ask 20:success end"},
		{"startup fails", Startup, defaults, 0, 0, "", "f", 2 * time.Minute, "0:ask 0:failed 10:ask 10:failed 20:ask 20:failed 20:failure end"},
		{"initial delay", Readiness, with(func(p *v1.Probe) { p.InitialDelaySeconds = 7 }), 0, 0, "", "s", 20 * time.Second, "7:ask 7:success 17:ask"},
		{"initial delay, partly over", Readiness, with(func(p *v1.Probe) { p.InitialDelaySeconds = 7 }), 3 * time.Second, 0, "", "s", 10 * time.Second, "4:ask 4:success"},
		{"initial delay, all over", Readiness, with(func(p *v1.Probe) { p.InitialDelaySeconds = 7 }), time.Minute, 0, "", "s", 5 * time.Second, "0:ask 0:success"},
		{"jitter beside the delay", Readiness, with(func(p *v1.Probe) { p.InitialDelaySeconds = 3 }), 0, 5 * time.Second, "", "s", 10 * time.Second, "5:ask 5:success"},
		{"errors count for nothing", Liveness, with(func(p *v1.Probe) { p.FailureThreshold = 2 }), 0, 0, "", "feeef", 2 * time.Minute,
			"0:ask 0:failed 10:ask 10:ask 10:ask 10:errored 20:ask 20:failed 20:failure end"},
		{"an error is asked again", Startup, defaults, 0, 0, "", "ees", 2 * time.Minute, "0:ask 0:ask 0:ask 0:success end"},
		{"a warning is a success", Readiness, defaults, 0, 0, "", "w", 5 * time.Second, "0:ask 0:warned 0:success"},
		{"slower than its period", Liveness, with(func(p *v1.Probe) { p.FailureThreshold = 2 }), 0, 0, "", "hf", 2 * time.Minute,
			"0:ask 25:failed 25:ask 25:failed 25:failure end"},
		{"given up meanwhile", Liveness, with(func(p *v1.Probe) { p.FailureThreshold = 1 }), 0, 0, "", "h", 5 * time.Second, "0:ask"},
		{"given up before", Liveness, with(func(p *v1.Probe) { p.InitialDelaySeconds = 100 }), 0, 0, "", "f", 5 * time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.until)
				defer cancel()
				begun := time.Now()
				var story []string
				tell := func(what string) { story = append(story, fmt.Sprintf("%d:%s", int(time.Since(begun).Seconds()), what)) }
				asked := 0
				w := Watch{Kind: c.kind, Spec: &c.spec, Since: begun.Add(-c.ago), Wait: c.wait, Noted: c.noted,
					Note: func(r status.Result) error { tell(string(r)); return nil },
					Tell: func(reason, message string) { tell(event(t, c.kind, reason, message)) },
					Ask: func(ctx context.Context) (probe.Result, string, error) {
						tell("ask")
						asked++
						return answer(ctx, c.answers.at(asked-1))
					},
				}
				err := w.Run(ctx)
				if err == nil {
					story = append(story, "end")
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				if got := strings.Join(story, " "); got != c.want {
					t.Errorf("\n got %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

func answer(ctx context.Context, letter byte) (probe.Result, string, error) {
	switch letter {
	case 's':
		return probe.Success, "fine", nil
	case 'w':
		return probe.Warning, "hm", nil
	case 'e':
		return probe.Unknown, "", errors.New("no answer")
	case 'h':
		select {
		case <-ctx.Done():
		case <-time.After(25 * time.Second):
		}
	}
	return probe.Failure, "bad", nil
}

// event is the short name of an event, whose words have to be upstream's.
func event(t *testing.T, kind Kind, reason, message string) string {
	name, ok := map[string]string{
		"Unhealthy " + string(kind) + " probe failed: bad":                                      "failed",
		"Unhealthy " + string(kind) + " probe errored and resulted in unknown state: no answer": "errored",
		"ProbeWarning " + string(kind) + " probe warning: hm":                                   "warned",
	}[reason+" "+message]
	if !ok {
		t.Errorf("event %s %s", reason, message)
	}
	return name
}

// TestWatchCannotNote ends with the error, so that it is begun again later.
func TestWatchCannotNote(t *testing.T) {
	full := errors.New("disk is full")
	w := Watch{Kind: Readiness, Spec: &v1.Probe{PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1},
		Note: func(status.Result) error { return full },
		Ask:  func(ctx context.Context) (probe.Result, string, error) { return answer(ctx, 's') }}
	if err := w.Run(t.Context()); !errors.Is(err, full) {
		t.Errorf("error: %v", err)
	}
}

// TestWatchCounts is what metrics are fed with: each answer, and nothing for an error.
func TestWatchCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		var counted []string
		asked := 0
		w := Watch{Kind: Readiness, Spec: &v1.Probe{PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1},
			Note: func(status.Result) error { return nil }, Tell: func(string, string) {},
			Count: func(r status.Result, took time.Duration) { counted = append(counted, fmt.Sprint(r, took)) },
			Ask: func(ctx context.Context) (probe.Result, string, error) {
				asked++
				time.Sleep(time.Second)
				return answer(ctx, answers("seeef").at(asked-1))
			}}
		_ = w.Run(ctx)
		if want := []string{"success1s", "failure1s", "failure1s"}; !slices.Equal(counted, want) {
			t.Errorf("counted %q", counted)
		}
	})
}

// TestBeat: however far apart probes begin, from their second question on they are asked together, never sooner than a period
// after the first one, and a period apart.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begun := time.Now()
		var mu sync.Mutex
		at := map[time.Duration]int{}
		var all sync.WaitGroup
		const probes, apart = 10, 7 * time.Millisecond
		for i := range probes {
			w := Watch{Kind: Readiness, Spec: &v1.Probe{PeriodSeconds: 1, SuccessThreshold: 1}, Wait: time.Duration(i+1) * apart,
				Ask: func(context.Context) (probe.Result, string, error) {
					mu.Lock()
					defer mu.Unlock()
					at[time.Since(begun)]++
					return probe.Success, "", nil
				},
				Note: func(status.Result) error { return nil }}
			all.Go(func() { _ = w.Run(ctx) })
		}
		all.Wait()
		want := map[time.Duration]int{}
		for i := range probes {
			want[time.Duration(i+1)*apart] = 1
		}
		for i := range 4 {
			want[beat+time.Duration(i+1)*time.Second] = probes
		}
		if !maps.Equal(at, want) {
			t.Errorf("asked %v, want %v", at, want)
		}
	})
}
