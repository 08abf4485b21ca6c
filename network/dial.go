package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// errNone is the cause when something is asked of the network of a pod that has none, or none any more.
var errNone = errors.New("the pod has no network: it does not run")

// Addresses are the addresses that the pod was given, primary first. They are what podd wrote down when it gave them, not
// what the pod's status says. A pod with HostNetwork, or one that does not run, has none.
func (n *Network) Addresses(p Pod) ([]string, error) {
	if p.HostNetwork {
		return nil, nil
	}
	a, err := n.newest(p)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s/%s: %w", p.Namespace, p.Name, err)
	}
	return a.IPs, nil
}

// Dial connects to a TCP port of the pod's own localhost, of the host's with HostNetwork: 127.0.0.1 is tried first, then
// ::1, then the addresses of a pod that is Apart. The connection is a *net.TCPConn.
func (n *Network) Dial(ctx context.Context, p Pod, port int) (net.Conn, error) {
	conn, err := n.dial(ctx, p, port)
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of %s/%s: %w", port, p.Namespace, p.Name, err)
	}
	return conn, nil
}

func (n *Network) dial(ctx context.Context, p Pod, port int) (net.Conn, error) {
	var d4, d6 net.Dialer
	var apart []string
	if !p.HostNetwork {
		a, err := n.newest(p)
		if err != nil {
			return nil, err
		}
		if a.Apart {
			apart = a.IPs
		}
		path := n.netnsPath(p.UID, a.Attempt)
		d4.Control, d6.Control = socketOf(path, unix.AF_INET), socketOf(path, unix.AF_INET6)
	}
	nr := strconv.Itoa(port)
	conn, err := d4.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", nr))
	if err == nil || ctx.Err() != nil {
		return conn, err
	}
	conn, err6 := d6.DialContext(ctx, "tcp6", net.JoinHostPort("::1", nr))
	if err6 == nil {
		return conn, nil
	}
	for _, ip := range apart {
		if conn, aerr := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(ip, nr)); aerr == nil {
			return conn, nil
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) { // the family that most pods listen on tells why
		return nil, err
	}
	return nil, errors.Join(err, err6)
}

// newest is what is recorded of the pod's newest sandbox.
func (n *Network) newest(p Pod) (attempt, error) {
	if err := checkUID(p.UID); err != nil {
		return attempt{}, err
	}
	r, _, err := n.readRecord(p.UID)
	if err != nil {
		return attempt{}, err
	}
	if len(r.Attempts) == 0 {
		return attempt{}, errNone
	}
	a := slices.MaxFunc(r.Attempts, func(a, b attempt) int { return a.Attempt - b.Attempt })
	if !a.Added {
		return attempt{}, errNone
	}
	return a, nil
}

// socketOf is for net.Dialer.Control: a socket of the namespace at path takes the place of the one that the dialer has made
// and not used yet. A socket stays in the namespace it was made in, so nothing else has to happen in there, and no thread is
// in the pod's namespace while the connection comes about.
func socketOf(path string, family int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		theirs, err := socketIn(path, family)
		if err != nil {
			return err
		}
		defer unix.Close(theirs)
		replaced := error(nil)
		if err := c.Control(func(ours uintptr) { replaced = unix.Dup3(theirs, int(ours), unix.O_CLOEXEC) }); err != nil {
			return err
		}
		return replaced
	}
}

// socketIn makes a TCP socket in the namespace at path.
func socketIn(path string, family int) (fd int, err error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, errNone
	}
	if err != nil {
		return -1, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer unix.Close(ns)
	made := make(chan error, 1)
	go onOwnThread(func() {
		err := unix.Setns(ns, unix.CLONE_NEWNET)
		if err != nil {
			made <- fmt.Errorf("network namespace %s: %w", path, err)
			return
		}
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		made <- err
	})
	if err := <-made; err != nil {
		return -1, err
	}
	return fd, nil
}
