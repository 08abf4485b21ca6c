package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// attachREST is pods/attach: the streams of a container's own process.
type attachREST struct {
	upgraded
	server *Server
}

var (
	_ rest.Connecter       = (*attachREST)(nil)
	_ rest.StorageMetadata = (*attachREST)(nil)
)

func (r *attachREST) New() runtime.Object { return &core.PodAttachOptions{} }

func (r *attachREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodAttachOptions{}, false, ""
}

func (r *attachREST) Connect(ctx context.Context, name string, options runtime.Object, _ rest.Responder) (http.Handler, error) {
	opts, ok := options.(*core.PodAttachOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("invalid options object: %T", options))
	}
	pod, err := r.server.podOf(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, opts.Container)
	if err != nil {
		return nil, err
	}
	switch {
	case !opts.Stdin && !opts.Stdout && !opts.Stderr:
		return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	case pod.Spec.NodeName != r.server.NodeName:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	streams := &remotecommand.Options{Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr && !opts.TTY, TTY: opts.TTY}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		client := newWatchedClient(req.Context(), w)
		defer client.part()
		a := &attachment{runtime: r.server.Runtime, pod: pod, container: container, streams: *streams, cut: client.cut}
		req = req.WithContext(client.here)
		serve := func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, sizes <-chan remotecommand.TerminalSize) error {
			return attachError(a.AttachContainer(ctx, "", "", "", in, out, errOut, opts.TTY, sizes))
		}
		switch {
		case wsstream.IsWebSocketRequestWithStreamCloseProtocol(req):
			serveWebSocketV5(client, req, streams, serve)
		case wsstream.IsWebSocketRequest(req):
			remotecommand.ServeAttach(client, req, a, name, string(pod.UID), container, streams, streamIdle,
				streamCreation, remotecommand.SupportedStreamingProtocols)
		default:
			serveSPDY(client, req, streams, serve)
		}
	}), nil
}

// attachError is what a client is told that was attached, or could not be.
func attachError(err error) error {
	var known apierrors.APIStatus
	if err == nil || errors.As(err, &known) {
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("error attaching to container: %w", err))
}

// attachment is one client at one container.
type attachment struct {
	runtime   Runtime
	pod       *v1.Pod
	container string
	streams   remotecommand.Options // which were asked for
	cut       func()                // ends the connection
}

// AttachContainer is called for all protocols, of which some have streams that were not asked for.
func (a *attachment) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, tty bool,
	resize <-chan remotecommand.TerminalSize) error {
	if !a.streams.Stdin {
		in = nil
	}
	q := newQueue(attachQueue)
	var toOut, toErr io.Writer
	if a.streams.Stdout {
		toOut = q.to(out)
	}
	if a.streams.Stderr {
		toErr = q.to(errOut)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizes, stop := sizesOf(ctx, tty, resize)
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		q.run()
	}()
	err := a.runtime.Attach(ctx, a.pod, a.container, in, toOut, toErr, sizes)
	q.finish(ctx, written, attachFlush, a.cut)
	return err
}

const (
	// attachQueue is how much output may wait for a client, in bytes. One that is further behind is cut off: neither the
	// container nor its log ever wait for a client.
	attachQueue = 8 << 20
	// pieceCost is what a piece takes beside its data.
	pieceCost = 64
	// attachFlush is how long a client may take nothing of what it is still to get, once the container has ended.
	attachFlush = 30 * time.Second
)

// errBehind says that a client did not take the output fast enough.
var errBehind = errors.New("detached, since the output was not read fast enough")

// queue lets writers go on while a client takes its time.
type queue struct {
	limit int
	more  chan struct{} // capacity 1: something has changed
	moved chan struct{} // capacity 1: the client has taken something

	mu     sync.Mutex
	pieces []piece
	size   int   // of the pieces in memory
	ended  bool  // nothing more is added
	err    error // why nothing can be added
}

type piece struct {
	to   io.Writer
	data []byte
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, more: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
}

// to is a writer that never blocks; what it is given goes to w in turn with what the queue's other writers are given.
func (q *queue) to(w io.Writer) io.Writer { return queueWriter{q, w} }

type queueWriter struct {
	q *queue
	w io.Writer
}

func (w queueWriter) Write(p []byte) (int, error) { return w.q.add(w.w, p) }

func (q *queue) add(to io.Writer, p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := len(p) + pieceCost
	if q.err == nil && q.size+cost > q.limit {
		q.err = errBehind
	}
	if q.err != nil {
		return 0, q.err
	}
	q.pieces, q.size = append(q.pieces, piece{to, bytes.Clone(p)}), q.size+cost
	tell(q.more)
	return len(p), nil
}

func tell(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run writes until all is written after end, or a write fails.
func (q *queue) run() {
	for {
		q.mu.Lock()
		var next piece
		some := len(q.pieces) > 0
		if some {
			next = q.pieces[0]
			q.pieces[0] = piece{}
			q.pieces = q.pieces[1:]
		}
		over := q.ended && !some
		q.mu.Unlock()
		switch {
		case over:
			return
		case !some:
			<-q.more
			continue
		}
		_, err := next.to.Write(next.data)
		q.mu.Lock()
		q.size -= len(next.data) + pieceCost
		if err != nil {
			q.err, q.pieces = errors.Join(q.err, err), nil
		}
		q.mu.Unlock()
		if err != nil {
			return
		}
		tell(q.moved)
	}
}

// finish waits until run has ended, and cuts the client off when it takes nothing for as long as patience, or ctx ends.
func (q *queue) finish(ctx context.Context, written <-chan struct{}, patience time.Duration, cut func()) {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	tell(q.more)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-written:
			return
		case <-q.moved:
			timer.Reset(patience)
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		cut()
		<-written
		return
	}
}
