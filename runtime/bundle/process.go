package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running process, held so that its pid cannot come to mean another one.
type process struct {
	pid   int
	fd    *os.File // pidfd
	child *os.Process
}

// identity is what the record file says: a pid, and the start time that tells it from a later process of that number.
type identity struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// open takes hold of pid. None, or one that has ended, is fs.ErrNotExist.
func open(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}
	if p.gone() { // a zombie still has a pid
		p.close()
		return nil, fs.ErrNotExist
	}
	return p, nil
}

// listener is the process that listens on a unix socket. None is fs.ErrNotExist.
func listener(socket string) (*process, error) {
	c, err := net.Dial("unix", socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("ask who listens on %s: %w", socket, credErr)
	}
	if cred.Pid == 0 {
		return nil, fmt.Errorf("ask who listens on %s: a process outside this pid namespace", socket)
	}
	return open(int(cred.Pid))
}

// recorded is the process that the record file names, if that very process still runs. None is fs.ErrNotExist.
func recorded(file string) (*process, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var id identity
	if json.Unmarshal(data, &id) != nil || id.Pid <= 0 {
		return nil, fs.ErrNotExist // a torn record names nobody
	}
	p, err := open(id.Pid)
	if err != nil {
		return nil, err
	}
	if start, err := startTime(id.Pid); err != nil || start != id.Start {
		p.close()
		return nil, fs.ErrNotExist
	}
	return p, nil
}

// record writes who p is, so that a podd that starts before p listens finds it.
func (p *process) record(file string) error {
	start, err := startTime(p.pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(identity{Pid: p.pid, Start: start})
	if err != nil {
		return err
	}
	return replace(file, data)
}

// replace writes a file so that a reader sees the old or the new content, never a part.
func replace(file string, data []byte) error {
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// startTime is field 22 of /proc/PID/stat. The name in field 2 may hold spaces and parentheses.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		return 0, fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of %d: short stat", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// wait returns nil once p has ended, and ctx's error if ctx is done before.
func (p *process) wait(ctx context.Context) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = p.fd.SetReadDeadline(time.Unix(1, 0))
	})
	err = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if !stop() {
		<-fired
		_ = p.fd.SetReadDeadline(time.Time{})
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	return nil
}

// gone tells whether p has ended, without waiting.
func (p *process) gone() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return true
	}
	over := false
	err = raw.Control(func(fd uintptr) { over = ended(int(fd)) })
	return over || err != nil
}

// ended tells whether a pidfd has become readable, which it does when its process ends.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// signal sends sig; a process that has ended is success.
func (p *process) signal(sig unix.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// end asks p to end, then makes it, and returns when it has ended.
func (p *process) end(ctx context.Context) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop process %d: %w", p.pid, err)
	}
	patience, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if p.wait(patience) == nil {
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	return p.wait(last)
}

// reap takes the exit status of a process that has ended; one that was not started here is init's to reap.
func (p *process) reap() string {
	if p.child == nil {
		return "ended"
	}
	state, err := p.child.Wait()
	if err != nil {
		return "ended"
	}
	return state.String()
}

// close lets go of p without touching it.
func (p *process) close() {
	_ = p.fd.Close()
	if p.child != nil {
		_ = p.child.Release()
	}
}
