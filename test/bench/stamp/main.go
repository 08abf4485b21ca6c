// stamp is the app of the benchmarks: its first act is to write the time, in nanoseconds of the realtime clock, into the
// file it is given. Then it stays, or, with "exit", it writes the time once more as its last act and ends. With "again" it
// does so as soon as there is a file with the suffix .end, which it takes away.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	now := time.Now().UnixNano()
	write(os.Args[1], now)
	if len(os.Args) > 2 {
		for os.Args[2] == "again" && os.Remove(os.Args[1]+".end") != nil {
			time.Sleep(time.Millisecond)
		}
		write(os.Args[1]+".exit", time.Now().UnixNano())
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
}

// write makes the file appear with its content.
func write(name string, ns int64) {
	if os.WriteFile(name+".tmp", strconv.AppendInt(nil, ns, 10), 0o644) != nil || os.Rename(name+".tmp", name) != nil {
		os.Exit(1)
	}
}
