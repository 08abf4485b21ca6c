// Package logs writes, rotates, reads and follows the log files of containers.
//
// A container writes into two FIFOs. One small process per host, podd-logd, reads them all and writes the files in the CRI
// line format. It is a process of its own so that logging goes on while podd is away, and it may die itself: the shim of
// the container keeps the FIFOs open, and the next podd-logd goes on where the last one stopped.
//
// Serve is that process; Writer is how podd talks to it; Read is what "podctl logs" does.
package logs

// Target is what is written for one container.
type Target struct {
	ID       string `json:"id"`               // of the container
	Stdout   string `json:"stdout"`           // path of the FIFO; empty: none
	Stderr   string `json:"stderr,omitempty"` // path of the FIFO; empty: none, as with a terminal
	Path     string `json:"path"`             // of the log file: <attempt>.log
	MaxSize  int64  `json:"maxSize"`          // bytes after which the file is rotated; 0: 10 MiB
	MaxFiles int    `json:"maxFiles"`         // files kept with the live one; 0: 5; at least 2
}
