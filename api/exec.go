package api

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	clientremote "k8s.io/client-go/tools/remotecommand"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/exec"
)

const (
	streamIdle = 4 * time.Hour // upstream's streamingConnectionIdleTimeout
	// streamCreation is how long a client of SPDY may take to make its streams. Upstream's is 30 s; here a command's place is held
	// meanwhile.
	streamCreation = 10 * time.Second

	// maxCommands is how many commands of clients run at a time, over all pods. runtime/containers has places for 512
	// processes: the rest is for what podd itself runs in containers.
	maxCommands = 384
	// maxOrphans is how many of these may be without their client.
	maxOrphans = 128
)

// execREST is pods/exec: the streams go straight to the runtime.
type execREST struct {
	upgraded
	server *Server
}

var (
	_ rest.Connecter       = (*execREST)(nil)
	_ rest.StorageMetadata = (*execREST)(nil)
)

func (r *execREST) New() runtime.Object { return &core.PodExecOptions{} }

func (r *execREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodExecOptions{}, false, ""
}

func (r *execREST) Connect(ctx context.Context, name string, options runtime.Object, _ rest.Responder) (http.Handler, error) {
	opts, ok := options.(*core.PodExecOptions)
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
	case len(opts.Command) == 0:
		return nil, apierrors.NewBadRequest("you must specify the command")
	case !opts.Stdin && !opts.Stdout && !opts.Stderr:
		return nil, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	case pod.Spec.NodeName != r.server.NodeName:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	streams := &remotecommand.Options{Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr && !opts.TTY, TTY: opts.TTY}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// Also for what it hides: the library would unwrap the answer down to net/http's, past withTakeover.
		client := newWatchedClient(req.Context(), w)
		defer client.part()
		if !r.server.commands.enter() {
			respondError(w, req, apierrors.NewTooManyRequests(
				fmt.Sprintf("podd has %d %s under way already, try again later", maxCommands, r.server.commands.name), retryAfter))
			return
		}
		defer r.server.commands.leave()
		ctx, cancel := outliving(req.Context()) // the command does not end because its client does
		defer cancel()
		req = req.WithContext(ctx)
		session := &session{runtime: r.server.Runtime, orphans: &r.server.orphans, client: client.here, pod: pod, container: container,
			streams: *streams}
		serve := func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, sizes <-chan remotecommand.TerminalSize) error {
			return session.ExecInContainer(ctx, "", "", "", opts.Command, in, out, errOut, opts.TTY, sizes, 0)
		}
		switch {
		case wsstream.IsWebSocketRequestWithStreamCloseProtocol(req):
			serveWebSocketV5(client, req, streams, serve)
		case wsstream.IsWebSocketRequest(req):
			remotecommand.ServeExec(client, req, session, name, string(pod.UID), container, opts.Command, streams, streamIdle,
				streamCreation, remotecommand.SupportedStreamingProtocols)
		default:
			serveSPDY(client, req, streams, serve)
		}
	}), nil
}

// orphans are the commands that go on without their client. A new one ends the oldest when there are maxOrphans: they take
// no place from those who come.
type orphans struct {
	mu  sync.Mutex
	all list.List // of context.CancelFunc, oldest first; guarded by mu
}

// watch makes a command an orphan when its client is done before over is called. end ends the command.
func (o *orphans) watch(client context.Context, end context.CancelFunc) (over func()) {
	var place *list.Element // guarded by mu, as is ended
	ended := false
	stop := context.AfterFunc(client, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if ended {
			return
		}
		if o.all.Len() >= maxOrphans {
			o.all.Remove(o.all.Front()).(context.CancelFunc)()
		}
		place = o.all.PushBack(end)
	})
	return func() {
		stop()
		o.mu.Lock()
		defer o.mu.Unlock()
		if ended = true; place != nil {
			o.all.Remove(place)
		}
	}
}

// session is one command in one container.
type session struct {
	runtime   Runtime
	orphans   *orphans
	client    context.Context // ends when the client has gone
	pod       *v1.Pod
	container string
	streams   remotecommand.Options // which were asked for
}

// ExecInContainer is called for all protocols, of which some have streams that were not asked for.
func (s *session) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	if !s.streams.Stdin {
		in = nil
	}
	if !s.streams.Stdout {
		out = nil
	}
	if !s.streams.Stderr {
		errOut = nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.orphans.watch(s.client, cancel)() // no longer than the command: its client goes when it is told of the end
	sizes, stop := sizesOf(ctx, tty, resize)
	defer stop()
	return s.runtime.Exec(ctx, s.pod, s.container, cmd, in, out, errOut, tty, sizes)
}

// sizesOf hands on the sizes of a terminal until from is closed, ctx is done or stop is called, which waits for the end of
// that. Without a terminal there are none, and those that come nevertheless are taken: the library would wait for their reader.
func sizesOf(ctx context.Context, tty bool, from <-chan remotecommand.TerminalSize) (to <-chan clientremote.TerminalSize, stop func()) {
	if from == nil {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	sizes, done := make(chan clientremote.TerminalSize), make(chan struct{})
	stop = func() { cancel(); <-done }
	if !tty {
		go func() {
			defer close(done)
			discardSizes(ctx, from)
		}()
		return nil, stop
	}
	go func() {
		defer close(done)
		defer close(sizes)
		forwardSizes(ctx, from, sizes)
	}()
	return sizes, stop
}

func discardSizes(ctx context.Context, from <-chan remotecommand.TerminalSize) {
	for {
		select {
		case _, ok := <-from:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func forwardSizes(ctx context.Context, from <-chan remotecommand.TerminalSize, to chan<- clientremote.TerminalSize) {
	for {
		select {
		case size, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- clientremote.TerminalSize{Width: size.Width, Height: size.Height}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// serveWebSocketV5 serves the newest protocol of kubectl, in which the client can half-close stdin. The stream server's
// library speaks the older ones for WebSockets.
func serveWebSocketV5(w *watchedClient, req *http.Request, opts *remotecommand.Options, serve serveStreams) {
	channel := func(want bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if want {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: []wsstream.ChannelType{
			remotecommand.StreamStdIn:  channel(opts.Stdin, wsstream.ReadChannel),
			remotecommand.StreamStdOut: channel(opts.Stdout, wsstream.WriteChannel),
			remotecommand.StreamStdErr: channel(opts.Stderr, wsstream.WriteChannel),
			remotecommand.StreamErr:    wsstream.WriteChannel,
			remotecommand.StreamResize: channel(opts.TTY, wsstream.ReadChannel),
		}},
	})
	conn.SetIdleTimeout(streamIdle)
	_, streams, err := conn.Open(w, req)
	if err != nil {
		return // the library has answered
	}
	defer func() { _ = conn.Close() }()
	first := remotecommand.StreamErr
	if opts.Stdout {
		first = remotecommand.StreamStdOut
	}
	_, _ = streams[first].Write([]byte{}) // tells the client that the connection stands
	sizes := make(chan remotecommand.TerminalSize)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(req.Context())
	go func() {
		defer close(done)
		readSizes(ctx, streams[remotecommand.StreamResize], sizes)
		close(sizes)
		_, _ = io.Copy(io.Discard, streams[remotecommand.StreamResize]) // the library would wait for its reader
	}()
	err = serve(ctx, streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr], sizes)
	_ = json.NewEncoder(streams[remotecommand.StreamErr]).Encode(exitStatus(err))
	cancel()
	_ = conn.Close()
	<-done
}

func readSizes(ctx context.Context, from io.Reader, to chan<- remotecommand.TerminalSize) {
	decoder := json.NewDecoder(from)
	for {
		var size remotecommand.TerminalSize
		if err := decoder.Decode(&size); err != nil {
			return
		}
		select {
		case to <- size:
		case <-ctx.Done():
			return
		}
	}
}

// exitStatus is how the exit of a command is told to the client.
func exitStatus(err error) metav1.Status {
	var exit exec.ExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
				{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}}}
	}
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return known.Status()
	}
	return apierrors.NewInternalError(fmt.Errorf("error executing command in container: %w", err)).ErrStatus
}
