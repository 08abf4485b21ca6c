package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"podd/api/credentials"
	"podd/cmd/podctl/english"
)

// TestTarget finds the command among flags as cobra does.
func TestTarget(t *testing.T) {
	var c client
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.addFlags(flags)
	for args, want := range map[string]string{
		"":                               "|",
		"get pods":                       "get|pods",
		"-n x get pods -o yaml":          "get|pods -o yaml",
		"--namespace x get":              "get|",
		"--namespace=x get":              "get|",
		"-nx get":                        "get|",
		"--insecure-skip-tls-verify get": "get|",
		"help image rm":                  "image|rm",
		"__complete get po":              "get|po",
		"__completeNoDesc -n x logs":     "logs|",
		"-- get":                         "|",
	} {
		name, rest := target(strings.Fields(args), flags)
		if got := name + "|" + strings.Join(rest, " "); got != want {
			t.Errorf("%q: got %q, want %q", args, got, want)
		}
	}
}

// TestExplain leaves names alone that happen to be kubectl's.
func TestExplain(t *testing.T) {
	for message, want := range map[string]string{
		`Use "kubectl api-resources" for all.`:                        `Use "podctl api-resources" for all.`,
		"error: no pods\nSee 'kubectl get -h' for help":               "error: no pods\nSee 'podctl get -h' for help",
		"run kubectl apply":                                           "run podctl apply",
		`Error from server (NotFound): pods "kubectl" not found`:      `Error from server (NotFound): pods "kubectl" not found`,
		"error: open /root/kubectl/a kubectl.kubernetes.io: no files": "error: open /root/kubectl/a kubectl.kubernetes.io: no files",
	} {
		var got strings.Builder
		var p podctl
		p.shown.ErrOut = &got
		if p.explain(message); got.String() != want+"\n" {
			t.Errorf("%q: got %q, want %q", message, got.String(), want)
		}
	}
}

// TestForwardErrors prints what ends a forwarding, and nothing else that the libraries only log.
func TestForwardErrors(t *testing.T) {
	var got strings.Builder
	say := forwardErrors(&got)
	say(t.Context(), errors.New("an error occurred forwarding 1 -> 80: refused"), "")
	say(t.Context(), errors.New("something else"), "")
	say(t.Context(), nil, "a message")
	if want := "error: an error occurred forwarding 1 -> 80: refused\n"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}

// TestMerge holds a merge to what it must keep, and to whole files.
func TestMerge(t *testing.T) {
	config := configOf(credentials.Credentials{User: credentials.Admin, Server: "https://127.0.0.1:6550", CA: []byte("ca"), ClientCertificate: []byte("cert"), ClientKey: []byte("key"), Token: "secret"}, false, "")
	file := filepath.Join(t.TempDir(), "new", "config")
	if current, err := mergeInto(t.Context(), file, config, false); err != nil || current != "podd" {
		t.Fatal(current, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	there, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	there.CurrentContext = "work"
	there.Clusters["work"] = &clientcmdapi.Cluster{Server: "https://work"}
	there.Contexts["work"] = &clientcmdapi.Context{Cluster: "work"}
	if err := clientcmd.WriteToFile(*there, file); err != nil {
		t.Fatal(err)
	}
	config.Clusters["podd"].Server = "https://127.0.0.1:7000"
	through, err := kubeconfigFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if current, err := mergeInto(t.Context(), through, config, false); err != nil || current != "work" {
		t.Fatal(current, err)
	}
	there, err = clientcmd.LoadFromFile(link)
	if err != nil || there.Clusters["work"].Server != "https://work" || there.Clusters["podd"].Server != "https://127.0.0.1:7000" {
		t.Errorf("after a merge: %v, %+v", err, there)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", st.Mode(), err)
	}
	// Somebody else is at it.
	if err := os.WriteFile(file+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := mergeInto(ctx, file, config, false); !errors.Is(err, context.Canceled) {
		t.Errorf("a merge under a lock: %v", err)
	}
	if text, err := yaml.Marshal(configOf(credentials.Credentials{User: credentials.Reader, Token: "secret"}, true, "")); err != nil || !strings.Contains(string(text), "secret") {
		t.Errorf("with a token: %s, %v", text, err)
	}
}

// TestTunnel lets only those through who know the secret, and ends with its streams.
func TestTunnel(t *testing.T) {
	echo, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	var tun tunnel
	at, err := tun.open(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", echo.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(proxy *url.URL) (net.Conn, string) {
		conn, err := net.Dial("tcp", proxy.Host)
		if err != nil {
			t.Fatal(err)
		}
		req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: "podd:80"}, Host: "podd:80", Header: http.Header{}}
		if proxy.User != nil {
			secret, _ := proxy.User.Password()
			auth := &http.Request{Header: http.Header{}}
			auth.SetBasicAuth(proxy.User.Username(), secret)
			req.Header.Set("Proxy-Authorization", auth.Header.Get("Authorization"))
		}
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
		return conn, string(buf)
	}
	for _, user := range []*url.Userinfo{nil, url.UserPassword("podctl", "guess"), url.UserPassword("", "")} {
		if conn, status := connect(&url.URL{Host: at.Host, User: user}); status != "HTTP/1.1 403" {
			t.Errorf("as %v: %s", user, status)
		} else {
			conn.Close()
		}
	}
	conn, status := connect(at)
	if status != "HTTP/1.1 200" {
		t.Fatal(status)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, len(" OK\r\n\r\nhello"))
	if _, err := io.ReadFull(conn, rest); err != nil || !strings.HasSuffix(string(rest), "hello") {
		t.Fatalf("%q, %v", rest, err)
	}
	tun.close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(rest); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after close: %d, %v", n, err)
	}
	if _, err := net.Dial("tcp", at.Host); err == nil {
		t.Error("the port is open after close")
	}
}

// TestTableIsNotRead: package english is initialised before the packages of kubectl's that would read the table.
func TestTableIsNotRead(t *testing.T) {
	if english.Late != nil {
		t.Error(english.Late)
	}
}
