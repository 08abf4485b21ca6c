package logs

import (
	"bytes"
	"time"
)

// stampLayout is RFC 3339 with nanoseconds of a fixed width, always in UTC, so that records sort as text.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// head is what stands before the tag of every record of a chunk: "<time> <stream> ".
func head(dst []byte, now time.Time, stream string) []byte {
	dst = now.UTC().AppendFormat(dst, stampLayout)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	return append(dst, ' ')
}

func record(dst, head []byte, tag byte, text []byte) []byte {
	dst = append(dst, head...)
	dst = append(dst, tag, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// frame appends records for src to dst until src is used up or dst is longer than limit. What it leaves of src is either
// to be framed again (more) or the beginning of a line that has no end yet, shorter than maxText.
func frame(dst, head, src []byte, limit int) (out, rest []byte, records int, more bool) {
	for len(src) > 0 {
		if len(dst) >= limit {
			return dst, src, records, true
		}
		window := src[:min(len(src), maxText+1)]
		end := bytes.IndexByte(window, '\n')
		switch {
		case end >= 0:
			dst = record(dst, head, 'F', src[:end])
			src = src[end+1:]
		case len(src) >= maxText:
			dst = record(dst, head, 'P', src[:maxText])
			src = src[maxText:]
		default:
			return dst, src, records, false
		}
		records++
	}
	return dst, src, records, false
}

// line is one record of a log file, its text still in the reader's buffer.
type line struct {
	stamp  []byte
	stderr bool
	full   bool // false: the text goes on in the next record of the stream
	text   []byte
}

// parse reads one record without its newline. It is false for what is not a record.
func parse(b []byte) (l line, ok bool) {
	stamp, b, ok := bytes.Cut(b, []byte{' '})
	if !ok || len(stamp) < len("2006-01-02T15:04:05Z") {
		return l, false
	}
	stream, b, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		return l, false
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		l.stderr = true
	default:
		return l, false
	}
	// Tags may be extended with ":" in the CRI format; only the first says whether the line is whole.
	tag, text, ok := bytes.Cut(b, []byte{' '})
	if !ok || len(tag) == 0 || tag[0] != 'F' && tag[0] != 'P' || len(tag) > 1 && tag[1] != ':' {
		return l, false
	}
	l.stamp, l.full, l.text = stamp, tag[0] == 'F', text
	return l, true
}
