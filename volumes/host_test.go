//go:build host

package volumes

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/test/hugepages"
)

// noMounts fails the test if a mount below the directory is left.
func noMounts(t *testing.T, v *Volumes) {
	t.Cleanup(func() {
		left, err := mountsBelow(v.dir)
		if err != nil || len(left) != 0 {
			t.Errorf("mounts left: %v, %v", left, err)
		}
	})
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid
}

func TestEmptyDirInMemory(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	size := resource.MustParse("1Mi")
	vol := emptyDir("mem", v1.StorageMediumMemory)
	vol.EmptyDir.SizeLimit = &size
	p, group := pod(vol), int64(2000)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	path := filepath.Join(v.path("uid-1"), "mem")
	for range 2 {
		if err := v.Ensure(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if points, _ := mountsBelow(path); len(points) != 1 {
		t.Errorf("mounts = %v, want one", points)
	}
	if m := mode(t, path); m != os.ModeDir|os.ModeSetgid|0o777 {
		t.Errorf("mode = %v", m)
	}
	if _, gid := owner(t, path); gid != 2000 {
		t.Errorf("group = %d", gid)
	}
	if err := os.WriteFile(filepath.Join(path, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MiB went into 1 MiB")
	}
	mountedAnew(t, v, p, path)
}

// mountedAnew has a volume's mount gone as after a reboot, when the directory is still there, and the pod's volumes made again,
// and removed.
func mountedAnew(t *testing.T, v *Volumes, p *v1.Pod, path string) {
	t.Helper()
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatal(err)
	}
	if ok, err := v.Look("uid-1", p); ok || err != nil {
		t.Errorf("Look without the mount = %v, %v", ok, err)
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if ok, err := v.Look("uid-1", p); !ok || err != nil {
		t.Errorf("Look = %v, %v", ok, err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}

func TestGroupOfEmptyDirNotOfHostPath(t *testing.T) {
	v, dir := open(t), t.TempDir()
	_, before := owner(t, dir)
	p, group := pod(emptyDir("data", ""), hostPath("host", dir, "Directory")), int64(2000)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.path("uid-1"), "data")
	if m := mode(t, path); m != os.ModeDir|os.ModeSetgid|0o777 {
		t.Errorf("mode = %v", m)
	}
	if _, gid := owner(t, path); gid != 2000 {
		t.Errorf("group = %d", gid)
	}
	if _, after := owner(t, dir); after != before {
		t.Errorf("group of the hostPath went from %d to %d", before, after)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}

// Mounts below a pod's volumes, stacked and covered, and one in use: all go, and what they showed stays.
func TestRemoveWithMounts(t *testing.T) {
	v, outside := open(t), t.TempDir()
	noMounts(t, v)
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pod(emptyDir("mem", v1.StorageMediumMemory), emptyDir("data", ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(v.path("uid-1"), "data")
	inner := filepath.Join(data, "with blank", "x")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	bind := func(from, to string) {
		t.Helper()
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	bind(outside, inner)
	bind(outside, inner)
	bind(outside, filepath.Dir(inner)) // covers both
	if err := os.WriteFile(filepath.Join(data, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bind(precious, filepath.Join(data, "file"))
	inUse, err := os.Open(filepath.Join(v.path("uid-1"), "mem"))
	if err != nil {
		t.Fatal(err)
	}
	defer inUse.Close()
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "host" {
		t.Errorf("host file = %q, %v", b, err)
	}
	if known, _ := v.Known(); len(known) != 0 {
		t.Errorf("Known = %v", known)
	}
}

// RemoveAll by itself leaves a mount alone, whatever is on it, and says so. That the mount shows the same file system
// makes no difference.
func TestRemoveAllStopsAtMounts(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, on := range []string{"top", "top/deep/er"} {
		point := filepath.Join(dir, on)
		if err := os.MkdirAll(point, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(outside, point, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		err := RemoveAll(t.Context(), dir, "top")
		if err == nil || !strings.Contains(err.Error(), "is a mount") {
			t.Errorf("RemoveAll over a mount on %s: %v", on, err)
		}
		if err := unix.Unmount(point, 0); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(precious); err != nil || string(b) != "host" {
			t.Errorf("host file = %q, %v", b, err)
		}
	}
	if err := RemoveAll(t.Context(), dir, "top"); err != nil {
		t.Error(err)
	}
}

// A directory is exchanged for a link and back while RemoveAll is at work.
func TestRemoveAllRace(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	target := filepath.Join(dir, "tree", "d")
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, target, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 200 {
		if err := os.MkdirAll(filepath.Join(dir, "tree", "d", "precious"), 0o700); err != nil && !os.IsExist(err) {
			continue // the place is the link's at the moment
		}
		if err := RemoveAll(t.Context(), dir, "tree"); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-done
	if b, err := os.ReadFile(precious); err != nil || string(b) != "host" {
		t.Errorf("host file = %q, %v", b, err)
	}
}

// podd dies at every point there is; the next one makes the volumes, or takes them away.
func TestKillPoints(t *testing.T) {
	const victim = "PODD_VOLUMES_TEST_VICTIM"
	fill := func(v *Volumes, p *v1.Pod, text string) error {
		files := map[string]File{"a": {Data: []byte(text), Mode: 0o644}, "b/c": {Data: []byte(text), Mode: 0o644}}
		return v.Write(t.Context(), p, &p.Spec.Volumes[4], files, Written{Stamp: text})
	}
	fixture := func(dir, point string) (*Volumes, *v1.Pod) {
		v, _, err := remoteIn(dir)
		if err != nil {
			t.Fatal(err)
		}
		group := int64(2000)
		p := pod(emptyDir("data", ""), emptyDir("mem", v1.StorageMediumMemory),
			hostPath("dir", filepath.Join(dir, "host", "dir"), "DirectoryOrCreate"),
			hostPath("file", filepath.Join(dir, "host", "file"), "FileOrCreate"), v1.Volume{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}, nfs("share", "host", false))
		if strings.HasPrefix(point, "volumes.iscsi.") {
			p.Spec.Volumes = append(p.Spec.Volumes, initiatorDisk("disk"))
		}
		p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
		p.Spec.Containers = []v1.Container{{VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/v", SubPath: "made/sub"}}}}
		return v, p
	}
	image := func(dir string, v *Volumes) error {
		files := filepath.Join(dir, "image")
		return errors.Join(os.MkdirAll(files, 0o755),
			v.MountImage("uid-1", "image", []mount.Mount{{Type: "bind", Source: files, Options: []string{"rbind", "ro"}}}))
	}
	pinAndUnpin := func(v *Volumes, p *v1.Pod) error {
		if _, err := v.Mounts(t.Context(), p, &p.Spec.Containers[0], "id", nil); err != nil {
			return err
		}
		return v.Unpin(t.Context(), "uid-1", "id")
	}
	if dir := os.Getenv(victim); dir != "" {
		v, p := fixture(dir, os.Getenv("PODD_KILL_AT"))
		t.Fatalf("the kill point was not passed: %v, %v, %v, %v, %v", v.Ensure(t.Context(), p), fill(v, p, "old"), image(dir, v),
			pinAndUnpin(v, p), v.Remove(t.Context(), "uid-1"))
	}
	points := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(b), `killpoint.At("`)[1:] {
			if name, _, _ := strings.Cut(part, `"`); strings.HasPrefix(name, "volumes.") {
				points[name] = true
			}
		}
	}
	if len(points) < 10 {
		t.Errorf("only %d kill points found", len(points))
	}
	for point := range points {
		for _, again := range []bool{true, false} {
			dir := t.TempDir()
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestKillPoints$")
			cmd.Env = append(os.Environ(), victim+"="+dir, "PODD_KILL_AT="+point)
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%s: was not killed: %v\n%s", point, err, out)
			}
			v, p := fixture(dir, point)
			if again {
				if err := errors.Join(v.Ensure(t.Context(), p), fill(v, p, "new"), image(dir, v)); err != nil {
					t.Errorf("%s: %v", point, err)
				}
				if got := tree(t, filepath.Join(v.path("uid-1"), contents, "config")); got != "a=new b/c=new" {
					t.Errorf("%s: the volume has %q", point, got)
				}
				if ok, err := v.Look("uid-1", p); err != nil || !ok {
					t.Errorf("%s: Look = %v, %v", point, ok, err)
				}
				if err := pinAndUnpin(v, p); err != nil {
					t.Errorf("%s: %v", point, err)
				}
				for _, name := range []string{"data", "mem"} {
					path := filepath.Join(v.path("uid-1"), name)
					if _, gid := owner(t, path); gid != 2000 || mode(t, path) != os.ModeDir|os.ModeSetgid|0o777 {
						t.Errorf("%s: %s has group %d, mode %v", point, name, gid, mode(t, path))
					}
				}
			}
			if err := v.Remove(t.Context(), "uid-1"); err != nil {
				t.Errorf("%s: %v", point, err)
			}
			noSessions(t, dir)
			left, err := mountsBelow(dir)
			known, err2 := v.Known()
			if len(left)+len(known) != 0 || err != nil || err2 != nil {
				t.Errorf("%s: left %v, %v: %v, %v", point, left, known, err, err2)
			}
		}
	}
}

// podd dies when another version of a volume is visible, but not noted yet. Then the sources are again what was noted.
func TestContentGoesBack(t *testing.T) {
	const victim = "PODD_VOLUMES_TEST_BACK"
	p := pod(configMap("config"))
	write := func(v *Volumes, text string) error {
		return v.Write(t.Context(), p, &p.Spec.Volumes[0], texts("a="+text), Written{Stamp: text})
	}
	dir := os.Getenv(victim)
	died := dir != ""
	if !died {
		dir = t.TempDir()
	}
	v, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if died {
		t.Fatal(write(v, "first"), write(v, "second"))
	}
	noMounts(t, v)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestContentGoesBack$")
	cmd.Env = append(os.Environ(), victim+"="+dir, "PODD_KILL_AT=volumes.content.visible:2")
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("was not killed: %v\n%s", err, out)
	}
	if err := write(v, "first"); err != nil {
		t.Error(err)
	}
	if got := tree(t, filepath.Join(v.path("uid-1"), contents, "config")); got != "a=first" {
		t.Errorf("the volume has %q", got)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

// podd dies between the two calls that a read-only bind mount takes: the image can be written to, and is mounted again.
func TestImageIsReadOnlyAfterDeath(t *testing.T) {
	v, image := open(t), t.TempDir()
	noMounts(t, v)
	at := filepath.Join(v.path("uid-1"), images, "image")
	if err := errors.Join(os.MkdirAll(at, 0o700), unix.Mount(image, at, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
		t.Fatal(err)
	}
	if v.ImageMounted("uid-1", "image") {
		t.Error("an image that can be written to counts as mounted")
	}
	for range 2 {
		if err := v.MountImage("uid-1", "image", []mount.Mount{{Type: "bind", Source: image, Options: []string{"rbind", "ro"}}}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) || !v.ImageMounted("uid-1", "image") {
			t.Errorf("write to the image: %v", err)
		}
		if points, _ := mountsBelow(at); len(points) != 1 {
			t.Errorf("mounted at %v", points)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

// TestEmptyDirOfHugePages: a hugetlbfs with the owner and mode of an emptyDir, as large as the pod may have, made once,
// made again after a reboot, and taken away with what is in it.
func TestEmptyDirOfHugePages(t *testing.T) {
	if err := hugepages.More(t, 4); err != nil {
		t.Skip(err)
	}
	v := open(t)
	noMounts(t, v)
	p, group := pod(emptyDir("huge", "HugePages"), emptyDir("named", "HugePages-2Mi")), int64(2000)
	half := resource.MustParse("2Mi")
	p.Spec.Volumes[1].EmptyDir.SizeLimit = &half
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	p.Spec.Containers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}}}}
	for range 2 {
		if err := v.Ensure(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]uint64{"huge": 4 << 20, "named": 2 << 20} {
		path := filepath.Join(v.path("uid-1"), name)
		if points, _ := mountsBelow(path); len(points) != 1 {
			t.Errorf("mounts = %v, want one", points)
		}
		if m := mode(t, path); m != os.ModeDir|os.ModeSetgid|0o777 {
			t.Errorf("mode = %v", m)
		}
		if _, gid := owner(t, path); gid != 2000 {
			t.Errorf("group = %d", gid)
		}
		var fsys unix.Statfs_t
		if err := unix.Statfs(path, &fsys); err != nil || fsys.Type != unix.HUGETLBFS_MAGIC || fsys.Bsize != 2<<20 || fsys.Blocks*uint64(fsys.Bsize) != size {
			t.Errorf("%s: %+v, %v", name, fsys, err)
		}
		f, err := os.Create(filepath.Join(path, "pages"))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
			t.Errorf("%s: %d bytes: %v", name, size, err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, int64(size), 2<<20); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: one page more than %d bytes: %v", name, size, err)
		}
		f.Close()
	}
	mountedAnew(t, v, p, filepath.Join(v.path("uid-1"), "huge"))
}

// Pages of a size that this kernel has not are one clear reason.
func TestNoSuchHugePages(t *testing.T) {
	v := open(t)
	noMounts(t, v)
	p := pod(emptyDir("huge", "HugePages-3Mi"))
	p.Spec.Containers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"hugepages-3Mi": resource.MustParse("3Mi")}}}}
	err := v.Ensure(t.Context(), p)
	if err == nil || err.Error() != "volume huge: mount hugetlbfs: this kernel has no huge pages of 3Mi" {
		t.Errorf("error %v", err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}
