package sources

import (
	"context"
	"errors"
	"fmt"
	"io"

	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	upstream "k8s.io/kubernetes/pkg/kubelet/util/env"
)

// memory is objects by namespace/name.
type memory struct {
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	services   []*v1.Service
	revisions  map[Ref]int64
}

func (m memory) ConfigMap(namespace, name string) (*v1.ConfigMap, error) {
	if c, ok := m.configMaps[namespace+"/"+name]; ok {
		return c, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (m memory) Secret(namespace, name string) (*v1.Secret, error) {
	if s, ok := m.secrets[namespace+"/"+name]; ok {
		return s, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func (m memory) Services(namespace string) ([]*v1.Service, error) {
	var found []*v1.Service
	for _, s := range m.services {
		if s.Namespace == namespace {
			found = append(found, s)
		}
	}
	return found, nil
}

func (m memory) Revision(_ string, ref Ref) int64 { return m.revisions[ref] }

// hidden is a value that must not come into any error.
const hidden = "hunter2"

func someObjects() memory {
	service := func(namespace, name, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	return memory{
		configMaps: map[string]*v1.ConfigMap{
			"ns/c":    {Data: map[string]string{"k": "text", "other": "x", "empty": "", "a.b-c": "dotted"}, BinaryData: map[string][]byte{"bin": {0, 1, 255}}},
			"ns/d":    {Data: map[string]string{"k": "of d", "WEB_SERVICE_HOST": "mine"}},
			"other/c": {Data: map[string]string{"k": "of another namespace"}},
		},
		secrets: map[string]*v1.Secret{"ns/s": {Data: map[string][]byte{"password": []byte(hidden), "k": []byte("of s")}}},
		services: []*v1.Service{
			service("ns", "web", "10.0.0.1", v1.ServicePort{Port: 80, Name: "http"}, v1.ServicePort{Port: 53, Name: "dns", Protocol: v1.ProtocolUDP}),
			service("ns", "headless", "None", v1.ServicePort{Port: 80}),
			service("ns", "portless", "10.0.0.2"),
			service("default", "kubernetes", "10.0.0.3", v1.ServicePort{Port: 443, Name: "https"}),
			service("default", "secret", "10.0.0.4", v1.ServicePort{Port: 1}),
		},
		revisions: map[Ref]int64{{ConfigMap, "c"}: 3, {Secret, "s"}: 4},
	}
}

func someHost(t *testing.T) Host {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte("A='1'\nB='two\nlines' # comment\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Host{
		PodIPs: []string{"10.85.0.2", "fd00::2"}, HostIPs: []string{"192.0.2.1", "2001:db8::1"},
		Allocatable: v1.ResourceList{v1.ResourceCPU: quantity("4"), v1.ResourceMemory: quantity("8Gi")},
		Open: func(volume, path string) (io.ReadCloser, error) {
			if volume != "data" {
				return nil, errors.New("the pod has no emptyDir " + volume)
			}
			return os.Open(filepath.Join(dir, path))
		},
	}
}

func somePod(t *testing.T, container, spec string) *v1.Pod {
	t.Helper()
	text := "metadata: {name: web, namespace: ns, uid: uid-1, labels: {app: web, tier: front}, annotations: {note: \"a \\\"b\\\"\"}}\n" +
		"spec:\n  nodeName: node-1\n  serviceAccountName: account\n" + indent(2, spec) +
		"  containers:\n  - name: app\n" + indent(4, container) + "  - {name: other, resources: {limits: {cpu: 250m}, requests: {memory: 100Mi}}}\n"
	pod := &v1.Pod{}
	if err := yaml.Unmarshal([]byte(text), pod); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range pod.Spec.Containers {
		for j := range pod.Spec.Containers[i].Env {
			if f := pod.Spec.Containers[i].Env[j].ValueFrom; f != nil && f.FieldRef != nil {
				f.FieldRef.APIVersion = "v1" // as defaulted
			}
		}
	}
	return pod
}

func indent(n int, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			b.WriteString(strings.Repeat(" ", n) + strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}

// withoutLinks is the environment without the variables of services.
func withoutLinks(env []v1.EnvVar) string {
	var out []string
	for _, v := range env {
		if !strings.HasPrefix(v.Name, "WEB_") && !strings.HasPrefix(v.Name, "KUBERNETES_") {
			out = append(out, v.Name+"="+v.Value)
		}
	}
	return strings.Join(out, " ")
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct{ container, want, err string }{
		{"env: [{name: A, value: x}, {name: E}]", "A=x E=", ""},
		{"env: [{name: B, value: early $(A)}, {name: A, value: own}, {name: B, value: $(A)-$(A)}]", "B=own-own A=own", ""},
		{"env: [{name: A, value: \"$$(X) $(NONE) $(WEB_SERVICE_PORT_DNS)\"}]", "A=$(X) $(NONE) 53", ""},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: k}}}, {name: B, value: $(A)!}]", "A=text B=text!", ""},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: empty}}}]", "A=", ""},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: bin}}}]", "", "couldn't find key bin in ConfigMap ns/c"},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k}}}]", "", `configmap "none" not found`},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k, optional: true}}}, {name: B}]", "B=", ""},
		{"env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: none, optional: true}}}]", "", ""},
		{"env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: password}}}]", "A=hunter2", ""},
		{"env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: none}}}]", "", "couldn't find key none in Secret ns/s"},
		{"env: [{name: A, valueFrom: {secretKeyRef: {name: none, key: k}}}]", "", `secret "none" not found`},
		{"env: [{name: A, valueFrom: {secretKeyRef: {name: none, key: k, optional: true}}}, {name: B, valueFrom: {secretKeyRef: {name: s, key: none, optional: true}}}]", "", ""},

		{"envFrom: [{configMapRef: {name: c}}]", "a.b-c=dotted empty= k=text other=x", ""},
		{"envFrom: [{prefix: P_, configMapRef: {name: d}}, {secretRef: {name: s}}]", "P_WEB_SERVICE_HOST=mine P_k=of d k=of s password=hunter2", ""},
		{"envFrom: [{configMapRef: {name: c}}, {configMapRef: {name: d}}]\nenv: [{name: other, value: $(k)}]", "a.b-c=dotted empty= k=of d other=of d", ""},
		{"envFrom: [{configMapRef: {name: none}}]", "", `configmap "none" not found`},
		{"envFrom: [{secretRef: {name: none}}]", "", `secret "none" not found`},
		{"envFrom: [{configMapRef: {name: none, optional: true}}, {secretRef: {name: none, optional: true}}]", "", ""},

		{field("metadata.name"), "A=web", ""},
		{field("metadata.namespace"), "A=ns", ""},
		{field("metadata.uid"), "A=uid-1", ""},
		{field("metadata.labels['tier']"), "A=front", ""},
		{field("metadata.labels['none']"), "A=", ""},
		{field("metadata.annotations['note']"), `A=a "b"`, ""},
		{field("spec.nodeName"), "A=node-1", ""},
		{field("spec.serviceAccountName"), "A=account", ""},
		{field("status.hostIP"), "A=192.0.2.1", ""},
		{field("status.hostIPs"), "A=192.0.2.1,2001:db8::1", ""},
		{field("status.podIP"), "A=10.85.0.2", ""},
		{field("status.podIPs"), "A=10.85.0.2,fd00::2", ""},
		{field("spec.containers"), "", "field label not supported: spec.containers"},

		{resourceRef("resource: limits.cpu"), "A=4", ""},
		{resourceRef("resource: limits.memory, divisor: 1Mi"), "A=8192", ""},
		{resourceRef("resource: requests.cpu"), "A=0", ""},
		{resourceRef("resource: limits.cpu, containerName: other, divisor: 1m"), "A=250", ""},
		{resourceRef("resource: limits.cpu, containerName: other"), "A=1", ""}, // rounded up
		{resourceRef("resource: requests.memory, containerName: other"), "A=104857600", ""},
		{resourceRef("resource: limits.memory, containerName: none"), "", "container none not found"},
		{resourceRef("resource: limits.none"), "", "unsupported container resource : limits.none"},
		{"resources: {limits: {cpu: 1500m, memory: 1Gi}}\n" + resourceRef("resource: limits.cpu, divisor: 1m"), "A=1500", ""},
		{"resources: {limits: {ephemeral-storage: 2Gi}}\n" + resourceRef("resource: limits.ephemeral-storage, divisor: 1Mi"), "A=2048", ""},
		{"resources: {requests: {ephemeral-storage: 1500Mi}}\n" + resourceRef("resource: requests.ephemeral-storage, divisor: 1Gi"), "A=2", ""}, // rounded up

		{file("env", "A", ""), "A=1", ""},
		{file("env", "B", ""), "A=two\nlines", ""},
		{file("env", "C", ""), "", `environment variable key "C" not found in file "env" of volume data`},
		{file("env", "C", ", optional: true"), "", ""},
		{file("none", "C", ", optional: true"), "", ""},
		{file("none", "C", ""), "", "couldn't parse env file"},
	} {
		pod := somePod(t, c.container, "")
		env, err := Environment(t.Context(), someObjects(), someHost(t), pod, &pod.Spec.Containers[0])
		if got := withoutLinks(env); got != c.want {
			t.Errorf("%s: %q, want %q", c.container, got, c.want)
		}
		var unresolved *Unresolved
		switch {
		case c.err == "" && err == nil:
		case c.err == "" || err == nil || !strings.Contains(err.Error(), c.err) || !errors.As(err, &unresolved):
			t.Errorf("%s: error %v, want %q", c.container, err, c.err)
		case strings.Contains(err.Error(), hidden):
			t.Errorf("%s: a secret in the error %v", c.container, err)
		}
	}
}

func field(path string) string {
	return fmt.Sprintf("env: [{name: A, valueFrom: {fieldRef: {fieldPath: %q}}}]", path)
}

func resourceRef(ref string) string {
	return "env: [{name: A, valueFrom: {resourceFieldRef: {" + ref + "}}}]"
}

func file(path, key, more string) string {
	return "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: data, path: " + path + ", key: " + key + more + "}}}]"
}

func TestServiceLinks(t *testing.T) {
	names := func(spec, container string, namespace string) string {
		pod := somePod(t, container, spec)
		pod.Namespace = namespace
		env, err := Environment(t.Context(), someObjects(), Host{}, pod, &pod.Spec.Containers[0])
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, v := range env {
			if strings.Contains(v.Name, "_SERVICE_") {
				out = append(out, v.Name+"="+v.Value)
			}
		}
		return strings.Join(out, " ")
	}
	const api = "KUBERNETES_SERVICE_HOST=10.0.0.3 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443"
	const web = " WEB_SERVICE_HOST=10.0.0.1 WEB_SERVICE_PORT=80 WEB_SERVICE_PORT_DNS=53 WEB_SERVICE_PORT_HTTP=80"
	for _, c := range []struct{ spec, container, namespace, want string }{
		{"", "", "ns", api + web},
		{"enableServiceLinks: false", "", "ns", api},
		{"", "", "empty", api},
		{"", "", "default", api + " SECRET_SERVICE_HOST=10.0.0.4 SECRET_SERVICE_PORT=1"},
		{"", "env: [{name: WEB_SERVICE_HOST, value: mine}]", "ns", api + strings.Replace(web, " WEB_SERVICE_HOST=10.0.0.1", "", 1) + " WEB_SERVICE_HOST=mine"},
		{"", "envFrom: [{configMapRef: {name: d}}]", "ns", api + strings.Replace(web, " WEB_SERVICE_HOST=10.0.0.1", "", 1) + " WEB_SERVICE_HOST=mine"},
	} {
		if got := names(c.spec, c.container, c.namespace); got != c.want {
			t.Errorf("%s %s in %s:\n%s\nwant\n%s", c.spec, c.container, c.namespace, got, c.want)
		}
	}
	pod := somePod(t, "", "")
	env, err := Environment(t.Context(), someObjects(), Host{}, pod, &pod.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(env, v1.EnvVar{Name: "WEB_PORT_53_UDP", Value: "udp://10.0.0.1:53"}) {
		t.Errorf("no variables of links: %v", env)
	}
	mine := someObjects()
	mine.services = append(mine.services, &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kubernetes"},
		Spec: v1.ServiceSpec{ClusterIP: "10.0.0.9", Ports: []v1.ServicePort{{Port: 1}}}})
	if env, err = Environment(t.Context(), mine, Host{}, pod, &pod.Spec.Containers[0]); err != nil || !slices.Contains(env, v1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "10.0.0.9"}) {
		t.Errorf("the own service kubernetes does not stand over that of default: %v, %v", env, err)
	}
}

// envFiles are files of variables; for each key in them the answer is upstream's.
var envFiles = []string{
	"", "\n", "A='1'", "A='1'\n", " \tA='1'\nB='2'\n", "# comment\n\nA='1' # more\n", "A='1'#x\n", "A='1' x\n", "A='1'\nA='2'\n",
	"A='two\nlines'\nB='3'", "A='open\n", "A='open", "A='a\n\nb'", "A ='1'\n", "A= '1'\nB='2'\n", "A=\t'1'", "='1'\n", " ='1'\n", "A\n", "A=1\n",
	"A=\"1\"\n", "A=\n", "A=''\n", "A='x\r\n'\r\nB='2'\r\n", "A='$(B) \\n'\n", "A='='\nB==\n", "A='\n", "A='\n\n", "A='\n'", "\r\nA='1'", "A='1'\r",
}

func TestEnvFileIsUpstreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	chance, all := rand.New(rand.NewPCG(1, 2)), slices.Clone(envFiles)
	for range 3000 {
		var text strings.Builder
		for range chance.IntN(20) {
			text.WriteString([]string{"A", "B", "=", "'", "='", "A='", "\n", " ", "\t", "#", "\r", "x"}[chance.IntN(12)])
		}
		all = append(all, text.String())
	}
	for _, text := range all {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"A", "B", "C", ""} {
			want, wantErr := upstream.ParseEnv(path, key)
			got, err := newEnvFile(text).value(key)
			if got != want || (err == nil) != (wantErr == nil) {
				t.Errorf("%q of %q: %q, %v; upstream has %q, %v", key, text, got, err, want, wantErr)
			}
		}
	}
}

func TestEnvFileIsBounded(t *testing.T) {
	pod := somePod(t, file("big", "A", ""), "")
	read := 0
	h := Host{Open: func(string, string) (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func(p []byte) (int, error) { read += len(p); return len(p), nil })), nil
	}}
	_, err := Environment(t.Context(), memory{}, h, pod, &pod.Spec.Containers[0])
	if err == nil || !strings.Contains(err.Error(), "is larger than 1048576 bytes") || read > 4*maxEnvFile {
		t.Errorf("%v after %d bytes", err, read)
	}
}

// A file is read once however many variables are of it, in any order, and a value of many lines costs no more than its length:
// copied for each line, this one would take minutes.
func TestEnvFileIsReadOnce(t *testing.T) {
	var container strings.Builder
	container.WriteString("env:\n")
	const variables = 200
	for i := range variables {
		fmt.Fprintf(&container, "- {name: V%d, valueFrom: {fileKeyRef: {volumeName: data, path: env, key: K%d}}}\n", i, variables-1-i)
	}
	pod := somePod(t, container.String(), "")
	var text strings.Builder
	for i := range variables {
		fmt.Fprintf(&text, "K%d='of %d'\n", i, i)
	}
	text.WriteString("LONG='" + strings.Repeat("\n", 64<<10) + "'\n")
	opened := 0
	h := Host{Open: func(string, string) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(text.String())), nil
	}}
	env, err := Environment(t.Context(), memory{}, h, pod, &pod.Spec.Containers[0])
	if err != nil || len(env) != variables || env[0].Value != "of 199" || env[199].Value != "of 0" || opened != 1 {
		t.Errorf("%d variables, %v, the file was opened %d times", len(env), err, opened)
	}
	f := newEnvFile(text.String())
	if value, err := f.value("LONG"); err != nil || len(value) != 64<<10 {
		t.Errorf("a value of %d bytes, %v", len(value), err)
	}
	most := testing.AllocsPerRun(1, func() { _, _ = newEnvFile(text.String()).value("LONG") })
	if most > 1000 {
		t.Errorf("%v allocations for one value", most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Environment(ctx, memory{}, h, pod, &pod.Spec.Containers[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// tokens gives out tokens that say what they are for.
type tokens struct{ err error }

func (tokens) Key() string { return "key" }

type otherKey struct{ tokens }

func (otherKey) Key() string { return "other key" }

func (s tokens) Token(_ context.Context, pod *v1.Pod, audience string, expiry time.Duration) (string, time.Time, error) {
	return fmt.Sprintf("%s/%s/%s", pod.Name, audience, expiry), time.Now().Add(expiry), s.err
}

func TestFiles(t *testing.T) {
	for _, c := range []struct{ volume, want, err string }{
		{"configMap: {name: c, defaultMode: 420}", "a.b-c:644=dotted bin:644=\x00\x01\xff empty:644= k:644=text other:644=x", ""},
		{"configMap: {name: c, defaultMode: 256, items: [{key: k, path: x/y}, {key: other, path: z, mode: 493}, {key: bin, path: b}]}", "b:400=\x00\x01\xff x/y:400=text z:755=x", ""},
		{"configMap: {name: c, items: [{key: none, path: x}]}", "", `configmap "c": references non-existent config key: none`},
		{"configMap: {name: c, items: [{key: none, path: x}, {key: nor, path: w}]}", "", `configmap "c": references non-existent config key: none, nor`},
		{"configMap: {name: c, optional: true, items: [{key: none, path: x}, {key: k, path: w}]}", "w:644=text", ""},
		{"configMap: {name: none}", "", `configmap "none" not found`},
		{"configMap: {name: none, optional: true}", "", ""},
		{"secret: {secretName: s, defaultMode: 384}", "k:600=of s password:600=hunter2", ""},
		{"secret: {secretName: s, items: [{key: none, path: x}]}", "", `secret "s": references non-existent secret key: none`},
		{"secret: {secretName: none}", "", `secret "none" not found`},
		{"secret: {secretName: none, optional: true, items: [{key: a, path: b}]}", "", ""},
		{"downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: me, mode: 256, fieldRef: {fieldPath: metadata.name}}]}",
			"labels:644=app=\"web\"\ntier=\"front\" me:400=web", ""},
		{"downwardAPI: {items: [{path: a/note, fieldRef: {fieldPath: metadata.annotations}}, {path: uid, fieldRef: {fieldPath: metadata.uid}}, {path: ns, fieldRef: {fieldPath: metadata.namespace}}]}",
			"a/note:644=note=\"a \\\"b\\\"\" ns:644=ns uid:644=uid-1", ""},
		{"downwardAPI: {items: [{path: one, fieldRef: {fieldPath: \"metadata.labels['tier']\"}}, {path: cpu, resourceFieldRef: {containerName: other, resource: limits.cpu, divisor: 1m}}, {path: all, resourceFieldRef: {containerName: app, resource: limits.cpu}}]}",
			"all:644=4 cpu:644=250 one:644=front", ""},
		{"downwardAPI: {items: [{path: one, fieldRef: {fieldPath: metadata.none}}, {path: two, resourceFieldRef: {containerName: none, resource: limits.cpu}}]}",
			"", "[unsupported fieldPath: metadata.none, container none not found]"},
		{"projected: {defaultMode: 292, sources: [{configMap: {name: c, items: [{key: k, path: k}, {key: other, path: o, mode: 384}]}}, {secret: {name: s}}, {downwardAPI: {items: [{path: d, fieldRef: {fieldPath: metadata.name}}]}}]}",
			"d:444=web k:444=of s o:600=x password:444=hunter2", ""},
		{"projected: {sources: [{configMap: {name: none}}, {secret: {name: none}}]}", "", `[configmap "none" not found, secret "none" not found]`},
		{"projected: {sources: [{configMap: {name: none, optional: true}}, {secret: {name: s, optional: true, items: [{key: none, path: x}]}}]}", "", ""},
		{"projected: {sources: [{serviceAccountToken: {path: t/token, audience: vault, expirationSeconds: 600}}, {serviceAccountToken: {path: api}}]}",
			"api:644=web//1h0m0s t/token:644=web/vault/10m0s", ""},
		{"configMap: {name: c, items: [{key: k, path: a}, {key: other, path: a/b}]}", "", `paths conflict: "a" is a file, and a directory of "a/b"`},
		{"configMap: {name: c, items: [{key: k, path: a/../../b}]}", "", `invalid path: "../b"`},
		{"configMap: {name: c, items: [{key: k, path: ..a}]}", "", `invalid path: "..a"`},
		{"configMap: {name: c, items: [{key: k, path: /a}]}", "", `invalid path: "/a"`},
	} {
		pod := somePod(t, "", "volumes:\n- name: v\n  "+c.volume)
		h := someHost(t)
		h.Tokens = tokens{}
		content, err := Files(t.Context(), someObjects(), h, pod, &pod.Spec.Volumes[0])
		var got []string
		for _, path := range slices.Sorted(maps.Keys(content.Files)) {
			got = append(got, fmt.Sprintf("%s:%o=%s", path, content.Files[path].Mode, content.Files[path].Data))
		}
		var unresolved *Unresolved
		switch {
		case c.err == "" && (err != nil || strings.Join(got, " ") != c.want):
			t.Errorf("%s: %q, %v; want %q", c.volume, strings.Join(got, " "), err, c.want)
		case c.err != "" && (err == nil || err.Error() != c.err || !errors.As(err, &unresolved)):
			t.Errorf("%s: error %v, want %q", c.volume, err, c.err)
		}
	}
}

func TestTokenFiles(t *testing.T) {
	const source = "volumes:\n- name: v\n  projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: token, expirationSeconds: 1000}}]}"
	for _, c := range []struct {
		spec, container string
		mode            uint32
		owner           int64
	}{
		{"", "", 0o644, -1},
		{"securityContext: {fsGroup: 5}", "", 0o600, -1},
		{"securityContext: {runAsUser: 7}", "", 0o600, 7},
		{"securityContext: {runAsUser: 7}", "securityContext: {runAsUser: 8}", 0o644, -1},
		{"", "securityContext: {runAsUser: 8}", 0o644, -1},
	} {
		pod := somePod(t, c.container, source+"\n"+c.spec)
		content, err := Files(t.Context(), memory{}, Host{Tokens: tokens{}}, pod, &pod.Spec.Volumes[0])
		f, owner := content.Files["token"], int64(-1)
		if f.Owner != nil {
			owner = *f.Owner
		}
		if err != nil || f.Mode != c.mode || owner != c.owner {
			t.Errorf("%s %s: mode %o, owner %d, %v; want %o, %d", c.spec, c.container, f.Mode, owner, err, c.mode, c.owner)
		}
		if in := time.Until(content.Due); in < 780*time.Second || in > 800*time.Second {
			t.Errorf("%s: due in %s", c.spec, in)
		}
	}
	pod := somePod(t, "", source)
	down := errors.New("down")
	_, err := Files(t.Context(), memory{}, Host{Tokens: tokens{down}}, pod, &pod.Spec.Volumes[0])
	if unresolved := new(Unresolved); !errors.Is(err, down) || errors.As(err, &unresolved) {
		t.Errorf("a token that could not be made: %v", err)
	}
	if _, err := Files(t.Context(), memory{}, Host{}, pod, &pod.Spec.Volumes[0]); err == nil {
		t.Error("no tokens, and no error")
	}
}

// A stamp changes with each source of a volume and with nothing else.
func TestStamp(t *testing.T) {
	o := someObjects()
	pod := somePod(t, "", `
volumes:
- {name: c, configMap: {name: c}}
- {name: p, projected: {sources: [{configMap: {name: c}}, {secret: {name: s}}, {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}]}}
- {name: m, downwardAPI: {items: [{path: me, fieldRef: {fieldPath: metadata.name}}, {path: r, resourceFieldRef: {containerName: app, resource: limits.cpu}}]}}
- {name: t, projected: {sources: [{serviceAccountToken: {path: token}}]}}`)
	h := someHost(t)
	h.Tokens = tokens{}
	stamps := func() []string {
		var out []string
		for i := range pod.Spec.Volumes {
			out = append(out, Stamp(o, h, pod, &pod.Spec.Volumes[i]))
		}
		return out
	}
	before := stamps()
	for _, c := range []struct {
		what   string
		change func()
		want   string // which volumes are others then
	}{
		{"nothing", func() {}, ""},
		{"another object", func() { o.revisions[Ref{ConfigMap, "d"}] = 9; o.revisions[Ref{Secret, "c"}] = 9 }, ""},
		{"c", func() { o.revisions[Ref{ConfigMap, "c"}]++ }, "c p"},
		{"s", func() { delete(o.revisions, Ref{Secret, "s"}) }, "p"},
		{"a label", func() { pod.Labels["app"] = "other" }, "p"},
		{"an annotation", func() { pod.Annotations["note"] = "other" }, ""},
		{"resources", func() { h.Allocatable = v1.ResourceList{v1.ResourceCPU: quantity("1")} }, "m"},
		{"the key of tokens", func() { h.Tokens = otherKey{} }, "t"},
	} {
		c.change()
		after := stamps()
		var changed []string
		for i := range after {
			if after[i] != before[i] {
				changed = append(changed, pod.Spec.Volumes[i].Name)
			}
		}
		if got := strings.Join(changed, " "); got != c.want {
			t.Errorf("%s: others are %q, want %q", c.what, got, c.want)
		}
		before = after
	}
}

func TestUses(t *testing.T) {
	pod := somePod(t, "envFrom: [{configMapRef: {name: from-c}}, {secretRef: {name: from-s}}]", `
volumes: [{name: c, configMap: {name: vol-c}}, {name: s, secret: {secretName: vol-s}}, {name: p, projected: {sources: [{configMap: {name: pro-c}}, {secret: {name: pro-s}}]}}, {name: e, emptyDir: {}}]
initContainers: [{name: i, env: [{name: A, value: x}, {name: B, valueFrom: {configMapKeyRef: {name: init-c, key: k}}}]}]
ephemeralContainers: [{name: e, env: [{name: B, valueFrom: {secretKeyRef: {name: eph-s, key: k}}}]}]`)
	for _, name := range []string{"from-", "vol-", "pro-", "init-", "eph-", "none-"} {
		c, s := Uses(pod, Ref{ConfigMap, name + "c"}), Uses(pod, Ref{Secret, name + "s"})
		if c != (name != "eph-" && name != "none-") || s != (name != "init-" && name != "none-") {
			t.Errorf("%s: configmap %v, secret %v", name, c, s)
		}
	}
	if Uses(pod, Ref{Secret, "vol-c"}) || Uses(pod, Ref{ConfigMap, "vol-s"}) {
		t.Error("the kinds are not told apart")
	}
}

func quantity(s string) resource.Quantity { return resource.MustParse(s) }
