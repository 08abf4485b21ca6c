package containers

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// groupAnnotation has runc's shim run all containers of one value in one shim process. It is the only annotation a spec
// gets: nothing that users or images write may reach the runtime as one.
const groupAnnotation = "io.containerd.runc.v2.group"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spec is the OCI spec of one container and the user it runs as. It is pure but for what Host reads on demand.
// Errors are *ConfigError.
func Spec(c Config, h Host) (*specs.Spec, *v1.ContainerUser, error) {
	user, err := resolveUser(c)
	if err != nil {
		return nil, nil, err
	}
	s := effective(c.Pod, c.Container)
	if err := c.Sandbox.checkIDs(user); err != nil {
		return nil, nil, err
	}
	caps, err := capabilities(s, h)
	if err != nil {
		return nil, nil, err
	}
	env, vars, err := environment(c)
	if err != nil {
		return nil, nil, err
	}
	args, err := arguments(c, vars)
	if err != nil {
		return nil, nil, err
	}
	cwd, err := workingDir(c)
	if err != nil {
		return nil, nil, err
	}
	mounts, propagation, err := allMounts(c, s.privileged)
	if err != nil {
		return nil, nil, err
	}
	score := OOMScore(c.Pod, c.Container, h)
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Terminal: c.Container.TTY, User: user, Args: args, Env: env, Cwd: cwd, Capabilities: caps,
			NoNewPrivileges: s.noNewPrivs, OOMScoreAdj: &score,
		},
		Root:        &specs.Root{Path: "rootfs", Readonly: s.readOnlyRoot},
		Mounts:      mounts,
		Annotations: GroupAnnotations(c.Sandbox.ID),
		Linux: &specs.Linux{
			Namespaces:        memberNamespaces(c, h, s.privileged),
			Resources:         resources(c.Pod, c.Container, h),
			CgroupsPath:       path.Join(c.Sandbox.CgroupPath, c.ID),
			RootfsPropagation: propagation,
		},
	}
	c.Sandbox.Join(spec)
	switch {
	case s.privileged:
		err = privileged(spec, h)
	case s.unmasked:
		err = setSeccomp(spec, s, h)
	default:
		spec.Linux.MaskedPaths = slices.Concat(maskedPaths, h.MaskedPaths)
		spec.Linux.ReadonlyPaths = slices.Clone(readonlyPaths)
		err = setSeccomp(spec, s, h)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, d := range c.Devices {
		spec.Linux.Devices = append(spec.Linux.Devices, d.LinuxDevice)
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access})
	}
	return spec, containerUser(user), nil
}

// environment is what the process gets and, beside it, what $(VAR) may refer to: the container's own variables only, as
// in upstream. Image entries without "=" are dropped: nothing is filled in from podd's own environment.
func environment(c Config) (env []string, vars map[string]string, err error) {
	at := map[string]int{}
	set := func(name, value string) {
		entry := name + "=" + value
		if i, ok := at[name]; ok {
			env[i] = entry
			return
		}
		at[name] = len(env)
		env = append(env, entry)
	}
	set("PATH", defaultPath)
	set("HOSTNAME", c.Sandbox.Hostname)
	if c.Container.TTY {
		set("TERM", "xterm")
	}
	for _, e := range c.Image.Config.Config.Env {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			set(name, value)
		}
	}
	vars = map[string]string{}
	for _, e := range c.Env {
		if strings.ContainsRune(e.Value, 0) { // the runtime would say so with the value in its error
			return nil, nil, &ConfigError{fmt.Sprintf("environment variable %s: its value has a zero byte", e.Name)}
		}
		vars[e.Name] = e.Value
		set(e.Name, e.Value)
	}
	return env, vars, nil
}

// arguments is command and args over the image's ENTRYPOINT and CMD: a command sets the image's CMD aside as well.
func arguments(c Config, vars map[string]string) ([]string, error) {
	mapping := expansion.MappingFuncFor(vars)
	expand := func(in []string) []string {
		var out []string
		for _, a := range in {
			out = append(out, expansion.Expand(a, mapping))
		}
		return out
	}
	command, args := expand(c.Container.Command), expand(c.Container.Args)
	image := c.Image.Config.Config
	if len(command) == 0 {
		command = slices.Clone(image.Entrypoint)
		if len(args) == 0 {
			args = slices.Clone(image.Cmd)
		}
	}
	all := append(command, args...)
	if len(all) == 0 {
		return nil, &ConfigError{fmt.Sprintf("no command: neither the container nor image %s names one", c.Image.Name)}
	}
	return all, checkPath("command", all[0])
}

// maxPath is the longest path the kernel takes, in bytes (PATH_MAX without the zero).
const maxPath = 4095

// checkPath refuses what is longer than a path can be. runc would say so as well, but hangs on it: it repeats the path in
// its error, and writes that into a pipe that holds 64 KiB and that nobody reads before the container is there.
func checkPath(what, path string) error {
	if len(path) > maxPath {
		return &ConfigError{fmt.Sprintf("%s %.40q...: is %d bytes, a path has at most %d", what, path, len(path), maxPath)}
	}
	return nil
}

// workingDir refuses what does not lie in the container's own root: a directory below /proc may be a way to a file
// that the runtime holds open (CVE-2024-21626).
func workingDir(c Config) (string, error) {
	dir := c.Container.WorkingDir
	if dir == "" {
		dir = c.Image.Config.Config.WorkingDir
	}
	if dir == "" {
		return "/", nil
	}
	if !path.IsAbs(dir) {
		return "", &ConfigError{fmt.Sprintf("workingDir %q: must be an absolute path", dir)}
	}
	if dir = path.Clean(dir); strings.HasPrefix(dir, "/proc/") {
		return "", &ConfigError{fmt.Sprintf("workingDir %q: must not be below /proc", dir)}
	}
	return dir, checkPath("workingDir", dir)
}

// memberNamespaces joins the sandbox's, where the pod does not use the host's.
func memberNamespaces(c Config, h Host, privileged bool) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType, path string) {
		if path != "" {
			out = append(out, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	join(specs.NetworkNamespace, c.Sandbox.NetNS)
	join(specs.IPCNamespace, c.Sandbox.IPCNS)
	join(specs.UTSNamespace, c.Sandbox.UTSNS)
	switch {
	case c.Pod.Spec.HostPID:
	case c.Sandbox.PIDNS != "":
		join(specs.PIDNamespace, c.Sandbox.PIDNS)
	default:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if h.CgroupV2 && !privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

// privileged adds every device of the host, and what goes with it.
func privileged(spec *specs.Spec, h Host) error {
	devices, err := h.Devices()
	if err != nil {
		return &ConfigError{fmt.Sprintf("privileged: list devices: %v", err)}
	}
	spec.Linux.Devices = devices
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	return nil
}

// shares, quota and period as pkg/kubelet/cm/helpers_linux.go has them.
const (
	minShares, maxShares = 2, 262144
	quotaPeriod          = 100000 // microseconds
	minQuota             = 1000   // microseconds
)

// CPUShares is cpu.shares for a request in thousandths of a cpu.
func CPUShares(milli int64) uint64 {
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// CPUQuota is the cfs quota for a limit in thousandths of a cpu and its period, both in microseconds.
func CPUQuota(milli int64) (quota int64, period uint64) {
	return max(milli*quotaPeriod/1000, minQuota), quotaPeriod
}

// Limit is what a container may have of cpu or memory: its own limit, or that of its pod as a whole, for what looks at its
// container's (pkg/kubelet/kuberuntime/kuberuntime_container_linux.go). It is zero if there is none.
func Limit(pod *v1.Pod, c *v1.Container, name v1.ResourceName) resource.Quantity {
	limit := c.Resources.Limits[name]
	if limit.IsZero() && resourcehelper.IsPodLevelResourcesSet(pod) {
		return pod.Spec.Resources.Limits[name]
	}
	return limit
}

// resources is requests and limits as cgroup values of v1; runc converts them for v2.
func resources(pod *v1.Pod, c *v1.Container, h Host) *specs.LinuxResources {
	cpu, memory := Limit(pod, c, v1.ResourceCPU), Limit(pod, c, v1.ResourceMemory)
	milli := c.Resources.Requests.Cpu().MilliValue()
	if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok {
		milli = cpu.MilliValue()
	}
	shares := CPUShares(milli)
	var whole v1.ResourceList
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		CPU:     &specs.LinuxCPU{Shares: &shares},
	}
	if pod.Spec.Resources != nil {
		whole = pod.Spec.Resources.Limits
	}
	r.HugepageLimits = HugePageLimits(h.HugePages, whole, c.Resources.Limits)
	if limit := cpu.MilliValue(); limit > 0 {
		quota, period := CPUQuota(limit)
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	if limit := memory.Value(); limit > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &limit}
		if h.SwapLimit {
			r.Memory.Swap = &limit // memory and swap together: no swap
		}
		if h.CgroupV2 {
			r.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	return r
}

// OOMScore is oom_score_adj by QoS class and priority (pkg/kubelet/qos/policy.go), not below what this process may give.
func OOMScore(pod *v1.Pod, c *v1.Container, h Host) int {
	score := 1000
	switch class := qos.GetPodQOS(pod); {
	case class == v1.PodQOSGuaranteed, pod.Spec.PriorityClassName == "system-node-critical":
		score = -997
	case class == v1.PodQOSBurstable:
		if h.MemoryCapacity > 0 {
			score = int(1000 - 1000*scoredMemory(pod, c)/h.MemoryCapacity)
		}
		score = min(max(score, 3), 999)
	}
	return max(score, h.MinOOMScore)
}

// scoredMemory is the request that the score goes by. A sidecar is not to be killed before the regular containers: its is
// no less than the smallest of theirs. What the pod as a whole requests beyond its containers is shared out among them.
func scoredMemory(pod *v1.Pod, c *v1.Container) int64 {
	share := int64(0)
	if resourcehelper.IsPodLevelRequestsSet(pod) && !pod.Spec.Resources.Requests.Memory().IsZero() {
		theirs := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
		rest := pod.Spec.Resources.Requests.Memory().Value() - theirs.Memory().Value()
		share = rest / int64(max(1, len(pod.Spec.Containers)+len(pod.Spec.InitContainers)))
	}
	return ownMemory(pod, c) + share
}

func ownMemory(pod *v1.Pod, c *v1.Container) int64 {
	request := c.Resources.Requests.Memory().Value()
	init := slices.ContainsFunc(pod.Spec.InitContainers, func(i v1.Container) bool { return i.Name == c.Name })
	if !init || c.RestartPolicy == nil || *c.RestartPolicy != v1.ContainerRestartPolicyAlways || len(pod.Spec.Containers) == 0 {
		return request
	}
	least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
	for _, r := range pod.Spec.Containers[1:] {
		least = min(least, r.Resources.Requests.Memory().Value())
	}
	return max(request, least)
}
