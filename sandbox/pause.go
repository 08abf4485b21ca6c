package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"podd/runtime/containers"
)

// pauseID is the user and group that pause runs as: nobody's.
const pauseID = 65535

// installPause has the root directory of pause containers, once per daemon. It is shared by all, mounted read-only, and
// stays: it holds one binary and the two directories to mount on. A new binary is renamed into place, so that pauses
// that run keep theirs.
func (s *Sandboxes) installPause() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := filepath.Join(s.opts.StateDir, "pause")
	if s.installed {
		return root, nil
	}
	for _, d := range []string{root, filepath.Join(root, "proc"), filepath.Join(root, "dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", fmt.Errorf("install pause: %w", err)
		}
	}
	binary, err := os.ReadFile(s.opts.Pause)
	if err != nil {
		return "", fmt.Errorf("install pause: %w", err)
	}
	if err := replaceFile(filepath.Join(root, "pause"), binary, 0o755); err != nil {
		return "", fmt.Errorf("install pause: %w", err)
	}
	s.installed = true
	return root, nil
}

// replaceFile has a file with that content; one that differs is replaced at once, never written to.
func replaceFile(name string, content []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, content) {
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	next := name + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(next, content, mode); err != nil {
		return err
	}
	if err := os.Chmod(next, mode); err != nil { // the umask may have taken bits
		return err
	}
	return os.Rename(next, name)
}

// pauseSpec joins the namespaces that Ref names and the pod's network namespace. Pause has no capability and the
// default seccomp profile: in a shared PID namespace a member of the same user may trace it.
func pauseSpec(pod *v1.Pod, ref containers.Sandbox, root string, h containers.Host) *specs.Spec {
	score, shares := max(-998, h.MinOOMScore), uint64(2)
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{"/pause"}, Cwd: "/", Env: []string{"GOMAXPROCS=1"}, NoNewPrivileges: true, OOMScoreAdj: &score,
			User: specs.User{UID: pauseID, GID: pauseID}, Capabilities: &specs.LinuxCapabilities{},
		},
		Root: &specs.Root{Path: root, Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		},
		Annotations: containers.GroupAnnotations(ref.ID),
		Linux: &specs.Linux{
			CgroupsPath: path.Join(ref.CgroupPath, ref.ID),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				CPU:     &specs.LinuxCPU{Shares: &shares},
			},
		},
	}
	add := func(t specs.LinuxNamespaceType, path string) {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	if ref.NetNS != "" {
		add(specs.NetworkNamespace, ref.NetNS)
	}
	if ref.IPCNS != "" {
		add(specs.IPCNamespace, ref.IPCNS)
	}
	if ref.UTSNS != "" {
		add(specs.UTSNamespace, ref.UTSNS)
	}
	if !pod.Spec.HostPID {
		add(specs.PIDNamespace, "")
	}
	spec.Linux.Sysctl = sysctls(pod, ref.UserNS != "")
	ref.Join(spec)
	containers.Lockdown(spec, h)
	return spec
}

// sysctls are those that the pod asks for, and two that containerd gives each pod of a cluster that has its own network: any user
// may listen on ports below 1024, and ping. pause sets them in the namespaces that all share, before a member starts.
func sysctls(pod *v1.Pod, ownUsers bool) map[string]string {
	all := map[string]string{}
	if !pod.Spec.HostNetwork {
		all["net.ipv4.ip_unprivileged_port_start"] = "0"
		all["net.ipv4.ping_group_range"] = "0 2147483647"
		if ownUsers {
			all["net.ipv4.ping_group_range"] = fmt.Sprintf("0 %d", containers.IDs-1)
		}
	}
	if pod.Spec.SecurityContext != nil {
		for _, s := range pod.Spec.SecurityContext.Sysctls {
			all[sysctl.NormalizeName(s.Name)] = s.Value
		}
	}
	return all
}
