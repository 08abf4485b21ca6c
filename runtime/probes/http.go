package probes

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// maxHeader bounds the headers of an answer.
const maxHeader = 1 << 20

// transport makes each request on a connection of its own, through no proxy, and believes every certificate. What is not
// encrypted it does in the goroutine that asks: net/http's own transport has four for each request, and handing over
// between them is most of what such a probe costs.
type transport struct {
	secure *http.Transport
	plain  lookout
}

func newTransport() *transport {
	return &transport{secure: &http.Transport{
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, // as the kubelet: the probe is no secret, and there is no name
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeader,
	}}
}

// RoundTrip ends with the context of the request, and so does the reading of the answer.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" || !sendable(req.Header) {
		resp, err := t.secure.RoundTrip(req)
		if err == nil {
			resp.Body = &body{ReadCloser: resp.Body, ctx: req.Context(), release: func() {}, done: func() {}}
		}
		return resp, err
	}
	ctx := req.Context()
	conn, err := t.plain.connect(ctx, req.URL.Hostname(), cmp.Or(req.URL.Port(), "80"))
	if err != nil {
		return nil, err
	}
	from := readers.Get().(*bufio.Reader)
	resp, err := exchange(conn, from, req)
	if err != nil {
		_ = conn.Close()
		from.Reset(nil)
		readers.Put(from)
		return nil, err
	}
	done := sync.OnceFunc(func() {
		from.Reset(nil)
		readers.Put(from)
	})
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, release: func() { _ = conn.Close() }, done: done}
	return resp, nil
}

// sendable is false for what the transport of net/http refuses to send, and for some more that it may decide about.
func sendable(h http.Header) bool {
	odd := func(r rune) bool { return r < ' ' || r >= 0x7f }
	for name, values := range h {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return odd(r) || strings.ContainsRune(" \"(),/:;<=>?@[\\]{}", r) }) ||
			slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, odd) }) {
			return false
		}
	}
	return true
}

// readers and writers are what goes over connections in clear text: of a probe they would be most of what is allocated.
var (
	readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriter(nil) }}
)

// exchange asks on conn and reads the answer up to its body, through from.
func exchange(conn io.ReadWriter, from *bufio.Reader, req *http.Request) (*http.Response, error) {
	only := *req
	only.Close = true
	to := writers.Get().(*bufio.Writer)
	to.Reset(conn)
	err := only.Write(to)
	if err == nil {
		err = to.Flush()
	}
	to.Reset(nil)
	writers.Put(to)
	if err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	from.Reset(limited)
	if _, err := from.Peek(1); err != nil {
		return nil, err
	}
	for {
		resp, err := http.ReadResponse(from, req)
		switch {
		case err != nil:
			if limited.N <= 0 {
				err = fmt.Errorf("net/http: server response headers exceeded %d bytes; aborted", maxHeader)
			}
			return nil, fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", err)
		case resp.StatusCode < 100 || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols: // others only announce the answer
			limited.N = math.MaxInt64
			return resp, nil
		}
	}
}

// body is that of an answer. Its errors say when the time was over, in the words of net/http's client.
type body struct {
	io.ReadCloser
	ctx     context.Context
	release func() // ends the connection
	done    func() // called when nothing is read any more
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = fmt.Errorf("%w (Client.Timeout or context cancellation while reading body)", b.ctx.Err())
	}
	return n, err
}

// Close does not read what is left.
func (b *body) Close() error {
	b.release()
	defer b.done()
	return b.ReadCloser.Close()
}

// ownerKey is the key of a context for itself. The transport of net/http takes a context's values to what goes on in the
// background after a request was given up, such as a handshake, but not its end.
type ownerKey struct{}

// owned is a context with whose end every connection ends that requests with it have opened.
func owned(ctx context.Context) context.Context { return context.WithValue(ctx, ownerKey{}, ctx) }

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	owner, ok := ctx.Value(ownerKey{}).(context.Context)
	if !ok {
		return nil, errors.New("request without an owner")
	}
	conn, err := probe.ProbeDialer().DialContext(owner, network, address)
	if err == nil {
		context.AfterFunc(owner, func() { _ = conn.Close() })
	}
	return conn, err
}

func (p *Prober) httpGet(ctx context.Context, a *v1.HTTPGetAction, t Target, limit time.Duration) (probe.Result, string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := request(ctx, a, t, "probe")
	if err != nil {
		return probe.Unknown, "", err
	}
	return httpprobe.DoHTTPProbe(req, p.client)
}

// client follows redirects on the same host only, and waits as long as the context of the request.
type client struct{ http.Client }

func newClient() *client {
	return &client{http.Client{Transport: newTransport(), CheckRedirect: httpprobe.RedirectChecker(false)}}
}

// Do says of a request whose time was over so, in the words of net/http's client, whatever came of its connection.
func (c *client) Do(req *http.Request) (*http.Response, error) {
	resp, err := c.Client.Do(req)
	var failed *url.Error
	if ended := req.Context().Err(); ended != nil && errors.As(err, &failed) {
		failed.Err = fmt.Errorf("%w (Client.Timeout exceeded while awaiting headers)", ended)
	}
	return resp, err
}

// request is what a action asks for.
func request(ctx context.Context, a *v1.HTTPGetAction, t Target, purpose string) (*http.Request, error) {
	host, err := t.host(a.Host)
	if err != nil {
		return nil, err
	}
	named := *a
	isAgent := func(h v1.HTTPHeader) bool { return textproto.CanonicalMIMEHeaderKey(h.Name) == "User-Agent" }
	if !slices.ContainsFunc(a.HTTPHeaders, isAgent) {
		named.HTTPHeaders = append(slices.Clip(a.HTTPHeaders), v1.HTTPHeader{Name: "User-Agent", Value: agent(purpose)})
	}
	req, err := httpprobe.NewRequestForHTTPGetAction(&named, t.Container, host, purpose)
	if err != nil {
		return nil, err
	}
	return req.WithContext(owned(ctx)), nil
}
