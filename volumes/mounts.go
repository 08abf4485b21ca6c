package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/api/fields"
)

// Mounts are the mounts of one instance of a container for its volumeMounts, a path before what lies below it. id is the
// instance's, env its variables, to which a subPathExpr may refer.
//
// The links in a hostPath are resolved now, and the runtime gets the path that they lead to. It resolves that again when the
// container starts: who can write to a directory above a hostPath decides what it is. What a subPath leads to is opened
// now, made if it is missing, and pinned, until Unpin: a pod that can write there cannot exchange it. Mounts may be called again for the same instance, as long as that has not started.
func (v *Volumes) Mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, id string, env []v1.EnvVar) ([]specs.Mount, error) {
	if !validUID.MatchString(string(pod.UID)) || !validUID.MatchString(id) {
		return nil, fmt.Errorf("pod uid %q, container id %q: not usable as a name", pod.UID, id)
	}
	mounts := make([]specs.Mount, 0, len(c.VolumeMounts))
	for n := range c.VolumeMounts {
		m := &c.VolumeMounts[n]
		mount, err := v.mount(ctx, pod, m, pin{string(pod.UID), id, n}, env)
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

func (v *Volumes) mount(ctx context.Context, pod *v1.Pod, m *v1.VolumeMount, p pin, env []v1.EnvVar) (specs.Mount, error) {
	i := slices.IndexFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return vol.Name == m.Name })
	if i < 0 {
		return specs.Mount{}, errors.New("the pod has no such volume")
	}
	vol := &pod.Spec.Volumes[i]
	dest, err := destination(m.MountPath, vol.HostPath != nil)
	if err != nil {
		return specs.Mount{}, err
	}
	root, readOnly, err := v.source(ctx, pod, vol)
	if err != nil {
		return specs.Mount{}, err
	}
	options, err := mountOptions(m, readOnly || isContent(vol) || vol.Image != nil)
	if err != nil {
		return specs.Mount{}, err
	}
	if vol.Image != nil {
		options = append(options, imageOptions...)
	}
	sub, err := subPath(m, env)
	if err != nil {
		return specs.Mount{}, err
	}
	source := root
	if sub != "" {
		if source, err = v.pinSubPath(ctx, root, sub, p, propagates(m)); err != nil {
			return specs.Mount{}, fmt.Errorf("%s: %w", nameOfSubPath(m), err)
		}
	}
	if err := checkPropagation(source, root, m); err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: options}, nil
}

// mountOptions are the runtime's options for a mount (pkg/kubelet/kubelet_pods.go resolveRecursiveReadOnly and
// translateMountPropagation).
func mountOptions(m *v1.VolumeMount, readOnly bool) ([]string, error) {
	recursive, err := recursiveReadOnly(m, RecursiveReadOnly())
	if err != nil {
		return nil, err
	}
	access := "rw"
	switch {
	case recursive:
		access = "rro"
	case m.ReadOnly || readOnly:
		access = "ro"
	}
	propagation := "rprivate"
	switch {
	case m.MountPropagation == nil:
	case *m.MountPropagation == v1.MountPropagationHostToContainer:
		propagation = "rslave"
	case *m.MountPropagation == v1.MountPropagationBidirectional:
		propagation = "rshared"
	}
	return []string{"rbind", propagation, access}, nil
}

func recursiveReadOnly(m *v1.VolumeMount, possible bool) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	mode := *m.RecursiveReadOnly
	switch {
	case !m.ReadOnly:
		return false, fmt.Errorf("recursiveReadOnly %s: the mount is not readOnly", mode)
	case propagates(m):
		return false, fmt.Errorf("recursiveReadOnly %s: does not go with mountPropagation %s", mode, *m.MountPropagation)
	case mode == v1.RecursiveReadOnlyEnabled && !possible:
		return false, fmt.Errorf("recursiveReadOnly %s: needs Linux 5.12", mode)
	}
	return possible, nil
}

// RecursiveReadOnly says whether a mount can be made read-only with all that is mounted below it: whether the kernel has
// mount_setattr.
func RecursiveReadOnly() bool {
	return !errors.Is(unix.MountSetattr(-1, "", 0, &unix.MountAttr{}), unix.ENOSYS)
}

// destination is the path in the container. What fields.MountPath refuses is refused here as well: a pod need not have come
// through the API.
func destination(path string, isHostPath bool) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("mountPath %q: is not a path", path)
	}
	dest, why := fields.MountPath(path, isHostPath)
	if why != "" {
		return "", fmt.Errorf("mountPath %s: %s", path, why)
	}
	return dest, nil
}

// source is the path on the host, without links, and whether nobody may write there whatever the mount says.
func (v *Volumes) source(ctx context.Context, pod *v1.Pod, vol *v1.Volume) (path string, readOnly bool, err error) {
	if vol.HostPath != nil {
		if err := checkHostPath(vol.HostPath.Path); err != nil {
			return "", false, err
		}
		path, err := filepath.EvalSymlinks(vol.HostPath.Path)
		if err != nil {
			return "", false, fmt.Errorf("hostPath %s: %w", vol.HostPath.Path, cause(err))
		}
		return path, false, nil
	}
	r, isRemote := remoteOf(pod, vol)
	if isClaim(vol) {
		c, err := v.claimed(pod, vol)
		if err != nil {
			return "", false, err
		}
		if r, isRemote = c.remote(pod); !isRemote {
			path, err := c.path()
			return path, c.ReadOnly, err
		}
	}
	if isRemote {
		path, err := v.remotePath(ctx, string(pod.UID), vol.Name, r)
		return path, r.readOnly, err
	}
	name := vol.Name
	switch {
	case isContent(vol):
		name = filepath.Join(contents, vol.Name)
	case vol.Image != nil:
		name = filepath.Join(images, vol.Name)
	case vol.EmptyDir == nil:
		return "", false, errors.New("this kind of volume is not supported")
	}
	dir, err := v.openDir(string(pod.UID), false)
	if err != nil {
		return "", false, err
	}
	defer unix.Close(dir)
	fd, err := openBeneath(dir, name, 0)
	if err != nil {
		return "", false, err
	}
	unix.Close(fd)
	return filepath.Join(v.path(string(pod.UID)), name), false, nil
}
