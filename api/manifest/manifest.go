// Package manifest reads manifests strictly, of Pods and of what else podd serves, and remembers where everything stood.
//
// A source (a file, a URL, standard input) becomes a tree of values with lines and columns, whatever it was written in:
// YAML goes through the node tree of the YAML library, JSON through the tokens of the JSON decoder. The tree is held
// against the Go type of its kind, and everything that does not fit is a Problem with path and position. What fits is
// encoded again and decoded by the strict decoder that the Kubernetes API server uses, which has the last word.
//
// Sources may be hostile: size, depth and the number of values (after aliases are expanded) are bounded before memory
// is spent on them.
package manifest

import (
	"fmt"
	"io"
	"strings"

	v1 "k8s.io/api/core/v1"

	"podd/api/manifest/tree"
)

// Bounds of what is read.
const (
	MaxBytes  = 3 << 20 // of one source, as the Kubernetes API server has it for a request body
	MaxDepth  = tree.MaxDepth
	MaxValues = tree.MaxValues

	maxProblems  = 100    // in one source; no more is said or looked for then
	maxDocuments = 10_000 // in one source
)

// Document is one object of a source.
type Document struct {
	Pod    *v1.Pod // nil if it is another kind
	Source string  // file, URL or "-"
	Line   int     // first line of the document in the source, from 1
	Raw    []byte  // the document as JSON

	Kind, APIVersion, Namespace, Name string

	root *tree.Value
}

// Problem is one thing that is wrong in a source.
type Problem struct {
	Source       string
	Line, Column int    // from 1; 0 where there is no position
	Path         string // field path, e.g. spec.containers[0].image; may be empty
	Message      string
}

// Error is source:line: path: message, without the parts that are not known.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is all that is wrong, in the order of the source: one line each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Decode reads every document of r, which are Pods. Empty documents are skipped and a List is expanded. The error is Problems with
// everything that was found; the documents without a problem are returned beside it, in order. An error of r itself
// is a Problem too.
func Decode(source string, r io.Reader) ([]Document, error) {
	return decode(&decoder{source: source, kinds: []objectKind{podKind}}, r)
}

func decode(d *decoder, r io.Reader) ([]Document, error) {
	d.read(r)
	if len(d.problems) > 0 {
		return d.documents, d.sorted()
	}
	return d.documents, nil
}

// Line tells where the field at path (as in a server's field error: spec.containers[0].image,
// metadata.labels[app]) stands in doc's source. A field that is not written there has the position of the nearest
// thing above it. Line and column count from 1.
func Line(doc Document, path string) (line, column int) {
	if doc.root == nil {
		return doc.Line, 1
	}
	return doc.root.Locate(path)
}
