package network

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func unit(t *testing.T, change func(*Options)) (*Network, error) {
	t.Helper()
	dir := t.TempDir()
	o := Options{ConfDir: filepath.Join(dir, "net.d"), StateDir: filepath.Join(dir, "state"), NetnsDir: filepath.Join(dir, "netns")}
	if change != nil {
		change(&o)
	}
	return Open(o)
}

func TestOptions(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"is not absolute":            func(o *Options) { o.ConfDir = "net.d" },
		"has no addresses":           func(o *Options) { o.Range = netip.MustParsePrefix("10.0.0.0/31") },
		"longer than 15 characters":  func(o *Options) { o.Bridge = "a-bridge-too-far" },
		"network state directory \"": func(o *Options) { o.StateDir = "" },
	} {
		if _, err := unit(t, change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open = %v, want %q", err, want)
		}
	}
	n, err := unit(t, func(o *Options) { o.Range = netip.MustParsePrefix("10.1.2.3/16") })
	if err != nil {
		t.Fatal(err)
	}
	if n.o.Range.String() != "10.1.0.0/16" || n.o.Bridge != "podd0" || n.o.Table != "podd" {
		t.Errorf("options = %+v", n.o)
	}
}

// TestLookMakesNothing: who is only to take away what there is leaves no directory behind where there is nothing.
func TestLookMakesNothing(t *testing.T) {
	dir := t.TempDir()
	n, err := Look(Options{ConfDir: filepath.Join(dir, "net.d"), StateDir: filepath.Join(dir, "state"), NetnsDir: filepath.Join(dir, "netns")})
	if err != nil {
		t.Fatal(err)
	}
	if file, err := n.RemoveDefault(); file != "" || err != nil {
		t.Errorf("RemoveDefault = %q, %v", file, err)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
		t.Errorf("made: %v, %v", made, err)
	}
}

func TestAttemptID(t *testing.T) {
	for id, want := range map[string]bool{
		"a.0": true, "6f0d-11.12": true, "a.b.3": true,
		"a": false, ".1": false, "a.": false, "a.-1": false, "a.01": false, "a.x": false, "../x.0": false, "a/b.0": false, "": false,
	} {
		uid, nr, ok := parseAttemptID(id)
		if ok != want || (ok && attemptID(uid, nr) != id) {
			t.Errorf("parseAttemptID(%q) = %q, %d, %v", id, uid, nr, ok)
		}
	}
	n, err := unit(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"", "..", "a/b", "-a", strings.Repeat("a", 201)} {
		_, e1 := n.Ensure(t.Context(), Pod{UID: uid})
		_, e2 := n.Netns(t.Context(), Pod{UID: uid})
		_, e3 := n.Look(uid)
		if e1 == nil || e2 == nil || e3 == nil || n.Remove(t.Context(), uid) == nil {
			t.Errorf("uid %q was taken", uid)
		}
	}
}

func TestConf(t *testing.T) {
	n, err := unit(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.conf(); !errors.Is(err, errNoConf) {
		t.Errorf("conf of an empty directory: %v", err)
	}
	if err := n.writeDefault(); err != nil {
		t.Fatal(err)
	}
	c, err := n.conf()
	if err != nil {
		t.Fatal(err)
	}
	if !c.own || c.mapsPorts() || !slices.Equal(c.subnets(), []netip.Prefix{DefaultRange}) || c.list.Name != "podd" {
		t.Errorf("default configuration: %+v, %v", c, c.subnets())
	}
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(n.o.ConfDir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("05-one.conf", `{"cniVersion":"0.4.0","name":"one","type":"macvlan","capabilities":{"portMappings":true},
		"ipam":{"type":"host-local","subnet":"192.168.7.0/24"}}`)
	put("00-notes.txt", "not one")
	put(".00-hidden.conflist", "{")
	c, err = n.conf()
	if err != nil {
		t.Fatal(err)
	}
	if c.own || !c.mapsPorts() || c.list.Name != "one" || c.list.CNIVersion != "0.4.0" || len(c.list.Plugins) != 1 ||
		!slices.Equal(c.subnets(), []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}) {
		t.Errorf("single plugin: %+v, %v", c, c.subnets())
	}
	for _, bad := range []string{"", "{", "null", "[]", `{"name":"x"}`, `{"plugins":[]}`, `{"name":"x","plugins":[{}]}`, `{"plugins":[{"type":"bridge"}]}`} {
		put("01-bad.conflist", bad)
		if _, err := n.conf(); err == nil || !strings.Contains(err.Error(), "01-bad.conflist") {
			t.Errorf("configuration %q: %v", bad, err)
		}
	}
}

// TestRangeOfConf: another range than that of the configuration that podd wrote is warned about, once.
func TestRangeOfConf(t *testing.T) {
	n, err := unit(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	n.o.Log = slog.New(slog.NewTextHandler(&said, nil))
	for want, given := range []string{DefaultRange.String(), "10.99.0.0/24", "10.99.0.0/24"} {
		n.o.Range = netip.MustParsePrefix(given)
		c, err := n.ensureConf()
		if err != nil {
			t.Fatal(err)
		}
		n.checkRange(c)
		if got := strings.Count(said.String(), "--pod-cidr has no effect"); got != min(want, 1) {
			t.Errorf("range %s: %d warnings\n%s", given, got, &said)
		}
	}
	if !strings.Contains(said.String(), "flag=10.99.0.0/24 file="+n.o.ConfDir) || !strings.Contains(said.String(), "range="+DefaultRange.String()) {
		t.Error(said.String())
	}
}

func TestMappings(t *testing.T) {
	both := []string{"10.85.0.2", "fd00::2"}
	for _, c := range []struct {
		port v1.ContainerPort
		ips  []string
		want string // keys, or part of the error
	}{
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2}, both, "tcp any:1>10.85.0.2:2 tcp any:1>fd00::2:2"},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, Protocol: "SCTP", HostIP: "::"}, both, "sctp any:1>fd00::2:2"},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, Protocol: "UDP", HostIP: "192.0.2.1"}, both, "udp 192.0.2.1:1>10.85.0.2:2"},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, HostIP: "::ffff:192.0.2.1"}, both, "tcp 192.0.2.1:1>10.85.0.2:2"},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, HostIP: "here"}, both, `hostIP "here": not an address`},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, HostIP: "::1"}, both[:1], "no address of the family"},
		{v1.ContainerPort{HostPort: 1, ContainerPort: 2, Protocol: "ICMP"}, both, `unknown protocol "icmp"`},
		{v1.ContainerPort{ContainerPort: 2}, both, ""},
	} {
		ms, err := mappings(hostPorts([]v1.ContainerPort{c.port}), c.ips)
		var got []string
		for _, m := range ms {
			host := "any"
			if m.HostIP.IsValid() {
				host = m.HostIP.String()
			}
			got = append(got, m.Proto+" "+host+":1>"+m.PodIP.String()+":2")
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if s := strings.Join(got, " "); s != c.want && (err == nil || !strings.Contains(s, c.want)) {
			t.Errorf("%+v: %s, want %s", c.port, s, c.want)
		}
	}
}

func TestSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tcp")
	table := `  sl  local_address rem_address   st
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:0016 0100007F:9999 01 00000000:00000000
   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A
   3: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A
   4: broken
`
	if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := sockets(path, "0A")
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("[::]:81")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("sockets = %v, %v, want %v", got, err, want)
	}
}

func TestLocks(t *testing.T) {
	var l locks
	release, err := l.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.take(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("take of a held lock = %v", err)
	}
	release()
	if len(l.m) != 0 {
		t.Errorf("locks left: %v", l.m)
	}
}

func TestPluginNamesAreNotPaths(t *testing.T) { // CVE-2021-20206
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "evil"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../" + filepath.Base(dir) + "/evil", "./evil", ""} {
		if path, err := new(plugins).FindInPath(name, []string{dir}); err == nil {
			t.Errorf("%q was found as %s", name, path)
		}
	}
}
