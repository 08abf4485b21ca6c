package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// killTimeout bounds the wait for processes to go, and for their cgroups. One in the kernel's hands may take longer:
// then it is an error, and the caller comes back.
const killTimeout = 10 * time.Second

// KillCgroup kills every process of the pod, whatever it forked or moved between its cgroups, and waits until there is
// none. nil when there is no cgroup.
func (s *Sandboxes) KillCgroup(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	killpoint.At("sandbox.cgroup.kill")
	err := until(ctx, func() (bool, error) {
		dirs := s.cg.podDirs(uid)
		pids, err := processes(dirs)
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		return false, s.cg.kill(uid, dirs, pids)
	})
	if err != nil {
		return fmt.Errorf("kill processes of pod %s: %w", uid, err)
	}
	killpoint.At("sandbox.cgroup.killed")
	return nil
}

// Unthrottle takes the cpu limits of a pod and its containers away. It is for a pod that goes: processes need the cpu to
// end, and hundreds of them that are killed under a small limit would take minutes. nil when there is no cgroup.
func (s *Sandboxes) Unthrottle(uid string) error {
	for _, top := range s.cg.podDirs(uid) {
		err := walk(top, func(d string) error {
			for file, none := range map[string]string{"cpu.cfs_quota_us": "-1", "cpu.max": "max"} {
				if err := writeFile(filepath.Join(d, file), none); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("take cpu limits away from pod %s: %w", uid, err)
		}
	}
	return nil
}

// RemoveCgroup removes the pod's cgroup from every tree, and kills what is left in it.
func (s *Sandboxes) RemoveCgroup(ctx context.Context, uid string) error {
	if err := s.KillCgroup(ctx, uid); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := until(ctx, func() (bool, error) {
		left := false
		for _, dir := range s.cg.podDirs(uid) {
			gone, err := removeTree(dir)
			if err != nil {
				return false, err
			}
			left = left || !gone
		}
		return !left, nil
	})
	if err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	killpoint.At("sandbox.cgroup.removed")
	s.cg.mu.Lock()
	defer s.cg.mu.Unlock()
	if err := s.cg.balance(); err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	return nil
}

// RemoveParent removes what all pods have in common, if no pod is left. It is for taking podd off a host.
func (s *Sandboxes) RemoveParent() error {
	s.cg.mu.Lock()
	defer s.cg.mu.Unlock()
	for _, h := range slices.Concat(s.cg.trees, s.cg.spare) {
		for _, d := range []string{kubepods + "/burstable", kubepods + "/besteffort", kubepods, ""} {
			dir := filepath.Join(h.at, s.cg.parent, d)
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				return &os.PathError{Op: "rmdir", Path: dir, Err: err}
			}
		}
	}
	return nil
}

// until calls f until it is done, in growing intervals.
func until(ctx context.Context, f func() (done bool, err error)) error {
	wait := time.Millisecond
	for {
		done, err := f()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(wait*2, 100*time.Millisecond)
	}
}

// kill sends SIGKILL to every process. v2 does it in one stroke. On v1 the processes are frozen first where that can be
// done, so that none forks faster than it is found.
func (c *cgroups) kill(uid string, dirs []string, pids []int) error {
	if c.v2 {
		var errs []error
		for _, d := range dirs {
			if err := writeFile(filepath.Join(d, "cgroup.kill"), "1"); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	for _, d := range dirs {
		freezer := filepath.Join(d, "freezer.state")
		if err := writeFile(freezer, "FROZEN"); err == nil {
			defer func() { _ = writeFile(freezer, "THAWED") }()
		}
	}
	if again, err := processes(dirs); err == nil {
		pids = again
	}
	for _, pid := range pids {
		if err := killOne(pid, uid); err != nil {
			return err
		}
	}
	return nil
}

// killOne kills through a descriptor, after a look whether the process is the pod's: the pid may be another's by now.
func killOne(pid int, uid string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(b), "/pod"+uid) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// processes is every process in the directories and below them.
func processes(dirs []string) ([]int, error) {
	var pids []int
	for _, dir := range dirs {
		err := walk(dir, func(d string) error {
			b, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
			if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its processes are those of the one above
				return nil
			}
			for f := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// removeTree removes a cgroup and those below it. gone is false while the kernel is not done with one.
func removeTree(dir string) (gone bool, err error) {
	var all []string
	if err := walk(dir, func(d string) error { all = append(all, d); return nil }); err != nil {
		return false, err
	}
	gone = true
	for _, d := range slices.Backward(all) {
		err := unix.Rmdir(d)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY):
			gone = false
		default:
			return false, &os.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return gone, nil
}

// walk visits a cgroup and those below it, parents first. What goes away meanwhile is left out.
func walk(dir string, visit func(dir string) error) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = visit(p)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}
