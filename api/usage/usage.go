// Package usage is what pods and the host use, as it was measured at one time: what the API's metrics are made from.
package usage

import "time"

// Want says what is asked for; less is cheaper.
type Want struct {
	Full  bool // also block I/O, processes, limits, network, file systems; else only cpu and memory
	Rates bool // have a rate for every cpu: a first question waits for a second look
}

// Snapshot is the host and its pods at one time. It is shared: nobody changes it.
type Snapshot struct {
	At   time.Time
	Full bool
	Node Node
	Pods []Pod // by namespace and name
}

// CPU is processor time. The counters never go back while the cgroup lives.
type CPU struct {
	Usage, User, System time.Duration

	Periods, Throttled uint64 // CFS periods that had a limit, and those in which it was reached
	ThrottledTime      time.Duration

	Rate   float64       // cores used, on average over the Window before
	Window time.Duration // 0: there is no rate yet
}

// Memory is in bytes.
type Memory struct {
	Usage, WorkingSet, RSS, Cache, Mapped, Kernel uint64
	Swap                                          uint64
	Max                                           uint64 // the most that Usage has been; 0: not known
	Faults, MajorFaults                           uint64
	Failures                                      uint64 // how often the limit was reached
	OOMKills                                      uint64
	Limit                                         uint64 // 0: none
	SwapLimit                                     uint64 // 0: none, or not known
}

// Limits of the cpu, as the kernel has them.
type Limits struct {
	Shares uint64
	Quota  int64  // microseconds per Period; 0: none
	Period uint64 // microseconds; 0: not known
	Tasks  uint64 // 0: none
}

// Device is what was read from and written to one block device.
type Device struct {
	Major, Minor                         uint64
	Name                                 string // /dev/…; "" if it is not known
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// Stall is how long tasks had to wait for a resource: PSI, of cgroup v2 and of the host.
type Stall struct {
	Some, Full Pressure
	Known      bool
}

// Pressure is one line of PSI.
type Pressure struct {
	Total                time.Duration
	Avg10, Avg60, Avg300 float64
}

// Group is one cgroup.
type Group struct {
	ID      string // its path, from the mount point
	Started time.Time
	CPU     CPU
	Memory  Memory

	// The rest is only there in a full snapshot.
	Limits                          Limits
	Processes, Threads              uint64
	Devices                         []Device
	CPUStall, MemoryStall, IOStalls Stall
}

// Interface is one network interface. Lo is left out.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Disk is what a tree of files takes, and the file system it is on.
type Disk struct {
	Known        bool // Used and Inodes have been counted
	At           time.Time
	Used, Inodes uint64
	FS           FS
}

// FS is one file system.
type FS struct {
	Device             string
	Size, Free         uint64 // Free is what is left for others than root
	Inodes, InodesFree uint64
}

// Container is one running container. The sandbox has no Name.
type Container struct {
	Group
	Name, Image string
	ContainerID string
	Root, Logs  Disk
}

// Volume is one emptyDir.
type Volume struct {
	Name   string
	Memory bool // on a tmpfs or of huge pages
	Disk
}

// Pod is one pod that has a cgroup. Its own counters include containers that are no more.
type Pod struct {
	Group
	Namespace, Name, UID string
	HostNetwork          bool
	Sandbox              *Container // nil: not known
	Containers           []Container
	Interfaces           []Interface // none with HostNetwork
	Volumes              []Volume
}

// Node is the host. Its Group is everything that runs there.
type Node struct {
	Group
	Cores, Sockets, PhysicalCores int
	MemoryTotal, MemoryFree       uint64 // free: what new work could get without swapping
	SwapTotal                     uint64
	MaxPID, Tasks                 uint64
	Interfaces                    []Interface
	DefaultInterface              string
	FS                            FS      // of the state directory
	Parents                       []Group // podd's parent cgroup, kubepods and the classes below it
	Podd                          Process
	Containerd                    *Process // nil: not there
}

// Process is one process of the host.
type Process struct {
	Started       time.Time
	CPU           time.Duration
	RSS, RSSAnon  uint64
	Faults, Major uint64
}

// ProbeTimes are the upper bounds that the times of probes are counted within, in seconds (Prometheus' own).
var ProbeTimes = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Probe is what one probe has answered since podd runs.
type Probe struct {
	Namespace, Pod, UID, Container string
	Kind                           string // Liveness, Readiness or Startup

	Succeeded, Failed uint64
	Took              time.Duration           // of all that succeeded
	Within            [len(ProbeTimes)]uint64 // those that took at most so long, and more than the bound before
}
