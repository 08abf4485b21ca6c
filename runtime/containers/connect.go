package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Client makes containers in one namespace of one containerd.
type Client struct {
	opts Options
	cc   *client.Client
	host Host

	quiet   sync.Map // ids of containers of which nobody else can have begun to make a task
	foreign sync.Map // ids of containers made for another shim than runc's, as Ensure and Look have seen it
	pods    sync.Map // container id -> uid of its pod, as Ensure and Look have seen it
	execs   chan struct{}

	cleaning sync.WaitGroup // of execs whose output somebody else keeps open; Close waits for it
	seq      atomic.Uint64  // makes exec ids unique in this process
	begun    int64          // and this, in nanoseconds, among all processes: pids come again, in a container always
	left     []leftExec     // of an earlier podd

	accounts sync.Mutex // one reading of account files at a time: they share a mount point

	canMap sync.Map // answers of CanMapUsers that stay, by handler
}

// reconnect is the longest pause between two tries to reach a containerd that went away.
const reconnect = 500 * time.Millisecond

// maxExecs bounds the processes that others have run beside the containers' own at one time, over all pods.
const maxExecs = 512

// Connect is lazy: it does not block and does not need containerd to be there. It reads what the host can do, and opens
// the FIFOs of execs that a podd that was killed had under way, for EndLeftExecs: o.RunDir belongs to one client at a time.
func Connect(o Options) (*Client, error) {
	if o.Namespace == "" {
		o.Namespace = "podd"
	}
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.CgroupParent == "" {
		o.CgroupParent = "/podd"
	}
	if o.RunDir == "" {
		o.RunDir = filepath.Join(os.TempDir(), "podd-"+o.Namespace)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	host, err := LookHost(o)
	if err != nil {
		return nil, fmt.Errorf("look at host: %w", err)
	}
	cc, err := client.New(o.Address, client.WithDefaultNamespace(o.Namespace), client.WithTimeout(reconnect))
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", o.Address, err)
	}
	c := &Client{opts: o, cc: cc, host: host, execs: make(chan struct{}, maxExecs), begun: time.Now().UnixNano()}
	if c.left, err = openLeft(c); err != nil {
		return nil, fmt.Errorf("open what is left of execs: %w", errors.Join(err, cc.Close()))
	}
	return c, nil
}

// Containerd is the client beneath. Calls through it need a context from Context.
func (c *Client) Containerd() *client.Client { return c.cc }

// Context is ctx with the containerd namespace in it.
func (c *Client) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.opts.Namespace)
}

// Host is what this host can do, as seen when the client was made.
func (c *Client) Host() Host { return c.host }

// Ready is nil when containerd answers and has the snapshotter that is to be used.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if _, err := c.cc.VersionService().Version(ctx, nil); err != nil {
		return fmt.Errorf("ask containerd at %s: %w", c.opts.Address, native(err))
	}
	return nil
}

// Close waits for what is still being cleaned up, 20 s at most, and ends the connection.
func (c *Client) Close() error {
	c.cleaning.Wait()
	return c.cc.Close()
}

// lease is ctx with the namespace and the lease of a pod in it, so that what is made is kept while the pod lives and
// containerd's client need not make leases of its own.
func (c *Client) lease(ctx context.Context, uid string) context.Context {
	return leases.WithLease(c.Context(ctx), leaseID(uid))
}

func leaseID(uid string) string { return "podd-" + uid }
