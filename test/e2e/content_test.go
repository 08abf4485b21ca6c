//go:build host

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// testContent is what pods read: environment and volumes from configmaps, secrets and the pod itself. The objects that a
// test makes are named after it.
func testContent(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"environment":    testEnvironment,
		"service-links":  testServiceLinks,
		"volume-kinds":   testVolumeKinds,
		"volume-owners":  testVolumeOwners,
		"missing-heals":  testMissingHeals,
		"optional":       testOptional,
		"source-deleted": testSourceDeleted,
		"follows":        testFollows,
		"never-torn":     testNeverTorn,
		"podctl-create":  testPodctlContent,
		"secrets-hidden": testSecretsHidden,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

func (s *suite) configMap(t *testing.T, name string, data map[string]string) {
	t.Helper()
	maps := s.client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	if _, err := maps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (s *suite) secret(t *testing.T, name string, data map[string]string) {
	t.Helper()
	secrets := s.client.CoreV1().Secrets(metav1.NamespaceDefault)
	if _, err := secrets.Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// patchMap changes keys of a ConfigMap.
func (s *suite) patchMap(t *testing.T, name, data string) {
	t.Helper()
	if _, err := s.client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"data":`+data+`}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// patched changes an object of the core group.
func (s *suite) patched(t *testing.T, resource, name, patch string) {
	t.Helper()
	if err := s.client.CoreV1().RESTClient().Patch(types.MergePatchType).Namespace(metav1.NamespaceDefault).Resource(resource).Name(name).
		Body([]byte(patch)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}

// Every source of a variable, in the process, in its arguments, and in a process that enters.
func testEnvironment(t *testing.T, s *suite) {
	s.configMap(t, "env-map", map[string]string{"greeting": "hello", "LEVEL": "info", "dotted.name": "odd", "over": "from the map"})
	s.secret(t, "env-secret", map[string]string{"password": "hunter2"})
	p := pod{Name: "env-sources", Meta: "labels: {app: web}\nannotations: {example.com/note: noted}", Script: `
for n in GREETING PASSWORD NAME NAMESPACE LABEL NOTE NODE ACCOUNT CPU MEMORY REQUEST FILE MISSING JOINED over P_LEVEL; do eval echo "$n= \$$$n"; done
tr '\0' '\n' </proc/1/environ | grep ^dotted; [ ${#UID_OF_POD} = 36 ] && echo uid; ip -4 -o addr show dev eth0 | grep -q " $POD_IP/" && [ "$POD_IP" = "$POD_IPS" ] && echo pod ip
case ,$HOST_IPS, in ,$HOST_IP,*) echo host ip;; esac; echo $0; env | grep -c ^A_ || ` + sleepScript,
		Spec: `
volumes: [{name: data, emptyDir: {}}]
initContainers: [{name: init, image: ` + busybox + `, command: [sh, -c, "printf \"# made\\nFILE='of the\\nfile'\\n\" >/data/env"], volumeMounts: [{name: data, mountPath: /data}]}]`,
		Container: `
resources: {limits: {memory: 64Mi}, requests: {cpu: 150m}}
args: ["$(GREETING) $(P_LEVEL) $(MISSING)"]
envFrom: [{configMapRef: {name: env-map}}, {configMapRef: {name: env-map}, prefix: P_}, {secretRef: {name: env-none, optional: true}, prefix: A_}]
env:
- {name: over, value: from env}
- {name: GREETING, valueFrom: {configMapKeyRef: {name: env-map, key: greeting}}}
- {name: PASSWORD, valueFrom: {secretKeyRef: {name: env-secret, key: password}}}
- {name: MISSING, valueFrom: {secretKeyRef: {name: env-secret, key: none, optional: true}}}
- {name: JOINED, value: "$(GREETING)/$(LEVEL)/$(LATER)/$$(LEVEL)"}
- {name: LATER, value: later}
- {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: UID_OF_POD, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
- {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['example.com/note']"}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
- {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
- {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
- {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
- {name: REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
- {name: FILE, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: FILE}}}`}
	s.running(t, p)
	want := `GREETING= hello
PASSWORD= hunter2
NAME= env-sources
NAMESPACE= default
LABEL= web
NOTE= noted
NODE= ` + s.NodeName + `
ACCOUNT= default
CPU= 150
MEMORY= 64
REQUEST= 1
FILE= of the file
MISSING=
JOINED= hello/info/$(LATER)/$(LEVEL)
over= from env
P_LEVEL= info
dotted.name=odd
uid
pod ip
host ip
hello info $(MISSING)
0
`
	s.untilLog(t, p.Name, "\n0\n")
	if got := s.must(t, "logs", p.Name); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	if got := s.sh(t, p.Name, "echo $PASSWORD $JOINED"); got != "hunter2 hello/info/$(LATER)/$(LEVEL)" {
		t.Errorf("a process that enters has %q", got)
	}
	s.remove(t, p.Name)
}

// The services of the namespace are in the environment, unless the pod does not want them.
func testServiceLinks(t *testing.T, s *suite) {
	s.must(t, "create", "service", "clusterip", "links-web", "--tcp=80:8080")
	s.must(t, "create", "service", "clusterip", "links-headless", "--clusterip=None")
	ip := s.must(t, "get", "service", "links-web", "-o", "jsonpath={.spec.clusterIP}")
	const script = "env | grep -E '^LINKS_(WEB_SERVICE|WEB_PORT=|HEADLESS)' | sort; true"
	got := s.output(t, pod{Name: "links", Script: script})
	if want := "LINKS_WEB_PORT=tcp://" + ip + ":80\nLINKS_WEB_SERVICE_HOST=" + ip + "\nLINKS_WEB_SERVICE_PORT=80\nLINKS_WEB_SERVICE_PORT_80_8080=80"; got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	if got := s.output(t, pod{Name: "links-not", Script: script, Spec: "enableServiceLinks: false"}); got != "" {
		t.Errorf("without links it has %q", got)
	}
}

// Each kind of volume, in two containers, one of which is another user.
func testVolumeKinds(t *testing.T, s *suite) {
	maps := s.client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	immutable := true
	if _, err := maps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kinds-map"}, Immutable: &immutable,
		Data: map[string]string{"conf": "a=1\n", "other": "x"}, BinaryData: map[string][]byte{"bin": {'b', 'i', 'n'}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.secret(t, "kinds-secret", map[string]string{"password": "hunter2", "key": "k"})
	p := pod{Name: "volume-kinds", Meta: "labels: {tier: front, app: web}\nannotations: {note: noted}", Spec: "volumes:", Container: "resources: {limits: {cpu: 250m}}\nvolumeMounts:"}
	other := "- name: other\n  image: " + busybox + "\n  securityContext: {runAsUser: 1001}\n  volumeMounts:"
	const denied = "cat: can't open 'FILE': Permission denied|"
	var root, user, scripts string
	for _, c := range []struct{ name, volume, root string }{
		{"config-map", "configMap: {name: kinds-map}", "bin 644 0 0 bin\nconf 644 0 0 a=1|\nother 644 0 0 x\n"},
		{"config-map-items", "configMap: {name: kinds-map, defaultMode: 0400, items: [{key: conf, path: etc/app/conf}, {key: other, path: run, mode: 0755}]}",
			"etc/app/conf 400 0 0 a=1|\nrun 755 0 0 x\n"},
		{"secret", "secret: {secretName: kinds-secret}", "key 644 0 0 k\npassword 644 0 0 hunter2\n"},
		{"secret-items", "secret: {secretName: kinds-secret, defaultMode: 0400, items: [{key: password, path: p}]}", "p 400 0 0 hunter2\n"},
		{"downward-api", `downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: one, fieldRef: {fieldPath: "metadata.annotations['note']"}}, {path: id/name, mode: 0444, fieldRef: {fieldPath: metadata.name}}, {path: id/ns, fieldRef: {fieldPath: metadata.namespace}}, {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}}]}`,
			"cpu 644 0 0 250\nid/name 444 0 0 volume-kinds\nid/ns 644 0 0 default\nlabels 644 0 0 app=\"web\"|tier=\"front\"\none 644 0 0 noted\n"},
		{"projected", `projected: {defaultMode: 0444, sources: [{configMap: {name: kinds-map, items: [{key: conf, path: conf}]}}, {secret: {name: kinds-secret, items: [{key: password, path: s/password, mode: 0400}]}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}, {configMap: {name: none, optional: true}}]}`,
			"conf 444 0 0 a=1|\nname 444 0 0 volume-kinds\ns/password 400 0 0 hunter2\n"},
	} {
		p.Spec += "\n- name: " + c.name + "\n  " + c.volume
		p.Container += "\n- {name: " + c.name + ", mountPath: /v/" + c.name + "}"
		other += "\n  - {name: " + c.name + ", mountPath: /v/" + c.name + ", readOnly: true}"
		scripts += "echo " + c.name + "; cd /v/" + c.name + "; for f in $(find -L * -type f | sort); do echo $f $(stat -L -c '%a %u %g' $f) $(cat $f 2>&1 | tr '\\n' '|'); done\n" +
			"touch x 2>/dev/null || rm ..data 2>/dev/null || grep -c \" $PWD tmpfs ro,\" /proc/self/mounts\n"
		root += c.name + "\n" + c.root + "1\n"
		user += c.name + "\n"
		for line := range strings.Lines(c.root) {
			if words := strings.Fields(line); words[1] == "400" {
				line = strings.Join(words[:4], " ") + " " + strings.Replace(denied, "FILE", words[0], 1) + "\n"
			}
			user += line
		}
		user += "1\n"
	}
	p.Script = scripts + "echo end; " + sleepScript
	p.More = other + "\n  command: [sh, -c, " + strconv.Quote(p.Script) + "]"
	s.running(t, p)
	for name, want := range map[string]string{"app": root, "other": user} {
		eventually(t, func() error {
			if got := s.must(t, "logs", p.Name, "-c", name); got != want+"end\n" {
				return fmt.Errorf("%s sees\n%s\nwant\n%s", name, got, want)
			}
			return nil
		})
	}
}

// With fsGroup a volume belongs to that group, which may read it, whoever the user is.
func testVolumeOwners(t *testing.T, s *suite) {
	s.secret(t, "owners", map[string]string{"key": "k"})
	const script = "stat -c '%a %u %g' /v /v/..data/ /v/..data/d; stat -L -c '%a %u %g' /v/d/key; cat /v/d/key"
	p := pod{Name: "owners", Script: script, Container: "volumeMounts: [{name: v, mountPath: /v}]",
		Spec: "securityContext: {runAsUser: 1001, fsGroup: 5000}\nvolumes: [{name: v, secret: {secretName: owners, defaultMode: 0400, items: [{key: key, path: d/key}]}}]"}
	if got, want := s.output(t, p), "3777 0 5000\n2755 0 5000\n2755 0 5000\n440 0 5000\nk"; got != want {
		t.Errorf("with fsGroup: %q, want %q", got, want)
	}
	p.Name, p.Spec = "owners-root", strings.Replace(p.Spec, "runAsUser: 1001, fsGroup: 5000", "runAsUser: 0", 1)
	if got, want := s.output(t, p), "1777 0 0\n755 0 0\n755 0 0\n400 0 0\nk"; got != want {
		t.Errorf("without: %q, want %q", got, want)
	}
}

// A pod waits for what it refers to, says what it is, and starts as soon as it is there.
func testMissingHeals(t *testing.T, s *suite) {
	env, vol := sleeper("missing-env"), sleeper("missing-vol")
	env.Container = "env: [{name: G, valueFrom: {configMapKeyRef: {name: missing, key: greeting}}}]"
	vol.Spec = "volumes: [{name: v, configMap: {name: missing, items: [{key: greeting, path: g}]}}, {name: w, secret: {secretName: missing}}]"
	vol.Container = "volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]"
	s.apply(t, env, vol)
	pod := s.until(t, env.Name, "waits", waiting("CreateContainerConfigError"))
	if got := app(pod).State.Waiting.Message; got != `configmap "missing" not found` {
		t.Errorf("message %q", got)
	}
	if got := s.event(t, env.Name, "Failed"); got != `Error: configmap "missing" not found` {
		t.Errorf("event %q", got)
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
	began := time.Now()
	s.patchMap(t, "missing", `{"greeting":"hello"}`)
	s.until(t, env.Name, "ready", ready)
	t.Logf("ready %s after the key was there", time.Since(began).Round(time.Millisecond))
	s.secret(t, "missing", map[string]string{"key": "k"})
	s.until(t, vol.Name, "ready", ready)
	if got := s.sh(t, env.Name, "echo $G") + s.sh(t, vol.Name, "cat /v/g /w/key"); got != "hellohellok" {
		t.Errorf("they have %q", got)
	}
}

// What is optional is not waited for, and comes into a volume when it is there.
func testOptional(t *testing.T, s *suite) {
	p := sleeper("optional")
	p.Spec = `
volumes:
- {name: c, configMap: {name: optional, optional: true}}
- {name: p, projected: {sources: [{secret: {name: optional, optional: true, items: [{key: k, path: sub/k}]}}]}}`
	p.Container = `
env: [{name: A, valueFrom: {configMapKeyRef: {name: optional, key: k, optional: true}}}]
envFrom: [{secretRef: {name: optional, optional: true}}]
volumeMounts: [{name: c, mountPath: /c}, {name: p, mountPath: /p}]`
	s.running(t, p)
	if got := s.sh(t, p.Name, "echo ${A-none}; ls /c /p"); got != "none\n/c:\n\n/p:" {
		t.Errorf("at first: %q", got)
	}
	s.configMap(t, "optional", map[string]string{"k": "come"})
	s.secret(t, "optional", map[string]string{"k": "too"})
	if got := s.sh(t, p.Name, "until [ -e /c/k -a -e /p/sub/k ]; do sleep 0.05; done; cat /c/k /p/sub/k"); got != "cometoo" {
		t.Errorf("later: %q", got)
	}
}

// A source that goes from under a running pod leaves what was written, and an event says so. The next one is followed.
func testSourceDeleted(t *testing.T, s *suite) {
	s.configMap(t, "deleted", map[string]string{"k": "old"})
	p := sleeper("source-deleted")
	p.Spec, p.Container = "volumes: [{name: v, configMap: {name: deleted}}]", "volumeMounts: [{name: v, mountPath: /v}]"
	s.running(t, p)
	s.must(t, "delete", "configmap", "deleted")
	if got := s.event(t, p.Name, "FailedMount"); got != `MountVolume.SetUp failed for volume "v" : configmap "deleted" not found` {
		t.Errorf("event %q", got)
	}
	if !strings.Contains(s.Logs(), "a volume stays as it is") {
		t.Error("podd's log does not say so")
	}
	if got := s.sh(t, p.Name, "cat /v/k"); got != "old" {
		t.Errorf("there is %q", got)
	}
	s.configMap(t, "deleted", map[string]string{"k": "new"})
	s.sh(t, p.Name, "until [ $(cat /v/k) = new ]; do sleep 0.05; done")
}

// followLimit is how long after the API's answer a volume may be as its source was. It is a promise, and every change is held to
// it but the slowest of those of a volume: a machine with more to do than it has processors, as that of these tests, may keep
// podd, or the test that looks, from running for seconds, once. What is slow in podd itself is so for more than one change.
const followLimit = 2 * time.Second

// Volumes follow their sources within two seconds: an object, and the pod's own labels. The environment does not, and
// nor does what a subPath shows.
func testFollows(t *testing.T, s *suite) {
	s.configMap(t, "follows", map[string]string{"k": "0"})
	s.secret(t, "follows", map[string]string{"s": "0"})
	p := sleeper("follows")
	p.Meta = "labels: {app: web}"
	p.Spec = `
volumes:
- {name: v, configMap: {name: follows}}
- {name: s, secret: {secretName: follows}}
- {name: p, projected: {sources: [{configMap: {name: follows}}, {secret: {name: follows}}]}}
- {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}`
	p.Container = "env: [{name: K, valueFrom: {configMapKeyRef: {name: follows, key: k}}}]\nvolumeMounts: [{name: v, mountPath: /v}, {name: d, mountPath: /d}, {name: p, mountPath: /p}, {name: v, mountPath: /part, subPath: k}]"
	pod := s.running(t, p)
	dir := filepath.Join(s.Root, "pods", string(pod.UID), "volumes", ".content")
	// follows changes a source some times, and says how long after the API's answer its file was the new one.
	follows := func(path, text string, n int, change func(i int)) {
		t.Helper()
		var took []time.Duration
		for i := range n {
			change(i)
			began := time.Now()
			want := fmt.Sprintf(text, i)
			eventually(t, func() error {
				got, err := os.ReadFile(filepath.Join(dir, path))
				if err == nil && string(got) != want {
					err = fmt.Errorf("%s has %q, want %q", path, got, want)
				}
				return err
			})
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("%s: %d changes within %s, all but one within %s, half of them within %s", path, n, took[n-1], took[n-2], took[n/2])
		if took[n-2] > followLimit {
			t.Errorf("%s followed its source after %s, of which at most one may be more than %s", path, took, followLimit)
		}
	}
	follows("v/k", "%d", 20, func(i int) { s.patchMap(t, "follows", fmt.Sprintf(`{"k":"%d"}`, i)) })
	follows("d/labels", `app="other-%d"`, 4, func(i int) {
		s.patched(t, "pods", p.Name, fmt.Sprintf(`{"metadata":{"labels":{"app":"other-%d"}}}`, i))
	})
	follows("s/s", "%d", 4, func(i int) { s.patched(t, "secrets", "follows", fmt.Sprintf(`{"stringData":{"s":"%d"}}`, i)) })
	follows("p/s", "1%d", 4, func(i int) { s.patched(t, "secrets", "follows", fmt.Sprintf(`{"stringData":{"s":"%d"}}`, i+10)) })
	if got := s.sh(t, p.Name, "cat /v/k /d/labels; echo $K; cat /p/k /p/s; echo; cat /part"); got != "19app=\"other-3\"0\n1913\n0" {
		t.Errorf("in the container: %q", got)
	}
}

// A reader in the pod never sees a part of one of 1,000 updates, whatever it reads meanwhile, and ends with the last.
func testNeverTorn(t *testing.T, s *suite) {
	s.configMap(t, "torn", map[string]string{"a": "0", "z": "0"})
	p := pod{Name: "never-torn", Spec: "volumes: [{name: v, configMap: {name: torn}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]", Script: `
seen=0; last=
while [ "$last" != 1000 ]; do
  cd /v/..data 2>/dev/null || continue # between reading the link and entering, two versions may have come
  a=$(cat a 2>/dev/null) && z=$(cat z 2>/dev/null) || continue
  [ "$a" = "$z" ] || { echo "torn: $a $z"; exit 1; }
  [ "$a" = "$last" ] || { seen=$((seen+1)); last=$a; }
done
[ $seen -gt 1 ] && echo whole || echo saw $seen`}
	s.running(t, p)
	maps := s.client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	m, err := maps.Get(t.Context(), "torn", metav1.GetOptions{})
	for i := range 1000 {
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(i + 1)
		m.Data = map[string]string{"a": text, "z": text}
		m, err = maps.Update(t.Context(), m, metav1.UpdateOptions{})
	}
	s.until(t, p.Name, "ended", func(pod *v1.Pod) bool { return phase(v1.PodSucceeded)(pod) || phase(v1.PodFailed)(pod) })
	if got := s.must(t, "logs", p.Name); got != "whole\n" {
		t.Errorf("the reader says %q", got)
	}
}

// podctl makes configmaps and secrets from files, directories, values and keys; a pod has what they are made from.
func testPodctlContent(t *testing.T, s *suite) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	env := write("env", "# comment\nA=1\nB=two words\n")
	one, bin := write("conf/one", "1\n"), write("bin", "\xff\x00")
	write("conf/two", "2\n")
	cert, key := pair(t, dir)
	for _, args := range [][]string{
		{"configmap", "made", "--from-literal=x=y", "--from-file=" + filepath.Dir(one), "--from-file=other.name=" + one, "--from-file=" + bin},
		{"configmap", "made-env", "--from-env-file=" + env, "--append-hash=false"},
		{"secret", "generic", "made", "--from-literal=password=s3cret", "--from-file=one=" + one, "--type=example.com/own"},
		{"secret", "generic", "made-env", "--from-env-file=" + env},
		{"secret", "tls", "made-tls", "--cert=" + cert, "--key=" + key},
		{"secret", "docker-registry", "made-registry", "--docker-server=localhost:5000", "--docker-username=u", "--docker-password=p", "--docker-email=e@example.com"},
	} {
		s.must(t, append([]string{"create"}, args...)...)
	}
	p := pod{Name: "podctl-content", Spec: "volumes: [{name: v, projected: {sources: [{configMap: {name: made}}, {secret: {name: made, items: [{key: password, path: s/password}]}}, {secret: {name: made-tls}}, {secret: {name: made-registry}}]}}]",
		Container: "envFrom: [{configMapRef: {name: made-env}}, {prefix: S_, secretRef: {name: made-env}}]\nvolumeMounts: [{name: v, mountPath: /v}]",
		Script:    `echo $A,$B,$S_A,$S_B; cd /v; ls; cat x one two other.name s/password; echo; grep -c BEGIN tls.crt tls.key; od -An -tx1 bin; cat .dockerconfigjson; echo`}
	auth := base64.StdEncoding.EncodeToString([]byte("u:p"))
	want := "1,two words,1,two words\nbin\none\nother.name\ns\ntls.crt\ntls.key\ntwo\nx\ny1\n2\n1\ns3cret\ntls.crt:1\ntls.key:1\n ff 00\n" +
		`{"auths":{"localhost:5000":{"username":"u","password":"p","email":"e@example.com","auth":"` + auth + `"}}}`
	if got := s.output(t, p); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	if got := s.must(t, "get", "secrets", "made", "made-tls", "made-registry", "-o", "jsonpath={.items[*].type}"); got != "example.com/own kubernetes.io/tls kubernetes.io/dockerconfigjson" {
		t.Errorf("types: %q", got)
	}
	testSecretTypes(t, s)
	s.must(t, "patch", "configmap", "made", "--type=merge", "-p", `{"immutable":true}`)
	if got := s.refused(t, "", "patch", "configmap", "made", "--type=merge", "-p", `{"data":{"x":"z"}}`); !strings.Contains(got, "field is immutable when `immutable` is set") {
		t.Errorf("a change of what is immutable: %q", got)
	}
	if got := s.refused(t, "", "create", "configmap", "too-large", "--from-file="+write("large", strings.Repeat("x", 1<<20+1))); !strings.Contains(got, "1048576") {
		t.Errorf("a configmap that is too large: %q", got)
	}
	if got := s.refused(t, "", "create", "secret", "generic", "too-large", "--from-file="+write("large", strings.Repeat("x", 1<<20+1))); !strings.Contains(got, "1048576") {
		t.Errorf("a secret that is too large: %q", got)
	}
}

// testSecretTypes makes a secret of each type that needs something, and one that does not have it.
func testSecretTypes(t *testing.T, s *suite) {
	t.Helper()
	secret := func(name, kind, data, more string) text {
		return text("apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + more + "}\ntype: " + kind + "\nstringData: {" + data + "}\n")
	}
	var names []string
	for i, c := range []struct{ kind, good, more, bad, says string }{
		{"kubernetes.io/basic-auth", "username: u", "", "other: u", "data[username]"},
		{"kubernetes.io/ssh-auth", "ssh-privatekey: k", "", "other: k", "data[ssh-privatekey]"},
		{"kubernetes.io/tls", "tls.crt: c, tls.key: k", "", "tls.crt: c", "data[tls.key]"},
		{"kubernetes.io/dockercfg", `.dockercfg: "{}"`, "", ".dockercfg: 'no'", "data[.dockercfg]"},
		{"kubernetes.io/dockerconfigjson", `.dockerconfigjson: "{}"`, "", `.dockercfg: "{}"`, "data[.dockerconfigjson]"},
		{"kubernetes.io/service-account-token", "token: mine", ", annotations: {kubernetes.io/service-account.name: default}", "token: mine", "kubernetes.io/service-account.name"},
		{"bootstrap.kubernetes.io/token", "token-id: abcdef", "", "", ""},
	} {
		name := fmt.Sprintf("typed-%d", i)
		s.apply(t, secret(name, c.kind, c.good, c.more))
		names = append(names, "secret/"+name)
		if got := s.must(t, "get", "secret", name, "-o", "jsonpath={.type}"); got != c.kind {
			t.Errorf("%s has become %s", c.kind, got)
		}
		if c.bad == "" {
			continue
		}
		if got := s.refused(t, string(secret("bad-"+name, c.kind, c.bad, "")), "apply", "-f", "-"); !strings.Contains(got, c.says) {
			t.Errorf("%s with %q alone: %q, want %q", c.kind, c.bad, got, c.says)
		}
	}
	s.must(t, append([]string{"delete"}, names...)...)
}

// pair makes files with a certificate and its key.
func pair(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	return cert, key
}

// The value of a secret is in what has to have it, and neither in podd's log, events and histories nor in containerd's
// labels, also when something is wrong with it.
func testSecretsHidden(t *testing.T, s *suite) {
	const value = "Tr0ub4dor&3"
	s.secret(t, "hidden", map[string]string{"good": value, "zero": value + "\x00"})
	good, bad := sleeper("hidden-good"), sleeper("hidden-bad")
	good.Spec = "volumes: [{name: v, secret: {secretName: hidden}}]"
	good.Container = "env: [{name: S, valueFrom: {secretKeyRef: {name: hidden, key: good}}}]\nvolumeMounts: [{name: v, mountPath: /v}]"
	bad.Container = "env: [{name: S, valueFrom: {secretKeyRef: {name: hidden, key: zero}}}]"
	s.apply(t, good, bad)
	pod := s.until(t, good.Name, "ready", ready)
	if got := s.sh(t, good.Name, "echo $S; cat /v/good"); got != value+"\n"+value {
		t.Errorf("the pod has %q", got)
	}
	failed := s.until(t, bad.Name, "waits", waiting("CreateContainerConfigError"))
	if got := app(failed).State.Waiting.Message; got != "environment variable S: its value has a zero byte" {
		t.Errorf("message %q", got)
	}
	s.secret(t, "hidden-other", map[string]string{"k": value}) // wakes both
	shown := map[string]string{
		"log":      s.Logs(),
		"events":   s.must(t, "events", "-o", "yaml"),
		"why":      s.must(t, "why", good.Name, bad.Name, "-o", "json"),
		"pods":     s.must(t, "get", "pods", good.Name, bad.Name, "-o", "yaml"),
		"describe": s.must(t, "describe", "pod", good.Name) + s.must(t, "describe", "secret", "hidden"),
	}
	histories, err := filepath.Glob(filepath.Join(s.Root, "history", "*"))
	must(t, err)
	if len(histories) == 0 {
		t.Error("there are no histories")
	}
	for _, path := range histories {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		shown[path] = string(text)
	}
	for _, c := range s.records(t, pod) {
		shown["containerd's labels"] += fmt.Sprint(c.Labels)
		for name, e := range c.Extensions {
			shown["containerd's extension "+name] += string(e.GetValue())
		}
	}
	for where, text := range shown {
		if text == "" || strings.Contains(text, value) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(value))[:8]) {
			t.Errorf("%s: the secret's value, or nothing at all:\n%.2000s", where, text)
		}
	}
}
