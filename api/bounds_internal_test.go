package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"podd/api/credentials"
	"podd/api/pki"
)

// from is a request as the filters before the bounds leave it; guests have come in by TLS.
func from(t *testing.T, who userinfo.Info, tls bool, method, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	info, err := requestInfo.NewRequestInfo(r)
	if err != nil {
		t.Fatal(err)
	}
	ctx := request.WithUser(request.WithRequestInfo(r.Context(), info), who)
	if tls {
		ctx = context.WithValue(ctx, guestKey{}, &guest{})
	}
	return r.WithContext(ctx)
}

// TestClasses is what each request counts for.
func TestClasses(t *testing.T) {
	b := newClients().socket
	for what, want := range map[string]*bound{
		"GET /livez": &b.checks, "GET /readyz/runtime": &b.checks, "GET /metrics": &b.checks, "GET /metrics/cadvisor": &b.checks,
		"GET /stats/summary": &b.checks, "GET /version": &b.checks,
		"GET /api": &b.reads, "GET /openapi/v3": &b.reads, "GET /api/v1/pods": &b.reads, "GET /api/v1/namespaces/a/pods/b": &b.reads,
		"GET /podd/v1/images": &b.reads, "GET /podd/v1/credentials": &b.reads, "HEAD /api/v1/pods": &b.reads,
		"POST /api/v1/namespaces/a/pods": &b.writes, "PATCH /api/v1/namespaces/a/pods/b": &b.writes, "DELETE /api/v1/namespaces/a/pods": &b.writes,
		"POST /api/v1/namespaces/a/pods/b/eviction": &b.writes, "DELETE /podd/v1/images?ref=x": &b.writes,
		"GET /api/v1/pods?watch=true": &b.watches, "GET /api/v1/watch/pods": &b.watches, "GET /api/v1/namespaces/a/pods/b/log": &b.watches,
		"GET /api/v1/namespaces/a/pods/b/exec?command=x": &b.sessions, "POST /api/v1/namespaces/a/pods/b/exec?command=x": &b.sessions,
		"POST /api/v1/namespaces/a/pods/b/attach": &b.sessions, "POST /api/v1/namespaces/a/pods/b/portforward": &b.sessions,
		"GET /api/v1/namespaces/a/pods/b/proxy/x": &b.sessions, "GET /api/v1/nodes/a/proxy/metrics": &b.sessions,
		"POST /podd/v1/images/pull?ref=x": &b.transfers, "POST /podd/v1/images/load": &b.transfers,
	} {
		method, path, _ := strings.Cut(what, " ")
		r := from(t, root, false, method, path)
		info, _ := request.RequestInfoFrom(r.Context())
		if got := b.class(r, info); got != want {
			t.Errorf("%s counts for %s, not %s", what, got.name, want.name)
		}
	}
}

// TestBounds fills up each class of each client and looks at what is left to the others.
func TestBounds(t *testing.T) {
	admin, reader := users[credentials.Admin], users[credentials.Reader]
	kinds := []struct {
		name string
		who  userinfo.Info
		tls  bool
	}{{"socket", root, false}, {"admin", admin, true}, {"reader", reader, true}}
	classes := map[string]string{
		"checks of health and metrics": "GET /metrics", "read requests": "GET /api/v1/pods", "write requests": "POST /api/v1/namespaces/a/pods",
		"watches and followed logs": "GET /api/v1/pods?watch=1", "image transfers": "POST /podd/v1/images/load",
		"sessions of exec, attach, port-forward and proxy": "POST /api/v1/namespaces/a/pods/b/exec",
	}
	for class, what := range classes {
		for _, full := range kinds {
			t.Run(full.name+" "+class, func(t *testing.T) {
				c := newClients()
				inside, release := make(chan struct{}), make(chan struct{})
				handler := c.withBounds(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Stay") != "" {
						inside <- struct{}{}
						<-release
					}
				}))
				method, path, _ := strings.Cut(what, " ")
				first := from(t, full.who, full.tls, method, path)
				info, _ := request.RequestInfoFrom(first.Context())
				limit := c.of(first).class(first, info).limit
				var wg sync.WaitGroup
				for range limit {
					r := from(t, full.who, full.tls, method, path)
					r.Header.Set("Stay", "1")
					wg.Go(func() { handler.ServeHTTP(httptest.NewRecorder(), r) })
					<-inside
				}
				refused := httptest.NewRecorder()
				handler.ServeHTTP(refused, from(t, full.who, full.tls, method, path))
				var status metav1.Status
				if err := json.Unmarshal(refused.Body.Bytes(), &status); err != nil {
					t.Fatalf("%v in %s", err, refused.Body)
				}
				want := fmt.Sprintf("podd has %d %s under way already, try again later", limit, class)
				if refused.Code != http.StatusTooManyRequests || refused.Header().Get("Retry-After") != "1" || !strings.Contains(status.Message, want) {
					t.Errorf("one too many: %d %v %s", refused.Code, refused.Header(), status.Message)
				}
				for other, what := range classes {
					for _, kind := range kinds {
						if kind == full && other == class || kind.who == reader && other == "sessions of exec, attach, port-forward and proxy" {
							continue
						}
						method, path, _ := strings.Cut(what, " ")
						w := httptest.NewRecorder()
						if handler.ServeHTTP(w, from(t, kind.who, kind.tls, method, path)); w.Code != http.StatusOK {
							t.Errorf("meanwhile %s of %s: %d %s", other, kind.name, w.Code, w.Body)
						}
					}
				}
				close(release)
				wg.Wait()
				w := httptest.NewRecorder()
				if limit > 0 {
					if handler.ServeHTTP(w, from(t, full.who, full.tls, method, path)); w.Code != http.StatusOK {
						t.Errorf("afterwards: %d %s", w.Code, w.Body)
					}
				}
			})
		}
	}
}

// TestOrphans: of the commands that go on without their client the oldest is ended when there are too many, and none whose
// client is there or that is over.
func TestOrphans(t *testing.T) {
	var o orphans
	const more = 3
	type command struct {
		ctx  context.Context
		over func()
	}
	var commands []command
	start := func(leaves bool) command {
		client, leave := context.WithCancel(t.Context())
		ctx, end := context.WithCancel(t.Context())
		t.Cleanup(end)
		t.Cleanup(leave)
		c := command{ctx, o.watch(client, end)}
		if leaves {
			before := o.all.Len()
			leave()
			poll := time.NewTicker(time.Millisecond)
			defer poll.Stop()
			for n := before; n == before && n < maxOrphans; <-poll.C { // another goroutine is told
				o.mu.Lock()
				n = o.all.Len()
				o.mu.Unlock()
			}
		}
		return c
	}
	attended := start(false)
	for range maxOrphans {
		commands = append(commands, start(true))
	}
	for i, c := range commands {
		if c.ctx.Err() != nil {
			t.Fatalf("command %d of %d has ended", i, maxOrphans)
		}
	}
	for i := range more {
		start(true)
		<-commands[i].ctx.Done()
		commands[i].over()
	}
	for _, c := range append(commands[more:], attended) {
		if c.ctx.Err() != nil {
			t.Error("another command was ended")
		}
		c.over()
	}
	if n := o.all.Len(); n != more {
		t.Errorf("%d orphans are left", n)
	}
}

// TestExpiry: a client certificate that has ended since the handshake identifies nobody, and what was begun with one that is
// still good goes on no longer than that.
func TestExpiry(t *testing.T) {
	s := &Server{pki: &pki.PKI{}}
	for _, left := range []time.Duration{-time.Second, time.Hour} {
		ends := time.Now().Add(left)
		r := httptest.NewRequest(http.MethodGet, "/api/v1/pods?watch=1", nil)
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{NotAfter: ends, Subject: pkix.Name{CommonName: "podd-admin"}}}}}
		answered := httptest.NewRecorder()
		var until time.Time
		s.withUser(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			until, _ = r.Context().Deadline()
		})).ServeHTTP(answered, r)
		if left < 0 && (answered.Code != http.StatusUnauthorized || !until.IsZero()) {
			t.Errorf("expired: %d", answered.Code)
		}
		if left > 0 && (answered.Code != http.StatusOK || !until.Equal(ends)) {
			t.Errorf("good: %d, until %s, want %s", answered.Code, until, ends)
		}
	}
}

// TestPanicGivesThePlaceBack: a handler that panics does not take its place with it.
func TestPanicGivesThePlaceBack(t *testing.T) {
	c := newClients()
	handler := c.withBounds(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") }))
	for range 3 {
		func() {
			defer func() { _ = recover() }()
			handler.ServeHTTP(httptest.NewRecorder(), from(t, root, false, "GET", "/api/v1/pods"))
		}()
	}
	if n := c.socket.reads.now.Load(); n != 0 {
		t.Errorf("%d reads are under way", n)
	}
}

// TestPlacesForAdministrators: readers cannot take all places of the known connections.
func TestPlacesForAdministrators(t *testing.T) {
	arrive := arrivals()
	n := 0
	for arrive().welcome(seatOf(users[credentials.Reader])) {
		n++
	}
	if n != maxReaders {
		t.Errorf("there are %d readers", n)
	}
	if !arrive().welcome(seatOf(users[credentials.Admin])) {
		t.Error("there is no place for an administrator")
	}
}

// arrivals is connections of strangers that come to a port.
func arrivals() func() *guest {
	g := newGate(nil, 0)
	return func() *guest {
		c := &guest{Conn: nowhere{}, gate: g, timer: time.NewTimer(time.Hour)}
		c.place = g.strangers.PushBack(c)
		return c
	}
}

type nowhere struct{ net.Conn }

func (nowhere) Close() error { return nil }

// TestPlacesOfOnePod: a pod can keep neither another pod of its account nor anybody else out, whatever the account may do.
func TestPlacesOfOnePod(t *testing.T) {
	of := func(pod string) seat {
		info := serviceaccount.ServiceAccountInfo{Namespace: "ns", Name: "default", PodName: pod, PodUID: pod}
		who := info.UserInfo()
		return seatOf(&userinfo.DefaultInfo{Name: who.GetName(), Groups: append(who.GetGroups(), userinfo.SystemPrivilegedGroup), Extra: who.GetExtra()})
	}
	arrive := arrivals()
	var first *guest
	n := 0
	for c := arrive(); c.welcome(of("one")); c = arrive() {
		if first == nil {
			first = c
		}
		n++
	}
	if n != maxOfAccount || !first.welcome(of("one")) {
		t.Errorf("one pod has %d connections, and the first is no guest any more", n)
	}
	if !arrive().welcome(of("other")) || !arrive().welcome(of("")) || !arrive().welcome(seatOf(users[credentials.Reader])) {
		t.Error("there is no place for others")
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}
	if !arrive().welcome(of("one")) || arrive().welcome(of("one")) {
		t.Error("one has gone: there is not one place")
	}
}
