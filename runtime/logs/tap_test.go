package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seen is what a tap brought.
type seen struct {
	mu          sync.Mutex
	out, errs   bytes.Buffer
	begun, gone chan struct{}
	err         error
	ended       chan struct{}
	more        chan struct{} // capacity 1
}

func listen(ctx context.Context, w *Writer, id string) *seen {
	s := &seen{begun: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{}), more: make(chan struct{}, 1)}
	go func() {
		defer close(s.gone)
		s.err = w.Tap(ctx, id, s.ended, func() { close(s.begun) }, func(stderr bool, data []byte) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if stderr {
				s.errs.Write(data)
			} else {
				s.out.Write(data)
			}
			select {
			case s.more <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	return s
}

// until waits until n bytes of stdout have come, or the tap has ended.
func (s *seen) until(n int) {
	for {
		s.mu.Lock()
		have := s.out.Len()
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-s.more:
		case <-s.gone:
			return
		}
	}
}

// Taps get the bytes that are written while they are there, and the end of the container ends them.
func TestTap(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	tg.Stdin = tg.Stdout + ".in"
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(tg.Stdin); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("stdin: %v %v", st, err)
	}
	out, outDone := openWriter(t, tg.Stdout)
	errs, errDone := openWriter(t, tg.Stderr)
	first := listen(ctx, w, "c1")
	<-first.begun
	fmt.Fprint(out, "no li")
	fmt.Fprint(errs, "bad\x00")
	for both := false; !both; {
		<-first.more
		first.mu.Lock()
		both = first.out.Len() > 0 && first.errs.Len() > 0
		first.mu.Unlock()
	}
	second := listen(ctx, w, "c1")
	<-second.begun
	much := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	if _, err := out.Write(much); err != nil {
		t.Fatal(err)
	}
	outDone()
	errDone()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	close(first.ended)
	<-first.gone
	if err := w.Remove(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	<-second.gone // without being told: the target is gone
	if first.err != nil || first.out.String() != "no li"+string(much) || first.errs.String() != "bad\x00" {
		t.Errorf("first: %v, %d bytes, %q", first.err, first.out.Len(), first.errs.String())
	}
	if second.err != nil || second.out.String() != string(much) || second.errs.Len() > 0 {
		t.Errorf("second: %v, %d bytes, %q", second.err, second.out.Len(), second.errs.String())
	}
	if _, err := os.Lstat(tg.Stdin); !os.IsNotExist(err) {
		t.Errorf("stdin is left: %v", err)
	}
	if err := watchErr(ctx, w, "c1"); !errors.Is(err, errAnswer) {
		t.Errorf("tap of what is gone: %v", err)
	}
}

func watchErr(ctx context.Context, w *Writer, id string) error {
	s := listen(ctx, w, id)
	<-s.gone
	return s.err
}

// The time that podd-logd gives itself to answer does not bound what it sends after that, which may come days later.
func TestTapLasts(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reader, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := &server{}
	var all taps
	tap := all.add(conn, func() bool {
		answered := s.reply(conn, reply{})
		return answered && conn.SetWriteDeadline(time.Unix(1, 0)) == nil // and that time is over
	})
	if tap == nil {
		t.Fatal("no tap")
	}
	all.send(frameStdout, []byte("late"))
	in := bufio.NewReader(reader)
	if _, err := in.ReadSlice('\n'); err != nil {
		t.Fatal(err)
	}
	if kind, data, err := readFrame(in, make([]byte, 0, bufferSize)); err != nil || kind != frameStdout || string(data) != "late" {
		t.Errorf("came %d %q, %v", kind, data, err)
	}
}

// A tap that does not take what comes is cut off; the log and the other taps get everything.
func TestTapBehind(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	tg.MaxSize = 1 << 30
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	out, outDone := openWriter(t, tg.Stdout)
	stuck, let := make(chan struct{}), make(chan struct{})
	slow := make(chan error, 1)
	go func() {
		slow <- w.Tap(ctx, "c1", nil, func() { close(stuck) }, func(bool, []byte) error { <-let; return nil })
	}()
	<-stuck
	other := listen(ctx, w, "c1")
	<-other.begun
	line := bytes.Repeat([]byte("x"), 4095)
	line = append(line, '\n')
	const lines = 12 << 20 / 4096
	for i := range lines {
		if _, err := out.Write(line); err != nil {
			t.Fatal(err)
		}
		if i%64 == 0 { // it keeps up, however busy this host is
			other.until(i * 4096)
		}
	}
	outDone()
	f, err := os.OpenFile(tg.Stderr, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	close(let)
	if err := <-slow; !errors.Is(err, ErrBehind) {
		t.Errorf("the slow one: %v", err)
	}
	close(other.ended)
	<-other.gone
	if other.err != nil || other.out.Len() != lines*4096 {
		t.Errorf("the other: %v, %d bytes of %d", other.err, other.out.Len(), lines*4096)
	}
	if stdout, _ := read(t, tg.Path, ReadOptions{}); len(stdout) != lines*4096 {
		t.Errorf("the log has %d bytes of %d", len(stdout), lines*4096)
	}
}

// A client that has gone leaves nothing.
func TestTapLeft(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	leaving, leave := context.WithCancel(ctx)
	s := listen(leaving, w, "c1")
	<-s.begun
	leave()
	<-s.gone
	if !errors.Is(s.err, context.Canceled) {
		t.Errorf("left: %v", s.err)
	}
}
