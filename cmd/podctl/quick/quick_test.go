package quick

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without a word about it podctl asks where podd listens, which podd's TestNoConfigFile says.
func TestDefaultSocket(t *testing.T) {
	const podds = "/run/podd/podd.sock"
	if got := commonOf(func(string) string { return "" }).socket; got != podds {
		t.Errorf("podctl asks %s, podd listens at %s", got, podds)
	}
}

func TestParseGet(t *testing.T) {
	const socket = DefaultSocket
	for _, c := range []struct {
		args   string
		socket string // in the environment
		want   query
		ok     bool
	}{
		{args: "pods", want: query{common: common{socket, "default"}}, ok: true},
		{args: "po -A", want: query{common: common{socket, "default"}, all: true}, ok: true},
		{args: "pod web -n shop", want: query{common: common{socket, "shop"}, name: "web"}, ok: true},
		{args: "--namespace=shop pods -o wide", want: query{common: common{socket, "shop"}, wide: true}, ok: true},
		{args: "pods -owide --no-headers", want: query{common: common{socket, "default"}, wide: true, bare: true}, ok: true},
		{args: "pods --socket /a", want: query{common: common{"/a", "default"}}, ok: true},
		{args: "pods", socket: "unix:///b", want: query{common: common{"unix:///b", "default"}}, ok: true},
		{args: "nodes"},
		{args: "pods,svc"},
		{args: "pods/web"},
		{args: "pod a b"},
		{args: "pod a -A"},
		{args: "pods -w"},
		{args: "pods -o yaml"},
		{args: "pods -o=name"},
		{args: "pods -l a=b"},
		{args: "pods -n"},
		{args: "pods -n ../x"},
		{args: "pods -n="},
		{args: "pods -A=false"},
		{args: "pods --no-headers=false"},
		{args: "pod Web"},
		{args: "pod %2e"},
		{args: "pod ."},
		{args: "pods --help"},
		{args: "pods --"},
		{args: "pods --server x"},
		{args: "pods "}, // with a name that is empty
		{args: "pods  -n default"},
	} {
		got, ok := parseGet(strings.Split(c.args, " "), func(string) string { return c.socket })
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s %s: %+v, %v", c.args, c.socket, got, ok)
		}
	}
}

func TestParseApply(t *testing.T) {
	const socket = DefaultSocket
	for _, c := range []struct {
		args string
		want making
		ok   bool
	}{
		{args: "-f pod.yaml", want: making{common{socket, ""}, "pod.yaml", ""}, ok: true},
		{args: "-n shop --filename=a/b.yaml --socket /a", want: making{common{"/a", "shop"}, "a/b.yaml", ""}, ok: true},
		{args: ""},
		{args: "pod.yaml"},
		{args: "-f"},
		{args: "-f -"},
		{args: "-f="},
		{args: "-f a,b"},
		{args: "-f *.yaml"},
		{args: "-f http://localhost/pod.yaml"},
		{args: "-f a -f b"},
		{args: "-f a b"},
		{args: "-f a -R"},
		{args: "-f a --dry-run=client"},
		{args: "-f a -o yaml"},
		{args: "-f a --server-side"},
		{args: "-f a -n Shop"},
		{args: "-k dir"},
	} {
		got, ok := parseApply(strings.Split(c.args, " "), func(string) string { return "" })
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v", c.args, got, ok)
		}
	}
}

func TestCommands(t *testing.T) {
	for _, args := range []string{"podctl", "podctl get", "podctl apply", "podctl describe pods", "podctl --v=0 get pods"} {
		if answer(strings.Split(args, " "), func(string) string { return "" }, nil, nil) {
			t.Errorf("%s is answered", args)
		}
	}
	socket := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("podd is asked") })
	if answer([]string{"podctl", "get", "pods", "--socket", socket}, func(string) string { return "/c" }, nil, nil) {
		t.Error("KUBECONFIG is not looked at")
	}
}

// TestApply: one pod is sent once; nothing is said unless it was made.
func TestApply(t *testing.T) {
	const web = "{apiVersion: v1, kind: Pod, metadata: {name: web%s}, spec: {hostNetwork: yes, list: [1, null, <a>]}}"
	const sent = `{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{%s},"name":"web","namespace":"default"},"spec":{"hostNetwork":true,"list":[1,null,"\u003ca\u003e"]}}`
	first := fmt.Sprintf(sent, "")
	for _, c := range []struct {
		why, manifest, namespace string
		header, warning          string
		code                     int
		out, errOut              string // none is that it is left to kubectl's apply
		asked                    bool
	}{
		{why: "made", manifest: fmt.Sprintf(web, ""), code: 201, asked: true, out: "pod/web created\n"},
		{why: "in its namespace", manifest: fmt.Sprintf(web, ", namespace: default"), namespace: "default", code: 201, asked: true, out: "pod/web created\n"},
		{why: "with warnings", manifest: fmt.Sprintf(web, ""), code: 201, asked: true, out: "pod/web created\n",
			warning: `299 - "say \"a\\b\"", 299 - "more", 299 - "more"`, errOut: "Warning: say \"a\\b\"\nWarning: more\n"},
		{why: "there already", manifest: fmt.Sprintf(web, ""), code: 409, asked: true},
		{why: "wrong", manifest: fmt.Sprintf(web, ""), code: 422, asked: true},
		{why: "in another namespace", manifest: fmt.Sprintf(web, ", namespace: shop"), namespace: "default"},
		{why: "in no namespace", manifest: fmt.Sprintf(web, ", namespace: null")},
		{why: "applied before", manifest: fmt.Sprintf(web, ", annotations: {"+lastApplied+": x}")},
		{why: "annotations that are none", manifest: fmt.Sprintf(web, ", annotations: []")},
		{why: "two", manifest: fmt.Sprintf(web, "") + "\n---\n" + fmt.Sprintf(web, "")},
		{why: "two in one", manifest: fmt.Sprintf(web, "") + "\n...\n" + fmt.Sprintf(web, "")},
		{why: "another kind", manifest: strings.Replace(fmt.Sprintf(web, ""), "Pod", "Secret", 1)},
		{why: "another version", manifest: strings.Replace(fmt.Sprintf(web, ""), "v1", "v2", 1)},
		{why: "a field twice", manifest: fmt.Sprintf(web, ", labels: {a: b, a: b}")},
		{why: "a fraction", manifest: fmt.Sprintf(web, ", of: 1.5")},
		{why: "a number that JSON writes otherwise", manifest: fmt.Sprintf(web, ", of: 18446744073709551615")},
		{why: "no name", manifest: "{apiVersion: v1, kind: Pod, metadata: {}}"},
		{why: "a name that is a path", manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a/../b}}"},
		{why: "no metadata", manifest: "{apiVersion: v1, kind: Pod}"},
		{why: "a list", manifest: "[]"},
		{why: "not YAML", manifest: "{"},
		{why: "nothing", manifest: ""},
		{why: "too large", manifest: fmt.Sprintf(web, "") + strings.Repeat(" ", maxManifest)},
	} {
		file := filepath.Join(t.TempDir(), "pod.yaml")
		if err := os.WriteFile(file, []byte(c.manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		asked := 0
		socket := serve(t, func(w http.ResponseWriter, req *http.Request) {
			asked++
			body, err := io.ReadAll(req.Body)
			again, _ := json.Marshal(first + "\n")
			if want := fmt.Sprintf(sent, `"`+lastApplied+`":`+string(again)); err != nil || string(body) != want {
				t.Errorf("%s: sent\n%s\nwant\n%s", c.why, body, want)
			}
			if want := "/api/v1/namespaces/default/pods?fieldManager=kubectl-client-side-apply&fieldValidation=Strict"; req.Method != "POST" || req.URL.String() != want {
				t.Errorf("%s %s", req.Method, req.URL)
			}
			if c.warning != "" {
				w.Header().Set("Warning", c.warning)
			}
			w.WriteHeader(c.code)
		})
		args := []string{"podctl", "apply", "-f", file, "--socket", socket}
		if c.namespace != "" {
			args = append(args, "-n", c.namespace)
		}
		var out, errOut bytes.Buffer
		ok := answer(args, func(string) string { return "" }, &out, &errOut)
		if ok != (c.out != "") || out.String() != c.out || errOut.String() != c.errOut || asked > 0 != c.asked || asked > 1 {
			t.Errorf("%s: %v, asked %d times: %q %q", c.why, ok, asked, out.String(), errOut.String())
		}
	}
	for _, file := range []string{"/nowhere", "/", "/dev/null"} {
		if answer([]string{"podctl", "apply", "-f", file}, func(string) string { return "" }, nil, nil) {
			t.Errorf("%s is answered", file)
		}
	}
}

// TestRead: an answer that is cut off is none.
func TestRead(t *testing.T) {
	for answer, whole := range map[string]bool{
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab":                 true,
		"HTTP/1.0 200 OK\r\n\r\nab":                                      true,
		"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nab":                 false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": false,
		"HTTP/1.0 200 OK\r\nContent-Le":                                  false,
		"hello\r\n\r\n":                                                  false,
		"":                                                               false,
	} {
		if r, err := read([]byte(answer)); (err == nil) != whole || whole && (r.status != "200 OK" || string(r.body) != "ab") {
			t.Errorf("%q: %+v, %v", answer, r, err)
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
