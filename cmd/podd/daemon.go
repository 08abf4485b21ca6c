package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	v1 "k8s.io/api/core/v1"

	"podd/api"
	"podd/network"
	"podd/runtime"
	"podd/runtime/bundle"
	"podd/runtime/containers"
	"podd/runtime/history"
	"podd/runtime/images"
	"podd/runtime/logs"
	"podd/runtime/static"
	"podd/runtime/stats"
	"podd/sandbox"
	"podd/status"
	"podd/store"
	"podd/volumes"
)

// podd is the daemon's parts. They are made in the order of their needs and run beside each other.
type podd struct {
	config config
	log    *slog.Logger

	store     *store.Store
	bundle    *bundle.Bundle
	client    *containers.Client
	images    *images.Images
	network   *network.Network
	sandboxes *sandbox.Sandboxes
	runtime   *runtime.Runtime
	stats     *stats.Stats
	api       *api.Server
	static    *static.Source
}

// bundleWait is how long pods wait for containerd when podd starts, before they are looked at without it.
const bundleWait = 10 * time.Second

// run is podd from its start to its end. Pods go on when it returns.
func run(ctx context.Context, c config, log *slog.Logger) error {
	syscall.Umask(0o022) // containerd inherits it, and the roots of containers must be open to their users
	p, err := assemble(c, log)
	if err != nil {
		return err
	}
	defer func() { _ = p.store.Close() }()
	defer func() { _ = p.client.Close() }()
	release, err := patiently(p.sandboxes.Lock, sandbox.ErrInUse)
	if err != nil {
		return err
	}
	defer release()
	if err := p.api.Listen(ctx); err != nil {
		return err
	}
	if !c.noManifests { // a teardown's own has the flags that it was given
		if err := recordSettings(c); err != nil {
			log.Warn("podd teardown will not know the flags of this podd", "err", err)
		}
	}
	p.network.Lead(p.api.Service())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	part := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("node bundle", p.bundle.Run)
	part("api", p.api.Run)
	part("pods", p.runPods)
	part("measurements", p.stats.Run)
	parts.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	log.Info("podd has ended, and no pod with it")
	return nil
}

// runPods waits for the API, whose start it would slow down, for containerd and the log writer, then runs pods and follows the
// manifest directory.
func (p *podd) runPods(ctx context.Context) error {
	select {
	case <-p.api.Serving():
	case <-ctx.Done():
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, bundleWait)
	if err := p.bundle.Ready(wait); err != nil && ctx.Err() == nil {
		p.log.Warn("containerd is not there yet", "err", err)
	}
	cancel()
	sweep, cancel := context.WithTimeout(ctx, bundleWait) // a containerd that hangs must not keep the pods from being looked at
	if err := p.images.Sweep(p.client.Context(sweep)); err != nil && ctx.Err() == nil {
		p.log.Warn("sweep unfinished pulls", "err", err)
	}
	if err := p.client.Sweep(sweep); err != nil && ctx.Err() == nil {
		p.log.Warn("sweep what an earlier podd left in containerd", "err", err)
	}
	cancel()
	if ctx.Err() != nil {
		return nil
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { p.client.EndLeftExecs(ctx) })
	parts.Go(func() { p.client.SweepLate(ctx, 3*time.Second, 5) })
	parts.Go(func() {
		p.bundle.CheckVersions(ctx, p.containerdVersion(ctx))
		_ = p.client.CanMapUsers(ctx, "") // for the node's status; a pod that needs it asks again
	})
	if !p.config.noManifests {
		parts.Go(func() {
			select { // a pod that the store has lost is not to be made a second time
			case <-p.runtime.Claimed():
			case <-ctx.Done():
				return
			}
			if err := p.static.Run(ctx); err != nil {
				p.log.Error("static pods", "err", err)
			}
		})
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	time.AfterFunc(startTime, collect)
	p.log.Info("podd is ready", "version", version, "socket", p.config.Listen, "node", p.config.NodeName)
	return p.runtime.Run(ctx)
}

// asRoot refuses to do something as anybody else.
func asRoot(what string) error {
	if os.Geteuid() != 0 {
		return errors.New(what + ": must be root")
	}
	return nil
}

func assemble(c config, log *slog.Logger) (_ *podd, err error) {
	p := &podd{config: c, log: log}
	if err := asRoot("start podd"); err != nil {
		return nil, err
	}
	if err := makeDirectories(c); err != nil {
		return nil, fmt.Errorf("make directories: %w", err)
	}
	// Also what was there before: nobody else enters the root, below which are setuid programs of images; users of the
	// API's group reach the socket in the other.
	if err := errors.Join(withMode(c.Root, 0o700), withMode(c.State, 0o711)); err != nil {
		return nil, fmt.Errorf("make directories: %w", err)
	}
	boot, err := os.ReadFile(c.BootID)
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	open := func() (*store.Store, error) {
		return store.Open(store.Options{Path: filepath.Join(c.Root, stateFile), Keys: c.SecretsKey, Log: log})
	}
	if p.store, err = patiently(open, store.ErrInUse); err != nil {
		return nil, err
	}
	if q := p.store.Quarantined(); q != "" {
		log.Error("the state file was corrupt; it was moved away, running pods are adopted from containerd", "moved to", q)
	}
	defer func() {
		if err != nil {
			_ = p.store.Close()
		}
	}()
	p.bundle = bundle.New(p.bundleOptions())
	if err := p.open(strings.TrimSpace(string(boot))); err != nil {
		return nil, err
	}
	return p, nil
}

// withMode gives dir its mode, if it has another: a change of the same would have the store wait for the file system's journal.
func withMode(dir string, mode os.FileMode) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode()&(os.ModePerm|os.ModeSetuid|os.ModeSetgid|os.ModeSticky) == mode {
		return err
	}
	return os.Chmod(dir, mode)
}

// lockPatience is how long a lock may be held by what is not a podd: a child that a podd was starting when it was killed
// has the podd's descriptors until it runs its own program.
const lockPatience = 2 * time.Second

// patiently tries again while somebody holds a lock.
func patiently[T any](take func() (T, error), held error) (T, error) {
	for deadline := time.Now().Add(lockPatience); ; {
		got, err := take()
		if !errors.Is(err, held) || time.Now().After(deadline) {
			return got, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *podd) bundleOptions() bundle.Options {
	c := p.config
	return bundle.Options{BinDir: c.Bundle, StateDir: c.Root, RunDir: c.State, ContainerdAddress: c.Containerd, Log: p.log,
		BeforeContainerd: p.saveExits}
}

// saveExits keeps what containerd forgets when it starts.
func (p *podd) saveExits(ctx context.Context) {
	if err := p.client.SaveExits(ctx); err != nil && ctx.Err() == nil {
		p.log.Warn("exit codes of containers that ended while containerd was away may be lost", "err", err)
	}
}

// open puts the runtime and the API together.
func (p *podd) open(boot string) error {
	c := p.config
	runc, runcRoot := filepath.Join(c.Bundle, "runc"), filepath.Join(c.State, "runc")
	if c.Containerd != "" { // somebody else's containerd brings its own runc
		runc, runcRoot = "", ""
	}
	var err error
	p.client, err = containers.Connect(containers.Options{
		Address: p.bundle.ContainerdSocket(), Namespace: c.Namespace, Runc: runc, RuncRoot: runcRoot, Handlers: c.Handlers.parsed(), ShimPath: p.bundle.ShimPath(),
		CgroupParent: c.CgroupParent, RunDir: filepath.Join(c.State, "exec"), TaskDir: p.bundle.TaskDir(), SeccompDir: filepath.Join(c.ConfigDir, "seccomp"), Log: p.log,
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Handlers)) {
		if err := p.client.HasHandler(name); err != nil {
			p.log.Warn("pods of this runtime handler cannot start", "err", err)
		}
	}
	p.images = images.Open(images.Options{
		Client: p.client.Containerd(), Namespace: c.Namespace, CertsDir: filepath.Join(c.ConfigDir, "certs.d"), Log: p.log,
	})
	p.sandboxes, err = sandbox.Open(sandbox.Options{
		Containers: p.client, StateDir: c.Root, RunDir: c.State, Pause: p.pause(), CgroupParent: c.CgroupParent,
		Boot: boot, ID: sandboxID, Log: p.log,
	})
	if err != nil {
		return err
	}
	wanted, err := networkOptions(c, p.log)
	if err != nil {
		return err
	}
	if p.network, err = network.Open(wanted); err != nil {
		return err
	}
	pods := filepath.Join(c.Root, "pods")
	vols, err := volumes.Open(volumes.Options{
		Dir: pods, Claims: runtime.Claims(p.store, func() map[string]string { return p.api.Labels() }),
		Secrets: runtime.Secrets(p.store), Sessions: filepath.Join(c.Root, "iscsi"),
		Wanted:   func(uid string) bool { return p.runtime.Wants(typesUID(uid)) },
		Programs: c.Programs, Unmounter: []string{"/proc/self/exe", unmountName},
	})
	if err != nil {
		return err
	}
	directories, err := volumes.OpenDirectories(filepath.Join(c.Root, claimsDir))
	if err != nil {
		return err
	}
	past, err := history.Open(filepath.Join(c.Root, historyDir), p.log)
	if err != nil {
		return err
	}
	node := status.Node{Name: c.NodeName, IPs: hostIPs(), RecursiveReadOnly: volumes.RecursiveReadOnly()}
	limits := status.DefaultLimits()
	limits.RestartInitial, limits.RestartMax = c.BackoffBase.Duration, c.BackoffMax.Duration
	limits.PullInitial = c.PullBase.Duration
	p.runtime = runtime.New(runtime.Options{
		Store: p.store, Containers: p.client, Sandboxes: p.sandboxes, Images: p.images, Network: p.network, Volumes: vols,
		Writer: logs.Dial(p.bundle.LogdSocket()), History: past, Namespace: c.Namespace, Node: node, Limits: limits, BootID: boot,
		RunDir: c.State, PodsDir: pods, LogDir: c.LogDir, LogSize: c.LogMaxSize, LogFiles: c.LogMaxFiles, Parallel: parallel(c),
		Event: func(pod *v1.Pod, container, kind, reason, format string, args ...any) {
			p.api.ContainerEvent(pod, container, kind, reason, format, args...)
		},
		Adopt:       func(ctx context.Context, pod *v1.Pod) error { _, err := p.api.CreatePod(ctx, pod); return err },
		Tokens:      tokens{p},
		Reject:      func(pod *v1.Pod) *status.Verdict { return rejected(p.api.Rejects(pod)) },
		Allocatable: func() v1.ResourceList { return p.api.Allocatable() },
		Handler:     func(class string) (string, error) { return p.api.RuntimeHandler(class) },
		Log:         p.log,
		Pressure:    p.pressure(),
		Collect:     runtime.Collect{High: c.ImageHigh, Low: c.ImageLow, Age: c.ImageAge.Duration, Changed: func() { p.api.ImagesChanged() }},
		Timing: runtime.Timing{
			Turn: func(took time.Duration) { p.api.Turn(took) },
			Step: func(kind string, took time.Duration, err error) { p.api.Step(kind, took, err) },
		},
	})
	gateways, err := p.network.Gateways()
	if err != nil {
		p.log.Warn("pods do not reach podd's API", "error", err)
	}
	p.stats = p.measurer()
	p.api, err = api.New(api.Config{
		Store: p.store, Runtime: &attendant{p.runtime, p.images, p.client, p.stats}, NodeName: node.Name, NodeIPs: node.IPs,
		SocketPath: c.Listen, SocketGroup: c.Group, ServiceCIDR: c.ServiceCIDR, TLSListen: c.TLSListen, PKIDir: filepath.Join(c.Root, "pki"), Gateways: gateways, Issuer: c.Issuer,
		Version: version, Containerd: p.containerd, Log: p.log,
		Directories: directories,
		Host: api.Host{RecursiveReadOnly: node.RecursiveReadOnly,
			UserNamespaces: func() (can, known bool) { return p.client.MapsUsers("") },
			Addresses:      hostIPs, BootID: boot, StateDir: c.Root, MaxPods: c.MaxPods, Pressure: p.runtime.Pressed, Configuration: c, Handlers: slices.Sorted(maps.Keys(c.Handlers))},
	})
	if err != nil {
		return err
	}
	p.static = static.New(static.Options{
		Dir: filepath.Join(c.ConfigDir, "manifests"), Node: node.Name, Log: p.log,
		Static: p.staticPods, Put: p.putStatic, Remove: p.api.RemoveStatic, Report: p.reportManifest,
	})
	return nil
}

// tokens are those of the API, which is made after the runtime.
type tokens struct{ *podd }

func (t tokens) Token(ctx context.Context, pod *v1.Pod, audience string, expiry time.Duration) (string, time.Time, error) {
	return t.api.Token(ctx, pod, audience, expiry)
}

func (t tokens) Key() string { return t.api.TokenKey() }

// historyDir is where below the root the histories of pods are.
const historyDir = "history"

func networkOptions(c config, log *slog.Logger) (network.Options, error) {
	pods, err := netip.ParsePrefix(c.PodCIDR)
	if err != nil {
		return network.Options{}, fmt.Errorf("flag --pod-cidr: %w", err)
	}
	return network.Options{
		ConfDir: filepath.Join(c.ConfigDir, "cni", "net.d"), BinDirs: []string{c.Bundle, "/opt/cni/bin"},
		StateDir: filepath.Join(c.Root, "cni"), NetnsDir: filepath.Join(c.State, "netns"),
		Bridge: c.Bridge, Range: pods, Table: c.NftTable, Log: log,
	}, nil
}

func sandboxID(uid string, attempt int) string { return status.ContainerID(typesUID(uid), "", attempt) }

func parallel(c config) int {
	if c.Parallel > 0 {
		return c.Parallel
	}
	return 2 * goruntime.NumCPU()
}

// pause finds the pause binary: in the bundle, or beside podd.
func (p *podd) pause() string {
	path := filepath.Join(p.config.Bundle, "pause")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if exe, err := os.Executable(); err == nil {
		return filepath.Join(filepath.Dir(exe), "pause")
	}
	return path
}

func (p *podd) staticPods() []*v1.Pod {
	var out []*v1.Pod
	for _, pod := range p.store.Pods() {
		if pod.Annotations[static.SourceAnnotation] == "file" {
			out = append(out, pod)
		}
	}
	return out
}

func (p *podd) putStatic(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	put, err := p.api.PutStatic(ctx, pod)
	if errors.Is(err, api.ErrTerminating) {
		return nil, static.ErrTerminating
	}
	return put, err
}

// containerd is the version of the containerd in use, for the node object; empty while it does not answer.
func (p *podd) containerd() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	v, err := p.client.Containerd().Version(ctx)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(v.Version, "+unknown") // what a containerd says that was built without its Makefile
}

// containerdVersion waits for the answer, as long as pods do; empty when there is none.
func (p *podd) containerdVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, bundleWait)
	defer cancel()
	for {
		v := p.containerd()
		if v != "" || ctx.Err() != nil {
			return v
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// reportManifest makes a bad manifest file visible where people look: among the events of the node.
func (p *podd) reportManifest(file string, err error) {
	what := err.Error()
	if !strings.HasPrefix(what, file+":") { // an error of the decoder begins with file and line
		what = file + ": " + what
	}
	p.api.NodeEvent(v1.EventTypeWarning, "InvalidStaticPod", "manifest %s", strings.ReplaceAll(what, "\n", "; ")) // of a table a line
}
