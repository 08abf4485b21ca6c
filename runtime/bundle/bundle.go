// Package bundle keeps podd's own containerd and its log writer running, as processes of their own.
//
// Neither is ended with podd: a pod outlives a restart of podd, and so must what holds its tasks and reads its output.
// A podd that starts looks who listens on the two sockets and takes over what it finds; only what is missing is
// started. What dies is started again.
package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options say what belongs to one podd. All paths are absolute.
type Options struct {
	// BinDir holds containerd, containerd-shim-runc-v2, runc and podd-logd.
	BinDir string
	// StateDir is podd's durable directory; containerd's content and snapshots are in StateDir/containerd.
	StateDir string
	// BeforeContainerd is called each time before podd's own containerd is started; nil: nothing is to be done.
	BeforeContainerd func(context.Context)
	// RunDir is podd's run-time directory, on a tmpfs; the sockets are below it.
	RunDir string
	// ContainerdAddress is the socket of a containerd that somebody else runs. It is neither started nor stopped.
	ContainerdAddress string
	// Log is where starts and deaths are reported; nil is slog.Default.
	Log *slog.Logger
}

// How long the parts wait. A start that has no listener after startLimit is ended and tried again.
const (
	startLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
	pollEvery  = 5 * time.Millisecond
	firstDelay = 50 * time.Millisecond // after a death; doubled with each further one
	lastDelay  = 5 * time.Second
	calmAfter  = 10 * time.Second // a process that lived this long starts with firstDelay again
)

// Bundle is the two processes of one podd.
type Bundle struct {
	o        Options
	services []*service
}

// New describes the bundle; it touches nothing.
func New(o Options) *Bundle {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	b := &Bundle{o: o, services: []*service{o.logd()}}
	if o.ContainerdAddress == "" {
		b.services = append(b.services, o.containerd())
	}
	return b
}

// ContainerdSocket is where containerd answers.
func (b *Bundle) ContainerdSocket() string {
	if b.o.ContainerdAddress != "" {
		return b.o.ContainerdAddress
	}
	return b.o.containerdSocket()
}

// LogdSocket is where the log writer answers.
func (b *Bundle) LogdSocket() string { return b.o.logdSocket() }

// Run starts what is not running, takes over what is, and starts again what dies, until ctx is done; it leaves both
// processes running. An error means that nothing was started: a binary is missing, a directory cannot be made.
func (b *Bundle) Run(ctx context.Context) error {
	for _, s := range b.services {
		if _, err := os.Stat(s.binary); err != nil {
			return fmt.Errorf("find %s: %w", s.name, err)
		}
		if err := s.makeDirs(); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	for _, s := range b.services {
		wg.Go(func() { s.keep(ctx) })
	}
	wg.Wait()
	return nil
}

// Ready waits until Run has found or started both processes and both sockets accept connections, or ctx is done.
func (b *Bundle) Ready(ctx context.Context) error {
	for _, s := range b.services {
		select {
		case <-s.running:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", s.name, ctx.Err())
		}
	}
	for _, socket := range []string{b.LogdSocket(), b.ContainerdSocket()} {
		if err := answers(ctx, socket); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends what a bundle with these options left running: SIGTERM, then, after some seconds, SIGKILL. An external
// containerd is left alone. Containers are not touched, so they should be gone before. Nothing running is success.
func Stop(ctx context.Context, o Options) error {
	b := New(o)
	var errs []error
	for i := len(b.services) - 1; i >= 0; i-- {
		errs = append(errs, b.services[i].stop(ctx))
	}
	return errors.Join(errs...)
}

// Running is which parts of a bundle with these options run.
func Running(o Options) (names []string) {
	for _, s := range New(o).services {
		if p, err := s.look(); err == nil {
			p.close()
			names = append(names, s.name)
		}
	}
	return names
}

// answers waits until something accepts connections on socket.
func answers(ctx context.Context, socket string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", socket, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// TaskDir is where podd's own containerd keeps the bundles of tasks; "" when another one is used.
func (b *Bundle) TaskDir() string {
	if b.o.ContainerdAddress != "" {
		return ""
	}
	return filepath.Join(b.o.containerdDir(), "state", "io.containerd.runtime.v2.task")
}

// ShimPath is where podd's own containerd finds shims, as PATH; "" when another one is used.
func (b *Bundle) ShimPath() string {
	if b.o.ContainerdAddress != "" {
		return ""
	}
	return searchPath(b.o.BinDir)
}

func (o Options) containerdDir() string { return filepath.Join(o.RunDir, "containerd") }
func (o Options) containerdSocket() string {
	return filepath.Join(o.containerdDir(), "containerd.sock")
}
func (o Options) logdSocket() string { return filepath.Join(o.RunDir, "logd.sock") }
