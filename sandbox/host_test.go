//go:build host

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	cgconv "github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// TestCgroup makes, limits, kills and removes a pod's cgroup in every tree of this host, each step twice.
func TestCgroup(t *testing.T) {
	parent := fmt.Sprintf("/podd-sandbox-%d", os.Getpid())
	s, err := Open(Options{CgroupParent: parent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.RemoveParent(); err != nil {
			t.Error(err)
		}
	})
	pod := testPod(func(p *v1.Pod) {
		p.UID = types.UID(fmt.Sprintf("cg-%d", os.Getpid()))
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")}
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi")}
	})
	ctx, uid := context.Background(), string(pod.UID)
	for range 2 {
		if err := s.EnsureCgroup(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	if s.cg.v2 {
		expect(t, s.cg, pod, "", map[string]string{"cpu.max": "50000 100000", "memory.max": "67108864"})
	} else {
		expect(t, s.cg, pod, "cpu", map[string]string{"cpu.shares": "256", "cpu.cfs_quota_us": "50000", "../cpu.shares": "256"})
		expect(t, s.cg, pod, "memory", map[string]string{"memory.limit_in_bytes": "67108864"})
	}
	processes := occupy(t, s.cg, pod)
	known, err := s.Known()
	if err != nil || strings.Join(known, " ") != uid {
		t.Errorf("known: %v %v", known, err)
	}
	for range 2 {
		if err := s.KillCgroup(ctx, uid); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range processes {
		if err := p.Wait(); err == nil || p.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("process: %v", err)
		}
	}
	for range 2 {
		if err := s.RemoveCgroup(ctx, uid); err != nil {
			t.Fatal(err)
		}
	}
	if left := s.cg.podDirs(uid); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func expect(t *testing.T, c *cgroups, pod *v1.Pod, controller string, files map[string]string) {
	t.Helper()
	for _, h := range c.trees {
		if !h.v2 && !h.has(controller) {
			continue
		}
		for file, want := range files {
			got, err := os.ReadFile(filepath.Join(h.at, c.podPath(pod), file))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: got %q %v, want %s", file, got, err, want)
			}
		}
	}
}

// occupy puts processes into a cgroup below the pod's, in every tree: a plain one, and one that is stopped.
func occupy(t *testing.T, c *cgroups, pod *v1.Pod) []*exec.Cmd {
	t.Helper()
	var out []*exec.Cmd
	for range 2 {
		p := exec.Command("/bin/busybox", "sleep", "1000")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Process.Kill() })
		for _, h := range c.trees {
			below := c.podPath(pod)
			if !h.v2 { // a cpuset needs more than a directory; on v2 the processes' own must not delegate
				below += "/c1/sub"
			}
			if err := h.makeAll(below); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(h.at, c.podPath(pod), "c1/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := writeFile(filepath.Join(h.at, c.podPath(pod), "c1/sub/cgroup.procs"), fmt.Sprint(p.Process.Pid)); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, p)
	}
	if err := out[1].Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestKillOnV2 uses the v2 tree that a v1 host has beside the others: it has no controllers, but it does kill.
func TestKillOnV2(t *testing.T) {
	s, err := Open(Options{CgroupParent: fmt.Sprintf("/podd-sandbox2-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	if !s.cg.v2 {
		if len(s.cg.spare) == 0 {
			t.Log("no v2 tree on this host")
			return
		}
		s.cg.trees, s.cg.spare, s.cg.v2 = s.cg.spare, nil, true
	}
	t.Cleanup(func() {
		if err := s.RemoveParent(); err != nil {
			t.Error(err)
		}
	})
	pod := testPod(func(p *v1.Pod) { p.UID = types.UID(fmt.Sprintf("v2-%d", os.Getpid())) })
	processes := occupy(t, s.cg, pod)
	if err := s.RemoveCgroup(context.Background(), string(pod.UID)); err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if err := p.Wait(); err == nil {
			t.Error("not killed")
		}
	}
}

// TestEtc has the files there, changes them in place and takes everything away.
func TestEtc(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{RunDir: dir, ResolvConf: filepath.Join(dir, "none")})
	if err != nil {
		t.Fatal(err)
	}
	pod := testPod()
	t.Cleanup(func() { _ = s.RemoveEtc("u1") })
	hosts := filepath.Join(dir, "pods/u1/etc/hosts")
	for _, ips := range [][]string{nil, {"10.0.0.1"}, {"10.0.0.1"}} {
		if _, err := s.WriteEtc(pod, ips); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(hosts)
		if err != nil || strings.Contains(string(b), "10.0.0.1\tweb") != (len(ips) > 0) {
			t.Errorf("hosts: %q %v", b, err)
		}
	}
	f, err := os.OpenFile(hosts, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 8<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a member fills /etc/hosts: %v", err)
	}
	_ = f.Close()
	if _, err := s.WriteEtc(pod, []string{"10.0.0.2"}); err != nil {
		t.Errorf("after that: %v", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(dir, "pods/u1/shm"), &fs); err != nil || int64(fs.Blocks)*fs.Bsize != 64<<20 {
		t.Errorf("shm: %v %v", fs, err)
	}
	for range 2 {
		if err := s.RemoveEtc("u1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "pods/u1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory left: %v", err)
	}
}

// TestMessages has files for termination messages that anybody may fill and that are read safely whatever is in their place.
func TestMessages(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.RemoveEtc("u1") })
	var name string
	for range 2 {
		if name, err = s.EnsureMessage("u1", "one"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.EnsureMessage("u1", "two"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o666 || st.Size() != 0 {
		t.Errorf("file: %v %v", st, err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(content string) func() error {
		return func() error { return os.WriteFile(name, []byte(content), 0) }
	}
	long := strings.Repeat("a", MessageLimit) + strings.Repeat("z", MessageLimit)
	for _, c := range []struct {
		what string
		make func() error
		want string
	}{
		{"nothing", write(""), ""},
		{"a text", write("it was the gardener\n"), "it was the gardener\n"},
		{"too much", write(long), long[MessageLimit:]},
		{"no text", write("a\xff\xfeb"), "a?b"},
		{"a hole", func() error { return os.Truncate(name, 1<<40) }, ""},
		{"a link", func() error { return errors.Join(os.Remove(name), os.Symlink(secret, name)) }, ""},
		{"a pipe", func() error { return errors.Join(os.Remove(name), unix.Mkfifo(name, 0o666)) }, ""},
		{"a directory", func() error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o777)) }, ""},
		{"no more", func() error { return os.Remove(name) }, ""},
	} {
		if err := c.make(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := s.Message("u1", "one"); got != c.want {
			t.Errorf("%s: message of %d bytes, %.20q, want %.20q", c.what, len(got), got, c.want)
		}
	}
	if err := os.Symlink(secret, name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsureMessage("u1", "one"); err == nil {
		t.Error("a link was taken for the file")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(name), "two"), make([]byte, 8<<20), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a container fills its file: %v", err)
	}
	if _, err := s.EnsureMessage("u1", "three"); err != nil {
		t.Errorf("after that: %v", err)
	}
	for range 2 {
		if err := s.RemoveMessage("u1", "one"); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
		t.Errorf("what the link led to: %q %v", b, err)
	}
	for range 2 {
		if err := s.RemoveEtc("u1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "pods/u1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory left: %v", err)
	}
}

// TestCgroupHugePages: a pod's cgroup may have the huge pages that the pod asks for, and none of other sizes, in the tree
// that has the controller, and in one of v1, which is mounted for this test alone where nothing has the controller in use.
func TestCgroupHugePages(t *testing.T) {
	if !slices.Contains(cgconv.HugePageSizes(), "2MB") {
		t.Skip("this kernel has no huge pages of 2 MiB")
	}
	t.Run("as it is", limitHugePages)
	t.Run("mounted", func(t *testing.T) {
		at, done := t.TempDir(), make(chan error)
		go func() { // the thread ends with it, and its mount namespace
			runtime.LockOSThread()
			err := mountHugetlb(at)
			if err == nil {
				limitHugePages(t)
			}
			done <- err
		}()
		if err := <-done; errors.Is(err, unix.EBUSY) {
			t.Skip("the controller hugetlb is in use")
		} else if err != nil {
			t.Error(err)
		}
	})
}

// mountHugetlb mounts the cgroup controller of huge pages in a mount namespace of this thread's own, if v1 has it not.
func mountHugetlb(at string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	cg, err := openCgroups("/any")
	if err != nil || cg.v2 || cg.huge != nil && !cg.huge.v2 {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("cgroup", at, "cgroup", 0, "hugetlb")
}

func limitHugePages(t *testing.T) {
	s, err := Open(Options{CgroupParent: fmt.Sprintf("/podd-sandbox-huge-%d", os.Getpid())})
	if err != nil {
		t.Error(err)
		return
	}
	if !s.LimitsHugePages() {
		t.Log("no tree has the controller hugetlb")
		return
	}
	pod := testPod(func(p *v1.Pod) {
		p.UID = types.UID(fmt.Sprintf("cg-huge-%d", os.Getpid()))
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1m"), "hugepages-2Mi": resource.MustParse("4Mi")}
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}
	})
	for range 2 {
		if err := s.EnsureCgroup(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	h, suffix := s.cg.huge, ".limit_in_bytes"
	if h.v2 {
		suffix = ".max"
	}
	for _, size := range cgconv.HugePageSizes() {
		want := map[bool]string{true: "4194304", false: "0"}[size == "2MB"]
		for _, file := range []string{"hugetlb." + size + suffix, "hugetlb." + size + ".rsvd" + suffix} {
			got, err := os.ReadFile(filepath.Join(h.at, s.cg.podPath(pod), file))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: got %q %v, want %s", file, got, err, want)
			}
		}
	}
	if err := errors.Join(s.RemoveCgroup(t.Context(), string(pod.UID)), s.RemoveParent()); err != nil {
		t.Error(err)
	}
	if left := s.cg.podDirs(string(pod.UID)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
