package containers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// security is the security context in force: the container's fields, where unset the pod's.
type security struct {
	runAsUser, runAsGroup *int64
	runAsNonRoot          bool
	groups                []int64
	policy                v1.SupplementalGroupsPolicy
	privileged            bool
	noNewPrivs            bool
	readOnlyRoot          bool
	unmasked              bool // /proc is shown whole; only with a user namespace of its own
	caps                  *v1.Capabilities
	seccomp               *v1.SeccompProfile
}

func effective(pod *v1.Pod, c *v1.Container) security {
	var s security
	if p := pod.Spec.SecurityContext; p != nil {
		s.runAsUser, s.runAsGroup, s.seccomp = p.RunAsUser, p.RunAsGroup, p.SeccompProfile
		s.runAsNonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
		s.groups = slices.Clone(p.SupplementalGroups)
		if p.FSGroup != nil {
			s.groups = append(s.groups, *p.FSGroup)
		}
		if p.SupplementalGroupsPolicy != nil {
			s.policy = *p.SupplementalGroupsPolicy
		}
	}
	c0 := c.SecurityContext
	if c0 == nil {
		return s
	}
	if c0.RunAsUser != nil {
		s.runAsUser = c0.RunAsUser
	}
	if c0.RunAsGroup != nil {
		s.runAsGroup = c0.RunAsGroup
	}
	if c0.RunAsNonRoot != nil {
		s.runAsNonRoot = *c0.RunAsNonRoot
	}
	if c0.SeccompProfile != nil {
		s.seccomp = c0.SeccompProfile
	}
	s.caps = c0.Capabilities
	s.privileged = c0.Privileged != nil && *c0.Privileged
	s.readOnlyRoot = c0.ReadOnlyRootFilesystem != nil && *c0.ReadOnlyRootFilesystem
	s.unmasked = OwnUsers(pod) && c0.ProcMount != nil && *c0.ProcMount == v1.UnmaskedProcMount
	s.noNewPrivs = c0.AllowPrivilegeEscalation != nil && !*c0.AllowPrivilegeEscalation
	return s
}

// defaultCaps is what a container gets unless told otherwise.
var defaultCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities is the sets of one container. Inheritable and ambient stay empty. ALL is what podd itself has; one
// that is asked for by name and that podd cannot give is an error.
func capabilities(s security, h Host) (*specs.LinuxCapabilities, error) {
	set := map[string]bool{}
	base := defaultCaps
	if s.privileged {
		base = h.Caps
	}
	for _, c := range base {
		set[c] = slices.Contains(h.Caps, c)
	}
	if s.caps != nil && !s.privileged {
		if err := addDrop(set, s.caps, h); err != nil {
			return nil, err
		}
	}
	var list []string
	for c, on := range set {
		if on {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}, nil
}

// addDrop does what containerd's CRI does: ALL first, so that the single ones refine it.
func addDrop(set map[string]bool, caps *v1.Capabilities, h Host) error {
	if slices.ContainsFunc(caps.Add, isAll) {
		for _, c := range h.Caps {
			set[c] = true
		}
	}
	if slices.ContainsFunc(caps.Drop, isAll) {
		clear(set)
	}
	for _, c := range caps.Add {
		name := capName(c)
		if isAll(c) {
			continue
		}
		if !slices.Contains(h.Caps, name) {
			return &ConfigError{fmt.Sprintf("capability %s: unknown, or not podd's to give on this host", c)}
		}
		set[name] = true
	}
	for _, c := range caps.Drop {
		delete(set, capName(c))
	}
	return nil
}

func isAll(c v1.Capability) bool { return strings.EqualFold(string(c), "ALL") }

func capName(c v1.Capability) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_")
}

// setSeccomp puts in the profile: RuntimeDefault unless told otherwise, none for privileged ones. It must come after
// the capabilities, which the default profile depends on.
func setSeccomp(spec *specs.Spec, s security, h Host) error {
	if s.privileged {
		return nil
	}
	kind := v1.SeccompProfileTypeRuntimeDefault
	if s.seccomp != nil {
		kind = s.seccomp.Type
	}
	if kind == v1.SeccompProfileTypeUnconfined {
		return nil
	}
	if !h.Seccomp {
		if s.seccomp == nil {
			return nil
		}
		return &ConfigError{fmt.Sprintf("seccompProfile %s: this kernel has no seccomp", kind)}
	}
	switch kind {
	case v1.SeccompProfileTypeRuntimeDefault:
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
		return nil
	case v1.SeccompProfileTypeLocalhost:
		var err error
		spec.Linux.Seccomp, err = localhostProfile(s.seccomp.LocalhostProfile, h)
		return err
	}
	return &ConfigError{fmt.Sprintf("seccompProfile %q: unknown type", kind)}
}

// localhostProfile never answers with no profile: an empty or a broken file is an error.
func localhostProfile(name *string, h Host) (*specs.LinuxSeccomp, error) {
	if name == nil || *name == "" {
		return nil, &ConfigError{"seccompProfile Localhost: names no file"}
	}
	b, err := h.Profile(*name)
	if err != nil {
		return nil, &ConfigError{fmt.Sprintf("seccompProfile Localhost %s: %v", *name, err)}
	}
	p := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, &ConfigError{fmt.Sprintf("seccompProfile Localhost %s: %v", *name, err)}
	}
	if p.DefaultAction == "" {
		return nil, &ConfigError{fmt.Sprintf("seccompProfile Localhost %s: has no defaultAction", *name)}
	}
	return p, nil
}

var (
	// From k8s.io/kubernetes/pkg/securitycontext/util.go; Host adds the thermal_throttle directories.
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Lockdown gives a spec the masked and read-only paths and the default seccomp profile, if the kernel has seccomp.
func Lockdown(spec *specs.Spec, h Host) {
	spec.Linux.MaskedPaths = slices.Concat(maskedPaths, h.MaskedPaths)
	spec.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
	if h.Seccomp {
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	}
}

// GroupAnnotations puts a container into the shim of its sandbox. The group has to be the id of the container that the
// shim is started for: a shim takes the name of its socket for that id away when it ends, and would leave any other.
func GroupAnnotations(sandboxID string) map[string]string {
	return map[string]string{groupAnnotation: sandboxID}
}
