//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/status"
	"podd/test/harness"
)

// TestRuntimeHandler has a second OCI runtime: sandbox and members of a pod of its class are made by it, and all goes on when
// podd is restarted and the class is deleted. A pod of a handler that podd does not have waits, until podd has it.
func TestRuntimeHandler(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wrapper, ran := filepath.Join(dir, "wrapper"), filepath.Join(dir, "ran")
	runc := filepath.Join(filepath.Dir(harness.Built(t)), "libexec", "podd", "runc")
	must(t, os.WriteFile(wrapper, []byte("#!/bin/sh\necho \"$@\" >>"+ran+"\nexec "+runc+" \"$@\"\n"), 0o700))
	s := start(t, harness.WithArgs("--runtime-handler=wrapped="+wrapper, "--restart-backoff=10ms"))
	for _, handler := range []string{"wrapped", "later"} {
		class := "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: " + handler + "}\nhandler: " + handler + "\n"
		if _, errs, code := s.PodctlInput(strings.NewReader(class), "apply", "-f", "-"); code != 0 {
			t.Fatal(errs)
		}
	}
	p := sleeper("wrapped")
	p.Spec = "restartPolicy: Always\nruntimeClassName: wrapped"
	pod := s.running(t, p)
	made := func(id string) bool {
		b, err := os.ReadFile(ran)
		must(t, err)
		return slices.ContainsFunc(strings.Split(string(b), "\n"), func(line string) bool {
			return strings.Contains(line, " create ") && strings.Contains(line, id)
		})
	}
	for _, name := range []string{"", "app"} {
		if !made(status.ContainerID(pod.UID, name, 0)) {
			t.Errorf("container %q was not made by the runtime of its class", name)
		}
	}
	plain := s.running(t, sleeper("plain"))
	if made(status.ContainerID(plain.UID, "app", 0)) {
		t.Error("a pod without a class was made by it")
	}
	later := sleeper("later")
	later.Spec = "runtimeClassName: later"
	s.apply(t, later)
	if got := s.event(t, "later", "FailedCreatePodSandBox"); got != `Failed to create pod sandbox: no runtime for "later" is configured` {
		t.Errorf("event FailedCreatePodSandBox: %q", got)
	}
	waits := s.until(t, "later", "there", func(*v1.Pod) bool { return true })
	if !phase(v1.PodPending)(waits) || !waiting("ContainerCreating")(waits) {
		t.Errorf("status %+v, want Pending and ContainerCreating", waits.Status)
	}
	must(t, s.client.NodeV1().RuntimeClasses().Delete(t.Context(), "wrapped", metav1.DeleteOptions{}))
	s.Restart()
	s.Podctl("exec", "wrapped", "-c", "app", "--", "kill", "1") // it may end with the container
	s.until(t, "wrapped", "app was restarted", restarts(1))
	if !made(status.ContainerID(pod.UID, "app", 1)) {
		t.Error("the next instance was not made by the runtime that the class had")
	}
	node, err := s.client.CoreV1().Nodes().Get(t.Context(), s.NodeName, metav1.GetOptions{})
	must(t, err)
	var names []string
	for _, h := range node.Status.RuntimeHandlers {
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"", "runc", "wrapped"}) {
		t.Errorf("the node's handlers are %q", names)
	}
	eventually(t, func() error { // containerd is asked meanwhile
		node, err := s.client.CoreV1().Nodes().Get(t.Context(), s.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, h := range node.Status.RuntimeHandlers[:2] {
			if h.Features == nil || h.Features.UserNamespaces == nil || !*h.Features.UserNamespaces {
				return fmt.Errorf("the node does not say that %q can make user namespaces", h.Name)
			}
		}
		return nil
	})
}
