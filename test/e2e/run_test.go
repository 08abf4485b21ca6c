//go:build host

package e2e

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// TestRun: podctl run -f, as CI would use it. Whatever happens, what it made is gone when it returns.
func TestRun(t *testing.T) {
	s := start(t, harness.WithArgs("--restart-backoff=1s", "--pull-backoff=1s"))
	for name, part := range map[string]func(*testing.T, *suite){
		"success":   testRunSuccess,
		"exit-code": testRunExitCode,
		"exit-from": testRunExitFrom,
		"logs":      testRunLogs,
		"ready":     testRunReady,
		"hopeless":  testRunHopeless,
		"timeout":   testRunTimeout,
		"interrupt": testRunInterrupt,
		"hangup":    testRunHangup,
		"several":   testRunSeveral,
		"exists":    testRunExists,
		"refused":   testRunRefused,
		"junit":     testRunJUnit,
		"terminal":  testRunTerminal,
		"init":      testRunInit,
		"probes":    testRunProbes,
		"deadline":  testRunDeadline,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); part(t, s) })
	}
}

// runs gives manifests to podctl run and returns what it printed and its exit code. The pods that it was to make must be gone.
func (s *suite) runs(t *testing.T, manifests string, args ...string) (out, errs string, code int) {
	t.Helper()
	out, errs, code = s.PodctlInput(strings.NewReader(manifests), append([]string{"run", "-f", "-"}, args...)...)
	for _, m := range regexp.MustCompile(`(?m)^  name: (\S+)$`).FindAllStringSubmatch(manifests, -1) {
		s.absent(t, m[1])
	}
	return out, errs, code
}

func (s *suite) absent(t *testing.T, name string) {
	t.Helper()
	if _, err := s.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("pod %s is still there after the run: %v", name, err)
	}
}

func testRunSuccess(t *testing.T, s *suite) {
	out, errs, code := s.runs(t, pod{Name: "run-success", Script: "echo out; echo err >&2"}.String())
	if code != 0 || out != "" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	for _, want := range []string{"pod/run-success created\n", "pod/run-success has completed\n", "pod/run-success deleted\n"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in\n%s", want, errs)
		}
	}
	if _, errs, code := s.runs(t, pod{Name: "run-quiet", Script: "exit 0"}.String(), "-q"); code != 0 || errs != "" {
		t.Errorf("quiet: exit %d, %q", code, errs)
	}
}

func testRunExitCode(t *testing.T, s *suite) {
	out, errs, code := s.runs(t, pod{Name: "run-code", Script: "echo the reason; exit 3"}.String())
	if code != 3 || out != "" || !strings.Contains(errs, "error: pod/run-code: container app ended with exit code 3") || !strings.Contains(errs, "    the reason\n") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	// The first failure counts, not the first container.
	_, errs, code = s.runs(t, pod{Name: "run-first", Script: "until [ -e /share/failed ]; do sleep 0.05; done; sleep 1.1; exit 5",
		Container: "volumeMounts: [{name: share, mountPath: /share}]",
		Spec:      "volumes: [{name: share, emptyDir: {}}]",
		More:      "- {name: other, image: " + busybox + ", command: [sh, -c, 'touch /share/failed; exit 4'], volumeMounts: [{name: share, mountPath: /share}]}",
	}.String())
	if code != 4 || !strings.Contains(errs, "container other ended with exit code 4") {
		t.Errorf("two failures: exit %d, %q", code, errs)
	}
}

func testRunExitFrom(t *testing.T, s *suite) {
	// The database would run for ever; the tests decide.
	p := pod{Name: "run-from", Script: sleepScript, More: "- {name: tests, image: " + busybox + ", command: [sh, -c, 'exit 7']}"}
	if _, errs, code := s.runs(t, p.String(), "--exit-from=tests"); code != 7 || !strings.Contains(errs, "pod/run-from: container tests ended with exit code 7") {
		t.Errorf("exit %d, %q", code, errs)
	}
	p.Name, p.Spec = "run-from-always", "restartPolicy: Always"
	p.More = strings.Replace(p.More, "exit 7", "exit 0", 1)
	if _, errs, code := s.runs(t, p.String(), "--exit-from=run-from-always/tests"); code != 0 {
		t.Errorf("of a pod that is always restarted: exit %d, %q", code, errs)
	}
	if _, errs, code := s.runs(t, p.String(), "--exit-from=nobody"); code != 1 || !strings.Contains(errs, "--exit-from=nobody: there is no such container") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

// All lines of all instances are there, in order, when run returns.
func testRunLogs(t *testing.T, s *suite) {
	const lines = 20000
	p := pod{Name: "run-logs", Spec: "restartPolicy: OnFailure", Container: "volumeMounts: [{name: share, mountPath: /share}]",
		Script: fmt.Sprintf("if mkdir /share/once 2>/dev/null; then echo first; exit 1; fi; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done; printf end", lines)}
	p.Spec += "\nvolumes: [{name: share, emptyDir: {}}]"
	out, errs, code := s.runs(t, p.String(), "--logs")
	var want strings.Builder
	fmt.Fprint(&want, "run-logs/app | first\n")
	for i := range lines {
		fmt.Fprintf(&want, "run-logs/app | line %d\n", i)
	}
	fmt.Fprint(&want, "run-logs/app | end\n")
	if code != 0 || out != want.String() {
		t.Errorf("exit %d, %d bytes of logs, want %d; %q", code, len(out), want.Len(), errs)
	}
	if !strings.Contains(errs, "pod/run-logs: container app was restarted, once so far\n") {
		t.Errorf("the restart is not told of: %q", errs)
	}
	p = pod{Name: "run-two", Script: "echo a", More: "- {name: longer, image: " + busybox + ", command: [echo, b]}"}
	if out, _, _ := s.runs(t, p.String(), "--logs"); !strings.Contains(out, "run-two/app    | a\n") || !strings.Contains(out, "run-two/longer | b\n") {
		t.Errorf("prefixes: %q", out)
	}
	if out, _, _ := s.runs(t, pod{Name: "run-bare", Script: "echo a"}.String(), "--logs", "--prefix=false"); out != "a\n" {
		t.Errorf("without a prefix: %q", out)
	}
	// What a container writes while it is told to end belongs to it.
	p = pod{Name: "run-bye", Script: "trap 'echo bye; exit 0' TERM; echo up; sleep 1000000 & wait", Spec: "terminationGracePeriodSeconds: 20"}
	if out, errs, code := s.runs(t, p.String(), "--logs", "--until=ready"); code != 0 || out != "run-bye/app | up\nrun-bye/app | bye\n" {
		t.Errorf("of a pod that is ended: exit %d, %q, %q", code, out, errs)
	}
}

func testRunReady(t *testing.T, s *suite) {
	p := sleeper("run-ready")
	if _, errs, code := s.runs(t, p.String(), "--until=ready"); code != 0 || !strings.Contains(errs, "pod/run-ready is ready\n") {
		t.Errorf("exit %d, %q", code, errs)
	}
	// --keep leaves what is ready, and not what is not.
	out, errs, code := s.PodctlInput(strings.NewReader(p.String()), "run", "-f", "-", "--until=ready", "--keep")
	if code != 0 || out != "" || !strings.Contains(errs, "kept: podctl delete pod/run-ready\n") {
		t.Errorf("--keep: exit %d, %q, %q", code, out, errs)
	}
	if !ready(s.until(t, p.Name, "looked at", func(*v1.Pod) bool { return true })) {
		t.Error("the pod that was kept is not ready")
	}
	s.remove(t, p.Name)
	p.Script = "exit 2"
	if _, errs, code := s.runs(t, p.String(), "--until=ready", "--keep"); code != 2 || !strings.Contains(errs, "pod/run-ready cannot succeed: container app ended with exit code 2") {
		t.Errorf("a pod that failed: exit %d, %q", code, errs)
	}
	p.Script = "exit 0"
	if _, errs, code := s.runs(t, p.String(), "--until=ready"); code != 125 || !strings.Contains(errs, "all its containers have ended with exit code 0") {
		t.Errorf("a pod that has completed: exit %d, %q", code, errs)
	}
}

// What can never succeed ends the run early, with the reason and what to do.
func testRunHopeless(t *testing.T, s *suite) {
	h := newHub(t, "there:1")
	for _, c := range []struct {
		pod   pod
		until string
		code  int
		want  string
	}{
		{pod{Name: "run-no-image", Container: "image: " + h.address + "/nothing:1"}, "complete", 125,
			`(?s)pod/run-no-image cannot succeed: container app: image \S+/nothing:1 could not be pulled in \d attempts: .*not found.*-> The name or the tag is wrong.*Events:.*Failed to pull image`},
		{pod{Name: "run-never", Container: "image: nothing:1\nimagePullPolicy: Never"}, "ready", 125, `image nothing:1 is not on this host, and imagePullPolicy is Never(?s:.*)-> podctl image load`},
		{pod{Name: "run-bad-name", Container: "image: 'UPPER:1'"}, "complete", 125, `InvalidImageName: `},
		{pod{Name: "run-config", Script: "exit 0", Container: "securityContext: {runAsNonRoot: true}"}, "complete", 125, `CreateContainerConfigError: .*runAsNonRoot`},
		{pod{Name: "run-crash", Script: "echo oops; exit 9", Spec: "restartPolicy: Always"}, "ready", 9, `container app was restarted 2 times, and again ended with exit code 9(?s:.*)    oops`},
		{pod{Name: "run-retry", Script: "exit 8", Spec: "restartPolicy: OnFailure"}, "complete", 8, `container app was restarted 2 times`},
		{pod{Name: "run-nowhere", Script: "exit 0", Spec: "nodeSelector: {a: b}"}, "complete", 125, `no host runs it: .*didn't match Pod's node affinity/selector`},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := s.runs(t, c.pod.String(), "--until="+c.until, "--max-restarts=2", "--timeout=60s")
			if code != c.code || out != "" || !regexp.MustCompile(c.want).MatchString(errs) {
				t.Errorf("exit %d, %q, %s", code, out, errs)
			}
		})
	}
}

func testRunTimeout(t *testing.T, s *suite) {
	_, errs, code := s.runs(t, pod{Name: "run-slow", Script: "echo I wait; " + sleepScript}.String(), "--timeout=3s")
	if code != 124 || !strings.Contains(errs, "error: not complete after 3s\n") || !strings.Contains(errs, "pod/run-slow deleted\n") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

// interruptible begins a run, waits until its pod runs, and returns the command and what it prints.
func (s *suite) begin(t *testing.T, p pod, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := podctlCommand(t, s, append([]string{"run", "-f", file}, args...)...)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.until(t, p.Name, "runs", func(pod *v1.Pod) bool { return app(pod).State.Running != nil })
	return cmd, &printed
}

// The first Ctrl-C ends the run and leaves nothing; a second one does not wait for the grace period.
func testRunInterrupt(t *testing.T, s *suite) {
	report := filepath.Join(t.TempDir(), "report.xml")
	cmd, printed := s.begin(t, sleeper("run-int"), "--junit="+report)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(printed.String(), "error: interrupted by SIGINT\n") {
		t.Errorf("exit %d, %q", code, printed)
	}
	s.absent(t, "run-int")
	if parsed := parseReport(t, report); parsed.Errors == 0 {
		t.Errorf("the report of a run that was interrupted: %+v", parsed)
	}

	// It does not end by itself, and has a grace period that is longer than anybody's patience.
	cmd, printed = s.begin(t, pod{Name: "run-int2", Script: "trap '' TERM; while :; do sleep 1; done", Spec: "terminationGracePeriodSeconds: 3600"})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.until(t, "run-int2", "is deleted", func(pod *v1.Pod) bool { return pod == nil || pod.DeletionTimestamp != nil })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("after two signals: exit %d, %q", code, printed)
	}
	s.absent(t, "run-int2")
}

// The terminal goes, and nobody reads any more: the pod goes all the same.
func testRunHangup(t *testing.T, s *suite) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(pod{Name: "run-hup", Script: "while :; do echo x; sleep 0.01; done"}.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := podctlCommand(t, s, "run", "-f", file, "--logs")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.until(t, "run-hup", "runs", func(pod *v1.Pod) bool { return app(pod).State.Running != nil })
	r.Close()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 129 {
		t.Errorf("exit %d (%v)", code, cmd.ProcessState)
	}
	s.absent(t, "run-hup")
}

// Several objects, also with names that the server gives, in a namespace of their own: made in the order that works, deleted.
func testRunSeveral(t *testing.T, s *suite) {
	p := pod{Name: "run-many", Script: "echo named", Meta: "namespace: run-many"}.String()
	generated := strings.ReplaceAll(pod{Name: "run-gen", Script: "echo generated", Meta: "namespace: run-many"}.String(), "name: run-gen", "generateName: run-gen-")
	manifests := strings.Join([]string{p, generated, generated,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: run-many, namespace: run-many}\ndata: {A: b}\n",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: run-many}\n"}, "---\n")
	out, errs, code := s.runs(t, manifests, "--logs")
	if code != 0 || strings.Count(out, " | generated\n") != 2 || !regexp.MustCompile(`(?m)^run-many/app +\| named$`).MatchString(out) ||
		!strings.HasPrefix(errs, "namespace/run-many created\nconfigmap/run-many created\npod/run-many created\npod/run-gen-") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	if _, err := s.client.CoreV1().Namespaces().Get(t.Context(), "run-many", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is still there: %v\n%s", err, errs)
	}
}

// What was there before is never touched, unless a run has made it and --replace is given.
func testRunExists(t *testing.T, s *suite) {
	p := s.running(t, sleeper("run-mine"))
	for _, args := range [][]string{nil, {"--replace"}} {
		_, errs, code := s.PodctlInput(strings.NewReader(sleeper("run-mine").String()), append([]string{"run", "-f", "-"}, args...)...)
		if code != 1 || !strings.Contains(errs, "-:4: metadata.name: pod/run-mine is there already") || !strings.HasSuffix(errs, "error: nothing was run\n") {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
	if now := s.until(t, p.Name, "ready", ready); now.UID != p.UID {
		t.Error("the pod is another one")
	}
	left := pod{Name: "run-left", Script: "exit 0"}
	if _, errs, code := s.PodctlInput(strings.NewReader(left.String()), "run", "-f", "-", "--keep=always"); code != 0 {
		t.Fatalf("exit %d, %q", code, errs)
	}
	if _, errs, code := s.PodctlInput(strings.NewReader(left.String()), "run", "-f", "-"); code != 1 || !strings.Contains(errs, "from an earlier run: --replace deletes it first") {
		t.Errorf("exit %d, %q", code, errs)
	}
	if _, errs, code := s.runs(t, left.String(), "--replace"); code != 0 {
		t.Errorf("--replace: exit %d, %q", code, errs)
	}
}

// What is wrong is said before anything is made, with file and line.
func testRunRefused(t *testing.T, s *suite) {
	for _, c := range []struct {
		in   string
		args []string
		want string
	}{
		{strings.Replace(sleeper("run-bad").String(), "containers:", "containerz: []\n  containers:", 1), nil, `-:\d+: spec.containerz: unknown field`},
		{pod{Name: "run-bad", Script: "exit 0", Spec: "restartPolicy: Always"}.String(), nil, `-:\d+: spec.restartPolicy: container app is started again whenever it ends, so the pod never completes`},
		{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: run-bad}\n", nil, "there is no pod in these manifests"},
		{sleeper("run-bad").String(), []string{"--until=later"}, "--until=later: it is complete or ready"},
		{sleeper("run-bad").String(), []string{"--until=ready", "--exit-from=app"}, "it does not go with --until=ready"},
		{sleeper("run-bad").String(), []string{"--junit=/nowhere/x.xml"}, "--junit: stat /nowhere: no such file or directory"},
	} {
		out, errs, code := s.runs(t, c.in, c.args...)
		if code != 1 || out != "" || !regexp.MustCompile(c.want).MatchString(errs) {
			t.Errorf("%s %v: exit %d, %q, %q", c.in, c.args, code, out, errs)
		}
	}
	// What only the server finds is told with its line too, and what was made before goes.
	both := sleeper("run-good").String() + "---\n" + pod{Name: "run-bad", Script: "exit 0", Container: "ports: [{containerPort: 99999}]"}.String()
	if _, errs, code := s.runs(t, both); code != 125 || !regexp.MustCompile(`pod/run-bad could not be made:\n-:\d+: spec.containers\[0\].ports\[0\].containerPort: `).MatchString(errs) {
		t.Errorf("exit %d, %q", code, errs)
	}
}

type report struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Suites   []struct {
		Name  string `xml:"name,attr"`
		Cases []struct {
			Name    string `xml:"name,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
			Out string `xml:"system-out"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func parseReport(t *testing.T, file string) report {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := xml.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return r
}

func testRunJUnit(t *testing.T, s *suite) {
	dir := t.TempDir()
	file := filepath.Join(dir, "report.xml")
	p := pod{Name: "run-junit", Script: `printf 'a\000b \033[1m]]> <&\n'; exit 3`, More: "- {name: fine, image: " + busybox + ", command: [echo, well]}"}
	if _, errs, code := s.runs(t, p.String(), "--junit="+file); code != 3 {
		t.Errorf("exit %d, %q", code, errs)
	}
	r := parseReport(t, file)
	if r.Tests != 3 || r.Failures != 2 || r.Errors != 0 || len(r.Suites) != 1 || r.Suites[0].Name != "default/run-junit" || len(r.Suites[0].Cases) != 3 {
		t.Fatalf("report: %+v", r)
	}
	whole, failed, fine := r.Suites[0].Cases[0], r.Suites[0].Cases[1], r.Suites[0].Cases[2]
	if whole.Name != "pod" || whole.Failure == nil {
		t.Errorf("the pod: %+v", whole)
	}
	if failed.Name != "app" || failed.Failure == nil || !strings.Contains(failed.Failure.Message, "exit code 3") || failed.Out != "a\ufffdb \ufffd[1m]]> <&\n" {
		t.Errorf("the container that failed: %+v", failed)
	}
	if fine.Name != "fine" || fine.Failure != nil || fine.Out != "well\n" {
		t.Errorf("the other container: %+v", fine)
	}
	if left, err := filepath.Glob(dir + "/.*.xml*"); err != nil || len(left) > 0 {
		t.Errorf("left beside the report: %v, %v", left, err)
	}
}

// On a terminal the prefix is coloured and what the container writes is cleaned.
func testRunTerminal(t *testing.T, s *suite) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(pod{Name: "run-tty", Script: `printf 'a\033[31mb\n'`}.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	seen, code := podctlOnTerminal(t, s, nil, "run", "-f", file, "--logs")
	if code != 0 || !strings.Contains(seen, "\x1b[36mrun-tty/app | \x1b[0mab\r\n") {
		t.Errorf("exit %d, %q", code, seen)
	}
}

// What init containers write is printed too, and the one that fails gives the exit code.
func testRunInit(t *testing.T, s *suite) {
	p := pod{Name: "run-init", Script: "echo main", Spec: "initContainers: [{name: first, image: " + busybox + ", command: [echo, prepared]}]"}
	if out, errs, code := s.runs(t, p.String(), "--logs"); code != 0 || out != "run-init/first | prepared\nrun-init/app   | main\n" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	p.Spec = strings.Replace(p.Spec, "[echo, prepared]", "[sh, -c, 'echo no; exit 12']", 1)
	if out, errs, code := s.runs(t, p.String(), "--logs"); code != 12 || out != "run-init/first | no\n" || !strings.Contains(errs, "container first ended with exit code 12") {
		t.Errorf("an init container failed: exit %d, %q, %q", code, out, errs)
	}
}

// With a readiness probe ready is what the probe says; a liveness probe that goes on failing is a reason.
func testRunProbes(t *testing.T, s *suite) {
	probe := "{tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}"
	p := pod{Name: "run-probe", Script: "sleep 2; exec nc -ll -p 8080 -e true", Container: "readinessProbe: " + probe}
	if _, errs, code := s.runs(t, p.String(), "--until=ready", "--timeout=60s"); code != 0 || !strings.Contains(errs, "pod/run-probe is ready\n") {
		t.Errorf("exit %d, %q", code, errs)
	}
	p.Script = sleepScript
	if _, errs, code := s.runs(t, p.String(), "--until=ready", "--timeout=8s"); code != 124 || !strings.Contains(errs, "Readiness probe failed: ") {
		t.Errorf("nobody listens: exit %d, %q", code, errs)
	}
	p.Container = "readinessProbe: {httpGet: {port: nowhere}}"
	if _, errs, code := s.runs(t, p.String(), "--until=ready"); code != 125 || !strings.Contains(errs, `cannot succeed: container app: its readiness probe asks port "nowhere"`) {
		t.Errorf("a port that is not there: exit %d, %q", code, errs)
	}
	for _, kind := range []string{"Startup", "Readiness"} {
		p.Container = strings.ToLower(kind) + "Probe: {exec: {command: [nothing]}, periodSeconds: 1}"
		if _, errs, code := s.runs(t, p.String(), "--until=ready"); code != 125 || !strings.Contains(errs, "cannot succeed: container app: "+kind+" probe errored") {
			t.Errorf("a command that is not there: exit %d, %q", code, errs)
		}
	}
	p.Container, p.Spec = "livenessProbe: "+probe, "restartPolicy: Always"
	_, errs, code := s.runs(t, p.String(), "--until=complete", "--exit-from=app", "--timeout=60s")
	if code != 0 { // it ends at SIGTERM with 0, and that is its first end
		t.Errorf("killed by its liveness probe: exit %d, %q", code, errs)
	}
	p.Container = "startupProbe: " + probe
	if _, errs, code := s.runs(t, p.String(), "--until=ready", "--timeout=60s", "--max-restarts=1"); code != 125 || !strings.Contains(errs, "cannot succeed: container app was restarted") || !strings.Contains(errs, "Startup probe failed: ") {
		t.Errorf("never started: exit %d, %q", code, errs)
	}
}

func testRunDeadline(t *testing.T, s *suite) {
	p := pod{Name: "run-deadline", Script: "trap 'exit 11' TERM; sleep 1000000 & wait", Spec: "activeDeadlineSeconds: 12"}
	if _, errs, code := s.runs(t, p.String()); code != 11 || !strings.Contains(errs, "DeadlineExceeded") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

// TestRunOverDeath: podd is killed while a run waits and its logs are followed. The run goes on, and no line is lost or repeated.
func TestRunOverDeath(t *testing.T) {
	t.Parallel()
	s := start(t)
	dir := t.TempDir()
	p := hostDir(pod{Name: "run-death", Script: "i=0; while [ ! -e /host/stop ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo total $i; exit 6"}, dir)
	file := filepath.Join(dir, "pod.yaml")
	if err := os.WriteFile(file, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := podctlCommand(t, s, "run", "-f", file, "--logs", "--prefix=false")
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := func() []string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
	further := func() {
		from := len(lines())
		eventually(t, func() error {
			if n := len(lines()); n < from+20 {
				return fmt.Errorf("%d lines were printed, %d before; %s", n, from, &errs)
			}
			return nil
		})
	}
	further()
	for range 3 {
		s.Restart()
		further()
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 6 {
		t.Errorf("exit %d, %s", code, &errs)
	}
	all := lines()
	for i, line := range all[:len(all)-1] {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if last := all[len(all)-1]; last != fmt.Sprintf("total %d", len(all)-1) {
		t.Errorf("the last line is %q, after %d", last, len(all)-1)
	}
	s.absent(t, p.Name)
}
