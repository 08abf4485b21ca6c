package early

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// TestOver takes away everything that is only for the start: the process goes on, in less memory, and takes no more huge pages.
func TestOver(t *testing.T) {
	if os.Getenv(alone) == "" { // what other tests leave in the heap would be in the way
		runAlone(t)
		return
	}
	Begin()
	address := from
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); (err == nil) != (address != 0) {
		t.Fatalf("memory is prepared at %#x, and the kernel's huge pages: %v", address, err)
	}
	if address != 0 && !strings.Contains(flags(t, address), " hg") {
		t.Fatalf("before: flags of the memory: %s", flags(t, address))
	}
	if n := present(t, address); n > prepared/2/os.Getpagesize() {
		t.Errorf("%d pages are taken before they are needed", n)
	}
	if now := debug.SetGCPercent(percent); now != percent {
		t.Errorf("before: garbage is collected at %d %%, want %d", now, percent)
	}
	Over()
	debug.FreeOSMemory()
	if address != 0 && strings.Contains(flags(t, address), " hg") {
		t.Errorf("after: flags of the memory: %s", flags(t, address))
	}
	if now := debug.SetGCPercent(int(usual)); now != int(usual) || now == percent {
		t.Errorf("after: garbage is collected at %d %%, want %d", now, usual)
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

// alone is set for a process that has this one test to do.
const alone = "PODD_TEST_ALONE"

// runAlone runs the test in processes of its own, some, for what garbage there is when differs.
func runAlone(t *testing.T) {
	t.Helper()
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// present is how many pages of the prepared part take memory.
func present(t *testing.T, address uintptr) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	entries := make([]byte, 8*(prepared/page))
	if _, err := f.ReadAt(entries, int64(address)/int64(page)*8); err != nil {
		t.Fatal(err)
	}
	for e := range slices.Chunk(entries, 8) {
		if e[7]&0x80 != 0 {
			n++
		}
	}
	return n
}
