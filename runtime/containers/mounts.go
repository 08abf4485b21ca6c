package containers

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultMounts is what every container has. Those of kernel file systems are read-only unless it is privileged.
func defaultMounts(privileged bool) []specs.Mount {
	ro := "ro"
	if privileged {
		ro = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
	}
}

// allMounts is the default mounts and the given ones, parents before children. A given one replaces a default at the
// same place. propagation is that of the root, as the widest of the mounts needs it.
func allMounts(c Config, privileged bool) (mounts []specs.Mount, propagation string, err error) {
	mounts = defaultMounts(privileged)
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Destination) {
			return nil, "", &ConfigError{fmt.Sprintf("mount %q: must be an absolute path", m.Destination)}
		}
		m.Destination = path.Clean(m.Destination)
		if err := errors.Join(checkPath("mount", m.Destination), checkPath("mount source", m.Source)); err != nil {
			return nil, "", &ConfigError{err.Error()}
		}
		if d := m.Destination; d == "/" || d == "/proc" || strings.HasPrefix(d, "/proc/") {
			return nil, "", &ConfigError{fmt.Sprintf("mount %q: not allowed there", d)}
		}
		mounts = slices.DeleteFunc(mounts, func(old specs.Mount) bool { return old.Destination == m.Destination })
		mounts = append(mounts, m)
		switch {
		case slices.Contains(m.Options, "rshared"):
			propagation = "shared"
		case slices.Contains(m.Options, "rslave") && propagation == "":
			propagation = "rslave"
		}
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return mounts, propagation, nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }
