package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cgconv "github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// weight is cpu.weight of v2 for cpu.shares of v1, by the formula that runc and the kubelet use.
func weight(shares uint64) uint64 { return cgconv.ConvertCPUSharesToCgroupV2Value(shares) }

// makeAll makes a directory and those above it. A v1 cpuset is of no use until it has cpus and memory nodes, which it
// gets from the one above; in v2 controllers are switched on from above, one level after the other.
func (h hierarchy) makeAll(cgroup string) error {
	dir := h.at
	for name := range strings.SplitSeq(strings.Trim(cgroup, "/"), "/") {
		if h.v2 {
			if err := h.delegate(dir); err != nil {
				return err
			}
		}
		parent := dir
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if h.has("cpuset") {
			if err := inheritCpuset(parent, dir); err != nil {
				return err
			}
		}
	}
	if h.v2 {
		return h.delegate(dir)
	}
	return nil
}

func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, file), string(above)); err != nil {
			return err
		}
	}
	return nil
}

// delegate switches on, for what is below dir, every controller that dir has. Only cpu, memory and pids are needed.
func (h hierarchy) delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	have := strings.Fields(string(on))
	missing := slices.DeleteFunc(strings.Fields(string(available)), func(c string) bool { return slices.Contains(have, c) })
	if len(missing) == 0 {
		return nil
	}
	// Before the first controller: beside processes the kernel takes some, of threads, and then refuses the others.
	if dir == h.at || dir == h.own() {
		if err := vacate(dir); err != nil {
			return fmt.Errorf("move processes out of %s: %w", dir, err)
		}
	}
	for _, c := range missing {
		err := writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
		if err != nil && slices.Contains([]string{"cpu", "memory", "pids"}, c) {
			return fmt.Errorf("switch on %s below %s: %w", c, dir, err)
		}
	}
	return nil
}

// own is the directory of the cgroup that podd is in; "" if it cannot be seen.
func (h hierarchy) own() string {
	all, err := cgconv.ParseCgroupFile("/proc/self/cgroup")
	if err != nil || all[""] == "" || strings.HasPrefix(all[""], "/..") { // above the root of a cgroup namespace
		return ""
	}
	return filepath.Join(h.at, all[""])
}

// initLeaf is the cgroup that takes the processes which were where pods are to be below.
const initLeaf = "podd-init"

// vacate moves the processes of a cgroup one level down: one with processes cannot have controllers below it. It is for
// podd's own cgroup, if pods are to be below it, and for the tree's root, which inside a container is an ordinary cgroup;
// the host's, which has no type, may have both.
func vacate(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil {
		return nil
	}
	leaf := filepath.Join(dir, initLeaf)
	for range 10 { // a process may fork while it is moved
		pids, err := cgconv.GetPids(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for _, pid := range pids {
			err := writeFile(filepath.Join(leaf, "cgroup.procs"), fmt.Sprint(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}
