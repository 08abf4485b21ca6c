//go:build host

package e2e

import (
	"fmt"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// wantedEvent is an event as upstream's kubelet makes it; what it says is a regular expression of the whole message.
type wantedEvent struct {
	kind, reason, on, says string
	count                  int32 // at least
}

// eventsOf waits until a pod has these events.
func (s *suite) eventsOf(t *testing.T, pod string, wanted ...wantedEvent) {
	t.Helper()
	eventually(t, func() error {
		list, err := s.client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{
			FieldSelector: fields.Set{"involvedObject.name": pod}.String()})
		if err != nil {
			return err
		}
		for _, w := range wanted {
			found, told := false, ""
			for _, e := range list.Items {
				told += fmt.Sprintf("\n%s %s on %q, %d times: %s", e.Type, e.Reason, e.InvolvedObject.FieldPath, e.Count, e.Message)
				found = found || e.Type == w.kind && e.Reason == w.reason && e.InvolvedObject.FieldPath == w.on && e.Count >= w.count &&
					regexp.MustCompile("^(?s:"+w.says+")$").MatchString(e.Message)
			}
			if !found {
				return fmt.Errorf("pod %s has no event %+v, but%s", pod, w, told)
			}
		}
		return nil
	})
}

// testEvents holds the events of pods against upstream's: type, reason, words, and the container they are about.
func testEvents(t *testing.T, s *suite) {
	const app = "spec.containers{app}"
	const normal, warning = v1.EventTypeNormal, v1.EventTypeWarning
	for name, c := range map[string]struct {
		pod    pod
		act    func(t *testing.T, name string)
		wanted []wantedEvent
	}{
		"crash": {pod{Script: "exit 1", Spec: "restartPolicy: Always"}, nil, []wantedEvent{
			{normal, "Pulled", app, `Container image "busybox:e2e" already present on machine and can be accessed by the pod`, 2},
			{normal, "Created", app, "Container created", 2}, {normal, "Started", app, "Container started", 2},
			{warning, "BackOff", app, `Back-off restarting failed container app in pod events-crash_default\([0-9a-f-]+\)`, 1},
		}},
		"never": {pod{Script: "true", Container: "image: nothing:1\nimagePullPolicy: Never"}, nil, []wantedEvent{
			{warning, "ErrImageNeverPull", app, `Container image "nothing:1" is not present with pull policy of Never`, 1},
		}},
		"name": {pod{Script: "true", Container: "image: some/UPPER:1"}, nil, []wantedEvent{
			{warning, "InspectFailed", app, `Failed to apply default image tag "some/UPPER:1": .*`, 1},
		}},
		"pull": {pod{Script: "true", Container: "image: localhost:1/nothing:1"}, nil, []wantedEvent{
			{normal, "Pulling", app, `Pulling image "localhost:1/nothing:1"`, 2},
			{warning, "Failed", app, `Failed to pull image "localhost:1/nothing:1": .*refused.*`, 2},
			{normal, "BackOff", app, `Back-off pulling image "localhost:1/nothing:1"`, 2},
		}},
		"command": {pod{Container: "command: [/nothing]"}, nil, []wantedEvent{
			{warning, "Failed", app, "Error: .*no such file or directory.*", 1},
		}},
		"sandbox": {pod{Script: sleepScript, Spec: "restartPolicy: Always"}, func(t *testing.T, name string) {
			before := s.until(t, name, "ready", ready)
			must(t, unix.Kill(s.find(t, string(before.UID), "pause"), unix.SIGKILL))
			s.until(t, name, "ready again", func(p *v1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount > 0 })
		}, []wantedEvent{{normal, "SandboxChanged", "", "Pod sandbox changed, it will be killed and re-created.", 1}}},
		"delete": {sleeper(""), func(t *testing.T, name string) {
			s.until(t, name, "ready", ready)
			s.must(t, "delete", "pod", name)
		}, []wantedEvent{{normal, "Killing", app, "Stopping container app", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.pod
			p.Name = "events-" + name
			s.apply(t, p)
			if c.act != nil {
				c.act(t, p.Name)
			}
			s.eventsOf(t, p.Name, c.wanted...)
			s.must(t, "delete", "pod", p.Name, "--now", "--ignore-not-found")
		})
	}
}
