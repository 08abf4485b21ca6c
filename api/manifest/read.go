package manifest

import (
	"fmt"
	"io"
	"slices"

	"podd/api/manifest/tree"
)

// decoder holds what was found in one source so far.
type decoder struct {
	source    string
	kinds     []objectKind // that are taken
	named     bool         // an object must have a name
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
func (d *decoder) at(v *tree.Value, path, format string, args ...any) {
	d.problem(v.Line, v.Column, path, format, args...)
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
	for roots, bad := range tree.Read(data) {
		d.roots(roots)
		if bad != nil {
			d.problem(bad.Line, bad.Column, "", "%s", bad.Message)
		}
		if d.more {
			return
		}
	}
}
