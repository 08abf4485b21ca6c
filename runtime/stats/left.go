package stats

import (
	"bytes"

	"golang.org/x/sys/unix"

	"podd/api/pressure"
)

// Left is what the host has left, and in all: memory that new work could get without swapping, process ids, and room on the
// file systems that the directories of podd's state and of images are on. What cannot be looked at is left out. It costs a
// handful of system calls.
func Left(state, images string) pressure.Observations {
	seen := pressure.Observations{}
	var files reader
	var total, available uint64
	for line := range bytes.Lines(files.path("/proc/meminfo")) {
		f := bytes.Fields(line)
		switch {
		case len(f) < 2:
		case string(f[0]) == "MemTotal:":
			total = number(f[1]) << 10
		case string(f[0]) == "MemAvailable:":
			available = number(f[1]) << 10
		}
	}
	if total > 0 {
		seen[pressure.MemoryAvailable] = observed(available, total)
	}
	for _, d := range []struct {
		dir           string
		bytes, inodes pressure.Signal
	}{{state, pressure.NodeFSAvailable, pressure.NodeFSInodesFree}, {images, pressure.ImageFSAvailable, pressure.ImageFSInodesFree}} {
		fs := fileSystem(d.dir)
		if fs.Size > 0 {
			seen[d.bytes] = observed(fs.Free, fs.Size)
		}
		if fs.Inodes > 0 { // some, as btrfs, make them as they are needed
			seen[d.inodes] = observed(fs.InodesFree, fs.Inodes)
		}
	}
	most := number(files.path("/proc/sys/kernel/pid_max"))
	if load := bytes.Fields(files.path("/proc/loadavg")); len(load) > 3 && most > 0 {
		_, tasks, _ := bytes.Cut(load[3], []byte("/"))
		seen[pressure.PIDAvailable] = observed(most-min(number(tasks), most), most)
	}
	return seen
}

func observed(available, capacity uint64) pressure.Observation {
	return pressure.Observation{Available: int64(available), Capacity: int64(capacity)}
}

// SameFS tells whether two directories are on one file system; true if that cannot be told.
func SameFS(a, b string) bool {
	var at, bt unix.Stat_t
	return unix.Stat(a, &at) != nil || unix.Stat(b, &bt) != nil || at.Dev == bt.Dev
}
