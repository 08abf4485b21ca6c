package manifest

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
)

var (
	podType  = reflect.TypeFor[v1.Pod]()
	listType = reflect.TypeFor[metav1.List]()
)

func (d *decoder) roots(all []*value) {
	for _, v := range all {
		if d.more {
			return
		}
		if v.kind != null {
			d.document(v, "", 0)
		}
	}
}

// document makes a Document of v, or more of them if it is a list. path is where v is in its document.
func (d *decoder) document(v *value, path string, depth int) {
	if v.kind != mapping {
		d.at(v, path, "a manifest is a mapping, not %s", v.kind)
		return
	}
	switch v.str("kind") {
	case "List", "PodList":
		d.list(v, path, depth)
	default:
		d.pod(v, path)
	}
}

func (d *decoder) list(v *value, path string, depth int) {
	if depth > 0 {
		d.at(v, path, "a list in a list")
		return
	}
	d.version(v, path)
	items := v.get("items")
	rest := *v
	rest.fields = nil
	for _, f := range v.fields {
		if f.value != items {
			rest.fields = append(rest.fields, f)
		}
	}
	d.check(&rest, listType, path, nil)
	if items == nil || items.kind == null || !d.want(items, list, join(path, "items")) {
		return
	}
	for i, item := range items.items {
		d.document(item, fmt.Sprintf("%s[%d]", join(path, "items"), i), depth+1)
	}
}

// version checks the apiVersion of something that is in v1.
func (d *decoder) version(v *value, path string) {
	switch got := v.get("apiVersion"); {
	case got == nil:
		d.at(v, join(path, "apiVersion"), "missing: a %s is in apiVersion v1", v.str("kind"))
	case got.kind == text && got.text != "v1":
		d.at(got, join(path, "apiVersion"), "a %s is in v1, not in %s", v.str("kind"), short(got.text))
	}
}

func (d *decoder) pod(v *value, path string) {
	before := len(d.problems)
	kind := v.get("kind")
	switch {
	case kind == nil || kind.kind == null:
		d.at(v, join(path, "kind"), "missing: a manifest begins with \"apiVersion: v1\" and \"kind: Pod\"")
	case kind.kind != text:
		d.want(kind, text, join(path, "kind"))
	case kind.text == "Pod":
		d.version(v, path)
	case strings.EqualFold(kind.text, "Pod") || strings.EqualFold(kind.text, "Pods"):
		d.at(kind, join(path, "kind"), "%s: did you mean Pod?", short(kind.text))
	default:
		d.at(kind, join(path, "kind"), "%s is not served by podd: it runs Pods", short(kind.text))
		return
	}
	d.check(v, podType, path, nil)
	if len(d.problems) > before || d.more {
		return
	}
	d.take(v, path)
}

// take decodes v with the strict decoder of Kubernetes, which may still find what check did not.
func (d *decoder) take(v *value, path string) {
	if len(d.documents) == maxDocuments {
		d.at(v, path, "more than %d documents", maxDocuments)
		d.more = true
		return
	}
	raw := v.encode(nil)
	pod := &v1.Pod{}
	strict, err := json.UnmarshalStrict(raw, pod)
	if err != nil {
		strict = append(strict, err)
	}
	for _, err := range strict {
		at := v
		message := strings.TrimPrefix(err.Error(), "json: ")
		line, column := at.line, at.column
		if m := quoted.FindStringSubmatch(message); m != nil {
			line, column = v.locate(m[1])
		}
		d.problem(line, column, path, "%s", message)
	}
	if len(strict) > 0 {
		return
	}
	d.documents = append(d.documents, Document{
		Pod: pod, Source: d.source, Line: v.line, Raw: raw,
		Kind: pod.Kind, APIVersion: pod.APIVersion, Namespace: pod.Namespace, Name: pod.Name,
		root: v,
	})
}

// quoted is the path in the strict decoder's errors: unknown field "spec.foo".
var quoted = regexp.MustCompile(`field "([^"]+)"`)
