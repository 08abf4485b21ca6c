package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"podd/api"
	"podd/api/credentials"
	"podd/store"
)

// port is a server with a TLS port.
type port struct {
	server  *api.Server
	runtime *pods
	socket  *http.Client // over the unix socket
	unix    *rest.Config
	url     string
	given   map[string]credentials.Credentials
	log     *lockedBuffer
	configs sync.Map // of TLS, by user
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// openPort starts a server with a TLS port at address, and ends it with the test.
func openPort(t testing.TB, address string, prepare ...func(*api.Server)) *port {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(store.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	p := &port{runtime: &pods{}, given: map[string]credentials.Credentials{}, log: &lockedBuffer{}}
	socket := filepath.Join(dir, "podd.sock")
	p.server, err = api.New(api.Config{Store: s, Runtime: p.runtime, NodeName: "host", NodeIPs: []string{"192.0.2.1"},
		SocketPath: socket, SocketGroup: "no-such-group", Version: "test", TLSListen: address, PKIDir: filepath.Join(dir, "pki"),
		Log: slog.New(slog.NewTextHandler(p.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(p.server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	p.socket = &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(p.socket.CloseIdleConnections)
	p.unix = &rest.Config{Host: "http://podd", Dial: dial, QPS: -1}
	var refused error
	poll(t, 10*time.Second, func() bool {
		res, err := p.socket.Get("http://podd/livez")
		if err == nil {
			_ = res.Body.Close()
		}
		refused = err
		return err == nil
	}, func() string { return refused.Error() })
	for _, name := range []string{credentials.Admin, credentials.Reader} {
		code, body := get(t, p.socket, "http://podd"+credentials.Path+"?user="+name)
		var c credentials.Credentials
		if err := json.Unmarshal([]byte(body), &c); err != nil || code != http.StatusOK {
			t.Fatalf("credentials of %s: %d %s", name, code, body)
		}
		p.given[name], p.url = c, c.Server
	}
	return p
}

func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// tls is the client side of the TLS port; nobody's without a user.
func (p *port) tls(t testing.TB, user string) *tls.Config {
	t.Helper()
	if config, ok := p.configs.Load(user); ok {
		return config.(*tls.Config).Clone()
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.given[credentials.Admin].CA) {
		t.Fatal("the authority is not PEM")
	}
	config := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	if c, ok := p.given[user]; ok {
		pair, err := tls.X509KeyPair(c.ClientCertificate, c.ClientKey)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	p.configs.Store(user, config)
	return config.Clone()
}

// client has the user's certificate, or none.
func (p *port) client(t testing.TB, user string) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: p.tls(t, user), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// config is for client-go, with the user's certificate or, instead, token.
func (p *port) config(user string, token bool) *rest.Config {
	c := p.given[user]
	out := &rest.Config{Host: p.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}}
	if token {
		out.BearerToken = c.Token
	} else {
		out.CertData, out.KeyData = c.ClientCertificate, c.ClientKey
	}
	return out
}

func TestAnonymous(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	nobody := p.client(t, "")
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/version": 200, "/readyz?verbose": 200,
		"/": 401, "/api": 401, "/api/v1/pods": 401, "/apis": 401, "/metrics": 401, "/healthz": 401, "/livez/ping": 401, "/readyz/runtime": 401,
		"/version/": 401, "/openapi/v3": 401, "/debug/podd/goroutines": 401, "/nothing": 401, "/pods": 401, "/stats/summary": 401,
		credentials.Path: 401, "/podd/v1/images": 401, "/podd/v1/history": 401, "/livez/../api/v1/pods": 401, "//livez": 401, "/api/v1/nodes/host/proxy/livez": 401,
		"/api/v1/namespaces/default/pods/a/exec?command=true": 401,
	} {
		code, body := get(t, nobody, p.url+path)
		if code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
		var status metav1.Status
		if want == 401 && (json.Unmarshal([]byte(body), &status) != nil || status.Reason != metav1.StatusReasonUnauthorized) {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, path := range []string{"/livez", "/version", "/api/v1/namespaces"} {
		res, err := nobody.Post(p.url+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("POST %s: %s", path, res.Status)
		}
	}
	for _, header := range []string{
		"Bearer ", "Bearer x", "Bearer " + p.given["admin"].Token + "x", "Basic YWRtaW46YWRtaW4=", "bearer", p.given["admin"].Token,
		"Basic " + p.given["admin"].Token,
	} {
		for _, path := range []string{"/api/v1/pods", "/readyz"} {
			req, err := http.NewRequest(http.MethodGet, p.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", header)
			res, err := nobody.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with %q: %s", path, header, res.Status)
			}
		}
	}
	// What a proxy in front would say is nothing that podd believes.
	req, err := http.NewRequest(http.MethodGet, p.url+"/api/v1/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Remote-User", "root")
	req.Header.Set("X-Remote-Group", "system:masters")
	res, err := nobody.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("X-Remote-User: %s", res.Status)
	}
}

func TestNoReasonForStrangers(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	p.runtime.ail(errors.New("containerd is away from /secret/place"))
	code, body := get(t, p.client(t, ""), p.url+"/readyz")
	if want := "[+]ping ok\n[-]runtime failed: reason withheld\nreadyz check failed\n"; code != 500 || body != want {
		t.Errorf("anonymous: %d %q", code, body)
	}
	code, body = get(t, p.client(t, "reader"), p.url+"/readyz")
	if want := "[+]ping ok\n[-]runtime failed: containerd is away from /secret/place\nreadyz check failed\n"; code != 500 || body != want {
		t.Errorf("reader: %d %q", code, body)
	}
	if code, body := get(t, p.client(t, ""), p.url+"/livez"); code != 200 || body != "ok" {
		t.Errorf("livez: %d %q", code, body)
	}
}

func TestHealth(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	for path, want := range map[string]string{
		"/livez": "ok", "/readyz": "ok", "/healthz": "ok", "/livez/ping": "ok", "/readyz/runtime": "ok", "/healthz/syncloop": "ok",
		"/livez?verbose":                         "[+]ping ok\nlivez check passed\n",
		"/readyz?verbose":                        "[+]ping ok\n[+]runtime ok\nreadyz check passed\n",
		"/readyz?verbose&exclude=runtime":        "[+]ping ok\n[+]runtime excluded: ok\nreadyz check passed\n",
		"/readyz?verbose&exclude=etcd":           "[+]ping ok\n[+]runtime ok\nwarn: some health checks cannot be excluded: no matches for [\"etcd\"]\nreadyz check passed\n",
		"/healthz?verbose&exclude=log&exclude=x": "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nwarn: some health checks cannot be excluded: no matches for [\"x\"]\nhealthz check passed\n",
	} {
		if code, body := get(t, p.socket, "http://podd"+path); code != 200 || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	p.runtime.ail(errors.New("no containerd"))
	for path, want := range map[string]int{"/livez": 200, "/readyz": 500, "/readyz/runtime": 500, "/readyz/ping": 200,
		"/readyz?exclude=runtime": 200, "/livez/nothing": 404} {
		if code, body := get(t, p.socket, "http://podd"+path); code != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
}

// TestIdentities: who somebody is does not depend on how he proves it.
func TestIdentities(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	for _, c := range []struct {
		name, user string
		groups     []string
		config     *rest.Config
	}{
		{"socket", "root", []string{"system:masters", "system:authenticated"}, p.unix},
		{"admin by certificate", "podd-admin", []string{"system:masters", "system:authenticated"}, p.config("admin", false)},
		{"admin by token", "podd-admin", []string{"system:masters", "system:authenticated"}, p.config("admin", true)},
		{"reader by certificate", "podd-reader", []string{"podd:readers", "system:authenticated"}, p.config("reader", false)},
		{"reader by token", "podd-reader", []string{"podd:readers", "system:authenticated"}, p.config("reader", true)},
	} {
		client := kubernetes.NewForConfigOrDie(c.config)
		review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := review.Status.UserInfo; got.Username != c.user || !slices.Equal(got.Groups, c.groups) {
			t.Errorf("%s: is %+v", c.name, got)
		}
		_, err = client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "made-"}}, metav1.CreateOptions{})
		if allowed := err == nil; allowed != slices.Contains(c.groups, "system:masters") {
			t.Errorf("%s: make a namespace: %v", c.name, err)
		}
	}
}

// TestScraping: what monitoring tools ask a kubelet for, the reader gets by TLS, an administrator below nodes/proxy as well, and
// it is the same there: of the one pod that there is.
func TestScraping(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	admin := kubernetes.NewForConfigOrDie(p.unix)
	if _, err := admin.CoreV1().Pods("default").Create(t.Context(), pod("scraped"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/metrics": "# TYPE go_goroutines gauge\n", "/metrics/resource": "# TYPE node_cpu_usage_seconds_total counter\n",
		"/metrics/cadvisor": "# TYPE machine_cpu_cores gauge\n", "/metrics/probes": "", "/stats/summary": `"nodeName": ?"host"`,
		"/stats/summary/": `"nodeName": ?"host"`, "/pods": `"name": ?"scraped"`, "/pods/": `"name": ?"scraped"`,
		"/runningpods": `"kind": ?"PodList"`, "/runningpods/": `"kind": ?"PodList"`, "/configz": `"kubeletconfig"`,
	} {
		answers := map[string]*http.Response{}
		for who, ask := range map[string]struct {
			client *http.Client
			url    string
		}{
			"reader by TLS":         {p.client(t, "reader"), p.url + path},
			"admin below the node":  {p.socket, "http://podd/api/v1/nodes/host/proxy" + path},
			"admin below its port":  {p.socket, "http://podd/api/v1/nodes/https:host:10250/proxy" + path},
			"admin by TLS, as well": {p.client(t, "admin"), p.url + "/api/v1/nodes/host/proxy" + path},
		} {
			res, err := ask.client.Get(ask.url)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || !regexp.MustCompile(want).Match(body) {
				t.Errorf("%s, GET %s: %s, %v, has no %s:\n%.600s", who, path, res.Status, err, want, body)
			}
			answers[who] = res
		}
		for who, res := range answers {
			if got, want := res.Header.Get("Content-Type"), answers["reader by TLS"].Header.Get("Content-Type"); got != want || got == "" {
				t.Errorf("%s, GET %s: is %q, by TLS %q", who, path, got, want)
			}
		}
	}
}

// TestReader walks over what the reader asks, and what upstream would say.
func TestReader(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	admin := kubernetes.NewForConfigOrDie(p.unix)
	if _, err := admin.CoreV1().Pods("default").Create(t.Context(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reader := p.client(t, "reader")
	do := func(method, path, body string) (int, metav1.Status) {
		t.Helper()
		req, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := reader.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		var status metav1.Status
		_ = json.Unmarshal(text, &status)
		return res.StatusCode, status
	}
	for _, path := range []string{
		"/api", "/apis", "/api/v1", "/openapi/v2", "/openapi/v3", "/version", "/healthz", "/livez/ping", "/podd/v1/images", "/podd/v1/history?pod=a",
		"/api/v1/pods", "/api/v1/namespaces/default/pods/a", "/api/v1/namespaces/default/pods/a/status",
		"/api/v1/namespaces/default/pods/a/log", "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/events", "/api/v1/configmaps",
		"/api/v1/pods?watch=1&timeoutSeconds=1", "/apis/coordination.k8s.io/v1/leases",
	} {
		if code, status := do(http.MethodGet, path, ""); code != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, code, status.Message)
		}
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/api/v1/secrets", "", `secrets is forbidden: User "podd-reader" cannot list resource "secrets" in API group "" at the cluster scope`},
		{"GET", "/api/v1/namespaces/default/secrets", "", `secrets is forbidden: User "podd-reader" cannot list resource "secrets" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/secrets/s", "", `secrets "s" is forbidden: User "podd-reader" cannot get resource "secrets" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/watch/secrets", "", `secrets is forbidden: User "podd-reader" cannot watch resource "secrets" in API group "" at the cluster scope`},
		{"GET", "/api/v1/namespaces/default/secrets?watch=1", "", `secrets is forbidden: User "podd-reader" cannot watch resource "secrets" in API group "" in the namespace "default"`},
		{"POST", "/api/v1/namespaces/default/pods", "{}", `pods is forbidden: User "podd-reader" cannot create resource "pods" in API group "" in the namespace "default"`},
		{"PUT", "/api/v1/namespaces/default/pods/a", "{}", `pods "a" is forbidden: User "podd-reader" cannot update resource "pods" in API group "" in the namespace "default"`},
		{"PATCH", "/api/v1/namespaces/default/pods/a", "{}", `pods "a" is forbidden: User "podd-reader" cannot patch resource "pods" in API group "" in the namespace "default"`},
		{"DELETE", "/api/v1/namespaces/default/pods/a", "", `pods "a" is forbidden: User "podd-reader" cannot delete resource "pods" in API group "" in the namespace "default"`},
		{"DELETE", "/api/v1/namespaces/default/pods", "", `pods is forbidden: User "podd-reader" cannot deletecollection resource "pods" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/pods/a/exec?command=true&stdout=1", "", `pods "a" is forbidden: User "podd-reader" cannot get resource "pods/exec" in API group "" in the namespace "default"`},
		{"POST", "/api/v1/namespaces/default/pods/a/exec?command=true&stdout=1", "", `pods "a" is forbidden: User "podd-reader" cannot create resource "pods/exec" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/pods/a/attach", "", `pods "a" is forbidden: User "podd-reader" cannot get resource "pods/attach" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/pods/a/portforward", "", `pods "a" is forbidden: User "podd-reader" cannot get resource "pods/portforward" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/namespaces/default/pods/a/proxy/x", "", `pods "a" is forbidden: User "podd-reader" cannot get resource "pods/proxy" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/nodes/host/proxy/metrics", "", `nodes "host" is forbidden: User "podd-reader" cannot get resource "nodes/proxy" in API group "" at the cluster scope`},
		{"POST", "/api/v1/namespaces/default/pods/a/eviction", "{}", `pods "a" is forbidden: User "podd-reader" cannot create resource "pods/eviction" in API group "" in the namespace "default"`},
		{"POST", "/api/v1/namespaces/default/serviceaccounts/default/token", "{}", `serviceaccounts "default" is forbidden: User "podd-reader" cannot create resource "serviceaccounts/token" in API group "" in the namespace "default"`},
		{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "{}", `subjectaccessreviews.authorization.k8s.io is forbidden: User "podd-reader" cannot create resource "subjectaccessreviews" in API group "authorization.k8s.io" at the cluster scope`},
		{"GET", credentials.Path, "", `forbidden: User "podd-reader" cannot get path "/podd/v1/credentials"`},
		{"GET", credentials.Path + "?user=reader", "", `forbidden: User "podd-reader" cannot get path "/podd/v1/credentials"`},
		{"GET", "/debug/podd/goroutines", "", `forbidden: User "podd-reader" cannot get path "/debug/podd/goroutines"`},
		{"POST", "/podd/v1/images/pull?ref=x", "", `forbidden: User "podd-reader" cannot post path "/podd/v1/images/pull"`},
		{"DELETE", "/podd/v1/images?ref=x", "", `forbidden: User "podd-reader" cannot delete path "/podd/v1/images"`},
		{"GET", "/nothing", "", `forbidden: User "podd-reader" cannot get path "/nothing"`},
	} {
		if code, status := do(c.method, c.path, c.body); code != http.StatusForbidden || status.Message != c.want {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, status.Message)
		}
	}
}

// TestReaderByWebSocket: an upgrade is a GET, and is refused all the same.
func TestReaderByWebSocket(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	admin := kubernetes.NewForConfigOrDie(p.unix)
	if _, err := admin.CoreV1().Pods("default").Create(t.Context(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	url := p.url + "/api/v1/namespaces/default/pods/a/exec?command=echo&stdin=true&stdout=true&container=app"
	for user, allowed := range map[string]bool{"admin": true, "reader": false} {
		for _, token := range []bool{false, true} {
			var out bytes.Buffer
			exec, err := remotecommand.NewWebSocketExecutor(p.config(user, token), http.MethodGet, url)
			if err != nil {
				t.Fatal(err)
			}
			err = exec.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
			if allowed && (err != nil || out.String() != "hello") || !allowed && (err == nil || !strings.Contains(err.Error(), "forbidden")) {
				t.Errorf("%s, token %v: %v, output %q", user, token, err, &out)
			}
		}
	}
}

// TestReviews: what the API says that somebody may is what he may.
func TestReviews(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	reader := kubernetes.NewForConfigOrDie(p.config("reader", false))
	may := func(c kubernetes.Interface, verb, resource, sub string) bool {
		t.Helper()
		r, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: "default", Verb: verb, Version: "v1", Resource: resource, Subresource: sub}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Allowed
	}
	admin := kubernetes.NewForConfigOrDie(p.config("admin", false))
	for _, c := range []struct {
		verb, resource, sub string
		reader              bool
	}{
		{"get", "pods", "", true}, {"watch", "pods", "", true}, {"get", "pods", "log", true}, {"create", "pods", "", false},
		{"get", "pods", "exec", false}, {"create", "pods", "exec", false}, {"list", "secrets", "", false}, {"*", "*", "", false},
		{"delete", "nodes", "", false}, {"list", "configmaps", "", true},
	} {
		if got := may(reader, c.verb, c.resource, c.sub); got != c.reader {
			t.Errorf("reader may %s %s/%s: %v", c.verb, c.resource, c.sub, got)
		}
		if !may(admin, c.verb, c.resource, c.sub) {
			t.Errorf("admin may not %s %s/%s", c.verb, c.resource, c.sub)
		}
	}
	rules, err := reader.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || rules.Status.Incomplete {
		t.Fatalf("%v %+v", err, rules)
	}
	listed := map[string]bool{}
	for _, r := range rules.Status.ResourceRules {
		for _, verb := range r.Verbs {
			for _, resource := range r.Resources {
				listed[verb+" "+resource] = true
			}
		}
	}
	for what, want := range map[string]bool{"get pods": true, "watch nodes": true, "get pods/log": true, "get secrets": false, "get pods/exec": false,
		"create selfsubjectreviews": true, "create pods": false, "get *": false, "* *": false} {
		if listed[what] != want {
			t.Errorf("the rules of the reader: %s is %v in %v", what, listed[what], slices.Sorted(maps.Keys(listed)))
		}
	}
}

func TestImpersonation(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	for name, config := range map[string]*rest.Config{"socket": p.unix, "admin": p.config("admin", false), "reader": p.config("reader", true)} {
		for _, as := range []rest.ImpersonationConfig{{UserName: "bob"}, {UserName: "bob", Groups: []string{"system:masters"}}} {
			config := rest.CopyConfig(config)
			config.Impersonate = as
			_, err := kubernetes.NewForConfigOrDie(config).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
			if want := `users "bob" is forbidden: podd does not impersonate: use the credentials of that user`; !apierrors.IsForbidden(err) || err.Error() != want {
				t.Errorf("%s as %+v: %v", name, as, err)
			}
		}
	}
}

func TestCredentials(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	if p.given["admin"].Token == p.given["reader"].Token || bytes.Equal(p.given["admin"].ClientKey, p.given["reader"].ClientKey) {
		t.Error("admin and reader have something in common")
	}
	for _, c := range p.given {
		if !strings.HasPrefix(c.Server, "https://127.0.0.1:") || c.NodeName != "host" || time.Until(c.Expires) < 300*24*time.Hour {
			t.Errorf("%+v", c)
		}
	}
	if code, body := get(t, p.socket, "http://podd"+credentials.Path+"?user=bob"); code != http.StatusBadRequest || !strings.Contains(body, "admin or reader") {
		t.Errorf("credentials of somebody else: %d %s", code, body)
	}
	if code, _ := get(t, p.client(t, "admin"), p.url+credentials.Path+"?user=reader"); code != http.StatusOK {
		t.Errorf("the admin asks for the reader's: %d", code)
	}
	log := p.log.String()
	for _, c := range p.given {
		if strings.Contains(log, c.Token) {
			t.Error("there is a token in the log")
		}
	}
}

// TestOtherAddresses: where other hosts can reach the port, nobody gets past the handshake without a certificate.
func TestOtherAddresses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0"} {
		p := openPort(t, address)
		if !strings.HasPrefix(p.url, "https://127.0.0.1:") {
			t.Errorf("%s: clients are told %s", address, p.url)
		}
		for _, path := range []string{"/livez", "/version", "/api/v1/pods"} {
			req, err := http.NewRequest(http.MethodGet, p.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+p.given["admin"].Token)
			if res, err := p.client(t, "").Do(req); err == nil {
				t.Errorf("%s%s: %s without a certificate", address, path, res.Status)
				_ = res.Body.Close()
			}
			if code, body := get(t, p.client(t, "reader"), p.url+path); code != http.StatusOK {
				t.Errorf("%s%s: %d %s", address, path, code, body)
			}
		}
	}
}

func TestNoTLS(t *testing.T) {
	e := serve(t)
	code, body := get(t, e.http, "http://podd"+credentials.Path)
	if code != http.StatusBadRequest || !strings.Contains(body, "--tls-listen") {
		t.Errorf("%d %s", code, body)
	}
}

// TestPortIsTaken: a second podd says what is in its way, and takes nothing from the first.
func TestPortIsTaken(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	dir := t.TempDir()
	s, err := store.Open(store.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	address := strings.TrimPrefix(p.url, "https://")
	server, err := api.New(api.Config{Store: s, Runtime: &pods{}, NodeName: "host", SocketPath: filepath.Join(dir, "podd.sock"),
		TLSListen: address, PKIDir: filepath.Join(dir, "pki")})
	if err != nil {
		t.Fatal(err)
	}
	err = server.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "--tls-listen") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v", err)
	}
	if code, _ := get(t, p.client(t, "admin"), p.url+"/readyz"); code != http.StatusOK {
		t.Errorf("the first podd: %d", code)
	}
}

// TestTransport: HTTP/2 for those who can, nothing below TLS 1.2, and no word in the clear.
func TestTransport(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	res, err := p.client(t, "admin").Get(p.url + "/version")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 || res.TLS.Version != tls.VersionTLS13 {
		t.Errorf("%s over TLS %x", res.Proto, res.TLS.Version)
	}
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("CORS for %s", got)
	}
	address := strings.TrimPrefix(p.url, "https://")
	old := p.tls(t, "admin")
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if conn, err := tls.Dial("tcp", address, old); err == nil {
		t.Errorf("TLS %x", conn.ConnectionState().Version)
		_ = conn.Close()
	}
	res, err = http.Get("http://" + address + "/version")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("in the clear: %s", res.Status)
	}
}
