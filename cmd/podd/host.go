package main

import (
	"net"

	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/types"
)

func typesUID(s string) types.UID { return types.UID(s) }

// hostIPs are the addresses of this host that pods and clients are told: for each family the source address of the
// default route, else the first global one of an interface that is up; a host without any gets the loopback's.
func hostIPs() []string {
	var out []string
	for _, f := range []struct {
		family int
		probe  net.IP
	}{{netlink.FAMILY_V4, net.IPv4(192, 0, 2, 1)}, {netlink.FAMILY_V6, net.ParseIP("2001:db8::1")}} {
		if ip := routeSource(f.probe); ip != nil {
			out = append(out, ip.String())
		} else if ip := firstGlobal(f.family); ip != nil {
			out = append(out, ip.String())
		}
	}
	if len(out) == 0 {
		out = []string{"127.0.0.1"}
	}
	return out
}

// routeSource asks the kernel which address it would send from to a host outside; nothing is sent.
func routeSource(to net.IP) net.IP {
	routes, err := netlink.RouteGet(to)
	if err != nil || len(routes) == 0 || !routes[0].Src.IsGlobalUnicast() {
		return nil
	}
	return routes[0].Src
}

func firstGlobal(family int) net.IP {
	addrs, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if a.IP.IsGlobalUnicast() {
			return a.IP
		}
	}
	return nil
}
