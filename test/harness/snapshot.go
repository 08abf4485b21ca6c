package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
)

// Scope says what belongs to one podd, so that two of them on a host do not see each other's things.
type Scope struct {
	Root, State, LogDir string // podd's directories; State has containerd's below it
	CgroupParent        string // below the mount point of each hierarchy
	Bridge, Table       string
	Containerd          string // socket; empty: containerd is not asked
	Namespace           string // in containerd
	Pid                 int    // of podd, for its file descriptors; 0: none
	Goroutines          func() (map[string]int, error)
}

// Snapshot is what there was at one instant: for each class of things that can leak, what there is and how often.
type Snapshot map[string]map[string]int

func (s Snapshot) add(class, item string) {
	if s[class] == nil {
		s[class] = map[string]int{}
	}
	s[class][item]++
}

// Diff lists what b has over a, one line for each, sorted: what leaked between the two.
func (s Snapshot) Diff(b Snapshot) []string {
	var lines []string
	for class, items := range b {
		for item, n := range items {
			if more := n - s[class][item]; more == 1 {
				lines = append(lines, class+": "+item)
			} else if more > 1 {
				lines = append(lines, fmt.Sprintf("%s: %s (%d times)", class, item, more))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// Look lists everything of scope that can leak. It changes nothing. What cannot be listed is an error, never "nothing".
func Look(ctx context.Context, scope Scope) (Snapshot, error) {
	s := Snapshot{}
	return s, errors.Join(
		s.mounts(scope), s.links(scope), s.nft(scope), s.iptables(ctx), s.cgroups(scope), s.processes(scope), s.files(scope),
		s.containerd(ctx, scope), s.descriptors(scope), s.goroutines(scope))
}

// mounts are all mounts below podd's directories: volumes, root file systems, /dev/shm, pinned namespaces.
func (s Snapshot) mounts(scope Scope) error {
	list, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range list {
		switch {
		case m.fstype == "nsfs" && below(m.point, scope.State):
			s.add("netns or other namespace pin", m.point)
		case below(m.point, scope.Root, scope.State, scope.LogDir):
			s.add("mount", m.fstype+" on "+m.point)
		case strings.Contains(m.options, "upperdir="+scope.Root+"/"):
			s.add("mount", m.fstype+" on "+m.point)
		}
	}
	return nil
}

type mount struct{ root, point, fstype, options string }

// mounts reads /proc/self/mountinfo; see proc_pid_mountinfo(5).
func mounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []mount
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			return nil, fmt.Errorf("read mounts: strange line %q", line)
		}
		point, _ := strconv.Unquote(`"` + l[4] + `"`) // spaces are octal escapes
		list = append(list, mount{root: l[3], point: point, fstype: r[0], options: r[2]})
	}
	return list, nil
}

// below tells whether path is one of dirs or in one of them.
func below(path string, dirs ...string) bool {
	for _, dir := range dirs {
		if dir != "" && (path == dir || strings.HasPrefix(path, dir+"/")) {
			return true
		}
	}
	return false
}

// links are the bridge, its ports, the ends of pairs that are no longer in any bridge, and what the bandwidth plugin makes.
func (s Snapshot) links(scope Scope) error {
	list, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // something changed meanwhile
		list, err = netlink.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	bridge := -1
	for _, l := range list {
		if l.Attrs().Name == scope.Bridge {
			bridge = l.Attrs().Index
			s.add("bridge", scope.Bridge)
		}
	}
	for _, l := range list {
		a := l.Attrs()
		if a.MasterIndex == bridge || l.Type() == "veth" && a.MasterIndex == 0 || l.Type() == "ifb" && strings.HasPrefix(a.Name, "bwp") {
			s.add("link", l.Type()+" "+a.Name)
		}
	}
	return nil
}

// nft are podd's own table and those that CNI plugins make: chains with their number of rules, and the elements of all
// sets and maps.
func (s Snapshot) nft(scope Scope) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list nft chains: %w", err)
	}
	ours := func(t *nftables.Table) bool { return t.Name == scope.Table || strings.HasPrefix(t.Name, "cni") }
	for _, chain := range chains {
		if !ours(chain.Table) {
			continue
		}
		name := fmt.Sprintf("%d %s %s", chain.Table.Family, chain.Table.Name, chain.Name)
		s.add("nft chain", name)
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("list nft rules: %w", err)
		}
		for range rules {
			s.add("nft rule", name)
		}
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	for _, table := range tables {
		if !ours(table) {
			continue
		}
		s.add("nft table", fmt.Sprintf("%d %s", table.Family, table.Name))
		sets, err := c.GetSets(table)
		if err != nil {
			return fmt.Errorf("list nft sets: %w", err)
		}
		for _, set := range sets {
			elements, err := c.GetSetElements(set)
			if err != nil {
				return fmt.Errorf("list nft set %s: %w", set.Name, err)
			}
			for _, e := range elements {
				s.add("nft element", fmt.Sprintf("%d %s %s %x", table.Family, table.Name, set.Name, e.Key))
			}
		}
	}
	return nil
}

// iptables are the rules that the iptables programs know, where such programs are: those of the nft kind show up as
// nft tables too, those of the legacy kind only here.
func (s Snapshot) iptables(ctx context.Context) error {
	for _, name := range []string{"iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, path).Output()
		if err != nil {
			return fmt.Errorf("list rules with %s: %w", name, err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") {
				s.add("iptables rule", name+" "+strings.TrimSpace(line))
			}
		}
	}
	return nil
}

// cgroups are the directories below the parent in every hierarchy, v1 and v2, but for those of the QoS classes and what
// holds them, which stay.
func (s Snapshot) cgroups(scope Scope) error {
	list, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.fstype != "cgroup" && m.fstype != "cgroup2" {
			continue
		}
		top := filepath.Join(m.point, scope.CgroupParent)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.IsDir() || path == top {
				return err
			}
			switch d.Name() {
			case "kubepods", "besteffort", "burstable", "guaranteed":
			default:
				s.add("cgroup", path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
	}
	return nil
}

// processes are the shims of podd's containerd, the plugins and runc at work for it, and whatever runs in a cgroup of a
// pod.
func (s Snapshot) processes(scope Scope) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == scope.Pid {
			continue
		}
		command, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		words := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		line := strings.Join(words, " ")
		switch base := filepath.Base(words[0]); {
		case strings.HasPrefix(base, "containerd-shim"):
			if strings.Contains(line, scope.State+"/") || slices.Contains(words, scope.Containerd) && scope.Containerd != "" {
				s.add("shim", strings.Join(words[1:], " "))
			}
			continue
		case base == "runc" && strings.Contains(line, scope.State+"/"):
			s.add("runc", line)
		}
		groups, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err == nil && scope.CgroupParent != "" && bytes.Contains(groups, []byte(":"+scope.CgroupParent+"/")) {
			s.add("process of a pod", fmt.Sprintf("%d %s", pid, line))
		}
	}
	return nil
}

// files are what pods leave below podd's directories, but for their histories, and all FIFOs. What podd and its containerd keep for themselves
// is left out, and so is what the address plugin remembers without holding it.
func (s Snapshot) files(scope Scope) error {
	histories := 0
	for _, top := range []string{scope.Root, scope.State, scope.LogDir} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(top, path)
			if d.IsDir() && rel == "containerd" {
				return filepath.SkipDir
			}
			name := d.Name()
			switch {
			case d.Type()&fs.ModeNamedPipe != 0:
				s.add("fifo", path)
			case !strings.Contains(rel, "/") && top != scope.LogDir: // state.db, sockets, the directories themselves
			case name == "lock" || strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, "last_reserved_ip"):
			case strings.HasPrefix(rel, "cni/") && d.IsDir():
			case strings.HasPrefix(rel, "cni/"):
				s.add("address or CNI result", path)
			case top == scope.Root && filepath.Dir(rel) == "history" && mayStay(path, d):
				if histories++; histories > historyFiles {
					s.add("file", path)
				}
			case strings.HasPrefix(rel, "pause/") || strings.HasPrefix(rel, "bin/"):
			case rel == "pods" || rel == "containers" || rel == "runc/"+scope.Namespace || rel == "exec/exec": // directories that stay
			default:
				s.add("file", path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list files: %w", err)
		}
	}
	// The runtime's FIFOs and bundles of tasks are in containerd's directories.
	return s.fifos(filepath.Join(scope.State, "containerd"))
}

// Bounds of the histories of pods, as docs/history.md has them, with what may come until the next sweep.
const (
	historyFiles = 2000
	historyFile  = 300 << 10
	historyTime  = time.Hour + 2*time.Minute
)

// mayStay tells whether a file is the history of a pod as it may be left behind: a bounded one of the last hour that nobody
// else can read.
func mayStay(path string, d fs.DirEntry) bool {
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) { // its hour has just ended
		return true
	}
	return err == nil && strings.HasSuffix(path, ".jsonl") && info.Mode() == 0o600 && info.Size() <= historyFile && time.Since(info.ModTime()) < historyTime
}

func (s Snapshot) fifos(top string) error {
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "rootfs" {
			return filepath.SkipDir
		}
		if err == nil && d.Type()&fs.ModeNamedPipe != 0 {
			s.add("fifo", path)
		}
		return nil
	})
}

// containerd is asked through its own client. The snapshots of image layers are committed ones and stay.
func (s Snapshot) containerd(ctx context.Context, scope Scope) error {
	if scope.Containerd == "" {
		return nil
	}
	c, err := client.New(scope.Containerd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx = namespaces.WithNamespace(ctx, scope.Namespace)
	containers, err := c.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, x := range containers {
		s.add("containerd container", x.ID)
	}
	running, err := c.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	for _, t := range running.Tasks {
		s.add("containerd task", fmt.Sprintf("%s (pid %d)", t.ID, t.Pid))
	}
	err = c.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			s.add("containerd snapshot", i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	leases, err := c.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range leases {
		s.add("containerd lease", l.ID)
	}
	return s.ingests(ctx, c.ContentStore())
}

func (s Snapshot) ingests(ctx context.Context, store content.Store) error {
	list, err := store.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list ingests: %w", err)
	}
	for _, i := range list {
		s.add("containerd ingest", i.Ref)
	}
	return nil
}

// descriptors are podd's open files by what they are open on; sockets and the like count by kind.
func (s Snapshot) descriptors(scope Scope) error {
	if scope.Pid == 0 {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", scope.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list descriptors of podd: %w", err)
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if kind, _, ok := strings.Cut(target, ":["); ok {
			target = kind
		}
		s.add("descriptor of podd", target)
	}
	return nil
}

// goroutines are podd's own, by the function that each was started from.
func (s Snapshot) goroutines(scope Scope) error {
	if scope.Goroutines == nil {
		return nil
	}
	all, err := scope.Goroutines()
	if err != nil {
		return err
	}
	for where, n := range all {
		for range n {
			s.add("goroutine of podd", where)
		}
	}
	return nil
}

// parseGoroutines reads a text dump as runtime/pprof's goroutine profile writes it with debug=2, and counts by creator:
// the stack of a goroutine changes from one instant to the next, who started it does not. Of one that a WaitGroup has started
// it is the function that was given to that.
func parseGoroutines(dump []byte) (map[string]int, error) {
	byCreator := map[string]int{}
	sc := bufio.NewScanner(bytes.NewReader(dump))
	sc.Buffer(nil, 1<<20)
	open, first, above, last := false, "", "", "" // above and last: the two outermost functions so far
	finish := func(by string) {
		if open {
			byCreator[by]++
		}
		open = false
	}
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "goroutine "):
			finish(first)
			open, first, above, last = true, "", "", ""
		case open && strings.HasPrefix(line, "created by "):
			by, _, _ := strings.Cut(strings.TrimPrefix(line, "created by "), " in goroutine")
			if by == "sync.(*WaitGroup).Go" && above != "" {
				by = above[:max(0, strings.LastIndexByte(above, '('))]
			}
			finish(by)
		case open && line != "" && line[0] != '\t':
			if first == "" {
				first, _, _ = strings.Cut(line, "(")
			}
			above, last = last, line
		}
	}
	finish(first)
	if len(byCreator) == 0 {
		return nil, errors.New("read goroutines: none in the answer")
	}
	return byCreator, sc.Err()
}
