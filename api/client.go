package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// parting is how long a client that was told of the end may take to close its connection, too.
	parting = 30 * time.Second
	// clientLook is how often a client is looked after. One that has closed its connection at two looks in a row has gone.
	clientLook = time.Second
)

// watchedClient is the client of an exec or attach, whose connection, once it is taken over, is watched for its end: a client that
// has gone shows by nothing else while the container is silent, and not even by that while nobody reads what it has sent.
type watchedClient struct {
	http.ResponseWriter                 // not to be unwrapped
	here                context.Context // ends when the client has gone
	gone                context.CancelFunc
	looking             sync.WaitGroup

	mu   sync.Mutex
	conn net.Conn // guarded by mu
}

// newWatchedClient is a client that is there until ctx ends at the latest. part must be called in the end.
func newWatchedClient(w http.ResponseWriter, ctx context.Context) *watchedClient {
	c := &watchedClient{ResponseWriter: w}
	c.here, c.gone = context.WithCancel(ctx)
	return c
}

// Hijack implements http.Hijacker.
func (c *watchedClient) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := c.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, fmt.Errorf("take over the connection of %T: not possible", c.ResponseWriter)
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	before, err := rw.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	watched := &watchedConn{Conn: conn, gone: c.gone}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	if socket := socketOf(conn); socket != nil {
		c.looking.Go(func() { c.look(socket) })
	}
	in := io.MultiReader(bytes.NewReader(bytes.Clone(before)), watched)
	return watched, bufio.NewReadWriter(bufio.NewReader(in), bufio.NewWriter(watched)), nil
}

// look ends here when the client has closed its connection, also while nobody reads from that.
func (c *watchedClient) look(socket syscall.RawConn) {
	tick := time.NewTicker(clientLook)
	defer tick.Stop()
	for closed := false; ; {
		select {
		case <-c.here.Done():
			return
		case <-tick.C:
		}
		before := closed
		if closed = hungUp(socket); closed && before {
			c.gone()
			return
		}
	}
}

// hungUp says whether the other end of a connection is closed.
func hungUp(socket syscall.RawConn) (closed bool) {
	err := socket.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		closed = err == nil && n > 0
	})
	return closed || err != nil
}

// socketOf is what a connection goes through; nil if that is no socket.
func socketOf(conn net.Conn) syscall.RawConn {
	switch c := conn.(type) {
	case *takenConn:
		return socketOf(c.Conn)
	case *tls.Conn:
		return socketOf(c.NetConn())
	case *guest:
		return socketOf(c.Conn)
	case syscall.Conn:
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// cut ends the connection.
func (c *watchedClient) cut() {
	c.gone()
	if conn := c.taken(); conn != nil {
		_ = conn.Close()
	}
}

// taken is the connection; nil if it was not taken over.
func (c *watchedClient) taken() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// part waits for a client that was told of the end to close the connection, and reads until then what it still sends: a socket that
// is closed with something unread makes the kernel throw away what is still on the way to the client.
func (c *watchedClient) part() {
	c.gone()
	c.looking.Wait()
	conn := c.taken()
	if conn == nil {
		return
	}
	late := time.AfterFunc(parting, func() { _ = conn.Close() })
	defer late.Stop()
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// watchedConn is what the libraries have of the connection.
type watchedConn struct {
	net.Conn
	gone   func()
	closed atomic.Bool
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.closed.Load() {
		return 0, io.EOF
	}
	if err != nil {
		c.gone()
	}
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF // closed from here, which the stream server would take for an error
	}
	return n, err
}

// Close tells the client that nothing more comes. The rest is left to part.
func (c *watchedConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}
