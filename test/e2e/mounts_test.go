//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func testMounts(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"sub-path":            testSubPath,
		"sub-path-errors":     testSubPathErrors,
		"recursive-read-only": testRecursiveReadOnly,
		"propagation":         testPropagation,
		"not-shared":          testNotShared,
		"eviction":            testEviction,
		"sources":             testSources,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// A subPath shows a directory or a file of the volume, by links that stay in it, made where it is missing as the volume is;
// one with variables has those of the container. It is found again at each start, and nothing of it stays mounted on the host.
func testSubPath(t *testing.T, s *suite) {
	p := pod{Name: "sub-path", Script: "cat /dir/file /file /linked; stat -c '%a %g' /made /made/.. /expr; touch /ro/x 2>&1; touch /made/x; ls /v/a/b /v/of; [ -e /v/again ] || { touch /v/again; rm /v/link; ln -s dir/other /v/link; exit 1; }; " + sleepScript,
		Spec: `
restartPolicy: OnFailure
securityContext: {fsGroup: 5000}
volumes: [{name: v, emptyDir: {}}]
initContainers:
- {name: init, image: ` + busybox + `, command: [sh, -c, "mkdir /v/dir; cd /v/dir; echo file >file; echo other >other; ln -s dir/file /v/link"], volumeMounts: [{name: v, mountPath: /v}]}`,
		Container: `
env: [{name: BASE, value: of}, {name: WHO, value: $(BASE)/me}]
volumeMounts:
- {name: v, mountPath: /v}
- {name: v, mountPath: /dir, subPath: dir}
- {name: v, mountPath: /file, subPath: ./dir//file}
- {name: v, mountPath: /linked, subPath: link}
- {name: v, mountPath: /made, subPath: a/b}
- {name: v, mountPath: /ro, subPath: dir, readOnly: true}
- {name: v, mountPath: /expr, subPathExpr: $(WHO)}`}
	s.apply(t, p)
	pod := s.until(t, p.Name, "app was restarted once", restarts(1))
	common := "2777 5000\n755 0\n2777 5000\ntouch: /ro/x: Read-only file system\n/v/a/b:\nx\n\n/v/of:\nme\n"
	if got, want := s.must(t, "logs", p.Name, "-c", "app", "--previous"), "file\nfile\nfile\n"+common; got != want {
		t.Errorf("first\n%s\nwant\n%s", got, want)
	}
	s.logged(t, "file\nfile\nother\n"+common, p.Name, "-c", "app") // after the restart
	eventually(t, func() error { return s.unmounted(pod, ".pins/") })
	s.remove(t, p.Name)
}

// unmounted is an error while something of the pod is mounted on the host at a path with that in it.
func (s *suite) unmounted(pod *v1.Pod, part string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[4]; strings.Contains(at, string(pod.UID)) && strings.Contains(at, part) {
			return fmt.Errorf("%s is mounted", at)
		}
	}
	return nil
}

// What a subPath may not be is refused, or the reason why its container waits. It starts when that is mended.
func testSubPathErrors(t *testing.T, s *suite) {
	for sub, want := range map[string]string{"/abs": "must be a relative path", "a/../b": "must not contain '..'"} {
		p := pod{Name: "sub-path-refused", Script: "true", Spec: "volumes: [{name: v, emptyDir: {}}]", Container: "volumeMounts: [{name: v, mountPath: /v, subPath: " + sub + "}]"}
		if got := s.refused(t, p.String(), "apply", "-f", "-"); !strings.Contains(got, want) {
			t.Errorf("subPath %s: %s, want %q", sub, got, want)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	p := sleeper("sub-path-errors")
	p.Spec = "volumes: [{name: v, hostPath: {path: " + dir + "}}]"
	want := map[string]string{}
	for name, c := range map[string]struct{ value, says string }{
		"absolute": {"/abs", "subPathExpr $(X): must not be an absolute path"},
		"up":       {"a/../../b", `subPathExpr $(X): must not contain ".."`},
		"missing":  {"", "subPathExpr $(X): missing value for X"},
		"out":      {"out", "subPathExpr $(X): leads out of the volume"},
		"below":    {"out/made", "subPathExpr $(X): leads out of the volume"},
	} {
		want[name] = "volumeMount v: " + c.says
		p.More += "- {name: " + name + ", image: " + busybox + ", command: [sleep, '1000'], env: [{name: X, value: '" + c.value + "'}], volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(X)}]}\n"
	}
	s.apply(t, p)
	s.until(t, p.Name, "every container waits for its reason", func(pod *v1.Pod) bool {
		for name, says := range want {
			w := container(pod, name).State.Waiting
			if w == nil || w.Reason != "CreateContainerConfigError" || w.Message != says {
				return false
			}
		}
		return app(pod).State.Running != nil
	})
	if got := s.event(t, p.Name, "Failed"); !strings.Contains(got, "Error: volumeMount v: subPath") {
		t.Errorf("event: %s", got)
	}
	if err := os.Remove(filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	s.until(t, p.Name, "out runs", func(pod *v1.Pod) bool { return container(pod, "out").State.Running != nil })
	if _, err := os.Stat(filepath.Join(dir, "out")); err != nil {
		t.Error(err)
	}
	s.remove(t, p.Name)
}

// sharedDir is a directory of the host that is a shared mount of its own, with a tmpfs mounted at sub.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, m := range []struct {
		from, to, kind string
		flags          uintptr
	}{{dir, dir, "", unix.MS_BIND}, {"", dir, "", unix.MS_PRIVATE}, {"", dir, "", unix.MS_SHARED}, {"tmpfs", sub, "tmpfs", 0}} {
		if err := unix.Mount(m.from, m.to, m.kind, m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A mount that is read-only leaves what is mounted below it writable, one that is so recursively does not; the status tells.
func testRecursiveReadOnly(t *testing.T, s *suite) {
	dir := sharedDir(t)
	p := pod{Name: "recursive-read-only", Spec: "volumes: [{name: v, hostPath: {path: " + dir + "}}]",
		Script: "for d in /none /disabled /possible /enabled; do touch $d/x 2>/dev/null && echo $d; touch $d/sub/x 2>/dev/null && echo $d/sub; done; " + sleepScript,
		Container: `
volumeMounts:
- {name: v, mountPath: /none, readOnly: true}
- {name: v, mountPath: /disabled, readOnly: true, recursiveReadOnly: Disabled}
- {name: v, mountPath: /possible, readOnly: true, recursiveReadOnly: IfPossible}
- {name: v, mountPath: /enabled, readOnly: true, recursiveReadOnly: Enabled}
- {name: v, mountPath: /rw}`}
	pod := s.running(t, p)
	eventually(t, func() error {
		if got := s.must(t, "logs", p.Name); got != "/none/sub\n/disabled/sub\n" {
			return fmt.Errorf("what can be written to: %q", got)
		}
		return nil
	})
	var got []string
	for _, m := range app(pod).VolumeMounts[:5] { // the token of its account is behind them
		mode := "-"
		if m.RecursiveReadOnly != nil {
			mode = string(*m.RecursiveReadOnly)
		}
		got = append(got, fmt.Sprint(m.MountPath, m.ReadOnly, mode))
	}
	if want := "/nonetrueDisabled /disabledtrueDisabled /possibletrueEnabled /enabledtrueEnabled /rwfalse-"; strings.Join(got, " ") != want {
		t.Errorf("status: %s", got)
	}
	for _, c := range []string{"recursiveReadOnly: Enabled", "readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer"} {
		p := pod.DeepCopy().Name
		q := sleeper(p + "-refused")
		q.Spec, q.Container = "volumes: [{name: v, emptyDir: {}}]", "volumeMounts: [{name: v, mountPath: /v, "+c+"}]"
		if got := s.refused(t, q.String(), "apply", "-f", "-"); !strings.Contains(got, "recursiveReadOnly") {
			t.Errorf("%s: %s", c, got)
		}
	}
	s.remove(t, p.Name)
}

// What is mounted on the host later shows in containers that ask for it, and what a privileged container mounts shows on the
// host and in the others, for a hostPath, a subPath of it, and an emptyDir. When the pod goes, only its own goes.
func testPropagation(t *testing.T, s *suite) {
	dir := sharedDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "deep", "er"), 0o755); err != nil {
		t.Fatal(err)
	}
	const volumes = "volumeMounts: [{name: h, mountPath: /h, mountPropagation: %[1]s}, {name: h, mountPath: /deep, subPath: deep, mountPropagation: %[1]s}, {name: e, mountPath: /e, mountPropagation: %[1]s}]"
	p := sleeper("propagation")
	p.Spec = "volumes: [{name: h, hostPath: {path: " + dir + "}}, {name: e, emptyDir: {}}]"
	p.Container = "securityContext: {privileged: true}\n" + fmt.Sprintf(volumes, "Bidirectional")
	for name, how := range map[string]string{"slave": "HostToContainer", "none": "None"} {
		p.More += "- name: " + name + "\n  image: " + busybox + "\n  command: [sleep, '1000']\n  " + fmt.Sprintf(volumes, how) + "\n"
	}
	pod := s.running(t, p)
	for _, at := range []string{"late", "deep/er"} {
		at = filepath.Join(dir, at)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "host"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.sh(t, p.Name, "mkdir /h/made /e/made; mount -t tmpfs pod /h/made; mount -t tmpfs pod /e/made; touch /h/made/pod /e/made/pod")
	const look = "ls -d /h/late/host /deep/er/host /h/made/pod /e/made/pod 2>/dev/null; true"
	all := "/deep/er/host\n/e/made/pod\n/h/late/host\n/h/made/pod\n"
	for name, want := range map[string]string{"app": all, "slave": all, "none": ""} {
		if got := s.must(t, "exec", p.Name, "-c", name, "--", "sh", "-c", look); got != want {
			t.Errorf("container %s sees %q", name, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "made", "pod")); err != nil {
		t.Errorf("the host does not see what the pod has mounted: %v", err)
	}
	s.remove(t, p.Name)
	if err := s.unmounted(pod, ""); err != nil {
		t.Error(err)
	}
	for _, at := range []string{"late/host", "deep/er/host", "sub"} {
		if _, err := os.Stat(filepath.Join(dir, at)); err != nil {
			t.Errorf("what the host has mounted went with the pod: %v", err)
		}
	}
	_ = unix.Unmount(filepath.Join(dir, "made"), unix.MNT_DETACH)
	q := sleeper("propagation-refused")
	q.Spec, q.Container = "volumes: [{name: e, emptyDir: {}}]", "volumeMounts: [{name: e, mountPath: /e, mountPropagation: Bidirectional}]"
	if got := s.refused(t, q.String(), "apply", "-f", "-"); !strings.Contains(got, "Bidirectional mount propagation is available only to privileged containers") {
		t.Errorf("without privilege: %s", got)
	}
}

// A hostPath that is on a private mount says so, and its pod starts when it is made shared.
func testNotShared(t *testing.T, s *suite) {
	dir := sharedDir(t)
	change := func(how uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", how, ""); err != nil {
			t.Fatal(err)
		}
	}
	change(unix.MS_PRIVATE)
	p := sleeper("not-shared")
	p.Spec = "volumes: [{name: v, hostPath: {path: " + dir + "/deep}}]"
	p.Container = "volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]"
	s.apply(t, p)
	pod := s.until(t, p.Name, "waits", waiting("CreateContainerConfigError"))
	if got, want := app(pod).State.Waiting.Message, "volumeMount v: mountPropagation HostToContainer: "+dir+"/deep is on the mount "+dir+", which is not shared (mount --make-shared "+dir+")"; got != want {
		t.Errorf("message %q\nwant %q", got, want)
	}
	change(unix.MS_SHARED)
	s.until(t, p.Name, "ready", ready)
	s.remove(t, p.Name)
}
