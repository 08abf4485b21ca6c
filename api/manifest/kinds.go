package manifest

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"

	"podd/api/manifest/tree"
)

// kind of object: its name, its apiVersion, and the Go type that its fields are held against.
type objectKind struct {
	name, version string
	t             reflect.Type
}

var podKind = objectKind{"Pod", "v1", reflect.TypeFor[v1.Pod]()}

// objectKinds are what podd takes.
var objectKinds = []objectKind{
	podKind,
	{"ConfigMap", "v1", reflect.TypeFor[v1.ConfigMap]()},
	{"Secret", "v1", reflect.TypeFor[v1.Secret]()},
	{"Namespace", "v1", reflect.TypeFor[v1.Namespace]()},
	{"Service", "v1", reflect.TypeFor[v1.Service]()},
	{"ServiceAccount", "v1", reflect.TypeFor[v1.ServiceAccount]()},
	//lint:ignore SA1019 old, and served
	{"Endpoints", "v1", reflect.TypeFor[v1.Endpoints]()},
	{"Event", "v1", reflect.TypeFor[v1.Event]()},
	{"Node", "v1", reflect.TypeFor[v1.Node]()},
	{"PersistentVolume", "v1", reflect.TypeFor[v1.PersistentVolume]()},
	{"PersistentVolumeClaim", "v1", reflect.TypeFor[v1.PersistentVolumeClaim]()},
	{"PodTemplate", "v1", reflect.TypeFor[v1.PodTemplate]()},
	{"Lease", "coordination.k8s.io/v1", reflect.TypeFor[coordinationv1.Lease]()},
	{"EndpointSlice", "discovery.k8s.io/v1", reflect.TypeFor[discoveryv1.EndpointSlice]()},
	{"Event", "events.k8s.io/v1", reflect.TypeFor[eventsv1.Event]()},
	{"RuntimeClass", "node.k8s.io/v1", reflect.TypeFor[nodev1.RuntimeClass]()},
	{"PriorityClass", "scheduling.k8s.io/v1", reflect.TypeFor[schedulingv1.PriorityClass]()},
	{"StorageClass", "storage.k8s.io/v1", reflect.TypeFor[storagev1.StorageClass]()},
}

// DecodeAll is Decode for objects of every kind that podd serves.
func DecodeAll(source string, r io.Reader) ([]Document, error) {
	return decode(&decoder{source: source, kinds: objectKinds}, r)
}

// DecodeNamed is DecodeAll where an object without a name is a Problem, too: what is to be found again by it.
func DecodeNamed(source string, r io.Reader) ([]Document, error) {
	return decode(&decoder{source: source, kinds: objectKinds, named: true}, r)
}

// object makes a Document of v.
func (d *decoder) object(v *tree.Value, path string) {
	before := len(d.problems)
	k, ok := d.kindOf(v, path)
	if !ok {
		return
	}
	d.version(v, path, k)
	d.check(v, k.t, path, nil)
	if d.named {
		d.name(v, path)
	}
	if len(d.problems) > before || d.more {
		return
	}
	d.take(v, path, k)
}

// name reports that v has none. What is of another type there is reported by check.
func (d *decoder) name(v *tree.Value, path string) {
	missing := func(v *tree.Value) bool {
		return v == nil || v.Kind == tree.Null || v.Kind == tree.Text && v.Text == ""
	}
	meta := v.Get("metadata")
	if missing(meta) || meta.Kind == tree.Mapping && missing(meta.Get("name")) {
		line, column := v.Locate("metadata.name")
		d.problem(line, column, join(path, "metadata.name"), "missing: an object needs a name to be applied")
	}
}

// kindOf finds what v says it is. Where it cannot be told, that is reported.
func (d *decoder) kindOf(v *tree.Value, path string) (objectKind, bool) {
	said := v.Get("kind")
	at := join(path, "kind")
	if said == nil || said.Kind == tree.Null {
		d.at(v, at, "missing: a manifest begins with \"apiVersion: v1\" and \"kind: Pod\"")
		return podKind, len(d.kinds) == 1
	}
	if !d.want(said, tree.Text, at) {
		return podKind, len(d.kinds) == 1
	}
	named := func(k objectKind) bool { return k.name == said.Text }
	exact := slices.IndexFunc(d.kinds, func(k objectKind) bool { return named(k) && k.version == v.Str("apiVersion") })
	if exact < 0 {
		exact = slices.IndexFunc(d.kinds, named)
	}
	if exact >= 0 {
		return d.kinds[exact], true
	}
	near := slices.IndexFunc(d.kinds, func(k objectKind) bool {
		return strings.EqualFold(said.Text, k.name) || strings.EqualFold(said.Text, k.name+"s")
	})
	if near < 0 {
		near = slices.IndexFunc(d.kinds, func(k objectKind) bool { return edits(strings.ToLower(said.Text), strings.ToLower(k.name)) == 1 })
	}
	if near >= 0 {
		d.at(said, at, "%s: did you mean %s?", short(said.Text), d.kinds[near].name)
		return d.kinds[near], true
	}
	if slices.ContainsFunc(objectKinds, named) {
		d.at(said, at, "%s: here a manifest holds Pods only; podctl apply -f takes a %s", short(said.Text), said.Text)
	} else {
		d.at(said, at, "%s is not served by podd: it runs Pods", short(said.Text))
	}
	return objectKind{}, false
}

// version checks the apiVersion of v, which is a k.
func (d *decoder) version(v *tree.Value, path string, k objectKind) {
	name := v.Str("kind")
	if !strings.HasSuffix(name, "List") && name != k.name { // that was said already
		return
	}
	switch got := v.Get("apiVersion"); {
	case got == nil:
		d.at(v, join(path, "apiVersion"), "missing: %s is in apiVersion %s", article(name), k.version)
	case got.Kind == tree.Text && got.Text != k.version:
		d.at(got, join(path, "apiVersion"), "%s is in %s, not in %s", article(name), k.version, short(got.Text))
	}
}

func article(name string) string {
	if strings.ContainsAny(name[:1], "AEIOU") {
		return fmt.Sprintf("an %s", name)
	}
	return fmt.Sprintf("a %s", name)
}
