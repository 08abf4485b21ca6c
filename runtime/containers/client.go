// Package containers is one container in containerd: made, started, signalled, looked at, entered and removed.
//
// It uses containerd's core services only (containers, tasks, snapshots, leases, events, introspection), so that it works
// with containerd from 1.6 on. What containerd is told about a container is enough to adopt it without any other record:
// every container carries labels of podd's own and an extension with what cannot be read from its state.
//
// Ensure and Remove may be repeated at any time and after a crash at any point. Everything of one pod is made under one
// lease that lives as long as the pod.
package containers

import (
	"errors"
	"io"
	"log/slog"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/handler"
)

// Options says where containerd is and how containers are made there.
type Options struct {
	Address      string                     // containerd's socket
	Namespace    string                     // containerd namespace, "podd" if empty
	Snapshotter  string                     // "overlayfs" if empty
	Runc         string                     // absolute path of runc, or "" for containerd's own choice
	RuncRoot     string                     // where runc keeps its state, or "" for containerd's own choice
	Handlers     map[string]handler.Handler // beside runc, by their names
	ShimPath     string                     // directories where podd's own containerd finds shims, as PATH; "": not known, as of a containerd that is not podd's
	CgroupParent string                     // parent of podd's cgroups, "/podd" if empty
	RunDir       string                     // directory on tmpfs for FIFOs of execs and short-lived mounts; made when needed
	TaskDir      string                     // where containerd keeps the bundles of tasks; "": not known, as of a containerd that is not podd's
	SeccompDir   string                     // where Localhost seccomp profiles are read
	Log          *slog.Logger
}

// Image is what a container needs to know of its image.
type Image struct {
	Name    string // reference as containerd names it
	ID      string // repository digest reference
	ChainID string // of the unpacked snapshot
	Config  ocispec.Image
	Passwd  []byte // /etc/passwd of the image, at most 1 MiB; nil: none
	Group   []byte // /etc/group of the image, at most 1 MiB; nil: none
}

// Config is all that one container is made from.
type Config struct {
	ID        string
	Pod       *v1.Pod
	Container *v1.Container
	Attempt   int
	Image     Image
	Key       string        // status.RestartKey
	Backoff   time.Duration // the crash-loop delay to write on the instance
	Era       int           // status.Facts.Era
	Sandbox   Sandbox
	Env       []v1.EnvVar   // the container's own, resolved: names and values, each name once
	Mounts    []specs.Mount // the pod's etc files, /dev/shm, volumes
	Devices   []Device
	Boot      string // boot id of the host
	Handler   string // of its runtime class; "" is runc
}

// Device is a device of the host that the container may use.
type Device struct {
	specs.LinuxDevice
	Access string // of "rwm"
}

// Sandbox is what members join.
type Sandbox struct {
	ID         string
	NetNS      string // path of the namespace; "" = the host's
	IPCNS      string // path; "" = the host's
	UTSNS      string // path; "" = the host's
	UserNS     string // path; "" = the host's
	FirstID    uint32 // the host's id of root in UserNS, of IDs
	PIDNS      string // path of the shared one; "" = the member's own, or the host's with hostPID
	CgroupPath string // the pod's cgroup, from the cgroup mount point
	Hostname   string
}

// IO names the FIFOs of a process. Others open them: podd does not hold them.
type IO struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// Started is what is known when a process runs.
type Started struct {
	Pid uint32
	At  time.Time // when Start returned, or when the process began if it ran already
}

// Exit is how a process ended.
type Exit struct {
	Code uint32
	At   time.Time
}

// TaskStatus is containerd's word for the state of a task.
type TaskStatus string

// The states of a task that matter here. Unknown: containerd has a task and cannot say what it does.
const (
	TaskCreated TaskStatus = "created"
	TaskRunning TaskStatus = "running"
	TaskStopped TaskStatus = "stopped"
	TaskPaused  TaskStatus = "paused"
	TaskUnknown TaskStatus = "unknown"
)

// Runs tells whether the task runs, as far as anybody knows: of a host that is very busy it may be unknown for a while.
func (s TaskStatus) Runs() bool { return s == TaskRunning || s == TaskPaused || s == TaskUnknown }

// Instance is one container as containerd has it.
type Instance struct {
	ID        string
	UID       string // of the pod
	Namespace string // of the pod
	Pod       string // name of the pod
	Name      string // of the container; "" = the sandbox
	Attempt   int
	Sandbox   string // id of the sandbox it joins; "" for a sandbox
	Key       string
	Image     string
	ImageID   string
	Ref       string                   // the image reference of the spec it was made from; "" of one that an older podd made
	Era       int                      // Config.Era
	Resources *v1.ResourceRequirements // what it is held to, as its container asks for it; nil of one that an older podd made
	Whole     *v1.ResourceRequirements // what its pod had of its own then; nil of one that an older podd made
	Boot      string
	Handler   string // of its runtime class; "" is runc
	FirstID   uint32 // Sandbox.FirstID
	Cgroup    string // its path from the cgroup mount point
	Backoff   time.Duration
	User      *v1.ContainerUser

	CreatedAt  time.Time
	StopSignal string // of the image, "SIGTERM" if it names none

	HasTask   bool
	Task      TaskStatus
	Pid       uint32
	StartedAt time.Time // of a running task, as the kernel says; zero when not known
	ExitCode  uint32
	ExitedAt  time.Time
	OOM       bool // stopped by SIGKILL after the kernel killed in its cgroup for memory

	PodSpec *v1.Pod // the pod a sandbox was made for, to adopt it; nil otherwise
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Exec is one process in a running container.
type Exec struct {
	Cmd    []string
	TTY    bool
	Resize <-chan Size // nil: never; Exec stops to read it when the process ended

	// Stdin is read until it ends or the process does. A Read under way when Exec returns is left to the caller, who
	// ends it by closing what is behind it.
	Stdin io.Reader
	// Stdout and Stderr must fail, not block, once the context is done. Stderr is not used with TTY. nil: discarded.
	Stdout, Stderr io.Writer
	Started        func() // if set, is called when the process has started
	// Own is for podd's own processes, whose number the caller bounds: they do not count among maxExecs.
	Own bool
}

var (
	// ErrStopped says that the container has run already.
	ErrStopped = errors.New("process has exited")
	// ErrGone says that containerd has no such task.
	ErrGone = errors.New("no such task")
)

// StartError says that the runtime could not start the process, as upstream's reason StartError, exit code 128.
type StartError struct{ Err error }

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// ConfigError says that no container can be made from the pod as it is: reason CreateContainerConfigError.
type ConfigError struct{ Message string }

func (e *ConfigError) Error() string { return e.Message }
