package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTeardownAsUser: who is not root is told so, before anything else is said or done.
func TestTeardownAsUser(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		if os.Geteuid() == 0 {
			if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); no != 0 {
				ended <- no
				return
			}
		}
		cmd := command()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"teardown", "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--config-dir", filepath.Join(dir, "etc")})
		ended <- cmd.Execute()
	}()
	if err := <-ended; err == nil || err.Error() != "tear down: must be root" || out.Len() > 0 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}
