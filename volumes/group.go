package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// giveToGroup gives the group a directory with all that is in it: it may read and write, enter directories, and has what
// is made there (upstream: pkg/volume/volume_linux.go). No link is followed, and nothing on another mount is changed. A directory
// comes after what is in it, so that one that was not finished is begun again under the policy OnRootMismatch.
func giveToGroup(ctx context.Context, dir string, group int, policy *v1.PodFSGroupChangePolicy) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("give %s to group %d: %w", dir, group, err)
	}
	defer unix.Close(root)
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		var st unix.Stat_t
		const want = unix.S_ISGID | 0o770
		if err := unix.Fstat(root, &st); err == nil && int(st.Gid) == group && st.Mode&want == want {
			return nil
		}
	}
	if err := giveBelow(ctx, root, ".", group, 1); err != nil {
		return fmt.Errorf("give %s to group %d: %w", dir, group, err)
	}
	return nil
}

// deepest is how many directories within each other are given to a group: each is held open.
const deepest = 1024

// giveBelow does it for the directory at a path in another one. What goes meanwhile is no error.
func giveBelow(ctx context.Context, in int, path string, group, depth int) error {
	if depth > deepest {
		return fmt.Errorf("more than %d directories within each other", deepest)
	}
	fd, err := openBeneath(in, path, unix.RESOLVE_NO_XDEV)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	for {
		entries, err := f.ReadDir(512) // and not all at once: there may be millions
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(entries) == 0 {
			return giveEntry(in, path, group)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.IsDir() {
				err = giveBelow(ctx, fd, e.Name(), group, depth+1)
			} else {
				err = giveEntry(fd, e.Name(), group)
			}
			if err != nil {
				return err
			}
		}
	}
}

// giveEntry does it for one entry of a directory. One that is the group's already is left alone, so that who was interrupted
// comes further each time.
func giveEntry(dir int, path string, group int) error {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	mode := st.Mode&0o7777 | 0o660
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		mode = st.Mode & 0o7777
	case unix.S_IFDIR:
		mode |= unix.S_ISGID | 0o110
	}
	if int(st.Gid) == group && st.Mode&0o7777 == mode {
		return nil
	}
	if err := unix.Fchownat(fd, "", -1, group, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
