package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"podd/runtime/containers"
	"podd/runtime/killpoint"
)

// The tree is the kubelet's: <parent>/kubepods[/burstable|/besteffort]/pod<uid>/<container id>.
const kubepods = "kubepods"

// qosDirs is where pods of each class are, below kubepods: guaranteed ones have no directory of their own.
var qosDirs = []string{"", "burstable", "besteffort"}

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	at          string   // mount point
	controllers []string // of v1; nil for v2
	v2          bool
}

func (h hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// cgroups is the host's trees: every mounted v1 hierarchy, or the one of v2. spare is an empty v2 tree beside v1 ones,
// in which nothing is made, but for huge pages, and from which all is removed.
type cgroups struct {
	parent string
	trees  []hierarchy
	spare  []hierarchy
	v2     bool
	huge   *hierarchy // the one that limits huge pages; nil: none does

	mu sync.Mutex // one change of what pods have in common at a time
}

func openCgroups(parent string) (*cgroups, error) {
	if !path.IsAbs(parent) || path.Clean(parent) == "/" {
		return nil, fmt.Errorf("cgroup parent %q: must be an absolute path below /", parent)
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return nil, err
	}
	c := &cgroups{parent: path.Clean(parent)}
	var unified []hierarchy
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			unified = append(unified, hierarchy{at: m.Mountpoint, v2: true})
			continue
		}
		h := hierarchy{at: m.Mountpoint, controllers: v1Controllers(m.VFSOptions)}
		if !slices.ContainsFunc(c.trees, func(o hierarchy) bool { return slices.Equal(o.controllers, h.controllers) }) {
			c.trees = append(c.trees, h)
		}
	}
	unified = unified[:min(len(unified), 1)]
	c.huge = limitsHugePages(c.trees, unified)
	if len(c.trees) > 0 {
		c.spare = unified
		return c, nil
	}
	if len(unified) == 0 {
		return nil, errors.New("no cgroup file system is mounted")
	}
	c.trees, c.v2 = unified, true
	if own := unified[0].own(); own != "" {
		c.parent = inside(c.parent, strings.TrimPrefix(own, unified[0].at))
	}
	return c, nil
}

// inside is the parent for a podd that runs in a pod of another one with the same parent and sees that one's tree, as a
// privileged container does on v2: below its own container's cgroup. In the same place the two would take each other's
// pods for strays.
func inside(parent, own string) string {
	if !strings.HasPrefix(own, path.Join(parent, kubepods)+"/") {
		return parent
	}
	return path.Join(strings.TrimSuffix(own, "/"+initLeaf), parent)
}

// v1Controllers is the controllers among the options of a v1 mount.
func v1Controllers(options string) []string {
	var out []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "clone_children", "xattr", "noprefix":
		default:
			out = append(out, o)
		}
	}
	slices.Sort(out)
	return out
}

// qosDir is the class's directory below kubepods.
func qosDir(pod *v1.Pod) string {
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSBurstable:
		return "burstable"
	case v1.PodQOSBestEffort:
		return "besteffort"
	}
	return ""
}

func (c *cgroups) podPath(pod *v1.Pod) string {
	return path.Join(c.parent, kubepods, qosDir(pod), "pod"+string(pod.UID))
}

// podDirs is every directory there is of a pod, over all trees and classes.
func (c *cgroups) podDirs(uid string) []string {
	var out []string
	for _, h := range slices.Concat(c.trees, c.spare) {
		for _, q := range qosDirs {
			dir := filepath.Join(h.at, c.parent, kubepods, q, "pod"+uid)
			if _, err := os.Lstat(dir); err == nil {
				out = append(out, dir)
			}
		}
	}
	return out
}

// pods is the uids of all pods that have a cgroup in any tree.
func (c *cgroups) pods() []string {
	var uids []string
	for _, h := range slices.Concat(c.trees, c.spare) {
		for _, q := range qosDirs {
			found, _ := filepath.Glob(filepath.Join(h.at, c.parent, kubepods, q, "pod?*"))
			for _, f := range found {
				uids = append(uids, strings.TrimPrefix(filepath.Base(f), "pod"))
			}
		}
	}
	return distinct(uids)
}

// limits is the pod's own, as cgroup v1 has them; 0 = none.
type limits struct {
	shares uint64
	quota  int64 // microseconds
	period uint64
	memory int64 // bytes
}

// podLimits is what the kubelet gives a pod's cgroup (pkg/kubelet/cm/helpers_linux.go): the requests and limits of the pod
// as a whole, else the sum of the requests, and the sum of the limits for what every container limits.
func podLimits(pod *v1.Pod) limits {
	class := qos.GetPodQOS(pod)
	if class == v1.PodQOSBestEffort {
		return limits{shares: containers.CPUShares(0)}
	}
	cpuAll, memoryAll := true, true
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	sum := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{
		ContainerFn: func(r v1.ResourceList, _ resourcehelper.ContainerType) {
			cpuAll = cpuAll && !r.Cpu().IsZero()
			memoryAll = memoryAll && !r.Memory().IsZero()
		},
	})
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		cpuAll = cpuAll || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memoryAll = memoryAll || !pod.Spec.Resources.Limits.Memory().IsZero()
	}
	l := limits{shares: containers.CPUShares(requests.Cpu().MilliValue())}
	if milli := sum.Cpu().MilliValue(); cpuAll && milli > 0 {
		l.quota, l.period = containers.CPUQuota(milli)
	}
	if memoryAll {
		l.memory = sum.Memory().Value()
	}
	return l
}

// EnsureCgroup has the pod's cgroup with the pod's limits, in every tree.
func (s *Sandboxes) EnsureCgroup(ctx context.Context, pod *v1.Pod) error {
	c, l := s.cg, podLimits(pod)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.trees {
		if err := h.makeAll(c.podPath(pod)); err != nil {
			return fmt.Errorf("ensure cgroup: %w", err)
		}
		killpoint.At("sandbox.cgroup.made")
		if err := h.apply(filepath.Join(h.at, c.podPath(pod)), l); err != nil {
			return fmt.Errorf("ensure cgroup: %w", err)
		}
	}
	if err := c.limitHugePages(pod); err != nil {
		return fmt.Errorf("ensure cgroup: limit huge pages: %w", err)
	}
	killpoint.At("sandbox.cgroup.limited")
	if err := c.balance(); err != nil {
		return fmt.Errorf("ensure cgroup: %w", err)
	}
	return nil
}

// apply writes limits. On v1 and v2 the names differ, and the scale of the shares.
func (h hierarchy) apply(dir string, l limits) error {
	write := func(file, value string) error { return writeFile(filepath.Join(dir, file), value) }
	var errs []error
	if h.v2 {
		errs = append(errs, write("cpu.weight", strconv.FormatUint(weight(l.shares), 10)))
		if l.quota > 0 {
			errs = append(errs, write("cpu.max", fmt.Sprintf("%d %d", l.quota, l.period)))
		}
		if l.memory > 0 {
			errs = append(errs, write("memory.max", strconv.FormatInt(l.memory, 10)))
		}
		return errors.Join(errs...)
	}
	if h.has("cpu") {
		errs = append(errs, write("cpu.shares", strconv.FormatUint(l.shares, 10)))
		if l.quota > 0 {
			errs = append(errs, write("cpu.cfs_period_us", strconv.FormatUint(l.period, 10)), write("cpu.cfs_quota_us", strconv.FormatInt(l.quota, 10)))
		}
	}
	if h.has("memory") && l.memory > 0 {
		errs = append(errs, write("memory.limit_in_bytes", strconv.FormatInt(l.memory, 10)))
	}
	return errors.Join(errs...)
}

// balance gives the classes their share of the cpu: best-effort pods the least there is, burstable ones what their pods
// ask for together, so that a guaranteed pod, which has no class above it, weighs the same against each of them.
func (c *cgroups) balance() error {
	for _, h := range c.trees {
		file, least := "cpu.shares", containers.CPUShares(0)
		switch {
		case h.v2:
			file, least = "cpu.weight", weight(least)
		case !h.has("cpu"):
			continue
		}
		base := filepath.Join(h.at, c.parent, kubepods)
		sum := uint64(0)
		found, _ := filepath.Glob(filepath.Join(base, "burstable", "pod?*", file))
		for _, f := range found {
			b, _ := os.ReadFile(f) // a pod that is just going counts no more
			n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			sum += n
		}
		most := uint64(262144)
		if h.v2 {
			most = 10000
		}
		for dir, n := range map[string]uint64{"burstable": min(max(sum, least), most), "besteffort": least} {
			err := writeFile(filepath.Join(base, dir, file), strconv.FormatUint(n, 10))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// writeFile writes to a file of the kernel, which must be there.
func writeFile(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
