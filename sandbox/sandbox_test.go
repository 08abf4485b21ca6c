package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/runtime/containers"
)

func testPod(change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1"}}
	p.Spec.DNSPolicy = v1.DNSDefault
	p.Spec.Containers = []v1.Container{{Name: "app"}}
	for _, c := range change {
		c(p)
	}
	return p
}

func ptr[T any](v T) *T { return &v }

func TestHostnames(t *testing.T) {
	host, _ := os.Hostname()
	a := func(n int) string { return strings.Repeat("a", n) }
	const domain = ".sub.default.svc.cluster.local" // 30 characters
	spec := func(hostname, subdomain string) v1.PodSpec {
		return v1.PodSpec{Hostname: hostname, Subdomain: subdomain}
	}
	whole := func(s v1.PodSpec) v1.PodSpec { s.SetHostnameAsFQDN = ptr(true); return s }
	over := func(name string, s v1.PodSpec) v1.PodSpec { s.HostnameOverride = &name; return s }
	onHost := func(s v1.PodSpec) v1.PodSpec { s.HostNetwork = true; return s }
	for name, tt := range map[string]struct {
		name  string
		spec  v1.PodSpec
		node  string // what uname says
		hosts string // what the pod's address has in /etc/hosts
		err   string
	}{
		"plain":             {"web", spec("", ""), "web", "web", ""},
		"hostname":          {"web", spec("db", ""), "db", "db", ""},
		"long":              {a(62) + "-bcd", spec("", ""), a(62), a(62), ""},
		"subdomain":         {"web", spec("", "sub"), "web", "web" + domain + "\tweb", ""},
		"both":              {"web", spec("db", "sub"), "db", "db" + domain + "\tdb", ""},
		"whole":             {"web", whole(spec("db", "sub")), "db" + domain, "db" + domain + "\tdb", ""},
		"whole without one": {"web", whole(spec("db", "")), "db", "db", ""},
		"longest whole":     {a(34), whole(spec("", "sub")), a(34) + domain, a(34) + domain + "\t" + a(34), ""},
		"too long": {a(35), whole(spec("", "sub")), a(35), a(35) + domain + "\t" + a(35), "failed to construct FQDN from pod hostname and cluster domain, FQDN " +
			a(35) + domain + " is too long (64 characters is the max, 65 characters requested)"},
		"long, not whole": {a(35), spec("", "sub"), a(35), a(35) + domain + "\t" + a(35), ""},
		"override":        {"web", over("x.example", spec("db", "sub")), "x.example", "x.example", ""},
		"long override":   {"web", over(a(62)+".b", spec("", "")), a(62), a(62), ""},
		"on the host":     {"web", onHost(whole(spec("db", "sub"))), host, "", ""},
	} {
		p := testPod(func(p *v1.Pod) { p.Name, p.Spec = tt.name, tt.spec })
		got, err := Nodename(p)
		if got != tt.node || err == nil && tt.err != "" || err != nil && err.Error() != tt.err {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		s := &Sandboxes{opts: Options{Hosts: "/nonexistent"}}
		hosts, err := s.hosts(p, []string{"10.0.0.1"})
		if line := "\n10.0.0.1\t" + tt.hosts + "\n"; err != nil || strings.HasSuffix(hosts, line) != (tt.hosts != "") {
			t.Errorf("%s: /etc/hosts without %q: %q, %v", name, line, hosts, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const host = "# c\nnameserver 192.0.2.1\nsearch old\nsearch a.example. b.example .\noptions ndots:2 rotate\noptions ndots:3\n"
	many := "search"
	for i := range 40 {
		many += fmt.Sprintf(" s%d", i)
	}
	for name, tt := range map[string]struct {
		host   string
		change func(*v1.PodSpec)
		want   string
		notes  []string
	}{
		"default": {host: host, want: "search a.example b.example\nnameserver 192.0.2.1\noptions ndots:3 rotate\n"},
		"no file": {},
		"none": {host: host, change: func(s *v1.PodSpec) {
			s.DNSPolicy, s.DNSConfig = v1.DNSNone, &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}}
		}, want: "nameserver 192.0.2.9\n"},
		"cluster": {host: "nameserver 192.0.2.1\n", change: func(s *v1.PodSpec) { s.DNSPolicy = v1.DNSClusterFirst },
			want: "nameserver 192.0.2.1\n", notes: []string{"MissingClusterDNS"}},
		"cluster with host network": {host: "nameserver 192.0.2.1\n", change: func(s *v1.PodSpec) {
			s.DNSPolicy, s.HostNetwork = v1.DNSClusterFirst, true
		}, want: "nameserver 192.0.2.1\n"},
		"cluster also with host network": {host: "nameserver 192.0.2.1\n", change: func(s *v1.PodSpec) {
			s.DNSPolicy, s.HostNetwork = v1.DNSClusterFirstWithHostNet, true
		}, want: "nameserver 192.0.2.1\n", notes: []string{"MissingClusterDNS"}},
		"added": {host: host, change: func(s *v1.PodSpec) {
			s.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"c.example"},
				Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("5")}, {Name: "edns0"}}}
		}, want: "search a.example b.example c.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5 rotate edns0\n"},
		"servers beyond": {host: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
			want: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n", notes: []string{"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3"}},
		"searches beyond": {host: many, want: many[:strings.Index(many, " s32")] + "\n", notes: []string{"DNSConfigForming"}},
		"long search":     {host: "search a " + strings.Repeat("b", 254), want: "search a\n", notes: []string{"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: a"}},
	} {
		p := testPod()
		if tt.change != nil {
			tt.change(&p.Spec)
		}
		got, notes := EffectiveResolvConf(p, []byte(tt.host))
		told := func(n Note, want string) bool {
			return n.Reason == want || n.Reason == "DNSConfigForming" && n.Message == want
		}
		if got != tt.want || !slices.EqualFunc(notes, tt.notes, told) {
			t.Errorf("%s: got %q %q, want %q %q", name, got, notes, tt.want, tt.notes)
		}
	}
	chars := "search " + strings.Repeat(strings.Repeat("x", 250)+" ", 20)
	got, _ := EffectiveResolvConf(testPod(), []byte(chars))
	if n := len(strings.TrimPrefix(strings.TrimSpace(got), "search ")); n > maxSearchChars || n < maxSearchChars-251 {
		t.Errorf("search list of %d characters", n)
	}
}

func TestHosts(t *testing.T) {
	node := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(node, []byte("127.0.0.1 node\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Sandboxes{opts: Options{Hosts: node}}
	aliases := []v1.HostAlias{{IP: "192.0.2.5", Hostnames: []string{"a", "b"}}}
	got, err := s.hosts(testPod(func(p *v1.Pod) { p.Spec.HostAliases, p.Spec.Subdomain = aliases, "sub" }), []string{"10.0.0.1", "fd00::1"})
	const want = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.0.0.1\tweb.sub.default.svc.cluster.local\tweb\nfd00::1\tweb.sub.default.svc.cluster.local\tweb\n" +
		"\n# Entries added by HostAliases.\n192.0.2.5\ta\tb\n"
	if err != nil || got != want {
		t.Errorf("got %q %v", got, err)
	}
	got, err = s.hosts(testPod(func(p *v1.Pod) { p.Spec.HostNetwork = true }), nil)
	if err != nil || got != "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n" {
		t.Errorf("hostNetwork: got %q %v", got, err)
	}
}

func TestEtcMounts(t *testing.T) {
	s := &Sandboxes{opts: Options{RunDir: "/run/podd"}}
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []v1.VolumeMount{{MountPath: "/etc/hosts/"}, {MountPath: "/dev/shm"}}
	var got []string
	for _, m := range s.EtcMounts(pod, c) {
		got = append(got, m.Destination)
	}
	if !slices.Equal(got, []string{"/etc/hostname", "/etc/resolv.conf"}) {
		t.Errorf("got %v", got)
	}
}

func TestRef(t *testing.T) {
	s := &Sandboxes{opts: Options{RunDir: "/run/podd", ID: func(uid string, n int) string { return fmt.Sprint(uid, n) }}, cg: &cgroups{parent: "/podd"}}
	if got, want := s.Ref(testPod(), 3, "/netns", 0), (containers.Sandbox{
		ID: "u13", NetNS: "/netns", IPCNS: "/run/podd/pods/u1/ns/3/ipc", UTSNS: "/run/podd/pods/u1/ns/3/uts",
		CgroupPath: "/podd/kubepods/besteffort/podu1", Hostname: "web",
	}); got != want {
		t.Errorf("got %+v", got)
	}
	host := s.Ref(testPod(func(p *v1.Pod) {
		p.Spec.HostNetwork, p.Spec.HostIPC, p.Spec.HostPID, p.Spec.ShareProcessNamespace = true, true, true, ptr(true)
	}), 0, "/netns", 0)
	if host.NetNS+host.IPCNS+host.UTSNS+host.PIDNS != "" {
		t.Errorf("host namespaces: %+v", host)
	}
	if shared := s.Ref(testPod(func(p *v1.Pod) { p.Spec.ShareProcessNamespace = ptr(true) }), 0, "", 0); shared.PIDNS == "" {
		t.Errorf("shared: %+v", shared)
	}
	if own := s.Ref(testPod(), 1, "", 65536); own.UserNS != "/run/podd/pods/u1/ns/1/user" || own.FirstID != 65536 {
		t.Errorf("own users: %+v", own)
	}
}

func TestPodLimits(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for name, tt := range map[string]struct {
		requests, limits []v1.ResourceList
		want             limits
		whole            v1.ResourceRequirements // of the pod
	}{
		"best effort": {requests: []v1.ResourceList{{}}, limits: []v1.ResourceList{{}}, want: limits{shares: 2}},
		"as a whole": {requests: []v1.ResourceList{{}, {}}, limits: []v1.ResourceList{{}, {}}, want: limits{shares: 512, quota: 100000, period: 100000, memory: 8 << 20},
			whole: v1.ResourceRequirements{Requests: list("500m", "4Mi"), Limits: list("1", "8Mi")}},
		"as a whole, guaranteed": {requests: []v1.ResourceList{{}, {}}, limits: []v1.ResourceList{{}, {}}, want: limits{shares: 1024, quota: 100000, period: 100000, memory: 8 << 20},
			whole: v1.ResourceRequirements{Requests: list("1", "8Mi"), Limits: list("1", "8Mi")}},
		"as a whole beside its containers": {requests: []v1.ResourceList{list("100m", "1Mi"), {}}, limits: []v1.ResourceList{list("100m", "1Mi"), {}},
			want: limits{shares: 512, memory: 8 << 20}, whole: v1.ResourceRequirements{Requests: list("500m", "4Mi"), Limits: list("", "8Mi")}},
		"as a whole, requests only": {requests: []v1.ResourceList{list("100m", "1Mi")}, limits: []v1.ResourceList{list("100m", "1Mi")},
			want: limits{shares: 512, quota: 10000, period: 100000, memory: 1 << 20}, whole: v1.ResourceRequirements{Requests: list("500m", "4Mi")}},
		"guaranteed": {requests: []v1.ResourceList{list("500m", "1Mi"), list("1", "2Mi")}, limits: []v1.ResourceList{list("500m", "1Mi"), list("1", "2Mi")},
			want: limits{shares: 1536, quota: 150000, period: 100000, memory: 3 << 20}},
		"one without limits": {requests: []v1.ResourceList{list("500m", ""), {}}, limits: []v1.ResourceList{list("500m", "1Mi"), list("", "1Mi")},
			want: limits{shares: 512, memory: 2 << 20}},
		"tiny": {requests: []v1.ResourceList{list("1m", "")}, limits: []v1.ResourceList{list("1m", "")}, want: limits{shares: 2, quota: 1000, period: 100000}},
	} {
		p := testPod(func(p *v1.Pod) { p.Spec.Containers = nil })
		if len(tt.whole.Requests)+len(tt.whole.Limits) > 0 {
			p.Spec.Resources = &tt.whole
		}
		for i := range tt.requests {
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: fmt.Sprint("c", i),
				Resources: v1.ResourceRequirements{Requests: tt.requests[i], Limits: tt.limits[i]}})
		}
		if got := podLimits(p); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestRewriteKeepsTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "hosts")
	for _, content := range []string{"long content\n", "short\n", "short\n", ""} {
		before, _ := os.Stat(name)
		if err := rewrite(name, content); err != nil {
			t.Fatal(err)
		}
		after, _ := os.Stat(name)
		if got, _ := os.ReadFile(name); string(got) != content || before != nil && !os.SameFile(before, after) {
			t.Errorf("got %q, want %q; same file: %v", got, content, before == nil || os.SameFile(before, after))
		}
	}
	if err := os.Symlink(name, name+".link"); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(name+".link", "x"); err == nil {
		t.Error("a link is written through")
	}
}

func TestParentMustBeBelowRoot(t *testing.T) {
	for _, p := range []string{"/", "podd", "/x/.."} {
		if _, err := openCgroups(p); err == nil {
			t.Errorf("%s: no error", p)
		}
	}
}

func TestParentInsideAPod(t *testing.T) {
	const outer = "/podd/kubepods/burstable/pod1/abc"
	for own, want := range map[string]string{
		"/":                          "/podd",
		"/system.slice/podd.service": "/podd",
		"/podd/podd-init":            "/podd",
		outer:                        outer + "/podd",
		outer + "/podd-init":         outer + "/podd", // where it went when it made its first pod
	} {
		if got := inside("/podd", own); got != want {
			t.Errorf("in %s: %s, want %s", own, got, want)
		}
	}
}

// TestResizeV2: on v2 as well the pod's cgroup gets what of the pod's own limits is more, and the rest when that is wanted.
func TestResizeV2(t *testing.T) {
	pod := testPod(func(p *v1.Pod) { p.UID = "uid" })
	s := &Sandboxes{cg: &cgroups{parent: "/podd", trees: []hierarchy{{at: t.TempDir(), v2: true}}, v2: true}}
	own := func(cpu, memory string) {
		pod.Spec.Resources = &v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
			Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)},
		}
	}
	own("200m", "64Mi")
	dir := filepath.Join(s.cg.trees[0].at, s.cg.podPath(pod))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, value := range map[string]string{"cpu.max": "20000 100000", "memory.max": "67108864", "cpu.weight": "4"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		cpu, memory string
		change      func(*v1.Pod) error
		want        string
	}{
		{"400m", "80Mi", s.RaiseCgroup, "40000 100000, 83886080"},
		{"100m", "80Mi", s.RaiseCgroup, "40000 100000, 83886080"},
		{"100m", "80Mi", s.CheckCgroup, "40000 100000, 83886080"},
		{"100m", "80Mi", s.LowerCgroup, "10000 100000, 83886080"},
	} {
		own(c.cpu, c.memory)
		err := c.change(pod)
		quota, _ := os.ReadFile(filepath.Join(dir, "cpu.max"))
		memory, _ := os.ReadFile(filepath.Join(dir, "memory.max"))
		if got := fmt.Sprintf("%s, %s", quota, memory); err != nil || got != c.want {
			t.Errorf("%s and %s: %s, %v, want %s", c.cpu, c.memory, got, err, c.want)
		}
	}
}
