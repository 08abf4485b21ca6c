package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/streaming/pkg/httpstream"
)

// How long podd waits for clients.
const (
	requestTimeout = time.Minute      // for everything that is not a watch or a stream
	idleTimeout    = 90 * time.Second // for the next request on a connection
	maxHeaderBytes = 64 << 10

	retryAfter = 1 // seconds, in answers 429
)

// patience is how long podd waits for those who may be slow on purpose.
type patience struct {
	stranger time.Duration // for somebody to prove who he is, on the TLS port
	header   time.Duration // for the TLS handshake, and for each request's headers
	body     time.Duration // for the body of a request
	stall    time.Duration // for a watcher to take what is being sent
	pause    time.Duration // for anybody else: who reads a log or a terminal may stop for a while
}

func defaultPatience() patience {
	return patience{stranger: 10 * time.Second, header: 10 * time.Second, body: 30 * time.Second, stall: 30 * time.Second,
		pause: 15 * time.Minute}
}

// bound is how many requests of a class go on at a time.
type bound struct {
	name  string
	limit int64
	now   atomic.Int64
}

func (b *bound) enter() bool {
	if b.now.Add(1) > b.limit {
		b.now.Add(-1)
		return false
	}
	return true
}

func (b *bound) leave() { b.now.Add(-1) }

// bounds are those of one kind of client; what the others do takes no place from it.
type bounds struct{ checks, reads, writes, watches, sessions, transfers bound }

func newBounds(reads, writes, watches, sessions int64) *bounds {
	return &bounds{
		checks:    bound{name: "checks of health and metrics", limit: 20},
		reads:     bound{name: "read requests", limit: reads},
		writes:    bound{name: "write requests", limit: writes},
		watches:   bound{name: "watches and followed logs", limit: watches},
		sessions:  bound{name: "sessions of exec, attach, port-forward and proxy", limit: sessions},
		transfers: bound{name: "image transfers", limit: 20},
	}
}

// clients are the kinds: whoever is on the socket, administrators on the TLS port, readers there, pods, and the rest.
type clients struct{ socket, admins, readers, accounts, strangers *bounds }

func newClients() *clients {
	return &clients{
		socket:    newBounds(400, 200, 10000, 1000), // reads and writes as upstream
		admins:    newBounds(400, 200, 10000, 1000),
		readers:   newBounds(100, 20, 2000, 0),
		accounts:  newBounds(200, 100, 5000, 500),
		strangers: newBounds(0, 0, 0, 0),
	}
}

func (c *clients) of(r *http.Request) *bounds {
	who, _ := request.UserFrom(r.Context())
	switch {
	case connOf(r.Context()) == nil:
		return c.socket
	case who != nil && slices.Contains(who.GetGroups(), userinfo.SystemPrivilegedGroup):
		return c.admins
	case who != nil && slices.Contains(who.GetGroups(), serviceaccount.AllServiceAccountsGroup):
		return c.accounts
	case who != nil && slices.Contains(who.GetGroups(), userinfo.AllAuthenticated):
		return c.readers
	}
	return c.strangers
}

// class is the bound that a request counts for.
func (b *bounds) class(r *http.Request, info *request.RequestInfo) *bound {
	switch {
	case !longRunning(r, info):
		switch {
		case !info.IsResourceRequest && checkPath(info.Path):
			return &b.checks
		case slices.Contains([]string{"get", "list", "head", "options"}, info.Verb):
			return &b.reads
		}
		return &b.writes
	case !info.IsResourceRequest:
		return &b.transfers
	case info.Verb == "watch" || info.Subresource == "log":
		return &b.watches
	}
	return &b.sessions
}

// checkPath tells whether this is what monitoring asks for: it is answered when all other places are taken.
func checkPath(path string) bool {
	return slices.ContainsFunc([]string{"/livez*", "/readyz*", "/healthz*", "/version", "/metrics*", "/stats/*"},
		func(pattern string) bool { return fits(pattern, path) })
}

// withBounds answers 429 when there is no place for a request.
func (c *clients) withBounds(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok {
			respondError(w, r, apierrors.NewInternalError(fmt.Errorf("no request info of %s", r.URL.Path)))
			return
		}
		b := c.of(r).class(r, info)
		if !b.enter() {
			respondError(w, r, apierrors.NewTooManyRequests(
				fmt.Sprintf("podd has %d %s under way already, try again later", b.limit, b.name), retryAfter))
			return
		}
		defer b.leave()
		handler.ServeHTTP(w, r)
	})
}

// withDeadlines gives up on clients that send their request or take its answer too slowly. Streams and watches are not
// bounded in time.
func (s *Server) withDeadlines(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		info, ok := request.RequestInfoFrom(r.Context())
		if ok && longRunning(r, info) {
			_ = control.SetWriteDeadline(time.Time{}) // HTTP/1 connections keep that of the request before
			handler.ServeHTTP(w, r)
			return
		}
		now := time.Now()
		_ = control.SetWriteDeadline(now.Add(requestTimeout + s.patience.body))
		if r.ContentLength != 0 {
			_ = control.SetReadDeadline(now.Add(s.patience.body))
			r.Body = &body{ReadCloser: r.Body, control: control}
		}
		handler.ServeHTTP(w, r)
	})
}

// body takes the deadline away once all is there: net/http goes on to read, to notice that the client has gone.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF: //nolint:errorlint // as readers return it
		_ = b.control.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, apierrors.NewGenericServerResponse(http.StatusRequestTimeout, "", schema.GroupResource{}, "",
			"the body of the request took too long", 0, true)
	}
	return n, err
}

// stall is since when a client has not taken what is being written to it. Writers of one connection take turns.
type stall struct {
	limit time.Duration
	since atomic.Int64 // nanoseconds of Unix time; 0 when nothing is being written
}

// begin is called before a write, done after it.
func (s *stall) begin() { s.since.CompareAndSwap(0, time.Now().UnixNano()) }
func (s *stall) done()  { s.since.Store(0) }

// over tells, once, that a write has waited for longer than the limit.
func (s *stall) over(now time.Time) bool {
	since := s.since.Load()
	return since != 0 && since <= now.Add(-s.limit).UnixNano() && s.since.CompareAndSwap(since, 0)
}

// stallOf is the limit for the client of a request that may go on for ever.
func (s *Server) stallOf(r *http.Request) *stall {
	if info, ok := request.RequestInfoFrom(r.Context()); ok && info.Verb == "watch" {
		return &stall{limit: s.patience.stall}
	}
	return &stall{limit: s.patience.pause}
}

// withStalls lets cutStalled see the writes of watches, followed logs and proxied answers. Connections that are taken over
// are seen by withTakeover.
func (s *Server) withStalls(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok || !longRunning(r, info) || httpstream.IsUpgradeRequest(r) {
			handler.ServeHTTP(w, r)
			return
		}
		watched := &stallWriter{ResponseWriter: w, stall: s.stallOf(r)}
		s.watched.Store(watched, nil)
		defer func() {
			s.watched.Delete(watched)
			watched.end()
		}()
		handler.ServeHTTP(responsewriter.WrapForHTTP1Or2(watched), r)
	})
}

// cutStalled cuts off clients that do not take what is sent to them, until ctx is done: the connection's buffers are full
// and nobody reads.
func (s *Server) cutStalled(ctx context.Context) {
	tick := time.NewTicker(min(s.patience.stall, s.patience.pause) / 6)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.watched.Range(func(w, _ any) bool {
				if limit, was := w.(interface {
					cut(now time.Time) (limit time.Duration, was bool)
				}).cut(now); was {
					s.Log.Info("a client was cut off: it does not read", "waited", limit)
				}
				return true
			})
		}
	}
}

// stallWriter is an answer that may be cut off.
type stallWriter struct {
	http.ResponseWriter
	*stall

	mu    sync.Mutex
	ended bool // ResponseWriter must not be touched any more
}

// cut ends the connection, or the stream of an HTTP/2 connection, when a write has waited too long.
func (w *stallWriter) cut(now time.Time) (limit time.Duration, was bool) {
	if !w.over(now) {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit, !w.ended && http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0)) == nil
}

func (w *stallWriter) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
}

func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *stallWriter) Write(p []byte) (int, error) {
	w.begin()
	defer w.done()
	return w.ResponseWriter.Write(p)
}

func (w *stallWriter) Flush() {
	w.begin()
	defer w.done()
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
