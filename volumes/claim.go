package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Claimed is the volume that a pod's claim is bound to.
type Claimed struct {
	Name     string                   // of the PersistentVolume
	Local    string                   // path of a local volume
	HostPath *v1.HostPathVolumeSource // instead, of a volume of that kind
	NFS      *v1.NFSVolumeSource      // instead, of a volume of that kind
	ISCSI    *v1.ISCSIPersistentVolumeSource

	MountOptions []string // of a volume that is mounted
	Block        bool     // it is a device and not a directory
	ReadOnly     bool     // whatever its mounts say
	Shared       bool     // another pod runs with it: its group is left alone
}

// claimed finds out what a claim is bound to.
func (v *Volumes) claimed(pod *v1.Pod, vol *v1.Volume) (Claimed, error) {
	if v.claims == nil {
		return Claimed{}, errors.New("this kind of volume is not supported")
	}
	c, err := v.claims(pod, vol)
	if err != nil {
		return c, &lacking{err}
	}
	return c, nil
}

// lacking is why a claim is bound to nothing that the pod may have, or a secret is not to be had.
type lacking struct{ error }

func (e *lacking) Unwrap() error { return e.error }

// Lacking says that a change of the claim, its volume or the secret may make it good.
func (e *lacking) Lacking() {}

func isClaim(vol *v1.Volume) bool { return vol.PersistentVolumeClaim != nil || vol.Ephemeral != nil }

// ensureClaim checks that what the claim is bound to is there.
// The pod's fsGroup gets a directory, but not a hostPath.
func (v *Volumes) ensureClaim(ctx context.Context, pod *v1.Pod, vol *v1.Volume) error {
	c, err := v.claimed(pod, vol)
	if err != nil {
		return err
	}
	if c.HostPath != nil {
		return ensureHostPath(c.HostPath)
	}
	if r, ok := c.remote(pod); ok {
		if err := v.ensureRemote(ctx, string(pod.UID), vol.Name, r); err != nil || c.Shared {
			return err
		}
		return v.giveRemote(ctx, pod, vol.Name, r)
	}
	path, err := c.path()
	if group := fsGroup(pod); err == nil && group >= 0 && !c.Block && !c.ReadOnly && !c.Shared {
		err = giveToGroup(ctx, path, group, pod.Spec.SecurityContext.FSGroupChangePolicy)
	}
	return err
}

// Device is a block device of one container.
type Device struct {
	specs.LinuxDevice
	ReadOnly bool
}

// Devices are the block devices of a container for its volumeDevices, as they are on the host now.
func (v *Volumes) Devices(pod *v1.Pod, c *v1.Container) (devices []Device, err error) {
	for _, d := range c.VolumeDevices {
		i := slices.IndexFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return vol.Name == d.Name })
		if i < 0 || !isClaim(&pod.Spec.Volumes[i]) {
			return nil, fmt.Errorf("volumeDevice %s: the pod has no such claim", d.Name)
		}
		claimed, err := v.claimed(pod, &pod.Spec.Volumes[i])
		if err != nil {
			return nil, fmt.Errorf("volumeDevice %s: %w", d.Name, err)
		}
		path, err := claimed.path()
		if err != nil {
			return nil, fmt.Errorf("volumeDevice %s: %w", d.Name, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, fmt.Errorf("volumeDevice %s: %s: %w", d.Name, path, err)
		}
		mode := os.FileMode(st.Mode & 0o777)
		devices = append(devices, Device{ReadOnly: claimed.ReadOnly, LinuxDevice: specs.LinuxDevice{Path: d.DevicePath, Type: "b",
			Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &st.Uid, GID: &st.Gid}})
	}
	return devices, nil
}

// path is where the volume is on the host, without links: a directory, or a block device.
func (c *Claimed) path() (string, error) {
	given := c.Local
	if c.HostPath != nil {
		given = c.HostPath.Path
	}
	if err := checkHostPath(given); err != nil {
		return "", fmt.Errorf("persistent volume %s: %w", c.Name, err)
	}
	path, err := filepath.EvalSymlinks(given)
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(path)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("persistent volume %s: %s: %w", c.Name, given, cause(err))
	case c.Block && info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice:
		return "", fmt.Errorf("persistent volume %s: %s: is not a block device", c.Name, given)
	case !c.Block && c.HostPath == nil && !info.IsDir():
		return "", fmt.Errorf("persistent volume %s: %s: is not a directory", c.Name, given)
	}
	return path, nil
}
