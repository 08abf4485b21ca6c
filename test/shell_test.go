package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// starters are the files that may start programs. None does it through a shell: what pods and images say never becomes
// words of a command line.
var starters = []string{
	"network/plugin.go",            // CNI plugins, found by name in podd's directories
	"runtime/bundle/service.go",    // containerd and podd-logd
	"runtime/bundle/versions.go",   // runc --version
	"runtime/containers/userns.go", // runc features
	"sandbox/userns.go",            // pause, to make namespaces
	"volumes/program.go",           // mount.nfs, and podd itself to unmount
	"cmd/podctl/checks.go",         // doctor: runc --version, containerd --version
}

func TestFewStartPrograms(t *testing.T) {
	root := os.DirFS("..")
	for _, top := range []string{"api", "cmd", "network", "runtime", "sandbox", "status", "store", "volumes"} {
		err := fs.WalkDir(root, top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
				strings.Contains(path, "containerdtest/") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := sel.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch pkg.Name + "." + sel.Sel.Name {
				case "exec.Command", "exec.CommandContext", "os.StartProcess", "syscall.ForkExec", "syscall.Exec", "unix.Exec":
					if !slices.Contains(starters, path) {
						t.Errorf("%s starts a program", path)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
