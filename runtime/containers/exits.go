package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// savedExit is how a container ended while containerd was away.
type savedExit struct {
	Code uint32    `json:"code"`
	At   time.Time `json:"at"`
	OOM  bool      `json:"oom,omitempty"`
}

func (c *Client) exitFile(id string) string { return filepath.Join(c.opts.RunDir, "exits", id) }

// SaveExits asks the shims of podd's own containerd how the containers ended that are no longer running, and writes it
// down. It is for the moment before that containerd is started again: while it loads its tasks, it takes away those that
// have ended, and with them their exit codes (core/runtime/v2/shim_load.go of containerd 2.4).
func (c *Client) SaveExits(ctx context.Context) error {
	if c.opts.TaskDir == "" {
		return nil
	}
	bundles, err := os.ReadDir(filepath.Join(c.opts.TaskDir, c.opts.Namespace))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("save exits: %w", err)
	}
	for _, b := range bundles {
		if err = errors.Join(err, c.saveExit(c.Context(ctx), b.Name())); ctx.Err() != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("save exits: %w", err)
	}
	return nil
}

func (c *Client) saveExit(ctx context.Context, id string) error {
	bundle := filepath.Join(c.opts.TaskDir, c.opts.Namespace, id)
	s, err := c.dialSocket(c.notedSocket(id))
	if s == nil || err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, shimAnswer)
	defer cancel()
	state, err := s.tasks.State(ctx, &taskv3.StateRequest{ID: id})
	if err != nil || state.Status != task.Status_STOPPED {
		return nil // it runs, or the shim is about to end: nothing is known of it
	}
	exit := savedExit{Code: state.ExitStatus, At: state.ExitedAt.AsTime()}
	if exit.Code == 128+uint32(unix.SIGKILL) {
		exit.OOM = oomKills(c.host, cgroupOf(bundle)) > 0
	}
	data, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	file := c.exitFile(id)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// cgroupOf is the cgroup that a bundle's process is in, as a path from the mount point.
func cgroupOf(bundle string) string {
	var spec specs.Spec
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(data, &spec) != nil || spec.Linux == nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// saved is how a container without a task ended, when SaveExits has seen it.
func (c *Client) saved(id string) (savedExit, bool) {
	var exit savedExit
	data, err := os.ReadFile(c.exitFile(id))
	return exit, err == nil && json.Unmarshal(data, &exit) == nil
}

func (c *Client) forgetExit(id string) error {
	file := c.exitFile(id)
	if err := os.Remove(file); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(file)) // with the last
	return nil
}
