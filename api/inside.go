package api

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is the way in for pods: the TLS port once more, at the gateways of the pods' networks and at the loopback address for
// those on the host's network. Pods dial the service "kubernetes", and the host's nftables rules lead them here.
type inside struct {
	service netip.AddrPort
	port    uint16
	gates   []*gate
}

// servicePort is the port of the service "kubernetes", as everywhere.
const servicePort = 443

// Service is what pods dial to reach this API, and the port at which their gateways, and the loopback address, answer. It is
// not valid before Listen, nor without a TLS port.
func (s *Server) Service() (dial netip.AddrPort, port uint16) {
	if s.inside == nil {
		return netip.AddrPort{}, 0
	}
	return s.inside.service, s.inside.port
}

// serviceIP is the cluster IP of the service "kubernetes": the first of the range, as upstream.
func (s *Server) serviceIP() (netip.Addr, error) {
	r, err := netip.ParsePrefix(s.ServiceCIDR)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("range of cluster IPs: %w", err)
	}
	return r.Masked().Addr().Next(), nil
}

// listenInside opens the ports for pods: the one port, if it is free, that they had before.
func (s *Server) listenInside(ctx context.Context) error {
	ip, err := s.serviceIP()
	if err != nil {
		return err
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if ip.Is6() {
		loopback = netip.IPv6Loopback()
	}
	addresses := []netip.Addr{loopback}
	for _, gateway := range s.Gateways {
		if gateway.Is4() == ip.Is4() {
			addresses = append(addresses, gateway)
		} else {
			s.Log.Warn("pods do not reach podd's API: --service-cidr is of another address family than their network",
				"service", ip.String(), "gateway", gateway.String())
		}
	}
	const tries = 20
	in := &inside{service: netip.AddrPortFrom(ip, servicePort), port: s.formerPort(ctx)}
	for range tries {
		if err = s.openInside(ctx, in, addresses); err == nil {
			s.inside = in
			return nil
		}
		in.port = 0
	}
	return fmt.Errorf("serve pods: %w", err)
}

// openInside listens at all addresses, at one port; any when in.port is 0.
func (s *Server) openInside(ctx context.Context, in *inside, addresses []netip.Addr) error {
	in.gates = nil
	for _, address := range addresses {
		config := net.ListenConfig{Control: freely}
		listener, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(address, in.port).String())
		if err != nil {
			return errors.Join(err, in.close())
		}
		g := newGate(listener, s.patience.stranger)
		if !address.IsLoopback() {
			g.admits = func(conn net.Conn) bool { return dialled(conn) == in.service }
		}
		in.gates = append(in.gates, g)
		if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
			in.port = tcp.AddrPort().Port()
		}
	}
	return nil
}

func (in *inside) close() error {
	if in == nil {
		return nil
	}
	var errs []error
	for _, g := range in.gates {
		errs = append(errs, g.Close())
	}
	return errors.Join(errs...)
}

// freely lets a socket listen at an address that the host does not have yet: the bridge comes with the first pod.
func freely(network, _ string, conn syscall.RawConn) error {
	var err error
	control := conn.Control(func(fd uintptr) {
		if network == "tcp6" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
	})
	return errors.Join(control, err)
}

// dialled is what the other side of a connection has dialled, before the host translated it. Where nothing was translated it
// is not valid, or podd's own address: so nobody gets in who was not led here, whatever the routes of the network are and
// whatever has become of the host's rules.
func dialled(conn net.Conn) netip.AddrPort {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}
	}
	const originalDst = 80 // SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST
	var found netip.AddrPort
	local, _ := conn.LocalAddr().(*net.TCPAddr)
	_ = raw.Control(func(fd uintptr) {
		if local != nil && local.IP.To4() == nil {
			if info, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, originalDst); err == nil { // begins with the address
				port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, info.Addr.Port))
				found = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), port)
			}
			return
		}
		if m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, originalDst); err == nil { // 16 bytes as any other
			a := m.Multiaddr // a sockaddr_in: family, port, address
			found = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3]))
		}
	})
	return found
}
