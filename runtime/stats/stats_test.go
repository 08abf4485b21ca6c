package stats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/api/usage"
)

// files makes files below a directory.
func files(t *testing.T, dir string, all map[string]string) {
	t.Helper()
	for name, content := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// groupV1 are a cgroup's files of v1, below the mount points.
func groupV1(path string, cpu time.Duration) map[string]string {
	out := map[string]string{}
	for name, content := range map[string]string{
		"cpuacct/%s/cpuacct.usage":      fmt.Sprintln(cpu.Nanoseconds()),
		"cpuacct/%s/cpuacct.usage_user": "600\n", "cpuacct/%s/cpuacct.usage_sys": "400\n",
		"cpu/%s/cpu.stat":   "nr_periods 10\nnr_throttled 7\nthrottled_time 3000\n",
		"cpu/%s/cpu.shares": "512\n", "cpu/%s/cpu.cfs_quota_us": "20000\n", "cpu/%s/cpu.cfs_period_us": "100000\n",
		"memory/%s/memory.usage_in_bytes":       "1000\n",
		"memory/%s/memory.stat":                 "cache 1\nrss 1\ntotal_cache 300\ntotal_rss 500\ntotal_mapped_file 20\ntotal_swap 30\ntotal_pgfault 40\ntotal_pgmajfault 5\ntotal_inactive_file 250\n",
		"memory/%s/memory.limit_in_bytes":       "9223372036854771712\n",
		"memory/%s/memory.memsw.limit_in_bytes": "4096\n",
		"memory/%s/memory.max_usage_in_bytes":   "2000\n", "memory/%s/memory.failcnt": "3\n",
		"memory/%s/memory.kmem.usage_in_bytes": "60\n",
		"memory/%s/memory.oom_control":         "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"pids/%s/pids.current":                 "4\n", "pids/%s/pids.max": "max\n", "pids/%s/cgroup.procs": "1\n2\n",
		"blkio/%s/blkio.throttle.io_service_bytes_recursive": "253:0 Read 4096\n253:0 Write 8192\n253:0 Total 12288\nTotal 12288\n",
		"blkio/%s/blkio.throttle.io_serviced_recursive":      "253:0 Read 1\n253:0 Write 2\nTotal 3\n",
	} {
		out[fmt.Sprintf(name, path)] = content
	}
	return out
}

func treesV1(dir string) []Tree {
	var out []Tree
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		out = append(out, Tree{At: filepath.Join(dir, c), Controllers: []string{c}})
	}
	return out
}

func TestGroupV1(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, groupV1("a/b", 1000))
	s := New(Options{Trees: treesV1(dir)})
	g, ok := s.group("/a/b", true)
	if len(g.Devices) != 1 {
		t.Fatalf("devices: %+v", g.Devices)
	}
	g.Devices[0].Name = ""
	want := usage.Group{
		ID:     "/a/b",
		CPU:    usage.CPU{Usage: 1000, User: 600, System: 400, Periods: 10, Throttled: 7, ThrottledTime: 3000},
		Memory: usage.Memory{Usage: 1000, WorkingSet: 750, RSS: 500, Cache: 300, Mapped: 20, Kernel: 60, Swap: 30, Max: 2000, Faults: 40, MajorFaults: 5, Failures: 3, OOMKills: 2, SwapLimit: 4096},
		Limits: usage.Limits{Shares: 512, Quota: 20000, Period: 100000}, Processes: 2, Threads: 4,
		Devices: []usage.Device{{Major: 253, ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2}},
	}
	if got, want := fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", want); !ok || got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
	if _, ok := s.group("/a/c", true); ok {
		t.Error("a cgroup that is not there was measured")
	}
}

func TestGroupV2(t *testing.T) {
	dir := t.TempDir()
	files(t, filepath.Join(dir, "a"), map[string]string{
		"cpu.stat":    "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 10\nnr_throttled 7\nthrottled_usec 3\n",
		"cpu.weight":  "100\n",
		"cpu.max":     "max 100000\n",
		"memory.stat": "anon 500\nfile 300\nkernel 60\nfile_mapped 20\ninactive_file 250\npgfault 40\npgmajfault 5\n", "memory.current": "1000\n",
		"memory.max": "max\n", "memory.swap.current": "30\n", "memory.swap.max": "4096\n", "memory.peak": "2000\n",
		"memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n",
		"pids.current":  "4\n", "pids.max": "100\n", "cgroup.procs": "1\n2\n",
		"io.stat":         "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
		"cpu.pressure":    "some avg10=1.50 avg60=0.10 avg300=0.00 total=2000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
		"memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
	})
	s := New(Options{Trees: []Tree{{At: dir, V2: true}}})
	g, ok := s.group("/a", true)
	if len(g.Devices) != 1 {
		t.Fatalf("devices: %+v", g.Devices)
	}
	g.Devices[0].Name = ""
	want := usage.Group{
		ID:     "/a",
		CPU:    usage.CPU{Usage: 10 * time.Microsecond, User: 6 * time.Microsecond, System: 4 * time.Microsecond, Periods: 10, Throttled: 7, ThrottledTime: 3 * time.Microsecond},
		Memory: usage.Memory{Usage: 1000, WorkingSet: 750, RSS: 500, Cache: 300, Mapped: 20, Kernel: 60, Swap: 30, Max: 2000, Faults: 40, MajorFaults: 5, Failures: 3, OOMKills: 2, SwapLimit: 4096},
		Limits: usage.Limits{Shares: 2597, Period: 100000, Tasks: 100}, Processes: 2, Threads: 4,
		Devices:     []usage.Device{{Major: 253, ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2}},
		CPUStall:    usage.Stall{Known: true, Some: usage.Pressure{Total: 2 * time.Millisecond, Avg10: 1.5, Avg60: 0.1}, Full: usage.Pressure{Total: time.Millisecond}},
		MemoryStall: usage.Stall{Known: true},
	}
	if got, want := fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", want); !ok || got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
}

// world is a host with one pod.
func world(t *testing.T) (*Stats, string) {
	t.Helper()
	dir := t.TempDir()
	files(t, dir, groupV1("", time.Second))
	files(t, dir, groupV1("podd/pod1", 100*time.Millisecond))
	files(t, dir, groupV1("podd/pod1/c1", 100*time.Millisecond))
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "1"}, Spec: v1.PodSpec{NodeName: "here"}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "app", Image: "image", ContainerID: "containerd://c1",
		State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
	other := pod.DeepCopy()
	other.Name, other.Spec.NodeName = "b", "elsewhere"
	return New(Options{
		Pods: func() []*v1.Pod { return []*v1.Pod{other, pod} }, Node: "here", Trees: treesV1(dir), Parent: "/podd",
		Cgroup:  func(pod *v1.Pod) string { return "/podd/pod" + string(pod.UID) },
		Sandbox: func(uid string, attempt int) string { return fmt.Sprintf("sandbox%d", attempt) },
		Volume:  func(uid, name string) string { return filepath.Join(dir, "volumes", name) },
		Logs:    func(*v1.Pod, string) string { return filepath.Join(dir, "logs") },
		Root:    dir,
	}), dir
}

// A rate needs two looks. The first question for one waits for the second look; later ones do not, and the cgroup that
// was made anew under the same name starts again.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := world(t)
		ask := func(want usage.Want) (*usage.Snapshot, time.Duration) {
			begun := time.Now()
			found, err := s.Look(t.Context(), want)
			if err != nil || len(found.Pods) != 1 || len(found.Pods[0].Containers) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			return found, time.Since(begun)
		}
		work := func(cpu time.Duration) {
			for _, path := range []string{"podd/pod1", "podd/pod1/c1"} {
				files(t, dir, map[string]string{"cpuacct/" + path + "/cpuacct.usage": fmt.Sprintln(cpu.Nanoseconds())})
			}
		}
		if found, took := ask(usage.Want{}); found.Pods[0].CPU.Window != 0 || took != 0 {
			t.Errorf("the first look has a rate over %s, after %s", found.Pods[0].CPU.Window, took)
		}
		work(350 * time.Millisecond)
		found, took := ask(usage.Want{Rates: true})
		if c := found.Pods[0].Containers[0].CPU; took != shortly || c.Window != shortly || c.Rate != 0.5 {
			t.Errorf("first question for a rate: after %s, %.2f over %s", took, c.Rate, c.Window)
		}
		time.Sleep(10 * time.Second)
		work(2350 * time.Millisecond)
		found, took = ask(usage.Want{Rates: true})
		if c := found.Pods[0].CPU; took != 0 || c.Window != 10*time.Second || c.Rate != 0.2 {
			t.Errorf("second: after %s, %.2f over %s", took, c.Rate, c.Window)
		}
		if again, _ := ask(usage.Want{}); again != found {
			t.Error("a measurement does not serve for a second")
		}
		time.Sleep(10 * time.Second)
		work(time.Millisecond)
		if found, _ = ask(usage.Want{}); found.Pods[0].CPU.Window != 0 {
			t.Errorf("a new cgroup has a rate of %.2f", found.Pods[0].CPU.Rate)
		}
		time.Sleep(2 * stale)
		if found, took = ask(usage.Want{Rates: true}); took != shortly || found.Pods[0].CPU.Window != shortly {
			t.Errorf("after a long time: after %s, over %s", took, found.Pods[0].CPU.Window)
		}
	})
}

// A full measurement also serves who wants less, not the other way round.
func TestFull(t *testing.T) {
	s, dir := world(t)
	files(t, dir, groupV1("podd/pod1/sandbox1", time.Millisecond))
	less, err := s.Look(t.Context(), usage.Want{})
	if err != nil || less.Full || less.Pods[0].Sandbox != nil || less.Pods[0].Threads != 0 {
		t.Fatalf("%+v, %v", less, err)
	}
	full, err := s.Look(t.Context(), usage.Want{Full: true})
	if err != nil || !full.Full || full.Pods[0].Sandbox == nil || full.Pods[0].Sandbox.ContainerID != "sandbox1" || full.Pods[0].Processes != 4 {
		t.Fatalf("%+v, %v", full, err)
	}
	if again, _ := s.Look(t.Context(), usage.Want{}); again != full {
		t.Error("the full measurement does not serve")
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, map[string]string{"a": strings.Repeat("x", 100<<10), "d/b": strings.Repeat("x", 50<<10)})
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	files(t, outside, map[string]string{"big": strings.Repeat("x", 1<<20)})
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	used, inodes, err := Files(t.Context(), dir)
	if err != nil || inodes != 5 || used < 150<<10 || used > 250<<10 {
		t.Errorf("%d bytes, %d inodes, %v", used, inodes, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Files(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a count that was given up: %v", err)
	}
	if _, _, err := Files(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, _, err := Files(t.Context(), filepath.Join(dir, "link")); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to another directory: %v", err)
	}
	files(t, dir, map[string]string{strings.Repeat("d/", deepest) + "b": "hidden"})
	if _, _, err := Files(t.Context(), dir); !errors.Is(err, ErrTooDeep) {
		t.Errorf("a file below %d directories: %v", deepest, err)
	}
}

// A directory with more names than are read at a time is counted to its end.
func TestTreeOfManyFiles(t *testing.T) {
	const many = 3*namesAtOnce + 1
	dir := t.TempDir()
	for i := range many {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, inodes, err := Files(t.Context(), dir); err != nil || inodes != many+1 {
		t.Errorf("%d inodes, %v", inodes, err)
	}
}

// A directory that is exchanged for a link all the time never leads the count to what the link leads to.
func TestTreeThatChanges(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	files(t, outside, map[string]string{"big": strings.Repeat("x", 8<<20)})
	files(t, dir, map[string]string{"d/small": "x"})
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "link"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 500 {
		if used, _, err := Files(t.Context(), dir); err != nil || used > 1<<20 {
			t.Errorf("%d bytes, %v", used, err)
			break
		}
	}
	close(done)
	swapping.Wait()
}

// Files are counted beside the looks: once, and not again within a minute.
func TestDisks(t *testing.T) {
	s, dir := world(t)
	files(t, dir, map[string]string{"logs/0.log": strings.Repeat("x", 64<<10)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	look := func() usage.Disk {
		s.mu.Lock()
		s.last = nil
		s.mu.Unlock()
		found, err := s.Look(ctx, usage.Want{Full: true})
		if err != nil {
			t.Fatal(err)
		}
		return found.Pods[0].Containers[0].Logs
	}
	disk := look()
	for !disk.Known {
		disk = look()
	}
	if disk.Used < 64<<10 || disk.Inodes != 2 || disk.FS.Size == 0 {
		t.Errorf("%+v", disk)
	}
	files(t, dir, map[string]string{"logs/1.log": "x"})
	if again := look(); again.At != disk.At {
		t.Error("counted again at once")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUppers(t *testing.T) {
	const line = "1234 32 0:99 / %s rw,relatime shared:1 - overlay overlay rw,lowerdir=/a:/b,upperdir=%s,workdir=/w,uuid=on\n"
	mounts := fmt.Sprintf(line, "/run/podd/task/podd/c1/rootfs", "/var/snapshots/7/fs") +
		fmt.Sprintf(line, "/run/podd/task/podd/c2/rootfs", "/var/snapshots/8/fs") +
		fmt.Sprintf(line, "/elsewhere/c1/merged", "/var/snapshots/9/fs") +
		"26 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	got := uppers([]byte(mounts), map[string]bool{"c1": true})
	if len(got) != 1 || got["c1"] != "/var/snapshots/7/fs" {
		t.Errorf("%v", got)
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[string]uint64{"": 0, "12\n": 12, "max\n": 0, "-1\n": 0, "18446744073709551615": 0, "9223372036854771712": 9223372036854771712} {
		if got := number([]byte(in)); got != want {
			t.Errorf("number(%q) = %d", in, got)
		}
	}
}
