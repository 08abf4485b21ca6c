package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// OpenFile opens a regular file of an emptyDir of the pod for reading. Links in the volume lead where they lead in a
// container that has it as its root: never out of it. A file that is not there is fs.ErrNotExist.
func (v *Volumes) OpenFile(pod *v1.Pod, volume, path string) (*os.File, error) {
	for i := range pod.Spec.Volumes {
		if vol := &pod.Spec.Volumes[i]; vol.Name != volume || vol.EmptyDir == nil {
			continue
		}
		dir, err := v.openDir(string(pod.UID), false)
		if err != nil {
			return nil, err
		}
		defer unix.Close(dir)
		root, err := openBeneath(dir, volume, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: volume, Err: err}
		}
		defer unix.Close(root)
		return openRegular(root, path)
	}
	return nil, fmt.Errorf("the pod has no emptyDir %s", volume)
}

// openRegular opens a regular file in the directory root as if that were the root of all. What only looks like a file,
// such as a pipe that nobody writes to, is not waited for.
func openRegular(root int, path string) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := tried(func() (int, error) { return unix.Openat2(root, path, how) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("is not a file")
	}
	if err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
