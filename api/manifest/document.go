package manifest

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"

	"podd/api/manifest/tree"
)

var listType = reflect.TypeFor[metav1.List]()

func (d *decoder) roots(all []*tree.Value) {
	for _, v := range all {
		if d.more {
			return
		}
		if v.Kind != tree.Null {
			d.document(v, "", 0)
		}
	}
}

// document makes a Document of v, or more of them if it is a list. path is where v is in its document.
func (d *decoder) document(v *tree.Value, path string, depth int) {
	if v.Kind != tree.Mapping {
		d.at(v, path, "a manifest is a mapping, not %s", v.Kind)
		return
	}
	switch v.Str("kind") {
	case "List", "PodList":
		d.list(v, path, depth)
	default:
		d.object(v, path)
	}
}

func (d *decoder) list(v *tree.Value, path string, depth int) {
	if depth > 0 {
		d.at(v, path, "a list in a list")
		return
	}
	d.version(v, path, objectKind{version: "v1"})
	items := v.Get("items")
	rest := *v
	rest.Fields = nil
	for _, f := range v.Fields {
		if f.Value != items {
			rest.Fields = append(rest.Fields, f)
		}
	}
	d.check(&rest, listType, path, nil)
	if items == nil || items.Kind == tree.Null || !d.want(items, tree.List, join(path, "items")) {
		return
	}
	for i, item := range items.Items {
		d.document(item, fmt.Sprintf("%s[%d]", join(path, "items"), i), depth+1)
	}
}

// take decodes v with the strict decoder of Kubernetes, which may still find what check did not.
func (d *decoder) take(v *tree.Value, path string, k objectKind) {
	if len(d.documents) == maxDocuments {
		d.at(v, path, "more than %d documents", maxDocuments)
		d.more = true
		return
	}
	raw := v.Encode(nil)
	into := reflect.New(k.t).Interface()
	strict, err := json.UnmarshalStrict(raw, into)
	if err != nil {
		strict = append(strict, err)
	}
	for _, err := range strict {
		at := v
		message := strings.TrimPrefix(err.Error(), "json: ")
		line, column := at.Line, at.Column
		if m := quoted.FindStringSubmatch(message); m != nil {
			line, column = v.Locate(m[1])
		}
		d.problem(line, column, path, "%s", message)
	}
	if len(strict) > 0 {
		return
	}
	object := into.(metav1.Object) // as everything with a kind is
	pod, _ := into.(*v1.Pod)
	d.documents = append(d.documents, Document{
		Pod: pod, Source: d.source, Line: v.Line, Raw: raw,
		Kind: v.Str("kind"), APIVersion: v.Str("apiVersion"), Namespace: object.GetNamespace(), Name: object.GetName(),
		root: v,
	})
}

// quoted is the path in the strict decoder's errors: unknown field "spec.foo".
var quoted = regexp.MustCompile(`field "([^"]+)"`)
