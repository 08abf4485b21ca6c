package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRuntimes: a handler whose program is not there, or is none, is a failure that names it.
func TestRuntimes(t *testing.T) {
	program, text, bundle := filepath.Join(t.TempDir(), "crun"), filepath.Join(t.TempDir(), "text"), t.TempDir()
	shim := filepath.Join(bundle, "containerd-shim-runsc-v1")
	for path, mode := range map[string]os.FileMode{program: 0o700, text: 0o600, shim: 0o700} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		handlers map[string]string
		level    level
		detail   string
	}{
		{map[string]string{"crun": program}, ok, "crun=" + program},
		{map[string]string{"a": "io.containerd.runsc.v1", "b": shim + ":" + text}, ok, "a=io.containerd.runsc.v1, b=" + shim + ":" + text},
		{map[string]string{"a": "io.containerd.runsc.v2", "b": shim + ":/nope"}, bad, "no program: a=io.containerd.runsc.v2, b=" + shim + ":/nope"},
		{map[string]string{"crun": program, "kata": "/nope"}, bad, "no program: kata=/nope"},
		{map[string]string{"b": text, "a": "/nope"}, bad, "no program: a=/nope, b=" + text},
	} {
		if got := runtimes(c.handlers, bundle); got.Level != c.level || got.Detail != c.detail || (got.Advice == "") != (c.level == ok) {
			t.Errorf("%v: %+v", c.handlers, got)
		}
	}
}
