package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// images is the directory, below the pod's volumes, of the mounts of image volumes. Their names stay until the volumes
// are removed: they say which snapshots there are.
const images = ".images"

// imageOptions hold for the mount of an image and for those of the containers (the API of Kubernetes: ImageVolumeSource).
// Nothing that an image holds is to be trusted either: no set-user-ID bits, no devices.
var imageOptions = []string{"noexec", "nosuid", "nodev"}

// MountImage has an image volume of a pod mounted: once, for all containers. mounts say how, as containerd has it.
func (v *Volumes) MountImage(uid, name string, mounts []mount.Mount) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("volume %q: not usable as a name", name)
	}
	dir, err := v.openDir(uid, true)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	defer unix.Close(dir)
	in, err := openSub(dir, images, true)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	defer unix.Close(in)
	path := filepath.Join(v.path(uid), images, name)
	for isMount(in, name) {
		if isSealed(in, name) {
			return nil
		}
		if err := detach(path); err != nil {
			return fmt.Errorf("volume %s: unmount what is not read-only: %w", name, err)
		}
	}
	at, err := openSub(in, name, true)
	if err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	defer unix.Close(at)
	for i := range mounts {
		mounts[i].Options = append(mounts[i].Options, imageOptions...)
	}
	killpoint.At("volumes.image.before")
	// By its path, which no pod can change: what a bind mount is to be besides comes with a second call, for which the descriptor
	// would still be what lies below.
	if err := mount.All(mounts, path); err != nil {
		return fmt.Errorf("volume %s: mount image: %w", name, err)
	}
	return nil
}

// ImageMounted tells whether an image volume of a pod is mounted.
func (v *Volumes) ImageMounted(uid, name string) bool {
	dir, err := v.openDir(uid, false)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	in, err := openSub(dir, images, false)
	if err != nil {
		return false
	}
	defer unix.Close(in)
	return isMount(in, name) && isSealed(in, name)
}

// isSealed tells whether a mount has what imageOptions say, and is read-only. A bind mount gets it with a second call,
// before which podd may have died.
func isSealed(dir int, name string) bool {
	fd, err := openBeneath(dir, name, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	const want = unix.ST_RDONLY | unix.ST_NOEXEC | unix.ST_NOSUID | unix.ST_NODEV
	return unix.Fstatfs(fd, &st) == nil && st.Flags&want == want
}

// UnmountImages unmounts the image volumes of a pod, and tells the names of all that there were until Remove.
func (v *Volumes) UnmountImages(ctx context.Context, uid string) ([]string, error) {
	if !validUID.MatchString(uid) {
		return nil, fmt.Errorf("unmount images: pod uid %q: not usable as a name", uid)
	}
	at := filepath.Join(v.path(uid), images)
	entries, err := os.ReadDir(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("unmount images: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err := Unmount(ctx, at); err != nil {
		return nil, fmt.Errorf("unmount images: %w", err)
	}
	return names, nil
}
