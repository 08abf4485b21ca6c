//go:build host

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/store"
)

// testUsers: a pod with hostUsers: false has users of its own, and all that it reads and writes shows them; the volumes are in
// testSources.
func testUsers(t *testing.T, s *suite) {
	const rights = "sed -n 's/^CapEff:.//p' /proc/self/status; ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu"
	for _, c := range []struct {
		pod  pod
		want string // what app prints
	}{
		{pod{Name: "users-map", Script: `cat /proc/self/uid_map /proc/self/gid_map | awk '{print $1, ($2 >= 2013265920), $3}'; id -u`}, "0 1 65536\n0 1 65536\n0"},
		{pod{Name: "users-root", Script: `stat -c '%u:%g' / /bin/busybox /tmp; echo x >/x; stat -c '%u:%g' /x; chown 1000:65535 /x; stat -c '%u:%g' /x`},
			"0:0\n0:0\n0:0\n0:0\n1000:65535"},
		{pod{Name: "users-files", Script: `stat -c '%n %u:%g' /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /dev/termination-log /proc/self/fd
echo x >/dev/shm/x; echo "192.0.2.1 x" >>/etc/hosts; tail -n 1 /etc/hosts; hostname; echo out >/dev/stdout; ls /sys/class/net | grep -c lo; cat /proc/sys/net/ipv6/conf/all/accept_ra`},
			"/etc/hosts 0:0\n/etc/hostname 0:0\n/etc/resolv.conf 0:0\n/dev/shm 0:0\n/dev/termination-log 0:0\n/proc/self/fd 0:0\n192.0.2.1 x\nusers-files\nout\n1\n0"},
		{pod{Name: "users-user", Script: `id -u; id -g; id -G; echo out >/dev/stdout; touch /tmp/x 2>&1; touch /x 2>&1; true`, Spec: "securityContext: {runAsUser: 1001, runAsGroup: 65535, supplementalGroups: [6000]}"},
			"1001\n65535\n65535 6000\nout\ntouch: /x: Permission denied"},
		{pod{Name: "users-rights", Script: rights, Container: "securityContext: {capabilities: {add: [NET_ADMIN]}}"}, netAdmin + "\n1400"},
		{pod{Name: "users-no-rights", Script: `mknod /x c 1 3 2>&1; date -s 2030-01-01 2>&1 | head -n 1; echo 0 2>&1 >/proc/sys/vm/swappiness; true`,
			Container: "securityContext: {privileged: true}"},
			"mknod: /x: Operation not permitted\ndate: can't set date: Operation not permitted\nsh: can't create /proc/sys/vm/swappiness: Permission denied"},
		{pod{Name: "users-unmasked", Script: `grep -c ' /proc/' /proc/mounts; mkdir /p && mount -t proc p /p && ls /p/self/comm`,
			Container: "securityContext: {procMount: Unmasked, capabilities: {add: [SYS_ADMIN]}}"}, "0\n/p/self/comm"},
		{pod{Name: "users-shared-pids", Script: `cat /proc/1/comm; stat -c %u /proc/1`, Spec: "shareProcessNamespace: true"}, "pause\n65535"},
		{pod{Name: "users-limits", Script: printLimits, Container: "resources: {limits: {cpu: 250m, memory: 32Mi}, requests: {cpu: 100m, memory: 16Mi}}"},
			limits("33554432", "25000 100000", "102")},
		{pod{Name: "users-port-below-1024", Script: unprivileged, Spec: "securityContext: {runAsUser: 1001, runAsGroup: 65535}", Container: "securityContext: {capabilities: {drop: [ALL]}}"}, "hi\n0\t65535"},
		{pod{Name: "users-sysctls", Script: readSysctls, Spec: sysctls}, "80 1\n10\t20"},
		{pod{Name: "users-oom-score", Script: "cat /proc/self/oom_score_adj"}, "1000"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			c.pod.Spec = "hostUsers: false\n" + c.pod.Spec
			if got := s.output(t, c.pod); got != c.want {
				t.Errorf("printed\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	for name, test := range map[string]func(*testing.T, *suite){
		"users-life": testUsersLife, "users-refused": testUsersRefused,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// A pod keeps its ids while its containers and its sandbox come and go, no other pod has them, and they are given again
// when it is gone.
func testUsersLife(t *testing.T, s *suite) {
	first, second := sleeper("users-first"), sleeper("users-second")
	for _, p := range []*pod{&first, &second} {
		p.Spec = "hostUsers: false\nrestartPolicy: Always"
		p.Container = `
readinessProbe: {exec: {command: [test, -e, /ready]}, periodSeconds: 1}
livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1, initialDelaySeconds: 1}
lifecycle: {postStart: {exec: {command: [sh, -c, 'httpd -p 80; touch /ready']}}}`
		s.running(t, *p)
		s.until(t, p.Name, "ready", ready)
	}
	a, b := s.hostID(t, first.Name, "sh -c"), s.hostID(t, second.Name, "sh -c")
	if a == b || a%65536 != 0 || b%65536 != 0 {
		t.Errorf("roots of two pods are %d and %d on the host", a, b)
	}
	if out := s.must(t, "exec", first.Name, "--", "sh", "-c", "id -u; stat -c %u:%g /ready; echo out >/dev/stdout"); out != "0\n0:0\nout\n" {
		t.Errorf("exec: %q", out)
	}
	x := s.terminal(t, "exec", "-it", first.Name, "--", "sh")
	x.say("stat -c 'tty of %u' $(tty)\n")
	x.expect(t, `tty of 0\r\n`)
	x.say("exit\n")
	s.must(t, "debug", first.Name, "--image="+busybox, "-c", "look", "--target=app", "--", "sh", "-c",
		"id -u; stat -c %u / /proc/1; tr '\\0' ' ' </proc/1/cmdline | cut -c -5; ls /proc/1/root/ready")
	eventually(t, func() error {
		out, errs, _ := s.Podctl("logs", first.Name, "-c", "look")
		if want := "0\n0\n0\nsh -c\n/proc/1/root/ready\n"; out != want {
			return fmt.Errorf("a debug container says %q %s, want %q", out, errs, want)
		}
		return nil
	})
	before := s.until(t, first.Name, "there", ready)
	must(t, unix.Kill(s.find(t, string(before.UID), "httpd"), unix.SIGKILL)) // its liveness probe fails
	s.until(t, first.Name, "restarted", func(pod *v1.Pod) bool { return restarts(1)(pod) && ready(pod) })
	if id := s.hostID(t, first.Name, "sh -c"); id != a {
		t.Errorf("root was %d on the host, is %d once its container is another", a, id)
	}
	must(t, unix.Kill(s.find(t, string(before.UID), "pause"), unix.SIGKILL))
	after := s.until(t, first.Name, "restarted", func(pod *v1.Pod) bool { return restarts(2)(pod) && ready(pod) })
	if id := s.hostID(t, first.Name, "sh -c"); id != a {
		t.Errorf("root was %d on the host, is %d once its sandbox is another", a, id)
	}
	if out := s.must(t, "exec", second.Name, "--", "sh", "-c", "ping -c 1 -q "+after.Status.PodIP+" >/dev/null && echo up"); out != "up\n" {
		t.Errorf("ping of the pod in its new sandbox: %q", out)
	}
	for _, name := range []string{first.Name, second.Name} {
		s.remove(t, name)
	}
}

// hostID is the host's id of a pod's root, whose process begins like command.
func (s *suite) hostID(t *testing.T, name, command string) (id int) {
	t.Helper()
	pod := s.until(t, name, "running", phase(v1.PodRunning))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.find(t, string(pod.UID), command)))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "\nUid:")
	_, err = fmt.Sscan(rest, &id)
	must(t, err)
	return id
}

// TestUsersSurvive: a pod keeps its users over podd's death, the loss of its record and a restart of the host, and no other gets them.
func TestUsersSurvive(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := server("kept")
	p.Spec = "hostUsers: false\nrestartPolicy: Always\nvolumes: [{name: v, emptyDir: {}}]"
	p.Container += "\nvolumeMounts: [{name: v, mountPath: /v}]"
	kept := s.running(t, p)
	id := s.hostID(t, p.Name, "httpd")
	s.sh(t, p.Name, "echo x >/v/x; chown 7:7 /v/x")
	s.Kill()
	s.Restart()
	other := sleeper("other")
	other.Spec = "hostUsers: false"
	s.running(t, other)
	if now, others := s.hostID(t, p.Name, "httpd"), s.hostID(t, other.Name, "sh -c"); now != id || others == id {
		t.Errorf("root was %d on the host, is %d; another pod's is %d", id, now, others)
	}
	s.Kill()
	s.forget(t, string(kept.UID))
	cut := filepath.Join(s.State, "exec", "mapped", "ovl-idmapped1") // as of a podd that dies while it mounts an image volume
	must(t, errors.Join(os.Mkdir(cut, 0o700), unix.Mount(s.Root, cut, "", unix.MS_BIND, "")))
	s.Restart()
	defer func() { _ = unix.Unmount(cut, unix.MNT_DETACH) }()
	eventually(t, func() error {
		if _, err := os.Lstat(cut); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("a mount that an earlier podd had under way is left (%v)", err)
		}
		return nil
	})
	must(t, unix.Kill(s.find(t, string(kept.UID), "httpd"), unix.SIGKILL))
	s.until(t, p.Name, "restarted", func(pod *v1.Pod) bool { return restarts(1)(pod) && ready(pod) })
	if now := s.hostID(t, p.Name, "httpd"); now != id {
		t.Errorf("root was %d on the host, is %d after its record was lost", id, now)
	}
	s.reboot(t)
	s.Restart()
	s.until(t, p.Name, "restarted", func(pod *v1.Pod) bool { return restarts(2)(pod) && ready(pod) })
	if now := s.hostID(t, p.Name, "httpd"); now != id {
		t.Errorf("root was %d on the host, is %d after a restart of it", id, now)
	}
	if out := s.sh(t, p.Name, "stat -c %u:%g /v/x"); out != "7:7" {
		t.Errorf("a file in a volume was 7:7, is %s", out)
	}
}

// forget has the state file of a podd that does not run lose the runtime's record of a pod.
func (s *suite) forget(t *testing.T, uid string) {
	t.Helper()
	state, err := store.Open(store.Options{Path: filepath.Join(s.Root, "state.db"), Keys: filepath.Join(s.Root, "secrets.key")})
	must(t, err)
	must(t, errors.Join(state.DeleteRecord(t.Context(), types.UID(uid)), state.Close()))
}

// testUsersRefused: what does not go with users of one's own says so.
func testUsersRefused(t *testing.T, s *suite) {
	for _, c := range []struct {
		pod             pod
		reason, message string
	}{
		{pod{Name: "users-beyond", Script: "true", Spec: "securityContext: {runAsUser: 70000}"}, "CreateContainerConfigError",
			"user 70000: a pod with hostUsers: false has users 0 to 65535"},
		{pod{Name: "users-beyond-group", Script: "true", Spec: "securityContext: {fsGroup: 65536}"}, "CreateContainerConfigError",
			"group 65536: a pod with hostUsers: false has groups 0 to 65535"},
		{pod{Name: "users-proc", Script: "true", Spec: "volumes: [{name: v, hostPath: {path: /proc/sys}}]", Container: "volumeMounts: [{name: v, mountPath: /v}]"}, "CreateContainerConfigError",
			"volumeMount v: its file system (type 0x9fa0) cannot be shown with other ids on this kernel, as a pod with hostUsers: false needs it"},
	} {
		t.Run(c.pod.Name, func(t *testing.T) {
			t.Parallel()
			c.pod.Spec = "hostUsers: false\n" + c.pod.Spec
			s.apply(t, c.pod)
			pod := s.until(t, c.pod.Name, "refused", waiting(c.reason))
			if got := app(pod).State.Waiting.Message; got != c.message {
				t.Errorf("message %q, want %q", got, c.message)
			}
			if said := strings.Join(strings.Fields(s.must(t, "why", c.pod.Name)), " "); !strings.Contains(said, "eave out hostUsers: false") {
				t.Errorf("podctl why: %s", said)
			}
			s.remove(t, c.pod.Name)
		})
	}
	for field, spec := range map[string]string{
		"spec.hostNetwork: Forbidden": "hostNetwork: true", "spec.HostPID: Forbidden": "hostPID: true", "spec.HostIPC: Forbidden": "hostIPC: true",
		"spec.volumes[0].nfs: Forbidden": "volumes: [{name: v, nfs: {server: a, path: /b}}]",
	} {
		if said := s.refused(t, pod{Name: "users-refused", Script: "true", Spec: "hostUsers: false\n" + spec}.String(), "apply", "-f", "-"); !strings.Contains(said, field) {
			t.Errorf("%s: %s", spec, said)
		}
	}
}
