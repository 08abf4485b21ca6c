package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"podd/runtime/bundle"
)

// scope is everything of this podd, while it runs.
func (p *Podd) scope() Scope {
	p.idle.Lock()
	for _, closeIdle := range p.idle.close {
		closeIdle()
	}
	p.idle.Unlock()
	s := p.hostScope()
	s.Root, s.State, s.LogDir = p.Root, p.State, p.LogDir
	s.Containerd = p.ContainerdSocket
	s.Pid, s.Goroutines = p.Pid(), p.goroutines
	return s
}

// hostScope is what of this podd is on the host outside its directories.
func (p *Podd) hostScope() Scope {
	return Scope{
		Root: p.Root, State: p.State, LogDir: p.LogDir, CgroupParent: p.CgroupParent, Bridge: p.Bridge, Table: p.Table, Namespace: p.Namespace,
	}
}

// kept are the classes that come with the first pod and stay: one of each, however many pods there were.
var kept = []string{"bridge", "nft table", "nft chain", "nft rule"}

// Rebase makes what there is now the state that CheckLeaks compares with: after an image was loaded, for example.
func (p *Podd) Rebase() {
	p.t.Helper()
	// podd may be ready a moment before it follows containerd's events, the manifests and all objects, and on a busy host it has to
	// begin again with the events; a baseline without what follows them, or with half of it, would be too small.
	var s Snapshot
	err := settle(func(ctx context.Context) (bool, error) {
		now, err := Look(ctx, p.scope())
		if err != nil {
			return false, err
		}
		before := s["goroutine of podd"]
		s = now
		for _, part := range []string{"grpcEventsProxy", "grpc.newClientStreamWithParams", "fsnotify.newBackend", "keepMeaning"} {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(now["goroutine of podd"])), func(by string) bool { return strings.Contains(by, part) }) {
				return false, nil
			}
		}
		return maps.Equal(before, now["goroutine of podd"]), nil
	})
	if s == nil {
		p.t.Fatal(err)
	}
	p.baseline = s
}

// CheckLeaks fails the test if there is more now than at the last Rebase; it waits some seconds for what goes by itself.
func (p *Podd) CheckLeaks() {
	p.t.Helper()
	var diff []string
	err := settle(func(ctx context.Context) (bool, error) {
		now, err := Look(ctx, p.scope())
		if err != nil {
			return false, err
		}
		for _, class := range kept {
			delete(now, class)
		}
		diff = p.baseline.Diff(now)
		return len(diff) == 0, nil
	})
	if err != nil {
		p.t.Errorf("leak oracle: %v", err)
	}
	if len(diff) > 0 {
		p.t.Errorf("left behind with podd running:\n  %s", strings.Join(diff, "\n  "))
	}
}

// settle asks until the answer is yes or settleLimit is over; the last error is returned. It asks ever more rarely: what it
// asks is mostly all that the host has, and the answer has to come from others, who need the processor for it.
func settle(ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(wait*3/2, time.Second/4) {
		done, err := ask(ctx)
		if done && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// finish is the end of every test: pods deleted, leaks looked for, everything ended, leaks looked for again.
func (p *Podd) finish() {
	t := p.t
	if p.cmd == nil {
		p.sweep()
		return
	}
	select {
	case <-p.exited:
		p.Restart()
	default:
	}
	if err := p.DeletePods(); err != nil {
		t.Error(err)
	} else if p.baseline != nil {
		p.awaitEnds()
		p.CheckLeaks()
	}
	p.Terminate()
	if err := p.stopBundle(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("podd's log:\n%s", p.tail())
	}
	p.checkHost()
	p.sweep()
}

// awaitEnds waits until podd has cleared up behind the pods whose objects are gone. The oracle does not see those that
// were there at the last Rebase.
func (p *Podd) awaitEnds() {
	dir := filepath.Join(p.State, "pods")
	var left []os.DirEntry
	var err error
	for before := math.MaxInt; ; before = len(left) { // there may be many: as long as they become fewer
		err = settle(func(context.Context) (bool, error) {
			var err error
			if left, err = os.ReadDir(dir); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return len(left) == 0, err
		})
		if len(left) == 0 || len(left) >= before {
			break
		}
	}
	if err != nil || len(left) > 0 {
		p.t.Errorf("pods are deleted, but podd has not cleared up: %v %v", left, err)
	}
}

// checkHost compares the host, podd and its bundle being gone, with what it was before them. Bridge and rules stay for
// podd's next start, as do the files that were there before the first pod.
func (p *Podd) checkHost() {
	var diff []string
	err := settle(func(ctx context.Context) (bool, error) {
		now, err := Look(ctx, p.hostScope())
		if err != nil {
			return false, err
		}
		for _, class := range kept {
			delete(now, class)
		}
		for item := range p.baseline["file"] {
			delete(now["file"], item)
		}
		diff = p.before.Diff(now)
		return len(diff) == 0, nil
	})
	if err != nil {
		p.t.Errorf("leak oracle: %v", err)
	}
	if len(diff) > 0 {
		p.t.Errorf("left behind on the host:\n  %s", strings.Join(diff, "\n  "))
	}
}

func (p *Podd) stopBundle() error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	o := bundle.Options{StateDir: p.Root, RunDir: p.State}
	if p.external {
		o.ContainerdAddress = p.ContainerdSocket
	}
	return bundle.Stop(ctx, o)
}

// sweep takes away what a podd keeps for its next start, and, so that one failed test does not fail the next ones too,
// whatever a failed one left: it has been reported by then.
func (p *Podd) sweep() {
	for _, pid := range p.strays() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if l, err := netlink.LinkByName(p.Bridge); err == nil {
		if ports, err := netlink.LinkList(); err == nil {
			for _, port := range ports {
				if port.Attrs().MasterIndex == l.Attrs().Index {
					_ = netlink.LinkDel(port)
				}
			}
		}
		if err := netlink.LinkDel(l); err != nil {
			p.t.Errorf("remove bridge %s: %v", p.Bridge, err)
		}
	}
	p.dropTables()
	p.unmount()
	if err := p.removeCgroups(); err != nil {
		p.t.Error(err)
	}
	for _, dir := range []string{p.State, p.Dir} {
		if err := os.RemoveAll(dir); err != nil {
			p.t.Errorf("remove %s: %v", dir, err)
		}
	}
}

// strays are the shims and processes that a failed test left.
func (p *Podd) strays() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil || pid == os.Getpid() {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		groups, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		shim := strings.Contains(string(command), "containerd-shim") && strings.Contains(string(command), p.State+"/")
		if shim || strings.Contains(string(groups), ":"+p.CgroupParent+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *Podd) dropTables() {
	c, err := nftables.New()
	if err != nil {
		p.t.Error(err)
		return
	}
	tables, err := c.ListTables()
	if err != nil {
		p.t.Error(err)
		return
	}
	for _, t := range tables {
		if t.Name == p.Table {
			c.DelTable(t)
		}
	}
	if err := c.Flush(); err != nil {
		p.t.Errorf("remove nft table %s: %v", p.Table, err)
	}
}

// unmount takes away what is mounted below podd's directories, the last mounted first.
func (p *Podd) unmount() {
	list, err := mounts()
	if err != nil {
		p.t.Error(err)
		return
	}
	for i := len(list) - 1; i >= 0; i-- {
		if below(list[i].point, p.Dir, p.State) {
			_ = unix.Unmount(list[i].point, unix.MNT_DETACH)
		}
	}
}

// removeCgroups removes the parent with all that is below it, the innermost first. Processes that were just killed may
// take a moment to leave.
func (p *Podd) removeCgroups() error {
	list, err := mounts()
	if err != nil {
		return err
	}
	return settle(func(context.Context) (bool, error) {
		var errs []error
		for _, m := range list {
			if m.fstype != "cgroup" && m.fstype != "cgroup2" {
				continue
			}
			var dirs []string
			_ = filepath.WalkDir(filepath.Join(m.point, p.CgroupParent), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dirs[i], err))
				}
			}
		}
		return len(errs) == 0, errors.Join(errs...)
	})
}
