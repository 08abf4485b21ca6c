package network

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setupHost turns on forwarding for the families of the pod ranges and prepares the default bridge.
func (n *Network) setupHost(c *conf) error {
	for _, r := range c.subnets() {
		key := "ipv4/ip_forward"
		if r.Addr().Is6() {
			key = "ipv6/conf/all/forwarding"
		}
		if err := sysctl(key, "1"); err != nil {
			return fmt.Errorf("turn on forwarding: %w", err)
		}
	}
	if c.own {
		if err := n.setupBridge(); err != nil {
			return err
		}
	}
	n.lookForDrops()
	n.lookForOverlaps(c)
	return nil
}

// setupBridge makes the default bridge before the plugin would, so that the host never listens to router
// advertisements on it (CVE-2020-10749) and its IPv6 address is of use at once, without a second of duplicate address
// detection. The plugin gives it its addresses.
func (n *Network) setupBridge() error {
	if _, err := netlink.LinkByName(n.o.Bridge); err != nil {
		if !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("bridge %s: %w", n.o.Bridge, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.o.Bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make bridge %s: %w", n.o.Bridge, err)
		}
	}
	for _, key := range []string{"accept_ra", "accept_dad"} {
		err := sysctl("ipv6/conf/"+n.o.Bridge+"/"+key, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // there is no IPv6
			return fmt.Errorf("bridge %s: %w", n.o.Bridge, err)
		}
	}
	return nil
}

func (n *Network) removeBridge() error {
	link, err := netlink.LinkByName(n.o.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && link.Type() == "bridge" {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove bridge %s: %w", n.o.Bridge, err)
	}
	return nil
}

// lookForDrops warns when another table drops what is forwarded: no rule of podd's can undo that.
func (n *Network) lookForDrops() {
	conn, err := nftables.New()
	if err != nil {
		return
	}
	chains, err := conn.ListChains()
	if err != nil {
		return
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop &&
			c.Type == nftables.ChainTypeFilter && c.Table.Family != nftables.TableFamilyBridge {
			n.warnOnce("a firewall drops forwarded packets by default; pods may not reach beyond this host until it lets them",
				"table", c.Table.Name, "chain", c.Name, "bridge", n.o.Bridge)
		}
	}
}

// lookForOverlaps warns when the host reaches a part of a pod range by an interface that is not the pods': either pods or
// what is there would be cut off.
func (n *Network) lookForOverlaps(c *conf) {
	if !c.own {
		return
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue // a default route
		}
		dst := netip.PrefixFrom(addr.Unmap(), bits)
		for _, pods := range c.subnets() {
			if !dst.Overlaps(pods) {
				continue
			}
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err == nil && link.Attrs().Name != n.o.Bridge {
				n.warnOnce("the pod range overlaps a network that the host has already; choose another range",
					"range", pods.String(), "route", dst.String(), "interface", link.Attrs().Name)
			}
		}
	}
}

// allowLocalhost lets the host reach host ports on 127.0.0.1: the kernel sends such packets to the pods' interface only
// with route_localnet. The table's guard chain, which is there before, keeps pods and neighbours from using it to
// reach what listens on the host's loopback (CVE-2020-8558).
func (n *Network) allowLocalhost(a attempt, ms []mapping) error {
	dev := a.Master
	if dev == "" {
		dev = a.HostIf
	}
	local := slices.ContainsFunc(ms, func(m mapping) bool {
		return m.PodIP.Is4() && (!m.HostIP.IsValid() || m.HostIP.IsLoopback())
	})
	if dev == "" || !local {
		return nil
	}
	if err := sysctl("ipv4/conf/"+dev+"/route_localnet", "1"); err != nil {
		return fmt.Errorf("host ports on localhost: %w", err)
	}
	return nil
}

// forgetFlows ends what conntrack knows of UDP flows to the host ports: a client that keeps sending would stay with
// the pod that had the port before. TCP and SCTP find out by themselves.
func forgetFlows(ms []mapping) error {
	for _, m := range ms {
		if m.Proto != "udp" {
			continue
		}
		fam := netlink.InetFamily(unix.AF_INET)
		if m.PodIP.Is6() {
			fam = unix.AF_INET6
		}
		filter := &netlink.ConntrackFilter{}
		err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, m.HostPort))
		if err == nil && m.HostIP.IsValid() {
			err = filter.AddIP(netlink.ConntrackOrigDstIP, net.IP(m.HostIP.AsSlice()))
		}
		if err == nil {
			_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, fam, filter)
			for errors.Is(err, netlink.ErrDumpInterrupted) {
				_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, fam, filter)
			}
		}
		if err != nil {
			return fmt.Errorf("hostPort %d/udp: forget old flows: %w", m.HostPort, err)
		}
	}
	return nil
}

// listening is an error when a process of the host has the port: mapping it would take its traffic away (think of
// port 22). Only sockets that wait for peers count, not the local ends of connections.
func listening(k portKey) error {
	name, file, state := "", "", ""
	switch k.proto {
	case unix.IPPROTO_TCP:
		name, file, state = "tcp", "tcp", "0A" // TCP_LISTEN
	case unix.IPPROTO_UDP:
		name, file, state = "udp", "udp", "07" // not connected
	default:
		return nil
	}
	for _, f := range []string{file, file + "6"} {
		local, err := sockets("/proc/net/"+f, state)
		if err != nil {
			return fmt.Errorf("hostPort %d/%s: %w", k.port, name, err)
		}
		for _, l := range local {
			if l.Port() == k.port && overlaps(l.Addr(), k) {
				return fmt.Errorf("hostPort %d/%s: in use by a process that listens on %s", k.port, name, l)
			}
		}
	}
	return nil
}

// overlaps says whether a socket bound to a would get what is sent to the host port.
func overlaps(a netip.Addr, k portKey) bool {
	switch {
	case a == netip.IPv6Unspecified():
		return true // of both families
	case a.Is4() == k.v6:
		return false
	default:
		return a.IsUnspecified() || !k.ip.IsValid() || a == k.ip
	}
}

// sockets are the local addresses in one of the tables below /proc/net, of those in state.
func sockets(path, state string) ([]netip.AddrPort, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no IPv6
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []netip.AddrPort
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != state {
			continue
		}
		addr, port, ok := strings.Cut(fields[1], ":")
		raw, err := hex.DecodeString(addr)
		p, err2 := strconv.ParseUint(port, 16, 16)
		if !ok || err != nil || err2 != nil {
			continue
		}
		for i := 0; i+4 <= len(raw); i += 4 { // words in the machine's byte order
			slices.Reverse(raw[i : i+4])
		}
		if ip, ok := netip.AddrFromSlice(raw); ok {
			all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(p)))
		}
	}
	return all, lines.Err()
}
