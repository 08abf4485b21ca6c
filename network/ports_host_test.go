//go:build host

package network

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
)

func port(host, container int32, proto v1.Protocol, ip string) v1.ContainerPort {
	return v1.ContainerPort{HostPort: host, ContainerPort: container, Protocol: proto, HostIP: ip}
}

// neighbour is another machine on the host's network: 192.0.2.9 beside the host's 192.0.2.1, with its default route
// there. It returns the path of its namespace.
func neighbour(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "neighbour")
	if err := makeNetns(path, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if link, err := netlink.LinkByName("lan0"); err == nil {
			_ = netlink.LinkDel(link)
		}
		if err := unpin(path); err != nil {
			t.Error(err)
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	up := func(name, addr string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, one := range strings.Fields(addr) {
			a, err := netlink.ParseAddr(one)
			if err != nil {
				return err
			}
			a.Flags = 0x02 // IFA_F_NODAD
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	if err := up("lan0", "192.0.2.1/24 2001:db8::1/64"); err != nil {
		t.Fatal(err)
	}
	if err := in(t, path, func() error {
		if err := up("eth0", "192.0.2.9/24 2001:db8::9/64"); err != nil {
			return err
		}
		for _, to := range []string{"127.0.0.0/8", "10.99.0.0/24"} {
			_, dst, _ := net.ParseCIDR(to)
			link, _ := netlink.LinkByName("eth0")
			_ = sysctl("ipv4/conf/eth0/route_localnet", "1") // a hostile neighbour
			if to == "127.0.0.0/8" {
				table := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}, Gw: net.ParseIP("192.0.2.1"),
					LinkIndex: link.Attrs().Index}
				if err := giveUpLoopback(); err != nil {
					return err
				}
				if err := netlink.RouteAdd(table); err != nil {
					return fmt.Errorf("route to the host's loopback: %w", err)
				}
				continue
			}
			if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP("192.0.2.1")}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return path
}

// giveUpLoopback lets 127.0.0.1 be somewhere else for the namespace of the calling thread.
func giveUpLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr("127.0.0.1/8")
	if err != nil {
		return err
	}
	return netlink.AddrDel(lo, a)
}

// With and without the host's rules for what passes a bridge.
func TestHostPorts(t *testing.T) {
	for _, bridged := range []string{"1", "0"} {
		t.Run("bridge-nf-call-iptables="+bridged, func(t *testing.T) {
			const key = "/proc/sys/net/bridge/bridge-nf-call-iptables"
			if err := os.WriteFile(key, []byte(bridged), 0); err != nil && bridged == "1" {
				t.Logf("this kernel has no br_netfilter: %v", err)
			}
			testHostPorts(t)
		})
	}
}

func testHostPorts(t *testing.T) {
	lan := neighbour(t)
	n, _ := host(t, nil)
	web := pod("web", port(8080, 80, "", ""), port(8081, 80, v1.ProtocolTCP, "192.0.2.1"), port(8082, 80, v1.ProtocolTCP, "127.0.0.1"),
		port(5353, 53, v1.ProtocolUDP, "0.0.0.0"))
	other := pod("other")
	rw, ro := ensure(t, n, web), ensure(t, n, other)
	serve(t, rw.Netns, "tcp", ":80", "web")
	serve(t, rw.Netns, "udp", ":53", "dns")

	// From beside the host, from the host itself, from another pod, from the pod itself.
	if saw := wantAnswer(t, lan, "tcp", "192.0.2.1:8080", "web"); saw != "192.0.2.9" {
		t.Errorf("the pod saw %s, want the neighbour's own address", saw)
	}
	for _, from := range []string{"", ro.Netns, rw.Netns} {
		wantAnswer(t, from, "tcp", "192.0.2.1:8080", "web")
		wantAnswer(t, from, "tcp", "192.0.2.1:8081", "web")
	}
	wantAnswer(t, "", "tcp", "127.0.0.1:8080", "web")
	wantAnswer(t, "", "tcp", "127.0.0.1:8082", "web")
	wantAnswer(t, ro.Netns, "tcp", "10.99.0.1:8080", "web")
	wantAnswer(t, lan, "udp", "192.0.2.1:5353", "dns")
	wantAnswer(t, "", "udp", "127.0.0.1:5353", "dns")

	// hostIP is honoured.
	wantNone(t, "", "tcp", "127.0.0.1:8081")
	wantNone(t, ro.Netns, "tcp", "10.99.0.1:8081")
	wantNone(t, "", "tcp", "192.0.2.1:8082")

	remove(t, n, web)
	wantNone(t, lan, "tcp", "192.0.2.1:8080")
	wantNone(t, lan, "udp", "192.0.2.1:5353")
	remove(t, n, other)
}

// A host port takes only what is for the host: the same port of other pods and of machines beyond is theirs
// (CVE-2025-67499).
func TestHostPortTakesNothingElse(t *testing.T) {
	lan := neighbour(t)
	n, _ := host(t, nil)
	thief, victim, client := pod("thief", port(5300, 53, v1.ProtocolTCP, "")), pod("victim"), pod("client")
	rt, rv, rc := ensure(t, n, thief), ensure(t, n, victim), ensure(t, n, client)
	serve(t, rt.Netns, "tcp", ":53", "thief")
	serve(t, rv.Netns, "tcp", ":5300", "victim")
	serve(t, lan, "tcp", ":5300", "lan")
	wantAnswer(t, rc.Netns, "tcp", rv.IPs[0]+":5300", "victim")
	wantAnswer(t, "", "tcp", rv.IPs[0]+":5300", "victim")
	if saw := wantAnswer(t, rc.Netns, "tcp", "192.0.2.9:5300", "lan"); saw != "192.0.2.1" {
		t.Errorf("the neighbour saw %s, want the host's address", saw)
	}
	wantAnswer(t, rc.Netns, "tcp", "192.0.2.1:5300", "thief")
	for _, p := range []Pod{thief, victim, client} {
		remove(t, n, p)
	}
}

// Host ports on localhost open the host's own loopback services to nobody (CVE-2020-8558).
func TestLoopbackStaysClosed(t *testing.T) {
	lan := neighbour(t)
	n, _ := host(t, nil)
	p, evil := pod("p", port(8090, 80, "", "")), pod("evil")
	r, re := ensure(t, n, p), ensure(t, n, evil)
	serve(t, r.Netns, "tcp", ":80", "p")
	serve(t, "/proc/self/ns/net", "tcp", "127.0.0.1:7777", "secret")
	wantAnswer(t, "", "tcp", "127.0.0.1:8090", "p")
	wantAnswer(t, "", "tcp", "127.0.0.1:7777", "secret")
	for _, dev := range []string{"podd0"} {
		if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + dev + "/route_localnet"); err != nil || strings.TrimSpace(string(b)) != "1" {
			t.Fatalf("route_localnet of %s = %q, %v: the test would show nothing", dev, b, err)
		}
	}
	wantNone(t, lan, "tcp", "127.0.0.1:7777")
	// A hostile pod with a route to the host's loopback by way of the bridge.
	if err := in(t, re.Netns, func() error {
		if err := giveUpLoopback(); err != nil {
			return err
		}
		if err := sysctl("ipv4/conf/eth0/route_localnet", "1"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)},
			Gw: net.ParseIP("10.99.0.1"), LinkIndex: link.Attrs().Index})
	}); err != nil {
		t.Fatal(err)
	}
	wantNone(t, re.Netns, "tcp", "127.0.0.1:7777")
	// It is the guard that keeps it closed: without it, the pod does reach the host's loopback.
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.FlushChain(&nftables.Chain{Name: "guard", Table: &nftables.Table{Name: "podd", Family: nftables.TableFamilyINet}})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, re.Netns, "tcp", "127.0.0.1:7777", "secret")
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantNone(t, re.Netns, "tcp", "127.0.0.1:7777")
	remove(t, n, p)
	remove(t, n, evil)
}

func TestHostPortInUse(t *testing.T) {
	n, dir := host(t, nil)
	first := pod("first", port(8080, 80, "", "127.0.0.1"))
	ensure(t, n, first)
	l, err := net.Listen("tcp", "127.0.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		port v1.ContainerPort
		want string
	}{
		{port(8080, 80, "TCP", ""), "hostPort 8080/tcp: in use by pod default/first"},
		{port(8080, 80, "TCP", "127.0.0.1"), "hostPort 8080/tcp: in use by pod default/first"},
		{port(8080, 80, "TCP", "192.0.2.1"), ""},
		{port(8080, 80, "UDP", ""), ""},
		{port(8443, 80, "TCP", ""), "hostPort 8443/tcp: in use by a process that listens on 127.0.0.1:8443"},
		{port(8443, 80, "TCP", "fd00::1"), "has no address of the family"},
	} {
		second := pod("second", c.port)
		_, err := open(t, dir, nil).Ensure(t.Context(), second) // a restarted podd knows what is mapped, too
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.port, err, c.want)
		}
		remove(t, n, second)
	}
	remove(t, n, first)
	free := pod("second", port(8080, 80, "", ""))
	ensure(t, n, free)
	remove(t, n, free)
}

// Whatever is done to the rules, Setup puts them back, with the host ports of the pods that are there.
func TestSetupRestores(t *testing.T) {
	lan := neighbour(t)
	n, dir := host(t, nil)
	p := pod("p", port(8080, 80, "", ""))
	r := ensure(t, n, p)
	serve(t, r.Netns, "tcp", ":80", "p")
	wantAnswer(t, lan, "tcp", "192.0.2.1:8080", "p")
	meddle := func(f func(*nftables.Conn, *nftables.Table)) {
		t.Helper()
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		f(conn, &nftables.Table{Name: "podd", Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]func(*nftables.Conn, *nftables.Table){
		"all flushed":   func(c *nftables.Conn, _ *nftables.Table) { c.FlushRuleset() },
		"rules flushed": func(c *nftables.Conn, table *nftables.Table) { c.FlushTable(table) },
		"map flushed": func(c *nftables.Conn, table *nftables.Table) {
			c.FlushSet(families[0].maps(table)[0])
		},
	} {
		meddle(f)
		wantNone(t, lan, "tcp", "192.0.2.1:8080")
		if err := n.Setup(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantAnswer(t, lan, "tcp", "192.0.2.1:8080", "p")
	}
	meddle(func(c *nftables.Conn, _ *nftables.Table) { c.FlushRuleset() })
	again := open(t, dir, nil)
	wantAnswer(t, lan, "tcp", "192.0.2.1:8080", "p")
	// An element of nobody's goes.
	meddle(func(c *nftables.Conn, table *nftables.Table) {
		e := encode(portKey{proto: 6, port: 9999}, element{"uid-gone.0", netip.MustParseAddr("10.99.0.77"), 1})
		if err := c.SetAddElements(families[0].maps(table)[0], []nftables.SetElement{e}); err != nil {
			t.Fatal(err)
		}
	})
	if err := again.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	have, err := conn.GetSetElements(families[0].maps(&nftables.Table{Name: "podd", Family: nftables.TableFamilyINet})[0])
	if err != nil || len(have) != 1 || have[0].Comment != "uid-p.0" {
		t.Errorf("elements = %+v, %v", have, err)
	}
	remove(t, again, p)
}

func TestIPv6(t *testing.T) {
	lan := neighbour(t)
	n, _ := host(t, func(o *Options) { o.Range = netip.MustParsePrefix("fd00:99::/64") })
	p, q := pod("p", port(8080, 80, "", "")), pod("q")
	rp, rq := ensure(t, n, p), ensure(t, n, q)
	serve(t, rp.Netns, "tcp", ":80", "p")
	serve(t, lan, "tcp", ":90", "lan")
	wantAnswer(t, rq.Netns, "tcp", "["+rp.IPs[0]+"]:80", "p")
	wantAnswer(t, lan, "tcp", "[2001:db8::1]:8080", "p")
	wantAnswer(t, rq.Netns, "tcp", "[2001:db8::1]:8080", "p")
	if saw := wantAnswer(t, rq.Netns, "tcp", "[2001:db8::9]:90", "lan"); saw != "2001:db8::1" {
		t.Errorf("the neighbour saw %s, want the host's address", saw)
	}
	if err := in(t, rp.Netns, func() error {
		for _, key := range []string{"ipv6/conf/eth0/accept_ra", "ipv6/conf/eth0/accept_dad"} {
			if b, err := os.ReadFile("/proc/sys/net/" + key); err != nil || strings.TrimSpace(string(b)) != "0" {
				return fmt.Errorf("%s = %q, %v", key, b, err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/podd0/accept_ra"); err != nil || strings.TrimSpace(string(b)) != "0" {
		t.Errorf("accept_ra of the bridge = %q, %v", b, err)
	}
	remove(t, n, p)
	remove(t, n, q)
	if known, err := n.Known(t.Context()); err != nil || !slices.Equal(known, []string{}) {
		t.Errorf("Known = %v, %v", known, err)
	}
}

// A client that keeps sending from the same socket gets to the pod that has the port now.
func TestUDPFollowsTheHostPort(t *testing.T) {
	lan := neighbour(t)
	n, _ := host(t, nil)
	var client net.Conn
	if err := in(t, lan, func() (err error) {
		client, err = net.Dial("udp", "192.0.2.1:5354")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, name := range []string{"one", "two"} {
		p := pod(name, port(5354, 53, v1.ProtocolUDP, ""))
		serve(t, ensure(t, n, p).Netns, "udp", ":53", name)
		b := make([]byte, 100)
		if _, err := client.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if err := client.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Read(b); err != nil || !strings.HasPrefix(string(b[:got]), name+" ") {
			t.Errorf("answered by %q, %v; want %s", b[:got], err, name)
		}
		remove(t, n, p)
	}
}

// A firewall that drops what is forwarded is told of, once.
func TestForwardDropIsTold(t *testing.T) {
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyIPv4})
	conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.DelTable(table)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	var log strings.Builder
	n, _ := host(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "drops forwarded packets") != 1 || !strings.Contains(got, "table=theirs") {
		t.Errorf("logged: %s", got)
	}
}

// A pod range that the host already uses otherwise is told of.
func TestOverlapIsTold(t *testing.T) {
	neighbour(t) // 192.0.2.0/24
	for pods, told := range map[string]bool{"192.0.0.0/16": true, "10.99.0.0/24": false} {
		var log strings.Builder
		n, _ := host(t, func(o *Options) {
			o.Log, o.Range = slog.New(slog.NewTextHandler(&log, nil)), netip.MustParsePrefix(pods)
		})
		if err := n.Clear(t.Context()); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "route=192.0.2.0/24 interface=lan0"); got != told {
			t.Errorf("range %s: logged: %s", pods, log.String())
		}
	}
}
