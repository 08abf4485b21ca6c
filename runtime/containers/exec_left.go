package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A podd that is killed leaves its execs behind, and the shim publishes a container's exit only after the end of every
// exec that it has begun. One whose output it is about to open waits for a reader that there is not, for as long as the
// exec's time limit, 30 s without one. So the directory with the FIFOs of an exec bears the names of its container and
// of itself: whoever comes next opens the FIFOs at once, and ends the exec as soon as containerd answers.

// leftExec is an exec that an earlier podd had under way.
type leftExec struct {
	dir   string
	p     execProcess
	fifos []*os.File // both ends of each in one
}

// execDirs is where below a RunDir the FIFOs are.
func execDirs(runDir string) string { return filepath.Join(runDir, "exec") }

// execDir is the name of an exec's directory.
func execDir(id, exec string) string { return id + "." + exec }

// openLeft opens the FIFOs of all execs that are left, which does not block.
func openLeft(c *Client) ([]leftExec, error) {
	dirs, err := os.ReadDir(execDirs(c.opts.RunDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var left []leftExec
	for _, d := range dirs {
		l := leftExec{dir: filepath.Join(execDirs(c.opts.RunDir), d.Name())}
		id, exec, named := strings.Cut(d.Name(), ".")
		if !named { // an older podd's
			if err := os.RemoveAll(l.dir); err != nil {
				return nil, err
			}
			continue
		}
		l.p = execProcess{c: c, id: id, exec: exec}
		for _, name := range []string{"in", "out", "err"} {
			f, err := os.OpenFile(filepath.Join(l.dir, name), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				l.fifos = append(l.fifos, f)
			}
		}
		left = append(left, l)
	}
	return left, nil
}

// EndLeftExecs ends the commands in containers that an earlier podd had under way when it was killed, and forgets them.
// It returns when all are, or ctx is done: while containerd does not answer it tries again.
func (c *Client) EndLeftExecs(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range c.left {
		all.Go(func() { l.end(ctx) })
	}
	all.Wait()
}

// end has nothing left of the exec. What it writes is read meanwhile, as its end is held up by output that is not.
func (l *leftExec) end(ctx context.Context) {
	var read sync.WaitGroup
	defer read.Wait()
	for _, f := range l.fifos {
		read.Go(func() { _, _ = io.Copy(io.Discard, f) })
		defer func() { _ = f.Close() }()
	}
	for told := false; ; told = true {
		err := l.tryEnd(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !told {
			l.p.c.opts.Log.Warn("end what an earlier podd had run in a container", "container", l.p.id, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (l *leftExec) tryEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(l.p.c.Context(ctx), execCleanup)
	defer cancel()
	svc := l.p.c.cc.TaskService()
	_, err := svc.Kill(ctx, &tasks.KillRequest{ContainerID: l.p.id, ExecID: l.p.exec, Signal: uint32(unix.SIGKILL)})
	switch err = native(err); {
	case err == nil:
		_, _ = svc.Wait(ctx, &tasks.WaitRequest{ContainerID: l.p.id, ExecID: l.p.exec})
	case !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err): // those are: has ended, was never started
		return fmt.Errorf("exec: kill: %w", err)
	}
	if err := l.p.delete(); err != nil {
		return err
	}
	return os.RemoveAll(l.dir)
}
