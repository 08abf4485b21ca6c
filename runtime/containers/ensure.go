package containers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
)

const runtimeName = "io.containerd.runc.v2"

// SandboxConfig is what a pause container is made from.
type SandboxConfig struct {
	ID       string
	Pod      *v1.Pod
	Attempt  int
	Boot     string
	Handler  string      // of its runtime class; "" is runc
	Hostname string      // the pod's, which its UTS namespace has already
	FirstID  uint32      // Sandbox.FirstID
	Spec     *specs.Spec // its root is a directory of the host: a sandbox has no snapshot
}

// Ensure has the snapshot and the record of a container, under the pod's lease. One that is there already and was made
// for the same sandbox from the same key is adopted, whatever became of it; another one that has run is an error.
// Errors: *ConfigError, or what containerd says.
func (c *Client) Ensure(ctx context.Context, cfg Config) error {
	spec, user, err := Spec(cfg, c.host)
	if err != nil {
		return err
	}
	if c.IsShim(cfg.Handler) {
		maps.Copy(spec.Annotations, memberAnnotations(cfg))
	}
	r := record{
		UID: string(cfg.Pod.UID), Namespace: cfg.Pod.Namespace, Pod: cfg.Pod.Name, Name: cfg.Container.Name,
		Attempt: cfg.Attempt, Sandbox: cfg.Sandbox.ID, Key: cfg.Key, Image: cfg.Image.Name, ImageID: cfg.Image.ID,
		Boot: cfg.Boot, Backoff: cfg.Backoff, User: user, Cgroup: spec.Linux.CgroupsPath,
		StopSignal: stopSignal(stopSignalOf(cfg)),
		Handler:    cfg.Handler, Ref: cfg.Container.Image, Era: cfg.Era, Resources: &cfg.Container.Resources, Whole: whole(cfg.Pod),
		FirstID: cfg.Sandbox.FirstID,
	}
	if err := c.ensureSnapshot(ctx, r, cfg.ID, cfg.Image.ChainID); err != nil {
		return fmt.Errorf("create %s: %w", r.Name, err)
	}
	if err := c.ensureRecord(ctx, cfg.ID, cfg.ID, spec, r); err != nil {
		return fmt.Errorf("create %s: %w", r.Name, err)
	}
	return nil
}

// stopSignalOf is the stop signal of the container's spec, else its image's.
func stopSignalOf(cfg Config) string {
	if l := cfg.Container.Lifecycle; l != nil && l.StopSignal != nil {
		return string(*l.StopSignal)
	}
	return cfg.Image.Config.Config.StopSignal
}

// EnsureSandbox has the record of a pause container.
func (c *Client) EnsureSandbox(ctx context.Context, cfg SandboxConfig) error {
	if c.IsShim(cfg.Handler) {
		maps.Copy(cfg.Spec.Annotations, sandboxAnnotations(cfg))
		cfg.Spec.Hostname = cfg.Hostname // a kernel of its own does not see that of the namespace
	}
	r := record{
		UID: string(cfg.Pod.UID), Namespace: cfg.Pod.Namespace, Pod: cfg.Pod.Name, Attempt: cfg.Attempt, Boot: cfg.Boot,
		StopSignal: "SIGTERM", Cgroup: path.Clean(cfg.Spec.Linux.CgroupsPath), Spec: cfg.Pod, Handler: cfg.Handler,
		FirstID: cfg.FirstID,
	}
	if err := c.ensureRecord(ctx, cfg.ID, "", cfg.Spec, r); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	return nil
}

// ensureSnapshot has the writable layer. One left by a crash was never run on: it is as good as new.
func (c *Client) ensureSnapshot(ctx context.Context, r record, key, parent string) error {
	sn := c.cc.SnapshotService(c.opts.Snapshotter)
	lctx, opts := c.lease(ctx, r.UID), snapshotOpts(r.FirstID)
	killpoint.At("containers.create.snapshot")
	_, err := sn.Prepare(lctx, key, parent, opts...)
	if errdefs.IsNotFound(err) { // the pod's first container, or the image is gone
		if err := c.EnsureLease(ctx, r.UID); err != nil {
			return err
		}
		_, err = sn.Prepare(lctx, key, parent, opts...)
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("prepare snapshot on %s: %w", parent, err)
	}
	killpoint.At("containers.create.snapshotted")
	return nil
}

func (c *Client) ensureRecord(ctx context.Context, id, snapshot string, spec *specs.Spec, r record) error {
	made, err := c.container(id, snapshot, spec, r)
	if err != nil {
		return err
	}
	c.noteRuntime(made)
	killpoint.At("containers.create.record")
	_, err = c.cc.ContainerService().Create(c.lease(ctx, r.UID), made)
	if err == nil {
		c.quiet.Store(id, true)
	}
	if errdefs.IsAlreadyExists(err) {
		err = c.replace(ctx, made, r)
	}
	if err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	c.pods.Store(id, r.UID)
	killpoint.At("containers.create.recorded")
	return nil
}

// replace adopts the container that has the id already if it is the same one, or else takes its place. One that has a
// task is not replaced.
func (c *Client) replace(ctx context.Context, made containers.Container, r record) error {
	store := c.cc.ContainerService()
	there, err := store.Get(c.Context(ctx), made.ID)
	if err != nil {
		return err
	}
	old, err := readRecord(there)
	if err == nil && old.UID == r.UID && old.Name == r.Name && old.Key == r.Key && old.Sandbox == r.Sandbox && old.Era == r.Era && old.FirstID == r.FirstID {
		return nil
	}
	t, err := c.task(c.Context(ctx), made.ID)
	if err == nil {
		return fmt.Errorf("id %s is taken by another instance, which is %s: %w", made.ID, taskStatus(t), errdefs.ErrAlreadyExists)
	}
	if !errors.Is(err, ErrGone) {
		return err
	}
	killpoint.At("containers.create.replace")
	if err := store.Delete(c.Context(ctx), made.ID); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	_, err = store.Create(c.lease(ctx, r.UID), made)
	return err
}

func (c *Client) container(id, snapshot string, spec *specs.Spec, r record) (containers.Container, error) {
	out := containers.Container{
		ID: id, Labels: r.labels(), Image: r.Image, SnapshotKey: snapshot,
	}
	if snapshot != "" {
		out.Snapshotter = c.opts.Snapshotter
	}
	var err error
	if out.Extensions, err = r.extensions(); err != nil {
		return out, err
	}
	if out.Spec, err = typeurl.MarshalAny(spec); err != nil {
		return out, fmt.Errorf("encode spec: %w", err)
	}
	out.Runtime, err = c.runtimeInfo(r.Handler, r.FirstID)
	return out, err
}

// native is a gRPC error as containerd's own kinds. The stores of the client have turned theirs already, and doing it
// twice would lose the kind.
func native(err error) error {
	if _, raw := status.FromError(err); err == nil || !raw {
		return err
	}
	return errgrpc.ToNative(err)
}

// LayerSize is how many bytes and inodes the writable layer of a container takes; 0 if it has none.
func (c *Client) LayerSize(ctx context.Context, id string) (size, inodes int64, err error) {
	usage, err := c.cc.SnapshotService(c.opts.Snapshotter).Usage(c.Context(ctx), id)
	if errdefs.IsNotFound(err) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("size of snapshot %s: %w", id, err)
	}
	return usage.Size, usage.Inodes, nil
}
