package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// Claimed is the volume that a pod's claim is bound to.
type Claimed struct {
	Name     string                   // of the PersistentVolume
	Local    string                   // path of a local volume
	HostPath *v1.HostPathVolumeSource // instead, of a volume of that kind
	Block    bool                     // it is a device and not a directory
	ReadOnly bool                     // whatever its mounts say
}

// claimed finds out what a claim is bound to.
func (v *Volumes) claimed(pod *v1.Pod, vol *v1.Volume) (Claimed, error) {
	if v.claims == nil {
		return Claimed{}, errors.New("this kind of volume is not supported")
	}
	return v.claims(pod, vol)
}

func isClaim(vol *v1.Volume) bool { return vol.PersistentVolumeClaim != nil || vol.Ephemeral != nil }

// ensureClaim checks that what the claim is bound to is there.
func (v *Volumes) ensureClaim(pod *v1.Pod, vol *v1.Volume) error {
	c, err := v.claimed(pod, vol)
	if err != nil {
		return err
	}
	if c.HostPath != nil {
		return ensureHostPath(c.HostPath)
	}
	_, err = c.path()
	return err
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
