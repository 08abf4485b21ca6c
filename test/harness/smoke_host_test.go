//go:build host

package harness

import (
	"strings"
	"testing"
)

const sleeper = `
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/busybox:test
    command: ["sleep", "1000"]
`

// A podd of its own starts, runs a pod through a restart, and leaves nothing; the harness checks the latter.
func TestPrivatePodd(t *testing.T) {
	p := Start(t)
	p.Image("localhost/busybox:test")
	p.Apply(sleeper)
	p.Must("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=30s")
	p.Restart()
	if out := p.Must("get", "pod", "sleeper", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}"); out != "Running 0" {
		t.Errorf("after a restart of podd the pod is %q, want Running with no restart", out)
	}
	if out, _, code := p.Podctl("get", "pod", "nobody"); code != 1 || strings.TrimSpace(out) != "" {
		t.Errorf("podctl get of no pod: exit %d, %q", code, out)
	}
}

// The same on the distribution's containerd, which podd neither starts nor stops.
func TestDistroContainerd(t *testing.T) {
	p := Start(t, WithContainerd(Distro(t)))
	p.Image("localhost/busybox:test")
	p.Apply(sleeper)
	p.Must("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=30s")
	if out, errs, code := p.Podctl("exec", "sleeper", "--", "echo", "hello"); code != 0 || out != "hello\n" {
		t.Errorf("exec: exit %d, %q, %q", code, out, errs)
	}
	p.Restart()
	if out := p.Must("get", "pod", "sleeper", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}"); out != "Running 0" {
		t.Errorf("after a restart of podd the pod is %q, want Running with no restart", out)
	}
}
