//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// testFields: each field that is honoured shows inside the container.
func testFields(t *testing.T, s *suite) {
	for _, c := range []struct {
		pod  pod
		want string // what app prints
	}{
		{pod{Name: "command", Container: `command: [echo, over, the image]`}, "over the image"},
		{pod{Name: "command-sets-cmd-aside", Container: "image: entrypoint:e2e\ncommand: [echo, alone]"}, "alone"},
		{pod{Name: "image-entrypoint-and-cmd", Container: "image: entrypoint:e2e"}, "entrypoint cmd"},
		{pod{Name: "args-keep-entrypoint", Container: "image: entrypoint:e2e\nargs: [args]"}, "entrypoint args"},
		{pod{Name: "expansion", Container: `
command: [echo, "$(A)", "$(B)", "$$(A)", "$(C)", "$(NONE)", $(HOME)]
args: ["$(A)!"]
env:
- {name: A, value: one}
- {name: B, value: "$(A)+$(C)"}
- {name: C, value: three}`}, "one one+$(C) $(A) three $(NONE) $(HOME) one!"},
		{pod{Name: "env", Script: `echo "$A,$EMPTY,$PATH,$IMAGE,$HOSTNAME"`, Container: `
image: entrypoint:e2e
env: [{name: A, value: "a b"}, {name: EMPTY}, {name: IMAGE, value: pod}]`}, "a b,,/bin:/image/bin,pod,env"},
		{pod{Name: "env-of-image", Script: `echo "$IMAGE"; env | grep -E '^(NOVALUE|PODD_E2E)'; true`, Container: "image: entrypoint:e2e"}, "image"},
		{pod{Name: "working-dir", Script: "pwd", Container: "workingDir: /made/on/the/way"}, "/made/on/the/way"},
		{pod{Name: "working-dir-of-image", Script: "pwd", Container: "image: entrypoint:e2e"}, "/image/work"},
		{pod{Name: "hostname", Script: "hostname; cat /etc/hostname; uname -n; echo $HOSTNAME", Spec: "hostname: other-name"},
			"other-name\nother-name\nother-name\nother-name"},
		{pod{Name: "hostname-" + strings.Repeat("x", 53) + "-cut", Script: "hostname"}, "hostname-" + strings.Repeat("x", 53)},
		{pod{Name: "subdomain", Script: printNames + "; ping -c 1 -q subdomain.sub.default.svc.cluster.local >/dev/null && echo up", Spec: "subdomain: sub"},
			"subdomain\nsubdomain\nsubdomain\nsubdomain.sub.default.svc.cluster.local subdomain\nup"},
		{pod{Name: "fqdn", Script: printNames, Spec: "subdomain: sub\nsetHostnameAsFQDN: true"},
			strings.Repeat("fqdn.sub.default.svc.cluster.local\n", 3) + "fqdn.sub.default.svc.cluster.local fqdn"},
		{pod{Name: "fqdn-of-none", Script: printNames, Spec: "hostname: none\nsetHostnameAsFQDN: true"}, "none\nnone\nnone\nnone"},
		{pod{Name: "hostname-override", Script: printNames, Spec: "hostname: other\nsubdomain: sub\nhostnameOverride: any.name.example"},
			"any.name.example\nany.name.example\nany.name.example\nany.name.example"},
		{pod{Name: "host-aliases", Script: "sed '1,/HostAliases/d' /etc/hosts", Spec: `
hostAliases:
- {ip: 192.0.2.1, hostnames: [one, two.example]}
- {ip: "2001:db8::1", hostnames: [six]}`}, "192.0.2.1\tone\ttwo.example\n2001:db8::1\tsix"},
		{pod{Name: "hosts", Script: `head -n 2 /etc/hosts; awk -v n=hosts '$2 == n {print $2}' /etc/hosts; ping -c 1 -q localhost >/dev/null && echo up`},
			"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\nhosts\nup"},
		{pod{Name: "dns-none", Script: "cat /etc/resolv.conf", Spec: `
dnsPolicy: None
dnsConfig:
  nameservers: [192.0.2.53, 192.0.2.54]
  searches: [a.example, b.example]
  options: [{name: ndots, value: "3"}, {name: rotate}]`},
			"search a.example b.example\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions ndots:3 rotate"},
		{pod{Name: "dns-default", Script: "grep nameserver /etc/resolv.conf", Spec: "dnsPolicy: Default"}, hostLines("/etc/resolv.conf", "nameserver")},
		{pod{Name: "dns-config", Script: "grep -c 'nameserver 192.0.2.55' /etc/resolv.conf; grep -o more.example /etc/resolv.conf", Spec: `
dnsPolicy: Default
dnsConfig: {nameservers: [192.0.2.55], searches: [more.example]}`}, "1\nmore.example"},
		{pod{Name: "host-network", Script: "readlink /proc/self/ns/net; ls /sys/class/net | grep -c lo; head -n 1 /etc/hosts", Spec: "hostNetwork: true"},
			namespace("net") + "\n1\n# Kubernetes-managed hosts file (host network)."},
		{pod{Name: "host-network-aliases", Script: "sed '1,/HostAliases/d' /etc/hosts; hostname", Spec: "hostNetwork: true\nhostAliases: [{ip: 192.0.2.1, hostnames: [one]}]"},
			"192.0.2.1\tone\n" + hostName()},
		{pod{Name: "host-network-dns", Script: "grep ^nameserver /etc/resolv.conf", Spec: "hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet"},
			hostLines("/etc/resolv.conf", "nameserver")},
		{pod{Name: "host-pid", Script: fmt.Sprintf("readlink /proc/self/ns/pid; tr '\\0' '\\n' </proc/%d/cmdline | head -n 1", os.Getpid()), Spec: "hostPID: true"},
			namespace("pid") + "\n" + os.Args[0]},
		{pod{Name: "host-ipc", Script: "readlink /proc/self/ns/ipc; stat -c %d:%i /dev/shm", Spec: "hostIPC: true"}, namespace("ipc") + "\n" + placeOf("/dev/shm")},
		{pod{Name: "volatile-root", Script: `grep ' / overlay ' /proc/mounts | grep -cE '[ ,](fsync=)?volatile[ ,]'`}, "1"}, // no syncfs at its end
		{pod{Name: "own-namespaces", Script: `
for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done | grep -cvE '` + strings.Join(hostNamespaces(), "|") + `'`},
			ownNamespaces()},
		{pod{Name: "limits", Script: printLimits, Container: `
resources: {limits: {cpu: 250m, memory: 32Mi}, requests: {cpu: 100m, memory: 16Mi}}`}, limits("33554432", "25000 100000", "102")},
		{pod{Name: "limits-as-requests", Script: printLimits, Container: `
resources: {limits: {cpu: 500m, memory: 64Mi}}`}, limits("67108864", "50000 100000", "512")},
		{pod{Name: "smallest-cpu-limit", Script: printLimits + " | grep quota", Container: `
resources: {limits: {cpu: 5m}}`}, "quota 1000 100000"},
		{pod{Name: "shm", Script: `df -P /dev/shm | awk 'NR==2 {print $1}'; stat -c %a /dev/shm; echo x >/dev/shm/x`}, "tmpfs\n1777"},
		{pod{Name: "automount-false", Script: "echo ok", Spec: "automountServiceAccountToken: false"}, "ok"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			if got := s.output(t, c.pod); got != c.want {
				t.Errorf("printed\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	for name, test := range map[string]func(*testing.T, *suite){
		"sandbox":        testSandbox,
		"shared-pids":    testSharedPIDs,
		"node-name":      testNodeName,
		"fqdn-too-long":  testLongFQDN,
		"cluster-first":  testClusterFirst,
		"pod-cgroup":     testPodCgroup,
		"status-of-node": testHostAddresses,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// printLimits shows memory limit, cpu quota and weight of the container's cgroup, on v1 and v2 alike.
const printLimits = `cd /sys/fs/cgroup
if [ -e memory.max ]
then m=$(cat memory.max) q=$(cat cpu.max) w=$(cat cpu.weight)
else m=$(cat memory/memory.limit_in_bytes) q="$(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us)" w=$(cat cpu/cpu.shares)
fi
(echo memory $m; echo quota $q; echo shares $w)`

func limits(memory, quota, shares string) string {
	if unified() {
		var n int
		_, _ = fmt.Sscan(shares, &n)
		shares = fmt.Sprint(1 + (n-2)*9999/262142) // as runc converts them
	}
	return "memory " + memory + "\nquota " + quota + "\nshares " + shares
}

// unified is true on a cgroup v2 host.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// placeOf is the device and the inode of a file of the host.
func placeOf(path string) string {
	var st syscall.Stat_t
	_ = syscall.Stat(path, &st)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// namespace is the test's own, which is the host's.
func namespace(kind string) string {
	link, _ := os.Readlink("/proc/self/ns/" + kind)
	return link
}

func hostName() string {
	name, _ := os.Hostname()
	return name
}

var kinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"}

func hostNamespaces() []string {
	var all []string
	for _, k := range kinds {
		all = append(all, strings.NewReplacer("[", `\[`, "]", `\]`).Replace(namespace(k)))
	}
	return all
}

// ownNamespaces is how many of kinds a container does not share with the host. Without cgroup v2 it shares that one.
func ownNamespaces() string {
	if unified() {
		return "6"
	}
	return "5"
}

// hostLines are the lines of a file of the host that begin like this.
func hostLines(file, begin string) string {
	data, _ := os.ReadFile(file)
	var lines []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, begin) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

// The members of a pod share network, IPC, UTS, hostname, hosts and /dev/shm, and nothing else; one shim serves them all.
func testSandbox(t *testing.T, s *suite) {
	p := sleeper("sandbox")
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']"
	pod := s.running(t, p)
	other := func(script string) string {
		return strings.TrimSpace(s.must(t, "exec", p.Name, "-c", "other", "--", "sh", "-c", script))
	}
	for kind, shared := range map[string]bool{"net": true, "ipc": true, "uts": true, "pid": false, "mnt": false} {
		script := "readlink /proc/self/ns/" + kind
		if same := s.sh(t, p.Name, script) == other(script); same != shared {
			t.Errorf("namespace %s: shared is %v, want %v", kind, same, shared)
		}
	}
	s.sh(t, p.Name, "echo from app >/dev/shm/x; echo 192.0.2.9 later >>/etc/hosts; echo private >/tmp/x")
	if got := other("cat /dev/shm/x; tail -n 1 /etc/hosts; ls /tmp"); got != "from app\n192.0.2.9 later" {
		t.Errorf("the other member sees %q", got)
	}
	s.sh(t, p.Name, "echo served >/tmp/index.html; httpd -h /tmp -p 127.0.0.1:8080")
	if got := other("wget -qO- http://localhost:8080/index.html"); got != "served" {
		t.Errorf("over localhost the other member gets %q", got)
	}
	if n := shims(t, s, string(pod.UID)); n != 1 {
		t.Errorf("%d shims serve the pod, want 1", n)
	}
	if got := s.sh(t, p.Name, "sed -n 's/.*NSpid:.//p' /proc/1/status"); got != "1" {
		t.Errorf("app is process %s of its own namespace, want 1", got)
	}
}

// shims counts the shim processes that hold a process of the pod: pause and members have them as parent.
func shims(t *testing.T, s *suite, uid string) int {
	t.Helper()
	parents := map[string]bool{}
	for _, pid := range pids(t, s, uid) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		parent := strings.Fields(rest)[1]
		if name, _ := os.ReadFile("/proc/" + parent + "/comm"); strings.HasPrefix(string(name), "containerd-shim") {
			parents[parent] = true
		}
	}
	return len(parents)
}

// pids are all processes in the cgroup of a pod.
func pids(t *testing.T, s *suite, uid string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		groups, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if strings.Contains(string(groups), s.CgroupParent+"/") && strings.Contains(string(groups), "/pod"+uid+"/") {
			found = append(found, pid)
		}
	}
	return found
}

// With shareProcessNamespace the members see each other, pause is process 1 and reaps what loses its parent.
func testSharedPIDs(t *testing.T, s *suite) {
	p := sleeper("shared-pids")
	p.Spec = "shareProcessNamespace: true"
	p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '4711']"
	s.running(t, p)
	if got := s.sh(t, p.Name, "tr '\\0' ' ' </proc/1/cmdline; ps | grep -c 'sleep 471[1]'"); !strings.Contains(got, "pause") || !strings.HasSuffix(got, "1") {
		t.Errorf("process 1 and the number of processes of the other member: %q", got)
	}
	s.sh(t, p.Name, "for i in $(seq 50); do (sleep 0.01 &) ; done")
	eventually(t, func() error {
		if n := s.sh(t, p.Name, "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"); n != "0" {
			return fmt.Errorf("%s zombies", n)
		}
		return nil
	})
}

// printNames shows the names of a pod: of its kernel, its file, its variable, and of its address.
const printNames = `uname -n; cat /etc/hostname; echo $HOSTNAME; tail -n 1 /etc/hosts | cut -f 2- | tr '\t' ' '`

// A pod whose whole name the kernel does not take waits, with upstream's words, and podctl why has them.
func testLongFQDN(t *testing.T, s *suite) {
	p := sleeper("fqdn-" + strings.Repeat("x", 30))
	p.Spec = "subdomain: sub\nsetHostnameAsFQDN: true"
	s.apply(t, p)
	want := "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN " + p.Name +
		".sub.default.svc.cluster.local is too long (64 characters is the max, 65 characters requested)"
	if got := s.event(t, p.Name, "FailedCreatePodSandBox"); got != want {
		t.Errorf("event FailedCreatePodSandBox: %q, want %q", got, want)
	}
	waits := s.until(t, p.Name, "there", func(*v1.Pod) bool { return true })
	if !phase(v1.PodPending)(waits) || !waiting("ContainerCreating")(waits) {
		t.Errorf("status %+v, want Pending and ContainerCreating", waits.Status)
	}
	if why := strings.Join(strings.Fields(s.must(t, "why", p.Name)), " "); !strings.Contains(why, want) || !strings.Contains(why, "leave out spec.setHostnameAsFQDN") {
		t.Errorf("podctl why:\n%s", why)
	}
	s.remove(t, p.Name)
	s.until(t, p.Name, "gone", gone)
}

// A pod for this node runs, one for another is kept and left alone.
func testNodeName(t *testing.T, s *suite) {
	other := sleeper("other-node")
	other.Spec = "nodeName: elsewhere"
	mine := sleeper("this-node")
	mine.Spec = "nodeName: " + s.NodeName
	s.apply(t, other, mine)
	if pod := s.until(t, mine.Name, "ready", ready); pod.Spec.NodeName != s.NodeName {
		t.Errorf("nodeName = %q", pod.Spec.NodeName)
	}
	pod := s.until(t, other.Name, "there", func(pod *v1.Pod) bool { return pod != nil })
	if len(pod.Status.ContainerStatuses) != 0 || pod.Status.Phase != v1.PodPending || pod.Status.PodIP != "" {
		t.Errorf("a pod of another node was touched: %+v", pod.Status)
	}
	s.remove(t, other.Name)
	s.until(t, other.Name, "gone", gone)
}

// Without a cluster there is no cluster DNS: the pod is told so, and gets the host's.
func testClusterFirst(t *testing.T, s *suite) {
	p := sleeper("cluster-first")
	s.running(t, p)
	if got, want := s.sh(t, p.Name, "grep ^nameserver /etc/resolv.conf"), hostLines("/etc/resolv.conf", "nameserver"); got != want {
		t.Errorf("resolv.conf has\n%s\nwant the host's\n%s", got, want)
	}
	s.event(t, p.Name, "MissingClusterDNS")
}

// event waits for an event of a pod and returns its message.
func (s *suite) event(t *testing.T, pod, reason string) (message string) {
	t.Helper()
	eventually(t, func() error {
		list, err := s.client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{
			FieldSelector: fields.Set{"involvedObject.name": pod, "reason": reason}.String()})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("pod %s has no event %s", pod, reason)
		}
		if err == nil {
			message = list.Items[0].Message
		}
		return err
	})
	return message
}

// A pod's cgroup lies where its QoS class says, with the sum of its members' limits.
func testPodCgroup(t *testing.T, s *suite) {
	const whole = "resources: {limits: {cpu: 100m, memory: 32Mi}, requests: {cpu: 100m, memory: 32Mi}}"
	const part = "resources: {requests: {cpu: 100m}}"
	for _, c := range []struct {
		name, resources, dir string
		class                v1.PodQOSClass
		memory               string
	}{
		{"guaranteed", whole, "", v1.PodQOSGuaranteed, "67108864"},
		{"burstable", part, "burstable", v1.PodQOSBurstable, ""},
		{"besteffort", "", "besteffort", v1.PodQOSBestEffort, ""},
	} {
		p := sleeper("qos-" + c.name)
		p.Container = c.resources
		p.More = "- name: other\n  image: " + busybox + "\n  command: [sleep, '1000']\n" + indent(2, c.resources)
		pod := s.running(t, p)
		if pod.Status.QOSClass != c.class {
			t.Errorf("%s: qosClass = %s", c.name, pod.Status.QOSClass)
		}
		mount, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		if unified() {
			mount, file = "/sys/fs/cgroup", "memory.max"
		}
		dir := filepath.Join(mount, s.CgroupParent, "kubepods", c.dir, "pod"+string(pod.UID))
		limit, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := strings.TrimSpace(string(limit)); c.memory != "" && got != c.memory {
			t.Errorf("%s: memory limit of the pod = %s, want %s", c.name, got, c.memory)
		}
		if n := len(pids(t, s, string(pod.UID))); n < 3 { // pause and two members at least
			t.Errorf("%s: %d processes in the pod's cgroup", c.name, n)
		}
		s.remove(t, p.Name)
	}
}

// A pod on the host's network has the host's addresses, one of its own has its own.
func testHostAddresses(t *testing.T, s *suite) {
	host, own := sleeper("addresses-host"), sleeper("addresses-own")
	host.Spec = "hostNetwork: true"
	s.apply(t, host, own)
	a, b := s.until(t, host.Name, "ready", ready), s.until(t, own.Name, "ready", ready)
	if a.Status.PodIP != a.Status.HostIP || a.Status.HostIP == "" {
		t.Errorf("hostNetwork: podIP %q, hostIP %q", a.Status.PodIP, a.Status.HostIP)
	}
	if b.Status.HostIP != a.Status.HostIP || b.Status.PodIP == a.Status.HostIP || len(b.Status.PodIPs) != 1 {
		t.Errorf("own network: podIPs %v, hostIP %q", b.Status.PodIPs, b.Status.HostIP)
	}
	if got := s.sh(t, own.Name, "ip -4 -o addr show dev eth0"); !strings.Contains(got, b.Status.PodIP+"/") {
		t.Errorf("podIP %s is not on eth0: %s", b.Status.PodIP, got)
	}
}
