package network

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// lead is the way of pods to podd's API: what they send to the service's address reaches a port of the host, at the gateway of
// their own network. What others send there is left alone, so no other machine gets in.
type lead struct {
	service netip.AddrPort // what pods dial; not valid: there is no way
	port    uint16         // where podd listens, at each of Gateways and at the loopback address
}

// Lead makes the way of pods to podd's API, from the next Setup on.
func (n *Network) Lead(service netip.AddrPort, port uint16) {
	n.table.Lock()
	defer n.table.Unlock()
	n.table.lead = lead{service, port}
}

// Gateways are the host's addresses in the networks of pods, as far as the configuration tells: those of host-local ranges.
func (n *Network) Gateways() ([]netip.Addr, error) {
	c, err := n.conf()
	if errors.Is(err, errNoConf) { // the default is written later
		return []netip.Addr{gatewayOf(n.o.Range)}, nil
	}
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, r := range c.subnets() {
		all = append(all, gatewayOf(r))
	}
	return all, nil
}

// gatewayOf is what host-local takes for the gateway of a range that names none: its first address.
func gatewayOf(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

// rules lead pods of the configuration's networks, and processes of the host.
func (l lead) rules(conf *conf) (prerouting, output [][]expr.Any) {
	if !l.service.IsValid() {
		return nil, nil
	}
	service := netip.PrefixFrom(l.service.Addr(), l.service.Addr().BitLen())
	f := familyOf(service)
	for _, r := range conf.subnets() {
		if f.has(r.Addr()) {
			prerouting = append(prerouting, join(f.is(), f.match(f.src, r, true), f.match(f.dst, service, true),
				tcpTo(l.service.Port()), f.dnatTo(gatewayOf(r), l.port)))
		}
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if l.service.Addr().Is6() {
		loopback = netip.IPv6Loopback()
	}
	output = append(output, join(f.is(), f.match(f.dst, service, true), tcpTo(l.service.Port()), f.dnatTo(loopback, l.port)))
	return prerouting, output
}

func tcpTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

func (f family) dnatTo(to netip.Addr, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: unix.NFT_REG_1, Data: to.AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG_2, Specified: true},
	}
}
