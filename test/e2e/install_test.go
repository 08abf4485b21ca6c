//go:build host

package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"podd/test/harness"
)

// helpers are the programs that podd runs.
var helpers = []string{"bandwidth", "bridge", "containerd", "containerd-shim-runc-v2", "firewall", "host-local", "loopback", "pause",
	"podd-logd", "portmap", "ptp", "runc", "static", "tuning"}

// TestInstall installs into an empty directory, as a package is built: every file is there with its mode and nothing else, the unit
// and the configuration are of use to systemd and to podd, and uninstall leaves what is somebody's own.
func TestInstall(t *testing.T) {
	t.Parallel()
	top := filepath.Dir(harness.Built(t))
	dest := t.TempDir()
	script := func(name string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(top, "install", name))
		cmd.Env = append(os.Environ(), "DESTDIR="+dest)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	want := map[string]fs.FileMode{
		"usr/local/bin/podd": 0o755, "usr/local/bin/podctl": 0o755, "usr/local/share/doc/podd/README.md": 0o644,
		"etc/systemd/system/podd.service": 0o644, "etc/podd/config.yaml": 0o644,
	}
	for _, name := range helpers {
		want["usr/local/libexec/podd/"+name] = 0o755
	}
	pages, err := filepath.Glob(top + "/docs/*.md")
	must(t, err)
	for _, page := range pages {
		want["usr/local/share/doc/podd/docs/"+filepath.Base(page)] = 0o644
	}
	script("install")
	files, dirs := tree(t, dest)
	for name := range files {
		if files[name] != want[name] {
			t.Errorf("%s: mode %v, want %v (0: is not to be there)", name, files[name], want[name])
		}
	}
	for name := range want {
		if files[name] == 0 {
			t.Errorf("%s is not there", name)
		}
	}
	for _, dir := range []string{"etc/podd/manifests", "etc/podd/cni/net.d", "etc/podd/certs.d"} {
		if dirs[dir] != 0o755 {
			t.Errorf("directory %s: mode %v", dir, dirs[dir])
		}
	}
	for from, to := range map[string]string{
		top + "/bin/podd": dest + "/usr/local/bin/podd", top + "/libexec/podd/runc": dest + "/usr/local/libexec/podd/runc",
		top + "/install/config.yaml": dest + "/etc/podd/config.yaml",
	} {
		if out, err := exec.Command("cmp", from, to).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", to, out)
		}
	}
	installedUnit(t, dest)
	installedPodd(t, dest)

	// What somebody changed stays, over an installation and after the end.
	must(t, os.WriteFile(dest+"/etc/podd/config.yaml", []byte("max-pods: 5\n"), 0o600))
	must(t, os.WriteFile(dest+"/etc/podd/manifests/web.yaml", nil, 0o600))
	if out := script("install"); !strings.Contains(out, "kept: "+dest+"/etc/podd/config.yaml") {
		t.Errorf("a second installation says %s", out)
	}
	if out := script("uninstall"); !strings.Contains(out, "kept: "+dest+"/etc/podd\n") {
		t.Errorf("the end says %s", out)
	}
	files, _ = tree(t, dest)
	if left, own := slices.Sorted(maps.Keys(files)), []string{"etc/podd/config.yaml", "etc/podd/manifests/web.yaml"}; !slices.Equal(left, own) {
		t.Errorf("after uninstall there is %v, want what is somebody's own, %v", left, own)
	}
	if data, err := os.ReadFile(dest + "/etc/podd/config.yaml"); err != nil || string(data) != "max-pods: 5\n" {
		t.Errorf("the configuration is %q, %v", data, err)
	}
	must(t, os.RemoveAll(dest+"/etc/podd"))
	script("install")
	script("uninstall")
	files, dirs = tree(t, dest)
	for name := range dirs {
		if strings.Contains(name, "podd") {
			t.Errorf("directory %s is left", name)
		}
	}
	if len(files) > 0 {
		t.Errorf("files are left: %v", slices.Sorted(maps.Keys(files)))
	}
}

// tree is the modes of the files and of the directories below top.
func tree(t *testing.T, top string) (files, dirs map[string]fs.FileMode) {
	t.Helper()
	files, dirs = map[string]fs.FileMode{}, map[string]fs.FileMode{}
	must(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if d.IsDir() {
			dirs[name] = info.Mode().Perm()
		} else {
			files[name] = info.Mode()
		}
		return err
	}))
	return files, dirs
}

// installedUnit asks systemd what it thinks of the unit, once that leads to where the files are, and whether what it says is so.
func installedUnit(t *testing.T, dest string) {
	t.Helper()
	data, err := os.ReadFile(dest + "/etc/systemd/system/podd.service")
	must(t, err)
	unit := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			unit[key] = append(unit[key], value)
		}
	}
	for key, want := range map[string]string{"Type": "notify", "KillMode": "process", "Delegate": "yes", "Restart": "always", "ExecStart": "/usr/local/bin/podd"} {
		if got := unit[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s of the unit is %q, want %q", key, got, want)
		}
	}
	for _, path := range []string{unit["ExecStart"][0], strings.TrimPrefix(unit["Documentation"][0], "file:")} {
		if _, err := os.Stat(dest + path); err != nil {
			t.Errorf("the unit leads to nothing: %v", err)
		}
	}
	if strings.Contains(string(data), "@") {
		t.Errorf("something in the unit was not filled in:\n%s", data)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // all of what it would say of this unit is above
	}
	copied := filepath.Join(t.TempDir(), "podd.service")
	must(t, os.WriteFile(copied, bytes.ReplaceAll(data, []byte("/usr/local"), []byte(dest+"/usr/local")), 0o600))
	out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "podd") {
			t.Errorf("systemd: %s", line)
		}
	}
	if err != nil && len(out) == 0 {
		t.Errorf("systemd-analyze: %v", err)
	}
}

// installedPodd starts the podd that was installed far enough to read its configuration.
func installedPodd(t *testing.T, dest string) {
	t.Helper()
	config := dest + "/etc/podd/config.yaml"
	podd := func(args ...string) (string, error) {
		out, err := exec.Command(dest+"/usr/local/bin/podd", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := podd("version", "--config", config); err != nil || !strings.HasPrefix(out, "podd ") {
		t.Errorf("podd with the configuration that was installed: %v, %s", err, out)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	must(t, os.WriteFile(wrong, []byte("rot: /var/lib/podd\n"), 0o600))
	for file, want := range map[string]string{
		wrong:                fmt.Sprintf("podd: read configuration %s: unknown key \"rot\"\n", wrong),
		wrong + "-not-there": "podd: read configuration: open " + wrong + "-not-there: no such file or directory\n",
	} {
		if out, err := podd("version", "--config", file); err == nil || out != want {
			t.Errorf("podd with %s: %v, %s; want %s", file, err, out, want)
		}
	}
}

// TestDemo goes through the demo and its end: it comes to its last step, the page is fetched, and nothing is left.
func TestDemo(t *testing.T) {
	t.Parallel()
	top := filepath.Dir(harness.Built(t))
	if _, err := os.Stat("/run/podd-demo"); err == nil {
		t.Skip("a demo is on this host, and it stays there")
	}
	scope := harness.Scope{Root: "/var/lib/podd-demo", State: "/run/podd-demo", LogDir: "/var/lib/podd-demo/log", CgroupParent: "/podd-demo",
		Bridge: "podd-demo0", Table: "podd-demo", Namespace: "podd-demo"}
	before, err := harness.Look(t.Context(), scope)
	must(t, err)
	run := func(name string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), filepath.Join(top, "examples/demo", name)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	out := run("run")
	for _, want := range []string{"[9/9 ", "curl http://10.86.0.", "Hello from", "localhost serves: Hello", "phase: Succeeded", "2/2 "} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	if out := run("clean"); !strings.Contains(out, "the demo is gone") {
		t.Errorf("the end of the demo says:\n%s", out)
	}
	eventually(t, func() error { // other tests' pods come and go
		after, err := harness.Look(t.Context(), scope)
		if err != nil {
			return err
		}
		if left := before.Diff(after); len(left) > 0 {
			return fmt.Errorf("the demo leaves behind:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
	for _, dir := range []string{scope.Root, scope.State} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("the demo leaves %s behind", dir)
		}
	}
	if out := run("clean"); !strings.Contains(out, "nothing to clean") {
		t.Errorf("once more, the end of the demo says:\n%s", out)
	}
}
