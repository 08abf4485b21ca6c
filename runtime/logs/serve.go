package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	drainLimit = 2 * time.Second  // Remove waits so long for writers that stay
	drainTurn  = 10 * time.Second // one turn of a Drain
	lockWait   = 5 * time.Second  // for a podd-logd that is just leaving
)

// ServeOptions are what podd-logd is started with.
type ServeOptions struct {
	State string // directory with a record per target, so that a podd-logd started anew needs nobody to tell it
	Build string // told by Hello
	Log   *slog.Logger
}

// Listen makes the socket, mode 0600, and takes the lock beside it: only one podd-logd serves a socket and reads its FIFOs.
// A lock that is held is waited for a few seconds. The lock is let go by close.
func Listen(socket string) (l net.Listener, close func(), err error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	lock, err := os.OpenFile(socket+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	end := time.Now().Add(lockWait)
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		if rerr := os.Remove(socket); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = rerr
		}
	}
	if err == nil {
		old := unix.Umask(0o177)
		l, err = net.Listen("unix", socket)
		unix.Umask(old)
	}
	if err != nil {
		_ = lock.Close()
		return nil, nil, fmt.Errorf("listen %s: %w", socket, err)
	}
	return l, func() { _ = lock.Close() }, nil
}

// entry is one target under way.
type entry struct {
	target  Target
	file    *file
	streams []*stream
	taps    *taps
}

type server struct {
	state string
	hello Hello
	log   *slog.Logger
	pack  *packer
	stop  context.CancelFunc
	left  chan struct{} // closed when all is written

	mu      sync.Mutex
	entries map[string]*entry // by container id
	files   map[string]*file  // by path
	leaving bool
}

// Serve is podd-logd: it reads all FIFOs it is told of, and those it was told of before it was started anew. It returns
// when it is told to shut down or ctx ends, with all it has read written.
func Serve(ctx context.Context, l net.Listener, o ServeOptions) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := os.MkdirAll(o.State, 0o700); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &server{
		state: o.State, hello: Hello{Protocol, o.Build, os.Getpid()}, log: o.Log, pack: newPacker(), stop: stop, left: make(chan struct{}),
		entries: map[string]*entry{}, files: map[string]*file{},
	}
	var all sync.WaitGroup
	all.Go(func() { s.pack.run(ctx) })
	s.restore()
	unhook := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer unhook()
	var err error
	for {
		var conn net.Conn
		if conn, err = l.Accept(); err != nil {
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				o.Log.Warn("accept", "err", err)
				select { // a connection that ends may free what is missing
				case <-time.After(100 * time.Millisecond):
					continue
				case <-ctx.Done():
				}
			}
			break
		}
		all.Go(func() { s.talk(ctx, conn) })
	}
	if ctx.Err() != nil {
		err = nil
	}
	stop()
	s.leave()
	all.Wait()
	return err
}

// leave writes what was read and stops reading. The FIFOs and the records stay.
func (s *server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(s.left)
	s.leaving = true
	for _, e := range s.entries {
		for _, st := range e.streams {
			st.end(halt, time.Time{})
		}
	}
	for _, e := range s.entries {
		for _, st := range e.streams {
			<-st.done
		}
		e.file.close()
	}
}

// restore goes on with the targets of the podd-logd before.
func (s *server) restore() {
	records, err := os.ReadDir(s.state)
	if err != nil {
		s.log.Error("restore targets", "err", err)
	}
	for _, r := range records {
		id, ok := strings.CutSuffix(r.Name(), ".json")
		if !ok {
			continue
		}
		t, err := s.recorded(id)
		if err == nil {
			err = s.ensure(t)
		}
		if err != nil {
			s.log.Error("restore target", "id", id, "err", err)
		}
	}
}

// recorded gives the target that keep has written.
func (s *server) recorded(id string) (t Target, err error) {
	b, err := os.ReadFile(filepath.Join(s.state, id+".json"))
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, err
	}
	if t.ID != id {
		return t, fmt.Errorf("record is of %q", t.ID)
	}
	return t, t.validate()
}

func (s *server) talk(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer unhook()
	in := bufio.NewReaderSize(conn, maxMessage)
	for {
		b, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		var q request
		var r reply
		if err := json.Unmarshal(b, &q); err != nil {
			r.Error = "request: " + err.Error()
		} else if q.Op == "tap" && q.Protocol == Protocol {
			s.tap(conn, in, q.ID)
			return
		} else {
			r = s.answer(ctx, q)
		}
		if !s.reply(conn, r) {
			return
		}
		if q.Op == "shutdown" {
			s.stop()
			<-s.left // the end of the connection is what Shutdown waits for
			return
		}
	}
}

func (s *server) reply(conn net.Conn, r reply) bool {
	r.Hello = s.hello
	b, err := json.Marshal(r)
	if err != nil {
		return false
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Write(append(b, '\n'))
	return err == nil
}

func (s *server) answer(ctx context.Context, q request) (r reply) {
	var err error
	switch {
	case q.Op == "hello" || q.Op == "shutdown":
	case q.Protocol != Protocol:
		err = fmt.Errorf("protocol %d is asked, this is %d", q.Protocol, Protocol)
	case q.Op == "ensure" && q.Target != nil:
		err = s.ensure(*q.Target)
	case q.Op == "drain":
		r.Pending = !s.drain(ctx, q.ID)
	case q.Op == "remove":
		err = s.remove(q.ID)
	case q.Op == "list":
		r.IDs = s.list()
	case q.Op == "losses":
		r.Losses = s.losses()
	default:
		err = fmt.Errorf("operation %q is not known", q.Op)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (s *server) ensure(t Target) error {
	t = t.withDefaults()
	if err := t.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return errors.New("shutting down")
	}
	reads := &taps{}
	if e := s.entries[t.ID]; e != nil {
		if e.target.Path != t.Path || e.target.Stdout != t.Stdout || e.target.Stderr != t.Stderr || e.target.Stdin != t.Stdin {
			return fmt.Errorf("%s is written from other FIFOs or to another file already: %s", t.ID, e.target.Path)
		}
		if e.intact() {
			e.target = t
			e.file.resize(t.MaxSize, t.MaxFiles)
			return s.keep(t)
		}
		s.drop(e)
		reads = e.taps
	}
	e, err := s.begin(t, reads)
	if err != nil {
		return err
	}
	for _, st := range e.streams {
		go st.run() // ended by remove, drop and leave, which wait for st.done
	}
	s.entries[t.ID] = e
	return nil
}

// intact is false when a FIFO was taken away or replaced, so that the next writer would wait for a reader forever.
func (e *entry) intact() bool {
	for _, st := range e.streams {
		if !st.reads() {
			return false
		}
	}
	if e.target.Stdin == "" {
		return true
	}
	_, err := os.Lstat(e.target.Stdin)
	return err == nil
}

// drop stops reading for a target. The lock is held.
func (s *server) drop(e *entry) {
	for _, st := range e.streams {
		st.end(halt, time.Time{})
	}
	for _, st := range e.streams {
		<-st.done
	}
	delete(s.entries, e.target.ID)
	s.release(e.file)
}

// begin opens all that a target needs, or nothing. The lock is held.
func (s *server) begin(t Target, reads *taps) (*entry, error) {
	e := &entry{target: t, taps: reads}
	var err error
	if e.file, err = s.open(t); err != nil {
		return nil, err
	}
	for _, n := range [][2]string{{"stdout", t.Stdout}, {"stderr", t.Stderr}} {
		if n[1] == "" {
			continue
		}
		var st *stream
		if st, err = openStream(n[0], n[1], e.file, e.taps); err != nil {
			break
		}
		e.streams = append(e.streams, st)
	}
	if err == nil && t.Stdin != "" {
		err = ensureFIFO(t.Stdin)
	}
	if err == nil {
		err = s.keep(t)
	}
	if err != nil {
		for _, st := range e.streams {
			st.leave()
		}
		s.release(e.file)
		return nil, err
	}
	return e, nil
}

// open gives the file of a path; targets of the same path share it. The lock is held.
func (s *server) open(t Target) (*file, error) {
	f := s.files[t.Path]
	if f == nil {
		var err error
		if f, err = openFile(t.Path, t.MaxSize, t.MaxFiles, s.pack.add); err != nil {
			return nil, err
		}
		s.files[t.Path] = f
	}
	f.refs++
	return f, nil
}

// release closes a file that no target uses any more. The lock is held.
func (s *server) release(f *file) {
	if f.refs--; f.refs == 0 {
		delete(s.files, f.path)
		f.close()
	}
}

// keep records the target for the next podd-logd.
func (s *server) keep(t Target) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	name := filepath.Join(s.state, t.ID+".json")
	if old, err := os.ReadFile(name); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.WriteFile(name+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

func (s *server) streams(id string) []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		return e.streams
	}
	return nil
}

func (s *server) drain(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, drainTurn)
	defer cancel()
	for _, st := range s.streams(id) {
		select {
		case <-st.drained():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *server) remove(id string) error {
	if err := validateID(id); err != nil {
		return err
	}
	s.mu.Lock()
	e := s.entries[id]
	s.mu.Unlock()
	if e == nil {
		t, _ := s.recorded(id) // one that could not be taken up again may have FIFOs
		return s.forget(id, t)
	}
	until := time.Now().Add(drainLimit)
	for _, st := range e.streams {
		st.end(drain, until)
	}
	for _, st := range e.streams {
		<-st.done
	}
	e.taps.end()
	if err := s.forget(id, e.target); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[id] == e { // not if two removed at once
		delete(s.entries, id)
		s.release(e.file)
	}
	return nil
}

// forget removes the FIFOs and, last, the record that says where they are.
func (s *server) forget(id string, t Target) error {
	for _, name := range []string{t.Stdout, t.Stderr, t.Stdin, filepath.Join(s.state, id+".json")} {
		if name == "" {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *server) losses() []Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Loss
	for id, e := range s.entries {
		if l := e.file.tell(); l.records > 0 {
			all = append(all, Loss{ID: id, Lines: l.records, Bytes: l.bytes, Cause: l.cause.Error()})
		}
	}
	return all
}

func (s *server) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.entries))
	for id := range s.entries {
		ids = append(ids, id)
	}
	return ids
}
