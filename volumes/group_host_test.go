//go:build host

package volumes

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// A tree that is the group's already is not touched again, so that an interrupted run comes further each time. One that is
// larger than what is read of a directory at once is given as a whole.
func TestGiveToGroupAgain(t *testing.T) {
	dir := t.TempDir()
	many := 1100
	for i := range many {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("0", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	changed := func() (times []unix.Timespec) {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != many+1 {
			t.Fatal(len(entries), err)
		}
		for _, e := range entries {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, e.Name()), &st); err != nil || st.Gid != 5000 {
				t.Fatalf("%s: group %d, %v", e.Name(), st.Gid, err)
			}
			times = append(times, st.Ctim)
		}
		return times
	}
	if err := giveToGroup(t.Context(), dir, 5000, nil); err != nil {
		t.Fatal(err)
	}
	first := changed()
	if err := os.Chmod(filepath.Join(dir, "7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := giveToGroup(t.Context(), dir, 5000, nil); err != nil {
		t.Fatal(err)
	}
	touched := 0
	for i, at := range changed() {
		if at != first[i] {
			touched++
		}
	}
	if touched != 1 || mode(t, filepath.Join(dir, "7")) != 0o660 {
		t.Errorf("%d of %d were touched, %v", touched, many, mode(t, filepath.Join(dir, "7")))
	}
}
