//go:build host

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// standIn is the mount helper for nfs, for a kernel that has none: it binds the directory beside it that has the name of the
// server, and says what it was told. All that podd does with such a mount is the same.
const standIn = `#!/bin/sh
dir=${0%/*}
echo "$*" >>$dir/calls
server=${1%%:*}
if [ ! -d $dir/$server ]; then echo "mount.nfs: Connection refused for $1" >&2; exit 32; fi
mount --bind $dir/$server $2 || exit 32
case " $* " in *" -o ro "*) mount -o remount,bind,ro $2 ;; esac
`

// iscsiadm stands in for that of the host, which logs in nowhere: the kernel need not have iSCSI.
const iscsiadm = `#!/bin/sh
echo "$*" >>${0%/*}/iscsi-calls
case "$*" in
*--login) echo "iscsiadm: authorization failure" >&2; exit 24 ;;
*--logout) exit 21 ;;
esac
`

// standIns has podd use a mount helper that stands in for that of the host. It exports the directory "stand-in" beside it.
func standIns(t *testing.T) harness.Option {
	t.Helper()
	return harness.WithConfig(func(p *harness.Podd) {
		dir := filepath.Join(p.Dir, "programs")
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "stand-in"), 0o755), os.WriteFile(filepath.Join(dir, "mount.nfs"), []byte(standIn), 0o700),
			os.WriteFile(filepath.Join(dir, "iscsiadm"), []byte(iscsiadm), 0o700)); err != nil {
			t.Fatal(err)
		}
		harness.WithArgs("--host-programs", dir+":/usr/sbin:/usr/bin:/sbin:/bin")(p)
	})
}

// TestRemote is volumes that other hosts serve, on mounts that a stand-in makes.
func TestRemote(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"), standIns(t))
	programs := filepath.Join(s.Dir, "programs")
	precious := filepath.Join(programs, "stand-in", "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Run("nfs", func(t *testing.T) { testNFS(t, s, programs) })
	t.Run("nfs-sources", func(t *testing.T) { testNFSSources(t, s, programs) })
	t.Run("nfs-claim", func(t *testing.T) { testNFSClaim(t, s, programs) })
	t.Run("nfs-heals", func(t *testing.T) { testNFSHeals(t, s, programs) })
	t.Run("iscsi", func(t *testing.T) { testISCSI(t, s, programs) })
	t.Run("nfs-purge", func(t *testing.T) { testNFSPurge(t, s, programs) })
	if b, err := os.ReadFile(precious); err != nil || string(b) != "data" {
		t.Errorf("the server's data: %q, %v", b, err)
	}
}

// sharing is a pod with an nfs volume of its own, twice: once read-only. No fsGroup is applied.
func sharing(name, server string) pod {
	return pod{Name: name, Script: "cat /v/precious; id >/v/" + name + "; touch /ro/x 2>&1; touch /r/x 2>&1; " + sleepScript,
		Spec: "securityContext: {fsGroup: 2000}\nvolumes:\n- {name: v, nfs: {server: " + server + ", path: /x}}\n- {name: r, nfs: {server: " + server + ", path: /x, readOnly: true}}",
		Container: "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /ro, readOnly: true}, {name: r, mountPath: /r}, " +
			"{name: v, mountPath: /sub, subPath: made}]"}
}

func testNFS(t *testing.T, s *suite, programs string) {
	p := sharing("nfs", "stand-in")
	s.running(t, p)
	const says = "data\ntouch: /ro/x: Read-only file system\ntouch: /r/x: Read-only file system\n"
	eventually(t, func() error {
		if got := s.must(t, "logs", p.Name, "-c", "app"); strings.TrimSpace(strings.TrimPrefix(got, "data")) != strings.TrimSpace(strings.TrimPrefix(says, "data\n")) {
			return fmt.Errorf("it printed %q", got)
		}
		return nil
	})
	export := filepath.Join(programs, "stand-in")
	for _, name := range []string{p.Name, "made"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(export, name), &st); err != nil || st.Gid != 0 {
			t.Errorf("%s on the server: group %d, %v", name, st.Gid, err)
		}
	}
	s.Restart()
	s.remove(t, p.Name)
	calls, err := os.ReadFile(filepath.Join(programs, "calls"))
	if err != nil || strings.Count(string(calls), "\n") != 2 || !strings.Contains(string(calls), "/r -o ro\n") {
		t.Errorf("the helper was run with %q, %v", calls, err)
	}
}

// As testSources, of what servers export.
func testNFSSources(t *testing.T, s *suite, programs string) {
	for pod, group := range map[string]bool{"nfs-plain": false, "nfs-grouped": true} {
		sourceDirs(t, filepath.Join(programs, pod+"-"))
		remotes.test(t, s, pod, group, false, "", "SERVER", pod)
	}
}

// A PersistentVolume of the source nfs, with mount options.
func testNFSClaim(t *testing.T, s *suite, programs string) {
	s.Apply("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: share}\nspec:\n  capacity: {storage: 1Gi}\n  accessModes: [ReadWriteMany]\n" +
		"  storageClassName: ''\n  mountOptions: [nfsvers=4.1, hard]\n  nfs: {server: stand-in, path: /x}\n")
	s.Apply(claim{Name: "share", Spec: "accessModes: [ReadWriteMany]\nstorageClassName: ''\nvolumeName: share"}.String())
	p := claiming("nfs-claim", "share", "cat /v/precious; "+sleepScript)
	s.running(t, p)
	if got := s.sh(t, p.Name, "cat /v/precious"); got != "data" {
		t.Errorf("it reads %q", got)
	}
	s.remove(t, p.Name)
	s.must(t, "delete", "pvc", "share")
	s.must(t, "delete", "pv", "share")
	calls, err := os.ReadFile(filepath.Join(programs, "calls"))
	if err != nil || !strings.HasSuffix(string(calls), "-o hard,nfsvers=4.1\n") {
		t.Errorf("the helper was run with %q, %v", calls, err)
	}
}

// A server that refuses holds the pod back, with upstream's event; when it serves, the pod starts.
func testNFSHeals(t *testing.T, s *suite, programs string) {
	p := sharing("nfs-heals", "late")
	s.apply(t, p)
	const want = `MountVolume.SetUp failed for volume "v" : mount late:/x: `
	eventually(t, func() error {
		if got := s.event(t, p.Name, "FailedMount"); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "Connection refused for late:/x") {
			return fmt.Errorf("event FailedMount: %q", got)
		}
		return nil
	})
	if err := os.MkdirAll(filepath.Join(programs, "late"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.until(t, p.Name, "ready", ready)
	s.remove(t, p.Name)
}

// An iSCSI target that refuses holds the pod back, with what iscsiadm says of it; a secret that is missing does, until it is
// there. Nothing that was begun stays. (With a disk it is shown by the tests of the package volumes.)
func testISCSI(t *testing.T, s *suite, programs string) {
	disk := func(name, more string) pod {
		return pod{Name: name, Script: sleepScript, Container: "volumeMounts: [{name: v, mountPath: /v}]",
			Spec: "volumes:\n- {name: v, iscsi: {targetPortal: 127.0.0.1, iqn: iqn.2001-04.com.example:disk, lun: 1" + more + "}}"}
	}
	says := func(p pod, want string) {
		t.Helper()
		eventually(t, func() error {
			list, err := s.client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.Name})
			if err == nil && !slices.ContainsFunc(list.Items, func(e v1.Event) bool { return e.Reason == "FailedMount" && strings.HasSuffix(e.Message, want) }) {
				err = fmt.Errorf("no event FailedMount with %q", want)
			}
			return err
		})
	}
	refused, secret := disk("iscsi", ""), disk("iscsi-chap", ", chapAuthSession: true, secretRef: {name: chap}")
	s.apply(t, refused)
	s.apply(t, secret)
	says(refused, "portal 127.0.0.1:3260: log in: iscsiadm: exit status 24: iscsiadm: authorization failure")
	says(secret, "portal 127.0.0.1:3260: chap: secret default/chap: not found")
	s.Apply("apiVersion: v1\nkind: Secret\nmetadata: {name: chap}\ntype: kubernetes.io/iscsi-chap\nstringData: {node.session.auth.password: very secret}\n")
	says(secret, "chap: what iscsiadm knows of 127.0.0.1:3260 is not below /etc/iscsi or /var/lib/iscsi") // since it is none
	s.remove(t, refused.Name)
	s.remove(t, secret.Name)
	const node = "-m node -p 127.0.0.1:3260 -T iqn.2001-04.com.example:disk -I default "
	calls, err := os.ReadFile(filepath.Join(programs, "iscsi-calls"))
	if err != nil || !strings.HasSuffix(string(calls), node+"-o delete\n") || strings.Contains(string(calls), "very secret") {
		t.Errorf("iscsiadm was run with %q, %v", calls, err)
	}
	if left, err := os.ReadDir(filepath.Join(s.Root, "iscsi")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A mount that is still below podd's directory when that is purged stops it, and nothing on it is deleted.
func testNFSPurge(t *testing.T, s *suite, programs string) {
	stray := filepath.Join(s.Root, "stray")
	if err := os.Mkdir(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Join(programs, "stand-in"), stray, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	said, err := s.TryTeardown("--purge")
	if err := unix.Unmount(stray, 0); err != nil {
		t.Fatal(err)
	}
	if err == nil || !strings.Contains(said, "stray: is a mount") {
		t.Errorf("podd teardown --purge: %v, %s", err, said)
	}
	s.Restart()
}
