package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPoddGoes: podd that dies, or ends, under a command that follows something is told of as that.
func TestPoddGoes(t *testing.T) {
	const gone = "error: the connection to podd ended: podd does not run any more. Pods go on without it, unless podd teardown ends them.\n-> Start it again"
	for _, c := range []struct {
		args      string
		dies      bool   // in the middle of an answer; else it ends
		comes     bool   // and is there again
		falls     bool   // or lets clients in and answers nothing, as a process does that is just being killed
		out, want string // the beginning of stderr; empty: exit code 0
	}{
		{args: "logs -f web", dies: true, out: "hi\n", want: gone},
		{args: "logs -f web", dies: true, comes: true, out: "hi\n", want: "error: the connection to podd ended, and podd answers again. Pods go on meanwhile, unless podd teardown ends them.\n-> Repeat"},
		{args: "logs -f web", out: "hi\n", want: gone},
		{args: "logs -f web", comes: true, out: "hi\n"}, // the container has ended
		{args: "logs -f web", comes: true, falls: true, out: "hi\n", want: gone},
		{args: "logs web", out: "hi\n"},
		{args: "logs web", dies: true, out: "hi\n", want: gone},
		{args: "get pods -w -o name", dies: true, out: "pod/web\n", want: gone},
		{args: "get pods -w -o name", out: "pod/web\n", want: gone},
		{args: "image ls", dies: true, want: gone},
	} {
		socket := filepath.Join(t.TempDir(), "podd.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		end := func(w http.ResponseWriter) {
			w.(http.Flusher).Flush()
			if !c.comes {
				listener.Close()
			}
			if c.dies {
				panic(http.ErrAbortHandler)
			}
		}
		const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default"},"spec":{"nodeName":"host","containers":[{"name":"app"}]}}`
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			switch {
			case r.URL.Path == "/livez" && c.falls:
				panic(http.ErrAbortHandler)
			case strings.HasSuffix(r.URL.Path, "/web"):
				fmt.Fprint(w, pod)
			case strings.HasSuffix(r.URL.Path, "/web/log"):
				fmt.Fprintln(w, "hi")
				end(w)
			case r.URL.Query().Has("watch"):
				end(w)
			case strings.HasSuffix(r.URL.Path, "/pods"):
				fmt.Fprintf(w, `{"apiVersion":"v1","kind":"PodList","metadata":{"resourceVersion":"1"},"items":[%s]}`, pod)
			case strings.HasSuffix(r.URL.Path, "/images"):
				fmt.Fprint(w, `{"images":[`)
				end(w)
			}
		})}
		done := make(chan error, 1)
		go func() { done <- server.Serve(listener) }()
		out, errOut, code := ask("", append([]string{"--socket", socket}, strings.Fields(c.args)...)...)
		if out != c.out || !strings.HasPrefix(errOut, c.want) || (errOut == "") != (c.want == "") || (code == 0) != (c.want == "") || strings.Contains(errOut, "EOF") {
			t.Errorf("podctl %s, podd dies: %v, comes again: %v: exit code %d\n%s%s", c.args, c.dies, c.comes, code, out, errOut)
		}
		server.Close()
		<-done
	}
}

// TestLook: podd is away only if nobody listens where it should, or lets clients in and leaves them.
func TestLook(t *testing.T) {
	answers := func(h http.HandlerFunc) (socket, address string) {
		server := &http.Server{Handler: h}
		socket = filepath.Join(t.TempDir(), "podd.sock")
		for _, where := range [][2]string{{"unix", socket}, {"tcp", "127.0.0.1:0"}} {
			l, err := net.Listen(where[0], where[1])
			if err != nil {
				t.Fatal(err)
			}
			address = l.Addr().String()
			go func() { _ = server.Serve(l) }()
		}
		t.Cleanup(func() { server.Close() })
		return socket, address
	}
	full := func() string { // nobody is let in, and nobody is refused
		socket := filepath.Join(t.TempDir(), "podd.sock")
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		for {
			one, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(one) })
			if err := unix.Connect(one, &unix.SockaddrUnix{Name: socket}); err != nil {
				return socket
			}
		}
	}
	there, at := answers(func(http.ResponseWriter, *http.Request) {})
	leaves, leavesAt := answers(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	t.Setenv("KUBECONFIG", "/dev/null")
	for _, c := range []struct {
		name string
		args []string
		want bool
	}{
		{"there", []string{"--socket", there}, false},
		{"a full backlog", []string{"--socket", full()}, false},
		{"leaves", []string{"--socket", leaves}, true},
		{"no socket", []string{"--socket", filepath.Join(t.TempDir(), "none")}, true},
		{"there by address", []string{"--server", at}, false},
		{"there by URL", []string{"--server", "http://" + at}, false},
		{"another protocol", []string{"--server", "https://" + at}, false},
		{"leaves by URL", []string{"--server", "http://" + leavesAt}, true},
		{"nobody by URL", []string{"--server", "http://" + nobody}, true},
	} {
		p := &podctl{args: c.args}
		p.client.warn = io.Discard
		root := p.root(c.args)
		if err := root.ParseFlags(c.args); err != nil {
			t.Fatal(err)
		}
		if got := p.away(); got != c.want {
			t.Errorf("%s: away is %v", c.name, got)
		}
	}
}

// TestOnce: that a container waits is said once, and each time that something else is said of it.
func TestOnce(t *testing.T) {
	var out strings.Builder
	o := &once{w: &out, said: map[string]bool{}}
	for _, line := range []string{`container "a" in pod "p" is waiting to start: ContainerCreating`, `container "b" in pod "p" is waiting to start: ContainerCreating`,
		`container "a" in pod "p" is waiting to start: ContainerCreating`, `container "a" in pod "p" is waiting to start: ErrImagePull`,
		`container "b" in pod "p" is waiting to start: ContainerCreating`, "unexpected EOF", "twice", "twice"} {
		if n, err := fmt.Fprintln(o, line); n != len(line)+1 || err != nil {
			t.Errorf("%s: %d, %v", line, n, err)
		}
	}
	want := `container "a" in pod "p" is waiting to start: ContainerCreating
container "b" in pod "p" is waiting to start: ContainerCreating
container "a" in pod "p" is waiting to start: ErrImagePull
twice
`
	if out.String() != want {
		t.Error(out.String())
	}
}
