package containers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// When a client goes away while containerd makes a task for it, containerd cancels the making: it kills `shim start`,
// whose child, the shim, lives on and is nobody's; or it goes on to clean up for a while, by the id of the container,
// and then a task that was made with that id in the meantime is what it cleans up. So an id that another podd may have
// been about to make a task of is settled first, and a shim is known to have ended before the last record goes.

// settleLimit bounds the wait for what containerd has begun with an id.
const settleLimit = 10 * time.Second

// settle returns when nothing goes on with the id of a container that has no task, and nothing is left of one: no shim
// or runc at work on it, no process in the shim of its group that containerd does not know of, no bundle.
func (c *Client) settle(ctx context.Context, group, id string) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := await(ctx, func() (bool, error) { return !c.atWork(id), nil }); err != nil {
		return fmt.Errorf("settle %s: shim or runc is at work: %w", id, err)
	}
	if err := c.forgetTask(ctx, group, id); err != nil {
		return fmt.Errorf("settle %s: %w", id, err)
	}
	if c.isForeign(id) && id != group {
		if err := c.endShims(ctx, id); err != nil {
			return fmt.Errorf("settle %s: %w", id, err)
		}
	}
	if err := c.removeBundle(ctx, id); err != nil {
		return fmt.Errorf("settle %s: %w", id, err)
	}
	return nil
}

// settled is settle, once in the life of this podd for a container whose record it did not make itself.
func (c *Client) settled(ctx context.Context, id string) error {
	if _, ok := c.quiet.Load(id); ok {
		return nil
	}
	group, err := c.groupOf(ctx, id)
	if err != nil {
		return err
	}
	if err := c.settle(ctx, group, id); err != nil {
		return err
	}
	c.quiet.Store(id, true)
	return nil
}

// groupOf is the id of the sandbox whose shim runs a container.
func (c *Client) groupOf(ctx context.Context, id string) (string, error) {
	ctr, err := c.cc.ContainerService().Get(c.Context(ctx), id)
	if errdefs.IsNotFound(err) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	if r, err := readRecord(ctr); err == nil && r.Sandbox != "" {
		return r.Sandbox, nil
	}
	return id, nil
}

// forgetTask takes a container away that the shim of group has and containerd has not.
func (c *Client) forgetTask(ctx context.Context, group, id string) error {
	if _, err := c.task(c.Context(ctx), id); !errors.Is(err, ErrGone) {
		return err // containerd's own, or it cannot say
	}
	s, err := c.dialShim(id, group)
	if s == nil || err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(c.Context(ctx), askLimit)
	defer cancel()
	known, err := s.tasks.Connect(ctx, &taskv3.ConnectRequest{ID: id})
	if err != nil || known.TaskPid == 0 {
		return nil // it has none, or is about to end
	}
	c.opts.Log.Warn("containerd has forgotten a task: taking it away", "id", id, "pid", known.TaskPid)
	if c.opts.TaskDir != "" { // where runc, run by the shim, writes its log
		if err := os.MkdirAll(filepath.Join(c.opts.TaskDir, c.opts.Namespace, id), 0o711); err != nil {
			return err
		}
	}
	if _, err := s.tasks.Kill(ctx, &taskv3.KillRequest{ID: id, Signal: uint32(unix.SIGKILL)}); err != nil {
		c.opts.Log.Warn("the shim cannot kill it: killing its process", "id", id, "err", err)
		if err := killChild(int(known.ShimPid), int(known.TaskPid)); err != nil {
			return err
		}
	}
	if _, err := s.tasks.Wait(ctx, &taskv3.WaitRequest{ID: id}); err != nil {
		return fmt.Errorf("wait for a task in its shim: %w", err)
	}
	if _, err := s.tasks.Delete(ctx, &taskv3.DeleteRequest{ID: id}); err != nil && !errdefs.IsNotFound(native(err)) {
		return fmt.Errorf("delete task in its shim: %w", err)
	}
	return nil
}

// bundleWait is how long containerd gets to remove a bundle itself.
const bundleWait = 500 * time.Millisecond

// removeBundle removes the directory that containerd had for a task; it is not known where another podd's containerd
// has it.
func (c *Client) removeBundle(ctx context.Context, id string) error {
	if c.opts.TaskDir == "" {
		return nil
	}
	dir := filepath.Join(c.opts.TaskDir, c.opts.Namespace, id)
	patience, cancel := context.WithTimeout(ctx, bundleWait)
	defer cancel()
	gone := func() (bool, error) {
		_, err := os.Lstat(dir)
		return errors.Is(err, os.ErrNotExist), nil
	}
	if await(patience, gone) == nil {
		return nil
	}
	if _, err := c.task(c.Context(ctx), id); !errors.Is(err, ErrGone) {
		return err
	}
	if err := mount.UnmountRecursive(filepath.Join(dir, "rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount bundle: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// EndShim has no shim for a sandbox all of whose tasks are deleted, and no socket of one. A shim ends by itself with its
// last task, unless containerd lost sight of it.
func (c *Client) EndShim(ctx context.Context, sandboxID string) error {
	if err := c.endShims(ctx, sandboxID); err != nil {
		return fmt.Errorf("end shim of %s: %w", sandboxID, err)
	}
	return nil
}

// endShims has no shim that was started for the container of that id, and no socket of one.
func (c *Client) endShims(ctx context.Context, id string) error {
	sockets := []string{c.shimSocket(id)}
	if c.isForeign(id) {
		sockets = append(sockets, c.commonSocket(id))
	}
	for _, socket := range sockets {
		s, err := c.dialSocket(socket)
		if err != nil {
			return err
		}
		if s != nil {
			err := s.end(c.Context(ctx))
			s.close()
			if err != nil {
				return err
			}
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if !c.isForeign(id) {
		return nil
	}
	for _, p := range c.shims() { // it may listen anywhere, but it does not hide
		if c.startedFor(p) == id {
			if err := c.endProcess(ctx, p.pid, shimAnswer); err != nil {
				return err
			}
		}
	}
	return nil
}

// Sweep takes away what a podd that was killed has left and that belongs to no pod. It is for podd's start, before
// anything is made.
func (c *Client) Sweep(ctx context.Context) error {
	return errors.Join(c.sweepAccounts(ctx), sweepMapped(filepath.Join(c.opts.RunDir, "mapped")), c.sweepShims(ctx))
}

// sweepMapped has containerd's package mount layers in dir, where it maps their ids before it makes an overlay of them, and
// takes away what an earlier podd has left there. Its own choice, /tmp, is everybody's.
func sweepMapped(dir string) error {
	if err := mount.SetTempMountLocation(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range left {
		at := filepath.Join(dir, e.Name())
		if err := mount.UnmountAll(at, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	return nil
}

// sweepShims ends the shims that nobody can reach, as a podd or a containerd that was killed may have left them.
func (c *Client) sweepShims(ctx context.Context) error {
	strays, err := c.strays(ctx)
	if err != nil {
		return fmt.Errorf("sweep shims: %w", err)
	}
	for _, p := range strays {
		if err := c.endStray(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) endStray(ctx context.Context, p process) error {
	if c.atWorkFor(p) {
		return nil // it was about to make something when it was looked at
	}
	c.opts.Log.Warn("ending a shim that nobody can reach", "pid", p.pid, "program", p.argv[0], "id", c.startedFor(p))
	if err := c.endProcess(ctx, p.pid, 0); err != nil {
		return fmt.Errorf("sweep shims: %w", err)
	}
	return nil
}

// SweepLate ends the shims that come up without anybody to reach them after podd's start: containerd may have been about to
// start one for a podd that was killed. A shim of this podd is not reached either before it listens, which is soon: one is
// taken for a stray when it was not reached two times in a row, pause apart. It looks times times.
func (c *Client) SweepLate(ctx context.Context, pause time.Duration, times int) {
	before := map[int]bool{}
	for range times {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		strays, err := c.strays(ctx)
		if err != nil {
			c.opts.Log.Warn("look for shims that nobody can reach", "err", err)
			continue
		}
		now := map[int]bool{}
		for _, p := range strays {
			now[p.pid] = true
			if !before[p.pid] {
				continue
			}
			if err := c.endStray(ctx, p); err != nil {
				c.opts.Log.Warn("end a shim that nobody can reach", "err", err)
			}
		}
		before = now
	}
}

// atWorkFor tells whether a shim runs something, as far as can be seen from outside.
func (c *Client) atWorkFor(p process) bool {
	return p.isRuncs() && hasChildren(p.pid) || !p.isRuncs() && c.hasBundle(c.startedFor(p))
}

// strays are the shims of podd's own containerd that nobody can reach and that run nothing. Of one that is not runc's, podd knows
// neither where it listens nor whether it runs something by its children: it is a stray once containerd has no bundle of what
// it was started for.
func (c *Client) strays(ctx context.Context) ([]process, error) {
	if c.opts.TaskDir == "" {
		return nil, nil
	}
	idle := slices.DeleteFunc(c.shims(), c.atWorkFor)
	if len(idle) == 0 {
		return nil, nil
	}
	sockets, err := c.sockets()
	if err != nil {
		return nil, err
	}
	reachable := map[int]bool{}
	for _, socket := range sockets {
		s, err := c.dialSocket(socket)
		if err != nil || s == nil {
			continue
		}
		if pid := s.pid(c.Context(ctx)); pid > 0 {
			reachable[pid] = true
		}
		s.close()
	}
	return slices.DeleteFunc(idle, func(p process) bool { return reachable[p.pid] }), nil
}

// shimConn is a connection of podd's own with a shim.
type shimConn struct {
	of     *Client
	client *ttrpc.Client
	tasks  taskv3.TTRPCTaskService
}

func (s *shimConn) close() { _ = s.client.Close() }

// dialShim is the shim of the first of the containers that has one which listens, else nil. Where one listens that is not
// runc's, containerd has noted, or it is where most of them do.
func (c *Client) dialShim(ids ...string) (*shimConn, error) {
	var sockets []string
	for _, id := range ids {
		sockets = append(sockets, c.shimSocket(id))
		if c.isForeign(id) {
			sockets = append(sockets, c.notedSocket(id), c.commonSocket(id))
		}
	}
	for _, socket := range sockets {
		if s, err := c.dialSocket(socket); s != nil || err != nil {
			return s, err
		}
	}
	return nil, nil
}

// dialSocket is nil when nobody listens there.
func (c *Client) dialSocket(path string) (*shimConn, error) {
	if path == "" {
		return nil, nil
	}
	conn, err := net.Dial("unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(eitherVersion))
	return &shimConn{of: c, client: client, tasks: taskv3.NewTTRPCTaskClient(client)}, nil
}

// shimAnswer bounds one question to a shim.
const shimAnswer = 2 * time.Second

// pid is the shim's, or 0 when it does not say or it is not the pid of a shim here.
func (s *shimConn) pid(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, shimAnswer)
	defer cancel()
	r, err := s.tasks.Connect(ctx, &taskv3.ConnectRequest{})
	if err != nil {
		return 0
	}
	return int(r.ShimPid)
}

// end asks a shim to end, and ends it when it stays.
func (s *shimConn) end(ctx context.Context) error {
	pid := s.pid(ctx)
	if pid == 0 || !s.of.isShim(pid) {
		return nil
	}
	asked, cancel := context.WithTimeout(ctx, shimAnswer)
	defer cancel()
	_, _ = s.tasks.Shutdown(asked, &taskv3.ShutdownRequest{Now: true})
	return s.of.endProcess(ctx, pid, shimAnswer)
}

// endProcess waits so long for a process to end, and then kills it. It is held by a descriptor from before it is looked
// at, so that no other one can be meant.
func (c *Client) endProcess(ctx context.Context, pid int, patience time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !c.isShim(pid) {
		return nil
	}
	if ended(fd, patience) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	if !ended(fd, shimAnswer) {
		return fmt.Errorf("process %d: does not end", pid)
	}
	return ctx.Err()
}

func ended(pidfd int, within time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(within); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

// process is one of this host, by its command line.
type process struct {
	pid  int
	argv []string
}

func processes() (all []process) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if pid, err := strconv.Atoi(d.Name()); err == nil {
			if argv := commandLine(pid); len(argv) > 0 {
				all = append(all, process{pid, argv})
			}
		}
	}
	return all
}

// commandLine is empty for a process that has ended.
func commandLine(pid int) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
}

// after is the argument that follows a flag.
func (p process) after(flag string) string {
	for i, a := range p.argv {
		if a == flag && i+1 < len(p.argv) {
			return p.argv[i+1]
		}
	}
	return ""
}

func (p process) command() bool {
	last := p.argv[len(p.argv)-1]
	return last == "start" || last == "delete"
}

// atWork says whether a shim's command or an OCI runtime is busy with a container. Such a one sees podd's own files: a process of a
// container with hostPID, which can call itself one, does not.
func (c *Client) atWork(id string) bool {
	for _, p := range processes() {
		if slices.Contains(p.argv[1:], id) && p.beside() && p.shares("mnt") &&
			(c.isRuntime(p) || p.command() && (p.isRuncs() || c.owns(p)) || c.isForeign(id) && c.runsForShim(p)) {
			return true
		}
	}
	return false
}

// killChild kills a process that is a child of parent, held by a descriptor while that is looked at.
func killChild(parent, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	fields := statFields(pid)
	if fields == nil {
		return nil
	}
	if len(fields) < 2 || string(fields[1]) != strconv.Itoa(parent) {
		return fmt.Errorf("process %d: is no child of the shim %d", pid, parent)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

func hasChildren(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range threads {
		if list, err := os.ReadFile(t); err != nil || len(bytes.TrimSpace(list)) > 0 {
			return true
		}
	}
	return len(threads) == 0 // it has ended, or the kernel does not tell
}

// await asks until the answer is true.
func await(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
