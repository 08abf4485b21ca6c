package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another podd has its pods below the same cgroup.
var ErrInUse = errors.New("in use by another podd: give this one a cgroup parent of its own")

// Lock makes this podd the only one that has its pods below the cgroup parent, until release is called or the process
// ends. To a podd with another state file all pods there would be strays, and it would kill them. The lock is one on the
// cgroup's directory; release takes away what Lock has made of that, if no pod has come to be below it.
func (s *Sandboxes) Lock() (release func(), err error) {
	at := s.cg.trees[0].at
	for _, h := range s.cg.trees {
		if h.has("memory") { // the same tree whatever the order of mounts
			at = h.at
		}
	}
	dir := filepath.Join(at, s.cg.parent)
	for {
		var made []string // the innermost first
		for d := dir; len(d) > len(at); d = filepath.Dir(d) {
			if _, err := os.Lstat(d); errors.Is(err, os.ErrNotExist) {
				made = append(made, d)
			}
		}
		f, err := lock(dir)
		if errors.Is(err, errTakenAway) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock cgroup: %w", err)
		}
		return func() {
			for _, d := range made {
				_ = unix.Rmdir(d) // one that is used stays
			}
			_ = f.Close()
		}, nil
	}
}

// errTakenAway says that who had the lock before took the directory away when it was opened already.
var errTakenAway = errors.New("taken away meanwhile")

// lock makes a directory and locks it, as long as the file is open.
func lock(dir string) (*os.File, error) {
	err := os.MkdirAll(dir, 0o755)
	var f *os.File
	if err == nil {
		f, err = os.Open(dir)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, errTakenAway // dir, or one above it
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err == nil {
		err = same(f, dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return f, nil
}

// same is nil if f is what is at dir.
func same(f *os.File, dir string) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(dir); err != nil || !os.SameFile(opened, now) {
		return errTakenAway
	}
	return nil
}

// Owns tells whether a cgroup, as a path from the mount point, is below the parent of this podd's pods.
func (s *Sandboxes) Owns(cgroup string) bool {
	return strings.HasPrefix(path.Clean("/"+cgroup), s.cg.parent+"/")
}
