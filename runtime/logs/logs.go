// Package logs writes, rotates, reads and follows the log files of containers.
//
// A container writes into two FIFOs. One small process per host, podd-logd, reads them all and writes the files in the CRI
// line format. It is a process of its own so that logging goes on while podd is away, and it may die itself: the shim of
// the container keeps the FIFOs open, and the next podd-logd goes on where the last one stopped.
//
// Serve is that process; Writer is how podd talks to it; Read is what "podctl logs" does.
package logs

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

const (
	defaultMaxSize  = 10 << 20
	defaultMaxFiles = 5

	// maxText is the longest text of one record; what is longer is split into P records. It is the
	// max_container_log_line_size of containerd's CRI plugin.
	maxText = 16 << 10

	// bufferSize is what is read at once from one FIFO, and the most that is lost of a stream when podd-logd is killed.
	bufferSize = 64 << 10

	// pipeSize is asked for each FIFO: what a container can write while nobody reads.
	pipeSize = 1 << 20
)

// Target is what is written for one container.
type Target struct {
	ID       string `json:"id"`               // of the container
	Stdout   string `json:"stdout,omitempty"` // path of the FIFO; empty: none
	Stderr   string `json:"stderr,omitempty"` // path of the FIFO; empty: none, as with a terminal
	Stdin    string `json:"stdin,omitempty"`  // path of a FIFO that is only made and removed with the others; empty: none
	Path     string `json:"path"`             // of the log file: <attempt>.log
	MaxSize  int64  `json:"maxSize"`          // bytes after which the file is rotated; 0: 10 MiB
	MaxFiles int    `json:"maxFiles"`         // files kept with the live one; 0: 5; at least 2
}

// withDefaults fills in the upstream numbers (containerLogMaxSize, containerLogMaxFiles of the kubelet).
func (t Target) withDefaults() Target {
	if t.MaxSize <= 0 {
		t.MaxSize = defaultMaxSize
	}
	if t.MaxFiles <= 0 {
		t.MaxFiles = defaultMaxFiles
	}
	t.MaxFiles = max(t.MaxFiles, 2)
	return t
}

func (t Target) validate() error {
	if err := validateID(t.ID); err != nil {
		return err
	}
	for _, p := range []string{t.Path, t.Stdout, t.Stderr, t.Stdin} {
		if p != "" && (!filepath.IsAbs(p) || filepath.Clean(p) != p) {
			return fmt.Errorf("path %q is not absolute and clean", p)
		}
	}
	if t.Path == "" || t.Stdout == "" && t.Stderr == "" {
		return errors.New("a target needs a log file and a FIFO")
	}
	return nil
}

// validateID lets an id be a file name.
func validateID(id string) error {
	ok := len(id) > 0 && len(id) <= 128 && id[0] != '.' && strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}) < 0
	if !ok {
		return fmt.Errorf("id %q is not a container id", id)
	}
	return nil
}
