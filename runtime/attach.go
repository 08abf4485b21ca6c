package runtime

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/containers"
	"podd/runtime/logs"
)

// Attach is one client at a container's own streams.
type Attach struct {
	// Stdin is read until it ends or Attach returns; nil: not asked for. A Read under way when Attach returns is left to the
	// caller, who ends it by closing what is behind it.
	Stdin io.Reader
	// Stdout and Stderr must not block, and keep nothing of what they are given. Of a container with a terminal all that it
	// writes is Stdout. nil: not asked for.
	Stdout, Stderr io.Writer
	Resize         <-chan containers.Size // nil: never
}

// ErrBehind says that a client was detached since it did not take the output.
var ErrBehind = logs.ErrBehind

// Attach connects a client with a running container, from this moment on: nothing is shown of what the container wrote
// before. It returns nil when the container has ended and all it wrote was handed on, or when the client has ended its
// stdin; that of a container with stdinOnce and no terminal is then closed for good, and the client sees the output to its
// end (upstream: containerd's internal/cri/io, the attach of a container). The container notices nothing else.
func (r *Runtime) Attach(ctx context.Context, pod *v1.Pod, name string, a Attach) error {
	name, err := pick(pod, name)
	if err != nil {
		return err
	}
	c, err := containerOf(pod, name)
	if err != nil {
		return err
	}
	id, err := r.runningID(ctx, pod, name)
	if err != nil {
		return err
	}
	ctx, detach := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer detach()
	ended := make(chan struct{})
	parts.Go(func() {
		r.awaitEnd(ctx, id)
		close(ended)
	})
	if a.Resize != nil {
		parts.Go(func() { r.resize(ctx, id, c.TTY, a.Resize) })
	}
	var left atomic.Bool // the client has ended its stdin
	attached := func() {}
	if a.Stdin != nil {
		in := &stdin{r: r, uid: pod.UID, id: id, once: c.StdinOnce && !c.TTY, detach: func() { left.Store(true); detach() }}
		defer in.close()
		attached = func() { in.attach(ctx, c.Stdin, a.Stdin) }
	}
	err = r.Writer.Tap(ctx, id, ended, attached, func(stderr bool, data []byte) error {
		to := a.Stdout
		if stderr {
			to = a.Stderr
		}
		if to == nil {
			return nil
		}
		_, err := to.Write(data)
		return err
	})
	if errors.Is(err, context.Canceled) && left.Load() {
		return nil
	}
	return err
}

// runningID is the id of the running instance of a container.
func (r *Runtime) runningID(ctx context.Context, pod *v1.Pod, name string) (string, error) {
	instances, err := r.Containers.Look(ctx, string(pod.UID))
	if err != nil {
		return "", err
	}
	id, ok := runningOf(instances, name)
	if !ok {
		return "", refuse("container %s of pod %s is not running", name, pod.Name)
	}
	return id, nil
}

// runningOf goes by what the pod's status goes by: who sees a container run there is not told that it does not.
func runningOf(instances []containers.Instance, name string) (id string, ok bool) {
	i := slices.IndexFunc(instances, func(i containers.Instance) bool { return i.Name == name && i.HasTask && i.Task.Runs() })
	if i < 0 {
		return "", false
	}
	return instances[i].ID, true
}

// resize hands on sizes to a terminal until there are no more or ctx ends.
func (r *Runtime) resize(ctx context.Context, id string, terminal bool, sizes <-chan containers.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if !terminal {
				continue
			}
			if err := r.Containers.Resize(ctx, id, size); err != nil && ctx.Err() == nil {
				r.Log.Debug("resize", "id", id, "err", err)
			}
		}
	}
}

// stdin is what one client brings to a container's stdin.
type stdin struct {
	r      *Runtime
	uid    types.UID
	id     string
	once   bool   // the container's stdin closes with this client
	detach func() // ends the attach

	mu   sync.Mutex
	file *os.File // nil: nothing is fed
	over bool
}

// attach begins to copy from the client. A container without stdin, or whose stdin is closed, takes nothing: what the
// client says is thrown away.
func (s *stdin) attach(ctx context.Context, has bool, from io.Reader) {
	file, err := (*os.File)(nil), containers.ErrNoStdin
	if has {
		file, err = s.open()
	}
	if err != nil {
		if !errors.Is(err, containers.ErrNoStdin) {
			s.r.Log.Warn("attach: open stdin", "id", s.id, "err", err)
		}
		go func() { _, _ = io.Copy(io.Discard, from) }() // ended by the caller of Attach, who closes what is behind it
		return
	}
	go func() { // ends as well by the closing of either end
		if refused := containers.Feed(ctx, file, from); refused {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if s.once {
			s.close()
		} else {
			s.detach()
		}
	}()
}

func (s *stdin) open() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, containers.ErrNoStdin
	}
	if s.once { // should podd be killed, the next one closes it
		if err := markersOf(s.r.RunDir, s.uid).put(filepath.Join("stdin", s.id), time.Now()); err != nil {
			return nil, err
		}
	}
	file, err := containers.OpenStdin(s.r.fifo(s.id, "in"))
	if err == nil {
		s.file = file
		s.r.stdins.add(s.id, file)
	}
	return file, err
}

// close takes the client away from the stdin, and closes it for all when it is to be used once. It may be called again.
func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.file == nil {
		return
	}
	s.r.stdins.drop(s.id, s.file)
	s.file = nil
	if s.once {
		s.r.stdins.dropAll(s.id)
		s.r.endStdin(context.Background(), s.uid, s.id)
	}
}

// endStdin closes a stdin for good.
func (r *Runtime) endStdin(ctx context.Context, uid types.UID, id string) {
	err := r.Containers.CloseStdin(ctx, id)
	if err == nil {
		err = markersOf(r.RunDir, uid).drop(filepath.Join("stdin", id))
	}
	if err != nil {
		r.Log.Warn("close stdin", "id", id, "err", err)
	}
}

// endStdins closes those whose one client was attached through a podd that is no more.
func (r *Runtime) endStdins(ctx context.Context, uid types.UID) {
	left, err := os.ReadDir(filepath.Join(markersOf(r.RunDir, uid).dir, "stdin"))
	if err != nil {
		return
	}
	for _, m := range left {
		if filepath.Ext(m.Name()) == "" {
			r.endStdin(ctx, uid, m.Name())
		}
	}
}

// feeds are the open ends of containers' stdins, by container.
type feeds struct {
	mu    sync.Mutex
	files map[string][]*os.File
}

func (f *feeds) add(id string, file *os.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[string][]*os.File{}
	}
	f.files[id] = append(f.files[id], file)
}

// drop closes one.
func (f *feeds) drop(id string, file *os.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = file.Close()
	f.files[id] = slices.DeleteFunc(f.files[id], func(have *os.File) bool { return have == file })
	if len(f.files[id]) == 0 {
		delete(f.files, id)
	}
}

// dropAll closes those of a container.
func (f *feeds) dropAll(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range f.files[id] {
		_ = file.Close()
	}
	delete(f.files, id)
}
