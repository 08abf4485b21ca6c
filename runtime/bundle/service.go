package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxOutput is the size in bytes at which a service's log is moved to NAME.1.
const maxOutput = 8 << 20

// service is one process that is kept running.
type service struct {
	name   string
	binary string
	args   []string
	socket string            // where it listens
	record string            // who it is, until it listens
	output string            // its log, when podd does not write to the journal
	files  map[string]string // written before it starts; one that changes makes it start anew
	path   string            // put before PATH
	dirs   []string          // made before it starts
	log    *slog.Logger
	before func(context.Context) // called before each start; may be nil

	up      sync.Once
	running chan struct{} // closed once it was found or started the first time
}

// keep makes sure that the service runs, until ctx is done.
func (s *service) keep(ctx context.Context) {
	delay := firstDelay
	for ctx.Err() == nil {
		born := time.Now()
		p, err := s.ensure(ctx)
		if err == nil {
			s.up.Do(func() { close(s.running) })
			err = s.watch(ctx, p)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(born) > calmAfter {
			delay = firstDelay
		}
		s.log.Warn("starting again", "service", s.name, "after", delay, "reason", err)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
	}
}

// ensure returns the running service: the one that is there, unless it is another version, or a new one.
func (s *service) ensure(ctx context.Context) (*process, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	stale, err := s.writeFiles()
	if err != nil {
		return nil, err
	}
	p, err := s.look()
	if err == nil {
		if !stale && s.current(p) {
			s.log.Info("took over", "service", s.name, "pid", p.pid)
			s.remember(p)
			return p, nil
		}
		s.log.Info("replacing: its binary or its configuration changed", "service", s.name, "pid", p.pid)
		err = p.end(ctx)
		p.close()
		if err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return s.start(ctx)
}

// look finds the running service by its socket, or while it has none yet by its record. None is fs.ErrNotExist.
func (s *service) look() (*process, error) {
	p, err := listener(s.socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EAGAIN) { // EAGAIN: it listens, but hangs
		return recorded(s.record)
	}
	return p, err
}

// current tells whether p runs the binary that is installed now.
func (s *service) current(p *process) bool {
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return false
	}
	installed, err := os.Stat(s.binary)
	return err == nil && os.SameFile(running, installed)
}

// makeDirs makes the directories. They are for root alone: below them are setuid programs of images.
func (s *service) makeDirs() error {
	for _, dir := range s.dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("start %s: %w", s.name, err)
		}
	}
	return nil
}

// writeFiles writes the configuration and tells whether it differs from what was there before.
func (s *service) writeFiles() (changed bool, err error) {
	for file, content := range s.files {
		old, err := os.ReadFile(file)
		if err == nil && string(old) == content {
			continue
		}
		if err := replace(file, []byte(content)); err != nil {
			return false, fmt.Errorf("write configuration of %s: %w", s.name, err)
		}
		changed = true
	}
	return changed, nil
}

// start runs the binary in a session of its own and returns once it listens. When another process turns out to listen,
// one that an earlier podd started and had no time to record, that one is the service and the new one is ended.
func (s *service) start(ctx context.Context) (*process, error) {
	if s.before != nil {
		s.before(ctx)
	}
	p, err := s.spawn()
	if err != nil {
		return nil, err
	}
	s.remember(p)
	s.protect(p)
	began := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if l, err := listener(s.socket); err == nil {
			if l.pid == p.pid {
				l.close()
				s.log.Info("started", "service", s.name, "pid", p.pid, "took", time.Since(began).Round(time.Millisecond))
				return p, nil
			}
			s.discard(ctx, p)
			return l, nil
		}
		if p.gone() {
			how := p.reap()
			p.close()
			return nil, fmt.Errorf("start %s: %s; its log is %s", s.name, how, s.where())
		}
		if time.Since(began) > startLimit {
			s.discard(ctx, p)
			return nil, fmt.Errorf("start %s: not listening on %s after %s; its log is %s", s.name, s.socket, startLimit, s.where())
		}
		select {
		case <-ctx.Done():
			p.close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// remember writes the record. Without one the service is still found once it listens.
func (s *service) remember(p *process) {
	if err := p.record(s.record); err != nil {
		s.log.Warn("record process", "service", s.name, "pid", p.pid, "err", err)
	}
}

// discard ends and reaps a process that is not to be the service.
func (s *service) discard(ctx context.Context, p *process) {
	if err := p.end(ctx); err != nil {
		s.log.Warn("discard process", "service", s.name, "pid", p.pid, "err", err)
	}
	p.reap()
	p.close()
}

// spawn executes the binary.
func (s *service) spawn() (*process, error) {
	out, err := s.openOutput()
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", s.name, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	child, err := os.StartProcess(s.binary, append([]string{s.binary}, s.args...), &os.ProcAttr{
		Dir:   "/",
		Env:   s.environ(),
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	p, err := open(child.Pid)
	if errors.Is(err, fs.ErrNotExist) {
		state, _ := child.Wait()
		return nil, fmt.Errorf("start %s: %s; its log is %s", s.name, state, s.where())
	}
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	p.child = child
	return p, nil
}

// searchPath is podd's own PATH with a directory before it.
func searchPath(first string) string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return first + ":" + path
}

// environ is a small environment: not NOTIFY_SOCKET, through which the service would speak to systemd in podd's name.
func (s *service) environ() []string {
	env := []string{"PATH=" + searchPath(s.path)}
	for _, name := range []string{"HOME", "LANG", "TMPDIR", "GODEBUG", "GOTRACEBACK"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// protect asks the kernel to take the service last when memory runs out. Without the right to lower the value (podd in
// a container) it stays what podd's own is.
func (s *service) protect(p *process) {
	file := fmt.Sprintf("/proc/%d/oom_score_adj", p.pid)
	if err := os.WriteFile(file, []byte("-999"), 0); err != nil {
		own, _ := os.ReadFile("/proc/self/oom_score_adj")
		s.log.Info("oom_score_adj stays as it is", "service", s.name, "value", strings.TrimSpace(string(own)), "reason", err)
	}
}

// watch returns when p has ended, or ctx is done; once a minute it looks after the size of the log.
func (s *service) watch(ctx context.Context, p *process) error {
	defer p.close()
	for ctx.Err() == nil {
		minute, cancel := context.WithTimeout(ctx, time.Minute)
		err := p.wait(minute)
		cancel()
		if err == nil {
			return fmt.Errorf("%s (pid %d): %s", s.name, p.pid, p.reap())
		}
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return err
		}
		if err := s.trim(); err != nil {
			s.log.Warn("trim log", "service", s.name, "err", err)
		}
	}
	return nil
}

// stop ends the service and removes what only a running one needs.
func (s *service) stop(ctx context.Context) error {
	p, err := s.look()
	if err == nil {
		err = p.end(ctx)
		p.close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	for _, file := range []string{s.record, s.socket, s.socket + ".ttrpc"} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("stop %s: %w", s.name, err)
		}
	}
	return nil
}

// inJournal tells whether podd's standard error is the systemd journal, by the rule of systemd.exec(5), JOURNAL_STREAM.
func inJournal() bool {
	dev, ino, ok := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	if !ok {
		return false
	}
	info, err := os.Stderr.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && dev == strconv.FormatUint(st.Dev, 10) && ino == strconv.FormatUint(st.Ino, 10)
}

// where says where the service's log is.
func (s *service) where() string {
	if inJournal() {
		return "the journal"
	}
	return s.output
}

// openOutput opens what the service writes to: the journal when podd does, or a file.
func (s *service) openOutput() (*os.File, error) {
	if inJournal() {
		fd, err := syscall.Dup(2)
		if err != nil {
			return nil, err
		}
		syscall.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), "journal"), nil
	}
	if err := s.trim(); err != nil {
		return nil, err
	}
	return os.OpenFile(s.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
}

// trim copies a log that has grown too large to NAME.1 and empties it; the service goes on appending to the same file.
func (s *service) trim() error {
	in, err := os.OpenFile(s.output, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil || info.Size() < maxOutput {
		return err
	}
	out, err := os.OpenFile(s.output+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), in.Truncate(0))
}
