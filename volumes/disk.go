package volumes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// formatAndMount mounts a disk, after it was checked. A blank one is given a file system first, but not if it is to be read
// only (k8s.io/mount-utils: SafeFormatAndMount). All of it is done by programs of the host, which a target that does not
// answer may hold.
func (v *Volumes) formatAndMount(ctx context.Context, u unit, device, path, fsType string, r remote) error {
	if err := v.idle(u); err != nil {
		return fmt.Errorf("disk %s: %w", device, err)
	}
	mounted, err := v.mounted()
	if err != nil {
		return err
	}
	format, err := v.formatOf(ctx, u, device)
	if err != nil {
		return fmt.Errorf("disk %s: %w", device, err)
	}
	switch {
	case format == "" && r.readOnly:
		return fmt.Errorf("disk %s: has no file system, and is to be read-only", device)
	case format == "":
		if err := v.reallyBlank(ctx, u, device); err != nil {
			return err
		}
		if err := v.format(ctx, u, device, fsType); err != nil {
			return err
		}
	case format != fsType:
		return fmt.Errorf("disk %s: has %s on it, not %s", device, format, fsType)
	case !r.readOnly && strings.HasPrefix(fsType, "ext") && !mounted(device):
		if err := v.repair(ctx, u, device); err != nil {
			return err
		}
	}
	mount, err := v.programs.find("util-linux", "mount")
	if err != nil {
		return err
	}
	r.options = append([]string{"defaults"}, r.options...)
	_, err = v.programs.run(ctx, path, false, mount, "-t", fsType, "-o", strings.Join(mountFlags(r), ","), device, path)
	if err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return nil
}

// blank is the exit code of blkid for a disk on which it has found nothing at all, and for one that it could not read.
const blank = 2

// formatOf is the file system on a disk, or in a copy of one; empty only if blkid has found nothing, no partitions either.
func (v *Volumes) formatOf(ctx context.Context, u unit, in string) (string, error) {
	blkid, err := v.programs.find("util-linux", "blkid")
	if err != nil {
		return "", err
	}
	said, err := v.programs.run(ctx, u.String(), false, blkid, "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", in)
	if exit := (*exitError)(nil); errors.As(err, &exit) && exit.code == blank && strings.TrimSpace(said) == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	kind := ""
	for line := range strings.Lines(said) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "PTTYPE":
			return "", fmt.Errorf("has partitions (%s)", value)
		case "TYPE":
			kind = value
		}
	}
	if kind == "" {
		return "", errors.New("blkid does not say what is on it")
	}
	return kind, nil
}

const (
	tellsBlocks = 32 // of 64 KiB, at the beginning of a disk: where all but very few file systems can be told
	sector      = 512
)

// reallyBlank is nil if the beginning of a disk can be read and blkid finds nothing in what was read. That it has found nothing on
// the disk is not enough: it says the same of one that gives errors, and those may be over when the disk is formatted.
func (v *Volumes) reallyBlank(ctx context.Context, u unit, device string) error {
	sectors, err := strconv.ParseInt(word(filepath.Join(v.sys, "class/block", filepath.Base(device), "size")), 10, 64)
	if err != nil || sectors <= 0 {
		return fmt.Errorf("disk %s: its size is not known", device)
	}
	dd, err := v.programs.find("coreutils", "dd")
	if err != nil {
		return err
	}
	copied, err := memory()
	if err != nil {
		return err
	}
	defer copied.Close()
	_, err = v.programs.runAs(ctx, way{most: 1, into: copied}, u.String(), dd, "if="+device, "bs=64k", "count="+strconv.Itoa(tellsBlocks))
	if err != nil {
		return fmt.Errorf("disk %s: cannot be read: %w", device, err)
	}
	st, err := copied.Stat()
	if err != nil {
		return err
	}
	if want := min(tellsBlocks*64<<10, sectors*sector); st.Size() < want {
		return fmt.Errorf("disk %s: cannot be read: of its first %d bytes there are %d", device, want, st.Size())
	}
	if err := copied.Truncate(sectors * sector); err != nil { // a table of partitions says how large its disk is
		return err
	}
	kind, err := v.formatOf(ctx, u, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), copied.Fd()))
	if err == nil && kind != "" {
		err = fmt.Errorf("has %s on it", kind)
	}
	if err != nil {
		return fmt.Errorf("disk %s: seemed to be blank, but is not: %w", device, err)
	}
	return nil
}

func (v *Volumes) format(ctx context.Context, u unit, device, fsType string) error {
	mkfs, err := v.programs.find("the programs for "+fsType+" (e2fsprogs, xfsprogs, ...)", "mkfs."+fsType)
	if err != nil {
		return err
	}
	args := []string{device}
	switch fsType {
	case "ext3", "ext4":
		args = []string{"-F", "-m0", device}
	case "xfs":
		args = []string{"-f", device}
	}
	err = v.change(ctx, u, mkfs, args...)
	if errors.Is(err, errChanging) {
		return fmt.Errorf("disk %s: %w", device, err)
	}
	if err != nil {
		return fmt.Errorf("format %s as %s: %w", device, fsType, err)
	}
	return nil
}

// repair mends what can be mended without asking anybody. Without the program nothing is checked.
func (v *Volumes) repair(ctx context.Context, u unit, device string) error {
	const uncorrected = 4 // and not 1, which is that errors were corrected (fsck(8))
	fsck, err := v.programs.find("e2fsprogs", "fsck")
	if err != nil {
		return nil
	}
	err = v.change(ctx, u, fsck, "-a", device)
	if exit := (*exitError)(nil); errors.As(err, &exit) && exit.code == uncorrected {
		return fmt.Errorf("disk %s: has errors that have to be corrected by hand: %w", device, err)
	}
	if !ended(err) {
		return fmt.Errorf("disk %s: %w", device, err)
	}
	return nil
}

// unit is a disk of a target, whatever device shows it: more than one session may, each as another one.
type unit struct {
	iqn string
	lun int32
}

func (u unit) String() string { return fmt.Sprintf("iscsi %s lun %d", u.iqn, u.lun) }

// errChanging is why a disk has to be waited for.
var errChanging = errors.New("is still being formatted or checked")

// change runs a program that changes a disk. It is never killed, since half-way it leaves a disk that seems to be blank or is
// broken: when ctx ends it goes on, and that is errChanging, and so it does when podd ends. Then the lock on a file tells of it,
// which the program has inherited. The target is locked.
func (v *Volumes) change(ctx context.Context, u unit, path string, args ...string) error {
	if err := v.idle(u); err != nil {
		return err
	}
	if v.programs.busy(u.String()) {
		return fmt.Errorf("a program that was run on it %w", errHeld) // one that reads
	}
	if err := os.MkdirAll(v.sessions, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(v.lockFile(u), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
	_, err = v.programs.runAs(ctx, way{spare: true, most: 1, keeps: lock}, u.String(), path, args...)
	_ = lock.Close()
	if errors.Is(err, errHeld) {
		return errChanging
	}
	if busy := v.idle(u); busy != nil {
		return busy // what it has started has not ended
	}
	return err
}

// idle is errChanging if a program is changing a disk, also one that another podd has started. The target is locked.
func (v *Volumes) idle(u unit) error {
	lock, err := os.OpenFile(v.lockFile(u), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errChanging
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return os.Remove(lock.Name())
}

func (v *Volumes) lockFile(u unit) string {
	sum := sha256.Sum256([]byte(u.String()))
	return filepath.Join(v.sessions, hex.EncodeToString(sum[:16])+".lock")
}

// mounted tells of disks whether they are mounted, somewhere that podd sees.
func (v *Volumes) mounted() (func(device string) bool, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	numbers, sources := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if dash := slices.Index(f, "-"); dash > 2 && dash+2 < len(f) {
			numbers[f[2]], sources[f[dash+2]] = true, true // btrfs has numbers of its own
		}
	}
	return func(device string) bool {
		return sources[device] || numbers[word(filepath.Join(v.sys, "class/block", filepath.Base(device), "dev"))]
	}, nil
}

// locks are one lock per name, for which nobody waits longer than his context lasts.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // capacity 1; guarded by mu
}

func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	c := l.held[name]
	if c == nil {
		c = make(chan struct{}, 1)
		l.held[name] = c
	}
	l.mu.Unlock()
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
