package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxMarks bounds the characters that may begin a value in one chunk of YAML, before the library builds its nodes.
// Text may hold such characters too, so it is above MaxValues.
const maxMarks = 3 * MaxValues

func tooMany(line, column int) *Mistake {
	return &Mistake{Line: line, Column: column, final: true,
		Message: fmt.Sprintf("more than %d values in one document (aliases count as what they stand for)", MaxValues)}
}

func tooDeep(line, column int) *Mistake {
	return &Mistake{Line: line, Column: column, final: true,
		Message: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
}

// readYAML reads the YAML documents of c; more than one where "..." ends them.
func readYAML(c chunk) ([]*Value, *Mistake) {
	if marks(c.data) > maxMarks {
		return nil, tooMany(c.line, 1)
	}
	dec := yaml.NewDecoder(bytes.NewReader(c.data))
	var all []*Value
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, syntax(c, err)
		}
		y := yamlReader{line: c.line - 1, bare: bareTags(c.data)}
		v, bad := y.value(&doc, 0)
		if bad != nil {
			return all, bad
		}
		all = append(all, v)
	}
}

// marks counts an upper bound of the values in data.
func marks(data []byte) int {
	n := 0
	for i, b := range data {
		switch b {
		case ',', '[', '{':
			n++
		case ':', '-', '?':
			if i+1 == len(data) || data[i+1] <= ' ' {
				n++
			}
		}
	}
	return n
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax turns an error of the library into a mistake, in the words of somebody who has the file before them.
func syntax(c chunk, err error) *Mistake {
	message := err.Error()
	line := 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		message = message[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if n := tabbed(c.data, line); n > 0 {
		return &Mistake{Line: c.line + n - 1, Column: 1, Message: "a tab in the indentation: YAML wants spaces"}
	}
	return &Mistake{Line: c.line + line - 1, Column: 1, Message: "YAML: " + message}
}

// tabbed is the line at or next to line that is indented with a tab, or 0. The library's own count may be one off.
func tabbed(data []byte, line int) int {
	n := 0
	for l := range bytes.Lines(data) {
		n++
		if n < line-1 {
			continue
		}
		if n > line+1 {
			break
		}
		indent := l[:len(l)-len(bytes.TrimLeft(l, " \t"))]
		if bytes.IndexByte(indent, '\t') >= 0 {
			return n
		}
	}
	return 0
}

// yamlReader turns nodes into values.
type yamlReader struct {
	line   int            // lines of the source before the chunk
	bare   map[place]bool // see bareTags; what is quoted or a comment may be among them
	values int
}

// place is where a node begins, as the library counts: from 1, columns in characters.
type place struct{ line, column int }

// bareTags are the places of data where a tag that is "!" alone may begin, or an anchor before it. Such a tag makes a plain
// scalar text (YAML 1.2, 6.9.1), and the library drops it.
func bareTags(data []byte) map[place]bool {
	found := map[place]bool{}
	for n := 1; len(data) > 0 && len(found) <= MaxValues; n++ {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		column, counted := 1, 0
		for i, b := range line {
			if b != '!' || i+1 < len(line) && line[i+1] > ' ' {
				continue
			}
			at := i - len(anchorBefore(line[:i]))
			if at >= counted {
				column += utf8.RuneCount(line[counted:at])
				counted = at
			}
			found[place{n, column}] = true
		}
		data = rest
	}
	return found
}

// anchorBefore is the anchor that text ends with, and the blanks after it.
func anchorBefore(text []byte) []byte {
	word := bytes.TrimRight(text, " \t")
	begin := bytes.LastIndexAny(word, " \t,[{") + 1
	if begin == len(word) || word[begin] != '&' || len(word) == len(text) {
		return nil
	}
	return text[begin:]
}

func (y *yamlReader) fault(n *yaml.Node, format string, args ...any) *Mistake {
	return &Mistake{Line: y.line + n.Line, Column: n.Column, Message: fmt.Sprintf(format, args...)}
}

func (y *yamlReader) value(n *yaml.Node, depth int) (*Value, *Mistake) {
	switch n.Kind {
	case yaml.DocumentNode:
		return y.value(n.Content[0], depth)
	case yaml.AliasNode:
		v, bad := y.value(n.Alias, depth)
		if bad != nil && bad.final { // the alias is to blame, not the anchor
			bad.Line, bad.Column = y.line+n.Line, n.Column
		}
		return v, bad
	}
	if y.values++; y.values > MaxValues {
		return nil, tooMany(y.line+n.Line, n.Column)
	}
	v := &Value{Line: y.line + n.Line, Column: n.Column}
	if n.Kind == yaml.ScalarNode {
		return v, y.scalar(n, v)
	}
	if depth == MaxDepth {
		return nil, tooDeep(v.Line, v.Column)
	}
	if tag := n.ShortTag(); tag != "!!map" && tag != "!!seq" {
		return nil, y.fault(n, "the YAML tag %s is not supported", tag)
	}
	if n.Kind == yaml.MappingNode {
		v.Kind = Mapping
		return v, y.mapping(n, v, depth)
	}
	v.Kind = List
	for _, c := range n.Content {
		item, bad := y.value(c, depth+1)
		if bad != nil {
			return nil, bad
		}
		v.Items = append(v.Items, item)
	}
	return v, nil
}

// mapping reads the fields of n. What comes in by a merge key ("<<") yields to what the mapping says itself.
func (y *yamlReader) mapping(n *yaml.Node, v *Value, depth int) *Mistake {
	var merged []*Value
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		item, bad := y.value(content, depth+1)
		if bad != nil {
			return bad
		}
		if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
			merged = append(merged, item)
			continue
		}
		name, bad := y.key(key)
		if bad != nil {
			return bad
		}
		v.Fields = append(v.Fields, Field{Name: name, Line: y.line + key.Line, Column: key.Column, Value: item})
	}
	for _, m := range merged {
		if bad := y.merge(v, m); bad != nil {
			return bad
		}
	}
	return nil
}

// merge adds the fields of m, a mapping or a list of them, that v does not have.
func (y *yamlReader) merge(v, m *Value) *Mistake {
	sources := []*Value{m}
	if m.Kind == List {
		sources = m.Items
	}
	have := make(map[string]bool, len(v.Fields))
	for _, f := range v.Fields {
		have[f.Name] = true
	}
	for _, s := range sources {
		if s.Kind != Mapping {
			return &Mistake{Line: m.Line, Column: m.Column, Message: `"<<" must name a mapping or a list of mappings`}
		}
		for _, f := range s.Fields {
			if have[f.Name] {
				continue
			}
			have[f.Name] = true
			if y.values++; y.values > MaxValues {
				return tooMany(m.Line, m.Column)
			}
			v.Fields = append(v.Fields, f)
		}
	}
	return nil
}

// key is the name of a field. Numbers become text as everywhere in Kubernetes; what YAML takes for true, false or
// nothing (on, y, no, ~) was hardly meant as that and must be quoted.
func (y *yamlReader) key(n *yaml.Node) (string, *Mistake) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return "", y.fault(n, "a key must be a string, not %s", map[yaml.Kind]string{
			yaml.MappingNode: "a mapping (is a template left unfilled?)", yaml.SequenceNode: "a list"}[n.Kind])
	}
	var v Value
	if bad := y.scalar(n, &v); bad != nil {
		return "", bad
	}
	if v.Kind == Text || v.Kind == Number && !strings.ContainsAny(v.Text, ".eE") {
		return v.Text, nil
	}
	return "", y.fault(n, "the key %s is %s in YAML: quote it", n.Value, v.Kind)
}

const quotedStyle = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

func (y *yamlReader) scalar(n *yaml.Node, v *Value) *Mistake {
	tag := "!!str"
	if n.Style&yaml.TaggedStyle != 0 {
		tag = n.ShortTag()
	} else if n.Style&quotedStyle == 0 && !y.bare[place{n.Line, n.Column}] {
		tag = ""
	}
	if tag == "!!str" {
		v.Kind, v.Text = Text, n.Value
		return nil
	}
	v.Kind, v.Text = Resolve(n.Value)
	v.Written = n.Value
	if v.Kind == Number && v.Text == "" {
		return y.fault(n, "%s is not a number that JSON has", n.Value)
	}
	wanted, known := map[string]Kind{"!!bool": Boolean, "!!int": Number, "!!float": Number, "!!null": Null}[tag]
	switch {
	case tag == "":
	case !known:
		return y.fault(n, "the YAML tag %s is not supported", tag)
	case wanted != v.Kind:
		return y.fault(n, "%s is %s, not %s", n.Value, v.Kind, tag)
	}
	return nil
}

var words = map[string]Value{
	"": {}, "~": {}, "null": {}, "Null": {}, "NULL": {},
	".nan": {Kind: Number}, ".NaN": {Kind: Number}, ".NAN": {Kind: Number},
	".inf": {Kind: Number}, ".Inf": {Kind: Number}, ".INF": {Kind: Number},
	"+.inf": {Kind: Number}, "+.Inf": {Kind: Number}, "+.INF": {Kind: Number},
	"-.inf": {Kind: Number}, "-.Inf": {Kind: Number}, "-.INF": {Kind: Number},
}

func init() {
	for _, w := range strings.Fields("y Y yes Yes YES true True TRUE on On ON") {
		words[w] = Value{Kind: Boolean, Text: "true"}
	}
	for _, w := range strings.Fields("n N no No NO false False FALSE off Off OFF") {
		words[w] = Value{Kind: Boolean, Text: "false"}
	}
}

var float = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// Resolve says what a plain scalar is, by YAML 1.1 as Kubernetes reads it: yes and on are true, 0777 is 511, a
// date is a string. A number without text has no form in JSON.
func Resolve(s string) (Kind, string) {
	if w, ok := words[s]; ok {
		return w.Kind, w.Text
	}
	if !strings.ContainsRune("+-.0123456789", rune(s[0])) {
		return Text, s
	}
	plain := s
	if s[0] != '.' {
		plain = strings.ReplaceAll(s, "_", "")
		if n, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return Number, strconv.FormatInt(n, 10)
		}
		if n, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return Number, strconv.FormatUint(n, 10)
		}
	}
	if !float.MatchString(plain) {
		return Text, s
	}
	f, err := strconv.ParseFloat(plain, 64)
	if err != nil || math.IsInf(f, 0) {
		return Text, s
	}
	b, err := json.Marshal(f)
	if err != nil {
		return Text, s
	}
	return Number, string(b)
}
