//go:build host

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// The tests are a host of their own: TestMain starts this binary again in new network and mount namespaces, so that
// bridge, rules and pins are real and touch nothing else.
func TestMain(m *testing.M) {
	const inside = "PODD_NETWORK_TEST_HOST"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread()
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "tests in a namespace:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := enterHost(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func enterHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func bundle() string {
	if dir := os.Getenv("PODD_BUNDLE"); dir != "" {
		return dir
	}
	dir, _ := filepath.Abs("../libexec/podd")
	return dir
}

// open gives a network below a directory that is new or, to stand for a restart of podd, was used before.
func open(t *testing.T, dir string, change func(*Options)) *Network {
	t.Helper()
	o := Options{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{bundle()}, StateDir: filepath.Join(dir, "state"),
		NetnsDir: filepath.Join(dir, "netns"), Range: netip.MustParsePrefix("10.99.0.0/24"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&o)
	}
	n, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// host is a network that is looked over for leaks when the test ends.
func host(t *testing.T, change func(*Options)) (*Network, string) {
	t.Helper()
	dir := t.TempDir()
	before := leftovers(t, dir)
	n := open(t, dir, change)
	t.Cleanup(func() {
		if err := n.Clear(context.Background()); err != nil {
			t.Error(err)
		}
		if after := added(before, leftovers(t, dir)); len(after) > 0 {
			t.Errorf("left on the host:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	})
	return n, dir
}

// added is what is in after and was not in before: what was there before may well have gone meanwhile.
func added(before, after []string) []string {
	return slices.DeleteFunc(after, func(s string) bool { return slices.Contains(before, s) })
}

// leftovers are all things that a pod's network can leave behind.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, "link "+l.Attrs().Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) { // others have pins on this host, too
			all = append(all, "mount "+strings.TrimSpace(line))
		}
	}
	for _, sub := range []string{"netns", "state/records", "state/results", "state/ipam/podd"} {
		names, err := listDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !strings.HasPrefix(name, "last_reserved_ip") && name != "lock" {
				all = append(all, sub+" "+name)
			}
		}
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		all = append(all, "nft table "+table.Name)
	}
	slices.Sort(all)
	return all
}

func pod(name string, ports ...v1.ContainerPort) Pod {
	return Pod{UID: "uid-" + name, Namespace: "default", Name: name, Ports: ports}
}

func ensure(t *testing.T, n *Network, p Pod) Result {
	t.Helper()
	res, err := n.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func remove(t *testing.T, n *Network, p Pod) {
	t.Helper()
	if err := n.Remove(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
}

// in runs f in a network namespace, on a thread of its own.
func in(t *testing.T, path string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go onOwnThread(func() {
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	})
	return <-done
}

// serve answers every connection, or datagram, in the namespace with name and the address it came from.
func serve(t *testing.T, path, network, addr, name string) {
	t.Helper()
	var wg sync.WaitGroup
	var stop io.Closer
	err := in(t, path, func() error {
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			stop = c
			wg.Go(func() {
				b := make([]byte, 100)
				for {
					_, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					c.WriteTo([]byte(name+" "+from.String()), from)
				}
			})
			return nil
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		stop = l
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr())
				c.Close()
			}
		})
		return nil
	})
	if err != nil {
		t.Fatalf("serve %s on %s: %v", name, addr, err)
	}
	t.Cleanup(func() { stop.Close(); wg.Wait() })
}

// ask connects from the namespace ("" is the host) and returns who answered and whom it saw.
func ask(t *testing.T, path, network, addr string) (who, saw string, err error) {
	t.Helper()
	if path == "" {
		path = "/proc/self/ns/net"
	}
	err = in(t, path, func() error {
		c, err := net.DialTimeout(network, addr, 700*time.Millisecond)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(700 * time.Millisecond))
		if strings.HasPrefix(network, "udp") {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		b := make([]byte, 200)
		got, err := c.Read(b)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		who, saw, _ = strings.Cut(string(b[:got]), " ")
		if h, _, err := net.SplitHostPort(saw); err == nil {
			saw = h
		}
		return nil
	})
	return who, saw, err
}

func wantAnswer(t *testing.T, from, network, addr, who string) (saw string) {
	t.Helper()
	got, saw, err := ask(t, from, network, addr)
	if err != nil || got != who {
		t.Errorf("%s %s from %q: answered by %q, %v; want %s", network, addr, from, got, err, who)
	}
	return saw
}

func wantNone(t *testing.T, from, network, addr string) {
	t.Helper()
	if got, _, err := ask(t, from, network, addr); err == nil {
		t.Errorf("%s %s from %q: answered by %q, want none", network, addr, from, got)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	n, _ := host(t, nil)
	a, b := pod("a"), pod("b")
	ra, rb := ensure(t, n, a), ensure(t, n, b)
	serve(t, ra.Netns, "tcp", ":80", "a")
	serve(t, rb.Netns, "tcp", ":80", "b")
	serve(t, "/proc/self/ns/net", "tcp", "10.99.0.1:8000", "host")

	if saw := wantAnswer(t, ra.Netns, "tcp", rb.IPs[0]+":80", "b"); saw != ra.IPs[0] {
		t.Errorf("b saw %s, want a's own address %s", saw, ra.IPs[0])
	}
	wantAnswer(t, "", "tcp", ra.IPs[0]+":80", "a")
	wantAnswer(t, ra.Netns, "tcp", "127.0.0.1:80", "a")
	if saw := wantAnswer(t, rb.Netns, "tcp", "10.99.0.1:8000", "host"); saw != rb.IPs[0] {
		t.Errorf("host saw %s, want %s", saw, rb.IPs[0])
	}
	s, err := n.Look(a.UID)
	if err != nil || !s.Ready || !s.Attached || !slices.Equal(s.Result.IPs, ra.IPs) || s.Result.Netns != ra.Netns {
		t.Errorf("Look = %+v, %v", s, err)
	}
	remove(t, n, a)
	remove(t, n, b)
	remove(t, n, b)
	if s, err := n.Look(a.UID); err != nil || s.Attached || s.Ready {
		t.Errorf("Look after Remove = %+v, %v", s, err)
	}
}

func TestEnsureIsRepeatable(t *testing.T) {
	n, dir := host(t, nil)
	p := pod("again")
	first := ensure(t, n, p)
	if second := ensure(t, n, p); !slices.Equal(first.IPs, second.IPs) || first.Netns != second.Netns {
		t.Errorf("second Ensure: %+v, want %+v", second, first)
	}
	restarted := open(t, dir, nil)
	if third := ensure(t, restarted, p); !slices.Equal(first.IPs, third.IPs) {
		t.Errorf("after a restart: %+v, want %+v", third, first)
	}
	next := p
	next.Attempt = 1
	r := ensure(t, restarted, next)
	if r.Netns == first.Netns {
		t.Errorf("attempt 1 has the namespace of attempt 0")
	}
	known, err := restarted.Known(t.Context())
	if err != nil || !slices.Equal(known, []string{p.UID}) {
		t.Errorf("Known = %v, %v", known, err)
	}
	if pins, _ := restarted.pins(p.UID); len(pins) != 1 {
		t.Errorf("pins = %v, want only attempt 1's", pins)
	}
	remove(t, restarted, p)
}

func TestNetnsAndEnsureAtOnce(t *testing.T) {
	n, _ := host(t, nil)
	p := pod("both")
	var wg sync.WaitGroup
	paths := make([]string, 4)
	for i := range paths {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				paths[i], err = n.Netns(t.Context(), p)
			} else {
				var r Result
				r, err = n.Ensure(t.Context(), p)
				paths[i] = r.Netns
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(slices.Compact(paths)) != 1 {
		t.Errorf("paths = %v", paths)
	}
	remove(t, n, p)
}

// 300 pods through a range with 253 addresses, 8 at a time.
func TestManyPodsThroughSmallRange(t *testing.T) {
	n, _ := host(t, nil)
	work := make(chan int)
	var wg, setups sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	setups.Go(func() { // as the timer does, but all the time
		for ctx.Err() == nil {
			if err := n.Setup(ctx); err != nil {
				t.Error(err)
			}
			if _, err := n.Known(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	for range 8 {
		wg.Go(func() {
			for i := range work {
				p := pod("many-" + strconv.Itoa(i))
				if i%10 == 0 {
					p.Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: int32(20000 + i)}}
				}
				if _, err := n.Ensure(t.Context(), p); err != nil {
					t.Error(err)
				}
				if err := n.Remove(t.Context(), p.UID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 300 {
		work <- i
	}
	close(work)
	wg.Wait()
	stop()
	setups.Wait()
}
