// Package volumes turns the volumes of a pod into directories and mounts on the host, and into mounts of its containers.
//
// All that podd makes for a pod's volumes lies below <Dir>/<uid>/volumes. Containers can write there, so nothing that
// is found there is trusted: paths are walked by descriptor, symbolic links are never followed, and removal never
// crosses into another mount. The content of a hostPath is the user's; it is never changed or deleted.
//
// A volume is there or it is not: an emptyDir gets its owner and mode under another name and is then renamed, a tmpfs
// gets them with the mount, a hugetlbfs before it is attached. What the pod's containers do to their volume later is left as it is.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"

	"podd/runtime/killpoint"
)

// Options say where volumes live.
type Options struct {
	Dir string // <state>/pods; one directory per pod uid below it
	// Claims finds what the claim of a pod's volume is bound to; nil if there are no claims.
	Claims func(pod *v1.Pod, vol *v1.Volume) (Claimed, error)
	// Secrets reads the secret of an iSCSI target.
	Secrets func(namespace, name string) (map[string][]byte, error)
	// Sessions is a directory for what has to be known of iSCSI sessions; it is made when there are any.
	Sessions string
	// Wanted, if set, tells whether a pod is still to have its volumes; it is asked often while a server is waited for.
	Wanted func(uid string) bool
	// Programs are the directories where the host's mount helpers are looked for, separated by colons.
	Programs string
	// Unmounter is a command that runs Unmount for the path that is its last argument, or Force if --force comes before.
	Unmounter []string
}

// Volumes makes and removes the volumes of pods.
type Volumes struct {
	dir      string
	claims   func(pod *v1.Pod, vol *v1.Volume) (Claimed, error)
	wanted   func(uid string) bool
	programs programs

	// Of iSCSI.
	secrets    func(namespace, name string) (map[string][]byte, error)
	sessions   string // directory of what is written down of the sessions that podd has begun
	sys, dev   string
	iscsiDirs  []string    // where iscsiadm keeps what it knows
	multipathd string      // the file of its process number
	locked     func() bool // whether somebody changes iscsiadm's database just now
	targets    locks       // by the target's name

	multipathLimit time.Duration // for a multipath device to appear
}

const (
	subdir = "volumes" // below the pod's directory
	ready  = ".ready"  // in subdir: Ensure has once come to its end
	fresh  = ".new"    // suffix of an emptyDir that is being made
)

var (
	validUID  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)
	validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) // a DNS label
)

// Open makes the directory that volumes live below, mode 0700.
func Open(o Options) (*Volumes, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("volumes directory %q: is not absolute", o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	dir, err := filepath.EvalSymlinks(o.Dir) // so that no path below it needs to follow a link
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	return &Volumes{dir: dir, claims: o.Claims, wanted: o.Wanted, programs: programs{dirs: o.Programs, self: o.Unmounter, held: map[string]int{}},
		secrets: o.Secrets, sessions: o.Sessions, sys: "/sys", dev: "/dev", iscsiDirs: []string{"/etc/iscsi", "/var/lib/iscsi"}, multipathd: "/run/multipathd.pid",
		locked:  iscsiLocked,
		targets: locks{held: map[string]chan struct{}{}}, multipathLimit: 10 * time.Second}, nil // pkg/volume/iscsi: multipathDeviceTimeout
}

// Ensure makes all volumes of the pod: emptyDir directories, tmpfs and hugetlbfs mounts; hostPaths are checked, and created where
// their type says so. It is repeatable and keeps what is there.
func (v *Volumes) Ensure(ctx context.Context, pod *v1.Pod) error {
	dir, err := v.openDir(string(pod.UID), true)
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	defer unix.Close(dir)
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if err := ctx.Err(); err != nil {
			return &Error{vol.Name, err}
		}
		err := v.ensureOne(ctx, dir, pod, vol)
		if err == nil && vol.EmptyDir != nil && propagated(pod, vol.Name) {
			err = share(dir, vol.Name)
		}
		if err != nil {
			return &Error{vol.Name, err}
		}
	}
	killpoint.At("volumes.ready.before")
	fd, err := unix.Openat(dir, ready, unix.O_CREAT|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("volumes: mark ready: %w", err)
	}
	killpoint.At("volumes.ready.after")
	return unix.Close(fd)
}

// Error says which volume could not be made.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string { return "volume " + e.Volume + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func (v *Volumes) ensureOne(ctx context.Context, dir int, pod *v1.Pod, vol *v1.Volume) error {
	if !validName.MatchString(vol.Name) {
		return errors.New("not usable as a name")
	}
	if r, ok := remoteOf(pod, vol); ok {
		if err := v.ensureRemote(ctx, string(pod.UID), vol.Name, r); err != nil {
			return err
		}
		return v.giveRemote(ctx, pod, vol.Name, r)
	}
	switch {
	case vol.HostPath != nil:
		return ensureHostPath(vol.HostPath)
	case isContent(vol), vol.Image != nil:
		return nil // Write makes it, or MountImage
	case isClaim(vol):
		return v.ensureClaim(ctx, pod, vol)
	case vol.EmptyDir == nil:
		return errors.New("this kind of volume is not supported")
	case vol.EmptyDir.Medium == v1.StorageMediumDefault:
		return ensureDir(dir, vol.Name, fsGroup(pod))
	case vol.EmptyDir.Medium == v1.StorageMediumMemory:
		return ensureTmpfs(dir, vol.Name, fsGroup(pod), memorySize(pod, vol.EmptyDir))
	case v1helper.IsHugePageMedium(vol.EmptyDir.Medium):
		return ensureHugePages(dir, pod, vol)
	default:
		return fmt.Errorf("medium %s: is not supported", vol.EmptyDir.Medium)
	}
}

// openDir opens the directory of the pod's volumes. It and the pod's own directory are made where told.
func (v *Volumes) openDir(uid string, make bool) (int, error) {
	if !validUID.MatchString(uid) {
		return -1, fmt.Errorf("pod uid %q: not usable as a name", uid)
	}
	root, err := unix.Open(v.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: v.dir, Err: err}
	}
	defer unix.Close(root)
	pod, err := openSub(root, uid, make)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: filepath.Join(v.dir, uid), Err: err}
	}
	defer unix.Close(pod)
	fd, err := openSub(pod, subdir, make)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: v.path(uid), Err: err}
	}
	return fd, nil
}

// openSub opens a directory that podd itself keeps: no link, not another mount.
func openSub(dir int, name string, make bool) (int, error) {
	if make {
		if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
	return openBeneath(dir, name, unix.RESOLVE_NO_XDEV)
}

// openBeneath opens the directory name in dir and follows no link.
func openBeneath(dir int, name string, resolve uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | resolve,
	}
	return tried(func() (int, error) { return unix.Openat2(dir, name, how) })
}

// mostTries is how often an open is tried again that something renamed meanwhile made void: who renames all the time holds
// nobody up.
const mostTries = 128

func tried(open func() (int, error)) (fd int, err error) {
	for range mostTries {
		if fd, err = open(); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

func (v *Volumes) path(uid string) string { return filepath.Join(v.dir, uid, subdir) }

// fsGroup is the pod's, or -1.
func fsGroup(pod *v1.Pod) int {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return -1
}

// dirMode is that of an emptyDir (pkg/volume/emptydir of Kubernetes: perm), with the set-group-ID bit if a group is to
// own what is made inside (pkg/volume/volume_linux.go).
func dirMode(group int) uint32 {
	if group < 0 {
		return 0o777
	}
	return unix.S_ISGID | 0o777
}

// ensureDir makes an emptyDir on disk.
func ensureDir(dir int, name string, group int) error {
	if fd, err := openBeneath(dir, name, 0); err == nil {
		return unix.Close(fd)
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := unix.Mkdirat(dir, name+fresh, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	killpoint.At("volumes.dir.made")
	fd, err := openBeneath(dir, name+fresh, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if group >= 0 {
		if err := unix.Fchown(fd, -1, group); err != nil {
			return fmt.Errorf("give to group %d: %w", group, err)
		}
	}
	if err := unix.Fchmod(fd, dirMode(group)); err != nil { // after the owner, who takes the set-group-ID bit away
		return err
	}
	killpoint.At("volumes.dir.before")
	if err := unix.Renameat(dir, name+fresh, dir, name); err != nil {
		return err
	}
	killpoint.At("volumes.dir.after")
	return nil
}

// ensureTmpfs mounts an emptyDir in memory. All containers of the pod share the one mount.
func ensureTmpfs(dir int, name string, group int, size int64) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openBeneath(dir, name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isTmpfs(dir, fd) {
		return nil
	}
	options := "mode=" + strconv.FormatUint(uint64(dirMode(group)), 8)
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	if group >= 0 {
		options += ",gid=" + strconv.Itoa(group)
	}
	killpoint.At("volumes.tmpfs.before")
	if err := unix.Mount("tmpfs", "/proc/self/fd/"+strconv.Itoa(fd), "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	killpoint.At("volumes.tmpfs.after")
	return nil
}

// isTmpfs says whether sub is a tmpfs of its own, even if the directory that it is in lies on one.
func isTmpfs(dir, sub int) bool { return isOwn(unix.TMPFS_MAGIC, dir, sub) }

// isOwn says whether sub is on a file system of a kind, and on another one than the directory that it is in.
func isOwn(kind int64, dir, sub int) bool {
	var fsys unix.Statfs_t
	var in, at unix.Stat_t
	return unix.Fstatfs(sub, &fsys) == nil && fsys.Type == kind &&
		unix.Fstat(dir, &in) == nil && unix.Fstat(sub, &at) == nil && in.Dev != at.Dev
}

// memorySize is how much a tmpfs may hold, in bytes; 0 is the kernel's default, half of the memory. As in upstream
// (calculateEmptyDirMemorySize in pkg/volume/emptydir), it is the size limit, or the pod's memory limit if that is
// smaller or the only one.
func memorySize(pod *v1.Pod, e *v1.EmptyDirVolumeSource) int64 {
	size := memoryLimit(pod)
	if e.SizeLimit != nil && e.SizeLimit.Value() > 0 && (size == 0 || e.SizeLimit.Value() < size) {
		size = e.SizeLimit.Value()
	}
	return size
}

// memoryLimit is the pod's, in bytes; 0 unless every container has one.
func memoryLimit(pod *v1.Pod) int64 {
	all := true
	sum := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(r v1.ResourceList, _ resourcehelper.ContainerType) { all = all && !r.Memory().IsZero() },
	})
	if !all {
		return 0
	}
	return sum.Memory().Value()
}

// Look says whether Ensure has come to its end once and all that podd keeps for the pod's volumes is there. A hostPath
// is the user's and is not looked at again.
func (v *Volumes) Look(uid string, pod *v1.Pod) (bool, error) {
	dir, err := v.openDir(uid, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at volumes: %w", err)
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, ready, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, nil
	}
	for _, vol := range pod.Spec.Volumes {
		if _, ok := remoteOf(pod, &vol); ok && !isMount(dir, filepath.Join(remotes, vol.Name)) {
			return false, nil
		}
		if vol.EmptyDir == nil {
			continue
		}
		fd, err := openBeneath(dir, vol.Name, 0)
		if err != nil {
			return false, nil
		}
		there := true
		switch {
		case vol.EmptyDir.Medium == v1.StorageMediumMemory:
			there = isTmpfs(dir, fd)
		case v1helper.IsHugePageMedium(vol.EmptyDir.Medium):
			there = isHugetlbfs(dir, fd)
		}
		there = there && (!propagated(pod, vol.Name) || isShared(fd))
		unix.Close(fd)
		if !there {
			return false, nil
		}
	}
	return true, nil
}

// Remove unmounts and deletes all volumes of the pod; nil when nothing is left. The pod's directory goes with it when
// nothing else is in it.
func (v *Volumes) Remove(ctx context.Context, uid string) error {
	if err := v.Vacate(ctx, uid); err != nil {
		return err
	}
	pod := filepath.Join(v.dir, uid)
	err := unix.Rmdir(pod)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return nil
	default:
		return fmt.Errorf("remove volumes: %s: %w", pod, err)
	}
}

// Stored tells whether there is anything that Vacate would take away.
func (v *Volumes) Stored(uid string) bool {
	_, err := os.Lstat(v.path(uid))
	return err == nil
}

// Vacate unmounts and deletes all volumes of the pod, and leaves its directory, by which it is known that more is left.
func (v *Volumes) Vacate(ctx context.Context, uid string) error {
	if !validUID.MatchString(uid) {
		return fmt.Errorf("remove volumes: pod uid %q: not usable as a name", uid)
	}
	pod := filepath.Join(v.dir, uid)
	killpoint.At("volumes.remove.before")
	if err := v.unmount(ctx, v.path(uid)); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	if err := v.detachISCSI(ctx, uid); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	killpoint.At("volumes.remove.unmounted")
	if err := RemoveAll(ctx, pod, subdir); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	killpoint.At("volumes.remove.deleted")
	return nil
}

// Known lists the uids that have a directory below Dir.
func (v *Volumes) Known() ([]string, error) {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var uids []string
	for _, e := range entries {
		if e.IsDir() && validUID.MatchString(e.Name()) {
			uids = append(uids, e.Name())
		}
	}
	return uids, nil
}

// Path is where an emptyDir of the pod is on the host.
func (v *Volumes) Path(uid, name string) string { return filepath.Join(v.path(uid), name) }
