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
	Record        status.Op = "record"         // store the exit of Name at Attempt durably
	Remove        status.Op = "remove"         // task, container, snapshot of Name at Attempt
	RemoveSandbox status.Op = "remove-sandbox" // kill what is left in it, remove the pause container of Attempt
	DetachNetwork status.Op = "detach"         // host ports, CNI DEL, namespace
	RemoveGround  status.Op = "clear"          // unmount and remove volumes, cgroup, directories
	Conclude      status.Op = "conclude"       // record the verdict (terminal phase) durably
	Finish        status.Op = "finish"         // all is gone from the host: let the object go from the store
)

// Step is one thing that should be under way.
type Step struct {
	Op      status.Op
	Name    string // container name or image reference
	Attempt int    // of the container or the sandbox
	Sandbox string // Create, Start: id of the sandbox the container is a member of; it may be under way yet

	Deadline time.Time       // Stop: when to kill; zero or past means at once
	Backoff  time.Duration   // Create: the crash-loop delay to write on the new instance
	Key      string          // Create: status.RestartKey
	Verdict  *status.Verdict // Conclude
	Why      string          // for events and logs: what the step is for, in a few words
}

// Task is the step's identity for failures and for work under way.
func (s Step) Task() status.Task { return status.Task{Op: s.Op, Name: s.Name} }
