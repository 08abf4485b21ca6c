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

var listType = reflect.TypeFor[metav1.List]()

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
		d.object(v, path)
	}
}

func (d *decoder) list(v *value, path string, depth int) {
	if depth > 0 {
		d.at(v, path, "a list in a list")
		return
	}
	d.version(v, path, objectKind{version: "v1"})
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

// take decodes v with the strict decoder of Kubernetes, which may still find what check did not.
func (d *decoder) take(v *value, path string, k objectKind) {
	if len(d.documents) == maxDocuments {
		d.at(v, path, "more than %d documents", maxDocuments)
		d.more = true
		return
	}
	raw := v.encode(nil)
	into := reflect.New(k.t).Interface()
	strict, err := json.UnmarshalStrict(raw, into)
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
	object := into.(metav1.Object) // as everything with a kind is
	pod, _ := into.(*v1.Pod)
	d.documents = append(d.documents, Document{
		Pod: pod, Source: d.source, Line: v.line, Raw: raw,
		Kind: v.str("kind"), APIVersion: v.str("apiVersion"), Namespace: object.GetNamespace(), Name: object.GetName(),
		root: v,
	})
}

// quoted is the path in the strict decoder's errors: unknown field "spec.foo".
var quoted = regexp.MustCompile(`field "([^"]+)"`)
