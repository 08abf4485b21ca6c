package stats

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"podd/api/usage"
)

// Tree is one mounted cgroup hierarchy.
type Tree struct {
	At          string
	Controllers []string // of v1; nil for v2
	V2          bool
}

// trees finds the directories of a cgroup: of v2 there is one, of v1 one for each controller.
type trees struct {
	v2       bool
	at       string            // of v2
	v1       map[string]string // mount point of a controller
	anywhere string            // a tree in which every cgroup is
}

func newTrees(all []Tree) trees {
	t := trees{v1: map[string]string{}}
	for _, tree := range all {
		if tree.V2 {
			t.v2, t.at, t.anywhere = true, tree.At, tree.At
		}
		for _, c := range tree.Controllers {
			t.v1[c] = tree.At
		}
	}
	if !t.v2 {
		t.anywhere = t.v1["cpuacct"]
		if m := t.v1["memory"]; t.anywhere == "" {
			t.anywhere = m
		}
	}
	return t
}

// dir opens the directory of a cgroup for one controller; -1 if there is none.
func (t *trees) dir(controller, path string) int {
	at := t.at
	if !t.v2 {
		if at = t.v1[controller]; at == "" {
			return -1
		}
	}
	fd, err := unix.Open(filepath.Join(at, path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// in calls f with the open directory of a cgroup, if there is one.
func (t *trees) in(controller, path string, f func(dir int)) bool {
	fd := t.dir(controller, path)
	if fd < 0 {
		return false
	}
	defer unix.Close(fd)
	f(fd)
	return true
}

// group measures one cgroup; false when it is not there.
func (s *Stats) group(path string, full bool) (usage.Group, bool) {
	g := usage.Group{ID: path}
	ok := false
	if s.trees.v2 {
		ok = s.trees.in("", path, func(dir int) { s.groupV2(dir, &g, full) })
	} else {
		ok = s.groupV1(path, &g, full)
	}
	return g, ok
}

func (s *Stats) groupV1(path string, g *usage.Group, full bool) bool {
	r := &s.files
	ok := s.trees.in("cpuacct", path, func(dir int) {
		g.CPU.Usage = time.Duration(r.number(dir, "cpuacct.usage"))
		if full {
			g.CPU.User = time.Duration(r.number(dir, "cpuacct.usage_user"))
			g.CPU.System = time.Duration(r.number(dir, "cpuacct.usage_sys"))
		}
	})
	ok = s.trees.in("memory", path, func(dir int) { s.memoryV1(dir, &g.Memory, full) }) || ok
	if !ok || !full {
		return ok
	}
	s.trees.in("cpu", path, func(dir int) {
		stat := keyed(r.read(dir, "cpu.stat"))
		g.CPU.Periods, g.CPU.Throttled = stat["nr_periods"], stat["nr_throttled"]
		g.CPU.ThrottledTime = time.Duration(stat["throttled_time"])
		g.Limits.Shares = r.number(dir, "cpu.shares")
		g.Limits.Quota = int64(r.number(dir, "cpu.cfs_quota_us")) // -1 reads as 0
		g.Limits.Period = r.number(dir, "cpu.cfs_period_us")
	})
	s.trees.in("pids", path, func(dir int) {
		g.Threads, g.Limits.Tasks = r.number(dir, "pids.current"), r.number(dir, "pids.max")
		g.Processes = uint64(bytes.Count(r.read(dir, "cgroup.procs"), []byte("\n")))
	})
	s.trees.in("blkio", path, func(dir int) {
		bytesRW := r.read(dir, "blkio.throttle.io_service_bytes_recursive")
		s.devicesV1(&g.Devices, bytesRW, func(d *usage.Device) (read, write *uint64) { return &d.ReadBytes, &d.WriteBytes })
		counts := r.read(dir, "blkio.throttle.io_serviced_recursive")
		s.devicesV1(&g.Devices, counts, func(d *usage.Device) (read, write *uint64) { return &d.Reads, &d.Writes })
	})
	return true
}

func (s *Stats) memoryV1(dir int, m *usage.Memory, full bool) {
	r := &s.files
	m.Usage = r.number(dir, "memory.usage_in_bytes")
	var inactive uint64
	pairs(r.read(dir, "memory.stat"), func(key string, n uint64) {
		switch key {
		case "total_inactive_file":
			inactive = n
		case "total_rss":
			m.RSS = n
		case "total_cache":
			m.Cache = n
		case "total_mapped_file":
			m.Mapped = n
		case "total_swap":
			m.Swap = n
		case "total_pgfault":
			m.Faults = n
		case "total_pgmajfault":
			m.MajorFaults = n
		}
	})
	m.WorkingSet = less(m.Usage, inactive)
	m.Limit = r.limit(dir, "memory.limit_in_bytes")
	if !full {
		return
	}
	m.Max, m.Failures = r.number(dir, "memory.max_usage_in_bytes"), r.number(dir, "memory.failcnt")
	m.Kernel = r.number(dir, "memory.kmem.usage_in_bytes")
	m.OOMKills = keyed(r.read(dir, "memory.oom_control"))["oom_kill"]
	if both := r.limit(dir, "memory.memsw.limit_in_bytes"); both > 0 {
		m.SwapLimit = both // of v1: memory and swap together, as cAdvisor says it
	}
}

// devicesV1 reads lines like "253:0 Read 4096".
func (s *Stats) devicesV1(into *[]usage.Device, b []byte, pick func(*usage.Device) (read, write *uint64)) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		d := s.device(into, f[0])
		if d == nil {
			continue
		}
		read, write := pick(d)
		switch string(f[1]) {
		case "Read":
			*read = number(f[2])
		case "Write":
			*write = number(f[2])
		}
	}
}

// device is the entry for major:minor.
func (s *Stats) device(into *[]usage.Device, id []byte) *usage.Device {
	a, b, ok := bytes.Cut(id, []byte(":"))
	if !ok {
		return nil
	}
	major, minor := number(a), number(b)
	i := slices.IndexFunc(*into, func(d usage.Device) bool { return d.Major == major && d.Minor == minor })
	if i < 0 {
		*into = append(*into, usage.Device{Major: major, Minor: minor, Name: s.deviceName(string(id))})
		i = len(*into) - 1
	}
	return &(*into)[i]
}

func (s *Stats) groupV2(dir int, g *usage.Group, full bool) {
	r := &s.files
	pairs(r.read(dir, "cpu.stat"), func(key string, n uint64) {
		d := time.Duration(n) * time.Microsecond
		switch key {
		case "usage_usec":
			g.CPU.Usage = d
		case "user_usec":
			g.CPU.User = d
		case "system_usec":
			g.CPU.System = d
		case "nr_periods":
			g.CPU.Periods = n
		case "nr_throttled":
			g.CPU.Throttled = n
		case "throttled_usec":
			g.CPU.ThrottledTime = d
		}
	})
	s.memoryV2(dir, &g.Memory, full)
	if !full {
		return
	}
	if w := r.number(dir, "cpu.weight"); w > 0 {
		g.Limits.Shares = 2 + (w-1)*262142/9999 // the scale of v1, which the metric has
	}
	if quota, period, ok := bytes.Cut(bytes.TrimSpace(r.read(dir, "cpu.max")), []byte(" ")); ok {
		g.Limits.Quota, g.Limits.Period = int64(number(quota)), number(period)
	}
	g.Threads, g.Limits.Tasks = r.number(dir, "pids.current"), r.number(dir, "pids.max")
	g.Processes = uint64(bytes.Count(r.read(dir, "cgroup.procs"), []byte("\n")))
	for line := range bytes.Lines(r.read(dir, "io.stat")) {
		s.deviceV2(&g.Devices, line)
	}
	g.CPUStall, g.MemoryStall, g.IOStalls = r.stall(dir, "cpu.pressure"), r.stall(dir, "memory.pressure"), r.stall(dir, "io.pressure")
}

func (s *Stats) memoryV2(dir int, m *usage.Memory, full bool) {
	r := &s.files
	m.Usage = r.number(dir, "memory.current")
	var inactive uint64
	pairs(r.read(dir, "memory.stat"), func(key string, n uint64) {
		switch key {
		case "inactive_file":
			inactive = n
		case "anon":
			m.RSS = n
		case "file":
			m.Cache = n
		case "file_mapped":
			m.Mapped = n
		case "kernel":
			m.Kernel = n
		case "pgfault":
			m.Faults = n
		case "pgmajfault":
			m.MajorFaults = n
		}
	})
	m.WorkingSet = less(m.Usage, inactive)
	m.Swap = r.number(dir, "memory.swap.current")
	m.Limit, m.SwapLimit = r.limit(dir, "memory.max"), r.limit(dir, "memory.swap.max")
	if !full {
		return
	}
	m.Max = r.number(dir, "memory.peak")
	events := keyed(r.read(dir, "memory.events"))
	m.Failures, m.OOMKills = events["max"], events["oom_kill"]
}

// deviceV2 reads a line like "253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
func (s *Stats) deviceV2(into *[]usage.Device, line []byte) {
	f := bytes.Fields(line)
	if len(f) < 2 {
		return
	}
	d := s.device(into, f[0])
	if d == nil {
		return
	}
	for _, kv := range f[1:] {
		key, value, _ := bytes.Cut(kv, []byte("="))
		switch string(key) {
		case "rbytes":
			d.ReadBytes = number(value)
		case "wbytes":
			d.WriteBytes = number(value)
		case "rios":
			d.Reads = number(value)
		case "wios":
			d.Writes = number(value)
		}
	}
}

// stall reads PSI: lines like "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
func (r *reader) stall(dir int, name string) usage.Stall {
	var s usage.Stall
	for line := range bytes.Lines(r.read(dir, name)) {
		f := bytes.Fields(line)
		if len(f) != 5 {
			continue
		}
		var p usage.Pressure
		for _, kv := range f[1:] {
			key, value, _ := bytes.Cut(kv, []byte("="))
			switch string(key) {
			case "avg10":
				p.Avg10 = decimal(value)
			case "avg60":
				p.Avg60 = decimal(value)
			case "avg300":
				p.Avg300 = decimal(value)
			case "total":
				p.Total = time.Duration(number(value)) * time.Microsecond
			}
		}
		switch string(f[0]) {
		case "some":
			s.Some, s.Known = p, true
		case "full":
			s.Full = p
		}
	}
	return s
}

func less(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// deviceName asks once what a block device is called.
func (s *Stats) deviceName(id string) string {
	if name, ok := s.devices[id]; ok {
		return name
	}
	name := ""
	for line := range bytes.Lines(s.namer.path("/sys/dev/block/" + id + "/uevent")) {
		if v, ok := bytes.CutPrefix(line, []byte("DEVNAME=")); ok {
			name = "/dev/" + string(bytes.TrimSpace(v))
		}
	}
	s.devices[id] = name
	return name
}

// pids is the first process of a cgroup; 0 if there is none.
func (s *Stats) firstPid(path string) int {
	pid := 0
	s.trees.in("pids", path, func(dir int) {
		line, _, _ := bytes.Cut(s.files.read(dir, "cgroup.procs"), []byte("\n"))
		pid, _ = strconv.Atoi(string(line))
	})
	return pid
}
