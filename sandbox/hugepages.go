package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	cgconv "github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"podd/runtime/containers"
)

// LimitsHugePages tells whether anything of this host limits how many huge pages a pod takes.
func (s *Sandboxes) LimitsHugePages() bool { return s.cg.huge != nil }

// limitsHugePages is the tree that has the controller hugetlb; nil is none. Beside trees of v1 it may be that of v2, into
// whose root it falls where nobody has mounted it: runc has all processes of a pod there as well, in the same place.
func limitsHugePages(v1, unified []hierarchy) *hierarchy {
	if at := slices.IndexFunc(v1, func(h hierarchy) bool { return h.has("hugetlb") }); at >= 0 {
		return &v1[at]
	}
	for _, h := range unified {
		b, _ := os.ReadFile(filepath.Join(h.at, "cgroup.controllers"))
		if !slices.Contains(strings.Fields(string(b)), "hugetlb") {
			continue
		}
		_, err := os.Stat(filepath.Join(h.at, "cgroup.type")) // what is not the host's root may hold processes
		if len(v1) == 0 || errors.Is(err, os.ErrNotExist) && unix.Access(h.at, unix.W_OK) == nil {
			return &h
		}
	}
	return nil
}

// limitHugePages gives the pod's cgroup how much of each size of huge pages the pod may have, which is what it requests:
// in use, and promised to its mappings, where the kernel knows the difference (from 5.7 on).
func (c *cgroups) limitHugePages(pod *v1.Pod) error {
	h := c.huge
	if h == nil {
		return nil
	}
	dir, suffix := filepath.Join(h.at, c.podPath(pod)), ".limit_in_bytes"
	if h.v2 {
		suffix = ".max"
		if err := h.makeAll(c.podPath(pod)); err != nil {
			return err
		}
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, l := range containers.HugePageLimits(cgconv.HugePageSizes(), requests) {
		file, value := filepath.Join(dir, "hugetlb."+l.Pagesize), strconv.FormatUint(l.Limit, 10)
		if err := writeFile(file+suffix, value); err != nil {
			return err
		}
		if err := writeFile(file+".rsvd"+suffix, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
