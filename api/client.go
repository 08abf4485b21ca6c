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
	conn net.Conn    // guarded by mu, as is late
	late *time.Timer // cuts who was told of the end and does not go; nil before
}

// newWatchedClient is a client that is there until ctx ends at the latest. part must be called in the end.
func newWatchedClient(ctx context.Context, w http.ResponseWriter) *watchedClient {
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
	watched := &watchedConn{Conn: conn, client: c}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	if socket := socketOf(conn); socket != nil {
		c.looking.Go(func() { look(c.here, socket, c.gone) })
	}
	in := io.MultiReader(bytes.NewReader(bytes.Clone(before)), watched)
	return watched, bufio.NewReadWriter(bufio.NewReader(in), bufio.NewWriter(watched)), nil
}

// look calls gone when the other end of a connection is closed, also while nobody reads from it. It ends with that, or with ctx.
func look(ctx context.Context, socket syscall.RawConn, gone func()) {
	tick := time.NewTicker(clientLook)
	defer tick.Stop()
	for closed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := closed
		if closed = hungUp(socket); closed && before {
			gone()
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

// end tells the client that nothing more comes, and cuts it off when it does not close the connection, too.
func (c *watchedClient) end() {
	c.mu.Lock()
	conn, told := c.conn, c.late != nil
	if !told {
		c.late = time.AfterFunc(parting, c.cut)
	}
	c.mu.Unlock()
	if half, ok := conn.(interface{ CloseWrite() error }); ok && !told {
		_ = half.CloseWrite() // may wait for a write under way
	}
}

// part ends the connection and waits until the client has closed it, too. What it still sends until then is read: a socket that is closed
// with something unread makes the kernel throw away what is still on the way to the client.
func (c *watchedClient) part() {
	c.gone()
	c.looking.Wait()
	conn := c.taken()
	if conn == nil {
		return
	}
	c.end()
	defer c.late.Stop()
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// watchedConn is what the libraries have of the connection.
type watchedConn struct {
	net.Conn
	client *watchedClient
	closed atomic.Bool
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.closed.Load() {
		return 0, io.EOF
	}
	if err != nil {
		c.client.gone()
	}
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF // closed from here, which the stream server would take for an error
	}
	return n, err
}

// Close tells the client of the end. The rest is left to part.
func (c *watchedConn) Close() error {
	c.closed.Store(true)
	c.client.end()
	return nil
}
