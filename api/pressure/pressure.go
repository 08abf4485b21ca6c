// Package pressure says when a host has too little left of something, and which of its pods goes for that. It is pure. The
// rules and the words are the kubelet's (pkg/kubelet/eviction).
package pressure

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a host may have too little of.
type Signal string

// The signals. nodefs is the file system of podd's state, imagefs that of containerd's; they may be one.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFSAvailable   Signal = "nodefs.available"
	NodeFSInodesFree  Signal = "nodefs.inodesFree"
	ImageFSAvailable  Signal = "imagefs.available"
	ImageFSInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that a pod does not ask for by these names, but may use too much of.
const (
	Inodes v1.ResourceName = "inodes"
	PIDs   v1.ResourceName = "pids"
)

// signals are all of them in the order in which they are acted on: memory goes first.
var signals = []struct {
	Signal
	resource  v1.ResourceName
	condition v1.NodeConditionType
}{
	{MemoryAvailable, v1.ResourceMemory, v1.NodeMemoryPressure},
	{NodeFSAvailable, v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	{ImageFSAvailable, v1.ResourceEphemeralStorage, v1.NodeDiskPressure},
	{NodeFSInodesFree, Inodes, v1.NodeDiskPressure},
	{ImageFSInodesFree, Inodes, v1.NodeDiskPressure},
	{PIDAvailable, PIDs, v1.NodePIDPressure},
}

// order is where s is among the signals, -1 if it is none.
func (s Signal) order() int {
	for i := range signals {
		if signals[i].Signal == s {
			return i
		}
	}
	return -1
}

// Resource is what there is too little of, as messages call it.
func (s Signal) Resource() v1.ResourceName { return signals[s.order()].resource }

// Threshold is the least that a host should have left: a quantity, or else a part of all there is.
type Threshold struct {
	Signal
	Least *resource.Quantity
	Part  float32 // 0.1 is a tenth
}

// Quantity is the threshold on a host that has so much in all.
func (t Threshold) Quantity(capacity int64) *resource.Quantity {
	if t.Least != nil {
		least := t.Least.DeepCopy()
		return &least
	}
	return resource.NewQuantity(int64(float64(capacity)*float64(t.Part)), resource.BinarySI)
}

// Thresholds are at most one of each signal, in the order of the signals.
type Thresholds []Threshold

// Default is the kubelet's.
const Default = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"

// Parse reads thresholds as the kubelet's flag --eviction-hard has them; what it does not name has none.
func Parse(text string) (Thresholds, error) {
	var all Thresholds
	for statement := range strings.SplitSeq(text, ",") {
		if statement = strings.TrimSpace(statement); statement == "" {
			continue
		}
		t, err := parse(statement)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", statement, err)
		}
		if slices.ContainsFunc(all, func(o Threshold) bool { return o.Signal == t.Signal }) {
			return nil, fmt.Errorf("%q: there are two thresholds of %s", statement, t.Signal)
		}
		all = append(all, t)
	}
	all = slices.DeleteFunc(all, func(t Threshold) bool { return t.Least == nil && (t.Part == 0 || t.Part == 1) }) // these mean none
	slices.SortFunc(all, func(a, b Threshold) int { return a.order() - b.order() })
	return all, nil
}

func parse(statement string) (Threshold, error) {
	signal, value, ok := strings.Cut(statement, "<")
	signal, value = strings.TrimSpace(signal), strings.TrimSpace(value)
	t := Threshold{Signal: Signal(signal)}
	if !ok {
		return t, fmt.Errorf("must be SIGNAL<VALUE, like %s<100Mi", MemoryAvailable)
	}
	if t.order() < 0 {
		var known []string
		for _, s := range signals {
			known = append(known, string(s.Signal))
		}
		return t, fmt.Errorf("unknown signal %q: there are %s", signal, strings.Join(known, ", "))
	}
	if digits, ok := strings.CutSuffix(value, "%"); ok {
		part, err := strconv.ParseFloat(digits, 32)
		if err != nil || !(part >= 0 && part <= 100) {
			return t, fmt.Errorf("%q: must be from 0%% to 100%%", value)
		}
		t.Part = float32(part) / 100
		return t, nil
	}
	least, err := resource.ParseQuantity(value)
	if err != nil || least.Sign() <= 0 {
		return t, fmt.Errorf("%q: must be a quantity above 0, like 100Mi, or a part, like 10%%", value)
	}
	t.Least = &least
	return t, nil
}

// Observation is how much a host has left of something, and in all.
type Observation struct{ Available, Capacity int64 }

// Observations are those that could be made.
type Observations map[Signal]Observation

// Met are the thresholds that the host is below.
func (ts Thresholds) Met(o Observations) (met Thresholds) {
	for _, t := range ts {
		if seen, ok := o[t.Signal]; ok && t.Quantity(seen.Capacity).CmpInt64(seen.Available) > 0 {
			met = append(met, t)
		}
	}
	return met
}

// Conditions are when a host was last seen under each kind of pressure.
type Conditions map[v1.NodeConditionType]time.Time

// See notes the thresholds that are met now.
func (c Conditions) See(met Thresholds, now time.Time) {
	for _, t := range met {
		c[signals[t.order()].condition] = now
	}
}

// Hold are the conditions that are true now: those that were seen less than period ago. Signals come and go; the
// conditions do not.
func (c Conditions) Hold(now time.Time, period time.Duration) (hold []v1.NodeConditionType) {
	for _, s := range signals {
		if at, seen := c[s.condition]; seen && now.Sub(at) < period && !slices.Contains(hold, s.condition) {
			hold = append(hold, s.condition)
		}
	}
	return hold
}

// Taints are what the conditions put on a node, by pkg/controller/nodelifecycle.
var Taints = map[v1.NodeConditionType]string{
	v1.NodeMemoryPressure: v1.TaintNodeMemoryPressure,
	v1.NodeDiskPressure:   v1.TaintNodeDiskPressure,
	v1.NodePIDPressure:    v1.TaintNodePIDPressure,
}
