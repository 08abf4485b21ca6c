package api

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	spliceBuffer = 32 << 10
	spliceLook   = time.Second // how often a connection that is half closed is looked at
	spliceIdle   = time.Minute // how long it may be silent then
)

var spliceBuffers = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// splice copies between a client's stream and a connection to a pod until both directions have ended, one has failed, or
// ctx is done. The end of one direction is passed on as a half-close, and the other goes on; but no client or pod can be
// relied on to end that one too, so it is cut off when it has been silent for a minute. Both ends are closed when it returns.
func splice(ctx context.Context, stream io.ReadWriteCloser, conn net.Conn) {
	var moved atomic.Int64
	up, down := make(chan error, 1), make(chan error, 1)
	go func() {
		err := pump(conn, stream, &moved)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		up <- err
	}()
	go func() {
		err := pump(stream, conn, &moved)
		if err == nil {
			err = stream.Close() // of a stream this is a half-close
		}
		down <- err
	}()
	upEnded, downEnded := false, false
	select {
	case err := <-up:
		upEnded = true
		downEnded = err == nil && awaitOther(ctx, down, &moved, func() bool { return isReset(stream) })
	case err := <-down:
		downEnded = true
		upEnded = err == nil && awaitOther(ctx, up, &moved, func() bool { return false })
	case <-ctx.Done():
	}
	_ = conn.Close()
	if s, ok := stream.(interface{ Reset() error }); ok && !(upEnded && downEnded) {
		_ = s.Reset()
	} else {
		_ = stream.Close()
	}
	if !upEnded {
		<-up
	}
	if !downEnded {
		<-down
	}
}

// isReset says of a stream whose end was read whether the client has given it up altogether.
func isReset(stream any) bool {
	s, ok := stream.(interface{ IsFinished() bool })
	return ok && s.IsFinished()
}

// awaitOther waits for the second direction to end, and says whether it has.
func awaitOther(ctx context.Context, ended <-chan error, moved *atomic.Int64, given func() bool) bool {
	look := time.NewTicker(spliceLook)
	defer look.Stop()
	silent, before := time.Duration(0), moved.Load()
	for !given() {
		select {
		case <-ended:
			return true
		case <-ctx.Done():
			return false
		case <-look.C:
		}
		if now := moved.Load(); now != before {
			silent, before = 0, now
		} else if silent += spliceLook; silent >= spliceIdle {
			return false
		}
	}
	return false
}

// pump is io.Copy with a shared buffer, counting. The end of from is no error.
func pump(to io.Writer, from io.Reader, moved *atomic.Int64) error {
	buf := spliceBuffers.Get().(*[spliceBuffer]byte)
	defer spliceBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
			moved.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
