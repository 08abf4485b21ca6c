package volumes

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// subPath is the path below the volume's root that a mount shows; empty is the root. The rules are upstream's
// (pkg/kubelet/kubelet_pods.go makeMounts, pkg/kubelet/container/helpers.go ExpandContainerVolumeMounts).
//
// Errors name it as the pod does: what comes of a subPathExpr may have a secret in it.
func subPath(m *v1.VolumeMount, env []v1.EnvVar) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var missing []string
		sub = expansion.Expand(m.SubPathExpr, func(name string) string {
			value := ""
			for _, e := range env { // the last one holds
				if e.Name == name {
					value = e.Value
				}
			}
			if value == "" {
				missing = append(missing, name)
			}
			return value
		})
		if len(missing) > 0 {
			slices.Sort(missing)
			return "", fmt.Errorf("subPathExpr %s: missing value for %s", m.SubPathExpr, strings.Join(slices.Compact(missing), ", "))
		}
	}
	switch {
	case path.IsAbs(sub):
		return "", fmt.Errorf("%s: must not be an absolute path", nameOfSubPath(m))
	case slices.Contains(strings.Split(sub, "/"), ".."):
		return "", fmt.Errorf("%s: must not contain \"..\"", nameOfSubPath(m))
	case strings.ContainsRune(sub, 0):
		return "", fmt.Errorf("%s: is not a path", nameOfSubPath(m))
	}
	return strings.Trim(path.Clean("/"+sub), "/"), nil
}

func nameOfSubPath(m *v1.VolumeMount) string {
	if m.SubPathExpr != "" {
		return "subPathExpr " + m.SubPathExpr
	}
	return "subPath " + strings.Trim(strconv.Quote(m.SubPath), `"`)
}

// pinSubPath opens what the path below root leads to, made if there is nothing, and pins it. Links are followed as long as
// they stay below root: an absolute one does not, nor does one that only comes back. In root itself there are none.
func (v *Volumes) pinSubPath(ctx context.Context, root, sub string, p pin, propagates bool) (string, error) {
	top, err := tried(func() (int, error) {
		return unix.Openat2(unix.AT_FDCWD, root, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	})
	if err != nil {
		return "", err
	}
	open := func() (int, error) {
		defer unix.Close(top)
		return openSubPath(ctx, top, sub)
	}
	var fd int
	if isRemotePath(root) {
		fd, err = apart(ctx, open)
	} else {
		fd, err = open()
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return v.pin(p, fd, propagates)
}

// openSubPath opens what sub leads to with O_PATH. What is missing of it is made as directories of the mode of top.
func openSubPath(ctx context.Context, top int, sub string) (int, error) {
	fd, err := openInside(ctx, top, sub)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return -1, err
	}
	names := strings.Split(sub, "/")
	there, n := top, 0
	for ; n < len(names); n++ {
		next, err := openInside(ctx, top, path.Join(names[:n+1]...))
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if there != top {
			unix.Close(there)
		}
		if err != nil {
			return -1, err
		}
		there = next
	}
	for _, name := range names[n:] {
		next, err := makeInside(ctx, there, name, st.Mode)
		if there != top {
			unix.Close(there)
		}
		if err != nil {
			return -1, fmt.Errorf("make it: %w", err)
		}
		there = next
	}
	return there, nil
}

// makeInside makes a directory and opens it. Another one may come between, which is as good.
func makeInside(ctx context.Context, dir int, name string, mode uint32) (int, error) {
	if err := mkdirExactly(dir, name, mode&0o1777); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return openInside(ctx, dir, name)
}

// mkdirExactly makes a directory of a mode, whatever the process's umask. A chmod after it might hit what was put in its
// place. The set-group-ID bit it has from dir, with the group.
func mkdirExactly(dir int, name string, mode uint32) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, since it shares its umask with no other
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		unix.Umask(0)
		done <- unix.Mkdirat(dir, name, mode)
	}()
	return <-done
}

// openInside opens what a path leads to, of whatever kind, with O_PATH. No link leads out of dir.
func openInside(ctx context.Context, dir int, name string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := tried(func() (int, error) {
		if ctx.Err() != nil {
			return -1, ctx.Err()
		}
		return unix.Openat2(dir, name, how)
	})
	if errors.Is(err, unix.EXDEV) {
		return fd, errors.New("leads out of the volume")
	}
	return fd, err
}
