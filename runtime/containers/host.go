package containers

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is what of the host goes into a spec.
type Host struct {
	CgroupV2       bool
	Seccomp        bool
	SwapLimit      bool     // the kernel can limit a cgroup's swap
	MinOOMScore    int      // the lowest oom_score_adj that this process may give
	MemoryCapacity int64    // bytes
	Caps           []string // capabilities this process can give away, all of CAP_*
	MaskedPaths    []string // beyond the fixed ones: thermal_throttle of every cpu
	HugePages      []string // sizes of huge pages that a cgroup can limit, as the kernel names their files: 2MB
	Hostname       string

	// Profile reads a Localhost seccomp profile by its name.
	Profile func(name string) ([]byte, error)
	// Devices is every device of the host, for privileged containers.
	Devices func() ([]specs.LinuxDevice, error)
}

// maxProfile bounds a seccomp profile, in bytes.
const maxProfile = 1 << 20

// LookHost reads what this host and this process can do.
func LookHost(o Options) (Host, error) {
	h := Host{
		Seccomp: seccomp.IsEnabled(),
		Profile: func(name string) ([]byte, error) { return readProfile(o.SeccompDir, name) },
		Devices: oci.HostDevices,
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return Host{}, fmt.Errorf("statfs /sys/fs/cgroup: %w", err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	h.SwapLimit = swapLimit(h.CgroupV2)
	var err error
	if h.HugePages, err = limitedHugePages(h.CgroupV2); err != nil {
		return Host{}, err
	}
	if h.Caps, err = cap.Current(); err != nil {
		return Host{}, fmt.Errorf("read own capabilities: %w", err)
	}
	if h.MinOOMScore, err = minOOMScore(h.Caps); err != nil {
		return Host{}, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Host{}, fmt.Errorf("sysinfo: %w", err)
	}
	h.MemoryCapacity = int64(info.Totalram) * int64(info.Unit)
	if h.Hostname, err = os.Hostname(); err != nil {
		return Host{}, fmt.Errorf("read hostname: %w", err)
	}
	h.MaskedPaths, err = filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	return h, err
}

// swapLimit says whether a memory limit can include swap. On v2 only cgroups with a memory controller have the file, and
// a fresh host may have none: there the kernel is asked whether it knows swap, and runc minds no missing file.
func swapLimit(v2 bool) bool {
	file := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if v2 {
		file = "/proc/swaps"
	}
	_, err := os.Stat(file)
	return err == nil
}

// minOOMScore is the lowest oom_score_adj this process may set: without CAP_SYS_RESOURCE none below its own.
func minOOMScore(caps []string) (int, error) {
	for _, c := range caps {
		if c == "CAP_SYS_RESOURCE" {
			return -1000, nil
		}
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	return n, nil
}

// readProfile reads a file below dir; links may not lead out of it.
func readProfile(dir, name string) ([]byte, error) {
	if dir == "" {
		return nil, fmt.Errorf("no directory for seccomp profiles is configured")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readAtMost(f, maxProfile)
}

// readAtMost reads a regular file of at most max bytes.
func readAtMost(f *os.File, max int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", f.Name())
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%s: larger than %d bytes", f.Name(), max)
	}
	return b, nil
}
