package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"podd/api/manifest/tree"
)

// check holds v against t and reports every field that is unknown, there twice, or of another type. levels are the
// structs above v.
func (d *decoder) check(v *tree.Value, t reflect.Type, path string, levels []level) {
	t = elem(t)
	if v.Kind == tree.Null {
		return
	}
	if opaque(t) {
		d.parse(v, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if d.want(v, tree.Mapping, path) {
			d.structure(v, t, path, levels)
		}
	case reflect.Map:
		if d.want(v, tree.Mapping, path) {
			d.twice(v, path, true)
			for _, f := range v.Fields {
				d.check(f.Value, t.Elem(), path+"["+f.Name+"]", levels)
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if d.want(v, tree.Text, path) {
				if _, err := base64.StdEncoding.DecodeString(v.Text); err != nil {
					d.at(v, path, "must be base64")
				}
			}
			return
		}
		if d.want(v, tree.List, path) {
			for i, item := range v.Items {
				d.check(item, t.Elem(), path+"["+strconv.Itoa(i)+"]", levels)
			}
		}
	case reflect.String:
		d.want(v, tree.Text, path)
	case reflect.Bool:
		d.want(v, tree.Boolean, path)
	case reflect.Int32, reflect.Int64, reflect.Int:
		if d.want(v, tree.Number, path) {
			d.integer(v, t, path)
		}
	}
}

func (d *decoder) structure(v *tree.Value, t reflect.Type, path string, levels []level) {
	d.twice(v, path, false)
	s := shapeOf(t)
	levels = append(levels[:len(levels):len(levels)], level{t, path})
	for _, f := range v.Fields {
		if d.more {
			return
		}
		at := join(path, f.Name)
		if ft := s.types[f.Name]; ft != nil {
			d.check(f.Value, ft, at, levels)
			continue
		}
		message := "unknown field"
		if h := hint(levels, f.Name); h != "" {
			message += " (" + h + ")"
		}
		d.problem(f.Line, f.Column, at, "%s", message)
	}
}

// twice reports the keys of v that are there more than once.
func (d *decoder) twice(v *tree.Value, path string, free bool) {
	first := make(map[string]int, len(v.Fields))
	for _, f := range v.Fields {
		line, again := first[f.Name]
		if !again {
			first[f.Name] = f.Line
			continue
		}
		at := join(path, f.Name)
		if free {
			at = path + "[" + f.Name + "]"
		}
		d.problem(f.Line, f.Column, at, "duplicate field (first on line %d)", line)
	}
}

// want reports a value of another kind than the field has.
func (d *decoder) want(v *tree.Value, k tree.Kind, path string) bool {
	if v.Kind == k {
		return true
	}
	message := fmt.Sprintf("must be %s, not %s", k, v.Kind)
	switch {
	case v.Kind == tree.Boolean || v.Kind == tree.Number:
		message += " (" + short(v.Written) + ")"
		if k == tree.Text {
			message += ": quote it"
		}
	case v.Kind == tree.Text && v.Text != "":
		message += " (" + short(v.Text) + ")"
		if n, _ := tree.Resolve(v.Text); n == k && (k == tree.Number || k == tree.Boolean) {
			message += ": take the quotes away"
		}
	case v.Kind == tree.Mapping && k == tree.List:
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

func (d *decoder) integer(v *tree.Value, t reflect.Type, path string) {
	_, err := strconv.ParseInt(v.Text, 10, t.Bits())
	switch {
	case err == nil:
	case strings.ContainsAny(v.Text, ".eE"):
		d.at(v, path, "must be a whole number, not %s", short(v.Written))
	default:
		d.at(v, path, "%s is out of range: %d bits hold it", short(v.Written), t.Bits())
	}
}

// parse lets a type that reads its JSON itself do so.
func (d *decoder) parse(v *tree.Value, t reflect.Type, path string) {
	err := json.Unmarshal(v.Encode(nil), reflect.New(t).Interface())
	if err == nil {
		return
	}
	said := v.Text
	if v.Kind == tree.List || v.Kind == tree.Mapping {
		said = v.Kind.String()
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
