package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// process runs podctl as a process, and tells whether it was done before podctl is there: kubectl's commands are in its trace of
// what is initialised, or not.
func process(t *testing.T, args ...string) (out, errOut string, code int, quick bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asPodctl+"=1", "GODEBUG=inittrace=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	trace := stderr.String()
	if !strings.Contains(trace, "init runtime ") {
		t.Fatal("no trace of what is initialised")
	}
	return stdout.String(), said(trace), cmd.ProcessState.ExitCode(), !strings.Contains(trace, "init k8s.io/kubectl/pkg/cmd/")
}

// TestQuick: what `get pods` prints before podctl is there is what kubectl's get prints, which is all there is without a process.
func TestQuick(t *testing.T) {
	serve(t)
	compare := func(quick bool, args ...string) {
		t.Helper()
		out, errOut, code, was := process(t, args...)
		wantOut, wantErr, wantCode := ask("", args...)
		if age(out) != age(wantOut) || errOut != wantErr || code != wantCode {
			t.Errorf("%s: %d\n%s%s\nand kubectl's get: %d\n%s%s", args, code, out, errOut, wantCode, wantOut, wantErr)
		}
		if was != quick {
			t.Errorf("%s: quick is %v, want %v", args, was, quick)
		}
	}
	compare(true, "get", "pods")
	compare(true, "get", "pods", "-A")
	for _, name := range []string{"name: web", "name: a-pod-with-a-longer-name"} {
		if _, errOut, code := ask(strings.Replace(pod, "name: web", name, 1), "apply", "-f", "-"); code != 0 {
			t.Fatal(errOut)
		}
	}
	for _, args := range []string{"get pods", "get pod web", "get pods -o wide", "get po -A -o wide", "get pods -A --no-headers"} {
		compare(true, strings.Split(args, " ")...)
	}
	for _, args := range []string{"get pods nope", "get pods -o name", "get pods -n elsewhere --no-headers"} {
		compare(false, strings.Split(args, " ")...)
	}
}

// said is what was said, without the trace.
func said(errOut string) string {
	var kept []string
	for line := range strings.Lines(errOut) {
		if !strings.HasPrefix(line, "init ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// age takes out what differs by a second between two looks.
func age(out string) string { return ages.ReplaceAllString(out, "AGE") }

var ages = regexp.MustCompile(`\b\d+s\b`)

// TestQuickApply: what apply makes and says before podctl is there is what kubectl's apply makes and says, for manifests of all
// kinds, wrong ones too.
func TestQuickApply(t *testing.T) {
	for name, c := range manifestCases(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pod.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var quick bool
			var got, want string
			t.Run("quick", func(t *testing.T) {
				got = made(t, func() (out, errOut string, code int) {
					out, errOut, code, quick = process(t, "apply", "-f", file)
					return out, errOut, code
				})
			})
			t.Run("kubectl", func(t *testing.T) {
				want = made(t, func() (string, string, int) { return ask("", "apply", "-f", file) })
			})
			if got != want {
				t.Errorf("made\n%s\nand by kubectl's apply\n%s", got, want)
			}
			if quick != c.quick {
				t.Errorf("quick is %v, want %v", quick, c.quick)
			}
		})
	}
}

// made is what apply says at a podd of its own, and the pods that are there then.
func made(t *testing.T, apply func() (out, errOut string, code int)) string {
	t.Helper()
	serve(t)
	out, errOut, code := apply()
	pods, _, _ := ask("", "get", "pods", "-A", "-o", "json", "--show-managed-fields")
	return fmt.Sprint(code, "\n", out, errOut, ones.ReplaceAllString(pods, "ONE"))
}

// ones are what is there once only: identities, times, versions and names that are made.
var ones = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.]+Z|"resourceVersion": "\d+"|kube-api-access-\w+`)

// storiesMade are the documents of the manifest package's stories that are one right pod each.
var storiesMade = map[string]bool{"good.yaml 2": true}

type manifestCase struct {
	text  string
	quick bool
}

func manifestCases(t *testing.T) map[string]manifestCase {
	t.Helper()
	all := map[string]manifestCase{
		"plain":        {pod, true},
		"in namespace": {strings.Replace(pod, "name: web", "name: web\n  namespace: default", 1), true},
		"annotated":    {strings.Replace(pod, "name: web", "name: web\n  annotations: {b: \"<1>\", a: 'x'}\n  labels: {tier: \"1\"}", 1), true},
		"odd words": {strings.Replace(pod, "image: busybox", "image: busybox\n    command: [sh, -c, \"é\\u2028\\n\"]\n    stdin: yes\n"+
			"    env: [{name: A, value: null}]\n    ports: [{containerPort: 0x50}]\n    resources: {limits: {cpu: 1, memory: 64Mi}}", 1), true},
		"elsewhere":     {strings.Replace(pod, "name: web", "name: web\n  namespace: shop", 1), false},
		"unknown field": {strings.Replace(pod, "image: busybox", "image: busybox\n    imagee: x", 1), false},
		"case of field": {strings.Replace(pod, "image: busybox", "Image: busybox", 1), false},
		"wrong type":    {strings.Replace(pod, "image: busybox", "image: 5", 1), false},
		"out of range":  {strings.Replace(pod, "image: busybox", "image: busybox\n    ports: [{containerPort: 5000000000}]", 1), false},
		"invalid":       {strings.Replace(pod, "image: busybox", "image: busybox\n    ports: [{containerPort: 500000}]", 1), false},
		"not a time":    {strings.Replace(pod, "name: web", "name: web\n  creationTimestamp: yesterday", 1), false},
		"versioned":     {strings.Replace(pod, "name: web", "name: web\n  resourceVersion: \"5\"", 1), false},
	}
	files, err := filepath.Glob("../../api/manifest/testdata/stories/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range strings.Split(string(data), "\n---\n") {
			name := filepath.Base(file) + " " + strconv.Itoa(i)
			all[name] = manifestCase{text, storiesMade[name]}
		}
	}
	return all
}
