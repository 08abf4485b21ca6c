package early

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// TestOver takes away everything that is only for the start: the process goes on, in less memory, and takes no more huge pages.
func TestOver(t *testing.T) {
	prepared := from
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); (err == nil) != (prepared != 0) {
		t.Fatalf("memory is prepared at %#x, and the kernel's huge pages: %v", prepared, err)
	}
	if prepared != 0 && !strings.Contains(flags(t, prepared), " hg") {
		t.Fatalf("before: flags of the memory: %s", flags(t, prepared))
	}
	before := status(t, "RssFile")
	Over()
	debug.FreeOSMemory()
	if prepared != 0 && strings.Contains(flags(t, prepared), " hg") {
		t.Errorf("after: flags of the memory: %s", flags(t, prepared))
	}
	if ballast != nil {
		t.Error("the ballast is kept")
	}
	Unmap()
	if after := status(t, "RssFile"); after >= before {
		t.Errorf("%d kB of the program's file are mapped, %d before", after, before)
	}
}

// flags are those of the mapping that address is in.
func flags(t *testing.T, address uintptr) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	within := false
	for line := range bytes.Lines(data) {
		var start, end uintptr
		if n, _ := fmt.Sscanf(string(line), "%x-%x ", &start, &end); n == 2 {
			within = start <= address && address < end
		}
		if within && bytes.HasPrefix(line, []byte("VmFlags:")) {
			return string(line)
		}
	}
	t.Fatalf("no mapping has %x", address)
	return ""
}

func status(t *testing.T, name string) (kB int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if n, _ := fmt.Sscanf(line, name+": %d", &kB); n == 1 {
			return kB
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
