package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// fuzzTime is how long each fuzz target runs.
const fuzzTime = 30 * time.Second

// guided is how many packages a test may be made of for the fuzzer to be guided by what is covered in all of them: all are
// compiled again for that. In larger ones it is guided by what is covered in podd's own packages and in those of marked.
const guided = 400

// marked are packages that guide the fuzzer as well, by the directory of the target: what is under test there, if few other packages
// are made of it, which would have to be compiled again, too.
var marked = map[string][]string{"api": {"github.com/moby/spdystream/...", "k8s.io/streaming/...", "k8s.io/apiserver/pkg/endpoints/handlers/..."}}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// target is one fuzz function.
type target struct{ dir, name string }

// targets finds all fuzz functions below root.
func targets(root string) (found []target, err error) {
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") || needsHost(path) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range fuzzFunc.FindAllSubmatch(data, -1) {
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			found = append(found, target{dir, string(m[1])})
		}
		return nil
	})
	slices.SortFunc(found, func(a, b target) int { return strings.Compare(a.dir+" "+a.name, b.dir+" "+b.name) })
	return found, err
}

// fuzz runs every target, two at a time. What makes one fail is kept in its package's testdata/fuzz, where every
// other run of the tests finds it; what the fuzzer thinks is interesting stays in .build/fuzz.
func fuzz(root string, each time.Duration) tally {
	all, err := targets(root)
	if err != nil || len(all) == 0 {
		fmt.Println("FAIL\tfind fuzz targets:", err)
		return tally{failed: 1}
	}
	cache, err := filepath.Abs(filepath.Join(root, ".build", "fuzz"))
	if err != nil {
		fmt.Println("FAIL\tfind fuzz targets:", err)
		return tally{failed: 1}
	}
	bin, err := os.MkdirTemp("", "podd-fuzz")
	if err != nil {
		fmt.Println("FAIL\tfuzz:", err)
		return tally{failed: 1}
	}
	defer os.RemoveAll(bin)
	var sum tally
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	binaries := map[string]string{}
	for _, t := range all {
		if binaries[t.dir] == "" {
			out, err := compileFuzz(root, t, filepath.Join(bin, strings.ReplaceAll(t.dir, "/", "_")))
			if err != nil {
				fmt.Printf("FAIL\t%s: %v\n", t.dir, err)
				sum.failed++
				continue
			}
			binaries[t.dir] = out
		}
		binary := binaries[t.dir]
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out, err := runFuzz(root, binary, t, cache, each)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !timeUp(out) {
				fmt.Printf("%sFAIL\t%s %s: %v\n", out, t.dir, t.name, err)
				sum.failed++
				return
			}
			fmt.Printf("ok  \t%s %s\t%s\n", t.dir, t.name, lastLine(out))
			sum.passed++
		})
	}
	wg.Wait()
	return sum
}

// compileFuzz makes the test binary of a target's package.
func compileFuzz(root string, t target, out string) (string, error) {
	pkg := "./" + t.dir
	deps := exec.Command("go", "list", "-deps", "-test", "-tags", tags, pkg)
	deps.Dir, deps.Stderr = root, os.Stderr
	list, err := deps.Output()
	if err != nil {
		return "", err
	}
	args := []string{"test", "-c", "-vet=off", "-tags", tags, "-o", out}
	if bytes.Count(list, []byte("\n")) <= guided {
		args = append(args, "-fuzz", "^"+t.name+"$") // compiles with the marks that guide the fuzzer
	} else {
		for _, pattern := range append([]string{"podd/..."}, marked[t.dir]...) {
			args = append(args, "-gcflags="+pattern+"=-d=libfuzzer") // what -fuzz does to each package
		}
	}
	build := exec.Command("go", append(args, pkg)...)
	build.Dir, build.Stdout, build.Stderr = root, os.Stdout, os.Stderr
	return out, build.Run()
}

func runFuzz(root, binary string, t target, cache string, each time.Duration) ([]byte, error) {
	cmd := exec.Command(binary, "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.fuzztime="+each.String(), "-test.fuzzminimizetime=1s",
		"-test.parallel=1", "-test.timeout=10m", "-test.fuzzcachedir="+filepath.Join(cache, t.dir))
	cmd.Dir = filepath.Join(root, t.dir)
	return cmd.CombinedOutput()
}

// timeUp tells whether a target that is said to have failed was only stopped: at the end of -fuzztime the fuzzer now and then
// takes its own deadline for a failure (golang/go#51484). What really fails has an input, which is kept. What the code under
// test has logged stands between.
func timeUp(out []byte) bool {
	_, why, failed := strings.Cut(string(out), "--- FAIL: ")
	_, why, _ = strings.Cut(why, "\n")
	why = strings.TrimSuffix(strings.TrimSpace(why), "FAIL")
	var said []string
	for line := range strings.Lines(why) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "time=") {
			said = append(said, line)
		}
	}
	return failed && slices.Equal(said, []string{"context deadline exceeded"})
}

// lastLine is the last line in which the fuzzer says how far it is.
func lastLine(out []byte) string {
	last := ""
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "fuzz: elapsed") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}
