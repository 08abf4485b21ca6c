package logs

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// packAfter is how old a rotated file must be before it is packed. A container that fills files faster has them removed
// before, which costs nothing; and a follower that is a little late still finds them as they were.
const packAfter = 10 * time.Second

// packer gzips rotated files, all but the newest of each log, one at a time.
type packer struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	paths map[string]bool // logs that were rotated
}

func newPacker() *packer {
	return &packer{wake: make(chan struct{}, 1), paths: map[string]bool{}}
}

// add says that the log at path was rotated.
func (p *packer) add(path string) {
	p.mu.Lock()
	p.paths[path] = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *packer) run(ctx context.Context) {
	// The thread ends with this goroutine, as it is never unlocked: nobody else gets its low priority.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 10)
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(packAfter):
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		paths := p.paths
		p.paths = map[string]bool{}
		p.mu.Unlock()
		for path := range paths {
			if packAll(ctx, path, packAfter) {
				p.add(path)
			}
		}
	}
}

// packAll packs the rotated files of path that are old enough, but for the newest. It says whether one was too young.
func packAll(ctx context.Context, path string, age time.Duration) (again bool) {
	all, err := rotatedFiles(path)
	if err != nil || len(all) < 2 {
		return false
	}
	for _, r := range all[:len(all)-1] {
		if ctx.Err() != nil || r.packed {
			continue
		}
		name := filepath.Join(filepath.Dir(path), r.name)
		st, err := os.Lstat(name)
		if err != nil {
			continue
		}
		if time.Since(st.ModTime()) < age {
			again = true
			continue
		}
		_ = packFile(name) // a full disk: the next rotation tries again
	}
	return again
}

// packFile replaces name by name.gz; at every moment at least one of them is whole.
func packFile(name string) (err error) {
	in, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	tmp := name + ".tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		if _, err = io.Copy(z, in); err == nil {
			err = z.Close()
		}
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, name+".gz")
	}
	if err == nil {
		err = os.Remove(name)
	}
	return err
}
