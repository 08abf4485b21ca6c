//go:build host

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	gwebsocket "github.com/gorilla/websocket"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"podd/test/ociimage"
)

const serverImage = "server:e2e"

// proxiesServer is a pod of test/e2e/server.
func proxiesServer(name, spec string) pod {
	return pod{Name: name, Spec: spec, Container: "image: " + serverImage + "\ncommand: [/server]\nports: [{containerPort: 8080}, {containerPort: 8443, name: secure}]"}
}

// TestProxies: connections and requests of clients are passed on to pods and to the node.
func TestProxies(t *testing.T) {
	t.Parallel()
	s := start(t)
	proxiesLoad(t, s)
	s.running(t, proxiesServer("server", ""))
	eventually(t, func() error {
		if got := s.must(t, "logs", "server"); got != "ready\n" {
			return fmt.Errorf("the server says %q", got)
		}
		return nil
	})
	gate := proxiesGate(t, s)
	for name, dial := range map[string]func(*testing.T, string, string) httpstream.Dialer{"spdy": gate.spdy, "websocket": gate.tunnel} {
		t.Run("port-forward/"+name, func(t *testing.T) { testForward(t, s, dial) })
	}
	t.Run("port-forward/channels", func(t *testing.T) { testForwardChannels(t, gate) })
	t.Run("port-forward/host-network", func(t *testing.T) { testForwardHost(t, s, gate) })
	t.Run("pod", func(t *testing.T) { testPodProxy(t, s, gate) })
	t.Run("pod/upgrade", func(t *testing.T) { testPodProxyUpgrade(t, gate) })
	t.Run("pod/faked-address", func(t *testing.T) { testPodProxyFaked(t, s, gate) })
	t.Run("node", func(t *testing.T) { testNodeProxy(t, s, gate) })
}

// proxiesLoad builds test/e2e/server and loads it as an image.
func proxiesLoad(t *testing.T, s *suite) {
	t.Helper()
	source, err := os.ReadFile("server/main.go")
	if err != nil {
		t.Fatal(err)
	}
	program, err := ociimage.Program(t.Context(), string(source))
	if err != nil {
		t.Fatal(err)
	}
	s.Load(ociimage.Image{Name: serverImage, Layers: [][]ociimage.File{{{Path: "server", Content: program}}}})
}

// proxyGate leads from a TCP port of this test to podd's socket: not every client library can dial a socket.
type proxyGate struct{ config *rest.Config }

func proxiesGate(t *testing.T, s *suite) *proxyGate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", s.Socket)
			if err != nil {
				_ = in.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			both := func(to, from net.Conn) func() {
				return func() {
					_, _ = io.Copy(to, from)
					_, _ = to.Close(), from.Close()
					stop()
				}
			}
			all.Go(both(in, out))
			all.Go(both(out, in))
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); all.Wait() })
	return &proxyGate{&rest.Config{Host: "http://" + l.Addr().String(), QPS: -1}}
}

func (g *proxyGate) url(path string) *url.URL {
	u, err := url.Parse(g.config.Host + path)
	if err != nil {
		panic(err)
	}
	return u
}

func forwardPath(pod string) string { return "/api/v1/namespaces/default/pods/" + pod + "/portforward" }

func (g *proxyGate) spdy(t *testing.T, pod, _ string) httpstream.Dialer {
	t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(g.config)
	if err != nil {
		t.Fatal(err)
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, g.url(forwardPath(pod)))
}

func (g *proxyGate) tunnel(t *testing.T, pod, _ string) httpstream.Dialer {
	t.Helper()
	d, err := portforward.NewSPDYOverWebsocketDialerForStreaming(g.url(forwardPath(pod)), g.config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// forwarded runs client-go's port-forward, as kubectl does, and returns the local ports, in the order of the remote ones.
func forwarded(t *testing.T, dialer httpstream.Dialer, remote ...string) (local []int, failed <-chan error) {
	t.Helper()
	var ports []string
	for _, r := range remote {
		ports = append(ports, ":"+r)
	}
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	pf, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, ports, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- pf.ForwardPorts() }()
	t.Cleanup(func() { close(stop) })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	got, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		local = append(local, int(p.Local))
	}
	return local, done
}

func dialLocal(t *testing.T, port int) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func testForward(t *testing.T, s *suite, dial func(*testing.T, string, string) httpstream.Dialer) {
	local, _ := forwarded(t, dial(t, "server", ""), "7001", "7002", "7003", "7004", "7005", "8080")
	t.Run("echo", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 20 {
			c := dialLocal(t, local[0])
			all.Go(func() {
				sent := bytes.Repeat([]byte{byte('a' + i)}, 300_000)
				go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("connection %d: %d of %d bytes came back, %v", i, len(got), len(sent), err)
				}
			})
		}
		all.Wait()
	})
	t.Run("ipv6", func(t *testing.T) {
		if got := readAll(t, dialLocal(t, local[1])); got != "six\n" {
			t.Errorf("what listens on ::1 only: %q", got)
		}
	})
	t.Run("half-close-by-the-client", func(t *testing.T) {
		c := dialLocal(t, local[2])
		_, _ = io.WriteString(c, "12345")
		_ = c.CloseWrite()
		if got := readAll(t, c); got != "5 bytes\n" {
			t.Errorf("the answer after a half-close: %q", got)
		}
	})
	t.Run("half-close-by-the-pod", func(t *testing.T) {
		if got := readAll(t, dialLocal(t, local[3])); got != "hello\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("much", func(t *testing.T) {
		if n, err := io.Copy(io.Discard, io.LimitReader(dialLocal(t, local[4]), 64<<20)); err != nil || n != 64<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("http", func(t *testing.T) {
		r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(fmt.Sprintf("http://127.0.0.1:%d/x", local[5]))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if got := readAll(t, r.Body); !strings.Contains(got, `"uri":"/x"`) {
			t.Errorf("%s", got)
		}
	})
	t.Run("refused", func(t *testing.T) { // kubectl ends when it is told of an error
		local, failed := forwarded(t, dial(t, "server", ""), "7999")
		if got := readAll(t, dialLocal(t, local[0])); got != "" {
			t.Errorf("%q", got)
		}
		if err := <-failed; err == nil {
			t.Error("the port-forward goes on")
		}
		said := forwardError(t, dial(t, "server", ""), "7999")
		if !strings.Contains(said, "error forwarding port 7999 to pod server, uid ") || !strings.Contains(said, "connection refused") {
			t.Errorf("the client is told %q", said)
		}
	})
	t.Run("no-such-pod", func(t *testing.T) {
		if _, _, err := dial(t, "nope", "").Dial("portforward.k8s.io"); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%v", err)
		}
	})
	t.Run("pod-without-network", func(t *testing.T) {
		s.apply(t, pod{Name: "ended", Script: "exit 0"})
		s.until(t, "ended", "ended", phase(v1.PodSucceeded))
		eventually(t, func() error { // the network goes after the last container
			if said := forwardError(t, dial(t, "ended", ""), "80"); !strings.Contains(said, "the pod has no network") {
				return fmt.Errorf("the client is told %q", said)
			}
			return nil
		})
		s.remove(t, "ended")
	})
}

// forwardError makes one connection with the streams themselves, and returns what comes on the one for errors.
func forwardError(t *testing.T, dialer httpstream.Dialer, port string) string {
	t.Helper()
	conn, _, err := dialer.Dial("portforward.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	header := http.Header{"Streamtype": {"error"}, "Port": {port}, "Requestid": {"0"}}
	errs, err := conn.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	_ = errs.Close()
	header.Set("streamType", "data")
	if _, err = conn.CreateStream(header); err != nil {
		t.Fatal(err)
	}
	return readAll(t, errs)
}

// The protocol before SPDY was tunnelled: each port has a channel for data and one for an error.
func testForwardChannels(t *testing.T, g *proxyGate) {
	u := g.url(forwardPath("server") + "?ports=7001&ports=7999")
	u.Scheme = "ws"
	ws, r, err := (&gwebsocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}}).Dial(u.String(), nil)
	if err != nil {
		t.Fatal(err, r)
	}
	defer ws.Close()
	if err := ws.WriteMessage(gwebsocket.BinaryMessage, []byte("\x00echo")); err != nil {
		t.Fatal(err)
	}
	got := map[byte]string{}
	for got[0] != "\x59\x1becho" || !strings.Contains(got[3], "connection refused") {
		_, message, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		if len(message) > 0 {
			got[message[0]] += string(message[1:])
		}
	}
}

// A pod with the host's network has the host's ports.
func testForwardHost(t *testing.T, s *suite, g *proxyGate) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "host\n")
			_ = c.Close()
		}
	}()
	p := sleeper("on-the-host")
	p.Spec = "hostNetwork: true"
	s.running(t, p)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	local, _ := forwarded(t, g.tunnel(t, p.Name, ""), port)
	if got := readAll(t, dialLocal(t, local[0])); got != "host\n" {
		t.Errorf("%q", got)
	}
	s.remove(t, p.Name)
}

// proxied asks for a path below /api/v1, with a token that no pod must see.
func (g *proxyGate) proxied(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.config.Host+"/api/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Mine", "yes")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	return r, readAll(t, r.Body)
}

func testPodProxy(t *testing.T, s *suite, g *proxyGate) {
	const base = "namespaces/default/pods/"
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		_, body := g.proxied(t, method, base+"server/proxy/a/b?c=d", "sent")
		var got struct {
			Method, URI, Body string
			Header            http.Header
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v: %s", method, err, body)
		}
		if got.Method != method || got.URI != "/a/b?c=d" || got.Body != "sent" || got.Header.Get("X-Mine") != "yes" ||
			got.Header.Get("X-Forwarded-Uri") != "/api/v1/"+base+"server/proxy/a/b" {
			t.Errorf("%s: the pod sees %+v", method, got)
		}
	}
	for path, want := range map[string]string{
		"server:8080/proxy/x":         `"uri":"/x"`,
		"http:server:8080/proxy/x/":   `"uri":"/x/"`,
		"https:server:8443/proxy/x":   `"tls":true`,
		"https:server:secure/proxy/x": `"tls":true`,
		"server:7999/proxy/x":         "connection refused",
		"server:7001/proxy/x":         "connection refused", // it listens on localhost only
		"server:nope/proxy/x":         `has no port \"nope\"`,
		"server:99999/proxy/x":        `has no port`,
		"nope/proxy/x":                "not found",
	} {
		if _, body := g.proxied(t, "GET", base+path, ""); !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %s", path, body, want)
		}
	}
	_, body := g.proxied(t, "GET", base+"server/proxy/page", "")
	for _, want := range []string{`/api/v1/` + base + `server/proxy/other"`, `"relative"`, `"http://elsewhere.example/x"`} {
		if !strings.Contains(body, want) {
			t.Errorf("the page is %s, want %s", body, want)
		}
	}
	if r, _ := g.proxied(t, "GET", base+"server/proxy/redirect", ""); r.StatusCode != 302 ||
		!strings.HasSuffix(r.Header.Get("Location"), "/api/v1/"+base+"server/proxy/there") {
		t.Errorf("redirect: %s to %s", r.Status, r.Header.Get("Location"))
	}
	if r, _ := g.proxied(t, "GET", base+"server/proxy/metadata", ""); r.StatusCode != 302 ||
		r.Header.Get("Location") != "http://169.254.169.254/latest" {
		t.Errorf("podd follows a redirect: %s", r.Status)
	}
	if r, _ := g.proxied(t, "GET", base+"server/proxy", ""); r.StatusCode != 301 || !strings.HasSuffix(r.Header.Get("Location"), "/proxy/") {
		t.Errorf("without a path: %s to %s", r.Status, r.Header.Get("Location"))
	}
	if r, body := g.proxied(t, "GET", base+"server/proxy/endless", ""); r.StatusCode < 500 || !strings.Contains(body, "larger than 8 MiB") {
		t.Errorf("a page without an end: %s %.200s", r.Status, body)
	}
	s.until(t, "server", "ready", ready)
}

// An upgrade through the proxy: what is said afterwards is passed on both ways, and what podd was shown is not.
func testPodProxyUpgrade(t *testing.T, g *proxyGate) {
	u := g.url("/api/v1/namespaces/default/pods/server/proxy/upgrade")
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", u.Path)
	in := bufio.NewReader(conn)
	r, err := http.ReadResponse(in, nil)
	if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", r, err)
	}
	for _, word := range []string{"one\n", "two\n"} {
		_, _ = io.WriteString(conn, word)
		if got, err := in.ReadString('\n'); err != nil || got != word {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// Who may write a pod's status could put any address there: podd goes to the one it gave to the pod.
func testPodProxyFaked(t *testing.T, s *suite, g *proxyGate) {
	asked := make(chan struct{}, 100)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	patch := `{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}`
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { // again and again: podd corrects the status
		for ctx.Err() == nil {
			_, err := s.client.CoreV1().Pods("default").Patch(ctx, "server", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		_, body := g.proxied(t, "GET", "namespaces/default/pods/server:"+port+"/proxy/", "")
		if !strings.Contains(body, "connection refused") || strings.Contains(body, "127.0.0.1") {
			t.Fatalf("the proxy went elsewhere: %s", body)
		}
	}
	cancel()
	all.Wait()
	if len(asked) > 0 {
		t.Error("the proxy connected to the host's own 127.0.0.1")
	}
}

// The paths of the kubelet are served by podd itself.
func testNodeProxy(t *testing.T, s *suite, g *proxyGate) {
	for path, want := range map[string]string{
		s.NodeName + "/proxy/healthz":                                "ok",
		s.NodeName + ":10250/proxy/healthz":                          "ok",
		"https:" + s.NodeName + ":10250/proxy/healthz":               "ok",
		s.NodeName + ":22/proxy/healthz":                             "only the kubelet's port 10250 is served",
		"nope/proxy/healthz":                                         "not found",
		s.NodeName + "/proxy/exec/default/server/app?command=id":     "there is nothing at",
		s.NodeName + "/proxy/run/default/server/app?cmd=id":          "there is nothing at",
		s.NodeName + "/proxy/logs/":                                  "there is nothing at",
		s.NodeName + "/proxy/../../../default/pods/server/proxy/one": "",
	} {
		if _, body := g.proxied(t, "GET", "nodes/"+path, ""); !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %s", path, body, want)
		}
	}
}
