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
	for _, own := range []bool{true, false} {
		p := exec.Command("/bin/sh")
		p.Args = []string{"runc", "-c", "echo here; read end", "delete", "victim"}
		if !own {
			p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		}
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
		if got := c.atWork("victim"); got != own {
			t.Errorf("in podd's own PID namespace %t: at work %t", own, got)
		}
		_ = hold.Close()
		_ = p.Wait()
	}
}
