package probes

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/probe"
)

// socket is a connection in clear text that waits with a lookout. What has come by the end of ctx counts. One goroutine uses it.
type socket struct {
	ctx   context.Context
	begun time.Time
	to    netip.AddrPort
	fd    int  // -1 is none
	over  bool // ctx has ended: nothing is waited for any more
	out   *lookout

	// The lookout's.
	come  chan struct{} // there may be something
	place int           // among those that wait; -1 is none
}

// connect opens a connection that ends with ctx.
func (l *lookout) connect(ctx context.Context, host, port string) (io.ReadWriteCloser, error) {
	if to, ok := literal(host, port); ok && ctx.Err() == nil {
		s := &socket{ctx: ctx, begun: time.Now(), to: to, fd: -1, out: l, come: make(chan struct{}, 1), place: -1}
		err := s.dial()
		if err == nil && s.name() != to { // else it was given the port that it asks for, and has found itself
			return s, nil
		}
		_ = s.Close()
		if err != nil {
			return nil, err
		}
	}
	dialer := probe.ProbeDialer()
	dialer.KeepAlive = -1 // it does not last
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	return &named{conn, context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

// named is a connection to a host that had to be looked up.
type named struct {
	net.Conn
	stop func() bool
}

func (n *named) Close() error {
	n.stop()
	return n.Conn.Close()
}

// literal is the address of a host that is one.
func literal(host, port string) (to netip.AddrPort, ok bool) {
	ip, err := netip.ParseAddr(host)
	n, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || ip.Zone() != "" || ip.IsUnspecified() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), true
}

// dial opens it, with the options of upstream's dialer and the errors of package net.
func (s *socket) dial() (err error) {
	failed := func(call string, err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(s.to), Err: os.NewSyscallError(call, err)}
	}
	family := unix.AF_INET6
	if s.to.Addr().Is4() {
		family = unix.AF_INET
	}
	s.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket", err)
	}
	linger, noDelay := unix.Linger{Onoff: 1, Linger: 1}, int32(1)
	setOption(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&linger), unsafe.Sizeof(linger))
	setOption(s.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, unsafe.Pointer(&noDelay), unsafe.Sizeof(noDelay))
	err = begin(s.fd, s.to)
	for err == unix.EINPROGRESS || err == unix.EINTR {
		if err = established(s.fd); err != unix.EINPROGRESS {
			break
		}
		if s.over {
			return s.ctx.Err()
		}
		s.out.wait(s, unix.POLLOUT)
	}
	if err != nil {
		return failed("connect", err)
	}
	return nil
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.transfer("read", unix.SYS_READ, unix.POLLIN, p)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

func (s *socket) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		var n int
		n, err = s.transfer("write", unix.SYS_WRITE, unix.POLLOUT, p[written:])
		written += n
	}
	return written, err
}

// transfer reads or writes some of p.
func (s *socket) transfer(name string, call uintptr, event int16, p []byte) (int, error) {
	for {
		n, _, failed := syscall.RawSyscall(call, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch {
		case failed == 0:
			return int(n), nil
		case failed == unix.EINTR:
		case failed != unix.EAGAIN:
			return 0, &net.OpError{Op: name, Net: "tcp", Source: net.TCPAddrFromAddrPort(s.name()),
				Addr: net.TCPAddrFromAddrPort(s.to), Err: os.NewSyscallError(name, failed)}
		case s.over:
			return 0, s.ctx.Err()
		default:
			s.out.wait(s, event)
		}
	}
}

// Close sends what is left to send, and waits for up to a second until the peer has it, as SO_LINGER has it.
func (s *socket) Close() error {
	fd := s.fd
	s.fd = -1
	if fd < 0 {
		return nil
	}
	if count(fd, unix.SIOCINQ) == 0 { // else to close it is to reset it, and nothing is said before
		_, _, _ = syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
		if count(fd, unix.SIOCOUTQ) == 0 { // the peer has it all: nothing is waited for
			_, _, failed := syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
			return failure(failed)
		}
	}
	return unix.Close(fd)
}

// name is the address of this end.
func (s *socket) name() netip.AddrPort {
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func setOption(fd, level, option int, value unsafe.Pointer, size uintptr) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(value), size, 0)
}

// begin begins to connect.
func begin(fd int, to netip.AddrPort) error {
	port := to.Port()
	network := *(*uint16)(unsafe.Pointer(&[2]byte{byte(port >> 8), byte(port)}))
	if to.Addr().Is4() {
		a := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: network, Addr: to.Addr().As4()}
		_, _, failed := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
		return failure(failed)
	}
	a := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: network, Addr: to.Addr().As16()}
	_, _, failed := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	return failure(failed)
}

// established is EINPROGRESS until there is a connection, or why there is none.
func established(fd int) error {
	value, size := int32(0), uint32(4)
	_, _, failed := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if failed != 0 || value != 0 {
		return failure(max(failed, syscall.Errno(value)))
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return unix.EINPROGRESS
	}
	return nil
}

// count is how many bytes are not read, or not acknowledged; -1 is not known.
func count(fd int, which uintptr) int32 {
	n := int32(-1)
	_, _, _ = syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), which, uintptr(unsafe.Pointer(&n)))
	return n
}
