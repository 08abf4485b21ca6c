package logs

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errDone is the cause of a context that ended because nothing more will be written.
var errDone = errors.New("done")

// doneContext ends with ctx, or with the cause errDone when done is closed. stop must be called; it waits.
func doneContext(ctx context.Context, done <-chan struct{}) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-done:
			cancel(errDone)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-over
	}
}

// watch waits for a directory to change. Where inotify has no instance left (128 per user by default), it only waits a
// little each time.
type watch struct {
	f   *os.File
	buf [4096]byte
}

const (
	lookAgain = time.Second           // upstream's followers look as often, whatever inotify says
	pollAgain = 25 * time.Millisecond // without inotify
)

func openWatch(dir string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watch{}
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		_ = unix.Close(fd)
		return &watch{}
	}
	return &watch{f: os.NewFile(uintptr(fd), "inotify")}
}

func (w *watch) close() {
	if w.f != nil {
		_ = w.f.Close()
	}
}

// wait returns when something changed, when ctx ends, or after a while.
func (w *watch) wait(ctx context.Context) {
	if w.f == nil {
		select {
		case <-ctx.Done():
		case <-time.After(pollAgain):
		}
		return
	}
	_ = w.f.SetReadDeadline(time.Now().Add(lookAgain))
	stop := context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if ctx.Err() == nil {
		_, _ = w.f.Read(w.buf[:])
	}
}
