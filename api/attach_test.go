package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Attach echoes what it is told, and ends when the client says no more.
func (p *pods) Attach(ctx context.Context, pod *v1.Pod, container string, in io.Reader, out, errOut io.Writer,
	resize <-chan remotecommand.TerminalSize) error {
	if container == "deaf" {
		<-ctx.Done()
		return ctx.Err()
	}
	sized := make(chan struct{})
	go func() { // beside the input: the client may send either first
		defer close(sized)
		if resize == nil {
			return
		}
		for size := range resize {
			p.mu.Lock()
			p.sizes = append(p.sizes, size)
			p.mu.Unlock()
			return
		}
	}()
	if errOut != nil {
		if _, err := fmt.Fprintf(errOut, "attached to %s of %s\n", container, pod.Name); err != nil {
			return err
		}
	}
	if in == nil {
		if container == "floods" {
			for {
				if _, err := out.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
					return err
				}
			}
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	_, err := io.Copy(out, in)
	<-sized
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// attachTo is one session of a client.
func attachTo(t *testing.T, host, container, method string, in io.Reader, out, errOut io.Writer, tty bool) error {
	config := &rest.Config{Host: host}
	opts := &v1.PodAttachOptions{Container: container, Stdin: in != nil, Stdout: out != nil, Stderr: errOut != nil, TTY: tty}
	url := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("a").SubResource("attach").
		VersionedParams(opts, scheme.ParameterCodec).URL()
	streams := remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errOut, Tty: tty}
	if tty {
		streams.TerminalSizeQueue = &oneSize{}
	}
	executor, err := remotecommand.NewSPDYExecutor(config, method, url)
	if method == http.MethodGet {
		executor, err = remotecommand.NewWebSocketExecutor(config, method, url.String())
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(t.Context(), streams)
}

func TestAttach(t *testing.T) {
	e := serve(t)
	p := pod("a")
	p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[0].DeepCopy())
	p.Spec.Containers[1].Name = "floods"
	e.create(t, p)
	first := p.Spec.Containers[0].Name
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	for name, method := range map[string]string{"websocket": http.MethodGet, "SPDY": http.MethodPost} {
		var out, errOut bytes.Buffer
		err := attachTo(t, tcp.URL, first, method, strings.NewReader("hello"), &out, &errOut, false)
		if out.String() != "hello" || errOut.String() != "attached to "+first+" of a\n" || err != nil {
			t.Errorf("%s: %q %q %v", name, out.String(), errOut.String(), err)
		}
		out.Reset()
		if err := attachTo(t, tcp.URL, first, method, strings.NewReader("tty"), &out, nil, true); out.String() != "tty" || err != nil {
			t.Errorf("%s tty: %q %v", name, out.String(), err)
		}
		if err := attachTo(t, tcp.URL, "", method, nil, &out, nil, false); err == nil || !strings.Contains(err.Error(), "a container name must be specified") {
			t.Errorf("%s, no name: %v", name, err)
		}
		if err := attachTo(t, tcp.URL, "nobody", method, nil, &out, nil, false); err == nil || !strings.Contains(err.Error(), "container nobody is not valid") {
			t.Errorf("%s, wrong name: %v", name, err)
		}
		// The client takes nothing: it is told when it has taken what was waiting for it.
		var late lateWriter
		if err := attachTo(t, tcp.URL, "floods", method, nil, &late, nil, false); err == nil || !strings.Contains(err.Error(), "not read fast enough") {
			t.Errorf("%s, behind: %v", name, err)
		}
		if late.n < 8<<20-64<<10 { // all but one piece: each costs a little more than its data
			t.Errorf("%s, behind: only %d bytes came", name, late.n)
		}
	}
	e.runtime.mu.Lock()
	defer e.runtime.mu.Unlock()
	if len(e.runtime.sizes) != 2 || e.runtime.sizes[0].Width != 80 {
		t.Errorf("sizes %v", e.runtime.sizes)
	}
}

// lateWriter is slower than the runtime of these tests, which writes without end.
type lateWriter struct{ n int }

func (w *lateWriter) Write(p []byte) (int, error) {
	w.n += len(p)
	return len(p), nil
}

// All protocols that clients of the last ten years speak bring what is said and what is answered.
func TestStreamProtocols(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	query := "stdin=true&stdout=true&container=" + p.Spec.Containers[0].Name
	for _, path := range []string{"/api/v1/namespaces/default/pods/a/attach?" + query, "/api/v1/namespaces/default/pods/a/exec?command=cat&" + query} {
		for _, protocol := range []string{"v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io", "", "v4.base64.channel.k8s.io", "base64.channel.k8s.io"} {
			config, err := websocket.NewConfig("ws"+strings.TrimPrefix(tcp.URL, "http")+path, "http://podd")
			if err != nil {
				t.Fatal(err)
			}
			if protocol != "" {
				config.Protocol = []string{protocol}
			}
			conn, err := websocket.DialConfig(config)
			if err != nil {
				t.Errorf("%s %q: %v", path, protocol, err)
				continue
			}
			said, want := any([]byte("\x00hello")), "\x01hello"
			if strings.Contains(protocol, "base64") {
				said, want = "0aGVsbG8=", "1aGVsbG8="
			}
			if err := websocket.Message.Send(conn, said); err != nil {
				t.Errorf("%s %q: %v", path, protocol, err)
			}
			var got string
			for got != want && err == nil {
				err = websocket.Message.Receive(conn, &got)
				if len(got) > 1 && got != want {
					break
				}
			}
			if got != want || err != nil {
				t.Errorf("%s %q: %q %v", path, protocol, got, err)
			}
			_ = conn.Close()
		}
		for _, protocol := range []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"} {
			executor := bySPDY(t, tcp.URL, path, protocol)
			var out bytes.Buffer
			ctx, leave := context.WithCancel(t.Context())
			streams := remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out}
			first := protocol == "channel.k8s.io" // whose clients cannot end their stdin
			if first {
				streams.Stdout = io.MultiWriter(&out, &signalWriter{first: leave})
			}
			err := executor.StreamWithContext(ctx, streams)
			leave()
			if out.String() != "hello" || err != nil && !first {
				t.Errorf("%s SPDY %s: %q %v", path, protocol, out.String(), err)
			}
		}
	}
}

// bySPDY is client-go's client of one protocol.
func bySPDY(t *testing.T, server, path, protocol string) remotecommand.Executor {
	t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: server})
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(server + path)
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, http.MethodPost, to, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return executor
}

// The exit code of a command arrives in all protocols that have a place for it, and in the older ones that it was not 0.
func TestExitCodeProtocols(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler())
	defer tcp.Close()
	path := "/api/v1/namespaces/default/pods/a/exec?command=exit&stdout=true&stderr=true&container=" + p.Spec.Containers[0].Name
	const text = "command terminated with non-zero exit code: exit 7"
	for protocol, structured := range map[string]bool{"v5.channel.k8s.io": true, "v4.channel.k8s.io": true, "v4.base64.channel.k8s.io": true,
		"channel.k8s.io": false, "base64.channel.k8s.io": false, "": false} {
		got := lastWord(t, "ws"+strings.TrimPrefix(tcp.URL, "http")+path, protocol)
		if !structured {
			if got != text {
				t.Errorf("%q: %q, want %q", protocol, got, text)
			}
			continue
		}
		var status metav1.Status
		if err := json.Unmarshal([]byte(got), &status); err != nil {
			t.Errorf("%s: %q: %v", protocol, got, err)
			continue
		}
		if status.Status != metav1.StatusFailure || status.Reason != "NonZeroExitCode" || status.Message != text || status.Details == nil ||
			len(status.Details.Causes) != 1 || status.Details.Causes[0] != (metav1.StatusCause{Type: "ExitCode", Message: "7"}) {
			t.Errorf("%s: %s", protocol, got)
		}
	}
	for protocol, want := range map[string]string{"v4.channel.k8s.io": "command terminated with exit code 7", "v3.channel.k8s.io": text,
		"v2.channel.k8s.io": text} { // the client of the first does not wait for it
		err := bySPDY(t, tcp.URL, path, protocol).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("SPDY %s: %v, want %s", protocol, err, want)
		}
		var exit exec.ExitError
		if protocol == "v4.channel.k8s.io" && (!errors.As(err, &exit) || exit.ExitStatus() != 7) {
			t.Errorf("SPDY %s: %T, no exit code 7", protocol, err)
		}
	}
}

// lastWord is what comes on a WebSocket's error channel.
func lastWord(t *testing.T, address, protocol string) string {
	t.Helper()
	config, err := websocket.NewConfig(address, "http://podd")
	if err != nil {
		t.Fatal(err)
	}
	if protocol != "" {
		config.Protocol = []string{protocol}
	}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatalf("%q: %v", protocol, err)
	}
	defer func() { _ = conn.Close() }()
	for {
		var got []byte
		if err := websocket.Message.Receive(conn, &got); err != nil {
			t.Errorf("%q: no word on the error channel: %v", protocol, err)
			return ""
		}
		switch {
		case len(got) > 1 && got[0] == 3:
			return string(got[1:])
		case len(got) > 1 && got[0] == '3':
			text, err := base64.StdEncoding.DecodeString(string(got[1:]))
			if err != nil {
				t.Errorf("%q: %q: %v", protocol, got, err)
			}
			return string(text)
		}
	}
}

// A client that leaves without a word is noticed while nothing is written: its session ends, whatever it spoke.
func TestAttachClientGone(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	ended := make(chan error, 1)
	tcp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.server.Handler().ServeHTTP(w, r)
		ended <- nil
	}))
	defer tcp.Close()
	address := strings.TrimPrefix(tcp.URL, "http://")
	path := "/api/v1/namespaces/default/pods/a/attach?stdout=true&container=" + p.Spec.Containers[0].Name
	for name, headers := range map[string]string{
		"v5":   "GET %s HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
		"v4":   "GET %s HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n",
		"bare": "GET %s HTTP/1.1\r\nHost: podd\r\nOrigin: http://podd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, headers, path)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, "101") {
			t.Errorf("%s: %q %v", name, line, err)
		}
		_ = conn.Close()
		<-ended
	}
	// SPDY: the client's connection breaks once its streams stand.
	gone, leave := context.WithCancel(t.Context())
	out := &signalWriter{first: leave}
	config := &rest.Config{Host: tcp.URL}
	opts := &v1.PodAttachOptions{Container: p.Spec.Containers[0].Name, Stderr: true, Stdout: true}
	url := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("a").SubResource("attach").
		VersionedParams(opts, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, url)
	if err != nil {
		t.Fatal(err)
	}
	_ = executor.StreamWithContext(gone, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: out})
	<-ended
}

// signalWriter calls first when something comes.
type signalWriter struct{ first func() }

func (w *signalWriter) Write(p []byte) (int, error) {
	w.first()
	return len(p), nil
}
