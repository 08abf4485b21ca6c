package exposition

import (
	"io"
	"maps"
	"slices"
)

// State is what podd has at one time.
type State struct {
	Version, Node string
	Pods          int            // that run
	Containers    map[string]int // by what they do
	Syncs         uint64         // of the store
	Objects       int
	Watches       int
	Bytes         int64
}

// Own writes it.
func Own(out io.Writer, s State) error {
	w := newWriter(out)
	one := func(name, kind, help string, value float64, labels ...string) {
		w.family(name, kind, help)
		w.sample(name, value, labels...)
	}
	one("kubelet_node_name", gauge, "Always 1: the name of the node", 1, labelled("node", s.Node))
	one("kubelet_running_pods", gauge, "Pods that run", float64(s.Pods))
	w.family("kubelet_running_containers", gauge, "Containers by what they do")
	for _, state := range slices.Sorted(maps.Keys(s.Containers)) {
		w.sample("kubelet_running_containers", float64(s.Containers[state]), labelled("container_state", state))
	}
	one("podd_build_info", gauge, "Always 1: the version of podd", 1, labelled("version", s.Version))
	one("podd_store_syncs_total", counter, "How often podd has waited for the disk to have what is stored", float64(s.Syncs))
	one("podd_store_objects", gauge, "Objects in the store", float64(s.Objects))
	one("podd_store_watches", gauge, "Watches on the store", float64(s.Watches))
	one("podd_store_file_bytes", gauge, "Size of the state file", float64(s.Bytes))
	return w.end()
}
