package volumes

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func open(t *testing.T) *Volumes {
	t.Helper()
	v, err := Open(Options{Dir: filepath.Join(t.TempDir(), "pods")})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func pod(vols ...v1.Volume) *v1.Pod {
	p := &v1.Pod{}
	p.UID = types.UID("uid-1")
	p.Spec.Volumes = vols
	return p
}

func emptyDir(name string, medium v1.StorageMedium) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: medium}}}
}

func hostPath(name, path string, kind v1.HostPathType) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestEmptyDirOnDisk(t *testing.T) {
	v, p := open(t), pod(emptyDir("data", ""))
	if ok, err := v.Look("uid-1", p); ok || err != nil {
		t.Errorf("Look before Ensure = %v, %v", ok, err)
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.dir, "uid-1", "volumes", "data")
	if m := mode(t, path); m != os.ModeDir|0o777 {
		t.Errorf("mode of the volume = %v", m)
	}
	for dir := filepath.Dir(path); dir != filepath.Dir(v.dir); dir = filepath.Dir(dir) {
		if m := mode(t, dir); m != os.ModeDir|0o700 {
			t.Errorf("mode of %s = %v", dir, m)
		}
	}
	// What the pod did to its volume stays.
	if err := os.WriteFile(filepath.Join(path, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, path); m != os.ModeDir|0o750 {
		t.Errorf("mode after a second Ensure = %v", m)
	}
	mode(t, filepath.Join(path, "kept"))
	if ok, err := v.Look("uid-1", p); !ok || err != nil {
		t.Errorf("Look = %v, %v", ok, err)
	}
	if known, err := v.Known(); err != nil || !slices.Equal(known, []string{"uid-1"}) {
		t.Errorf("Known = %v, %v", known, err)
	}
	for range 2 {
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Fatal(err)
		}
	}
	if known, err := v.Known(); err != nil || len(known) != 0 {
		t.Errorf("Known after Remove = %v, %v", known, err)
	}
}

// A crash while an emptyDir was being made leaves it under its other name.
func TestEmptyDirHalfMade(t *testing.T) {
	v, p := open(t), pod(emptyDir("data", ""))
	half := filepath.Join(v.dir, "uid-1", "volumes", "data.new")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if ok, _ := v.Look("uid-1", p); ok {
		t.Error("Look is ready")
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(half); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", half, err)
	}
	if m := mode(t, filepath.Join(filepath.Dir(half), "data")); m != os.ModeDir|0o777 {
		t.Errorf("mode = %v", m)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "socket")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	missing := func(name string) string { return filepath.Join(dir, "missing", name) }
	for _, c := range []struct {
		kind v1.HostPathType
		path string
		want string // part of the error; empty is none
	}{
		{"", dir, ""}, {"", file, ""}, {"", missing("a"), ""},
		{"DirectoryOrCreate", dir, ""}, {"DirectoryOrCreate", missing("b/c"), ""},
		{"DirectoryOrCreate", file, "hostPath " + file + ": is not a directory"},
		{"Directory", dir, ""}, {"Directory", missing("d"), ": does not exist"}, {"Directory", file, ": is not a directory"},
		{"FileOrCreate", file, ""}, {"FileOrCreate", filepath.Join(dir, "new"), ""},
		{"FileOrCreate", filepath.Join(dir, "no", "parent"), ": does not exist"}, {"FileOrCreate", dir, ": is not a file"},
		{"File", file, ""}, {"File", missing("e"), ": does not exist"}, {"File", dir, ": is not a file"},
		{"Socket", socket, ""}, {"Socket", file, ": is not a socket"}, {"Socket", missing("f"), ": does not exist"},
		{"CharDevice", "/dev/null", ""}, {"CharDevice", file, ": is not a character device"},
		{"BlockDevice", "/dev/null", ": is not a block device"}, {"BlockDevice", missing("g"), ": does not exist"},
		{"Door", file, "unknown type"},
		{"", "relative", "is not an absolute path"}, {"", dir + "/../x", `contains ".."`},
	} {
		v := open(t)
		err := v.Ensure(t.Context(), pod(hostPath("host", c.path, c.kind)))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q %s: %v", c.kind, c.path, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q %s: %v, want %q", c.kind, c.path, err, c.want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "kept" {
		t.Errorf("file = %q", b)
	}
	if m := mode(t, missing("b/c")); m != os.ModeDir|0o755 {
		t.Errorf("mode of a made directory = %v", m)
	}
	if m := mode(t, filepath.Join(dir, "new")); m != 0o644 {
		t.Errorf("mode of a made file = %v", m)
	}
}

func TestMounts(t *testing.T) {
	v, dir := open(t), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	p := pod(emptyDir("data", ""), hostPath("host", link, ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c := &v1.Container{VolumeMounts: []v1.VolumeMount{
		{Name: "host", MountPath: "/a/b/c", ReadOnly: true},
		{Name: "data", MountPath: "a/"},
	}}
	got, err := v.Mounts(t.Context(), p, c, "id", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Destination != "/a" || got[0].Source != filepath.Join(v.dir, "uid-1/volumes/data") ||
		!slices.Equal(got[0].Options, []string{"rbind", "rprivate", "rw"}) {
		t.Errorf("mounts = %+v", got)
	}
	if got[1].Destination != "/a/b/c" || got[1].Source != dir || !slices.Equal(got[1].Options, []string{"rbind", "rprivate", "ro"}) {
		t.Errorf("mounts = %+v", got)
	}
	if err := os.WriteFile(filepath.Join(v.dir, "uid-1/volumes/data/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := []v1.EnvVar{{Name: "SECRET", Value: "hunter2"}, {Name: "FILE", Value: "file"}}
	propagation, rro := v1.MountPropagationBidirectional, v1.RecursiveReadOnlyEnabled
	for want, m := range map[string]v1.VolumeMount{
		"volumeMount none: the pod has no such volume": {Name: "none", MountPath: "/x"},
		"would replace the container's root":           {Name: "data", MountPath: "/x/.."},
		"at or below /proc":                            {Name: "host", MountPath: "/x/../proc/sys"},
		"only a hostPath may be at or below /sys":      {Name: "data", MountPath: "/sys/fs"},
		"is not a path":                                {Name: "data", MountPath: ""},
		"subPath /s: must not be an absolute path":     {Name: "data", MountPath: "/x", SubPath: "/s"},
		`subPath a/../s: must not contain ".."`:        {Name: "data", MountPath: "/x", SubPath: "a/../s"},
		"subPathExpr /$(SECRET): must not be an abs":   {Name: "data", MountPath: "/x", SubPathExpr: "/$(SECRET)"},
		`subPathExpr ../$(SECRET): must not contain`:   {Name: "data", MountPath: "/x", SubPathExpr: "../$(SECRET)"},
		"subPathExpr $(SECRET)\x00: is not a path":     {Name: "data", MountPath: "/x", SubPathExpr: "$(SECRET)\x00"},
		"subPathExpr $(FILE)/$(SECRET): ":              {Name: "data", MountPath: "/x", SubPathExpr: "$(FILE)/$(SECRET)"},
		`missing value for A, B`:                       {Name: "data", MountPath: "/x", SubPathExpr: "$(B)/$(A)/$(B)"},
		"the mount is not readOnly":                    {Name: "data", MountPath: "/x", RecursiveReadOnly: &rro},
		"does not go with mountPropagation":            {Name: "data", MountPath: "/x", ReadOnly: true, RecursiveReadOnly: &rro, MountPropagation: &propagation},
	} {
		_, err := v.Mounts(t.Context(), p, &v1.Container{VolumeMounts: []v1.VolumeMount{m}}, "id", env)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("mount %+v: %v, want %q", m, err, want)
		}
	}
}

// A link in the place of a volume is never followed: not to use it, not to change its owner, not to delete.
func TestPlantedLinks(t *testing.T) {
	v, outside := open(t), t.TempDir()
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pod(emptyDir("data", ""))
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	vols := filepath.Join(v.dir, "uid-1", "volumes")
	if err := os.Symlink(outside, filepath.Join(vols, "data", "inside")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"planted", "planted2.new"} {
		if err := os.Symlink(outside, filepath.Join(vols, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"planted", "planted2"} {
		q := pod(emptyDir(name, ""))
		if err := v.Ensure(t.Context(), q); err == nil {
			t.Errorf("Ensure took the link %s", name)
		}
		if _, err := v.Mounts(t.Context(), q, &v1.Container{VolumeMounts: []v1.VolumeMount{{Name: name, MountPath: "/x"}}}, "id", nil); err == nil {
			t.Errorf("Mounts took the link %s", name)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "host" {
		t.Errorf("host file = %q, %v", b, err)
	}
	if err := os.Symlink(outside, filepath.Join(v.dir, "uid-2")); err != nil {
		t.Fatal(err)
	}
	q := pod(emptyDir("data", ""))
	q.UID = "uid-2"
	if err := v.Ensure(t.Context(), q); err == nil {
		t.Error("Ensure took a link for the pod's directory")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside = %v", entries)
	}
}

func TestNamesThatArePaths(t *testing.T) {
	v := open(t)
	for _, uid := range []string{"", ".", "..", "a/b", "../x", "-x", strings.Repeat("x", 300)} {
		p := pod()
		p.UID = types.UID(uid)
		if v.Ensure(t.Context(), p) == nil || v.Remove(t.Context(), uid) == nil {
			t.Errorf("uid %q was taken", uid)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "A", ".ready", "x.new"} {
		if v.Ensure(t.Context(), pod(emptyDir(name, ""))) == nil {
			t.Errorf("volume %q was taken", name)
		}
		if RemoveAll(t.Context(), v.dir, name) == nil && (name == "" || strings.Contains(name, "/") || name == "." || name == "..") {
			t.Errorf("RemoveAll took %q", name)
		}
	}
}

// A tree deeper than a process may have files open, and paths longer than the kernel takes.
func TestRemoveAllDeep(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 20)
	for i := range 3000 {
		entry := name
		if i == 0 {
			entry = "top"
		}
		if err := unix.Mkdirat(fd, entry, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, entry, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
		if i%100 == 0 {
			if f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0); err == nil {
				unix.Close(f)
			}
		}
	}
	unix.Close(fd)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if err := RemoveAll(t.Context(), dir, "top"); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestMemorySize(t *testing.T) {
	limited := func(limits ...string) *v1.Pod {
		p := pod()
		for _, l := range limits {
			c := v1.Container{}
			if l != "" {
				c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(l)}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		return p
	}
	always := v1.ContainerRestartPolicyAlways
	sidecar, init := limited("1Mi"), limited("1Mi")
	sidecar.Spec.InitContainers = limited("4Mi").Spec.Containers
	sidecar.Spec.InitContainers[0].RestartPolicy = &always
	init.Spec.InitContainers = limited("4Mi").Spec.Containers
	for _, c := range []struct {
		pod  *v1.Pod
		size string
		want int64
	}{
		{limited(""), "", 0},
		{sidecar, "", 5 << 20},
		{init, "", 4 << 20},
		{limited("1Mi", ""), "", 0},
		{limited("1Mi", "2Mi"), "", 3 << 20},
		{limited("1Mi", "2Mi"), "1Mi", 1 << 20},
		{limited("1Mi", "2Mi"), "9Mi", 3 << 20},
		{limited(""), "64Mi", 64 << 20},
	} {
		e := &v1.EmptyDirVolumeSource{}
		if c.size != "" {
			q := resource.MustParse(c.size)
			e.SizeLimit = &q
		}
		if got := memorySize(c.pod, e); got != c.want {
			t.Errorf("memorySize(limit %q) = %d, want %d", c.size, got, c.want)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134b`: `/a\b`, `/a`: "/a", `/a\04`: `/a\04`} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

// Who renames without end holds an open up only so long.
func TestOpenGivesUp(t *testing.T) {
	tries := 0
	if _, err := tried(func() (int, error) { tries++; return -1, unix.EAGAIN }); !errors.Is(err, unix.EAGAIN) || tries != mostTries {
		t.Errorf("%d tries, %v", tries, err)
	}
	tries = 0
	if fd, err := tried(func() (int, error) { tries++; return 7, []error{unix.EAGAIN, unix.EINTR, nil}[tries-1] }); fd != 7 || err != nil {
		t.Errorf("%d, %v", fd, err)
	}
}

// That a claim is not bound is for want of something that may come.
func TestUnboundClaimIsLacking(t *testing.T) {
	v := open(t)
	why := errors.New("is not bound")
	v.claims = func(*v1.Pod, *v1.Volume) (Claimed, error) { return Claimed{}, why }
	p := pod(v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}})
	var lacking interface{ Lacking() }
	if err := v.Ensure(t.Context(), p); !errors.As(err, &lacking) || !errors.Is(err, why) || err.Error() != "volume data: is not bound" {
		t.Errorf("Ensure: %v", err)
	}
	v.claims = func(*v1.Pod, *v1.Volume) (Claimed, error) { return Claimed{Local: "/none"}, nil }
	if err := v.Ensure(t.Context(), p); err == nil || errors.As(err, &lacking) {
		t.Errorf("Ensure: %v", err)
	}
}

// TestHugePageSize: upstream's rules for which pages a volume is of, and how much it holds.
func TestHugePageSize(t *testing.T) {
	asks := func(amounts ...string) v1.Container { // name and amount, alternating
		c := v1.Container{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse("1")}}}
		for i := 0; i < len(amounts); i += 2 {
			c.Resources.Requests[v1.ResourceName(amounts[i])] = resource.MustParse(amounts[i+1])
		}
		return c
	}
	const m2, g1 = "hugepages-2Mi", "hugepages-1Gi"
	for _, c := range []struct {
		name   string
		medium v1.StorageMedium
		limit  string
		pod    v1.PodSpec
		page   int64
		size   int64
		err    string
	}{
		{"the only size", "HugePages", "", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi"), asks(m2, "2Mi"), asks()}}, 2 << 20, 6 << 20, ""},
		{"an init container's", "HugePages", "", v1.PodSpec{Containers: []v1.Container{asks()}, InitContainers: []v1.Container{asks(m2, "4Mi")}}, 2 << 20, 4 << 20, ""},
		{"two sizes", "HugePages", "", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi"), asks(g1, "1Gi")}}, 0, 0,
			"medium: HugePages can't be used if container requests multiple huge page sizes"},
		{"one of two", "HugePages-1Gi", "", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi", g1, "2Gi")}}, 1 << 30, 2 << 30, ""},
		{"one that is not asked for", "HugePages-1Gi", "", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi")}}, 0, 0,
			"medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages"},
		{"none is asked for", "HugePages", "", v1.PodSpec{Containers: []v1.Container{asks()}}, 0, 0,
			"medium HugePages: hugePages storage requested, but there is no resource request for huge pages"},
		{"of the pod as a whole", "HugePages", "", v1.PodSpec{Containers: []v1.Container{asks()},
			Resources: &v1.ResourceRequirements{Requests: v1.ResourceList{m2: resource.MustParse("8Mi")}}}, 2 << 20, 8 << 20, ""},
		{"less by the volume's limit", "HugePages-2Mi", "2Mi", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi")}}, 2 << 20, 2 << 20, ""},
		{"no more by the volume's limit", "HugePages-2Mi", "1Gi", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi")}}, 2 << 20, 4 << 20, ""},
		{"a limit of nothing is none", "HugePages", "0", v1.PodSpec{Containers: []v1.Container{asks(m2, "4Mi")}}, 2 << 20, 4 << 20, ""},
	} {
		p, e := &v1.Pod{Spec: c.pod}, &v1.EmptyDirVolumeSource{Medium: c.medium}
		if c.limit != "" {
			limit := resource.MustParse(c.limit)
			e.SizeLimit = &limit
		}
		page, err := pageSize(p, c.medium)
		if page != c.page || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: pages of %d, %v", c.name, page, err)
			continue
		}
		if size := hugePagesSize(p, e, page); err == nil && size != c.size {
			t.Errorf("%s: holds %d, want %d", c.name, size, c.size)
		}
	}
}
