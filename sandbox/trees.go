package sandbox

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Tree is one mounted cgroup hierarchy, for those who measure what pods use.
type Tree struct {
	At          string   // mount point
	Controllers []string // of v1; nil for v2
	V2          bool
}

// Trees is the hierarchies in which pods have cgroups: every one of v1, or the one of v2.
func (s *Sandboxes) Trees() []Tree {
	out := make([]Tree, 0, len(s.cg.trees))
	for _, h := range s.cg.trees {
		out = append(out, Tree{At: h.at, Controllers: slices.Clone(h.controllers), V2: h.v2})
	}
	return out
}

// CgroupParent is the path of podd's parent cgroup, from the mount points.
func (s *Sandboxes) CgroupParent() string { return s.cg.parent }

// CgroupPath is the path of the pod's cgroup, from the mount points. There need not be one.
func (s *Sandboxes) CgroupPath(pod *v1.Pod) string { return s.cg.podPath(pod) }
