package manifest

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"slices"
	"unicode/utf8"
)

// decoder holds what was found in one source so far.
type decoder struct {
	source    string
	kinds     []objectKind // that are taken
	documents []Document
	problems  Problems
	more      bool // there are problems beyond maxProblems
}

func (d *decoder) problem(line, column int, path, format string, args ...any) {
	if len(d.problems) == maxProblems {
		d.more = true
		return
	}
	d.problems = append(d.problems, Problem{
		Source: d.source, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// at is problem for a value.
func (d *decoder) at(v *value, path, format string, args ...any) {
	d.problem(v.line, v.column, path, format, args...)
}

// sorted is the problems in the order of the source.
func (d *decoder) sorted() Problems {
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if d.more {
		d.problems = append(d.problems, Problem{Source: d.source, Message: "and more"})
	}
	return d.problems
}

func (d *decoder) read(r io.Reader) {
	// A buffer that grows by itself would double past the bound.
	data, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	switch {
	case err != nil:
		d.problem(0, 0, "", "%v", err)
		return
	case len(data) > MaxBytes:
		d.problem(0, 0, "", "larger than %d MiB", MaxBytes>>20)
		return
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if i := bytes.IndexByte(data, 0); i >= 0 {
		d.bad(data, i, "a NUL byte: this is not a text file")
		return
	}
	if !utf8.Valid(data) {
		d.bad(data, invalid(data), "not UTF-8")
		return
	}
	for c := range split(data) {
		d.chunk(c)
		if d.more {
			return
		}
	}
}

// bad is a problem with the byte at offset.
func (d *decoder) bad(data []byte, offset int, message string) {
	line, column := position(data, offset)
	d.problem(line, column, "", "%s", message)
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

// chunk decodes c as JSON if it looks like it, otherwise as YAML.
func (d *decoder) chunk(c chunk) {
	body := bytes.TrimLeft(bytes.TrimPrefix(c.data, []byte("---")), " \t\r\n")
	if len(body) > 0 && body[0] == '{' {
		roots, bad := readJSON(c)
		if bad == nil {
			d.roots(roots)
			return
		}
		// {kind: Pod} is YAML that looks like JSON; {"kind": is JSON that was meant as JSON.
		if next := bytes.TrimLeft(body[1:], " \t\r\n"); len(next) == 0 || next[0] == '"' || bad.final {
			d.roots(roots)
			d.problem(bad.line, bad.column, "", "%s", bad.message)
			return
		}
	}
	roots, bad := readYAML(c)
	d.roots(roots)
	if bad != nil {
		d.problem(bad.line, bad.column, "", "%s", bad.message)
	}
}

// mistake is why a chunk cannot be read to its end.
type mistake struct {
	line, column int
	message      string
	final        bool // a bound: reading it another way does not help
}

func (m *mistake) Error() string { return m.message }
