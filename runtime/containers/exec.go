package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"podd/runtime/killpoint"
)

// execCleanup bounds what is done for a process after it has ended or was given up. The shim alone waits 10 s for output
// that something left in the background keeps open.
const execCleanup = 20 * time.Second

// execStart bounds the start of a process. It is far more than a busy host takes, and ends what hangs in the kernel.
const execStart = 30 * time.Second

// ErrTooManyExecs says that maxExecs processes run already.
var ErrTooManyExecs = errors.New("too many processes are being run in containers")

// Exec runs a process in a running container and returns its exit code. It gets the user, environment, directory,
// capabilities and no_new_privs of the container's own process. When ctx ends the process is killed and the error is
// ctx's. *StartError: the runtime could not start it.
func (c *Client) Exec(ctx context.Context, id string, e Exec) (code int, err error) {
	if !e.Own {
		select {
		case c.execs <- struct{}{}:
			defer func() { <-c.execs }()
		default:
			return 0, ErrTooManyExecs
		}
	}
	ctx = c.Context(ctx)
	process, err := c.execSpec(ctx, id, e)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	p := &execProcess{c: c, id: id, exec: fmt.Sprintf("exec-%x-%d", c.begun, c.seq.Add(1))}
	s, err := openStreams(filepath.Join(execDirs(c.opts.RunDir), execDir(id, p.exec)), e)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	defer s.remove()
	killpoint.At("containers.exec.create")
	_, err = c.cc.TaskService().Exec(ctx, &tasks.ExecProcessRequest{
		ContainerID: id, ExecID: p.exec, Terminal: e.TTY, Spec: process,
		Stdin: s.in.path, Stdout: s.out.path, Stderr: s.err.path,
	})
	if err = native(err); err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			return 0, fmt.Errorf("exec: container is not running: %w", ErrGone)
		}
		return 0, startError("exec", err)
	}
	code, err = p.run(ctx, e, s)
	if s.cut.Load() {
		c.cleaning.Go(func() {
			if err := p.delete(); err != nil {
				c.opts.Log.Warn("clean up after exec", "container", id, "err", err)
			}
		})
		return code, err
	}
	return code, errors.Join(err, p.delete())
}

// execSpec is the container's own process with another command.
func (c *Client) execSpec(ctx context.Context, id string, e Exec) (*anypb.Any, error) {
	if len(e.Cmd) == 0 {
		return nil, &ConfigError{"no command"}
	}
	if err := checkPath("command", e.Cmd[0]); err != nil {
		return nil, err
	}
	ctr, err := c.cc.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("get container: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(ctr.Spec.GetValue(), &spec); err != nil || spec.Process == nil {
		return nil, fmt.Errorf("read spec of %s: %w", id, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	p := spec.Process
	p.Args, p.Terminal, p.CommandLine = e.Cmd, e.TTY, ""
	if e.TTY && !slices.ContainsFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: b}, nil
}

// execProcess is one process that containerd knows beside the container's own.
type execProcess struct {
	c        *Client
	id, exec string
}

// run starts the process, moves its bytes and waits for its end; when ctx ends it is killed, once it has started. Every
// goroutine it starts has ended when it returns, but for one that a Read of e.Stdin holds.
func (p *execProcess) run(ctx context.Context, e Exec, s *streams) (int, error) {
	svc := p.c.cc.TaskService()
	// Cut off halfway, runc may leave a process that the shim does not know: so ctx ends it only once it is there.
	begin, cancel := context.WithTimeout(context.WithoutCancel(ctx), execStart)
	_, err := svc.Start(begin, &tasks.StartRequest{ContainerID: p.id, ExecID: p.exec})
	cancel()
	if err != nil {
		p.kill(ctx)
		return 0, startError("exec", native(err))
	}
	killpoint.At("containers.exec.started")
	if e.Started != nil {
		e.Started()
	}
	over := make(chan struct{}) // closed when the process has ended
	pumped := s.pump(e, over, func() { p.closeStdin(ctx) })
	resized := make(chan struct{})
	go func() {
		defer close(resized)
		p.resize(ctx, e.Resize, over)
	}()
	code, err := p.wait(ctx)
	close(over)
	s.end()
	<-pumped
	<-resized
	if err == nil && s.fault() != nil {
		err = fmt.Errorf("exec: copy output: %w", s.fault())
	}
	return code, err
}

// wait is the exit code. When ctx ends first the process is killed and waited for, so that nothing of it goes on.
func (p *execProcess) wait(ctx context.Context) (int, error) {
	svc, req := p.c.cc.TaskService(), &tasks.WaitRequest{ContainerID: p.id, ExecID: p.exec}
	r, err := svc.Wait(ctx, req)
	if err == nil {
		return int(r.ExitStatus), nil
	}
	p.kill(ctx)
	if ctx.Err() != nil {
		return 0, fmt.Errorf("exec: %w", context.Cause(ctx))
	}
	return 0, fmt.Errorf("exec: wait: %w", native(err))
}

// kill ends the process and waits for that, for a short time only. What is wrong then shows in delete.
func (p *execProcess) kill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execCleanup)
	defer cancel()
	svc := p.c.cc.TaskService()
	_, err := svc.Kill(ctx, &tasks.KillRequest{ContainerID: p.id, ExecID: p.exec, Signal: uint32(syscall.SIGKILL)})
	if err == nil {
		_, _ = svc.Wait(ctx, &tasks.WaitRequest{ContainerID: p.id, ExecID: p.exec})
	}
}

func (p *execProcess) closeStdin(ctx context.Context) {
	_, _ = p.c.cc.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: p.id, ExecID: p.exec, Stdin: true})
}

// resize hands on sizes until the process has ended.
func (p *execProcess) resize(ctx context.Context, sizes <-chan Size, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_, _ = p.c.cc.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{
				ContainerID: p.id, ExecID: p.exec, Width: uint32(size.Width), Height: uint32(size.Height),
			})
		}
	}
}

// delete has containerd forget the process.
func (p *execProcess) delete() error {
	ctx, cancel := context.WithTimeout(p.c.Context(context.Background()), execCleanup)
	defer cancel()
	_, err := p.c.cc.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: p.id, ExecID: p.exec})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("exec: delete process: %w", err)
	}
	return nil
}
