package tree

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Kind is what a value is in JSON.
type Kind uint8

const (
	Null Kind = iota
	Boolean
	Number
	Text
	List
	Mapping
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "a mapping"}[k]
}

// Value is one value of a source and where it stands in it. It is never changed once its document was built; an
// alias shares the values of its anchor.
type Value struct {
	Kind         Kind
	Line, Column int
	Text         string   // boolean, number: as in JSON; text: the string itself
	Written      string   // boolean, number: as the source has it
	Items        []*Value // list
	Fields       []Field  // mapping, in the order of the source, duplicates included
}

// Field is one key of a mapping.
type Field struct {
	Name         string
	Line, Column int
	Value        *Value
}

// Get is the first field called name, or nil.
func (v *Value) Get(name string) *Value {
	for i := range v.Fields {
		if v.Fields[i].Name == name {
			return v.Fields[i].Value
		}
	}
	return nil
}

// Str is the text of the string field called name, or "".
func (v *Value) Str(name string) string {
	if f := v.Get(name); f != nil && f.Kind == Text {
		return f.Text
	}
	return ""
}

// Encode appends v as JSON.
func (v *Value) Encode(b []byte) []byte {
	switch v.Kind {
	case Null:
		return append(b, "null"...)
	case Boolean, Number:
		return append(b, v.Text...)
	case Text:
		return quote(b, v.Text)
	case List:
		b = append(b, '[')
		for i, item := range v.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.Encode(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i := range v.Fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(quote(b, v.Fields[i].Name), ':')
		b = v.Fields[i].Value.Encode(b)
	}
	return append(b, '}')
}

func quote(b []byte, s string) []byte {
	q, err := json.Marshal(s)
	if err != nil { // cannot be: every string has a JSON form
		return append(b, `""`...)
	}
	return append(b, q...)
}

// Locate follows path as far as the source has it.
func (v *Value) Locate(path string) (line, column int) {
	line, column = v.Line, v.Column
	for path != "" {
		var part string
		var index bool
		part, index, path = step(path)
		if index && v.Kind == List {
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(v.Items) {
				return line, column
			}
			v = v.Items[i]
			line, column = v.Line, v.Column
			continue
		}
		next, at := v.follow(&part, &path)
		if next == nil {
			return line, column
		}
		v, line, column = next, at.Line, at.Column
	}
	return line, column
}

// follow is the field of v that path goes on with. The keys of a free map may hold dots, so if there is no field
// called part, the longest key that path begins with is taken.
func (v *Value) follow(part, path *string) (*Value, Field) {
	whole := *part + *path
	best := -1
	for i := range v.Fields {
		name := v.Fields[i].Name
		if name == *part {
			best = i
			break
		}
		if strings.HasPrefix(whole, name) && len(name) > len(*part) &&
			(best < 0 || len(name) > len(v.Fields[best].Name)) {
			best = i
		}
	}
	if best < 0 {
		return nil, Field{}
	}
	if name := v.Fields[best].Name; name != *part {
		*path = whole[len(name):]
	}
	return v.Fields[best].Value, v.Fields[best]
}

// step takes the first element off a field path: "a.b", "[3].b" and "[key.with/dots].b" begin with a, 3 and the key.
func step(path string) (part string, index bool, rest string) {
	path = strings.TrimPrefix(path, ".")
	if strings.HasPrefix(path, "[") {
		end := strings.IndexByte(path, ']')
		if end < 0 {
			return path[1:], true, ""
		}
		return strings.Trim(path[1:end], `"`), true, path[end+1:]
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, false, ""
	}
	return path[:end], false, path[end:]
}
