// Package tree reads YAML and JSON into values that know where they stood. What the values mean is not its concern.
//
// Sources may be hostile: depth and the number of values (after aliases are expanded) are bounded before memory is spent on
// them. It imports little, so that podctl can use it before the rest of podctl is there.
package tree

import (
	"bytes"
	"iter"
	"unicode/utf8"
)

// Bounds of one document.
const (
	MaxDepth  = 100     // levels of nesting
	MaxValues = 100_000 // values, counted after aliases are expanded
)

// Mistake is why a source, or a document of it, cannot be read to its end.
type Mistake struct {
	Line, Column int // from 1
	Message      string

	final bool // a bound: reading it another way does not help
}

func (m *Mistake) Error() string { return m.Message }

// Read reads the documents of data one after the other: what could be read of each, empty ones (Null) included, and the mistake
// that ended it, if there was one. A mistake in one document does not hide the next; data that is not text at all is one
// mistake.
func Read(data []byte) iter.Seq2[[]*Value, *Mistake] {
	return func(yield func([]*Value, *Mistake) bool) {
		data := bytes.TrimPrefix(data, []byte("\ufeff"))
		if bad := notText(data); bad != nil {
			yield(nil, bad)
			return
		}
		for c := range split(data) {
			if !yield(read(c)) {
				return
			}
		}
	}
}

func notText(data []byte) *Mistake {
	offset, message := bytes.IndexByte(data, 0), "a NUL byte: this is not a text file"
	if offset < 0 {
		if utf8.Valid(data) {
			return nil
		}
		offset, message = invalid(data), "not UTF-8"
	}
	line, column := position(data, offset)
	return &Mistake{Line: line, Column: column, Message: message}
}

// position turns an offset into line and column, both from 1; a column counts bytes.
func position(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	return bytes.Count(before, []byte{'\n'}) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

func invalid(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
}

// chunk is a part of a source that is decoded by itself, so that a syntax error in one document does not hide the
// next one.
type chunk struct {
	data []byte
	line int // of its first byte, from 1
}

// split cuts data before each line that begins a document ("---"). YAML allows no such line inside of one, not even in
// a block of text.
func split(data []byte) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		start, first := 0, 1
		for offset, line := 0, 1; offset < len(data); line++ {
			end := len(data)
			if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
				end = offset + i + 1
			}
			if offset > start && separator(data[offset:end]) {
				if c := data[start:offset]; !blank(c) && !yield(chunk{c, first}) {
					return
				}
				start, first = offset, line
			}
			offset = end
		}
		if c := data[start:]; !blank(c) {
			yield(chunk{c, first})
		}
	}
}

func separator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// blank tells whether data holds nothing but separators, comments and directives.
func blank(data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// read takes c as JSON if it looks like it, otherwise as YAML.
func read(c chunk) ([]*Value, *Mistake) {
	body := bytes.TrimLeft(bytes.TrimPrefix(c.data, []byte("---")), " \t\r\n")
	if len(body) > 0 && body[0] == '{' {
		roots, bad := readJSON(c)
		// {kind: Pod} is YAML that looks like JSON; {"kind": is JSON that was meant as JSON.
		if next := bytes.TrimLeft(body[1:], " \t\r\n"); bad == nil || bad.final || len(next) == 0 || next[0] == '"' {
			return roots, bad
		}
	}
	return readYAML(c)
}
