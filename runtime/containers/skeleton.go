package containers

import (
	"context"
	"errors"
	"syscall"

	"github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

var errTodo = errors.New("not built yet")

// Connect is lazy: it does not block and does not need containerd to be there.
func Connect(o Options) (*Client, error) { return nil, errTodo }

// Containerd is the client beneath.
func (c *Client) Containerd() *client.Client { return c.cc }

// Ready is nil when containerd answers.
func (c *Client) Ready(ctx context.Context) error { return errTodo }

// Close ends the connection.
func (c *Client) Close() error { return errTodo }

// ReadAccounts reads /etc/passwd and /etc/group of an unpacked image. Callers keep the answer per chain id.
func (c *Client) ReadAccounts(ctx context.Context, chainID string) (passwd, group []byte, err error) {
	return nil, nil, errTodo
}

// Host is what of the host goes into a spec.
type Host struct{}

// LookHost reads what this host can do, once.
func LookHost(o Options) (Host, error) { return Host{}, errTodo }

// Spec is the OCI spec of one container and the user it runs as. It is pure. Errors are *ConfigError.
func Spec(c Config, h Host) (*specs.Spec, *v1.ContainerUser, error) { return nil, nil, errTodo }

// Ensure makes the snapshot and the container record. Errors: *ConfigError, or what containerd says.
func (c *Client) Ensure(ctx context.Context, cfg Config) error { return errTodo }

// SandboxConfig is what a pause container is made from.
type SandboxConfig struct {
	ID      string
	Pod     *v1.Pod
	Attempt int
	Boot    string
	Spec    *specs.Spec
}

// EnsureSandbox makes the record of a pause container, whose root is a directory and no snapshot.
func (c *Client) EnsureSandbox(ctx context.Context, cfg SandboxConfig) error { return errTodo }

// Create makes the task of a container without starting its process; fine if there is one that has not ended.
func (c *Client) Create(ctx context.Context, id string, io IO) (pid uint32, err error) {
	return 0, errTodo
}

// Start creates the task if there is none and starts its process. A running one is fine; ErrStopped if it has ended;
// *StartError if the runtime could not start it.
func (c *Client) Start(ctx context.Context, id string, io IO) (Started, error) {
	return Started{}, errTodo
}

// Signal sends sig to the process; nil if it has ended or there is none.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error { return errTodo }

// Wait blocks until the process has ended. ErrGone if there is no task. Any other error says nothing of the process.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) { return Exit{}, errTodo }

// Remove kills what runs, waits, and takes away task, record and snapshot. nil when nothing is left.
func (c *Client) Remove(ctx context.Context, id string) error { return errTodo }

// Look is every container of the pod with that uid, or of all pods if uid is "".
func (c *Client) Look(ctx context.Context, uid string) ([]Instance, error) { return nil, errTodo }

// PodOf is the uid of the pod that a container belongs to; "" if it is none of podd's.
func (c *Client) PodOf(ctx context.Context, id string) (string, error) { return "", errTodo }

// Exec runs a process in a running container and returns its exit code.
func (c *Client) Exec(ctx context.Context, id string, e Exec) (code int, err error) {
	return 0, errTodo
}

// EnsureLease makes the lease of a pod; Ensure does it too.
func (c *Client) EnsureLease(ctx context.Context, uid string) error { return errTodo }

// RemoveLease drops the lease of a pod: what it held and nothing else holds is collected.
func (c *Client) RemoveLease(ctx context.Context, uid string) error { return errTodo }

// Leases is the uids of all pods that have a lease.
func (c *Client) Leases(ctx context.Context) ([]string, error) { return nil, errTodo }
