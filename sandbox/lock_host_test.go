//go:build host

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

func below(t *testing.T, parent string) *Sandboxes {
	t.Helper()
	s, err := Open(Options{CgroupParent: parent})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLock keeps a second podd from the cgroup of the first, and leaves nothing.
func TestLock(t *testing.T) {
	open := func() *Sandboxes { return below(t, fmt.Sprintf("/podd-lock-%d", os.Getpid())) }
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

// TestLockIsTakenAway: what Lock has made is gone when it is released, unless somebody uses it, and what was there before stays.
func TestLockIsTakenAway(t *testing.T) {
	outer := fmt.Sprintf("/podd-lock-away-%d", os.Getpid())
	s := below(t, outer+"/inner")
	there := func() (all []string) {
		for _, h := range slices.Concat(s.cg.trees, s.cg.spare) {
			for _, cgroup := range []string{outer, outer + "/inner", outer + "/inner/pods"} {
				if _, err := os.Stat(filepath.Join(h.at, cgroup)); err == nil {
					all = append(all, filepath.Join(h.at, cgroup))
				}
			}
		}
		return all
	}
	t.Cleanup(func() {
		for _, dir := range slices.Backward(there()) {
			_ = os.Remove(dir)
		}
	})
	lock := func() (at string, release func()) {
		t.Helper()
		release, err := s.Lock()
		if err != nil {
			t.Fatal(err)
		}
		return there()[0], release
	}
	_, release := lock()
	release()
	if left := there(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	at, release := lock()
	pods := filepath.Join(at, "inner", "pods")
	if err := os.Mkdir(pods, 0o755); err != nil {
		t.Fatal(err)
	}
	release()
	if left := there(); len(left) != 3 {
		t.Errorf("in use: %v", left)
	}
	if err := os.Remove(pods); err != nil {
		t.Fatal(err)
	}
	_, release = lock()
	release()
	if left := there(); len(left) != 2 {
		t.Errorf("there before: %v", left)
	}
}

// TestLockIsOnWhatIsThere: a directory that who had the lock before has taken away locks nobody out.
func TestLockIsOnWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cgroup")
	f, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := lock(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("a second lock: %v", err)
	}
	for _, change := range []func(string) error{os.Remove, func(dir string) error { return os.Mkdir(dir, 0o755) }} {
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if err := same(f, dir); !errors.Is(err, errTakenAway) {
			t.Errorf("the lock of what is not there any more: %v", err)
		}
	}
	// Of many that lock and release none has the lock of what is gone.
	s := below(t, fmt.Sprintf("/podd-lock-many-%d", os.Getpid()))
	t.Cleanup(func() {
		if err := s.RemoveParent(); err != nil {
			t.Error(err)
		}
	})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 300 {
				release, err := s.Lock()
				if errors.Is(err, ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.ContainsFunc(s.cg.trees, func(h hierarchy) bool { _, err := os.Stat(filepath.Join(h.at, s.cg.parent)); return err == nil }) {
					t.Error("the lock of what is not there any more")
				}
				release()
			}
		})
	}
	all.Wait()
}
