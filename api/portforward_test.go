package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	spdyframe "github.com/moby/spdystream/spdy"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// placed is a Runtime in which every pod has these addresses, and echoes on every port.
type placed struct {
	Runtime
	addresses []string
	dialed    sync.WaitGroup
}

func (p *placed) Addresses(*v1.Pod) ([]string, error) { return p.addresses, nil }

func (p *placed) Dial(context.Context, *v1.Pod, int) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.dialed.Go(func() {
		_, _ = io.Copy(theirs, theirs)
		_ = theirs.Close()
	})
	return ours, nil
}

// What a pod's proxy leads to is an address that can only be a pod's.
func TestProxyAddress(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1.PodSpec{NodeName: "host"},
		Status: v1.PodStatus{PodIP: "127.0.0.1", HostIP: "127.0.0.1"}}
	for address, allowed := range map[string]bool{
		"10.85.0.2": true, "2001:db8::2": true,
		"127.0.0.1": false, "169.254.169.254": false, "::1": false, "fe80::1": false, "0.0.0.0": false, "224.0.0.1": false,
		"255.255.255.255": false, "::ffff:127.0.0.1": false, "localhost": false, "": false,
	} {
		s := &Server{Config: Config{NodeName: "host", Runtime: &placed{addresses: []string{address}}}}
		got, err := s.addressOf(pod)
		if allowed && (err != nil || got.String() != address) || !allowed && err == nil {
			t.Errorf("%q: %v, %v", address, got, err)
		}
		s = &Server{Config: Config{NodeName: "host", NodeIPs: []string{address}, Runtime: &placed{addresses: []string{"10.85.0.9"}}}}
		onHost := pod.DeepCopy()
		onHost.Spec.HostNetwork = true
		if got, err := s.addressOf(onHost); allowed && (err != nil || got.String() != address) || !allowed && err == nil {
			t.Errorf("%q with the host's network: %v, %v", address, got, err)
		}
	}
	s := &Server{Config: Config{NodeName: "host", Runtime: &placed{addresses: []string{"10.85.0.2"}}}}
	pod.Spec.NodeName = "another"
	if got, err := s.addressOf(pod); err == nil {
		t.Errorf("a pod that is not bound to this node: %v", got)
	}
}

func TestProxyHidesCredentials(t *testing.T) {
	var got http.Header
	h := withoutCredentials(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for name, value := range map[string]string{
		"Authorization": "Bearer secret", "Impersonate-User": "root", "X-Remote-User": "root", "Cookie": "mine", "X-Mine": "yes",
		"Sec-Websocket-Protocol": "base64url.bearer.authorization.k8s.io.c2VjcmV0, chat",
	} {
		r.Header.Set(name, value)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	if strings.Join(names, " ") != "Cookie Sec-Websocket-Protocol X-Mine" || got.Get("Sec-Websocket-Protocol") != "chat" {
		t.Errorf("the pod sees %v", got)
	}
	if r.Header.Get("Authorization") == "" {
		t.Error("the request itself was changed")
	}
}

// halfStream is a stream whose client has ended its direction, and that takes what it is given.
type halfStream struct {
	mu            sync.Mutex
	got           int
	closed, reset bool
}

func (s *halfStream) Read([]byte) (int, error) { return 0, io.EOF }

func (s *halfStream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got += len(b)
	return len(b), nil
}

func (s *halfStream) Close() error { s.closed = true; return nil }
func (s *halfStream) Reset() error { s.reset = true; return nil }

// A connection whose client has ended its direction goes on as long as the pod says something, and a minute after that.
func TestSpliceHalfClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		s := &halfStream{}
		begun := time.Now()
		go func() {
			for range 5 {
				time.Sleep(50 * time.Second)
				_, _ = theirs.Write([]byte("x"))
			}
		}()
		splice(t.Context(), s, ours)
		if took := time.Since(begun); took < 310*time.Second || took > 312*time.Second || s.got != 5 || !s.reset {
			t.Errorf("after %s, %d bytes; %+v", took, s.got, s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ours, _ := net.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		splice(ctx, &halfStream{}, ours)
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("it ends %s after its beginning, not with its context", took)
		}
	})
}

// keptStream is a stream that is there, and goes on until its end is closed.
type keptStream struct {
	halfStream
	headers http.Header
	end     chan struct{}
	said    strings.Builder
}

func (s *keptStream) Read([]byte) (int, error)    { <-s.end; return 0, io.EOF }
func (s *keptStream) Write(b []byte) (int, error) { return s.said.Write(b) }
func (s *keptStream) Headers() http.Header        { return s.headers }
func (s *keptStream) Identifier() uint32          { return 0 }

// TestForwardIsBounded: over one port-forward there are so many connections at a time; who wants one more is told, and gets it
// when another has ended.
func TestForwardIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &forward{pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u"}}, runtime: &placed{}}
		slots := make(chan struct{}, maxForwarded)
		var all sync.WaitGroup
		begin := func() (data, errs *keptStream) {
			registered := make(chan struct{})
			close(registered)
			data = &keptStream{headers: http.Header{"Port": {"80"}}, end: make(chan struct{})}
			errs = &keptStream{end: registered} // on which the client says nothing
			all.Go(func() {
				f.connect(t.Context(), &pair{data: &arrived{Stream: data, registered: registered}, errors: &arrived{Stream: errs, registered: registered}}, slots)
			})
			synctest.Wait()
			return data, errs
		}
		var open []*keptStream
		for i := range maxForwarded {
			data, errs := begin()
			if errs.said.Len() > 0 {
				t.Fatalf("connection %d: %s", i, errs.said.String())
			}
			open = append(open, data)
		}
		data, errs := begin()
		if got, want := errs.said.String(), "error forwarding port 80 to pod a, uid u: too many connections: there are 1000 already"; got != want || !data.reset {
			t.Errorf("connection %d is told %q, want %q; reset: %t", maxForwarded, got, want, data.reset)
		}
		close(open[0].end)
		time.Sleep(2 * time.Minute) // as long as the pod says nothing more
		synctest.Wait()
		more, errs := begin()
		if errs.said.Len() > 0 {
			t.Errorf("after one has ended: %s", errs.said.String())
		}
		for _, s := range append(open[1:], more) {
			close(s.end)
		}
		all.Wait()
	})
}

// recorder notes what is written.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.written = append(r.written, b...)
	r.mu.Unlock()
	return r.Conn.Write(b)
}

// forwardSession serves one port-forward on a pipe, and returns the client's end.
func forwardSession(ctx context.Context, around ...func(httpstream.Connection) httpstream.Connection) (client net.Conn, ended <-chan struct{}) {
	ours, theirs := net.Pipe()
	r := &placed{}
	f := &forward{runtime: r, pod: &v1.Pod{}}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	t := &takeover{ctx: ctx, cancel: cancel, conn: ours}
	go func() {
		defer close(done)
		f.serve(ctx, t, func(accept httpstream.NewStreamHandler) httpstream.Connection {
			conn, err := spdy.NewServerConnection(ours, accept)
			if err != nil {
				return nil
			}
			for _, wrap := range around {
				conn = wrap(conn)
			}
			return conn
		})
		cancel()
		r.dialed.Wait()
	}()
	return theirs, done
}

// talk is a whole port-forward of a good client.
func talk(t testing.TB, conn net.Conn) {
	t.Helper()
	c, err := spdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	header := http.Header{"Streamtype": {"error"}, "Port": {"80"}, "Requestid": {"0"}}
	errs, err := c.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	_ = errs.Close()
	header.Set("streamType", "data")
	data, err := c.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 4)
	if _, err := data.Write([]byte("word")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(data, word); err != nil || string(word) != "word" {
		t.Fatalf("%q, %v", word, err)
	}
	_ = data.Close()
}

// FuzzStreamFraming: whatever a client of a port-forward sends, and wherever it stops, its session ends with it, with all that
// it has begun.
func FuzzStreamFraming(f *testing.F) {
	conn, ended := forwardSession(f.Context())
	r := &recorder{Conn: conn}
	talk(f, r)
	_ = conn.Close()
	<-ended
	r.mu.Lock()
	f.Add(r.written)
	f.Add(r.written[:len(r.written)/2])
	f.Add(slices.Concat(r.written, r.written))
	r.mu.Unlock()
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, ended := forwardSession(t.Context())
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // who is sent a broken frame may stop reading
		_, _ = conn.Write(data)
		_ = conn.Close()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatal("the session goes on without its client")
		}
	})
}

// The two streams of a connection find each other by their headers, in any order.
func TestPairs(t *testing.T) {
	for _, c := range []struct {
		name    string
		streams []*testStream
		want    int // pairs
		left    int // streams without the other one
	}{
		{"by request", []*testStream{{id: 1, kind: "error", request: "7"}, {id: 3, kind: "error", request: "8"}, {id: 5, kind: "data", request: "8"}, {id: 7, kind: "data", request: "7"}}, 2, 0},
		{"data first", []*testStream{{id: 1, kind: "data", request: "7"}, {id: 3, kind: "error", request: "7"}}, 1, 0},
		{"by the number of the stream", []*testStream{{id: 1, kind: "error"}, {id: 3, kind: "data"}, {id: 5, kind: "error"}, {id: 7, kind: "data"}}, 2, 0},
		{"twice", []*testStream{{id: 1, kind: "error", request: "7"}, {id: 3, kind: "error", request: "7"}}, 0, 1},
		{"alone", []*testStream{{id: 1, kind: "error", request: "7"}, {id: 3, kind: "data", request: "8"}}, 0, 2},
	} {
		pairs, got := map[string]*pair{}, 0
		for _, s := range c.streams {
			if p, _ := addStream(pairs, &arrived{Stream: s}); p != nil {
				got++
			}
		}
		if got != c.want || len(pairs) != c.left {
			t.Errorf("%s: %d pairs and %d left, want %d and %d", c.name, got, len(pairs), c.want, c.left)
		}
		dropOld(pairs)
		dropOld(pairs)
		if len(pairs) != 0 {
			t.Errorf("%s: %d are kept for ever", c.name, len(pairs))
		}
	}
}

// lateLibrary is a connection that ends without knowing the streams that it has just handed out.
type lateLibrary struct {
	httpstream.Connection
	gone chan bool
}

func (c *lateLibrary) CloseChan() <-chan bool       { return c.gone }
func (c *lateLibrary) SetIdleTimeout(time.Duration) {}
func (c *lateLibrary) Close() error                 { return nil }

// A stream that is taken while the connection ends is reset, by podd if the library does not; one that comes later is refused.
func TestForwardEndsEveryStream(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	library, accept, ended := &lateLibrary{gone: make(chan bool)}, make(chan httpstream.NewStreamHandler, 1), make(chan struct{})
	go func() {
		defer close(ended)
		(&forward{pod: &v1.Pod{}}).serve(ctx, &takeover{ctx: ctx, cancel: cancel}, func(h httpstream.NewStreamHandler) httpstream.Connection {
			accept <- h
			return library
		})
	}()
	take, late := <-accept, make(chan struct{})
	half := &testStream{id: 1, kind: "error", request: "7"}
	if err := take(half, late); err != nil {
		t.Fatal(err)
	}
	close(library.gone)
	<-ended
	if half.resets == 0 {
		t.Error("a stream goes on without its connection")
	}
	held := &accepted{all: map[httpstream.Stream]bool{}}
	if !held.add(half) {
		t.Error("a stream is refused before the end")
	}
	if held.end(); held.add(half) {
		t.Error("a stream is taken after the end")
	}
}

// countedLibrary is the library, which tells how many streams it keeps when it is closed.
type countedLibrary struct {
	httpstream.Connection
	kept chan<- int
}

func (c *countedLibrary) Close() error {
	c.kept <- reflect.ValueOf(c.Connection).Elem().FieldByName("streams").Len()
	return c.Connection.Close()
}

// TestForwardForgets: of streams that never find their other half nothing is kept, however long the client goes on to make them.
func TestForwardForgets(t *testing.T) {
	const halves = 100
	synctest.Test(t, func(t *testing.T) {
		kept := make(chan int, 1)
		conn, ended := forwardSession(t.Context(), func(c httpstream.Connection) httpstream.Connection { return &countedLibrary{c, kept} })
		c, err := spdy.NewClientConnection(conn)
		if err != nil {
			t.Fatal(err)
		}
		half := func(request string) {
			if _, err := c.CreateStream(http.Header{"Streamtype": {"error"}, "Port": {"80"}, "Requestid": {request}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range halves {
			half(strconv.Itoa(i)) // is left alone
			half("0")             // is refused: there is one already
		}
		time.Sleep(3 * streamCreation)
		synctest.Wait()
		_ = conn.Close()
		if n := <-kept; n != 0 {
			t.Errorf("%d streams are kept", n)
		}
		<-ended
	})
}

// finStream is a stream that its client ends when podd is about to.
type finStream struct{ keptStream }

func (s *finStream) Close() error {
	close(s.end)
	synctest.Wait() // until it is read
	return s.keptStream.Close()
}

// TestForwardErrorsEnd: the stream for errors is reset also when the client ends it at the same time: of the two ends neither looks
// to the library like the second.
func TestForwardErrorsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &finStream{keptStream{end: make(chan struct{})}}
		(&forward{}).closeErrors(&arrived{Stream: s})()
		if !s.closed || !s.reset {
			t.Errorf("closed: %t, reset: %t", s.closed, s.reset)
		}
	})
}

// Of clients that go while their streams are being made, with data on the way, nothing stays.
func TestForwardDropped(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 1000 {
		conn, ended := forwardSession(t.Context())
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		framer, err := spdyframe.NewFramer(conn, conn)
		if err != nil {
			t.Fatal(err)
		}
		for i, kind := range []string{"error", "data", "error", "data"} {
			id, header := spdyframe.StreamId(1+2*i), http.Header{"Streamtype": {kind}, "Port": {"80"}, "Requestid": {strconv.Itoa(i / 2)}}
			_ = framer.WriteFrame(&spdyframe.SynStreamFrame{StreamId: id, Headers: header})
			_ = framer.WriteFrame(&spdyframe.DataFrame{StreamId: id, Data: []byte("x")})
		}
		_ = conn.Close()
		<-ended
	}
	for limit := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines were %d\n%.8000s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

type testStream struct {
	httpstream.Stream
	id            uint32
	kind, request string
	resets        int
}

func (s *testStream) Identifier() uint32 { return s.id }
func (s *testStream) Reset() error       { s.resets++; return nil }

func (s *testStream) Headers() http.Header {
	h := http.Header{}
	h.Set("streamType", s.kind)
	h.Set("port", "80")
	if s.request != "" {
		h.Set("requestID", s.request)
	}
	return h
}
