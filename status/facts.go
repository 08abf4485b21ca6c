// Package status turns what is known of a pod into the status that is published.
// It is pure: no clock, no I/O, no goroutine. Facts go in, a v1.PodStatus comes out.
package status

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Facts is everything known of one pod at one instant: the time, what containerd and the kernel show, what was
// recorded of exits, and podd's own work under way with its past failures. It is built anew for every look and
// never changed after.
type Facts struct {
	Now time.Time

	// Reachable is false while containerd cannot be asked; Sandboxes and Containers are then the last known ones.
	Reachable bool

	Node     Node
	Limits   Limits
	Started  time.Time // when podd took the pod up: status.startTime; kept over daemon restarts
	Static   bool      // comes from a manifest file
	Gone     bool      // the object is no longer in the store: only cleaning up is left
	Verdict  *Verdict  // the terminal phase the pod has reached, recorded durably; never left
	Rejected *Verdict  // the host refuses the pod (for example another os); becomes the verdict

	// Restart of all containers by a rule: Era counts them, EraBy is the container whose exit began the newest one.
	Era   int
	EraBy string

	// Resources that podd has admitted, by container, and under Whole the pod's own; no entry: those of the spec as the pod
	// was taken up. Before is what the pod had of its own before a resize of them that is not through; nil: none is under
	// way. Room is what the other pods leave of the host to this one (cpu, memory); nil: not known, everything fits.
	Allocated map[string]v1.ResourceRequirements
	Before    *v1.ResourceRequirements
	Room      v1.ResourceList

	// Beyond is why the pod is to end for what it uses, as it was measured last, without a time; nil: it is not to. Evicted is
	// podd's decision to end it for that, recorded durably.
	Beyond  *Eviction
	Evicted *Eviction

	Ground       bool        // the pod's directories, cgroup and volumes are all there
	GroundLeft   bool        // some of them are there, complete or not: what an unfinished "ground" or "clear" leaves
	Stored       bool        // its volumes are there, or some of them; only of a pod that was evicted
	Stale        int         // what the pod reads was made from sources that have changed since: another number for each change; 0 if not
	RefreshAt    time.Time   // when it has to be made again though none has changed; zero is never
	Network      Network     // of the newest sandbox
	NetworkFirst bool        // a sandbox takes the network as it is when it starts, and members are made once it runs: a shim may bring a kernel
	Sandboxes    []Sandbox   // by Attempt; the last is the newest. One that was removed may be listed (not Present) or not
	Containers   []Container // every instance known, of containerd or of the record; by Name, then Attempt

	Images map[string]Image     // on the host and usable, by the reference the spec uses
	Pulled map[string]time.Time // when podd last pulled an image for this pod; policy Always asks once per instance

	Mounted map[string]bool // image volumes that are mounted, by name: their images are not needed any more

	Work     []Work          // podd's own tasks under way
	Failures map[Task]Failed // the last failure of each task since its last success
}

// Node is this host, as pods see it.
type Node struct {
	Name string
	IPs  []string // primary first, at most one per family

	Allocatable v1.ResourceList // cpu and memory that pods may have in all; nil: not known

	RecursiveReadOnly bool // a mount can be made read-only with all that is mounted below it
}

// Limits are the numbers that a configuration may change.
type Limits struct {
	RestartInitial time.Duration // first crash-loop delay, 10 s
	RestartMax     time.Duration // longest crash-loop delay, 300 s
	PullInitial    time.Duration // first pull back-off, 10 s
	PullMax        time.Duration // longest pull back-off, 300 s
	RetryInitial   time.Duration // first delay after any other failed task, 1 s
	RetryMax       time.Duration // longest delay after any other failed task, 10 s
}

// DefaultLimits are upstream's (pkg/kubelet/kubelet.go) where upstream has them.
func DefaultLimits() Limits {
	return Limits{
		RestartInitial: 10 * time.Second, RestartMax: 300 * time.Second,
		PullInitial: 10 * time.Second, PullMax: 300 * time.Second,
		RetryInitial: time.Second, RetryMax: 10 * time.Second,
	}
}

// Verdict is a terminal phase with its reason.
type Verdict struct {
	Phase   v1.PodPhase // Succeeded or Failed
	Reason  string
	Message string
}

// Eviction is podd's decision to end a pod for what it uses. Reason and Message are the verdict's.
type Eviction struct {
	At      time.Time
	Reason  string // "" is Evicted
	Message string

	// Disruption is that the host or another pod needs what it has. Else it is beyond a limit of its own, which
	// the condition DisruptionTarget does not tell of.
	Disruption bool
}

// Network is what is known of the pod's network.
type Network struct {
	Ready    bool     // namespace made, CNI ADD done, hosts file written (always true once made for hostNetwork)
	IPs      []string // as the CNI result gives them; kept after it is detached, the status goes on showing them
	Attached bool     // something is left to take away: a pinned namespace, a CNI result, an address, a host port
}

// State of a sandbox or of a container instance.
type State string

// The states an instance passes through, in order. One that containerd lost is Exited: exit code 137, Reason
// ContainerStatusUnknown.
const (
	Created State = "created" // containerd has the container, its process was not started yet
	Running State = "running"
	Exited  State = "exited"
)

// Sandbox is one pause container.
type Sandbox struct {
	ID        string
	Attempt   int
	State     State
	CreatedAt time.Time
	Present   bool // something of it is left in containerd or on the host
}

// Container is one instance of one container of the pod.
type Container struct {
	Name    string
	Attempt int    // 0 for the first instance: the restart count
	ID      string // containerd's id, 64 hex digits
	Sandbox string // id of the sandbox it was made in
	State   State
	Key     string // RestartKey of the spec it was made from

	Image   string // reference as containerd names it
	ImageID string // repository digest reference
	User    *v1.ContainerUser
	// StopSignal is what it is asked to end with, by upstream's name; "" is not known.
	StopSignal v1.Signal

	CreatedAt  time.Time
	StartedAt  time.Time // zero if the process never started
	FinishedAt time.Time // valid when Exited
	ExitCode   int32
	Signal     int32  // 0, or the signal that ended it
	Reason     string // Completed, Error, OOMKilled, StartError, ContainerStatusUnknown
	Message    string

	// Backoff is the crash-loop delay that holds after this instance exits: 0 for one that was started without a
	// history. CreatedAt is when it was last stepped.
	Backoff time.Duration

	Ref       string                  // image reference of the spec it was made from; "" is not known
	Era       int                     // Facts.Era when it was made
	Resources v1.ResourceRequirements // what the runtime holds it to now, as Effective has it

	// What podd found out about this instance since it runs.
	PostStart Hook
	PreStop   Hook
	Startup   Result // "" until the probe has an answer
	Readiness Result
	Liveness  Result
	Condemned *Condemned // podd has decided to end it, though nobody has deleted its pod

	// Late says of an exit whether it came no earlier than the pod's deadline or eviction, as these were when it was recorded.
	// nil is that an older podd recorded it.
	Late *bool

	// Replace says of an exit that podd brought it about to run another instance in its place whatever the policies say.
	Replace bool

	Present  bool // containerd still has a record or a task of it
	Recorded bool // its exit is stored durably: it may be removed
}

// Result is what a probe has come to.
type Result string

// The results. A readiness probe has failed until it succeeds; the others say nothing before their thresholds.
const (
	Success Result = "success"
	Failure Result = "failure"
)

// Hook is one run of a lifecycle hook of an instance.
type Hook struct {
	Ended  time.Time // zero while it has not
	Failed string    // why it failed; "" if it did not
}

// Condemned is podd's decision to end a running instance of a pod that is not deleted. The grace period counts from At.
type Condemned struct {
	By      Cause
	At      time.Time
	Message string // for the event: "Container app failed liveness probe, will be restarted"
}

// Cause is why an instance is ended.
type Cause string

// The causes.
const (
	ByLiveness  Cause = "liveness"
	ByStartup   Cause = "startup"
	ByPostStart Cause = "postStart"
	BySpec      Cause = "spec"     // its image was changed
	ByResources Cause = "resize"   // its resources were changed, and its resizePolicy says RestartContainer
	ByDeadline  Cause = "deadline" // the pod's activeDeadlineSeconds have passed
	ByEviction  Cause = "eviction" // the pod uses more than it may
	ByEnd       Cause = "end"      // the pod is over but for those that live for the others
)

// Image is one image on the host.
type Image struct {
	ID string // image id (repository digest reference when known)
}

// Op names a kind of work that podd does for a pod. Package runtime/plan names them all.
type Op string

// The operations whose failures and progress the status speaks of.
const (
	OpPull      Op = "pull"
	OpCreate    Op = "create"
	OpStart     Op = "start"
	OpPostStart Op = "post-start"
	OpResize    Op = "resize"
	OpResizePod Op = "resize-pod"
)

// Task is one piece of work: an operation and what it is done to. Failures are counted per task.
type Task struct {
	Op   Op
	Name string // container name or image reference; empty where the op concerns the whole pod
}

// Work is a task under way.
type Work struct {
	Task    Task
	Attempt int // of the instance it is for
	Since   time.Time
}

// Failed is what is left of a task that failed and has not succeeded since.
type Failed struct {
	Count   int       // how often in a row
	Last    time.Time // when it failed last
	Reason  string    // a waiting reason: ErrImagePull, CreateContainerConfigError, ...
	Message string
}

// Sandbox is the newest sandbox known.
func (f Facts) Sandbox() (Sandbox, bool) {
	if len(f.Sandboxes) == 0 {
		return Sandbox{}, false
	}
	return f.Sandboxes[len(f.Sandboxes)-1], true
}

// Newest is the newest instance of the container called name.
func (f Facts) Newest(name string) (Container, bool) { return f.nth(name, 1) }

// Previous is the instance before the newest.
func (f Facts) Previous(name string) (Container, bool) { return f.nth(name, 2) }

func (f Facts) nth(name string, n int) (Container, bool) {
	for i := len(f.Containers) - 1; i >= 0; i-- {
		if f.Containers[i].Name != name {
			continue
		}
		if n--; n == 0 {
			return f.Containers[i], true
		}
	}
	return Container{}, false
}

// Busy tells whether podd's own task op on name is under way.
func (f Facts) Busy(op Op, name string) bool {
	for _, w := range f.Work {
		if w.Task == (Task{Op: op, Name: name}) {
			return true
		}
	}
	return false
}

// BusyWith tells whether one of ops is under way on anything.
func (f Facts) BusyWith(ops ...Op) bool {
	for _, w := range f.Work {
		for _, op := range ops {
			if w.Task.Op == op {
				return true
			}
		}
	}
	return false
}
