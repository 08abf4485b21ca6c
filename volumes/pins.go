package volumes

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// pins is the directory in a pod's volumes where what subPaths lead to is bound for the runtime, below the id of the
// instance and the number of the mount. No volume can have that name.
const pins = ".pins"

// pin says for which mount something is bound.
type pin struct {
	uid, id string
	n       int // index in volumeMounts
}

// pin binds what fd is, with all that is mounted below it, to a place where only podd can change it, and names that place.
// What was bound there is replaced.
func (v *Volumes) pin(p pin, fd int, propagates bool) (string, error) {
	dir, err := v.openPins(p.uid, p.id, true)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	name := strconv.Itoa(p.n)
	path := filepath.Join(v.path(p.uid), pins, p.id, name)
	if err := removePin(dir, path, name); err != nil {
		return "", err
	}
	if err := makeTarget(dir, name, fd); err != nil {
		return "", fmt.Errorf("pin: %w", err)
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pin: %w", err)
	}
	if !propagates { // what is mounted below it from now on, or unmounted, is no concern of others
		if err := unix.Mount("", path, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return "", fmt.Errorf("pin: %w", err)
		}
	}
	killpoint.At("volumes.pin.after")
	return path, nil
}

// makeTarget makes what fd can be bound to: a directory, or a file for all else.
func makeTarget(dir int, name string, fd int) error {
	var st unix.Statx_t // as far as it is known, without asking a server
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Mkdirat(dir, name, 0o700)
	}
	return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
}

// openPins opens the directory of the pins of an instance.
func (v *Volumes) openPins(uid, id string, make bool) (int, error) {
	vols, err := v.openDir(uid, false)
	if err != nil {
		return -1, err
	}
	defer unix.Close(vols)
	all, err := openSub(vols, pins, make)
	if err != nil {
		return -1, err
	}
	defer unix.Close(all)
	return openSub(all, id, make)
}

// Unpin takes away what Mounts has pinned for an instance, which has started or never will. Nil when nothing is left.
func (v *Volumes) Unpin(ctx context.Context, uid, id string) error {
	if !validUID.MatchString(uid) || !validUID.MatchString(id) {
		return fmt.Errorf("unpin: pod uid %q, container id %q: not usable as a name", uid, id)
	}
	dir, err := v.openPins(uid, id, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	unix.Close(dir)
	at := filepath.Join(v.path(uid), pins)
	if err := v.unmount(ctx, filepath.Join(at, id)); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	killpoint.At("volumes.pin.unmounted")
	if err := RemoveAll(ctx, at, id); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}

// removePin takes one pin away.
func removePin(dir int, path, name string) error {
	for {
		if err := detach(path); errors.Is(err, unix.ENOENT) {
			return nil
		} else if errors.Is(err, unix.EINVAL) {
			break // no mount, or no more
		} else if err != nil {
			return fmt.Errorf("unpin %s: %w", path, err)
		}
	}
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return err
}
