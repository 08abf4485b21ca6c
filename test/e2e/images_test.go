//go:build host

package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"

	"podd/api/images"
	"podd/test/ociimage"
	"podd/test/registry"
)

func testImages(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"pull-ls-rm":        testImageVerbs,
		"load":              testImageLoad,
		"pull-policies":     testPullPolicies,
		"back-off":          testPullBackOff,
		"errors":            testPullErrors,
		"one-pull":          testOnePull,
		"delete-in-pull":    testDeleteInPull,
		"broken-connection": testBrokenPull,
		"hosts-toml":        testHostsToml,
		"secrets":           testPullSecrets,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// hub is a registry on loopback. While its gate is shut, layers do not come.
type hub struct {
	*registry.Registry
	address string
	gate    sync.RWMutex
	arrived atomic.Int32 // requests for layers, also those that wait at the gate
}

// newHub serves the busybox image under the given names, by plain HTTP.
func newHub(t *testing.T, names ...string) *hub {
	t.Helper()
	h := &hub{Registry: registry.New()}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	h.address = server.Listener.Addr().String()
	h.push(t, names...)
	return h
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/blobs/") {
		h.arrived.Add(1)
		h.gate.RLock()
		defer h.gate.RUnlock()
	}
	h.Registry.ServeHTTP(w, r)
}

// push adds busybox under names. Each has a layer of its own beside the common one, so that it is another image.
func (h *hub) push(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		image, err := ociimage.Busybox(h.address+"/"+name, "/bin/busybox")
		if err != nil {
			t.Fatal(err)
		}
		image.Layers = append(image.Layers, []ociimage.File{{Path: "name", Mode: 0o644, Content: []byte(image.Name + "\n")}})
		built, err := image.Build()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Push(built); err != nil {
			t.Fatal(err)
		}
	}
}

// asked counts the requests for what is below a part of a path, since the last call.
func (h *hub) asked(method, part string) int {
	n := 0
	for _, r := range h.Requests() {
		if r.Method == method && strings.Contains(r.Path, part) {
			n++
		}
	}
	return n
}

// image is a pod of an image of the hub, which tells where it is from.
func (h *hub) image(name, image string) pod {
	return pod{Name: name, Container: "image: " + h.address + "/" + image + "\ncommand: [cat, /name]"}
}

func testImageVerbs(t *testing.T, s *suite) {
	h := newHub(t, "verbs/app:1")
	ref := h.address + "/verbs/app:1"
	out, errs, code := s.Podctl("image", "pull", ref)
	if code != 0 || !strings.HasPrefix(out, fmt.Sprintf("image %q pulled (", ref)) {
		t.Errorf("podctl image pull: exit %d, %q, %q", code, out, errs)
	}
	if !hasLine(errs, ref, ": resolving") || strings.Count(errs, ": done\n") != 2 { // of two layers
		t.Errorf("no progress of layers: %q", errs)
	}
	list := s.must(t, "image", "ls")
	head, _, _ := strings.Cut(list, "\n")
	if got := strings.Join(strings.Fields(head), " "); got != "NAME IMAGE ID DIGEST SIZE AGE" {
		t.Errorf("podctl image ls: head %q", got)
	}
	if !hasLine(list, ref, "MB") && !hasLine(list, ref, "MiB") && !hasLine(list, ref, "kB") && !hasLine(list, ref, "KiB") {
		t.Errorf("podctl image ls does not show %s and its size:\n%s", ref, list)
	}
	if names := s.must(t, "image", "ls", "-o", "name"); !strings.Contains(names, ref+"\n") {
		t.Errorf("podctl image ls -o name:\n%s", names)
	}
	var all images.List
	if err := json.Unmarshal([]byte(s.must(t, "image", "ls", "-o", "json")), &all); err != nil {
		t.Error(err)
	}
	digest := ""
	for _, i := range all.Images {
		if i.Name == ref {
			digest = i.Digest
		}
	}
	if !strings.HasPrefix(digest, "sha256:") {
		t.Errorf("podctl image ls -o json has no digest of %s: %+v", ref, all)
	}
	if got := s.output(t, pod{Name: "by-digest", Container: "image: " + h.address + "/verbs/app@" + digest + "\ncommand: [cat, /name]"}); got != ref {
		t.Errorf("the image by its digest says %q", got)
	}
	if got := s.must(t, "image", "rm", ref); got != fmt.Sprintf("image %q deleted\n", ref) {
		t.Errorf("podctl image rm: %q", got)
	}
	if names := s.must(t, "image", "ls", "-o", "name"); strings.Contains(names, ref+"\n") {
		t.Errorf("after rm podctl image ls has\n%s", names)
	}
	if out, errs, _ := s.Podctl("image", "rm", ref); !strings.Contains(out+errs, "is not here") {
		t.Errorf("podctl image rm of no image: %q, %q", out, errs)
	}
	if got := s.refused(t, "", "image", "pull", h.address+"/verbs/none:1"); !strings.Contains(got, "not found") || strings.Count(strings.TrimSpace(got), "\n") > 0 && !strings.Contains(got, "error:") {
		t.Errorf("podctl image pull of no image: %q", got)
	}
}

func testImageLoad(t *testing.T, s *suite) {
	const ref = "example.com/other/busybox:docker"
	waits := pod{Name: "waits-for-load", Script: "echo loaded", Container: "image: " + ref + "\nimagePullPolicy: Never"}
	s.apply(t, waits)
	s.until(t, waits.Name, "without its image", func(p *v1.Pod) bool {
		return app(p).State.Waiting != nil && app(p).State.Waiting.Reason == "ErrImageNeverPull"
	})
	if got := s.must(t, "image", "load", archives.docker); !strings.HasPrefix(got, fmt.Sprintf("image %q loaded (", ref)) {
		t.Errorf("podctl image load of a docker archive: %q", got)
	}
	s.until(t, waits.Name, "succeeded", phase(v1.PodSucceeded))
	s.remove(t, waits.Name)
	if got := s.output(t, pod{Name: "of-docker-archive", Script: "echo loaded", Container: "image: " + ref + "\nimagePullPolicy: Never"}); got != "loaded" {
		t.Errorf("the pod says %q", got)
	}
	p := sleeper("uses-image")
	p.Container = "image: " + ref
	s.running(t, p)
	if got := s.refused(t, "", "image", "rm", ref); !strings.Contains(got, "remove "+ref+": image is in use by pod default/uses-image: delete that first") {
		t.Errorf("podctl image rm of an image that a container has: %q", got)
	}
	s.remove(t, p.Name)
	eventually(t, func() error {
		if _, errs, code := s.Podctl("image", "rm", ref); code != 0 {
			return fmt.Errorf("podctl image rm: %s", errs)
		}
		return nil
	})
	archive, err := os.Open(archives.docker)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if out, errs, code := s.PodctlInput(archive, "image", "load", "-"); code != 0 || !strings.Contains(out, ref) {
		t.Errorf("podctl image load -: exit %d, %q, %q", code, out, errs)
	}
	broken := filepath.Join(t.TempDir(), "broken.tar")
	if err := os.WriteFile(broken, []byte(read(t, archives.docker)[:100_000]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{broken, "/etc/passwd", "/no/such.tar"} {
		if got := s.refused(t, "", "image", "load", file); got == "" || strings.Count(strings.TrimSpace(got), "\n") > 0 {
			t.Errorf("podctl image load %s: %q, want one line", file, got)
		}
	}
}

func testPullPolicies(t *testing.T, s *suite) {
	h := newHub(t, "policy/app:1", "policy/app:latest")
	pull := func(name, image, policy string) (asked int) {
		t.Helper()
		p := h.image(name, image)
		p.Container += "\n" + policy
		want := h.address + "/" + image
		if !strings.Contains(image, ":") {
			want += ":latest" // is what is meant
		}
		if got := s.output(t, p); got != want {
			t.Errorf("the image of %s says %q, want %q", name, got, want)
		}
		return h.asked(http.MethodHead, "/manifests/") // what a pull begins with
	}
	for _, c := range []struct {
		name, image, policy string
		want                int
	}{
		{"missing", "policy/app:1", "imagePullPolicy: IfNotPresent", 1},
		{"present", "policy/app:1", "imagePullPolicy: IfNotPresent", 0},
		{"default", "policy/app:1", "", 0},
		{"never", "policy/app:1", "imagePullPolicy: Never", 0},
		{"always", "policy/app:1", "imagePullPolicy: Always", 1},
		{"latest", "policy/app:latest", "", 1},
		{"latest-again", "policy/app:latest", "", 1},
		{"no-tag", "policy/app", "", 1},
	} {
		if got := pull("policy-"+c.name, c.image, c.policy); got != c.want {
			t.Errorf("%s: %d pulls, want %d", c.name, got, c.want)
		}
	}
	never := h.image("policy-never-missing", "policy/none:1")
	never.Container += "\nimagePullPolicy: Never"
	s.apply(t, never)
	pod := s.until(t, never.Name, "held back", waiting("ErrImageNeverPull"))
	if got := app(pod).State.Waiting.Message; !strings.Contains(got, "policy/none:1") || h.asked(http.MethodHead, "none") > 0 {
		t.Errorf("message %q", got)
	}
	s.remove(t, never.Name)
}

// An image that is not there: the error, then the back-off, and when it comes the pod runs.
func testPullBackOff(t *testing.T, s *suite) {
	h := newHub(t)
	p := h.image("pull-back-off", "late/app:1")
	s.apply(t, p)
	pod := s.until(t, p.Name, "the pull has failed", waiting("ErrImagePull"))
	if got := app(pod).State.Waiting.Message; !strings.Contains(got, "late/app:1") || !strings.Contains(got, "not found") {
		t.Errorf("message: %q", got)
	}
	pod = s.until(t, p.Name, "backed off", waiting("ImagePullBackOff"))
	if got := app(pod).State.Waiting.Message; !strings.Contains(got, "Back-off pulling image") || !strings.Contains(got, "not found") || pod.Status.Phase != v1.PodPending {
		t.Errorf("phase %s, message: %q", pod.Status.Phase, got)
	}
	for _, reason := range []string{"Pulling", "Failed", "BackOff"} {
		s.event(t, p.Name, reason)
	}
	h.push(t, "late/app:1")
	s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
	s.event(t, p.Name, "Pulled")
}

func testPullErrors(t *testing.T, s *suite) {
	closed := newHub(t, "closed/app:1")
	closed.Require("user", "secret")
	broken := newHub(t, "broken/app:1")
	broken.Fail(&registry.Fault{Status: http.StatusInternalServerError})
	foreign := newHub(t)
	image := ociimage.Image{Name: foreign.address + "/foreign/app:1", Architecture: "s390x", Layers: [][]ociimage.File{{{Path: "x"}}}}
	built, err := image.Build()
	if err == nil {
		err = foreign.PushIndex(built)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ image, reason, message string }{
		"unauthorized": {closed.address + "/closed/app:1", "ErrImagePull", "unauthorized"},
		"status-500":   {broken.address + "/broken/app:1", "ErrImagePull", "500"},
		"refused":      {fmt.Sprintf("127.0.0.1:%d/x/y:1", freePort(t)), "ErrImagePull", "connection refused"},
		"platform":     {foreign.address + "/foreign/app:1", "ErrImagePull", "linux/"},
		"name":         {"UPPER//case:1", "InvalidImageName", "UPPER//case:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pod{Name: "pull-error-" + name, Container: "image: " + c.image}
			s.apply(t, p)
			s.until(t, p.Name, c.reason+" with "+c.message, held(c.reason+": .*"+c.message))
			s.remove(t, p.Name)
		})
	}
}

// An image that wants credentials: those of the pod's secrets, or of its account's; a secret that comes late is soon enough.
func testPullSecrets(t *testing.T, s *suite) {
	h := newHub(t, "secrets/pod:1", "secrets/account:1", "secrets/late:1", "secrets/none:1")
	h.Require("user", "pass-word-123")
	secret := func(name, password string) {
		s.must(t, "create", "secret", "docker-registry", name, "--docker-server", h.address, "--docker-username", "user", "--docker-password", password)
	}
	secret("pull-wrong", "another")
	secret("pull-right", "pass-word-123")
	s.Apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: pulls}, imagePullSecrets: [{name: pull-right}]}")
	byPod, byAccount, late, none := h.image("pull-secret-pod", "secrets/pod:1"), h.image("pull-secret-account", "secrets/account:1"),
		h.image("pull-secret-late", "secrets/late:1"), h.image("pull-secret-none", "secrets/none:1")
	byPod.Spec = "imagePullSecrets: [{name: pull-wrong}, {name: pull-right}]"
	byAccount.Spec = "serviceAccountName: pulls"
	late.Spec = "imagePullSecrets: [{name: pull-late}]"
	s.apply(t, byPod, byAccount, late, none)
	s.until(t, late.Name, "refused", held(`.*unauthorized`))
	s.event(t, late.Name, "FailedToRetrieveImagePullSecret")
	s.until(t, none.Name, "refused", held(`.*unauthorized`))
	secret("pull-late", "pass-word-123")
	for _, p := range []pod{byPod, byAccount, late} {
		s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
		s.remove(t, p.Name)
	}
	s.remove(t, none.Name)
	if strings.Contains(s.Logs(), "pass-word-123") || strings.Contains(s.must(t, "events"), "pass-word-123") {
		t.Error("the credentials are told")
	}
}

// However many pods wait for an image, it is pulled once.
func testOnePull(t *testing.T, s *suite) {
	h := newHub(t, "one/app:1")
	h.gate.Lock() // until all wait
	var all []fmt.Stringer
	for i := range 5 {
		all = append(all, h.image(fmt.Sprintf("one-pull-%d", i), "one/app:1"))
	}
	s.apply(t, all...)
	for i := range all {
		s.event(t, fmt.Sprintf("one-pull-%d", i), "Pulling")
	}
	h.gate.Unlock()
	for i := range all {
		s.until(t, fmt.Sprintf("one-pull-%d", i), "succeeded", phase(v1.PodSucceeded))
	}
	got := map[string]int{}
	for _, r := range h.Requests() {
		got[r.Method+" "+r.Path]++
	}
	for request, n := range got {
		if n > 1 && strings.HasPrefix(request, "GET") {
			t.Errorf("%d times %s", n, request)
		}
	}
	if len(got) < 4 { // manifest, configuration, two layers
		t.Errorf("the registry saw only %v", got)
	}
}

// A pod can be deleted while its image is on the way; the last one that waits ends the pull.
func testDeleteInPull(t *testing.T, s *suite) {
	h := newHub(t, "deleted/app:1")
	h.gate.Lock()
	p := h.image("delete-in-pull", "deleted/app:1")
	s.apply(t, p)
	s.event(t, p.Name, "Pulling")
	s.must(t, "delete", "pod", p.Name)
	h.gate.Unlock()
	if names := s.must(t, "image", "ls", "-o", "name"); strings.Contains(names, "deleted/app") {
		t.Errorf("the image was pulled all the same:\n%s", names)
	}
}

// A connection that breaks in the middle of a layer does not break the pull.
func testBrokenPull(t *testing.T, s *suite) {
	h := newHub(t, "shaky/app:1")
	h.Fail(&registry.Fault{Path: "/blobs/", Skip: 1, Times: 1, After: 500, Reset: true})
	p := h.image("broken-connection", "shaky/app:1")
	if got := s.output(t, p); got != h.address+"/shaky/app:1" {
		t.Errorf("the image says %q", got)
	}
}

// certs.d says where the images of a registry are, and whom to trust: here a mirror by HTTPS with a CA of its own.
func testHostsToml(t *testing.T, s *suite) {
	h := newHub(t, "mirrored/app:1")
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	dir := filepath.Join(s.ConfigDir, "certs.d", "registry.example")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, content := range map[string]string{
		"ca.crt":     string(ca),
		"hosts.toml": fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", server.URL, server.URL, filepath.Join(dir, "ca.crt")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := pod{Name: "hosts-toml", Container: "image: registry.example/mirrored/app:1\ncommand: [cat, /name]"}
	if got := s.output(t, p); got != h.address+"/mirrored/app:1" {
		t.Errorf("the image says %q", got)
	}
}
