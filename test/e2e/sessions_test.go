//go:build host

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

var sessions = flag.Int("sessions", 10_000, "sessions that TestSessionsDropped drops")

// sessionKinds are the ways in which a client is connected with a pod for longer than a request. Each is used until its
// connection is gone. Commands in containers cost runc's time, so there are fewer of them.
var sessionKinds = []struct {
	name  string
	share int
	use   func(ctx context.Context, config *rest.Config) error
}{
	{"exec by WebSocket", 1, func(ctx context.Context, c *rest.Config) error {
		return sessionCommand(ctx, c, sessionURL(c, "exec", &v1.PodExecOptions{Container: "app", Command: []string{"/server", "cat"}, Stdin: true, Stdout: true, Stderr: true}), true)
	}},
	{"exec by SPDY", 1, func(ctx context.Context, c *rest.Config) error {
		return sessionCommand(ctx, c, sessionURL(c, "exec", &v1.PodExecOptions{Container: "app", Command: []string{"/server", "cat"}, Stdin: true, Stdout: true, Stderr: true}), false)
	}},
	{"attach by WebSocket", 3, func(ctx context.Context, c *rest.Config) error {
		return sessionCommand(ctx, c, sessionURL(c, "attach", &v1.PodAttachOptions{Container: "app", Stdin: true, Stdout: true, Stderr: true}), true)
	}},
	{"attach by SPDY", 3, func(ctx context.Context, c *rest.Config) error {
		return sessionCommand(ctx, c, sessionURL(c, "attach", &v1.PodAttachOptions{Container: "app", Stdin: true, Stdout: true, Stderr: true}), false)
	}},
	{"port-forward by WebSocket", 4, func(ctx context.Context, c *rest.Config) error {
		d, err := portforward.NewSPDYOverWebsocketDialerForStreaming(sessionURL(c, "portforward", nil), c)
		if err != nil {
			return err
		}
		return sessionForward(d)
	}},
	{"port-forward by SPDY", 4, func(ctx context.Context, c *rest.Config) error {
		transport, upgrader, err := spdy.RoundTripperFor(c)
		if err != nil {
			return err
		}
		return sessionForward(spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, sessionURL(c, "portforward", nil)))
	}},
	{"log by WebSocket", 2, func(ctx context.Context, c *rest.Config) error {
		in, err := openLogSocket(ctx, &proxyGate{c}, "session", "binary.k8s.io", url.Values{"follow": {"true"}, "container": {"app"}})
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(io.Discard, in)
		return err
	}},
	{"log", 2, func(ctx context.Context, c *rest.Config) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, sessionURL(c, "log", &v1.PodLogOptions{Follow: true, Container: "app"}).String(), nil)
		if err != nil {
			return err
		}
		r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}},
	{"proxy with an upgrade", 2, func(ctx context.Context, c *rest.Config) error {
		u := sessionURL(c, "proxy", nil)
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "GET %s/upgrade HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", strings.Replace(u.Path, "session", "session:8080", 1))
		if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 101"))); err != nil {
			return err
		}
		return sessionTalk(conn)
	}},
}

// sessionURL is the address of a subresource of the pod.
func sessionURL(c *rest.Config, subresource string, options any) *url.URL {
	u, err := url.Parse(c.Host + "/api/v1/namespaces/default/pods/session/" + subresource)
	if err != nil {
		panic(err)
	}
	query := url.Values{}
	switch o := options.(type) {
	case *v1.PodExecOptions:
		query, err = scheme.ParameterCodec.EncodeParameters(o, v1.SchemeGroupVersion)
	case *v1.PodAttachOptions:
		query, err = scheme.ParameterCodec.EncodeParameters(o, v1.SchemeGroupVersion)
	case *v1.PodLogOptions:
		query, err = scheme.ParameterCodec.EncodeParameters(o, v1.SchemeGroupVersion)
	}
	if err != nil {
		panic(err)
	}
	u.RawQuery = query.Encode()
	return u
}

// sessionCommand talks to a command until the connection is gone.
func sessionCommand(ctx context.Context, c *rest.Config, u *url.URL, socket bool) error {
	var e remotecommand.Executor
	var err error
	if socket {
		e, err = remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	} else {
		e, err = remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	}
	if err != nil {
		return err
	}
	in, end := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := end.Write(sessionWords); err != nil {
				return
			}
		}
	}()
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
	_ = in.Close()
	<-done
	return err
}

var sessionWords = bytes.Repeat([]byte("word\n"), 50)

// sessionForward talks over a port-forward until the connection is gone.
func sessionForward(d httpstream.Dialer) error {
	conn, _, err := d.Dial("portforward.k8s.io")
	if err != nil {
		return err
	}
	defer conn.Close()
	var all sync.WaitGroup
	defer all.Wait()
	for i := range 2 {
		header := http.Header{"Streamtype": {"error"}, "Port": {"7001"}, "Requestid": {strconv.Itoa(i)}}
		errs, err := conn.CreateStream(header)
		if err != nil {
			return err
		}
		_ = errs.Close()
		header = header.Clone()
		header.Set("streamType", "data")
		data, err := conn.CreateStream(header)
		if err != nil {
			return err
		}
		all.Go(func() { _ = sessionTalk(data) })
	}
	<-conn.CloseChan()
	return io.ErrUnexpectedEOF
}

// sessionTalk writes and reads until one of both fails.
func sessionTalk(c io.ReadWriteCloser) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, c)
	}()
	var err error
	for err == nil {
		_, err = c.Write(sessionWords)
	}
	_ = c.Close()
	<-done
	return err
}

// drop is a port that leads to podd's socket, for one connection. It is dropped after as many bytes, or after as long, as
// chance chooses: between two bytes of a handshake, of a frame, of a half-close, or while nothing is said.
type drop struct {
	listener net.Listener
	socket   string
	patient  bool          // has time to be answered, however busy the host is, and is dropped soon after
	heard    atomic.Int64  // bytes that the client got
	done     chan struct{} // closed when the connection was dropped
}

func newDrop(t *testing.T, socket string, patient bool) *drop {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &drop{listener: l, socket: socket, patient: patient, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		in, err := l.Accept()
		_ = l.Close()
		if err == nil {
			d.pass(in)
		}
	}()
	return d
}

func (d *drop) pass(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("unix", d.socket)
	if err != nil {
		return
	}
	defer out.Close()
	var left atomic.Int64
	bytes, limit := rand.Int64N(20_000), time.Duration(rand.Int64N(int64(400*time.Millisecond)))
	if d.patient {
		bytes, limit = bytes/10, 30*time.Second
	}
	left.Store(bytes)
	late := time.AfterFunc(limit, func() { _, _ = in.Close(), out.Close() })
	defer late.Stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			buf := make([]byte, 4096)
			for {
				n, err := way[0].Read(buf)
				if rest := left.Add(-int64(n)); rest < 0 {
					n, err = max(0, n+int(rest)), io.EOF
				}
				if way[1] == in {
					d.heard.Add(int64(n))
				}
				if _, werr := way[1].Write(buf[:n]); err != nil || werr != nil {
					_, _ = in.Close(), out.Close()
					return
				}
			}
		})
	}
	both.Wait()
}

// TestSessionsDropped: clients go at any point of their session, and podd is as it was before: no goroutine, no descriptor, no
// memory stays.
func TestSessionsDropped(t *testing.T) {
	s := start(t)
	proxiesLoad(t, s)
	p := proxiesServer("session", "")
	p.Container = strings.Replace(p.Container, "[/server]", "[/server, ticks]\nstdin: true", 1)
	s.running(t, p)
	klog.SetLogger(logr.Discard()) // client-go tells of each
	defer klog.ClearLogger()
	var turn []int
	for kind, k := range sessionKinds {
		for range k.share {
			turn = append(turn, kind)
		}
	}
	answered := make([]atomic.Int64, len(sessionKinds)) // sessions whose clients got something
	var clients sync.WaitGroup                          // client-go may notice 30 seconds later that its connection is gone
	dropped := func(count int) {
		var next atomic.Int64
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for n := next.Add(1) - 1; n < int64(count); n = next.Add(1) - 1 {
					round, at := int(n)/len(turn), int(n)%len(turn)
					d := newDrop(t, s.Socket, round%4 == 0)
					clients.Go(func() {
						_ = sessionKinds[turn[at]].use(t.Context(), &rest.Config{Host: "http://" + d.listener.Addr().String(), QPS: -1})
						_ = d.listener.Close() // or one that never connected would be waited for
					})
					<-d.done
					if d.heard.Load() > 0 {
						answered[turn[at]].Add(1)
					}
				}
			})
		}
		all.Wait()
	}
	defer clients.Wait()
	s.Rebase()
	dropped(10 * len(turn)) // memory that is kept for reuse is there now
	s.CheckLeaks()
	for i := range answered {
		answered[i].Store(0)
	}
	before, heap := poddMemory(t, s)
	begun := time.Now()
	dropped(*sessions)
	took := time.Since(begun)
	s.CheckLeaks()
	after, heapAfter := poddMemory(t, s)
	t.Logf("%d sessions in %s; RssAnon %.1f MB before, %.1f MB after; heap %.1f and %.1f MB", *sessions, took.Round(time.Second), before, after, heap, heapAfter)
	for i, k := range sessionKinds {
		if few := int64(k.share * *sessions / len(turn) / 10); answered[i].Load() <= few {
			t.Errorf("%s: %d sessions were answered, not even a tenth of them", k.name, answered[i].Load())
		}
	}
	if after > before+kept || heapAfter > heap+keptHeap {
		t.Errorf("podd has %.1f MB of its own, %.1f MB before the sessions, and uses %.1f MB and %.1f MB of it", after, before, heapAfter, heap)
	}
	if out, errs, code := s.PodctlInput(strings.NewReader("again"), "exec", "-i", "session", "--", "/server", "cat"); code != 0 || out != "again" {
		t.Errorf("the next exec: %q, %q, exit %d", out, errs, code)
	}
}

// kept and keptHeap are how much more podd may have after the sessions, in MB: of memory, as its stacks and the holes in its heap have
// whole pages, and of what it uses itself.
const kept, keptHeap = 8, 2

// poddMemory is podd's RssAnon in MB, without what it has and does not use, and what its heap holds.
func poddMemory(t *testing.T, s *suite) (anonymous, heap float64) {
	t.Helper()
	var use struct{ Heap float64 }
	if err := json.Unmarshal([]byte(s.Must("create", "--raw", "/debug/podd/memory", "-f", "/dev/null")), &use); err != nil || use.Heap == 0 {
		t.Fatal(use, err)
	}
	return float64(rss(t, s.Pid())) / (1 << 20), use.Heap / (1 << 20)
}
