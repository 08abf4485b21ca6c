package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	events := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"why x failed\n"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    x_test.go:3: left behind:\n        a mount\n"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    finish.go:9: podd's log:\n        ready\n"}
{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/y"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"not to be seen\n"}
{"Action":"pass","Package":"p","Test":"TestB","Elapsed":30.4}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p","Elapsed":1.5}
{"Action":"pass","Package":"q","Elapsed":0.25}
{"Action":"build-output","ImportPath":"r","Output":"r.go:1: syntax error\n"}
{"Action":"fail","Package":"r"}
`
	var out bytes.Buffer
	got := count(strings.NewReader(events), &out)
	if want := (tally{passed: 2, failed: 2, skipped: 1}); got != want {
		t.Errorf("count = %+v, want %+v", got, want)
	}
	for _, s := range []string{"why x failed", "ok  \tq\t0.250s", "FAIL\tp\t1.500s", "syntax error", "FAIL\tr", "slow\tTestB\t30s",
		"why\tTestA/x:     x_test.go:3: left behind:\nwhy\tTestA/x:         a mount\n"} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("output lacks %q:\n%s", s, out.String())
		}
	}
	if strings.Contains(out.String(), "why\tTestA/x:         ready") {
		t.Error("podd's log is given as a reason")
	}
	if strings.Contains(out.String(), "not to be seen") {
		t.Error("the output of a test that passed is shown")
	}
}

// A parent test that fails by itself, all its subtests having passed, is still a failure.
func TestCountParent(t *testing.T) {
	events := `{"Action":"pass","Package":"p","Test":"TestA/y"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`
	if got := count(strings.NewReader(events), &bytes.Buffer{}); got.failed != 1 {
		t.Errorf("failed = %d, want 1", got.failed)
	}
}

func TestClosing(t *testing.T) {
	for _, c := range []struct {
		all    []tally
		failed bool
		last   string
	}{
		{[]tally{{suite: "unit", passed: 3}}, false, "ok  3 passed, 0 failed, 0 skipped in 1m0s"},
		{[]tally{{suite: "unit", passed: 3}, {suite: "e2e", failed: 1}}, true, "FAIL  3 passed, 1 failed, 0 skipped in 1m0s"},
		{nil, true, "FAIL  0 passed, 0 failed, 0 skipped in 1m0s"},
	} {
		var out bytes.Buffer
		if failed := closing(&out, c.all, time.Minute); failed != c.failed {
			t.Errorf("closing(%v) = %v", c.all, failed)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if got := lines[len(lines)-1]; got != c.last {
			t.Errorf("closing line %q, want %q", got, c.last)
		}
	}
}

// The real go test is understood: a test that passes counts, a package that does not exist is a failure.
func TestGoTest(t *testing.T) {
	if got := goTest(nil, "-run", "^TestClosing$", "."); got != (tally{passed: 1}) {
		t.Errorf("goTest = %+v, want 1 passed", got)
	}
	if got := goTest(nil, "./nosuchpackage"); got.failed == 0 {
		t.Errorf("goTest of no package = %+v, want a failure", got)
	}
}
