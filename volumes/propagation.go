package volumes

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// propagates says whether mounts made on one side of m show on the other.
func propagates(m *v1.VolumeMount) bool {
	return m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone
}

// propagated says whether any container of the pod wants mounts below the volume to show on the other side.
func propagated(pod *v1.Pod, volume string) bool {
	wants := func(mounts []v1.VolumeMount) bool {
		return slices.ContainsFunc(mounts, func(m v1.VolumeMount) bool { return m.Name == volume && propagates(&m) })
	}
	of := func(c v1.Container) bool { return wants(c.VolumeMounts) }
	return slices.ContainsFunc(pod.Spec.Containers, of) || slices.ContainsFunc(pod.Spec.InitContainers, of)
}

// checkPropagation is an error where the mount that source is on does not give away what m wants of it. It names volume.
func checkPropagation(source, volume string, m *v1.VolumeMount) error {
	if !propagates(m) {
		return nil
	}
	fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	on, err := mountOf(fd)
	if err != nil {
		return err
	}
	if on.shared || *m.MountPropagation == v1.MountPropagationHostToContainer && on.slave {
		return nil
	}
	return fmt.Errorf("mountPropagation %s: %s is on the mount %s, which is not shared (mount --make-shared %s)",
		*m.MountPropagation, volume, on.point, on.point)
}

// hostMount is what the kernel says of a mount.
type hostMount struct {
	point         string
	shared, slave bool
}

// mountOf is the mount that fd is on.
func mountOf(fd int) (hostMount, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return hostMount{}, err
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hostMount{}, err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] != id {
			continue
		}
		m := hostMount{point: unescape(f[4])}
		for _, option := range f[6:] { // up to a dash
			if option == "-" {
				break
			}
			m.shared = m.shared || strings.HasPrefix(option, "shared:")
			m.slave = m.slave || strings.HasPrefix(option, "master:")
		}
		return m, nil
	}
	return hostMount{}, errors.New("is on a mount that this process does not see")
}

// isShared says whether the directory is a mount of its own that gives away what is mounted below it.
func isShared(fd int) bool {
	if !isMountRoot(fd) {
		return false
	}
	m, err := mountOf(fd)
	return err == nil && m.shared
}

func isMountRoot(fd int) bool {
	var st unix.Statx_t
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st) == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// share makes a directory of podd's own a mount that gives away what is mounted below it, and to nobody but who mounts it.
func share(dir int, name string) error {
	fd, err := openBeneath(dir, name, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	if isShared(fd) {
		return nil
	}
	path := func() string { return "/proc/self/fd/" + strconv.Itoa(fd) }
	if !isMountRoot(fd) {
		if err := unix.Mount(path(), path(), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("share: %w", err)
		}
		top, err := openBeneath(dir, name, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = top
	}
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} { // away from the group of the mount it was part of
		if err := unix.Mount("", path(), "", how, ""); err != nil {
			return fmt.Errorf("share: %w", err)
		}
	}
	return nil
}
