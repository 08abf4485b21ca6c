package api_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
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
