package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// maxHeader bounds the headers of an answer.
const maxHeader = 1 << 20

// newTransport makes each request on a connection of its own, through no proxy, and believes every certificate.
func newTransport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, // as the kubelet: the probe is no secret, and there is no name
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// ownerKey is the key of a context for itself. The transport takes a context's values to what goes on in the background
// after a request was given up, such as a handshake, but not its end.
type ownerKey struct{}

// owned is a context with whose end every connection ends that requests with it have opened.
func owned(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	return context.WithValue(ctx, ownerKey{}, ctx), cancel
}

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
	ctx, cancel := owned(ctx)
	defer cancel()
	req, err := request(ctx, a, t, "probe")
	if err != nil {
		return probe.Unknown, "", err
	}
	return httpprobe.DoHTTPProbe(req, p.client(limit))
}

// client follows redirects on the same host only. No limit is none but that of the request's context.
func (p *Prober) client(limit time.Duration) *http.Client {
	return &http.Client{Transport: p.transport, Timeout: limit, CheckRedirect: httpprobe.RedirectChecker(false)}
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
	return req.WithContext(ctx), nil
}
