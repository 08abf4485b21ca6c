//go:build host

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"

	"podd/test/ociimage"
)

// Capability sets as /proc shows them.
const (
	defaultCaps = "00000000a80425fb"
	noCaps      = "0000000000000000"
	onlyChown   = "0000000000000001"
	netAdmin    = "00000000a80435fb" // the default and CAP_NET_ADMIN
)

// testSecurity: each field of the security contexts shows in what the process is and may do.
func testSecurity(t *testing.T, s *suite) {
	const status = "sed -n 's/^%s:.//p' /proc/self/status"
	caps := fmt.Sprintf(status, "CapEff") + "; " + fmt.Sprintf(status, "CapPrm") + "; " + fmt.Sprintf(status, "CapBnd") + "; " +
		fmt.Sprintf(status, "CapInh") + "; " + fmt.Sprintf(status, "CapAmb")
	sets := func(set string) string { return strings.Join([]string{set, set, set, noCaps, noCaps}, "\n") }
	seccomp, noNewPrivs := fmt.Sprintf(status, "Seccomp"), fmt.Sprintf(status, "NoNewPrivs")
	s.profile(t, "no-mkdir.json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`)
	for _, c := range []struct {
		pod  pod
		want string
	}{
		{pod{Name: "user-of-image-root", Script: "id -u; id -g"}, "0\n0"},
		{pod{Name: "user-of-image-number", Script: "id -u; id -g; id -G", Container: "image: user-1000:e2e"}, "1000\n2000\n2000"},
		{pod{Name: "user-of-image-name", Script: "id -un; id -gn", Container: "image: user-nobody:e2e"}, "nobody\nnobody"},
		{pod{Name: "user-of-pod", Script: "id -u; id -g", Spec: "securityContext: {runAsUser: 1234}"}, "1234\n0"},
		{pod{Name: "user-of-container", Script: "id -u; id -g", Spec: "securityContext: {runAsUser: 1234, runAsGroup: 1235}",
			Container: "securityContext: {runAsUser: 4321, runAsGroup: 4322}"}, "4321\n4322"},
		{pod{Name: "user-over-image", Script: "id -u; id -g", Container: "image: user-1000:e2e\nsecurityContext: {runAsUser: 0}"}, "0\n0"},
		{pod{Name: "groups", Script: "id -G | tr ' ' '\\n' | sort -n", Spec: "securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000, 4001], fsGroup: 5000}"},
			"3000\n4000\n4001\n5000"},
		{pod{Name: "fs-group", Script: "stat -c '%g %A' /v /m; touch /v/x /m/x; stat -c %g /v/x /m/x", Container: "volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}]",
			Spec: "securityContext: {runAsUser: 1000, fsGroup: 5000}\nvolumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]"},
			"5000 drwxrwsrwx\n5000 drwxrwsrwx\n5000\n5000"},
		{pod{Name: "non-root-by-number", Script: "id -u", Spec: "securityContext: {runAsNonRoot: true, runAsUser: 1}"}, "1"},
		{pod{Name: "non-root-by-image", Script: "id -u", Container: "image: user-1000:e2e\nsecurityContext: {runAsNonRoot: true}"}, "1000"},
		{pod{Name: "caps-default", Script: caps}, sets(defaultCaps)},
		{pod{Name: "caps-default-refuses", Script: "ip link set lo mtu 1400 2>&1; mknod /x c 1 1 && echo made; mount -t tmpfs x /tmp 2>&1; true"},
			"ip: SIOCSIFMTU: Operation not permitted\nmade\nmount: permission denied (are you root?)"},
		{pod{Name: "caps-drop-all", Script: caps, Container: "securityContext: {capabilities: {drop: [ALL]}}"}, sets(noCaps)},
		{pod{Name: "caps-drop-all-add", Script: caps, Container: "securityContext: {capabilities: {drop: [ALL], add: [CHOWN]}}"}, sets(onlyChown)},
		{pod{Name: "caps-add", Script: caps + "; ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu", Container: "securityContext: {capabilities: {add: [NET_ADMIN]}}"}, sets(netAdmin) + "\n1400"},
		{pod{Name: "caps-of-user", Script: fmt.Sprintf(status, "CapEff"), Spec: "securityContext: {runAsUser: 1000}"}, noCaps},
		{pod{Name: "privileged", Script: caps + "; " + seccomp + "; mount | grep -c ' /proc/kcore '; test -e /dev/fuse -o -e /dev/kvm -o -e /dev/vda && echo devices; test -w /proc/sys/kernel/hostname && echo writable",
			Container: "securityContext: {privileged: true}"}, sets(ownCaps()) + "\n0\n0\ndevices\nwritable"},
		{pod{Name: "escalation-default", Script: noNewPrivs}, "0"},
		{pod{Name: "escalation-off", Script: noNewPrivs, Container: "securityContext: {allowPrivilegeEscalation: false}"}, "1"},
		{pod{Name: "read-only-root", Script: "touch /x 2>&1; touch /dev/shm/x /v/x && echo volumes", Spec: "volumes: [{name: v, emptyDir: {}}]",
			Container: "securityContext: {readOnlyRootFilesystem: true}\nvolumeMounts: [{name: v, mountPath: /v}]"}, "touch: /x: Read-only file system\nvolumes"},
		{pod{Name: "seccomp-default", Script: seccomp + "; unshare -U true 2>&1"}, "2\nunshare: unshare(0x10000000): Operation not permitted"},
		{pod{Name: "seccomp-runtime-default", Script: seccomp, Spec: "securityContext: {seccompProfile: {type: RuntimeDefault}}"}, "2"},
		{pod{Name: "seccomp-unconfined", Script: seccomp, Spec: "securityContext: {seccompProfile: {type: Unconfined}}"}, "0"},
		{pod{Name: "seccomp-of-container", Script: seccomp, Spec: "securityContext: {seccompProfile: {type: Unconfined}}",
			Container: "securityContext: {seccompProfile: {type: RuntimeDefault}}"}, "2"},
		{pod{Name: "seccomp-localhost", Script: seccomp + "; mkdir /x 2>&1 || true", Container: "securityContext: {seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}}"},
			"2\nmkdir: can't create directory '/x': Operation not permitted"},
		{pod{Name: "proc-masked", Script: "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls -A /sys/firmware | wc -l"}, "0\n0"},
		{pod{Name: "proc-read-only", Script: "for f in /proc/sys/kernel/core_pattern /sys/kernel/x; do touch $f 2>&1; (echo x >$f) 2>&1; done | grep -c 'Read-only\\|nonexistent'; mount | grep -cE ' on /(proc/(bus|fs|irq|sys)|sys) .*[(]ro,'"},
			"4\n5"},
		{pod{Name: "port-below-1024", Script: unprivileged, Spec: "securityContext: {runAsUser: 1001, runAsGroup: 1001}", Container: "securityContext: {capabilities: {drop: [ALL]}}"}, "hi\n0\t2147483647"},
		{pod{Name: "sysctls", Script: readSysctls, Spec: sysctls}, "80 1\n10\t20"},
		{pod{Name: "no-open-files", Script: "ls /proc/self/fd | wc -l"}, "4"}, // 0, 1, 2, and that of the directory itself
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(c.pod.Name, "seccomp-default") || strings.HasPrefix(c.pod.Name, "read-only") || strings.HasPrefix(c.pod.Name, "proc-") {
				c.pod.Script += "; true"
			}
			if got := s.output(t, c.pod); got != c.want {
				t.Errorf("printed\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	for _, c := range []struct {
		pod  pod
		want string // the reason and a part of the message
	}{
		{pod{Name: "non-root-is-root", Spec: "securityContext: {runAsNonRoot: true}"}, "CreateContainerConfigError: .*run as root"},
		{pod{Name: "non-root-over-user", Spec: "securityContext: {runAsNonRoot: true, runAsUser: 0}"}, "CreateContainerConfigError: .*runAsUser"},
		{pod{Name: "non-root-of-container", Container: "securityContext: {runAsNonRoot: true}"}, "CreateContainerConfigError: .*root"},
		{pod{Name: "non-root-by-name", Container: "image: user-nobody:e2e\nsecurityContext: {runAsNonRoot: true}"}, `CreateContainerConfigError: .*"nobody".*not numeric`},
		{pod{Name: "seccomp-missing", Spec: "securityContext: {seccompProfile: {type: Localhost, localhostProfile: missing.json}}"},
			"CreateContainerConfigError: .*missing.json"},
		{pod{Name: "caps-unknown", Container: "securityContext: {capabilities: {add: [NO_SUCH]}}"}, "CreateContainerConfigError: .*NO_SUCH"},
		{pod{Name: "working-dir-proc", Container: "workingDir: /proc/self/fd/7"}, "CreateContainerConfigError: .*/proc"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			c.pod.Script = "echo it ran"
			s.apply(t, c.pod)
			s.until(t, c.pod.Name, "held back as "+c.want, held(c.want))
			if out, _, code := s.Podctl("logs", c.pod.Name); code == 0 && out != "" {
				t.Errorf("it ran: %s", out)
			}
			s.remove(t, c.pod.Name)
		})
	}
	t.Run("sysctl-unsafe", func(t *testing.T) {
		t.Parallel()
		p := pod{Name: "sysctl-unsafe", Script: "true", Spec: "securityContext: {sysctls: [{name: kernel.msgmax, value: '65536'}]}"}
		s.apply(t, p)
		pod := s.until(t, p.Name, "failed", phase(v1.PodFailed))
		if got, want := pod.Status.Reason+": "+pod.Status.Message, `SysctlForbidden: Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
		s.remove(t, p.Name)
	})
	t.Run("sysctl-of-no-value", func(t *testing.T) {
		t.Parallel()
		p := pod{Name: "sysctl-of-no-value", Script: "true", Spec: "securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: many}]}"}
		s.apply(t, p)
		if got := s.event(t, p.Name, "FailedCreatePodSandBox"); !strings.Contains(got, "tcp_syncookies: invalid argument") {
			t.Errorf("event %q", got)
		}
		if said := strings.Join(strings.Fields(s.must(t, "why", p.Name)), " "); !strings.Contains(said, "-> Correct spec.securityContext.sysctls, and make the pod anew") {
			t.Errorf("podctl why: %s", said)
		}
		s.remove(t, p.Name)
	})
	t.Run("user-at-every-restart", func(t *testing.T) { t.Parallel(); testUserAtRestart(t, s) })
	t.Run("non-root-at-every-restart", func(t *testing.T) { t.Parallel(); testNonRootAtRestart(t, s) })
	t.Run("exec-is-confined", func(t *testing.T) { t.Parallel(); testExecIsConfined(t, s) })
}

// unprivileged is what any user may do in a network that is the pod's.
const unprivileged = "echo hi >/tmp/x; httpd -p 80 -h /tmp && wget -q -O- 127.0.0.1/x; cat /proc/sys/net/ipv4/ping_group_range"

// sysctls are of the network and of IPC, the latter written as a path; readSysctls prints them.
const (
	sysctls = `securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}, {name: kernel/shm_rmid_forced, value: "1"},
  {name: net.ipv4.ping_group_range, value: "10 20"}]}`
	readSysctls = "cd /proc/sys; echo $(cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced); cat net/ipv4/ping_group_range"
)

// held is true when container app waits with a reason and message like that.
func held(like string) func(*v1.Pod) bool {
	re := regexp.MustCompile(like)
	return func(pod *v1.Pod) bool {
		w := app(pod).State.Waiting
		return w != nil && re.MatchString(w.Reason+": "+w.Message)
	}
}

// profile puts a seccomp profile where podd looks for it.
func (s *suite) profile(t *testing.T, name, content string) {
	t.Helper()
	dir := filepath.Join(s.ConfigDir, "seccomp")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ownCaps is what this process, and so podd, has to give. What a thread of it uses may be less, while it is another user to
// files.
func ownCaps() string {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if set, ok := strings.CutPrefix(line, "CapPrm:\t"); ok {
			return strings.TrimSpace(set)
		}
	}
	return ""
}

// The user is resolved anew for every instance, and is the same (CVE-2019-11245).
func testUserAtRestart(t *testing.T, s *suite) {
	p := pod{Name: "user-at-every-restart", Script: "id -u; exit 3", Container: "image: user-1000:e2e",
		Spec: "restartPolicy: Always\nsecurityContext: {runAsNonRoot: true}"}
	s.apply(t, p)
	s.until(t, p.Name, "restarted and ended again", func(pod *v1.Pod) bool {
		c := app(pod)
		return c.RestartCount == 1 && c.State.Running == nil && c.LastTerminationState.Terminated != nil
	})
	for _, args := range [][]string{{"logs", p.Name}, {"logs", p.Name, "-p"}} {
		if got := s.must(t, args...); got != "1000\n" {
			t.Errorf("podctl %s: user %q", strings.Join(args, " "), got)
		}
	}
	s.remove(t, p.Name)
}

// That nobody is to be root is asked of the image of every instance: the tag may be another image's by then.
func testNonRootAtRestart(t *testing.T, s *suite) {
	const tag = "turncoat:e2e"
	load := func(user string) {
		image, err := ociimage.Busybox(tag, "/bin/busybox")
		must(t, err)
		image.Config = ocispec.ImageConfig{Env: []string{"PATH=/bin"}, User: user}
		built, err := image.Build()
		must(t, err)
		var archive bytes.Buffer
		must(t, ociimage.WriteOCI(&archive, built))
		if out, errs, code := s.PodctlInput(&archive, "image", "load", "-"); code != 0 {
			t.Fatalf("load %s of user %q: %s%s", tag, user, out, errs)
		}
	}
	load("1000")
	p := sleeper("non-root-at-every-restart")
	p.Spec, p.Container = "restartPolicy: Always\nsecurityContext: {runAsNonRoot: true}", "image: "+tag
	s.apply(t, p)
	first := s.until(t, p.Name, "ready", ready)
	load("0")
	_, _, _ = s.Podctl("exec", p.Name, "--", "kill", "1") // it may end with what it kills
	now := s.until(t, p.Name, "refused", held("CreateContainerConfigError: .*run as root"))
	if c := app(now); c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ContainerID != app(first).ContainerID {
		t.Errorf("after the first instance came %+v", c)
	}
	load("1000") // and it goes on with an image that may be run
	if again := s.until(t, p.Name, "ready again", ready); app(again).RestartCount < 1 {
		t.Errorf("the second instance is %+v", app(again))
	}
	s.remove(t, p.Name)
	s.must(t, "image", "rm", tag)
}

// What is executed in a container is confined like it.
func testExecIsConfined(t *testing.T, s *suite) {
	p := sleeper("exec-is-confined")
	p.Spec = "securityContext: {runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000]}"
	p.Container = "securityContext: {capabilities: {drop: [ALL]}, allowPrivilegeEscalation: false}\nworkingDir: /tmp\nenv: [{name: A, value: b}]"
	s.running(t, p)
	got := s.sh(t, p.Name, `id -u; id -g; id -G; pwd; echo $A; grep -E '^(CapInh|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'; ls /proc/self/fd | wc -l`)
	want := "1000\n2000\n2000 3000\n/tmp\nb\nCapInh:" + noCaps + "\nCapBnd:" + noCaps + "\nNoNewPrivs:1\nSeccomp:2\n4"
	if got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}
