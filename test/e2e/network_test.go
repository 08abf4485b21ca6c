//go:build host

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
	"podd/test/ociimage"
)

func testNetwork(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"bandwidth":     testBandwidth,
		"connectivity":  testConnectivity,
		"host-ports":    testHostPorts,
		"host-port-udp": testUDP,
		"masquerade":    testMasquerade,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// testBandwidth looks for the limits that the annotations ask for, by their rates, which nobody else has.
func testBandwidth(t *testing.T, s *suite) {
	p := sleeper("bandwidth")
	p.Meta = `annotations: {kubernetes.io/ingress-bandwidth: "7654320", kubernetes.io/egress-bandwidth: "6543210"}`
	s.running(t, p)
	limits := func() map[string]uint64 { // in bytes, by type of link
		found := map[string]uint64{}
		links, err := netlink.LinkList()
		for errors.Is(err, netlink.ErrDumpInterrupted) {
			links, err = netlink.LinkList()
		}
		must(t, err)
		for _, l := range links {
			disciplines, _ := netlink.QdiscList(l) // of one that has gone there are none
			for _, d := range disciplines {
				if tbf, ok := d.(*netlink.Tbf); ok && (tbf.Rate == 7654320/8 || tbf.Rate == 6543210/8) {
					found[l.Type()] = tbf.Rate
				}
			}
		}
		return found
	}
	if got := limits(); got["veth"] != 7654320/8 || got["ifb"] != 6543210/8 {
		t.Errorf("the limits are %v bytes per second", got)
	}
	s.remove(t, p.Name)
	if got := limits(); len(got) > 0 {
		t.Errorf("after the pod there are the limits %v", got)
	}
}

// server is a pod that answers its name to every HTTP request on its port 8080.
func server(name string) pod {
	p := pod{Name: name, Script: "mkdir /www; echo " + name + " >/www/index.html; exec httpd -f -h /www -p 8080"}
	p.Container = "ports: [{containerPort: 8080}]"
	return p
}

// get asks by HTTP until something answers.
func get(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var body []byte
	eventually(t, func() error {
		r, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err
	})
	return strings.TrimSpace(string(body))
}

// wget asks by HTTP out of a pod, until something answers.
// (busybox has a time limit for wget, and its static build crashes with it)
func (s *suite) wget(t *testing.T, name, address string) string {
	t.Helper()
	return s.sh(t, name, "for i in $(seq 50); do wget -qO- http://"+address+"/ 2>/tmp/err && exit; sleep 0.1; done; cat /tmp/err")
}

// The host reaches pods, pods reach each other, the host and themselves.
func testConnectivity(t *testing.T, s *suite) {
	s.apply(t, server("net-a"), server("net-b"))
	a, b := s.until(t, "net-a", "ready", ready), s.until(t, "net-b", "ready", ready)
	if got := get(t, a.Status.PodIP+":8080"); got != "net-a" {
		t.Errorf("the host gets %q from a", got)
	}
	if got := s.wget(t, "net-a", b.Status.PodIP+":8080"); got != "net-b" {
		t.Errorf("a gets %q from b", got)
	}
	if got := s.wget(t, "net-a", a.Status.PodIP+":8080"); got != "net-a" {
		t.Errorf("a gets %q from itself", got)
	}
	if got := s.wget(t, "net-b", "localhost:8080"); got != "net-b" {
		t.Errorf("b gets %q over localhost", got)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(a.Status.HostIP, "0"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "host") }))
	}()
	defer l.Close()
	if got := s.wget(t, "net-a", l.Addr().String()); got != "host" {
		t.Errorf("a gets %q from the host", got)
	}
	if got := s.sh(t, "net-a", "ip -o link show lo | grep -c LOOPBACK,UP"); got != "1" {
		t.Error("loopback is not up")
	}
	first := s.until(t, "net-a", "there", ready).Status.PodIP
	if first == b.Status.PodIP {
		t.Errorf("both pods have %s", first)
	}
}

// freePort is a port that nothing listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func testHostPorts(t *testing.T, s *suite) {
	all, local := freePort(t), freePort(t)
	open := server("port-all")
	open.Container = fmt.Sprintf("ports: [{containerPort: 8080, hostPort: %d}]", all)
	bound := server("port-local")
	bound.Container = fmt.Sprintf("ports: [{containerPort: 8080, hostPort: %d, hostIP: 127.0.0.1}]", local)
	// A pod that listens on a port of its own that is some other pod's host port.
	same := pod{Name: "port-same", Script: fmt.Sprintf("mkdir /www; echo port-same >/www/index.html; exec httpd -f -h /www -p %d", all)}
	s.apply(t, open, bound, same, sleeper("port-client"))
	host := s.until(t, open.Name, "ready", ready).Status.HostIP
	s.until(t, bound.Name, "ready", ready)
	s.until(t, "port-client", "ready", ready)
	sameIP := s.until(t, same.Name, "ready", ready).Status.PodIP

	for _, address := range []string{host, "127.0.0.1"} {
		if got := get(t, fmt.Sprintf("%s:%d", address, all)); got != open.Name {
			t.Errorf("%s:%d answers %q", address, all, got)
		}
	}
	if got := s.wget(t, "port-client", fmt.Sprintf("%s:%d", host, all)); got != open.Name {
		t.Errorf("a pod gets %q from the host port", got)
	}
	if got := s.wget(t, open.Name, fmt.Sprintf("%s:%d", host, all)); got != open.Name {
		t.Errorf("the pod itself gets %q from its host port", got)
	}
	if got := s.wget(t, "port-client", fmt.Sprintf("%s:%d", sameIP, all)); got != same.Name {
		t.Errorf("a connection to another pod's port %d gets to %q: the host port hijacks it", all, got)
	}
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", local)); got != bound.Name {
		t.Errorf("127.0.0.1:%d answers %q", local, got)
	}
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", host, local), time.Second); err == nil {
		c.Close()
		t.Errorf("hostIP 127.0.0.1 is open on %s, too", host)
	}
	next := server("port-next")
	next.Container = fmt.Sprintf("ports: [{containerPort: 8080, hostPort: %d, hostIP: 127.0.0.1}]", all)
	s.apply(t, next)
	s.meaningPending(t, next.Name, "Unschedulable", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.")
	s.event(t, next.Name, "FailedScheduling")
	s.remove(t, open.Name)
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", host, all), time.Second); err == nil {
		c.Close()
		t.Error("the host port is open after its pod is gone")
	}
	s.until(t, next.Name, "ready", ready)
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", all)); got != next.Name {
		t.Errorf("the next pod's port answers %q", got)
	}
}

const udpEcho = `package main

import "net"

func main() {
	c, err := net.ListenPacket("udp", ":5353")
	for buf := make([]byte, 100); err == nil; {
		var n int
		var from net.Addr
		if n, from, err = c.ReadFrom(buf); err == nil {
			_, err = c.WriteTo(append([]byte("answer to "), buf[:n]...), from)
		}
	}
	panic(err)
}
`

func testUDP(t *testing.T, s *suite) {
	program, err := ociimage.Program(t.Context(), udpEcho)
	if err != nil {
		t.Fatal(err)
	}
	image, err := ociimage.Image{Name: "udp:e2e", Layers: [][]ociimage.File{{{Path: "udp", Content: program}}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := ociimage.WriteOCI(&archive, image); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.PodctlInput(&archive, "image", "load", "-"); code != 0 {
		t.Fatal(errs)
	}
	port := freePort(t)
	p := pod{Name: "port-udp", Container: fmt.Sprintf("image: udp:e2e\ncommand: [/udp]\nports: [{containerPort: 5353, hostPort: %d, protocol: UDP}]", port)}
	s.running(t, p)
	eventually(t, func() error {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		defer conn.Close()
		buf := make([]byte, 100)
		_, err = conn.Write([]byte("me\n"))
		err = errors.Join(err, conn.SetDeadline(time.Now().Add(time.Second)))
		if err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if got := string(buf[:n]); err == nil && got != "answer to me\n" {
			t.Errorf("the UDP host port answers %q", got)
		}
		return err
	})
}

// Outside the pod range, a pod is seen as the host, by one rule however many pods there are.
func testMasquerade(t *testing.T, s *suite) {
	rules := func() int {
		snap, err := harness.Look(t.Context(), harness.Scope{Table: s.Table})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, times := range snap["nft rule"] {
			n += times
		}
		return n
	}
	one := s.running(t, sleeper("masquerade-1"))
	before := rules()
	s.apply(t, sleeper("masquerade-2"), sleeper("masquerade-3"))
	s.until(t, "masquerade-2", "ready", ready)
	s.until(t, "masquerade-3", "ready", ready)
	if after := rules(); after != before || after == 0 {
		t.Errorf("%d rules with one pod, %d with three", before, after)
	}
	seen := outside(t, "198.51.100.1/30", "198.51.100.2/30")
	s.sh(t, "masquerade-1", "nc -w 5 198.51.100.2 4711 </dev/null")
	if from := <-seen; from != "198.51.100.1" {
		t.Errorf("outside sees the connection come from %q, want the host's 198.51.100.1; the pod has %s", from, one.Status.PodIP)
	}
}

// outside is a host of its own, on a link to this one, that listens on port 4711 and tells who connects first.
func outside(t *testing.T, near, far string) <-chan string {
	t.Helper()
	runtime.LockOSThread() // the thread is in the other namespace for a while
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	listener, err := net.Listen("tcp4", "0.0.0.0:4711") // its address comes later
	if back := netns.Set(here); back != nil {
		panic(back) // nothing may go on in the wrong namespace
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pte2e0"}, PeerName: "pte2e1", PeerNamespace: netlink.NsFd(int(there))}
	addr, err := netlink.ParseAddr(near)
	err = errors.Join(err, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err = errors.Join(err, netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), upOutside(there, far)); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() {
		defer close(seen)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		seen <- from
	}()
	return seen
}

func upOutside(ns netns.NsHandle, address string) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName("pte2e1")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	return errors.Join(err, h.AddrAdd(link, addr), h.LinkSetUp(link))
}

// TestNetworkConfiguration: what is in the configured directory wins over podd's default, and a file that cannot be used
// is told, and holds pods back until it is mended.
func TestNetworkConfiguration(t *testing.T) {
	t.Parallel()
	var file, good string
	s := start(t, harness.WithConfig(func(p *harness.Podd) {
		dir := filepath.Join(p.ConfigDir, "cni", "net.d")
		file = filepath.Join(dir, "05-own.conflist")
		good = `{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local",
			"dataDir": "` + p.Root + `/cni/own", "ranges": [[{"subnet": "198.51.100.128/28"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, []byte("{"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}))
	p := server("own-network")
	s.apply(t, p)
	if got := s.event(t, p.Name, "FailedCreatePodSandBox"); !strings.Contains(got, file) {
		t.Errorf("the event does not name the file: %s", got)
	}
	if err := os.WriteFile(file, []byte(good), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := s.until(t, p.Name, "ready", ready)
	if !strings.HasPrefix(pod.Status.PodIP, "198.51.100.1") {
		t.Errorf("podIP %s is not of the configured network", pod.Status.PodIP)
	}
	if got := get(t, pod.Status.PodIP+":8080"); got != p.Name {
		t.Errorf("the pod answers %q", got)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "10-podd.conflist")); err == nil {
		t.Error("podd wrote its default beside the configuration that is there")
	}
	if got := condition(pod, v1.PodReadyToStartContainers); got != v1.ConditionTrue {
		t.Errorf("PodReadyToStartContainers = %q", got)
	}
}
