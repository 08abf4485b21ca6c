package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// tunnel lets kubectl's own streams (exec, attach, port-forward, cp, run, debug) reach a unix socket. The libraries
// behind them connect by TCP to the address in the URL or to a proxy, and take no dialer. So podctl is that proxy for
// itself, on a port of the loopback: for the time of one run, and only for who knows the secret that was made for it.
type tunnel struct {
	mu      sync.Mutex
	address *url.URL
	server  *http.Server
	streams sync.WaitGroup
	conns   map[net.Conn]bool
	closed  bool
}

// open starts the tunnel if it is not there yet, and says where it is.
func (t *tunnel) open(dial func(ctx context.Context, network, address string) (net.Conn, error)) (*url.URL, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.address != nil {
		return t.address, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a stream to podd: %w", err)
	}
	t.conns = map[net.Conn]bool{}
	t.address = &url.URL{Scheme: "http", User: url.UserPassword("podctl", rand.Text()), Host: l.Addr().String()}
	secret, _ := t.address.User.Password()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("podctl:"+secret))
	t.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 || r.Method != http.MethodConnect {
				http.Error(w, "not for you", http.StatusForbidden)
				return
			}
			podd, err := dial(r.Context(), "", "")
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			t.splice(w, podd)
		}),
	}
	t.streams.Go(func() { _ = t.server.Serve(l) }) // ends with close
	return t.address, nil
}

// splice takes the connection of w over and joins it with podd until both directions have ended.
func (t *tunnel) splice(w http.ResponseWriter, podd net.Conn) {
	defer podd.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if !t.keep(conn, podd) {
		return
	}
	defer t.drop(conn, podd)
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		// What net/http has read ahead comes first; the client waits for the answer, so this is mostly nothing.
		ahead := io.LimitReader(buffered, int64(buffered.Reader.Buffered()))
		_, _ = io.Copy(struct{ io.Writer }{podd}, io.MultiReader(ahead, conn))
		halfClose(podd)
	})
	// Without the kernel's splice, which between a unix and a TCP socket buys nothing for what people type.
	_, _ = io.Copy(struct{ io.Writer }{conn}, podd)
	halfClose(conn)
	up.Wait()
}

func halfClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// keep remembers connections that close has to close. It is false if that has been already.
func (t *tunnel) keep(conns ...net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.streams.Add(1)
	for _, c := range conns {
		t.conns[c] = true
	}
	return true
}

func (t *tunnel) drop(conns ...net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range conns {
		delete(t.conns, c)
	}
	t.streams.Done()
}

// close ends the tunnel and all that goes through it.
func (t *tunnel) close() {
	t.mu.Lock()
	server := t.server
	t.closed = true
	for c := range t.conns {
		_ = c.Close()
	}
	t.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
	t.streams.Wait()
}
