package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

const (
	shownLines  = 20       // of the log of what has failed, on the terminal
	keptLines   = 500      // of each log, in a report
	keptBytes   = 64 << 10 // of each log, in a report
	readBytes   = 64 << 20 // of a log, to find its end
	reportLimit = 5 * time.Second
)

// explain says why the run has not succeeded: the reason, what else is known of each pod that it is about, and the end of
// what the container has written.
func (r *runner) explain(o outcome) {
	out := r.p.shown.ErrOut
	fmt.Fprintf(out, "error: %s\n", o.why)
	ctx, cancel := context.WithTimeout(r.last, reportLimit)
	defer cancel()
	for _, t := range o.about {
		pod, _, _ := r.board.look(t.uid)
		if pod == nil {
			continue
		}
		events := r.board.eventsOf(t.uid)
		fmt.Fprintln(out)
		past := r.p.pastOf(question{ctx: ctx, namespace: pod.Namespace, uid: string(t.uid)}, pod)
		d := diagnose(pod, facts{events: events, past: past, log: r.whereLogs(o)}, time.Now())
		if !r.keeps(o) {
			d.causes = passing(d.causes)
		}
		tell(out, t.name, d, events, "")
		if r.logs != nil { // they are on the terminal already
			continue
		}
		for _, name := range r.telling(t, pod, o.verdicts[t]) {
			if tail := lastLines(r.tail(ctx, t, pod, name), shownLines); tail != "" {
				fmt.Fprintf(out, "\n  The last lines of container %s:\n    %s\n", name, strings.ReplaceAll(tail, "\n", "\n    "))
			}
		}
	}
}

// whereLogs is where the logs are when the run is over; empty if podctl logs finds them.
func (r *runner) whereLogs(o outcome) string {
	switch {
	case r.keeps(o):
		return ""
	case r.logs != nil:
		return "its log is above. --keep=always leaves the pod"
	}
	return "the last lines are below. --logs prints all of them, --keep=always leaves the pod"
}

// ofPods are the commands that find nothing of a pod that was deleted.
var ofPods = regexp.MustCompile(`podctl (describe|patch|edit|top) pod`)

// passing is causes with a word about the commands that come too late.
func passing(causes []cause) []cause {
	for i, c := range causes {
		if ofPods.MatchString(c.next) {
			causes[i].next += "\nThe pod is deleted now: --keep=always leaves it for that."
		}
	}
	return causes
}

// telling are the containers whose logs may say why the pod has failed: the one that has, or else those that are not ready.
func (r *runner) telling(t *thing, pod *v1.Pod, v verdict) []string {
	switch {
	case t == r.from:
		return []string{r.pick}
	case v.container != "":
		return []string{v.container}
	}
	var all []string
	for _, s := range statuses(pod) {
		if s.State.Running != nil && !s.Ready || s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 {
			all = append(all, s.Name)
		}
	}
	return all
}

// tail is the end of what the newest instance of a container has written, or, if that has only begun, the one before; empty if there
// is nothing.
func (r *runner) tail(ctx context.Context, t *thing, pod *v1.Pod, container string) string {
	if n, _ := instance(pod, container); n < 0 {
		return ""
	}
	lines := int64(keptLines)
	previous := slices.ContainsFunc(statuses(pod), func(s v1.ContainerStatus) bool {
		return s.Name == container && s.RestartCount > 0 && s.State.Running != nil && !s.Ready
	})
	for _, before := range []bool{previous, false} {
		opts := &v1.PodLogOptions{Container: container, Previous: before, TailLines: &lines}
		in, err := r.api.Pods(t.object.GetNamespace()).GetLogs(t.name, opts).Stream(ctx)
		if err != nil {
			continue
		}
		end := &ending{most: keptBytes}
		_, _ = io.Copy(end, io.LimitReader(in, readBytes)) // what came is better than nothing
		in.Close()
		return end.String()
	}
	return ""
}

// ending keeps the last bytes of what is written.
type ending struct {
	most int
	kept []byte
	cut  bool
}

func (e *ending) Write(p []byte) (int, error) {
	e.kept = append(e.kept, p...)
	if over := len(e.kept) - e.most; over > 0 {
		e.kept, e.cut = slices.Delete(e.kept, 0, over), true
	}
	return len(p), nil
}

// String is what was kept, from the beginning of a line if there is one.
func (e *ending) String() string {
	text := string(e.kept)
	if _, rest, ok := strings.Cut(text, "\n"); e.cut && ok && rest != "" {
		text = rest
	}
	return text
}

// lastLines is the last n lines of text, without the newline at the end.
func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
