package manifest

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// shape is what a Go struct looks like in JSON: its field names, those of inlined structs included.
type shape struct {
	types    map[string]reflect.Type
	names    []string // in the order of the declaration
	required map[string]bool
}

var shapes sync.Map // reflect.Type -> *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{types: map[string]reflect.Type{}, required: map[string]bool{}}
	s.add(t)
	got, _ := shapes.LoadOrStore(t, s)
	return got.(*shape)
}

func (s *shape) add(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous:
			s.add(elem(f.Type))
		case name != "":
			s.types[name] = f.Type
			s.required[name] = !strings.Contains(options, "omit")
			s.names = append(s.names, name)
		}
	}
}

// elem is t without pointers.
func elem(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// opaque tells whether t reads its JSON itself: quantities, times, int-or-string.
func opaque(t reflect.Type) bool { return reflect.PointerTo(t).Implements(unmarshaler) }

// inner is the struct that t holds and the mark its path gets: "[]" for the items of a list, "[key]" for those of a map.
func inner(t reflect.Type) (reflect.Type, string) {
	t = elem(t)
	mark := ""
	switch t.Kind() {
	case reflect.Slice:
		t, mark = elem(t.Elem()), "[]"
	case reflect.Map:
		t, mark = elem(t.Elem()), "[key]"
	}
	if t.Kind() != reflect.Struct || opaque(t) {
		return nil, ""
	}
	return t, mark
}

// find looks for a field called name in t and what is below it, nearest first, and tells the path of its parent
// relative to t; more than one when the nearest are equally near.
func find(t reflect.Type, name string) []string {
	type place struct {
		t    reflect.Type
		path string
	}
	seen := map[reflect.Type]bool{t: true}
	for level := []place{{t, ""}}; len(level) > 0; {
		var found []string
		var next []place
		for _, p := range level {
			s := shapeOf(p.t)
			if s.types[name] != nil {
				found = append(found, p.path)
			}
			for _, n := range s.names {
				child, mark := inner(s.types[n])
				if child == nil || seen[child] && mark == "" || n == "status" {
					continue
				}
				seen[child] = true
				next = append(next, place{child, join(p.path, n+mark)})
			}
		}
		if len(found) > 0 {
			return found
		}
		if len(next) > 200 { // deeper than anybody would misplace a field
			return nil
		}
		level = next
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// resembling is the field of t that name was probably meant to be, or "". Distance is how many letters may differ.
func resembling(t reflect.Type, name string, distance int) string {
	best, least := "", distance+1
	for _, n := range shapeOf(t).names {
		if strings.EqualFold(n, name) {
			return n
		}
		limit := min(distance, (min(len(n), len(name))+1)/3) // short names resemble everything
		if d := edits(strings.ToLower(n), strings.ToLower(name)); d <= limit && d < least {
			best, least = n, d
		}
	}
	return best
}

// resources are what requests and limits have, in which there is no field to look for.
var resources = []string{"cpu", "memory", "storage", "ephemeral-storage"}

// alike is the only field of t, or the only required one, that goes with name; or "".
func alike(t reflect.Type, name string, goes func(field, name string) bool) string {
	var found, required []string
	for _, n := range shapeOf(t).names {
		if !goes(n, name) {
			continue
		}
		if found = append(found, n); shapeOf(t).required[n] {
			required = append(required, n)
		}
	}
	switch {
	case len(found) == 1:
		return found[0]
	case len(required) == 1:
		return required[0]
	}
	return ""
}

// extends tells whether long is short with more words: before it, behind it or in the middle.
func extends(long, short string) bool {
	if len(short) < 3 || len(long) <= len(short) {
		return false
	}
	word := func(s string, i int) bool { return i == 0 || i == len(s) || 'A' <= s[i] && s[i] <= 'Z' }
	for i := range len(short) + 1 {
		rest := len(long) - (len(short) - i)
		if word(short, i) && word(long, i) && word(long, rest) && long[:i] == short[:i] && strings.EqualFold(long[rest:], short[i:]) {
			return true
		}
	}
	return false
}

// edits is the number of letters to insert, drop, replace or swap with their neighbour to come from a to b.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// level is one struct on the way from a document's root to a field.
type level struct {
	t    reflect.Type
	path string
}

// hint says what was probably meant by an unknown field called name: one of the same struct with more or
// fewer words, one that the levels above have, a misspelled one, one that belongs further down or elsewhere.
func hint(levels []level, name string) string {
	here := levels[len(levels)-1]
	below := find(here.t, name)
	child := len(below) > 0 && !strings.Contains(below[0], ".")
	near := alike(here.t, name, extends)
	switch {
	case near != "" && !child:
		return `did you mean "` + near + `"?`
	case shapeOf(here.t).types["requests"] != nil && slices.Contains(resources, name):
		if name == "storage" { // of a claim, which is seldom limited
			return name + " belongs in " + here.path + ".requests"
		}
		return name + " belongs in " + here.path + ".requests or limits"
	case child && name != "name" && len(levels) > 2:
		return name + " belongs in " + join(here.path, preferred(below))
	}
	for _, l := range slices.Backward(levels[:len(levels)-1]) {
		if shapeOf(l.t).types[name] != nil {
			if l.path == "" {
				return name + " belongs at the top level"
			}
			return name + " belongs in " + l.path
		}
	}
	if near := resembling(here.t, name, 1); near != "" {
		return `did you mean "` + near + `"?`
	}
	anywhere := find(levels[0].t, name)
	if near := alike(here.t, name, func(n, name string) bool { return extends(name, n) }); near != "" &&
		(len(anywhere) == 0 || strings.Contains(anywhere[0], ".")) {
		return `did you mean "` + near + `"?`
	}
	switch depth := func(p []string) int { return strings.Count(p[0], ".") }; {
	case len(anywhere) > 0 && (len(below) == 0 || depth(anywhere) < depth(below)):
		return name + " belongs in " + preferred(anywhere)
	case len(below) > 0:
		return name + " belongs in " + join(here.path, preferred(below))
	}
	if near := resembling(here.t, name, 3); near != "" {
		return `did you mean "` + near + `"?`
	}
	return ""
}

// preferred is the place of several that is the most usual.
func preferred(places []string) string {
	for _, usual := range []string{"containers[]", "spec", "metadata"} {
		for _, p := range places {
			if p == usual || strings.HasPrefix(p, usual+".") || strings.HasSuffix(p, "."+usual) {
				return p
			}
		}
	}
	return places[0]
}
