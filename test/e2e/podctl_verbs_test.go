//go:build host

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"podd/test/harness"
)

// podctlVerbs are the parts of testPodctl for the commands that are not about the life of a pod.
var podctlVerbs = map[string]func(*testing.T, *suite){
	"unreachable":   testPodctlUnreachable,
	"wrong-use":     testPodctlWrongUse,
	"create":        testPodctlCreate,
	"change":        testPodctlChange,
	"edit":          testPodctlEdit,
	"diff":          testPodctlDiff,
	"kustomization": testPodctlKustomization,
	"look":          testPodctlLook,
	"run":           testPodctlRun,
	"attach":        testPodctlAttach,
	"debug":         testPodctlDebug,
	"cp":            testPodctlCp,
	"cp-hostile":    testPodctlCpHostile,
	"port-forward":  testPodctlPortForward,
	"terminal":      testPodctlTerminal,
	"escapes":       testPodctlEscapes,
	"completion2":   testPodctlCompletion,
	"kubeconfig":    testPodctlKubeconfig,
	"why":           testPodctlWhy,
	"doctor":        testPodctlDoctor,
}

// podctlCommand is podctl as a process of its own, for what Podctl cannot do: a terminal, signals, an environment.
func podctlCommand(t *testing.T, s *suite, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), filepath.Join(harness.Built(t), "podctl"), args...)
	cmd.WaitDelay = 5 * time.Second // what it was given to read may never end
	cmd.Env = append(os.Environ(), "PODD_SOCKET="+s.Socket)
	return cmd
}

// podctlOnTerminal runs podctl on a terminal of 100 columns and 40 rows, types what belongs to each prompt when it sees it, and returns what the
// terminal got and the exit code.
func podctlOnTerminal(t *testing.T, s *suite, dialogue [][2]string, args ...string) (string, int) {
	t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := pty.Resize(console.WinSize{Width: 100, Height: 40}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := podctlCommand(t, s, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	err = cmd.Start()
	tty.Close()
	if err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	var seen bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		from, buf := 0, make([]byte, 4096)
		for {
			n, err := pty.Read(buf)
			seen.Write(buf[:n])
			for len(dialogue) > 0 {
				i := strings.Index(seen.String()[from:], dialogue[0][0])
				if i < 0 {
					break
				}
				from += i + len(dialogue[0][0])
				_, _ = io.WriteString(pty, dialogue[0][1])
				dialogue = dialogue[1:]
			}
			if err != nil { // EIO: podctl has closed its side
				return
			}
		}
	}()
	_ = cmd.Wait() // the exit code is returned
	<-read
	if len(dialogue) > 0 {
		t.Errorf("podctl %v: never saw %q in %q", args, dialogue[0][0], seen.String())
	}
	return seen.String(), cmd.ProcessState.ExitCode()
}

// onlookers are commands of podctl that follow something as long as podd is there.
type onlookers []*onlooker

type onlooker struct {
	args      string
	cmd       *exec.Cmd
	out, errs synced
}

// podctlFollows starts commands, and returns when each has said what it says first.
func podctlFollows(t *testing.T, s *suite, commands map[string]string) onlookers {
	t.Helper()
	var all onlookers
	for args := range commands {
		f := &onlooker{args: args, cmd: podctlCommand(t, s, strings.Split(args, " ")...)}
		f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.errs
		must(t, f.cmd.Start())
		t.Cleanup(func() { _ = f.cmd.Process.Kill() })
		all = append(all, f)
	}
	for _, f := range all {
		eventually(t, func() error { return f.says(commands[f.args]) })
	}
	return all
}

func (f *onlooker) says(what string) error {
	if out := f.out.String(); !strings.Contains(out, what) {
		return fmt.Errorf("podctl %s says %q and %q, not %q", f.args, out, f.errs.String(), what)
	}
	return nil
}

// leave waits until all have ended, which they are to do as podd has died: with an error that says so, and what to do.
func (all onlookers) leave(t *testing.T) {
	t.Helper()
	for _, f := range all {
		_ = f.cmd.Wait() // the exit code is looked at
		got, code := f.errs.String(), f.cmd.ProcessState.ExitCode()
		_, got, _ = strings.Cut("\n"+got, "\nerror: ")
		if code != 1 || !strings.HasPrefix(got, "the connection to podd ended: podd does not run any more. Pods go on without it, unless podd teardown ends them.\n-> Start it again") ||
			strings.Contains(f.errs.String(), "EOF") {
			t.Errorf("podctl %s when podd has died: exit %d, %s", f.args, code, f.errs.String())
		}
	}
}

// Where podd is down every command says so, in one line, and what to do.
func testPodctlUnreachable(t *testing.T, s *suite) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(sleeper("unreachable").String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"get pods", "get nonsense", "describe pod x", "logs x", "exec x -- true", "attach x", "port-forward x 1:1", "cp " + file + " x:/y", "cp x:/y z",
		"top pod", "top node", "events", "wait pod/x --for=delete", "apply -f " + file, "diff -f " + file, "create -f " + file, "create configmap x",
		"edit pod x", "patch pod x -p {}", "replace -f " + file, "label pod x a=b", "annotate pod x a=b", "delete pod x", "debug x --image=y", "explain pod",
		"api-resources", "api-versions", "auth whoami", "auth can-i get pods", "run x --image=y", "run -q -f " + file + " --until=ready", "why", "why x", "kubeconfig", "image ls", "image pull x",
	} {
		got := s.refused(t, "", append([]string{"--socket=/no/such.sock"}, strings.Fields(args)...)...)
		if !strings.HasPrefix(got, "error: podd is not running (nothing answers on /no/such.sock): start it with ") || strings.Count(got, "\n") != 1 {
			t.Errorf("podctl %s where podd is down: %q", args, got)
		}
	}
}

// Each verb used wrongly: not zero, one error that says what is wrong, and nothing of kubectl.
func testPodctlWrongUse(t *testing.T, s *suite) {
	s.running(t, sleeper("wrong-use"))
	for args, want := range map[string]string{
		"annotate pod wrong-use":                "at least one annotation update is required",
		"annotate pod nobody a=b":               `pods "nobody" not found`,
		"api-resources x":                       "unexpected arguments",
		"api-versions x":                        "unexpected arguments",
		"apply":                                 "say what to apply",
		"apply -k /nowhere":                     "kustomization /nowhere: must build at directory",
		"attach":                                "at least 1 argument is required",
		"attach nobody":                         `pods "nobody" not found`,
		"auth can-i":                            "you must specify two arguments",
		"auth nonsense":                         "nonsense",
		"completion":                            "Shell not specified",
		"completion nonsense":                   `Unsupported shell type "nonsense"`,
		"cp":                                    "source and destination are required",
		"cp a b":                                "one of src or dest must be a remote file",
		"cp nobody:/x y":                        `pods "nobody" not found`,
		"cp wrong-use:/nothing y":               "exit code 1",
		"cp /nothing wrong-use:/x":              "doesn't exist in local filesystem",
		"create":                                "must specify one of -f and -k",
		"create -f /nowhere":                    "does not exist",
		"create configmap":                      "exactly one NAME is required",
		"create deployment x":                   `unknown command "deployment" for "podctl create"` + "\n-> podd runs pods, and has no controllers",
		"get deployments":                       "-> podd runs pods, and has no controllers",
		"ps -a":                                 "-> podctl get pods, with -A",
		"restart wrong-use":                     "-> podctl get pod wrong-use -o yaml >FILE, podctl delete pod wrong-use, podctl apply -f FILE.",
		"create namespace Bad":                  `Invalid value: "Bad"`,
		"create secret generic":                 "exactly one NAME is required",
		"debug wrong-use":                       "you must specify --image",
		"debug nobody --image=x":                `pods "nobody" not found`,
		"delete pod nobody":                     `pods "nobody" not found`,
		"describe pod nobody":                   `pods "nobody" not found`,
		"diff":                                  "must specify one of -f and -k",
		"doctor -o yaml":                        `unknown output format "yaml": json is known`,
		"doctor --config /nowhere":              "no such file",
		"edit":                                  "You must provide one or more resources",
		"edit pod nobody":                       `pods "nobody" not found`,
		"exec":                                  "pod, type/name or --filename must be specified",
		"exec nobody -- true":                   `pods "nobody" not found`,
		"exec wrong-use":                        "you must specify at least one command",
		"exec wrong-use -c nope -- true":        "container nope is not valid for pod wrong-use",
		"exec wrong-use -- /nothing":            "/nothing",
		"explain":                               "You must specify the type of resource to explain",
		"explain nonsense":                      `doesn't have a resource type "nonsense"`,
		"explain pod.nonsense":                  `field "nonsense" does not exist`,
		"image nonsense":                        `unknown command "nonsense"`,
		"image rm nothing:1":                    `image "nothing:1" is not here`,
		"kubeconfig x":                          "x",
		"kubeconfig --use":                      "--use is for --merge",
		"label pod wrong-use":                   "at least one label update is required",
		"label pod wrong-use a=b!":              "invalid label",
		"logs nobody":                           `pods "nobody" not found`,
		"logs wrong-use -c nope":                "container nope is not valid",
		"patch pod wrong-use":                   "must specify --patch",
		"patch pod wrong-use -p nonsense":       "Error from server (BadRequest)",
		"port-forward":                          "TYPE/NAME and list of ports are required",
		"port-forward wrong-use nonsense":       "does not have a named port",
		"port-forward nobody 1:1":               `pods "nobody" not found`,
		"replace":                               "must specify one of -f and -k",
		"run x":                                 `required flag(s) "image" not set`,
		"run wrong-use --image=" + busybox:      `pods "wrong-use" already exists`,
		"top nonsense":                          `unknown command "nonsense"`,
		"top pod nobody":                        "not found",
		"version -o nonsense":                   `unknown output format "nonsense"`,
		"wait pod/wrong-use":                    "unrecognized condition",
		"wait pod/nobody --for=condition=Ready": `pods "nobody" not found`,
		"wait pod/wrong-use --for=condition=No --timeout=10ms": "timed out waiting for the condition",
		"why nobody":                           "there is no pod nobody in namespace default, and nothing is known",
		"why svc/x":                            "why is about pods",
		"get pods --server=http://127.0.0.1:1": "refused",
		"get pods --kubeconfig=/nowhere":       "no such file",
		"get pods --context=nowhere":           "context was not found for specified context: nowhere",
		"atach x":                              "attach",
		"port-foward x":                        "port-forward",
	} {
		got := s.refused(t, "", strings.Split(args, " ")...)
		if !strings.Contains(got, want) || strings.Contains(got, "kubectl") || strings.Contains(got, "goroutine") || strings.Contains(got, "Unhandled Error") {
			t.Errorf("podctl %s: %q, want %q", args, got, want)
		}
	}
}

// Objects from flags, and what create prints without making anything.
func testPodctlCreate(t *testing.T, s *suite) {
	file := filepath.Join(t.TempDir(), "app.conf")
	if err := os.WriteFile(file, []byte("x = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must(t, "create", "namespace", "created")
	defer s.must(t, "delete", "namespace", "created")
	for _, c := range []struct{ args, want string }{
		{"configmap settings --from-literal=a=1 --from-file=" + file, "configmap/settings created\n"},
		{"secret generic key --from-literal=password=hunter2", "secret/key created\n"},
		{"secret docker-registry reg --docker-server=localhost --docker-username=u --docker-password=p", "secret/reg created\n"},
		{"serviceaccount robot", "serviceaccount/robot created\n"},
		{"service clusterip web --tcp=80:8080", "service/web created\n"},
	} {
		if got := s.must(t, append([]string{"create", "-n", "created"}, strings.Fields(c.args)...)...); got != c.want {
			t.Errorf("podctl create %s: %q", c.args, got)
		}
	}
	if got := s.must(t, "get", "configmap", "settings", "-n", "created", "-o", `jsonpath={.data.a}{.data.app\.conf}`); got != "1x = 1\n" {
		t.Errorf("the configmap has %q", got)
	}
	if got := s.must(t, "get", "secret", "key", "-n", "created", "-o", "go-template={{.data.password | base64decode}}"); got != "hunter2" {
		t.Errorf("the secret has %q", got)
	}
	if got := s.must(t, "get", "svc,sa,secrets,cm", "-n", "created", "-o", "name"); !strings.Contains(got, "service/web\n") || !strings.Contains(got, "serviceaccount/robot\n") || !strings.Contains(got, "secret/reg\n") {
		t.Errorf("podctl get of several kinds: %q", got)
	}
	if got := s.must(t, "describe", "-n", "created", "secret", "key"); !strings.Contains(got, "password:  7 bytes") || strings.Contains(got, "hunter2") {
		t.Errorf("podctl describe secret: %q", got)
	}
	if got := s.must(t, "create", "configmap", "dry", "--from-literal=a=1", "--dry-run=client", "-o", "yaml"); !strings.Contains(got, "kind: ConfigMap") {
		t.Errorf("podctl create --dry-run: %q", got)
	}
	p := sleeper("created")
	out, errs, code := s.PodctlInput(strings.NewReader(p.String()), "create", "-f", "-")
	if code != 0 || out != "pod/created created\n" {
		t.Errorf("podctl create -f -: exit %d, %q, %q", code, out, errs)
	}
	if got := s.refused(t, p.String(), "create", "-f", "-"); !strings.Contains(got, `pods "created" already exists`) {
		t.Errorf("podctl create of what is there: %q", got)
	}
	if got := s.refused(t, strings.Replace(sleeper("typo").String(), "image:", "imagee:", 1), "create", "-f", "-"); !strings.Contains(got, `unknown field "spec.containers[0].imagee"`) {
		t.Errorf("podctl create with a typo: %q", got)
	}
}

// label, annotate, patch in its three kinds, and replace.
func testPodctlChange(t *testing.T, s *suite) {
	s.running(t, sleeper("change")) // podd writes no status any more that replace would collide with
	for _, c := range []struct{ args, want string }{
		{"label pod change a=1 b=2", "pod/change labeled\n"},
		{"label pod change a=1", "pod/change not labeled\n"},
		{"label pod change b-", "pod/change unlabeled\n"},
		{"annotate pod change note=x", "pod/change annotated\n"},
		{`patch pod change -p {"metadata":{"labels":{"c":"3"}}}`, "pod/change patched\n"},
		{`patch pod change --type=merge -p {"metadata":{"labels":{"d":"4"}}}`, "pod/change patched\n"},
		{`patch pod change --type=json -p [{"op":"add","path":"/metadata/labels/e","value":"5"}]`, "pod/change patched\n"},
		{`patch pod change -p {"metadata":{"labels":{"c":"3"}}}`, "pod/change patched (no change)\n"},
	} {
		if got := s.must(t, strings.Fields(c.args)...); got != c.want {
			t.Errorf("podctl %s: %q, want %q", c.args, got, c.want)
		}
	}
	if got := s.must(t, "get", "pod", "change", "-o", "jsonpath={.metadata.labels} {.metadata.annotations.note}"); got != `{"a":"1","c":"3","d":"4","e":"5"} x` {
		t.Errorf("after all changes: %s", got)
	}
	for args, want := range map[string]string{
		"label pod change a=2":                              "'a' already has a value (1), and --overwrite is false",
		`patch pod change -p {"spec":{"hostNetwork":true}}`: "pod updates may not change fields other than",
	} {
		if got := s.refused(t, "", strings.Fields(args)...); !strings.Contains(got, want) {
			t.Errorf("podctl %s: %q, want %q", args, got, want)
		}
	}
	saved := s.must(t, "get", "pod", "change", "-o", "yaml")
	out, errs, code := s.PodctlInput(strings.NewReader(strings.Replace(saved, `e: "5"`, `e: "6"`, 1)), "replace", "-f", "-")
	if code != 0 || out != "pod/change replaced\n" {
		t.Errorf("podctl replace: exit %d, %q, %q", code, out, errs)
	}
	if got := s.refused(t, saved, "replace", "-f", "-"); !strings.Contains(got, "Conflict") {
		t.Errorf("podctl replace with an old version: %q", got)
	}
	if out, errs, code := s.PodctlInput(strings.NewReader(sleeper("change").String()), "apply", "--server-side", "-f", "-"); code != 0 || out != "pod/change serverside-applied\n" {
		t.Errorf("podctl apply --server-side: exit %d, %q, %q", code, out, errs)
	}
}

// The editor gets the object, and what it leaves is written; without a change nothing is.
func testPodctlEdit(t *testing.T, s *suite) {
	s.must(t, "create", "configmap", "edited", "--from-literal=a=before")
	defer s.must(t, "delete", "configmap", "edited")
	for _, c := range []struct{ editor, want, has string }{
		{"true", "Edit cancelled, no changes made.", "before"},
		{"sed -i s/before/after/", "configmap/edited edited", "after"},
	} {
		cmd := podctlCommand(t, s, "edit", "configmap", "edited")
		cmd.Env = append(cmd.Env, "EDITOR="+c.editor)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("podctl edit with %s: %v, %q", c.editor, err, out)
		}
		if got := s.must(t, "get", "configmap", "edited", "-o", "jsonpath={.data.a}"); got != c.has {
			t.Errorf("after %s: %q", c.editor, got)
		}
	}
}

// diff says with its exit code whether apply would change something.
func testPodctlDiff(t *testing.T, s *suite) {
	p := sleeper("diff")
	s.podctlApply(t, p)
	if out, errs, code := s.PodctlInput(strings.NewReader(p.String()), "diff", "-f", "-"); code != 0 || out != "" {
		t.Errorf("podctl diff of no change: exit %d, %q, %q", code, out, errs)
	}
	p.Meta = "labels: {new: label}"
	if out, _, code := s.PodctlInput(strings.NewReader(p.String()), "diff", "-f", "-"); code != 1 || !strings.Contains(out, "+  labels:\n+    new: label\n") {
		t.Errorf("podctl diff: exit %d, %q", code, out)
	}
	if got := s.must(t, "get", "pod", "diff", "-o", "jsonpath={.metadata.labels}"); got != "" {
		t.Errorf("podctl diff has changed the pod: %s", got)
	}
}

// A kustomization is built and read as strictly as a file.
func testPodctlKustomization(t *testing.T, s *suite) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kustomization.yaml": "namePrefix: built-\nresources: [pod.yaml]\nconfigMapGenerator: [{name: settings, literals: [a=b], options: {disableNameSuffixHash: true}}]\n",
		"pod.yaml":           sleeper("kustomized").String(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.must(t, "apply", "-k", dir); !strings.Contains(got, "configmap/built-settings created\n") || !strings.Contains(got, "pod/built-kustomized created\n") {
		t.Errorf("podctl apply -k: %q", got)
	}
	if got := s.must(t, "delete", "-k", dir); strings.Count(got, " deleted") != 2 {
		t.Errorf("podctl delete -k: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "pod.yaml"), []byte(strings.Replace(sleeper("x").String(), "image:", "imagee:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.refused(t, "", "apply", "-k", dir); !strings.Contains(got, `imagee: unknown field (did you mean "image"?)`) || !strings.Contains(got, "nothing was applied") {
		t.Errorf("podctl apply -k with a typo: %q", got)
	}
}

// What only looks: explain, events, wait, top, auth, the lists of the API.
func testPodctlLook(t *testing.T, s *suite) {
	s.running(t, sleeper("look"))
	for args, want := range map[string]string{
		"explain pod.spec.containers.image":                    `KIND:\s+Pod\nVERSION:\s+v1\n\nFIELD: image <string>`,
		"explain configmaps":                                   `KIND:\s+ConfigMap`,
		"explain pod --recursive":                              `terminationGracePeriodSeconds`,
		"api-resources":                                        `pods\s+po\s+v1\s+true\s+Pod`,
		"api-resources --namespaced=false":                     `nodes\s+no\s+v1\s+false\s+Node`,
		"api-versions":                                         `(?m)^v1$`,
		"events --for pod/look":                                `Normal\s+Started\s+Pod/look\s+Container started`,
		"get events":                                           `pod/look`,
		"wait pod/look --for=condition=Ready --timeout=30s":    `^pod/look condition met\n$`,
		"wait pod/look --for=jsonpath={.status.phase}=Running": `^pod/look condition met\n$`,
		"auth whoami":                                          `Username\s+root`,
		"auth can-i create pods":                               `^yes\n$`,
		"auth can-i --list":                                    `Resources`,
		"top node":                                             `NAME\s+CPU\(cores\)\s+CPU\(%\)\s+MEMORY\(bytes\)\s+MEMORY\(%\)\s*\n` + s.NodeName + `\s+\d+m`,
		"version -o yaml":                                      `(?m)^serverVersion:`,
		"options":                                              `--socket`,
		"get pod look -o custom-columns=N:.metadata.name,P:.status.phase --no-headers": `^look\s+Running\n$`,
		"get pods --sort-by=.metadata.name -o name":                                    `pod/look\n`,
		"get --raw /readyz": `ok`,
	} {
		if got := s.must(t, strings.Split(args, " ")...); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("podctl %s: %q, want %q", args, got, want)
		}
	}
	eventually(t, func() error { // measured now and then
		out, errs, code := s.Podctl("top", "pod", "look", "--containers")
		if code != 0 || !regexp.MustCompile(`look\s+app\s+\d+m\s+\d+Mi`).MatchString(out) {
			return fmt.Errorf("podctl top pod: exit %d, %q, %q", code, out, errs)
		}
		return nil
	})
}

// run makes a pod; with -i it is joined, and --rm takes it away again.
func testPodctlRun(t *testing.T, s *suite) {
	if got := s.must(t, "run", "run-plain", "--image="+busybox, "--restart=Never", "--labels=a=b", "--env=X=1", "--", "sh", "-c", "echo x is $X"); got != "pod/run-plain created\n" {
		t.Errorf("podctl run: %q", got)
	}
	s.until(t, "run-plain", "succeeded", phase(v1.PodSucceeded))
	if got := s.must(t, "logs", "run-plain"); got != "x is 1\n" {
		t.Errorf("its log: %q", got)
	}
	out, errs, code := s.PodctlInput(strings.NewReader("hello\n"), "run", "run-rm", "--image="+busybox, "--restart=Never", "--rm", "-i", "--quiet", "--", "sh", "-c", "read line; echo got $line; exit 4")
	if code != 4 || !strings.Contains(out, "got hello\n") {
		t.Errorf("podctl run --rm -i: exit %d, %q, %q", code, out, errs)
	}
	s.until(t, "run-rm", "gone", gone)
	if got := s.must(t, "run", "run-dry", "--image="+busybox, "--dry-run=client", "-o", "yaml"); !strings.Contains(got, "name: run-dry") {
		t.Errorf("podctl run --dry-run: %q", got)
	}
}

// attach gets what is written from now on, and its end is that of the container.
func testPodctlAttach(t *testing.T, s *suite) {
	s.running(t, pod{Name: "attach-verb", Script: "read line; echo heard $line; exit 5", Container: "stdin: true\nstdinOnce: true"})
	out, errs, code := s.PodctlInput(strings.NewReader("you\n"), "attach", "-i", "attach-verb")
	if code != 0 || !strings.Contains(out, "heard you\n") {
		t.Errorf("podctl attach -i: exit %d, %q, %q", code, out, errs)
	}
	ended := s.until(t, "attach-verb", "failed", phase(v1.PodFailed))
	if got := app(ended).State.Terminated.ExitCode; got != 5 {
		t.Errorf("the container ended with %d", got)
	}
}

// debug puts a container into a pod that runs.
func testPodctlDebug(t *testing.T, s *suite) {
	s.running(t, sleeper("debug-verb"))
	out, errs, code := s.Podctl("debug", "debug-verb", "--image="+busybox, "-c", "look", "--target=app", "--", "sh", "-c", "hostname; ps | grep -c sleep; sleep 1000000")
	if code != 0 {
		t.Fatalf("podctl debug: exit %d, %q, %q", code, out, errs)
	}
	eventually(t, func() error {
		out, errs, _ := s.Podctl("logs", "debug-verb", "-c", "look")
		if !strings.HasPrefix(out, "debug-verb\n") {
			return fmt.Errorf("the log of the container for debugging: %q, %q", out, errs)
		}
		return nil
	})
}

// Files and trees go in and come out as they were.
func testPodctlCp(t *testing.T, s *suite) {
	s.running(t, sleeper("cp-verb"))
	dir := t.TempDir()
	tree := map[string]string{"a.txt": "a\n", "sub/b.txt": strings.Repeat("0123456789abcdef", 1<<16), "sub/with blank": "c"}
	for name, text := range tree {
		path := filepath.Join(dir, "in", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	s.must(t, "cp", filepath.Join(dir, "in"), "cp-verb:/tmp/tree")
	s.must(t, "cp", filepath.Join(dir, "in/a.txt"), "default/cp-verb:/tmp/one", "-c", "app")
	if got := s.must(t, "exec", "cp-verb", "--", "sh", "-c", "cat /tmp/one; stat -c %a /tmp/tree/a.txt; ls /tmp/tree/sub"); got != "a\n640\nb.txt\nwith blank\n" {
		t.Errorf("in the container: %q", got)
	}
	s.must(t, "cp", "cp-verb:/tmp/tree", filepath.Join(dir, "out"))
	for name, text := range tree {
		if got, err := os.ReadFile(filepath.Join(dir, "out", name)); err != nil || string(got) != text {
			t.Errorf("%s came back with %d bytes, %v", name, len(got), err)
		}
	}
}

// A tar in the container that lies must not write beside what it was asked for.
func testPodctlCpHostile(t *testing.T, s *suite) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	// What busybox's tar would never write is written by hand: a header with a name of its own choice.
	script := `rm -f /bin/tar; cat > /bin/tar <<'END'
#!/bin/sh
entry() { # name, type, link, content
  size=$(printf %s "$4" | wc -c)
  { printf %s "$1"; dd if=/dev/zero bs=$((100-${#1})) count=1; printf '0000644\0000000000\0000000000\000%011o\00000000000000\000        %s' "$size" "$2"
    printf %s "$3"; dd if=/dev/zero bs=$((100-${#3})) count=1; dd if=/dev/zero bs=255 count=1; } 2>/dev/null > /tmp/h
  sum=$(od -An -v -tu1 /tmp/h | tr -s ' ' '\n' | awk '{s+=$1} END {printf "%06o", s}')
  { dd if=/tmp/h bs=148 count=1; printf '%s\000 ' "$sum"; dd if=/tmp/h bs=1 skip=156; } 2>/dev/null
  [ "$size" = 0 ] || { printf %s "$4"; dd if=/dev/zero bs=$((512-size)) count=1 2>/dev/null; }
}
entry src/fine 0 '' fine
entry src/../../victim 0 '' owned
entry src/link 2 '` + dir + `' ''
entry src/link/victim 0 '' owned
entry src/hard 1 '` + victim + `' ''
entry ` + victim + ` 0 '' owned
dd if=/dev/zero bs=1024 count=1 2>/dev/null
END
chmod 755 /bin/tar; touch /tmp/done; ` + sleepScript
	p := pod{Name: "cp-hostile", Script: script}
	s.running(t, p)
	eventually(t, func() error {
		if out, errs, code := s.Podctl("exec", "cp-hostile", "--", "ls", "/tmp/done"); code != 0 {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	out, errs, code := s.Podctl("cp", "cp-hostile:src", filepath.Join(dir, "dest"))
	if got, err := os.ReadFile(filepath.Join(dir, "dest", "fine")); err != nil || string(got) != "fine" {
		t.Errorf("the honest entry: %q, %v; exit %d, %q, %q", got, err, code, out, errs)
	}
	if code == 0 || !strings.Contains(errs, "tar contents corrupted") || !strings.Contains(errs, "outside target destination") || !strings.Contains(errs, "skipping symlink") {
		t.Errorf("podctl cp of a lying archive: exit %d, %q", code, errs)
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("a file was written outside of the destination")
	}
	if st, err := os.Lstat(filepath.Join(dir, "dest", "link")); err == nil && st.Mode()&os.ModeSymlink != 0 {
		t.Error("a link out of the destination was made")
	}
}

// port-forward: several requests, at the same time, over one forward; it ends on a signal.
func testPodctlPortForward(t *testing.T, s *suite) {
	s.running(t, pod{Name: "forward-verb", Script: "mkdir /www && echo served > /www/index.html && httpd -p 8080 -h /www && " + sleepScript, Container: "ports: [{name: http, containerPort: 8080}]"})
	for _, ports := range []string{":8080", ":http"} {
		cmd := podctlCommand(t, s, "port-forward", "forward-verb", ports)
		var said bytes.Buffer
		cmd.Stderr = &said
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		m := regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> 8080\n$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("podctl port-forward: %q, %v; %v, %s", line, err, cmd.Wait(), said.String())
		}
		results := make(chan error, 8)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		for range cap(results) {
			go func() {
				res, err := client.Get("http://" + m[1] + "/")
				if err != nil {
					results <- err
					return
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if err == nil && string(body) != "served\n" {
					err = fmt.Errorf("%s: %q", res.Status, body)
				}
				results <- err
			}()
		}
		for range cap(results) {
			if err := <-results; err != nil {
				t.Errorf("through podctl port-forward: %v", err)
			}
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		if conn, err := net.Dial("tcp", m[1]); err == nil {
			conn.Close()
			t.Errorf("%s is open after podctl port-forward has ended", m[1])
		}
	}
}

// exec -t, run -it and attach -t have a terminal of the size of the user's.
func testPodctlTerminal(t *testing.T, s *suite) {
	s.running(t, sleeper("terminal"))
	out, code := podctlOnTerminal(t, s, [][2]string{{"name? ", "podd\r"}}, "exec", "-itq", "terminal", "--", "sh", "-c", `until stty size 2>/dev/null | grep .; do sleep 0.1; done; printf "name? "; read x; printf "\033[31mhello %s\033[0m\n" $x; exit 3`)
	if code != 3 || !strings.Contains(out, "40 100\r\n") || !strings.Contains(out, "\x1b[31mhello podd\x1b[0m\r\n") {
		t.Errorf("podctl exec -it: exit %d, %q", code, out)
	}
	out, code = podctlOnTerminal(t, s, [][2]string{{"try pressing enter.", "\r"}, {"# ", "until stty size 2>/dev/null | grep .; do sleep 0.1; done; exit 6\r"}}, "run", "terminal-run", "-it", "--rm", "--restart=Never", "--image="+busybox, "--", "sh")
	if code != 6 || !strings.Contains(out, "40 100\r\n") || !strings.Contains(out, `pod "terminal-run" deleted`) {
		t.Errorf("podctl run -it --rm: exit %d, %q", code, out)
	}
	s.running(t, pod{Name: "terminal-attach", Container: "command: [sh]\nstdin: true\ntty: true"})
	out, code = podctlOnTerminal(t, s, [][2]string{{"try pressing enter.", "\r"}, {"# ", "until stty size 2>/dev/null | grep .; do sleep 0.1; done; exit 9\r"}}, "attach", "-it", "terminal-attach")
	if code != 0 || !strings.Contains(out, "40 100\r\n") {
		t.Errorf("podctl attach -it: exit %d, %q", code, out)
	}
	ended := s.until(t, "terminal-attach", "failed", phase(v1.PodFailed))
	if got := app(ended).State.Terminated.ExitCode; got != 9 {
		t.Errorf("the shell that was attached to ended with %d", got)
	}
	out, code = podctlOnTerminal(t, s, [][2]string{{"try pressing enter.", "\r"}, {"# ", "until stty size 2>/dev/null | grep .; do sleep 0.1; done; exit\r"}}, "debug", "-it", "terminal", "--image="+busybox, "-c", "look", "--", "sh")
	if code != 0 || !strings.Contains(out, "40 100\r\n") {
		t.Errorf("podctl debug -it: exit %d, %q", code, out)
	}
}

// What comes from a pod does not control the user's terminal, but goes into a pipe as it is.
func testPodctlEscapes(t *testing.T, s *suite) {
	const quoted = `"\e]0;title\a\e[31mred"` // as YAML
	p := pod{Name: "escapes", Script: `printf '\033]0;title\007\033[31mred\n'; printf '\033[31mbad\n' > /dev/termination-log; exit 1`, Meta: "annotations: {evil: " + string(quoted) + "}"}
	s.apply(t, p)
	s.until(t, "escapes", "failed", phase(v1.PodFailed))
	for _, args := range []string{
		"describe pod escapes", "logs escapes", "get pod escapes -o yaml", "get pod escapes -o jsonpath={.metadata.annotations.evil}", "events --for pod/escapes", "why escapes",
		`get pod escapes -o custom-columns=A:.metadata.annotations.evil`, "get pod escapes -o json", "annotate --list pod escapes",
	} {
		out, code := podctlOnTerminal(t, s, nil, strings.Fields(args)...)
		if code != 0 || strings.ContainsAny(out, "\x1b\a\u009b") || out == "" {
			t.Errorf("podctl %s on a terminal: exit %d, %q", args, code, out)
		}
	}
	if got := s.must(t, "logs", "escapes"); got != "\x1b]0;title\a\x1b[31mred\n" {
		t.Errorf("podctl logs into a pipe: %q", got)
	}
}

// The shell is told names for every command that takes them.
func testPodctlCompletion(t *testing.T, s *suite) {
	p := sleeper("complete-me")
	p.More = "- name: helper\n  image: " + busybox + "\n  command: [sleep, '1000']"
	s.running(t, p)
	for args, want := range map[string]string{
		"attach complete":                    "complete-me",
		"attach complete-me -c h":            "helper",
		"cp complete":                        "complete-me:",
		"cp complete-me:/x y -c h":           "helper",
		"debug complete":                     "complete-me",
		"describe pod complete":              "complete-me",
		"edit pod complete":                  "complete-me",
		"exec complete":                      "complete-me",
		"exec complete-me -c h":              "helper",
		"label pod complete":                 "complete-me",
		"annotate pod complete":              "complete-me",
		"logs complete":                      "complete-me",
		"patch pod complete":                 "complete-me",
		"port-forward complete":              "complete-me",
		"top pod complete":                   "complete-me",
		"wait pod/complete":                  "pod/complete-me",
		"why complete":                       "complete-me",
		"delete pod complete":                "complete-me",
		"get pods -n kube-s":                 "kube-system",
		"why -n kube-s":                      "kube-system",
		"get configm":                        "configmaps",
		"get nodes ":                         s.NodeName,
		"create conf":                        "configmap",
		"create secret dock":                 "docker-registry",
		"kubec":                              "kubeconfig",
		"po":                                 "port-forward",
		"image r":                            "rm",
		"image rm docker.io/library/busybox": "docker.io/library/" + busybox,
		"completion z":                       "zsh",
		"get pods --outp":                    "--output",
	} {
		words := strings.Split(args, " ")
		got := s.must(t, append([]string{"__complete"}, words...)...)
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(want) + `(\t|$)`).MatchString(got) {
			t.Errorf("completion of %q: %q, want %q", args, got, want)
		}
	}
	for shell, mark := range map[string]string{"bash": "complete -o default -F __start_podctl podctl", "zsh": "#compdef podctl", "fish": "complete -c podctl"} {
		if got := s.must(t, "completion", shell); !strings.Contains(got, mark) || strings.Contains(got, "kubectl") {
			t.Errorf("podctl completion %s lacks %q or has kubectl in it", shell, mark)
		}
	}
	script := s.must(t, "completion", "bash")
	cmd := exec.CommandContext(t.Context(), "bash", "-n")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("bash does not take its completion: %v, %s", err, out)
	}
}

// A kubeconfig works at once, that of the reader only reads, and a merge keeps what was there.
func testPodctlKubeconfig(t *testing.T, s *suite) {
	s.running(t, sleeper("kubeconfig"))
	dir := t.TempDir()
	write := func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(s.must(t, append([]string{"kubeconfig"}, args...)...)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	admin, token, reader := write("admin"), write("token", "--token"), write("reader", "--read-only")
	for _, file := range []string{admin, token, reader} {
		for _, args := range []string{"get pod kubeconfig -o name", "logs kubeconfig", "image ls -o name", "auth whoami"} {
			if file == reader && strings.HasPrefix(args, "image") {
				continue
			}
			if out, errs, code := s.Podctl(append([]string{"--socket=/no/such", "--kubeconfig", file}, strings.Fields(args)...)...); code != 0 {
				t.Errorf("podctl %s with %s: exit %d, %q, %q", args, filepath.Base(file), code, out, errs)
			}
		}
	}
	// Streams by TLS.
	if got := s.must(t, "--kubeconfig", admin, "exec", "kubeconfig", "--", "echo", "by TLS"); got != "by TLS\n" {
		t.Errorf("exec with the kubeconfig: %q", got)
	}
	for _, args := range []string{"label pod kubeconfig a=b", "exec kubeconfig -- true", "delete pod kubeconfig", "get secrets -A"} {
		if got := s.refused(t, "", append([]string{"--kubeconfig", reader}, strings.Fields(args)...)...); !strings.Contains(got, "orbidden") {
			t.Errorf("podctl %s as reader: %q", args, got)
		}
	}
	testPodctlMerge(t, s, dir, admin)
}

func testPodctlMerge(t *testing.T, s *suite, dir, admin string) {
	mine := filepath.Join(dir, "sub", "config")
	merge := func(args ...string) string {
		cmd := podctlCommand(t, s, append([]string{"kubeconfig", "--merge"}, args...)...)
		cmd.Env = append(cmd.Env, "KUBECONFIG="+mine)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("podctl kubeconfig --merge: %v, %s", err, out)
		}
		return string(out)
	}
	merge()
	config, err := clientcmd.LoadFromFile(mine)
	if err != nil || config.CurrentContext != "podd" {
		t.Fatalf("a new kubeconfig: %v, %+v", err, config)
	}
	config.CurrentContext = "work"
	config.Contexts["work"] = config.Contexts["podd"].DeepCopy()
	config.Contexts["work"].Namespace = "kept"
	if err := clientcmd.WriteToFile(*config, mine); err != nil {
		t.Fatal(err)
	}
	if out := merge("--read-only"); !strings.Contains(out, `The current context is still "work"`) {
		t.Errorf("podctl kubeconfig --merge says %q", out)
	}
	config, err = clientcmd.LoadFromFile(mine)
	if err != nil || config.CurrentContext != "work" || config.Contexts["work"].Namespace != "kept" || config.Contexts["podd"] == nil || config.Contexts["podd-reader"] == nil {
		t.Errorf("after a merge: %v, %+v", err, config)
	}
	merge("--use")
	if config, err = clientcmd.LoadFromFile(mine); err != nil || config.CurrentContext != "podd" {
		t.Errorf("after --use: %v", err)
	}
	if st, err := os.Stat(mine); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig: %v, %v", st.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(mine))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the kubeconfig: %v, %v", left, err)
	}
	// $KUBECONFIG counts when its context is podd's, and not when it is another's.
	for use, want := range map[string]bool{"podd": true, "work": false} {
		config.CurrentContext = use
		if err := clientcmd.WriteToFile(*config, mine); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(harness.Built(t), "podctl"), "get", "pod", "kubeconfig", "-v6")
		cmd.Env = []string{"KUBECONFIG=" + mine, "HOME=" + dir}
		out, _ := cmd.CombinedOutput() // without the socket of this podd it may fail
		if strings.Contains(string(out), "https://127.0.0.1:") != want {
			t.Errorf("with the context %s: %s", use, out)
		}
	}
	// A broken file stays as it is.
	if err := os.WriteFile(mine, []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := podctlCommand(t, s, "kubeconfig", "--merge", "--kubeconfig", mine)
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a merge into a broken kubeconfig: %s", out)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "{broken" {
		t.Errorf("the broken kubeconfig is %q now, %v", text, err)
	}
}

// why says what is wrong with pods that are wrong in different ways, and what to do.
func testPodctlWhy(t *testing.T, s *suite) {
	s.must(t, "create", "namespace", "why")
	defer s.must(t, "delete", "namespace", "why")
	all := []pod{
		{Name: "fine", Script: sleepScript, Container: "ports: [{containerPort: 80, hostPort: 18911, hostIP: 127.0.0.9}]"},
		{Name: "crash", Script: "echo out of luck; exit 3", Spec: "restartPolicy: Always"},
		{Name: "failed", Script: "exit 139"},
		{Name: "noimage", Script: "true", Container: "image: localhost:1/nothing:1"},
		{Name: "never", Script: "true", Container: "image: nothing:1\nimagePullPolicy: Never"},
		{Name: "nocommand", Container: "command: [/nothing]"},
		{Name: "oom", Script: "dd if=/dev/zero of=/dev/null bs=200M", Container: "resources: {limits: {memory: 16Mi}}"},
		{Name: "gated", Script: "true", Spec: "schedulingGates: [{name: example.com/gate}]"},
		{Name: "elsewhere", Script: "true", Spec: "nodeSelector: {no.such: label}"},
		{Name: "large", Script: "true", Container: "resources: {requests: {cpu: 1000}}"},
		{Name: "taken", Script: "true", Container: "ports: [{containerPort: 80, hostPort: 18911, hostIP: 127.0.0.9}]"},
	}
	var manifests []fmt.Stringer
	for _, p := range all {
		p.Meta = "namespace: why"
		manifests = append(manifests, p)
	}
	s.apply(t, manifests...)
	for name, want := range map[string]string{
		"crash":     `(?s)crash is started again and again\..*Container app was restarted .*, and again ended with exit code 3 .*-> See what it said: podctl logs crash -n why -c app --previous.*What happened:.*exited with code 3.*back-off: `,
		"failed":    `(?s)failed has failed and is not started again \(restartPolicy Never\)\..*ended with exit code 139 \(SIGSEGV\)`,
		"noimage":   `(?s)noimage is not running yet\..*Image localhost:1/nothing:1 of container app could not be had: .*-> The registry does not answer`,
		"never":     `(?s)Image nothing:1 of container app is not on this host, and imagePullPolicy is Never.*-> podctl image load FILE or podctl image pull nothing:1`,
		"nocommand": `(?s)could not be started.*-> The command is not in the image`,
		"oom":       `(?s)ran out of memory and was killed \(its limit is 16Mi\).*-> Raise spec.containers\[\].resources.limits.memory`,
		"gated":     `(?s)gated is not run by this host\..*scheduling gates.*example.com/gate`,
		"elsewhere": `(?s)elsewhere is not run by this host\..*-> podctl get nodes`,
		"large":     `It asks for cpu 1000: [0-9.]+ of [0-9.]+ are free\. -> This host can never give that`,
		"taken":     `Host port 18911/TCP is taken by pod why/fine\. -> Delete the pod that has the port`,
		"pod/fine":  `^pod/fine runs and is ready|^fine runs and is ready`,
	} {
		eventually(t, func() error {
			out, errs, code := s.Podctl("why", "-n", "why", name)
			if code != 0 || !regexp.MustCompile(want).MatchString(strings.Join(strings.Fields(out), " ")) { // wherever lines are broken
				return fmt.Errorf("podctl why %s: exit %d, %s%s", name, code, out, errs)
			}
			return nil
		})
	}
	if got := s.must(t, "why", "-A"); !regexp.MustCompile(`(?m)^why/gated +is not run by this host: It waits for its scheduling gates`).MatchString(got) || strings.Contains(got, "why/fine ") {
		t.Errorf("podctl why of all namespaces: %s", got)
	}
	got := s.must(t, "why", "-n", "why")
	for _, p := range all {
		if listed := regexp.MustCompile(`(?m)^` + p.Name + ` `).MatchString(got); listed != (p.Name != "fine") {
			t.Errorf("podctl why of a namespace tells of %s: %v\n%s", p.Name, listed, got)
		}
	}
	s.must(t, "delete", "pod", "-n", "why", "failed", "--now")
	eventually(t, func() error { // what it left on the host may be there for a moment longer than the pod
		out, _, code := s.Podctl("why", "-n", "why", "failed")
		if code != 0 || !regexp.MustCompile(`(?s)failed is not there: it was deleted .*exited with code 139 \(SIGSEGV\)`).MatchString(out) {
			return fmt.Errorf("podctl why of a pod that is gone: exit %d, %q", code, out)
		}
		return nil
	})
	if got := s.must(t, "why", "-n", "kube-public"); got != "There are no pods in namespace kube-public.\n" {
		t.Errorf("podctl why of an empty namespace: %q", got)
	}
}

// doctor finds nothing wrong with a host on which all tests run, and says so also where podd is down.
func testPodctlDoctor(t *testing.T, s *suite) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf("root: %s\nstate: %s\nbridge: %s\ngroup: root\n", s.Root, s.State, s.Bridge)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := s.Podctl("doctor") // podd says where it has its things
	if code != 0 || regexp.MustCompile(`(?m)^fail`).MatchString(out) {
		t.Errorf("podctl doctor: exit %d\n%s%s", code, out, errs)
	}
	for _, want := range []string{`ok    kernel        Linux `, `ok    containerd    answers on ` + s.State, `ok    binaries      runc \S+, containerd \S+`, `ok    podd          ready, answers in `, `ok    TLS port      https://127.0.0.1:\d+, certificates valid until `, `\d+ checks: 0 failed`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("podctl doctor lacks %q:\n%s", want, out)
		}
	}
	var said struct {
		Checks []struct{ Name, Result, Detail, Advice string }
	}
	out, _, code = s.Podctl("doctor", "--config", file, "--socket", "/no/such.sock", "--bundle", "/no/such", "-o", "json")
	if err := json.Unmarshal([]byte(out), &said); err != nil || code != 1 {
		t.Fatalf("podctl doctor where podd is down: exit %d, %v, %s", code, err, out)
	}
	failed := map[string]bool{}
	for _, c := range said.Checks {
		if c.Result == "fail" {
			failed[c.Name] = true
		}
		if c.Result != "ok" && c.Advice == "" {
			t.Errorf("doctor does not say what to do about %s: %s", c.Name, c.Detail)
		}
	}
	for _, name := range []string{"podd", "socket", "binaries", "CNI plugins"} {
		if !failed[name] {
			t.Errorf("%s is not among what failed: %v", name, failed)
		}
	}
}
