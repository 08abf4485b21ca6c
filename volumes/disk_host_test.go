//go:build host

package volumes

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The host's own programs and sysfs, with a disk of the kernel: a blank one is formatted, and after that only checked; what podd
// would see of its use before it ends a session is true.
func TestDisk(t *testing.T) {
	v, dir := open(t), t.TempDir()
	v.programs.dirs, v.sessions = "/usr/sbin:/usr/bin:/sbin:/bin", filepath.Join(dir, "sessions")
	for _, name := range []string{"blkid", "dd", "mkfs.ext4", "fsck", "mount", "losetup"} {
		if _, err := v.programs.find("", name); err != nil {
			t.Skip(err)
		}
	}
	file, at := filepath.Join(dir, "file"), filepath.Join(dir, "at")
	if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(file, nil, 0o600), os.Truncate(file, 64<<20)); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, said)
	}
	device := strings.TrimSpace(string(said))
	t.Cleanup(func() {
		_ = unix.Unmount(at, unix.MNT_DETACH)
		if said, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, said)
		}
	})
	used := func(want string) {
		t.Helper()
		mounted, err := v.mounted()
		if err != nil {
			t.Fatal(err)
		}
		unseen := func(string) bool { return false }
		for why, mounted := range map[string]func(string) bool{" is mounted": mounted, "the file system on ": unseen} {
			err := (&leaving{v: v, mounted: mounted}).unheld(t.Context(), filepath.Base(device))
			for end := time.Now().Add(time.Minute); want == "" && err != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
				err = (&leaving{v: v, mounted: mounted}).unheld(t.Context(), filepath.Base(device)) // a container that is being made may have a copy of the mount
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), why)) {
				t.Errorf("%s: %v, want %s", why, err, want)
			}
		}
	}
	for _, round := range []string{"blank", "formatted"} {
		if err := v.formatAndMount(t.Context(), unit{testIQN, 5}, device, at, "ext4", remote{}); err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		used("used")
		kept := filepath.Join(at, "kept")
		if round == "formatted" && !there(kept) {
			t.Error("it was formatted once more")
		}
		if err := errors.Join(os.WriteFile(kept, nil, 0o600), unix.Unmount(at, 0)); err != nil {
			t.Fatal(err)
		}
		used("")
	}
	if left, err := os.ReadDir(v.sessions); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
