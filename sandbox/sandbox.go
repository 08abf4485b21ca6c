// Package sandbox is what the containers of a pod share: the pause container with its namespaces, the pod's cgroup,
// /etc/hosts, /etc/hostname, /etc/resolv.conf and /dev/shm.
package sandbox

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
)

// Options says where things are. Every directory is made when needed.
type Options struct {
	Containers   *containers.Client
	StateDir     string                               // the root of the pause container is made below it; must allow executables
	RunDir       string                               // tmpfs; pods/<uid>/{ns,etc,shm} are made below it
	Pause        string                               // path of the pause binary
	CgroupParent string                               // "/podd" if empty
	ResolvConf   string                               // "" = the host's, looked up as upstream does
	Hosts        string                               // "" = /etc/hosts; for hostNetwork
	Boot         string                               // boot id
	ID           func(uid string, attempt int) string // container id of a sandbox
	Log          *slog.Logger
}

// Sandboxes makes sandboxes.
type Sandboxes struct{ opts Options }

var errTodo = errors.New("not built yet")

// Open changes nothing on the host.
func Open(o Options) (*Sandboxes, error) { return &Sandboxes{opts: o}, nil }

// EnsureCgroup makes the pod's cgroup with the pod's limits.
func (s *Sandboxes) EnsureCgroup(ctx context.Context, pod *v1.Pod) error { return errTodo }

// KillCgroup kills every process of the pod and waits until there is none.
func (s *Sandboxes) KillCgroup(ctx context.Context, uid string) error { return errTodo }

// RemoveCgroup removes the pod's cgroup; it kills what is left in it.
func (s *Sandboxes) RemoveCgroup(ctx context.Context, uid string) error { return errTodo }

// Ref is what members of the sandbox will join, known before there is one.
func (s *Sandboxes) Ref(pod *v1.Pod, attempt int, netns string) containers.Sandbox {
	return containers.Sandbox{}
}

// Ensure has the pause container running and its namespaces at the paths of Ref.
func (s *Sandboxes) Ensure(ctx context.Context, pod *v1.Pod, attempt int, netns string) (containers.Sandbox, error) {
	return containers.Sandbox{}, errTodo
}

// Remove takes the pause container and the namespaces away.
func (s *Sandboxes) Remove(ctx context.Context, uid string, attempt int) error { return errTodo }

// EtcMounts is the mounts of one container for the files of WriteEtc and for /dev/shm.
func (s *Sandboxes) EtcMounts(pod *v1.Pod, c *v1.Container) []specs.Mount { return nil }

// Note is something the user should hear of, as an event.
type Note struct{ Reason, Message string }

// WriteEtc has the pod's files and /dev/shm there; ips may be empty as long as they are not known.
func (s *Sandboxes) WriteEtc(pod *v1.Pod, ips []string) ([]Note, error) { return nil, errTodo }

// RemoveEtc takes away what WriteEtc made.
func (s *Sandboxes) RemoveEtc(uid string) error { return errTodo }

// Known is the uids of all pods that something is left of, on the host: cgroups and what is below RunDir.
func (s *Sandboxes) Known() ([]string, error) { return nil, errTodo }
