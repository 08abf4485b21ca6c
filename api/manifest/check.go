package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// check holds v against t and reports every field that is unknown, there twice, or of another type. levels are the
// structs above v.
func (d *decoder) check(v *value, t reflect.Type, path string, levels []level) {
	t = elem(t)
	if v.kind == null {
		return
	}
	if opaque(t) {
		d.parse(v, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if d.want(v, mapping, path) {
			d.structure(v, t, path, levels)
		}
	case reflect.Map:
		if d.want(v, mapping, path) {
			d.twice(v, path, true)
			for _, f := range v.fields {
				d.check(f.value, t.Elem(), path+"["+f.name+"]", levels)
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if d.want(v, text, path) {
				if _, err := base64.StdEncoding.DecodeString(v.text); err != nil {
					d.at(v, path, "must be base64")
				}
			}
			return
		}
		if d.want(v, list, path) {
			for i, item := range v.items {
				d.check(item, t.Elem(), path+"["+strconv.Itoa(i)+"]", levels)
			}
		}
	case reflect.String:
		d.want(v, text, path)
	case reflect.Bool:
		d.want(v, boolean, path)
	case reflect.Int32, reflect.Int64, reflect.Int:
		if d.want(v, number, path) {
			d.integer(v, t, path)
		}
	}
}

func (d *decoder) structure(v *value, t reflect.Type, path string, levels []level) {
	d.twice(v, path, false)
	s := shapeOf(t)
	levels = append(levels[:len(levels):len(levels)], level{t, path})
	for _, f := range v.fields {
		if d.more {
			return
		}
		at := join(path, f.name)
		if ft := s.types[f.name]; ft != nil {
			d.check(f.value, ft, at, levels)
			continue
		}
		message := "unknown field"
		if h := hint(levels, f.name); h != "" {
			message += " (" + h + ")"
		}
		d.problem(f.line, f.column, at, "%s", message)
	}
}

// twice reports the keys of v that are there more than once.
func (d *decoder) twice(v *value, path string, free bool) {
	first := make(map[string]int, len(v.fields))
	for _, f := range v.fields {
		line, again := first[f.name]
		if !again {
			first[f.name] = f.line
			continue
		}
		at := join(path, f.name)
		if free {
			at = path + "[" + f.name + "]"
		}
		d.problem(f.line, f.column, at, "duplicate field (first on line %d)", line)
	}
}

// want reports a value of another kind than the field has.
func (d *decoder) want(v *value, k kind, path string) bool {
	if v.kind == k {
		return true
	}
	message := fmt.Sprintf("must be %s, not %s", k, v.kind)
	switch {
	case v.kind == boolean || v.kind == number:
		message += " (" + short(v.written) + ")"
		if k == text {
			message += ": quote it"
		}
	case v.kind == text && v.text != "":
		message += " (" + short(v.text) + ")"
		if n, _ := resolve(v.text); n == k && (k == number || k == boolean) {
			message += ": take the quotes away"
		}
	case v.kind == mapping && k == list:
		message += `: begin each item with "- "`
	}
	d.at(v, path, "%s", message)
	return false
}

// short is a piece of a source that fits on a line of an error.
func short(s string) string {
	s = strconv.Quote(s)
	s = s[1 : len(s)-1]
	if len(s) > 40 {
		return s[:37] + "..."
	}
	return s
}

func (d *decoder) integer(v *value, t reflect.Type, path string) {
	_, err := strconv.ParseInt(v.text, 10, t.Bits())
	switch {
	case err == nil:
	case strings.ContainsAny(v.text, ".eE"):
		d.at(v, path, "must be a whole number, not %s", short(v.written))
	default:
		d.at(v, path, "%s is out of range: %d bits hold it", short(v.written), t.Bits())
	}
}

// parse lets a type that reads its JSON itself do so.
func (d *decoder) parse(v *value, t reflect.Type, path string) {
	err := json.Unmarshal(v.encode(nil), reflect.New(t).Interface())
	if err == nil {
		return
	}
	said := v.text
	if v.kind == list || v.kind == mapping {
		said = v.kind.String()
	}
	switch t.Name() {
	case "Quantity":
		d.at(v, path, "%s is not a quantity: write a number with a suffix, like 500m, 64Mi or 2", short(said))
	case "Time", "MicroTime":
		d.at(v, path, "%s is not a time: write it like 2006-01-02T15:04:05Z", short(said))
	case "IntOrString":
		d.at(v, path, "must be a number or a string, not %s", short(said))
	default:
		d.at(v, path, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}
