package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmap gives the pages of the program and of its constants back that the start has used: most of them are not used again.
// Those that are come back from the page cache when they are touched. A breakpoint that a debugger has set would be lost.
func unmap() {
	exe, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var start, end, offset uintptr
		var modes, device, file string
		var inode uint64
		n, _ := fmt.Sscanf(line, "%x-%x %s %x %s %d %s", &start, &end, &modes, &offset, &device, &inode, &file)
		if n == 7 && file == exe && !strings.Contains(modes, "w") { // what is written to is the process's own
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}
