package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// serveStreams is what the streams of a client are for, a command or a container's own process.
type serveStreams func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, sizes <-chan remotecommand.TerminalSize) error

// serveSPDY speaks the protocols of SPDY, by which kubectl does exec and attach up to 1.30 and where WebSockets do not get through.
// The stream server's library speaks them, too, but waits for ever on behalf of clients that make fewer or more streams than they
// said, or go meanwhile.
func serveSPDY(client *watchedClient, req *http.Request, opts *remotecommand.Options, serve serveStreams) {
	protocol, err := httpstream.Handshake(req, client, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return // the library has answered
	}
	made := newMadeStreams(opts, protocol)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(client, req, made.accept)
	if conn == nil {
		return // the library has answered
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	over := make(chan struct{})
	defer func() {
		close(over)
		_ = conn.Close()
		made.held.end()
	}()
	conn.SetIdleTimeout(streamIdle)
	if !made.wait(req.Context(), conn.CloseChan()) {
		client.cut() // first, since it may not read what it is still told
		return
	}
	beside.Go(func() {
		select {
		case <-conn.CloseChan():
			client.cut()
		case <-over:
		}
	})
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	sizes := made.read(ctx, opts, &beside)
	in, out, errOut := made.all[remotecommand.StreamTypeStdin], made.all[remotecommand.StreamTypeStdout], made.all[remotecommand.StreamTypeStderr]
	status := made.all[remotecommand.StreamTypeError]
	if protocol == remotecommand.StreamProtocolV1Name { // so did the first kubelets, and still does upstream
		if in != nil {
			_ = in.Close()
		}
		_ = status.Reset()
	}
	writeStatus(status, protocol, serve(ctx, in, out, errOut, sizes))
}

// writeStatus tells the client how it ended; protocols before the fourth have no exit codes, and only errors are told.
func writeStatus(to io.Writer, protocol string, end error) {
	status := exitStatus(end)
	if protocol == remotecommand.StreamProtocolV4Name {
		if b, err := json.Marshal(status); err == nil {
			_, _ = to.Write(b)
		}
		return
	}
	if status.Status != metav1.StatusSuccess {
		_, _ = io.WriteString(to, status.Message)
	}
}

// madeStreams are the streams that a client makes, one of a type.
type madeStreams struct {
	wanted []string // types
	held   *accepted
	full   chan struct{} // closed when what is wanted is there, after which all does not change

	mu         sync.Mutex
	all        map[string]httpstream.Stream // by type, also types that are known but not wanted; guarded by mu until full
	registered []<-chan struct{}            // closed when the library knows the stream; guarded like all
}

func newMadeStreams(opts *remotecommand.Options, protocol string) *madeStreams {
	m := &madeStreams{wanted: []string{remotecommand.StreamTypeError}, held: &accepted{all: map[httpstream.Stream]bool{}},
		full: make(chan struct{}), all: map[string]httpstream.Stream{}}
	resizes := protocol == remotecommand.StreamProtocolV3Name || protocol == remotecommand.StreamProtocolV4Name
	for kind, want := range map[string]bool{
		remotecommand.StreamTypeStdin: opts.Stdin, remotecommand.StreamTypeStdout: opts.Stdout,
		remotecommand.StreamTypeStderr: opts.Stderr, remotecommand.StreamTypeResize: opts.TTY && resizes,
	} {
		if want {
			m.wanted = append(m.wanted, kind)
		}
	}
	return m
}

// accept takes a stream and answers it, or gives the reason why not. Nobody has to wait for it.
func (m *madeStreams) accept(s httpstream.Stream, registered <-chan struct{}) error {
	kind := s.Headers().Get(remotecommand.StreamType)
	switch kind {
	case remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr,
		remotecommand.StreamTypeResize:
	default:
		return fmt.Errorf("stream type %q: is not known", kind)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.complete() || m.all[kind] != nil {
		return fmt.Errorf("stream %s: is one too many", kind)
	}
	if err := answer(s); err != nil {
		return err
	}
	if !m.held.add(s) {
		return errors.New("the session is over")
	}
	m.all[kind], m.registered = s, append(m.registered, registered)
	if m.complete() {
		close(m.full)
	}
	return nil
}

func (m *madeStreams) complete() bool {
	for _, kind := range m.wanted {
		if m.all[kind] == nil {
			return false
		}
	}
	return true
}

// wait is false when the client has not made what is wanted in time, or goes before.
func (m *madeStreams) wait(ctx context.Context, gone <-chan bool) bool {
	ctx, cancel := context.WithTimeout(ctx, streamCreation)
	defer cancel()
	select {
	case <-m.full:
	case <-gone:
	case <-ctx.Done():
	}
	select {
	case <-m.full: // also of a client that goes right after that: a command goes on without it anyway
	default:
		return false
	}
	for _, known := range m.registered {
		select {
		case <-known:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// read takes what a client sends where nobody else does, until the streams are reset: the library would wait for its reader, and
// with it other streams. The sizes of a terminal are handed on until ctx is done.
func (m *madeStreams) read(ctx context.Context, opts *remotecommand.Options, readers *sync.WaitGroup) (sizes <-chan remotecommand.TerminalSize) {
	for kind, s := range m.all {
		if h, ok := s.(interface{ ReceiveHeader() (http.Header, error) }); ok {
			readers.Go(func() {
				for {
					if _, err := h.ReceiveHeader(); err != nil {
						return
					}
				}
			})
		}
		switch {
		case kind == remotecommand.StreamTypeStdin && opts.Stdin:
		case kind == remotecommand.StreamTypeResize && opts.TTY:
			to := make(chan remotecommand.TerminalSize)
			sizes = to
			readers.Go(func() {
				readSizes(ctx, s, to)
				close(to)
				_, _ = io.Copy(io.Discard, s)
			})
		default:
			readers.Go(func() { _, _ = io.Copy(io.Discard, s) })
		}
	}
	return sizes
}
