package api

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"podd/api/credentials"
	"podd/api/pki"
)

// What the TLS port puts up with. Strangers are connections on which nobody has proved who he is yet.
const (
	maxStrangers = 512 // the oldest makes room for a new one
	maxKnown     = 4096
	maxReaders   = maxKnown / 2 // there is no place for more who may only read: the rest is kept for administrators
	maxOfAccount = 128          // of one service account and pod, before it is known what it may do
	maxStreams   = 100          // of one HTTP/2 connection, as upstream
)

// gate is the TLS port's listener. A stranger can take no place from those who are known: whoever floods the port with
// connections pushes out his own.
type gate struct {
	net.Listener
	patience time.Duration       // with a stranger
	admits   func(net.Conn) bool // nil: every connection

	mu        sync.Mutex
	strangers *list.List // of *guest, oldest first
	known     int
	accounts  map[string]int // how many of them each service account has, by seat.of
}

// seat is the place that a connection takes among the known ones.
type seat struct {
	limit int    // how many there may be for one more to be known
	of    string // the service account and pod, of which there may be maxOfAccount; empty for others
}

// guest is one connection of the TLS port.
type guest struct {
	net.Conn
	gate *gate

	// under gate.mu
	place *list.Element // among the strangers; nil when known or closed
	known bool
	of    string // seat.of, when known
	timer *time.Timer
}

// listenTLS opens the TLS port.
func listenTLS(ctx context.Context, address string, patience time.Duration) (*gate, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newGate(listener, patience), nil
}

func newGate(listener net.Listener, patience time.Duration) *gate {
	return &gate{Listener: listener, patience: patience, strangers: list.New(), accounts: map[string]int{}}
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	for err == nil && g.admits != nil && !g.admits(conn) {
		_ = conn.Close()
		conn, err = g.Listener.Accept()
	}
	if err != nil {
		return nil, err
	}
	c := &guest{Conn: conn, gate: g}
	g.mu.Lock()
	var oldest *guest
	if g.strangers.Len() >= maxStrangers {
		oldest = g.strangers.Front().Value.(*guest)
		g.strangers.Remove(oldest.place)
		oldest.place = nil
	}
	c.place = g.strangers.PushBack(c)
	c.timer = time.AfterFunc(g.patience, c.expel)
	g.mu.Unlock()
	if oldest != nil {
		oldest.expel()
	}
	return c, nil
}

// expel closes the connection unless it has become known.
func (c *guest) expel() {
	c.gate.mu.Lock()
	known := c.known
	c.gate.mu.Unlock()
	if !known {
		_ = c.Close()
	}
}

// welcome makes the connection a known one, if there is such a seat.
func (c *guest) welcome(s seat) bool {
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case c.known:
		return true
	case c.place == nil || g.known >= s.limit || s.of != "" && g.accounts[s.of] >= maxOfAccount:
		return false
	}
	g.strangers.Remove(c.place)
	c.timer.Stop()
	c.place, c.known, c.of = nil, true, s.of
	g.known++
	if c.of != "" {
		g.accounts[c.of]++
	}
	return true
}

func (c *guest) Close() error {
	g := c.gate
	g.mu.Lock()
	c.timer.Stop()
	if c.place != nil {
		g.strangers.Remove(c.place)
		c.place = nil
	}
	if c.known {
		c.known = false
		g.known--
		if g.accounts[c.of]--; g.accounts[c.of] <= 0 {
			delete(g.accounts, c.of)
		}
	}
	g.mu.Unlock()
	return c.Conn.Close()
}

type guestKey struct{}

// withGuest keeps the connection where withUser finds it.
func withGuest(ctx context.Context, conn net.Conn) context.Context {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return ctx
	}
	c, ok := secure.NetConn().(*guest)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, guestKey{}, c)
}

// connOf is the connection of a request that came in by TLS, else nil.
func connOf(ctx context.Context) *guest {
	c, _ := ctx.Value(guestKey{}).(*guest)
	return c
}

// openPKI makes the certificates of the TLS port and the key of service account tokens, at the first start.
func (s *Server) openPKI() error {
	if s.PKIDir == "" {
		if s.TLSListen != "" {
			return errors.New("serve TLS: there is no directory for its certificates")
		}
		return nil
	}
	host := ""
	if s.TLSListen != "" {
		var err error
		if host, _, err = net.SplitHostPort(s.TLSListen); err != nil {
			return fmt.Errorf("serve TLS: %w", err)
		}
	}
	names, ips := s.serverNames(host)
	var err error
	s.pki, err = pki.Open(pki.Options{Dir: s.PKIDir, Names: names, IPs: ips,
		Users: []string{credentials.Admin, credentials.Reader}, Log: s.Log})
	return err
}

// serverNames are the names and addresses that the server's certificate is for, host among them.
func (s *Server) serverNames(host string) (names []string, ips []net.IP) {
	ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, address := range s.NodeIPs {
		if ip := net.ParseIP(address); ip != nil {
			ips = append(ips, ip)
		}
	}
	if ip, err := s.serviceIP(); err == nil {
		ips = append(ips, ip.AsSlice())
	}
	names = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, name := range []string{s.NodeName, host} {
		if ip := net.ParseIP(name); ip != nil {
			if !ip.IsUnspecified() {
				ips = append(ips, ip)
			}
		} else if name != "" && name != "localhost" {
			names = append(names, name)
		}
	}
	return names, ips
}

// Listen opens the TLS port and that for pods, if there is to be one and it is not open yet: a podd that cannot have it finds
// out before it starts anything. Run serves them.
func (s *Server) Listen(ctx context.Context) error {
	if s.TLSListen == "" || s.gate != nil {
		return nil
	}
	g, err := listenTLS(ctx, s.TLSListen, s.patience.stranger)
	if err != nil {
		return fmt.Errorf("serve TLS (--tls-listen): %w", err)
	}
	if err := s.listenInside(ctx); err != nil {
		return errors.Join(err, g.Close())
	}
	s.gate = g
	s.address.Store(g.Addr())
	return nil
}

// closePorts is for a server that will not serve what Listen opened.
func (s *Server) closePorts() {
	if s.gate != nil {
		_ = s.gate.Close()
	}
	_ = s.inside.close()
}

// serveTLS serves the TLS port, and that for pods, until ctx is done. On an address that other hosts reach there is no handshake
// without a client certificate; nobody but pods reaches theirs.
func (s *Server) serveTLS(ctx context.Context) error {
	tcp, ok := s.gate.Addr().(*net.TCPAddr)
	ports := map[*gate]bool{s.gate: !ok || !tcp.IP.IsLoopback()}
	for _, g := range s.inside.gates {
		ports[g] = false
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for g, required := range ports {
		wg.Go(func() {
			server := s.httpServer()
			s.secure(server, required)
			if err := serve(ctx, server, func() error { return server.ServeTLS(g, "", "") }); err != nil {
				cancel(fmt.Errorf("TLS port: %w", err))
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// secure makes a server one of TLS; with required set only for clients with certificates.
func (s *Server) secure(server *http.Server, required bool) {
	server.TLSConfig = s.pki.Config(required)
	server.ConnContext = withGuest
	server.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 1 << 20,
		MaxReceiveBufferPerStream: 256 << 10}
}

// serverURL is where clients on this host reach the TLS port; empty when there is none.
func (s *Server) serverURL() string {
	address, ok := s.address.Load().(net.Addr)
	if !ok {
		return ""
	}
	host, port, err := net.SplitHostPort(address.String())
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}
