package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"podd/runtime/containers"
	"podd/runtime/handler"
)

// handlers are OCI runtimes and shims beside runc, as package handler reads them, by the names of handlers. It is a flag.
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
			return fmt.Errorf("%q: must be a name and a runtime, like crun=/usr/bin/crun", one)
		}
		if *h == nil {
			*h = handlers{}
		}
		(*h)[name] = path
	}
	return nil
}

func (h *handlers) Type() string { return "NAME=RUNTIME" }

func (h *handlers) check() error {
	for name, path := range *h {
		if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 || name == containers.DefaultHandler {
			return fmt.Errorf("runtime-handler %q: must be lowercase letters, digits and '-', and not %s", name, containers.DefaultHandler)
		}
		if _, err := handler.Parse(path); err != nil {
			return fmt.Errorf("runtime-handler %s: %w", name, err)
		}
	}
	return nil
}

// parsed is what they stand for, once check has found nothing wrong.
func (h handlers) parsed() map[string]handler.Handler {
	all := map[string]handler.Handler{}
	for name, value := range h {
		all[name], _ = handler.Parse(value)
	}
	return all
}
