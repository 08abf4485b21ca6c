package containers

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// drain is how long output may pause after the process has ended: what it left running in the background may hold the
// other end of the pipe for ever.
const drain = 500 * time.Millisecond

// streams is the FIFOs between podd and the shim, for one exec. Each is opened here before the shim is told of it and
// without blocking; what podd holds of the shim's side goes once the shim has opened it too.
type streams struct {
	dir          string
	in, out, err stream

	cut   atomic.Bool // output was still open when it was given up
	mu    sync.Mutex
	cause error // of output that could not be written
}

type stream struct {
	path  string   // "" if not used
	ours  *os.File // the end that podd reads or writes
	hold  *os.File // the other end
	ended atomic.Bool
}

// openStreams makes a directory with a FIFO for each stream that is used.
func openStreams(dir string, e Exec) (s *streams, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s = &streams{dir: dir}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	if e.Stdin != nil {
		err = s.in.open(filepath.Join(s.dir, "in"), unix.O_WRONLY, unix.O_RDONLY)
	}
	if err == nil {
		err = s.out.open(filepath.Join(s.dir, "out"), unix.O_RDONLY, unix.O_WRONLY)
	}
	if err == nil && !e.TTY {
		err = s.err.open(filepath.Join(s.dir, "err"), unix.O_RDONLY, unix.O_WRONLY)
	}
	return s, err
}

// open makes a FIFO and opens both ends. The first open is for both ways, since either way alone needs the other.
func (s *stream) open(path string, ours, hold int) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("make fifo %s: %w", path, err)
	}
	s.path = path
	both, err := os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = both.Close() }()
	if s.ours, err = os.OpenFile(path, ours|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	s.hold, err = os.OpenFile(path, hold|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return err
}

// remove closes and deletes everything. Reads and writes under way end.
func (s *streams) remove() {
	for _, st := range []*stream{&s.in, &s.out, &s.err} {
		for _, f := range []*os.File{st.ours, st.hold} {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	_ = os.RemoveAll(s.dir)
}

// pump moves bytes, now that the shim has opened its ends. The answer is closed when all output has been copied.
func (s *streams) pump(e Exec, over <-chan struct{}, closeStdin func()) <-chan struct{} {
	for _, st := range []*stream{&s.out, &s.err} {
		if st.hold != nil {
			_ = st.hold.Close()
		}
	}
	var out sync.WaitGroup
	if e.Stdin != nil {
		go s.feed(e.Stdin, over, closeStdin)
	}
	out.Go(func() { s.copy(e.Stdout, &s.out) })
	if !e.TTY {
		out.Go(func() { s.copy(e.Stderr, &s.err) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.Wait()
	}()
	return done
}

// feed copies stdin until it ends or the process does.
func (s *streams) feed(stdin io.Reader, over <-chan struct{}, closeStdin func()) {
	s.in.awaitReader(over)
	_, _ = io.Copy(struct{ io.Writer }{s.in.ours}, stdin)
	select {
	case <-over:
	default:
		_ = s.in.ours.Close()
		closeStdin()
	}
}

// readerPoll is how often awaitReader looks; mostly the reader is there at once.
const readerPoll = 200 * time.Microsecond

// awaitReader waits until the shim has opened its end of stdin, or the process has ended. The shim does that on a
// goroutine of its own, maybe after it has said that the process runs. Before, a FIFO without readers takes nothing;
// and if all writers had closed it again by then, the shim would wait for one for ever.
func (st *stream) awaitReader(over <-chan struct{}) {
	_ = st.hold.Close() // so that only the shim counts
	tick := time.NewTicker(readerPoll)
	defer tick.Stop()
	for {
		probe, err := os.OpenFile(st.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = probe.Close()
			return
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

// copy reads until the shim closes its end or, once the process has ended, until nothing comes for a while. When the
// writer fails, the rest is read and thrown away so that the process does not hang on it.
func (s *streams) copy(to io.Writer, from *stream) {
	if to == nil {
		to = io.Discard
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.ours.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				s.fail(werr)
				to = io.Discard
			}
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.cut.Store(true)
			}
			return
		}
		if from.ended.Load() {
			_ = from.ours.SetReadDeadline(time.Now().Add(drain))
		}
	}
}

// end says that the process has ended.
func (s *streams) end() {
	for _, st := range []*stream{&s.out, &s.err} {
		if st.ours != nil {
			st.ended.Store(true)
			_ = st.ours.SetReadDeadline(time.Now().Add(drain))
		}
	}
	if s.in.ours != nil {
		_ = s.in.ours.SetWriteDeadline(time.Now())
	}
}

func (s *streams) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cause = errors.Join(s.cause, err)
}

func (s *streams) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}
