package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDirectories: of the directories that podd has made on its way to its own, a teardown leaves none that is empty, and takes
// no other.
func TestDirectories(t *testing.T) {
	base := t.TempDir()
	at := func(path string) string { return filepath.Join(base, path) }
	list := func() string {
		var all []string
		err := filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
			if name, _ := filepath.Rel(base, path); name != "." {
				all = append(all, name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(all, " ")
	}
	want := func(when, want string) {
		t.Helper()
		if got := list(); got != want {
			t.Errorf("%s there is\n%s, want\n%s", when, got, want)
		}
	}
	if err := os.MkdirAll(at("mine/log"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := config{Root: at("var/lib/podd"), State: at("var/run/podd"), LogDir: at("mine/log"), ConfigDir: at("etc/podd")}
	start := func() []string {
		t.Helper()
		if err := makeDirectories(c); err != nil {
			t.Fatal(err)
		}
		made, err := directoriesMade(c.Root)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	made := start()
	const first = "etc etc/podd etc/podd/cni etc/podd/cni/net.d etc/podd/manifests mine mine/log mine/log/containers mine/log/pods var var/lib var/lib/podd var/lib/podd/made var/run var/run/podd"
	want("after the start", first)
	for path, mode := range map[string]os.FileMode{"var": 0o755, "var/lib": 0o755, "var/lib/podd": 0o700, "var/run/podd": 0o711, "mine/log/pods": 0o755} {
		if info, err := os.Stat(at(path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if again := start(); !slices.Equal(made, again) {
		t.Errorf("made by a second start: %v, by the first %v", again, made)
	}
	used := at("etc/podd/manifests/web.yaml")
	if err := os.WriteFile(used, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeMade(c.Root, made); err != nil {
		t.Error(err)
	}
	want("after a teardown", "etc etc/podd etc/podd/manifests etc/podd/manifests/web.yaml mine mine/log var var/lib var/lib/podd var/lib/podd/made")
	if err := os.Mkdir(at("mine/log/pods"), 0o755); err != nil { // by somebody else
		t.Fatal(err)
	}
	made = start()
	if err := os.Remove(used); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.Root); err != nil { // as a purge does
		t.Fatal(err)
	}
	if err := os.Remove(c.State); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base, c.State); err != nil { // in the place of one
		t.Fatal(err)
	}
	if err := removeMade(c.Root, made); err != nil {
		t.Error(err)
	}
	want("after a purge", "mine mine/log mine/log/pods var var/run var/run/podd")
}

// TestDirectoriesFullDisk: where what was made cannot be written down, what was known stays, and no part of a path takes its place.
func TestDirectoriesFullDisk(t *testing.T) {
	root := t.TempDir()
	if err := rememberMade(root, []string{"/a"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(root, madeFile+".new")); err != nil {
		t.Fatal(err)
	}
	if err := rememberMade(root, []string{"/a", "/b"}); err == nil {
		t.Error("a full disk is no error")
	}
	if info, err := os.Lstat(filepath.Join(root, madeFile)); err != nil || !info.Mode().IsRegular() {
		t.Fatalf("what could not be written is in the place of what is known: %v, %v", info, err)
	}
	if made, err := directoriesMade(root); err != nil || !slices.Equal(made, []string{"/a"}) {
		t.Errorf("known is %v, %v", made, err)
	}
}
