//go:build host

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/status"
	"podd/test/harness"
)

// twins is a directory with two shims of other names than runc's: twin, to be looked up by its type, and other, to be
// named by its path. They are runc's own shim, and find runc as any would.
func twins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	bundle := filepath.Join(filepath.Dir(harness.Built(t)), "libexec", "podd")
	for _, name := range []string{"containerd-shim-twin-v2", "containerd-shim-other-v3"} {
		from, err := os.Open(filepath.Join(bundle, "containerd-shim-runc-v2"))
		must(t, err)
		to, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o700)
		must(t, err)
		_, err = io.Copy(to, from)
		must(t, errors.Join(err, from.Close(), to.Close()))
	}
	return dir
}

// runningOf is the processes that are run from a file, but for its short-lived commands.
func runningOf(program string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		b, _ := os.ReadFile(file)
		words := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if words[0] == program && !slices.Contains([]string{"start", "delete"}, words[len(words)-1]) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestShim has pods run by shims other than runc's: one process for all of a pod, found by its type and by its path. The
// pods outlive podd and containerd, are made anew when their shim dies, and what no container belongs to is ended. What a
// shim may not be able to do is refused.
func TestShim(t *testing.T) {
	t.Parallel()
	dir := twins(t)
	twin, other := filepath.Join(dir, "containerd-shim-twin-v2"), filepath.Join(dir, "containerd-shim-other-v3")
	path := "PATH=" + os.Getenv("PATH") + ":" + dir
	s := start(t, harness.WithEnv(path), harness.WithArgs("--restart-backoff=10ms",
		"--runtime-handler=twin=io.containerd.twin.v2", "--runtime-handler=other="+other, "--runtime-handler=none=io.containerd.none.v1"))
	t.Cleanup(func() { _ = os.RemoveAll("/run/containerd/runc/" + s.Namespace) })
	for _, handler := range []string{"twin", "other", "none"} {
		class := "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: " + handler + "}\nhandler: " + handler + "\n"
		if _, errs, code := s.PodctlInput(strings.NewReader(class), "apply", "-f", "-"); code != 0 {
			t.Fatal(errs)
		}
	}
	one := func(program string) int {
		t.Helper()
		pids := runningOf(program)
		if len(pids) != 1 {
			t.Fatalf("of %s there are the processes %v, want one", program, pids)
		}
		return pids[0]
	}
	server := "- {name: server, image: " + busybox + ", command: [httpd, -f, -p, '127.0.0.1:8080', -h, /etc]}\n"
	script := "until wget -q -O- 127.0.0.1:8080/hostname; do sleep 0.05; done; " + sleepScript
	paired := pod{Name: "twin", Script: script, Spec: "restartPolicy: Always\nruntimeClassName: twin", More: server}
	s.apply(t, paired,
		pod{Name: "other", Script: sleepScript, Spec: "restartPolicy: Always\nruntimeClassName: other\nshareProcessNamespace: true", More: server},
		pod{Name: "ends", Script: "exit 5", Spec: "runtimeClassName: twin"})
	made := s.until(t, "twin", "ready", ready)
	s.until(t, "other", "ready", ready)
	s.untilLog(t, "twin", "twin")
	if end := app(s.until(t, "ends", "failed", phase(v1.PodFailed))).State.Terminated; end == nil || end.ExitCode != 5 {
		t.Errorf("a container that exits with 5 under a shim: %v", end)
	}
	for range 3 { // a shim too many is no fault, see lone; one for each container is
		if s.lone(t, made.UID, "", "app", "server") {
			break
		}
		s.must(t, "delete", "pod", "twin")
		s.apply(t, paired)
		made = s.until(t, "twin", "ready", ready)
	}
	eventually(t, func() error {
		if n := len(runningOf(twin)); n != 1 {
			return fmt.Errorf("%d shims for one pod of two containers and one that has ended", n)
		}
		return nil
	})
	first := one(twin)
	all := s.mustTasks(t)
	for _, name := range []string{"", "app", "server"} {
		if id := status.ContainerID(made.UID, name, 0); parent(t, all[id].pid) != first {
			t.Errorf("container %q was not made by the shim of its sandbox", name)
		}
	}
	if out := s.must(t, "exec", "other", "-c", "app", "--", "ps"); !strings.Contains(out, "httpd") || !strings.Contains(out, "/pause") {
		t.Errorf("with shareProcessNamespace a container sees\n%s", out)
	}

	t.Run("refused", func(t *testing.T) {
		for name, want := range map[string]struct{ spec, message string }{
			"host":  {"runtimeClassName: twin\nhostNetwork: true", "runtime for \"twin\": a shim gives each pod namespaces of its own: hostNetwork, hostPID and hostIPC are not to be had with it"},
			"users": {"runtimeClassName: twin\nhostUsers: false", "hostUsers: false: the shim for \"twin\" is not known to make user namespaces"},
			"none":  {"runtimeClassName: none", "runtime for \"none\": containerd-shim-none-v1: is not in "},
		} {
			p := sleeper(name)
			p.Spec = want.spec
			s.apply(t, p)
			if got := s.event(t, name, "FailedCreatePodSandBox"); !strings.HasPrefix(got, "Failed to create pod sandbox: "+want.message) {
				t.Errorf("pod %s: event FailedCreatePodSandBox %q", name, got)
			}
			s.must(t, "delete", "pod", name)
		}
	})

	before := s.mustTasks(t)
	s.Kill()
	lost := lonely(t, s, twin)
	s.Restart(path)
	eventually(t, func() error { return ended(lost) })
	must(t, syscall.Kill(s.service(t, "containerd/process.json"), syscall.SIGKILL))
	eventually(t, func() error {
		_, _, code := s.Podctl("exec", "twin", "-c", "app", "--", "true")
		return exitIs(code, 0)
	})
	s.same(t, before, status.ContainerID(s.until(t, "ends", "there", phase(v1.PodFailed)).UID, "", 0))
	if one(twin) != first {
		t.Error("the pod has got another shim when podd and containerd were killed")
	}

	must(t, syscall.Kill(first, syscall.SIGKILL))
	made = s.until(t, "twin", "ready again", func(p *v1.Pod) bool {
		return ready(p) && container(p, "app").RestartCount == 1 && container(p, "server").RestartCount == 1
	})
	if second := parent(t, s.mustTasks(t)[status.ContainerID(made.UID, "app", 1)].pid); second == first || !slices.Contains(runningOf(twin), second) {
		t.Errorf("the next instance was made by process %d, which is no shim of that name", second)
	}
	s.must(t, "delete", "pod", "twin", "other", "ends")
	for _, program := range []string{twin, other} {
		eventually(t, func() error {
			if left := runningOf(program); len(left) > 0 {
				return fmt.Errorf("of %s the processes %v are left", program, left)
			}
			return nil
		})
	}
}

// lone tells whether one shim runs all of a pod's containers. containerd starts another one when its look for the first
// is held up for 100 ms (pkg/shim CanConnect), as a busy host may do.
func (s *suite) lone(t *testing.T, uid types.UID, names ...string) bool {
	t.Helper()
	all, shims := s.mustTasks(t), map[int]bool{}
	for _, name := range names {
		shims[parent(t, all[status.ContainerID(uid, name, 0)].pid)] = true
	}
	return len(shims) == 1
}

func exitIs(code, want int) error {
	if code != want {
		return fmt.Errorf("exit code %d, want %d", code, want)
	}
	return nil
}

// lonely starts a shim that containerd knows nothing of, as one that was killed while it started it leaves it.
func lonely(t *testing.T, s *suite, program string) process {
	t.Helper()
	bundle := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600))
	must(t, syscall.Mkfifo(filepath.Join(bundle, "log"), 0o600))
	log, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	known, sockets := runningOf(program), s.Dir+"/s"
	params, err := proto.Marshal(&bootstrap.BootstrapParams{InstanceID: "lonely", Namespace: s.Namespace, ContainerdGrpcAddress: s.ContainerdSocket,
		ContainerdTtrpcAddress: s.ContainerdSocket + ".ttrpc", ContainerdBinary: "true", SocketDir: &sockets})
	must(t, err)
	cmd := exec.Command(program, "-namespace", s.Namespace, "-address", s.ContainerdSocket, "-publish-binary", "true", "-id", "lonely", "start")
	cmd.Dir, cmd.Stdin = bundle, bytes.NewReader(params)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("start a shim: %v\n%s", err, out)
	}
	for _, pid := range runningOf(program) {
		if !slices.Contains(known, pid) {
			began, err := startOf(pid)
			must(t, err)
			return process{pid: pid, began: began}
		}
	}
	t.Fatalf("no shim was started: %s", out)
	return process{}
}
