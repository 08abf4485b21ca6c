// Package history holds what podd tells of the life of a pod, on a path of podd's own:
//
//	GET /podd/v1/history?namespace=&pod=&uid=  -> List
//
// Either the name or the uid is needed. The answer holds every pod of that name that is known, also those deleted in the
// last hour; it is empty when none is. It imports nothing, so that a client does not carry the server.
package history

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Path of the request.
const Path = "/podd/v1/history"

// KeptFor is how long the history of a pod stays after the host has let go of it.
const KeptFor = time.Hour

// MaxBytes is how long a message of an entry can be.
const MaxBytes = 1024

// Cut is text without its middle if it is longer than most bytes: it begins with what was done, and ends with what came of it.
func Cut(text string, most int) string {
	if text = strings.ToValidUTF8(text, "\ufffd"); len(text) <= most {
		return text
	}
	const gap = "..."
	head := (most - len(gap)) / 2
	tail := len(text) - head
	for !utf8.RuneStart(text[head]) {
		head--
	}
	for tail < len(text) && !utf8.RuneStart(text[tail]) {
		tail++
	}
	return text[:head] + gap + text[tail:]
}

// List answers GET. The oldest pod comes first.
type List struct {
	Pods []Pod `json:"pods"`
}

// Pod is the history of one pod. Pods of one name that came after one another have different uids.
type Pod struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	UID       string     `json:"uid"`
	Since     time.Time  `json:"since"`             // the first entry
	Deleted   *time.Time `json:"deleted,omitempty"` // when the host had let go of it
	Entries   []Entry    `json:"entries"`           // by time
}

// What an entry is about. One with Failed tells that it did not work.
const (
	Daemon  = "daemon"   // podd was started, and goes on with the pod
	Mounts  = "mounts"   // directories, volumes and cgroup are there
	Network = "network"  // the pod has its addresses, IPs
	Sandbox = "sandbox"  // the sandbox of Attempt runs
	Pulling = "pulling"  // a pull of Image has begun
	Pulled  = "pulled"   // it has ended: Bytes in Seconds
	Created = "created"  // Container at Attempt is made
	Started = "started"  // its process runs
	Exited  = "exited"   // it has ended, after Seconds: Exit; Message is its termination message
	BackOff = "back-off" // Container, or the pull of Image, is held back until Until
	Hook    = "hook"     // the hook Reason (postStart, preStop) of Container has ended
	Condemn = "condemn"  // podd ends Container, for Message
	Restart = "restart"  // all containers are restarted
	Resized = "resized"  // Container is held to other resources
	Volume  = "volume"   // the volume Reason follows its sources again; with Failed it shows old content, for Message
	Ready   = "ready"    // the pod has become ready
	Unready = "unready"  // the pod is not ready any more, for Message
	Event   = "event"    // an event about the pod or Container, by Reason and Message
	Slow    = "slow"     // the step Reason is under way for a long time
	Verdict = "verdict"  // the pod has reached its last phase, Reason, for Message
	Delete  = "delete"   // it is to go, until Until
	Unmade  = "unmade"   // what Reason names was taken off the host
	Deleted = "deleted"  // the host has let go of the pod
	LeftOut = "left-out" // Count entries that there was no room for
	Untold  = "step"     // any other step, Reason, that failed
)

// Entry is one thing that happened.
type Entry struct {
	Time      time.Time `json:"time"`
	What      string    `json:"what"`
	Container string    `json:"container,omitempty"`
	Attempt   int       `json:"attempt,omitempty"` // of the container or the sandbox; 0, the first, is left out
	Image     string    `json:"image,omitempty"`
	Failed    bool      `json:"failed,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`

	Seconds float64    `json:"seconds,omitempty"` // that it took
	Bytes   int64      `json:"bytes,omitempty"`
	IPs     []string   `json:"ips,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Exit    *Exit      `json:"exit,omitempty"`

	// Of more entries of a kind than are kept, the ones in the middle are one: Count of them, at Message the newest's,
	// between Time and Last.
	Count int        `json:"count,omitempty"`
	Last  *time.Time `json:"last,omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Code   int32  `json:"code"`
	Signal int32  `json:"signal,omitempty"`
	Reason string `json:"reason"` // Completed, Error, OOMKilled, StartError, ContainerStatusUnknown
}
