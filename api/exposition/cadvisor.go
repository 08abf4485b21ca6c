package exposition

import (
	"io"
	"strconv"
	"time"

	"podd/api/usage"
)

// Machine is what the machine_* series say the host is.
type Machine struct{ BootID, MachineID, SystemUUID, Kernel, OS, Version string }

// entry is one cgroup with its labels. pod is set for a pod's sandbox, which stands for the network of the pod.
type entry struct {
	*usage.Group
	labels    string
	container *usage.Container // of a container or a sandbox
	network   []usage.Interface
	fs        *usage.FS // of the node
	fsUsed    uint64
}

// entries are all cgroups, outer before inner.
func entries(s *usage.Snapshot) []entry {
	all := make([]entry, 0, 8+3*len(s.Pods))
	group := func(g *usage.Group) entry {
		return entry{Group: g, labels: labelled("container", "", "id", g.ID, "image", "", "name", "", "namespace", "", "pod", "")}
	}
	node := group(&s.Node.Group)
	node.network, node.fs = s.Node.Interfaces, &s.Node.FS
	node.fsUsed = s.Node.FS.Size - min(s.Node.FS.Free, s.Node.FS.Size)
	all = append(all, node)
	for i := range s.Node.Parents {
		all = append(all, group(&s.Node.Parents[i]))
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		all = append(all, entry{Group: &p.Group,
			labels: labelled("container", "", "id", p.ID, "image", "", "name", "", "namespace", p.Namespace, "pod", p.Name)})
		if c := p.Sandbox; c != nil {
			all = append(all, entry{Group: &c.Group, container: c, network: p.Interfaces,
				labels: labelled("container", "", "id", c.ID, "image", "pause", "name", c.ContainerID, "namespace", p.Namespace, "pod", p.Name)})
		}
		for j := range p.Containers {
			c := &p.Containers[j]
			all = append(all, entry{Group: &c.Group, container: c,
				labels: labelled("container", c.Name, "id", c.ID, "image", c.Image, "name", c.ContainerID, "namespace", p.Namespace, "pod", p.Name)})
		}
	}
	return all
}

// Cadvisor writes the kubelet's /metrics/cadvisor: the series of cAdvisor that there are numbers for. A nil snapshot is
// one that could not be made.
func Cadvisor(out io.Writer, s *usage.Snapshot, m Machine) error {
	w := newWriter(out)
	failed := 1.0
	if s != nil {
		failed = 0
		w.stamp(s.At)
		all := entries(s)
		for i := range families {
			families[i].write(w, all)
		}
		devices(w, all)
		network(w, all)
		failures(w, all)
		fileSystems(w, all, s)
		lastSeen(w, all, s)
		stalls(w, all)
		w.stamp(time.Time{})
		machine(w, s, m)
	}
	w.family("container_scrape_error", gauge, "1 if the numbers could not be had, 0 otherwise")
	w.sample("container_scrape_error", failed)
	return w.end()
}

// family is one with one sample for each cgroup.
type family struct {
	name, kind, help, label string
	value                   func(*entry) (float64, bool)
}

func (f *family) write(w *writer, all []entry) {
	w.family(f.name, f.kind, f.help)
	for i := range all {
		if v, ok := f.value(&all[i]); ok {
			w.sample(f.name, v, all[i].labels, f.label)
		}
	}
}

func always(f func(*entry) float64) func(*entry) (float64, bool) {
	return func(e *entry) (float64, bool) { return f(e), true }
}

// limited is for numbers that only mean something where there is a limit of the cpu.
func limited(f func(*entry) float64) func(*entry) (float64, bool) {
	return func(e *entry) (float64, bool) { return f(e), e.Limits.Quota > 0 }
}

func positive(f func(*entry) float64) func(*entry) (float64, bool) {
	return func(e *entry) (float64, bool) { v := f(e); return v, v > 0 }
}

// notRoot is for limits, of which the root cgroup has none.
func notRoot(f func(*entry) float64) func(*entry) (float64, bool) {
	return func(e *entry) (float64, bool) { return f(e), e.ID != "/" }
}

var families = []family{
	{"container_cpu_usage_seconds_total", counter, "Time that processors have worked", `cpu="total"`,
		always(func(e *entry) float64 { return e.CPU.Usage.Seconds() })},
	{"container_cpu_user_seconds_total", counter, "Time that processors have worked for programs", "",
		always(func(e *entry) float64 { return e.CPU.User.Seconds() })},
	{"container_cpu_system_seconds_total", counter, "Time that processors have worked in the kernel", "",
		always(func(e *entry) float64 { return e.CPU.System.Seconds() })},
	{"container_cpu_cfs_periods_total", counter, "Periods in which there was a limit of the cpu", "",
		limited(func(e *entry) float64 { return float64(e.CPU.Periods) })},
	{"container_cpu_cfs_throttled_periods_total", counter, "Periods in which the limit of the cpu was reached", "",
		limited(func(e *entry) float64 { return float64(e.CPU.Throttled) })},
	{"container_cpu_cfs_throttled_seconds_total", counter, "Time for which tasks were held back by the limit of the cpu", "",
		limited(func(e *entry) float64 { return e.CPU.ThrottledTime.Seconds() })},
	{"container_memory_usage_bytes", gauge, "Memory in use, with all caches", "",
		always(func(e *entry) float64 { return float64(e.Memory.Usage) })},
	{"container_memory_working_set_bytes", gauge, "Memory in use that cannot be had back at once", "",
		always(func(e *entry) float64 { return float64(e.Memory.WorkingSet) })},
	{"container_memory_rss", gauge, "Anonymous memory, in bytes", "",
		always(func(e *entry) float64 { return float64(e.Memory.RSS) })},
	{"container_memory_cache", gauge, "Memory that holds pages of files, in bytes", "",
		always(func(e *entry) float64 { return float64(e.Memory.Cache) })},
	{"container_memory_mapped_file", gauge, "Memory that maps files, in bytes", "",
		always(func(e *entry) float64 { return float64(e.Memory.Mapped) })},
	{"container_memory_kernel_usage", gauge, "Memory that the kernel has taken, in bytes", "",
		always(func(e *entry) float64 { return float64(e.Memory.Kernel) })},
	{"container_memory_swap", gauge, "Swap in use, in bytes", "",
		always(func(e *entry) float64 { return float64(e.Memory.Swap) })},
	{"container_memory_failcnt", counter, "How often the limit of memory was reached", "",
		always(func(e *entry) float64 { return float64(e.Memory.Failures) })},
	{"container_memory_max_usage_bytes", gauge, "The most memory that was in use", "",
		positive(func(e *entry) float64 { return float64(e.Memory.Max) })},
	{"container_oom_events_total", counter, "How often the kernel killed because the limit of memory was reached", "",
		always(func(e *entry) float64 { return float64(e.Memory.OOMKills) })},
	{"container_processes", gauge, "Processes in the container", "",
		func(e *entry) (float64, bool) { return float64(e.Processes), e.container != nil }},
	{"container_threads", gauge, "Threads", "",
		always(func(e *entry) float64 { return float64(e.Threads) })},
	{"container_threads_max", gauge, "The most threads there may be; 0 is no limit", "",
		always(func(e *entry) float64 { return float64(e.Limits.Tasks) })},
	{"container_spec_cpu_shares", gauge, "Weight among those that want the cpu", "",
		notRoot(func(e *entry) float64 { return float64(e.Limits.Shares) })},
	{"container_spec_cpu_quota", gauge, "Microseconds of cpu in a period", "",
		limited(func(e *entry) float64 { return float64(e.Limits.Quota) })},
	{"container_spec_cpu_period", gauge, "Microseconds of a period", "",
		positive(func(e *entry) float64 { return float64(e.Limits.Period) })},
	{"container_spec_memory_limit_bytes", gauge, "The most memory there may be; 0 is no limit", "",
		notRoot(func(e *entry) float64 { return float64(e.Memory.Limit) })},
	{"container_spec_memory_swap_limit_bytes", gauge, "The most swap there may be, on cgroup v1 with the memory; 0 is no limit", "",
		notRoot(func(e *entry) float64 { return float64(e.Memory.SwapLimit) })},
	{"container_start_time_seconds", gauge, "When it was started, in seconds of the Unix epoch", "",
		positive(func(e *entry) float64 { return seconds(e.Started) })},
}

// devices writes block I/O.
func devices(w *writer, all []entry) {
	for _, f := range []struct {
		name, help string
		value      func(*usage.Device) uint64
	}{
		{"container_fs_reads_bytes_total", "Bytes read from the device", func(d *usage.Device) uint64 { return d.ReadBytes }},
		{"container_fs_writes_bytes_total", "Bytes written to the device", func(d *usage.Device) uint64 { return d.WriteBytes }},
		{"container_fs_reads_total", "Reads from the device", func(d *usage.Device) uint64 { return d.Reads }},
		{"container_fs_writes_total", "Writes to the device", func(d *usage.Device) uint64 { return d.Writes }},
	} {
		w.family(f.name, counter, f.help)
		for i := range all {
			for j := range all[i].Devices {
				d := &all[i].Devices[j]
				w.sample(f.name, float64(f.value(d)), all[i].labels, labelled("device", d.Name))
			}
		}
	}
	const name = "container_blkio_device_usage_total"
	w.family(name, counter, "Bytes read from and written to the device")
	for i := range all {
		for j := range all[i].Devices {
			d := &all[i].Devices[j]
			where := labelled("device", d.Name, "major", strconv.FormatUint(d.Major, 10), "minor", strconv.FormatUint(d.Minor, 10))
			w.sample(name, float64(d.ReadBytes), all[i].labels, where, `operation="Read"`)
			w.sample(name, float64(d.WriteBytes), all[i].labels, where, `operation="Write"`)
		}
	}
}

// network writes the interfaces of pods, under their sandbox, and of the host.
func network(w *writer, all []entry) {
	for _, f := range []struct {
		name, help string
		value      func(*usage.Interface) uint64
	}{
		{"container_network_receive_bytes_total", "Bytes received", func(i *usage.Interface) uint64 { return i.RxBytes }},
		{"container_network_receive_packets_total", "Packets received", func(i *usage.Interface) uint64 { return i.RxPackets }},
		{"container_network_receive_errors_total", "Errors while receiving", func(i *usage.Interface) uint64 { return i.RxErrors }},
		{"container_network_receive_packets_dropped_total", "Received packets that were dropped", func(i *usage.Interface) uint64 { return i.RxDropped }},
		{"container_network_transmit_bytes_total", "Bytes sent", func(i *usage.Interface) uint64 { return i.TxBytes }},
		{"container_network_transmit_packets_total", "Packets sent", func(i *usage.Interface) uint64 { return i.TxPackets }},
		{"container_network_transmit_errors_total", "Errors while sending", func(i *usage.Interface) uint64 { return i.TxErrors }},
		{"container_network_transmit_packets_dropped_total", "Packets to send that were dropped", func(i *usage.Interface) uint64 { return i.TxDropped }},
	} {
		w.family(f.name, counter, f.help)
		for i := range all {
			for j := range all[i].network {
				n := &all[i].network[j]
				w.sample(f.name, float64(f.value(n)), all[i].labels, labelled("interface", n.Name))
			}
		}
	}
}

// failures writes page faults. A cgroup's numbers contain those of the ones below it.
func failures(w *writer, all []entry) {
	const name = "container_memory_failures_total"
	w.family(name, counter, "Page faults")
	for i := range all {
		e := &all[i]
		w.sample(name, float64(e.Memory.Faults), e.labels, `failure_type="pgfault",scope="hierarchy"`)
		w.sample(name, float64(e.Memory.MajorFaults), e.labels, `failure_type="pgmajfault",scope="hierarchy"`)
		if e.container != nil {
			w.sample(name, float64(e.Memory.Faults), e.labels, `failure_type="pgfault",scope="container"`)
			w.sample(name, float64(e.Memory.MajorFaults), e.labels, `failure_type="pgmajfault",scope="container"`)
		}
	}
}

// fileSystems writes what containers' own files and logs take, of the node's file system that they are on.
func fileSystems(w *writer, all []entry, s *usage.Snapshot) {
	device := labelled("device", s.Node.FS.Device)
	for _, f := range []struct {
		name, help string
		node       func(*entry) uint64
		container  func(*usage.Container) (uint64, bool)
	}{
		{"container_fs_usage_bytes", "Bytes that files take", func(e *entry) uint64 { return e.fsUsed },
			func(c *usage.Container) (uint64, bool) { return c.Root.Used + c.Logs.Used, c.Root.Known }},
		{"container_fs_limit_bytes", "Size of the file system in bytes", func(e *entry) uint64 { return e.fs.Size },
			func(c *usage.Container) (uint64, bool) { return c.Root.FS.Size, c.Root.Known }},
		{"container_fs_inodes_total", "Inodes of the file system", func(e *entry) uint64 { return e.fs.Inodes },
			func(c *usage.Container) (uint64, bool) { return c.Root.FS.Inodes, c.Root.Known }},
		{"container_fs_inodes_free", "Inodes that are free", func(e *entry) uint64 { return e.fs.InodesFree },
			func(c *usage.Container) (uint64, bool) { return c.Root.FS.InodesFree, c.Root.Known }},
	} {
		w.family(f.name, gauge, f.help)
		for i := range all {
			e := &all[i]
			if e.fs != nil {
				w.sample(f.name, float64(f.node(e)), e.labels, device)
			} else if e.container != nil {
				if v, ok := f.container(e.container); ok {
					w.sample(f.name, float64(v), e.labels, device)
				}
			}
		}
	}
}

func lastSeen(w *writer, all []entry, s *usage.Snapshot) {
	w.family("container_last_seen", gauge, "When it was measured, in seconds of the Unix epoch")
	for i := range all {
		w.sample("container_last_seen", float64(s.At.Unix()), all[i].labels)
	}
}

// stalls writes PSI, where the kernel has it: on cgroup v2, and for the host.
func stalls(w *writer, all []entry) {
	for _, f := range []struct {
		name, help string
		of         func(*entry) *usage.Stall
	}{
		{"container_pressure_cpu", "for the cpu", func(e *entry) *usage.Stall { return &e.CPUStall }},
		{"container_pressure_memory", "for memory", func(e *entry) *usage.Stall { return &e.MemoryStall }},
		{"container_pressure_io", "for I/O", func(e *entry) *usage.Stall { return &e.IOStalls }},
	} {
		for _, part := range []struct {
			name, help string
			of         func(*usage.Stall) float64
		}{
			{f.name + "_stalled_seconds_total", "Time in which all tasks had to wait ", func(s *usage.Stall) float64 { return s.Full.Total.Seconds() }},
			{f.name + "_waiting_seconds_total", "Time in which a task had to wait ", func(s *usage.Stall) float64 { return s.Some.Total.Seconds() }},
		} {
			w.family(part.name, counter, part.help+f.help)
			for i := range all {
				if stall := f.of(&all[i]); stall.Known {
					w.sample(part.name, part.of(stall), all[i].labels)
				}
			}
		}
	}
}

func machine(w *writer, s *usage.Snapshot, m Machine) {
	labels := labelled("boot_id", m.BootID, "machine_id", m.MachineID, "system_uuid", m.SystemUUID)
	for _, f := range []struct {
		name, help string
		value      float64
	}{
		{"machine_cpu_cores", "Logical processors", float64(s.Node.Cores)},
		{"machine_cpu_physical_cores", "Physical cores", float64(s.Node.PhysicalCores)},
		{"machine_cpu_sockets", "Sockets", float64(s.Node.Sockets)},
		{"machine_memory_bytes", "Memory in bytes", float64(s.Node.MemoryTotal)},
		{"machine_swap_bytes", "Swap in bytes", float64(s.Node.SwapTotal)},
	} {
		w.family(f.name, gauge, f.help)
		w.sample(f.name, f.value, labels)
	}
	w.family("machine_scrape_error", gauge, "1 if the numbers of the machine could not be had, 0 otherwise")
	w.sample("machine_scrape_error", 0)
	w.family("cadvisor_version_info", gauge, "Always 1: who made this, and on what")
	w.sample("cadvisor_version_info", 1, labelled("cadvisorRevision", "podd", "cadvisorVersion", m.Version, "dockerVersion", "",
		"kernelVersion", m.Kernel, "osVersion", m.OS))
}
