//go:build host

package e2e

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testContent is what pods read: environment and volumes from configmaps, secrets and the pod itself.
func testContent(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"config-map":    testConfigMap,
		"missing-heals": testMissingHeals,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// configMap makes a ConfigMap, and takes it away when the test ends.
func (s *suite) configMap(t *testing.T, name string, data map[string]string) {
	t.Helper()
	maps := s.client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	if _, err := maps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A ConfigMap is in the environment and in a volume, which follows it.
func testConfigMap(t *testing.T, s *suite) {
	s.configMap(t, "config-map", map[string]string{"greeting": "hello", "conf": "a=1\n"})
	p := sleeper("config-map")
	p.Spec = "volumes: [{name: v, configMap: {name: config-map}}]"
	p.Container = "env: [{name: G, valueFrom: {configMapKeyRef: {name: config-map, key: greeting}}}]\nvolumeMounts: [{name: v, mountPath: /v}]"
	s.running(t, p)
	if got := s.sh(t, p.Name, "echo $G; cat /v/conf; readlink /v/conf; touch /v/x 2>&1; stat -c %a /v /v/..data/ /v/..data/conf"); got !=
		"hello\na=1\n..data/conf\ntouch: /v/x: Read-only file system\n777\n755\n644" {
		t.Errorf("printed %q", got)
	}
	s.must(t, "patch", "configmap", "config-map", "--type=merge", "-p", `{"data":{"conf":"a=2\n","greeting":null,"new":"x"}}`)
	s.sh(t, p.Name, "until [ -e /v/new ]; do sleep 0.05; done")
	if got := s.sh(t, p.Name, "cat /v/conf; ls /v"); got != "a=2\nconf\nnew" {
		t.Errorf("after an update: %q", got)
	}
}

// A pod waits for what it refers to, says what it is, and starts as soon as it is there.
func testMissingHeals(t *testing.T, s *suite) {
	env, vol := sleeper("missing-env"), sleeper("missing-vol")
	env.Container = "env: [{name: G, valueFrom: {configMapKeyRef: {name: missing, key: greeting}}}]"
	vol.Spec = "volumes: [{name: v, configMap: {name: missing}}]"
	vol.Container = "volumeMounts: [{name: v, mountPath: /v}]"
	s.apply(t, env, vol)
	pod := s.until(t, env.Name, "waits", waiting("CreateContainerConfigError"))
	if got := app(pod).State.Waiting.Message; got != `configmap "missing" not found` {
		t.Errorf("message %q", got)
	}
	if got := s.event(t, vol.Name, "FailedMount"); got != `MountVolume.SetUp failed for volume "v" : configmap "missing" not found` {
		t.Errorf("event %q", got)
	}
	s.configMap(t, "missing", map[string]string{"other": "x"})
	pod = s.until(t, env.Name, "waits for the key", func(pod *v1.Pod) bool {
		return waiting("CreateContainerConfigError")(pod) && strings.Contains(app(pod).State.Waiting.Message, "key")
	})
	if got := app(pod).State.Waiting.Message; got != "couldn't find key greeting in ConfigMap default/missing" {
		t.Errorf("message %q", got)
	}
	s.must(t, "patch", "configmap", "missing", "--type=merge", "-p", `{"data":{"greeting":"hello"}}`)
	s.until(t, env.Name, "ready", ready)
	s.until(t, vol.Name, "ready", ready)
}
