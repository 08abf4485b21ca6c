// stamp is the app of the benchmarks: its first act is to write the time, in nanoseconds of the realtime clock, into the
// file it is given. Then it stays, or, with "exit", it writes the time once more as its last act and ends. With "again" it
// does so as soon as there is a file with the suffix .end, which it takes away. With "listen" it stays and takes
// connections on port 8080.
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
	if len(os.Args) > 2 && os.Args[2] == "listen" {
		listen()
	} else if len(os.Args) > 2 {
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

// listen has the kernel take connections, which nobody reads.
func listen() {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil || syscall.Bind(fd, &syscall.SockaddrInet4{Port: 8080}) != nil || syscall.Listen(fd, 4096) != nil {
		os.Exit(1)
	}
}

// write makes the file appear with its content.
func write(name string, ns int64) {
	if os.WriteFile(name+".tmp", strconv.AppendInt(nil, ns, 10), 0o644) != nil || os.Rename(name+".tmp", name) != nil {
		os.Exit(1)
	}
}
