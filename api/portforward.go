package api

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	tunnel "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	maxForwarded = 1000             // connections at a time over one port-forward
	dialTimeout  = 10 * time.Second // to a port of a pod
)

// portForwardREST is pods/portforward: connections go straight to ports of the pod's localhost.
type portForwardREST struct {
	upgraded
	server *Server
}

var (
	_ rest.Connecter       = (*portForwardREST)(nil)
	_ rest.StorageMetadata = (*portForwardREST)(nil)
)

func (r *portForwardREST) New() runtime.Object { return &core.PodPortForwardOptions{} }

func (r *portForwardREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodPortForwardOptions{}, false, ""
}

func (r *portForwardREST) Connect(ctx context.Context, name string, options runtime.Object, _ rest.Responder) (http.Handler, error) {
	opts, ok := options.(*core.PodPortForwardOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("invalid options object: %T", options))
	}
	pod, err := r.server.podOf(ctx, name)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != r.server.NodeName {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	f := &forward{runtime: r.server.Runtime, pod: pod}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var looking sync.WaitGroup
		defer looking.Wait()
		ctx, cancel := context.WithCancel(req.Context())
		defer cancel()
		t := &takeover{ResponseWriter: w, ctx: ctx, cancel: cancel, taken: func(c *takenConn) {
			if socket := socketOf(c); socket != nil {
				looking.Go(func() { look(ctx, socket, cancel) })
			}
		}}
		defer t.close()
		switch {
		case wsstream.IsWebSocketRequestWithTunnelingProtocol(req):
			f.serveTunnel(ctx, t, req)
		case wsstream.IsWebSocketRequest(req):
			f.serveChannels(ctx, t, req, opts.Ports)
		default:
			f.serveSPDY(ctx, t, req)
		}
	}), nil
}

// forward is one port-forward: any number of connections to one pod.
type forward struct {
	runtime Runtime
	pod     *v1.Pod
}

// serveSPDY speaks SPDY/3.1 on the connection itself, as kubectl did up to 1.30.
func (f *forward) serveSPDY(ctx context.Context, t *takeover, req *http.Request) {
	if _, err := httpstream.Handshake(req, t, portforward.SupportedProtocols); err != nil {
		return // the library has answered
	}
	f.serve(ctx, t, func(accept httpstream.NewStreamHandler) httpstream.Connection {
		return spdy.NewResponseUpgrader().UpgradeResponse(t, req, accept)
	})
}

// serveTunnel speaks the same SPDY in the messages of a WebSocket, as kubectl does now.
func (f *forward) serveTunnel(ctx context.Context, t *takeover, req *http.Request) {
	upgrader := gwebsocket.Upgrader{Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}}
	ws, err := upgrader.Upgrade(t, req, nil)
	if err != nil {
		return // the library has answered
	}
	if ws.Subprotocol() == "" {
		reason := gwebsocket.FormatCloseMessage(gwebsocket.CloseProtocolError, "no protocol that is known here")
		_ = ws.WriteControl(gwebsocket.CloseMessage, reason, time.Now().Add(time.Second))
		return
	}
	f.serve(ctx, t, func(accept httpstream.NewStreamHandler) httpstream.Connection {
		conn, err := spdy.NewServerConnection(tunnel.NewTunnelingConnection("podd", ws), accept)
		if err != nil {
			return nil
		}
		return conn
	})
}

// arrived is a stream that the client has made.
type arrived struct {
	httpstream.Stream
	registered <-chan struct{} // closed when the library knows the stream
}

// accepted are the streams of one port-forward that are not over. The library resets at the end those that it knows by then, and
// one that it comes to know a moment later never: what the client has sent on that would be waited for for ever.
type accepted struct {
	mu   sync.Mutex
	all  map[httpstream.Stream]bool
	over bool
}

// add is false when the port-forward is over.
func (a *accepted) add(s httpstream.Stream) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return false
	}
	a.all[s] = true
	return true
}

func (a *accepted) drop(streams ...httpstream.Stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range streams {
		delete(a.all, s)
	}
}

// end resets what is left, and lets nothing in any more.
func (a *accepted) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.all {
		_ = s.Reset()
	}
	a.all, a.over = nil, true
}

// pair is the two streams of one connection.
type pair struct {
	data, errors *arrived
	old          bool // it has been incomplete for a while
}

// serve pairs the streams that the client makes, and connects each pair, until the client goes or ctx ends.
func (f *forward) serve(ctx context.Context, t *takeover, open func(httpstream.NewStreamHandler) httpstream.Connection) {
	var connections sync.WaitGroup
	defer connections.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	streams, held := make(chan *arrived), &accepted{all: map[httpstream.Stream]bool{}}
	conn := open(func(s httpstream.Stream, registered <-chan struct{}) error {
		if err := acceptStream(s); err != nil {
			return err
		}
		if !held.add(s) {
			return errors.New("the port-forward is over")
		}
		select {
		case streams <- &arrived{s, registered}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if conn == nil {
		return
	}
	defer func() { t.close(); _ = conn.Close(); held.end() }()
	conn.SetIdleTimeout(streamIdle)
	pairs, slots := map[string]*pair{}, make(chan struct{}, maxForwarded)
	giveUp := func(s *arrived) { // also what the library keeps of it, for which it has to know it first
		_ = s.Reset()
		select {
		case <-s.registered:
			conn.RemoveStreams(s.Stream)
		case <-conn.CloseChan():
		case <-ctx.Done():
		}
		held.drop(s.Stream)
	}
	tick := time.NewTicker(streamCreation)
	defer tick.Stop()
	for {
		select {
		case <-conn.CloseChan():
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, s := range dropOld(pairs) {
				giveUp(s)
			}
		case s := <-streams:
			p, err := addStream(pairs, s)
			if err != nil {
				giveUp(s)
			}
			if p == nil {
				continue
			}
			connections.Go(func() {
				f.connect(ctx, p, slots)
				conn.RemoveStreams(p.data.Stream, p.errors.Stream)
				held.drop(p.data.Stream, p.errors.Stream)
			})
		}
	}
}

// acceptStream checks a stream's headers and answers it.
func acceptStream(s httpstream.Stream) error {
	if _, err := portOf(s.Headers()); err != nil {
		return err
	}
	switch kind := s.Headers().Get(portforward.StreamType); kind {
	case portforward.StreamTypeData, portforward.StreamTypeError:
	default:
		return fmt.Errorf("stream type %q: is not known", kind)
	}
	return answer(s)
}

func portOf(h http.Header) (int, error) {
	port, err := strconv.ParseUint(h.Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q: is not a port", h.Get(portforward.PortHeader))
	}
	return int(port), nil
}

// requestOf says which connection a stream belongs to. Old clients do not: of theirs, the data stream is the one made next
// after the error stream.
func requestOf(h http.Header, stream uint32) string {
	if id := h.Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	if h.Get(portforward.StreamType) == portforward.StreamTypeData {
		stream -= 2
	}
	return "#" + strconv.FormatUint(uint64(stream), 10)
}

// addStream returns the pair that s completes.
func addStream(pairs map[string]*pair, s *arrived) (*pair, error) {
	id := requestOf(s.Headers(), s.Identifier())
	p := pairs[id]
	if p == nil {
		if len(pairs) >= maxForwarded {
			return nil, errors.New("too many streams without their other half")
		}
		p = &pair{}
		pairs[id] = p
	}
	half := &p.errors
	if s.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		half = &p.data
	}
	if *half != nil {
		return nil, fmt.Errorf("request %s: has that stream already", id)
	}
	*half = s
	if p.data == nil || p.errors == nil {
		return nil, nil
	}
	delete(pairs, id)
	return p, nil
}

// dropOld takes out the streams of the pairs that were incomplete the last time already.
func dropOld(pairs map[string]*pair) (old []*arrived) {
	for id, p := range pairs {
		if !p.old {
			p.old = true
			continue
		}
		for _, s := range []*arrived{p.data, p.errors} {
			if s != nil {
				old = append(old, s)
			}
		}
		delete(pairs, id)
	}
	return old
}

// connect serves one connection to its end. What the client is told ends its whole port-forward in kubectl, so it is told
// only that there is no connection to be had, not how one ended.
func (f *forward) connect(ctx context.Context, p *pair, slots chan struct{}) {
	defer f.closeErrors(p.errors)()
	for _, s := range []*arrived{p.data, p.errors} {
		select {
		case <-s.registered:
		case <-ctx.Done():
			_ = p.data.Reset()
			return
		}
	}
	port, err := portOf(p.data.Headers())
	if err == nil {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			err = f.relay(ctx, port, p.data.Stream)
		default:
			err = fmt.Errorf("too many connections: there are %d already", maxForwarded)
		}
	}
	if err != nil {
		f.tell(p.errors, port, err)
		_ = p.data.Reset()
	}
}

// closeErrors reads what a client sends where it has nothing to say, until the end is called: the library would wait for its reader,
// and with it the other streams.
func (f *forward) closeErrors(s *arrived) (end func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, s)
	}()
	return func() {
		_ = s.Close()
		_ = s.Reset() // says nothing more to the client; without it, the library keeps a stream that the client half-closes meanwhile
		<-ended
	}
}

func (f *forward) tell(to io.Writer, port int, err error) {
	_, _ = fmt.Fprintf(to, "error forwarding port %d to pod %s, uid %s: %v", port, f.pod.Name, f.pod.UID, err)
}

// relay connects a stream with a port of the pod. An error is that it could not be connected.
func (f *forward) relay(ctx context.Context, port int, stream io.ReadWriteCloser) error {
	dialing, stop := context.WithTimeout(ctx, dialTimeout)
	conn, err := f.runtime.Dial(dialing, f.pod, port)
	stop()
	if err != nil {
		return err
	}
	splice(ctx, stream, conn)
	return nil
}

// serveChannels speaks the first protocol for WebSockets: the ports are named in the request, and each has one connection,
// made at once, with a channel for data and one for an error. It has no half-close.
func (f *forward) serveChannels(ctx context.Context, t *takeover, req *http.Request, ports []int32) {
	if len(ports) == 0 || len(ports) > 100 {
		respondError(t, req, apierrors.NewBadRequest("1 to 100 ports must be named by the query parameter ports"))
		return
	}
	var channels []wsstream.ChannelType
	for range ports {
		channels = append(channels, wsstream.ReadWriteChannel, wsstream.WriteChannel)
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"": {Binary: true, Channels: channels},
		"v4." + wsstream.ChannelWebSocketProtocol:       {Binary: true, Channels: channels},
		"v4." + wsstream.Base64ChannelWebSocketProtocol: {Binary: false, Channels: channels},
	})
	conn.SetIdleTimeout(streamIdle)
	_, streams, err := conn.Open(t, req)
	if err != nil {
		return // the library has answered
	}
	defer func() { t.close(); _ = conn.Close() }()
	var connections sync.WaitGroup
	for i, port := range ports {
		data, errs := streams[2*i], streams[2*i+1]
		head := binary.LittleEndian.AppendUint16(nil, uint16(port))
		_, _ = data.Write(head)
		_, _ = errs.Write(head)
		connections.Go(func() {
			defer data.Close()
			defer errs.Close()
			if err := f.relay(ctx, int(port), data); err != nil {
				f.tell(errs, int(port), err)
			}
		})
	}
	connections.Wait()
}
