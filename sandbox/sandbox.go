// Package sandbox is what the containers of a pod share: the pause container with its namespaces, the pod's cgroup,
// /etc/hosts, /etc/hostname, /etc/resolv.conf and /dev/shm.
//
// The namespaces are pinned below the run directory at paths that are known before there is a pause container, so that
// members can be created while it is still on its way. A pin is a bind mount and not a link to /proc/<pid>: a link
// would lead somewhere else once the pid is used again.
package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/types"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
	"podd/runtime/killpoint"
)

// Options says where things are. Every directory is made when needed.
type Options struct {
	Containers   *containers.Client
	StateDir     string                               // the root of pause containers is made below it: it must allow executables
	RunDir       string                               // on tmpfs; pods/<uid>/{ns,etc,shm,messages} are made below it
	Pause        string                               // path of the pause binary
	CgroupParent string                               // "/podd" if empty
	ResolvConf   string                               // "" = the host's: see hostResolvConf
	Hosts        string                               // the host's, for hostNetwork; "" = /etc/hosts
	Boot         string                               // boot id of the host
	ID           func(uid string, attempt int) string // container id of a sandbox: status.ContainerID with name ""
	Log          *slog.Logger
}

// Sandboxes makes sandboxes.
type Sandboxes struct {
	opts Options
	cg   *cgroups

	ns        sync.Mutex // one making of namespaces at a time: it takes a fraction of a millisecond
	messages  sync.Mutex // one mount for messages at a time
	mu        sync.Mutex // guards installed
	installed bool       // the pause binary is in place
}

// Open looks at the host's cgroups and changes nothing.
func Open(o Options) (*Sandboxes, error) {
	if o.CgroupParent == "" {
		o.CgroupParent = "/podd"
	}
	if o.Hosts == "" {
		o.Hosts = "/etc/hosts"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	cg, err := openCgroups(o.CgroupParent)
	if err != nil {
		return nil, fmt.Errorf("look at cgroups: %w", err)
	}
	return &Sandboxes{opts: o, cg: cg}, nil
}

// Ref is what members of the sandbox join, known before there is one. netns is the pod's, "" with hostNetwork; first is the
// host's id of the pod's root, 0 for a pod without users of its own.
func (s *Sandboxes) Ref(pod *v1.Pod, attempt int, netns string, first uint32) containers.Sandbox {
	dir := s.nsDir(string(pod.UID), attempt)
	name, _ := Nodename(pod) // a pod whose name is too long gets no ground
	ref := containers.Sandbox{
		ID: s.opts.ID(string(pod.UID), attempt), NetNS: netns, CgroupPath: s.cg.podPath(pod), Hostname: name,
	}
	if pod.Spec.HostNetwork {
		ref.NetNS = ""
	} else {
		ref.UTSNS = filepath.Join(dir, "uts")
	}
	if !pod.Spec.HostIPC {
		ref.IPCNS = filepath.Join(dir, "ipc")
	}
	if first != 0 {
		ref.UserNS, ref.FirstID = filepath.Join(dir, "user"), first
	}
	if sharesPID(pod) {
		ref.PIDNS = filepath.Join(dir, "pid")
	}
	return ref
}

func sharesPID(pod *v1.Pod) bool {
	return pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace && !pod.Spec.HostPID
}

// Ensure has the pause container running, made by what handler stands for ("" is runc), and its namespaces at the paths of
// ref. containers.ErrStopped says that the one of this attempt has ended: it is to be removed, and the next attempt made.
func (s *Sandboxes) Ensure(ctx context.Context, pod *v1.Pod, attempt int, ref containers.Sandbox, handler string) error {
	if err := s.ensure(ctx, pod, attempt, ref, handler); err != nil {
		return fmt.Errorf("ensure sandbox: %w", err)
	}
	return nil
}

func (s *Sandboxes) ensure(ctx context.Context, pod *v1.Pod, attempt int, ref containers.Sandbox, handler string) error {
	root, err := s.installPause()
	if err != nil {
		return err
	}
	if err := s.EnsureNamespaces(pod, attempt, ref.FirstID); err != nil {
		return err
	}
	c := s.opts.Containers
	spec := pauseSpec(pod, ref, root, c.Host())
	var mounts []*types.Mount
	if ref.UserNS != "" { // the pod's root gets to nothing below the state directory, but the runtime's own it may read
		spec.Root.Path = "rootfs"
		mounts = []*types.Mount{{Type: "bind", Source: root, Options: []string{"rbind", "ro"}}}
	}
	err = c.EnsureSandbox(ctx, containers.SandboxConfig{ID: ref.ID, Pod: pod, Attempt: attempt, Boot: s.opts.Boot, Handler: handler,
		Hostname: ref.Hostname, FirstID: ref.FirstID, Spec: spec})
	if err != nil {
		return err
	}
	pid, err := c.CreateSandbox(ctx, ref.ID, mounts...)
	if err != nil {
		return err
	}
	if err := s.pinPID(string(pod.UID), pid, ref); err != nil {
		return err
	}
	_, err = c.StartSandbox(ctx, ref.ID)
	return err
}

// Remove takes the pause container of one attempt and its namespaces away; nil when nothing is left. Its record in
// containerd goes last, since it is what says that something is left. Processes of the pod that are still there lose
// nothing but a shared PID namespace, which dies with its first process.
func (s *Sandboxes) Remove(ctx context.Context, uid string, attempt int) error {
	id := s.opts.ID(uid, attempt)
	killpoint.At("sandbox.remove.before")
	if err := s.opts.Containers.RemoveTask(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	killpoint.At("sandbox.remove.task")
	if err := unpin(s.nsDir(uid, attempt)); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	killpoint.At("sandbox.remove.unpinned")
	if err := s.opts.Containers.EndShim(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	if err := removeEmpty(filepath.Dir(s.nsDir(uid, attempt)), s.podDir(uid)); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	if err := s.opts.Containers.Remove(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	killpoint.At("sandbox.remove.container")
	return nil
}

// Known is the uids of all pods that something is left of: a cgroup, or something below the run directory.
func (s *Sandboxes) Known() ([]string, error) {
	seen := map[string]bool{}
	var uids []string
	add := func(uid string) {
		if !seen[uid] {
			seen[uid] = true
			uids = append(uids, uid)
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.opts.RunDir, "pods"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list pods below %s: %w", s.opts.RunDir, err)
	}
	for _, e := range entries {
		add(e.Name())
	}
	for _, uid := range s.cg.pods() {
		add(uid)
	}
	return uids, nil
}

// maxNodename is what the kernel takes as a nodename.
const maxNodename = 64

// Nodename is what uname, HOSTNAME and /etc/hostname say in the pod (upstream: GetNodenameForKernel in pkg/kubelet/util):
// its hostname, or with setHostnameAsFQDN, if it has a subdomain, its whole name, which may be too long. With hostNetwork it
// is the host's.
func Nodename(pod *v1.Pod) (string, error) {
	name, domain := hostnames(pod)
	if set := pod.Spec.SetHostnameAsFQDN; domain == "" || set == nil || !*set {
		return name, nil
	}
	whole := name + "." + domain
	if len(whole) > maxNodename {
		return name, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			whole, maxNodename, len(whole))
	}
	return whole, nil
}

// hostnames is the pod's hostname, and the domain that its subdomain gives it, as pkg/kubelet/kubelet_pods.go makes them: at
// most 63 characters, then no "-" or "." at the end. hostnameOverride is in place of both.
func hostnames(pod *v1.Pod) (name, domain string) {
	if pod.Spec.HostNetwork {
		if name, err := os.Hostname(); err == nil {
			return name, ""
		}
	}
	name = cmp.Or(pod.Spec.Hostname, pod.Name)
	if override := pod.Spec.HostnameOverride; override != nil {
		name = *override
	} else if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name, domain
}

func (s *Sandboxes) podDir(uid string) string { return filepath.Join(s.opts.RunDir, "pods", uid) }

func (s *Sandboxes) nsDir(uid string, attempt int) string {
	return filepath.Join(s.podDir(uid), "ns", strconv.Itoa(attempt))
}

// removeEmpty removes directories that are empty; others share them.
func removeEmpty(dirs ...string) error {
	for _, d := range dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			if entries, rerr := os.ReadDir(d); rerr == nil && len(entries) > 0 {
				return nil
			}
			return err
		}
	}
	return nil
}
