package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// board is what is known of the pods of a run. It is kept current by goroutines that look and then watch, and look again
// when a watch ends: podd may be restarted meanwhile.
type board struct {
	mu      sync.Mutex
	pods    map[types.UID]*v1.Pod // nil before it was seen
	gone    map[types.UID]bool
	events  map[types.UID]map[types.UID]v1.Event // by the UIDs of pod and event
	away    time.Time                            // since when podd has not answered; zero if it does
	changed chan struct{}                        // closed at the next change

	following sync.WaitGroup
}

func newBoard() *board {
	return &board{
		pods: map[types.UID]*v1.Pod{}, gone: map[types.UID]bool{}, events: map[types.UID]map[types.UID]v1.Event{}, changed: make(chan struct{}),
	}
}

// change does something to the board and wakes who waits for a change.
func (b *board) change(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	close(b.changed)
	b.changed = make(chan struct{})
}

// look is what is known of a pod, and a channel that is closed at the next change of anything. A pod that was not seen yet
// is nil.
func (b *board) look(uid types.UID) (pod *v1.Pod, gone bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pods[uid], b.gone[uid], b.changed
}

// eventsOf is the events of a pod, oldest first.
func (b *board) eventsOf(uid types.UID) []v1.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []v1.Event
	for _, e := range b.events[uid] {
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(x, y v1.Event) int { return lastSeen(x).Compare(lastSeen(y)) })
	return all
}

// follow begins to keep the board current for pods that were made, until ctx is done; wait waits for that.
func (b *board) follow(ctx context.Context, api corev1.CoreV1Interface, pods []*thing) {
	mine := map[string]map[types.UID]bool{}
	for _, t := range pods {
		ns := t.object.GetNamespace()
		if mine[ns] == nil {
			mine[ns] = map[types.UID]bool{}
		}
		mine[ns][t.uid] = true
	}
	for ns, uids := range mine {
		b.following.Go(func() { b.track(ctx, podSource(b, api, ns, uids)) })
		b.following.Go(func() { b.track(ctx, eventSource(b, api, ns, uids)) })
	}
}

func (b *board) wait() { b.following.Wait() }

// source is something to look at and to watch. Both put what they find on the board.
type source struct {
	look  func(ctx context.Context) (version string, err error)
	watch func(ctx context.Context, version string) (watch.Interface, error)
	take  func(watch.Event)
}

func podSource(b *board, api corev1.CoreV1Interface, ns string, mine map[types.UID]bool) source {
	return source{
		look: func(ctx context.Context) (string, error) {
			list, err := api.Pods(ns).List(ctx, metav1.ListOptions{})
			if err != nil {
				return "", err
			}
			b.change(func() {
				left := map[types.UID]bool{}
				for i := range list.Items {
					if uid := list.Items[i].UID; mine[uid] {
						left[uid], b.pods[uid] = true, &list.Items[i]
					}
				}
				for uid := range mine {
					b.gone[uid] = !left[uid]
				}
			})
			return list.ResourceVersion, nil
		},
		watch: func(ctx context.Context, version string) (watch.Interface, error) {
			return api.Pods(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		},
		take: func(e watch.Event) {
			if pod, ok := e.Object.(*v1.Pod); ok && mine[pod.UID] {
				b.change(func() { b.pods[pod.UID], b.gone[pod.UID] = pod, e.Type == watch.Deleted })
			}
		},
	}
}

func eventSource(b *board, api corev1.CoreV1Interface, ns string, mine map[types.UID]bool) source {
	const ofPods = "involvedObject.kind=Pod"
	put := func(e v1.Event) {
		if b.events[e.InvolvedObject.UID] == nil {
			b.events[e.InvolvedObject.UID] = map[types.UID]v1.Event{}
		}
		b.events[e.InvolvedObject.UID][e.UID] = e
	}
	return source{
		look: func(ctx context.Context) (string, error) {
			list, err := api.Events(ns).List(ctx, metav1.ListOptions{FieldSelector: ofPods})
			if err != nil {
				return "", err
			}
			b.change(func() {
				for _, e := range list.Items {
					if mine[e.InvolvedObject.UID] {
						put(e)
					}
				}
			})
			return list.ResourceVersion, nil
		},
		watch: func(ctx context.Context, version string) (watch.Interface, error) {
			return api.Events(ns).Watch(ctx, metav1.ListOptions{FieldSelector: ofPods, ResourceVersion: version})
		},
		take: func(e watch.Event) {
			if event, ok := e.Object.(*v1.Event); ok && e.Type != watch.Deleted && mine[event.InvolvedObject.UID] {
				b.change(func() { put(*event) })
			}
		},
	}
}

// track looks and watches until ctx is done.
func (b *board) track(ctx context.Context, s source) {
	wait := retryFirst
	for ctx.Err() == nil {
		version, err := s.look(ctx)
		if err == nil {
			wait = retryFirst
			b.answered(true)
			var w watch.Interface
			if w, err = s.watch(ctx, version); err == nil {
				for e := range w.ResultChan() {
					s.take(e)
				}
				w.Stop()
			}
		} else if ctx.Err() == nil {
			b.answered(false)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		if err != nil {
			wait = min(2*wait, retryMost)
		}
	}
}

// answered notes whether podd did.
func (b *board) answered(yes bool) {
	b.change(func() {
		switch {
		case yes:
			b.away = time.Time{}
		case b.away.IsZero():
			b.away = time.Now()
		}
	})
}

// silence is since when podd has not answered; zero if it does.
func (b *board) silence() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away
}

// await returns when the run is over.
func (r *runner) await() outcome {
	tick := time.NewTicker(250 * time.Millisecond) // some things are judged by how long they last
	defer tick.Stop()
	for {
		_, _, changed := r.board.look("")
		o, over := r.decide(time.Now())
		if !over {
			select {
			case <-changed:
				continue
			case <-tick.C:
				continue
			case <-r.work.Done():
				o = r.cut()
			}
		}
		o.verdicts = r.verdicts(time.Now())
		if o.about == nil && o.why != "" {
			for _, t := range r.pods() {
				if o.verdicts[t].stage != done {
					o.about = append(o.about, t)
				}
			}
		}
		return o
	}
}

// verdicts judges every pod.
func (r *runner) verdicts(now time.Time) map[*thing]verdict {
	all := map[*thing]verdict{}
	for _, t := range r.pods() {
		pod, gone, _ := r.board.look(t.uid)
		switch {
		case gone:
			all[t] = verdict{stage: hopeless, why: "somebody else has deleted it"}
		case pod != nil:
			key := string(t.uid)
			if r.histories[key] == nil {
				r.histories[key] = &history{}
			}
			r.histories[key].note(pod, now)
			all[t] = judge(pod, r.board.eventsOf(t.uid), r.histories[key], rules{r.o.until, r.o.maxRestarts}, now)
		}
	}
	return all
}

// decide says whether the run is over, and how.
func (r *runner) decide(now time.Time) (outcome, bool) {
	if since := r.board.silence(); !since.IsZero() {
		r.once("away"+since.String(), "podd does not answer; waiting for it")
		if now.Sub(since) > awayLimit {
			return outcome{code: codeNever, why: fmt.Sprintf("podd has not answered for %s", awayLimit)}, true
		}
		return outcome{}, false // what is known may be old
	}
	all := r.verdicts(now)
	for _, t := range r.pods() {
		r.progress(t)
	}
	if r.from != nil {
		if pod, _, _ := r.board.look(r.from.uid); pod != nil {
			if end := exitOf(pod, r.pick); end != nil {
				return r.byExit(pod, end), true
			}
		}
	}
	over := true
	for _, t := range r.pods() {
		v := all[t]
		if v.stage == hopeless {
			code := int(v.code)
			if code == 0 {
				code = codeNever
			}
			return outcome{code: code, why: fmt.Sprintf("%s cannot succeed: %s", t, v.why), about: []*thing{t}}, true
		}
		over = over && v.stage != goesOn
	}
	if !over {
		return outcome{}, false
	}
	return r.byFailure(all), true
}

// byExit is the outcome when the container of --exit-from has ended.
func (r *runner) byExit(pod *v1.Pod, end *v1.ContainerStateTerminated) outcome {
	if end.ExitCode == 0 {
		return outcome{}
	}
	return outcome{code: int(end.ExitCode), why: fmt.Sprintf("%s: container %s %s", r.from, r.pick, ended(pod, r.pick, end)), about: []*thing{r.from}}
}

// byFailure is the outcome when all pods have ended: that of the container that failed first.
func (r *runner) byFailure(all map[*thing]verdict) outcome {
	var o outcome
	var first time.Time
	for _, t := range r.pods() {
		v := all[t]
		if v.stage != failed {
			continue
		}
		o.about = append(o.about, t)
		at := time.Now() // a pod without a failed container comes last
		code := codeNever
		if pod, _, _ := r.board.look(t.uid); pod != nil {
			if _, end := firstFailed(pod); end != nil {
				at, code = end.FinishedAt.Time, int(v.code)
			}
		}
		if o.why == "" || at.Before(first) {
			first, o.code, o.why = at, code, fmt.Sprintf("%s: %s", t, v.why)
		}
	}
	if o.why == "" && r.from != nil {
		return outcome{code: codeNever, why: fmt.Sprintf("%s: container %s has not run", r.from, r.pick), about: []*thing{r.from}}
	}
	return o
}

// once says something of the progress that was not said yet.
func (r *runner) once(key, format string, args ...any) {
	if !r.told[key] {
		r.told[key] = true
		r.say(format, args...)
	}
}

// progress tells what has happened to a pod since it was told last.
func (r *runner) progress(t *thing) {
	pod, gone, _ := r.board.look(t.uid)
	if pod == nil || gone {
		return
	}
	for _, e := range r.board.eventsOf(t.uid) {
		switch {
		case e.Type == v1.EventTypeWarning && e.Reason != "BackOff":
			r.once(string(e.UID), "%s: %s: %s", t, e.Reason, e.Message)
		case e.Reason == "Pulling":
			r.once(string(e.UID), "%s: %s", t, e.Message)
		}
	}
	for _, s := range statuses(pod) {
		for _, end := range []*v1.ContainerStateTerminated{s.LastTerminationState.Terminated, s.State.Terminated} {
			if end != nil {
				r.once(fmt.Sprint(t.uid, s.Name, end.ContainerID, end.FinishedAt), "%s: container %s %s", t, s.Name, ended(pod, s.Name, end))
			}
		}
		if s.RestartCount > 0 && s.State.Running != nil {
			r.once(fmt.Sprint(t.uid, s.Name, s.RestartCount), "%s: container %s was restarted, %s so far", t, s.Name, times(s.RestartCount))
		}
	}
	if c := condition(pod, v1.PodReady); c != nil && c.Status == v1.ConditionTrue {
		r.once(fmt.Sprint(t.uid, "ready", c.LastTransitionTime), "%s is ready", t)
	}
	switch pod.Status.Phase {
	case v1.PodSucceeded:
		r.once(string(t.uid)+"succeeded", "%s has completed", t)
	case v1.PodFailed:
		r.once(string(t.uid)+"failed", "%s has failed", t)
	}
}
