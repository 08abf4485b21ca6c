package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"podd/runtime/containers"
)

// handlers are OCI runtimes beside runc: paths of programs by the names of handlers. It is a flag.
type handlers map[string]string

func (h *handlers) String() string {
	if h == nil {
		return ""
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(*h)) {
		all = append(all, name+"="+(*h)[name])
	}
	return strings.Join(all, ",")
}

// Set adds what String gives.
func (h *handlers) Set(s string) error {
	for one := range strings.SplitSeq(s, ",") {
		name, path, ok := strings.Cut(one, "=")
		if !ok {
			return fmt.Errorf("%q: must be a name and a path, like crun=/usr/bin/crun", one)
		}
		if *h == nil {
			*h = handlers{}
		}
		(*h)[name] = path
	}
	return nil
}

func (h *handlers) Type() string { return "NAME=PATH" }

func (h *handlers) check() error {
	for name, path := range *h {
		if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 || name == containers.DefaultHandler {
			return fmt.Errorf("runtime-handler %q: must be lowercase letters, digits and '-', and not %s", name, containers.DefaultHandler)
		}
		if !filepath.IsAbs(path) || strings.Contains(path, ",") {
			return fmt.Errorf("runtime-handler %s: %q: must be an absolute path without commas", name, path)
		}
	}
	return nil
}
