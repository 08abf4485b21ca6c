package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// ReadOptions are those of v1.PodLogOptions. Which container instance is meant is the path.
type ReadOptions struct {
	Follow     bool
	TailLines  *int64    // nil: all
	SinceTime  time.Time // zero: all
	LimitBytes *int64    // nil: all; counts what is written to stdout and stderr together
	Timestamps bool
	Done       <-chan struct{} // closed when nothing more will be written; following ends at the end of the log then
}

// pace is how long a follower leaves the log alone after a look: what is written fast then comes in larger pieces, each of
// which costs the same whatever its size. A line is late by no more than that.
var pace = 2 * time.Millisecond

// errLimit ends a reading that has given as many bytes as wanted.
var errLimit = errors.New("limit reached")

// Read writes the log at path to stdout and stderr: all files that are kept, the rotated ones first, then the live one.
// What is in the middle of being written is left out. With Follow it goes on, over rotations, until Done is closed and the
// end is reached, or ctx ends, which is no error. A log that does not exist is fs.ErrNotExist.
func Read(ctx context.Context, path string, o ReadOptions, stdout, stderr io.Writer) error {
	r := &reader{path: path, o: o, out: [2]io.Writer{stdout, stderr}, left: -1}
	if t := reflect.TypeOf(stdout); t != nil && t.Comparable() && stdout == stderr {
		r.one = true
	}
	if o.LimitBytes != nil {
		r.left = *o.LimitBytes
	}
	defer r.close()
	err := r.start()
	if err == nil {
		err = r.copy(ctx)
	}
	err = errors.Join(err, r.flush())
	if errors.Is(err, errLimit) || err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log %s: %w", path, err)
	}
	return nil
}

type reader struct {
	path string
	o    ReadOptions
	out  [2]io.Writer // stdout, stderr
	one  bool         // both are the same
	left int64        // bytes that may still be given; -1: no limit

	buf []byte  // for out[to]
	to  int     // 0 or 1
	mid [2]bool // the last record of the stream was a part of a line

	f    *os.File
	in   *bufio.Reader
	skip int64 // whole lines of f to leave out, of a file that cannot be searched from its end
	at   age   // of f if it is a rotated file
	old  bool  // f is a rotated file: nothing is written to it any more
	torn []byte
}

func (r *reader) flush() error {
	if len(r.buf) == 0 {
		return nil
	}
	_, err := r.out[r.to].Write(r.buf)
	r.buf = r.buf[:0]
	return err
}

func (r *reader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// open goes on with another file.
func (r *reader) open(f *os.File, rot *rotated) error {
	r.close()
	r.f, r.skip, r.torn = f, 0, r.torn[:0]
	r.old, r.at = rot != nil, age{}
	var src io.Reader = f
	if rot != nil {
		r.at = rot.age
		if rot.packed {
			z, err := gzip.NewReader(f)
			if err != nil {
				return fmt.Errorf("%s: %w", rot.name, err)
			}
			src = z
		}
	}
	if r.in == nil {
		r.in = bufio.NewReaderSize(nil, 64<<10)
	}
	r.in.Reset(src)
	return nil
}

func (r *reader) openRotated(rot rotated) error {
	f, err := os.OpenFile(filepath.Join(filepath.Dir(r.path), rot.name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) && !rot.packed { // packed since it was listed
		rot.packed, rot.name = true, rot.name+".gz"
		f, err = os.OpenFile(filepath.Join(filepath.Dir(r.path), rot.name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return err
	}
	return r.open(f, &rot)
}

func (r *reader) openLive() error {
	f, err := r.live()
	if err != nil {
		return err
	}
	return r.open(f, nil)
}

func (r *reader) live() (*os.File, error) {
	f, err := os.OpenFile(r.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	for try := 0; try < 20 && errors.Is(err, fs.ErrNotExist); try++ { // between two steps of a rotation, see exchange
		if all, lerr := rotatedFiles(r.path); lerr != nil || len(all) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
		f, err = os.OpenFile(r.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	return f, err
}

// start opens the first file that is wanted, at the first record that may be.
func (r *reader) start() error {
	if r.o.TailLines != nil {
		return r.startTail(max(0, *r.o.TailLines))
	}
	all, err := rotatedFiles(r.path)
	if err != nil {
		return err
	}
	for _, rot := range all {
		// A file is named by when it ended.
		if since := r.o.SinceTime; !since.IsZero() && rot.second < since.UTC().Format(rotatedLayout) {
			continue
		}
		if err := r.openRotated(rot); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.openLive()
}

// startTail goes back from the live file until n lines are found.
func (r *reader) startTail(n int64) error {
	all, err := r.openBeside()
	if err != nil {
		return err
	}
	for i := len(all); ; i-- {
		found, err := r.seekTail(n)
		if err != nil || found >= n || i == 0 {
			return err
		}
		n -= found
		if err := r.openRotated(all[i-1]); errors.Is(err, fs.ErrNotExist) {
			return r.startOldest() // pruned in the meantime
		} else if err != nil {
			return err
		}
	}
}

// openBeside opens the live file and lists the rotated ones of the same moment.
func (r *reader) openBeside() ([]rotated, error) {
	for {
		if err := r.openLive(); err != nil {
			return nil, err
		}
		all, err := rotatedFiles(r.path)
		if err != nil {
			return nil, err
		}
		if away, err := r.rotatedAway(); err != nil || !away {
			return all, err
		}
	}
}

func (r *reader) startOldest() error {
	all, err := rotatedFiles(r.path)
	if err != nil {
		return err
	}
	for _, rot := range all {
		if err := r.openRotated(rot); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.openLive()
}

// seekTail puts the open file before its last n lines, and says how many it has, at most n.
func (r *reader) seekTail(n int64) (int64, error) {
	if strings.HasSuffix(r.f.Name(), ".gz") {
		return r.skipTail(n)
	}
	end, err := r.f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	at, found, err := lastLines(r.f, end, n)
	if err == nil {
		_, err = r.f.Seek(at, io.SeekStart)
	}
	r.in.Reset(r.f)
	return found, err
}

// skipTail counts the lines of a packed file, and begins it again with as many to skip.
func (r *reader) skipTail(n int64) (int64, error) {
	var total int64
	for {
		b, err := r.in.ReadSlice('\n')
		if err == nil {
			if l, ok := parse(b[:len(b)-1]); ok && l.full {
				total++
			}
			continue
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if !errors.Is(err, io.EOF) {
			return 0, err
		}
		break
	}
	if _, err := r.f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	z, err := gzip.NewReader(r.f)
	if err != nil {
		return 0, err
	}
	r.in.Reset(z)
	r.skip = max(0, total-n)
	return min(n, total), nil
}

// lastLines finds where the last n whole lines before end begin. Parts belong to the line that they begin.
func lastLines(f io.ReaderAt, end, n int64) (at, found int64, err error) {
	b := backward{f: f, pos: end}
	for {
		rec, start, err := b.prev()
		if errors.Is(err, io.EOF) {
			return 0, found, nil
		}
		if err != nil {
			return 0, 0, err
		}
		if l, ok := parse(rec); ok && l.full {
			if found == n {
				return start + int64(len(rec)) + 1, n, nil
			}
			found++
		}
	}
}

// backward gives the records of a file from the last to the first. What has no newline at the end is left out.
type backward struct {
	f     io.ReaderAt
	pos   int64  // of buf
	buf   []byte // ends with the newline of the next record once begun
	begun bool
}

// prev gives the record before and where it begins, or io.EOF.
func (b *backward) prev() (rec []byte, start int64, err error) {
	for {
		if !b.begun {
			if i := bytes.LastIndexByte(b.buf, '\n'); i >= 0 {
				b.buf, b.begun = b.buf[:i+1], true
			}
		}
		if b.begun && len(b.buf) > 0 {
			last := len(b.buf) - 1
			if i := bytes.LastIndexByte(b.buf[:last], '\n'); i >= 0 || b.pos == 0 {
				rec, start = b.buf[i+1:last], b.pos+int64(i)+1
				b.buf = b.buf[:i+1]
				return rec, start, nil
			}
		}
		if b.pos == 0 {
			return nil, 0, io.EOF
		}
		size := min(64<<10, b.pos)
		more := make([]byte, size+int64(len(b.buf)))
		if _, err := b.f.ReadAt(more[:size], b.pos-size); err != nil {
			return nil, 0, err
		}
		copy(more[size:], b.buf)
		b.buf, b.pos = more, b.pos-size
	}
}

// copy gives records until the end.
func (r *reader) copy(ctx context.Context) error {
	var w *watch
	if r.o.Follow {
		w = openWatch(filepath.Dir(r.path))
		defer w.close()
		var stop func()
		ctx, stop = doneContext(ctx, r.o.Done)
		defer stop()
	}
	for {
		looked := time.Now()
		over := errors.Is(context.Cause(ctx), errDone) // before the reading, so that what came before Done is read
		if err := r.copyFile(ctx); err != nil {
			return err
		}
		moved, err := r.next()
		if err != nil || moved {
			if err != nil {
				return err
			}
			continue
		}
		if err := r.flush(); err != nil {
			return err
		}
		switch {
		case !r.o.Follow || over:
			return nil
		case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errDone):
			return ctx.Err()
		}
		w.wait(ctx)
		rest(ctx, pace-time.Since(looked))
	}
}

// rest returns after d, or when ctx ends.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// copyFile gives the records of the open file up to its present end.
func (r *reader) copyFile(ctx context.Context) error {
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errDone) {
			return ctx.Err()
		}
		b, err := r.in.ReadSlice('\n')
		switch {
		case err == nil:
			if len(r.torn) > 0 {
				r.torn = append(r.torn, b...)
				b = r.torn
				r.torn = r.torn[:0]
			}
			if err := r.give(b[:len(b)-1]); err != nil {
				return err
			}
		case errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF):
			// The beginning of a record that is just being written; longer than any record is, it is none.
			if len(r.torn) <= 4*maxText {
				r.torn = append(r.torn, b...)
			}
			if err == io.EOF {
				return nil
			}
		default:
			return err
		}
	}
}

// next goes on with the file after the open one, if there is one.
func (r *reader) next() (bool, error) {
	if !r.old {
		gone, err := r.rotatedAway()
		if err != nil || !gone {
			return false, err
		}
		// It is a rotated file now; its last records may have come after the end was seen.
		return true, nil
	}
	// The live file is opened before the others are listed: what is rotated between the two is in the list.
	live, err := r.live()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	at := r.at
	for {
		rot, ok, err := successor(r.path, at)
		if err == nil && ok {
			err = r.openRotated(rot)
		}
		if errors.Is(err, fs.ErrNotExist) { // pruned since it was listed
			at = rot.age
			continue
		}
		if err == nil && !ok && live != nil {
			return true, r.open(live, nil)
		}
		if live != nil {
			_ = live.Close()
		}
		return ok && err == nil, err
	}
}

// successor is the rotated file that follows the one of an age. While files come and go, a directory is not listed as it
// was at one moment: the list may have a new file and lack an older one. So it counts only what a second list confirms.
func successor(path string, at age) (rot rotated, ok bool, err error) {
	for range 2 {
		all, err := rotatedFiles(path)
		if err != nil {
			return rot, false, err
		}
		i := slices.IndexFunc(all, func(r rotated) bool { return r.compare(at) > 0 })
		if i < 0 {
			return rot, false, nil
		}
		rot, ok = all[i], true
	}
	return rot, ok, nil
}

// rotatedAway looks whether the open file, the live one when it was opened, has got another name since, and notes it.
func (r *reader) rotatedAway() (bool, error) {
	now, err := os.Lstat(r.path)
	mine, merr := r.f.Stat()
	if merr != nil {
		return false, merr
	}
	if err == nil && os.SameFile(now, mine) {
		return false, nil
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(r.f.Fd())))
	if err != nil {
		return false, err
	}
	rot, ok := parseRotated(filepath.Base(r.path), strings.TrimSuffix(filepath.Base(name), " (deleted)"))
	switch {
	case ok:
		r.old, r.at = true, rot.age
	case now != nil: // taken away and made again by someone else: go on with what is there
		r.old, r.at = true, age{second: "~"}
	default:
		return false, nil
	}
	return true, nil
}

// give writes one record to its output.
func (r *reader) give(b []byte) error {
	l, ok := parse(b)
	if !ok {
		return nil
	}
	if r.skip > 0 {
		if l.full {
			r.skip--
		}
		return nil
	}
	if !r.o.SinceTime.IsZero() {
		at, err := time.Parse(time.RFC3339Nano, string(l.stamp))
		if err != nil || at.Before(r.o.SinceTime) {
			return nil
		}
		r.o.SinceTime = time.Time{} // the records after are later
	}
	return r.put(l)
}

// put writes one record to its output. One buffer serves both, so that their order is kept.
func (r *reader) put(l line) error {
	stream := 0
	if l.stderr {
		stream = 1
	}
	if stream != r.to && !r.one {
		if err := r.flush(); err != nil {
			return err
		}
		r.to = stream
	}
	from := len(r.buf)
	if r.o.Timestamps && !r.mid[stream] {
		r.buf = append(r.buf, l.stamp...)
		r.buf = append(r.buf, ' ')
	}
	r.buf = append(r.buf, l.text...)
	if l.full {
		r.buf = append(r.buf, '\n')
	}
	r.mid[stream] = !l.full
	if r.left >= 0 {
		n := int64(len(r.buf) - from)
		if n >= r.left {
			r.buf = r.buf[:from+int(r.left)]
			return errLimit
		}
		r.left -= n
	}
	if len(r.buf) >= 32<<10 {
		return r.flush()
	}
	return nil
}
