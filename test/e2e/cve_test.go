//go:build host

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
	"podd/test/ociimage"
)

// TestCVE repeats what has broken this kind of software before, each part named after one instance of it. What is shown
// elsewhere is listed in docs/security.md.
func TestCVE(t *testing.T) {
	s := start(t, harness.WithArgs("--restart-backoff=1s"))
	v := newBystander(t, s)
	images := hostileImages(t, v)
	probe, err := ociimage.Program(t.Context(), probeSource)
	if err != nil {
		t.Fatal(err)
	}
	images["probe:cve"] = func(i *ociimage.Image) {
		i.Layers = append(i.Layers, []ociimage.File{{Path: "bin/probe", Content: probe}})
	}
	s.build(t, images)
	s.hostileLayers(t, v)
	testHugePasswd(t, s) // alone: it looks at podd's memory

	for name, test := range map[string]func(*testing.T, *suite, bystander){
		"2026-41579-links-in-images":          testLinksInImages,
		"2024-21626-working-dir-of-start":     testWorkingDirOfStart,
		"2024-21626-working-dir-of-exec":      testWorkingDirOfExec,
		"2026-53488-labels-and-annotations":   testLabelsAndAnnotations,
		"2026-31431-socket-families":          testSocketFamilies,
		"2019-5736-runc-is-not-written":       testRuncIsNotWritten,
		"2021-30465-links-in-shared-volumes":  testLinksInSharedVolumes,
		"2020-8557-etc-files-are-bounded":     testEtcFilesAreBounded,
		"2024-25621-permissions":              testPermissions,
		"2020-15257-no-abstract-sockets":      testNoAbstractSockets,
		"2025-47291-every-process-in-cgroup":  testEveryProcessInCgroup,
		"2019-16884-mounts-on-proc":           testMountsOnProc,
		"2021-43784-long-names":               testLongNames,
		"fork-bomb":                           testForkBomb,
		"network-namespace-shows-own-devices": testOwnDevices,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s, v) })
	}
	t.Cleanup(func() { v.unharmed(t) })
}

// bystander is a directory of the host that no container may see or change.
type bystander struct{ dir, print string }

const secret = "the-secret-of-the-host"

var swaps = flag.Int("swaps", 12, "pods that are started while links are exchanged in a volume of theirs")

func newBystander(t *testing.T, s *suite) bystander {
	t.Helper()
	v := bystander{dir: filepath.Join(s.Dir, "bystander")}
	for _, dir := range []string{"", "d", "pts", "shm"} {
		if err := os.MkdirAll(filepath.Join(v.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"marker", "hosts", "resolv.conf", "hostname", "ptmx", "d/marker"} {
		if err := os.WriteFile(filepath.Join(v.dir, file), []byte(secret), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v.print = fingerprint(t, v.dir)
	return v
}

// unharmed fails the test if anything below the bystander's directory has changed.
func (v bystander) unharmed(t *testing.T) {
	t.Helper()
	if now := fingerprint(t, v.dir); now != v.print {
		t.Errorf("the host was changed; it was\n%s\nand is\n%s", v.print, now)
	}
}

// fingerprint is names, modes, owners and contents of all below dir.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		fmt.Fprintf(&b, "%s %v %d:%d %d %q\n", path, info.Mode(), st.Uid, st.Gid, st.Dev, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// up leads from any directory of a container, or of the host, to the root.
const up = "../../../../../../../../../../../.."

// linked are the paths that hostile images have as links to the host, or to where it would be.
var linked = map[string]string{
	"etc": "etc", "etc-hosts": "etc/hosts", "etc-resolv": "etc/resolv.conf", "etc-hostname": "etc/hostname", "etc-mtab": "etc/mtab",
	"dev": "dev", "proc": "proc", "sys": "sys", "bin-of-volume": "v",
}

// hostileImages are busybox with one thing that is wrong.
func hostileImages(t *testing.T, v bystander) map[string]func(*ociimage.Image) {
	t.Helper()
	images := map[string]func(*ociimage.Image){}
	for name, path := range linked {
		target := v.dir
		if strings.Contains(path, "/") && path != "etc/mtab" {
			target = filepath.Join(v.dir, filepath.Base(path))
		}
		for kind, link := range map[string]string{"abs": target, "rel": up + target} {
			images[name+"-"+kind+":cve"] = func(i *ociimage.Image) {
				i.Layers = append(i.Layers, []ociimage.File{{Path: path, Link: link}})
			}
		}
	}
	images["work:cve"] = func(i *ociimage.Image) {
		var links []ociimage.File
		for n := 3; n <= 20; n++ {
			links = append(links, ociimage.File{Path: "w" + strconv.Itoa(n), Link: "/proc/self/fd/" + strconv.Itoa(n)})
		}
		i.Layers = append(i.Layers, append(links, ociimage.File{Path: "w", Link: up + v.dir}))
	}
	images["labels:cve"] = func(i *ociimage.Image) {
		i.Config.Labels = map[string]string{
			"containerd.io/restart.status": "running", "containerd.io/restart.loguri": "binary:///bin/touch?" + v.dir + "/ran",
			"containerd.io/gc.ref.content.x": "sha256:0", "io.containerd.runc.v2.group": "bystander",
		}
		i.Config.Volumes = map[string]struct{}{"/../../.." + v.dir: {}, "/proc": {}, up: {}}
		i.Config.Env = []string{"PATH=/bin", "HOME", "PODD_LISTEN", "=x", ""}
	}
	return images
}

// build makes images of busybox, changed, and loads them.
func (s *suite) build(t *testing.T, images map[string]func(*ociimage.Image)) {
	t.Helper()
	var all []ociimage.Built
	for name, change := range images {
		image, err := ociimage.Busybox(name, "/bin/busybox")
		if err != nil {
			t.Fatal(err)
		}
		change(&image)
		built, err := image.Build()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, built)
	}
	var archive bytes.Buffer
	if err := ociimage.WriteOCI(&archive, all...); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := s.PodctlInput(&archive, "image", "load", "-"); code != 0 {
		t.Fatalf("podctl image load: exit %d\n%s%s", code, out, errs)
	}
	s.Rebase()
}

// hostileLayers loads layers whose files want to be outside: loaded or refused, nothing of the host changes
// (CVE-2021-32760, CVE-2025-47290).
func (s *suite) hostileLayers(t *testing.T, v bystander) {
	t.Helper()
	for name, files := range map[string][]ociimage.File{
		"dots":     {{Path: up + v.dir + "/new", Content: []byte("x")}},
		"over":     {{Path: up + v.dir + "/marker", Content: []byte("x")}},
		"absolute": {{Path: v.dir + "/marker", Content: []byte("x")}},
		"link":     {{Path: "l", Link: v.dir}, {Path: "l/new", Content: []byte("x")}, {Path: "l/marker", Mode: 0o777}},
		"chain":    {{Path: "a", Link: up}, {Path: "b", Link: "a" + v.dir}, {Path: "b/d/", Mode: 0o777}, {Path: "b/new", Content: []byte("x")}},
		"whiteout": {{Path: "l", Link: v.dir}, {Path: "l/.wh.marker"}, {Path: up + v.dir + "/.wh.marker"}, {Path: "l/.wh..wh..opq"}},
	} {
		image := ociimage.Image{Name: name + ":hostile", Layers: [][]ociimage.File{files}}
		built, err := image.Build()
		if err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		if err := ociimage.WriteOCI(&archive, built); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := s.PodctlInput(&archive, "image", "load", "-"); code != 0 {
			t.Logf("layer %s: refused: %s", name, strings.TrimSpace(errs))
		}
		v.unharmed(t)
	}
	s.Rebase()
}

// settled is true of a pod that has ended, or whose app cannot be made or started.
func settled(pod *v1.Pod) bool {
	if phase(v1.PodSucceeded)(pod) || phase(v1.PodFailed)(pod) {
		return true
	}
	w := app(pod).State.Waiting
	return w != nil && strings.HasPrefix(w.Reason, "CreateContainer") && w.Message != ""
}

// attempt applies a pod that may or may not run, and returns what it printed, or why it did not run.
func (s *suite) attempt(t *testing.T, p pod) (out, why string) {
	t.Helper()
	s.apply(t, p)
	pod := s.until(t, p.Name, "settled", settled)
	out, _, _ = s.Podctl("logs", p.Name, "-c", "app")
	if c := app(pod); c.State.Waiting != nil {
		why = c.State.Waiting.Reason + ": " + c.State.Waiting.Message
	} else if c.State.Terminated != nil {
		why = c.State.Terminated.Reason + ": " + c.State.Terminated.Message
	}
	s.remove(t, p.Name)
	return out, why
}

// testHugePasswd: account files of an image are read up to a bound (CVE-2026-47262, CVE-2025-4437).
func testHugePasswd(t *testing.T, s *suite) {
	t.Helper()
	s.build(t, map[string]func(*ociimage.Image){
		"passwd:cve": func(i *ociimage.Image) {
			i.Layers = append(i.Layers, []ociimage.File{{Path: "etc/passwd", Zeros: 2 << 30}})
		},
		"group:cve": func(i *ociimage.Image) {
			i.Layers = append(i.Layers, []ociimage.File{{Path: "etc/group", Zeros: 64 << 20}})
		},
		"fifo:cve": func(i *ociimage.Image) {
			i.Layers = append(i.Layers, []ociimage.File{{Path: "etc/passwd", Link: "/dev/zero"}})
		},
		"outside:cve": func(i *ociimage.Image) {
			i.Layers = append(i.Layers, []ociimage.File{{Path: "etc/passwd", Link: up + "/etc/passwd"}})
		},
	})
	containerd := s.containerd(t)
	before, beside := rss(t, s.Pid()), rss(t, containerd)
	for image, want := range map[string]string{"passwd": "larger than", "group": "larger than"} {
		out, why := s.attempt(t, pod{Name: "huge-" + image, Script: "echo ran", Container: "image: " + image + ":cve"})
		if out != "" || !strings.HasPrefix(why, "CreateContainerError: ") || !strings.Contains(why, want) {
			t.Errorf("image %s: printed %q, %s; want %q", image, out, why, want)
		}
	}
	if grown := rss(t, s.Pid()) - before; grown > 32<<20 {
		t.Errorf("podd's memory grew by %d MiB", grown>>20)
	}
	if grown := rss(t, containerd) - beside; grown > 32<<20 {
		t.Errorf("containerd's memory grew by %d MiB", grown>>20)
	}
	// A link is followed inside the image only, where there is neither the device nor another file.
	for _, image := range []string{"fifo", "outside"} {
		if _, why := s.attempt(t, pod{Name: "accounts-" + image, Script: "grep Uid: /proc/self/status", Container: "image: " + image + ":cve\nsecurityContext: {runAsUser: 5}"}); why == "" {
			t.Errorf("image %s: not settled", image)
		}
	}
}

// rss is the anonymous memory of a process, in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(data)
	if m == nil {
		t.Fatal("no RssAnon")
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n << 10
}

// Images whose /etc, /dev, /proc or files of them are links to the host: whether it runs or not, nothing of the host is
// seen or changed (CVE-2026-41579, CVE-2024-5154, CVE-2023-27561, CVE-2019-19921).
func testLinksInImages(t *testing.T, s *suite, v bystander) {
	for name := range linked {
		for _, kind := range []string{"abs", "rel"} {
			t.Run(name+"-"+kind, func(t *testing.T) {
				t.Parallel()
				p := pod{Name: "link-" + name + "-" + kind, Spec: "volumes: [{name: v, emptyDir: {}}]",
					Container: "image: " + name + "-" + kind + ":cve\nvolumeMounts: [{name: v, mountPath: /v}]",
					Script: "cat " + v.dir + "/marker /etc/marker /dev/marker /v/marker " + up + v.dir + "/marker; " +
						"for f in /etc/hosts /etc/resolv.conf /etc/hostname /dev/null /v/x; do echo container >>$f; done; rm -f /etc/marker /v/marker; echo ran"}
				out, why := s.attempt(t, p)
				if strings.Contains(out, secret) {
					t.Errorf("the container saw the host: %s", out)
				}
				if !strings.Contains(out, "ran") && why == "" {
					t.Errorf("it neither ran nor says why: %q", out)
				}
				t.Logf("%.150s", why)
				v.unharmed(t)
			})
		}
	}
}

// The working directory is inside the container, whatever leads to it (CVE-2024-21626, CVE-2026-55686).
func testWorkingDirOfStart(t *testing.T, s *suite, v bystander) {
	look := "cat ./marker ./" + up + v.dir + "/marker 2>/dev/null; echo ran"
	p := pod{Name: "working-dir", Script: look, Container: "image: work:cve\nworkingDir: /w/made/here"}
	command, _ := json.Marshal(look)
	for n := 3; n <= 20; n++ {
		p.More += fmt.Sprintf("- {name: w%d, image: 'work:cve', workingDir: /w%d, command: [sh, -c, %s]}\n", n, n, command)
	}
	s.apply(t, p)
	pod := s.until(t, p.Name, "settled", func(pod *v1.Pod) bool { return phase(v1.PodFailed)(pod) || phase(v1.PodSucceeded)(pod) })
	for _, c := range pod.Status.ContainerStatuses {
		out, _, _ := s.Podctl("logs", p.Name, "-c", c.Name)
		if strings.Contains(out, secret) {
			t.Errorf("container %s saw the host: %s", c.Name, out)
		}
		if end := c.State.Terminated; out == "" && (end == nil || end.Reason != "StartError" || end.Message == "") {
			t.Errorf("container %s: neither ran nor says why: %+v", c.Name, c.State)
		}
	}
	s.remove(t, p.Name)
	v.unharmed(t)
}

// A container that turns its working directory into a link to a descriptor gains nothing from an exec.
func testWorkingDirOfExec(t *testing.T, s *suite, v bystander) {
	p := sleeper("exec-dir")
	p.Spec = "volumes: [{name: v, emptyDir: {}}]"
	p.Container = "workingDir: /v/w\nvolumeMounts: [{name: v, mountPath: /v}]"
	p.More = "- {name: other, image: '" + busybox + "', command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}"
	s.running(t, p)
	for n := 3; n <= 20; n++ {
		s.must(t, "exec", p.Name, "-c", "other", "--", "sh", "-c", fmt.Sprintf("rm -rf /v/w; ln -s /proc/self/fd/%d /v/w", n))
		out, errs, code := s.Podctl("exec", p.Name, "-c", "app", "--", "sh", "-c", "cat ./"+up+v.dir+"/marker; cat marker; ls -l /proc/self/cwd")
		if strings.Contains(out, secret) || code == 0 && !strings.Contains(out, "cwd") {
			t.Errorf("descriptor %d: exit %d, %s%s", n, code, out, errs)
		}
	}
	s.remove(t, p.Name)
}

// containerdClient is a client of podd's containerd until the test ends.
func (s *suite) containerdClient(t *testing.T) (*client.Client, context.Context) {
	t.Helper()
	cc, err := client.New(s.ContainerdSocket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc, namespaces.WithNamespace(t.Context(), s.Namespace)
}

// records are what containerd has of a pod with one container and its sandbox.
func (s *suite) records(t *testing.T, pod *v1.Pod) []containers.Container {
	t.Helper()
	cc, ctx := s.containerdClient(t)
	all, err := cc.ContainerService().List(ctx, `labels."podd/uid"==`+string(pod.UID))
	if err != nil || len(all) != 2 {
		t.Fatalf("containers: %d, %v", len(all), err)
	}
	return all
}

// No label of an image or a pod, no annotation and no VOLUME reaches containerd or the OCI spec (CVE-2026-53488,
// CVE-2024-3154, CVE-2022-23648), and no malformed ENV is filled in from podd's environment (CVE-2026-57231).
func testLabelsAndAnnotations(t *testing.T, s *suite, v bystander) {
	p := pod{Name: "labels", Script: "env; " + sleepScript, Container: "image: labels:cve",
		Meta: "labels: {containerd.io/restart.status: running, io.containerd.image: x}\n" +
			"annotations:\n  org.systemd.property.ExecStartPre: '[\"touch\", \"" + v.dir + "/ran\"]'\n" +
			"  io.containerd.runc.v2.group: other\n  run.oci.hooks.stderr: " + v.dir + "/ran\n  io.kubernetes.cri-o.Devices: /dev/vda\n  io.podman.annotations.privileged: 'TRUE'\n"}
	pod := s.running(t, p)
	out := s.must(t, "logs", p.Name)
	names := regexp.MustCompile(`(?m)^(\w+)=`).FindAllStringSubmatch(out, -1)
	for _, n := range names {
		if !slices.Contains([]string{"PATH", "HOSTNAME", "SHLVL", "PWD", "HOME"}, n[1]) && !strings.HasPrefix(n[1], "KUBERNETES_") {
			t.Errorf("the environment has %s", n[0])
		}
	}
	if home := os.Getenv("HOME"); home != "" && strings.Contains(out, "HOME="+home+"\n") && home != "/root" {
		t.Errorf("HOME is podd's: %s", out)
	}
	for _, c := range s.records(t, pod) {
		for name := range c.Labels {
			if !slices.Contains([]string{"podd/uid", "podd/name", "podd/pod"}, name) {
				t.Errorf("container %s has the label %s", c.ID, name)
			}
		}
		var spec specs.Spec
		if err := json.Unmarshal(c.Spec.GetValue(), &spec); err != nil {
			t.Fatal(err)
		}
		for name, value := range spec.Annotations {
			if name != "io.containerd.runc.v2.group" || strings.Contains(value, "other") || strings.Contains(value, "bystander") {
				t.Errorf("spec of %s has the annotation %s=%s", c.ID, name, value)
			}
		}
		for _, m := range spec.Mounts {
			if strings.Contains(m.Destination+m.Source, "bystander") {
				t.Errorf("spec of %s has the mount %+v", c.ID, m)
			}
		}
		if spec.Hooks != nil {
			t.Errorf("spec of %s has hooks", c.ID)
		}
	}
	cc, ctx := s.containerdClient(t)
	records, err := cc.ImageService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		for name := range r.Labels {
			if strings.HasPrefix(name, "containerd.io/restart") || strings.HasPrefix(name, "io.containerd.runc") {
				t.Errorf("image %s has the label %s", r.Name, name)
			}
		}
	}
	s.remove(t, p.Name)
	v.unharmed(t)
}

// probeSource is a program that tries one thing and says what came of it.
const probeSource = `package main

import ("fmt"; "os"; "strconv"; "syscall"; "unsafe")

func main() {
	switch os.Args[1] {
	case "socket":
		for _, family := range os.Args[2:] {
			n, _ := strconv.Atoi(family)
			fd, err := syscall.Socket(n, syscall.SOCK_STREAM, 0)
			if n == 38 { fd, err = syscall.Socket(n, syscall.SOCK_SEQPACKET, 0) }
			fmt.Println(n, fd >= 0, err)
		}
	case "swap": // exchanges two names for ever
		a, b := append([]byte(os.Args[2]), 0), append([]byte(os.Args[3]), 0)
		at := ^uintptr(99)
		for { syscall.Syscall6(316, at, uintptr(unsafe.Pointer(&a[0])), at, uintptr(unsafe.Pointer(&b[0])), 2, 0) }
	case "write": // tries to open for writing whatever other processes were started from
		for {
			dir, _ := os.ReadDir("/proc")
			for _, d := range dir {
				pid, err := strconv.Atoi(d.Name())
				if err != nil || pid == os.Getpid() { continue }
				link, _ := os.Readlink("/proc/" + d.Name() + "/exe")
				f, err := os.OpenFile("/proc/" + d.Name() + "/exe", os.O_WRONLY, 0)
				if err == nil { fmt.Println("opened", link); f.Close() }
			}
		}
	}
}
`

// Sockets of families that reach the kernel's crypto or the hypervisor are closed by the default seccomp profile.
func testSocketFamilies(t *testing.T, s *suite, _ bystander) {
	out, why := s.attempt(t, pod{Name: "socket-families", Container: "image: probe:cve\ncommand: [probe, socket, '2', '1', '38', '40']"})
	want := regexp.MustCompile(`^2 true <nil>\n1 true <nil>\n38 false (operation not permitted|address family.*)\n40 false (operation not permitted|address family.*)\n$`)
	if !want.MatchString(out) {
		t.Errorf("printed\n%s(%s)", out, why)
	}
}

// What an exec enters a container with cannot be written from inside, and is not changed on the host.
func testRuncIsNotWritten(t *testing.T, s *suite, _ bystander) {
	binaries := filepath.Join(filepath.Dir(harness.Built(t)), "libexec", "podd")
	if _, err := os.Stat(binaries); err != nil {
		t.Fatal(err)
	}
	before := sums(t, binaries)
	p := pod{Name: "runc-exe", Container: "image: probe:cve\ncommand: [probe, write]"}
	s.running(t, p)
	for range 5 {
		for _, command := range []string{"/proc/self/exe", "true"} {
			_, _, _ = s.Podctl("exec", p.Name, "--", command) // what it answers does not matter
		}
	}
	for line := range strings.Lines(s.must(t, "logs", p.Name)) {
		if strings.Contains(line, "runc") {
			t.Errorf("opened for writing: %s", line)
		}
	}
	s.remove(t, p.Name)
	if after := sums(t, binaries); after != before {
		t.Errorf("a binary of the bundle has changed:\n%s\n%s", before, after)
	}
}

func sums(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"runc", "containerd-shim-runc-v2"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		b.WriteString(name + " " + hex.EncodeToString(sum[:]) + "\n")
	}
	return b.String()
}

// A container that exchanges a directory of a shared volume with a link, over and over, does not lead a mount of another
// pod out of it (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133).
func testLinksInSharedVolumes(t *testing.T, s *suite, v bystander) {
	dir := filepath.Join(s.Dir, "shared")
	if err := os.MkdirAll(filepath.Join(dir, "d"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(v.dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	swapper := pod{Name: "swapper", Spec: "volumes: [{name: v, hostPath: {path: " + dir + "}}]",
		Container: "image: probe:cve\ncommand: [probe, swap, /v/d, /v/link]\nresources: {limits: {cpu: 300m}}\nvolumeMounts: [{name: v, mountPath: /v}]"}
	s.running(t, swapper)
	changes := watched(t, v.dir, filepath.Join(v.dir, "d"))
	var wg sync.WaitGroup
	few := make(chan struct{}, 12)
	for i := range *swaps {
		few <- struct{}{}
		wg.Go(func() {
			defer func() { <-few }()
			p := pod{Name: fmt.Sprintf("swapped-%d", i), Script: "find /v /etc -name marker | head; cat /v/d/marker /v/d/d/marker /v/link/marker; echo ran",
				Spec:      "volumes: [{name: v, hostPath: {path: " + dir + "}}, {name: own, emptyDir: {}}]",
				Container: "volumeMounts: [{name: v, mountPath: /v}, {name: own, mountPath: /v/d/made}, {name: own, mountPath: /v/link/d}]"}
			if out, _ := s.attempt(t, p); strings.Contains(out, secret) {
				t.Errorf("%s saw the host: %s", p.Name, out)
			}
		})
	}
	wg.Wait()
	s.remove(t, swapper.Name)
	v.unharmed(t)
	changes()
}

// watched has the kernel note every change of directories and of what is in them, also one that is undone. The function that it
// returns says which there were.
func watched(t *testing.T, dirs ...string) (changes func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	for _, dir := range dirs {
		_, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT)
		must(t, err)
	}
	return func() {
		t.Helper()
		b := make([]byte, 64<<10)
		if n, err := unix.Read(fd, b); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("the host was changed, and it may have been undone: %q, %v", b[:max(n, 0)], err)
		}
	}
}

// What a pod writes to the files that podd gives it is bounded, and does not count on the host's disk.
func testEtcFilesAreBounded(t *testing.T, s *suite, _ bystander) {
	p := sleeper("etc-files")
	s.running(t, p)
	for _, c := range []struct {
		file string
		mib  int
	}{{"/etc/hosts", 4}, {"/etc/resolv.conf", 4}, {"/etc/hostname", 4}, {"/dev/shm/x", 64}, {"/dev/x", 64}} {
		out, errs, code := s.Podctl("exec", p.Name, "--", "sh", "-c", "dd if=/dev/zero bs=64k count=4000 of="+c.file+"; stat -c %s "+c.file)
		size, err := strconv.Atoi(strings.TrimSpace(out))
		if code != 0 || err != nil || size > c.mib<<20 || !strings.Contains(errs, "No space left") {
			t.Errorf("%s: grew to %q: exit %d, %s", c.file, out, code, errs)
		}
	}
	// It harms itself only, and others not at all.
	if got := s.output(t, pod{Name: "etc-files-of-others", Script: "grep -c etc-files-of-others /etc/hosts"}); got != "1" {
		t.Errorf("the hosts file of another pod: %q", got)
	}
	s.remove(t, p.Name)
}

// Nobody but root gets at anything below podd's directories, the API's socket aside, whose group may use it.
func testPermissions(t *testing.T, s *suite, _ bystander) {
	p := sleeper("permissions")
	p.Spec = "volumes: [{name: v, emptyDir: {}}]"
	p.Container = "volumeMounts: [{name: v, mountPath: /v}]"
	s.running(t, p)
	for _, dir := range []string{s.Root, s.State} {
		reachable(t, dir, func(path string, info fs.FileInfo) {
			if info.Mode().Perm()&0o006 != 0 {
				t.Errorf("%s is open to everybody: %v", path, info.Mode())
			}
			if info.Mode()&fs.ModeSocket != 0 && info.Mode().Perm()&0o077 != 0 && path != s.Socket {
				t.Errorf("socket %s: %v", path, info.Mode())
			}
		})
	}
	modesBelow(t, s.Root, 0o700, inRoot)
	modesBelow(t, s.State, 0o711, inState)
	reachable(t, s.LogDir, func(path string, info fs.FileInfo) {
		if !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o007 != 0 || info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s is open to everybody: %v", path, info.Mode())
		}
	})
	if st, err := os.Stat(s.Socket); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("the API's socket: %v, %v", st.Mode(), err)
	}
	if err := connectAs(65534, s.Socket); !errors.Is(err, syscall.EACCES) {
		t.Errorf("nobody connects to the API: %v", err)
	}
	if err := connectAs(0, s.Socket); err != nil {
		t.Errorf("root connects to the API: %v", err)
	}
	s.remove(t, p.Name)
}

// What is below podd's directories and may be open to others, each behind a directory that is not.
var (
	inRoot = regexp.MustCompile(`^(containerd/.+` + // containerd's own, the files of images among them
		`|cni/ipam(/.*)?` + // the addresses, as the plugin keeps them
		`|pause(/.*)?` + // the root directory of sandboxes
		`|pods/[^/]+/volumes/.+|claims/.+)$`) // what containers write
	inState = regexp.MustCompile(`^(podd\.sock` + // for the group of the API
		`|(containerd|runc)/.+` + // their own
		`|netns/.+|pods/[^/]+/ns/.+` + // namespaces, whose modes are the kernel's
		`|pods/[^/]+/(etc|shm|messages)(/.*)?)$`) // what containers read or write
)

// modesBelow holds all that is below a directory, as root sees it, to 0700 for directories and 0600 for files, but for
// exceptions.
func modesBelow(t *testing.T, dir string, top fs.FileMode, except *regexp.Regexp) {
	t.Helper()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != top {
		t.Errorf("%s: %v, %v, want %v", dir, info.Mode(), err, top)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || path == dir {
			return nil // other tests make and take away
		}
		if err != nil {
			return err
		}
		if name, _ := filepath.Rel(dir, path); except.MatchString(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		seen++
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		return err
	})
	if err != nil || seen < 5 {
		t.Errorf("%s: looked at %d: %v", dir, seen, err)
	}
}

// connectAs connects to a socket with the rights that a user without groups has to files.
func connectAs(id int, socket string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := errors.Join(unix.Setfsgid(id), unix.Setfsuid(id)); err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		}()
	}()
	return <-done
}

// reachable visits what everybody can reach below dir. What goes away meanwhile is left out.
func reachable(t *testing.T, dir string, visit func(string, fs.FileInfo)) {
	t.Helper()
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	visit(dir, info)
	if !info.IsDir() || info.Mode().Perm()&0o001 == 0 {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, e := range entries {
		reachable(t, filepath.Join(dir, e.Name()), visit)
	}
}

// Sockets without a file could be reached from any pod on the host's network.
func testNoAbstractSockets(t *testing.T, s *suite, _ bystander) {
	p := sleeper("abstract")
	s.running(t, p)
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	abstract := map[string]string{} // by inode
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
			abstract["socket:["+f[6]+"]"] = f[7]
		}
	}
	looked := 0
	for pid, command := range processes(t) {
		if pid != s.Pid() && !strings.Contains(command, s.State) {
			continue
		}
		looked++
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			link, _ := os.Readlink(fd)
			if name, ok := abstract[link]; ok {
				t.Errorf("%s has the abstract socket %s", command, name)
			}
		}
	}
	if looked < 4 { // podd, containerd, podd-logd, a shim
		t.Errorf("looked at %d processes only", looked)
	}
	s.remove(t, p.Name)
}

// processes are the command lines of all processes, by pid.
func processes(t *testing.T) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			out[pid] = strings.ReplaceAll(string(command), "\x00", " ")
		}
	}
	return out
}

// Every process of a pod, what is executed in it and what left its session too, is in the pod's cgroup of every
// controller.
func testEveryProcessInCgroup(t *testing.T, s *suite, _ bystander) {
	p := pod{Name: "cgroups", Script: "setsid sleep 12345 & " + sleepScript, Spec: "shareProcessNamespace: true"}
	pod := s.running(t, p)
	all := map[string]string{"exec": s.sh(t, p.Name, "cat /proc/self/cgroup"), "pause": s.sh(t, p.Name, "cat /proc/1/cgroup"),
		"members": s.sh(t, p.Name, "for p in /proc/[0-9]*; do cat $p/cgroup; done 2>/dev/null; true")}
	for from, text := range all {
		seen := 0
		for line := range strings.Lines(text) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) != 3 || f[0] == "0" && strings.Count(text, "\n") > 1 { // the empty v2 tree of a hybrid host
				continue
			}
			if !controlled(f[1]) {
				continue
			}
			if seen++; !strings.HasPrefix(f[2], s.CgroupParent+"/") || !strings.Contains(f[2], string(pod.UID)) {
				t.Errorf("%s: %s", from, line)
			}
		}
		if seen == 0 {
			t.Errorf("%s: no controller in %q", from, text)
		}
	}
	s.remove(t, p.Name)
}

// controlled tells whether a hierarchy is one that podd puts pods into.
func controlled(controllers string) bool {
	return controllers == "" || slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool {
		return slices.Contains([]string{"cpu", "memory", "pids", "devices", "freezer", "cpuset"}, c)
	})
}

// Volumes do not cover /proc, which would take its read-only and masked parts away (CVE-2019-16884, CVE-2019-19921).
func testMountsOnProc(t *testing.T, s *suite, _ bystander) {
	for i, path := range []string{"/proc", "/proc/sys", "/x/../proc/self", "//proc", "/"} {
		p := pod{Name: fmt.Sprintf("mount-on-proc-%d", i), Script: "echo ran", Spec: "volumes: [{name: v, emptyDir: {}}]",
			Container: "volumeMounts: [{name: v, mountPath: " + path + "}]"}
		if _, errs, code := s.PodctlInput(strings.NewReader(p.String()), "apply", "-f", "-"); code == 0 || !strings.Contains(errs, "spec.containers[0].volumeMounts[0].mountPath") {
			t.Errorf("mountPath %s: exit %d, %s", path, code, errs)
			s.remove(t, p.Name)
		}
	}
}

// Paths and arguments of absurd length give an error for that container.
func testLongNames(t *testing.T, s *suite, _ bystander) {
	long := strings.Repeat("/"+strings.Repeat("x", 200), 330)
	for name, p := range map[string]pod{
		"mount":   {Script: "echo ran", Spec: "volumes: [{name: v, emptyDir: {}}]", Container: "volumeMounts: [{name: v, mountPath: " + long + "}]"},
		"dir":     {Script: "echo ran", Container: "workingDir: " + long},
		"command": {Container: "command: [" + strings.Repeat("x", 200_000) + "]"},
		"host":    {Script: "echo ran", Spec: "volumes: [{name: v, hostPath: {path: " + long + "}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]"},
	} {
		p.Name = "long-" + name
		out, errs, code := s.PodctlInput(strings.NewReader(p.String()), "apply", "-f", "-")
		if code != 0 {
			t.Logf("%s: refused: %.200s%.200s", name, out, errs)
			continue
		}
		pod := s.until(t, p.Name, "an error", func(pod *v1.Pod) bool {
			return settled(pod) || s.told(pod, "FailedMount")
		})
		if phase(v1.PodSucceeded)(pod) {
			t.Errorf("%s: it ran", name)
		}
		s.remove(t, p.Name)
	}
}

// told is true when an event with that reason is about the pod.
func (s *suite) told(pod *v1.Pod, reason string) bool {
	out, _, _ := s.Podctl("events", "--for", "pod/"+pod.Name)
	return strings.Contains(out, reason)
}

// Processes that multiply without end, within the pod's limits, are gone soon when the pod is deleted.
func testForkBomb(t *testing.T, s *suite, _ bystander) {
	p := pod{Name: "fork-bomb", Spec: "restartPolicy: Always", Container: "resources: {limits: {cpu: 200m, memory: 48Mi}}",
		Script: "b() { b & b & }; i=0; while [ $i -lt 100 ]; do (while :; do setsid true & wait; done) & i=$((i+1)); done; b; wait"}
	s.apply(t, p)
	s.until(t, p.Name, "begun", func(pod *v1.Pod) bool {
		c := app(pod)
		return c.State.Running != nil || c.LastTerminationState.Terminated != nil
	})
	if got := s.output(t, pod{Name: "beside-the-bomb", Script: "echo fine"}); got != "fine" {
		t.Errorf("another pod: %q", got)
	}
	begun := time.Now()
	s.remove(t, p.Name)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the deletion took %s", took)
	}
}

// A pod sees its own network devices, and what listens on the host's loopback is not there.
func testOwnDevices(t *testing.T, s *suite, _ bystander) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	p := pod{Name: "own-devices", Script: fmt.Sprintf("ls /sys/class/net; nc -w 2 127.0.0.1 %d </dev/null 2>/dev/null && echo reached; true", port)}
	if got := strings.Join(strings.Fields(s.output(t, p)), " "); got != "eth0 lo" {
		t.Errorf("printed %q", got)
	}
}
