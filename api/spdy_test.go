package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	spdyframe "github.com/moby/spdystream/spdy"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// pipedResponse is a response on a pipe, on which nothing is said before it is taken over.
type pipedResponse struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (r *pipedResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return r.conn, bufio.NewReadWriter(bufio.NewReader(r.conn), bufio.NewWriter(r.conn)), nil
}

// halfPipe is a pipe of which the one end is told that nothing more comes, and does nothing about it.
type halfPipe struct{ net.Conn }

func (halfPipe) CloseWrite() error { return nil }

// spdySession is a command with the streams opts for a client of SPDY, which goes on when the client has gone.
func spdySession(t *testing.T, opts remotecommand.Options, protocol string, serve serveStreams) (conn net.Conn, ended <-chan struct{}) {
	ours, theirs := net.Pipe()
	return theirs, spdySessionOn(t, ours, opts, protocol, serve)
}

func spdySessionOn(t *testing.T, ours net.Conn, opts remotecommand.Options, protocol string, serve serveStreams) (ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(t.Context())
	taken := &takeover{ResponseWriter: &pipedResponse{httptest.NewRecorder(), ours}, ctx: ctx, cancel: cancel}
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {protocol}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		client := newWatchedClient(ctx, taken)
		defer client.part()
		serveSPDY(client, req, &opts, serve)
	}()
	return done
}

// frames is a client that writes what it likes, and notes what it is told.
type frames struct {
	t *testing.T
	*spdyframe.Framer
	reset  map[spdyframe.StreamId]bool
	said   map[spdyframe.StreamId]string
	goAway atomic.Bool // it is told of the end
	closed atomic.Bool // the connection has ended
}

func newFrames(t *testing.T, conn net.Conn) *frames {
	framer, err := spdyframe.NewFramer(conn, conn)
	if err != nil {
		t.Fatal(err)
	}
	f := &frames{t: t, Framer: framer, reset: map[spdyframe.StreamId]bool{}, said: map[spdyframe.StreamId]string{}}
	go func() { // until the connection ends; what it has noted is looked at when all is still
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				f.closed.Store(true)
				return
			}
			switch frame := frame.(type) {
			case *spdyframe.GoAwayFrame:
				f.goAway.Store(true)
			case *spdyframe.RstStreamFrame:
				f.reset[frame.StreamId] = true
			case *spdyframe.DataFrame:
				f.said[frame.StreamId] += string(frame.Data)
			}
		}
	}()
	return f
}

// open makes one stream after the other, the first with number 1, each when the one before is answered or refused.
func (f *frames) open(types ...string) {
	for i, kind := range types {
		f.write(&spdyframe.SynStreamFrame{StreamId: spdyframe.StreamId(1 + 2*i), Headers: http.Header{"Streamtype": {kind}}})
		synctest.Wait()
	}
}

func (f *frames) say(id spdyframe.StreamId, times int, data string) {
	for range times {
		f.write(&spdyframe.DataFrame{StreamId: id, Data: []byte(data)})
	}
}

func (f *frames) write(frame spdyframe.Frame) {
	f.t.Helper()
	if err := f.WriteFrame(frame); err != nil {
		f.t.Fatal(err)
	}
}

// TestSPDYMisused: whatever a client does with its streams, its session ends when it goes, or does not make them, and those
// that it may make work.
func TestSPDYMisused(t *testing.T) {
	const many = 1000 // more than the library's queues hold
	for _, c := range []struct {
		name string
		do   func(*frames)
		stay bool          // the client does not go by itself
		took time.Duration // from then on
		echo bool          // stdin, the third stream, is said again on stdout, the second
		gone int           // number of the stream that is refused; -1: many, of which it may not be told
	}{
		{name: "nothing", do: func(*frames) {}},
		{name: "nothing, stays", do: func(*frames) {}, stay: true, took: streamCreation},
		{name: "too few, with data", do: func(f *frames) { f.open("error", "stdout"); f.say(1, 2, "x"); f.say(3, 2, "x") }},
		{name: "too few, with data, stays", do: func(f *frames) { f.open("error", "stdout"); f.say(1, 2, "x"); f.say(3, 2, "x") }, stay: true, took: streamCreation},
		{name: "of no type that is known", do: func(f *frames) { f.open("error", "stdout", "more") }, stay: true, took: streamCreation, gone: 5},
		{name: "one twice", do: func(f *frames) {
			f.open("error", "stdout", "stdout")
			f.say(5, many, "x")
		}, gone: 5},
		{name: "stdin twice", do: func(f *frames) {
			f.open("error", "stdout", "stdin", "stdin")
			f.say(7, many, "x")
		}, echo: true, gone: 7},
		{name: "one more", do: func(f *frames) {
			f.open("error", "stdout", "stdin", "resize")
			f.say(7, many, "x")
		}, echo: true, gone: 7},
		{name: "data where nobody reads", do: func(f *frames) {
			f.open("error", "stdout", "stdin")
			f.say(1, many, "x")
			f.say(3, many, "x")
		}, echo: true},
		{name: "headers", do: func(f *frames) {
			f.open("error", "stdout", "stdin")
			for range many {
				for id := range spdyframe.StreamId(3) {
					f.write(&spdyframe.HeadersFrame{StreamId: 1 + 2*id, Headers: http.Header{"A": {"b"}}})
				}
			}
		}, echo: true},
		{name: "one after the other that is refused", do: func(f *frames) {
			for i := range maxRefused {
				f.write(&spdyframe.SynStreamFrame{StreamId: spdyframe.StreamId(1 + 2*i), Headers: http.Header{"Streamtype": {"more"}}})
			}
		}, stay: true, gone: -1},
		{name: "its own end before it has made them, stays", do: func(f *frames) { f.write(&spdyframe.GoAwayFrame{}) }, stay: true},
		{name: "its own end, stays", do: func(f *frames) {
			f.open("error", "stdout", "stdin")
			f.write(&spdyframe.GoAwayFrame{})
		}, stay: true},
		{name: "types that were not asked for", do: func(f *frames) {
			f.open("error", "stdout", "stderr", "resize", "stdin")
			f.say(5, many, "x")
			f.say(7, many, "x")
			f.say(9, 1, "hello")
			synctest.Wait()
			if f.said[3] != "hello" {
				f.t.Errorf("it is told %v", f.said)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which fails, too, if a goroutine is left
				conn, ended := spdySession(t, remotecommand.Options{Stdin: true, Stdout: true}, remotecommand.StreamProtocolV4Name,
					func(_ context.Context, in io.Reader, out, errOut io.WriteCloser, sizes <-chan remotecommand.TerminalSize) error {
						_, err := io.Copy(out, in)
						return err
					})
				f := newFrames(t, conn)
				c.do(f)
				if c.echo {
					f.say(5, 1, "hello")
				}
				synctest.Wait()
				if c.echo && f.said[3] != "hello" {
					t.Errorf("it is told %v", f.said)
				}
				if c.gone == 0 && len(f.reset) > 0 || c.gone > 0 && (len(f.reset) != 1 || !f.reset[spdyframe.StreamId(c.gone)]) {
					t.Errorf("reset are %v, not %d", f.reset, c.gone)
				}
				begun := time.Now()
				if !c.stay {
					_ = conn.Close()
				}
				<-ended
				if took := time.Since(begun); took != c.took {
					t.Errorf("it ends after %s, not %s", took, c.took)
				}
				synctest.Wait()
				_ = conn.Close()
			})
		})
	}
}

// TestSPDYEnd: a client learns of the end of its session though it stays: when its command ends, and, while that goes on, when it has said
// that it makes no more streams or something that is not understood, after which nothing more is read or written.
func TestSPDYEnd(t *testing.T) {
	for name, say := range map[string]func(*frames, net.Conn){
		"the command": nil,
		"its own":     func(f *frames, _ net.Conn) { f.write(&spdyframe.GoAwayFrame{}) },
		"nonsense":    func(_ *frames, conn net.Conn) { _, _ = conn.Write(make([]byte, 8)) }, // data of stream 0
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := make(chan struct{})
				conn, ended := spdySession(t, remotecommand.Options{Stdin: true}, remotecommand.StreamProtocolV4Name,
					func(context.Context, io.Reader, io.WriteCloser, io.WriteCloser, <-chan remotecommand.TerminalSize) error {
						<-over
						return nil
					})
				f := newFrames(t, conn)
				f.open("error", "stdin")
				if say != nil {
					say(f, conn)
				} else {
					close(over)
				}
				synctest.Wait()
				if f.goAway.Load() != (say == nil) || !f.closed.Load() {
					t.Errorf("it is told of the end: %t, and the connection has ended: %t", f.goAway.Load(), f.closed.Load())
				}
				if say != nil {
					close(over)
				}
				<-ended
				_ = conn.Close()
			})
		})
	}
}

// TestSPDYIdle: a connection on which nothing was said for hours is closed, also of a client that does not close it when it is told to.
func TestSPDYIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		over := make(chan struct{})
		ended := spdySessionOn(t, halfPipe{ours}, remotecommand.Options{Stdin: true}, remotecommand.StreamProtocolV4Name,
			func(context.Context, io.Reader, io.WriteCloser, io.WriteCloser, <-chan remotecommand.TerminalSize) error {
				<-over
				return nil
			})
		f := newFrames(t, theirs)
		f.open("error", "stdin")
		time.Sleep(streamIdle) // of the bubble
		synctest.Wait()
		if !f.goAway.Load() || f.closed.Load() {
			t.Errorf("it is told to go: %t, and cut off: %t", f.goAway.Load(), f.closed.Load())
		}
		time.Sleep(parting)
		synctest.Wait()
		if !f.closed.Load() {
			t.Error("the connection is still there")
		}
		close(over)
		<-ended
		_ = theirs.Close()
	})
}

// TestSPDYLate: a session that ends while the library does not know a stream yet, which was accepted and on which something was sent,
// leaves nothing of that behind.
func TestSPDYLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		ours, theirs := net.Pipe()
		made := newMadeStreams(&remotecommand.Options{Stdin: true}, remotecommand.StreamProtocolV4Name, func() {})
		accepted := make(chan struct{})
		conn, err := spdy.NewServerConnection(ours, func(s httpstream.Stream, registered <-chan struct{}) error {
			err := made.accept(s, registered)
			<-accepted
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		f := newFrames(t, theirs)
		f.open("stdin")
		f.say(1, 1, "x")
		synctest.Wait()
		_ = ours.Close()
		go made.end(conn)
		synctest.Wait()
		close(accepted)
	})
}

// TestSPDYFirst: clients of the first protocol are told at once that there is nothing to be had from the streams for errors and for
// stdin, since some of them wait for that.
func TestSPDYFirst(t *testing.T) {
	conn, ended := spdySession(t, remotecommand.Options{Stdin: true, Stdout: true}, remotecommand.StreamProtocolV1Name,
		func(_ context.Context, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommand.TerminalSize) error {
			_, err := io.Copy(out, in)
			return err
		})
	c, err := spdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]io.ReadWriteCloser{}
	for _, kind := range []string{"error", "stdin", "stdout"} {
		if streams[kind], err = c.CreateStream(http.Header{"Streamtype": {kind}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"error", "stdin"} {
		if b, err := io.ReadAll(streams[kind]); err != nil || len(b) > 0 {
			t.Errorf("%s: %q, %v", kind, b, err)
		}
	}
	word := make([]byte, 4)
	_, _ = streams["stdin"].Write([]byte("word"))
	if _, err := io.ReadFull(streams["stdout"], word); err != nil || string(word) != "word" {
		t.Errorf("%q, %v", word, err)
	}
	_ = c.Close()
	<-ended
}
