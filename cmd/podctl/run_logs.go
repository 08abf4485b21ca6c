package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// runLogs prints what the containers of a run write: all instances of all of them, whole lines, each once, also over restarts
// of podd. A nil *runLogs prints nothing.
type runLogs struct {
	board   *board
	api     corev1.CoreV1Interface
	streams []*stream
	running sync.WaitGroup
	stop    context.CancelFunc

	mu     sync.Mutex // one line at a time
	out    io.Writer
	clean  bool // out is a terminal
	broken bool // nobody reads it any more
}

// stream is the log of one container.
type stream struct {
	logs      *runLogs
	pod       *thing
	container string
	prefix    string

	next int32 // the instance that is not printed completely yet; guarded by logs.board

	last time.Time // of the last line of this instance that was printed
	same int       // how many lines of that time were
	rest []byte    // a line without an end
}

const (
	longestLine = 1 << 20          // what is longer is printed as several
	settleLimit = 10 * time.Second // how long the end of a log is waited for
)

func (r *runner) newLogs() *runLogs {
	l := &runLogs{board: r.board, api: r.api, out: r.p.streams.Out, clean: terminal(r.p.streams.Out)}
	var names []string
	for _, t := range r.pods() {
		for _, c := range slices.Concat(t.doc.Pod.Spec.InitContainers, t.doc.Pod.Spec.Containers) {
			l.streams = append(l.streams, &stream{logs: l, pod: t, container: c.Name})
			names = append(names, t.name+"/"+c.Name)
		}
	}
	if r.o.prefix {
		for i, p := range prefixes(names, l.clean && os.Getenv("NO_COLOR") == "") {
			l.streams[i].prefix = p
		}
	}
	return l
}

// prefixes begin the lines of the containers: as wide as the widest, each in the next colour.
func prefixes(names []string, coloured bool) []string {
	width := 0
	for _, n := range names {
		width = max(width, len(n))
	}
	colours := []int{36, 33, 32, 35, 34, 96, 93, 92, 95, 94}
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = n + strings.Repeat(" ", width-len(n)) + " | "
		if coloured {
			all[i] = fmt.Sprintf("\x1b[%dm%s\x1b[0m", colours[i%len(colours)], all[i])
		}
	}
	return all
}

func (l *runLogs) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, s := range l.streams {
		l.running.Go(func() { s.run(ctx) })
	}
}

// settle returns when the logs of all instances that have ended are printed.
func (l *runLogs) settle() {
	if l == nil {
		return
	}
	limit := time.NewTimer(settleLimit)
	defer limit.Stop()
	for {
		_, _, changed := l.board.look("")
		if !slices.ContainsFunc(l.streams, (*stream).behind) {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		}
	}
}

// finish ends the printing. Of pods that are gone it waits for the end of what they wrote; of those that are kept it prints what
// they have written so far.
func (l *runLogs) finish(kept bool) {
	if l == nil {
		return
	}
	defer l.running.Wait()
	defer l.stop()
	if kept {
		l.stop()
		l.running.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		for _, s := range l.streams {
			pod, gone, _ := l.board.look(s.pod.uid)
			if n, _ := instance(pod, s.container); !gone && n == s.position() && s.copy(ctx, n, past) == nil {
				s.printed(n)
			}
		}
		return
	}
	ended := make(chan struct{})
	go func() { l.running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
	}
}

// behind says whether an instance has ended whose log is not printed to its end.
func (s *stream) behind() bool {
	pod, gone, _ := s.logs.board.look(s.pod.uid)
	n, over := instance(pod, s.container)
	return !gone && over && s.position() <= n
}

func (s *stream) position() int32 {
	s.logs.board.mu.Lock()
	defer s.logs.board.mu.Unlock()
	return s.next
}

// instance is the number of a container's newest instance, -1 if none was started, and whether that has ended.
func instance(pod *v1.Pod, container string) (n int32, over bool) {
	if pod == nil {
		return -1, false
	}
	for _, s := range statuses(pod) {
		if s.Name != container {
			continue
		}
		switch {
		case s.State.Running != nil:
			return s.RestartCount, false
		case s.State.Terminated != nil && (!s.State.Terminated.StartedAt.IsZero() || s.RestartCount > 0):
			return s.RestartCount, true
		case s.State.Waiting != nil && s.LastTerminationState.Terminated != nil:
			return s.RestartCount, true
		}
	}
	return -1, false
}

// run prints one instance after the other until no more can come.
func (s *stream) run(ctx context.Context) {
	for ctx.Err() == nil {
		pod, gone, changed := s.logs.board.look(s.pod.uid)
		n, _ := instance(pod, s.container)
		final := pod != nil && (pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed)
		switch next := s.position(); {
		case n >= next && !gone:
			if n > next+1 {
				s.line(fmt.Appendf(nil, "(what %d instances before have written is not kept)", n-1-next))
				s.printed(n - 2)
				next = n - 1
			}
			part := following
			if n > next {
				part = previous
			}
			s.print(ctx, next, part)
			continue
		case gone, final:
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// printed notes that instance n is.
func (s *stream) printed(n int32) {
	if len(s.rest) > 0 {
		s.line(s.rest)
	}
	s.last, s.same, s.rest = time.Time{}, 0, nil
	s.logs.board.change(func() { s.next = n + 1 })
}

// print prints what is left of the log of instance n, which is the newest or the previous one, as far as it can be had now.
func (s *stream) print(ctx context.Context, n int32, p part) {
	err := s.copy(ctx, n, p)
	switch {
	case ctx.Err() != nil:
	case apierrors.IsNotFound(err), apierrors.IsBadRequest(err) && (p == previous || s.ended(ctx, n)):
		s.printed(n) // nothing is kept of it
	case err == nil && (p == previous || s.ended(ctx, n)):
		s.printed(n)
	default: // podd was lost, or has ended the stream because it ends itself
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
	}
}

// ended tells whether instance n has. The end of the log may be seen a moment before.
func (s *stream) ended(ctx context.Context, n int32) bool {
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	for {
		pod, gone, changed := s.logs.board.look(s.pod.uid)
		if newest, over := instance(pod, s.container); gone || newest > n || newest == n && over {
			return true
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// part is what of a container's log is asked for.
type part uint8

const (
	following part = iota // of the newest instance, to its end
	past                  // of the newest instance, what is there
	previous              // of the instance before the newest
)

// errOther is that the log is another instance's.
var errOther = errors.New("another instance was started meanwhile")

// copy prints the lines of instance n that were not printed yet; nil is that its log was read to the end.
func (s *stream) copy(ctx context.Context, n int32, p part) error {
	opts := &v1.PodLogOptions{Container: s.container, Follow: p == following, Previous: p == previous, Timestamps: true}
	if !s.last.IsZero() {
		opts.SinceTime = &metav1.Time{Time: s.last}
	}
	pods := s.logs.api.Pods(s.pod.object.GetNamespace())
	in, err := pods.GetLogs(s.pod.name, opts).Stream(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	pod, err := pods.Get(ctx, s.pod.name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) { // of a pod that has gone just now the stream is open still
		return err
	}
	if newest, _ := instance(pod, s.container); err == nil && (newest > n+1 || newest > n && p != previous) {
		return errOther
	}
	return s.lines(in)
}

// lines prints what comes, without the lines that were printed already: those before the last one, and as many of its own
// instant as were.
func (s *stream) lines(in io.Reader) error {
	skip, from := s.same, s.last
	s.rest = nil
	reader := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	for {
		part, err := reader.ReadSlice('\n')
		line = append(line, part...)
		whole := err == nil
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
			whole = len(line) >= longestLine
		}
		if whole {
			at, text := stamped(line)
			switch {
			case at.IsZero(): // the rest of a line that is too long
				s.line(text)
			case at.Before(from):
			case at.Equal(from) && skip > 0:
				skip--
			default:
				s.line(text)
				s.count(at)
			}
			line = line[:0]
		}
		if errors.Is(err, io.EOF) {
			if at, text := stamped(line); len(text) > 0 && !at.Before(from) {
				s.rest = bytes.Clone(text)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// count remembers that a line of that time was printed.
func (s *stream) count(at time.Time) {
	if !at.Equal(s.last) {
		s.last, s.same = at, 0
	}
	s.same++
}

// stamped takes the time off a line; it is zero if there is none.
func stamped(line []byte) (time.Time, []byte) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	if stamp, text, ok := bytes.Cut(line, []byte(" ")); ok && len(stamp) <= len(time.RFC3339Nano) {
		if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err == nil {
			return at, text
		}
	}
	return time.Time{}, line
}

// line prints one, cleaned if that is for a terminal. A reader that is gone ends the printing and not the run.
func (s *stream) line(text []byte) {
	l := s.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return
	}
	var b bytes.Buffer
	b.WriteString(s.prefix)
	if l.clean {
		c := &cleaner{w: &b} // a sequence that a line leaves open is not the next one's
		_, _ = c.Write(append(text, '\n'))
	} else {
		b.Write(text)
		b.WriteByte('\n')
	}
	if _, err := l.out.Write(b.Bytes()); err != nil {
		l.broken = true
	}
}
