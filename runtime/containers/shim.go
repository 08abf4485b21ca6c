package containers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"path/filepath"
	"time"
)

// shimSocket is where the shim of a sandbox listens. The name is containerd's (pkg/shim/util_unix.go, since 2.0); a shim
// of an older one has another.
func (c *Client) shimSocket(sandboxID string) string {
	sum := sha256.Sum256([]byte(filepath.Join(c.opts.Address, c.opts.Namespace, sandboxID)))
	return filepath.Join(filepath.Dir(c.opts.Address), "s", hex.EncodeToString(sum[:]))
}

// shimPoll is how often AwaitShim looks. A shim takes some 10 ms to listen.
const shimPoll = time.Millisecond

// AwaitShim waits until the shim of a sandbox listens, or its pause container has a task, so that a member made then
// joins that shim; false when that took longer than limit. Two tasks of one group that are made at once without a
// shim each start one: the second finds a socket that does not listen yet, takes it for a dead one's and replaces it.
func (c *Client) AwaitShim(ctx context.Context, sandboxID string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(shimPoll)
	defer tick.Stop()
	for n := 0; ; n++ {
		if conn, err := net.Dial("unix", c.shimSocket(sandboxID)); err == nil {
			return conn.Close() == nil
		}
		if n%50 == 0 { // a shim with another socket is known by its task
			if _, err := c.task(c.Context(ctx), sandboxID); err == nil {
				return true
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
