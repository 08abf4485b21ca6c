package probes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// heard reads a request up to the end of its headers.
func heard(c net.Conn) string {
	var all []byte
	for some := make([]byte, 4096); !bytes.HasSuffix(all, []byte("\r\n\r\n")); {
		n, err := c.Read(some)
		if all = append(all, some[:n]...); err != nil {
			break
		}
	}
	return string(all)
}

// says answers a request in these pieces, each some time after the one before, and hangs up.
func says(pieces ...string) func(net.Conn) {
	return func(c net.Conn) {
		heard(c)
		for i, piece := range pieces {
			if i > 0 {
				time.Sleep(15 * time.Millisecond)
			}
			_, _ = io.WriteString(c, piece)
		}
	}
}

// reset makes the close of a connection a reset.
func reset(c net.Conn) { _ = c.(interface{ SetLinger(seconds int) error }).SetLinger(0) }

// TestAsUpstream asks servers of all sorts, and net/http's own transport asks them too: result, words and what the server was
// asked have to be the same.
func TestAsUpstream(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\n"
	ports := regexp.MustCompile(`:\d{4,5}`)
	large := strings.Repeat("x", maxOutput)
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		edit  func(*v1.HTTPGetAction)
	}{
		{"whole", says(ok + "Content-Length: 2\r\n\r\nhi"), nil},
		{"in pieces", says("HTT", "P/1.1 200", " OK\r\nConte", "nt-Length: 4\r\n\r", "\n", "wo", "rd"), nil},
		{"nothing at all", says(), nil},
		{"half a status", says("HTTP/1.1 2"), nil},
		{"half the headers", says(ok + "Content-Length: 2\r\n"), nil},
		{"half the body", says(ok + "Content-Length: 20\r\n\r\nhalf"), nil},
		{"more than the body", says(ok + "Content-Length: 2\r\n\r\nhi there"), nil},
		{"length that is none", says(ok + "Content-Length: two\r\n\r\nhi"), nil},
		{"negative length", says(ok + "Content-Length: -2\r\n\r\nhi"), nil},
		{"two lengths", says(ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi"), nil},
		{"no length", says(ok+"\r\nhi", " there"), nil},
		{"empty", says(ok + "Content-Length: 0\r\n\r\n"), nil},
		{"10 KiB", says(ok + "\r\n" + large), nil},
		{"more than 10 KiB", says(ok + "\r\n" + large + large), nil},
		{"failure with a body", says("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"), nil},
		{"HTTP/1.0", says("HTTP/1.0 200 OK\r\n\r\nold"), nil},
		{"no content", says("HTTP/1.1 204 No Content\r\n\r\n"), nil},
		{"no content, with some", says("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"not modified", says("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"), nil},
		{"continue", says("HTTP/1.1 100 Continue\r\n\r\n", ok+"Content-Length: 2\r\n\r\nhi"), nil},
		{"early hints", says("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nhi"), nil},
		{"continue and no more", says("HTTP/1.1 100 Continue\r\n\r\n"), nil},
		{"switching protocols", says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), nil},
		{"chunked", says(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "6\r\n there\r\n0\r\n\r\n"), nil},
		{"chunked, cut off", says(ok + "Transfer-Encoding: chunked\r\n\r\n8\r\nhi\r\n"), nil},
		{"chunked, not really", says(ok + "Transfer-Encoding: chunked\r\n\r\nhi\r\n"), nil},
		{"coded unheard-of", says(ok + "Transfer-Encoding: rot13\r\n\r\nuv"), nil},
		{"compressed", says(ok + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"lines without a return", says("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"), nil},
		{"folded headers", says(ok + "X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"a header that is none", says(ok + "word\r\n\r\nhi"), nil},
		{"a header with no name", says(ok + ": x\r\n\r\nhi"), nil},
		{"long headers", says(ok + "X: " + strings.Repeat("y", 100<<10) + "\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"headers beyond all bounds", says(ok + "X: " + strings.Repeat("y", maxHeader) + "\r\n\r\nhi"), nil},
		{"status 99", says("HTTP/1.1 099 Odd\r\n\r\n"), nil},
		{"status 600", says("HTTP/1.1 600 Odd\r\n\r\n"), nil},
		{"status of four digits", says("HTTP/1.1 2000 Odd\r\n\r\n"), nil},
		{"another protocol", says("SSH-2.0-OpenSSH_9.2\r\n"), nil},
		{"another version", says("HTTP/3.0 200 OK\r\n\r\n"), nil},
		{"zeros", says(strings.Repeat("\x00", 100)), nil},
		{"resets", func(c net.Conn) { heard(c); reset(c) }, nil},
		{"resets in its headers", func(c net.Conn) { says(ok)(c); time.Sleep(15 * time.Millisecond); reset(c) }, nil},
		{"resets in its body", func(c net.Conn) {
			says(ok + "Content-Length: 20\r\n\r\nhalf")(c)
			time.Sleep(15 * time.Millisecond)
			reset(c)
		}, nil},
		{"redirect without a place", says("HTTP/1.1 302 Found\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"redirect to nonsense", says("HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"redirect to another host", says("HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"redirect to a port that there is not", says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n"), nil},
		{"redirects to itself for ever", says("HTTP/1.1 307 Again\r\nLocation: /again\r\nContent-Length: 2\r\n\r\nhi"), nil},
		{"redirect with a cookie", func(c net.Conn) {
			if strings.HasPrefix(heard(c), "GET /next") {
				_, _ = io.WriteString(c, ok+"Content-Length: 2\r\n\r\nhi")
			} else {
				_, _ = io.WriteString(c, "HTTP/1.1 301 Moved\r\nSet-Cookie: a=b\r\nLocation: next\r\n\r\n")
			}
		}, nil},
		{"headers of the spec", says(ok + "\r\n"), func(a *v1.HTTPGetAction) {
			a.Path = "/a b?c=d#e"
			a.HTTPHeaders = []v1.HTTPHeader{{Name: "X", Value: "1"}, {Name: "x", Value: "2"}, {Name: "Host", Value: "example.com"}}
		}},
		{"header that cannot be sent", says(ok + "\r\n"), func(a *v1.HTTPGetAction) {
			a.HTTPHeaders = []v1.HTTPHeader{{Name: "X", Value: "a\nb"}}
		}},
		{"long request", func(c net.Conn) { time.Sleep(15 * time.Millisecond); says(ok + "\r\n")(c) }, func(a *v1.HTTPGetAction) {
			a.HTTPHeaders = []v1.HTTPHeader{{Name: "X", Value: strings.Repeat("y", 300<<10)}}
		}},
		{"named host", says(ok + "Content-Length: 2\r\n\r\nhi"), func(a *v1.HTTPGetAction) { a.Host = "localhost" }},
		{"IPv4 as IPv6", says(ok + "Content-Length: 2\r\n\r\nhi"), func(a *v1.HTTPGetAction) { a.Host = "::ffff:127.0.0.1" }},
		{"any address", says(ok + "Content-Length: 2\r\n\r\nhi"), func(a *v1.HTTPGetAction) { a.Host = "0.0.0.0" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var asked [2]string
			for i := range asked {
				var mu sync.Mutex
				var saw strings.Builder
				ip, port := place(t, listen(t, func(conn net.Conn) { c.serve(&spied{conn, &mu, &saw}) }))
				answer := askAs(t, i == 0, httpGet(port, c.edit).HTTPGet, Target{IP: ip, Container: &v1.Container{}})
				mu.Lock()
				lines := strings.Split(ports.ReplaceAllString(saw.String(), ":PORT"), "\r\n")
				slices.Sort(lines) // the order of headers is nobody's
				asked[i] = ports.ReplaceAllString(answer, ":PORT") + strings.Join(lines, "\n")
				mu.Unlock()
			}
			if asked[0] != asked[1] {
				t.Errorf("upstream:\n%.2000s\npodd:\n%.2000s", asked[0], asked[1])
			}
		})
	}
}

// spied notes what is read of it.
type spied struct {
	net.Conn
	mu  *sync.Mutex
	saw *strings.Builder
}

func (s *spied) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw.Write(p[:n])
	return n, err
}

// SetLinger is that of the connection.
func (s *spied) SetLinger(seconds int) error { return s.Conn.(*net.TCPConn).SetLinger(seconds) }

// askAs asks as a probe does, or with the transport of net/http as upstream does.
func askAs(t *testing.T, upstream bool, a *v1.HTTPGetAction, target Target) string {
	t.Helper()
	ask := newClient()
	if upstream {
		ask.Transport = newTransport().secure
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	req, err := request(ctx, a, target, "probe")
	if err != nil {
		t.Fatal(err)
	}
	result, output, err := httpprobe.DoHTTPProbe(req, ask)
	return fmt.Sprintf("%s %q %v", result, output, err)
}

// TestRefused is of a port where nobody listens, over either IP.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Logf("no %s here: %v", ip, err)
			continue
		}
		_, port := place(t, l.Addr().String())
		_ = l.Close()
		var answers [2]string
		for i := range answers {
			answers[i] = askAs(t, i == 0, httpGet(port, nil).HTTPGet, Target{IP: ip, Container: &v1.Container{}})
		}
		if answers[0] != answers[1] || !strings.Contains(answers[1], "connect: connection refused") {
			t.Errorf("upstream %s\npodd %s", answers[0], answers[1])
		}
	}
}

// TestIPv6 asks over it.
func TestIPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })}
	t.Cleanup(func() { _ = s.Close() })
	go func() { _ = s.Serve(l) }()
	ip, port := place(t, l.Addr().String())
	result, output, err := New().Ask(t.Context(), httpGet(port, nil), Target{IP: ip, Container: &v1.Container{}})
	if want := fmt.Sprintf("[::1]:%d", port); result != probe.Success || output != want || err != nil {
		t.Errorf("%s %q %v, want %s", result, output, err, want)
	}
}

// TestHangingHoldNobodyUp: beside many that hang, and one that drips, others are answered, and nothing is left of any.
func TestHangingHoldNobodyUp(t *testing.T) {
	p := New()
	target := Target{IP: "127.0.0.1", Container: &v1.Container{}}
	_, deaf := place(t, listen(t, untilClosed))
	_, drips := place(t, listen(t, func(c net.Conn) { say(c, "H", 5*time.Millisecond) }))
	_, well := place(t, listen(t, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")))
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	var hanging sync.WaitGroup
	for i := range 100 {
		port := deaf
		if i == 0 {
			port = drips
		}
		hanging.Go(func() { _, _, _ = p.Ask(ctx, httpGet(port, nil), target) })
	}
	var answered sync.WaitGroup
	for range 100 {
		answered.Go(func() {
			if result, output, err := p.Ask(ctx, httpGet(well, nil), target); result != probe.Success || output != "hi" || err != nil {
				t.Errorf("%s %q %v", result, output, err)
			}
		})
	}
	answered.Wait()
	giveUp()
	hanging.Wait()
	out := &p.client.Transport.(*transport).plain
	out.mu.Lock()
	defer out.mu.Unlock()
	if len(out.waiting) != 0 || len(out.of) != 0 {
		t.Errorf("%d sockets are still waited for", len(out.waiting))
	}
}

// TestInTime: what has come when the time is over counts, though nobody has looked since.
func TestInTime(t *testing.T) {
	t.Parallel()
	answer := make(chan string)
	ip, port := place(t, listen(t, func(c net.Conn) { _, _ = io.WriteString(c, <-answer); <-t.Context().Done() }))
	ctx, end := context.WithCancel(t.Context())
	defer end()
	out := &lookout{out: true} // that never looks
	conn, err := out.connect(ctx, ip, strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s := conn.(*socket)
	fd := s.fd
	go func() {
		answer <- "hi"
		for count(fd, unix.SIOCINQ) < 2 {
			time.Sleep(time.Millisecond)
		}
		end()
	}()
	some := make([]byte, 10)
	if n, err := s.Read(some); string(some[:n]) != "hi" || err != nil {
		t.Errorf("read %q %v", some[:n], err)
	}
	if n, err := s.Read(some); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("read %d %v after the end", n, err)
	}
	if n, err := s.Write(make([]byte, 64<<20)); n == 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("wrote %d %v after the end", n, err)
	}
}

// TestNoFileLeft: of what was asked no descriptor is left open, whatever came of it.
func TestNoFileLeft(t *testing.T) {
	open := func() (n int) {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			to, _ := os.Readlink("/proc/self/fd/" + f.Name())
			if strings.HasPrefix(to, "socket:") || strings.Contains(to, "timerfd") {
				n++
			}
		}
		return n
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, shut := place(t, l.Addr().String())
	_ = l.Close()
	ports := []int{shut}
	for _, serve := range []func(net.Conn){says("HTTP/1.1 200 OK\r\n\r\nhi"), says(), says("x\r\n"), untilClosed,
		says("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"), func(c net.Conn) { heard(c); reset(c) }} {
		_, port := place(t, listen(t, serve))
		ports = append(ports, port)
	}
	before := open()
	p := New()
	var all sync.WaitGroup
	for _, port := range ports {
		for range 10 {
			all.Go(func() {
				spec := httpGet(port, nil)
				spec.TimeoutSeconds = 1
				_, _, _ = p.Ask(t.Context(), spec, Target{IP: "127.0.0.1", Container: &v1.Container{}})
			})
		}
	}
	all.Wait()
	for end := time.Now().Add(late); ; time.Sleep(time.Millisecond) { // the servers close theirs in their own time
		after := open()
		if after <= before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sockets and timers are open, %d were", after, before)
		}
	}
	runtime.KeepAlive(p) // or the garbage collector would close what is left open
}
