// Command run runs the suites of podd's tests, one after the other, and ends with one line that counts what they
// reported: `go run ./test/run lint build unit host e2e fuzz`. A suite that fails does not hold back the next ones, only a
// build that fails does. It exits 1 unless everything passed.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

const tags = "grpcnotrace"

// tally is what one suite came to.
type tally struct {
	suite                   string
	passed, failed, skipped int
	took                    time.Duration
}

func main() {
	began := time.Now()
	var all []tally
	for _, suite := range os.Args[1:] {
		fmt.Printf("--- %s\n", suite)
		start := time.Now()
		t := run(suite)
		t.suite, t.took = suite, time.Since(start).Round(time.Second)
		all = append(all, t)
		if suite == "build" && t.failed > 0 {
			break
		}
	}
	if failed := closing(os.Stdout, all, time.Since(began)); failed {
		os.Exit(1)
	}
}

// closing writes a line for each suite and the closing line, and tells whether anything failed.
func closing(w io.Writer, all []tally, took time.Duration) (failed bool) {
	var sum tally
	fmt.Fprintln(w)
	for _, t := range all {
		fmt.Fprintf(w, "%-6s %4d passed %4d failed %4d skipped  %s\n", t.suite, t.passed, t.failed, t.skipped, t.took)
		sum.passed, sum.failed, sum.skipped = sum.passed+t.passed, sum.failed+t.failed, sum.skipped+t.skipped
	}
	failed = sum.failed > 0 || sum.passed == 0
	word := "ok"
	if failed {
		word = "FAIL"
	}
	fmt.Fprintf(w, "%s  %d passed, %d failed, %d skipped in %s\n", word, sum.passed, sum.failed, sum.skipped, took.Round(time.Second))
	return failed
}

// pure is the package that has no goroutine and a test that lives 10,000 lives: the race detector would find nothing there, and
// take minutes for it.
const pure = "./runtime/plan"

// plus is both tallies as one.
func (t tally) plus(more tally) tally {
	t.passed, t.failed, t.skipped = t.passed+more.passed, t.failed+more.failed, t.skipped+more.skipped
	return t
}

// run runs one suite.
func run(suite string) tally {
	switch suite {
	case "lint":
		return lint()
	case "build":
		return check("make build", "make", "--no-print-directory", "build")
	case "unit":
		raced := slices.DeleteFunc(packages(false), func(p string) bool { return p == pure })
		return goTest([]string{"CGO_ENABLED=1"}, append([]string{"-race", "-tags", tags, "-timeout", "20m"}, raced...)...).
			plus(goTest(nil, "-tags", tags, "-timeout", "20m", pure))
	case "host":
		return goTest(nil, slices.Concat([]string{"-p", "1", "-tags", tags + ",host", "-timeout", "30m"}, asRoot(), packages(true))...)
	case "fuzz":
		return fuzz(".", fuzzTime)
	case "cgroupv2":
		return goTest(nil, "-tags", tags+",host", "-timeout", "40m", "./test/cgroupv2/")
	case "e2e":
		return goTest(nil, slices.Concat([]string{"-p", "1", "-tags", tags + ",host", "-timeout", "70m"}, asRoot(), []string{"./test/e2e/..."})...)
	}
	fmt.Println("no such suite:", suite)
	return tally{failed: 1}
}

// asRoot makes go test run what it has compiled through sudo, for a user who is not root.
func asRoot() []string {
	if os.Geteuid() == 0 {
		return nil
	}
	return []string{"-exec", "sudo -E env PATH=" + os.Getenv("PATH")}
}

// lint is gofmt, go vet and staticcheck over every file, those of the host tests included.
func lint() tally {
	sum := check("gofmt", "bash", "-c", `bad=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l); echo -n "$bad"; test -z "$bad"`)
	for _, c := range []tally{
		check("go vet", "go", "vet", "-tags", tags+",host", "./..."),
		check("staticcheck", "go", "tool", "staticcheck", "-tags", tags+",host", "./..."),
	} {
		sum = sum.plus(c)
	}
	return sum
}

// check runs one command whose exit code is the result.
func check(name, command string, args ...string) tally {
	cmd := exec.Command(command, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Printf("FAIL\t%s: %v\n", name, err)
		return tally{failed: 1}
	}
	fmt.Printf("ok  \t%s\n", name)
	return tally{passed: 1}
}

// packages lists the packages with tests: those with tests for the host, or all others' unit tests. What is below
// test/e2e, test/bench and test/cgroupv2 has its own suite.
func packages(host bool) []string {
	seen := map[string]bool{}
	_ = filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path != "." && strings.HasPrefix(d.Name(), ".") || path == "test/e2e" || path == "test/bench" || path == "test/cgroupv2") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, "_test.go") && needsHost(path) == host {
			seen["./"+filepath.Dir(path)] = true
		}
		return nil
	})
	list := make([]string, 0, len(seen))
	for p := range seen {
		list = append(list, p)
	}
	sort.Strings(list)
	return list
}

// needsHost tells whether a test file has the build tag host.
func needsHost(file string) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	head, _, _ := strings.Cut(string(data), "\npackage ")
	return strings.Contains(head, "//go:build host")
}

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// goTest runs go test, prints the line of each package and the output of each test that failed, and counts the tests
// that have no subtests of their own. A package that failed without a failed test (it did not build, it panicked)
// counts as one failure.
func goTest(env []string, args ...string) tally {
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Println("FAIL\tgo test:", err)
		return tally{failed: 1}
	}
	c := count(out, os.Stdout)
	if err := cmd.Wait(); err != nil && c.failed == 0 {
		fmt.Println("FAIL\tgo test:", err)
		c.failed++
	}
	return c
}

// count reads the events of go test.
func count(in io.Reader, w io.Writer) tally {
	output := map[string][]string{} // by package and test, until its result is known
	results := map[string]string{}
	inner := map[string]bool{} // tests with subtests
	var slow []event
	var reasons []string
	broken := map[string]int{} // failures by package
	var sum tally
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Fprintln(w, sc.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			output[key] = append(output[key], e.Output)
		case "pass", "fail", "skip":
			if e.Test == "" {
				verdict(w, e, output[key], broken[e.Package])
				if e.Action == "fail" && broken[e.Package] == 0 {
					sum.failed++
				}
				continue
			}
			results[key] = e.Action
			if e.Elapsed >= slowTest {
				slow = append(slow, e)
			}
			if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
				inner[e.Package+" "+e.Test[:i]] = true
			}
			if e.Action == "fail" {
				broken[e.Package]++
				fmt.Fprint(w, strings.Join(output[key], ""))
				reasons = append(reasons, reason(e.Test, output[key])...)
			}
			if e.Action == "skip" {
				fmt.Fprint(w, strings.Join(output[key], ""))
			}
			delete(output, key)
		}
	}
	slowest(w, slow)
	for _, line := range reasons {
		fmt.Fprintf(w, "why\t%s\n", line)
	}
	for key, result := range results {
		switch {
		case inner[key] && (result != "fail" || childFailed(results, key)):
		case result == "pass":
			sum.passed++
		case result == "fail":
			sum.failed++
		default:
			sum.skipped++
		}
	}
	return sum
}

// A line of testing's own that says where in the tests something was found.
var found = regexp.MustCompile(`^\s*\w+\.go:\d+: `)

// reason is what a test that failed said first, for the end of a long output, where the lines between are often cut: at most
// six lines of 300 bytes, none of what podd logged.
func reason(test string, output []string) []string {
	lines := strings.Split(strings.Join(output, ""), "\n")
	first := slices.IndexFunc(lines, found.MatchString)
	if first < 0 {
		return nil
	}
	lines = lines[first:min(len(lines), first+6)]
	if log := slices.IndexFunc(lines, func(s string) bool { return strings.HasSuffix(s, "podd's log:") || strings.HasPrefix(s, "--- ") }); log >= 0 {
		lines = lines[:log]
	}
	for i, s := range lines {
		lines[i] = test + ": " + s[:min(len(s), 300)]
	}
	return lines
}

// slowTest is how many seconds a test takes before it is worth a line.
const slowTest = 20

// slowest prints what took most of the time, the slowest first. A test with parallel subtests counts only its own time.
func slowest(w io.Writer, tests []event) {
	slices.SortStableFunc(tests, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	for _, e := range tests[:min(len(tests), 12)] {
		fmt.Fprintf(w, "slow\t%s\t%.0fs\n", e.Test, e.Elapsed)
	}
}

// childFailed tells whether a subtest of key failed; if none did, the failure is key's own.
func childFailed(results map[string]string, key string) bool {
	for k, result := range results {
		if result == "fail" && strings.HasPrefix(k, key+"/") {
			return true
		}
	}
	return false
}

// verdict prints what go test prints for a package.
func verdict(w io.Writer, e event, lines []string, failures int) {
	switch {
	case e.Action == "skip":
		fmt.Fprintf(w, "?   \t%s\t[no tests]\n", e.Package)
	case e.Action == "pass":
		fmt.Fprintf(w, "ok  \t%s\t%.3fs\n", e.Package, e.Elapsed)
	default:
		if failures == 0 {
			fmt.Fprint(w, strings.Join(lines, ""))
		}
		fmt.Fprintf(w, "FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
	}
}
