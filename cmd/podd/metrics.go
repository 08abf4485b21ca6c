package main

import (
	"context"
	"encoding/json"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/usage"
	"podd/runtime/logs"
	"podd/runtime/stats"
	"podd/status"
)

// measurer measures the host's pods: it knows where podd's parts keep what.
func (p *podd) measurer() *stats.Stats {
	c := p.config
	var trees []stats.Tree
	for _, t := range p.sandboxes.Trees() {
		trees = append(trees, stats.Tree{At: t.At, Controllers: t.Controllers, V2: t.V2})
	}
	return stats.New(stats.Options{
		Pods: p.store.Pods, Node: c.NodeName, Trees: trees, Parent: p.sandboxes.CgroupParent(), Cgroup: p.sandboxes.CgroupPath,
		Sandbox: func(uid string, attempt int) string { return status.ContainerID(types.UID(uid), "", attempt) },
		Volume:  func(uid, name string) string { return filepath.Join(c.Root, "pods", uid, "volumes", name) },
		Logs: func(pod *v1.Pod, container string) string {
			return filepath.Join(logs.PodDir(c.LogDir, pod.Namespace, pod.Name, string(pod.UID)), container)
		},
		Root: c.Root, Log: p.log,
		Containerd: func() int {
			pid, err := listener(p.bundle.ContainerdSocket())
			if err != nil {
				return 0
			}
			return pid
		},
	})
}

func (a *attendant) Usage(ctx context.Context, want usage.Want) (*usage.Snapshot, error) {
	return a.stats.Look(ctx, want)
}

func (a *attendant) Probes() []usage.Probe { return a.runtime.Probes() }

// MarshalJSON writes what UnmarshalJSON reads.
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
