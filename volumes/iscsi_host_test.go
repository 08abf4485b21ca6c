//go:build host

package volumes

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
)

const testIQN = "iqn.2001-04.com.example:disk"

// standInDisk stands in for iscsiadm and for what makes and mounts file systems: it keeps a sysfs and a database below the
// directory that it is in, in the kernel's and iscsiadm's form, and the disk's file system is the name that the file "disk" has.
func standInDisk(name string, args []string) {
	dir := filepath.Dir(os.Args[0])
	fail := func(code int, err error) {
		if err != nil {
			fmt.Println(name+":", err)
			os.Exit(code)
		}
	}
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fail(99, err)
	fmt.Fprintln(calls, name, strings.Join(args, " "))
	disk := filepath.Join(dir, "disk")
	switch name {
	case "blkid":
		kind, _ := os.ReadFile(disk)
		if len(kind) == 0 {
			os.Exit(2)
		}
		fmt.Printf("DEVNAME=x\n%s\n", kind)
	case "mkfs.ext4":
		fail(1, os.WriteFile(disk, []byte("TYPE=ext4"), 0o600))
	case "mount":
		fail(32, unix.Mount(filepath.Join(dir, "export"), args[5], "", unix.MS_BIND, ""))
	case "iscsiadm":
		value := func(flag string) string {
			if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
				return args[i+1]
			}
			return ""
		}
		portal, iface := strings.Replace(value("-p"), ":", ",", 1), value("-I")
		device, class := filepath.Join(dir, "sys/devices/host3/session1"), filepath.Join(dir, "sys/class/iscsi_session/session1")
		write := func(file, text string) {
			fail(99, errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)))
		}
		switch {
		case value("-m") == "discoverydb" && value("-o") == "new":
			write(filepath.Join(dir, "etc/send_targets", portal, "st_config"), "# BEGIN RECORD\ndiscovery.sendtargets.auth.authmethod = None\n# END RECORD\n")
		case slices.Contains(args, "--discover"):
			write(filepath.Join(dir, "etc/nodes", testIQN, portal+",1", iface), "# BEGIN RECORD\nnode.session.auth.password = old\nnode.name = "+testIQN+"\n# END RECORD\n")
		case slices.Contains(args, "--login"):
			if _, err := os.Stat(filepath.Join(dir, "refuses")); err == nil {
				fail(24, errors.New("authorization failure"))
			}
			beginSession(dir)
		case slices.Contains(args, "--logout"):
			if _, err := os.Stat(class); err != nil {
				os.Exit(errNothing)
			}
			fail(99, errors.Join(os.RemoveAll(class), os.RemoveAll(device)))
		case value("-m") == "node" && value("-o") == "delete":
			fail(99, os.RemoveAll(filepath.Join(dir, "etc/nodes", testIQN)))
		}
	}
	os.Exit(0)
}

// beginSession is what the kernel shows of a session.
func beginSession(dir string) {
	device, class := filepath.Join(dir, "sys/devices/host3/session1"), filepath.Join(dir, "sys/class/iscsi_session/session1")
	connection := filepath.Join(device, "connection1:0/iscsi_connection/connection1:0")
	for file, text := range map[string]string{
		class + "/targetname": testIQN, class + "/ifacename": "default",
		connection + "/persistent_address": "10.0.0.1", connection + "/persistent_port": "3260",
		dir + "/sys/class/scsi_host/host3/scan": "", device + "/target3:0:0/3:0:0:5/block/sdx/size": "1",
	} {
		_ = os.MkdirAll(filepath.Dir(file), 0o700)
		_ = os.WriteFile(file, []byte(text+"\n"), 0o600)
	}
	_ = os.Symlink(device, class+"/device")
}

func iscsiDisk(name string, readOnly bool) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{TargetPortal: "10.0.0.1", IQN: testIQN, Lun: 5, ReadOnly: readOnly}}}
}

// Two pods use one target: the first logs in and formats the blank disk, the last one logs out.
func TestISCSI(t *testing.T) {
	v, programs := openRemote(t)
	first, second, group := pod(iscsiDisk("disk", false)), pod(iscsiDisk("disk", false)), int64(2000)
	second.UID = "uid-2"
	first.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	s := first.Spec.Volumes[0].ISCSI
	s.SessionCHAPAuth, s.DiscoveryCHAPAuth, s.SecretRef = true, true, &v1.LocalObjectReference{Name: "chap"}
	for range 2 {
		if err := v.Ensure(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	at := func(uid string) string { return filepath.Join(v.path(uid), remotes, "disk") }
	if _, gid := owner(t, filepath.Join(at("uid-1"), "sub")); gid != 2000 {
		t.Errorf("the disk's files have group %d", gid)
	}
	const db, node = "iscsiadm -m discoverydb -t sendtargets -p 10.0.0.1:3260 -I default ", "iscsiadm -m node -p 10.0.0.1:3260 -T " + testIQN + " -I default "
	made := []string{
		db + "-o new", db + "-o update -n discovery.sendtargets.auth.authmethod -v CHAP", db + "--discover",
		node + "-o update -n node.session.scan -v manual", node + "-o update -n node.startup -v manual",
		node + "-o update -n node.session.auth.authmethod -v CHAP", node + "--login",
		"blkid -p -s TYPE -s PTTYPE -o export /dev/sdx", "mkfs.ext4 -F -m0 /dev/sdx", "mount -t ext4 -o defaults /dev/sdx " + at("uid-1"),
	}
	if got := calls(t, programs); !slices.Equal(got, made) {
		t.Errorf("run were\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(made, "\n"))
	}
	for file, want := range map[string]string{
		"etc/nodes/" + testIQN + "/10.0.0.1,3260,1/default": "# BEGIN RECORD\nnode.name = " + testIQN + "\nnode.session.auth.username = me\nnode.session.auth.password = very secret\n# END RECORD\n",
		"etc/send_targets/10.0.0.1,3260/st_config":          "# BEGIN RECORD\ndiscovery.sendtargets.auth.authmethod = None\ndiscovery.sendtargets.auth.password = very secret, too\n# END RECORD\n",
	} {
		if b, err := os.ReadFile(filepath.Join(programs, file)); err != nil || string(b) != want || mode(t, filepath.Join(programs, file)) != 0o600 {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(programs, "sys/class/scsi_host/host3/scan")); err != nil || string(b) != "0 0 5" {
		t.Errorf("looked for %q, %v", b, err)
	}
	ensure := func(want ...string) {
		t.Helper()
		before := len(calls(t, programs))
		if err := v.Ensure(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if got := calls(t, programs)[before:]; !slices.Equal(got, want) {
			t.Errorf("run were %q, want %q", got, want)
		}
	}
	ensure("blkid -p -s TYPE -s PTTYPE -o export /dev/sdx", "mount -t ext4 -o defaults /dev/sdx "+at("uid-2"))
	remove := func(uid string, want ...string) {
		t.Helper()
		before := len(calls(t, programs))
		if err := v.Remove(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
		if got := calls(t, programs)[before:]; !slices.Equal(got, want) {
			t.Errorf("run were %q, want %q", got, want)
		}
		precious(t, programs)
	}
	remove("uid-1")
	remove("uid-2", node+"--logout", node+"-o delete")
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(v.dir), "sessions")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// A session that somebody else has begun stays.
	beginSession(programs)
	ensure("blkid -p -s TYPE -s PTTYPE -o export /dev/sdx", "mount -t ext4 -o defaults /dev/sdx "+at("uid-2"))
	remove("uid-2")
}

// What holds a disk back is said; nothing is formatted that is not blank, or is to be read only.
func TestISCSIFails(t *testing.T) {
	for name, c := range map[string]struct {
		disk, want string
		readOnly   bool
	}{
		"no program": {"", "volume disk: iscsi " + testIQN + ": iscsiadm: is not on this host: install open-iscsi", false},
		"refuses":    {"", "volume disk: iscsi " + testIQN + ": portal 10.0.0.1:3260: log in: iscsiadm: exit status 24: iscsiadm: authorization failure", false},
		"blank":      {"", "volume disk: disk /dev/sdx: has no file system, and is to be read-only", true},
		"other":      {"TYPE=xfs", "volume disk: disk /dev/sdx: has xfs on it, not ext4", false},
		"partitions": {"PTTYPE=gpt", "volume disk: disk /dev/sdx: has partitions (gpt)", false},
		"strange":    {"x", "volume disk: disk /dev/sdx: blkid does not say what is on it", false},
	} {
		v, programs := openRemote(t)
		var err error
		switch name {
		case "no program":
			err = os.Remove(filepath.Join(programs, "iscsiadm"))
		case "refuses":
			err = os.WriteFile(filepath.Join(programs, "refuses"), nil, 0o600)
		}
		if err = errors.Join(err, os.WriteFile(filepath.Join(programs, "disk"), []byte(c.disk), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := v.Ensure(t.Context(), pod(iscsiDisk("disk", c.readOnly))); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if b, _ := os.ReadFile(filepath.Join(programs, "disk")); string(b) != c.disk {
			t.Errorf("%s: the disk was written to: %s", name, b)
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Nothing that a pod says becomes an option of a program, or leads out of a directory.
func TestISCSINames(t *testing.T) {
	for want, change := range map[string]func(*v1.ISCSIVolumeSource){
		"iscsi portal":   func(s *v1.ISCSIVolumeSource) { s.Portals = []string{"10.0.0.2", "-o"} },
		"iscsi target":   func(s *v1.ISCSIVolumeSource) { s.IQN = "iqn.2001-04.com/../../etc" },
		"iscsiInterface": func(s *v1.ISCSIVolumeSource) { s.ISCSIInterface = "../x" },
		"fsType":         func(s *v1.ISCSIVolumeSource) { s.FSType = "../../bin/sh" },
		"initiatorName":  func(s *v1.ISCSIVolumeSource) { name := "-x"; s.InitiatorName = &name },
	} {
		v, programs := openRemote(t)
		vol := iscsiDisk("disk", false)
		change(vol.ISCSI)
		if err := v.Ensure(t.Context(), pod(vol)); err == nil || !strings.HasPrefix(err.Error(), "volume disk: "+want) {
			t.Errorf("%s: %v", want, err)
		}
		if got := calls(t, programs); len(got) > 0 {
			t.Errorf("%s: run were %q", want, got)
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Error(err)
		}
	}
}
