package main

import (
	"bytes"
	"net"
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

// TestTeardownFinds: where there is nothing of podd, nothing is said to have ended. Who listens is asked apart from that, once.
func TestTeardownFinds(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "podd.sock")
	found := func() bool {
		return (&teardown{config: &config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Listen: socket}}).traces()
	}
	if found() {
		t.Error("found in an empty directory")
	}
	var out bytes.Buffer
	quiet := teardown{out: &out, silent: true}
	if quiet.say("podd has ended"); out.Len() > 0 {
		t.Errorf("said %q", out.String())
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if found() {
		t.Error("a socket was found")
	}
	if pid, err := listener(socket); pid != os.Getpid() || err != nil {
		t.Errorf("the listener is %d, %v", pid, err)
	}
	l.Close()
	for _, path := range []string{"state", "root/state.db"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if !found() {
			t.Errorf("%s is not found", path)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
