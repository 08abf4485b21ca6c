//go:build host

package harness

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"podd/runtime/bundle"
)

// TestOracleSeesEveryLeak plants one leak of each class and expects every one in the difference, and none without them.
// An oracle that overlooks a class would let every other test pass.
func TestOracleSeesEveryLeak(t *testing.T) {
	s := leaky(t)
	rules := fakeIptables(t)
	ctx := namespaces.WithNamespace(t.Context(), s.Namespace)
	before, err := Look(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Look(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(again); len(diff) > 0 {
		t.Fatalf("nothing was planted, but there is more:\n%s", strings.Join(diff, "\n"))
	}
	plant := []struct {
		class string // what the line in the difference begins with
		plant func(*testing.T, context.Context, Scope)
	}{
		{"mount: tmpfs on " + s.Root, plantMount},
		{"netns or other namespace pin: " + s.State, plantPin},
		{"bridge: ", plantBridge},
		{"link: veth", plantVeth},
		{"address or CNI result: ", plantFile(s.Root + "/cni/networks/podd/10.85.0.7")},
		{"file: " + s.Root + "/pods/u-1/volumes", plantFile(s.Root + "/pods/u-1/volumes/data")},
		{"file: " + s.State + "/pods/u-1", plantFile(s.State + "/pods/u-1/marker")},
		{"file: " + s.LogDir + "/pods/default_web_u-1", plantFile(s.LogDir + "/pods/default_web_u-1/app/0.log")},
		{"file: " + s.Root + "/history/old.jsonl", plantHistories},
		{"file: " + s.Root + "/history/open.jsonl", nil}, {"file: " + s.Root + "/history/large.jsonl", nil}, {"file: " + s.Root + "/history/half.new", nil},
		{"nft table: ", plantTable},
		{"nft chain: ", nil}, {"nft rule: ", nil}, {"nft element: ", nil}, // planted with the table
		{"iptables rule: iptables-legacy-save -A CNI-HOSTPORT-DNAT", plantRule(rules)},
		{"cgroup: ", plantCgroups},
		{"fifo: " + s.State + "/fifo/", plantFIFO},
		{"containerd lease: leak", plantLease},
		{"containerd snapshot: leak", plantSnapshot},
		{"containerd ingest: leak", plantIngest},
		{"containerd container: leak", plantTask},
		{"containerd task: leak", nil}, {"shim: ", nil}, {"process of a pod: ", nil}, // planted with the container
		{"runc: runc ", plantRunc},
		{"descriptor of podd: " + s.Root, plantDescriptor},
		{"goroutine of podd: podd/test/harness.plantGoroutine", plantGoroutine},
	}
	for _, p := range plant {
		if p.plant != nil {
			p.plant(t, ctx, s)
		}
	}
	after, err := Look(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	diff := before.Diff(after)
	t.Logf("planted leaks, as they are shown:\n%s", strings.Join(diff, "\n"))
	for _, p := range plant {
		found := false
		for _, line := range diff {
			found = found || strings.HasPrefix(line, p.class)
		}
		if !found {
			t.Errorf("the oracle does not see %q", p.class)
		}
	}
	for _, line := range diff {
		if strings.HasSuffix(line, "/good.jsonl") {
			t.Errorf("a history that may stay counts as a leak: %s", line)
		}
	}
	if gone := after.Diff(before); len(gone) > 0 {
		t.Errorf("things that vanished count as leaks:\n%s", strings.Join(gone, "\n"))
	}
}

// leaky is the scope of a podd that is not there, with a real containerd of its own.
func leaky(t *testing.T) Scope {
	bin := os.Getenv("PODD_BUNDLE")
	if bin == "" {
		root, err := ModuleRoot()
		if err != nil {
			t.Fatal(err)
		}
		bin = filepath.Join(root, "libexec/podd")
	}
	dir := t.TempDir()
	state, err := os.MkdirTemp("/run", "po")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(state)
	o := bundle.Options{BinDir: bin, StateDir: dir + "/root", RunDir: state, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	b := bundle.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		limit, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := bundle.Stop(limit, o); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(state)
	})
	ready, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err := b.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return Scope{
		Root: dir + "/root", State: state, LogDir: dir + "/log", CgroupParent: "/" + name, Bridge: name, Table: name, Namespace: name,
		Containerd: b.ContainerdSocket(), Pid: os.Getpid(),
		Goroutines: func() (map[string]int, error) {
			var dump bytes.Buffer
			if err := pprof.Lookup("goroutine").WriteTo(&dump, 2); err != nil {
				return nil, err
			}
			return parseGoroutines(dump.Bytes())
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func plantMount(t *testing.T, _ context.Context, s Scope) {
	dir := s.Root + "/pods/u-1/mem ory" // the kernel escapes the space
	must(t, os.MkdirAll(dir, 0o700))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
}

func plantPin(t *testing.T, _ context.Context, s Scope) {
	pin := s.State + "/netns/u-1"
	plantFile(pin)(t, t.Context(), s)
	must(t, unix.Mount("/proc/self/ns/net", pin, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(pin, 0)) })
}

func plantBridge(t *testing.T, _ context.Context, s Scope) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = s.Bridge
	br := &netlink.Bridge{LinkAttrs: attrs}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { must(t, netlink.LinkDel(br)) })
}

func plantVeth(t *testing.T, _ context.Context, s Scope) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = s.Bridge + "v"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: s.Bridge + "w"}
	must(t, netlink.LinkAdd(pair))
	t.Cleanup(func() { must(t, netlink.LinkDel(pair)) })
}

func plantFile(path string) func(*testing.T, context.Context, Scope) {
	return func(t *testing.T, _ context.Context, _ Scope) {
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, nil, 0o600))
	}
}

// plantHistories writes histories of pods that are too old, readable to others or too long, half of one, and one that may be there.
func plantHistories(t *testing.T, _ context.Context, s Scope) {
	for name, size := range map[string]int{"good.jsonl": 10, "old.jsonl": 10, "open.jsonl": 10, "large.jsonl": 400 << 10, "half.new": 10} {
		path := filepath.Join(s.Root, "history", name)
		plantFile(path)(t, t.Context(), s)
		must(t, os.WriteFile(path, make([]byte, size), 0o600))
		must(t, os.Chmod(path, 0o600))
	}
	longAgo := time.Now().Add(-2 * time.Hour)
	must(t, os.Chtimes(filepath.Join(s.Root, "history", "old.jsonl"), longAgo, longAgo))
	must(t, os.Chmod(filepath.Join(s.Root, "history", "open.jsonl"), 0o644))
}

func plantTable(t *testing.T, _ context.Context, s Scope) {
	c, err := nftables.New()
	must(t, err)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: s.Bridge})
	chain := c.AddChain(&nftables.Chain{Name: "leak", Table: table})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain})
	set := &nftables.Set{Table: table, Name: "ports", KeyType: nftables.TypeIPAddr}
	must(t, c.AddSet(set, []nftables.SetElement{{Key: net.IPv4(10, 85, 0, 7).To4()}}))
	must(t, c.Flush())
	t.Cleanup(func() {
		c.DelTable(table)
		must(t, c.Flush())
	})
}

// fakeIptables makes a program that lists the rules in a file; a host may have none of those that list its own.
func fakeIptables(t *testing.T) (rules string) {
	bin := t.TempDir()
	rules = filepath.Join(bin, "rules")
	must(t, os.WriteFile(rules, []byte("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ELSEWHERE\nCOMMIT\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(bin, "iptables-legacy-save"), []byte("#!/bin/sh\nexec cat "+rules+"\n"), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return rules
}

func plantRule(rules string) func(*testing.T, context.Context, Scope) {
	return func(t *testing.T, _ context.Context, _ Scope) {
		f, err := os.OpenFile(rules, os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.WriteString("-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.85.0.7:80\n")
		must(t, errors.Join(err, f.Close()))
	}
}

// plantRunc runs what goes by the name of runc, with the arguments of a start that hangs.
func plantRunc(t *testing.T, _ context.Context, s Scope) {
	in, out, err := os.Pipe()
	must(t, err)
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"runc", "-c", "read end", "--root", s.State + "/runc", "start", "leak"}, Stdin: in}
	must(t, cmd.Start())
	must(t, in.Close())
	t.Cleanup(func() { must(t, errors.Join(out.Close(), ignoreExit(cmd.Wait()))) })
}

// ignoreExit is nil for a program that ended, whatever its code.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func plantCgroups(t *testing.T, _ context.Context, s Scope) {
	list, err := mounts()
	must(t, err)
	for _, m := range list {
		if m.fstype != "cgroup" && m.fstype != "cgroup2" {
			continue
		}
		top := filepath.Join(m.point, s.CgroupParent)
		must(t, os.MkdirAll(filepath.Join(top, "burstable", "podu-1"), 0o755))
		t.Cleanup(func() {
			for _, dir := range []string{"burstable/podu-1", "burstable", ""} {
				must(t, unix.Rmdir(filepath.Join(top, dir)))
			}
		})
	}
}

func plantFIFO(t *testing.T, _ context.Context, s Scope) {
	must(t, os.MkdirAll(s.State+"/fifo", 0o700))
	must(t, unix.Mkfifo(s.State+"/fifo/u-1-stdout", 0o600))
}

func dial(t *testing.T, s Scope) *client.Client {
	c, err := client.New(s.Containerd)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func plantSnapshot(t *testing.T, ctx context.Context, s Scope) {
	ctx = leases.WithLease(ctx, "leak") // or it is garbage at once
	_, err := dial(t, s).SnapshotService("overlayfs").Prepare(ctx, "leak", "")
	must(t, err)
}

func plantLease(t *testing.T, ctx context.Context, s Scope) {
	_, err := dial(t, s).LeasesService().Create(ctx, leases.WithID("leak"))
	must(t, err)
}

func plantIngest(t *testing.T, ctx context.Context, s Scope) {
	w, err := content.OpenWriter(ctx, dial(t, s).ContentStore(), content.WithRef("leak"))
	must(t, err)
	_, err = w.Write([]byte("half a layer"))
	must(t, err)
	must(t, w.Close())
}

// plantTask runs a container, whose task has a shim and a process in a cgroup below the parent.
func plantTask(t *testing.T, ctx context.Context, s Scope) {
	root := t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	must(t, err)
	must(t, os.WriteFile(root+"/busybox", busybox, 0o755))
	for _, dir := range []string{"proc", "dev", "sys", "run"} {
		must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	c := dial(t, s)
	ctr, err := c.NewContainer(ctx, "leak", client.WithNewSpec(oci.WithRootFSPath(root), oci.WithProcessArgs("/busybox", "sleep", "1000"),
		oci.WithCgroup(s.CgroupParent+"/burstable/podu-1/leak")))
	must(t, err)
	task, err := ctr.NewTask(ctx, cio.NullIO)
	must(t, err)
	must(t, task.Start(ctx))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		_, err := task.Delete(ctx, client.WithProcessKill)
		must(t, err)
		must(t, ctr.Delete(ctx))
	})
}

func plantDescriptor(t *testing.T, _ context.Context, s Scope) {
	f, err := os.Create(s.Root + "/held")
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
}

func plantGoroutine(t *testing.T, _ context.Context, _ Scope) {
	end := make(chan struct{})
	go func() { <-end }()
	t.Cleanup(func() { close(end) })
}
