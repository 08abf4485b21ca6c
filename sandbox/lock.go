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
// cgroup's directory, so nothing is left of it.
func (s *Sandboxes) Lock() (release func(), err error) {
	at := s.cg.trees[0].at
	for _, h := range s.cg.trees {
		if h.has("memory") { // the same tree whatever the order of mounts
			at = h.at
		}
	}
	dir := filepath.Join(at, s.cg.parent)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock cgroup: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock cgroup: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock cgroup %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// Owns tells whether a cgroup, as a path from the mount point, is below the parent of this podd's pods.
func (s *Sandboxes) Owns(cgroup string) bool {
	return strings.HasPrefix(path.Clean("/"+cgroup), s.cg.parent+"/")
}
