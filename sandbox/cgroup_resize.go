package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// RaiseCgroup gives the pod's cgroup what of the pod's limits is more than it has: only then may its containers be given
// more. The cgroup's share of the cpu, which is no limit, becomes the pod's. A pod without a cgroup is left alone.
func (s *Sandboxes) RaiseCgroup(pod *v1.Pod) error {
	return s.resize(pod, func(now, next limits) (limits, error) {
		if next.quota <= now.quota {
			next.quota = 0
		}
		if next.memory <= now.memory {
			next.memory = 0
		}
		return next, nil
	})
}

// LowerCgroup gives the pod's cgroup the pod's limits. Its containers must be within theirs. A memory limit that is not
// above what is in use is an error, in upstream's words, and nothing is written.
func (s *Sandboxes) LowerCgroup(pod *v1.Pod) error {
	return s.resize(pod, func(now, next limits) (limits, error) {
		if next.quota == now.quota {
			next.quota = 0
		}
		switch {
		case next.memory == now.memory:
			next.memory = 0
		case next.memory < now.memory:
			return next, s.fits(pod, next.memory)
		}
		return next, nil
	})
}

// CheckCgroup has the error that LowerCgroup would have because of the memory in use, and changes nothing.
func (s *Sandboxes) CheckCgroup(pod *v1.Pod) error {
	return s.resize(pod, func(now, next limits) (limits, error) {
		if next.memory < now.memory {
			return limits{}, s.fits(pod, next.memory)
		}
		return limits{}, nil
	})
}

// fits is nil if the pod takes less memory than limit, or there is none.
func (s *Sandboxes) fits(pod *v1.Pod, limit int64) error {
	if limit == 0 {
		return nil
	}
	used, err := s.opts.Containers.MemoryInUse(s.cg.podPath(pod))
	if err != nil {
		return fmt.Errorf("read memory of pod: %w", err)
	}
	if used >= limit {
		return fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", limit, used)
	}
	return nil
}

// resize writes what change answers, for the limits that the pod's cgroup has now and those of the pod. 0 leaves one as
// it is: no limit is ever taken away.
func (s *Sandboxes) resize(pod *v1.Pod, change func(now, next limits) (limits, error)) error {
	c := s.cg
	c.mu.Lock()
	defer c.mu.Unlock()
	var now limits
	for _, h := range c.trees {
		err := h.read(filepath.Join(h.at, c.podPath(pod)), &now)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("resize cgroup: %w", err)
		}
	}
	next, err := change(now, podLimits(pod))
	if err != nil || next == (limits{}) {
		return err
	}
	for _, h := range c.trees {
		if err := h.apply(filepath.Join(h.at, c.podPath(pod)), next); err != nil {
			return fmt.Errorf("resize cgroup: %w", err)
		}
	}
	if err := c.balance(); err != nil {
		return fmt.Errorf("resize cgroup: %w", err)
	}
	return nil
}

// unlimited is the least number that says that there is no limit.
const unlimited = int64(1) << 62

// read adds to l the quota and the memory limit that a directory has in this tree.
func (h hierarchy) read(dir string, l *limits) error {
	get := func(file string) (int64, error) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return 0, err
		}
		value, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > unlimited { // "max", -1, or the most there is
			n = unlimited
		}
		return n, nil
	}
	var errs [2]error
	if h.v2 {
		l.quota, errs[0] = get("cpu.max")
		l.memory, errs[1] = get("memory.max")
	}
	if h.has("cpu") {
		l.quota, errs[0] = get("cpu.cfs_quota_us")
	}
	if h.has("memory") {
		l.memory, errs[1] = get("memory.limit_in_bytes")
	}
	return errors.Join(errs[:]...)
}
