//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
)

// TestStatic: the manifests in the configured directory run, and what happens to a file happens to its pods.
func TestStatic(t *testing.T) {
	t.Parallel()
	var dir string
	put := func(file, content string) {
		t.Helper()
		hidden := filepath.Join(dir, "."+file) // a file that is there is whole
		if err := os.WriteFile(hidden, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(hidden, filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(file string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, harness.WithConfig(func(p *harness.Podd) {
		dir = filepath.Join(p.ConfigDir, "manifests")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}))
	name := func(p pod) string { return p.Name + "-" + s.NodeName }
	t.Cleanup(func() { // the harness deletes the pods of the API, these would come back
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	})

	web := sleeper("web")
	web.Spec = "restartPolicy: Always"
	web.Container = "env: [{name: V, value: one}]"
	put("web.yaml", web.String())
	first := s.until(t, name(web), "ready", ready)
	if first.Annotations["kubernetes.io/config.source"] != "file" || first.Spec.NodeName != s.NodeName {
		t.Errorf("annotations %v, nodeName %q", first.Annotations, first.Spec.NodeName)
	}

	web.Container = "env: [{name: V, value: two}]"
	put("web.yaml", web.String())
	second := s.until(t, name(web), "replaced", func(pod *v1.Pod) bool { return ready(pod) && pod.UID != first.UID })
	if got := s.sh(t, name(web), "echo $V"); got != "two" {
		t.Errorf("the changed manifest: V = %q", got)
	}

	put("notes.txt", "not a manifest")
	one, two := sleeper("one"), sleeper("two")
	one.Meta, two.Meta = "labels: {file: both}", "labels: {file: both}"
	put("both.yaml", one.String()+"---\n"+two.String())
	s.until(t, name(one), "ready", ready)
	s.until(t, name(two), "ready", ready)
	put("both.yaml", one.String()) // one of two documents goes
	s.until(t, name(two), "gone", gone)

	// A slip of the pen is told, where it is, and stops nothing.
	put("web.yaml", strings.Replace(web.String(), "image:", "imagee:", 1))
	s.nodeEvent(t, "web.yaml", "imagee")
	put("refused.yaml", strings.Replace(sleeper("refused").String(), "spec:\n", "spec:\n  securityContext: {appArmorProfile: {type: Unconfined}}\n", 1))
	s.nodeEvent(t, "refused.yaml", "spec.securityContext.appArmorProfile", "not supported by podd yet")
	put("truncated.yaml", web.String()[:60])
	s.nodeEvent(t, "truncated.yaml")
	if got := s.until(t, name(web), "there", ready); got.UID != second.UID || app(got).RestartCount != 0 {
		t.Errorf("a bad manifest changed the pod that runs: uid %s, was %s", got.UID, second.UID)
	}
	remove("refused.yaml")
	remove("truncated.yaml")

	// Deleted through the API, it comes back: the file says so. What the file no longer says goes.
	s.must(t, "delete", "pod", name(web))
	put("web.yaml", web.String())
	s.until(t, name(web), "back", ready)
	remove("web.yaml")
	s.until(t, name(web), "gone", gone)

	// What changes while podd is down is found when it is back; what did not is left alone.
	kept := s.until(t, name(one), "ready", ready)
	later := sleeper("later")
	s.Kill()
	put("later.yaml", later.String())
	s.Restart()
	s.until(t, name(later), "ready", ready)
	if got := s.until(t, name(one), "there", ready); got.UID != kept.UID || app(got).ContainerID != app(kept).ContainerID {
		t.Errorf("the other static pod did not stay as it was: %+v", app(got))
	}
	s.Kill()
	remove("later.yaml")
	s.Restart()
	s.until(t, name(later), "gone", gone)
	remove("both.yaml")
	s.until(t, name(one), "gone", gone)
}

// nodeEvent waits for an event of the node that has all these words.
func (s *suite) nodeEvent(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, func() error {
		all := s.must(t, "get", "events", "-o", `jsonpath={range .items[?(@.involvedObject.kind=="Node")]}{.type} {.reason} {.message}{"\n"}{end}`)
		if !hasLine(all, append(words, "Warning")...) {
			return fmt.Errorf("no event with %q among\n%s", words, all)
		}
		return nil
	})
}
