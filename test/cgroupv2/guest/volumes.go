package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// blockDevices gives a container a device of the host, which a program of the kernel lets it use and no other: first both
// ways, then read-only.
func (d *daemon) blockDevices() error {
	err := d.post("/api/v1/persistentvolumes", object{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": object{"name": "disk"}, "spec": object{
		"capacity": object{"storage": "1Mi"}, "accessModes": []string{"ReadWriteOnce"}, "volumeMode": "Block", "storageClassName": "",
		"persistentVolumeReclaimPolicy": "Retain", "local": object{"path": "/dev/ram0"},
		"nodeAffinity": object{"required": object{"nodeSelectorTerms": []object{{"matchExpressions": []object{{"key": "kubernetes.io/os", "operator": "In", "values": []string{"linux"}}}}}}},
	}})
	if err == nil {
		err = d.post("/api/v1/namespaces/default/persistentvolumeclaims", object{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": object{"name": "disk"}, "spec": object{
			"accessModes": []string{"ReadWriteOnce"}, "volumeMode": "Block", "storageClassName": "", "volumeName": "disk", "resources": object{"requests": object{"storage": "1Mi"}}}})
	}
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, script string
		readOnly     bool
	}{
		{"disk", `echo written | dd of=/dev/disk conv=sync bs=512
test "$(dd if=/dev/disk bs=7 count=1)" = written
mknod /tmp/other b 1 1
if dd if=/tmp/other of=/dev/null bs=512 count=1; then exit 3; fi
`, false},
		{"disk-read", `test "$(dd if=/dev/disk bs=7 count=1)" = written
if dd if=/dev/zero of=/dev/disk bs=512 count=1; then exit 3; fi
`, true},
	} {
		s := spec(container("app", "set -eux\n"+c.script, object{"volumeDevices": []object{{"name": "v", "devicePath": "/dev/disk"}}}))
		s["volumes"] = []object{{"name": "v", "persistentVolumeClaim": object{"claimName": "disk", "readOnly": c.readOnly}}}
		code, reason, err := d.finish(c.name, s)
		if err == nil && code != 0 {
			err = fmt.Errorf("pod %s ended with %d (%s); its log tells where", c.name, code, reason)
			d.tell()
		}
		if err = errors.Join(err, d.remove(c.name)); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) post(path string, o object) error {
	body, err := json.Marshal(o)
	if err == nil {
		_, err = d.call(http.MethodPost, path, body)
	}
	return err
}

// resize changes what a container may have, up and down, while it runs.
func (d *daemon) resize() error {
	p, err := d.run("resize", spec(container("app", stay, resources("100m", "32Mi", "200m", "32Mi")), container("other", stay, resources("100m", "32Mi", "200m", "32Mi"))))
	if err != nil {
		return err
	}
	dir := d.kubepods("burstable", "pod"+p.Metadata.UID)
	own := containerDir(dir, p, "app")
	for _, c := range []struct {
		cpu, cpuLimit, memory string
		own, pod              map[string]string
	}{
		{"500m", "1", "64Mi", map[string]string{"cpu.weight": "59", "cpu.max": "100000 100000", "memory.max": "67108864"},
			map[string]string{"cpu.max": "120000 100000", "memory.max": "100663296"}},
		{"250m", "300m", "48Mi", map[string]string{"cpu.weight": "35", "cpu.max": "30000 100000", "memory.max": "50331648"},
			map[string]string{"cpu.max": "50000 100000", "memory.max": "83886080"}},
	} {
		app := resources(c.cpu, c.memory, c.cpuLimit, c.memory)
		app["name"] = "app"
		body, err := json.Marshal(object{"spec": object{"containers": []object{app}}})
		if err != nil {
			return err
		}
		if _, err := d.call(http.MethodPatch, pods+"/resize/resize", body); err != nil {
			return err
		}
		for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
			err := errors.Join(expect(own, c.own), expect(dir, c.pod))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
		}
	}
	now, err := d.await("resize", "running", running)
	if err == nil && now.Status.ContainerStatuses[0].ContainerID != p.Status.ContainerStatuses[0].ContainerID {
		err = errors.New("the container was started anew")
	}
	return errors.Join(err, d.remove("resize"))
}

const (
	export = "/export" // what the kernel's NFS server of this machine serves, a tmpfs
	nfsd   = "/proc/fs/nfsd"
)

// serveNFS has the kernel serve export to this machine, by NFS 4 alone, for which it needs no other programs: what mountd would
// tell the kernel of clients, handles and exports is told beforehand.
func serveNFS() error {
	const for68Years = "2147483647"
	for _, w := range []struct{ file, text string }{
		{"/proc/net/rpc/auth.unix.ip/channel", "nfsd 127.0.0.1 " + for68Years + " client\n"},
		{"/proc/net/rpc/nfsd.export/channel", "client " + export + " " + for68Years + " 9218 65534 65534 0\n"}, // insecure, no_subtree_check, fsid=0
		{"/proc/net/rpc/nfsd.fh/channel", `client 1 \x00000000 ` + for68Years + " " + export + "\n"},
		{nfsd + "/versions", "-2 -3 +4 +4.1 +4.2\n"},
		{nfsd + "/nfsv4leasetime", "10\n"}, {nfsd + "/nfsv4gracetime", "10\n"},
		{nfsd + "/threads", "4\n"}, {nfsd + "/v4_end_grace", "Y\n"},
	} {
		if err := os.WriteFile(w.file, []byte(w.text), 0); err != nil && !errors.Is(err, unix.EBUSY) { // times cannot be changed later
			return fmt.Errorf("serve nfs: %w", err)
		}
	}
	return nil
}

// readyNFS makes what is to be served.
func readyNFS() error {
	if err := os.MkdirAll(export, 0o755); err != nil {
		return err
	}
	return errors.Join(unix.Mount("tmpfs", export, "tmpfs", 0, "mode=777"), unix.Mount("nfsd", nfsd, "nfsd", 0, ""),
		os.WriteFile(filepath.Join(export, "precious"), []byte("data"), 0o644), os.Symlink("/init", "/bin/mount.nfs"), serveNFS())
}

// mountNFS is the mount helper of this machine, which has no other: what it is told goes to the kernel.
func mountNFS(args []string) error {
	flags := uintptr(0)
	if len(args) > 3 && args[2] == "-o" && strings.Contains(","+args[3]+",", ",ro,") {
		flags = unix.MS_RDONLY
	}
	server, _, _ := strings.Cut(args[0], ":")
	return unix.Mount(args[0], args[1], "nfs4", flags, "vers=4.2,hard,timeo=50,retrans=1,clientaddr=127.0.0.1,addr="+server)
}

// nfs is a pod with what a real NFS server serves, both ways and read-only; it leaves the server's data alone.
func (d *daemon) nfs() error {
	if err := readyNFS(); err != nil {
		return err
	}
	s := spec(container("app", `set -eux
test "$(cat /v/precious)" = data
grep ' /v nfs4 rw,' /proc/mounts
echo mine >/v/mine
mkdir -p /v/sub
if touch /r/x; then exit 3; fi
`, object{"volumeMounts": []object{{"name": "v", "mountPath": "/v"}, {"name": "r", "mountPath": "/r"}, {"name": "v", "mountPath": "/s", "subPath": "made/here"}}}))
	s["volumes"] = []object{nfsVolume("v", false), nfsVolume("r", true)}
	code, reason, err := d.finish("nfs", s)
	if err == nil && code != 0 {
		err = fmt.Errorf("ended with %d (%s); its log tells where", code, reason)
		d.tell()
	}
	if err = errors.Join(err, d.remove("nfs")); err != nil {
		return err
	}
	mine, err := os.ReadFile(filepath.Join(export, "mine"))
	if err == nil && string(mine) != "mine\n" {
		err = fmt.Errorf("the server has %q", mine)
	}
	_, err2 := os.Stat(filepath.Join(export, "made", "here"))
	return errors.Join(err, err2, untouched())
}

func nfsVolume(name string, readOnly bool) object {
	return object{"name": name, "nfs": object{"server": "127.0.0.1", "path": "/", "readOnly": readOnly}}
}

// untouched tells whether the server has its data, and nobody a mount of it: soon, since a pod that had ended is gone from the
// API before it is gone from the host.
func untouched() error {
	b, err := os.ReadFile(filepath.Join(export, "precious"))
	if err == nil && string(b) != "data" {
		err = fmt.Errorf("the server's data is %q", b)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		mounts, err2 := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), " - nfs4 ") {
			err2 = fmt.Errorf("nfs is still mounted: %s", mounts)
		}
		if err2 == nil || time.Now().After(deadline) {
			return errors.Join(err, err2)
		}
	}
}

// deadNFS is a pod that writes to a server that dies: it is taken away, and other pods do not notice.
func (d *daemon) deadNFS() error {
	s := spec(container("app", `while :; do echo line >>/v/log; sleep 0.1; done`, object{"volumeMounts": []object{{"name": "v", "mountPath": "/v"}}}))
	s["volumes"] = []object{nfsVolume("v", false)}
	if _, err := d.run("writer", s); err != nil {
		return err
	}
	written := func() int64 {
		st, err := os.Stat(filepath.Join(export, "log"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for deadline := time.Now().Add(limit); written() == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("the pod writes nothing")
		}
	}
	if err := os.WriteFile(nfsd+"/threads", []byte("0\n"), 0); err != nil {
		return fmt.Errorf("end the server: %w", err)
	}
	defer func() { _ = serveNFS() }() // what the kernel still has to write holds its end up
	_, err := d.run("beside", spec(container("app", stay, nil)))
	return errors.Join(err, d.remove("beside"), d.remove("writer"), untouched())
}
