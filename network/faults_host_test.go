//go:build host

package network

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// faulty gives a directory with a bridge plugin that does what the fault says and then, or else, runs the real one.
// The plugin is a program of its own; the fault is read from a file, so that a test can change it.
func faulty(t *testing.T) (dir string, fault func(string)) {
	t.Helper()
	dir = t.TempDir()
	src := filepath.Join(dir, "main.go")
	if err := os.WriteFile(src, []byte(faultyPlugin), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "bridge"), src)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the faulty plugin: %v\n%s", err, out)
	}
	return dir, func(s string) {
		if err := os.WriteFile(filepath.Join(dir, "fault"), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const faultyPlugin = `package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	self, _ := os.Executable()
	dir := filepath.Dir(self)
	b, _ := os.ReadFile(filepath.Join(dir, "fault"))
	verb, what, _ := strings.Cut(string(b), " ")
	stdin, _ := io.ReadAll(os.Stdin)
	real := exec.Command(os.Getenv("PODD_TEST_BRIDGE"))
	for _, d := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		if d != dir {
			real = exec.Command(filepath.Join(d, "bridge"))
		}
	}
	real.Stdin, real.Stderr = bytes.NewReader(stdin), os.Stderr
	if os.Getenv("CNI_COMMAND") != verb {
		what = ""
	}
	switch what {
	case "fail":
		fmt.Println("{\"code\": 11, \"msg\": \"out of cheese\"}")
		os.Exit(1)
	case "fail quietly":
		os.Exit(3)
	case "hang":
		child := exec.Command("/bin/busybox", "sleep", "1000")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.Start()
		if f, err := os.OpenFile(filepath.Join(dir, "started"), os.O_WRONLY, 0); err == nil {
			fmt.Fprintln(f, child.Process.Pid)
		}
		time.Sleep(1000 * time.Second)
	case "garbage":
		real.Run()
		fmt.Println("{\"cniVersion\": \"1.0.0\", \"ips\": [")
		return
	case "no address":
		real.Run()
		fmt.Println("{\"cniVersion\": \"1.0.0\"}")
		return
	case "die":
		real.Run()
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	real.Stdout = os.Stdout
	if real.Run() != nil {
		os.Exit(1)
	}
}
`

func TestFaultyAdd(t *testing.T) {
	bin, fault := faulty(t)
	n, _ := host(t, func(o *Options) {
		o.BinDirs = []string{bin, bundle()}
		o.Range = netip.MustParsePrefix("10.99.0.0/29") // 5 pods: a leak is soon an error
	})
	p := pod("p")
	for what, want := range map[string]string{
		"fail": "out of cheese", "fail quietly": "exit status 3", "hang": "killed: no answer within 400ms",
		"garbage": "unexpected end of JSON", "no address": "the result has no address", "die": "signal: killed",
	} {
		fault("ADD " + what)
		if what == "hang" {
			n.o.Timeout = 400 * time.Millisecond
		}
		for range 3 {
			_, err := n.Ensure(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "podd") {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
			if s, err := n.Look(p.UID); err != nil || s.Ready || !s.Attached {
				t.Errorf("%s: Look = %+v, %v", what, s, err)
			}
		}
		if got := addresses(t, n); len(got) > 1 {
			t.Errorf("%s: addresses taken: %v", what, got)
		}
		fault("")
		n.o.Timeout = DefaultTimeout
		ensure(t, n, p)
		remove(t, n, p)
	}
	if out, _ := exec.Command("pgrep", "-f", "busybox sleep 1000").Output(); len(out) > 0 {
		t.Errorf("what a killed plugin had started still runs: %s", out)
	}
}

func addresses(t *testing.T, n *Network) []string {
	t.Helper()
	names, err := listDir(filepath.Join(n.o.ipamDir(), "podd"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(s string) bool { _, err := netip.ParseAddr(s); return err != nil })
}

// A DEL that does not work is an error as often as it is called, keeps the address, and works in the end.
func TestFaultyDel(t *testing.T) {
	bin, fault := faulty(t)
	n, dir := host(t, func(o *Options) { o.BinDirs = []string{bin, bundle()} })
	p := pod("p")
	ensure(t, n, p)
	fault("DEL fail")
	for range 2 {
		if err := n.Remove(t.Context(), p.UID); err == nil || !strings.Contains(err.Error(), "out of cheese") {
			t.Errorf("Remove = %v", err)
		}
	}
	if s, err := n.Look(p.UID); err != nil || !s.Attached {
		t.Errorf("Look = %+v, %v", s, err)
	}
	missing := open(t, dir, func(o *Options) { o.BinDirs = []string{t.TempDir()} })
	if err := missing.Remove(t.Context(), p.UID); err == nil || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("Remove without plugins = %v", err)
	}
	fault("")
	remove(t, n, p)
}

// What is done to a namespace's pin is put right, and never keeps Remove from its work.
func TestMeddledNamespace(t *testing.T) {
	for name, meddle := range map[string]func(path string) error{
		"unmounted": func(path string) error { return unix.Unmount(path, unix.MNT_DETACH) },
		"deleted":   unpin,
		"a file": func(path string) error {
			if err := unpin(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("x"), 0o600)
		},
		"a link": func(path string) error {
			if err := unpin(path); err != nil {
				return err
			}
			return os.Symlink("/proc/self/ns/net", path)
		},
		"the host's": func(path string) error { return unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, "") },
	} {
		t.Run(name, func(t *testing.T) {
			n, _ := host(t, nil)
			p := pod("p")
			for _, again := range []bool{true, false} {
				r := ensure(t, n, p)
				if err := meddle(r.Netns); err != nil {
					t.Fatal(err)
				}
				if s, err := n.Look(p.UID); err != nil || s.Ready || !s.Attached {
					t.Errorf("Look = %+v, %v", s, err)
				}
				if again {
					ensure(t, n, p)
				}
				if s, _ := n.Look(p.UID); s.Ready != again {
					t.Errorf("Ready = %v", s.Ready)
				}
			}
			remove(t, n, p)
		})
	}
}

// Interface, or bridge, deleted under a pod: Look tells, Ensure makes it anew.
func TestMeddledInterface(t *testing.T) {
	n, _ := host(t, nil)
	p := pod("p")
	serve(t, ensure(t, n, p).Netns, "tcp", ":80", "p")
	for _, which := range []func() (string, error){
		func() (string, error) { r, _, err := n.readRecord(p.UID); return r.Attempts[0].HostIf, err },
		func() (string, error) { return "podd0", nil },
	} {
		name, err := which()
		if err != nil {
			t.Fatal(err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		if s, err := n.Look(p.UID); err != nil || s.Ready {
			t.Errorf("%s deleted: Look = %+v, %v", name, s, err)
		}
		wantAnswer(t, "", "tcp", ensure(t, n, p).IPs[0]+":80", "p")
	}
	remove(t, n, p)
}

// After a reboot the namespaces are gone and the files below the state directory are not.
func TestReboot(t *testing.T) {
	n, dir := host(t, nil)
	stays, gone := pod("stays", port(8080, 80, "", "")), pod("gone")
	before := ensure(t, n, stays)
	ensure(t, n, gone)
	for _, uid := range []string{stays.UID, gone.UID} {
		if err := unpin(n.netnsPath(uid, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(n.o.NetnsDir); err != nil {
		t.Fatal(err)
	}
	n = open(t, dir, nil)
	if known, err := n.Known(t.Context()); err != nil || !slices.Equal(known, []string{gone.UID, stays.UID}) {
		t.Errorf("Known = %v, %v", known, err)
	}
	remove(t, n, gone)
	stays.Attempt = 1
	after := ensure(t, n, stays)
	if got := addresses(t, n); !slices.Equal(got, after.IPs) {
		t.Errorf("addresses = %v, want only %v (before: %v)", got, after.IPs, before.IPs)
	}
	remove(t, n, stays)
}

// A record that is lost or torn: what it stood for is found by what is on the host.
func TestLostRecord(t *testing.T) {
	n, dir := host(t, nil)
	lost, torn, half := pod("lost", port(8081, 80, "", "")), pod("torn"), pod("half")
	ensure(t, n, lost)
	ensure(t, n, torn)
	if _, err := n.Netns(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(n.recordPath(lost.UID)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.recordPath(torn.UID), []byte(`{"uid":`), 0o600); err != nil {
		t.Fatal(err)
	}
	n = open(t, dir, nil)
	want := []string{half.UID, lost.UID, torn.UID}
	if known, err := n.Known(t.Context()); err != nil || !slices.Equal(known, want) {
		t.Errorf("Known = %v, %v, want %v", known, err, want)
	}
	for _, uid := range want {
		if s, err := n.Look(uid); err != nil || !s.Attached || s.Ready {
			t.Errorf("Look(%s) = %+v, %v", uid, s, err)
		}
		if err := n.Remove(t.Context(), uid); err != nil {
			t.Error(err)
		}
	}
	// Only an address file is left: the rest of it did not survive a power loss.
	file := filepath.Join(n.o.ipamDir(), "podd", "10.99.0.200")
	if err := os.WriteFile(file, []byte("uid-old.3\r\neth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := n.Known(t.Context()); err != nil || !slices.Equal(known, []string{"uid-old"}) {
		t.Errorf("Known = %v, %v", known, err)
	}
	if err := n.Remove(t.Context(), "uid-old"); err != nil {
		t.Error(err)
	}
}

func TestAddressesRunOut(t *testing.T) {
	n, _ := host(t, func(o *Options) { o.Range = netip.MustParsePrefix("10.99.0.0/30") })
	ensure(t, n, pod("one"))
	_, err := n.Ensure(t.Context(), pod("two"))
	if err == nil || !strings.Contains(err.Error(), "no IP addresses available") {
		t.Errorf("Ensure = %v", err)
	}
	remove(t, n, pod("one"))
	ensure(t, n, pod("two"))
	remove(t, n, pod("two"))
}

// podd dies at every point there is, in Ensure and in Remove; the next one finishes either.
func TestKillPoints(t *testing.T) {
	if spec := os.Getenv("PODD_NETWORK_TEST_VICTIM"); spec != "" {
		victim(t, spec)
		return
	}
	src, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	points := map[string]bool{}
	for _, file := range src {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(b), `killpoint.At("`)[1:] {
			name, _, _ := strings.Cut(part, `"`)
			if strings.HasPrefix(name, "network.") {
				points[name] = true
			}
		}
	}
	if len(points) < 15 {
		t.Errorf("only %d kill points found", len(points))
	}
	for point := range points {
		for _, finish := range []string{"ensure", "remove"} {
			t.Run(point+"/"+finish, func(t *testing.T) {
				dir := t.TempDir()
				before := leftovers(t, dir)
				cmd := exec.Command("/proc/self/exe", "-test.run=^TestKillPoints$")
				cmd.Env = append(os.Environ(), "PODD_NETWORK_TEST_VICTIM="+dir, "PODD_KILL_AT="+point)
				out, err := cmd.CombinedOutput()
				if err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("was not killed: %v\n%s", err, out)
				}
				n := open(t, dir, nil)
				p := pod("p", port(8080, 80, "", ""))
				if finish == "ensure" {
					r := ensure(t, n, p)
					serve(t, r.Netns, "tcp", ":80", "p")
					wantAnswer(t, "", "tcp", r.IPs[0]+":80", "p")
					wantAnswer(t, "", "tcp", "127.0.0.1:8080", "p")
					if got := addresses(t, n); !slices.Equal(got, r.IPs) {
						t.Errorf("addresses = %v, want only %v", got, r.IPs)
					}
				}
				remove(t, n, p)
				if err := n.Clear(context.Background()); err != nil {
					t.Error(err)
				}
				if after := added(before, leftovers(t, dir)); len(after) > 0 {
					t.Errorf("left on the host:\n%s", strings.Join(after, "\n"))
				}
			})
		}
	}
}

// victim is the podd that dies. It shares the network of the test and, with it, all that it leaves behind.
func victim(t *testing.T, dir string) {
	n := open(t, dir, nil)
	p := pod("p", port(8080, 80, "", ""))
	ensure(t, n, p)
	remove(t, n, p)
	t.Error("the kill point was not passed")
}

// podd is killed while ADD is at work: the plugin goes with it, and the next podd finds what it has to undo.
func TestKilledDuringAdd(t *testing.T) {
	if dir := os.Getenv("PODD_NETWORK_TEST_ADDING"); dir != "" {
		n := open(t, dir, func(o *Options) { o.BinDirs = []string{os.Getenv("PODD_NETWORK_TEST_BIN"), bundle()} })
		_, err := n.Ensure(t.Context(), pod("p"))
		t.Fatalf("Ensure came back: %v", err)
	}
	bin, fault := faulty(t)
	fault("ADD hang")
	started := filepath.Join(bin, "started")
	if err := unix.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	_, dir := host(t, nil)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilledDuringAdd$")
	cmd.Env = append(os.Environ(), "PODD_NETWORK_TEST_ADDING="+dir, "PODD_NETWORK_TEST_BIN="+bin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(started) // until the plugin opens it, too
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var child int
	if _, err := fmt.Fscan(f, &child); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(child, unix.SIGKILL)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := io.ReadAll(f); err != nil { // until the plugin is gone
		t.Fatal(err)
	}
	n := open(t, dir, nil)
	if s, err := n.Look("uid-p"); err != nil || s.Ready || !s.Attached {
		t.Errorf("Look = %+v, %v", s, err)
	}
	r := ensure(t, n, pod("p"))
	if got := addresses(t, n); !slices.Equal(got, r.IPs) {
		t.Errorf("addresses = %v, want only %v", got, r.IPs)
	}
	remove(t, n, pod("p"))
}

// A plugin that knows host ports is left to do them.
func TestPluginMapsPorts(t *testing.T) {
	bin, _ := faulty(t)
	var seen struct {
		RuntimeConfig struct {
			PortMappings []cniMapping `json:"portMappings"`
		} `json:"runtimeConfig"`
		types.PluginConf
	}
	_, dir := host(t, nil)
	script := fmt.Sprintf("#!/bin/sh\ncat > %s/seen\nexec cat %s/result\n", bin, bin)
	if err := os.WriteFile(filepath.Join(bin, "ports"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	result := `{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.9/24"}]}`
	if err := os.WriteFile(filepath.Join(bin, "result"), []byte(result), 0o600); err != nil {
		t.Fatal(err)
	}
	list := `{"cniVersion":"1.0.0","name":"theirs","plugins":[{"type":"ports","capabilities":{"portMappings":true}}]}`
	if err := os.WriteFile(filepath.Join(dir, "net.d", "00-theirs.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	n := open(t, dir, func(o *Options) { o.BinDirs = []string{bin} })
	p := pod("p", port(8080, 80, "", ""))
	r := ensure(t, n, p)
	b, err := os.ReadFile(filepath.Join(bin, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &seen); err != nil || !slices.Equal(seen.RuntimeConfig.PortMappings, hostPorts(p.Ports)) {
		t.Errorf("the plugin saw %s, %v", b, err)
	}
	if !slices.Equal(r.IPs, []string{"10.99.0.9"}) || len(n.table.want) != 0 {
		t.Errorf("result %+v, own host ports %v", r, n.table.want)
	}
	remove(t, n, p)
}

// A pod with a limit gets it on the host's end of its interface, in the direction that it is for, and no other pod does. What
// is made for it goes with it, also when the record has been lost.
func TestBandwidth(t *testing.T) {
	n, _ := host(t, nil)
	free, both, lost := pod("free"), pod("both"), pod("lost")
	both.Bandwidth, lost.Bandwidth = Bandwidth{Ingress: 8_000_000, Egress: 16_000_000}, Bandwidth{Egress: 1000}
	for _, p := range []Pod{free, both, lost} {
		ensure(t, n, p)
	}
	rates := map[string]uint64{} // bytes per second, by link
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		disciplines, err := netlink.QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range disciplines {
			if tbf, ok := d.(*netlink.Tbf); ok {
				rates[l.Type()+" "+l.Attrs().Name] = tbf.Rate
			}
		}
	}
	r, _, err := n.readRecord(both.UID)
	if err != nil {
		t.Fatal(err)
	}
	if got := rates["veth "+r.Attempts[0].HostIf]; got != 1_000_000 {
		t.Errorf("to the pod that has a limit of 8 Mbit/s go %d bytes/s: %v", got, rates)
	}
	delete(rates, "veth "+r.Attempts[0].HostIf)
	if got := slices.Sorted(maps.Values(rates)); !slices.Equal(got, []uint64{125, 2_000_000}) {
		t.Errorf("for what two pods send there are the limits %v", rates)
	}
	for link := range rates {
		if !strings.HasPrefix(link, "ifb bwp") {
			t.Errorf("%s has a limit", link)
		}
	}
	if err := os.Remove(n.recordPath(lost.UID)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Pod{free, both, lost} {
		remove(t, n, p)
	}
}

// A plugin that knows bandwidth is left to do it.
func TestPluginLimitsBandwidth(t *testing.T) {
	bin, _ := faulty(t)
	_, dir := host(t, nil)
	for name, text := range map[string]string{
		"shaper": fmt.Sprintf("#!/bin/sh\ncat > %s/seen.$CNI_COMMAND\nexec cat %s/result\n", bin, bin),
		"result": `{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.9/24"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	list := `{"cniVersion":"1.0.0","name":"theirs","plugins":[{"type":"shaper","capabilities":{"bandwidth":true}}]}`
	if err := os.WriteFile(filepath.Join(dir, "net.d", "00-theirs.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	n := open(t, dir, func(o *Options) { o.BinDirs = []string{bin} })
	p := pod("p")
	p.Bandwidth = Bandwidth{Ingress: 100_000_000}
	ensure(t, n, p)
	remove(t, n, p)
	for _, command := range []string{"ADD", "DEL"} {
		b, err := os.ReadFile(filepath.Join(bin, "seen."+command))
		if want := `"bandwidth":{"ingressRate":100000000,"ingressBurst":10000000}`; err != nil || !strings.Contains(string(b), want) {
			t.Errorf("at %s the plugin saw %s, %v; want %s", command, b, err, want)
		}
	}
}
