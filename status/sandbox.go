package status

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// WithLost is what is listed of the sandboxes of a pod, the newest one that podd has removed among it, and the one that
// somebody else took away: a container has run in it, so it was there. It is dead, and what may be left of it on the host
// is still podd's to remove. Without it the next sandbox would have its id, and what was done in it would count as done.
func WithLost(uid types.UID, listed []Sandbox, containers []Container) []Sandbox {
	next := 0
	if n := len(listed); n > 0 {
		next = listed[n-1].Attempt + 1
	}
	id := ContainerID(uid, "", next)
	if !slices.ContainsFunc(containers, func(c Container) bool { return c.Sandbox == id && c.State != Created }) {
		return listed
	}
	return append(listed, Sandbox{ID: id, Attempt: next, State: Exited, Present: true})
}
