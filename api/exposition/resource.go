package exposition

import (
	"io"

	"podd/api/usage"
)

// Resource writes the kubelet's /metrics/resource (pkg/kubelet/metrics/collectors/resource_metrics.go). A nil snapshot
// is one that could not be made.
func Resource(out io.Writer, s *usage.Snapshot) error {
	w := newWriter(out)
	failed := 1.0
	if s != nil {
		failed = 0
		w.stamp(s.At)
		resourceNode(w, &s.Node)
		resourceContainers(w, s)
		resourcePods(w, s)
	}
	w.at = w.at[:0]
	for _, name := range []string{"resource_scrape_error", "scrape_error"} {
		w.family(name, gauge, "1 if the numbers could not be had, 0 otherwise")
		w.sample(name, failed)
	}
	return w.end()
}

func resourceNode(w *writer, n *usage.Node) {
	w.family("node_cpu_usage_seconds_total", counter, "Time that the processors of the node have worked")
	w.sample("node_cpu_usage_seconds_total", n.CPU.Usage.Seconds())
	w.family("node_memory_working_set_bytes", gauge, "Memory of the node that cannot be had back at once")
	w.sample("node_memory_working_set_bytes", float64(n.Memory.WorkingSet))
	w.family("node_swap_usage_bytes", gauge, "Swap of the node that is in use")
	w.sample("node_swap_usage_bytes", float64(n.Memory.Swap))
}

func resourceContainers(w *writer, s *usage.Snapshot) {
	for _, f := range []struct {
		name, kind, help string
		value            func(*usage.Container) float64
	}{
		{"container_cpu_usage_seconds_total", counter, "Time that processors have worked for the container",
			func(c *usage.Container) float64 { return c.CPU.Usage.Seconds() }},
		{"container_memory_working_set_bytes", gauge, "Memory of the container that cannot be had back at once",
			func(c *usage.Container) float64 { return float64(c.Memory.WorkingSet) }},
		{"container_swap_usage_bytes", gauge, "Swap that the container uses",
			func(c *usage.Container) float64 { return float64(c.Memory.Swap) }},
		{"container_start_time_seconds", gauge, "When the container was started, in seconds of the Unix epoch", nil},
	} {
		w.family(f.name, f.kind, f.help)
		if f.value == nil {
			w.at = w.at[:0]
		}
		for i := range s.Pods {
			p := &s.Pods[i]
			for j := range p.Containers {
				c := &p.Containers[j]
				labels := labelled("container", c.Name, "namespace", p.Namespace, "pod", p.Name)
				if f.value != nil {
					w.sample(f.name, f.value(c), labels)
				} else if !c.Started.IsZero() {
					w.sample(f.name, seconds(c.Started), labels)
				}
			}
		}
	}
	w.stamp(s.At)
}

func resourcePods(w *writer, s *usage.Snapshot) {
	for _, f := range []struct {
		name, kind, help string
		value            func(*usage.Pod) float64
	}{
		{"pod_cpu_usage_seconds_total", counter, "Time that processors have worked for the pod",
			func(p *usage.Pod) float64 { return p.CPU.Usage.Seconds() }},
		{"pod_memory_working_set_bytes", gauge, "Memory of the pod that cannot be had back at once",
			func(p *usage.Pod) float64 { return float64(p.Memory.WorkingSet) }},
		{"pod_swap_usage_bytes", gauge, "Swap that the pod uses", func(p *usage.Pod) float64 { return float64(p.Memory.Swap) }},
	} {
		w.family(f.name, f.kind, f.help)
		for i := range s.Pods {
			w.sample(f.name, f.value(&s.Pods[i]), labelled("namespace", s.Pods[i].Namespace, "pod", s.Pods[i].Name))
		}
	}
}
