package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestQuick: what `get pods` prints before podctl is there is what kubectl's get prints, which is all there is without a process.
func TestQuick(t *testing.T) {
	serve(t)
	compare := func(quick bool, args ...string) {
		t.Helper()
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Env = append(os.Environ(), asPodctl+"=1", "GODEBUG=inittrace=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		out, errOut, code := stdout.String(), said(stderr.String()), cmd.ProcessState.ExitCode()
		wantOut, wantErr, wantCode := ask("", args...)
		if age(out) != age(wantOut) || errOut != wantErr || code != wantCode {
			t.Errorf("%s: %d\n%s%s\nand kubectl's get: %d\n%s%s", args, code, out, errOut, wantCode, wantOut, wantErr)
		}
		switch trace := stderr.String(); {
		case !strings.Contains(trace, "init runtime "):
			t.Fatal("no trace of what is initialised")
		case strings.Contains(trace, "init k8s.io/kubectl/") == quick:
			t.Errorf("%s: quick is %v, want %v", args, !quick, quick)
		}
	}
	compare(true, "get", "pods")
	compare(true, "get", "pods", "-A")
	for _, name := range []string{"name: web", "name: a-pod-with-a-longer-name"} {
		if _, errOut, code := ask(strings.Replace(pod, "name: web", name, 1), "apply", "-f", "-"); code != 0 {
			t.Fatal(errOut)
		}
	}
	for _, args := range []string{"get pods", "get pod web", "get pods -o wide", "get po -A -o wide", "get pods -A --no-headers", "get pods -n elsewhere --no-headers"} {
		compare(true, strings.Split(args, " ")...)
	}
	for _, args := range []string{"get pods nope", "get pods -o name"} {
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
