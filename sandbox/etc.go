package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
)

// The tmpfs of a pod's etc files is small: what a member writes to its /etc/hosts is bounded by it (CVE-2020-8557).
const (
	etcSize = "4m"
	shmSize = "64m"
)

// clusterDomain ends the fully qualified names of pods that have a subdomain.
const clusterDomain = "cluster.local"

// EtcMounts is the mounts of one container for what WriteEtc makes. A path that the container mounts itself is left out.
// It needs nothing to be there yet.
func (s *Sandboxes) EtcMounts(pod *v1.Pod, c *v1.Container) []specs.Mount {
	dir := s.podDir(string(pod.UID))
	mode := "rw"
	if sc := c.SecurityContext; sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem {
		mode = "ro"
	}
	shm := filepath.Join(dir, "shm")
	if pod.Spec.HostIPC {
		shm = "/dev/shm"
	}
	all := []specs.Mount{
		{Destination: "/etc/hosts", Source: filepath.Join(dir, "etc", "hosts"), Options: []string{"rbind", "rprivate", mode}},
		{Destination: "/etc/hostname", Source: filepath.Join(dir, "etc", "hostname"), Options: []string{"rbind", "rprivate", mode}},
		{Destination: "/etc/resolv.conf", Source: filepath.Join(dir, "etc", "resolv.conf"), Options: []string{"rbind", "rprivate", mode}},
		{Destination: "/dev/shm", Source: shm, Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"}},
	}
	var out []specs.Mount
	for _, m := range all {
		m.Type = "bind"
		if !mountsItself(c, m.Destination) {
			out = append(out, m)
		}
	}
	return out
}

func mountsItself(c *v1.Container, dest string) bool {
	for _, m := range c.VolumeMounts {
		if path.Clean(m.MountPath) == dest {
			return true
		}
	}
	return false
}

// Note is something that the user should hear of, as an event of type v1.EventTypeNormal or v1.EventTypeWarning.
type Note struct{ Type, Reason, Message string }

// WriteEtc has the pod's etc files and its /dev/shm. ips may be empty while they are not known; written again with them,
// the files change in place, so that members that run see it.
func (s *Sandboxes) WriteEtc(pod *v1.Pod, ips []string) ([]Note, error) {
	dir := s.podDir(string(pod.UID))
	etc := filepath.Join(dir, "etc")
	if err := ensureTmpfs(etc, "mode=0755,size="+etcSize); err != nil {
		return nil, fmt.Errorf("write etc files: %w", err)
	}
	if !pod.Spec.HostIPC {
		if err := ensureTmpfs(filepath.Join(dir, "shm"), "mode=1777,size="+shmSize); err != nil {
			return nil, fmt.Errorf("make /dev/shm: %w", err)
		}
	}
	killpoint.At("sandbox.etc.mounted")
	host, err := os.ReadFile(s.hostResolvConf())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read resolv.conf of the host: %w", err)
	}
	resolv, notes := EffectiveResolvConf(pod, host)
	hosts, err := s.hosts(pod, ips)
	if err != nil {
		return nil, err
	}
	nodename, err := Nodename(pod)
	if err != nil {
		return nil, err
	}
	for name, content := range map[string]string{"hosts": hosts, "hostname": nodename + "\n", "resolv.conf": resolv} {
		if err := rewrite(filepath.Join(etc, name), content); err != nil {
			return nil, fmt.Errorf("write etc files: %w", err)
		}
	}
	killpoint.At("sandbox.etc.written")
	return notes, nil
}

// hosts is the pod's /etc/hosts; the shape is upstream's, since programs look for it (pkg/kubelet/kubelet_pods.go).
func (s *Sandboxes) hosts(pod *v1.Pod, ips []string) (string, error) {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile(s.opts.Hosts)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read hosts file of the host: %w", err)
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		names, domain := hostnames(pod)
		if domain != "" {
			names = fmt.Sprintf("%s.%s\t%s", names, domain, names)
		}
		for _, ip := range ips {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
	}
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String(), nil
}

// RemoveEtc takes away what WriteEtc and EnsureMessage made; nil when nothing is left.
func (s *Sandboxes) RemoveEtc(uid string) error {
	for _, name := range []string{"etc", "shm", messagesDir} {
		dir := filepath.Join(s.podDir(uid), name)
		killpoint.At("sandbox.etc.remove")
		if err := unmountAll(dir); err != nil {
			return fmt.Errorf("remove etc files: %w", err)
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove etc files: %w", err)
		}
	}
	killpoint.At("sandbox.etc.removed")
	return removeEmpty(s.podDir(uid))
}

// rewrite has that content in a file that others have bound: the same file, written over. Links are not followed.
func rewrite(name, content string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	old := make([]byte, len(content))
	if n, _ := f.ReadAt(old, 0); st.Size() == int64(len(content)) && n == len(content) && bytes.Equal(old, []byte(content)) {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return f.Chmod(0o644)
}

// ensureTmpfs has a tmpfs mounted on dir.
func ensureTmpfs(dir, options string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var own, parent unix.Stat_t
	if err := unix.Lstat(dir, &own); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &parent); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if own.Dev != parent.Dev {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	return nil
}
