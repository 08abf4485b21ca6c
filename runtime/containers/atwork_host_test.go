//go:build host

package containers

import (
	"os/exec"
	"syscall"
	"testing"
)

// TestAtWork: a runtime that is busy with a container is seen, and a process of a container that calls itself one is not.
func TestAtWork(t *testing.T) {
	c := &Client{opts: Options{Address: "/a", Namespace: "n"}}
	for namespace, flag := range map[string]uintptr{"": 0, "PID": syscall.CLONE_NEWPID, "mount": syscall.CLONE_NEWNS} {
		p := exec.Command("/bin/sh")
		p.Args = []string{"runc", "-c", "echo here; read end", "delete", "victim"}
		p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag}
		hold, err := p.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it is what it was started as
			t.Fatal(err)
		}
		if got := c.atWork("victim"); got != (flag == 0) {
			t.Errorf("in another namespace %q: at work %t", namespace, got)
		}
		_ = hold.Close()
		_ = p.Wait()
	}
}
