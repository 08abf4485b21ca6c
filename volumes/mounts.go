package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Mounts are the mounts of one container for its volumeMounts, a path before what lies below it. It changes nothing.
// The links in a hostPath are resolved now, so that the path cannot lead elsewhere by the time the container starts.
func (v *Volumes) Mounts(pod *v1.Pod, c *v1.Container) ([]specs.Mount, error) {
	if !validUID.MatchString(string(pod.UID)) {
		return nil, fmt.Errorf("pod uid %q: not usable as a name", pod.UID)
	}
	mounts := make([]specs.Mount, 0, len(c.VolumeMounts))
	for _, m := range c.VolumeMounts {
		mount, err := v.mount(pod, &m)
		if err != nil {
			return nil, fmt.Errorf("volumeMount %s: %w", m.Name, err)
		}
		mounts = append(mounts, mount)
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
	return mounts, nil
}

func (v *Volumes) mount(pod *v1.Pod, m *v1.VolumeMount) (specs.Mount, error) {
	i := slices.IndexFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return vol.Name == m.Name })
	if i < 0 {
		return specs.Mount{}, errors.New("the pod has no such volume")
	}
	vol := &pod.Spec.Volumes[i]
	if err := honoured(m); err != nil {
		return specs.Mount{}, err
	}
	dest, err := destination(m.MountPath, vol.HostPath != nil)
	if err != nil {
		return specs.Mount{}, err
	}
	source, err := v.source(string(pod.UID), vol)
	if err != nil {
		return specs.Mount{}, err
	}
	access := "rw"
	if m.ReadOnly || isContent(vol) {
		access = "ro"
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", access}}, nil
}

// honoured is an error for what would change the meaning of a mount and is not done here.
func honoured(m *v1.VolumeMount) error {
	switch {
	case m.SubPath != "":
		return errors.New("subPath: is not supported")
	case m.SubPathExpr != "":
		return errors.New("subPathExpr: is not supported")
	case m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled:
		return fmt.Errorf("recursiveReadOnly %s: is not supported", *m.RecursiveReadOnly)
	case m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone:
		return fmt.Errorf("mountPropagation %s: is not supported", *m.MountPropagation)
	}
	return nil
}

// destination is the path in the container. Nothing may cover /proc (CVE-2019-16884: the runtime itself relies on what
// it reads there); /sys only with what the host has there, which some agents need.
func destination(path string, isHostPath bool) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("mountPath %q: is not a path", path)
	}
	dest := filepath.Join("/", path)
	switch {
	case dest == "/":
		return "", errors.New("mountPath /: would replace the container's root")
	case dest == "/proc" || strings.HasPrefix(dest, "/proc/"):
		return "", fmt.Errorf("mountPath %s: may not be at or below /proc", path)
	case (dest == "/sys" || strings.HasPrefix(dest, "/sys/")) && !isHostPath:
		return "", fmt.Errorf("mountPath %s: only a hostPath may be at or below /sys", path)
	}
	return dest, nil
}

// source is the path on the host.
func (v *Volumes) source(uid string, vol *v1.Volume) (string, error) {
	if vol.HostPath != nil {
		if err := checkHostPath(vol.HostPath.Path); err != nil {
			return "", err
		}
		path, err := filepath.EvalSymlinks(vol.HostPath.Path)
		if err != nil {
			return "", fmt.Errorf("hostPath %s: %w", vol.HostPath.Path, cause(err))
		}
		return path, nil
	}
	name := vol.Name
	switch {
	case isContent(vol):
		name = filepath.Join(contents, vol.Name)
	case vol.EmptyDir == nil:
		return "", errors.New("this kind of volume is not supported")
	}
	dir, err := v.openDir(uid, false)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	fd, err := openBeneath(dir, name, 0)
	if err != nil {
		return "", err
	}
	unix.Close(fd)
	return filepath.Join(v.path(uid), name), nil
}
