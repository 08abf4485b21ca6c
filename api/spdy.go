package api

import (
	"context"
	"encoding/json"
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
	made := newMadeStreams(opts, protocol, client.cut)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(client, req, made.accept)
	if conn == nil {
		return // the library has answered
	}
	var beside, watching sync.WaitGroup
	defer beside.Wait()
	over := make(chan struct{})
	defer func() {
		close(over)
		watching.Wait() // so that it cuts nothing of the end that the client is told
		made.end(conn)
	}()
	conn.SetIdleTimeout(streamIdle)
	watching.Go(func() {
		select {
		case <-conn.CloseChan(): // also of a client that stays, of which nothing is understood any more
			client.cut()
		case <-over:
		}
	})
	if !made.wait(client.here) {
		client.cut() // first, since it may not read what it is still told
		return
	}
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
	wanted []string      // types
	full   chan struct{} // closed when what is wanted is there, after which all does not change
	cut    func()        // ends the connection

	mu         sync.Mutex
	all        map[string]httpstream.Stream // by type, also types that are known but not wanted; guarded by mu until full
	registered []<-chan struct{}            // closed when the library knows the stream; guarded like all
	refused    int                          // guarded by mu
}

func newMadeStreams(opts *remotecommand.Options, protocol string, cut func()) *madeStreams {
	m := &madeStreams{wanted: []string{remotecommand.StreamTypeError}, full: make(chan struct{}), cut: cut,
		all: map[string]httpstream.Stream{}}
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

// maxRefused is how many streams a client may make in vain: the library writes a line of the log for each.
const maxRefused = 20

// accept takes a stream and answers it, or gives the reason why not. Nobody has to wait for it.
func (m *madeStreams) accept(s httpstream.Stream, registered <-chan struct{}) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.take(s, registered)
	if err == nil {
		return nil
	}
	if m.refused++; m.refused >= maxRefused {
		m.cut()
	}
	return err
}

func (m *madeStreams) take(s httpstream.Stream, registered <-chan struct{}) error {
	kind := s.Headers().Get(remotecommand.StreamType)
	switch kind {
	case remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr,
		remotecommand.StreamTypeResize:
	default:
		return fmt.Errorf("stream type %q: is not known", kind)
	}
	if m.complete() || m.all[kind] != nil {
		return fmt.Errorf("stream %s: is one too many", kind)
	}
	if err := answer(s); err != nil {
		return err
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
func (m *madeStreams) wait(client context.Context) bool {
	ctx, cancel := context.WithTimeout(client, streamCreation)
	defer cancel()
	select {
	case <-m.full:
	case <-ctx.Done():
	}
	select {
	case <-m.full: // also of a client that goes right after that: a command goes on without it anyway
		m.settle()
		return true
	default:
		return false
	}
}

// settle waits until the library knows all that was accepted, which it does as soon as accept has returned.
func (m *madeStreams) settle() {
	m.mu.Lock()
	all := m.registered
	m.mu.Unlock()
	for _, known := range all {
		<-known
	}
}

// end tells the client that this is the end, and resets what it has made. No stream is accepted any more: either all are there, or the
// connection is cut. The library resets those that it knows by then, and one that it comes to know a moment later never: what
// the client has sent on that would be waited for for ever.
func (m *madeStreams) end(conn httpstream.Connection) {
	m.settle()
	_ = conn.Close()
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
