package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"podd/api"
)

// good is how many requests of honest clients are made during an attack; at least 99.9 % have to be answered.
const good = 1000

// attack runs attackers, each again and again, while honest clients get pods and make configmaps by TLS and by the socket. Each
// attacker returns when ctx is done. The honest begin when there have been so many attacks before. What the server holds for
// the attackers is bounded: its goroutines are counted.
func (p *port) attack(t *testing.T, attackers, before int, attacker func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var attacks atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var last atomic.Value
	for range attackers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := attacker(ctx); err != nil && ctx.Err() == nil {
					last.Store(err.Error())
				}
				attacks.Add(1)
			}
		})
	}
	poll(t, time.Minute, func() bool { return attacks.Load() >= int64(before) }, func() string {
		return fmt.Sprintf("only %d attacks in a minute; how one ended: %v", attacks.Load(), last.Load())
	})
	var bad, most atomic.Int64
	ask := func(name string, client *kubernetes.Clientset) {
		for i := range good / 16 {
			request, stop := context.WithTimeout(ctx, 2*time.Minute)
			var err error
			if name != "reader" && i%5 == 0 {
				_, err = client.CoreV1().ConfigMaps("default").Create(request, &v1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{})
			} else {
				_, err = client.CoreV1().Pods("default").List(request, metav1.ListOptions{Limit: 10})
			}
			stop()
			if n := int64(runtime.NumGoroutine()); n > most.Load() {
				most.Store(n)
			}
			if n := p.server.Strangers(); n > api.MaxStrangers {
				t.Errorf("there are %d strangers", n)
				return
			}
			if err != nil {
				bad.Add(1)
				t.Logf("%s, request %d: %v", name, i, err)
			}
		}
	}
	var clients sync.WaitGroup
	for name, config := range map[string]*kubernetes.Clientset{
		"socket": kubernetes.NewForConfigOrDie(p.unix), "certificate": kubernetes.NewForConfigOrDie(p.config("admin", false)),
		"token": kubernetes.NewForConfigOrDie(p.config("admin", true)), "reader": kubernetes.NewForConfigOrDie(p.config("reader", false)),
	} {
		for range 4 {
			clients.Go(func() { ask(name, config) })
		}
	}
	clients.Wait()
	cancel()
	wg.Wait()
	if n := bad.Load(); n*1000 > good {
		t.Errorf("%d of %d good requests were not answered", n, good)
	}
	if n := most.Load(); n > 5*api.MaxStrangers {
		t.Errorf("there were %d goroutines", n)
	}
	if attacks.Load() < int64(attackers) {
		t.Errorf("there were %d attacks", attacks.Load())
	}
	t.Logf("%d attacks, at most %d goroutines; how one attack ended: %v", attacks.Load(), most.Load(), last.Load())
}

// dial is a TLS connection to the port, of a user or of nobody, for the given protocol.
func (p *port) dial(ctx context.Context, t testing.TB, user, protocol string) (net.Conn, error) {
	config := p.tls(t, user)
	config.NextProtos = []string{protocol}
	d := tls.Dialer{Config: config}
	return d.DialContext(ctx, "tcp", strings.TrimPrefix(p.url, "https://"))
}

// resets opens streams on a connection and takes each back at once, until the server ends the connection.
func (p *port) resets(ctx context.Context, t testing.TB, user string) (streams int, err error) {
	conn, err := p.dial(ctx, t, user, "h2")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return 0, err
	}
	out := bufio.NewWriter(conn)
	framer := http2.NewFramer(out, conn)
	var block bytes.Buffer
	headers := hpack.NewEncoder(&block)
	for name, value := range map[string]string{":method": "GET", ":scheme": "https", ":authority": "podd", ":path": "/api/v1/pods"} {
		if err := headers.WriteField(hpack.HeaderField{Name: name, Value: value}); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(framer.WriteSettings(), framer.WriteSettingsAck(), out.Flush()); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() {
		in := http2.NewFramer(io.Discard, conn)
		for {
			frame, err := in.ReadFrame()
			if err != nil {
				ended <- err
				return
			}
			if goAway, ok := frame.(*http2.GoAwayFrame); ok && goAway.ErrCode != http2.ErrCodeNo {
				ended <- fmt.Errorf("the server ended the connection: %v", goAway.ErrCode)
				return
			}
		}
	}()
	for id := uint32(1); id < 1<<20; id += 2 {
		err = errors.Join(
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}),
			framer.WriteRSTStream(id, http2.ErrCodeCancel))
		streams++
		if err != nil || out.Buffered() > 3000 && out.Flush() != nil {
			_ = conn.Close()
			return streams, <-ended
		}
	}
	return streams, errors.New("the server took a million resets")
}

func TestRapidReset(t *testing.T) {
	for _, user := range []string{"", "reader"} {
		t.Run("by "+user, func(t *testing.T) {
			p := openPort(t, "127.0.0.1:0")
			var most atomic.Int64
			p.attack(t, 2, 0, func(ctx context.Context) error {
				streams, err := p.resets(ctx, t, user)
				for old := most.Load(); int64(streams) > old && !most.CompareAndSwap(old, int64(streams)); old = most.Load() {
				}
				return err
			})
			t.Logf("a connection got at most %d streams through", most.Load())
		})
	}
}

// TestSlowloris: connections that begin something and do not go on, in each state there is, many more than there are
// places for strangers.
func TestSlowloris(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	begin := map[string]func(ctx context.Context) (net.Conn, error){
		"nothing": func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(p.url, "https://"))
		},
		"half a handshake": func(ctx context.Context) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(p.url, "https://"))
			if err == nil {
				_, err = conn.Write([]byte{0x16, 3, 1, 2, 0, 1})
			}
			return conn, err
		},
		"no request": func(ctx context.Context) (net.Conn, error) { return p.dial(ctx, t, "", "http/1.1") },
		"half a header": func(ctx context.Context) (net.Conn, error) {
			conn, err := p.dial(ctx, t, "", "http/1.1")
			if err == nil {
				_, err = io.WriteString(conn, "GET /api/v1/pods HTTP/1.1\r\nHost: podd\r\nX-")
			}
			return conn, err
		},
		"half a frame": func(ctx context.Context) (net.Conn, error) {
			conn, err := p.dial(ctx, t, "", "h2")
			if err == nil {
				_, err = io.WriteString(conn, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40\x00")
			}
			return conn, err
		},
	}
	var kinds []string
	for kind := range begin {
		kinds = append(kinds, kind)
	}
	var held struct {
		sync.Mutex
		conns []net.Conn
	}
	var n atomic.Int64
	p.attack(t, 4, 2*api.MaxStrangers, func(ctx context.Context) error {
		if n.Add(1) > 4*api.MaxStrangers {
			<-ctx.Done() // this many are held open
			return nil
		}
		conn, err := begin[kinds[int(n.Load())%len(kinds)]](ctx)
		if err != nil {
			return err
		}
		held.Lock()
		held.conns = append(held.conns, conn)
		held.Unlock()
		return nil
	})
	if len(held.conns) < api.MaxStrangers {
		t.Errorf("only %d connections were made", len(held.conns))
	}
	for _, c := range held.conns {
		_ = c.Close()
	}
	poll(t, 20*time.Second, func() bool { return p.server.Strangers() == 0 }, func() string {
		return fmt.Sprintf("afterwards there are %d strangers", p.server.Strangers())
	})
}

// poll waits for what has no watch: a count of the server's, or that it listens.
func poll(t testing.TB, within time.Duration, ok func() bool, wrong func() string) {
	t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatal(wrong())
		}
	}
}

// TestPlacesOfConnections: who has proved who he is takes a place among the known and gives it back.
func TestPlacesOfConnections(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	count := func(what string, strangers, known int) {
		t.Helper()
		poll(t, 20*time.Second, func() bool { return p.server.Strangers() == strangers && p.server.Known() == known }, func() string {
			return fmt.Sprintf("%s: %d strangers and %d known", what, p.server.Strangers(), p.server.Known())
		})
	}
	count("at first", 0, 0)
	var conns []net.Conn
	for _, user := range []string{"", "admin", "reader"} {
		for range 3 {
			conn, err := p.dial(t.Context(), t, user, "http/1.1")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conns = append(conns, conn)
		}
	}
	count("before a request", 9, 0) // also those with a certificate: a handshake alone takes no place of the known
	for _, conn := range conns {
		for range 2 {
			if _, err := io.WriteString(conn, "GET /api HTTP/1.1\r\nHost: podd\r\n\r\n"); err != nil {
				break // a stranger's second
			}
			if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
			}
		}
	}
	count("after a request", 0, 6)
	for _, conn := range conns {
		_ = conn.Close()
	}
	count("at the end", 0, 0)
}

// TestFloodOfStrangers: requests without credentials, with wrong ones, and connections that are thrown away.
func TestFloodOfStrangers(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	var n atomic.Int64
	p.attack(t, 4, 0, func(ctx context.Context) error {
		transport := &http.Transport{TLSClientConfig: p.tls(t, ""), ForceAttemptHTTP2: n.Add(1)%2 == 0}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/api/v1/namespaces/default/pods", strings.NewReader("{}"))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer guess")
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a stranger got %s", res.Status)
		}
		return errors.New(res.Status)
	})
}

// TestSlowBodies: clients that may write send a request and not its body, as many as there are places for writes and more.
func TestSlowBodies(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	var n atomic.Int64
	var mu sync.Mutex
	var held []net.Conn
	p.attack(t, 4, 100, func(ctx context.Context) error {
		if n.Add(1) > 300 {
			<-ctx.Done()
			return nil
		}
		conn, err := p.dial(ctx, t, "reader", "http/1.1")
		if err != nil {
			return err
		}
		_, err = io.WriteString(conn, "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: podd\r\n"+
			"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		mu.Lock()
		held = append(held, conn)
		mu.Unlock()
		return err
	})
	for _, c := range held {
		_ = c.Close()
	}
}

// TestPatience: each kind of slowness has its end.
func TestPatience(t *testing.T) {
	const short = 300 * time.Millisecond
	const long = time.Hour
	all := map[string]struct {
		stranger, header, body time.Duration
		user, send, want       string
	}{
		"no handshake":                {short, long, long, "-", "", ""},
		"no handshake (header)":       {long, short, long, "-", "", ""},
		"stranger":                    {short, long, long, "", "", ""},
		"stranger with half a header": {short, long, long, "", "GET / HTTP/1.1\r\nX-", ""},
		"half a header":               {long, short, long, "admin", "GET /livez HTTP/1.1\r\nHost: podd\r\n\r\nGET / HTTP/1.1\r\nX-", "200 OK"},
		"half a body": {long, long, short, "admin", "POST /api/v1/namespaces HTTP/1.1\r\nHost: podd\r\nContent-Type: application/json\r\n" +
			"Content-Length: 100\r\n\r\n{", "408 Request Timeout"},
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			p := openPort(t, "127.0.0.1:0", func(s *api.Server) { s.SetPatience(c.stranger, c.header, c.body, long) })
			var conn net.Conn
			var err error
			if c.user == "-" {
				conn, err = net.Dial("tcp", strings.TrimPrefix(p.url, "https://"))
			} else {
				conn, err = p.dial(t.Context(), t, c.user, "http/1.1")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
			got, err := io.ReadAll(conn)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the connection is open after two minutes; answer %q", got)
			}
			if !strings.Contains(string(got), c.want) {
				t.Errorf("answer %q", got)
			}
		})
	}
}

// TestPatientWithTheKnown: somebody who has proved who he is may leave a connection idle for longer than a stranger, and
// a request whose body is there may take longer than the body may.
func TestPatientWithTheKnown(t *testing.T) {
	const short = 200 * time.Millisecond
	p := openPort(t, "127.0.0.1:0", func(s *api.Server) { s.SetPatience(short, time.Hour, short, time.Hour) })
	conn, err := p.dial(t.Context(), t, "admin", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(request string) {
		t.Helper()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode >= 300 {
			t.Fatalf("%s %s %v", res.Status, body, err)
		}
	}
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"c-"}}`
	create := fmt.Sprintf("POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: podd\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	ask(create)
	// A watch on the same connection outlives the deadlines of the request before.
	stranger, err := p.dial(t.Context(), t, "", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stranger) // returns when a stranger's time is over, which began after ours
	_ = stranger.Close()
	ask(create)
	ask("GET /api/v1/configmaps?watch=1&timeoutSeconds=1 HTTP/1.1\r\nHost: podd\r\n\r\n")
	ask(create)
}

// TestStalledWatcher: a watcher that does not read is cut off, and one that does is not, by the socket, HTTP/1 and HTTP/2.
func TestStalledWatcher(t *testing.T) {
	for _, kind := range []string{"socket", "http/1.1", "h2"} {
		t.Run(kind, func(t *testing.T) {
			p := openPort(t, "127.0.0.1:0", func(s *api.Server) { s.SetPatience(time.Hour, time.Hour, time.Hour, 3*time.Second) })
			var client *http.Client
			switch kind {
			case "socket":
				client = p.socket
			default:
				transport := &http.Transport{TLSClientConfig: p.tls(t, "admin"), ForceAttemptHTTP2: kind == "h2"}
				defer transport.CloseIdleConnections()
				client = &http.Client{Transport: transport}
			}
			base := map[bool]string{true: "http://podd", false: p.url}[kind == "socket"]
			res, err := client.Get(base + "/api/v1/configmaps?watch=1")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			admin := kubernetes.NewForConfigOrDie(p.unix)
			reading, err := admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer reading.Stop()
			big := strings.Repeat("x", 900_000)
			for range 24 { // more than all buffers between the two hold
				_, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}, Data: map[string]string{"x": big}}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for event := range reading.ResultChan() {
					if c, ok := event.Object.(*v1.ConfigMap); ok && len(c.Data) > 0 {
						break
					}
				}
			}
			poll(t, 30*time.Second, func() bool { return p.server.Watched() == 1 }, func() string {
				return fmt.Sprintf("there are %d watches", p.server.Watched())
			})
			if n, err := io.Copy(io.Discard, res.Body); err == nil {
				t.Errorf("the watch ended in good order after %d bytes", n)
			}
			poll(t, 30*time.Second, func() bool { return strings.Contains(p.log.String(), "a client was cut off") }, func() string {
				return "the log does not say so"
			})
		})
	}
}

// TestStalledStreams: so is who does not read a followed log, or anything by WebSocket.
func TestStalledStreams(t *testing.T) {
	p := openPort(t, "127.0.0.1:0", func(s *api.Server) { s.SetPatience(time.Hour, time.Hour, time.Hour, 3*time.Second) })
	admin := kubernetes.NewForConfigOrDie(p.unix)
	floods := pod("a")
	floods.Spec.Containers[0].Name = "floods"
	if _, err := admin.CoreV1().Pods("default").Create(t.Context(), floods, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		"Origin: http://podd\r\n"
	conns := map[string]net.Conn{}
	for what, request := range map[string]string{
		"followed log":              "/api/v1/namespaces/default/pods/a/log?follow=1 HTTP/1.1\r\n",
		"followed log by WebSocket": "/api/v1/namespaces/default/pods/a/log?follow=1 HTTP/1.1\r\n" + socket,
		"watch by WebSocket":        "/api/v1/configmaps?watch=1 HTTP/1.1\r\n" + socket,
		"exec, v5":                  "/api/v1/namespaces/default/pods/a/exec?command=flood&stdout=1 HTTP/1.1\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n" + socket,
		"exec, v4":                  "/api/v1/namespaces/default/pods/a/exec?command=flood&stdout=1 HTTP/1.1\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n" + socket,
	} {
		conn, err := p.unix.Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[what] = conn
		if _, err := io.WriteString(conn, "GET "+request+"Host: podd\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for range 24 { // more than all buffers between the server and the watch hold; it is told of them whenever it begins
		_, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}, Data: map[string]string{"x": strings.Repeat("x", 900_000)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	cut := func() int { return strings.Count(p.log.String(), "a client was cut off") }
	poll(t, time.Minute, func() bool { return cut() == len(conns) && p.server.Watched() == 0 }, func() string {
		return fmt.Sprintf("%d of %d clients were cut off, %d are looked after", cut(), len(conns), p.server.Watched())
	})
	for what, conn := range conns {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is open after %d bytes", what, n)
		}
	}
}

// TestSizes: what is too large is refused, with the connection's other requests unharmed.
func TestSizes(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	client := p.client(t, "admin")
	res, err := client.Post(p.url+"/api/v1/namespaces/default/configmaps", "application/json",
		strings.NewReader(`{"data":{"x":"`+strings.Repeat("x", 4<<20)+`"}}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("4 MiB: %s", res.Status)
	}
	for _, transport := range []*http.Transport{{TLSClientConfig: p.tls(t, "admin")}, {TLSClientConfig: p.tls(t, "admin"), ForceAttemptHTTP2: true}} {
		req, err := http.NewRequest(http.MethodGet, p.url+"/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", 100<<10))
		res, err = (&http.Client{Transport: transport}).Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("100 KiB of headers: %s", res.Status)
			}
		}
		transport.CloseIdleConnections()
	}
	if code, _ := get(t, client, p.url+"/readyz"); code != http.StatusOK {
		t.Errorf("afterwards: %d", code)
	}
}
