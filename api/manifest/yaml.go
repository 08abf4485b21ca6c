package manifest

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

func tooMany(line, column int) *mistake {
	return &mistake{line: line, column: column, final: true,
		message: fmt.Sprintf("more than %d values in one document (aliases count as what they stand for)", MaxValues)}
}

func tooDeep(line, column int) *mistake {
	return &mistake{line: line, column: column, final: true,
		message: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
}

// readYAML reads the YAML documents of c; more than one where "..." ends them.
func readYAML(c chunk) ([]*value, *mistake) {
	if marks(c.data) > maxMarks {
		return nil, tooMany(c.line, 1)
	}
	dec := yaml.NewDecoder(bytes.NewReader(c.data))
	var all []*value
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
func syntax(c chunk, err error) *mistake {
	message := err.Error()
	line := 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		message = message[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if n := tabbed(c.data, line); n > 0 {
		return &mistake{line: c.line + n - 1, column: 1, message: "a tab in the indentation: YAML wants spaces"}
	}
	return &mistake{line: c.line + line - 1, column: 1, message: "YAML: " + message}
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

func (y *yamlReader) fault(n *yaml.Node, format string, args ...any) *mistake {
	return &mistake{line: y.line + n.Line, column: n.Column, message: fmt.Sprintf(format, args...)}
}

func (y *yamlReader) value(n *yaml.Node, depth int) (*value, *mistake) {
	switch n.Kind {
	case yaml.DocumentNode:
		return y.value(n.Content[0], depth)
	case yaml.AliasNode:
		v, bad := y.value(n.Alias, depth)
		if bad != nil && bad.final { // the alias is to blame, not the anchor
			bad.line, bad.column = y.line+n.Line, n.Column
		}
		return v, bad
	}
	if y.values++; y.values > MaxValues {
		return nil, tooMany(y.line+n.Line, n.Column)
	}
	v := &value{line: y.line + n.Line, column: n.Column}
	if n.Kind == yaml.ScalarNode {
		return v, y.scalar(n, v)
	}
	if depth == MaxDepth {
		return nil, tooDeep(v.line, v.column)
	}
	if tag := n.ShortTag(); tag != "!!map" && tag != "!!seq" {
		return nil, y.fault(n, "the YAML tag %s is not supported", tag)
	}
	if n.Kind == yaml.MappingNode {
		v.kind = mapping
		return v, y.mapping(n, v, depth)
	}
	v.kind = list
	for _, c := range n.Content {
		item, bad := y.value(c, depth+1)
		if bad != nil {
			return nil, bad
		}
		v.items = append(v.items, item)
	}
	return v, nil
}

// mapping reads the fields of n. What comes in by a merge key ("<<") yields to what the mapping says itself.
func (y *yamlReader) mapping(n *yaml.Node, v *value, depth int) *mistake {
	var merged []*value
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
		v.fields = append(v.fields, field{name: name, line: y.line + key.Line, column: key.Column, value: item})
	}
	for _, m := range merged {
		if bad := y.merge(v, m); bad != nil {
			return bad
		}
	}
	return nil
}

// merge adds the fields of m, a mapping or a list of them, that v does not have.
func (y *yamlReader) merge(v, m *value) *mistake {
	sources := []*value{m}
	if m.kind == list {
		sources = m.items
	}
	have := make(map[string]bool, len(v.fields))
	for _, f := range v.fields {
		have[f.name] = true
	}
	for _, s := range sources {
		if s.kind != mapping {
			return &mistake{line: m.line, column: m.column, message: `"<<" must name a mapping or a list of mappings`}
		}
		for _, f := range s.fields {
			if have[f.name] {
				continue
			}
			have[f.name] = true
			if y.values++; y.values > MaxValues {
				return tooMany(m.line, m.column)
			}
			v.fields = append(v.fields, f)
		}
	}
	return nil
}

// key is the name of a field. Numbers become text as everywhere in Kubernetes; what YAML takes for true, false or
// nothing (on, y, no, ~) was hardly meant as that and must be quoted.
func (y *yamlReader) key(n *yaml.Node) (string, *mistake) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return "", y.fault(n, "a key must be a string, not %s", map[yaml.Kind]string{
			yaml.MappingNode: "a mapping (is a template left unfilled?)", yaml.SequenceNode: "a list"}[n.Kind])
	}
	var v value
	if bad := y.scalar(n, &v); bad != nil {
		return "", bad
	}
	if v.kind == text || v.kind == number && !strings.ContainsAny(v.text, ".eE") {
		return v.text, nil
	}
	return "", y.fault(n, "the key %s is %s in YAML: quote it", n.Value, v.kind)
}

const quotedStyle = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

func (y *yamlReader) scalar(n *yaml.Node, v *value) *mistake {
	tag := "!!str"
	if n.Style&yaml.TaggedStyle != 0 {
		tag = n.ShortTag()
	} else if n.Style&quotedStyle == 0 && !y.bare[place{n.Line, n.Column}] {
		tag = ""
	}
	if tag == "!!str" {
		v.kind, v.text = text, n.Value
		return nil
	}
	v.kind, v.text = resolve(n.Value)
	v.written = n.Value
	if v.kind == number && v.text == "" {
		return y.fault(n, "%s is not a number that JSON has", n.Value)
	}
	wanted, known := map[string]kind{"!!bool": boolean, "!!int": number, "!!float": number, "!!null": null}[tag]
	switch {
	case tag == "":
	case !known:
		return y.fault(n, "the YAML tag %s is not supported", tag)
	case wanted != v.kind:
		return y.fault(n, "%s is %s, not %s", n.Value, v.kind, tag)
	}
	return nil
}

var words = map[string]value{
	"": {}, "~": {}, "null": {}, "Null": {}, "NULL": {},
	".nan": {kind: number}, ".NaN": {kind: number}, ".NAN": {kind: number},
	".inf": {kind: number}, ".Inf": {kind: number}, ".INF": {kind: number},
	"+.inf": {kind: number}, "+.Inf": {kind: number}, "+.INF": {kind: number},
	"-.inf": {kind: number}, "-.Inf": {kind: number}, "-.INF": {kind: number},
}

func init() {
	for _, w := range strings.Fields("y Y yes Yes YES true True TRUE on On ON") {
		words[w] = value{kind: boolean, text: "true"}
	}
	for _, w := range strings.Fields("n N no No NO false False FALSE off Off OFF") {
		words[w] = value{kind: boolean, text: "false"}
	}
}

var float = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// resolve says what a plain scalar is, by YAML 1.1 as Kubernetes reads it: yes and on are true, 0777 is 511, a
// date is a string. A number without text has no form in JSON.
func resolve(s string) (kind, string) {
	if w, ok := words[s]; ok {
		return w.kind, w.text
	}
	if !strings.ContainsRune("+-.0123456789", rune(s[0])) {
		return text, s
	}
	plain := s
	if s[0] != '.' {
		plain = strings.ReplaceAll(s, "_", "")
		if n, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return number, strconv.FormatInt(n, 10)
		}
		if n, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return number, strconv.FormatUint(n, 10)
		}
	}
	if !float.MatchString(plain) {
		return text, s
	}
	f, err := strconv.ParseFloat(plain, 64)
	if err != nil || math.IsInf(f, 0) {
		return text, s
	}
	b, err := json.Marshal(f)
	if err != nil {
		return text, s
	}
	return number, string(b)
}
