//go:build host

package volumes

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func configMap(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}
}

func secret(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{}}}
}

func texts(pairs ...string) map[string]File {
	files := map[string]File{}
	for _, pair := range pairs {
		name, text, _ := strings.Cut(pair, "=")
		files[name] = File{Data: []byte(text), Mode: 0o644}
	}
	return files
}

// tree is all files that can be seen in a directory as name=content, links followed, in order.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var found []string
	var walk func(at string)
	walk = func(at string) {
		entries, err := os.ReadDir(filepath.Join(dir, at))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			name := filepath.Join(at, e.Name())
			info, err := os.Stat(filepath.Join(dir, name))
			switch {
			case strings.HasPrefix(e.Name(), ownNames):
			case err != nil:
				t.Error(err)
			case info.IsDir():
				walk(name)
			default:
				data, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Error(err)
				}
				found = append(found, fmt.Sprintf("%s=%s", name, data))
			}
		}
	}
	walk("")
	slices.Sort(found)
	return strings.Join(found, " ")
}

// names is what is in a directory, podd's own names cut to their two dots.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "..2") {
			name = ".."
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func TestContentFollows(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	p := pod(configMap("config"), secret("secret"))
	dir := filepath.Join(v.path("uid-1"), contents, "config")
	for i, step := range []struct{ files, want, names string }{
		{"a=1 b=2", "a=1 b=2", ".. ..data a b"},
		{"a=1 b=3 d/e=4", "a=1 b=3 d/e=4", ".. ..data a b d"},
		{"d/f/g=5", "d/f/g=5", ".. ..data d"},
		{"d=6", "d=6", ".. ..data d"},
		{"", "", ".. ..data"},
		{"a=1", "a=1", ".. ..data a"},
	} {
		if err := v.Write(t.Context(), p, &p.Spec.Volumes[0], texts(strings.Fields(step.files)...), Written{Stamp: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); got != step.want {
			t.Errorf("%q: there is %q", step.files, got)
		}
		if got := names(t, dir); got != step.names {
			t.Errorf("%q: names %q, want %q", step.files, got, step.names)
		}
	}
	before, _ := os.Readlink(filepath.Join(dir, dataLink))
	if err := v.Write(t.Context(), p, &p.Spec.Volumes[0], texts("a=1"), Written{Stamp: "later"}); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(dir, dataLink)); after != before {
		t.Errorf("the same files were written again: %s, before %s", after, before)
	}
	written, err := v.Written("uid-1")
	if err != nil || written["config"].Stamp != "later" || len(written) != 1 {
		t.Errorf("Written = %v, %v", written, err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

func TestContentModes(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	p := pod(configMap("config"), secret("secret"))
	group, user := int64(2000), int64(1001)
	files := map[string]File{"plain": {Mode: 0o644}, "own": {Mode: 0o400}, "sub/exec": {Mode: 0o755}, "users": {Mode: 0o600, Owner: &user}}
	check := func(volume, path string, want os.FileMode, uid, gid uint32) {
		t.Helper()
		path = filepath.Join(v.path("uid-1"), contents, volume, path)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		if u, g := owner(t, real); info.Mode() != want || u != uid || g != gid {
			t.Errorf("%s/%s: mode %v, owner %d:%d, want %v, %d:%d", volume, path, info.Mode(), u, g, want, uid, gid)
		}
	}
	for i := range p.Spec.Volumes {
		if err := v.Write(t.Context(), p, &p.Spec.Volumes[i], files, Written{}); err != nil {
			t.Fatal(err)
		}
	}
	check("config", "", os.ModeDir|0o777, 0, 0)
	check("secret", "", os.ModeDir|os.ModeSticky|0o777, 0, 0)
	check("config", "..data", os.ModeDir|0o755, 0, 0)
	check("config", "sub", os.ModeDir|0o755, 0, 0)
	check("config", "plain", 0o644, 0, 0)
	check("config", "own", 0o400, 0, 0)
	check("config", "sub/exec", 0o755, 0, 0)
	check("config", "users", 0o600, 1001, 0)
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	for i := range p.Spec.Volumes {
		if err := v.Write(t.Context(), p, &p.Spec.Volumes[i], files, Written{}); err != nil {
			t.Fatal(err)
		}
	}
	check("config", "", os.ModeDir|os.ModeSetgid|0o777, 0, 2000)
	check("secret", "", os.ModeDir|os.ModeSetgid|os.ModeSticky|0o777, 0, 2000)
	check("config", "..data", os.ModeDir|os.ModeSetgid|0o755, 0, 2000)
	check("config", "sub", os.ModeDir|os.ModeSetgid|0o755, 0, 2000)
	check("config", "own", 0o440, 0, 2000)
	check("config", "users", 0o640, 1001, 2000)
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}

// Readers never see a part of an update: two files that are always written with the same text have the same text, and so
// has a file twice. A reader that finds a version gone opens the next one.
func TestContentIsNeverTorn(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	p := pod(configMap("config"))
	write := func(i int) {
		text := strings.Repeat(fmt.Sprintf("%06d ", i), 2000)
		if err := v.Write(t.Context(), p, &p.Spec.Volumes[0], texts("a="+text, "z="+text), Written{Stamp: text[:7]}); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	dir := filepath.Join(v.path("uid-1"), contents, "config")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var seen [2]map[string]bool
	for i := range seen {
		seen[i] = map[string]bool{}
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				now, err := os.Readlink(filepath.Join(dir, dataLink))
				if err != nil {
					t.Errorf("there is no version at all: %v", err)
					return
				}
				version, err := os.OpenRoot(filepath.Join(dir, now))
				if err != nil { // it was removed meanwhile
					continue
				}
				a, errA := version.ReadFile("a")
				z, errZ := version.ReadFile("z")
				version.Close()
				if errA != nil || errZ != nil { // it was removed meanwhile
					continue
				}
				text := string(a)
				if text != string(z) || len(text) != 14000 || strings.Count(text, text[:7]) != 2000 {
					t.Errorf("torn: %q and %q", text[:min(len(text), 20)], z[:min(len(z), 20)])
					return
				}
				seen[i][text[:7]] = true
			}
		})
	}
	for i := range 1000 {
		write(i + 1)
	}
	close(stop)
	readers.Wait()
	if len(seen[0]) < 3 || len(seen[1]) < 3 {
		t.Errorf("the readers saw %d and %d versions", len(seen[0]), len(seen[1]))
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

// What is planted in a volume does not lead podd out of it.
func TestContentStaysInside(t *testing.T) {
	v, outside := open(t), t.TempDir()
	noMounts(t, v)
	if err := os.WriteFile(filepath.Join(outside, "host"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pod(configMap("config"))
	write := func(text string) error {
		return v.Write(t.Context(), p, &p.Spec.Volumes[0], texts("d/host="+text, "host="+text), Written{Stamp: text})
	}
	if err := write("1"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(v.path("uid-1"), contents, "config")
	for _, plant := range []func() error{
		func() error { return os.Symlink(outside, filepath.Join(dir, newData)) },
		func() error { return os.Symlink(outside, filepath.Join(dir, "..planted")) },
		func() error { return os.Symlink(outside, filepath.Join(dir, "planted")) },
		func() error {
			_ = os.Remove(filepath.Join(dir, dataLink))
			return os.Symlink(outside, filepath.Join(dir, dataLink))
		},
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
	}
	if err := write("2"); err != nil {
		t.Error(err)
	}
	if got := tree(t, dir); got != "d/host=2 host=2" {
		t.Errorf("there is %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "host")); err != nil || string(got) != "host" {
		t.Errorf("outside there is %q, %v", got, err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "host")); err != nil {
		t.Error(err)
	}
}

// Mount points of other volumes are there, and stay through an update.
func TestContentWithMountsInIt(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	p := pod(configMap("config"), configMap("other"))
	p.Spec.Containers = []v1.Container{{Name: "app", VolumeMounts: []v1.VolumeMount{
		{Name: "config", MountPath: "/etc/app"}, {Name: "other", MountPath: "/etc/app/in/side/"}, {Name: "other", MountPath: "/etc/appendix"}}}}
	dir := filepath.Join(v.path("uid-1"), contents, "config")
	for _, text := range []string{"1", "2"} {
		if err := v.Write(t.Context(), p, &p.Spec.Volumes[0], texts("a="+text), Written{Stamp: text}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "in", "side")); err != nil || info.Mode() != fs.ModeDir|0o755 {
			t.Errorf("mount point: %v, %v", info, err)
		}
		if got := names(t, dir); got != ".. ..data a in" {
			t.Errorf("names %q", got)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}
