//go:build host

package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// counter counts a kernel tracepoint on all processors, whoever passes it.
type counter struct{ fds []int }

// tracing is where the kernel describes its tracepoints; it is mounted if it is not.
const tracing = "/sys/kernel/tracing"

// openCounter starts to count a tracepoint, such as "sched/sched_process_exec".
func openCounter(t testing.TB, event string) *counter {
	t.Helper()
	path := filepath.Join(tracing, "events", event, "id")
	if _, err := os.Stat(path); err != nil {
		if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil {
			t.Fatalf("mount tracefs: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(tracing, 0) })
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	for cpu := range runtime.NumCPU() {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			t.Fatalf("count %s: %v", event, err)
		}
		c.fds = append(c.fds, fd)
	}
	t.Cleanup(func() {
		for _, fd := range c.fds {
			_ = unix.Close(fd)
		}
	})
	return c
}

// read is how often the tracepoint was passed since the counter was opened.
func (c *counter) read(t testing.TB) uint64 {
	t.Helper()
	var sum uint64
	for _, fd := range c.fds {
		var buf [8]byte
		if _, err := unix.Read(fd, buf[:]); err != nil {
			t.Fatal(fmt.Errorf("read counter: %w", err))
		}
		sum += binary.NativeEndian.Uint64(buf[:])
	}
	return sum
}

// counters are those that podd is held to: program executions and waits for the disk.
type counters struct{ exec, fdatasync, fsync *counter }

func openCounters(t testing.TB) counters {
	return counters{
		exec:      openCounter(t, "sched/sched_process_exec"),
		fdatasync: openCounter(t, "syscalls/sys_enter_fdatasync"),
		fsync:     openCounter(t, "syscalls/sys_enter_fsync"),
	}
}

// counts is one reading.
type counts struct{ execs, syncs uint64 }

func (c counters) read(t testing.TB) counts {
	return counts{c.exec.read(t), c.fdatasync.read(t) + c.fsync.read(t)}
}

func (a counts) since(b counts) counts { return counts{a.execs - b.execs, a.syncs - b.syncs} }
