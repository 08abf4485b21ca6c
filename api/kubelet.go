package api

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletstats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"podd/api/exposition"
	"podd/api/usage"
)

// kubeletPaths are the paths of a kubelet that monitoring tools ask for. nodes/proxy serves the same mux.
func (s *Server) kubeletPaths(mux *http.ServeMux) {
	mux.Handle("GET /metrics", s.ownMetrics())
	mux.HandleFunc("GET /metrics/resource", s.serveResource)
	mux.HandleFunc("GET /metrics/cadvisor", s.serveCadvisor)
	mux.HandleFunc("GET /metrics/probes", s.serveProbes)
	for _, path := range []string{"/stats/summary", "/stats/summary/{$}"} {
		mux.HandleFunc("GET "+path, s.serveSummary)
		mux.HandleFunc("POST "+path, s.serveSummary)
	}
	for _, path := range []string{"/pods", "/pods/{$}"} {
		mux.HandleFunc("GET "+path, s.servePods)
	}
	for _, path := range []string{"/runningpods", "/runningpods/{$}"} {
		mux.HandleFunc("GET "+path, s.serveRunningPods)
	}
	mux.HandleFunc("GET /configz", s.serveConfigz)
}

// zipped answers with what write writes, compressed for those who take that.
func zipped(w http.ResponseWriter, r *http.Request, contentType string, write func(io.Writer) error) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Vary", "Accept-Encoding")
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_ = write(w)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one
	_ = write(z)
	_ = z.Close()
}

// measured is the host's measurement; nil, with the reason in the log, when there is none.
func (s *Server) measured(ctx context.Context, want usage.Want) *usage.Snapshot {
	found, err := s.Runtime.Usage(ctx, want)
	if err != nil {
		s.Log.Warn("measure pods", "err", err)
		return nil
	}
	return found
}

func (s *Server) serveResource(w http.ResponseWriter, r *http.Request) {
	found := s.measured(r.Context(), usage.Want{})
	zipped(w, r, exposition.ContentType, func(out io.Writer) error { return exposition.Resource(out, found) })
}

func (s *Server) serveCadvisor(w http.ResponseWriter, r *http.Request) {
	found := s.measured(r.Context(), usage.Want{Full: true})
	info := machineInfo()
	machine := exposition.Machine{BootID: info.BootID, MachineID: info.MachineID, SystemUUID: info.SystemUUID,
		Kernel: info.KernelVersion, OS: info.OSImage, Version: s.Version}
	zipped(w, r, exposition.ContentType, func(out io.Writer) error { return exposition.Cadvisor(out, found, machine) })
}

func (s *Server) serveProbes(w http.ResponseWriter, r *http.Request) {
	all := s.Runtime.Probes()
	zipped(w, r, exposition.ContentType, func(out io.Writer) error { return exposition.Probes(out, all) })
}

func (s *Server) serveSummary(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // a body that is none says nothing
	least := slices.Contains([]string{"true", "1"}, r.Form.Get("only_cpu_and_memory"))
	found, err := s.Runtime.Usage(r.Context(), usage.Want{Full: !least})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	summary := s.summary(found, least)
	zipped(w, r, "application/json", func(out io.Writer) error {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", " ")
		return encoder.Encode(summary)
	})
}

// servePods is every pod that is bound to this node.
func (s *Server) servePods(w http.ResponseWriter, r *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
	for _, pod := range s.Store.Pods() {
		if pod.Spec.NodeName == s.NodeName {
			list.Items = append(list.Items, *pod)
		}
	}
	writePods(w, r, list)
}

// serveRunningPods is the pods that have running containers, with nothing but these.
func (s *Server) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
	found := s.measured(r.Context(), usage.Want{})
	if found == nil {
		http.Error(w, "the host's pods cannot be looked at", http.StatusInternalServerError)
		return
	}
	for _, p := range found.Pods {
		pod := v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: types.UID(p.UID)}}
		for _, c := range p.Containers {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.Name, Image: c.Image})
		}
		if len(p.Containers) > 0 {
			list.Items = append(list.Items, pod)
		}
	}
	writePods(w, r, list)
}

func writePods(w http.ResponseWriter, r *http.Request, list v1.PodList) {
	slices.SortFunc(list.Items, func(a, b v1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	zipped(w, r, "application/json", func(out io.Writer) error { return json.NewEncoder(out).Encode(list) })
}

// serveConfigz is podd's configuration, under the name that tools look for.
func (s *Server) serveConfigz(w http.ResponseWriter, r *http.Request) {
	zipped(w, r, "application/json", func(out io.Writer) error {
		return json.NewEncoder(out).Encode(map[string]any{"kubeletconfig": s.configuration()})
	})
}

// summary is the measurement in the kubelet's own types.
func (s *Server) summary(found *usage.Snapshot, least bool) *kubeletstats.Summary {
	at := metav1.NewTime(found.At)
	n := &found.Node
	out := &kubeletstats.Summary{Pods: []kubeletstats.PodStats{}, Node: kubeletstats.NodeStats{
		NodeName: s.NodeName, StartTime: metav1.NewTime(n.Started), CPU: cpuStats(&n.Group, at), Memory: memoryStats(&n.Group, at),
		Swap: swapStats(&n.Group, at),
	}}
	available := n.MemoryFree
	out.Node.Memory.AvailableBytes = &available
	left := n.SwapTotal - min(n.Memory.Swap, n.SwapTotal)
	out.Node.Swap.SwapAvailableBytes = &left
	for i := range n.Parents {
		if g := &n.Parents[i]; strings.HasSuffix(g.ID, "/kubepods") {
			out.Node.SystemContainers = append(out.Node.SystemContainers, kubeletstats.ContainerStats{
				Name: kubeletstats.SystemContainerPods, StartTime: metav1.NewTime(n.Started), CPU: cpuStats(g, at), Memory: memoryStats(g, at)})
		}
	}
	if !least {
		nodeMore(&out.Node, n, at)
	}
	for i := range found.Pods {
		out.Pods = append(out.Pods, podStats(&found.Pods[i], at, least))
	}
	return out
}

// nodeMore is what a summary has of the node beside cpu and memory.
func nodeMore(out *kubeletstats.NodeStats, n *usage.Node, at metav1.Time) {
	out.Network = networkStats(n.Interfaces, n.DefaultInterface, at)
	out.Fs = fsStats(n.FS, n.FS.Size-min(n.FS.Free, n.FS.Size), n.FS.Inodes-min(n.FS.InodesFree, n.FS.Inodes), at)
	out.Runtime = &kubeletstats.RuntimeStats{ImageFs: fsStats(n.FS, 0, 0, at), ContainerFs: fsStats(n.FS, 0, 0, at)}
	out.Runtime.ImageFs.UsedBytes, out.Runtime.ImageFs.InodesUsed = nil, nil // nobody has counted them
	out.Runtime.ContainerFs.UsedBytes, out.Runtime.ContainerFs.InodesUsed = nil, nil
	most, tasks := int64(n.MaxPID), int64(n.Tasks)
	out.Rlimit = &kubeletstats.RlimitStats{Time: at, MaxPID: &most, NumOfRunningProcesses: &tasks}
	out.IO = ioStats(&n.Group, at)
	processes := map[string]*usage.Process{kubeletstats.SystemContainerKubelet: &n.Podd, kubeletstats.SystemContainerRuntime: n.Containerd}
	for _, name := range []string{kubeletstats.SystemContainerKubelet, kubeletstats.SystemContainerRuntime} {
		if p := processes[name]; p != nil {
			used := uint64(p.CPU)
			out.SystemContainers = append(out.SystemContainers, kubeletstats.ContainerStats{Name: name, StartTime: metav1.NewTime(p.Started),
				CPU: &kubeletstats.CPUStats{Time: at, UsageCoreNanoSeconds: &used},
				Memory: &kubeletstats.MemoryStats{Time: at, UsageBytes: &p.RSS, WorkingSetBytes: &p.RSS, RSSBytes: &p.RSSAnon,
					PageFaults: &p.Faults, MajorPageFaults: &p.Major}})
		}
	}
}

func podStats(p *usage.Pod, at metav1.Time, least bool) kubeletstats.PodStats {
	out := kubeletstats.PodStats{
		PodRef:    kubeletstats.PodReference{Name: p.Name, Namespace: p.Namespace, UID: p.UID},
		StartTime: metav1.NewTime(p.Started), CPU: cpuStats(&p.Group, at), Memory: memoryStats(&p.Group, at), Swap: swapStats(&p.Group, at),
		Containers: []kubeletstats.ContainerStats{},
	}
	var files, inodes uint64
	for i := range p.Containers {
		c := &p.Containers[i]
		stats := kubeletstats.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.Started), CPU: cpuStats(&c.Group, at),
			Memory: memoryStats(&c.Group, at), Swap: swapStats(&c.Group, at)}
		if !least {
			stats.Rootfs, stats.Logs, stats.IO = diskStats(c.Root), diskStats(c.Logs), ioStats(&c.Group, at)
			files, inodes = files+c.Root.Used+c.Logs.Used, inodes+c.Root.Inodes+c.Logs.Inodes
		}
		out.Containers = append(out.Containers, stats)
	}
	if least {
		return out
	}
	for _, v := range p.Volumes {
		if fs := diskStats(v.Disk); fs != nil {
			out.VolumeStats = append(out.VolumeStats, kubeletstats.VolumeStats{FsStats: *fs, Name: v.Name})
		}
		if !v.Memory {
			files, inodes = files+v.Used, inodes+v.Inodes
		}
	}
	out.Network = networkStats(p.Interfaces, "eth0", at)
	processes := p.Processes
	out.ProcessStats = &kubeletstats.ProcessStats{ProcessCount: &processes}
	out.IO = ioStats(&p.Group, at)
	for _, c := range p.Containers {
		if c.Root.Known {
			out.EphemeralStorage = fsStats(c.Root.FS, files, inodes, at)
			break
		}
	}
	return out
}

func cpuStats(g *usage.Group, at metav1.Time) *kubeletstats.CPUStats {
	used := uint64(g.CPU.Usage)
	out := &kubeletstats.CPUStats{Time: at, UsageCoreNanoSeconds: &used, PSI: psiStats(g.CPUStall)}
	if g.CPU.Window > 0 {
		rate := uint64(g.CPU.Rate * float64(time.Second))
		out.UsageNanoCores = &rate
	}
	return out
}

func memoryStats(g *usage.Group, at metav1.Time) *kubeletstats.MemoryStats {
	m := g.Memory
	out := &kubeletstats.MemoryStats{Time: at, UsageBytes: &m.Usage, WorkingSetBytes: &m.WorkingSet, RSSBytes: &m.RSS,
		PageFaults: &m.Faults, MajorPageFaults: &m.MajorFaults, PSI: psiStats(g.MemoryStall)}
	if m.Limit > 0 {
		left := m.Limit - min(m.WorkingSet, m.Limit)
		out.AvailableBytes = &left
	}
	return out
}

func swapStats(g *usage.Group, at metav1.Time) *kubeletstats.SwapStats {
	used := g.Memory.Swap
	return &kubeletstats.SwapStats{Time: at, SwapUsageBytes: &used}
}

func ioStats(g *usage.Group, at metav1.Time) *kubeletstats.IOStats {
	if psi := psiStats(g.IOStalls); psi != nil {
		return &kubeletstats.IOStats{Time: at, PSI: psi}
	}
	return nil
}

func psiStats(s usage.Stall) *kubeletstats.PSIStats {
	if !s.Known {
		return nil
	}
	data := func(p usage.Pressure) kubeletstats.PSIData {
		return kubeletstats.PSIData{Total: uint64(p.Total), Avg10: p.Avg10, Avg60: p.Avg60, Avg300: p.Avg300}
	}
	return &kubeletstats.PSIStats{Full: data(s.Full), Some: data(s.Some)}
}

func networkStats(all []usage.Interface, main string, at metav1.Time) *kubeletstats.NetworkStats {
	if len(all) == 0 {
		return nil
	}
	out := &kubeletstats.NetworkStats{Time: at}
	for i := range all {
		n := &all[i]
		stats := kubeletstats.InterfaceStats{Name: n.Name, RxBytes: &n.RxBytes, RxErrors: &n.RxErrors, TxBytes: &n.TxBytes, TxErrors: &n.TxErrors}
		if n.Name == main {
			out.InterfaceStats = stats
		}
		out.Interfaces = append(out.Interfaces, stats)
	}
	return out
}

func diskStats(d usage.Disk) *kubeletstats.FsStats {
	if !d.Known {
		return nil
	}
	return fsStats(d.FS, d.Used, d.Inodes, metav1.NewTime(d.At))
}

func fsStats(fs usage.FS, used, inodes uint64, at metav1.Time) *kubeletstats.FsStats {
	return &kubeletstats.FsStats{Time: at, AvailableBytes: &fs.Free, CapacityBytes: &fs.Size, UsedBytes: &used,
		InodesFree: &fs.InodesFree, Inodes: &fs.Inodes, InodesUsed: &inodes}
}
