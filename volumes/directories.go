package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// Directories are what the volumes hold that podd makes for claims: one directory for each below their own, by the name of
// the volume. They outlive pods, and containers have written into them.
type Directories struct{ dir string }

var validVolume = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`) // a DNS subdomain, or nearly

// OpenDirectories makes the directory that they live below, mode 0700.
func OpenDirectories(dir string) (*Directories, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("claims directory %q: is not absolute", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return &Directories{dir: filepath.Clean(dir)}, nil
}

// Path is where the directory of a volume is.
func (d *Directories) Path(name string) string { return filepath.Join(d.dir, name) }

// Make makes the directory of a volume, open to all users that see it, as an emptyDir is. It is durable. What is there
// stays as it is.
func (d *Directories) Make(name string) error {
	if !validVolume.MatchString(name) {
		return fmt.Errorf("make directory of volume %q: not usable as a name", name)
	}
	parent, err := unix.Open(d.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make directory of volume %s: %w", name, err)
	}
	defer unix.Close(parent)
	killpoint.At("claims.directory")
	if err := ensureDir(parent, name, -1); err != nil {
		return fmt.Errorf("make directory of volume %s: %w", name, err)
	}
	if err := unix.Fsync(parent); err != nil {
		return fmt.Errorf("make directory of volume %s: %w", name, err)
	}
	return nil
}

// Remove deletes the directory of a volume with all that is in it, but nothing on another mount: that is an error. It
// is nil when nothing is left.
func (d *Directories) Remove(ctx context.Context, name string) error {
	if !validVolume.MatchString(name) {
		return fmt.Errorf("remove directory of volume %q: not usable as a name", name)
	}
	return errors.Join(RemoveAll(ctx, d.dir, name+fresh), RemoveAll(ctx, d.dir, name))
}
