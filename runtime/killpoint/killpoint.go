// Package killpoint gives names to the lines of code at which podd may die. The kill tests find every name in the
// source, start podd with PODD_KILL_AT set to it, and look whether a second podd makes everything right. PODD_KILL_FILE is a
// file that is to hold such a name, or is not there: so a podd that runs already is told where to die. With
// PODD_KILL_TRACE podd does not die, but appends the name of every point that it passes to that file: the tests know then
// how a point is come to.
package killpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

var (
	armed, after = parse(os.Getenv("PODD_KILL_AT"))
	seen         atomic.Int64
	told         = os.Getenv("PODD_KILL_FILE")
	trace        = os.Getenv("PODD_KILL_TRACE")
	traced       sync.Map // names that are in the file
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

// At kills this process with SIGKILL if PODD_KILL_AT, or what is in PODD_KILL_FILE, names the point. It costs some comparisons
// otherwise.
func At(name string) {
	if trace != "" {
		passed(name)
	}
	if (told == "" || !isTold(name)) && (armed == "" || armed != name || seen.Add(1) != after) {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func isTold(name string) bool {
	said, err := os.ReadFile(told)
	return err == nil && string(said) == name
}

// passed notes that name was passed, once in the life of this process.
func passed(name string) {
	if _, known := traced.LoadOrStore(name, true); known {
		return
	}
	f, err := os.OpenFile(trace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic("PODD_KILL_TRACE: " + err.Error()) // whoever asks for it waits for what it says
	}
	defer f.Close()
	if _, err := f.WriteString(name + "\n"); err != nil {
		panic("PODD_KILL_TRACE: " + err.Error())
	}
}
