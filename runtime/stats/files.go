package stats

import (
	"bytes"
	"math"
	"strconv"

	"golang.org/x/sys/unix"
)

// reader reads the kernel's small files. Its buffer is used again with every read, so what it returns is good until the
// next one. Go's own files would cost an allocation and an attempt to poll each.
type reader struct{ buf []byte }

// read is the content of a file in an open directory (or of a path, with unix.AT_FDCWD); nil if it cannot be read.
func (r *reader) read(dir int, name string) []byte {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if r.buf == nil {
		r.buf = make([]byte, 16<<10)
	}
	n := 0
	for {
		got, err := unix.Read(fd, r.buf[n:])
		if err == unix.EINTR { //nolint:errorlint // x/sys returns the number itself
			continue
		}
		if err != nil {
			return nil
		}
		if got == 0 {
			return r.buf[:n]
		}
		if n += got; n == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
	}
}

func (r *reader) path(name string) []byte { return r.read(unix.AT_FDCWD, name) }

// number reads a file that holds one. "max", and what v1 says for no limit, is 0 with limit, as is a file that is not
// there.
func (r *reader) number(dir int, name string) uint64 { return number(r.read(dir, name)) }

func number(b []byte) uint64 {
	b = bytes.TrimSpace(b)
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxUint64-9)/10 {
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// noLimit is above what v1 gives as the memory limit of a cgroup that has none: the highest number of bytes in pages.
const noLimit = math.MaxInt64 &^ 0xfffff

func (r *reader) limit(dir int, name string) uint64 {
	if n := r.number(dir, name); n < noLimit {
		return n
	}
	return 0
}

// pairs calls f with every "key value" line.
func pairs(b []byte, f func(key string, value uint64)) {
	for line := range bytes.Lines(b) {
		key, value, ok := bytes.Cut(line, []byte(" "))
		if ok {
			f(string(key), number(value))
		}
	}
}

// keyed is every number of such a file.
func keyed(b []byte) map[string]uint64 {
	out := make(map[string]uint64, 48)
	pairs(b, func(k string, v uint64) { out[k] = v })
	return out
}

func decimal(b []byte) float64 {
	f, _ := strconv.ParseFloat(string(b), 64)
	return f
}
