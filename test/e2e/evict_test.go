//go:build host

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// A pod that stores more than its limits allow is evicted, with upstream's words; one within them goes on.
func testEviction(t *testing.T, s *suite) {
	fill := func(path string) string {
		return "dd if=/dev/zero of=" + path + " bs=64k count=40 2>/dev/null; " + sleepScript
	}
	within := pod{Name: "evicted-within", Script: fill("/v/big"), Spec: "restartPolicy: Always\nvolumes: [{name: v, emptyDir: {sizeLimit: 10Mi}}]",
		Container: "resources: {limits: {ephemeral-storage: 20Mi}}\nvolumeMounts: [{name: v, mountPath: /v}]"}
	s.running(t, within)
	t.Run("beyond", func(t *testing.T) { testBeyond(t, s, fill) })
	pod := s.until(t, within.Name, "there", func(*v1.Pod) bool { return true })
	if !ready(pod) || app(pod).RestartCount != 0 {
		t.Errorf("what is within its limits is not as it was: %+v", pod.Status)
	}
	s.remove(t, within.Name)
}

func testBeyond(t *testing.T, s *suite, fill func(string) string) {
	for name, c := range map[string]struct {
		pod  pod
		says string
	}{
		"volume": {pod{Script: fill("/v/big"), Spec: "volumes: [{name: v, emptyDir: {sizeLimit: 2Mi}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]"},
			`Usage of EmptyDir volume "v" exceeds the limit "2Mi". `},
		"layer": {pod{Script: fill("/big"), Container: "resources: {limits: {ephemeral-storage: 2Mi}}",
			More: "- {name: other, image: " + busybox + ", command: [sleep, '1000'], resources: {limits: {ephemeral-storage: 100Mi}}}"},
			`Container app exceeded its local ephemeral storage limit "2Mi". `},
		"pod": {pod{Script: fill("/v/big"), Spec: "volumes: [{name: v, emptyDir: {}}]",
			Container: "resources: {limits: {ephemeral-storage: 2Mi}}\nvolumeMounts: [{name: v, mountPath: /v}]"},
			"Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.pod
			p.Name = "evicted-" + name
			p.Spec += "\nrestartPolicy: Always\nterminationGracePeriodSeconds: 1000"
			s.running(t, p)
			pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
			if pod.Status.Reason != "Evicted" || pod.Status.Message != c.says {
				t.Errorf("reason %s, message %q", pod.Status.Reason, pod.Status.Message)
			}
			for _, c := range pod.Status.Conditions { // the pod's own limits are no disruption (eviction_manager.go localStorageEviction)
				if c.Type == v1.DisruptionTarget {
					t.Errorf("condition %+v", c)
				}
			}
			if end := app(pod).State.Terminated; end == nil {
				t.Errorf("app is %+v", app(pod).State)
			}
			if got := s.event(t, p.Name, "Evicted"); got != c.says {
				t.Errorf("event %q", got)
			}
			s.remove(t, p.Name)
			eventually(t, func() error { // the object of a pod that has ended goes first
				if _, err := os.Stat(filepath.Join(s.Root, "pods", string(pod.UID))); err == nil {
					return errors.New("its volumes are still there")
				}
				return nil
			})
		})
	}
}
