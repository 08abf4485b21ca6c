package probes

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"podd/api/usage"
	"podd/status"
)

// Counts are the answers of all probes of a host.
type Counts struct {
	mu sync.Mutex
	of map[counted]*usage.Probe
}

// counted is what is counted together: one probe, over all instances of its container.
type counted struct {
	uid, container string
	kind           Kind
}

// Add counts an answer of the probe that p names.
func (c *Counts) Add(p usage.Probe, result status.Result, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := counted{p.UID, p.Container, Kind(p.Kind)}
	have, ok := c.of[key]
	if !ok {
		if c.of == nil {
			c.of = map[counted]*usage.Probe{}
		}
		have = &p
		c.of[key] = have
	}
	if result == status.Failure {
		have.Failed++
		return
	}
	have.Succeeded++
	have.Took += took
	if i, _ := slices.BinarySearch(usage.ProbeTimes[:], took.Seconds()); i < len(have.Within) {
		have.Within[i]++
	}
}

// Forget drops the numbers of a pod.
func (c *Counts) Forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.of, func(k counted, _ *usage.Probe) bool { return k.uid == uid })
}

// All is a copy of the numbers, sorted.
func (c *Counts) All() []usage.Probe {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]usage.Probe, 0, len(c.of))
	for _, p := range c.of {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b usage.Probe) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.UID, b.UID),
			cmp.Compare(a.Container, b.Container), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}
