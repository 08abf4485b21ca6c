package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestFuzz runs the suite on a module with a target that holds and one that does not.
func TestFuzz(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":        "module m\n\ngo 1.26\n",
		"a/a.go":        "package a\n",
		"a/a_test.go":   "package a\n\nimport \"testing\"\n\nfunc FuzzHolds(f *testing.F) {\n\tf.Add(1)\n\tf.Fuzz(func(t *testing.T, n int) {})\n}\n",
		"b/b.go":        "package b\n",
		"b/b_test.go":   "package b\n\nimport \"testing\"\n\nfunc FuzzBreaks(f *testing.F) {\n\tf.Add(1)\n\tf.Fuzz(func(t *testing.T, n int) {\n\t\tif n != 1 {\n\t\t\tt.Error(n)\n\t\t}\n\t})\n}\n",
		"b/h_test.go":   "//go:build host\n\npackage b\n\nimport \"testing\"\n\nfunc FuzzHost(f *testing.F) {}\n",
		".x/x_test.go":  "package x\n\nimport \"testing\"\n\nfunc FuzzHidden(f *testing.F) {}\n",
		"b/not_fuzz.go": "package b\n\n// func FuzzNot(f *testing.F) is not one.\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := targets(root)
	if want := []target{{"a", "FuzzHolds"}, {"b", "FuzzBreaks"}}; err != nil || !slices.Equal(found, want) {
		t.Fatalf("targets %v, want %v: %v", found, want, err)
	}
	t.Setenv("GOFLAGS", "")
	if got, want := fuzz(root, time.Second), (tally{passed: 1, failed: 1}); got != want {
		t.Errorf("fuzz = %+v, want %+v", got, want)
	}
	kept, err := filepath.Glob(filepath.Join(root, "b/testdata/fuzz/FuzzBreaks/*"))
	if err != nil || len(kept) != 1 {
		t.Errorf("the input that fails is not kept: %v, %v", kept, err)
	}
}

// TestTimeUp tells the fuzzer's own deadline from what a target fails with.
func TestTimeUp(t *testing.T) {
	const head = "fuzz: elapsed: 30s, execs: 474699 (0/sec), new interesting: 86 (total: 87)\n--- FAIL: FuzzCleaner (30.08s)\n"
	for why, want := range map[string]bool{
		"    context deadline exceeded\nFAIL\n": true,
		"    --- FAIL: FuzzCleaner (0.00s)\n        context deadline exceeded\n    \n    Failing input written to testdata/fuzz/x/1\nFAIL\n": false,
		"    fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n":                                                         false,
		"    time=2026-11-26T14:33:36.739Z level=INFO msg=\"only root may use the API\"\n    context deadline exceeded\nFAIL\n":              true,
		"    time=2026-11-26T14:33:36.739Z level=INFO msg=x\n    a wrong answer\n    context deadline exceeded\nFAIL\n":                      false,
		"    context deadline exceeded\n    Failing input written to testdata/fuzz/x/1\nFAIL\n":                                              false,
	} {
		if got := timeUp([]byte(head + why)); got != want {
			t.Errorf("timeUp = %t of\n%s", got, why)
		}
	}
	if timeUp([]byte("context deadline exceeded\nFAIL\n")) {
		t.Error("nothing had failed")
	}
}
