package api_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	spdyframe "github.com/moby/spdystream/spdy"
	"golang.org/x/net/websocket"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"podd/api"
)

// TestTooManyCommands: one command too many is refused before its connection is taken over, with 429, and gets its place when
// another has ended.
func TestTooManyCommands(t *testing.T) {
	e := serve(t)
	e.server.SetCommands(1)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	config := &rest.Config{Host: tcp.URL}
	run := func(in io.Reader, out io.Writer) error {
		url := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("a").SubResource("exec").
			VersionedParams(&v1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true}, scheme.ParameterCodec).URL()
		executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, url.String())
		if err != nil {
			return err
		}
		return executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
	}
	in, say := io.Pipe()
	heard, out := io.Pipe()
	first := make(chan error, 1)
	go func() { first <- run(in, out) }()
	if _, err := say.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(heard, make([]byte, 5)); err != nil { // it runs
		t.Fatal(err)
	}
	res, err := http.Post(tcp.URL+"/api/v1/namespaces/default/pods/a/exec?command=cat&stdout=1", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "1" || !strings.Contains(string(body), "commands in containers") {
		t.Errorf("one too many: %s %v %s", res.Status, res.Header, body)
	}
	_ = say.Close()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for { // the client is told of the end before the place is free
		var got bytes.Buffer
		err := run(strings.NewReader("again"), &got)
		if err == nil && got.String() == "again" {
			break
		}
		if err == nil || !strings.Contains(err.Error(), "try again later") {
			t.Fatalf("afterwards: %q, %v", got.String(), err)
		}
	}
}

// upgrade asks for SPDY at a subresource of a pod.
func upgrade(t *testing.T, conn net.Conn, path, protocol string) *spdyframe.Framer {
	fmt.Fprintf(conn, "POST /api/v1/namespaces/default/pods/%s HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\n"+
		"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\n\r\n", path, protocol)
	in := bufio.NewReader(conn)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	framer, err := spdyframe.NewFramer(conn, in)
	if err != nil {
		t.Fatal(err)
	}
	return framer
}

// TestMisusedStreams: of clients of SPDY that make too few or too many streams and go, with data on the way, nothing stays.
func TestMisusedStreams(t *testing.T) {
	const clients = 20
	e := serve(t)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	talk := func(path string, types ...string) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(tcp.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		framer := upgrade(t, conn, "a/"+path+"&stdin=1&stdout=1", "v4.channel.k8s.io")
		for i, kind := range types {
			id := spdyframe.StreamId(1 + 2*i)
			_ = framer.WriteFrame(&spdyframe.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {kind}}})
			_ = framer.WriteFrame(&spdyframe.DataFrame{StreamId: id, Data: []byte("x")})
		}
		for range types { // all are answered, or refused
			if _, err := framer.ReadFrame(); err != nil {
				t.Fatal(err)
			}
		}
	}
	goroutines, open := runtime.NumGoroutine(), descriptors()
	for _, path := range []string{"exec?command=cat", "attach?container=app"} {
		for _, types := range [][]string{{}, {"error", "stdin"}, {"error", "stdin", "stdout"}, {"error", "stdin", "stdout", "stderr"}} {
			for range clients {
				talk(path, types...)
			}
		}
	}
	settled := func() bool { // fewer than one for each client of a kind, since the server may start one meanwhile
		return runtime.NumGoroutine() < goroutines+clients/2 && descriptors() < open+clients/2 && e.server.Commands() == 0
	}
	poll(t, time.Minute, settled, func() string {
		stacks := make([]byte, 1<<20)
		return fmt.Sprintf("%d goroutines were %d, %d descriptors were %d, %d commands\n%.8000s", runtime.NumGoroutine(), goroutines,
			descriptors(), open, e.server.Commands(), stacks[:runtime.Stack(stacks, true)])
	})
}

// TestSPDYWhole: by every protocol of SPDY that has half-closes, a lot goes in and comes out whole, and a bad end is told.
func TestSPDYWhole(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	for protocol, want := range map[string]string{
		"v4.channel.k8s.io": "command terminated with exit code 7",
		"v3.channel.k8s.io": "error executing remote command: command terminated with non-zero exit code: exit 7",
		"v2.channel.k8s.io": "error executing remote command: command terminated with non-zero exit code: exit 7",
	} {
		run := func(command string, in io.Reader, out io.Writer) error {
			executor := bySPDY(t, tcp.URL, "/api/v1/namespaces/default/pods/a/exec?stdin=1&stdout=1&command="+command, protocol)
			return executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
		}
		much := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18) // 4 MiB
		var got bytes.Buffer
		if err := run("cat", bytes.NewReader(much), &got); err != nil || !bytes.Equal(got.Bytes(), much) {
			t.Errorf("%s: %d bytes of %d, %v", protocol, got.Len(), len(much), err)
		}
		if err := run("exit", strings.NewReader(""), io.Discard); err == nil || err.Error() != want {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// TestEarlyEnd: a command that ends while its client still talks to it is seen to its end, with its exit code.
func TestEarlyEnd(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	for port, listen := range map[string]func(http.Handler) *httptest.Server{"TCP": httptest.NewServer, "TLS": httptest.NewTLSServer} {
		server := listen(e.server.Handler())
		defer server.Close()
		config := &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: port == "TLS"}}
		to, err := url.Parse(server.URL + "/api/v1/namespaces/default/pods/a/exec?command=early&stdin=1&stdout=1")
		if err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func() (remotecommand.Executor, error){
			"WebSocket": func() (remotecommand.Executor, error) {
				return remotecommand.NewWebSocketExecutor(config, http.MethodGet, to.String())
			},
			"SPDY": func() (remotecommand.Executor, error) {
				return remotecommand.NewSPDYExecutor(config, http.MethodPost, to)
			},
		} {
			t.Run(port+" "+name, func(t *testing.T) {
				executor, err := open()
				if err != nil {
					t.Fatal(err)
				}
				got := 0
				out := writer(func(p []byte) (int, error) {
					if got == 0 { // it reads on when the command is over
						poll(t, time.Minute, func() bool { return e.server.Commands() == 0 }, func() string { return "it goes on" })
					}
					got += len(p)
					return len(p), nil
				})
				err = executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: endless{}, Stdout: out})
				if want := "command terminated with exit code 7"; got != early<<10 || err == nil || err.Error() != want {
					t.Errorf("%d bytes came, and %v", got, err)
				}
			})
		}
	}
}

// TestClientGoneDeaf: a client goes of which nobody reads what it has sent, so that nobody reads either that it goes. A session of attach
// or port-forward ends, and a command of exec is one without client.
func TestClientGoneDeaf(t *testing.T) {
	e := serve(t)
	p := pod("a")
	p.Spec.Containers[0].Name = "deaf"
	e.create(t, p)
	port, err := net.Listen("tcp", "127.0.0.1:0") // of the pod, where nobody reads either
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	var sessions atomic.Int64 // of attach and port-forward
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "exec") {
			sessions.Add(1)
			defer sessions.Add(-1)
		}
		e.server.Handler().ServeHTTP(w, r)
	}))
	socket := filepath.Join(t.TempDir(), "s") // the end of a TCP connection comes after what is still on the way
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Start()
	defer server.Close()
	fill := func(conn net.Conn, write func() error) { // until nothing more is taken
		for {
			if err := conn.SetWriteDeadline(time.Now().Add(time.Second / 5)); err != nil {
				t.Fatal(err)
			}
			if err := write(); err != nil {
				return
			}
		}
	}
	piece := make([]byte, 64<<10)
	bySPDY := func(path, protocol string, headers ...http.Header) func(net.Conn) { // the second stream is filled
		return func(conn net.Conn) {
			framer := upgrade(t, conn, "a/"+path, protocol)
			for i, h := range headers {
				_ = framer.WriteFrame(&spdyframe.SynStreamFrame{StreamId: spdyframe.StreamId(1 + 2*i), Headers: h})
			}
			fill(conn, func() error { return framer.WriteFrame(&spdyframe.DataFrame{StreamId: 3, Data: piece}) })
		}
	}
	byWebSocket := func(path string) func(net.Conn) {
		return func(conn net.Conn) {
			config, err := websocket.NewConfig("ws://podd/api/v1/namespaces/default/pods/a/"+path, "http://podd")
			if err != nil {
				t.Fatal(err)
			}
			config.Protocol = []string{"v5.channel.k8s.io"}
			ws, err := websocket.NewClient(config, conn)
			if err != nil {
				t.Fatal(err)
			}
			fill(conn, func() error { return websocket.Message.Send(ws, piece) })
		}
	}
	kind := func(of string) http.Header { return http.Header{"Streamtype": {of}} }
	half := func(of string) http.Header {
		return http.Header{"Streamtype": {of}, "Port": {strconv.Itoa(port.Addr().(*net.TCPAddr).Port)}, "Requestid": {"0"}}
	}
	var conns []net.Conn
	for _, session := range []func(net.Conn){
		bySPDY("exec?command=deaf&stdin=1", "v4.channel.k8s.io", kind("error"), kind("stdin")),
		bySPDY("attach?stdin=1", "v4.channel.k8s.io", kind("error"), kind("stdin")),
		byWebSocket("exec?command=deaf&stdin=1"),
		byWebSocket("attach?stdin=1"),
		bySPDY("portforward", "portforward.k8s.io", half("error"), half("data")),
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		session(conn)
		conns = append(conns, conn)
	}
	if n, o := sessions.Load(), e.server.Orphans(); n != 3 || o != 0 {
		t.Fatalf("%d sessions are there, %d commands are without their client", n, o)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	poll(t, time.Minute, func() bool { return sessions.Load() == 0 && e.server.Orphans() == 2 }, func() string {
		return fmt.Sprintf("%d sessions are there, %d commands are without their client", sessions.Load(), e.server.Orphans())
	})
}

// TestOrphansStay: commands whose clients go when they have been told of the end take no place from those that go on without theirs.
func TestOrphansStay(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	run := func(ctx context.Context, command string, out io.Writer) error {
		to, err := url.Parse(tcp.URL + "/api/v1/namespaces/default/pods/a/exec?stdout=1&command=" + command)
		if err != nil {
			return err
		}
		executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: tcp.URL}, http.MethodPost, to)
		if err != nil {
			return err
		}
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out})
	}
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range api.MaxOrphans {
		clients.Go(func() { _ = run(ctx, "deaf", io.Discard) })
	}
	poll(t, time.Minute, func() bool { return e.runtime.deaf.Load() == api.MaxOrphans }, func() string { return "some do not run" })
	leave()
	clients.Wait()
	poll(t, time.Minute, func() bool { return e.server.Orphans() == api.MaxOrphans }, func() string {
		return fmt.Sprintf("%d commands are without their client", e.server.Orphans())
	})
	for range 100 {
		if err := run(t.Context(), "exit", io.Discard); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Fatal(err)
		}
	}
	if n := e.runtime.deaf.Load(); n != api.MaxOrphans {
		t.Errorf("only %d commands go on", n)
	}
}

// endless is a stdin that goes on for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestSizesNobodyWants: sizes of a terminal that is not there, and such as are none, do not hold up what else a client of WebSockets says.
func TestSizesNobodyWants(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	for _, c := range []struct{ protocol, path, size string }{
		{"v5.channel.k8s.io", "exec?command=cat&stdin=1&stdout=1", `{"Width":80,"Height":24}`},
		{"v5.channel.k8s.io", "exec?command=cat&stdin=1&stdout=1&tty=1", "large"},
		{"v4.channel.k8s.io", "exec?command=cat&stdin=1&stdout=1", `{"Width":80,"Height":24}`},
	} {
		ws, err := websocket.Dial("ws"+strings.TrimPrefix(tcp.URL, "http")+"/api/v1/namespaces/default/pods/a/"+c.path, c.protocol, "http://podd")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := websocket.Message.Send(ws, append([]byte{4}, c.size...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := websocket.Message.Send(ws, []byte("\x00hello")); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(time.Minute, func() { _ = ws.Close() })
		for got := ""; got != "\x01hello"; {
			if err := websocket.Message.Receive(ws, &got); err != nil {
				t.Errorf("%s %s: %v", c.protocol, c.path, err)
				break
			}
		}
		stuck.Stop()
		_ = ws.Close()
	}
}
