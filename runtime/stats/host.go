package stats

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"podd/api/usage"
)

// machine is what stays as it is while the host is up.
type machine struct {
	known          bool
	booted         time.Time
	sockets, cores int
	device         string // of the state directory's file system
}

func (s *Stats) machine() machine {
	if s.static.known {
		return s.static
	}
	m := machine{known: true}
	for line := range bytes.Lines(s.files.path("/proc/stat")) {
		if v, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			m.booted = time.Unix(int64(number(v)), 0)
		}
	}
	sockets, cores := map[string]bool{}, map[string]bool{}
	socket := ""
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "physical id":
			socket = value
			sockets[value] = true
		case "core id":
			cores[socket+"/"+value] = true
		}
	}
	m.sockets, m.cores = max(len(sockets), 1), len(cores)
	if m.cores == 0 {
		m.cores = runtime.NumCPU()
	}
	var st unix.Stat_t
	if err := unix.Stat(s.Root, &st); err == nil {
		m.device = s.deviceName(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	}
	s.static = m
	return m
}

// node measures the host as a whole.
func (s *Stats) node(full bool, rate func(*usage.Group)) usage.Node {
	m := s.machine()
	g, _ := s.group("/", full)
	g.ID, g.Started = "/", m.booted
	rate(&g)
	n := usage.Node{Group: g, Cores: runtime.NumCPU(), Sockets: m.sockets, PhysicalCores: m.cores}
	s.memory(&n)
	if !full {
		return n
	}
	for _, path := range []string{s.Parent, s.Parent + "/kubepods", s.Parent + "/kubepods/burstable", s.Parent + "/kubepods/besteffort"} {
		if g, ok := s.group(path, full); ok {
			rate(&g)
			n.Parents = append(n.Parents, g)
		}
	}
	n.Limits = usage.Limits{}
	n.MaxPID = number(s.files.path("/proc/sys/kernel/pid_max"))
	if load := bytes.Fields(s.files.path("/proc/loadavg")); len(load) > 3 {
		_, all, _ := bytes.Cut(load[3], []byte("/"))
		n.Tasks = number(all)
		n.Threads = n.Tasks
	}
	for _, p := range []struct {
		into *usage.Stall
		file string
	}{{&n.CPUStall, "cpu"}, {&n.MemoryStall, "memory"}, {&n.IOStalls, "io"}} {
		*p.into = s.files.stall(unix.AT_FDCWD, "/proc/pressure/"+p.file)
	}
	n.Devices = s.hostDevices()
	n.Interfaces, n.DefaultInterface = s.interfaces(os.Getpid()), s.defaultInterface()
	n.FS = fileSystem(s.Root)
	n.FS.Device = m.device
	n.Podd = s.process(os.Getpid(), m.booted)
	if s.Containerd != nil {
		if pid := s.Containerd(); pid > 0 {
			p := s.process(pid, m.booted)
			n.Containerd = &p
		}
	}
	return n
}

// memory replaces what the root cgroup says by what the whole host has: kernel memory is in no cgroup, and v2 has no
// numbers for its root.
func (s *Stats) memory(n *usage.Node) {
	info := map[string]uint64{}
	for line := range bytes.Lines(s.files.path("/proc/meminfo")) {
		f := bytes.Fields(line)
		if len(f) >= 2 {
			info[string(bytes.TrimSuffix(f[0], []byte(":")))] = number(f[1]) << 10
		}
	}
	n.MemoryTotal, n.MemoryFree, n.SwapTotal = info["MemTotal"], info["MemAvailable"], info["SwapTotal"]
	m := &n.Memory
	m.Usage = less(info["MemTotal"], info["MemFree"])
	m.WorkingSet = less(m.Usage, info["Inactive(file)"])
	m.RSS, m.Cache, m.Mapped = info["AnonPages"], info["Cached"]+info["Buffers"], info["Mapped"]
	m.Swap = less(info["SwapTotal"], info["SwapFree"])
	m.Limit, m.SwapLimit = 0, 0
	var faults, major uint64
	pairs(s.files.path("/proc/vmstat"), func(key string, v uint64) {
		switch key {
		case "pgfault":
			faults = v
		case "pgmajfault":
			major = v
		}
	})
	m.Faults, m.MajorFaults = faults, major
}

// hostDevices is what was read from and written to the host's disks, whoever did it: cgroup v1 counts it only for some
// kinds of disks, and v2 not for its root.
func (s *Stats) hostDevices() []usage.Device {
	var out []usage.Device
	for line := range bytes.Lines(s.files.path("/proc/diskstats")) {
		f := bytes.Fields(line)
		if len(f) < 10 || number(f[3])+number(f[7]) == 0 {
			continue
		}
		id := fmt.Sprintf("%s:%s", f[0], f[1])
		if _, err := os.Lstat("/sys/dev/block/" + id + "/partition"); err == nil || bytes.HasPrefix(f[2], []byte("loop")) {
			continue // its disk has it
		}
		const sector = 512
		out = append(out, usage.Device{Major: number(f[0]), Minor: number(f[1]), Name: s.deviceName(id),
			Reads: number(f[3]), ReadBytes: number(f[5]) * sector, Writes: number(f[7]), WriteBytes: number(f[9]) * sector})
	}
	return out
}

// interfaces reads the network counters that a process sees.
func (s *Stats) interfaces(pid int) []usage.Interface {
	var out []usage.Interface
	for line := range bytes.Lines(s.files.path("/proc/" + strconv.Itoa(pid) + "/net/dev")) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(rest)
		if name = bytes.TrimSpace(name); !ok || len(f) < 12 || string(name) == "lo" {
			continue
		}
		out = append(out, usage.Interface{
			Name: string(name), RxBytes: number(f[0]), RxPackets: number(f[1]), RxErrors: number(f[2]), RxDropped: number(f[3]),
			TxBytes: number(f[8]), TxPackets: number(f[9]), TxErrors: number(f[10]), TxDropped: number(f[11]),
		})
	}
	return out
}

// defaultInterface is the one that the default route goes through.
func (s *Stats) defaultInterface() string {
	for line := range bytes.Lines(s.files.path("/proc/net/route")) {
		if f := bytes.Fields(line); len(f) > 7 && string(f[1]) == "00000000" && string(f[7]) == "00000000" {
			return string(f[0])
		}
	}
	return ""
}

// process is one process of the host, from proc(5). Its times are in hundredths of a second.
func (s *Stats) process(pid int, booted time.Time) usage.Process {
	var p usage.Process
	dir := "/proc/" + strconv.Itoa(pid)
	stat := s.files.path(dir + "/stat")
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) > 21 {
		const tick = 10 * time.Millisecond
		p.Faults, p.Major = number(f[7]), number(f[9])
		p.CPU = time.Duration(number(f[11])+number(f[12])) * tick
		p.Started = booted.Add(time.Duration(number(f[19])) * tick)
		p.RSS = number(f[21]) * uint64(os.Getpagesize())
	}
	for line := range bytes.Lines(s.files.path(dir + "/status")) {
		if v, ok := bytes.CutPrefix(line, []byte("RssAnon:")); ok {
			p.RSSAnon = number(bytes.TrimSuffix(bytes.TrimSpace(v), []byte(" kB"))) << 10
		}
	}
	return p
}
