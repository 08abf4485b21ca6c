//go:build host

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source is a mount of a volume as a container meets it: what is mounted, and a file in it, as "mode uid:gid", without and
// with an fsGroup of 5000, and who may read and write. "root" is the container app, "user" one of uid and gid 1001; both have
// the supplementary group 6000.
type source struct {
	volume         string // of the manifest; DIR is a directory of the host
	of             string // the row whose volume this is another mount of, in place of volume
	mount          string // more of the mount
	plain, grouped string // what is mounted
	file           string // below it; "" is none
	fileIs         [2]string
	reads          [2]string // who can read the file
	writes         [2]string // who can make a file
	privileged     bool      // in pods of privileged containers, and in no others
	needsHuge      bool      // in pods that ask for huge pages
}

// Who may.
var (
	both      = [2]string{"root user", "root user"}
	onlyRoot  = [2]string{"root", "root"}
	withGroup = [2]string{"root", "root user"}
)

// table is mounts of volumes by their names.
type table map[string]source

// sources has a row for every kind of volume that needs nothing but podd's host, and every option of a mount.
var sources = table{
	"empty":     {volume: "emptyDir: {}", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"memory":    {volume: "emptyDir: {medium: Memory, sizeLimit: 1Mi}", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"huge":      {volume: "emptyDir: {medium: HugePages}", plain: "777 0:0", grouped: "2777 0:5000", needsHuge: true}, // nothing is written there, but mapped
	"claim":     {volume: "persistentVolumeClaim: {claimName: CLAIM}", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"claim-ro":  {volume: "persistentVolumeClaim: {claimName: CLAIM, readOnly: true}", plain: "777 0:0", grouped: "2777 0:5000"},
	"ephemeral": {volume: ephemeral, plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"local": {volume: "persistentVolumeClaim: {claimName: CLAIM-local}", plain: "755 0:0", grouped: "2775 0:5000", file: "file",
		fileIs: [2]string{"640 0:0", "660 0:5000"}, reads: withGroup, writes: withGroup},

	"host":          {volume: "hostPath: {path: DIR/closed}", plain: "755 0:0", grouped: "755 0:0", file: "file", fileIs: [2]string{"640 0:0", "640 0:0"}, reads: onlyRoot, writes: onlyRoot},
	"open":          {volume: "hostPath: {path: DIR/open, type: Directory}", plain: "777 0:0", grouped: "777 0:0", writes: both},
	"group":         {volume: "hostPath: {path: DIR/group}", plain: "775 0:5000", grouped: "775 0:5000", writes: withGroup},
	"supplementary": {volume: "hostPath: {path: DIR/supplementary}", plain: "775 0:6000", grouped: "775 0:6000", writes: both},
	"host-file":     {volume: "hostPath: {path: DIR/closed/file, type: File}", plain: "640 0:0", grouped: "640 0:0"},

	"config": {volume: "configMap: {name: sources}", plain: "777 0:0", grouped: "2777 0:5000", file: "k", fileIs: [2]string{"644 0:0", "644 0:5000"}, reads: both},
	"config-mode": {volume: "configMap: {name: sources, defaultMode: 0400, items: [{key: k, path: a/b}]}", plain: "777 0:0", grouped: "2777 0:5000", file: "a/b",
		fileIs: [2]string{"400 0:0", "440 0:5000"}, reads: withGroup},
	"secret":     {volume: "secret: {secretName: sources, defaultMode: 0400}", plain: "1777 0:0", grouped: "3777 0:5000", file: "k", fileIs: [2]string{"400 0:0", "440 0:5000"}, reads: withGroup},
	"downward":   {volume: "downwardAPI: {items: [{path: 'n', fieldRef: {fieldPath: metadata.name}}]}", plain: "1777 0:0", grouped: "3777 0:5000", file: "n", fileIs: [2]string{"644 0:0", "644 0:5000"}, reads: both},
	"projected":  {volume: "projected: {sources: [{secret: {name: sources, items: [{key: k, path: s, mode: 0600}]}}]}", plain: "1777 0:0", grouped: "3777 0:5000", file: "s", fileIs: [2]string{"600 0:0", "640 0:5000"}, reads: withGroup},
	"token":      {volume: "projected: {sources: [{serviceAccountToken: {path: t}}]}", plain: "1777 0:0", grouped: "3777 0:5000", file: "t", fileIs: [2]string{"644 0:0", "640 0:5000"}, reads: both},
	"image":      {volume: "image: {reference: '" + busybox + "', pullPolicy: Never}", plain: "755 0:0", grouped: "755 0:0", file: "etc/passwd", fileIs: [2]string{"644 0:0", "644 0:0"}, reads: both},
	"image-part": {of: "image", mount: "subPath: root", plain: "700 0:0", grouped: "700 0:0"},

	"read-only":      {of: "empty", mount: "readOnly: true", plain: "777 0:0", grouped: "2777 0:5000"},
	"recursively-ro": {of: "open", mount: "readOnly: true, recursiveReadOnly: Enabled", plain: "777 0:0", grouped: "777 0:0"},
	"if-possible-ro": {of: "memory", mount: "readOnly: true, recursiveReadOnly: IfPossible", plain: "777 0:0", grouped: "2777 0:5000"},
	"not-recursive":  {of: "claim", mount: "readOnly: true, recursiveReadOnly: Disabled", plain: "777 0:0", grouped: "2777 0:5000"},
	"part":           {of: "empty", mount: "subPath: made/of/it", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"part-by-name":   {of: "claim", mount: "subPathExpr: of-$(WHO)", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"part-of-host":   {of: "host", mount: "subPath: made, readOnly: true", plain: "755 0:0", grouped: "755 0:0"},
	"part-of-config": {of: "config", mount: "subPath: k", plain: "644 0:0", grouped: "644 0:5000"},
	"part-of-secret": {of: "secret", mount: "subPathExpr: $(KEY)", plain: "400 0:0", grouped: "440 0:5000"},
	"none":           {of: "empty", mount: "mountPropagation: None", plain: "777 0:0", grouped: "2777 0:5000", writes: both},
	"from-host":      {of: "memory", mount: "mountPropagation: HostToContainer", plain: "777 0:0", grouped: "2777 0:5000", writes: both},

	"disk-both-ways":   {volume: "emptyDir: {}", mount: "mountPropagation: Bidirectional", plain: "777 0:0", grouped: "2777 0:5000", writes: both, privileged: true},
	"memory-both-ways": {volume: "emptyDir: {medium: Memory}", mount: "mountPropagation: Bidirectional", plain: "777 0:0", grouped: "2777 0:5000", writes: both, privileged: true},
	"shared":           {volume: "hostPath: {path: SHARED}", mount: "mountPropagation: Bidirectional", plain: "755 0:0", grouped: "755 0:0", writes: onlyRoot, privileged: true},
}

// remotes are volumes of NFS servers that export the directories of sourceDirs, one each: owners and modes are theirs, whatever
// the pod says of groups.
var remotes = table{
	"nfs": {volume: "nfs: {server: SERVER-closed, path: /x}", plain: "755 0:0", grouped: "755 0:0", file: "file",
		fileIs: [2]string{"640 0:0", "640 0:0"}, reads: onlyRoot, writes: onlyRoot},
	"nfs-open":          {volume: "nfs: {server: SERVER-open, path: /x}", plain: "777 0:0", grouped: "777 0:0", writes: both},
	"nfs-group":         {volume: "nfs: {server: SERVER-group, path: /x}", plain: "775 0:5000", grouped: "775 0:5000", writes: withGroup},
	"nfs-supplementary": {volume: "nfs: {server: SERVER-supplementary, path: /x}", plain: "775 0:6000", grouped: "775 0:6000", writes: both},
	"nfs-ro":            {volume: "nfs: {server: SERVER-open, path: /x, readOnly: true}", plain: "777 0:0", grouped: "777 0:0"},
	"nfs-part":          {of: "nfs-open", mount: "subPath: made/of/it", plain: "777 0:0", grouped: "777 0:0", writes: both},
}

const ephemeral = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}"

// Every kind of volume and every option of a mount, in a pod without and one with fsGroup, with users of the host and of its own, in a container of root and one of
// uid 1001: modes, owners, who may read and write, and that each reads what the other wrote.
func testSources(t *testing.T, s *suite) {
	s.configMap(t, "sources", map[string]string{"k": "content"})
	s.secret(t, "sources", map[string]string{"k": "content"})
	if s.huge != nil {
		t.Run("huge", func(t *testing.T) { t.Skipf("NOT TESTED: the row huge of the table of volumes. %v", s.huge) })
	}
	for _, group := range []bool{false, true} {
		for _, privileged := range []bool{false, true} {
			for _, own := range []bool{false, true} {
				name := "sources-" + map[bool]string{false: "plain", true: "grouped"}[group] + map[bool]string{true: "-privileged"}[privileged] + map[bool]string{true: "-own-users"}[own]
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					testSourcesOf(t, s, name, group, privileged, own)
				})
			}
		}
	}
}

// sourceDirs makes the directories of the host that the tables name, each with this before its name.
func sourceDirs(t *testing.T, before string) {
	t.Helper()
	for name, as := range map[string]struct {
		mode os.FileMode
		gid  int
	}{"closed": {0o755, 0}, "local": {0o755, 0}, "open": {0o777, 0}, "group": {0o775, 5000}, "supplementary": {0o775, 6000}} {
		path := before + name
		must(t, os.Mkdir(path, 0o755))
		must(t, os.WriteFile(filepath.Join(path, "file"), []byte("content"), 0o640))
		must(t, os.Chown(path, 0, as.gid))
		must(t, os.Chmod(path, as.mode))
	}
}

func testSourcesOf(t *testing.T, s *suite, pod string, group, privileged, own bool) {
	rows := maps.Clone(sources)
	maps.DeleteFunc(rows, func(_ string, v source) bool { return v.privileged != privileged || v.needsHuge && s.huge != nil })
	if privileged {
		shared := sharedDir(t)
		must(t, os.Chmod(shared, 0o755))
		rows.test(t, s, pod, group, own, "privileged: true", "SHARED", shared)
		return
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	sourceDirs(t, dir+"/")
	local := pod + "-local"
	s.apply(t, claim{Name: pod}, staticVolume(local, local, "local: {path: "+dir+"/local}"+anyNode(s)),
		claim{Name: local, Spec: "accessModes: [ReadWriteOnce]\nstorageClassName: " + local})
	rows.test(t, s, pod, group, own, "", "DIR", dir, "CLAIM", pod)
	s.must(t, "delete", "pvc/"+pod, "pvc/"+local, "pv/"+local)
}

// test makes a pod with all of these volumes and two containers, and has both look, write, and read what the other wrote. more is
// of the security contexts of both; words are what the volumes say, and what that is here.
func (rows table) test(t *testing.T, s *suite, pod string, group, own bool, more string, words ...string) {
	where := strings.NewReplacer(words...)
	names := slices.Sorted(maps.Keys(rows))
	p := sleeper(pod)
	p.Spec = "securityContext: {supplementalGroups: [6000]}\nvolumes:\n"
	if group {
		p.Spec = "securityContext: {supplementalGroups: [6000], fsGroup: 5000}\nvolumes:\n"
	}
	if own {
		p.Spec = "hostUsers: false\n" + p.Spec
	}
	mounts := "env: [{name: WHO, value: them}, {name: KEY, value: k}]\nvolumeMounts:\n"
	var look, count, resources string
	for _, name := range names {
		v, volume := rows[name], rows[name].of
		if volume == "" {
			volume = name
			p.Spec += "- name: " + name + "\n  " + where.Replace(v.volume) + "\n"
		}
		if v.needsHuge {
			resources = "resources: {limits: {hugepages-2Mi: 2Mi}, requests: {memory: 1Mi}}\n"
		}
		mounts += "- {name: " + volume + ", mountPath: /v/" + name
		if v.mount != "" {
			mounts += ", " + v.mount
		}
		mounts += "}\n"
		look += "stat -c '" + name + " %a %u:%g' /v/" + name + "; (echo mine >/v/" + name + "/of-$(id -u)) 2>/dev/null && echo ' writes'\n"
		if v.file != "" {
			at := "/v/" + name + "/" + v.file
			look += "stat -L -c ' file %a %u:%g' " + at + "; cat " + at + " 2>/dev/null | grep -q . && echo ' reads'\n"
		}
		count += "echo " + name + " $(cat /v/" + name + "/of-* 2>/dev/null | wc -l)\n"
	}
	p.Container = "securityContext: {" + more + "}\n" + resources + mounts
	user := strings.TrimPrefix(more+", runAsUser: 1001, runAsGroup: 1001", ", ")
	p.More = "- name: user\n  image: " + busybox + "\n  command: [sleep, '1000']\n" + indent(2, "securityContext: {"+user+"}\n"+mounts)
	s.running(t, p)
	asks := func(container, script string) string {
		return s.must(t, "exec", pod, "-c", container, "--", "sh", "-c", script+"true")
	}
	for container, who := range map[string]string{"app": "root", "user": "user"} {
		if got, want := asks(container, look), rows.seen(group, who); got != want {
			t.Errorf("container %s sees\n%s\nwant\n%s", container, got, want)
		}
	}
	for _, container := range []string{"app", "user"} { // both have written
		if got, want := asks(container, count), rows.count(group); got != want {
			t.Errorf("container %s reads files of so many\n%s\nwant\n%s", container, got, want)
		}
	}
	if got, want := asks("user", "id -G; "), map[bool]string{false: "1001 6000\n", true: "1001 5000 6000\n"}[group]; got != want {
		t.Errorf("groups %q, want %q", got, want)
	}
	s.remove(t, pod)
}

// seen is what a container of that user finds.
func (rows table) seen(group bool, who string) (want string) {
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		v, is, at := rows[name], rows[name].plain, 0
		if group {
			is, at = v.grouped, 1
		}
		want += name + " " + is + "\n"
		if strings.Contains(v.writes[at], who) {
			want += " writes\n"
		}
		if v.file == "" {
			continue
		}
		want += " file " + v.fileIs[at] + "\n"
		if strings.Contains(v.reads[at], who) {
			want += " reads\n"
		}
	}
	return want
}

// count is how many files the two have written that show in each mount.
func (rows table) count(group bool) (want string) {
	at := map[bool]int{true: 1}[group]
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		same := name
		if v := rows[name]; v.of != "" && !strings.Contains(v.mount, "subPath") {
			same = v.of
		} else if name == "claim-ro" {
			same = "claim"
		} else if name == "nfs-ro" {
			same = "nfs-open"
		}
		want += fmt.Sprintln(name, len(strings.Fields(rows[same].writes[at])))
	}
	return want
}
