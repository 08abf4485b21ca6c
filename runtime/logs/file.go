package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// file is one live log file. Its streams share it.
type file struct {
	path    string
	rotated func(path string) // told after every rotation
	refs    int               // how many targets write into it; guarded by the server's lock

	mu       sync.Mutex
	maxSize  int64
	maxFiles int
	f        *os.File
	size     int64     // up to the end of the last whole record
	last     age       // of the newest rotated file
	checked  time.Time // when it was last seen that the name is still this file's
	lost     loss
	untold   loss // that Losses has not told yet
}

// loss counts what could not be written.
type loss struct {
	records int
	bytes   int64
	cause   error
}

func (l *loss) add(records int, bytes int64, cause error) {
	l.records, l.bytes, l.cause = l.records+records, l.bytes+bytes, cause
}

// tell is what was lost since it was called last.
func (f *file) tell() loss {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.untold
	f.untold = loss{}
	return l
}

func openFile(path string, maxSize int64, maxFiles int, rotated func(string)) (*file, error) {
	f := &file{path: path, maxSize: maxSize, maxFiles: maxFiles, rotated: rotated}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	old, err := rotatedFiles(path)
	if err != nil {
		return nil, err
	}
	if len(old) > 0 {
		f.last = old[len(old)-1].age
	}
	if err := f.open(); err != nil {
		return nil, err
	}
	if err := f.mend(); err != nil {
		_ = f.f.Close()
		return nil, err
	}
	return f, nil
}

func (f *file) open() error {
	opened, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	st, err := opened.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.path)
	}
	if err != nil {
		_ = opened.Close()
		return err
	}
	if f.f != nil {
		_ = f.f.Close()
	}
	f.f, f.size, f.checked = opened, st.Size(), time.Now()
	return nil
}

// mend makes the file end with a whole record. A writer that was killed may have left the beginning of one: if it can be
// read it is ended, else it is cut off.
func (f *file) mend() error {
	const longest = maxText + 256
	from := max(0, f.size-longest)
	tail := make([]byte, f.size-from)
	if _, err := f.f.ReadAt(tail, from); err != nil && err != io.EOF {
		return err
	}
	if len(tail) == 0 || tail[len(tail)-1] == '\n' {
		return nil
	}
	start := bytes.LastIndexByte(tail, '\n') + 1
	if _, ok := parse(tail[start:]); ok {
		_, err := f.f.Write([]byte{'\n'})
		f.size++
		return err
	}
	f.size = from + int64(start)
	return f.f.Truncate(f.size)
}

// resize changes when the file is rotated and how many are kept.
func (f *file) resize(maxSize int64, maxFiles int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.maxSize, f.maxFiles = maxSize, maxFiles
}

// limit is how many bytes are written at once: a small file is not to be filled many times over by one chunk.
func (f *file) limit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(max(1, min(bufferSize, f.maxSize/2)))
}

// write appends whole records. It does not fail and does not wait for space: what the disk does not take is dropped,
// counted, and told in the log itself as soon as the disk takes records again.
func (f *file) write(p []byte, records int, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return
	}
	if now.Sub(f.checked) > time.Second {
		f.check(now)
	}
	if f.size > 0 && f.size+int64(len(p)) > f.maxSize {
		f.rotate(now)
	}
	size := len(p)
	if f.lost.records > 0 {
		text := fmt.Sprintf("podd-logd: %d lines (%d bytes) are missing here: %v", f.lost.records, f.lost.bytes, f.lost.cause)
		p = append(record(nil, head(nil, now, "stderr"), 'F', []byte(text)), p...)
	}
	if err := f.append(p); err != nil {
		f.lost.add(records, int64(size), err)
		f.untold.add(records, int64(size), err)
		return
	}
	f.lost = loss{}
}

// append writes all of p or nothing of it.
func (f *file) append(p []byte) error {
	n, err := f.f.Write(p)
	if err == nil {
		f.size += int64(n)
		return nil
	}
	if n > 0 {
		if terr := f.f.Truncate(f.size); terr != nil {
			f.size += int64(n)
		}
	}
	if pe, ok := err.(*os.PathError); ok {
		err = pe.Err
	}
	return err
}

// check goes on with a new file if someone has taken the old one away, and learns the size if someone has cut it.
func (f *file) check(now time.Time) {
	f.checked = now
	var st unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &st); err != nil {
		return
	}
	if st.Nlink > 0 {
		f.size = st.Size
		return
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err == nil {
		_ = f.open()
	}
}

// rotate gives the live file its rotated name and starts another. If that cannot be done the live file grows on, and the
// next write tries again.
func (f *file) rotate(now time.Time) {
	next := after(f.last, now)
	name := next.name(f.path)
	fresh, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return
	}
	if st, serr := fresh.Stat(); serr != nil || st.Size() > 0 {
		_ = fresh.Close() // not ours: take the next name the next time
		f.last = next
		return
	}
	if err := exchange(name, f.path); err != nil {
		_, _ = fresh.Close(), os.Remove(name)
		return
	}
	_ = f.f.Close()
	f.f, f.size, f.checked, f.last = fresh, 0, now, next
	f.prune()
	f.rotated(f.path)
}

// exchange swaps an empty file and the live one in one step, so that a reader always finds a live file. Where the file
// system cannot, there is a moment without one.
func exchange(fresh, live string) error {
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, live, unix.RENAME_EXCHANGE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	between := live + ".new"
	if err := os.Rename(fresh, between); err != nil {
		return err
	}
	if err := os.Rename(live, fresh); err != nil {
		return err
	}
	return os.Rename(between, live)
}

// prune removes the oldest rotated files until, with the live one, there are no more than allowed.
func (f *file) prune() {
	old, err := rotatedFiles(f.path)
	if err != nil {
		return
	}
	for len(old) > f.maxFiles-1 {
		name := filepath.Join(filepath.Dir(f.path), old[0].age.name(filepath.Base(f.path)))
		_ = os.Remove(name)
		_ = os.Remove(name + ".gz")
		old = old[1:]
	}
}

func (f *file) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f != nil {
		_ = f.f.Close()
		f.f = nil
	}
}
