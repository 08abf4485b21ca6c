//go:build host

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"podd/test/harness"
	"podd/test/hugepages"
)

// TestTeardown takes podd off the host: pods whose objects go at once, by what they say themselves or by force, are
// cleared up like others before podd ends.
func TestTeardown(t *testing.T) {
	t.Parallel()
	noHuge := hugepages.More(t, 1)
	s := start(t)
	s.running(t, sleeper("usual"))
	s.running(t, pod{Name: "talks", Container: `command: [sh, -c, "echo hello; sleep 1d"]`, Spec: "terminationGracePeriodSeconds: 1"})
	torn := func() {}
	if noHuge == nil {
		torn = s.hugePagesKilled(t)
	}
	for i := range 10 { // more than are cleared up while teardown looks once
		s.apply(t, pod{Name: fmt.Sprintf("no-time-%d", i), Container: "command: [sleep, infinity]", Spec: "terminationGracePeriodSeconds: 0"})
	}
	for i := range 10 {
		s.until(t, fmt.Sprintf("no-time-%d", i), "ready", ready)
	}
	s.running(t, pod{Name: "forced", Container: "command: [sleep, infinity]"})
	s.must(t, "delete", "pod", "forced", "--force", "--grace-period=0", "--wait=false")
	if len(s.whyOf(t, "forced").History) != 1 {
		t.Error("there is no history to take away")
	}
	refused := func(when string) {
		t.Helper()
		for _, flag := range []string{"--root=" + t.TempDir(), "--state=" + t.TempDir(), "--log-dir=/elsewhere", "--namespace=other", "--cgroup-parent=/other", "--bridge=other0", "--nft-table=other"} {
			name, _, _ := strings.Cut(flag, "=")
			if said, err := s.TryTeardown(flag, "--purge", "--listen="+s.Socket); err == nil || !strings.Contains(said, "was started with other flags, and nothing was done") || !strings.Contains(said, name+"=") {
				t.Errorf("teardown %s of a podd that %s: %v, %s", flag, when, err, said)
			}
		}
	}
	refused("runs")
	s.Terminate()
	refused("does not run")
	s.Restart()
	s.until(t, "usual", "ready", ready)
	followers := podctlFollows(t, s, map[string]string{"logs -f talks": "hello", "get pods -w -o name": "pod/usual"})
	s.Teardown()
	torn()
	for _, f := range followers {
		_ = f.cmd.Wait() // what it said is looked at
		if said := f.errs.String(); strings.Contains(said, "go on") && !strings.Contains(said, "unless podd teardown ends them") {
			t.Errorf("podctl %s during the teardown says that pods go on: %s", f.args, said)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Root, "history")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after teardown there are histories of pods: %v", err)
	}
	s.Restart()
	s.running(t, sleeper("again"))
}

// TestTeardownDirectories: a teardown that finds nothing makes no directory, and one that purges takes those away that podd has made
// on the way to its own. The start of this podd fails, which is enough for it to have made them.
func TestTeardownDirectories(t *testing.T) {
	t.Parallel()
	dir, name := t.TempDir(), fmt.Sprintf("pe%d", os.Getpid())
	flags := []string{"--root", dir + "/var/lib/podd", "--state", dir + "/run/podd", "--config-dir", dir + "/etc/podd", "--log-dir", dir + "/var/log",
		"--listen", dir + "/run/podd/podd.sock", "--bridge", name, "--namespace", name, "--cgroup-parent", "/" + name, "--nft-table", name,
		"--group", "root", "--tls-listen", "192.0.2.1:1"} // no address of this host
	podd := func(args ...string) (said string, err error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(harness.Built(t), "podd"), append(args, flags...)...).CombinedOutput()
		return string(out), err
	}
	nothing := func(after string) {
		t.Helper()
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s there are %v, %v", after, left, err)
		}
	}
	for _, args := range [][]string{{"teardown"}, {"teardown", "--purge"}} {
		if said, err := podd(args...); err != nil || !strings.HasPrefix(said, "nothing of podd was found: ") {
			t.Errorf("podd %v where nothing is: %v, %s", args, err, said)
		}
		nothing("after a teardown where nothing is")
	}
	if said, err := podd(); err == nil || !strings.Contains(said, "serve TLS (--tls-listen)") {
		t.Fatalf("podd: %v, %s", err, said)
	}
	if said, err := podd("teardown", "--purge"); err != nil || !strings.HasPrefix(said, "podd did not run\nremoved: ") {
		t.Errorf("podd teardown --purge: %v, %s", err, said)
	}
	nothing("after a purge")
}
