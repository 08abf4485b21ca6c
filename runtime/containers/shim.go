package containers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const shimBinary = "containerd-shim-runc-v2"

// shimSocket is where runc's shim of a sandbox listens. The name is containerd's (pkg/shim/util_unix.go, since 2.0); a shim
// of an older one has another.
func (c *Client) shimSocket(sandboxID string) string {
	return filepath.Join(filepath.Dir(c.opts.Address), "s", c.socketName(sandboxID))
}

// commonSocket is where a shim listens that asks nobody where to: any that is built with a containerd before 2.3.
func (c *Client) commonSocket(id string) string {
	return filepath.Join("/run/containerd/s", c.socketName(id))
}

func (c *Client) socketName(id string) string {
	sum := sha256.Sum256([]byte(filepath.Join(c.opts.Address, c.opts.Namespace, id)))
	return hex.EncodeToString(sum[:])
}

// notedSocket is where the shim listens that containerd uses for a container, while it has its bundle (containerd
// core/runtime/v2/shim.go); "" if that is not known.
func (c *Client) notedSocket(id string) string {
	if c.opts.TaskDir == "" {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(c.opts.TaskDir, c.opts.Namespace, id, "bootstrap.json"))
	if err != nil {
		return ""
	}
	var noted struct{ Address, Protocol string }
	if json.Unmarshal(b, &noted) != nil || noted.Protocol != "ttrpc" {
		return ""
	}
	path, _ := strings.CutPrefix(noted.Address, "unix://")
	return path
}

// sockets are all that shims of podd's own containerd may listen on, as far as is known: those in its directory, and those
// that it has noted.
func (c *Client) sockets() ([]string, error) {
	all := map[string]bool{}
	dir := filepath.Dir(c.shimSocket(""))
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		all[filepath.Join(dir, e.Name())] = true
	}
	bundles, berr := os.ReadDir(filepath.Join(c.opts.TaskDir, c.opts.Namespace))
	for _, e := range bundles {
		if socket := c.notedSocket(e.Name()); socket != "" {
			all[socket] = true
		}
	}
	for _, err := range []error{err, berr} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return slices.Collect(maps.Keys(all)), nil
}

// hasBundle tells whether containerd has, or is about to clean up, a task of that id.
func (c *Client) hasBundle(id string) bool {
	_, err := os.Lstat(filepath.Join(c.opts.TaskDir, c.opts.Namespace, id))
	return id == "" || err == nil
}

// isForeign tells whether a container was made for another shim than runc's, as Ensure and Look have seen it.
func (c *Client) isForeign(id string) bool {
	_, ok := c.foreign.Load(id)
	return ok
}

// shims are the processes that serve tasks of podd's containerd; the short-lived commands of their binaries are none.
func (c *Client) shims() (all []process) {
	for _, p := range processes() {
		if c.owns(p) && !p.command() {
			all = append(all, p)
		}
	}
	return all
}

// isShim tells whether a process is a shim: runc's, or one of podd's containerd.
func (c *Client) isShim(pid int) bool {
	p := process{pid, commandLine(pid)}
	return len(p.argv) > 0 && (p.isRuncs() || c.owns(p) && !p.command())
}

func (p process) isRuncs() bool { return filepath.Base(p.argv[0]) == shimBinary }

// owns tells whether p is of a shim of podd's containerd. All shims are run with these flags, whatever they are called.
func (c *Client) owns(p process) bool {
	return p.after("-namespace") == c.opts.Namespace && p.after("-address") == c.opts.Address && p.beside()
}

// beside tells whether p is in podd's own PID namespace. What a process of another one says of itself says nothing.
func (p process) beside() bool { return p.shares("pid") }

// shares tells whether p is in podd's own namespace of a kind.
func (p process) shares(kind string) bool {
	own, err := os.Readlink("/proc/self/ns/" + kind)
	theirs, terr := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid, kind))
	return err == nil && terr == nil && own == theirs
}

// startedFor is the id of the container that a shim was started for: it says so, or it is where the bundle is or was.
func (c *Client) startedFor(p process) string {
	if id := p.after("-id"); id != "" {
		return id
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
	bundles := filepath.Join(c.opts.TaskDir, c.opts.Namespace)
	if dir := strings.TrimSuffix(cwd, " (deleted)"); err == nil && c.opts.TaskDir != "" && filepath.Dir(dir) == bundles {
		return filepath.Base(dir)
	}
	return ""
}

// runsForShim tells whether p is an OCI runtime at work for a shim. What it is called, only the shim knows.
func (c *Client) runsForShim(p process) bool {
	if !slices.ContainsFunc(p.argv, func(a string) bool { return a == "create" || a == "start" || a == "delete" }) {
		return false
	}
	fields := statFields(p.pid)
	if len(fields) < 2 {
		return false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return err == nil && c.isShim(parent)
}

// eitherVersion asks a shim that does not know the third version of containerd's service for tasks by the second, whose
// messages are the same.
func eitherVersion(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, ask ttrpc.Invoker) error {
	err := ask(ctx, req, resp)
	if err == nil && resp.GetStatus().GetCode() == int32(codes.Unimplemented) {
		req.Service = strings.Replace(req.Service, ".v3.", ".v2.", 1)
		proto.Reset(resp)
		err = ask(ctx, req, resp)
	}
	return err
}

// shimPoll is how often AwaitShim looks. A shim takes some 10 ms to listen.
const shimPoll = time.Millisecond

// AwaitShim waits until the shim of a sandbox listens, or its pause container has a task, so that a member made then
// joins that shim; false when that took longer than limit. Two tasks of one group that are made at once without a
// shim each start one: the second finds a socket that does not listen yet, takes it for a dead one's and replaces it. It
// also does when connecting takes it 100 ms, on a host that is very busy: nothing here can help that.
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
