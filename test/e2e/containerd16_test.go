//go:build host

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
)

// TestContainerd16 runs podd on the containerd and the runc of Debian 12, which podd neither starts nor stops: a pod of two
// containers runs, writes logs, is entered, restarted, outlives podd, and goes without a trace.
func TestContainerd16(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithContainerd(harness.Distro(t)), harness.WithArgs("--restart-backoff=10ms"))
	if node := s.must(t, "get", "node", s.NodeName, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"); !strings.Contains(node, "1.6") {
		t.Errorf("the containerd in use is %q, want 1.6", node)
	}
	made := s.running(t, pod{
		Name: "pair", Script: "echo app is up; " + sleepScript, Spec: "restartPolicy: Always\nvolumes: [{name: shared, emptyDir: {}}]",
		Container: "volumeMounts: [{name: shared, mountPath: /shared}]",
		More: `
- name: side
  image: ` + busybox + `
  command: [sh, -c, "echo written by side >/shared/file; ` + sleepScript + `"]
  volumeMounts: [{name: shared, mountPath: /shared}]
`,
	})
	s.untilLog(t, "pair", "app is up\n")
	eventually(t, func() error {
		out, errs, code := s.Podctl("exec", "pair", "-c", "app", "--", "cat", "/shared/file")
		if code != 0 || out != "written by side\n" {
			return fmt.Errorf("exec: exit %d, %q, %q", code, out, errs)
		}
		return nil
	})
	if _, _, code := s.Podctl("exec", "pair", "-c", "side", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exec of a command that exits with 7: exit %d", code)
	}
	first := s.mustTasks(t)[strings.TrimPrefix(app(made).ContainerID, "containerd://")]
	must(t, syscall.Kill(first.pid, syscall.SIGKILL))
	again := s.until(t, "pair", "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	if end := app(again).LastTerminationState.Terminated; end == nil || end.ExitCode != 137 {
		t.Errorf("the end of the first instance is %v, want 137", end)
	}
	if n := container(again, "side").RestartCount; n != 0 {
		t.Errorf("side was restarted %d times", n)
	}
	before := s.mustTasks(t)
	s.Restart()
	s.until(t, "pair", "ready", ready)
	s.same(t, before)
	own := sleeper("own-users")
	own.Spec = "hostUsers: false"
	s.apply(t, own)
	if got, want := s.event(t, own.Name, "FailedCreatePodSandBox"), "Failed to create pod sandbox: hostUsers: false: containerd's snapshotter overlayfs cannot show layers with other ids: it takes containerd 2.0 and Linux 5.19"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	s.remove(t, own.Name)
	s.must(t, "delete", "pod", "pair")
	if left := s.mustTasks(t); len(left) > 0 {
		t.Errorf("containerd still has %v", left)
	}
	s.CheckLeaks()
}
