package stats

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	deepest     = 256     // directories within each other that are counted: each is held open
	namesAtOnce = 512     // of a directory
	severalMost = 1 << 20 // files with several names that are remembered; of others each name counts for its share
)

// ErrTooDeep is for a tree that cannot be counted, with more directories within each other than anybody has use for.
var ErrTooDeep = errors.New("more than 256 directories within each other")

// Files is what the files in dir take on its file system, a file with several names once. Links are not followed, and
// other file systems not entered. Containers may change the tree meanwhile, and make it as large as they like: it is walked
// by descriptor, and little of it is held in memory. What is gone meanwhile is not counted.
func Files(ctx context.Context, dir string) (used, inodes uint64, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	t := tree{ctx: ctx, several: map[uint64]bool{}}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return 0, 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	t.dev = st.Dev
	t.add(&st)
	err = t.below(fd, 1)
	return t.used, t.inodes, err
}

// tree is what was counted of one.
type tree struct {
	ctx          context.Context
	dev          uint64
	used, inodes uint64
	several      map[uint64]bool // inodes of files with several names
}

func (t *tree) add(st *unix.Stat_t) {
	took := uint64(st.Blocks) * 512
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		switch {
		case t.several[st.Ino]:
			return
		case len(t.several) < severalMost:
			t.several[st.Ino] = true
		default:
			took /= uint64(st.Nlink)
		}
	}
	t.used, t.inodes = t.used+took, t.inodes+1
}

// below counts what is in the directory that fd is, and closes it.
func (t *tree) below(fd, depth int) error {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	if depth > deepest {
		return ErrTooDeep
	}
	for {
		names, err := f.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := t.entry(fd, name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ENOENT): // the directory may be gone
			return nil
		case err != nil:
			return err
		}
	}
}

func (t *tree) entry(dir int, name string, depth int) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil || st.Dev != t.dev {
		return nil
	}
	t.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	switch {
	case err == nil:
		return t.below(fd, depth+1)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return nil // another one by now, or a mount
	default:
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
}
