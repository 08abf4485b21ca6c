package containers

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// HugePageLimits is what a cgroup may have of huge pages of each of these sizes: what the lists say, a later one over those
// before it, and otherwise nothing (pkg/kubelet/kuberuntime/kuberuntime_container_linux.go).
func HugePageLimits(sizes []string, lists ...v1.ResourceList) []specs.LinuxHugepageLimit {
	var limits []specs.LinuxHugepageLimit
	for _, size := range sizes {
		limits = append(limits, specs.LinuxHugepageLimit{Pagesize: size})
	}
	for _, list := range lists {
		for name, q := range list {
			page, err := v1helper.HugePageSizeFromResourceName(name)
			if err != nil {
				continue // something else
			}
			unit, err := v1helper.HugePageUnitSizeFromByteSize(page.Value())
			if err != nil {
				continue // the kernel has no pages of such a size, so the pod has none either
			}
			for i := range limits {
				if limits[i].Pagesize == unit {
					limits[i].Limit = uint64(q.Value())
				}
			}
		}
	}
	return limits
}

// limitedHugePages is the sizes of huge pages of this kernel if it has the cgroup controller for them in place.
func limitedHugePages(v2 bool) ([]string, error) {
	if v2 {
		b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("read cgroup controllers: %w", err)
		}
		if !slices.Contains(strings.Fields(string(b)), "hugetlb") {
			return nil, nil
		}
		return cgroups.HugePageSizes(), nil
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" || !slices.Contains(strings.Split(m.VFSOptions, ","), "hugetlb"), false
	})
	if err != nil {
		return nil, fmt.Errorf("look for cgroup controllers: %w", err)
	}
	if len(mounts) == 0 {
		return nil, nil
	}
	return cgroups.HugePageSizes(), nil
}
