// Package test checks what holds for the repository as a whole.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// directions are the rows of the table in docs/architecture.md: a package, with what is below it, may import podd's own
// packages only as listed. Every package may import the ones below itself and runtime/killpoint. The longest name that
// fits a package decides.
var directions = map[string][]string{
	"status":             {},
	"status/exits":       {},
	"runtime/plan":       {"status"},
	"runtime/killpoint":  {},
	"runtime/containers": {"runtime/handler"},
	"runtime/handler":    {},
	"runtime/images":     {},
	"runtime/logs":       {},
	"runtime/bundle":     {},
	"runtime/sources":    {},
	"runtime/history":    {"api/history"},
	"sandbox":            {"runtime/containers"},
	"network":            {},
	"volumes":            {"api/fields"},
	"store":              {},
	"runtime": {"status", "store", "sandbox", "network", "volumes", "runtime/plan", "runtime/containers", "runtime/images",
		"runtime/logs", "runtime/bundle", "runtime/probes", "runtime/sources", "runtime/stats", "status/exits", "runtime/history", "api/history", "api/fields", "api/fit", "api/pressure", "api/usage"},
	"runtime/probes":    {"status", "api/usage"},
	"runtime/static":    {"api/manifest"},
	"api/claims":        {},
	"api":               {"store", "api/accounts", "api/claims", "api/credentials", "api/exposition", "api/fields", "api/fit", "api/history", "api/images", "api/manifest", "api/pki", "api/pressure", "api/usage"},
	"api/accounts":      {"store"},
	"api/credentials":   {},
	"api/images":        {},
	"api/history":       {},
	"api/usage":         {},
	"api/exposition":    {"api/usage"},
	"api/fit":           {},
	"api/pressure":      {},
	"runtime/stats":     {"api/usage", "api/pressure"},
	"api/pki":           {},
	"api/manifest":      {"api/manifest/tree"},
	"api/manifest/tree": {},
	"api/fields":        {},
	"cmd/early":         {},
	"cmd/early/now":     {"cmd/early"},
	"cmd/podctl/quick":  {"cmd/early", "api/manifest/tree"},
	"cmd/podctl":        {"cmd/early", "cmd/podctl/quick", "cmd/early/now", "runtime/handler", "status", "api/credentials", "api/manifest", "api/images", "api/fields", "api/history"},
	"cmd/pause":         {},
	"cmd/podd-logd":     {"runtime/logs"},
}

// containerd's client is for few: what one package knows of containerd, the others need not.
var clientUsers = []string{"runtime/containers", "runtime/images", "runtime/bundle", "sandbox", "status/exits", "test"}

// listed is what is read of `go list -json`.
type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "podd/...")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// row is the longest name in the table that is pkg or a directory above it.
func row(pkg string) (string, bool) {
	for name := pkg; name != ""; {
		if _, ok := directions[name]; ok {
			return name, true
		}
		i := strings.LastIndexByte(name, '/')
		name = name[:max(i, 0)]
	}
	return "", false
}

func inside(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func TestImportDirections(t *testing.T) {
	packages := list(t)
	if len(packages) < 10 {
		t.Fatalf("go list shows only %d packages", len(packages))
	}
	for _, p := range packages {
		pkg := strings.TrimPrefix(p.ImportPath, "podd/")
		if pkg == "cmd/podd" || inside(pkg, "test") {
			continue // they put everything together
		}
		from, ok := row(pkg)
		if !ok {
			t.Errorf("%s is not in the table of docs/architecture.md, nor in this test", pkg)
			continue
		}
		for _, path := range p.Imports {
			to, own := strings.CutPrefix(path, "podd/")
			if !own || to == "runtime/killpoint" || inside(to, from) && !listedApart(from, to) {
				continue
			}
			if !slices.ContainsFunc(directions[from], func(allowed string) bool { return covers(allowed, to) }) {
				t.Errorf("%s imports %s: not a direction of docs/architecture.md", pkg, to)
			}
		}
	}
}

// listedApart tells whether a package below dir has a row of its own.
func listedApart(dir, pkg string) bool {
	name, _ := row(pkg)
	return name != dir
}

// covers tells whether to is the allowed package or below it without a row of its own.
func covers(allowed, to string) bool {
	name, ok := row(to)
	return ok && name == allowed
}

func TestContainerdClientUsers(t *testing.T) {
	for _, p := range list(t) {
		pkg := strings.TrimPrefix(p.ImportPath, "podd/")
		if slices.ContainsFunc(clientUsers, func(dir string) bool { return inside(pkg, dir) }) {
			continue
		}
		for _, path := range p.Imports {
			if strings.HasPrefix(path, "github.com/containerd/containerd/v2/client") {
				t.Errorf("%s imports containerd's client", pkg)
			}
		}
	}
}
