// Package exposition writes what pods and the host use in the text format that Prometheus reads: the kubelet's
// /metrics/resource and /metrics/cadvisor, with their names and labels.
//
// It writes each family as it comes, and keeps nothing.
package exposition

import (
	"io"
	"strconv"
	"time"
)

// ContentType is that of the text format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// flushAt is how much is held back before it is written, in bytes.
const flushAt = 32 << 10

// writer makes lines. After an error of out nothing more is written.
type writer struct {
	out io.Writer
	buf []byte
	at  []byte // the timestamp that follows a value
	err error
}

func newWriter(out io.Writer) *writer { return &writer{out: out, buf: make([]byte, 0, flushAt+4<<10)} }

// stamp sets the time of the samples that follow; the zero time is none.
func (w *writer) stamp(t time.Time) {
	w.at = w.at[:0]
	if !t.IsZero() {
		w.at = strconv.AppendInt(append(w.at, ' '), t.UnixMilli(), 10)
	}
}

const (
	gauge   = "gauge"
	counter = "counter"
)

// family begins a family of samples.
func (w *writer) family(name, kind, help string) {
	w.flush(flushAt)
	w.buf = append(append(append(w.buf, "# HELP "...), name...), ' ')
	w.buf = append(append(w.buf, help...), "\n# TYPE "...)
	w.buf = append(append(append(w.buf, name...), ' '), kind...)
	w.buf = append(w.buf, '\n')
}

// sample is one line. labels are ready-made, without braces; see labelled.
func (w *writer) sample(name string, value float64, labels ...string) {
	w.flush(flushAt)
	w.buf = append(w.buf, name...)
	open := byte('{')
	for _, l := range labels {
		if l != "" {
			w.buf = append(append(w.buf, open), l...)
			open = ','
		}
	}
	if open == ',' {
		w.buf = append(w.buf, '}')
	}
	w.buf = append(w.buf, ' ')
	if value == float64(int64(value)) && value < 1e15 && value > -1e15 {
		w.buf = strconv.AppendInt(w.buf, int64(value), 10)
	} else {
		w.buf = strconv.AppendFloat(w.buf, value, 'g', -1, 64)
	}
	w.buf = append(append(w.buf, w.at...), '\n')
}

func (w *writer) flush(above int) {
	if len(w.buf) <= above {
		return
	}
	if w.err == nil {
		_, w.err = w.out.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

// end writes what is left.
func (w *writer) end() error {
	w.flush(0)
	return w.err
}

// labelled makes the text of labels out of names and values.
func labelled(pairs ...string) string {
	var b []byte
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, pairs[i]...), '=', '"')
		for j := range len(pairs[i+1]) {
			switch c := pairs[i+1][j]; c {
			case '\\', '"':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			default:
				b = append(b, c)
			}
		}
		b = append(b, '"')
	}
	return string(b)
}

// seconds of the Unix epoch; 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
