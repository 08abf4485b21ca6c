package handler

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for value, want := range map[string]Handler{
		"/usr/bin/crun":                                    {Path: "/usr/bin/crun"},
		"io.containerd.runsc.v1":                           {Type: "io.containerd.runsc.v1"},
		"io.containerd.runsc.v1:/etc/runsc.toml":           {Type: "io.containerd.runsc.v1", Config: "/etc/runsc.toml"},
		"/opt/kata/containerd-shim-kata-qemu-v2":           {Path: "/opt/kata/containerd-shim-kata-qemu-v2", Type: "io.containerd.kata-qemu.v2"},
		"/opt/kata/containerd-shim-kata-v2:/etc/kata.toml": {Path: "/opt/kata/containerd-shim-kata-v2", Type: "io.containerd.kata.v2", Config: "/etc/kata.toml"},
		"":                                  {},
		"crun":                              {},
		"bin/crun":                          {},
		"bin/io.containerd.runsc.v1":        {},
		".v1":                               {},
		"runsc.v1":                          {},
		"io.containerd.runsc.":              {},
		"/bin/crun:/etc/crun.toml":          {},
		"io.containerd.runsc.v1:runsc.toml": {},
		"io.containerd.runsc.v1:":           {},
		"/opt/containerd-shim-kata":         {},
		"/opt/a,b":                          {},
	} {
		got, err := Parse(value)
		if (err == nil) != (want != Handler{}) || err == nil && got != want {
			t.Errorf("%q: %+v, %v; want %+v", value, got, err, want)
		}
		if err == nil && got.Shim() != strings.Contains(value, "containerd") {
			t.Errorf("%q: a shim: %v", value, got.Shim())
		}
	}
}

// TestFind looks up shims as a shell does: the first directory of PATH that has a program of that name.
func TestFind(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for file, mode := range map[string]os.FileMode{
		filepath.Join(first, "containerd-shim-a-v1"): 0o600, filepath.Join(second, "containerd-shim-a-v1"): 0o700,
		filepath.Join(first, "containerd-shim-b-v2"): 0o700, filepath.Join(second, "containerd-shim-b-v2"): 0o700,
		filepath.Join(first, "options"): 0o600,
	} {
		if err := os.WriteFile(file, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	path := ".:" + first + ":" + second
	for value, want := range map[string]string{
		"io.containerd.a.v1": second + "/containerd-shim-a-v1", "io.containerd.b.v2": first + "/containerd-shim-b-v2",
		"x.b.v2:" + first + "/options": first + "/containerd-shim-b-v2", second + "/containerd-shim-b-v2": second + "/containerd-shim-b-v2",
		"io.containerd.c.v1": "containerd-shim-c-v1: is not in " + path, first + "/containerd-shim-a-v1": "is no program",
		first + "/nope": "no such file", "x.b.v2:" + first + "/nope": "no such file", "x.b.v2:" + first: first + ": is no file",
	} {
		h, err := Parse(value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.Find(path)
		if err != nil {
			got = err.Error()
		}
		if strings.HasPrefix(want, "/") && err == nil && got != want || err != nil && !strings.Contains(got, want) || err == nil && !strings.HasPrefix(want, "/") {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
}
