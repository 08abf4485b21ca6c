package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Distro runs the distribution's own containerd (1.6 on Debian 12), which `make test` has unpacked into .build/distro or
// PODD_DISTRO names, and returns its socket. It ends with the test, after a podd that is started later has ended.
func Distro(t testing.TB) string {
	t.Helper()
	top := os.Getenv("PODD_DISTRO")
	if top == "" {
		root, err := ModuleRoot()
		if err != nil {
			t.Fatal(err)
		}
		top = filepath.Join(root, ".build/distro")
	}
	state, err := os.MkdirTemp("/run", "pd")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("/var/tmp", "pd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{state, data} {
			if err := os.RemoveAll(dir); err != nil {
				t.Errorf("remove what the distribution's containerd left: %v", err)
			}
		}
	})
	socket, config := state+"/containerd.sock", state+"/config.toml"
	content := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", %q, %q]\n[grpc]\n  address = %q\n",
		data+"/root", state+"/state", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", socket)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(state + "/containerd.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(top, "usr/bin/containerd"), "--config", config)
	cmd.Env = append(os.Environ(), fmt.Sprintf("PATH=%s/usr/bin:%s/usr/sbin:%s", top, top, os.Getenv("PATH")))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the distribution's containerd (`install/packages test` unpacks it): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(state + "/containerd.log")
			t.Fatalf("the distribution's containerd does not listen:\n%s", text)
		}
	}
}
