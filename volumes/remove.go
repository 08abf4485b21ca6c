package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth is how many directories RemoveAll holds open at once. Deeper ones are moved up first: a container can make
// a tree deeper than a process may have files open.
const maxDepth = 64

// RemoveAll deletes name in dir with all that is below it. No symbolic link below dir is followed, and nothing on
// another mount is deleted: that is an error, and the mount is left alone. It is nil when nothing is there.
func RemoveAll(ctx context.Context, dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("remove %q below %s: not the name of an entry", name, dir)
	}
	parent, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Join(dir, name), err)
	}
	defer unix.Close(parent)
	r := remover{ctx: ctx, top: -1}
	if err := r.entry(parent, name, 0); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

type remover struct {
	ctx   context.Context
	top   int // the outermost directory, where deep ones are moved to
	moved int
}

// entry deletes one entry of a directory, and if it is a directory, all that is in it. An entry may become something
// else at any moment, as long as a container has the volume: then it is looked at again.
func (r *remover) entry(parent int, name string, depth int) error {
	for {
		err := unix.Unlinkat(parent, name, 0)
		if errors.Is(err, unix.EISDIR) {
			if depth >= maxDepth {
				return r.moveUp(parent, name)
			}
			var fd int
			if fd, err = openBeneath(parent, name, unix.RESOLVE_NO_XDEV); err == nil {
				err = r.directory(parent, name, fd, depth)
			}
		}
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case isMount(parent, name):
			return fmt.Errorf("%s: is a mount", name)
		case r.ctx.Err() != nil:
			return fmt.Errorf("%s: %w", name, r.ctx.Err())
		case errors.As(err, new(*inside)):
			return err
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
		default:
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// inside is what goes wrong with something in a directory, and not with the directory itself.
type inside struct {
	path string
	err  error
}

func (e *inside) Error() string { return e.path + "/" + e.err.Error() }
func (e *inside) Unwrap() error { return e.err }

func isMount(parent int, name string) bool {
	var st unix.Statx_t
	// What another host serves is not asked: its server may be dead.
	err := unix.Statx(parent, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// directory empties the directory that fd is, closes it and deletes it.
func (r *remover) directory(parent int, name string, fd, depth int) error {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if depth == 0 {
		r.top = fd
	}
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := f.Readdirnames(512)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(names) == 0 {
			err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
			if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
				continue // something was put into it meanwhile
			}
			return err
		}
		for _, sub := range names {
			if err := r.entry(fd, sub, depth+1); err != nil {
				return &inside{path: name, err: err}
			}
		}
	}
}

// moveUp moves a directory into the outermost one, whose turn it is until it is empty.
func (r *remover) moveUp(parent int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(parent, name, r.top, ".deep-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.EEXIST):
			continue
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EXDEV):
			return fmt.Errorf("%s: is a mount", name)
		default:
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// Unmount unmounts everything at and below path, stacked mounts included, innermost first. A mount that is in use is
// detached: it goes when its last user goes. Nil when nothing is mounted there.
func Unmount(ctx context.Context, path string) error {
	path, err := realPath(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	for {
		points, err := mountsBelow(path)
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		if len(points) == 0 {
			return nil
		}
		// What a container has bound here may be mounts of the host: those stay.
		// But what podd has mounted for all to see has to go for all.
		for _, p := range points {
			if filepath.Base(filepath.Dir(p)) != remotes {
				_ = unix.Mount("", p, "", unix.MS_PRIVATE|unix.MS_REC, "")
			}
		}
		progress := false
		for _, p := range slices.Backward(points) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("unmount %s: %w", p, err)
			}
			err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) {
				err = unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			}
			switch {
			case err == nil:
				progress = true
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
				// covered by another mount, which is unmounted in this round
			default:
				return fmt.Errorf("unmount %s: %w", p, err)
			}
		}
		if !progress {
			return fmt.Errorf("unmount %s: %d mounts cannot be reached", path, len(points))
		}
	}
}

// detach takes the topmost mount on path away, with all that is mounted below it, and nothing elsewhere. EINVAL if there
// is none.
func detach(path string) error {
	if err := unix.Mount("", path, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// realPath is the path without links, as the kernel lists mounts.
func realPath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return path, err
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// mountsBelow are the mount points at and below path, in the order they were mounted.
func mountsBelow(path string) (points []string, err error) {
	found, err := pointsBelow(path)
	for _, p := range found {
		points = append(points, p.path)
	}
	return points, err
}

// mountPoint is a line of the kernel's list of mounts.
type mountPoint struct {
	path string
	fs   string // kind of file system
}

// pointsBelow is mountsBelow, with what is mounted there.
func pointsBelow(path string) ([]mountPoint, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []mountPoint
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		p := unescape(fields[4])
		if p != path && !strings.HasPrefix(p, path+"/") {
			continue
		}
		m := mountPoint{path: p}
		if dash := slices.Index(fields, "-"); dash > 0 && dash+1 < len(fields) {
			m.fs = fields[dash+1]
		}
		points = append(points, m)
	}
	return points, nil
}

// unescape undoes the kernel's octal escapes of blank, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
