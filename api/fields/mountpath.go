package fields

import (
	"path"
	"strings"
)

// MountPath is where in a container a volume is that is mounted at mountPath, and why it may not be mounted there; "" if it
// may. Nothing may cover /proc (CVE-2019-16884: the runtime itself relies on what it reads there); /sys only with what the
// host has there, which some agents need.
func MountPath(mountPath string, isHostPath bool) (dest, why string) {
	dest = path.Join("/", mountPath)
	below := func(dir string) bool { return dest == dir || strings.HasPrefix(dest, dir+"/") }
	switch {
	case dest == "/":
		return dest, "would replace the container's root"
	case below("/proc"):
		return dest, "may not be at or below /proc"
	case below("/sys") && !isHostPath:
		return dest, "only a hostPath may be at or below /sys"
	}
	return dest, ""
}
