package api

import (
	"container/list"
	"context"
	"crypto/tls"
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
	maxStreams   = 100          // of one HTTP/2 connection, as upstream
)

// gate is the TLS port's listener. A stranger can take no place from those who are known: whoever floods the port with
// connections pushes out his own.
type gate struct {
	net.Listener
	patience time.Duration // with a stranger

	mu        sync.Mutex
	strangers *list.List // of *guest, oldest first
	known     int
}

// guest is one connection of the TLS port.
type guest struct {
	net.Conn
	gate *gate

	// under gate.mu
	place *list.Element // among the strangers; nil when known or closed
	known bool
	timer *time.Timer
}

// listenTLS opens the TLS port.
func listenTLS(ctx context.Context, address string, patience time.Duration) (*gate, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &gate{Listener: listener, patience: patience, strangers: list.New()}, nil
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
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

// welcome makes the connection a known one, as long as fewer than limit are.
func (c *guest) welcome(limit int) bool {
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case c.known:
		return true
	case c.place == nil || g.known >= limit:
		return false
	}
	g.strangers.Remove(c.place)
	c.timer.Stop()
	c.place, c.known = nil, true
	g.known++
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

// openPKI makes the certificates of the TLS port, at the first start.
func (s *Server) openPKI() error {
	if s.TLSListen == "" {
		return nil
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, address := range s.NodeIPs {
		if ip := net.ParseIP(address); ip != nil {
			ips = append(ips, ip)
		}
	}
	names := []string{"localhost"}
	host, _, err := net.SplitHostPort(s.TLSListen)
	if err != nil {
		return fmt.Errorf("serve TLS: %w", err)
	}
	for _, name := range []string{s.NodeName, host} {
		if ip := net.ParseIP(name); ip != nil {
			if !ip.IsUnspecified() {
				ips = append(ips, ip)
			}
		} else if name != "" && name != "localhost" {
			names = append(names, name)
		}
	}
	s.pki, err = pki.Open(pki.Options{Dir: s.PKIDir, Names: names, IPs: ips,
		Users: []string{credentials.Admin, credentials.Reader}, Log: s.Log})
	return err
}

// Listen opens the TLS port, if there is to be one and it is not open yet: a podd that cannot have it finds out before it
// starts anything. Run serves it.
func (s *Server) Listen(ctx context.Context) error {
	if s.pki == nil || s.gate != nil {
		return nil
	}
	g, err := listenTLS(ctx, s.TLSListen, s.patience.stranger)
	if err != nil {
		return fmt.Errorf("serve TLS (--tls-listen): %w", err)
	}
	s.gate = g
	s.address.Store(g.Addr())
	return nil
}

// secure is the server of the TLS port. On an address that other hosts reach there is no handshake without a client
// certificate.
func (s *Server) secure(server *http.Server, address net.Addr) {
	tcp, ok := address.(*net.TCPAddr)
	server.TLSConfig = s.pki.Config(!ok || !tcp.IP.IsLoopback())
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
