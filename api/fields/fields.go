// Package fields is the table of what podd honours of a pod. A field that is set and not honoured is refused with an
// error at its path, and so is a field that the table does not know, for instance one of a later version of Kubernetes:
// nothing is silently ignored.
package fields

import (
	"fmt"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Verdict is what podd does with a field.
type Verdict int

// The verdicts. Fields of the server (status, most of metadata) are Honoured.
const (
	Unknown  Verdict = iota // not in the table: refused
	Honoured                // with the values that the rule allows
	NotYet                  // a later version will
	Refused                 // makes no sense on one host
)

// Rule is a row of the table.
type Rule struct {
	Verdict Verdict
	Why     string // of a refusal, in a few words; may be empty for NotYet

	// allow, if set, says which values are honoured; parent is the struct that holds the field.
	allow func(value, parent reflect.Value) bool
	// keys, if set, are the keys that a map may have; one that ends in "-" is the beginning of keys.
	keys []string
	// meant, if set, is what was probably meant by a value that is not allowed; empty if nothing is like it.
	meant func(value string) string
}

// Lookup is the rule of a field, or of the nearest field around it that has one, as Check would use it. The path is
// written without indices: spec.containers[].image.
func Lookup(path string) Rule {
	for at := len(path); at > 0; at = strings.LastIndexAny(path[:at], ".[") {
		rule, ok := table[path[:at]]
		if ok && (at == len(path) || rule.Verdict != Honoured) {
			return rule
		}
	}
	return Rule{}
}

// Check says which fields of a pod podd does not honour: one error per field, at its path. The pod is a defaulted one:
// values that upstream's defaulting writes are accepted.
func Check(pod *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, walk("metadata", field.NewPath("metadata"), reflect.ValueOf(pod.ObjectMeta), reflect.Value{})...)
	errs = append(errs, walk("spec", field.NewPath("spec"), reflect.ValueOf(pod.Spec), reflect.Value{})...)
	errs = append(errs, checkAnnotations(pod)...)
	errs = append(errs, checkOwnUsers(pod)...)
	_, _, wrong := Bandwidth(pod)
	return append(errs, wrong...)
}

// walk checks one value and what is in it. name is its place in the table, path the same with indices.
func walk(name string, path *field.Path, v, parent reflect.Value) field.ErrorList {
	if !isSet(v) {
		return nil
	}
	rule, listed := table[name]
	if listed {
		if err := rule.check(path, v, parent); err != nil {
			return field.ErrorList{err}
		}
		if rule.keys != nil {
			return checkKeys(rule, path, v)
		}
		if rule.Verdict == Honoured {
			return nil
		}
	}
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Struct:
		return walkStruct(name, path, v)
	case v.Kind() == reflect.Slice:
		var errs field.ErrorList
		for i := range v.Len() {
			errs = append(errs, walk(name+"[]", path.Index(i), v.Index(i), v)...)
		}
		return errs
	}
	return field.ErrorList{field.Forbidden(path, "podd does not know this field")}
}

func walkStruct(name string, path *field.Path, v reflect.Value) field.ErrorList {
	var errs field.ErrorList
	for i := range v.NumField() {
		if !isSet(v.Field(i)) {
			continue
		}
		f := v.Type().Field(i)
		tag, inline := jsonName(f)
		if inline {
			errs = append(errs, walkStruct(name, path, reflect.Indirect(v.Field(i)))...)
			continue
		}
		errs = append(errs, walk(name+"."+tag, path.Child(tag), v.Field(i), v)...)
	}
	return errs
}

func jsonName(f reflect.StructField) (name string, inline bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name, f.Anonymous
	}
	return name, false
}

// isSet is false for what a manifest that says nothing would have. A pointer to an empty value is set.
func isSet(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() > 0
	}
	return v.IsValid() && !v.IsZero()
}

func (r Rule) check(path *field.Path, v, parent reflect.Value) *field.Error {
	switch {
	case r.allow != nil && r.allow(v, parent):
		return nil
	case r.allow != nil && r.meant != nil && r.meant(v.String()) != "":
		return field.Forbidden(path, fmt.Sprintf("not supported by podd yet: %q (did you mean %s? %s)", v.String(), r.meant(v.String()), r.Why))
	case r.allow != nil, r.Verdict == NotYet:
		return field.Forbidden(path, strings.TrimSpace("not supported by podd yet "+parenthesis(r.Why)))
	case r.Verdict == Refused:
		return field.Forbidden(path, strings.TrimSpace("not supported by podd "+parenthesis(r.Why)))
	}
	return nil
}

func parenthesis(why string) string {
	if why == "" {
		return ""
	}
	return "(" + why + ")"
}

func checkKeys(r Rule, path *field.Path, v reflect.Value) field.ErrorList {
	var errs field.ErrorList
keys:
	for _, key := range v.MapKeys() {
		for _, k := range r.keys {
			if key.String() == k || strings.HasSuffix(k, "-") && strings.HasPrefix(key.String(), k) {
				continue keys
			}
		}
		errs = append(errs, field.Forbidden(path.Key(key.String()), "not supported by podd yet"))
	}
	return errs
}

// checkOwnUsers refuses volumes whose files cannot be shown with the ids of a pod with users of its own. Others that cannot are
// found when the container is made.
func checkOwnUsers(pod *v1.Pod) field.ErrorList {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return nil
	}
	var errs field.ErrorList
	for i, v := range pod.Spec.Volumes {
		if v.NFS != nil {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "volumes").Index(i).Child("nfs"),
				"does not go with hostUsers: false (files of an NFS server cannot be shown with other ids)"))
		}
	}
	return errs
}

// checkAnnotations refuses annotations that once were the way to ask for a security setting: upstream turns some of
// them into fields later than podd looks, and ignores the others.
func checkAnnotations(pod *v1.Pod) field.ErrorList {
	var errs field.ErrorList
	for key := range pod.Annotations {
		for _, prefix := range securityAnnotations {
			if strings.HasPrefix(key, prefix) {
				errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations").Key(key),
					"not supported by podd (set the field of the securityContext)"))
			}
		}
	}
	return errs
}
