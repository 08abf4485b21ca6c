package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// buffers is the memory of one chunk on its way from a FIFO to a file. A stream holds one only while it works.
type buffers struct {
	in   [bufferSize]byte
	out  []byte
	head []byte
}

var pool = sync.Pool{New: func() any {
	return &buffers{out: make([]byte, 0, bufferSize+maxText+128), head: make([]byte, 0, 64)}
}}

// stream copies one FIFO into a file. Its goroutine ends after drain or halt, and only then.
type stream struct {
	name string // stdout, stderr
	path string
	file *file
	taps *taps
	done chan struct{} // closed when run is over

	mu    sync.Mutex
	fifo  *os.File  // replaced when a writer has gone, so that the next one finds a reader
	order order     // set by drain or halt
	until time.Time // of order drain

	waiting []chan struct{} // of drained
	asked   int             // how many of them were there before the FIFO was last looked at
	over    bool            // there is nothing to wait for any more

	carry []byte // the beginning of a line that has no end yet; of run alone
}

type order int

const (
	follow order = iota // go on
	drain               // read to the end, wait for it no longer than until, and end
	halt                // write what was read and end; the rest stays in the FIFO
)

// ensureFIFO makes a FIFO that only root may use, or finds the one that is there: it may hold what a container wrote.
func ensureFIFO(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// openFIFO opens without waiting for a writer.
func openFIFO(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode()&os.ModeNamedPipe == 0 {
		err = fmt.Errorf("%s is not a FIFO", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	onFD(f, func(fd int) { // best effort: the host may forbid large pipes
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize); err != nil {
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize/4)
		}
	})
	return f, nil
}

func onFD(f *os.File, do func(fd int)) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// openStream opens the FIFO at path; run must follow.
func openStream(name, path string, f *file, t *taps) (*stream, error) {
	if err := ensureFIFO(path); err != nil {
		return nil, err
	}
	fifo, err := openFIFO(path)
	if err != nil {
		return nil, err
	}
	return &stream{name: name, path: path, file: f, taps: t, fifo: fifo, done: make(chan struct{})}, nil
}

// reads says whether the FIFO that is read is the one that a writer would find.
func (s *stream) reads() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine, err := s.fifo.Stat()
	if err != nil {
		return false
	}
	found, err := os.Lstat(s.path)
	return err == nil && os.SameFile(mine, found)
}

// end orders run to end, and does not wait for it.
func (s *stream) end(o order, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o > s.order {
		s.order, s.until = o, until
	}
	_ = s.fifo.SetReadDeadline(time.Unix(1, 0))
}

func (s *stream) ordered() (order, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order, s.until
}

// drained is closed once no writer has the FIFO open and all it held at the time of the call is in the file.
func (s *stream) drained() <-chan struct{} {
	ch := make(chan struct{})
	s.mu.Lock()
	over := s.over
	if !over {
		s.waiting = append(s.waiting, ch)
	}
	s.mu.Unlock()
	if over {
		close(ch)
	} else {
		s.showWriter()
	}
	return ch
}

// showWriter opens the FIFO for writing for a moment: the kernel reports the end only to a reader that has seen a writer.
func (s *stream) showWriter() {
	if f, err := os.OpenFile(s.path, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
		_ = f.Close()
	}
}

// run copies until it is ordered to end.
func (s *stream) run() {
	defer close(s.done)
	for {
		n, err := s.chunk()
		o, until := s.ordered()
		switch {
		case o == halt:
			s.flush('P')
			s.leave()
			return
		case o == drain:
			s.rest(until)
			s.flush('F')
			s.leave()
			return
		case err != nil:
			// Only a deadline is expected, and it comes with an order. The FIFO is opened again like after an end.
			s.reopen()
		case n == 0:
			s.flush('F')
			s.reopen()
		}
	}
}

// chunk waits for data and writes it to the file. 0 without an error is the end: all writers have gone.
func (s *stream) chunk() (int, error) {
	conn, err := s.fifo.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		var again bool
		s.mu.Lock()
		s.asked = len(s.waiting)
		s.mu.Unlock()
		n, again, failed = s.read(int(fd))
		if again || failed != nil {
			return !again
		}
		return n > 0 || hungUp(int(fd))
	})
	return n, errors.Join(err, failed)
}

// read does one read without waiting and writes what came to the file.
func (s *stream) read(fd int) (n int, again bool, err error) {
	b := pool.Get().(*buffers)
	defer pool.Put(b)
	have := copy(b.in[:], s.carry)
	for {
		n, err = unix.Read(fd, b.in[have:])
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EAGAIN) {
		return 0, true, nil
	}
	if err != nil || n == 0 {
		return 0, false, err
	}
	now := time.Now()
	b.head = head(b.head[:0], now, s.name)
	rest, more := b.in[:have+n], true
	for more {
		var records int
		limit := s.file.limit()
		b.out, rest, records, more = frame(b.out[:0], b.head, rest, limit)
		if records > 0 {
			s.file.write(b.out, records, now)
		}
	}
	s.carry = append(s.carry[:0], rest...)
	if len(s.carry) == 0 && cap(s.carry) > 512 {
		s.carry = nil
	}
	s.taps.send(s.kind(), b.in[have:have+n])
	return n, false, nil
}

func (s *stream) kind() byte {
	if s.name == "stderr" {
		return frameStderr
	}
	return frameStdout
}

// hungUp tells the end of a FIFO from one that no writer has opened yet; read gives 0 for both.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLHUP != 0 && fds[0].Revents&unix.POLLIN == 0
}

// rest reads until the end, which also is there when no writer has the FIFO open, or until the time is over.
func (s *stream) rest(until time.Time) {
	onFD(s.fifo, func(fd int) {
		for {
			n, again, err := s.read(fd)
			left := time.Until(until)
			if err != nil || left <= 0 || n == 0 && !again {
				return
			}
			if again {
				fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				_, _ = unix.Poll(fds, int(left.Milliseconds())+1)
			}
		}
	})
}

// flush writes a line that has no end: as a whole one when nothing can follow (F), else as a part (P).
func (s *stream) flush(tag byte) {
	if len(s.carry) == 0 {
		return
	}
	now := time.Now()
	s.file.write(record(nil, head(nil, now, s.name), tag, s.carry), 1, now)
	s.carry = nil
}

// reopen takes the end of one writer for the beginning of the next: a task may be created again on the same FIFOs, and its
// shim waits for a reader. There is one at any time, since the new one is opened before the old one is closed.
func (s *stream) reopen() {
	fifo, err := openFIFO(s.path)
	defer s.showWriterIfAwaited()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range s.waiting[:s.asked] {
		close(ch)
	}
	s.waiting, s.asked = s.waiting[s.asked:], 0
	if err != nil {
		// The FIFO was taken away: nothing can come, so only an order is waited for.
		for _, ch := range s.waiting {
			close(ch)
		}
		s.waiting, s.over = nil, true
		fifo, err = nothing()
		if err != nil {
			return
		}
	}
	_ = s.fifo.Close()
	s.fifo = fifo
	if s.order != follow {
		_ = fifo.SetReadDeadline(time.Unix(1, 0))
	}
}

// showWriterIfAwaited serves those who came to wait after the end was seen on the FIFO that was open then.
func (s *stream) showWriterIfAwaited() {
	s.mu.Lock()
	awaited := len(s.waiting) > 0
	s.mu.Unlock()
	if awaited {
		s.showWriter()
	}
}

// nothing is a pipe that never brings anything and never ends.
func nothing() (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", p[0])
	both, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	_ = unix.Close(p[0])
	_ = unix.Close(p[1])
	return both, err
}

// leave closes the FIFO and tells who waits for the end.
func (s *stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.fifo.Close()
	for _, ch := range s.waiting {
		close(ch)
	}
	s.waiting, s.asked, s.over = nil, 0, true
}
