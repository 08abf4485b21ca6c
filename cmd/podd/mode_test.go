package main

import (
	"os"
	"syscall"
	"testing"
)

// TestWithMode: a directory gets its mode, whatever it had, and one that has it is not written to.
func TestWithMode(t *testing.T) {
	dir := t.TempDir()
	for _, before := range []os.FileMode{0o755, 0o700 | os.ModeSticky, 0o500} {
		if err := os.Chmod(dir, before); err != nil {
			t.Fatal(err)
		}
		if err := withMode(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("after %v: %v, %v", before, info.Mode(), err)
		}
	}
	other := t.TempDir()
	changed := func(dir string) syscall.Timespec {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ctim
	}
	before := changed(dir)
	for start := changed(other); changed(other) == start || changed(other) == before; { // until the clock of the file system has gone on
		if err := os.Chmod(other, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := withMode(dir, 0o700); err != nil || changed(dir) != before {
		t.Errorf("%v, changed at %v and then at %v", err, before, changed(dir))
	}
	if err := withMode(dir+"/none", 0o700); err == nil {
		t.Error("a directory that is not there")
	}
}
