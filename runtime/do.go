package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/api/fields"
	told "podd/api/history"
	"podd/network"
	"podd/runtime/containers"
	"podd/runtime/images"
	"podd/runtime/killpoint"
	"podd/runtime/logs"
	"podd/runtime/plan"
	"podd/sandbox"
	"podd/status"
	"podd/volumes"
)

// Do makes one step so.
func (h *host) Do(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	begun := time.Now()
	err := h.do(ctx, pod, s)
	if err != nil && slices.Contains(kills, s.Op) && !errors.Is(ctx.Err(), context.Canceled) {
		h.event(pod, v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
	}
	level := slog.LevelDebug
	if err == nil {
		h.mu.Lock()
		delete(h.warned, s.Task()) // the next failure is news
		h.mu.Unlock()
	}
	if err != nil && ctx.Err() != context.Canceled && !errors.Is(err, errKept) && h.isNews(s.Task(), err) {
		level = slog.LevelWarn
	}
	h.r.Log.Log(ctx, level, "step", "namespace", pod.Namespace, "pod", pod.Name, "op", s.Op, "name", s.Name,
		"attempt", s.Attempt, "why", s.Why, "took", time.Since(begun), "err", err)
	return err
}

// sameWarning is how often a step that fails for the same reason again and again is logged as a warning.
const sameWarning = 10 * time.Minute

// warning is what was logged of a step that failed.
type warning struct {
	text string
	at   time.Time
}

// isNews tells whether the failure of a step is another one than the last that was logged, or that one was long ago.
func (h *host) isNews(task status.Task, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, text := h.warned[task], err.Error(); last.text != text || time.Since(last.at) > sameWarning {
		h.warned[task] = warning{text, time.Now()}
		return true
	}
	return false
}

// kills are the steps that upstream's "kill pod" stands for.
var kills = []status.Op{plan.Stop, plan.RemoveSandbox, plan.DetachNetwork, plan.RemoveGround}

func (h *host) do(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	switch s.Op {
	case plan.EnsureGround:
		return h.ensureGround(ctx, pod)
	case plan.EnsureNetwork:
		return h.ensureNetwork(ctx, pod, s.Attempt)
	case plan.EnsureSandbox:
		return h.ensureSandbox(ctx, pod, s.Attempt)
	case plan.PullImage:
		return h.pull(ctx, pod, s.Name)
	case plan.Create:
		return h.create(ctx, pod, s)
	case plan.Start:
		return h.start(ctx, pod, s)
	case plan.Stop:
		return h.stop(ctx, pod, s)
	case plan.PostStart:
		return h.postStart(ctx, pod, s)
	case plan.PreStop:
		return h.preStop(ctx, pod, s)
	case plan.Startup, plan.Readiness, plan.Liveness:
		return h.probe(ctx, pod, s)
	case plan.Condemn:
		return h.condemn(pod, s)
	case plan.Record:
		return h.recordExit(ctx, pod, s)
	case plan.Remove:
		return slot(ctx, h.r.ends, func() error { return h.remove(ctx, pod, s) })
	case plan.RemoveSandbox:
		return slot(ctx, h.r.ends, func() error { return h.removeSandbox(ctx, pod, s) })
	case plan.DetachNetwork:
		return slot(ctx, h.r.ends, func() error { return h.detach(ctx, pod) })
	case plan.RemoveGround:
		return h.removeGround(ctx, pod)
	case plan.Vacate:
		return h.vacate(ctx)
	case plan.Refresh:
		return h.refresh(ctx, pod)
	case plan.Allocate:
		return h.allocate(ctx, pod)
	case plan.Resize:
		return h.resize(ctx, pod, s)
	case plan.ResizePod:
		return h.resizePod(ctx, pod)
	case plan.Evict:
		return h.evict(ctx, pod, *s.Eviction)
	case plan.BeginEra:
		return h.beginEra(ctx, s)
	case plan.Conclude:
		return h.conclude(ctx, pod, s.Verdict)
	case plan.Finish:
		return h.finish(ctx)
	default:
		return fmt.Errorf("step %s: unknown", s.Op)
	}
}

func (h *host) ensureGround(ctx context.Context, pod *v1.Pod) error {
	if h.record().Started.IsZero() {
		if err := h.admit(ctx, pod); err != nil {
			return err
		}
	}
	_, err := sandbox.Nodename(pod)
	if err == nil {
		err = h.ensureHandler(ctx, pod)
	}
	if err == nil {
		err = h.ensureUsers(ctx, pod)
	}
	if err != nil {
		detail(ctx, func(e *told.Entry) { e.What = told.Sandbox })
		return h.noSandbox(pod, err)
	}
	killpoint.At("ground.recorded")
	if err := h.marks.put("ground", false); err != nil {
		return err
	}
	err = h.r.Volumes.Ensure(ctx, pod)
	if err == nil {
		err = h.ensureContent(ctx, pod)
	}
	if err != nil {
		h.failedMount(pod, err)
		return err
	}
	killpoint.At("ground.volumes")
	if err := h.writeEtc(pod, nil); err != nil {
		return err
	}
	if err := h.r.Sandboxes.EnsureCgroup(ctx, h.admitted(pod)); err != nil {
		h.event(pod, v1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	killpoint.At("ground.cgroup")
	if err := h.r.Containers.EnsureLease(ctx, string(h.uid)); err != nil {
		return err
	}
	killpoint.At("ground.lease")
	return h.marks.put("ground", true)
}

// failedMount tells which volume could not be made (pkg/volume/util/operationexecutor/operation_generator.go), or that none
// could (pkg/kubelet/kubelet.go SyncPod).
func (h *host) failedMount(pod *v1.Pod, err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			h.failedMount(pod, err)
		}
		return
	}
	if of := (*volumes.Error)(nil); errors.As(err, &of) {
		h.event(pod, v1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed for volume %q : %v", of.Volume, of.Err)
		return
	}
	h.event(pod, v1.EventTypeWarning, "FailedMount", "Unable to attach or mount volumes: %v", err)
}

// writeEtc writes the pod's hosts, hostname and resolv.conf; what had to be left out of them becomes events.
func (h *host) writeEtc(pod *v1.Pod, ips []string) error {
	if pod.Spec.HostNetwork {
		ips = h.r.Node.IPs
	}
	notes, err := h.r.Sandboxes.WriteEtc(pod, ips)
	for _, n := range notes {
		if h.tell(n.Reason+n.Message, time.Hour) { // of one reason there may be two
			h.event(pod, n.Type, n.Reason, "%s", n.Message)
		}
	}
	return err
}

func (h *host) netPod(pod *v1.Pod, attempt int) network.Pod {
	p := network.Pod{
		UID: string(h.uid), Namespace: pod.Namespace, Name: pod.Name, Attempt: attempt, HostNetwork: pod.Spec.HostNetwork,
		Apart: h.r.Containers.IsShim(h.handler()),
	}
	if h.record().FirstID != 0 {
		p.Made = h.r.Sandboxes.MadeNetNS(string(h.uid), attempt)
	}
	p.Bandwidth.Ingress, p.Bandwidth.Egress, _ = fields.Bandwidth(pod) // what is wrong with them was refused
	for _, m := range status.Members(pod) {
		if m.Kind == status.Regular || m.Kind == status.Sidecar { // a plain init container has ended when others listen
			p.Ports = append(p.Ports, m.Ports...)
		}
	}
	return p
}

func (h *host) ensureNetwork(ctx context.Context, pod *v1.Pod, attempt int) error {
	if err := h.own(ctx, pod, attempt); err != nil {
		return h.noSandbox(pod, err)
	}
	res, err := h.r.Network.Ensure(ctx, h.netPod(pod, attempt))
	if err != nil {
		return h.noSandbox(pod, fmt.Errorf("set up network: %w", err))
	}
	killpoint.At("network.added")
	if err := h.writeEtc(pod, res.IPs); err != nil {
		return err
	}
	detail(ctx, func(e *told.Entry) { e.IPs = res.IPs })
	return h.marks.put("network", res.IPs)
}

// noSandbox tells why there is no sandbox, unless the pod is to go by now; it gives err back.
func (h *host) noSandbox(pod *v1.Pod, err error) error {
	if now, ok := h.r.Store.PodByUID(h.uid); ok && now.DeletionTimestamp == nil {
		h.event(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	return err
}

func (h *host) ensureSandbox(ctx context.Context, pod *v1.Pod, attempt int) error {
	if attempt > 0 && h.tell(fmt.Sprint("SandboxChanged ", attempt), time.Hour) {
		h.event(pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	err := slot(ctx, h.r.starts, func() error {
		netns, err := h.namespaces(ctx, pod, attempt)
		if err != nil {
			return err
		}
		killpoint.At("sandbox.netns")
		return h.r.Sandboxes.Ensure(ctx, pod, attempt, h.sandboxOf(pod, attempt, netns), h.handler())
	})
	if err != nil {
		return h.noSandbox(pod, err)
	}
	killpoint.At("sandbox.running")
	return h.marks.put(filepath.Join("started", status.ContainerID(h.uid, "", attempt)), time.Now())
}

func (h *host) pull(ctx context.Context, pod *v1.Pod, ref string) error {
	user := userOf(pod, ref)
	name, err := images.Normalize(ref)
	if err != nil {
		h.containerEvent(pod, user, v1.EventTypeWarning, "InspectFailed", "Failed to apply default image tag %q: %v", ref, err)
		return because(pullReason(err), err)
	}
	h.containerEvent(pod, user, v1.EventTypeNormal, "Pulling", "Pulling image %q", ref)
	begun := time.Now()
	info, err := h.pullAs(ctx, pod, ref, name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		h.containerEvent(pod, user, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", ref, err)
		return because(pullReason(err), err)
	}
	took := time.Since(begun).Truncate(time.Millisecond)
	h.containerEvent(pod, user, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		ref, took, took, info.Size)
	detail(ctx, func(e *told.Entry) { e.Bytes = info.Size })
	h.mu.Lock()
	h.pulls[ref] = time.Now()
	h.mu.Unlock()
	return nil
}

// containerOf finds a container of the spec by its name.
func containerOf(pod *v1.Pod, name string) (*v1.Container, error) {
	if m, ok := status.MemberOf(pod, name); ok {
		return m.Container, nil
	}
	return nil, fmt.Errorf("container %s: not in pod %s", name, pod.Name)
}

func (h *host) create(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	pod = h.admitted(pod)
	c, err := containerOf(pod, s.Name)
	if err != nil {
		return err
	}
	image, err := h.image(ctx, c.Image)
	if err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "InspectFailed", "Failed to inspect image %q: %v", c.Image, err)
		return err
	}
	env, err := h.environment(ctx, pod, c)
	if err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerConfigError", err)
	}
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	if err := h.findUsers(ctx, pod); err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerError", err)
	}
	if err := h.ensureImageVolumes(ctx, pod, c); err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerError", err)
	}
	mounts, err := h.r.Volumes.Mounts(ctx, pod, c, id, env)
	if err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerConfigError", err)
	}
	devices, err := h.devices(pod, c)
	if err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerConfigError", err)
	}
	if message := c.TerminationMessagePath; message != "" {
		m, err := h.messageMount(id, message)
		if err != nil {
			return because("CreateContainerError", err)
		}
		mounts = append(mounts, m)
	}
	box, err := h.sandboxAttempt(s)
	if err != nil {
		return because("CreateContainerError", err)
	}
	netns, err := h.namespaces(ctx, pod, box)
	if err != nil {
		return err
	}
	if pod, err = h.makeRoom(ctx, pod, s.Name); err != nil {
		return because("CreateContainerError", err)
	}
	if c, err = containerOf(pod, s.Name); err != nil {
		return err
	}
	cfg := containers.Config{
		ID: id, Pod: pod, Container: c, Attempt: s.Attempt, Image: image,
		Key: s.Key, Backoff: s.Backoff, Era: s.Era, Boot: h.r.BootID, Handler: h.handler(),
		Sandbox: h.sandboxOf(pod, box, netns), Env: env,
		Mounts: append(h.r.Sandboxes.EtcMounts(pod, c), mounts...), Devices: devices,
	}
	if err := h.mapMounts(ctx, pod, c, cfg.Sandbox, cfg.Mounts); err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerConfigError", err)
	}
	shared := cfg.Sandbox.PIDNS != ""
	if err := h.aim(ctx, pod, &cfg); err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return because("CreateContainerConfigError", err)
	}
	if err := h.r.Containers.Ensure(ctx, cfg); err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %s", withoutID(err, cfg.ID, s.Name))
		return because(createReason(err), err)
	}
	killpoint.At("create.done")
	if h.pulled()[c.Image].IsZero() {
		h.containerEvent(pod, s.Name, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
	}
	h.containerEvent(pod, s.Name, v1.EventTypeNormal, "Created", "Container created")
	if shared || h.r.Containers.IsShim(cfg.Handler) { // made in what the pause container makes, which may not be there yet
		return nil
	}
	return h.prepare(ctx, pod, s)
}

// shimLimit is how long the making of a member's task waits for the shim of its sandbox.
const shimLimit = 5 * time.Second

// prepare has the runtime make the container's process up to its very start. It needs no sandbox but the namespaces, so
// it goes on beside the making of the sandbox and the network, for which the start waits.
func (h *host) prepare(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	box, err := h.sandboxAttempt(s)
	if err == nil {
		err = h.r.Sandboxes.EnsureNamespaces(pod, box, h.record().FirstID)
	}
	if err != nil {
		return because("CreateContainerError", err)
	}
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	target, io, err := h.streams(pod, s, id)
	if err != nil {
		return err
	}
	if err := h.r.Writer.Ensure(ctx, target); err != nil {
		return because("CreateContainerError", err)
	}
	killpoint.At("create.logs")
	if s.Attempt > 0 && !h.has(s.Sandbox) || !h.r.Containers.AwaitShim(ctx, s.Sandbox, shimLimit) {
		return nil // the start makes the task, once the sandbox runs
	}
	err = slot(ctx, h.r.starts, func() error { return h.r.Containers.Create(ctx, id, io) })
	if errors.Is(err, containers.ErrShimEnded) {
		return nil // another member could not be made: the sandbox is made again, and this one in it
	}
	var failed *containers.StartError
	if errors.As(err, &failed) {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %s", withoutID(failed, id, s.Name))
		return h.recordStartError(ctx, pod, s, failed)
	}
	killpoint.At("create.prepared")
	if errors.Is(err, containers.ErrStopped) {
		return nil // the next look sees the exit
	}
	if err != nil {
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %s", withoutID(err, id, s.Name))
	}
	return because("CreateContainerError", err)
}

// has tells whether an instance has been seen with a task. A member that could not be made once is not made again beside its
// sandbox: it would end the sandbox's shim once more.
func (h *host) has(id string) bool {
	return slices.ContainsFunc(h.lastSeen().instances, func(i containers.Instance) bool { return i.ID == id && i.HasTask })
}

// maxSandboxes is how many sandboxes a pod may have had.
const maxSandboxes = 100_000

// sandboxAttempt is the attempt of the sandbox that a step's container joins.
func (h *host) sandboxAttempt(s plan.Step) (int, error) {
	for n := range maxSandboxes {
		if status.ContainerID(h.uid, "", n) == s.Sandbox {
			return n, nil
		}
	}
	return 0, fmt.Errorf("sandbox %s: is none of this pod", s.Sandbox)
}

// image is what a container needs to know of its image; the account files are read once per image.
func (h *host) image(ctx context.Context, ref string) (containers.Image, error) {
	info, ok, err := h.r.Images.Look(ctx, ref)
	if err == nil && !ok {
		err = fmt.Errorf("image %s: is not on this host any more", ref)
	}
	if err != nil {
		return containers.Image{}, because("ImageInspectError", err)
	}
	accounts, err := h.r.accountsOf(ctx, info.ChainID)
	if err != nil {
		return containers.Image{}, because("CreateContainerError", err)
	}
	return containers.Image{
		Name: info.Name, ID: imageID(info), ChainID: info.ChainID, Config: info.Config,
		Passwd: accounts.passwd, Group: accounts.group,
	}, nil
}

// streams are the FIFOs of a container: where its log goes, and what its task is made with.
func (h *host) streams(pod *v1.Pod, s plan.Step, id string) (logs.Target, containers.IO, error) {
	c, err := containerOf(pod, s.Name)
	if err != nil {
		return logs.Target{}, containers.IO{}, err
	}
	t := logs.Target{
		ID: id, Stdout: h.r.fifo(id, "out"),
		Path:    logs.Path(h.r.LogDir, pod.Namespace, pod.Name, string(h.uid), s.Name, s.Attempt),
		MaxSize: h.r.LogSize, MaxFiles: h.r.LogFiles,
	}
	if !c.TTY {
		t.Stderr = h.r.fifo(id, "err")
	}
	if c.Stdin {
		t.Stdin = h.r.fifo(id, "in")
	}
	return t, containers.IO{Stdin: t.Stdin, Stdout: t.Stdout, Stderr: t.Stderr, Terminal: c.TTY}, nil
}

func (r *Runtime) fifo(id, stream string) string {
	return filepath.Join(r.RunDir, "fifo", id+"."+stream)
}

func (h *host) start(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	target, io, err := h.streams(pod, s, id)
	if err != nil {
		return err
	}
	if err := h.r.Writer.Ensure(ctx, target); err != nil {
		return because("RunContainerError", err)
	}
	killpoint.At("start.logs")
	mark := filepath.Join("started", id)
	var started containers.Started
	err = slot(ctx, h.r.starts, func() (err error) {
		if err := h.aimed(ctx, pod, s); err != nil {
			return err
		}
		if err := h.r.Containers.Create(ctx, id, io); err != nil {
			return err
		}
		if err := h.onTarget(ctx, pod, s.Name, id); err != nil {
			return err
		}
		// From here on a container without a task is one that may have run: it is never run a second time.
		if err := h.marks.put(mark, time.Time{}); err != nil {
			return err
		}
		killpoint.At("start.marked")
		started, err = h.r.Containers.Begin(ctx, id)
		return err
	})
	var failed *containers.StartError
	switch {
	case errors.Is(err, containers.ErrStopped):
		return nil // the next look sees the exit
	case errors.As(err, &failed):
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %s", withoutID(failed, id, s.Name))
		return h.recordStartError(ctx, pod, s, failed)
	case err != nil:
		h.containerEvent(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %s", withoutID(err, id, s.Name))
		return because("RunContainerError", err)
	}
	killpoint.At("start.running")
	if err := h.marks.put(mark, started.At); err != nil {
		return err
	}
	if err := logs.EnsureLink(h.r.LogDir, pod.Namespace, pod.Name, s.Name, id, target.Path); err != nil {
		h.r.Log.Warn("link log", "pod", pod.Name, "container", s.Name, "err", err)
	}
	if err := h.r.Volumes.Unpin(ctx, string(h.uid), id); err != nil { // they go with the instance, then
		h.r.Log.Warn("unpin what a container has mounted", "pod", pod.Name, "container", s.Name, "err", err)
	}
	h.containerEvent(pod, s.Name, v1.EventTypeNormal, "Started", "Container started")
	return nil
}

// recordStartError stores that the process of an instance could not be started as its end: upstream shows exit code 128
// and the epoch as its start.
func (h *host) recordStartError(ctx context.Context, pod *v1.Pod, s plan.Step, cause error) error {
	i, ok, err := h.instance(ctx, s)
	if err != nil || !ok {
		return err
	}
	c := h.container(i, time.Now())
	c.State = status.Exited
	c.StartedAt, c.FinishedAt = neverStarted, time.Now()
	c.ExitCode, c.Reason, c.Message = 128, "StartError", cause.Error()
	return h.keepExit(ctx, pod, c)
}

// instance finds one instance in containerd.
func (h *host) instance(ctx context.Context, s plan.Step) (containers.Instance, bool, error) {
	instances, err := h.r.Containers.Look(ctx, string(h.uid))
	if err != nil {
		return containers.Instance{}, false, err
	}
	for _, i := range instances {
		if i.Name == s.Name && i.Attempt == s.Attempt {
			return i, true, nil
		}
	}
	return containers.Instance{}, false, nil
}

// stop sends the stop signal, waits until the deadline, then kills. A stop that is taken up again by another podd sends
// its signal once more, and keeps the deadline.
func (h *host) stop(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	i, ok := h.lastSeen().of(s.Name, s.Attempt)
	if state, _ := h.state(i); !ok || state != status.Running {
		return nil
	}
	if time.Until(s.Deadline) > 0 {
		if ended, err := h.ask(ctx, pod, s, i); ended || err != nil {
			return err
		}
	}
	killpoint.At("stop.kill")
	if pod.DeletionTimestamp != nil { // nothing is started in it any more
		if err := h.r.Sandboxes.Unthrottle(string(pod.UID)); err != nil {
			h.r.Log.Warn("the end of a pod may take long", "pod", pod.Name, "namespace", pod.Namespace, "err", err)
		}
	}
	if err := h.marks.put(filepath.Join("killed", i.ID), true); err != nil {
		return err
	}
	killpoint.At("stop.marked")
	if err := h.r.Containers.Signal(ctx, i.ID, syscall.SIGKILL); err != nil {
		return err
	}
	_, err := h.r.Containers.Wait(ctx, i.ID)
	if errors.Is(err, containers.ErrGone) {
		return nil
	}
	return err
}

// deadlineSlack is how much sooner than here containerd may find a deadline passed.
const deadlineSlack = 100 * time.Millisecond

// ask sends the stop signal and waits until the deadline; ended is false when the container has to be killed.
func (h *host) ask(ctx context.Context, pod *v1.Pod, s plan.Step, i containers.Instance) (ended bool, err error) {
	h.mu.Lock()
	asked := h.termed[i.ID]
	h.mu.Unlock()
	if !asked {
		h.announce(pod, s)
		if err := h.r.Containers.Signal(ctx, i.ID, stopSignal(i.StopSignal)); err != nil {
			return false, err
		}
		h.mu.Lock()
		h.termed[i.ID] = true
		h.mu.Unlock()
	}
	killpoint.At("stop.asked")
	waiting, cancel := context.WithDeadline(ctx, s.Deadline)
	defer cancel()
	_, err = h.r.Containers.Wait(waiting, i.ID)
	switch {
	case err == nil || errors.Is(err, containers.ErrGone):
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case waiting.Err() != nil, time.Until(s.Deadline) < deadlineSlack: // containerd keeps the same deadline, and may tell of it first
		return false, nil
	default:
		return false, err
	}
}

// signalName is upstream's name of a stop signal, which has names for those of real time as well
// (k8s.io/api/core/v1 SIGRTMIN and following).
func signalName(name string) v1.Signal {
	const first, last, half = 34, 64, 15
	n := stopSignal(name)
	switch {
	case n < first:
		return v1.Signal(unix.SignalName(n))
	case n == first:
		return v1.SIGRTMIN
	case n == last:
		return v1.SIGRTMAX
	case n <= first+half:
		return v1.Signal(fmt.Sprintf("SIGRTMIN+%d", n-first))
	default:
		return v1.Signal(fmt.Sprintf("SIGRTMAX-%d", last-n))
	}
}

// stopSignal reads an image's STOPSIGNAL: a name with or without SIG, or a number.
func stopSignal(name string) syscall.Signal {
	if n := unix.SignalNum(name); n != 0 {
		return n
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n
	}
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	return syscall.SIGTERM
}

// beginEra notes that all containers of the pod are to run anew.
func (h *host) beginEra(ctx context.Context, s plan.Step) error {
	killpoint.At("restart-all.before")
	defer killpoint.At("restart-all.after")
	return h.change(ctx, func(r record) record { return r.withEra(s.Attempt, s.Name) })
}

// remove takes an instance away. Its record in containerd goes after its task and its FIFOs, since it is what says that
// something is left.
func (h *host) remove(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	id := status.ContainerID(h.uid, s.Name, s.Attempt)
	if err := h.r.Containers.RemoveTask(ctx, id); err != nil {
		return err
	}
	killpoint.At("remove.task")
	if err := h.r.Writer.Remove(ctx, id); err != nil {
		return err
	}
	killpoint.At("remove.logs")
	if err := h.r.Containers.Remove(ctx, id); err != nil {
		return err
	}
	killpoint.At("remove.container")
	if err := h.r.Sandboxes.RemoveMessage(string(h.uid), id); err != nil {
		return err
	}
	if err := h.r.Volumes.Unpin(ctx, string(h.uid), id); err != nil {
		return err
	}
	if old := s.Attempt - exitsKept; old >= 0 {
		path := logs.Path(h.r.LogDir, pod.Namespace, pod.Name, string(h.uid), s.Name, old)
		oldID := status.ContainerID(h.uid, s.Name, old)
		if err := errors.Join(logs.RemoveContainer(path),
			logs.RemoveLink(h.r.LogDir, pod.Namespace, pod.Name, s.Name, oldID)); err != nil {
			return err
		}
	}
	h.mu.Lock()
	delete(h.termed, id)
	delete(h.announced, id)
	h.mu.Unlock()
	if err := h.marks.forget(id); err != nil {
		return err
	}
	h.strike(id)
	return nil
}

func (h *host) removeSandbox(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	if err := h.r.Sandboxes.KillCgroup(ctx, string(h.uid)); err != nil {
		return err
	}
	killpoint.At("remove-sandbox.killed")
	id := status.ContainerID(h.uid, "", s.Attempt)
	if h.living(pod) {
		gone := status.Sandbox{ID: id, Attempt: s.Attempt, State: status.Exited}
		if err := h.change(ctx, func(r record) record { r.Sandbox = &gone; return r }); err != nil {
			return err
		}
	}
	if err := h.r.Sandboxes.Remove(ctx, string(h.uid), s.Attempt); err != nil {
		return err
	}
	killpoint.At("remove-sandbox.removed")
	return h.marks.drop(filepath.Join("started", id))
}

// living is false once all that is left for the pod is to go.
func (h *host) living(pod *v1.Pod) bool {
	_, ok := h.r.Store.PodByUID(h.uid)
	return ok && pod.DeletionTimestamp == nil
}

func (h *host) detach(ctx context.Context, pod *v1.Pod) error {
	st, err := h.r.Network.Look(string(h.uid))
	if err != nil {
		return err
	}
	if len(st.Result.IPs) > 0 && h.living(pod) {
		if err := h.change(ctx, func(r record) record { r.IPs = st.Result.IPs; return r }); err != nil {
			return err
		}
	}
	if err := h.marks.drop("network"); err != nil {
		return err
	}
	killpoint.At("detach.before")
	if err := h.r.Network.Remove(ctx, string(h.uid)); err != nil {
		return err
	}
	killpoint.At("detach.after")
	return nil
}

// removeGround takes away all that ensureGround made. The directory of volumes goes last but one and the markers last,
// since they are what says that something is left.
func (h *host) removeGround(ctx context.Context, pod *v1.Pod) error {
	uid := string(h.uid)
	if err := h.r.Sandboxes.RemoveCgroup(ctx, uid); err != nil {
		return err
	}
	killpoint.At("clear.cgroup")
	if err := h.r.Sandboxes.RemovePins(uid); err != nil {
		return err
	}
	killpoint.At("clear.pins")
	if err := h.r.Sandboxes.RemoveEtc(uid); err != nil {
		return err
	}
	if err := h.removeImageVolumes(ctx); err != nil {
		return err
	}
	if err := h.r.Containers.RemoveLease(ctx, uid); err != nil {
		return err
	}
	killpoint.At("clear.lease")
	if pod.Name != "" {
		if err := logs.RemovePod(h.r.LogDir, pod.Namespace, pod.Name, uid); err != nil {
			return err
		}
	}
	killpoint.At("clear.logs")
	if err := h.r.Volumes.Remove(ctx, uid); err != nil {
		return err
	}
	killpoint.At("clear.volumes")
	return h.marks.clear()
}

// errKept says that the object of a pod that is gone from the host is still wanted by somebody.
var errKept = errors.New("finalizers keep the object")

func (h *host) finish(ctx context.Context) error {
	killpoint.At("finish.before")
	if err := h.r.Store.FinishPod(ctx, h.uid); err != nil {
		return err
	}
	killpoint.At("finish.object")
	if _, ok := h.r.Store.PodByUID(h.uid); ok {
		return fmt.Errorf("finish pod %s: %w", h.uid, errKept)
	}
	return h.r.Store.DeleteRecord(ctx, h.uid)
}

// event records an event, unless the pod's object is gone and nobody would find it.
func (h *host) event(pod *v1.Pod, kind, reason, format string, args ...any) {
	if pod.Name == "" {
		return
	}
	h.containerEvent(pod, "", kind, reason, format, args...)
}

// containerEvent records an event of one container.
func (h *host) containerEvent(pod *v1.Pod, container, kind, reason, format string, args ...any) {
	if pod.Name == "" {
		return
	}
	h.story.event(pod, container, reason, fmt.Sprintf(format, args...))
	h.r.Event(pod, container, kind, reason, format, args...)
}

// userOf is the first container of the pod that is made from an image: events of its pull are on that one.
func userOf(pod *v1.Pod, ref string) string {
	for _, m := range status.Members(pod) {
		if m.Container.Image == ref {
			return m.Name
		}
	}
	return ""
}

// tell is true when what is to be told was not told within the time.
func (h *host) tell(what string, within time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.telling[what]) < within {
		return false
	}
	h.telling[what] = time.Now()
	return true
}
