package probes

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/probe"
)

// late is how late a probe may come to its end: others may hold this machine up. What does not end by itself takes an hour.
const late = 30 * time.Second

// seconds is the time limit of a probe that is to end after took: that, or an hour if it ends by itself.
func seconds(took time.Duration) int32 { return int32(cmp.Or(took, time.Hour) / time.Second) }

// TestMain ends with no goroutine left: whatever a target does, nothing of its probe goes on.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	left := 0
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left = runtime.NumGoroutine() - before; left <= 0 {
			break
		}
	}
	if left > 0 && code == 0 {
		stacks := make([]byte, 1<<20)
		fmt.Printf("%d goroutines are left\n%s\n", left, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// place is the address and the port of a server.
func place(t *testing.T, address string) (string, int) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return host, n
}

// listen serves every connection with serve, which ends when the peer or the test does.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// untilClosed waits until the peer has closed the connection.
func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// say writes text as often as the peer takes it, with a pause between.
func say(c net.Conn, text string, pause time.Duration) {
	for {
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

func web(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func httpGet(port int, edit func(*v1.HTTPGetAction)) *v1.Probe {
	a := &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt(port)}
	if edit != nil {
		edit(a)
	}
	return &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: a}, TimeoutSeconds: seconds(0)}
}

// TestHTTP asks a server that behaves.
func TestHTTP(t *testing.T) {
	t.Parallel()
	var away atomic.Int32
	other := web(t, func(http.ResponseWriter, *http.Request) { away.Add(1) })
	otherURL := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	s := web(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/away":
			http.Redirect(w, r, otherURL, http.StatusFound)
		case r.URL.Path == "/metadata":
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		case r.URL.Path == "/near":
			http.Redirect(w, r, "/200", http.StatusFound)
		case r.URL.Path == "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case r.URL.Path == "/seen":
			fmt.Fprintf(w, "host %s agent %s accept %s x %s close %v %s", r.Host, r.UserAgent(), r.Header["Accept"], r.Header["X"], r.Close, r.URL.RawQuery)
		default:
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "said")
		}
	})
	ip, port := place(t, s.Listener.Addr().String())
	header := func(pairs ...string) func(*v1.HTTPGetAction) {
		return func(a *v1.HTTPGetAction) {
			a.Path = "/seen?q=1"
			for i := 0; i < len(pairs); i += 2 {
				a.HTTPHeaders = append(a.HTTPHeaders, v1.HTTPHeader{Name: pairs[i], Value: pairs[i+1]})
			}
		}
	}
	path := func(path string) func(*v1.HTTPGetAction) { return func(a *v1.HTTPGetAction) { a.Path = path } }
	p := New()
	for _, c := range []struct {
		name   string
		edit   func(*v1.HTTPGetAction)
		result probe.Result
		output string
	}{
		{"200", path("/200"), probe.Success, "said"},
		{"204", path("/204"), probe.Success, ""},
		{"399", path("/399"), probe.Warning, "Probe terminated redirects, Response body: said"},
		{"400", path("/400"), probe.Failure, "HTTP probe failed with statuscode: 400"},
		{"503", path("/503"), probe.Failure, "HTTP probe failed with statuscode: 503"},
		{"redirect on the host", path("/near"), probe.Success, "said"},
		{"redirect to another host", path("/away"), probe.Warning, "Probe terminated redirects, Response body: <a href=\"" + otherURL + "\">Found</a>.\n\n"},
		{"redirect to the metadata of a cloud", path("/metadata"), probe.Warning,
			"Probe terminated redirects, Response body: <a href=\"http://169.254.169.254/latest/meta-data\">Found</a>.\n\n"},
		{"redirects without end", path("/round"), probe.Failure, `Get "/round": stopped after 10 redirects`},
		{"request", header(), probe.Success, fmt.Sprintf("host %s:%d agent kube-probe/1.36 accept [*/*] x [] close true q=1", ip, port)},
		{"headers", header("X", "1", "x", "2", "host", "example.com", "user-agent", "me", "accept", "text/html"), probe.Success,
			"host example.com agent me accept [text/html] x [1 2] close true q=1"},
		{"headers without a value", header("User-Agent", "", "Accept", ""), probe.Success,
			fmt.Sprintf("host %s:%d agent  accept [] x [] close true q=1", ip, port)},
		{"named port", func(a *v1.HTTPGetAction) { a.Path, a.Port = "/200", intstr.FromString("web") }, probe.Success, "said"},
		{"named host", func(a *v1.HTTPGetAction) { a.Path, a.Host = "/200", "localhost" }, probe.Success, "said"},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := Target{IP: ip, Container: &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}
			result, output, err := p.Ask(t.Context(), httpGet(port, c.edit), target)
			if result != c.result || output != c.output || err != nil {
				t.Errorf("%s %q %v", result, output, err)
			}
		})
	}
	if n := away.Load(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

// TestHTTPS believes every certificate, over either protocol, and is refused by a server without TLS.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	secure := func(a *v1.HTTPGetAction) { a.Scheme = v1.URISchemeHTTPS }
	for _, two := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		s.EnableHTTP2 = two
		s.StartTLS()
		t.Cleanup(s.Close)
		ip, port := place(t, s.Listener.Addr().String())
		result, output, err := New().Ask(t.Context(), httpGet(port, secure), Target{IP: ip, Container: &v1.Container{}})
		if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[two]; result != probe.Success || output != want || err != nil {
			t.Errorf("%s %q %v", result, output, err)
		}
	}
	ip, port := place(t, web(t, func(http.ResponseWriter, *http.Request) {}).Listener.Addr().String())
	result, output, err := New().Ask(t.Context(), httpGet(port, secure), Target{IP: ip, Container: &v1.Container{}})
	if result != probe.Failure || !strings.Contains(output, "server gave HTTP response to HTTPS client") || err != nil {
		t.Errorf("%s %q %v", result, output, err)
	}
}

// TestNoAnswer is about what cannot be asked at all: an error, which counts for nothing.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]v1.ProbeHandler{
		"none":        {},
		"port":        {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromString("nowhere")}},
		"zero":        {TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(0)}},
		"far":         {TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(65536)}},
		"no address":  {TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(80)}},
		"no address ": {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(80)}},
		"no address.": {GRPC: &v1.GRPCAction{Port: 80}},
	} {
		target := Target{IP: "127.0.0.1", Container: &v1.Container{}}
		if strings.HasPrefix(name, "no address") {
			target.IP = ""
		}
		if result, _, err := New().Ask(t.Context(), &v1.Probe{ProbeHandler: handler, TimeoutSeconds: 1}, target); err == nil {
			t.Errorf("%s: %s", name, result)
		}
	}
}

// TestPathologies asks targets that are ill or evil, and looks that each is done with at its time limit, and that what it
// sent is not kept.
func TestPathologies(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	answering := func(serve func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			serve(c)
		}
	}
	flood := strings.Repeat("x", 64<<10)
	secure := func(a *v1.HTTPGetAction) { a.Scheme = v1.URISchemeHTTPS }
	const tooLong = `Get "http://PLACE/": net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 1048576 bytes; aborted`
	timedOut := func(scheme string) string {
		return `Get "` + scheme + `://PLACE/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`
	}
	for _, c := range []struct {
		name   string
		serve  func(net.Conn)
		edit   func(*v1.HTTPGetAction)
		took   time.Duration // its limit, which ends it; 0: it ends by itself
		result probe.Result
		output string // begins with
		err    string
	}{
		{"hangs", untilClosed, nil, time.Second, probe.Failure, timedOut("http"), ""},
		{"hangs in the handshake", untilClosed, secure, time.Second, probe.Failure, timedOut("https"), ""},
		{"hangs up", answering(func(net.Conn) {}), nil, 0, probe.Failure, `Get "http://PLACE/": EOF`, ""},
		{"floods", answering(func(c net.Conn) { _, _ = io.WriteString(c, ok+"\r\n"); say(c, flood, 0) }), nil, 0, probe.Success, "xxx", ""},
		{"floods in pieces", answering(func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\n")
			say(c, "10000\r\n"+flood+"\r\n", 0)
		}), nil, 0, probe.Success, "xxx", ""},
		{"drips its body", answering(func(c net.Conn) { _, _ = io.WriteString(c, ok+"\r\n"); say(c, "x", 20*time.Millisecond) }), nil,
			3 * time.Second, probe.Failure, "", "context deadline exceeded (Client.Timeout or context cancellation while reading body)"},
		{"drips its headers", answering(func(c net.Conn) { _, _ = io.WriteString(c, ok); say(c, "X: y\r\n", 20*time.Millisecond) }), nil,
			time.Second, probe.Failure, timedOut("http"), ""},
		{"10,000 headers", answering(func(c net.Conn) {
			_, _ = io.WriteString(c, ok+strings.Repeat("X-Header: something\r\n", 10000)+"Content-Length: 2\r\n\r\nhi")
		}), nil, 0, probe.Success, "hi", ""},
		{"headers without end", answering(func(c net.Conn) { _, _ = io.WriteString(c, ok); say(c, strings.Repeat("X: y\r\n", 10000), 0) }), nil,
			0, probe.Failure, tooLong, ""},
		{"a header without end", answering(func(c net.Conn) { _, _ = io.WriteString(c, ok+"X: "); say(c, flood, 0) }), nil,
			0, probe.Failure, tooLong, ""},
		{"goes on and on", answering(func(c net.Conn) { say(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 3000), 0) }), nil, 0, probe.Failure, tooLong, ""},
		{"speaks something else", answering(func(c net.Conn) { say(c, "mail.example.com ready\r\n", 0) }), nil, 0, probe.Failure, `Get "http://PLACE/": net/http: HTTP/1.x transport connection broken: malformed HTTP status code "ready"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ip, port := place(t, listen(t, c.serve))
			timed(t, c.took, func() {
				spec := httpGet(port, c.edit)
				spec.TimeoutSeconds = seconds(c.took)
				result, output, err := New().Ask(t.Context(), spec, Target{IP: ip, Container: &v1.Container{}})
				if result != c.result || !strings.HasPrefix(output, strings.ReplaceAll(c.output, "PLACE", net.JoinHostPort(ip, strconv.Itoa(port)))) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s %.100q %v", result, output, err)
				}
				if len(output) > maxOutput {
					t.Errorf("%d bytes were kept", len(output))
				}
			})
		})
	}
}

// timed runs f, which has to end after limit, and not before. 0 is at once.
func timed(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	begun := time.Now()
	f()
	if took := time.Since(begun); took < limit || took > limit+late {
		t.Errorf("took %s, not %s", took, limit)
	}
}

// TestGivenUp is a probe that is not wanted any more: it ends at once.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	address := listen(t, untilClosed)
	ip, port := place(t, address)
	hang := func(ctx context.Context, _ []string, _, _ io.Writer, _ func()) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	for name, handler := range map[string]v1.ProbeHandler{
		"http": {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(port)}},
		"grpc": {GRPC: &v1.GRPCAction{Port: int32(port)}},
		"exec": {Exec: &v1.ExecAction{Command: []string{"x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, 0, func() {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(20*time.Millisecond, cancel)
				_, _, _ = New().Ask(ctx, &v1.Probe{ProbeHandler: handler, TimeoutSeconds: 3600}, Target{IP: ip, Container: &v1.Container{}, Run: hang})
			})
		})
	}
}

// TestDeaf asks an address that takes no more connections: not even the handshake is answered, until the time is over or the
// probe is given up.
func TestDeaf(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	for full := false; !full; { // connections that nobody accepts
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 200*time.Millisecond)
		if full = err != nil; !full {
			t.Cleanup(func() { _ = conn.Close() })
		}
	}
	target := Target{IP: "127.0.0.1", Container: &v1.Container{}}
	timed(t, time.Second, func() {
		short := httpGet(port, nil)
		short.TimeoutSeconds = 1
		result, output, err := New().Ask(t.Context(), short, target)
		if result != probe.Failure || err != nil ||
			!strings.Contains(output, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)") && !strings.Contains(output, "i/o timeout") {
			t.Errorf("%s %q %v", result, output, err)
		}
	})
	timed(t, 0, func() {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		_, _, _ = New().Ask(ctx, httpGet(port, nil), target)
	})
}

func TestTCP(t *testing.T) {
	t.Parallel()
	ip, port := place(t, listen(t, untilClosed))
	target := Target{IP: ip, Container: &v1.Container{Ports: []v1.ContainerPort{{Name: "db", ContainerPort: int32(port)}}}}
	ask := func(a v1.TCPSocketAction, target Target) (probe.Result, string, error) {
		return New().Ask(t.Context(), &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &a}, TimeoutSeconds: seconds(0)}, target)
	}
	for _, a := range []v1.TCPSocketAction{{Port: intstr.FromInt(port)}, {Port: intstr.FromString("db")}, {Port: intstr.FromString("db"), Host: "localhost"}} {
		if result, output, err := ask(a, target); result != probe.Success || output != "" || err != nil {
			t.Errorf("%v: %s %q %v", a, result, output, err)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, shut := place(t, closed.Addr().String())
	_ = closed.Close()
	want := fmt.Sprintf("dial tcp 127.0.0.1:%d: connect: connection refused", shut)
	if result, output, err := ask(v1.TCPSocketAction{Port: intstr.FromInt(shut)}, target); result != probe.Failure || output != want || err != nil {
		t.Errorf("closed: %s %q %v", result, output, err)
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	serving := func(register func(*grpc.Server)) int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		_, port := place(t, l.Addr().String())
		return port
	}
	checks := health.NewServer()
	checks.SetServingStatus("ill", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	healthy := serving(func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, checks) })
	hanging := serving(func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, hang{}) })
	plain := serving(func(*grpc.Server) {})
	_, deaf := place(t, listen(t, untilClosed))
	_, loud := place(t, listen(t, func(c net.Conn) { say(c, strings.Repeat("x", 64<<10), 0) }))
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, shut := place(t, gone.Addr().String())
	_ = gone.Close()
	for _, c := range []struct {
		name    string
		port    int
		service string
		took    time.Duration
		result  probe.Result
		output  string
	}{
		{"healthy", healthy, "", 0, probe.Success, "service healthy"},
		{"ill", healthy, "ill", 0, probe.Failure, `service unhealthy (responded with "NOT_SERVING")`},
		{"unknown", healthy, "other", 0, probe.Failure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		{"no health", plain, "", 0, probe.Failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"},
		{"hangs", hanging, "", time.Second, probe.Failure, "timeout: health rpc did not complete within 1s"},
		{"refuses", shut, "", time.Second, probe.Failure, fmt.Sprintf(`timeout: failed to connect service "127.0.0.1:%d" within 1s: context deadline exceeded`, shut)},
		{"deaf", deaf, "", time.Second, probe.Failure, fmt.Sprintf(`timeout: failed to connect service "127.0.0.1:%d" within 1s: context deadline exceeded`, deaf)},
		{"loud", loud, "", time.Second, probe.Failure, fmt.Sprintf(`timeout: failed to connect service "127.0.0.1:%d" within 1s: context deadline exceeded`, loud)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			timed(t, c.took, func() {
				result, output, err := New().Ask(t.Context(), &v1.Probe{TimeoutSeconds: seconds(c.took), ProbeHandler: v1.ProbeHandler{
					GRPC: &v1.GRPCAction{Port: int32(c.port), Service: &c.service}}}, Target{IP: "127.0.0.1", Container: &v1.Container{}})
				if result != c.result || output != c.output || err != nil {
					t.Errorf("%s %q %v", result, output, err)
				}
			})
		})
	}
}

// hang is a health service without an answer.
type hang struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (hang) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestExec(t *testing.T) {
	t.Parallel()
	broken := errors.New("no such file")
	for _, c := range []struct {
		name   string
		run    func(ctx context.Context, command []string, stdout, stderr io.Writer, _ func()) (int, error)
		took   time.Duration
		result probe.Result
		output string
		err    error
	}{
		{"success", func(_ context.Context, cmd []string, out, _ io.Writer, _ func()) (int, error) {
			_, err := fmt.Fprint(out, cmd)
			return 0, err
		}, 0, probe.Success, "[say 1 $(B) $(NONE)]", nil},
		{"failure", func(_ context.Context, _ []string, out, errs io.Writer, _ func()) (int, error) {
			_, _ = io.WriteString(errs, "second")
			_, err := io.WriteString(out, "first ")
			return 3, err
		}, 0, probe.Failure, "first second", nil},
		{"cannot be run", func(context.Context, []string, io.Writer, io.Writer, func()) (int, error) { return 0, broken }, 0, probe.Unknown, "", broken},
		{"hangs", func(ctx context.Context, _ []string, _, _ io.Writer, _ func()) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		}, time.Second, probe.Failure, `command timed out: "say 1 $(B) $(NONE)" timed out after 1s`, nil},
		{"writes without end", func(ctx context.Context, _ []string, out, _ io.Writer, _ func()) (int, error) {
			for text := bytes.Repeat([]byte("x"), 32<<10); ctx.Err() == nil; {
				if n, err := out.Write(text); n != len(text) || err != nil {
					return 0, fmt.Errorf("wrote %d, %w", n, err)
				}
			}
			return 0, ctx.Err()
		}, time.Second, probe.Failure, `command timed out: "say 1 $(B) $(NONE)" timed out after 1s`, nil},
		{"writes much", func(_ context.Context, _ []string, out, errs io.Writer, _ func()) (int, error) {
			for range 100 {
				_, _ = out.Write(bytes.Repeat([]byte("o"), 9999))
				_, _ = errs.Write(bytes.Repeat([]byte("e"), 9999))
			}
			return 1, nil
		}, 0, probe.Failure, strings.Repeat("o", maxOutput), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			container := &v1.Container{Env: []v1.EnvVar{{Name: "A", Value: "1"}}}
			spec := &v1.Probe{TimeoutSeconds: seconds(c.took), ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"say", "$(A)", "$$(B)", "$(NONE)"}}}}
			timed(t, c.took, func() {
				result, output, err := New().Ask(t.Context(), spec, Target{Container: container, Run: c.run})
				if result != c.result || output != c.output || !errors.Is(err, c.err) {
					t.Errorf("%s %.100q %v", result, output, err)
				}
			})
		})
	}
}

// TestHangingExecs: commands that hang hold up no other probe however many they are. Commands that are slow to start are
// bounded in number: one more has no answer, and other probes do.
func TestHangingExecs(t *testing.T) {
	t.Parallel()
	p := New()
	release := make(chan struct{})
	var running, starting, most atomic.Int32
	target := func(starts, ends <-chan struct{}) Target {
		return Target{Container: &v1.Container{}, Run: func(ctx context.Context, _ []string, _, _ io.Writer, started func()) (int, error) {
			most.Store(max(most.Load(), starting.Add(1)))
			<-starts
			starting.Add(-1)
			started()
			running.Add(1)
			select {
			case <-ends:
			case <-ctx.Done():
			}
			return 0, ctx.Err()
		}}
	}
	now := make(chan struct{})
	close(now)
	spec := func(limit int32) *v1.Probe {
		return &v1.Probe{TimeoutSeconds: limit, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}}
	}
	done := make(chan error, 5*maxStarts)
	ask := func(n int, of Target) {
		for range n {
			go func() {
				_, _, err := p.Ask(t.Context(), spec(3600), of)
				done <- err
			}()
		}
	}
	until := func(n *atomic.Int32, want int32) {
		for n.Load() < want {
			time.Sleep(time.Millisecond)
		}
	}
	ask(3*maxStarts, target(now, release))
	until(&running, 3*maxStarts)
	if result, _, err := p.Ask(t.Context(), spec(3600), target(now, now)); result != probe.Success || err != nil {
		t.Errorf("beside those that hang: %s %v", result, err)
	}
	ask(2*maxStarts, target(release, release))
	until(&starting, maxStarts)
	timed(t, time.Second, func() {
		if result, _, err := p.Ask(t.Context(), spec(1), target(now, now)); result != probe.Unknown || !errors.Is(err, errFull) {
			t.Errorf("%s %v", result, err)
		}
	})
	s := web(t, func(http.ResponseWriter, *http.Request) {})
	ip, port := place(t, s.Listener.Addr().String())
	if result, _, err := p.Ask(t.Context(), httpGet(port, nil), Target{IP: ip, Container: &v1.Container{}}); result != probe.Success || err != nil {
		t.Errorf("another probe: %s %v", result, err)
	}
	close(release)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if result, _, err := p.Ask(t.Context(), spec(3600), target(now, now)); result != probe.Success || err != nil {
		t.Errorf("afterwards: %s %v", result, err)
	}
	if most.Load() > maxStarts {
		t.Errorf("%d were being started at one time", most.Load())
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	s := web(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(fmt.Sprint(r.UserAgent(), r.Header["Authorization"]))
		w.WriteHeader(http.StatusTeapot)
	})
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ip, port := place(t, s.Listener.Addr().String())
	_, securePort := place(t, secure.Listener.Addr().String())
	endless, err := url.Parse("http://" + listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		say(c, strings.Repeat("x", 64<<10), 0)
	}))
	if err != nil {
		t.Fatal(err)
	}
	_, endlessPort := place(t, endless.Host)
	get := func(port int, scheme v1.URIScheme, headers ...v1.HTTPHeader) v1.LifecycleHandler {
		return v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Path: "/hook", Port: intstr.FromInt(port), Scheme: scheme, HTTPHeaders: headers}}
	}
	exec := v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"a", "$(B)"}}}
	exits := func(code int, err error) func(context.Context, []string, io.Writer, io.Writer, func()) (int, error) {
		return func(_ context.Context, _ []string, out, errs io.Writer, _ func()) (int, error) {
			_, _ = io.WriteString(out, "out ")
			_, _ = io.WriteString(errs, "errs")
			return code, err
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, shut := place(t, closed.Addr().String())
	_ = closed.Close()
	tcp := v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(port)}}
	for _, c := range []struct {
		name    string
		handler v1.LifecycleHandler
		run     func(context.Context, []string, io.Writer, io.Writer, func()) (int, error)
		took    time.Duration
		failed  string
		told    string
	}{
		{"exec", exec, exits(0, nil), 0, "", ""},
		{"exec fails", exec, exits(2, nil), 0, `Exec lifecycle hook ([a $(B)]) for Container "app" in Pod "pod_ns(uid)" failed - error: command 'a $(B)' exited with 2: errs, message: "out errs"`, ""},
		{"exec cannot", exec, exits(0, errors.New("no such file")), 0, `Exec lifecycle hook ([a $(B)]) for Container "app" in Pod "pod_ns(uid)" failed - error: no such file, message: "out errs"`, ""},
		{"sleep", v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}, nil, time.Second, "", ""},
		{"sleep 0", v1.LifecycleHandler{Sleep: &v1.SleepAction{}}, nil, 0, "", ""},
		{"tcp", tcp, nil, 0, fmt.Sprintf("Cannot run handler: invalid handler: %v", &tcp), ""},
		{"http, with any answer", get(port, ""), nil, 0, "", ""},
		{"http, flooded", get(endlessPort, ""), nil, 0, "", ""},
		{"http, refused", get(shut, ""), nil, 0, fmt.Sprintf(`HTTP lifecycle hook (/hook) for Container "app" in Pod "pod_ns(uid)" failed - error: Get "http://127.0.0.1:%d/hook": dial tcp 127.0.0.1:%d: connect: connection refused`, shut, shut), ""},
		{"https", get(securePort, v1.URISchemeHTTPS), nil, 0, "", ""},
		{"https, answered over http", get(port, v1.URISchemeHTTPS, v1.HTTPHeader{Name: "Authorization", Value: "secret"}), nil, 0, "",
			fmt.Sprintf("request to HTTPS lifecycle hook 127.0.0.1:%d got HTTP response, retry with HTTP succeeded", port)},
	} {
		t.Run(c.name, func(t *testing.T) {
			told, failed := "", ""
			timed(t, c.took, func() {
				err := New().Hook(t.Context(), &c.handler, Target{IP: ip, Pod: "pod_ns(uid)", Container: &v1.Container{Name: "app"}, Run: c.run},
					func(message string) { told = message })
				if err != nil {
					failed = err.Error()
				}
			})
			if failed != c.failed || told != c.told {
				t.Errorf("failed %s\ntold %s", failed, told)
			}
		})
	}
	if got := asked.Load(); got != "kube-lifecycle/1.36[]" {
		t.Errorf("the last request was of %v", got)
	}
}

// TestHooksAreGivenUp whatever they do.
func TestHooksAreGivenUp(t *testing.T) {
	t.Parallel()
	_, deaf := place(t, listen(t, untilClosed))
	_, drips := place(t, listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		say(c, "x", 20*time.Millisecond)
	}))
	for name, h := range map[string]v1.LifecycleHandler{
		"sleep":     {Sleep: &v1.SleepAction{Seconds: 3600}},
		"http":      {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(deaf)}},
		"handshake": {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(deaf), Scheme: v1.URISchemeHTTPS}},
		"drip":      {HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(drips)}},
		"exec":      {Exec: &v1.ExecAction{Command: []string{"x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timed(t, time.Second, func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := New().Hook(ctx, &h, Target{IP: "127.0.0.1", Container: &v1.Container{}, Run: func(ctx context.Context, _ []string, _, _ io.Writer, _ func()) (int, error) {
					<-ctx.Done()
					return 0, ctx.Err()
				}}, func(string) {})
				if name == "drip" {
					return // what was asked for has been delivered
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		})
	}
}
