//go:build host

package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

const testIQN = "iqn.2001-04.com.example:disk"

var inMemory = regexp.MustCompile(`/proc/\d+/fd/\d+`)

// standInDisk stands in for iscsiadm and for what makes and mounts file systems: it keeps a sysfs and a database below the
// directory that it is in, in the kernel's and iscsiadm's form, and the disk's file system is the name that the file "disk" has.
// If there is a file "copied", that is what can be read of the disk.
func standInDisk(name string, args []string) {
	dir := filepath.Dir(os.Args[0])
	fail := func(code int, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(code)
		}
	}
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fail(99, err)
	fmt.Fprintln(calls, name, inMemory.ReplaceAllString(strings.Join(args, " "), "COPY"))
	disk := filepath.Join(dir, "disk")
	switch name {
	case "blkid":
		if file := args[len(args)-1]; strings.HasPrefix(file, "/proc/") {
			disk = file
		}
		b, _ := os.ReadFile(disk)
		kind := strings.TrimRight(string(b), "\x00")
		if kind == "" {
			os.Exit(2)
		}
		fmt.Printf("DEVNAME=x\n%s\n", kind)
	case "dd":
		b, err := os.ReadFile(filepath.Join(dir, "copied"))
		if errors.Is(err, os.ErrNotExist) {
			b, err = make([]byte, 512), nil
		}
		if string(b) == "error" {
			fail(1, errors.New("error reading '/dev/sdx': Input/output error"))
		}
		fail(99, err)
		_, err = os.Stdout.Write(b)
		fail(99, err)
	case "mkfs.ext4", "fsck":
		if slow := filepath.Join(dir, "slow"); there(slow) {
			fail(99, os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600))
			for there(slow) {
				time.Sleep(time.Millisecond)
			}
		}
		fail(1, os.WriteFile(disk, []byte("TYPE=ext4"), 0o600))
	case "mount":
		fail(32, unix.Mount(filepath.Join(dir, "export"), args[5], "", unix.MS_BIND, ""))
	case "dmsetup":
		b, err := os.ReadFile(filepath.Join(dir, "status"))
		fail(1, err)
		fmt.Print(string(b))
	case "iscsiadm":
		standInISCSIAdm(dir, args, fail)
	}
	os.Exit(0)
}

func there(file string) bool { _, err := os.Stat(file); return err == nil }

func standInISCSIAdm(dir string, args []string, fail func(int, error)) {
	value := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	portal, iface := value("-p"), value("-I")
	file := func(parts ...string) string { return filepath.Join(append([]string{dir, "etc"}, parts...)...) }
	node := file("nodes", testIQN, strings.Replace(portal, ":", ",", 1)+",1", iface)
	write := func(file, text string) {
		fail(99, errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)))
	}
	what := value("-m") + " " + value("-o")
	if iface != "default" && what != "iface new" && !there(file("ifaces", iface)) {
		fail(7, fmt.Errorf("Could not read iface info for %s", iface))
	}
	switch {
	case what == "iface new":
		if used, _ := filepath.Glob(file("nodes", "*", "*", iface)); len(used) > 0 {
			fail(sessionExists, errors.New("session exists"))
		}
		write(file("ifaces", iface), "")
	case what == "iface show":
		fmt.Println("# BEGIN RECORD\niface.iscsi_ifacename = default\niface.transport_name = tcp\niface.initiatorname = <empty>")
	case what == "iface delete":
		fail(6, os.Remove(file("ifaces", iface)))
	case what == "discoverydb new":
		if slow := filepath.Join(dir, "slow-database"); there(slow) {
			fail(99, os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600))
			for there(slow) {
				time.Sleep(time.Millisecond)
			}
		}
		write(file("send_targets", strings.Replace(portal, ":", ",", 1), "st_config"), "# BEGIN RECORD\ndiscovery.sendtargets.auth.authmethod = None\n# END RECORD\n")
	case slices.Contains(args, "--discover"):
		if there(filepath.Join(dir, "undiscovered")) {
			beginSession(dir, portal, iface)
			fail(4, errors.New("connection failed"))
		}
		if there(filepath.Join(dir, "during discovery")) {
			beginSession(dir, portal, iface)
		}
		write(node, "# BEGIN RECORD\nnode.session.auth.password = old\nnode.name = "+testIQN+"\n# END RECORD\n")
	case slices.Contains(args, "--login"):
		if there(filepath.Join(dir, "hangs")) {
			fail(99, os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600))
			time.Sleep(time.Hour)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "refuses")); err == nil {
			if there(filepath.Join(dir, "others")) {
				beginSession(dir, portal, iface)
			}
			code, _ := strconv.Atoi(string(b))
			fail(code, errors.New("authorization failure"))
		}
		if there(filepath.Join(dir, "before login")) {
			beginSession(dir, portal, iface)
		}
		if _, class := sessionDirs(dir, portal); there(class) {
			return // since 2011 it does nothing
		}
		beginSession(dir, portal, iface)
		if there(filepath.Join(dir, "with login")) {
			_, class := sessionDirs(dir, portal)
			fail(99, os.CopyFS(class+"0", os.DirFS(class))) // another one, which has the same disk here
		}
		fmt.Printf("Login to [iface: %s, target: %s, portal: %s] successful.\n", iface, testIQN, portal)
	case slices.Contains(args, "--logout"):
		device, class := sessionDirs(dir, portal)
		if !there(class) {
			fail(21, errors.New("No matching sessions found"))
		}
		fail(99, errors.Join(os.RemoveAll(class), os.RemoveAll(device)))
	case what == "node delete":
		if !there(node) {
			fail(21, errors.New("No records found"))
		}
		fail(99, errors.Join(os.Remove(node), os.Remove(filepath.Dir(node))))
	}
}

// sessionDirs are where the kernel shows the session by a portal: that of 10.0.0.1 has the number 1.
func sessionDirs(dir, portal string) (device, class string) {
	n, _, _ := strings.Cut(portal[strings.LastIndexByte(portal, '.')+1:], ":")
	return filepath.Join(dir, "sys/devices/host"+n+"/session"+n), filepath.Join(dir, "sys/class/iscsi_session/session"+n)
}

// beginSession is what the kernel shows of a session. The disk that 10.0.0.1 shows is sdx, that of 10.0.0.2 sdy.
func beginSession(dir, portal, iface string) {
	device, class := sessionDirs(dir, portal)
	connection := filepath.Join(device, "connection1:0/iscsi_connection/connection1:0")
	address, port, _ := strings.Cut(portal, ":")
	host := filepath.Base(filepath.Dir(device))
	for file, text := range map[string]string{
		class + "/targetname": testIQN, class + "/ifacename": iface,
		connection + "/persistent_address": address, connection + "/persistent_port": port,
		dir + "/sys/class/scsi_host/" + host + "/scan":                                               "",
		device + "/target3:0:0/3:0:0:5/block/sd" + string('w'+address[len(address)-1]-'0') + "/size": "1",
	} {
		_ = os.MkdirAll(filepath.Dir(file), 0o700)
		_ = os.WriteFile(file, []byte(text+"\n"), 0o600)
	}
	_ = os.Symlink(device, class+"/device")
	shown, _ := filepath.Glob(device + "/target*/*/block/*")
	_ = os.MkdirAll(dir+"/sys/class/block", 0o700)
	for _, disk := range shown {
		_ = os.Symlink(disk, filepath.Join(dir, "sys/class/block", filepath.Base(disk)))
	}
}

// noSessions fails the test if anything is left of sessions: with the target, in podd's records, in those of iscsiadm.
func noSessions(t *testing.T, dir string) {
	t.Helper()
	for _, left := range []string{"sessions/*", "programs/sys/class/iscsi_session/*", "programs/etc/nodes/*/*", "programs/etc/ifaces/*"} {
		if found, err := filepath.Glob(filepath.Join(dir, left)); err != nil || len(found) > 0 {
			t.Errorf("left: %v, %v", found, err)
		}
	}
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
		"blkid -p -s TYPE -s PTTYPE -o export /dev/sdx", "dd if=/dev/sdx bs=64k count=32", "blkid -p -s TYPE -s PTTYPE -o export COPY",
		"mkfs.ext4 -F -m0 /dev/sdx", "mount -t ext4 -o defaults /dev/sdx " + at("uid-1"),
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
	if b, err := os.ReadFile(filepath.Join(programs, "sys/class/scsi_host/host1/scan")); err != nil || string(b) != "0 0 5" {
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
	noSessions(t, filepath.Dir(v.dir))
	// A session that somebody else has begun stays.
	beginSession(programs, "10.0.0.1:3260", "default")
	ensure("blkid -p -s TYPE -s PTTYPE -o export /dev/sdx", "mount -t ext4 -o defaults /dev/sdx "+at("uid-2"))
	remove("uid-2")
}

// Of two pods of one target that go at the same time, the second to be done ends the session.
func TestISCSIBothGo(t *testing.T) {
	v, programs := openRemote(t)
	first, second := pod(iscsiDisk("disk", false)), pod(iscsiDisk("disk", false))
	second.UID = "uid-2"
	for range 5 {
		for _, p := range []*v1.Pod{first, second} {
			if err := v.Ensure(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		before := len(calls(t, programs))
		var both sync.WaitGroup
		for _, uid := range []string{"uid-1", "uid-2"} {
			both.Go(func() {
				if err := v.Remove(t.Context(), uid); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		outs := 0
		for _, call := range calls(t, programs)[before:] {
			if strings.HasSuffix(call, "--logout") {
				outs++
			}
		}
		if outs != 1 {
			t.Errorf("%d logouts", outs)
		}
		noSessions(t, filepath.Dir(v.dir))
	}
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
		"error":      {"", "volume disk: disk /dev/sdx: cannot be read: dd: exit status 1: dd: error reading '/dev/sdx': Input/output error", false},
		"short":      {"", "volume disk: disk /dev/sdx: cannot be read: of its first 512 bytes there are 5", false},
		"TYPE=ext4":  {"", "volume disk: disk /dev/sdx: seemed to be blank, but is not: has ext4 on it", false},
		"PTTYPE=dos": {"", "volume disk: disk /dev/sdx: seemed to be blank, but is not: has partitions (dos)", false},
	} {
		v, programs := openRemote(t)
		var err error
		switch name {
		case "no program":
			err = os.Remove(filepath.Join(programs, "iscsiadm"))
		case "refuses":
			err = os.WriteFile(filepath.Join(programs, "refuses"), []byte("24"), 0o600)
		case "error", "short":
			err = os.WriteFile(filepath.Join(programs, "copied"), []byte(name), 0o600)
		case "TYPE=ext4", "PTTYPE=dos":
			err = os.WriteFile(filepath.Join(programs, "copied"), append([]byte(name), make([]byte, sector)...), 0o600)
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

// The host's own blkid says the same of a disk that is blank and of one that cannot be read.
func TestReallyBlank(t *testing.T) {
	v, dir := open(t), t.TempDir()
	v.programs.dirs, v.dev, v.sys = "/usr/sbin:/usr/bin:/sbin:/bin", dir, dir
	for _, name := range []string{"blkid", "dd"} {
		if _, err := v.programs.find("", name); err != nil {
			t.Skip(err)
		}
	}
	device := filepath.Join(dir, "sdx")
	size := filepath.Join(dir, "class/block/sdx/size")
	swap := make([]byte, 1<<20)
	copy(swap[1024:], "\x01\x00\x00\x00\xff\x00\x00\x00")
	copy(swap[4086:], "SWAPSPACE2")
	for name, c := range map[string]struct {
		sectors, want string
		make          func() error
	}{
		"blank":   {"2048", "", func() error { return os.WriteFile(device, make([]byte, 1<<20), 0o600) }},
		"large":   {"8589934592", "", func() error { return os.WriteFile(device, make([]byte, tellsBlocks*64<<10), 0o600) }},
		"bad":     {"2048", "cannot be read: dd: exit status 1: ", func() error { return os.Symlink("/proc/self/mem", device) }},
		"short":   {"2048", "cannot be read: of its first 1048576 bytes there are 1024", func() error { return os.WriteFile(device, make([]byte, 1024), 0o600) }},
		"no size": {"0", "its size is not known", func() error { return os.WriteFile(device, make([]byte, 1024), 0o600) }},
		"swap":    {"2048", "seemed to be blank, but is not: has swap on it", func() error { return os.WriteFile(device, swap, 0o600) }},
	} {
		_ = os.Remove(device)
		if err := errors.Join(c.make(), os.MkdirAll(filepath.Dir(size), 0o700), os.WriteFile(size, []byte(c.sectors+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if kind, err := v.formatOf(t.Context(), unit{}, device); name != "swap" && (kind != "" || err != nil) {
			t.Errorf("%s: blkid says %q, %v", name, kind, err)
		}
		err := v.reallyBlank(t.Context(), unit{}, device)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "disk "+device+": "+c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
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

// A target that two portals show is logged in to by both, with an iface for the initiator's name, which is the same for all pods.
func TestISCSIInitiator(t *testing.T) {
	v, programs := openRemote(t)
	first, second := pod(initiatorDisk("disk")), pod(initiatorDisk("other"))
	second.UID = "uid-2"
	if err := errors.Join(v.Ensure(t.Context(), first), v.Ensure(t.Context(), second)); err != nil {
		t.Fatal(err)
	}
	said := calls(t, programs)
	count := func(what string) (n int) {
		for _, call := range said {
			if strings.Contains(call, what) {
				n++
			}
		}
		return n
	}
	for what, want := range map[string]int{"--login": 2, "-o update -n iface.initiatorname -v iqn.2001-04.com.example:me": 1, "-o update -n iface.transport_name -v tcp": 1,
		"iface -I default -o show": 2, "mount -t ext4 -o defaults /dev/sdx ": 2, "/dev/sdy": 0} {
		if got := count(what); got != want {
			t.Errorf("%s: run %d times, want %d:\n%s", what, got, want, strings.Join(said, "\n"))
		}
	}
	for _, uid := range []string{"uid-1", "uid-2"} {
		if sessions, _ := filepath.Glob(filepath.Join(programs, "sys/class/iscsi_session/*")); len(sessions) != 2 {
			t.Errorf("before %s goes: sessions %v", uid, sessions)
		}
		if err := v.Remove(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
	}
	noSessions(t, filepath.Dir(v.dir))
}

func initiatorDisk(name string) v1.Volume {
	vol, initiator := iscsiDisk(name, false), "iqn.2001-04.com.example:me"
	vol.ISCSI.InitiatorName, vol.ISCSI.Portals = &initiator, []string{"10.0.0.2"}
	return vol
}

// One disk is never mounted as two devices: that which is mounted already is taken, and if it is of a session that is not the
// pod's, nothing is done.
func TestISCSIIsMounted(t *testing.T) {
	v, programs := openRemote(t)
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	beginSession(programs, "10.0.0.2:3260", "default")
	number := filepath.Join(programs, "sys/class/block/sdy/dev")
	text := fmt.Sprintf("%d:%d\n", unix.Major(st.Dev), unix.Minor(st.Dev))
	if err := errors.Join(os.MkdirAll(filepath.Dir(number), 0o700), os.WriteFile(number, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	p := pod(iscsiDisk("disk", false))
	const want = "volume disk: iscsi " + testIQN + ": lun 5: is mounted already, as /dev/sdy, by another session"
	if err := v.Ensure(t.Context(), p); err == nil || err.Error() != want {
		t.Errorf("Ensure = %v, want %s", err, want)
	}
	p.Spec.Volumes[0].ISCSI.Portals = []string{"10.0.0.2:3260"}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Error(err)
	}
	if got := calls(t, programs); !strings.Contains(got[len(got)-1], "/dev/sdy") {
		t.Errorf("mounted was %s", got[len(got)-1])
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

// Where multipathd is at work it is waited for: what it makes of a disk with two portals is mounted, though it comes a moment after
// the disk, and by the second portal.
func TestISCSIMultipath(t *testing.T) {
	v, programs := openRemote(t)
	p := pod(iscsiDisk("disk", false))
	p.Spec.Volumes[0].ISCSI.Portals = []string{"10.0.0.2"}
	if err := errors.Join(os.WriteFile(v.multipathd, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600),
		os.WriteFile(filepath.Join(programs, "disk"), []byte("TYPE=ext4"), 0o600)); err != nil {
		t.Fatal(err)
	}
	v.multipathLimit = time.Hour
	done := make(chan error, 1)
	go func() { done <- v.Ensure(t.Context(), p) }()
	until(t, done, func() bool { return word(filepath.Join(programs, "sys/class/scsi_host/host2/scan")) != "" })
	for file, text := range map[string]string{"block/dm-3/dm/uuid": "mpath-x", "block/sdy/holders/dm-3/x": ""} {
		path := filepath.Join(programs, "sys", file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := calls(t, programs); !strings.Contains(got[len(got)-1], "/dev/dm-3") {
		t.Errorf("mounted was %s", got[len(got)-1])
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// If multipathd makes nothing of a disk, it is mounted by its first portal.
func TestISCSINoMultipath(t *testing.T) {
	v, programs := openRemote(t)
	v.multipathLimit = time.Millisecond
	p := pod(iscsiDisk("disk", false))
	p.Spec.Volumes[0].ISCSI.Portals = []string{"10.0.0.2"}
	if err := os.WriteFile(v.multipathd, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, programs); !strings.Contains(got[len(got)-1], "/dev/sdx") {
		t.Errorf("mounted was %s", got[len(got)-1])
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// Of two pods with one disk by multipath the one that has more portals goes first: its session is not needed, as long as the other
// one is a path that works.
func TestISCSIMultipathGoes(t *testing.T) {
	v, programs := openRemote(t)
	first, second := pod(iscsiDisk("disk", false)), pod(iscsiDisk("disk", false))
	first.Spec.Volumes[0].ISCSI.Portals = []string{"10.0.0.2"}
	second.UID = "uid-2"
	if err := errors.Join(v.Ensure(t.Context(), first), v.Ensure(t.Context(), second)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	plant := func(file, text string) {
		t.Helper()
		path := filepath.Join(programs, "sys/class/block", file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	plant("dm-3/dm/uuid", "mpath-x")
	plant("dm-3/dev", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	for _, disk := range []string{"sdx", "sdy"} {
		plant(disk+"/holders/dm-3/x", "")
		plant("dm-3/slaves/"+disk+"/x", "")
		plant(disk+"/device/state", "running")
		plant(disk+"/dev", map[string]string{"sdx": "8:16", "sdy": "8:32"}[disk])
	}
	dm := func(status string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(programs, "status"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, class1 := sessionDirs(programs, "10.0.0.1:3260")
	_, class2 := sessionDirs(programs, "10.0.0.2:3260")
	goes := func(uid, want string) {
		t.Helper()
		if err := v.Remove(t.Context(), uid); want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: Remove = %v, want %q", uid, err, want)
		}
	}
	const both = "0 2097152 multipath 2 0 0 0 1 1 A 0 2 2 8:16 A 0 0 1 8:32 A 0 0 1 \n"
	plant("sdx/device/state", "transport-offline")
	dm(both)
	goes("uid-1", "disk /dev/sdy: dm-3 is mounted")
	plant("sdx/device/state", "running")
	dm(strings.Replace(both, "8:16 A", "8:16 F", 1))
	goes("uid-1", "disk /dev/sdy: dm-3 is mounted")
	if err := os.Remove(filepath.Join(programs, "status")); err != nil { // dmsetup fails
		t.Fatal(err)
	}
	goes("uid-1", "disk /dev/sdy: dm-3 is mounted")
	dm(both)
	// Sessions of another target may be ending.
	ending, err := v.targets.lock(t.Context(), everyTarget)
	if err != nil {
		t.Fatal(err)
	}
	_, dir := v.findSession(session{IQN: testIQN, Portal: "10.0.0.2:3260", Iface: "default"})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.unused(gone, testIQN, []string{dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("while sessions of another target end: %v", err)
	}
	ending()
	goes("uid-1", "")
	if !there(class1) || there(class2) {
		t.Errorf("sessions are there: %v, %v", there(class1), there(class2))
	}
	goes("uid-2", "disk /dev/sdx: dm-3 is mounted")
	if err := os.Remove(filepath.Join(programs, "sys/class/block/dm-3/dev")); err != nil {
		t.Fatal(err)
	}
	goes("uid-2", "")
	noSessions(t, filepath.Dir(v.dir))
}

// Of a pod's sessions none is ended if what is on one of them would be lost with it, or with all of them.
func TestISCSIAllStay(t *testing.T) {
	v, programs := openRemote(t)
	p := pod(iscsiDisk("disk", false))
	p.Spec.Volumes[0].ISCSI.Portals = []string{"10.0.0.2"}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"dm-3/dm/uuid": "mpath-x", "dm-3/dev": fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		"sdx/holders/dm-3/x": "", "sdy/holders/dm-3/x": "", "dm-3/slaves/sdx/x": "", "dm-3/slaves/sdy/x": "",
		"sdx/device/state": "running", "sdy/device/state": "running", "sdx/dev": "8:16", "sdy/dev": "8:32",
		"../../../status": "0 2097152 multipath 2 0 0 0 1 1 A 0 2 2 8:16 A 0 0 1 8:32 A 0 0 1 \n",
	} {
		path := filepath.Join(programs, "sys/class/block", file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err == nil || !strings.HasSuffix(err.Error(), "disk /dev/sdx: dm-3 is mounted") {
		t.Errorf("Remove = %v", err)
	}
	for _, call := range calls(t, programs) {
		if strings.HasSuffix(call, "--logout") {
			t.Errorf("run was %s", call)
		}
	}
	if err := errors.Join(os.Remove(filepath.Join(programs, "sys/class/block/dm-3/dev")), v.Remove(t.Context(), "uid-1")); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// What the kernel says of a multipath device's paths; what is not clear says nothing.
func TestActivePaths(t *testing.T) {
	for status, want := range map[string][]string{
		"0 2097152 multipath 2 0 0 0 1 1 A 0 2 2 8:16 A 0 0 1 8:32 A 0 0 1 \n":        {"8:16", "8:32"},
		"0 2097152 multipath 2 0 0 0 2 1 A 0 1 2 8:16 F 1 0 1 E 0 1 2 8:32 A 0 0 1":   {"8:32"},
		"0 2097152 multipath 2 0 1 0 2 1 E 1 x 1 2 8:16 A 0 0 1 D 0 1 2 8:32 A 0 0 1": {"8:16"},
		"0 2097152 multipath 2 0 0 1 alua 1 1 A 0 1 0 8:16 A 0":                       {"8:16"},
		"0 2097152 multipath 2 0 0 0 1 1 A 0 2 2 8:16 A 0 0 1":                        nil,
		"0 2097152 multipath 2 0 0 0 1 1 A 0 1 2 8:16 A 0 0 1 more":                   nil,
		"0 2097152 multipath 2 0 0 0 1 1 X 0 1 2 8:16 A 0 0 1":                        nil,
		"0 2097152 multipath 2 0 0 0 1 1 A 0 1 2 8:16 ? 0 0 1":                        nil,
		"0 2097152 multipath 2 0 0 0 999999999999 1 A":                                nil,
		"0 2097152 linear": nil, "": nil, "Device does not exist.": nil,
		"x: 0 2097152 multipath 2 0 0 0 1 1 A 0 1 2 8:16 A 0 0 1": nil,
	} {
		if got := activePaths(status); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
}

// until waits for something that has to happen before what says so at its end is done.
func until(t *testing.T, done <-chan error, happened func() bool) {
	t.Helper()
	for !happened() {
		select {
		case err := <-done:
			t.Fatalf("it has ended before: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}

// The target is dead when a disk is given to the pod's group: who does that is left behind as soon as the pod is to go.
func TestISCSIIsDead(t *testing.T) {
	v, programs := openRemote(t)
	t.Run("group", func(t *testing.T) { // ends before the server's data are looked at
		asked := dead(t, programs)
		p, group, unwanted := pod(iscsiDisk("disk", false)), int64(2000), atomic.Bool{}
		p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
		v.wanted = func(string) bool { return !unwanted.Load() }
		done := make(chan error, 1)
		go func() { done <- v.Ensure(t.Context(), p) }()
		until(t, done, asked)
		unwanted.Store(true)
		select {
		case err := <-done:
			if !errors.Is(err, errUnwanted) {
				t.Errorf("Ensure = %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("podd waits for a dead target")
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Error(err)
		}
		noSessions(t, filepath.Dir(v.dir))
	})
}

// A session is not ended as long as something uses a disk of it, that of another pod or of nobody podd knows.
func TestISCSIIsUsed(t *testing.T) {
	v, programs := openRemote(t)
	if err := v.Ensure(t.Context(), pod(iscsiDisk("disk", false))); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	const disks = "devices/host1/session1/target3:0:0/3:0:0:"
	at := filepath.Join(v.path("uid-1"), remotes, "disk")
	for name, c := range map[string]struct {
		shown map[string]string // in sysfs
		held  string
		want  string
	}{
		"mounted":      {shown: map[string]string{disks + "5/block/sdx/dev": root}, want: "disk /dev/sdx: sdx is mounted"},
		"other unit":   {shown: map[string]string{disks + "6/block/sdz/size": "1", "class/block/sdz/dev": root}, want: "disk /dev/sdz: sdz is mounted"},
		"long number":  {shown: map[string]string{disks + "4294967296/block/sdz/size": "1", "class/block/sdz/dev": root}, want: "disk /dev/sdz: sdz is mounted"},
		"partition":    {shown: map[string]string{disks + "5/block/sdx/sdx1/partition": "1", "class/block/sdx1/dev": root}, want: "disk /dev/sdx: sdx1 is mounted"},
		"volumes":      {shown: map[string]string{disks + "5/block/sdx/holders/dm-1/x": "", "class/block/dm-1/dm/uuid": "LVM-x"}, want: "disk /dev/sdx: sdx is held by dm-1"},
		"multipath":    {shown: map[string]string{disks + "5/block/sdx/holders/dm-1/x": "", "class/block/dm-1/dm/uuid": "mpath-x", "class/block/dm-1/dev": root}, want: "disk /dev/sdx: dm-1 is mounted"},
		"private":      {shown: map[string]string{"fs/ext4/sdx/state": ""}, want: "disk /dev/sdx: the file system on sdx is in use"},
		"btrfs":        {shown: map[string]string{"fs/btrfs/some-uuid/devices/sdx/size": ""}, want: "disk /dev/sdx: the file system on sdx is in use"},
		"program":      {held: unit{testIQN, 5}.String(), want: "disk /dev/sdx: a program that was run on it does not end"},
		"mounter":      {held: at, want: "what was to mount " + at + " does not end"},
		"written back": {held: "unmount " + v.path("uid-1"), want: "what was written is still on its way to the target"},
	} {
		var planted []string
		for file, text := range c.shown {
			path := filepath.Join(programs, "sys", file)
			first := path // what is not there yet
			for !there(filepath.Dir(first)) {
				first = filepath.Dir(first)
			}
			planted = append(planted, first)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if c.held != "" {
			v.programs.begin(c.held, 1)
		}
		if err := v.Remove(t.Context(), "uid-1"); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: Remove = %v, want %s", name, err, c.want)
		}
		if c.held != "" {
			v.programs.end(c.held)
		}
		for _, file := range planted {
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, call := range calls(t, programs) {
		if strings.HasSuffix(call, "--logout") {
			t.Errorf("run was %s", call)
		}
	}
	// Neither by a multipath device that nobody uses, nor by a partition.
	for file, text := range map[string]string{disks + "5/block/sdx/holders/dm-1/x": "", "class/block/dm-1/dm/uuid": "mpath-x", disks + "5/block/sdx/sdx1/partition": "1"} {
		path := filepath.Join(programs, "sys", file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// A session that podd did not come to begin is not podd's to end. One that iscsiadm may still come to begin is.
func TestISCSINotBegun(t *testing.T) {
	v, programs := openRemote(t)
	p, s := pod(iscsiDisk("disk", false)), session{IQN: testIQN, Portal: "10.0.0.1:3260", Iface: "default"}
	hangs, refuses, record := filepath.Join(programs, "hangs"), filepath.Join(programs, "refuses"), filepath.Join(v.sessions, s.file())
	refused := func(code string, stays bool) {
		t.Helper()
		if err := os.WriteFile(refuses, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := v.Ensure(t.Context(), p); err == nil || !strings.Contains(err.Error(), "exit status "+code) {
			t.Errorf("Ensure = %v", err)
		}
		if there(record) != stays {
			t.Errorf("after %s the record is there: %v", code, !stays)
		}
		if err := os.Remove(refuses); err != nil {
			t.Fatal(err)
		}
	}
	givenUp := func() {
		t.Helper()
		if err := os.WriteFile(hangs, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Ensure(ctx, p) }()
		pidOf(t, programs, done)
		if b, known, err := v.noted(s); err != nil || !known || b.Prepared {
			t.Errorf("noted is %+v, %v, while podd logs in", b, err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !there(record) {
			t.Errorf("Ensure = %v, the record is there: %v", err, there(record))
		}
		if nodes, err := filepath.Glob(filepath.Join(programs, "etc/nodes/*/*")); err != nil || len(nodes) > 0 {
			t.Errorf("iscsiadm still knows %v, %v", nodes, err)
		}
		if err := os.Remove(hangs); err != nil {
			t.Fatal(err)
		}
	}
	use := func() {
		t.Helper()
		beginSession(programs, s.Portal, s.Iface)
		if err := errors.Join(v.Ensure(t.Context(), p), v.Remove(t.Context(), "uid-1")); err != nil {
			t.Error(err)
		}
	}
	_, class := sessionDirs(programs, s.Portal)
	stays := func() {
		t.Helper()
		if use(); !there(class) {
			t.Error("somebody else's session was ended")
		}
		if err := os.RemoveAll(class); err != nil {
			t.Fatal(err)
		}
	}
	refused("24", false)
	refused("15", false)
	stays()
	others, undiscovered := filepath.Join(programs, "others"), filepath.Join(programs, "undiscovered")
	if err := os.WriteFile(others, nil, 0o600); err != nil { // somebody else is a moment faster
		t.Fatal(err)
	}
	refused("15", false)
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	stays()
	if err := os.WriteFile(undiscovered, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Ensure(t.Context(), p); err == nil || !strings.Contains(err.Error(), "discover targets") || there(record) {
		t.Errorf("Ensure = %v, the record is there: %v", err, there(record))
	}
	if err := os.Remove(undiscovered); err != nil {
		t.Fatal(err)
	}
	stays()
	// It comes while the target is asked, before podd's login or with it.
	for _, when := range []string{"during discovery", "before login", "with login"} {
		if err := os.WriteFile(filepath.Join(programs, when), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(calls(t, programs))
		if err := v.Ensure(t.Context(), p); err != nil || there(record) {
			t.Errorf("%s: Ensure = %v, the record is there: %v", when, err, there(record))
		}
		if logins := strings.Count(strings.Join(calls(t, programs)[before:], " "), "--login"); (logins == 0) != (when == "during discovery") {
			t.Errorf("%s: %d logins", when, logins)
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Error(err)
		}
		if err := errors.Join(os.Remove(filepath.Join(programs, when)), os.RemoveAll(class+"0")); err != nil {
			t.Fatal(err)
		}
		stays()
	}
	// It comes while there is no podd, which had not come to log in.
	if err := writeRecord(v.sessions, s.file(), begun{s, true}); err != nil {
		t.Fatal(err)
	}
	stays()
	if there(record) {
		t.Error("the record of what was not begun is left")
	}
	if err := writeRecord(v.sessions, s.file(), s); err != nil { // an older podd's
		t.Fatal(err)
	}
	use()
	noSessions(t, filepath.Dir(v.dir))
	givenUp()
	refused("24", false)
	givenUp()
	refused("15", true)
	use()
	noSessions(t, filepath.Dir(v.dir))
}

// pidOf waits until a stand-in that does not end has said who it is.
func pidOf(t *testing.T, programs string, done <-chan error) (pid int) {
	t.Helper()
	file := filepath.Join(programs, "pid")
	until(t, done, func() bool {
		pid, _ = strconv.Atoi(word(file))
		return pid != 0
	})
	_ = os.Remove(file)
	return pid
}

// What formats or checks a disk is never stopped, and never started beside one that has not ended: not when a step has lasted too
// long, not by another portal, not by another pod, nor by a podd that has come after.
func TestISCSISlow(t *testing.T) {
	v, programs := openRemote(t)
	slow := filepath.Join(programs, "slow")
	if err := os.Symlink("mount", filepath.Join(programs, "fsck")); err != nil {
		t.Fatal(err)
	}
	p, other := pod(iscsiDisk("disk", false)), pod(iscsiDisk("disk", false))
	other.UID, other.Spec.Volumes[0].ISCSI.TargetPortal = "uid-2", "10.0.0.2"
	for _, name := range []string{"mkfs.ext4", "fsck"} {
		if err := os.WriteFile(slow, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Ensure(ctx, p) }()
		pid := pidOf(t, programs, done)
		cancel()
		if err := <-done; !errors.Is(err, errChanging) {
			t.Errorf("%s: Ensure = %v", name, err)
		}
		next, _, err := remoteIn(filepath.Dir(v.dir)) // a podd that knows nothing
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []*Volumes{v, next} {
			for _, p := range []*v1.Pod{p, other} {
				if err := v.Ensure(t.Context(), p); !errors.Is(err, errChanging) {
					t.Errorf("%s: Ensure again = %v", name, err)
				}
			}
		}
		for _, v := range []*Volumes{v, next} {
			if err := v.Remove(t.Context(), "uid-1"); !errors.Is(err, errChanging) {
				t.Errorf("%s: Remove = %v", name, err)
			}
		}
		if unix.Kill(pid, 0) != nil {
			t.Errorf("%s was ended", name)
		}
		if err := os.Remove(slow); err != nil {
			t.Fatal(err)
		}
		for unix.Kill(pid, 0) == nil {
			time.Sleep(time.Millisecond)
		}
		run := 0
		for _, call := range calls(t, programs) {
			if strings.HasPrefix(call, name) {
				run++
			}
		}
		if run != 1 {
			t.Errorf("%s was run %d times", name, run)
		}
		v = next
	}
	if err := v.Ensure(t.Context(), p); err != nil {
		t.Error(err)
	}
	for _, uid := range []string{"uid-1", "uid-2"} {
		if err := v.Remove(t.Context(), uid); err != nil {
			t.Error(err)
		}
	}
	noSessions(t, filepath.Dir(v.dir))
}

// A check that has ended, but not what it has started, is still under way, whatever it has ended with.
func TestISCSIStillChecked(t *testing.T) {
	v, programs := openRemote(t)
	slow := filepath.Join(programs, "slow")
	const script = "#!/bin/sh\nwhile test -e ${0%/*}/slow; do sleep 0.01; done &\nexit 1\n"
	if err := errors.Join(os.WriteFile(slow, nil, 0o600), os.WriteFile(filepath.Join(programs, "fsck"), []byte(script), 0o700),
		os.WriteFile(filepath.Join(programs, "disk"), []byte("TYPE=ext4"), 0o600)); err != nil {
		t.Fatal(err)
	}
	v.programs.dirs += ":/usr/bin:/bin" // sleep
	p := pod(iscsiDisk("disk", false))
	for range 2 {
		if err := v.Ensure(t.Context(), p); !errors.Is(err, errChanging) {
			t.Errorf("Ensure = %v", err)
		}
	}
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	var err error
	for err = v.Ensure(t.Context(), p); errors.Is(err, errChanging); err = v.Ensure(t.Context(), p) {
	}
	if err := errors.Join(err, v.Remove(t.Context(), "uid-1")); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// An iscsiadm that changes its database is let come to its end when the pod is to go; after it nothing is begun.
func TestISCSIDatabase(t *testing.T) {
	v, programs := openRemote(t)
	hangs, slow := filepath.Join(programs, "hangs"), filepath.Join(programs, "slow-database")
	ctx, cancel := context.WithCancel(t.Context())
	begin := func(file string, p *v1.Pod) (pid int, done chan error) {
		t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		done = make(chan error, 1)
		go func() { done <- v.Ensure(ctx, p) }()
		return pidOf(t, programs, done), done
	}
	other := pod(iscsiDisk("disk", false))
	other.UID, other.Spec.Volumes[0].ISCSI.TargetPortal, other.Spec.Volumes[0].ISCSI.IQN = "uid-2", "10.0.0.2", "iqn.2001-04.com.example:other"
	_, killed := begin(hangs, other)
	pid, done := begin(slow, pod(iscsiDisk("disk", false)))
	before := session{IQN: testIQN, Portal: "10.0.0.1:3260", Iface: "default"}
	if b, known, err := v.noted(before); err != nil || !known || !b.Prepared {
		t.Errorf("noted is %+v, %v, before podd logs in", b, err)
	}
	cancel()
	if err := <-killed; !errors.Is(err, context.Canceled) { // the other one's iscsiadm, which is killed, and another that is run after it
		t.Errorf("Ensure of the other pod = %v", err)
	}
	if len(done) > 0 || unix.Kill(pid, 0) != nil || stopped(pid) {
		t.Error("iscsiadm was ended, or stands still")
	}
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure = %v", err)
	}
	if !there(filepath.Join(programs, "etc/send_targets/10.0.0.1,3260/st_config")) {
		t.Error("iscsiadm was ended")
	}
	const db = "iscsiadm -m discoverydb -t sendtargets -p 10.0.0.1:3260 -I default "
	got := slices.DeleteFunc(calls(t, programs), func(call string) bool { return !strings.Contains(call, "10.0.0.1:3260") })
	if want := []string{db + "-o new", db + "-o delete"}; !slices.Equal(got, want) {
		t.Errorf("run were %q, want %q", got, want)
	}
	if err := errors.Join(v.Remove(t.Context(), "uid-1"), v.Remove(t.Context(), "uid-2")); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// An iscsiadm is not killed while its database is locked, which would stay so: it stands still while that is looked at.
func TestISCSILocked(t *testing.T) {
	v, programs := openRemote(t)
	if err := os.WriteFile(filepath.Join(programs, "hangs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var pid, looks atomic.Int64
	v.locked = func() bool {
		if !stopped(int(pid.Load())) {
			t.Error("it goes on while the lock is looked at")
		}
		return looks.Add(1) < 3
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Ensure(ctx, pod(iscsiDisk("disk", false))) }()
	pid.Store(int64(pidOf(t, programs, done)))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || looks.Load() != 3 {
		t.Errorf("Ensure = %v, after %d looks", err, looks.Load())
	}
	if err := unix.Kill(int(pid.Load()), 0); err != unix.ESRCH {
		t.Errorf("iscsiadm is still there: %v", err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}

// A disk that a program which reads it does not let go of is not said to be formatted or checked.
func TestISCSIHeld(t *testing.T) {
	v, programs := openRemote(t)
	u := unit{testIQN, 5}
	v.programs.begin(u.String(), 1)
	defer v.programs.end(u.String())
	if err := v.change(t.Context(), u, filepath.Join(programs, "mkfs.ext4"), "/dev/sdx"); !errors.Is(err, errHeld) {
		t.Errorf("change = %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(v.sessions, "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An iscsiadm that does not end is ended with what waits for it, and what it has begun is taken away.
func TestISCSIHangs(t *testing.T) {
	v, programs := openRemote(t)
	if err := os.WriteFile(filepath.Join(programs, "hangs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unwanted := atomic.Bool{}
	v.wanted = func(string) bool { return !unwanted.Load() }
	done := make(chan error, 1)
	go func() { done <- v.Ensure(t.Context(), pod(initiatorDisk("disk"))) }()
	pid := pidOf(t, programs, done)
	unwanted.Store(true) // the pod was deleted
	if err := <-done; !errors.Is(err, errUnwanted) {
		t.Errorf("Ensure = %v", err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("iscsiadm is still there: %v", err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	noSessions(t, filepath.Dir(v.dir))
}
