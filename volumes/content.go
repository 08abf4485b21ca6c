package volumes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
)

// The volumes that podd fills are below one tmpfs per pod, whatever their number: nothing of a secret comes to a disk, and
// what was made from the sources goes with the boot. Each is a directory in upstream's layout
// (pkg/volume/util/atomic_writer.go):
//
//	<volume>/..2026_11_25_12_00_00.123456789/<files>
//	<volume>/..data -> ..2026_11_25_12_00_00.123456789
//	<volume>/<first name of a path> -> ..data/<first name of a path>
//
// A new version is written beside the old one, and becomes visible by the renaming of ..data. Whoever holds a directory
// open reads one version. Containers get these volumes read-only.
const (
	contents   = ".content" // below the pod's volumes: the mount of the tmpfs
	writtenAs  = ".written" // in it: what the volumes were written from
	dataLink   = "..data"
	newData    = "..data_tmp"
	ownNames   = ".." // what begins with it in a volume is podd's own
	contentMax = 64 << 20
)

// File is one file of a volume that podd fills.
type File struct {
	Data  []byte
	Mode  uint32
	Owner *int64 // nil is root
}

// Written is what is known of a volume that podd has filled.
type Written struct {
	Stamp string    `json:"stamp"` // what it was filled from, in the words of who filled it
	Due   time.Time `json:"due,omitzero"`
	Sum   string    `json:"sum"`             // of its content
	Amiss string    `json:"amiss,omitempty"` // why it stays as it is though its sources are others now
}

// isContent tells whether podd fills a volume.
func isContent(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// Written is what the volumes that podd fills were written from, by their names; one that is not there whole is not in it.
func (v *Volumes) Written(uid string) (map[string]Written, error) {
	dir, err := v.openDir(uid, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at volumes: %w", err)
	}
	defer unix.Close(dir)
	root, err := openContents(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at volumes: %w", err)
	}
	defer root.Close()
	return readWritten(root)
}

func readWritten(root *os.Root) (map[string]Written, error) {
	data, err := root.ReadFile(writtenAs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at volumes: %w", err)
	}
	var written map[string]Written
	if json.Unmarshal(data, &written) != nil {
		return nil, nil // they are written again
	}
	return written, nil
}

// openContents opens the tmpfs of a pod below the directory of its volumes. Without a mount there it is fs.ErrNotExist.
func openContents(dir int) (*os.Root, error) {
	fd, err := openBeneath(dir, contents, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: contents, Err: err}
	}
	defer unix.Close(fd)
	if !isTmpfs(dir, fd) {
		return nil, &fs.PathError{Op: "open", Path: contents, Err: unix.ENOENT}
	}
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd))
}

// mountContents has the tmpfs of a pod. Its size only bounds what podd puts there: the pod cannot write to it.
func mountContents(dir int, pod *v1.Pod) error {
	if err := unix.Mkdirat(dir, contents, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openBeneath(dir, contents, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isTmpfs(dir, fd) {
		return shareContents(dir, pod)
	}
	most := 0
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; isContent(v) {
			most += contentMax
			if v.Projected != nil {
				most += contentMax * len(v.Projected.Sources)
			}
		}
	}
	options := "mode=700,size=" + strconv.Itoa(most)
	mount := func(options string) error {
		return unix.Mount("tmpfs", "/proc/self/fd/"+strconv.Itoa(fd), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
	}
	err = mount(options + ",noswap")
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.4
		err = mount(options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	killpoint.At("volumes.content.mounted")
	return shareContents(dir, pod)
}

// shareContents makes the tmpfs a shared mount if a container asks for that. There will never be a mount below it.
func shareContents(dir int, pod *v1.Pod) error {
	for i := range pod.Spec.Volumes {
		if vol := &pod.Spec.Volumes[i]; isContent(vol) && propagated(pod, vol.Name) {
			return share(dir, contents)
		}
	}
	return nil
}

// Write makes the files of a volume that podd fills what they are to be, and notes what they were made from. Nobody sees a
// part of it. Files that are the same as before are left alone. An error is *Error.
func (v *Volumes) Write(ctx context.Context, pod *v1.Pod, vol *v1.Volume, files map[string]File, from Written) error {
	err := ctx.Err()
	if err == nil {
		err = v.write(pod, vol, files, from)
	}
	if err != nil {
		return &Error{vol.Name, err}
	}
	return nil
}

// Keep notes that a volume stays as it is though its sources are others now.
func (v *Volumes) Keep(pod *v1.Pod, vol *v1.Volume, from Written) error {
	dir, err := v.openDir(string(pod.UID), false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	root, err := openContents(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	known, err := readWritten(root)
	if err != nil {
		return err
	}
	from.Sum = known[vol.Name].Sum
	return note(root, known, vol.Name, from)
}

func (v *Volumes) write(pod *v1.Pod, vol *v1.Volume, files map[string]File, from Written) error {
	if !validName.MatchString(vol.Name) {
		return errors.New("not usable as a name")
	}
	dir, err := v.openDir(string(pod.UID), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := mountContents(dir, pod); err != nil {
		return err
	}
	root, err := openContents(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	known, err := readWritten(root)
	if err != nil {
		return err
	}
	from.Sum = sum(files)
	if known[vol.Name].Sum != from.Sum {
		if err := forget(root, known, vol.Name); err != nil {
			return err
		}
		if err := fill(root, pod, vol, files); err != nil {
			return err
		}
	}
	return note(root, known, vol.Name, from)
}

// note keeps what a volume was written from.
func note(root *os.Root, known map[string]Written, name string, from Written) error {
	next := maps.Clone(known)
	if next == nil {
		next = map[string]Written{}
	}
	next[name] = from
	return save(root, next)
}

// forget makes void what was noted of a volume, before it is filled: if podd dies meanwhile nobody knows what is in it.
func forget(root *os.Root, known map[string]Written, name string) error {
	if _, noted := known[name]; !noted {
		return nil
	}
	delete(known, name)
	return save(root, known)
}

func save(root *os.Root, written map[string]Written) error {
	data, err := json.Marshal(written)
	if err != nil {
		return err
	}
	if err := root.WriteFile(writtenAs+fresh, data, 0o600); err != nil {
		return err
	}
	return root.Rename(writtenAs+fresh, writtenAs)
}

// sum is a checksum of all that can be seen of the files.
func sum(files map[string]File) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		owner := int64(0)
		if f.Owner != nil {
			owner = *f.Owner
		}
		fmt.Fprintf(h, "%q %o %d %d\n", name, f.Mode, owner, len(f.Data))
		h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill writes a new version of a volume and makes it the visible one. What an earlier fill left that did not come to its
// end is taken away.
func fill(contents *os.Root, pod *v1.Pod, vol *v1.Volume, files map[string]File) error {
	if err := contents.Mkdir(vol.Name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := contents.OpenRoot(vol.Name)
	if err != nil {
		return err
	}
	defer root.Close()
	group := fsGroup(pod)
	if err := own(root, ".", nil, group, rootMode(vol)); err != nil {
		return err
	}
	for _, dir := range nested(pod, vol.Name) {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount point of a volume in it: %w", err)
		}
	}
	now, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := tidy(root, now); err != nil {
		return err
	}
	next, err := version(root, files, group)
	if err != nil {
		return err
	}
	killpoint.At("volumes.content.version")
	if err := root.Symlink(next, newData); err != nil {
		return err
	}
	if err := root.Rename(newData, dataLink); err != nil {
		return err
	}
	killpoint.At("volumes.content.visible")
	if err := link(root, files); err != nil {
		return err
	}
	return tidy(root, next)
}

// tidy removes all versions but the one called keep.
func tidy(root *os.Root, keep string) error {
	names, err := list(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ownNames) || name == dataLink || name == keep {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

func list(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// version writes the files into a new directory. It can be entered when it is whole.
func version(root *os.Root, files map[string]File, group int) (name string, err error) {
	name = time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	if err := root.Mkdir(name, 0o700); err != nil {
		return "", err
	}
	dirs := map[string]bool{name: true}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		f := files[p]
		to := path.Join(name, p)
		for dir := path.Dir(to); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		if dir := path.Dir(to); dir != name {
			if err := root.MkdirAll(dir, 0o700); err != nil {
				return "", err
			}
		}
		if err := root.WriteFile(to, f.Data, 0o600); err != nil {
			return "", err
		}
		mode := f.Mode
		if group >= 0 {
			mode |= 0o440
		}
		if err := own(root, to, f.Owner, group, mode); err != nil {
			return "", err
		}
	}
	for _, dir := range slices.Backward(slices.Sorted(maps.Keys(dirs))) {
		if err := own(root, dir, nil, group, 0o755); err != nil {
			return "", err
		}
	}
	return name, nil
}

// rootMode is the mode of a volume's own directory: what upstream's volumes have, which are a directory for a ConfigMap and
// a tmpfs for all others.
func rootMode(vol *v1.Volume) uint32 {
	if vol.ConfigMap != nil {
		return 0o777
	}
	return 0o777 | unix.S_ISVTX
}

// own gives a file or directory its owner, group and mode. With a group, which files must have a mode for already, what is
// in a directory gets it as well (pkg/volume/volume_linux.go changeFilePermission, for a read-only volume).
func own(root *os.Root, name string, user *int64, group int, mode uint32) error {
	uid := -1
	if user != nil {
		uid = int(*user)
	}
	if uid >= 0 || group >= 0 {
		if err := root.Lchown(name, uid, group); err != nil {
			return err
		}
	}
	bits := fs.FileMode(mode & 0o777)
	if mode&unix.S_ISVTX != 0 {
		bits |= fs.ModeSticky
	}
	if info, err := root.Lstat(name); err != nil {
		return err
	} else if info.IsDir() && group >= 0 {
		bits |= fs.ModeSetgid | 0o550
	}
	return root.Chmod(name, bits)
}

// link makes the visible names those of the files, each a link through the present version.
func link(root *os.Root, files map[string]File) error {
	wanted := map[string]bool{}
	for p := range files {
		first, _, _ := strings.Cut(p, "/")
		wanted[first] = true
	}
	names, err := list(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		target, err := root.Readlink(name)
		switch {
		case strings.HasPrefix(name, ownNames):
		case err != nil: // the mount point of another volume, which hides what is below that name
			delete(wanted, name)
		case !wanted[name]:
			if err := root.Remove(name); err != nil {
				return err
			}
		case target == path.Join(dataLink, name):
			delete(wanted, name)
		}
	}
	for name := range wanted {
		if err := root.Symlink(path.Join(dataLink, name), name); err != nil {
			return err
		}
	}
	return nil
}

// nested is where in a volume other volumes are mounted by a container: the runtime could not make these directories, as
// the volume is read-only (pkg/volume/util/nested_volumes.go).
func nested(pod *v1.Pod, volume string) []string {
	var dirs []string
	visit := func(mounts []v1.VolumeMount) {
		for _, m := range mounts {
			if m.Name != volume || m.SubPath != "" || m.SubPathExpr != "" {
				continue
			}
			at := filepath.Clean(m.MountPath) + "/"
			for _, other := range mounts {
				if below, ok := strings.CutPrefix(filepath.Clean(other.MountPath), at); ok {
					dirs = append(dirs, below)
				}
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		visit(pod.Spec.InitContainers[i].VolumeMounts)
	}
	for i := range pod.Spec.Containers {
		visit(pod.Spec.Containers[i].VolumeMounts)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(pod.Spec.EphemeralContainers[i].VolumeMounts)
	}
	return dirs
}
