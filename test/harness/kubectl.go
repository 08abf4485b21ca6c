package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var kubectl = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PODD_KUBECTL"); path != "" {
		return filepath.Abs(path)
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("make", "-s", "-C", root, ".build/kubectl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("make .build/kubectl: %w\n%s", err, out)
	}
	return filepath.Join(root, ".build", "kubectl"), nil
})

// Kubectl is the path of an unmodified kubectl of the version in go.mod, built once. PODD_KUBECTL names another one.
func Kubectl(t testing.TB) string {
	t.Helper()
	path, err := kubectl()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
