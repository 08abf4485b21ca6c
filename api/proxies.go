package api

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/core"
)

// proxies is the subresources that pass a client's connection or request on: to a port of a pod, or to the kubelet's
// paths of this node.
func (s *Server) proxies() map[schema.GroupVersion]map[string]rest.Storage {
	return map[schema.GroupVersion]map[string]rest.Storage{{Version: "v1"}: {
		"pods/portforward": &portForwardREST{server: s},
		"pods/proxy":       &podProxyREST{server: s},
		"nodes/proxy":      &nodeProxyREST{server: s},
	}}
}

var proxyMethods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead,
	http.MethodOptions}

// podProxyREST is pods/proxy: HTTP requests, and what they upgrade to, to the pod's own address.
type podProxyREST struct{ server *Server }

var (
	_ rest.Connecter = (*podProxyREST)(nil)
	_ rest.Connecter = (*nodeProxyREST)(nil)
)

func (r *podProxyREST) New() runtime.Object      { return &core.PodProxyOptions{} }
func (r *podProxyREST) Destroy()                 {}
func (r *podProxyREST) ConnectMethods() []string { return proxyMethods }

func (r *podProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodProxyOptions{}, true, "path"
}

func (r *podProxyREST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	opts, ok := options.(*core.PodProxyOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("invalid options object: %T", options))
	}
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	pod, err := r.server.podOf(ctx, name)
	if err != nil {
		return nil, err
	}
	ip, err := r.server.addressOf(pod)
	if err != nil {
		return nil, err
	}
	if port, err = proxyPort(pod, port); err != nil {
		return nil, err
	}
	to := &url.URL{Scheme: scheme, Host: hostPort(ip, port), Path: utilnet.JoinPreservingTrailingSlash("", opts.Path)}
	handler := proxy.NewUpgradeAwareHandler(to, podTransport, true, false, proxy.NewErrorResponder(responder))
	return withoutCredentials(handler), nil
}

// addressOf is where a pod's proxy leads: the address that podd gave to the pod, since whoever may write the pod's status
// could put another one there. It is never one that means something else on the host, such as 127.0.0.1 or that of a cloud's
// metadata service.
func (s *Server) addressOf(pod *v1.Pod) (net.IP, error) {
	if pod.Spec.NodeName != s.NodeName {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	ips := s.NodeIPs
	if !pod.Spec.HostNetwork {
		var err error
		if ips, err = s.Runtime.Addresses(pod); err != nil {
			return nil, apierrors.NewServiceUnavailable(err.Error())
		}
	}
	if len(ips) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address", pod.Name))
	}
	ip := net.ParseIP(ips[0])
	if ip == nil || !ip.IsGlobalUnicast() {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	return ip, nil
}

// proxyPort is a port's number, or the number of the port of that name; without either, that of the pod's first port. It is
// empty when there is none: then the scheme decides.
func proxyPort(pod *v1.Pod, port string) (string, error) {
	var ports []v1.ContainerPort
	for _, c := range pod.Spec.Containers {
		ports = append(ports, c.Ports...)
	}
	if port == "" {
		if len(ports) == 0 {
			return "", nil
		}
		return strconv.Itoa(int(ports[0].ContainerPort)), nil
	}
	if nr, err := strconv.ParseUint(port, 10, 16); err == nil && nr > 0 {
		return strconv.FormatUint(nr, 10), nil
	}
	for _, c := range pod.Spec.InitContainers { // of a sidecar
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			ports = append(ports, c.Ports...)
		}
	}
	i := slices.IndexFunc(ports, func(p v1.ContainerPort) bool { return p.Name == port })
	if i < 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s has no port %q", pod.Name, port))
	}
	return strconv.Itoa(int(ports[i].ContainerPort)), nil
}

func hostPort(ip net.IP, port string) string {
	switch {
	case port != "":
		return net.JoinHostPort(ip.String(), port)
	case ip.To4() == nil:
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// podTransport keeps no connection after the request it was made for: the next pod may get the address. What a pod shows as
// its certificate is not looked at, as upstream; who else could be at its address?
var podTransport http.RoundTripper = &pageLimit{&http.Transport{
	DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
	TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
	TLSHandshakeTimeout:    dialTimeout,
	MaxResponseHeaderBytes: 1 << 20,
	DisableKeepAlives:      true,
	DisableCompression:     true, // bodies pass as they are
}}

// maxPage is the largest HTML page that is served through a proxy: its links are made to lead through the proxy too, for
// which it is held in memory.
const maxPage = 8 << 20

type pageLimit struct{ *http.Transport }

func (t *pageLimit) WrappedRoundTripper() http.RoundTripper { return t.Transport }

func (t *pageLimit) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &broken{resp.Body}
	}
	if err == nil && strings.HasPrefix(strings.TrimSpace(resp.Header.Get("Content-Type")), "text/html") {
		resp.Body = &page{ReadCloser: unpacked(resp), left: maxPage}
	}
	return resp, err
}

// broken is a body that breaks off without a word: upstream's proxy writes about any other error than this one to podd's
// standard error, and it is the pod that causes it. The client sees that the answer was cut off.
type broken struct{ io.ReadCloser }

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // as readers return it
		err = context.Canceled
	}
	return n, err
}

// unpacked is the body of a page, no longer compressed: it is what comes out that is held in memory.
func unpacked(resp *http.Response) io.ReadCloser {
	body := &unpacker{ReadCloser: resp.Body}
	switch resp.Header.Get("Content-Encoding") {
	case "gzip":
		body.open = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case "deflate":
		body.open = func(r io.Reader) (io.Reader, error) { return flate.NewReader(r), nil }
	default:
		return resp.Body
	}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	resp.ContentLength, resp.Uncompressed = -1, true
	return body
}

// unpacker begins with the first Read, since an answer to HEAD has no body.
type unpacker struct {
	io.ReadCloser
	open func(io.Reader) (io.Reader, error)
	from io.Reader
}

func (u *unpacker) Read(p []byte) (n int, err error) {
	if u.from == nil {
		if u.from, err = u.open(u.ReadCloser); err != nil {
			u.from = nil
			return 0, err
		}
	}
	return u.from.Read(p)
}

// page is a body that fails when it is too long.
type page struct {
	io.ReadCloser
	left int
}

func (p *page) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if p.left -= n; p.left < 0 {
		return 0, apierrors.NewServiceUnavailable("the page is larger than 8 MiB, which is the most that is served through a proxy")
	}
	return n, err
}

// bearerProtocol begins the name under which browsers, which can set no header for a WebSocket, hide a token.
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// withoutCredentials keeps what the client has shown to podd from the pod.
func withoutCredentials(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("Authorization")
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
				r.Header.Del(name)
			}
		}
		if protocols := r.Header.Values("Sec-Websocket-Protocol"); len(protocols) > 0 {
			var kept []string
			for p := range strings.SplitSeq(strings.Join(protocols, ","), ",") {
				if p = strings.TrimSpace(p); p != "" && !strings.HasPrefix(p, bearerProtocol) {
					kept = append(kept, p)
				}
			}
			r.Header.Del("Sec-Websocket-Protocol")
			if len(kept) > 0 {
				r.Header.Set("Sec-Websocket-Protocol", strings.Join(kept, ", "))
			}
		}
		handler.ServeHTTP(w, r)
	})
}

// nodeProxyREST is nodes/proxy: the kubelet's paths of this node, served by this process. There is no other port that it
// would lead to, and what has an endpoint of its own in the API, such as exec and logs, is not offered a second time.
type nodeProxyREST struct{ server *Server }

func (r *nodeProxyREST) New() runtime.Object      { return &core.NodeProxyOptions{} }
func (r *nodeProxyREST) Destroy()                 {}
func (r *nodeProxyREST) ConnectMethods() []string { return proxyMethods }

func (r *nodeProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.NodeProxyOptions{}, true, "path"
}

// kubeletPort is the port that clients expect of a kubelet; they may name it.
const kubeletPort = "10250"

func (r *nodeProxyREST) Connect(_ context.Context, id string, options runtime.Object, _ rest.Responder) (http.Handler, error) {
	opts, ok := options.(*core.NodeProxyOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("invalid options object: %T", options))
	}
	_, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
	}
	if name != r.server.NodeName {
		return nil, apierrors.NewNotFound(v1.Resource("nodes"), name)
	}
	if port != "" && port != kubeletPort {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("node %s: only the kubelet's port %s is served, not %s", name, kubeletPort, port))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", r.server.serveHealth)
	r.server.kubeletPaths(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to := req.Clone(req.Context())
		to.URL.Path, to.URL.RawPath = path.Clean("/"+opts.Path), ""
		to.RequestURI = to.URL.RequestURI()
		handler, pattern := mux.Handler(to)
		if pattern == "" {
			respondError(w, req, apierrors.NewGenericServerResponse(http.StatusNotFound, req.Method, v1.Resource("nodes"), name,
				fmt.Sprintf("there is nothing at %s of this node: logs, exec, attach and port-forward are subresources of pods",
					to.URL.Path), 0, true))
			return
		}
		handler.ServeHTTP(w, to)
	}), nil
}
