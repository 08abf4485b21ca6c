package stats

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"podd/api/usage"
)

const (
	countEvery = time.Minute            // a tree is counted at most this often,
	countShare = 20                     // and at most for one part in this many of the time
	firstWait  = 250 * time.Millisecond // how long a look waits for trees that have never been counted
)

// target is one tree of files.
type target struct {
	dir       string
	container string // of which it is the writable layer, if it is one
	whole     bool   // a file system of its own, which knows by itself what is in it
}

// disks is what trees of files take, as it was counted last.
type disks struct {
	work chan []target // capacity 1

	mu     sync.Mutex
	counts map[string]*count // by directory; guarded by mu
	layers map[string]string // the directory of a container's writable layer; guarded by mu
	busy   bool              // guarded by mu
	idle   chan struct{}     // closed when what is being counted has been; guarded by mu
}

type count struct {
	usage.Disk
	again time.Time // not to be counted before
}

func (d *disks) init() {
	d.work, d.counts, d.layers = make(chan []target, 1), map[string]*count{}, map[string]string{}
}

// begin has what is due counted, and waits a moment if something was never counted before.
func (d *disks) begin(ctx context.Context, targets []target) {
	d.mu.Lock()
	now := time.Now()
	kept, layers := make(map[string]*count, len(targets)), map[string]string{}
	var due []target
	never := false
	for _, t := range targets {
		c := d.counts[t.dir]
		if c == nil {
			c, never = &count{}, true
		}
		if kept[t.dir] = c; now.After(c.again) {
			due = append(due, t)
		}
		if t.container != "" {
			layers[t.container] = t.dir
		}
	}
	d.counts, d.layers = kept, layers
	if len(due) > 0 && !d.busy {
		select {
		case d.work <- due:
			d.busy, d.idle = true, make(chan struct{})
		default:
		}
	}
	busy, idle := d.busy, d.idle
	d.mu.Unlock()
	if !never || !busy {
		return
	}
	wait := time.NewTimer(firstWait)
	defer wait.Stop()
	select {
	case <-idle:
	case <-wait.C:
	case <-ctx.Done():
	}
}

func (d *disks) get(dir string) usage.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.counts[dir]; c != nil {
		return c.Disk
	}
	return usage.Disk{}
}

// roots is the writable layers by container id.
func (d *disks) roots() map[string]usage.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]usage.Disk, len(d.layers))
	for id, dir := range d.layers {
		if c := d.counts[dir]; c != nil {
			out[id] = c.Disk
		}
	}
	return out
}

// run counts what begin asks for, until ctx is done.
func (d *disks) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case due := <-d.work:
			for _, t := range due {
				d.count(ctx, t)
			}
			d.mu.Lock()
			d.busy = false
			close(d.idle)
			d.mu.Unlock()
		}
	}
}

func (d *disks) count(ctx context.Context, t target) {
	began := time.Now()
	disk := usage.Disk{FS: fileSystem(t.dir)}
	if t.whole {
		disk.Used, disk.Inodes, disk.Known = disk.FS.Size-disk.FS.Free, disk.FS.Inodes-disk.FS.InodesFree, disk.FS.Size > 0
	} else {
		var err error
		disk.Used, disk.Inodes, err = Files(ctx, t.dir)
		disk.Known = err == nil
	}
	disk.At = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.counts[t.dir]; c != nil {
		c.Disk, c.again = disk, disk.At.Add(max(countEvery, countShare*disk.At.Sub(began)))
	}
}

func fileSystem(path string) usage.FS {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return usage.FS{}
	}
	size := uint64(st.Bsize)
	return usage.FS{Size: st.Blocks * size, Free: st.Bavail * size, Inodes: st.Files, InodesFree: st.Ffree}
}

// uppers finds the writable layers of the running containers among the mounts: containerd mounts the root of each below
// its directory, as …/<id>/rootfs.
func uppers(mountinfo []byte, running map[string]bool) map[string]string {
	out := map[string]string{}
	for line := range bytes.Lines(mountinfo) {
		f := bytes.Fields(line)
		sep := bytes.Index(line, []byte(" - overlay "))
		if sep < 0 || len(f) < 5 || !bytes.HasSuffix(f[4], []byte("/rootfs")) {
			continue
		}
		at := string(f[4])
		id := filepath.Base(filepath.Dir(at))
		if !running[id] {
			continue
		}
		_, options, ok := bytes.Cut(line[sep:], []byte("upperdir="))
		if upper, _, _ := strings.Cut(string(bytes.TrimSpace(options)), ","); ok && upper != "" {
			out[id] = upper
		}
	}
	return out
}
