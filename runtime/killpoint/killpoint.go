// Package killpoint gives names to the lines of code at which podd may die. The kill tests find every name in the
// source, start podd with PODD_KILL_AT set to it, and look whether a second podd makes everything right.
package killpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	armed, after = parse(os.Getenv("PODD_KILL_AT"))
	seen         atomic.Int64
)

// parse splits "name" or "name:2"; the number says at which passing of the point podd dies, 1 is the first.
func parse(s string) (string, int64) {
	name, n, ok := strings.Cut(s, ":")
	if !ok {
		return name, 1
	}
	times, err := strconv.ParseInt(n, 10, 64)
	if err != nil || times < 1 {
		return "", 0
	}
	return name, times
}

// At kills this process with SIGKILL if PODD_KILL_AT names the point. It costs one comparison otherwise.
func At(name string) {
	if armed == "" || armed != name || seen.Add(1) != after {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
