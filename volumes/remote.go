package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
)

// remotes is the directory, below the pod's volumes, where what other hosts serve is mounted. Whose server is dead may hold
// whoever touches it, for ever. So podd does not open, stat or rename anything there: whether something is mounted it asks
// the kernel, which knows without the server; what needs the server it leaves to processes that it can leave behind.
const remotes = ".remote"

// remote is a volume that another host serves.
type remote struct {
	nfs      *v1.NFSVolumeSource
	iscsi    *iscsi // instead
	readOnly bool
	options  []string // of the mount
}

// remoteOf is what is to be mounted for a volume of a pod that is no claim; ok is false if it is of another kind.
func remoteOf(pod *v1.Pod, vol *v1.Volume) (r remote, ok bool) {
	switch {
	case vol.NFS != nil:
		return remote{nfs: vol.NFS, readOnly: vol.NFS.ReadOnly}, true
	case vol.ISCSI != nil:
		s := vol.ISCSI
		d := &iscsi{portals: append([]string{s.TargetPortal}, s.Portals...), iqn: s.IQN, lun: s.Lun, iface: s.ISCSIInterface, fsType: s.FSType,
			discovery: s.DiscoveryCHAPAuth, session: s.SessionCHAPAuth}
		if s.InitiatorName != nil {
			d.initiator = *s.InitiatorName
		}
		if s.SecretRef != nil {
			d.secret = &v1.SecretReference{Namespace: pod.Namespace, Name: s.SecretRef.Name}
		}
		return remote{iscsi: d, readOnly: s.ReadOnly}, true
	}
	return r, false
}

// remote is what is to be mounted for a claim; ok is false if it is of another kind. What the volume itself says of readOnly
// is not for claims (pkg/volume/nfs: getVolumeSource).
func (c *Claimed) remote(pod *v1.Pod) (r remote, ok bool) {
	r = remote{nfs: c.NFS, readOnly: c.ReadOnly, options: c.MountOptions}
	if s := c.ISCSI; s != nil {
		r.iscsi = &iscsi{portals: append([]string{s.TargetPortal}, s.Portals...), iqn: s.IQN, lun: s.Lun, iface: s.ISCSIInterface, fsType: s.FSType,
			discovery: s.DiscoveryCHAPAuth, session: s.SessionCHAPAuth}
		if s.InitiatorName != nil {
			r.iscsi.initiator = *s.InitiatorName
		}
		if s.SecretRef != nil {
			r.iscsi.secret = &v1.SecretReference{Namespace: cmp.Or(s.SecretRef.Namespace, pod.Namespace), Name: s.SecretRef.Name}
		}
	}
	return r, c.NFS != nil || c.ISCSI != nil
}

// ensureRemote mounts a volume of another host, unless it is mounted.
func (v *Volumes) ensureRemote(ctx context.Context, uid, name string, r remote) error {
	dir, err := v.openDir(uid, true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	in, err := openSub(dir, remotes, true)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if isMount(in, name) {
		return nil
	}
	at, err := openSub(in, name, true)
	if err != nil {
		return err
	}
	unix.Close(at)
	path := filepath.Join(v.path(uid), remotes, name)
	wanted, done := v.whileWanted(ctx, uid)
	if r.iscsi != nil {
		err = v.mountISCSI(wanted, uid, name, path, r)
	} else {
		err = v.mountNFS(wanted, path, r)
	}
	done()
	if err != nil {
		return err
	}
	killpoint.At("volumes.remote.after")
	if !isMount(in, name) {
		return errors.New("its mount helper has ended well, but nothing is mounted")
	}
	return nil
}

// wantedEvery is how often it is looked at whether what a server is waited for is still wanted.
const wantedEvery = 200 * time.Millisecond

// giveRemote gives a disk's files to the pod's group, which a file server's are not (upstream: Attributes.Managed).
func (v *Volumes) giveRemote(ctx context.Context, pod *v1.Pod, name string, r remote) error {
	group := fsGroup(pod)
	if r.iscsi == nil || r.readOnly || group < 0 {
		return nil
	}
	wanted, done := v.whileWanted(ctx, string(pod.UID))
	defer done()
	_, err := apart(wanted, func() (int, error) {
		return -1, giveToGroup(wanted, filepath.Join(v.path(string(pod.UID)), remotes, name), group, pod.Spec.SecurityContext.FSGroupChangePolicy)
	})
	return err
}

// errUnwanted is why something is given up.
var errUnwanted = errors.New("given up: the pod is to go, or podd is")

// whileWanted is a context that ends with ctx, and when the pod does not want its volumes any more: a server may be waited for as
// long as a step may take. done has to be called, and lets go of the context.
func (v *Volumes) whileWanted(ctx context.Context, uid string) (wanted context.Context, done func()) {
	wanted, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	if v.wanted != nil {
		watching.Go(func() {
			tick := time.NewTicker(wantedEvery)
			defer tick.Stop()
			for wanted.Err() == nil {
				select {
				case <-wanted.Done():
				case <-tick.C:
					if !v.wanted(uid) {
						cancel(errUnwanted)
					}
				}
			}
		})
	}
	return wanted, func() { cancel(nil); watching.Wait() }
}

// remotePath is where a volume of another host is mounted for a pod. It is mounted again if it is not any more.
func (v *Volumes) remotePath(ctx context.Context, uid, name string, r remote) (string, error) {
	if err := v.ensureRemote(ctx, uid, name, r); err != nil {
		return "", err
	}
	return filepath.Join(v.path(uid), remotes, name), nil
}

// mountNFS has the host's helper mount what an NFS server exports (pkg/volume/nfs). What the helper needs to be told besides,
// such as the version, it finds out, or it is among the mount options of the PersistentVolume.
func (v *Volumes) mountNFS(ctx context.Context, path string, r remote) error {
	source, err := nfsSource(r.nfs)
	if err != nil {
		return err
	}
	helper, err := v.programs.find("nfs-common (Debian, Ubuntu), nfs-utils (Fedora, RHEL, Arch) or nfs-client (SUSE)", "mount.nfs", "mount.nfs4")
	if err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	args := []string{source, path}
	if options := mountFlags(r); len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	_, err = v.programs.run(ctx, path, false, helper, args...)
	if err != nil && !knowsFS("nfs") && !knowsFS("nfs4") {
		return fmt.Errorf("mount %s: this kernel has no nfs, or its module is not loaded (modprobe nfs): %w", source, err)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", source, err)
	}
	return nil
}

// nfsSource is how the helper is told what to mount. Nothing in it is taken for an option.
func nfsSource(n *v1.NFSVolumeSource) (string, error) {
	server := n.Server
	if a, err := netip.ParseAddr(server); err == nil && a.Is6() {
		server = "[" + server + "]"
	}
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	switch {
	case server == "" || strings.HasPrefix(server, "-") || strings.ContainsFunc(server, control) || strings.ContainsAny(server, " /"):
		return "", fmt.Errorf("nfs server %q: is not the name of a host", n.Server)
	case !strings.HasPrefix(n.Path, "/") || strings.ContainsFunc(n.Path, control):
		return "", fmt.Errorf("nfs path %q: is not an absolute path", n.Path)
	}
	return server + ":" + n.Path, nil
}

// mountFlags are the options of the mount, each once (pkg/volume/util: JoinMountOptions).
func mountFlags(r remote) []string {
	options := slices.Clone(r.options)
	if r.readOnly {
		options = append(options, "ro")
	}
	slices.Sort(options)
	return slices.Compact(options)
}

// knowsFS tells whether the kernel has a kind of file system by now.
func knowsFS(name string) bool {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return true // who knows
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
			return true
		}
	}
	return false
}

const (
	unmountLimit = 30 * time.Second // for what is written to reach its server, when it is unmounted
	forceLimit   = 5 * time.Second
)

// unmount is Unmount, but for what another host serves: that is unmounted by a process of its own. One that a dead server
// holds is left behind as soon as the mount is gone from the tree; a mount that does not go has its requests ended. If it
// is still there then, that is an error, and it stays as it is.
func (v *Volumes) unmount(ctx context.Context, path string) error {
	for {
		points, err := pointsBelow(path)
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		if !slices.ContainsFunc(points, mayHang) {
			return Unmount(ctx, path)
		}
		err = v.unmountApart(ctx, unmountLimit, path)
		if left, see := pointsBelow(path); see == nil && len(left) < len(points) {
			continue
		}
		if err == nil || ctx.Err() != nil {
			return fmt.Errorf("unmount %s: %w", path, cmp.Or(err, ctx.Err(), errors.New("mounts cannot be reached")))
		}
		_ = v.unmountApart(ctx, forceLimit, path, "--force")
		if left, see := pointsBelow(path); see != nil || len(left) >= len(points) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

func (v *Volumes) unmountApart(ctx context.Context, limit time.Duration, path string, flags ...string) error {
	if len(v.programs.self) == 0 {
		return errors.New("there is no program for it")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := slices.Concat(v.programs.self[1:], flags, []string{path})
	_, err := v.programs.run(ctx, "unmount "+path, true, v.programs.self[0], args...)
	return err
}

// Force ends the requests that wait for the servers of what is mounted at and below path, so that it can be unmounted.
// What was written and has not reached its server is lost.
func Force(path string) error {
	points, err := pointsBelow(path)
	for _, p := range slices.Backward(points) {
		if mayHang(p) {
			_ = unix.Unmount(p.path, unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE)
		}
	}
	return err
}

// mayHang tells whether a mount may hold whoever unmounts it.
func mayHang(p mountPoint) bool {
	for _, kind := range []string{"nfs", "fuse", "cifs", "smb", "ceph", "9p", "afs", "gfs", "ocfs", "lustre"} {
		if strings.HasPrefix(p.fs, kind) {
			return true
		}
	}
	return isRemotePath(p.path)
}

// isRemotePath tells whether what is at path, which podd has made, is served by another host.
func isRemotePath(path string) bool { return strings.Contains(path, "/"+subdir+"/"+remotes+"/") }

// apart opens something that a server may have to be asked for, and does not wait for that when ctx ends. What it comes to
// then is closed.
func apart(ctx context.Context, open func() (int, error)) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done, left := make(chan result), make(chan struct{})
	go func() {
		fd, err := open()
		select {
		case done <- result{fd, err}:
		case <-left:
			if err == nil && fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	select {
	case r := <-done:
		return r.fd, r.err
	case <-ctx.Done():
		close(left)
		return -1, fmt.Errorf("its server does not answer: %w", context.Cause(ctx))
	}
}
