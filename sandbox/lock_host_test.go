//go:build host

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// TestLock keeps a second podd from the cgroup of the first, and leaves nothing.
func TestLock(t *testing.T) {
	open := func() *Sandboxes {
		s, err := Open(Options{CgroupParent: fmt.Sprintf("/podd-lock-%d", os.Getpid())})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := open(), open()
	release, err := first.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Lock(); !errors.Is(err, ErrInUse) {
		t.Errorf("lock of a second podd: %v, want %v", err, ErrInUse)
	}
	release()
	again, err := second.Lock()
	if err != nil {
		t.Fatalf("lock after the first has ended: %v", err)
	}
	again()
	if err := first.RemoveParent(); err != nil {
		t.Error(err)
	}
	parent := first.cg.parent
	for path, want := range map[string]bool{
		parent + "/kubepods/podx/y": true, parent: false, parent + "2/kubepods/podx": false, "/kubepods/podx": false,
	} {
		if first.Owns(path) != want {
			t.Errorf("owns %s: %t", path, !want)
		}
	}
}
