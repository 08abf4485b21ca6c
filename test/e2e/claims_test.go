//go:build host

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// TestClaims is what pods keep beyond their own life: claims, the volumes that they are bound to, and what becomes of both.
func TestClaims(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=10ms"))
	t.Run("group", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *suite){
			"standard": testClaimStandard, "in-use": testClaimInUse, "one-pod": testClaimOnePod, "ephemeral": testClaimEphemeral, "static": testClaimStatic,
			"past-scheduling": testClaimPastScheduling, "block": testClaimBlock, "block-users": testClaimBlockUsers, "group-policy": testClaimGroupPolicy, "namespace": testClaimNamespace,
		} {
			t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
		}
	})
	testClaimReboot(t, s)
}

// claim is a manifest of a claim.
type claim struct {
	Name string
	Spec string // more lines of the spec
	Size string // 1Mi if empty
}

func (c claim) String() string {
	if c.Size == "" {
		c.Size = "1Mi"
	}
	spec := c.Spec
	if spec == "" {
		spec = "accessModes: [ReadWriteOnce]"
	}
	return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + c.Name + "}\nspec:\n  resources: {requests: {storage: " + c.Size + "}}\n" + indent(2, spec)
}

// claiming is a pod with a claim at /v.
func claiming(name, claim, script string) pod {
	return pod{Name: name, Script: script, Spec: "volumes: [{name: v, persistentVolumeClaim: {claimName: " + claim + "}}]",
		Container: "volumeMounts: [{name: v, mountPath: /v}]"}
}

// claimUntil waits until what is wanted is true of a claim; of one that is gone, nil.
func (s *suite) claimUntil(t *testing.T, name, what string, wanted func(*v1.PersistentVolumeClaim) bool) *v1.PersistentVolumeClaim {
	t.Helper()
	var found *v1.PersistentVolumeClaim
	eventually(t, func() error {
		c, err := s.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceDefault).Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			c, err = nil, nil
		}
		if found = c; err != nil || !wanted(c) {
			return fmt.Errorf("claim %s is not %s: %v, %v", name, what, c, err)
		}
		return nil
	})
	return found
}

func bound(c *v1.PersistentVolumeClaim) bool { return c != nil && c.Status.Phase == v1.ClaimBound }

// directory is where the volume of a claim is.
func (s *suite) directory(c *v1.PersistentVolumeClaim) string {
	return filepath.Join(s.Root, "claims", c.Spec.VolumeName)
}

// A claim of the default class: a pod writes, another one reads, and with the claim everything goes.
func testClaimStandard(t *testing.T, s *suite) {
	s.apply(t, claim{Name: "standard"})
	if got := s.output(t, claiming("standard-1", "standard", "echo kept >/v/file; stat -c %a /v")); got != "777" {
		t.Errorf("the volume has mode %s", got)
	}
	if got := s.output(t, claiming("standard-2", "standard", "cat /v/file")); got != "kept" {
		t.Errorf("another pod reads %q", got)
	}
	c := s.claimUntil(t, "standard", "bound", bound)
	if *c.Spec.StorageClassName != "standard" || c.Status.Capacity.Storage().String() != "1Mi" || len(c.Status.AccessModes) != 1 {
		t.Errorf("claim: %+v", c)
	}
	if b, err := os.ReadFile(filepath.Join(s.directory(c), "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	s.must(t, "delete", "pvc", "standard")
	s.volumeGone(t, c.Spec.VolumeName)
}

// volumeGone waits until nothing of a volume is left.
func (s *suite) volumeGone(t *testing.T, name string) {
	t.Helper()
	eventually(t, func() error {
		_, err := s.client.CoreV1().PersistentVolumes().Get(context.Background(), name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("volume %s: %v", name, err)
		}
		return nil
	})
	if entries, err := os.ReadDir(filepath.Join(s.Root, "claims")); err != nil {
		t.Error(err)
	} else {
		for _, e := range entries {
			if e.Name() == name {
				t.Errorf("volume %s is gone and its directory is there", name)
			}
		}
	}
}

// A claim that a pod uses stays until the pod is gone; the group that the next pod names gets what the first has made.
func testClaimInUse(t *testing.T, s *suite) {
	s.apply(t, claim{Name: "used"})
	s.running(t, claiming("user", "used", "echo x >/v/file; mkdir -m 700 /v/dir; "+sleepScript))
	s.claimUntil(t, "used", "bound", bound)
	s.must(t, "delete", "pvc", "used", "--wait=false")
	c := s.claimUntil(t, "used", "terminating", func(c *v1.PersistentVolumeClaim) bool { return c != nil && c.DeletionTimestamp != nil })
	s.sh(t, "user", "echo more >>/v/file")
	s.apply(t, claiming("late", "used", "true"))
	s.meaningPending(t, "late", "Unschedulable", `0/1 nodes are available: persistentvolumeclaim "used" is being deleted.`)
	s.remove(t, "user")
	s.claimUntil(t, "used", "gone", func(c *v1.PersistentVolumeClaim) bool { return c == nil })
	s.volumeGone(t, c.Spec.VolumeName)
	s.apply(t, claim{Name: "used"})
	s.until(t, "late", "succeeded", phase(v1.PodSucceeded))
	s.remove(t, "late")
	p := claiming("grouped", "used", "touch /v/new; stat -c '%g %a' /v /v/new; id -G")
	p.Spec += "\nsecurityContext: {runAsUser: 1001, runAsGroup: 1001, fsGroup: 5000}"
	if got := s.output(t, p); got != "5000 2777\n5000 644\n1001 5000" {
		t.Errorf("with fsGroup: %q", got)
	}
	s.must(t, "delete", "pvc", "used")
}

// A claim that is for one pod only is waited for by another, which says so and has it when the first is gone.
func testClaimOnePod(t *testing.T, s *suite) {
	s.apply(t, claim{Name: "alone", Spec: "accessModes: [ReadWriteOncePod]"}, claiming("alone-first", "alone", "echo first >/v/file; "+sleepScript))
	s.until(t, "alone-first", "ready", ready)
	s.apply(t, claiming("alone-second", "alone", "cat /v/file"))
	s.meaningPending(t, "alone-second", "Unschedulable", "0/1 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.")
	s.event(t, "alone-second", "FailedScheduling")
	s.remove(t, "alone-first")
	s.until(t, "alone-second", "succeeded", phase(v1.PodSucceeded))
	s.remove(t, "alone-second")
	s.must(t, "delete", "pvc", "alone")
}

// A volume of its own: the claim is the pod's and goes with it.
func testClaimEphemeral(t *testing.T, s *suite) {
	p := pod{Name: "scratch", Script: "echo x >/v/file && cat /v/file; " + sleepScript,
		Spec:      "volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Mi}}}}}}]",
		Container: "volumeMounts: [{name: v, mountPath: /v}]"}
	s.running(t, p)
	c := s.claimUntil(t, "scratch-v", "bound", bound)
	s.remove(t, "scratch")
	s.claimUntil(t, "scratch-v", "gone", func(c *v1.PersistentVolumeClaim) bool { return c == nil })
	s.volumeGone(t, c.Spec.VolumeName)
}

// staticVolume is a manifest of a volume of the host.
func staticVolume(name, class, source string) text {
	return text("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: " + name + "}\nspec:\n  capacity: {storage: 1Gi}\n  accessModes: [ReadWriteOnce]\n" +
		"  storageClassName: " + class + "\n" + indent(2, source))
}

type text string

func (t text) String() string { return string(t) }

func anyNode(s *suite) string {
	return "\nnodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [" + s.NodeName + "]}]}]}}"
}

// Directories of the host, as volumes of both kinds: readOnly is kept to, and what is there stays.
func testClaimStatic(t *testing.T, s *suite) {
	for kind, source := range map[string]string{"host": "hostPath: {path: %s, type: Directory}", "local": "local: {path: %s}" + anyNode(s)} {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("host\n"), 0o644))
		name := "static-" + kind
		s.apply(t, staticVolume(name, name, fmt.Sprintf(source, dir)), claim{Name: name, Spec: "accessModes: [ReadWriteOnce]\nstorageClassName: " + name})
		p := claiming(name, name, "cat /v/file; touch /v/x 2>&1")
		p.Spec = strings.Replace(p.Spec, "claimName: "+name, "claimName: "+name+", readOnly: true", 1)
		p.Script += "; true"
		if got := s.output(t, p); got != "host\ntouch: /v/x: Read-only file system" {
			t.Errorf("%s: %q", kind, got)
		}
		s.must(t, "delete", "pvc", name)
		s.must(t, "wait", "--for=jsonpath={.status.phase}=Released", "pv/"+name)
		s.must(t, "delete", "pv", name)
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
	}
}

// A pod that was bound past all scheduling waits for its claim in ContainerCreating, and goes on when it comes.
func testClaimPastScheduling(t *testing.T, s *suite) {
	p := claiming("bound", "later", "echo kept >/v/file")
	p.Spec += "\nnodeName: " + s.NodeName
	s.apply(t, p)
	s.event(t, "bound", "FailedMount")
	if w := app(s.until(t, "bound", "there", func(p *v1.Pod) bool { return p != nil })).State.Waiting; w == nil || w.Reason != "ContainerCreating" {
		t.Errorf("waits as %v", w)
	}
	s.apply(t, claim{Name: "later"})
	s.until(t, "bound", "succeeded", phase(v1.PodSucceeded))
	s.remove(t, "bound")
	s.must(t, "delete", "pvc", "later")
}

// loop makes a block device of a file. Only a kernel that has no loop devices excuses from it.
func loop(t *testing.T) string {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "disk"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer file.Close()
	must(t, file.Truncate(1<<20))
	if drivers := read(t, "/proc/misc"); !strings.Contains(drivers, "loop-control") {
		t.Skip("NOT TESTED: block devices of claims. This kernel has no loop devices (modprobe loop)")
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("the kernel has loop devices: %v", err)
	}
	defer control.Close()
	var path string
	var device *os.File
	for taken := true; taken; { // by another between the two calls
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(t, err)
		path = fmt.Sprintf("/dev/loop%d", n)
		device, err = os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
		if taken = errors.Is(err, unix.EBUSY); err != nil {
			must(t, device.Close())
		}
		if err != nil && !taken {
			t.Fatalf("make a loop device of a file: %v", err)
		}
	}
	t.Cleanup(func() {
		must(t, unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0))
		must(t, device.Close())
	})
	return path
}

// A block device is a device in the container, and nothing but that one.
func testClaimBlock(t *testing.T, s *suite) {
	path := loop(t)
	s.apply(t, staticVolume("disk", "disk", "volumeMode: Block\nlocal: {path: "+path+"}"+anyNode(s)),
		claim{Name: "disk", Spec: "accessModes: [ReadWriteOnce]\nvolumeMode: Block\nstorageClassName: disk"})
	p := pod{Name: "block", Script: "stat -c '%a %u:%g' /dev/xvda; echo written | dd of=/dev/xvda conv=notrunc 2>/dev/null; dd if=/dev/xvda bs=8 count=1 2>/dev/null; test -b /dev/xvda && echo device",
		Spec: "volumes: [{name: v, persistentVolumeClaim: {claimName: disk}}]", Container: "volumeDevices: [{name: v, devicePath: /dev/xvda}]"}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if got, want := s.output(t, p), fmt.Sprintf("%o %d:%d\nwritten\ndevice", st.Mode&0o777, st.Uid, st.Gid); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	p.Name, p.Spec = "block-ro", "volumes: [{name: v, persistentVolumeClaim: {claimName: disk, readOnly: true}}]"
	p.Script = "dd if=/dev/xvda bs=8 count=1 2>/dev/null; echo x 2>/dev/null >/dev/xvda || echo refused"
	if got := s.output(t, p); got != "written\nrefused" {
		t.Errorf("read-only: %q", got)
	}
	wrong := claiming("block-mount", "disk", "true")
	wrong.Spec += "\nnodeName: " + s.NodeName
	s.apply(t, wrong)
	s.event(t, "block-mount", "FailedMount")
	s.remove(t, "block-mount")
	s.must(t, "delete", "pvc/disk", "pv/disk")
}

// Block devices in two containers, of root and of uid 1001, without and with fsGroup: owner and mode are those of the host, whatever
// the pod says of groups, who may by these reads and writes, and each reads what the other wrote.
func testClaimBlockUsers(t *testing.T, s *suite) {
	var disk unix.Stat_t
	must(t, unix.Stat(loop(t), &disk))
	dir := t.TempDir()
	disks := []struct {
		name string
		mode uint32
		gid  int
		is   string
		user [2]bool // whether uid 1001 may, without and with fsGroup
	}{
		{"closed", 0o600, 0, "600 0:0", [2]bool{false, false}},
		{"open", 0o666, 0, "666 0:0", [2]bool{true, true}},
		{"group", 0o660, 5000, "660 0:5000", [2]bool{false, true}},
		{"supplementary", 0o660, 6000, "660 0:6000", [2]bool{true, true}},
	}
	volumes, devices, look, read := "volumes:\n", "volumeDevices:\n", "w=$(id -u); [ $w = 0 ] && at=0 || at=1\n", ""
	for i, d := range disks { // each has two blocks of the one disk, one for either container
		path, name := filepath.Join(dir, d.name), "block-"+d.name
		must(t, unix.Mknod(path, unix.S_IFBLK, int(disk.Rdev)))
		must(t, os.Chown(path, 0, d.gid))
		must(t, unix.Chmod(path, d.mode))
		s.apply(t, staticVolume(name, name, "volumeMode: Block\nlocal: {path: "+path+"}"+anyNode(s)),
			claim{Name: name, Spec: "accessModes: [ReadWriteOnce]\nvolumeMode: Block\nstorageClassName: " + name})
		volumes += "- {name: " + d.name + ", persistentVolumeClaim: {claimName: " + name + "}}\n"
		devices += "- {name: " + d.name + ", devicePath: /dev/" + d.name + "}\n"
		look += fmt.Sprintf("stat -c '%s %%a %%u:%%g' /dev/%[1]s; echo $w | dd of=/dev/%[1]s bs=512 seek=$((%d+at)) conv=notrunc 2>/dev/null && echo ' writes'\n", d.name, 2*i)
		read += fmt.Sprintf("echo %s $(dd if=/dev/%[1]s bs=512 skip=%d count=2 2>/dev/null | tr -d '\\0')\n", d.name, 2*i)
	}
	for at, security := range []string{"supplementalGroups: [6000]", "supplementalGroups: [6000], fsGroup: 5000"} {
		p := sleeper(fmt.Sprintf("block-users-%d", at))
		p.Spec, p.Container = "securityContext: {"+security+"}\n"+volumes, devices
		p.More = "- name: user\n  image: " + busybox + "\n  command: [sleep, '1000']\n  securityContext: {runAsUser: 1001, runAsGroup: 1001}\n" + indent(2, devices)
		s.running(t, p)
		asks := func(container, script string) string {
			return s.must(t, "exec", p.Name, "-c", container, "--", "sh", "-c", script+"true")
		}
		s.sh(t, p.Name, "dd if=/dev/zero of=/dev/closed bs=512 count=8 conv=notrunc 2>/dev/null")
		sees, reads := map[string]string{}, map[string]string{}
		for _, d := range disks {
			sees["app"] += d.name + " " + d.is + "\n writes\n"
			sees["user"] += d.name + " " + d.is + "\n"
			if d.user[at] {
				sees["user"] += " writes\n"
				reads["app"] += d.name + " 0 1001\n"
				reads["user"] += d.name + " 0 1001\n"
			} else {
				reads["app"] += d.name + " 0\n"
				reads["user"] += d.name + "\n"
			}
		}
		for _, container := range []string{"app", "user"} {
			if got, want := asks(container, look), sees[container]; got != want {
				t.Errorf("%s: container %s sees\n%s\nwant\n%s", security, container, got, want)
			}
		}
		for _, container := range []string{"app", "user"} { // both have written
			if got, want := asks(container, read), reads[container]; got != want {
				t.Errorf("%s: container %s reads\n%s\nwant\n%s", security, container, got, want)
			}
		}
		s.remove(t, p.Name)
	}
	for _, d := range disks {
		s.must(t, "delete", "pvc/block-"+d.name, "pv/block-"+d.name)
	}
}

// What is in a volume is given to the group each time it is used, or only if its root is not the group's.
func testClaimGroupPolicy(t *testing.T, s *suite) {
	s.apply(t, claim{Name: "grouped"})
	for i, c := range []struct{ group, policy, script, want string }{
		{"5000", "Always", "echo x >/v/file; chgrp 0 /v/file; chmod 600 /v/file; stat -c '%a %g' /v /v/file", "2777 5000\n600 0"},
		{"5000", "OnRootMismatch", "stat -c '%a %g' /v /v/file", "2777 5000\n600 0"},
		{"5000", "Always", "stat -c '%a %g' /v /v/file; chgrp 0 /v/file", "2777 5000\n660 5000"},
		{"6000", "OnRootMismatch", "stat -c '%a %g' /v /v/file", "2777 6000\n660 6000"},
	} {
		p := claiming(fmt.Sprintf("grouped-%d", i), "grouped", c.script)
		p.Spec += "\nsecurityContext: {fsGroup: " + c.group + ", fsGroupChangePolicy: " + c.policy + "}"
		if got := s.output(t, p); got != c.want {
			t.Errorf("with fsGroup %s %s: %q, want %q", c.group, c.policy, got, c.want)
		}
	}
	s.must(t, "delete", "pvc/grouped")
}

// A namespace goes with its claims and what they keep.
func testClaimNamespace(t *testing.T, s *suite) {
	s.must(t, "create", "namespace", "claims")
	in := strings.ReplaceAll(claim{Name: "c"}.String()+"---\n"+claiming("p", "c", sleepScript).String(), "name: c}\n", "name: c, namespace: claims}\n")
	in = strings.Replace(in, "  name: p\n", "  name: p\n  namespace: claims\n", 1)
	if out, errs, code := s.PodctlInput(strings.NewReader(in), "apply", "-f", "-"); code != 0 {
		t.Fatalf("%s%s", out, errs)
	}
	s.must(t, "wait", "-n", "claims", "--for=condition=Ready", "pod/p", "--timeout=100s")
	volume := s.must(t, "get", "-n", "claims", "pvc", "c", "-o", "jsonpath={.spec.volumeName}")
	s.must(t, "delete", "namespace", "claims")
	s.volumeGone(t, volume)
}

// What a claim keeps is there after podd's restart and after a reboot; retained, it is there after the claim.
func testClaimReboot(t *testing.T, s *suite) {
	s.apply(t, text("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: kept}\nprovisioner: podd.dev/local\nreclaimPolicy: Retain\n"),
		claim{Name: "kept", Spec: "accessModes: [ReadWriteOnce]\nstorageClassName: kept"})
	p := claiming("keeper", "kept", "echo $(hostname) >>/v/file; "+sleepScript)
	p.Spec += "\nrestartPolicy: Always"
	s.running(t, p)
	s.Terminate()
	s.Restart()
	s.sh(t, "keeper", "echo restart >>/v/file")
	s.reboot(t)
	s.Restart()
	s.until(t, "keeper", "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	if got := s.sh(t, "keeper", "cat /v/file"); got != "keeper\nrestart\nkeeper" {
		t.Errorf("after the reboot: %q", got)
	}
	c := s.claimUntil(t, "kept", "bound", bound)
	s.remove(t, "keeper")
	s.must(t, "delete", "pvc", "kept")
	s.must(t, "wait", "--for=jsonpath={.status.phase}=Released", "pv/"+c.Spec.VolumeName)
	file := filepath.Join(s.directory(c), "file")
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	s.must(t, "patch", "pv", c.Spec.VolumeName, "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	s.volumeGone(t, c.Spec.VolumeName)
}
