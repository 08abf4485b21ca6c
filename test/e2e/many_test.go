//go:build host

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// manyVolumes are ten volumes, each of another source, by the names of the sources. DIR is a directory of the host.
var manyVolumes = []struct{ name, source, does string }{
	{"empty", "emptyDir: {}", "echo x >x"},
	{"memory", "emptyDir: {medium: Memory, sizeLimit: 1Mi}", "echo x >x"},
	{"host", "hostPath: {path: DIR}", "echo x >$(hostname)"},
	{"config", "configMap: {name: many}", "[ $(cat k) = content ]"},
	{"secret", "secret: {secretName: many}", "[ $(cat k) = content ]"},
	{"downward", "downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}", "[ $(cat name) = $(hostname) ]"},
	{"projected", "projected: {sources: [{serviceAccountToken: {path: t}}, {configMap: {name: many}}]}", "[ -s t -a -s k ]"},
	{"image", "image: {reference: '" + busybox + "', pullPolicy: Never}", "[ -s etc/passwd ]"},
	{"claim", "persistentVolumeClaim: {claimName: many}", "echo x >$(hostname)"},
	{"ephemeral", ephemeral, "echo x >x"},
}

// Twenty pods with ten volumes each are made and deleted at once. When they are gone, so are their mounts and directories, and the
// volumes of their ephemeral claims; what else could be left the leak oracle looks for when all tests of this podd are over.
func testManyVolumes(t *testing.T, s *suite) {
	const many = 20
	s.configMap(t, "many", map[string]string{"k": "content"})
	s.secret(t, "many", map[string]string{"k": "content"})
	s.apply(t, claim{Name: "many"})
	volumes, mounts, script, dir := "volumes:\n", "volumeMounts:\n", "set -e\n", t.TempDir()
	for _, v := range manyVolumes {
		volumes += "- name: " + v.name + "\n  " + strings.ReplaceAll(v.source, "DIR", dir) + "\n"
		mounts += "- {name: " + v.name + ", mountPath: /v/" + v.name + "}\n"
		script += "cd /v/" + v.name + "; " + v.does + "\n"
	}
	var names []string
	for i := range many {
		p := pod{Name: fmt.Sprintf("many-%d", i), Script: script + "echo done; " + sleepScript, Spec: volumes, Container: mounts}
		names = append(names, p.Name)
		s.apply(t, p)
	}
	dirs, kept := map[string]string{}, map[string]string{}
	for _, name := range names {
		pod := s.until(t, name, "ready", ready)
		s.logged(t, "done\n", name, "-c", "app")
		dirs[name] = filepath.Join(s.Root, "pods", string(pod.UID))
		kept[name] = s.claimUntil(t, name+"-ephemeral", "bound", bound).Spec.VolumeName
	}
	mounted := read(t, "/proc/self/mountinfo")
	for name, dir := range dirs {
		if !strings.Contains(mounted, dir+"/") {
			t.Errorf("nothing is mounted below %s, of a pod that runs: %s", dir, name)
		}
	}
	for _, name := range names {
		if err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		s.until(t, name, "gone", gone)
	}
	mounted = read(t, "/proc/self/mountinfo")
	for name, dir := range dirs {
		if n := strings.Count(mounted, dir+"/"); n > 0 {
			t.Errorf("pod %s is gone, and %d mounts below %s are there", name, n, dir)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("pod %s is gone, and its directory: %v", name, err)
		}
		s.claimUntil(t, name+"-ephemeral", "gone", func(c *v1.PersistentVolumeClaim) bool { return c == nil })
		s.volumeGone(t, kept[name])
	}
	s.must(t, "delete", "pvc/many", "configmap/many", "secret/many")
}
