//go:build host

package containers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/containers"
	"podd/runtime/containers/containerdtest"
	"podd/sandbox"
)

// One containerd serves all tests of the package; each test has pods of its own.
var (
	ctrd   *containerdtest.Containerd
	client *containers.Client
	boxes  *sandbox.Sandboxes
	image  containers.Image
	parent string
)

const namespace = "podd-test"

// The first thread stays as it is: makeNetns throws away the threads it uses, which cannot be done with this one.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "podd-containers-")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	parent = "/" + filepath.Base(dir)
	if err := setup(dir); err != nil {
		log.Print(err)
		return 1
	}
	code := m.Run()
	_ = client.Close()
	left, err := ctrd.Stop()
	for _, h := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} {
		pods, _ := filepath.Glob(h + parent + "/kubepods/*/pod*")
		left = append(left, pods...)
	}
	removeCgroups(parent)
	if len(left) > 0 || err != nil {
		log.Printf("left behind: %v %v", left, err)
		return 1
	}
	return code
}

func removeCgroups(parent string) {
	for _, sub := range []string{"/kubepods/burstable", "/kubepods/besteffort", "/kubepods", ""} {
		all, _ := filepath.Glob("/sys/fs/cgroup/*" + parent + sub)
		for _, d := range append(all, "/sys/fs/cgroup"+parent+sub) {
			_ = unix.Rmdir(d)
		}
	}
}

func setup(dir string) (err error) {
	pause := filepath.Join(dir, "pause.bin")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", pause, "podd/cmd/pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build pause: %w: %s", err, out)
	}
	if ctrd, err = containerdtest.Start(dir); err != nil {
		return err
	}
	client, err = containers.Connect(containers.Options{
		Address: ctrd.Address, Namespace: namespace, Runc: ctrd.Runc, CgroupParent: parent, RunDir: filepath.Join(dir, "run"),
	})
	if err != nil {
		return err
	}
	boxes, err = sandbox.Open(sandbox.Options{
		Containers: client, StateDir: filepath.Join(dir, "lib"), RunDir: filepath.Join(dir, "run"), Pause: pause,
		CgroupParent: parent, Boot: "boot", ID: func(uid string, n int) string { return id(uid, "", n) },
	})
	if err != nil {
		return err
	}
	image = containers.Image{Name: "test/busybox:1", ID: "test/busybox@sha256:1"}
	image.ChainID, image.Config, err = ctrd.Busybox(namespace, image.Name, ocispec.ImageConfig{
		Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "FROM_IMAGE=yes", "PODD_SECRET"},
		Labels: map[string]string{"containerd.io/restart.loguri": "binary:///bin/true"},
	}, map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1001:\nwheel:x:1002:app\n",
	})
	if err == nil {
		image.Passwd, image.Group, err = client.ReadAccounts(context.Background(), image.ChainID)
	}
	return err
}

func id(uid, name string, n int) string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, uid, "/", name, "/", n)))
}

// pod is one pod under test, with its sandbox up.
type pod struct {
	*v1.Pod
	t     *testing.T
	ref   containers.Sandbox
	netns string
}

// newPod starts a sandbox and takes everything away at the end.
func newPod(t *testing.T, change ...func(*v1.Pod)) *pod {
	t.Helper()
	uid := fmt.Sprintf("%x-%d", sha256.Sum256([]byte(t.Name())), time.Now().UnixNano())[40:]
	p := &pod{t: t, Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: types.UID(uid)}}}
	p.Spec.DNSPolicy = v1.DNSDefault
	for _, c := range change {
		c(p.Pod)
	}
	p.netns = filepath.Join(t.TempDir(), "netns")
	makeNetns(t, p.netns)
	ctx := context.Background()
	t.Cleanup(func() { p.clear() })
	if err := boxes.EnsureCgroup(ctx, p.Pod); err != nil {
		t.Fatal(err)
	}
	if _, err := boxes.WriteEtc(p.Pod, nil); err != nil {
		t.Fatal(err)
	}
	p.ref = boxes.Ref(p.Pod, 0, p.netns, 0)
	if err := boxes.Ensure(ctx, p.Pod, 0, p.ref, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := boxes.WriteEtc(p.Pod, []string{"10.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	return p
}

// makeNetns pins a new network namespace.
func makeNetns(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

func (p *pod) clear() {
	ctx, uid := context.Background(), string(p.UID)
	all, err := client.Look(ctx, uid)
	p.check(err)
	for _, i := range all {
		if i.Name != "" {
			p.check(client.Remove(ctx, i.ID))
		}
	}
	p.check(boxes.Remove(ctx, uid, 0))
	p.check(boxes.RemoveCgroup(ctx, uid))
	p.check(boxes.RemoveEtc(uid))
	p.check(client.RemoveLease(ctx, uid))
	left, err := client.Look(ctx, uid)
	p.check(err)
	known, err := boxes.Known()
	p.check(err)
	if len(left) > 0 || slices.Contains(known, uid) {
		p.t.Errorf("left of pod: %v %v", left, known)
	}
	p.check(client.Remove(ctx, id(uid, "app", 0)))
	p.check(boxes.Remove(ctx, uid, 0))
	p.check(boxes.RemoveCgroup(ctx, uid))
	p.check(boxes.RemoveEtc(uid))
}

func (p *pod) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Error(err)
	}
}

// config is one container running a shell script.
func (p *pod) config(name, script string, change ...func(*v1.Container)) containers.Config {
	c := &v1.Container{Name: name, Command: []string{"sh", "-c", script}}
	for _, f := range change {
		f(c)
	}
	return containers.Config{
		ID: id(string(p.UID), name, 0), Pod: p.Pod, Container: c, Image: image, Key: "key", Sandbox: p.ref, Env: c.Env,
		Mounts: boxes.EtcMounts(p.Pod, c), Boot: "boot",
	}
}

// start runs a container; its output is to be read.
func (p *pod) start(cfg containers.Config) *containerdtest.Output {
	p.t.Helper()
	ctx := context.Background()
	if err := client.Ensure(ctx, cfg); err != nil {
		p.t.Fatal(err)
	}
	out := containerdtest.NewOutput(p.t, p.t.TempDir())
	if _, err := client.Start(ctx, cfg.ID, containers.IO{Stdout: out.Path, Stderr: out.Path}); err != nil {
		p.t.Fatal(err)
	}
	out.Started()
	return out
}

// end waits for a container and says what containerd knows of it.
func (p *pod) end(cfg containers.Config) containers.Instance {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := client.Wait(ctx, cfg.ID); err != nil {
		p.t.Fatal(err)
	}
	return p.look(cfg.ID)
}

func (p *pod) look(id string) containers.Instance {
	p.t.Helper()
	all, err := client.Look(context.Background(), string(p.UID))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, i := range all {
		if i.ID == id {
			return i
		}
	}
	p.t.Fatalf("container %s is not there", id)
	return containers.Instance{}
}

// sh runs a script in a container of its own and answers with its output.
func (p *pod) sh(name, script string, change ...func(*v1.Container)) string {
	p.t.Helper()
	cfg := p.config(name, script, change...)
	out := p.start(cfg)
	p.end(cfg)
	return out.Text()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != want {
		t.Errorf("%s: got %q, want %q", what, strings.TrimSpace(got), want)
	}
}

func TestExitCodeAndRecord(t *testing.T) {
	p := newPod(t, func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} })
	cfg := p.config("app", "echo hello; exit 3")
	cfg.Backoff = 20 * time.Second
	out := p.start(cfg)
	i := p.end(cfg)
	want(t, "output", out.Text(), "hello")
	if !i.HasTask || i.Task != containers.TaskStopped || i.ExitCode != 3 || i.OOM || i.ExitedAt.IsZero() {
		t.Errorf("instance: %+v", i)
	}
	if i.Name != "app" || i.Key != "key" || i.Sandbox != p.ref.ID || i.Backoff != 20*time.Second || i.Image != image.Name || i.Boot != "boot" ||
		i.Pod != "web" || i.Namespace != "default" || i.User.Linux.UID != 0 {
		t.Errorf("record: %+v", i)
	}
	if _, err := client.Start(context.Background(), cfg.ID, containers.IO{}); !errors.Is(err, containers.ErrStopped) {
		t.Errorf("start again: %v", err)
	}
	if err := client.Ensure(context.Background(), cfg); err != nil {
		t.Errorf("ensure again: %v", err)
	}
	cfg.Key = "another"
	if err := client.Ensure(context.Background(), cfg); err == nil {
		t.Error("ensure of another instance under the same id: no error")
	}
	box := p.look(p.ref.ID)
	if box.PodSpec == nil || box.PodSpec.Labels["a"] != "b" || box.Task != containers.TaskRunning || time.Since(box.StartedAt) > time.Minute {
		t.Errorf("sandbox: %+v", box)
	}
}

func TestEnsureReplacesWhatNeverRan(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "true")
	for _, key := range []string{"one", "two"} {
		cfg.Key = key
		if err := client.Ensure(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
		if got := p.look(cfg.ID); got.Key != key || got.HasTask {
			t.Errorf("key %s: %+v", key, got)
		}
	}
}

func TestSignals(t *testing.T) {
	p := newPod(t)
	ctx := context.Background()
	cfg := p.config("app", "trap 'exit 5' TERM; echo up; while :; do sleep 1 & wait; done")
	out := p.start(cfg)
	if s, err := client.Start(ctx, cfg.ID, containers.IO{}); err != nil || s.Pid != p.look(cfg.ID).Pid {
		t.Errorf("start of a running one: %+v %v", s, err)
	}
	// the trap is set once the shell has written
	buf := make([]byte, 3)
	if _, err := out.ReadFull(buf); err != nil {
		t.Fatal(err)
	}
	if err := client.Signal(ctx, cfg.ID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if i := p.end(cfg); i.ExitCode != 5 {
		t.Errorf("exit code %d", i.ExitCode)
	}
	if err := client.Signal(ctx, cfg.ID, syscall.SIGTERM); err != nil {
		t.Errorf("signal to an ended one: %v", err)
	}
	killed := p.config("killed", "exec sleep 100")
	p.start(killed)
	if err := client.Signal(ctx, killed.ID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if i := p.end(killed); i.ExitCode != 137 || i.OOM {
		t.Errorf("killed: %+v", i)
	}
}

func TestOOM(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec tail -c 100m /dev/zero", func(c *v1.Container) {
		c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("16Mi")}
	})
	p.start(cfg)
	if i := p.end(cfg); i.ExitCode != 137 || !i.OOM {
		t.Errorf("%+v", i)
	}
}

func TestStartErrors(t *testing.T) {
	p := newPod(t)
	ctx := context.Background()
	for name, change := range map[string]func(*v1.Container){
		"nocommand":    func(c *v1.Container) { c.Command = []string{"/no/such"} },
		"noexecutable": func(c *v1.Container) { c.Command = []string{"/etc/passwd"} },
	} {
		cfg := p.config(name, "", change)
		if err := client.Ensure(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		_, err := client.Start(ctx, cfg.ID, containers.IO{})
		var se *containers.StartError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), cfg.Container.Command[0]) {
			t.Errorf("%s: %v", name, err)
		}
		if i := p.look(cfg.ID); i.HasTask {
			t.Errorf("%s: task left: %+v", name, i)
		}
	}
	var ce *containers.ConfigError
	for name, change := range map[string]func(*v1.Container){
		"fd":     func(c *v1.Container) { c.WorkingDir = "/proc/self/fd/7" },
		"nouser": func(c *v1.Container) { yes := true; c.SecurityContext = &v1.SecurityContext{RunAsNonRoot: &yes} },
	} {
		if err := client.Ensure(ctx, p.config(name, "true", change)); !errors.As(err, &ce) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInside(t *testing.T) {
	p := newPod(t)
	want(t, "only three descriptors", p.sh("fds", "exec ls /proc/self/fd"), "0\n1\n2\n3") // the last is the directory
	want(t, "inheritable and ambient", p.sh("caps", "grep -E 'CapInh|CapAmb' /proc/self/status | sort | cut -f2 | uniq"), "0000000000000000")
	want(t, "environment", p.sh("env", "echo $FROM_IMAGE $A $HOSTNAME ${PODD_SECRET-none}; pwd; hostname", func(c *v1.Container) {
		c.WorkingDir = "/tmp"
		c.Env = []v1.EnvVar{{Name: "A", Value: "ab$(B)$(C)"}}
	}), "yes ab$(B)$(C) web none\n/tmp\nweb")
	uid, gid := int64(1000), int64(1234)
	want(t, "user", p.sh("user", "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status | cut -f2; grep CapEff /proc/self/status | cut -f2",
		func(c *v1.Container) {
			no := false
			c.SecurityContext = &v1.SecurityContext{RunAsUser: &uid, RunAsGroup: &gid, AllowPrivilegeEscalation: &no}
		}), "1000\n1234\n1234 1002\n1\n0000000000000000")
	want(t, "read-only root", p.sh("ro", "touch /x 2>&1; touch /dev/shm/x && echo shm; touch /etc/hosts 2>/dev/null || echo hosts", func(c *v1.Container) {
		yes := true
		c.SecurityContext = &v1.SecurityContext{ReadOnlyRootFilesystem: &yes}
	}), "touch: /x: Read-only file system\nshm\nhosts")
	want(t, "masked", p.sh("masked", "cat /proc/keys | wc -c; echo x 2>/dev/null >/proc/sys/kernel/core_pattern || echo ro; mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo ro"), "0\nro\nro")
	want(t, "seccomp", p.sh("seccomp", "grep Seccomp: /proc/self/status | cut -f2; unshare -U true 2>&1"), "2\nunshare: unshare(0x10000000): Operation not permitted")
	want(t, "etc", p.sh("etc", "grep web /etc/hosts; cat /etc/hostname; stat -f -c %T /dev/shm"), "10.0.0.7\tweb\nweb\ntmpfs")
}

func TestPrivileged(t *testing.T) {
	p := newPod(t)
	yes := true
	got := p.sh("app", "grep Seccomp: /proc/self/status | cut -f2; test -e /dev/loop-control -o -e /dev/kmsg -o -e /dev/fuse && echo devices; touch /proc/sys/kernel/core_pattern && echo rw",
		func(c *v1.Container) { c.SecurityContext = &v1.SecurityContext{Privileged: &yes} })
	want(t, "privileged", got, "0\ndevices\nrw")
}

func TestHostNamespaces(t *testing.T) {
	p := newPod(t, func(p *v1.Pod) { p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true })
	var host []string
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		l, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		host = append(host, l)
	}
	want(t, "namespaces", p.sh("app", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"), strings.Join(host, "\n"))
	cfg := p.config("forks", "sleep 1000 & setsid sleep 1001 & exec sleep 1002")
	p.start(cfg)
	if err := boxes.KillCgroup(context.Background(), string(p.UID)); err != nil {
		t.Fatal(err)
	}
	if i := p.end(cfg); i.ExitCode != 137 {
		t.Errorf("%+v", i)
	}
}

func TestMembersShare(t *testing.T) {
	yes := true
	p := newPod(t, func(p *v1.Pod) { p.Spec.ShareProcessNamespace = &yes })
	server := p.config("server", "echo data >/dev/shm/file; (sleep 0.01 & exec true) ; exec sleep 100")
	p.start(server)
	ns := "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"
	a, b := p.sh("a", ns), p.sh("b", ns)
	if a != b || strings.Count(a, "\n") != 4 {
		t.Errorf("namespaces differ: %q %q", a, b)
	}
	want(t, "shm", p.sh("c", "until cat /dev/shm/file 2>/dev/null; do :; done"), "data")
	want(t, "process 1", p.sh("d", "cat /proc/1/comm"), "pause")
	// An orphan is pause's to reap: it vanishes, and does not stay as a zombie.
	want(t, "orphan reaped", p.sh("e", `sh -c 'sleep 0.05 & echo $! >/tmp/pid'; pid=$(cat /tmp/pid); while test -e /proc/$pid; do :; done; echo gone`), "gone")
	if shims := ctrd.Shims(); len(shims) != 1 {
		t.Errorf("one shim for a pod: %q", shims)
	}
}

func TestKillCgroupReachesAll(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "(setsid sleep 1000 & setsid sleep 1001 &) ; (trap '' TERM; sleep 1002) & exec sleep 1003")
	p.start(cfg)
	if err := boxes.KillCgroup(context.Background(), string(p.UID)); err != nil {
		t.Fatal(err)
	}
	if i := p.end(cfg); i.ExitCode != 137 {
		t.Errorf("%+v", i)
	}
	if i := p.look(p.ref.ID); i.Task == containers.TaskRunning {
		if _, err := client.Wait(context.Background(), p.ref.ID); err != nil {
			t.Error(err)
		}
	}
	if err := boxes.Ensure(context.Background(), p.Pod, 0, boxes.Ref(p.Pod, 0, p.netns, 0), ""); !errors.Is(err, containers.ErrStopped) {
		t.Errorf("ensure of a dead sandbox: %v", err)
	}
}

func TestExec(t *testing.T) {
	p := newPod(t)
	uid := int64(1000)
	cfg := p.config("app", "exec sleep 1000", func(c *v1.Container) {
		c.SecurityContext = &v1.SecurityContext{RunAsUser: &uid}
		c.Env = []v1.EnvVar{{Name: "A", Value: "b"}}
	})
	p.start(cfg)
	ctx := context.Background()
	var out, errOut bytes.Buffer
	code, err := client.Exec(ctx, cfg.ID, containers.Exec{
		Cmd:   []string{"sh", "-c", "id -u; echo $A; cat; echo oops >&2; grep CapInh /proc/self/status | cut -f2; exit 7"},
		Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errOut,
	})
	if code != 7 || err != nil {
		t.Errorf("exec: %d %v", code, err)
	}
	want(t, "stdout", out.String(), "1000\nb\nin\n0000000000000000")
	want(t, "stderr", errOut.String(), "oops")
	out.Reset()
	if code, err := client.Exec(ctx, cfg.ID, containers.Exec{Cmd: []string{"ls", "/proc/self/fd"}, Stdout: &out}); code != 0 || err != nil {
		t.Errorf("exec: %d %v", code, err)
	}
	want(t, "only three descriptors", out.String(), "0\n1\n2\n3")
	out.Reset()
	sizes := make(chan containers.Size, 1)
	sizes <- containers.Size{Width: 91, Height: 17}
	code, err = client.Exec(ctx, cfg.ID, containers.Exec{
		Cmd: []string{"sh", "-c", "tty; until stty size 2>/dev/null | grep '17 91'; do :; done"}, TTY: true, Stdout: &out, Resize: sizes,
	})
	want(t, "terminal", out.String(), "/dev/pts/0\r\n17 91")
	if code != 0 || err != nil {
		t.Errorf("terminal: %d %v", code, err)
	}
	var se *containers.StartError
	if _, err := client.Exec(ctx, cfg.ID, containers.Exec{Cmd: []string{"/no/such"}}); !errors.As(err, &se) {
		t.Errorf("no such command: %v", err)
	}
	if _, err := client.Exec(ctx, "nosuch", containers.Exec{Cmd: []string{"true"}}); !errors.Is(err, containers.ErrGone) {
		t.Errorf("no such container: %v", err)
	}
	out.Reset()
	begun := time.Now()
	code, err = client.Exec(ctx, cfg.ID, containers.Exec{Cmd: []string{"sh", "-c", "sleep 1000 & echo left"}, Stdout: &out})
	if code != 0 || err != nil || out.String() != "left\n" || time.Since(begun) > 5*time.Second {
		t.Errorf("with a process left behind: %d %v %q", code, err, out.String())
	}
}

// TestExecStdinIsWhole gives short and long input to many commands at once. The shim opens its end of stdin on a goroutine
// of its own, maybe after it has said that the process runs.
func TestExecStdinIsWhole(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() {
			for i := range 25 {
				in := strings.Repeat("x", 1+(worker*25+i)%3*100_000)
				var out bytes.Buffer
				code, err := client.Exec(context.Background(), cfg.ID, containers.Exec{
					Cmd: []string{"wc", "-c"}, Stdin: strings.NewReader(in), Stdout: &out,
				})
				if got := strings.TrimSpace(out.String()); code != 0 || err != nil || got != strconv.Itoa(len(in)) {
					t.Errorf("of %d bytes %q came, exit code %d, %v", len(in), got, code, err)
				}
			}
		})
	}
	work.Wait()
}

// TestExecCancel: nothing is left of processes that were given up: no goroutine, FIFO or process.
func TestExecCancel(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	before := runtime.NumGoroutine()
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		up := &trigger{f: cancel}
		_, err := client.Exec(ctx, cfg.ID, containers.Exec{Cmd: []string{"sh", "-c", "echo up; exec sleep 1234"}, Stdout: up})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	fifos, _ := filepath.Glob(filepath.Join(ctrd.Dir, "run", "exec", "*"))
	if len(fifos) > 0 {
		t.Errorf("fifos left: %v", fifos)
	}
	want(t, "processes", execOut(t, cfg.ID, "ps -o args | grep -c '[s]leep 1234'"), "0")
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("goroutines: %d before, %d after", before, after)
	}
}

// TestExecCutOff: a process whose time is over while it is being started does not run on, unknown to everybody.
func TestExecCutOff(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	began := time.Now()
	execOut(t, cfg.ID, "true")
	usual := time.Since(began)
	for i := range 60 {
		ctx, cancel := context.WithTimeout(context.Background(), usual*time.Duration(i+15)/60)
		if _, err := client.Exec(ctx, cfg.ID, containers.Exec{Cmd: []string{"sleep", "1234"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cut off: %v", err)
		}
		cancel()
	}
	want(t, "processes", execOut(t, cfg.ID, "ps -o args | grep -c '[s]leep 1234'"), "0")
}

func execOut(t *testing.T, id, script string) string {
	t.Helper()
	var out bytes.Buffer
	if _, err := client.Exec(context.Background(), id, containers.Exec{Cmd: []string{"sh", "-c", script}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// trigger calls f at the first write.
type trigger struct{ f func() }

func (w *trigger) Write(b []byte) (int, error) { w.f(); return len(b), nil }

// TestContainerdAway: what cannot be known is an error, never an exit, and all is there again afterwards.
func TestContainerdAway(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	pid := p.look(cfg.ID).Pid
	waited := make(chan error)
	go func() {
		_, err := client.Wait(context.Background(), cfg.ID)
		waited <- err
	}()
	if err := ctrd.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err == nil || errors.Is(err, containers.ErrGone) {
		t.Errorf("wait: %v", err)
	}
	var se *containers.StartError
	if _, err := client.Look(context.Background(), string(p.UID)); err == nil {
		t.Error("look: no error")
	}
	if _, err := client.Start(context.Background(), cfg.ID, containers.IO{}); err == nil || errors.As(err, &se) {
		t.Errorf("start: %v", err)
	}
	if err := ctrd.Run(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for client.Ready(ctx) != nil {
		if ctx.Err() != nil {
			t.Fatal("containerd is back and is not seen")
		}
		runtime.Gosched()
	}
	if i := p.look(cfg.ID); i.Task != containers.TaskRunning || i.Pid != pid {
		t.Errorf("after the restart: %+v", i)
	}
}

// TestRemoveWhatNeverStarted: a task that was created and not started, as a crash may leave it, is started by Ensure or
// taken away by Remove.
func TestRemoveWhatNeverStarted(t *testing.T) {
	for _, then := range []string{"ensure", "remove"} {
		yes := true
		p := newPod(t, func(p *v1.Pod) { p.Spec.ShareProcessNamespace = &yes })
		ctx, uid := context.Background(), string(p.UID)
		if err := boxes.Remove(ctx, uid, 0); err != nil {
			t.Fatal(err)
		}
		// A directory where a pin must be: Ensure fails after the task is created.
		dir := p.ref.PIDNS
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := boxes.Ensure(ctx, p.Pod, 0, boxes.Ref(p.Pod, 0, p.netns, 0), ""); err == nil {
			t.Fatal("ensure: no error")
		} else if !strings.Contains(err.Error(), "is a directory") {
			t.Fatal(err)
		}
		if i := p.look(p.ref.ID); i.Task != containers.TaskCreated {
			t.Fatalf("%+v", i)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if then == "ensure" {
			if err := boxes.Ensure(ctx, p.Pod, 0, boxes.Ref(p.Pod, 0, p.netns, 0), ""); err != nil {
				t.Error(err)
			}
			if i := p.look(p.ref.ID); i.Task != containers.TaskRunning {
				t.Errorf("%+v", i)
			}
		}
	}
}

// TestShimKilled: containerd takes what the shim ran away, so that its tasks are gone, which is neither running nor an
// exit, and all can be removed.
func TestShimKilled(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	killShim(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for p.look(cfg.ID).HasTask || p.look(p.ref.ID).HasTask {
		if ctx.Err() != nil {
			t.Fatalf("tasks are still there: %+v", p.look(cfg.ID))
		}
		_, _ = client.Wait(ctx, cfg.ID)
		_, _ = client.Wait(ctx, p.ref.ID)
	}
	if err := boxes.KillCgroup(ctx, string(p.UID)); err != nil {
		t.Error(err)
	}
}

// TestSweepLate: a shim that nobody can reach when it is looked for twice is ended, and no other.
func TestSweepLate(t *testing.T) {
	p := newPod(t)
	cfg := p.config("app", "exec sleep 1000")
	p.start(cfg)
	c, err := containers.Connect(containers.Options{Address: ctrd.Address, Namespace: namespace, Runc: ctrd.Runc, CgroupParent: parent,
		TaskDir: filepath.Join(ctrd.Dir, "state", "io.containerd.runtime.v2.task"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Close() }()
	stray := &exec.Cmd{Path: "/bin/sh", Stdin: in,
		Args: []string{"containerd-shim-runc-v2", "-c", "read end", "-namespace", namespace, "-id", "stray", "-address", ctrd.Address}}
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	c.SweepLate(t.Context(), time.Millisecond, 1)
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", stray.Process.Pid)); err != nil || len(line) == 0 {
		t.Errorf("it has ended after one look: %v", err)
	}
	c.SweepLate(t.Context(), time.Millisecond, 2)
	_ = hold.Close() // its end, if it was left alone
	if err := stray.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("after two looks: %v", err)
	}
	if i := p.look(cfg.ID); i.Task != containers.TaskRunning {
		t.Errorf("a container of a shim that is reached: %+v", i)
	}
}

func killShim(t *testing.T) {
	t.Helper()
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if bytes.Contains(b, []byte("containerd-shim")) && bytes.Contains(b, []byte(ctrd.Address)) {
			var pid int
			if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// BenchmarkPod is one pod of one container, its sandbox, start and removal, without network.
func BenchmarkPod(b *testing.B) {
	ctx := context.Background()
	took := map[string]time.Duration{}
	step := func(name string, f func() error) {
		begun := time.Now()
		if err := f(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		took[name] += time.Since(begun)
	}
	for n := range b.N {
		p := &pod{Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: types.UID(fmt.Sprintf("bench-%d-%d", b.N, n))}}}
		p.Spec.HostNetwork = true
		uid := string(p.UID)
		p.ref = boxes.Ref(p.Pod, 0, "", 0)
		cfg := p.config("app", "exec sleep 1000")
		step("1 ground", func() error {
			_, err := boxes.WriteEtc(p.Pod, nil)
			return errors.Join(err, boxes.EnsureCgroup(ctx, p.Pod), client.EnsureLease(ctx, uid))
		})
		step("2 create app", func() error { return client.Ensure(ctx, cfg) })
		step("3 sandbox", func() error { return boxes.Ensure(ctx, p.Pod, 0, p.ref, "") })
		step("4 start app", func() error { _, err := client.Start(ctx, cfg.ID, containers.IO{}); return err })
		step("5 look", func() error { _, err := client.Look(ctx, uid); return err })
		step("6 remove app", func() error { return client.Remove(ctx, cfg.ID) })
		step("7 remove sandbox", func() error { return boxes.Remove(ctx, uid, 0) })
		step("8 clear", func() error {
			return errors.Join(boxes.RemoveCgroup(ctx, uid), boxes.RemoveEtc(uid), client.RemoveLease(ctx, uid))
		})
	}
	for name, d := range took {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), strings.ReplaceAll(name, " ", "-")+"-ms")
	}
}
