package logs

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tapQueue is what may wait for the reader of a tap, in bytes. It is the kernel's memory, taken only while it is needed;
// the reader is podd, which always reads.
const tapQueue = 2 << 20

// The reader of a tap that is full is waited for: a second at most, and then again a tenth of the time that passes. So one
// that only has to be scheduled loses nothing, and one that hangs holds up a container no longer than that.
const (
	tapPatience = time.Second
	tapRegain   = 10
)

// A frame of a tap is its kind, the length of the data in four bytes (big endian), and the data as the container wrote it.
const (
	frameStdout byte = 1
	frameStderr byte = 2
	frameEnd    byte = 3 // no data; nothing comes any more, since the container is removed
	frameHeader      = 5
)

// taps are those who read along what one container writes. None of them holds up the container or its log for long: one
// that does not keep up is cut off.
type taps struct {
	mu  sync.Mutex
	all map[*tap]bool
}

type tap struct {
	conn     *net.UnixConn
	patience time.Duration // how long it may still be waited for
	since    time.Time     // when that was last reckoned
}

// add makes conn a tap, once answer has said so at its other end: it gets all that is read from the FIFOs after that. nil
// when answer could not say it.
func (s *taps) add(conn *net.UnixConn, answer func() bool) *tap {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, tapQueue) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, tapQueue)
			}
		})
	}
	t := &tap{conn: conn, patience: tapPatience, since: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !answer() {
		return nil
	}
	_ = conn.SetWriteDeadline(time.Time{}) // the answer had one; what comes may come at any time
	if s.all == nil {
		s.all = map[*tap]bool{}
	}
	s.all[t] = true
	return t
}

// drop ends one tap. What it was sent can still be read at the other end.
func (s *taps) drop(t *tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t)
}

// send gives every tap what a stream brought, and cuts off those that cannot take it now.
func (s *taps) send(kind byte, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.all {
		if !t.send(kind, data) {
			delete(s.all, t)
			_ = t.conn.CloseWrite()
		}
	}
}

// end tells all taps that nothing comes any more.
func (s *taps) end() {
	s.send(frameEnd, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.all {
		_ = t.conn.CloseWrite()
	}
	clear(s.all)
}

// send is false when the frame did not go out whole within the patience that is left.
func (t *tap) send(kind byte, data []byte) bool {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return false
	}
	frame := make([]byte, frameHeader, frameHeader+len(data))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(data)))
	frame = append(frame, data...)
	err = raw.Write(func(fd uintptr) bool {
		for len(frame) > 0 {
			n, err := unix.SendmsgN(int(fd), frame, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch {
			case err == nil:
				frame = frame[n:]
			case err == unix.EINTR:
			case err != unix.EAGAIN || !t.wait(int(fd)):
				return true
			}
		}
		return true
	})
	return err == nil && len(frame) == 0
}

// wait waits for room, and is false when the patience is used up.
func (t *tap) wait(fd int) bool {
	now := time.Now()
	t.patience = min(t.patience+now.Sub(t.since)/tapRegain, tapPatience)
	if t.patience < time.Millisecond {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, int(t.patience.Milliseconds()))
	t.since = time.Now()
	t.patience -= t.since.Sub(now)
	return err == nil && n > 0 || err == unix.EINTR
}

// tap answers the request "tap" and returns when the other end has closed its side, or the tap is cut off from here.
func (s *server) tap(conn net.Conn, in *bufio.Reader, id string) {
	answer := func(err error) bool {
		var r reply
		if err != nil {
			r.Error = err.Error()
		}
		return s.reply(conn, r)
	}
	unixConn, ok := conn.(*net.UnixConn)
	s.mu.Lock()
	e := s.entries[id]
	s.mu.Unlock()
	switch {
	case !ok:
		answer(fmt.Errorf("tap %s: not a unix socket", id))
		return
	case e == nil:
		answer(fmt.Errorf("tap %s: is not written for", id))
		return
	}
	t := e.taps.add(unixConn, func() bool { return answer(nil) })
	if t == nil {
		return
	}
	defer e.taps.drop(t)
	_, _ = in.ReadByte() // nothing is said any more: the end, or the order to leave
}

// ErrBehind says that a reader was cut off, since it did not take what the container wrote.
var ErrBehind = errors.New("the output was not read fast enough")

// reconnect is how long a Tap waits before it asks a podd-logd again that has died.
const reconnect = 100 * time.Millisecond

// Tap hands on what a container writes from now on, in the pieces in which it is read and not by lines. attached is called
// when it has begun, out for each piece, in the order in which they were read; out must not block, and an error of it ends
// the tap. Tap returns nil once ended is closed and all that was read until then has been handed on, or the container has
// been removed. ErrBehind: it was cut off. When podd-logd is started anew the tap goes on; what was written meanwhile and is
// read by the next one may be missing.
func (w *Writer) Tap(ctx context.Context, id string, ended <-chan struct{}, attached func(), out func(stderr bool, data []byte) error) error {
	attached = sync.OnceFunc(attached)
	for {
		var first Hello
		over, err := w.tap(ctx, id, ended, func(h Hello) { first = h; attached() }, out)
		if over || ctx.Err() != nil {
			return cause(ctx, err)
		}
		if first.PID == 0 {
			if errors.Is(err, errAnswer) {
				return err
			}
		} else if now, err := w.Hello(ctx); err == nil && now.PID == first.PID {
			return ErrBehind
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			return nil
		case <-time.After(reconnect):
		}
	}
}

// errAnswer is what podd-logd says to a request that it does not fulfil.
var errAnswer = errors.New("refused")

// tap is one connection of a Tap. over is false when podd-logd ended it without a word.
func (w *Writer) tap(ctx context.Context, id string, ended <-chan struct{}, begun func(Hello), out func(bool, []byte) error) (over bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", w.socket)
	if err != nil {
		return false, fmt.Errorf("ask podd-logd: tap: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(request{Protocol: Protocol, Op: "tap", ID: id})
	if err != nil {
		return true, err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return false, err
	}
	in := bufio.NewReaderSize(conn, bufferSize)
	if b, err = in.ReadSlice('\n'); err != nil {
		return false, err
	}
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return true, err
	}
	if r.Error != "" {
		return false, fmt.Errorf("ask podd-logd: tap: %w: %s", errAnswer, r.Error)
	}
	begun(r.Hello)
	var asked atomic.Bool
	read, waited := make(chan struct{}), make(chan struct{})
	defer func() { close(read); <-waited }()
	go func() {
		defer close(waited)
		select {
		case <-ended:
			asked.Store(true)
			_ = conn.(*net.UnixConn).CloseWrite() // podd-logd ends the tap; what it has sent comes before that
		case <-read:
		}
	}()
	data := make([]byte, 0, bufferSize)
	for {
		kind, piece, err := readFrame(in, data)
		switch {
		case err != nil:
			return asked.Load(), nil
		case kind == frameEnd:
			return true, nil
		}
		if err := out(kind == frameStderr, piece); err != nil {
			return true, err
		}
	}
}

// readFrame reads one frame into buf.
func readFrame(in *bufio.Reader, buf []byte) (kind byte, data []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > bufferSize {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	data = buf[:n]
	_, err = io.ReadFull(in, data)
	return head[0], data, err
}
