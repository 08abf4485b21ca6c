package network

import (
	"encoding/json"
	"math"

	"github.com/containernetworking/cni/libcni"
)

// Bandwidth is what a pod may receive and send, in bits per second; 0 is no limit.
type Bandwidth struct{ Ingress, Egress uint64 }

// cniBandwidth is the capability "bandwidth" (CONVENTIONS.md of the CNI specification), in bits per second and bits.
type cniBandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

func (b Bandwidth) cni() *cniBandwidth {
	if b == (Bandwidth{}) {
		return nil
	}
	return &cniBandwidth{b.Ingress, burst(b.Ingress), b.Egress, burst(b.Egress)}
}

// burst is what may pass at once: what the rate gives in a tenth of a second, but at least one large segment, and no more than
// the kernel and the plugin have numbers for. containerd's CRI gives 512 MiB, which leaves most pods without a limit.
func burst(rate uint64) uint64 {
	return min(max(rate/10, min(1<<20, rate*200)), math.MaxUint32)
}

// limitsBandwidth says whether a plugin of the list cares for bandwidth itself.
func (c *conf) limitsBandwidth() bool { return c.has("bandwidth") }

// withBandwidth is the list with the bandwidth plugin at its end. It is there for the pods that have a limit only: it is one
// more program to run for each.
func (c *conf) withBandwidth(limit *cniBandwidth) (*conf, error) {
	plugin, err := json.Marshal(struct {
		Type string `json:"type"`
		*cniBandwidth
	}{"bandwidth", limit})
	if err != nil {
		return nil, err
	}
	p, err := libcni.NetworkPluginConfFromBytes(plugin)
	if err != nil {
		return nil, err
	}
	list := *c.list
	list.Plugins = append(list.Plugins[:len(list.Plugins):len(list.Plugins)], p)
	all, err := newConf(&list)
	if err != nil {
		return nil, err
	}
	all.file, all.own = c.file, c.own
	return all, nil
}
