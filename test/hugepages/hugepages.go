// Package hugepages has the kernel keep huge pages for tests.
package hugepages

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// file says how many huge pages of 2 MiB the kernel has.
const file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

// More has the kernel keep n more huge pages of 2 MiB until the test is over. Where there are none of that size, or the
// memory is too much in pieces, it is an error: what needs them cannot be tested then.
func More(t testing.TB, n int) error {
	t.Helper()
	got, err := change(n)
	t.Cleanup(func() {
		if got == 0 {
			return
		}
		if _, err := change(-got); err != nil {
			t.Error(err)
		}
	})
	if err == nil && got < n {
		err = fmt.Errorf("the kernel has %d huge pages of 2 MiB for this test, not %d", got, n)
	}
	return err
}

// change changes the number by n, and says by how many it has changed. Others do so at the same time, each by what is theirs.
func change(n int) (changed int, err error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return 0, fmt.Errorf("lock %s: %w", file, err)
	}
	read := func() (pages int, err error) {
		b, err := os.ReadFile(file)
		if err == nil {
			_, err = fmt.Sscan(strings.TrimSpace(string(b)), &pages)
		}
		return pages, err
	}
	before, err := read()
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprint(f, before+n); err != nil {
		return 0, fmt.Errorf("set %s: %w", file, err)
	}
	after, err := read()
	return after - before, err
}
