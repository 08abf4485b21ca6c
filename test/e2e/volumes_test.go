//go:build host

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func testVolumes(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"empty-dir":       testEmptyDir,
		"memory":          testMemoryDir,
		"huge-pages":      testHugePages,
		"huge-lacking":    testHugePagesLacking,
		"host-path-kinds": testHostPathKinds,
		"host-path-heals": testHostPathHeals,
		"host-path-stays": testHostPathStays,
		"image":           testImageVolume,
		"image-missing":   testImageVolumeMissing,
		"many":            testManyVolumes,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// An emptyDir is shared by the members, outlives their restarts, may be read-only for one of them, and goes with the pod.
func testEmptyDir(t *testing.T, s *suite) {
	p := pod{Name: "empty-dir", Script: "stat -c %a /v; echo $(($(cat /v/runs 2>/dev/null)+1)) >/v/runs; [ $(cat /v/runs) -ge 2 ] || exit 1; " + sleepScript,
		Spec:      "restartPolicy: OnFailure\nvolumes: [{name: v, emptyDir: {}}, {name: own, emptyDir: {}}]",
		Container: "volumeMounts: [{name: v, mountPath: /v}, {name: own, mountPath: /v/deep/own}]",
		More: "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n" +
			"  volumeMounts: [{name: v, mountPath: /other, readOnly: true}]"}
	s.apply(t, p)
	pod := s.until(t, p.Name, "app was restarted once", restarts(1))
	s.logged(t, "777\n", p.Name, "-c", "app")
	got := s.must(t, "exec", p.Name, "-c", "other", "--", "sh", "-c", "cat /other/runs; touch /other/x 2>&1; true")
	if got != "2\ntouch: /other/x: Read-only file system\n" {
		t.Errorf("the other member: %q", got)
	}
	dirs := []string{filepath.Join(s.Root, "pods", string(pod.UID))}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	s.remove(t, p.Name)
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}

// A volume in memory is one tmpfs for all members, as large as it may be.
func testMemoryDir(t *testing.T, s *suite) {
	p := sleeper("memory")
	p.Spec = "volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]"
	p.Container = "volumeMounts: [{name: m, mountPath: /m}]"
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n  volumeMounts: [{name: m, mountPath: /m}]"
	s.running(t, p)
	got := s.sh(t, p.Name, "df -P /m | awk 'NR==2 {print $1, $2}'; echo shared >/m/x; dd if=/dev/zero of=/m/big bs=100k count=30 2>&1 | grep -o 'No space.*'; true")
	if got != "tmpfs 1024\nNo space left on device" {
		t.Errorf("printed %q", got)
	}
	if got := s.must(t, "exec", p.Name, "-c", "other", "--", "cat", "/m/x"); got != "shared\n" {
		t.Errorf("the other member reads %q", got)
	}
}

// An image is a volume that all members read, that nobody writes to or runs anything of, and that stays through the death
// of podd and the exchange of what its name stands for. It is in use while the pod lives.
func testImageVolume(t *testing.T, s *suite) {
	h := newHub(t, "volumes/data:1")
	ref := h.address + "/volumes/data:1"
	p := pod{Name: "image-volume", Script: "cat /data/name; /data/bin/busybox true 2>&1; touch /data/x 2>&1; " + sleepScript,
		Spec:      "restartPolicy: Always\nvolumes: [{name: data, image: {reference: '" + ref + "', pullPolicy: Always}}]",
		Container: "volumeMounts: [{name: data, mountPath: /data}]",
		More: "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n" +
			"  volumeMounts: [{name: data, mountPath: /other}]"}
	s.running(t, p)
	const says = "\nsh: /data/bin/busybox: Permission denied\ntouch: /data/x: Read-only file system\n"
	eventually(t, func() error {
		if got := s.must(t, "logs", p.Name, "-c", "app"); got != ref+says {
			return fmt.Errorf("it printed %q", got)
		}
		return nil
	})
	if out, errs, code := s.Podctl("image", "rm", ref); code == 0 || !strings.Contains(errs, "in use by pod default/"+p.Name) {
		t.Errorf("podctl image rm: exit %d, %q, %q", code, out, errs)
	}
	if got := s.event(t, p.Name, "Pulling"); got != "Pulling image \""+ref+"\"" {
		t.Errorf("event Pulling: %q", got)
	}
	h.Requests()
	s.Podctl("exec", p.Name, "-c", "app", "--", "kill", "1") // it may end with the container
	pod := s.until(t, p.Name, "app was restarted", restarts(1))
	if asked := h.Requests(); len(asked) > 0 {
		t.Errorf("policy Always asked the registry once more for a restart: %v", asked)
	}
	if got := s.must(t, "exec", p.Name, "-c", "other", "--", "cat", "/other/name"); got != ref+"\n" {
		t.Errorf("the other member reads %q", got)
	}
	s.remove(t, p.Name)
	if got, err := filepath.Glob(filepath.Join(s.Root, "pods", string(pod.UID), "volumes", "*")); len(got) > 0 || err != nil {
		t.Errorf("left: %q, %v", got, err)
	}
	eventually(t, func() error {
		if _, errs, code := s.Podctl("image", "rm", ref); code != 0 {
			return errors.New(errs)
		}
		return nil
	})
}

// What holds the image of a volume back is shown at the container that mounts it; others run.
func testImageVolumeMissing(t *testing.T, s *suite) {
	for policy, want := range map[string]struct{ reason, event, says string }{
		"Never":        {"ErrImageNeverPull", "ErrImageNeverPull", `Container image "localhost:1/data:1" is not present with pull policy of Never`},
		"IfNotPresent": {"ImagePullBackOff", "BackOff", `Back-off pulling image "localhost:1/data:1"`},
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := pod{Name: "image-missing-" + strings.ToLower(policy), Container: "command: [sleep, '1000']\nvolumeMounts: [{name: data, mountPath: /data}]",
				Spec: "volumes: [{name: data, image: {reference: 'localhost:1/data:1', pullPolicy: " + policy + "}}]",
				More: "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n"}
			s.apply(t, p)
			s.until(t, p.Name, "waiting for the image, the other running", func(pod *v1.Pod) bool {
				return waiting(want.reason)(pod) && pod.Status.ContainerStatuses[1].State.Running != nil
			})
			if got := s.event(t, p.Name, want.event); got != want.says {
				t.Errorf("event %s: %q, want %q", want.event, got, want.says)
			}
			s.remove(t, p.Name)
		})
	}
}

// Every type of hostPath, with what is there and with something else.
func testHostPathKinds(t *testing.T, s *suite) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	block, err := filepath.Glob("/sys/block/*")
	if err != nil || len(block) == 0 {
		t.Fatalf("no block device: %v", err)
	}
	device := "/dev/" + filepath.Base(block[0])
	for _, c := range []struct{ kind, path, want string }{
		{"''", dir + "/dir", "directory"},
		{"''", dir + "/file", "regular file"},
		{"''", dir + "/made-without-type", "directory"},
		{"Directory", dir + "/dir", "directory"},
		{"Directory", dir + "/file", "is not a directory"},
		{"Directory", dir + "/missing", "does not exist"},
		{"DirectoryOrCreate", dir + "/made/dir", "directory"},
		{"DirectoryOrCreate", dir + "/file", "is not a directory"},
		{"File", dir + "/file", "regular file"},
		{"File", dir + "/dir", "is not a file"},
		{"FileOrCreate", dir + "/made-file", "regular empty file"},
		{"Socket", dir + "/socket", "socket"},
		{"Socket", dir + "/file", "is not a socket"},
		{"CharDevice", "/dev/null", "character special file"},
		{"CharDevice", dir + "/file", "is not a character device"},
		{"BlockDevice", device, "block special file"},
		{"BlockDevice", "/dev/null", "is not a block device"},
	} {
		name := strings.ToLower("host-path-" + strings.Trim(c.kind, "'") + "-" + filepath.Base(c.path))
		t.Run(name, func(t *testing.T) {
			p := pod{Name: name, Script: "stat -c %F /v", Spec: "volumes: [{name: v, hostPath: {path: " + c.path + ", type: " + c.kind + "}}]",
				Container: "volumeMounts: [{name: v, mountPath: /v, readOnly: true}]"}
			if !strings.Contains(c.want, "not ") {
				if got := s.output(t, p); got != c.want {
					t.Errorf("it is a %q, want %q", got, c.want)
				}
				return
			}
			s.apply(t, p)
			if got := s.event(t, p.Name, "FailedMount"); got != `MountVolume.SetUp failed for volume "v" : hostPath `+c.path+": "+c.want {
				t.Errorf("event FailedMount: %q, want %q", got, c.want)
			}
			pod := s.until(t, p.Name, "there", func(*v1.Pod) bool { return true })
			if !phase(v1.PodPending)(pod) || !waiting("ContainerCreating")(pod) {
				t.Errorf("status %+v, want Pending and ContainerCreating", pod.Status)
			}
			s.remove(t, p.Name)
		})
	}
}

// A pod whose hostPath is missing, or is not of its type, says so once and starts when that is mended.
func testHostPathHeals(t *testing.T, s *suite) {
	dir := t.TempDir()
	pods := map[string]string{ // says what, by the path
		"missing": "does not exist", "file": "is not a directory",
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for name := range pods {
		p := sleeper("host-path-" + name)
		p.Spec = "volumes: [{name: v, hostPath: {path: " + filepath.Join(dir, name) + ", type: Directory}}]"
		p.Container = "volumeMounts: [{name: v, mountPath: /v}]"
		s.apply(t, p)
	}
	for name, says := range pods {
		if got, want := s.onlyEvent(t, "host-path-"+name, "FailedMount"), `MountVolume.SetUp failed for volume "v" : hostPath `+filepath.Join(dir, name)+": "+says; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		s.until(t, "host-path-"+name, "ready", ready)
	}
}

// onlyEvent waits for an event of a pod, which has to be the only one of its reason, and returns its message.
func (s *suite) onlyEvent(t *testing.T, pod, reason string) (message string) {
	t.Helper()
	message = s.event(t, pod, reason)
	if out := s.must(t, "get", "events", "--field-selector", "involvedObject.name="+pod+",reason="+reason, "-o", "name"); strings.Count(out, "\n") != 1 {
		t.Errorf("events %s of pod %s:\n%s", reason, pod, out)
	}
	return message
}

// What is on the host stays there, with its owner, whatever the pod says of groups, and its links lead where they led.
func testHostPathStays(t *testing.T, s *suite) {
	dir := t.TempDir()
	for name, content := range map[string]string{"kept": "host\n", "changed": "host\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := pod{Name: "host-path-stays", Script: "cat /v/kept; echo pod >/v/changed; ln -s /v/kept /v/link; stat -c %g /v/kept; touch /r/x 2>&1; true",
		Spec:      "securityContext: {fsGroup: 5000}\nvolumes: [{name: v, hostPath: {path: " + dir + "}}]",
		Container: "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /r, readOnly: true}]"}
	if got := s.output(t, p); got != "host\n0\ntouch: /r/x: Read-only file system" {
		t.Errorf("printed %q", got)
	}
	for name, want := range map[string]string{"kept": "host\n", "changed": "pod\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}
