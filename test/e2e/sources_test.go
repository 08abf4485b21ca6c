//go:build host

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source is a kind of volume as a container meets it: the volume's root and a file in it, as "mode uid:gid", without and with
// an fsGroup of 5000, and who may write to it.
type source struct {
	volume         string // of the manifest; DIR is a directory of the host
	plain, grouped string // the root
	file           string // relative to the root; "" is none
	fileIs         string // without fsGroup; with it the group is another if the root's is
	writes         string // of "root user", and with fsGroup
	groupedWrites  string
}

// sources has a row for every kind of volume.
var sources = map[string]source{
	"empty":  {volume: "emptyDir: {}", plain: "777 0:0", grouped: "2777 0:5000", writes: "root user", groupedWrites: "root user"},
	"memory": {volume: "emptyDir: {medium: Memory, sizeLimit: 1Mi}", plain: "777 0:0", grouped: "2777 0:5000", writes: "root user", groupedWrites: "root user"},
	"host":   {volume: "hostPath: {path: DIR/closed}", plain: "755 0:0", grouped: "755 0:0", file: "file", fileIs: "640 0:0", writes: "root", groupedWrites: "root"},
	"open":   {volume: "hostPath: {path: DIR/open, type: Directory}", plain: "777 0:0", grouped: "777 0:0", writes: "root user", groupedWrites: "root user"},
	"group":  {volume: "hostPath: {path: DIR/group}", plain: "775 0:5000", grouped: "775 0:5000", writes: "root", groupedWrites: "root user"},
}

// Every kind of volume, in a pod without and one with fsGroup, in a container of root and one of uid 1001: modes, owners,
// who may write, and that each reads what the other wrote.
func testSources(t *testing.T, s *suite) {
	for kind, group := range map[string]string{"plain": "", "grouped": ", fsGroup: 5000"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, mode := range map[string]os.FileMode{"closed": 0o755, "open": 0o777, "group": 0o775} {
				path := filepath.Join(dir, name)
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(path, "file"), []byte("content"), 0o640); err != nil {
					t.Fatal(err)
				}
				if name == "group" {
					if err := os.Chown(path, 0, 5000); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
			}
			sourcesOf(t, s, kind, group, dir)
		})
	}
}

func sourcesOf(t *testing.T, s *suite, kind, group, dir string) {
	names := slices.Sorted(maps.Keys(sources))
	p := sleeper("sources-" + kind)
	p.Spec = "securityContext: {supplementalGroups: [6000]" + group + "}\nvolumes:\n"
	p.Container = "volumeMounts:\n"
	var look, write, read string
	for _, name := range names {
		v := sources[name]
		p.Spec += "- name: " + name + "\n  " + strings.ReplaceAll(v.volume, "DIR", dir) + "\n"
		p.Container += "- {name: " + name + ", mountPath: /v/" + name + "}\n"
		look += "stat -c '" + name + " %a %u:%g' /v/" + name + "\n"
		if v.file != "" {
			look += "stat -L -c '" + name + " file %a %u:%g' /v/" + name + "/" + v.file + "\n"
		}
		write += "(echo mine >/v/" + name + "/of-$(id -u)) 2>/dev/null && echo " + name + "\n"
		read += "cat /v/" + name + "/of-* 2>/dev/null | wc -l\n"
	}
	p.More = "- name: user\n  image: " + busybox + "\n  command: [sleep, '1000']\n  securityContext: {runAsUser: 1001, runAsGroup: 1001}\n" + indent(2, p.Container)
	s.running(t, p)
	var wantLook, wantRoot, wantUser, wantRead string
	for _, name := range names {
		v := sources[name]
		is, writes, gid := v.plain, v.writes, "0"
		if kind == "grouped" {
			is, writes = v.grouped, v.groupedWrites
			if v.grouped != v.plain {
				gid = "5000"
			}
		}
		wantLook += name + " " + is + "\n"
		if v.file != "" {
			wantLook += name + " file " + strings.TrimSuffix(v.fileIs, "0") + gid + "\n"
		}
		wantRoot += name + "\n"
		count := "1\n"
		if strings.Contains(writes, "user") {
			wantUser += name + "\n"
			count = "2\n"
		}
		wantRead += count
	}
	for _, c := range []struct{ container, script, want string }{
		{"app", look, wantLook}, {"user", look, wantLook}, {"app", write, wantRoot}, {"user", write, wantUser}, {"app", read, wantRead}, {"user", read, wantRead},
	} {
		if got := s.must(t, "exec", p.Name, "-c", c.container, "--", "sh", "-c", c.script+"true"); got != c.want {
			t.Errorf("%s in container %s:\n%s\nwant\n%s", kind, c.container, got, c.want)
		}
	}
	if got, want := s.must(t, "exec", p.Name, "-c", "user", "--", "id", "-G"), map[string]string{"plain": "1001 6000\n", "grouped": "1001 5000 6000\n"}[kind]; got != want {
		t.Errorf("%s: groups %q, want %q", kind, got, want)
	}
	s.remove(t, p.Name)
}
