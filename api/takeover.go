package api

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream"
)

// withTakeover gives requests for an upgrade a context that ends with the connection they have taken over. net/http does
// not look after such a connection any more: without this, who waits for something else than the client, such as the
// follower of a silent log, would never learn that the client has gone. A client that does not read is cut off.
func (s *Server) withTakeover(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !httpstream.IsUpgradeRequest(r) {
			handler.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		t := &takeover{ResponseWriter: w, ctx: ctx, cancel: cancel, taken: func(c *takenConn) {
			c.stall = s.stallOf(r)
			s.watched.Store(c, nil)
			context.AfterFunc(ctx, func() { s.watched.Delete(c) })
		}}
		handler.ServeHTTP(t, r.WithContext(ctx))
	})
}

// serving is the key of the context that ends with the server.
type serving struct{}

// untilStop is a base context that outliving finds again.
func untilStop(ctx context.Context) context.Context { return context.WithValue(ctx, serving{}, ctx) }

// outliving is the context of a request for what goes on when the client has gone, until the server ends. cancel must be
// called in the end.
func outliving(ctx context.Context) (out context.Context, cancel func()) {
	out, end := context.WithCancel(context.WithoutCancel(ctx))
	server, ok := ctx.Value(serving{}).(context.Context)
	if !ok {
		return out, end
	}
	stop := context.AfterFunc(server, end)
	return out, func() { stop(); end() }
}

// answer tells a client of SPDY that it may use the streams it has made; other streams need no answer. The library tells it,
// too, but does not mind if it cannot: who then writes to such a stream waits for ever, though the client has gone.
func answer(streams ...any) error {
	for _, s := range streams {
		if r, ok := s.(interface {
			SendReply(headers http.Header, fin bool) error
		}); ok {
			if err := r.SendReply(http.Header{}, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeover is a response that notes which connection is taken over.
type takeover struct {
	http.ResponseWriter
	ctx    context.Context
	cancel context.CancelFunc
	taken  func(*takenConn) // completes a connection that is taken over; may be nil where another takeover around it does

	mu   sync.Mutex
	conn net.Conn // guarded by mu
}

func (t *takeover) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *takeover) Flush() {
	if f, ok := t.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// CloseNotify is never asked: upstream's wrappers take only what has it for a connection that can be taken over.
func (t *takeover) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(t.ctx, func() { gone <- true })
	return gone
}

// Hijack implements http.Hijacker. The connection is closed when the context of the request ends, and ends it when it is
// closed.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := t.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, fmt.Errorf("take over the connection of %T: not possible", t.ResponseWriter)
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	taken := &takenConn{Conn: conn, stall: &stall{}, closed: t.cancel}
	if t.taken != nil {
		t.taken(taken)
	}
	t.mu.Lock()
	t.conn = taken
	t.mu.Unlock()
	context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	return taken, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(taken)), nil
}

// close ends the connection if it was taken over, without a word to the client: who writes to it at that moment may be
// waiting for a client that does not read.
func (t *takeover) close() {
	t.mu.Lock()
	conn := t.conn
	t.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

type takenConn struct {
	net.Conn
	*stall
	closed func()
}

func (c *takenConn) Write(p []byte) (int, error) {
	c.begin()
	defer c.done()
	return c.Conn.Write(p)
}

// cut closes the connection when a write has waited too long.
func (c *takenConn) cut(now time.Time) (limit time.Duration, was bool) {
	if !c.over(now) {
		return 0, false
	}
	_ = c.Close()
	return c.limit, true
}

// CloseWrite tells the client that nothing more comes.
func (c *takenConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

func (c *takenConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
