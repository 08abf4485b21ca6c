package main

import (
	"maps"
	"testing"
)

func TestHandlers(t *testing.T) {
	for in, want := range map[string]handlers{
		"crun=/usr/bin/crun": {"crun": "/usr/bin/crun"},
		"b=/b,a=/a":          {"a": "/a", "b": "/b"},
		"g=io.containerd.runsc.v1:/etc/runsc.toml,k=/opt/containerd-shim-kata-v2": {"g": "io.containerd.runsc.v1:/etc/runsc.toml", "k": "/opt/containerd-shim-kata-v2"},
		"crun":                nil,
		"runc=/usr/bin/runc":  nil,
		"crun=bin/crun":       nil,
		"Crun=/usr/bin/crun":  nil,
		"crun=":               nil,
		"crun=/usr/bin/crun,": nil,
	} {
		var h handlers
		err := h.Set(in)
		if err == nil {
			err = h.check()
		}
		if (err == nil) != (want != nil) || want != nil && !maps.Equal(h, want) {
			t.Errorf("%s: %v, %v; want %v", in, h, err, want)
		}
		var again handlers
		if want != nil && (again.Set(h.String()) != nil || !maps.Equal(again, h)) {
			t.Errorf("%s: written as %s, read as %v", in, h.String(), again)
		}
	}
}
