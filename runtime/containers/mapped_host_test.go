//go:build host

package containers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// TestSweepMapped: layers are mapped below podd's own directory, and a podd that was killed meanwhile leaves nothing.
func TestSweepMapped(t *testing.T) {
	base, err := os.MkdirTemp("/var/tmp", "podd-mapped")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(base) }()
	dir := filepath.Join(base, "mapped")
	left, empty := filepath.Join(dir, "ovl-idmapped1"), filepath.Join(dir, "ovl-idmapped2")
	layers, at := filepath.Join(base, "layers"), filepath.Join(base, "at")
	for _, d := range []string{left, empty, filepath.Join(layers, "1"), filepath.Join(layers, "2"), at} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(layers, left, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(left, unix.MNT_DETACH) }()
	if err := sweepMapped(dir); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
	if entries, err := os.ReadDir(layers); err != nil || len(entries) != 2 {
		t.Errorf("of what was mounted there %v is left, %v", entries, err)
	}
	err = mount.All([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"ro",
		"lowerdir=" + filepath.Join(layers, "1") + ":" + filepath.Join(layers, "2"), "uidmap=0:1879048192:65536", "gidmap=0:1879048192:65536"}}}, at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mount.UnmountAll(at, unix.MNT_DETACH) }()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !strings.Contains(string(table), "lowerdir="+dir+"/") {
		t.Errorf("the layers were not mapped in %s (%v):\n%s", dir, err, table)
	}
}
