//go:build host

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// bomb is small, and some gigabytes when its aliases are expanded.
func bomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata:\n  name: bomb\n  labels:\n    a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "    a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), ", "))
	}
	return b.String() + "spec: {containers: [{name: app, image: x}]}\n"
}

// endless is n bytes of a manifest that never ends.
func endless(n int64) io.Reader {
	return io.MultiReader(strings.NewReader("apiVersion: v1\nkind: Pod\nmetadata: {name: big, annotations: {a: '"), io.LimitReader(xs{}, n), strings.NewReader("'}}\n"))
}

type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestBadInput: what is wrong with what comes in is told in one clear error, at once. podd goes on, no larger than before,
// and so does the pod that runs.
func TestBadInput(t *testing.T) {
	s := start(t)
	witness := s.running(t, sleeper("witness"))
	before := s.memory(t)
	t.Run("podctl", func(t *testing.T) { testBadManifests(t, s) })
	t.Run("api", func(t *testing.T) { testBadRequests(t, s) })
	t.Run("lines", func(t *testing.T) { testEveryProblem(t, s) })
	if after := s.memory(t); after > before+32<<20 {
		t.Errorf("podd has grown from %d to %d MB", before>>20, after>>20)
	}
	s.untouched(t, witness)
	if list, err := s.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d pods, %v; want the witness only", len(list.Items), err)
	}
}

// memory is podd's own, in bytes, not counting what is mapped from its binary.
func (s *suite) memory(t *testing.T) (bytes int64) {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", s.Pid()))) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			_, err := fmt.Sscan(rest, &bytes)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return bytes << 10
}

// untouched checks that a pod runs on as it was, and that podd is still the same process.
func (s *suite) untouched(t *testing.T, was *v1.Pod) {
	t.Helper()
	select {
	case <-s.Exited():
		t.Fatalf("podd has ended:\n%s", s.Logs())
	default:
	}
	now := s.until(t, was.Name, "ready", ready)
	if app(now).ContainerID != app(was).ContainerID || app(now).RestartCount != app(was).RestartCount || now.Status.PodIP != was.Status.PodIP {
		t.Errorf("the pod that runs was touched: %+v, was %+v", app(now), app(was))
	}
	if got := s.sh(t, was.Name, "echo alive"); got != "alive" {
		t.Errorf("the pod that runs says %q", got)
	}
}

func testBadManifests(t *testing.T, s *suite) {
	good := sleeper("bad").String()
	for name, c := range map[string]struct {
		in   string
		want []string // on one line
	}{
		"truncated":         {good[:len(good)-20], []string{"-:"}},
		"unknown-field":     {strings.Replace(good, "  - name: app\n", "  - name: app\n    colour: red\n", 1), []string{"-:", "spec.containers[0].colour", "unknown field"}},
		"misspelt-field":    {strings.Replace(good, "image:", "imagee:", 1), []string{"-:", "imagee", `"image"`}},
		"misplaced-field":   {strings.Replace(good, "  - name: app\n", "  - name: app\n    hostNetwork: true\n", 1), []string{"-:", "hostNetwork", "spec"}},
		"duplicate-field":   {strings.Replace(good, "spec:\n", "spec:\n  restartPolicy: Never\n", 1), []string{"-:", "restartPolicy"}},
		"wrong-type":        {strings.Replace(good, "spec:\n", "spec:\n  hostNetwork: sometimes\n", 1), []string{"-:", "spec.hostNetwork", "boolean"}},
		"number-for-string": {strings.Replace(good, "name: app", "name: 5", 1), []string{"-:", "spec.containers[0].name", "string"}},
		"scalar":            {"just text", []string{"-:"}},
		"empty-list":        {"[]", []string{"-:"}},
		"no-kind":           {"apiVersion: v1\nmetadata: {name: x}\n", []string{"-:", "kind"}},
		"other-kind":        {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n", []string{"-:", "Deployment"}},
		"tabs":              {strings.Replace(good, "  restartPolicy", "\trestartPolicy", 1), []string{"-:"}},
		"binary":            {"\x7fELF\x00\x01\xff\xfe", []string{"-:"}},
		"alias-bomb":        {bomb(), []string{"-:"}},
		"deep":              {"apiVersion: v1\nkind: Pod\nspec: " + strings.Repeat("[", 100_000), []string{"-:"}},
		"no-name":           {strings.Replace(good, "name: bad", "labels: {}", 1), []string{"-:", "metadata.name"}},
		"path-as-name":      {strings.Replace(good, "name: bad", "name: ../../etc/passwd", 1), []string{"-:", `name "../../etc/passwd"`, "may not contain '/'"}},
		"slash-in-name":     {strings.Replace(good, "name: bad", "name: a/b", 1), []string{"-:", `name "a/b"`, "may not contain '/'"}},
		"dots-as-name":      {strings.Replace(good, "name: bad", "name: '..'", 1), []string{"-:", `name ".."`, "may not be '..'"}},
		"container-name":    {strings.Replace(good, "name: app", "name: ../app", 1), []string{"-:", "spec.containers[0].name", "Invalid value"}},
		"volume-name":       {strings.Replace(good, "spec:\n", "spec:\n  volumes: [{name: ../v, emptyDir: {}}]\n", 1), []string{"-:", "spec.volumes[0].name", "Invalid value"}},
		"namespace":         {strings.Replace(good, "name: bad", "name: bad\n  namespace: ../kube", 1), []string{"namespace"}},
		"no-namespace":      {strings.Replace(good, "name: bad", "name: bad\n  namespace: nowhere", 1), []string{`namespaces "nowhere" not found`}},
		"huge-uid":          {strings.Replace(good, "spec:\n", "spec:\n  securityContext: {runAsUser: 4294967296}\n", 1), []string{"-:", "spec.securityContext.runAsUser"}},
		"negative-memory":   {strings.Replace(good, "  - name: app\n", "  - name: app\n    resources: {limits: {memory: -1}}\n", 1), []string{"-:", "resources.limits"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			got := s.refused(t, c.in, "apply", "-f", "-")
			if !hasLine(got, c.want...) {
				t.Errorf("podctl apply says\n%.1000s\nwant a line with %q", got, c.want)
			}
			if n := strings.Count(got, "\n"); n > 4 || len(got) > 2000 {
				t.Errorf("the error has %d lines and %d bytes:\n%.1000s", n, len(got), got)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("100-MB", func(t *testing.T) {
		out, errs, code := s.PodctlInput(endless(100<<20), "apply", "-f", "-")
		if code == 0 || !hasLine(errs, "-", "3 MiB") || strings.Count(errs, "\n") > 2 {
			t.Errorf("podctl apply: exit %d, %.500q, %.500q", code, out, errs)
		}
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "pod.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(good, "image:", "imagee:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.refused(t, "", "apply", "-f", file); !hasLine(got, file+":", "imagee") {
		t.Errorf("podctl apply -f FILE: %q", got)
	}
}

// All that is wrong is told at once, each with its line.
func testEveryProblem(t *testing.T, s *suite) {
	const in = `apiVersion: v1
kind: Pod
metadata:
  name: problems
  lables: {a: b}
spec:
  containers:
  - name: app
    image: x
    ports:
    - containerPort: eighty
    imagePullPolice: Always
---
apiVersion: v1
kind: Pod
metadata: {name: more}
spec:
  hostNetwork: 1
  containers: []
`
	got := s.refused(t, in, "apply", "-f", "-")
	for _, want := range []string{"-:5:", "-:11:", "-:12:", "-:18:"} {
		if !hasLine(got, want) {
			t.Errorf("nothing of line %s\n%s", want, got)
		}
	}
	// What only the server finds comes with its lines, too.
	p := sleeper("problems")
	p.Container = "ports: [{containerPort: 99999}]\nimagePullPolicy: Sometimes"
	p.Spec = "dnsPolicy: Maybe"
	got = s.refused(t, p.String(), "apply", "-f", "-")
	for _, want := range []string{"spec.containers[0].ports[0].containerPort", "spec.containers[0].imagePullPolicy", "spec.dnsPolicy"} {
		if !hasLine(got, "-:", want) {
			t.Errorf("nothing of %s:\n%s", want, got)
		}
	}
}

// The API itself is as hard to surprise as podctl: it is asked without it.
func testBadRequests(t *testing.T, s *suite) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
	}}}
	const pods = "/api/v1/namespaces/default/pods"
	good := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{"containers":[{"name":"app","image":"x"}]}}`
	for name, c := range map[string]struct {
		method, path, kind string
		body               io.Reader
		codes              string
		says               string
	}{
		"truncated-json":  {"POST", pods, "application/json", strings.NewReader(good[:50]), "400", ""},
		"truncated-yaml":  {"POST", pods, "application/yaml", strings.NewReader("apiVersion: v1\nkind: Pod\nmetadata: {name: 'x"), "400", ""},
		"unknown-field":   {"POST", pods + "?fieldValidation=Strict", "application/json", strings.NewReader(strings.Replace(good, `"image"`, `"imagee"`, 1)), "400", "spec.containers[0].imagee"},
		"duplicate-field": {"POST", pods + "?fieldValidation=Strict", "application/json", strings.NewReader(strings.Replace(good, `"name":"app"`, `"name":"app","name":"b"`, 1)), "400", "duplicate"},
		"wrong-type":      {"POST", pods, "application/json", strings.NewReader(strings.Replace(good, `"app"`, `{}`, 1)), "400", "string"},
		"refused-field":   {"POST", pods, "application/json", strings.NewReader(strings.Replace(good, `"spec":{`, `"spec":{"securityContext":{"appArmorProfile":{"type":"Unconfined"}},`, 1)), "422", "spec.securityContext.appArmorProfile: Forbidden"},
		"other-kind":      {"POST", pods, "application/json", strings.NewReader(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"x"}}`), "400", ""},
		"empty":           {"POST", pods, "application/json", strings.NewReader(""), "400", ""},
		"binary":          {"POST", pods, "application/vnd.kubernetes.protobuf", strings.NewReader("k8s\x00\xff\xff\xff\xff"), "400", ""},
		"no-such-type":    {"POST", pods, "text/html", strings.NewReader(good), "415", ""},
		"deep-json":       {"POST", pods, "application/json", strings.NewReader(`{"apiVersion":"v1","kind":"Pod","spec":` + strings.Repeat(`[`, 1_000_000)), "400", ""},
		"alias-bomb":      {"POST", pods, "application/yaml", strings.NewReader(bomb()), "400 413 422", ""},
		"100-MB":          {"POST", pods, "application/json", io.MultiReader(strings.NewReader(good[:len(good)-1]+`,"x":"`), io.LimitReader(xs{}, 100<<20)), "413", "too large"},
		"path-as-name":    {"POST", pods, "application/json", strings.NewReader(strings.Replace(good, `"bad"`, `"../../etc/passwd"`, 1)), "422", "metadata.name"},
		"path-in-url":     {"GET", pods + "/..%2f..%2f..%2fetc%2fpasswd", "", nil, "400 404", ""},
		"path-in-ns":      {"POST", "/api/v1/namespaces/..%2fkube/pods", "application/json", strings.NewReader(good), "400 404 422", ""},
		"log-of-path":     {"GET", pods + "/witness/log?container=..%2f..%2fx", "", nil, "400", "..%2f..%2fx"},
		"bad-selector":    {"GET", pods + "?labelSelector=%3D%3D%21", "", nil, "400", ""},
		"nothing-there":   {"GET", "/no/such/path", "", nil, "404", ""},
		"patch-bomb":      {"PATCH", pods + "/witness", "application/json-patch+json", strings.NewReader("[" + strings.Repeat(`{"op":"add","path":"/metadata/labels/a","value":"b"},`, 20_000) + `{"op":"test","path":"/x","value":1}]`), "400 413 422", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://podd"+c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			began := time.Now()
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
			if err != nil {
				t.Errorf("the answer breaks off: %v", err)
			}
			says := strings.NewReplacer("%2f", "/").Replace(c.says)
			if !strings.Contains(c.codes, fmt.Sprint(res.StatusCode)) || !strings.Contains(string(body), says) {
				t.Errorf("%s %s: %s, %.500s; want %s, %q", c.method, c.path, res.Status, body, c.codes, says)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestFullDisk: with no space below the state directory podd refuses what it could not keep, in clear words; what runs runs
// on; and when there is space again everything works again.
func TestFullDisk(t *testing.T) {
	var fill string
	s := start(t, harness.WithConfig(func(p *harness.Podd) {
		if err := unix.Mount("tmpfs", p.Root, "tmpfs", 0, "size=64m,nr_inodes=20000,mode=0700"); err != nil {
			t.Fatal(err)
		}
		fill = filepath.Join(p.Root, "fill")
	}))
	witness := s.running(t, sleeper("witness"))
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, xs{})
	if err := f.Close(); err != nil {
		t.Log(err)
	}
	if err == nil || !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		t.Fatalf("fill the disk: %v", err)
	}

	// Small ones may fit into what the database has in reserve; such large ones cannot, for long.
	large := sleeper("large")
	large.Meta = "annotations: {a: " + strings.Repeat("x", 100<<10) + "}"
	refused := ""
	for i := 0; i < 20 && refused == ""; i++ {
		large.Name = fmt.Sprintf("large-%d", i)
		if out, errs, code := s.PodctlInput(strings.NewReader(large.String()), "apply", "-f", "-"); code != 0 {
			refused = out + errs
		}
	}
	if !strings.Contains(refused, "no space left on device") || strings.Count(strings.TrimSpace(refused), "\n") > 1 {
		t.Errorf("podctl apply with a full disk says %.1000q", refused)
	}
	if _, _, code := s.Podctl("get", "pod", large.Name); code == 0 {
		t.Errorf("%s was refused, and is there", large.Name)
	}
	s.untouched(t, witness)

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.running(t, sleeper("afterwards"))
	s.untouched(t, witness)
	t.Run("volumes", func(t *testing.T) { testNoInodes(t, s) })
	for i := range 20 {
		s.must(t, "delete", "pod", fmt.Sprintf("large-%d", i), "--ignore-not-found", "--now")
	}
}

// testNoInodes: with no inode left below the state directory, so that nothing new can be made there but what is there can be
// written, a pod's volume and the directory of a claim wait, say why, and are made when there is space.
func testNoInodes(t *testing.T, s *suite) {
	dir := filepath.Join(s.Root, "fill")
	must(t, os.Mkdir(dir, 0o700))
	var err error
	for i := 0; err == nil; i++ {
		var f *os.File
		if f, err = os.Create(filepath.Join(dir, fmt.Sprint(i))); err == nil {
			f.Close()
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	s.apply(t, pod{Name: "volume", Script: sleepScript, Spec: "volumes: [{name: v, emptyDir: {}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]"})
	s.apply(t, claim{Name: "kept"})
	if got := s.onlyEvent(t, "volume", "FailedMount"); !strings.HasPrefix(got, "Unable to attach or mount volumes: ") || !strings.HasSuffix(got, ": no space left on device") {
		t.Errorf("event of the pod: %q", got)
	}
	if got := s.onlyEvent(t, "kept", "ProvisioningFailed"); !strings.HasPrefix(got, "make directory of volume pvc-") || !strings.HasSuffix(got, ": no space left on device") {
		t.Errorf("event of the claim: %q", got)
	}
	must(t, os.RemoveAll(dir))
	s.until(t, "volume", "ready", ready)
	s.claimUntil(t, "kept", "bound", bound)
	s.must(t, "delete", "pvc", "kept")
}
