package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// podd's table, as nft would write it for the range 10.85.0.0/16:
//
//	table inet podd {
//	  map ports4   { type inet_proto . inet_service : ipv4_addr . inet_service }              # any local address
//	  map ports4ip { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service }  # one hostIP
//	  chain guard       { type filter hook prerouting priority -300
//	                      iifname != "lo" ip daddr 127.0.0.0/8 drop                           # CVE-2020-8558
//	                      iifname != "lo" ip saddr 127.0.0.0/8 drop }
//	  chain prerouting  { type nat hook prerouting priority -100
//	                      ip saddr 10.85.0.0/16 ip daddr 10.84.0.1 tcp dport 443 dnat to 10.85.0.1:PORT  # podd's API, api.go
//	                      fib daddr type local dnat ... }                                     # CVE-2025-67499
//	  chain output      { type nat hook output priority -100
//	                      ip daddr 10.84.0.1 tcp dport 443 dnat to 127.0.0.1:PORT
//	                      fib daddr type local dnat ... }
//	  chain postrouting { type nat hook postrouting priority 100
//	                      ct status dnat ip saddr 127.0.0.0/8 masquerade                      # localhost:hostPort
//	                      ct status dnat ip saddr 10.85.0.0/16 ip daddr 10.85.0.0/16 masquerade   # a pod to its host port
//	                      ip saddr 10.85.0.0/16 ip daddr != 10.85.0.0/16 ip daddr != 224.0.0.0/4 masquerade }
//	}
//
// and ports6, ports6ip with their rules likewise. The rules never change while pods come and go; only elements do.

// Registers of 4 bytes, as the kernel numbers them (NFT_REG32_00 and on).
const (
	reg0 = unix.NFT_REG32_00
	reg1 = unix.NFT_REG32_00 + 1
	reg2 = unix.NFT_REG32_00 + 2
)

// family is what differs between IPv4 and IPv6.
type family struct {
	proto     byte // NFPROTO_*
	bytes     int  // of an address
	src, dst  int  // offsets in the network header
	addr      nftables.SetDatatype
	any, one  string // names of the maps
	multicast netip.Prefix
}

var families = []family{
	{unix.NFPROTO_IPV4, 4, 12, 16, nftables.TypeIPAddr, "ports4", "ports4ip", netip.MustParsePrefix("224.0.0.0/4")},
	{unix.NFPROTO_IPV6, 16, 8, 24, nftables.TypeIP6Addr, "ports6", "ports6ip", netip.MustParsePrefix("ff00::/8")},
}

func (f family) has(a netip.Addr) bool { return a.Is4() == (f.proto == unix.NFPROTO_IPV4) }

type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    [][]expr.Any
}

// layout is the whole table but for the elements.
func layout(conf *conf, lead lead) []chain {
	guard := chain{"guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nil}
	pre := chain{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, nil}
	out := chain{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, nil}
	post := chain{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nil}

	v4, loopback := families[0], netip.MustParsePrefix("127.0.0.0/8")
	guard.rules = append(guard.rules,
		join(v4.is(), notLoopbackIf(), v4.match(v4.dst, loopback, true), verdict(expr.VerdictDrop)),
		join(v4.is(), notLoopbackIf(), v4.match(v4.src, loopback, true), verdict(expr.VerdictDrop)))
	pre.rules, out.rules = lead.rules(conf)
	for _, f := range families {
		for _, withIP := range []bool{true, false} {
			pre.rules = append(pre.rules, join(f.is(), toLocal(), f.dnat(withIP)))
			out.rules = append(out.rules, join(f.is(), toLocal(), f.dnat(withIP)))
		}
	}
	post.rules = append(post.rules, join(v4.is(), wasDNAT(), v4.match(v4.src, loopback, true), masquerade()))
	for _, r := range conf.subnets() {
		f := familyOf(r)
		post.rules = append(post.rules,
			join(f.is(), wasDNAT(), f.match(f.src, r, true), f.match(f.dst, r, true), masquerade()))
		if conf.own {
			post.rules = append(post.rules, join(f.is(), f.match(f.src, r, true), f.match(f.dst, r, false),
				f.match(f.dst, f.multicast, false), masquerade()))
		}
	}
	return []chain{guard, pre, out, post}
}

func familyOf(p netip.Prefix) family {
	if p.Addr().Is4() {
		return families[0]
	}
	return families[1]
}

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{f.proto}},
	}
}

func notLoopbackIf() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: name},
	}
}

// match compares an address of the network header with a prefix.
func (f family) match(offset int, p netip.Prefix, eq bool) []expr.Any {
	mask := make([]byte, f.bytes)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	op := expr.CmpOpEq
	if !eq {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		f.load(offset, unix.NFT_REG_1),
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(f.bytes), Mask: mask,
			Xor: make([]byte, f.bytes)},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: p.Masked().Addr().AsSlice()},
	}
}

func (f family) load(offset int, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(offset), Len: uint32(f.bytes)}
}

// toLocal keeps the rules from traffic that only passes through: without it, a host port 53 would take every DNS
// query of every pod.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func wasDNAT() []expr.Any {
	const dstNAT = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg0},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// dnat looks the packet up in one of the family's maps and rewrites its destination.
func (f family) dnat(withIP bool) []expr.Any {
	port, name := uint32(reg1), f.any
	rule := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}}
	if withIP {
		rule = append(rule, f.load(f.dst, reg1))
		port, name = reg1+uint32(f.bytes)/4, f.one
	}
	return append(rule,
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg0,
			RegProtoMin: reg0 + uint32(f.bytes)/4, Specified: true})
}

// maps are the family's two maps.
func (f family) maps(t *nftables.Table) [2]*nftables.Set {
	data := nftables.MustConcatSetType(f.addr, nftables.TypeInetService)
	return [2]*nftables.Set{
		{Table: t, Name: f.any, IsMap: true, DataType: data,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)},
		{Table: t, Name: f.one, IsMap: true, DataType: data,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, f.addr, nftables.TypeInetService)},
	}
}

// encode gives the map element of a host port; every part is padded to 4 bytes.
func encode(k portKey, e element) nftables.SetElement {
	pad := func(port uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, port), 0, 0) }
	key := []byte{k.proto, 0, 0, 0}
	if k.ip.IsValid() {
		key = append(key, k.ip.AsSlice()...)
	}
	return nftables.SetElement{
		Key:     append(key, pad(k.port)...),
		Val:     append(e.ip.AsSlice(), pad(e.port)...),
		Comment: e.owner,
	}
}

// elements are those that belong into the family's map for any address, or for one.
func (n *Network) elements(f family, withIP bool) []nftables.SetElement {
	var all []nftables.SetElement
	for k, e := range n.table.want {
		if f.has(e.ip) && k.ip.IsValid() == withIP {
			all = append(all, encode(k, e))
		}
	}
	return all
}

// setupTable puts the table right in one transaction, if it is not. The caller holds the table's lock.
func (n *Network) setupTable() error {
	c, err := n.conf()
	if err == nil {
		n.table.conf = c
	} else if n.table.conf == nil {
		return err
	}
	chains := layout(n.table.conf, n.table.lead)
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	t := &nftables.Table{Name: n.o.Table, Family: nftables.TableFamilyINet}
	if n.intact(conn, t, chains) {
		err = n.updateElements(conn, t)
	} else {
		err = n.rebuildTable(conn, t, chains)
	}
	if err != nil {
		return fmt.Errorf("nftables table %s: %w", n.o.Table, err)
	}
	return nil
}

// rebuildTable replaces the table. Connections that are there keep their translation: conntrack has it.
func (n *Network) rebuildTable(conn *nftables.Conn, t *nftables.Table, chains []chain) error {
	conn.AddTable(t) // so that there is one to delete
	conn.DelTable(t)
	conn.AddTable(t)
	for _, f := range families {
		for i, m := range f.maps(t) {
			if err := conn.AddSet(m, n.elements(f, i == 1)); err != nil {
				return err
			}
		}
	}
	accept := nftables.ChainPolicyAccept
	marks := marksOf(chains)
	for i, c := range chains {
		nc := conn.AddChain(&nftables.Chain{Name: c.name, Table: t, Type: c.kind, Hooknum: c.hook, Priority: c.priority, Policy: &accept})
		for j, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: r, UserData: marks[i][j]})
		}
	}
	return conn.Flush()
}

// marksOf gives every rule a mark that changes with the rule, to be kept in the kernel beside it: comparing the marks
// tells whether the rules there are these.
func marksOf(chains []chain) [][][]byte {
	marks := make([][][]byte, len(chains))
	for i, c := range chains {
		for j, r := range c.rules {
			h := fnv.New64a()
			fmt.Fprintf(h, "%s %d", c.name, j)
			for _, e := range r {
				fmt.Fprintf(h, " %T%+v", e, e)
			}
			marks[i] = append(marks[i], h.Sum([]byte("podd")))
		}
	}
	return marks
}

// intact says whether all maps, chains and rules are there and no others.
func (n *Network) intact(conn *nftables.Conn, t *nftables.Table, chains []chain) bool {
	sets, err := conn.GetSets(t)
	if err != nil || len(sets) != 2*len(families) {
		return false
	}
	for _, f := range families {
		for _, m := range f.maps(t) {
			if !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == m.Name && s.IsMap }) {
				return false
			}
		}
	}
	marks := marksOf(chains)
	for i, c := range chains {
		rules, err := conn.GetRules(t, &nftables.Chain{Name: c.name, Table: t})
		if err != nil {
			return false
		}
		have := make([][]byte, 0, len(rules))
		for _, r := range rules {
			have = append(have, r.UserData)
		}
		if !slices.EqualFunc(have, marks[i], bytes.Equal) {
			return false
		}
	}
	return true
}

// updateElements makes the maps hold what is wanted and nothing else.
func (n *Network) updateElements(conn *nftables.Conn, t *nftables.Table) error {
	same := func(a nftables.SetElement) func(nftables.SetElement) bool {
		return func(b nftables.SetElement) bool {
			return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Val, b.Val) && a.Comment == b.Comment
		}
	}
	for _, f := range families {
		for i, m := range f.maps(t) {
			have, err := conn.GetSetElements(m)
			if err != nil {
				return err
			}
			want := n.elements(f, i == 1)
			var gone, missing []nftables.SetElement
			for _, e := range have {
				if !slices.ContainsFunc(want, same(e)) {
					gone = append(gone, nftables.SetElement{Key: e.Key})
				}
			}
			for _, e := range want {
				if !slices.ContainsFunc(have, same(e)) {
					missing = append(missing, e)
				}
			}
			if len(gone) > 0 {
				if err := conn.SetDeleteElements(m, gone); err != nil {
					return err
				}
			}
			if len(missing) > 0 {
				if err := conn.SetAddElements(m, missing); err != nil {
					return err
				}
			}
		}
	}
	return conn.Flush()
}

// removeTable deletes the table. The caller holds the table's lock.
func (n *Network) removeTable() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := conn.AddTable(&nftables.Table{Name: n.o.Table, Family: nftables.TableFamilyINet})
	conn.DelTable(t)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", n.o.Table, err)
	}
	return nil
}
