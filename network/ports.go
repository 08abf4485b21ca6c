package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"podd/runtime/killpoint"
)

// cniMapping is one entry of the portMappings capability (the conventions of the CNI specification).
type cniMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// mapping is one host port in podd's own table: what comes for HostIP:HostPort goes to PodIP:PodPort.
type mapping struct {
	Proto    string     `json:"proto"`
	HostIP   netip.Addr `json:"hostIP,omitzero"` // not valid: every address of the host, of PodIP's family
	HostPort uint16     `json:"hostPort"`
	PodIP    netip.Addr `json:"podIP"`
	PodPort  uint16     `json:"podPort"`
}

// portKey is what may be mapped only once.
type portKey struct {
	proto byte
	v6    bool
	ip    netip.Addr // not valid: every address
	port  uint16
}

// element is where a portKey leads.
type element struct {
	owner string // attemptID
	ip    netip.Addr
	port  uint16
}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// hostPorts are the pod's ports that have a host port.
func hostPorts(ports []v1.ContainerPort) []cniMapping {
	var all []cniMapping
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		proto := strings.ToLower(string(p.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		all = append(all, cniMapping{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: proto, HostIP: p.HostIP})
	}
	return all
}

// mappings says which elements the ports need for a pod with these addresses. A port without a host address is
// mapped for every family that the pod has.
func mappings(ports []cniMapping, ips []string) ([]mapping, error) {
	var all []mapping
	for _, p := range ports {
		if _, ok := protocols[p.Protocol]; !ok {
			return nil, fmt.Errorf("hostPort %d: unknown protocol %q", p.HostPort, p.Protocol)
		}
		m := mapping{Proto: p.Protocol, HostPort: uint16(p.HostPort), PodPort: uint16(p.ContainerPort)}
		var host netip.Addr
		if p.HostIP != "" {
			a, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, fmt.Errorf("hostPort %d: hostIP %q: not an address", p.HostPort, p.HostIP)
			}
			host = a.Unmap()
		}
		found := false
		for _, s := range ips {
			ip, err := netip.ParseAddr(s)
			if err != nil || (host.IsValid() && host.Is4() != ip.Is4()) {
				continue
			}
			if m.PodIP, m.HostIP = ip, host; host.IsValid() && host.IsUnspecified() {
				m.HostIP = netip.Addr{}
			}
			all, found = append(all, m), true
		}
		if !found {
			return nil, fmt.Errorf("hostPort %d: the pod has no address of the family of hostIP %q", p.HostPort, p.HostIP)
		}
	}
	return all, nil
}

func (m mapping) key() portKey {
	return portKey{proto: protocols[m.Proto], v6: m.PodIP.Is6(), ip: m.HostIP, port: m.HostPort}
}

// adopt takes the host ports of a recorded attempt into account. Setup puts them into the kernel.
func (n *Network) adopt(a attempt) {
	for _, m := range a.Mapped {
		n.table.want[m.key()] = element{owner: a.ID, ip: m.PodIP, port: m.PodPort}
	}
}

// taken is an error if the mapping would take a port from another pod. As in the scheduler (HostPortInfo in
// k8s.io/kube-scheduler), a port on every address excludes the same port on any.
func (n *Network) taken(owner string, m mapping) error {
	k := m.key()
	for have, e := range n.table.want {
		if e.owner == owner || have.proto != k.proto || have.port != k.port || have.v6 != k.v6 {
			continue
		}
		if !have.ip.IsValid() || !k.ip.IsValid() || have.ip == k.ip {
			return fmt.Errorf("hostPort %d/%s: in use by pod %s", m.HostPort, m.Proto, n.podOf(e.owner))
		}
	}
	return nil
}

func lastPart(id string) string { return id[strings.LastIndexByte(id, '.')+1:] }

// podOf names the pod of an attempt by its record, or by its uid when that cannot be read.
func (n *Network) podOf(attemptID string) string {
	uid := strings.TrimSuffix(attemptID, "."+lastPart(attemptID))
	if r, there, err := n.readRecord(uid); err == nil && there && r.Name != "" {
		return r.Namespace + "/" + r.Name
	}
	return uid
}

// mapPorts records the pod's host ports and puts them into the table.
func (n *Network) mapPorts(r *record, a attempt, ms []mapping) error {
	n.table.Lock()
	defer n.table.Unlock()
	for _, m := range ms {
		if err := n.taken(a.ID, m); err != nil {
			return err
		}
		if k := m.key(); n.table.want[k].owner != a.ID {
			if err := listening(k); err != nil {
				return err
			}
		}
	}
	if !slices.Equal(a.Mapped, ms) {
		a.Mapped = ms
		r.put(a)
		if err := n.writeRecord(*r); err != nil {
			return err
		}
	}
	n.adopt(a)
	killpoint.At("network.ports.before")
	if err := n.setupTable(); err != nil {
		return err
	}
	if err := n.allowLocalhost(a, ms); err != nil {
		return err
	}
	killpoint.At("network.ports.after")
	return forgetFlows(ms)
}

// unmapPorts takes the attempt's host ports out of the table.
func (n *Network) unmapPorts(a attempt) error {
	if len(a.Mapped) == 0 {
		return nil
	}
	killpoint.At("network.unmap.before")
	n.table.Lock()
	defer n.table.Unlock()
	for k, e := range n.table.want {
		if e.owner == a.ID {
			delete(n.table.want, k)
		}
	}
	if err := n.setupTable(); err != nil {
		return err
	}
	killpoint.At("network.unmap.after")
	return forgetFlows(a.Mapped)
}
