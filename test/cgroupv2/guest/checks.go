package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// onHost is podd as a service of a host: in a cgroup with another process, its pods in a tree of their own.
func onHost() error {
	d, err := launch("host", "/services/podd", "/podd", "--config-dir", "/etc/podd", "--host-programs", "/bin")
	if err != nil {
		return err
	}
	report("in-place resize", d, d.resize)
	report("block devices", d, d.blockDevices)
	report("users of its own", d, d.ownUsers)
	report("nfs", d, d.nfs)
	report("nfs of a dead server", d, d.deadNFS)
	report("iscsi", d, d.iscsi)
	report("iscsi by two portals and of others", d, d.portals)
	report("iscsi with chap", d, d.chap)
	report("iscsi of a killed podd", d, d.killedISCSI)
	report("iscsi of a dead target", d, d.deadISCSI)
	report("QoS classes", d, d.classes)
	report("what a container sees", d, d.normalView)
	report("what a privileged container sees", d, d.privilegedView)
	report("what metrics say", d, d.measured)
	report("OOM kill", d, d.oomKill)
	report("SIGKILL is not an OOM kill", d, d.plainKill)
	report("delete kills everything", d, d.killAll)
	report("podd in a pod of podd", d, d.nested)
	report("teardown", d, func() error { return d.teardown("/services/podd") })
	return nil
}

// belowOwn is podd told to keep its pods below its own cgroup, as a unit with Delegate=yes has it, where it is not alone.
func belowOwn() error {
	const own = "/services/own"
	other, err := startIn(own, "/run/other.log", "/init", "stay")
	if err != nil {
		return err
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	d, err := launch("own", own, own+"/pods", "--cgroup-parent", own+"/pods", "--config-dir", "/etc/own", "--bridge", "podd1", "--pod-cidr", "10.86.0.0/16", "--nft-table", "podd1", "--namespace", "own")
	if err != nil {
		return err
	}
	report("pods below podd's own cgroup", d, d.simple)
	report("teardown below podd's own cgroup", d, func() error { return d.teardown(own + "/podd-init") }) // where podd went
	return nil
}

// inNamespace is podd in a container with a cgroup namespace: the root of its tree is a cgroup with processes.
func inNamespace() error {
	const box = "/box"
	other, err := startIn(box, "/run/other.log", "/init", "stay")
	if err != nil {
		return err
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	d, err := launch("box", "ns:"+box, box+"/podd", "--config-dir", "/etc/box", "--bridge", "podd2", "--pod-cidr", "10.87.0.0/16", "--nft-table", "podd2", "--namespace", "box")
	if err != nil {
		return err
	}
	report("pods in a cgroup namespace", d, d.simple)
	return nil
}

// container is one of busybox that runs a script.
func container(name, script string, more object) object {
	c := object{"name": name, "image": "localhost/busybox:test", "imagePullPolicy": "Never", "command": []string{"sh", "-c", script}}
	for k, v := range more {
		c[k] = v
	}
	return c
}

// spec is a pod of these containers.
func spec(containers ...object) object { return object{"containers": containers} }

// stay is a script that ends when it is asked to.
const stay = `trap "exit 0" TERM; while :; do sleep 1000 & wait; done`

// resources takes quantities: the requests and the limits of cpu and memory; "" is none.
func resources(cpu, memory, cpuLimit, memoryLimit string) object {
	list := func(cpu, memory string) object {
		out := object{}
		if cpu != "" {
			out["cpu"] = cpu
		}
		if memory != "" {
			out["memory"] = memory
		}
		return out
	}
	return object{"resources": object{"requests": list(cpu, memory), "limits": list(cpuLimit, memoryLimit)}}
}

func (d *daemon) kubepods(parts ...string) string {
	return filepath.Join(append([]string{tree, d.parent, "kubepods"}, parts...)...)
}

// containerDir is the cgroup of a container of a pod in that directory.
func containerDir(podDir string, p *pod, name string) string {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			return filepath.Join(podDir, id)
		}
	}
	return filepath.Join(podDir, "no container "+name)
}

// expect compares files of a cgroup. The values are written out, not computed: cpu.weight by the formula of runc 1.3 and
// later for the cpu.shares that the kubelet would ask for.
func expect(dir string, files map[string]string) error {
	var errs []error
	for file, want := range files {
		b, err := os.ReadFile(filepath.Join(dir, file))
		got := strings.TrimSpace(string(b))
		if err == nil && got != want {
			err = fmt.Errorf("%s is %q, want %q", filepath.Join(dir, file), got, want)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

const none = "max 100000" // cpu.max without a limit

// classes runs a pod of each class and two burstable ones, and reads what their cgroups say.
func (d *daemon) classes() error {
	guaranteed, err := d.run("guaranteed", spec(container("app", stay, resources("500m", "64Mi", "500m", "64Mi"))))
	if err != nil {
		return err
	}
	burstable, err := d.run("burstable", spec(
		container("a", stay, resources("250m", "32Mi", "1", "64Mi")), container("b", stay, resources("100m", "", "", ""))))
	if err != nil {
		return err
	}
	limited, err := d.run("limited", spec(
		container("a", stay, resources("50m", "16Mi", "200m", "32Mi")), container("b", stay, resources("", "", "50m", "32Mi"))))
	if err != nil {
		return err
	}
	best, err := d.run("best", spec(container("app", stay, nil)))
	if err != nil {
		return err
	}
	g, b := d.kubepods("pod"+guaranteed.Metadata.UID), d.kubepods("burstable", "pod"+burstable.Metadata.UID)
	l, e := d.kubepods("burstable", "pod"+limited.Metadata.UID), d.kubepods("besteffort", "pod"+best.Metadata.UID)
	values := func(weight, cpu, memory string) map[string]string {
		return map[string]string{"cpu.weight": weight, "cpu.max": cpu, "memory.max": memory}
	}
	limitedMember := func(weight, cpu, memory string) map[string]string {
		m := values(weight, cpu, memory)
		m["memory.swap.max"], m["memory.oom.group"] = "0", "1"
		return m
	}
	err = errors.Join(
		classIs(guaranteed, "Guaranteed"), classIs(burstable, "Burstable"), classIs(limited, "Burstable"), classIs(best, "BestEffort"),
		// 500m is 512 shares; 250m + 100m is 358, 50m + 50m is 102; without a request it is the least, 2 shares.
		expect(g, values("59", "50000 100000", "67108864")),
		expect(containerDir(g, guaranteed, "app"), limitedMember("59", "50000 100000", "67108864")),
		expect(b, values("45", none, "max")),
		expect(containerDir(b, burstable, "a"), limitedMember("35", "100000 100000", "67108864")),
		expect(containerDir(b, burstable, "b"), values("17", none, "max")),
		expect(l, values("17", "25000 100000", "67108864")),
		expect(containerDir(l, limited, "a"), limitedMember("11", "20000 100000", "33554432")),
		expect(containerDir(l, limited, "b"), limitedMember("11", "5000 100000", "33554432")),
		expect(e, values("1", none, "max")),
		expect(containerDir(e, best, "app"), values("1", none, "max")),
		expect(d.kubepods("burstable"), map[string]string{"cpu.weight": "62"}), // 45 + 17
		expect(d.kubepods("besteffort"), map[string]string{"cpu.weight": "1"}),
		populated(containerDir(g, guaranteed, "app"), containerDir(b, burstable, "b"), containerDir(e, best, "app")),
		delegated(tree, d.kubepods(), d.kubepods("burstable"), g, b, e),
	)
	err = errors.Join(err, d.remove("guaranteed", "burstable", "best"))
	return errors.Join(err, expect(d.kubepods("burstable"), map[string]string{"cpu.weight": "17"}), d.remove("limited"))
}

func classIs(p *pod, want string) error {
	if p.Status.QOSClass != want {
		return fmt.Errorf("qosClass of %s is %s, want %s", p.Metadata.Name, p.Status.QOSClass, want)
	}
	return nil
}

// populated says which of the cgroups has no process.
func populated(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err == nil && len(strings.Fields(string(b))) == 0 {
			err = fmt.Errorf("%s has no process", dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delegated says which of the cgroups lacks a controller below it.
func delegated(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		for _, c := range []string{"cpu", "memory", "pids", "cpuset", "io"} {
			if err == nil && !slices.Contains(strings.Fields(string(b)), c) {
				err = fmt.Errorf("%s: %s is not on", dir, c)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// script runs a container to its end, which has to be exit code 0.
func (d *daemon) script(name, script string, more object) error {
	code, reason, err := d.finish(name, spec(container("app", "set -eux\n"+script, more)))
	if err == nil && code != 0 {
		err = fmt.Errorf("pod %s ended with %d (%s); its log tells where", name, code, reason)
		d.tell()
	}
	return errors.Join(err, d.remove(name))
}

func (d *daemon) normalView() error {
	return d.script("normal", `
grep ' /sys/fs/cgroup cgroup2 ro,' /proc/mounts
test "$(cat /proc/self/cgroup)" = 0::/
test "$(cat /sys/fs/cgroup/memory.max)" = 33554432
test ! -e /sys/fs/cgroup/podd
if mkdir /sys/fs/cgroup/new; then exit 3; fi
if (echo max >/sys/fs/cgroup/memory.max); then exit 4; fi
if mount -o remount,rw /sys/fs/cgroup; then exit 5; fi
`, resources("10m", "32Mi", "100m", "32Mi"))
}

func (d *daemon) privilegedView() error {
	return d.script("privileged", `
grep ' /sys/fs/cgroup cgroup2 rw,' /proc/mounts
own=$(cut -d: -f3 /proc/self/cgroup)
case $own in /podd/kubepods/besteffort/pod*/*) ;; *) exit 3 ;; esac
mkdir /sys/fs/cgroup$own/inner
echo 0 >/sys/fs/cgroup$own/inner/cgroup.procs
rmdir /sys/fs/cgroup$own/inner && exit 4 || true
`, object{"securityContext": object{"privileged": true}})
}

func (d *daemon) oomKill() error {
	// A child eats the memory, and would be killed alone if its cgroup were not one group.
	code, reason, err := d.finish("oom", spec(container("app", "tail /dev/zero; exit 5", resources("", "", "", "32Mi"))))
	if err == nil && (code != 137 || reason != "OOMKilled") {
		err = fmt.Errorf("ended with %d %s, want 137 OOMKilled", code, reason)
	}
	return errors.Join(err, d.remove("oom"))
}

func (d *daemon) plainKill() error {
	s := spec(container("app", stay, resources("", "", "", "32Mi")))
	s["restartPolicy"] = "Never"
	p, err := d.run("killed", s)
	if err != nil {
		return err
	}
	dir := containerDir(d.kubepods("burstable", "pod"+p.Metadata.UID), p, "app")
	pid, err := firstProcess(dir)
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	code, reason, err := d.ended("killed")
	if err == nil && (code != 137 || reason != "Error") {
		err = fmt.Errorf("ended with %d %s, want 137 Error", code, reason)
	}
	return errors.Join(err, d.remove("killed"))
}

// killAll deletes a pod whose processes survive their container: in the host's PID namespace, in sessions of their own,
// children of nobody, one that forks on and on, one in a cgroup below the container's.
func (d *daemon) killAll() error {
	s := spec(container("app", `
trap "" TERM
for i in 1 2 3; do (setsid sleep 7777 &); done
(setsid sh -c 'hop() { sleep 0.1; hop & }; hop' &)
own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir -p $own/inner/most
(setsid sh -c "echo 0 >$own/inner/most/cgroup.procs; exec sleep 7777" &)
while :; do sleep 7777; done
`, object{"securityContext": object{"privileged": true}}))
	s["hostPID"] = true
	p, err := d.run("forks", s)
	if err != nil {
		return err
	}
	dir := containerDir(d.kubepods("besteffort", "pod"+p.Metadata.UID), p, "app")
	for deadline := time.Now().Add(limit); populated(filepath.Join(dir, "inner/most")) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.Join(populated(filepath.Join(dir, "inner/most")), d.remove("forks"))
		}
	}
	if err := d.remove("forks"); err != nil {
		return err
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "7777") || strings.Contains(string(b), "hop()") {
			return fmt.Errorf("%s is still there: %q", path.Dir(f), b)
		}
	}
	return nil
}

// simple runs one pod with limits where podd's tree is not at the root.
func (d *daemon) simple() error {
	p, err := d.run("simple", spec(container("app", stay, resources("500m", "64Mi", "500m", "64Mi"))))
	if err != nil {
		return err
	}
	dir := d.kubepods("pod" + p.Metadata.UID)
	want := map[string]string{"cpu.weight": "59", "cpu.max": "50000 100000", "memory.max": "67108864"}
	return errors.Join(expect(dir, want), expect(containerDir(dir, p, "app"), want), delegated(dir), d.oomKill(), d.remove("simple"))
}

// nested runs a podd with the same settings in a privileged container, which sees the whole tree: its pods have to be
// below that container's cgroup, and the outer podd's pods stay as they are.
func (d *daemon) nested() error {
	s := spec(container("podd", `/opt/podd/bin/podd --group root --eviction-hard= --pod-cidr 10.88.0.0/16 >/run/podd.log 2>&1 & wait`, object{
		"securityContext": object{"privileged": true},
		"volumeMounts": []object{
			{"name": "opt", "mountPath": "/opt"}, {"name": "state", "mountPath": "/var/lib/podd"}, {"name": "run", "mountPath": "/run"},
		},
	}))
	s["volumes"] = []object{
		{"name": "opt", "hostPath": object{"path": "/opt"}}, {"name": "state", "emptyDir": object{}},
		{"name": "run", "emptyDir": object{"medium": "Memory"}},
	}
	outer, err := d.run("outer", s)
	if err != nil {
		return err
	}
	dir := containerDir(d.kubepods("besteffort", "pod"+outer.Metadata.UID), outer, "podd")
	pid, err := firstProcess(dir)
	if err != nil {
		return err
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	inner := &daemon{parent: strings.TrimPrefix(dir, tree) + "/podd", log: root + "/run/podd.log", socket: root + "/run/podd/podd.sock"}
	inner.dial()
	if err := inner.ready(nil); err != nil {
		return err
	}
	if err := inner.simple(); err != nil {
		inner.tell()
		return err
	}
	now, err := d.await("outer", "running", running)
	if err == nil && now.Status.ContainerStatuses[0].ContainerID != outer.Status.ContainerStatuses[0].ContainerID {
		err = fmt.Errorf("the outer container was started anew")
	}
	return errors.Join(err, d.remove("outer"))
}

// firstProcess is a process of a cgroup.
func firstProcess(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.Fields(string(b) + " 0")[0])
	if err != nil || pid < 2 {
		return 0, fmt.Errorf("%s: no process: %w", dir, err)
	}
	return pid, nil
}

// teardown ends podd by its own command, in the cgroup that it was in, after which no cgroup of its is left.
func (d *daemon) teardown(cgroup string) error {
	if err := d.create("last", spec(container("app", stay, nil))); err != nil {
		return err
	}
	if _, err := d.await("last", "running", running); err != nil {
		return err
	}
	cmd, err := startIn(cgroup, d.log, append([]string{podd, "teardown", "--purge"}, d.args...)...)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("teardown: %w", err)
	}
	if _, err := os.Stat(filepath.Join(tree, d.parent)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is still there: %v", d.parent, err)
	}
	return nil
}

// noTrace waits until the cgroup tree and the process table have nothing of a pod any more: one that had ended is gone from
// the API at once, and from the host soon.
func noTrace(uid string) error {
	for deadline := time.Now().Add(limit / 4); ; time.Sleep(50 * time.Millisecond) {
		err := traces(uid)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func traces(uid string) error {
	var errs []error
	_ = filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(e.Name(), uid) {
			errs = append(errs, fmt.Errorf("%s is still there", p))
			return fs.SkipDir
		}
		return nil
	})
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), uid) {
			errs = append(errs, fmt.Errorf("%s: %s", f, strings.TrimSpace(string(b))))
		}
	}
	return errors.Join(errs...)
}
