package manifest

import (
	"encoding/json"
	"strconv"
	"strings"
)

// kind is what a value is in JSON.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	list
	mapping
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "a mapping"}[k]
}

// value is one value of a source and where it stands in it. It is never changed once its document was built; an
// alias shares the values of its anchor.
type value struct {
	kind         kind
	line, column int
	text         string   // boolean, number: as in JSON; text: the string itself
	written      string   // boolean, number: as the source has it
	items        []*value // list
	fields       []field  // mapping, in the order of the source, duplicates included
}

// field is one key of a mapping.
type field struct {
	name         string
	line, column int
	value        *value
}

// get is the first field called name, or nil.
func (v *value) get(name string) *value {
	for i := range v.fields {
		if v.fields[i].name == name {
			return v.fields[i].value
		}
	}
	return nil
}

// str is the text of the string field called name, or "".
func (v *value) str(name string) string {
	if f := v.get(name); f != nil && f.kind == text {
		return f.text
	}
	return ""
}

// encode appends v as JSON.
func (v *value) encode(b []byte) []byte {
	switch v.kind {
	case null:
		return append(b, "null"...)
	case boolean, number:
		return append(b, v.text...)
	case text:
		return quote(b, v.text)
	case list:
		b = append(b, '[')
		for i, item := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.encode(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i := range v.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(quote(b, v.fields[i].name), ':')
		b = v.fields[i].value.encode(b)
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

// locate follows path as far as the source has it.
func (v *value) locate(path string) (line, column int) {
	line, column = v.line, v.column
	for path != "" {
		var part string
		var index bool
		part, index, path = step(path)
		if index && v.kind == list {
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(v.items) {
				return line, column
			}
			v = v.items[i]
			line, column = v.line, v.column
			continue
		}
		next, at := v.follow(&part, &path)
		if next == nil {
			return line, column
		}
		v, line, column = next, at.line, at.column
	}
	return line, column
}

// follow is the field of v that path goes on with. The keys of a free map may hold dots, so if there is no field
// called part, the longest key that path begins with is taken.
func (v *value) follow(part, path *string) (*value, field) {
	whole := *part + *path
	best := -1
	for i := range v.fields {
		name := v.fields[i].name
		if name == *part {
			best = i
			break
		}
		if strings.HasPrefix(whole, name) && len(name) > len(*part) &&
			(best < 0 || len(name) > len(v.fields[best].name)) {
			best = i
		}
	}
	if best < 0 {
		return nil, field{}
	}
	if name := v.fields[best].name; name != *part {
		*path = whole[len(name):]
	}
	return v.fields[best].value, v.fields[best]
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
