package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// programs are those of the host that podd has do what it does not do itself. The kernel may hold one for as long as a
// server is dead: podd never waits for it longer than it is told to.
type programs struct {
	dirs string   // where they are looked for, separated by colons
	self []string // podd's own command that unmounts, see Unmounter

	mu   sync.Mutex
	held map[string]int // how many are under way on what; guarded by mu
}

const (
	killPatience = 2 * time.Second // how long one that was killed is waited for
	mostOutput   = 4 << 10         // bytes of what a program says that are read
	mostHeld     = 8               // that work on the same at the same time
)

// find is the path of the first of the programs that is there. pack says what to install if none is.
func (p *programs) find(pack string, names ...string) (string, error) {
	for _, name := range names {
		for _, dir := range filepath.SplitList(p.dirs) {
			path := filepath.Join(dir, name)
			if unix.Access(path, unix.X_OK) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: is not on this host: install %s", names[0], pack)
}

// exitError is the end of a program that did not do what it was to.
type exitError struct {
	name, output string
	code         int // -1 if a signal ended it
	err          error
}

func (e *exitError) Error() string {
	if e.output == "" {
		return e.name + ": " + e.err.Error()
	}
	return e.name + ": " + e.err.Error() + ": " + e.output
}

// errHeld is what a program came to that has not ended though it was to.
var errHeld = errors.New("does not end")

// run runs a program to its end and returns the beginning of what it wrote. When ctx ends it is killed, with all that it
// started, unless spare is set; one that the kernel holds even then is left behind, and counts as being at work on what it
// was run on.
func (p *programs) run(ctx context.Context, on string, spare bool, path string, args ...string) (string, error) {
	w := way{most: 1}
	if spare {
		w = way{spare: true, most: mostHeld}
	}
	return p.runAs(ctx, w, on, path, args...)
}

// way is how a program is run.
type way struct {
	spare bool     // it goes on when the context ends
	most  int      // that may be at work on the same
	keeps *os.File // if set, is open as long as the program lives, or one that it has started
	into  *os.File // if set, gets its standard output

	locked func() bool // if set, it is not killed while that says so
}

func (p *programs) runAs(ctx context.Context, w way, on, path string, args ...string) (string, error) {
	name := filepath.Base(path)
	if !p.begin(on, w.most) {
		return "", fmt.Errorf("%s: one that was run before %w", name, errHeld)
	}
	output, err := memory()
	if err != nil {
		p.end(on)
		return "", err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = cmp.Or(w.into, output), output
	cmd.Env = []string{"PATH=" + p.dirs, "LANG=C", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if w.keeps != nil {
		cmd.ExtraFiles = []*os.File{w.keeps}
	}
	if err := cmd.Start(); err != nil {
		p.end(on)
		_ = output.Close()
		return "", fmt.Errorf("%s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		p.end(on)
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = errHeld
		if !w.spare && kill(cmd.Process.Pid, ended, w.locked) {
			err = context.Cause(ctx)
		}
	}
	said := beginning(output)
	_ = output.Close()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return said, nil
	case errors.As(err, &exit):
		return said, &exitError{name: name, output: oneLine(said), code: exit.ExitCode(), err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return said, fmt.Errorf("%s: has not ended in time", name)
	default:
		return said, fmt.Errorf("%s: %w", name, err)
	}
}

// kill kills a program with all that it has started, and tells whether it has ended. If locked is set the program is stopped to ask
// that, and goes on for a while if it is so: what it has locked stays locked when it is killed. If that lasts too long it is left
// behind alive.
func kill(pid int, ended <-chan error, locked func() bool) bool {
	within := func(limit time.Duration) bool {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-ended:
			return true
		case <-timer.C:
			return false
		}
	}
	for begin := time.Now(); locked != nil; {
		_ = unix.Kill(-pid, unix.SIGSTOP)
		at := stopped(pid)
		if at && !locked() {
			break
		}
		if at {
			_ = unix.Kill(-pid, unix.SIGCONT)
		}
		if within(lockLook) {
			return true
		}
		if time.Since(begin) > lockPatience {
			_ = unix.Kill(-pid, unix.SIGCONT)
			return false
		}
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	return within(killPatience)
}

const (
	lockLook     = 5 * time.Millisecond
	lockPatience = 40 * time.Second // iscsiadm itself waits 30 s for its lock
)

// stopped tells whether a process stands still, or has ended.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	rest := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(rest) > 0 && strings.Contains("TtZX", rest[0])
}

func (p *programs) begin(on string, most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[on] >= most {
		return false
	}
	p.held[on]++
	return true
}

// busy tells whether a program is at work on something.
func (p *programs) busy(on string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[on] > 0
}

func (p *programs) end(on string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[on]--; p.held[on] <= 0 {
		delete(p.held, on)
	}
}

// memory is a file for what a program says. Unlike a pipe, nobody waits at its end for a process that has inherited it.
func memory() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

func beginning(f *os.File) string {
	b := make([]byte, mostOutput)
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
