package probes

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets that wait are looked at firstLook after the youngest of them was opened, and again and again: the time between two
// looks grows to a quarter of that since then, and to lastLook.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = 12 * firstLook
)

// lookout looks by the clock what has come for the sockets that wait. Were they known to the runtime's poller, each answer would
// wake podd for itself, and that costs more than all else that podd does for a question; so what was asked in one beat is
// taken in together, in a few looks. The clock is one of the kernel's: for a timer of its own the runtime wakes up to three
// threads.
type lookout struct {
	mu       sync.Mutex
	waiting  []*socket
	of       []unix.PollFd // of waiting
	youngest time.Time     // the last socket was opened
	clock    *os.File      // a timer; nil while nothing waits, and when none could be had
	due      time.Time     // the clock goes off; 0 is never
	out      bool          // a goroutine looks, which ends when nothing waits
}

// wait returns when there may be one of events for s, or its context has ended.
func (l *lookout) wait(s *socket, events int16) {
	l.mu.Lock()
	s.place = len(l.waiting)
	l.waiting = append(l.waiting, s)
	l.of = append(l.of, unix.PollFd{Fd: int32(s.fd), Events: events})
	if s.begun.After(l.youngest) {
		l.youngest = s.begun
	}
	l.plan()
	if !l.out {
		l.out = true
		go l.run(l.clock)
	}
	l.mu.Unlock()
	select {
	case <-s.come:
	case <-s.ctx.Done():
		s.over = true
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(s)
	}
}

// drop ends the waiting of s, if it waits. l is locked.
func (l *lookout) drop(s *socket) {
	if s.place < 0 {
		return
	}
	last := len(l.waiting) - 1
	l.waiting[s.place], l.of[s.place] = l.waiting[last], l.of[last]
	l.waiting[s.place].place = s.place
	l.waiting[last] = nil
	l.waiting, l.of = l.waiting[:last], l.of[:last]
	s.place = -1
}

// plan sees to it that the clock goes off in time. l is locked.
func (l *lookout) plan() {
	now := time.Now()
	in := min(max(now.Sub(l.youngest)/4, firstLook), lastLook)
	if !l.due.IsZero() && !now.Add(in).Before(l.due) {
		return
	}
	l.due = now.Add(in)
	if l.clock == nil {
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
		if err != nil {
			return
		}
		l.clock = os.NewFile(uintptr(fd), "clock")
	}
	if conn, err := l.clock.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { setClock(int(fd), in) })
	}
}

// run looks as often as the clock goes off, until nothing waits.
func (l *lookout) run(clock *os.File) {
	var conn syscall.RawConn
	if clock != nil {
		conn, _ = clock.SyscallConn()
	}
	for again := true; again; again = l.look() {
		if conn == nil || conn.Read(func(fd uintptr) bool { return wentOff(int(fd)) }) != nil {
			time.Sleep(firstLook)
		}
	}
}

// look wakes those for whom something has come, and tells whether others wait.
func (l *lookout) look() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = time.Time{}
	err := poll(l.of)
	for i := len(l.of) - 1; i >= 0; i-- {
		if err == nil && l.of[i].Revents == 0 || err == unix.EINTR {
			continue
		}
		s := l.waiting[i]
		l.drop(s)
		s.come <- struct{}{}
	}
	l.out = len(l.waiting) > 0
	switch {
	case l.out:
		l.plan()
	case l.clock != nil: // podd has none while it asks nobody
		_ = l.clock.Close()
		l.clock = nil
	}
	return l.out
}

// The system calls below do not wait, and so the runtime is not told of them. That is what package unix does with most, and
// it wakes the runtime's monitor, whose work was a third of what a question cost.

func failure(failed syscall.Errno) error {
	if failed != 0 {
		return failed
	}
	return nil
}

// poll says of each what there is now.
func poll(of []unix.PollFd) error {
	var now unix.Timespec
	_, _, failed := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(of))), uintptr(len(of)),
		uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return failure(failed)
}

func setClock(fd int, in time.Duration) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(in))}
	_, _, _ = syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0)
}

func wentOff(fd int) bool {
	var times uint64
	_, _, failed := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&times)), unsafe.Sizeof(times))
	return failed != unix.EAGAIN
}
