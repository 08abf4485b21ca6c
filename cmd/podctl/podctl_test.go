package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
	utilexec "k8s.io/utils/exec"
	"sigs.k8s.io/yaml"

	"podd/api"
	apihistory "podd/api/history"
	"podd/api/images"
	"podd/store"
)

// node stands in for what runs pods: the server is the real one, and podctl speaks to it over a real socket.
type node struct{ api.Runtime }

func (node) Logs(_ context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error {
	_, err := fmt.Fprintf(out, "log of %s/%s\n", pod.Name, opts.Container)
	return err
}

func (node) Exec(_ context.Context, _ *v1.Pod, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) error {
	switch cmd[0] {
	case "ask":
		size := <-sizes
		fmt.Fprintf(out, "size %dx%d\r\nname? ", size.Width, size.Height)
		name, err := bufio.NewReader(in).ReadString('\r')
		fmt.Fprintf(out, "hello %s\x1b[0m\r\n", strings.TrimSpace(name))
		if err != nil {
			return err
		}
		return utilexec.CodeExitError{Err: errors.New("command terminated with exit code 3"), Code: 3}
	case "paint":
		fmt.Fprintln(out, "\x1b[31mred\x1b]0;title\a")
		return nil
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "exit":
		fmt.Fprintln(errOut, "leaving", container)
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code 7"), Code: 7}
	}
	fmt.Fprintln(out, container, tty, strings.Join(cmd, " "))
	return nil
}

var busybox = images.Info{Name: "docker.io/library/busybox:1.36", ID: "sha256:" + strings.Repeat("ab", 32),
	Digest: "sha256:" + strings.Repeat("cd", 32), Size: 2 << 20}

// removed says that the one image of this node is gone.
var removed atomic.Bool

func (node) Images(context.Context) ([]images.Info, error) {
	if removed.Load() {
		return nil, nil
	}
	return []images.Info{busybox}, nil
}

func (node) PullImage(_ context.Context, ref string, progress func(images.Progress)) (images.Info, error) {
	if ref != "busybox:1.36" {
		return images.Info{}, fmt.Errorf("pull %s: not found", ref)
	}
	layer := images.Layer{Digest: busybox.Digest, Total: 2 << 20}
	for _, layer.Status = range []string{images.Waiting, images.Downloading, images.Downloading, images.Done} {
		layer.Offset += 1 << 19
		progress(images.Progress{Ref: busybox.Name, Status: "downloading", Layers: []images.Layer{layer}})
	}
	return busybox, nil
}

func (node) LoadImages(_ context.Context, r io.Reader) ([]images.Info, error) {
	b, err := io.ReadAll(r)
	if err != nil || string(b) != "archive" {
		return nil, fmt.Errorf("load: not an archive: %q %v", b, err)
	}
	removed.Store(false)
	return []images.Info{busybox}, nil
}

func (node) History(_, _, _ string) ([]apihistory.Pod, error) { return nil, nil }

func (node) RemoveImage(_ context.Context, ref string) error {
	if ref == "busybox:1.36" || ref == busybox.Name || ref == busybox.ID { // podd takes a name without a tag for :latest
		removed.Store(true)
	}
	return nil
}

func (node) Healthy() error { return nil }

// serve runs podd's API until the test is over.
func serve(t testing.TB) {
	removed.Store(false)
	dir := t.TempDir()
	data, err := store.Open(store.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "podd.sock")
	server, err := api.New(api.Config{Store: data, Runtime: node{}, NodeName: "host", SocketPath: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-done
		if err := data.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("PODD_SOCKET", socket)
	for { // until it answers
		var out bytes.Buffer
		if code := run([]string{"get", "serviceaccount", "default"}, genericiooptions.IOStreams{In: &out, Out: &out, ErrOut: &out}, nil); code == 0 {
			return
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the server ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ask runs podctl and returns what it printed.
func ask(in string, args ...string) (out, errOut string, code int) {
	var stdout, stderr bytes.Buffer
	code = run(args, genericiooptions.IOStreams{In: strings.NewReader(in), Out: &stdout, ErrOut: &stderr}, nil)
	return stdout.String(), stderr.String(), code
}

const pod = `apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: app
    image: busybox
  - name: other
    image: busybox
`

// TestVerbs goes through the life of a pod. The steps build on each other.
func TestVerbs(t *testing.T) {
	serve(t)
	dir := t.TempDir()
	file := func(name, content string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	web := file("pods/web.yaml", pod)
	file("pods/more/two.yaml", strings.ReplaceAll(pod, "web", "two")+"---\n"+strings.ReplaceAll(pod, "web", "three"))
	changed := file("changed.yaml", strings.ReplaceAll(pod, "  name: web\n", "  name: web\n  labels: {a: b}\n"))
	immutable := file("immutable.yaml", strings.ReplaceAll(pod, "spec:\n", "spec:\n  hostNetwork: true\n"))
	invalid := file("invalid.yaml", strings.ReplaceAll(strings.ReplaceAll(pod, "name: app", "name: App"), "web", "bad"))
	typo := file("typo.yaml", strings.ReplaceAll(pod, "image: busybox", "imagee: busybox"))
	unnamed := file("unnamed.yaml", strings.ReplaceAll(pod, "  name: web\n", "  labels: {}\n"))
	nameless := file("nameless.yaml", strings.ReplaceAll(strings.ReplaceAll(pod, "image: busybox", "imagee: busybox"), "  name: web\n", "  labels: {}\n"))
	unserved := file("unserved.yaml", strings.ReplaceAll(pod, "spec:\n", "spec:\n  schedulingGroup: {}\n  resourceClaims: [{name: x}]\n"))
	archive := file("archive.tar", "archive")
	url := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, pod) }))
	defer url.Close()

	for _, step := range []struct {
		args   string
		in     string
		out    string // pattern of stdout
		errOut string // pattern of stderr
		code   int
	}{
		{args: "get pods", errOut: "^No resources found in default namespace.\n$"},
		{args: "apply -f " + typo + " -f " + web, errOut: `typo.yaml:8: spec.containers\[0\].imagee: unknown field \(did you mean "image"\?\)\n.*:10: .*\nerror: nothing was applied\n$`, code: 1},
		{args: "get pods", errOut: "^No resources found in default namespace.\n$"},
		{args: "apply -f " + web, out: "^pod/web created\n$"},
		{args: "apply -f -", in: pod, out: "^pod/web unchanged\n$"},
		{args: "apply " + web + " other.yaml", errOut: "^error: [^\n]*: files are given with -f: podctl apply -f \\S+ -f other.yaml\n", code: 1},
		{args: "run -f " + web + " other.yaml", errOut: "^error: other.yaml: files are given with -f: podctl run -f other.yaml\n", code: 1},
		{args: "apply --validate=false -f " + web, errOut: "^error: --validate=false: manifests are read strictly", code: 1},
		{args: "apply --validate=warn -f " + web, errOut: "^error: --validate=warn: manifests are read strictly", code: 1},
		{args: "apply --validate -f " + web, out: "^pod/web unchanged\n$"},
		{args: "apply -f " + url.URL + "/web.yaml", out: "^pod/web unchanged\n$"},
		{args: "apply -f " + changed, out: "^pod/web configured\n$"},
		{args: "apply -f " + immutable, errOut: `(?s)^[^\n]*immutable.yaml:5: spec: [^\n]*may not change.*[^\n]\n-> A pod keeps these`, code: 1},
		{args: "apply -f " + invalid, errOut: `^.*invalid.yaml:7: spec.containers\[0\].name: Invalid value: "App".*`, code: 1},
		{args: "apply -f " + unserved, errOut: `^.*unserved.yaml:6: spec.schedulingGroup: Forbidden: .*\n.*unserved.yaml:7: spec.resourceClaims: Forbidden: .*\n$`, code: 1},
		{args: "apply -f " + unnamed, errOut: `^.*unnamed.yaml:3: metadata.name: missing`, code: 1},
		{args: "apply -f " + nameless + " -f " + unnamed, errOut: `^.*nameless.yaml:3: metadata.name: missing: .*\n.*nameless.yaml:8: spec.containers\[0\].imagee: .*\n.*nameless.yaml:10: .*\n.*unnamed.yaml:3: metadata.name: missing: .*\nerror: nothing was applied\n$`, code: 1},
		{args: "apply -f " + filepath.Join(dir, "pods"), out: "^pod/web configured\n$"},
		{args: "apply -R -f " + filepath.Join(dir, "pods"), out: "^pod/three created\npod/two created\npod/web unchanged\n$|^pod/two created\npod/three created\npod/web unchanged\n$"},
		{args: "apply -f /nowhere", errOut: "^/nowhere: no such file or directory\nerror: nothing was applied\n$", code: 1},
		{args: "apply -f -", errOut: "^error: no objects passed to apply\n$", code: 1},
		{args: "apply -n other -f -", in: strings.ReplaceAll(pod, "  name: web\n", "  name: web\n  namespace: default\n"), errOut: "does not match the namespace", code: 1},
		{args: "get pods", out: `^NAME +READY +STATUS +RESTARTS +AGE\nthree +0/2 `},
		{args: "get po web -o wide", out: `^NAME +READY .* NODE .*\nweb `},
		{args: "get pod web -o name", out: "^pod/web\n$"},
		{args: "get pods -A", out: `^NAMESPACE +NAME`},
		{args: "get all", out: `\npod/web `},
		{args: "get pods -l a=c", errOut: "^No resources found in default namespace.\n$"},
		{args: "get pod web -o yaml", out: `^apiVersion: v1\nkind: Pod\n`},
		{args: "get pod web -o jsonpath={.metadata.name}", out: `^web$`},
		{args: "get nodes", out: `^NAME .*\nhost `},
		{args: "get events", errOut: ""},
		{args: "events", errOut: ""},
		{args: "get pod nope", errOut: `^Error from server \(NotFound\): pods "nope" not found\n$`, code: 1},
		{args: "get nonsense", errOut: `^error: the server doesn't have a resource type "nonsense"\n$`, code: 1},
		{args: "describe pod web", out: `^Name: +web\nNamespace: +default\n`},
		{args: "logs web -c app", out: "^log of web/app\n$"},
		{args: "logs web", out: "^log of web/app\n$"},
		{args: "logs web -c nope", errOut: "container nope is not valid for pod web out of: app, other", code: 1},
		{args: "exec web -c other -- echo a b", out: "^other false echo a b\n$"},
		{args: "exec web -i -- cat", in: "hello", out: "^hello$"},
		{args: "exec web -q -- exit", errOut: "^leaving app\ncommand terminated with exit code 7\n$", code: 7},
		{args: "exec web -c nope -- true", errOut: "out of: app, other", code: 1},
		{args: "exec web ls", errOut: "Use exec .POD. -- .COMMAND. instead", code: 1},
		{args: "image ls", out: `^NAME +IMAGE ID +DIGEST +SIZE +AGE\ndocker.io/library/busybox:1.36 +abababababab +cdcdcdcdcdcd +2.0 MiB +<unknown>\n$`},
		{args: "image ls -o name", out: "^docker.io/library/busybox:1.36\n$"},
		{args: "image ls -q", out: "^docker.io/library/busybox:1.36\n$"},
		{args: "image ls -q -o json", errOut: "^error: -q prints names alone: leave out -o\n$", code: 1},
		{args: "images -q", out: "^docker.io/library/busybox:1.36\n$"},
		{args: "images ls", out: "^NAME +IMAGE ID "},
		{args: "why -A", out: `^Nothing is wrong with the 3 pods in any namespace.\nStill starting: default/three, default/two, default/web.\n$`},
		{args: "why -A web", errOut: "^error: -A asks about the pods of all namespaces: leave out web, or name its namespace with -n\n$", code: 1},
		{args: "why -A -o json", out: `(?s)"pods": .*"name": "two"`},
		{args: "why -n kube-system", out: "^There are no pods in namespace kube-system.\n$"},
		{args: "image pull busybox:1.36", out: `^image "docker.io/library/busybox:1.36" pulled \(2.0 MiB\)\n$`, errOut: "^cdcdcdcdcdcd: waiting\ncdcdcdcdcdcd: downloading 2.0 MiB\ncdcdcdcdcdcd: done\n$"},
		{args: "image pull nope", errOut: "^error: pull nope: not found\n$", code: 1},
		{args: "image load " + archive, out: `^image "docker.io/library/busybox:1.36" loaded`},
		{args: "image load -", in: "archive", out: `^image "docker.io/library/busybox:1.36" loaded`},
		{args: "image load -", in: "junk", errOut: `^error: load: not an archive`, code: 1},
		{args: "image rm nope", out: "^$", errOut: `^error: image "nope" is not here\n$`, code: 1},
		{args: "image rm nope --ignore-not-found", out: "^$", errOut: "^$"},
		{args: "version", out: "^Client Version: .*\nServer Version: .*\n$"},
		{args: "version --client -o json", out: `(?s)"clientVersion": \{.*"gitVersion": "\S+",.*"goVersion": "go.*"platform": "linux/`},
		{args: "api-resources", out: `pods +po +v1 +true +Pod`},
		{args: "wait --for=jsonpath={.metadata.name}=web pod/web", out: "condition met"},
		{args: "__complete logs ", out: "(?s)three.*web"},
		{args: "__complete logs web -c ", out: "app\nother"},
		{args: "__complete get pods w", out: "web"},
		{args: "__complete image rm ", out: "busybox"},
		{args: "image rm busybox", out: "^$", errOut: `^error: image "busybox" is not here\n$`, code: 1},
		{args: "image rm abc", errOut: `^error: image "abc" is not here\n$`, code: 1},
		{args: "image rm abababababab", out: `^image "docker.io/library/busybox:1.36" deleted\n$`},
		{args: "image load -", in: "archive", out: "loaded"},
		{args: "image rm busybox:1.36", out: `^image "docker.io/library/busybox:1.36" deleted\n$`},
		{args: "delete pod web --grace-period=0 --force", out: `pod "web" force deleted`, errOut: "Warning: Immediate deletion"},
		{args: "delete -f " + web, errOut: "NotFound", code: 1},
		{args: "delete pod two three --now --wait=false", out: `pod "two" deleted.*\npod "three" deleted`},
		{args: "gett pods", errOut: "(?s)unknown command \"gett\".*Did you mean this.*get", code: 1},
		{args: "get pods --outptu x", errOut: "unknown flag: --outptu", code: 1},
	} {
		out, errOut, code := ask(step.in, strings.Split(step.args, " ")...)
		if code != step.code || !regexp.MustCompile(step.out).MatchString(out) || !regexp.MustCompile(step.errOut).MatchString(errOut) {
			t.Errorf("podctl %s\n%s%sexit code %d", step.args, out, errOut, code)
		}
	}
}

// TestPrune: what has the label and is not applied any more goes, without a list of kinds.
func TestPrune(t *testing.T) {
	serve(t)
	labelled := strings.Replace(pod, "name: web", "name: web\n  labels: {app: shop}", 1)
	other := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {app: shop}}\n"
	if _, errOut, code := ask(labelled+"---\n"+other, "apply", "-f", "-"); code != 0 {
		t.Fatal(errOut)
	}
	if _, errOut, code := ask(strings.Replace(pod, "name: web", "name: unlabelled", 1), "apply", "-f", "-"); code != 0 {
		t.Fatal(errOut)
	}
	out, errOut, code := ask(labelled, "apply", "--prune", "-l", "app=shop", "-f", "-")
	if code != 0 || !strings.Contains(out, "configmap/settings pruned\n") || strings.Count(out, "pruned") != 1 || errOut != "" { // also no warning of a kind that nobody named
		t.Errorf("exit code %d\n%s%s", code, out, errOut)
	}
	if out, _, _ := ask("", "get", "pods,configmaps", "-o", "name"); strings.Contains(out, "settings") || !strings.Contains(out, "pod/unlabelled\n") || !strings.Contains(out, "pod/web\n") {
		t.Errorf("left:\n%s", out)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"get", "pods"}, {"get", "nonsense"}, {"describe", "pod", "web"}, {"logs", "web"}, {"exec", "web", "--", "true"}, {"delete", "pod", "web"},
		{"image", "ls"}, {"image", "pull", "x"}, {"wait", "pod/x", "--for=delete"}, {"events"}, {"version"}, {"api-resources"}, {"apply", "-f", "-"},
	} {
		_, errOut, code := ask(pod, append([]string{"--socket", filepath.Join(dir, "podd.sock")}, args...)...)
		if code != 1 || !strings.HasPrefix(errOut, "error: podd is not running (nothing answers on "+dir) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("podctl %v: exit code %d, %s", args, code, errOut)
		}
	}
}

// BenchmarkGetPods is the everyday command as a user runs it, with the process.
func BenchmarkGetPods(b *testing.B) {
	serve(b)
	binary := filepath.Join(b.TempDir(), "podctl")
	build := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	if _, errOut, code := ask(pod, "apply", "-f", "-"); code != 0 {
		b.Fatal(errOut)
	}
	for b.Loop() {
		if out, err := exec.Command(binary, "get", "pods").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("web ")) {
			b.Fatalf("%v %s", err, out)
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(asPodctl) != "" {
		main()
	}
	log.SetOutput(io.Discard) // the server's libraries
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestShortIDs: the beginning of an ID is taken for it where it can be no other image's and no name.
func TestShortIDs(t *testing.T) {
	id := func(digits string) string { return "sha256:" + digits + strings.Repeat("0", 64-len(digits)) }
	all := []images.Info{{Name: "a:1", ID: id("abcd1")}, {Name: "a:2", ID: id("abcd1")}, {Name: "b:1", ID: id("abcd2")},
		{Name: "docker.io/library/cafe:latest", ID: id("9")}, {Name: "c:1", ID: id("cafe")}}
	for ref, want := range map[string]string{
		"abcd1": id("abcd1"), "sha256:abcd2": id("abcd2"), id("abcd2"): id("abcd2"), "abcd": "", "abc": "abc", "abcd3": "abcd3", "cafe": "cafe",
		"cafe0": id("cafe"), "busybox": "busybox", "a:1": "a:1",
	} {
		if got, err := idOf(ref, all); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
}

// refusing is an output that takes nothing.
type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestOutputIsRefused: what doctor could not say is a failure, whatever it was.
func TestOutputIsRefused(t *testing.T) {
	for _, output := range []string{"", "json"} {
		p := &podctl{shown: genericiooptions.IOStreams{Out: refusing{}, ErrOut: io.Discard}}
		if err := p.report([]result{{"kernel", ok, "6.1", ""}}, output); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("output %q: %v", output, err)
		}
	}
}

// TestApplyOthers: where some of several documents are refused it is said what became of the others.
func TestApplyOthers(t *testing.T) {
	serve(t)
	good := func(name string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + "}}\n---\n"
	}
	bad := func(name string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + ", namespace: nope}}\n---\n"
	}
	line := func(docs ...string) string { // as jq -c writes them, one after the other
		var b strings.Builder
		for _, doc := range docs {
			text, err := yaml.YAMLToJSON([]byte(strings.TrimSuffix(doc, "---\n")))
			if err != nil {
				t.Fatal(err)
			}
			b.Write(text)
		}
		return b.String()
	}
	list := func(docs ...string) string {
		return `{"apiVersion":"v1","kind":"List","items":[` + strings.ReplaceAll(line(docs...), "}{", "},{") + "]}"
	}
	const hint = "-> podctl create namespace nope makes it; podctl get namespaces shows which there are.\n"
	for name, c := range map[string]struct{ in, flags, out, err string }{
		"one of three": {good("a") + bad("b") + good("c"), "", "configmap/a created\nconfigmap/c created\n", hint + "error: 1 of 3 objects was not applied; the others were\n"},
		"two of three": {good("d") + bad("e") + bad("f"), "", "configmap/d created\n", hint + "error: 2 of 3 objects were not applied; the others were\n"},
		"all of two":   {bad("g") + bad("h"), "", "", hint + "error: nothing was applied\n"},
		"the only one": {bad("i"), "", "", hint},
		"of one line":  {line(good("l1"), bad("m1"), good("n1")), "", "configmap/l1 created\nconfigmap/n1 created\n", hint + "error: 1 of 3 objects was not applied; the others were\n"},
		"of a list":    {list(good("o1"), bad("p1"), bad("q1")), "", "configmap/o1 created\n", hint + "error: 2 of 3 objects were not applied; the others were\n"},
		"of a dry run": {good("j") + bad("k"), " --dry-run=server", "configmap/j created (server dry run)\n", hint},
	} {
		out, errOut, code := ask(c.in, strings.Fields("apply -f -"+c.flags)...)
		if code != 1 || out != c.out || !strings.HasSuffix(errOut, "namespaces \"nope\" not found\n"+c.err) || strings.Count(errOut, "->") != 1 {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errOut)
		}
	}
}
