//go:build host

package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// The group gets all that is in the directory, however deep, and nothing that a link leads to.
func TestGiveToGroup(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, strings.Repeat("d/", 200))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(deep, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := giveToGroup(t.Context(), dir, 5000, nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | os.ModeSetgid | 0o775, deep: os.ModeDir | os.ModeSetgid | 0o770, file: 0o660} {
		if _, gid := owner(t, path); gid != 5000 || mode(t, path)&^0o005 != want&^0o005 {
			t.Errorf("%s: group %d, mode %v, want %v", path, gid, mode(t, path), want)
		}
	}
	if _, gid := owner(t, outside); gid == 5000 || mode(t, outside) != 0o600 {
		t.Errorf("what a link leads to: group %d, mode %v", gid, mode(t, outside))
	}
	if err := os.Chown(file, -1, 0); err != nil {
		t.Fatal(err)
	}
	policy := v1.FSGroupChangeOnRootMismatch
	if err := giveToGroup(t.Context(), dir, 5000, &policy); err != nil {
		t.Fatal(err)
	}
	if _, gid := owner(t, file); gid != 0 {
		t.Error("the root is the group's, and all was given again")
	}
}
