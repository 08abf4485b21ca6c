package quick

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const socket = DefaultSocket
	for _, c := range []struct {
		args string
		env  map[string]string
		want query
		ok   bool
	}{
		{args: "get pods", want: query{socket: socket, namespace: "default"}, ok: true},
		{args: "get po -A", want: query{socket: socket, namespace: "default", all: true}, ok: true},
		{args: "get pod web -n shop", want: query{socket: socket, namespace: "shop", name: "web"}, ok: true},
		{args: "get --namespace=shop pods -o wide", want: query{socket: socket, namespace: "shop", wide: true}, ok: true},
		{args: "get pods -owide --no-headers", want: query{socket: socket, namespace: "default", wide: true, bare: true}, ok: true},
		{args: "get pods --socket /a", want: query{socket: "/a", namespace: "default"}, ok: true},
		{args: "get pods", env: map[string]string{"PODD_SOCKET": "unix:///b"}, want: query{socket: "unix:///b", namespace: "default"}, ok: true},
		{args: "get pods", env: map[string]string{"KUBECONFIG": "/c"}},
		{args: "get"},
		{args: "describe pods"},
		{args: "--v=0 get pods"},
		{args: "get nodes"},
		{args: "get pods,svc"},
		{args: "get pods/web"},
		{args: "get pod a b"},
		{args: "get pod a -A"},
		{args: "get pods -w"},
		{args: "get pods -o yaml"},
		{args: "get pods -o=name"},
		{args: "get pods -l a=b"},
		{args: "get pods -n"},
		{args: "get pods -n ../x"},
		{args: "get pods -n="},
		{args: "get pods -A=false"},
		{args: "get pods --no-headers=false"},
		{args: "get pod Web"},
		{args: "get pod %2e"},
		{args: "get pod ."},
		{args: "get pods --help"},
		{args: "get pods --"},
		{args: "get pods --server x"},
		{args: "get pods "}, // with a name that is empty
		{args: "get pods  -n default"},
	} {
		got, ok := parse(append([]string{"podctl"}, strings.Split(c.args, " ")...), func(name string) string { return c.env[name] })
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s %v: %+v, %v", c.args, c.env, got, ok)
		}
	}
}

// Nothing is printed unless all can be.
func TestAnswer(t *testing.T) {
	const pods = `{"kind":"Table","columnDefinitions":[{"name":"Name"},{"name":"Age","priority":1}],"rows":[`
	for _, c := range []struct {
		why, body, out, errOut string
		header                 string
		code                   int
		ok                     bool
	}{
		{why: "rows", body: pods + `{"cells":["web",5]},{"cells":["a-long-name",null]},{"cells":["more","than","columns"]}]}`, ok: true,
			out: "NAME\nweb\na-long-name\nmore\n"},
		{why: "none", body: pods + `]}`, ok: true, errOut: "No resources found in default namespace.\n"},
		{why: "an escape", body: pods + `{"cells":["\u001b[31mweb",5]}]}`},
		{why: "a newline", body: pods + `{"cells":["web\nmore",5]}]}`},
		{why: "more to come", body: `{"kind":"Table","metadata":{"continue":"x"}}`},
		{why: "no table", body: `{"kind":"PodList"}`},
		{why: "not found", body: `{"kind":"Status"}`, code: 404},
		{why: "cut off", body: pods},
		{why: "nothing", body: ""},
		{why: "a warning", body: pods + `]}`, header: "Warning"},
	} {
		socket := serve(t, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != "/api/v1/namespaces/default/pods" || !strings.Contains(req.Header.Get("Accept"), "as=Table") {
				t.Errorf("asked for %s as %s", req.URL, req.Header)
			}
			if c.header != "" {
				w.Header().Set(c.header, `299 - "old"`)
			}
			if c.code != 0 {
				w.WriteHeader(c.code)
			}
			_, _ = w.Write([]byte(c.body))
		})
		var out, errOut bytes.Buffer
		ok := answer([]string{"podctl", "get", "pods", "--socket", socket}, func(string) string { return "" }, &out, &errOut)
		if ok != c.ok || out.String() != c.out || errOut.String() != c.errOut {
			t.Errorf("%s: %v %q %q", c.why, ok, out.String(), errOut.String())
		}
	}
	if answer([]string{"podctl", "get", "pods", "--socket", "/nowhere"}, func(string) string { return "" }, nil, nil) {
		t.Error("nobody is there, and it answers")
	}
}

// Many pods are one answer.
func TestAnswerIsWhole(t *testing.T) {
	var rows []map[string]any
	for range 20_000 {
		rows = append(rows, map[string]any{"cells": []any{strings.Repeat("x", 60)}})
	}
	body, err := json.Marshal(map[string]any{"kind": "Table", "columnDefinitions": []map[string]any{{"name": "Name"}}, "rows": rows})
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	var out bytes.Buffer
	if !answer([]string{"podctl", "get", "pods", "--socket", socket}, func(string) string { return "" }, &out, nil) {
		t.Fatal("no answer")
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != len(rows)+1 {
		t.Errorf("%d lines", n)
	}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket
}
