// Package plan decides what should be under way for a pod. It is pure: facts go in, a complete set of steps comes out.
package plan

import (
	"time"

	"podd/status"
)

// The operations podd does for a pod. Each is an Ensure or a Remove: doing it twice is the same as doing it once.
const (
	EnsureGround  status.Op = "ground"         // directories, cgroup, volumes
	EnsureNetwork status.Op = "network"        // of the sandbox of Attempt: namespace, CNI ADD, host ports, hosts file
	EnsureSandbox status.Op = "sandbox"        // the pause container of Attempt, running
	PullImage               = status.OpPull    // Name is the image reference
	Create                  = status.OpCreate  // container record and snapshot of Name at Attempt
	Start                   = status.OpStart   // the process of Name at Attempt; needs sandbox and network
	Stop          status.Op = "stop"           // signal, wait until Deadline, kill; waits, so it obeys cancellation
	Condemn       status.Op = "condemn"        // note that podd ends the running instance of Name at Attempt (Cause, Why), and since when
	Record        status.Op = "record"         // store the exit of Name at Attempt durably
	Remove        status.Op = "remove"         // task, container, snapshot of Name at Attempt
	RemoveSandbox status.Op = "remove-sandbox" // kill what is left in it, remove the pause container of Attempt
	DetachNetwork status.Op = "detach"         // host ports, CNI DEL, namespace
	RemoveGround  status.Op = "clear"          // unmount and remove volumes, cgroup, directories
	Vacate        status.Op = "vacate"         // unmount and remove the volumes of a pod that was evicted, and stays to tell of it
	Conclude      status.Op = "conclude"       // record the verdict (terminal phase) durably
	Finish        status.Op = "finish"         // all is gone from the host: let the object go from the store

	// Of a running instance, Name at Attempt. They only wait, and note what they find; Observe shows it as facts of the
	// instance. A hook has ended when its step has, well or not. A probe's step goes on until it is given up or, but
	// for readiness, has its result.
	PostStart status.Op = status.OpPostStart
	PreStop   status.Op = "pre-stop" // until Deadline at the latest
	Startup   status.Op = "startup"
	Readiness status.Op = "readiness"
	Liveness  status.Op = "liveness"

	BeginEra status.Op = "restart-all"   // note durably that era Attempt has begun, by the exit of Name
	Evict    status.Op = "evict"         // note durably that the pod is to end for what it uses (Eviction)
	Refresh  status.Op = "refresh"       // make what the pod reads follow its sources
	Allocate status.Op = "allocate"      // note durably that the spec's resources of the pod and of all containers are admitted
	Resize   status.Op = status.OpResize // hold Name at Attempt to its allocated resources

	// ResizePod holds the pod's cgroup to the pod's own allocated resources, and notes durably that it is.
	ResizePod status.Op = status.OpResizePod
)

// Waits tells whether a step only waits, so that it is cancelled when it is no longer wanted. Every other step changes the
// host and runs to its end.
func Waits(op status.Op) bool {
	switch op {
	case PullImage, Stop, PostStart, PreStop, Startup, Readiness, Liveness:
		return true
	}
	return false
}

// Notes tells whether all that a step has changed is known when it has succeeded, without asking containerd: it only notes
// something of podd's own, or takes away an instance, which is no longer among those that containerd showed.
func Notes(op status.Op) bool {
	switch op {
	case Condemn, Record, Conclude, BeginEra, Allocate, Remove:
		return true
	}
	return false
}

// Follows tells whether a step clears up after what has ended. It is begun when the status that tells of that end is
// published, since it would hold up those who wait for it.
func Follows(op status.Op) bool {
	switch op {
	case Remove, RemoveSandbox, DetachNetwork, RemoveGround, Vacate, Conclude, Finish:
		return true
	}
	return false
}

// Step is one thing that should be under way.
type Step struct {
	Op      status.Op
	Name    string // container name or image reference
	Attempt int    // of the container or the sandbox; Refresh: Facts.Stale
	Sandbox string // Create, Start: id of the sandbox the container is a member of; it may be under way yet

	Deadline time.Time        // Stop: when to kill; zero or past means at once
	Backoff  time.Duration    // Create: the crash-loop delay to write on the new instance
	Key      string           // Create: status.RestartKey
	Verdict  *status.Verdict  // Conclude
	Eviction *status.Eviction // Evict
	Cause    status.Cause     // Condemn
	Era      int              // Create: Facts.Era
	Why      string           // for events and logs: what the step is for, in a few words
}

// Task is the step's identity for failures and for work under way.
func (s Step) Task() status.Task { return status.Task{Op: s.Op, Name: s.Name} }
