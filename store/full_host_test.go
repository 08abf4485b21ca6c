//go:build host

package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestFullDisk fills the file system under the store: creates fail and say why, status goes on in memory, and all
// is well when there is space again. It needs root for the small file system.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "state.db")
	s := open(t, path)
	putPod(t, s, "a")
	ballast := filepath.Join(dir, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 4096)
	for err == nil {
		_, err = file.Write(chunk)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	big := []byte(strings.Repeat("x", 400<<10)) // more than the file has in reserve
	if _, err := s.Put(context.Background(), "/x/big", big, 0, 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write to a full disk: %v", err)
	}
	if _, ok := s.Get("/x/big"); ok {
		t.Error("what was refused is visible")
	}
	err = s.SetStatus(context.Background(), "uid-a", func(st v1.PodStatus) v1.PodStatus { st.Phase = v1.PodRunning; return st })
	if err != nil {
		t.Errorf("status on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(context.Background(), "/x/big", big, 0, 0); err != nil {
		t.Errorf("a write after there is space again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	pod, ok := s.PodByUID("uid-a")
	if e, found := s.Get("/x/big"); s.Quarantined() != "" || !found || len(e.Data) != len(big) || !ok || pod.Status.Phase != v1.PodRunning {
		t.Errorf("after a reopen: quarantined %q, %v, %v", s.Quarantined(), found, pod)
	}
	if err := s.Close(); err != nil { // before the unmount
		t.Fatal(err)
	}
}
