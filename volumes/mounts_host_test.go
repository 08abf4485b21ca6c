//go:build host

package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// A directory above the volume that was exchanged for a link since its path was resolved leads nowhere.
func TestSubPathBelowAnExchangedDirectory(t *testing.T) {
	v, dir, outside := open(t), t.TempDir(), t.TempDir()
	noMounts(t, v)
	p := pod(hostPath("data", filepath.Join(dir, "above", "volume"), ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	root, _, err := v.source(t.Context(), p, &p.Spec.Volumes[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Join(dir, "above"), filepath.Join(dir, "away")), os.Mkdir(filepath.Join(outside, "volume"), 0o700),
		os.Symlink(outside, filepath.Join(dir, "above"))); err != nil {
		t.Fatal(err)
	}
	if at, err := v.pinSubPath(t.Context(), root, "sub", pin{"uid-1", "id", 0}, false); !errors.Is(err, unix.ELOOP) {
		t.Errorf("pinned at %q, %v", at, err)
	}
	if names(t, filepath.Join(outside, "volume")) != "" {
		t.Error("something was made where the link leads")
	}
}

// mounted is what is mounted for one volumeMount of volume data.
func mounted(t *testing.T, v *Volumes, p *v1.Pod, m v1.VolumeMount, env []v1.EnvVar) (string, error) {
	t.Helper()
	m.Name, m.MountPath = "data", "/v"
	got, err := v.Mounts(t.Context(), p, &v1.Container{VolumeMounts: []v1.VolumeMount{m}}, "id", env)
	if err != nil {
		return "", err
	}
	return got[0].Source, nil
}

// What a subPath leads to is bound: files and directories, what is made for it with the mode and group of the volume, and
// by links that stay in the volume. What leads out of it is an error, and nothing is made there.
func TestSubPath(t *testing.T) {
	v, outside := open(t), t.TempDir()
	noMounts(t, v)
	group := int64(2000)
	p := pod(emptyDir("data", ""))
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(v.path("uid-1"), "data")
	for _, dir := range []string{"dir/inner", "..data"} {
		if err := os.MkdirAll(filepath.Join(data, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "..data", "key"), []byte("value"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"key": "..data/key", "dir/up": "../..data", "absolute": outside, "inside": filepath.Join(data, "dir"), "out": "../../../../../../../../.." + outside,
		"back": "../data/dir", "loop": "loop", "nowhere": "missing/x",
	} {
		if err := os.Symlink(to, filepath.Join(data, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ sub, is, fails string }{
		{sub: "dir", is: "dir"}, {sub: "dir/./inner//", is: "dir/inner"}, {sub: "key", is: "..data/key"}, {sub: "dir/up/key", is: "..data/key"},
		{sub: "made/by/podd", is: "made/by/podd"}, {sub: "dir/inner/made", is: "dir/inner/made"}, {sub: "dir/up/made", is: "..data/made"},
		{sub: "absolute", fails: "leads out of the volume"}, {sub: "absolute/made", fails: "leads out"}, {sub: "inside", fails: "leads out"},
		{sub: "out", fails: "leads out"}, {sub: "out/made", fails: "leads out"}, {sub: "back", fails: "leads out"},
		{sub: "loop", fails: "too many levels"}, {sub: "key/below", fails: "not a directory"},
		{sub: "nowhere", fails: "subPath nowhere: "},
	} {
		at, err := mounted(t, v, p, v1.VolumeMount{SubPath: c.sub}, nil)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("subPath %s: %q, %v; want %q", c.sub, at, err, c.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("subPath %s: %v", c.sub, err)
			continue
		}
		var bound, there unix.Stat_t
		if err := unix.Lstat(at, &bound); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lstat(filepath.Join(data, c.is), &there); err != nil || bound.Ino != there.Ino || bound.Dev != there.Dev {
			t.Errorf("subPath %s is not %s: %v", c.sub, c.is, err)
		}
		if strings.HasPrefix(c.sub, "made") && (bound.Gid != 2000 || bound.Mode != unix.S_IFDIR|unix.S_ISGID|0o777) {
			t.Errorf("subPath %s: group %d, mode %o", c.sub, bound.Gid, bound.Mode)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("outside: %v", entries)
	}
	if _, err := os.Lstat(filepath.Join(data, "missing")); err == nil {
		t.Error("a link that leads nowhere was followed to make something")
	}
	at, err := mounted(t, v, p, v1.VolumeMount{SubPathExpr: "made/$(WHO)"}, []v1.EnvVar{{Name: "WHO", Value: "you"}, {Name: "WHO", Value: "me"}})
	if err != nil || !sameFile(t, at, filepath.Join(data, "made", "me")) {
		t.Errorf("subPathExpr: %q, %v", at, err)
	}
	for range 2 {
		if err := v.Unpin(t.Context(), "uid-1", "id"); err != nil {
			t.Fatal(err)
		}
	}
	if points, _ := mountsBelow(v.path("uid-1")); len(points) != 0 {
		t.Errorf("mounts after Unpin: %v", points)
	}
	if _, err := mounted(t, v, p, v1.VolumeMount{SubPath: "dir"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil { // with the pin
		t.Fatal(err)
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Lstat(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

// A directory of the volume is exchanged with a link to the host, over and over, while subPaths lead through it
// (CVE-2017-1002101, CVE-2021-25741): what is bound is never the host's, and nothing is made there.
func TestSubPathRace(t *testing.T) {
	v, outside := open(t), t.TempDir()
	noMounts(t, v)
	p := pod(emptyDir("data", ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "marker"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(v.path("uid-1"), "data")
	d, link := filepath.Join(data, "d"), filepath.Join(data, "link")
	if err := os.Mkdir(d, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	const rounds, exchanges = 500, 10_000
	swapped := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				swapped <- n
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, d, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
				if n%8 == 0 { // there has to be something to make
					_ = os.Remove(filepath.Join(d, "made"))
					_ = os.Remove(filepath.Join(link, "made"))
				}
			}
		}
	}()
	var host unix.Stat_t
	if err := unix.Stat(outside, &host); err != nil {
		t.Fatal(err)
	}
	bound, refused, began := 0, 0, time.Now()
	for n := 0; n < rounds; n++ {
		sub := []string{"d", "link", "d/made", "link/made"}[n%4]
		at, err := mounted(t, v, p, v1.VolumeMount{SubPath: sub}, nil)
		if err != nil {
			refused++
			continue
		}
		bound++
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Join(at, "marker")); err == nil || st.Ino == host.Ino && st.Dev == host.Dev {
			t.Fatalf("subPath %s is the host's", sub)
		}
	}
	close(stop)
	n := <-swapped
	t.Logf("%d bound, %d refused over %d exchanges in %s", bound, refused, n, time.Since(began))
	if bound == 0 || refused == 0 || n < exchanges {
		t.Errorf("%d bound, %d refused over %d exchanges: there was no race", bound, refused, n)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside: %v", entries)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}

// A volume of which a container wants mounts to show on the other side is made a shared mount of its own, again after a
// reboot; a hostPath has to be on one.
func TestPropagation(t *testing.T) {
	v, outside := open(t), t.TempDir()
	noMounts(t, v)
	both, slave := v1.MountPropagationBidirectional, v1.MountPropagationHostToContainer
	if err := unix.Mount(outside, outside, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(outside, unix.MNT_DETACH)
	p := pod(emptyDir("data", ""), emptyDir("mem", v1.StorageMediumMemory), emptyDir("plain", ""), hostPath("host", outside, ""))
	c := &v1.Container{VolumeMounts: []v1.VolumeMount{
		{Name: "data", MountPath: "/data", MountPropagation: &both}, {Name: "mem", MountPath: "/mem", MountPropagation: &slave}, {Name: "plain", MountPath: "/plain"},
	}}
	p.Spec.Containers = []v1.Container{*c}
	for range 2 {
		if err := v.Ensure(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if points, _ := mountsBelow(v.path("uid-1")); len(points) != 2 {
			t.Errorf("mounts = %v", points)
		}
		if ok, err := v.Look("uid-1", p); !ok || err != nil {
			t.Errorf("Look = %v, %v", ok, err)
		}
		got, err := v.Mounts(t.Context(), p, c, "id", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"rshared", "rslave", "rprivate"} {
			if !slices.Contains(got[i].Options, want) {
				t.Errorf("%s: %v", got[i].Destination, got[i].Options)
			}
		}
		if err := Unmount(t.Context(), v.path("uid-1")); err != nil { // as after a reboot
			t.Fatal(err)
		}
		if ok, err := v.Look("uid-1", p); ok || err != nil {
			t.Errorf("Look without the mounts = %v, %v", ok, err)
		}
	}
	host := func(how v1.MountPropagationMode) error {
		_, err := v.Mounts(t.Context(), p, &v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "host", MountPath: "/h", MountPropagation: &how}}}, "id", nil)
		return err
	}
	change := func(how uintptr) {
		t.Helper()
		if err := unix.Mount("", outside, "", how, ""); err != nil {
			t.Fatal(err)
		}
	}
	change(unix.MS_PRIVATE)
	want := outside + " is on the mount " + outside + ", which is not shared (mount --make-shared " + outside + ")"
	for _, how := range []v1.MountPropagationMode{both, slave} {
		if err := host(how); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s on a private mount: %v", how, err)
		}
	}
	change(unix.MS_SHARED)
	for _, how := range []v1.MountPropagationMode{both, slave} {
		if err := host(how); err != nil {
			t.Errorf("%s on a shared mount: %v", how, err)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
}

// What a container has bound into a volume may be the host's own mounts, as they were shared with it: removal leaves those.
func TestRemoveLeavesMountsOfTheHost(t *testing.T) {
	v, host := open(t), t.TempDir()
	noMounts(t, v)
	inner := filepath.Join(host, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		from, to string
		flags    uintptr
	}{{host, host, unix.MS_BIND}, {"", host, unix.MS_SHARED}, {"tmpfs", inner, 0}} {
		if err := unix.Mount(m.from, m.to, "tmpfs", m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		_ = unix.Unmount(inner, unix.MNT_DETACH)
		_ = unix.Unmount(host, unix.MNT_DETACH)
	}()
	p := pod(emptyDir("data", ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(v.path("uid-1"), "data", "x")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(host, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if points, _ := mountsBelow(host); len(points) != 2 {
		t.Errorf("of the host's mounts %v are left", points)
	}
}
