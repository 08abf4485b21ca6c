package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// IDs is how many user ids, and as many group ids, a pod with a user namespace of its own has: from 0 on, as it sees them
// (pkg/kubelet/userns/userns_manager.go).
const IDs = 65536

// OwnUsers tells whether a pod is to have a user namespace of its own.
func OwnUsers(pod *v1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// mapping is the host's ids that a pod has for its own, the same for users and groups.
func mapping(first uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: IDs}}
}

// Join has a container join a user namespace. The runtime takes the mapping from the namespace, and checks that it is the one
// given here; containerd makes the bundle readable for its root.
func (s Sandbox) Join(spec *specs.Spec) {
	if s.UserNS == "" {
		return
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: s.UserNS})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping(s.FirstID), mapping(s.FirstID)
}

// checkIDs refuses users and groups that a pod's user namespace does not have.
func (s Sandbox) checkIDs(u specs.User) error {
	if s.UserNS == "" {
		return nil
	}
	if u.UID >= IDs {
		return &ConfigError{fmt.Sprintf("user %d: a pod with hostUsers: false has users 0 to %d", u.UID, IDs-1)}
	}
	for _, g := range append([]uint32{u.GID}, u.AdditionalGids...) {
		if g >= IDs {
			return &ConfigError{fmt.Sprintf("group %d: a pod with hostUsers: false has groups 0 to %d", g, IDs-1)}
		}
	}
	return nil
}

// snapshotOpts have the layers of an image shown with the pod's ids.
func snapshotOpts(first uint32) []snapshots.Opt {
	if first == 0 {
		return nil
	}
	m := fmt.Sprintf("0:%d:%d", first, IDs)
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: m, snapshots.LabelSnapshotGIDMapping: m})}
}

// MapMount has a bind mount show the files of its source with the ids of the pod: who owns them on the host as root owns
// them there as root. What is mounted below the source keeps the host's, as upstream. An error says that the file system
// of the source cannot do that.
func (s Sandbox) MapMount(m *specs.Mount) error {
	if s.UserNS == "" {
		return nil
	}
	if err := mappable(m.Source, s.UserNS); err != nil {
		return err
	}
	m.UIDMappings, m.GIDMappings = mapping(s.FirstID), mapping(s.FirstID)
	return nil
}

// mappable tries to map a mount of source that nobody else sees and that is gone when it returns.
func mappable(source, userns string) error {
	ns, err := unix.Open(userns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open user namespace %s: %w", userns, err)
	}
	defer unix.Close(ns)
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open %s: %w", source, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)})
	if errors.Is(err, unix.EINVAL) {
		var fs unix.Statfs_t
		_ = unix.Fstatfs(tree, &fs)
		return fmt.Errorf("its file system (type %#x) cannot be shown with other ids on this kernel, as a pod with hostUsers: false needs it", fs.Type)
	}
	if err != nil {
		return fmt.Errorf("map ids of %s: %w", source, err)
	}
	return nil
}

// featuresLimit bounds the time that a runtime takes to tell what it can do.
const featuresLimit = 10 * time.Second

// CanMapUsers is nil when pods of a handler can have user namespaces of their own, else the reason why not.
func (c *Client) CanMapUsers(ctx context.Context, name string) error {
	if err, ok := c.canMap.Load(name); ok {
		return err.(answer).err
	}
	err := c.mapsLayers(ctx)
	if err == nil {
		err = c.mapsMounts(ctx, name)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if lasting(err) {
		c.canMap.Store(name, answer{err})
	}
	return err
}

// answer is one of CanMapUsers that stays.
type answer struct{ err error }

// MapsUsers is what CanMapUsers has found, if it has been asked and knows.
func (c *Client) MapsUsers(name string) (can, known bool) {
	got, known := c.canMap.Load(name)
	return known && got.(answer).err == nil, known
}

// cannotMap says what lacks; it stays so while podd runs.
type cannotMap struct{ why string }

func (e *cannotMap) Error() string { return "hostUsers: false: " + e.why }

// lasting tells whether an answer of CanMapUsers stays while podd runs.
func lasting(err error) bool {
	var cannot *cannotMap
	return err == nil || errors.As(err, &cannot)
}

// mapsLayers asks containerd whether its snapshotter can show layers with other ids.
func (c *Client) mapsLayers(ctx context.Context) error {
	r, err := c.cc.IntrospectionService().Plugins(c.Context(ctx), "type==io.containerd.snapshotter.v1,id=="+c.opts.Snapshotter)
	if err != nil {
		return fmt.Errorf("ask containerd what its snapshotter can do: %w", native(err))
	}
	if !slices.ContainsFunc(r.Plugins, func(p *introspection.Plugin) bool { return slices.Contains(p.Capabilities, "remap-ids") }) {
		return &cannotMap{fmt.Sprintf("containerd's snapshotter %s cannot show layers with other ids: it takes containerd 2.0 and Linux 5.19", c.opts.Snapshotter)}
	}
	return nil
}

// OpenTaskDir lets others pass through the directories above the bundles of tasks, each of which is closed to all but root and
// the group that is root's in its pod: the runtime makes the container's root there with the rights of the pod's root.
func (c *Client) OpenTaskDir() error {
	if c.opts.TaskDir == "" {
		return nil // containerd's own choice, which is open
	}
	state := filepath.Dir(c.opts.TaskDir)
	for _, dir := range []string{filepath.Dir(state), state} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return fmt.Errorf("open the way to containers' roots: %w", err)
		}
	}
	for dir := filepath.Dir(filepath.Dir(state)); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("open the way to containers' roots: %w", err)
		}
		if st.Mode().Perm()&0o001 == 0 {
			return &cannotMap{fmt.Sprintf("directory %s lets nobody pass, and podd's --state is below it (chmod o+x %s)", dir, dir)}
		}
	}
	return nil
}

// mapsMounts asks an OCI runtime what it can do (runtime-spec, features.md).
func (c *Client) mapsMounts(ctx context.Context, name string) error {
	h, err := c.handler(name)
	if err != nil {
		return err
	}
	if h.Shim() {
		return &cannotMap{fmt.Sprintf("the shim for %q is not known to make user namespaces", name)}
	}
	if h.Path == "" { // containerd's own choice: what it cannot, it says at the start
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, featuresLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, h.Path, "features").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return &cannotMap{fmt.Sprintf("%s does not say that it can map ids (features: %v)", h.Path, err)}
	}
	if err != nil { // it was not run, or not to its end: another time it may say
		return fmt.Errorf("hostUsers: false: ask %s for its features: %w", h.Path, err)
	}
	var features struct {
		Linux struct {
			Namespaces      []string
			MountExtensions struct{ IDMap struct{ Enabled bool } }
		}
	}
	if err := json.Unmarshal(out, &features); err != nil || !features.Linux.MountExtensions.IDMap.Enabled || !slices.Contains(features.Linux.Namespaces, "user") {
		return &cannotMap{fmt.Sprintf("%s cannot map the ids of mounts: it takes runc 1.2", h.Path)}
	}
	return nil
}
