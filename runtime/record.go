package runtime

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
	"podd/status"
)

// record is what podd must remember of one pod over its own death, containerd's and the machine's, and cannot look up
// anywhere: who the pod is (so that it can be cleaned up when its object is gone), when it was taken up, which exits it
// had and the terminal phase it reached. It is stored durably, by pod uid, as JSON.
type record struct {
	Version   int                                `json:"version"`
	Namespace string                             `json:"namespace"`
	Name      string                             `json:"name"`
	Started   time.Time                          `json:"started"`
	IPs       []string                           `json:"ips,omitempty"`
	Verdict   *status.Verdict                    `json:"verdict,omitempty"`
	Sandbox   *status.Sandbox                    `json:"sandbox,omitempty"`   // the newest one that was removed while the pod lives on
	Allocated map[string]v1.ResourceRequirements `json:"allocated,omitempty"` // status.Facts.Allocated
	Before    *v1.ResourceRequirements           `json:"before,omitempty"`    // status.Facts.Before
	Resized   bool                               `json:"resized,omitempty"`   // they are others than the pod was taken up with
	Exits     []status.Container                 `json:"exits,omitempty"`     // by name, then attempt; the newest two of each container
	Era       int                                `json:"era,omitempty"`       // status.Facts.Era
	Evicted   *status.Eviction                   `json:"evicted,omitempty"`
	EraBy     string                             `json:"eraBy,omitempty"`
	Handler   string                             `json:"handler,omitempty"` // of the pod's runtime class, when it was taken up
	FirstID   uint32                             `json:"firstID,omitempty"` // containers.Sandbox.FirstID
}

// recordVersion is the format written now. A record of a newer version is not read.
const recordVersion = 1

// exitsKept is how many ended instances of a container are remembered: the last state and, while the next one is being
// made, the one before it (upstream keeps the two newest as well).
const exitsKept = 2

func decodeRecord(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("decode record: %w", err)
	}
	if r.Version > recordVersion {
		return record{}, fmt.Errorf("decode record: version %d is newer than this podd's %d", r.Version, recordVersion)
	}
	return r, nil
}

func (r record) encode() ([]byte, error) {
	r.Version = recordVersion
	return json.Marshal(r)
}

// exit finds the recorded end of one instance.
func (r record) exit(name string, attempt int) (status.Container, bool) {
	for _, c := range r.Exits {
		if c.Name == name && c.Attempt == attempt {
			return c, true
		}
	}
	return status.Container{}, false
}

// heldTo is what an instance is held to, with the limits of its pod; nil if that is not known. What the pod had of its own
// when an older podd made it is what it had until the first resize of that.
func (r record) heldTo(i containers.Instance) *v1.ResourceRequirements {
	if i.Resources == nil {
		return nil
	}
	own := r.Allocated[status.Whole]
	switch {
	case i.Whole != nil:
		own = *i.Whole
	case r.Before != nil:
		own = *r.Before
	}
	held := status.Effective(*i.Resources, own)
	return &held
}

// withExit is r with the end of one more instance; the oldest beyond exitsKept are dropped. r itself is not changed.
func (r record) withExit(c status.Container) record {
	c.Present, c.Recorded = false, false
	if c.Era < r.Era {
		c = restartedAll(c)
	}
	exits := make([]status.Container, 0, len(r.Exits)+1)
	same := 0
	for _, e := range r.Exits {
		if e.Name == c.Name && e.Attempt == c.Attempt {
			continue
		}
		if e.Name == c.Name {
			same++
		}
		exits = append(exits, e)
	}
	exits = append(exits, c)
	slices.SortFunc(exits, byNameAttempt)
	for ; same >= exitsKept; same-- {
		oldest := slices.IndexFunc(exits, func(e status.Container) bool { return e.Name == c.Name })
		exits = slices.Delete(exits, oldest, oldest+1)
	}
	r.Exits = exits
	return r
}

// withEra is r with all containers running anew, by the exit of the one called by. What has ended before ended for it: it
// was done, but is to be done again. An era that has begun does not begin again.
func (r record) withEra(era int, by string) record {
	if era <= r.Era {
		return r
	}
	r.Era, r.EraBy = era, by
	r.Exits = slices.Clone(r.Exits)
	for i, c := range r.Exits {
		if newest := i+1 == len(r.Exits) || r.Exits[i+1].Name != c.Name; newest {
			r.Exits[i] = restartedAll(c)
		}
	}
	return r
}

// restartedAll is the exit of an instance that had to go, or to be forgotten, since all containers run anew. It keeps its
// exit code and times, which upstream loses with the container (pkg/kubelet/kubelet_pods.go, RestartingAllContainers).
func restartedAll(c status.Container) status.Container {
	c.Reason = "RestartingAllContainers"
	if c.Message == "" {
		c.Message = "The container is removed because RestartAllContainers in place"
	}
	return c
}

func byNameAttempt(a, b status.Container) int {
	if a.Name != b.Name {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	return a.Attempt - b.Attempt
}
