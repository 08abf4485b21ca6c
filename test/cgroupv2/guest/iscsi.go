package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	targetName = "iqn.2026-01.test.guest:disks"
	portal     = "127.0.0.1:3260"
	lio        = "/sys/kernel/config/target" // where the kernel's own iSCSI target is told what to be
	tpg        = lio + "/iscsi/" + targetName + "/tpgt_1"
	database   = "/etc/iscsi" // of iscsiadm
)

// readyISCSI makes a target of two disks that this machine itself serves, and starts the daemon by which it uses them.
func readyISCSI() error {
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	if err := errors.Join(write(filepath.Join(database, "initiatorname.iscsi"), "InitiatorName=iqn.2026-01.test.guest:host\n"),
		appendTo(filepath.Join(database, "iscsid.conf"), "\nnode.session.timeo.replacement_timeout = 10\n")); err != nil {
		return err
	}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil {
		return fmt.Errorf("mount configfs: %w", err)
	}
	if err := serveISCSI(); err != nil {
		return fmt.Errorf("serve iscsi: %w", err)
	}
	if _, err := startIn("/services/iscsid", "/run/iscsid.log", "/bin/iscsid", "-f"); err != nil {
		return err
	}
	return soon(func() error {
		b, err := os.ReadFile("/proc/net/unix")
		if err == nil && !strings.Contains(string(b), "@ISCSIADM_ABSTRACT_NAMESPACE") {
			said, _ := os.ReadFile("/run/iscsid.log")
			err = fmt.Errorf("iscsid does not listen: %s", said)
		}
		return err
	})
}

// serveISCSI has the kernel serve two disks, which are files.
func serveISCSI() error {
	for _, dir := range []string{lio + "/iscsi", filepath.Dir(tpg), tpg} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, lun := range []string{"0", "1"} {
		file, disk := "/run/disk"+lun, lio+"/core/fileio_0/disk"+lun
		size := 32 << 20
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(size)),
			os.MkdirAll(disk, 0o755),
			write(disk+"/control", fmt.Sprintf("fd_dev_name=%s,fd_dev_size=%d,fd_buffered_io=1", file, size)),
			write(disk+"/wwn/vpd_unit_serial", "disk"+lun), write(disk+"/enable", "1"),
			os.Mkdir(tpg+"/lun/lun_"+lun, 0o755), os.Symlink(disk, tpg+"/lun/lun_"+lun+"/disk")); err != nil {
			return err
		}
	}
	// Everybody may log in, and write.
	return errors.Join(os.Mkdir(tpg+"/np/"+portal, 0o755), write(tpg+"/attrib/authentication", "0"), write(tpg+"/attrib/generate_node_acls", "1"),
		write(tpg+"/attrib/cache_dynamic_acls", "1"), write(tpg+"/attrib/demo_mode_write_protect", "0"), write(tpg+"/enable", "1"))
}

func write(file, text string) error { return os.WriteFile(file, []byte(text), 0o600) }

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// soon does something until it succeeds, or it is too late.
func soon(f func() error) error {
	for deadline := time.Now().Add(limit / 3); ; time.Sleep(50 * time.Millisecond) {
		if err := f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// disk is a volume of the target.
func disk(name string, lun int, more object) object {
	source := object{"targetPortal": "127.0.0.1", "iqn": targetName, "lun": lun, "fsType": "ext4"}
	for k, v := range more {
		source[k] = v
	}
	return object{"name": name, "iscsi": source}
}

// using is a pod of one container that has each of the disks as a directory of its name.
func using(script string, disks ...object) object {
	var mounts []object
	for _, v := range disks {
		mounts = append(mounts, object{"name": v["name"], "mountPath": "/" + v["name"].(string)})
	}
	s := spec(container("app", "set -eux\n"+script, object{"volumeMounts": mounts}))
	s["volumes"] = disks
	return s
}

// completes runs a pod to its end, which has to be good, and removes it.
func (d *daemon) completes(name string, s object) error {
	code, reason, err := d.finish(name, s)
	if err == nil && code != 0 {
		err = fmt.Errorf("pod %s ended with %d (%s); its log tells where", name, code, reason)
		d.tell()
	}
	return errors.Join(err, d.remove(name))
}

// iscsi is pods with disks of a real target: a blank disk is formatted, the next pod has what the last has written, two disks
// and two pods share one session, and the last pod ends it.
func (d *daemon) iscsi() error {
	if err := readyISCSI(); err != nil {
		return err
	}
	if err := errors.Join(d.completes("iscsi", using("grep '^/dev/sd.* /v ext4 rw,' /proc/mounts\necho mine >/v/mine", disk("v", 0, nil))), noSession()); err != nil {
		return err
	}
	both := using("test \"$(cat /v/mine)\" = mine\ntest $(stat -c %g /v/mine) = 2000\necho more >/w/more\n"+stay, disk("v", 0, nil), disk("w", 1, nil))
	both["securityContext"] = object{"fsGroup": 2000}
	if _, err := d.run("both", both); err != nil {
		return err
	}
	again := using("until test -s /w/more; do sleep 0.1; done\n"+stay, disk("w", 1, nil))
	if _, err := d.run("again", again); err != nil {
		return err
	}
	if err := errors.Join(sessions(1), d.remove("both"), sessions(1), d.remove("again"), noSession()); err != nil {
		return err
	}
	reads := using("test \"$(cat /v/mine)$(cat /w/more)\" = minemore\nif touch /v/x; then exit 3; fi", disk("v", 0, object{"readOnly": true}), disk("w", 1, nil))
	return errors.Join(d.completes("reads", reads), noSession())
}

// portals is a pod that has one disk by two portals of the target, each a session, and one whose disk somebody else has logged in
// to: podd ends the first two sessions, and leaves the last.
func (d *daemon) portals() error {
	const second = tpg + "/np/[::1]:3260"
	if err := os.Mkdir(second, 0o755); err != nil {
		return fmt.Errorf("serve by another portal: %w", err)
	}
	reads := func(more object) object { return using("test \"$(cat /v/mine)\" = mine\n"+stay, disk("v", 0, more)) }
	_, err := d.run("paths", reads(object{"portals": []string{"[::1]"}}))
	if err = errors.Join(err, sessions(2), d.remove("paths"), noSession(), os.Remove(second)); err != nil {
		return err
	}
	target := []string{"-m", "node", "-T", targetName, "-p", portal}
	if err := errors.Join(iscsiadm("-m", "discovery", "-t", "sendtargets", "-p", portal), iscsiadm(append(target, "--login")...)); err != nil {
		return err
	}
	_, err = d.run("other", reads(nil))
	err = errors.Join(err, sessions(1), d.remove("other"), unmounted(), sessions(1))
	return errors.Join(err, iscsiadm(append(target, "--logout")...), iscsiadm(append(target, "-o", "delete")...), noSession())
}

func iscsiadm(args ...string) error {
	out, err := exec.Command("/bin/iscsiadm", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("iscsiadm %s: %w: %s", args, err, out)
	}
	return err
}

// unmounted waits until no disk of the target is mounted.
func unmounted() error {
	return soon(func() error {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), " /dev/sd") {
			err = fmt.Errorf("a disk is still mounted: %s", mounts)
		}
		return err
	})
}

// sessions compares how many there are.
func sessions(want int) error {
	all, err := os.ReadDir("/sys/class/iscsi_session")
	if err == nil && len(all) != want {
		err = fmt.Errorf("there are %d sessions, want %d", len(all), want)
	}
	return err
}

// noSession waits until this machine has no session with the target, no disk of it, and nothing written down of it but the
// discovery, and hears the same from iscsiadm: a pod that had ended is gone from the API before it is gone from the host.
func noSession() error {
	err := errors.Join(unmounted(), soon(func() error {
		disks, err := filepath.Glob("/sys/block/sd*")
		if len(disks) > 0 {
			err = fmt.Errorf("disks are still there: %v", disks)
		}
		return errors.Join(err, sessions(0), unknown("nodes"), unknown("ifaces"))
	}))
	said, failed := exec.Command("/bin/iscsiadm", "-m", "session").CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(failed, &exit) || exit.ExitCode() != 21 { // there are none
		err = errors.Join(err, fmt.Errorf("iscsiadm says: %v: %s", failed, said))
	}
	return err
}

// unknown tells of records of a kind that iscsiadm has.
func unknown(kind string) error {
	var found []string
	err := filepath.WalkDir(filepath.Join(database, kind), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("still written down: %v", found))
	}
	return err
}

// chap is a pod that has to show who it is to a target which shows who it is, under a name of its own; with a wrong password
// it has no disk, and is told why.
func (d *daemon) chap() error {
	keys := []string{"userid", "password", "userid_mutual", "password_mutual"}
	values := []string{"user", "password-of-user", "target", "password-of-target"}
	auth := lio + "/iscsi/discovery_auth"
	for i, key := range keys {
		if err := errors.Join(write(tpg+"/auth/"+key, values[i]), write(auth+"/"+key, values[i])); err != nil {
			return fmt.Errorf("have the target ask: %w", err)
		}
	}
	if err := errors.Join(write(auth+"/enforce_discovery_auth", "1"), write(tpg+"/attrib/authentication", "1")); err != nil {
		return fmt.Errorf("have the target ask: %w", err)
	}
	defer func() {
		_ = errors.Join(write(auth+"/enforce_discovery_auth", "0"), write(tpg+"/attrib/authentication", "0"))
	}()
	for _, c := range []struct{ name, password string }{{"wrong", "password-of-other"}, {"right", values[1]}} {
		data := map[string]string{}
		for _, prefix := range []string{"discovery.sendtargets.auth.", "node.session.auth."} {
			data[prefix+"username"], data[prefix+"password"] = values[0], values[1]
			data[prefix+"username_in"], data[prefix+"password_in"] = values[2], values[3]
		}
		data["node.session.auth.password"] = c.password
		if err := d.post("/api/v1/namespaces/default/secrets", object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": c.name},
			"type": "kubernetes.io/iscsi-chap", "stringData": data}); err != nil {
			return err
		}
	}
	shows := func(secret string) object {
		return disk("v", 0, object{"chapAuthDiscovery": true, "chapAuthSession": true, "secretRef": object{"name": secret}, "initiatorName": "iqn.2026-01.test.guest:pod"})
	}
	if err := d.create("wrong", using("true", shows("wrong"))); err != nil {
		return err
	}
	err := soon(func() error { return d.told("wrong", "FailedMount", "log in: iscsiadm: ", "authorization failure") })
	if err = errors.Join(err, d.remove("wrong"), noSession()); err != nil {
		return err
	}
	if _, err := d.run("right", using("test \"$(cat /v/mine)\" = mine\n"+stay, shows("right"))); err != nil {
		return err
	}
	names, err := filepath.Glob("/sys/class/iscsi_session/session*/initiatorname")
	if err == nil && len(names) == 1 {
		var b []byte
		if b, err = os.ReadFile(names[0]); err == nil && strings.TrimSpace(string(b)) != "iqn.2026-01.test.guest:pod" {
			err = fmt.Errorf("the session's initiator is %s", b)
		}
	}
	return errors.Join(err, d.remove("right"), noSession())
}

// told tells whether a pod has an event of that reason with these words.
func (d *daemon) told(pod, reason string, words ...string) error {
	b, err := d.call(http.MethodGet, "/api/v1/namespaces/default/events", nil)
	var events struct {
		Items []struct {
			Reason, Message string
			InvolvedObject  struct{ Name string }
		}
	}
	if err == nil {
		err = json.Unmarshal(b, &events)
	}
	if err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == pod && e.Reason == reason && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.Message, w) }) {
			return nil
		}
	}
	return fmt.Errorf("pod %s has no event %s with %q", pod, reason, words)
}

// killedISCSI is a podd that dies while it logs in, while a pod has a disk, and while it logs out: the next one has the pod run,
// and ends the session all the same.
func (d *daemon) killedISCSI() error {
	for _, at := range []string{"volumes.iscsi.begun", "volumes.iscsi.in", "volumes.iscsi.out"} {
		if err := d.killedAt(at); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return noSession()
}

func (d *daemon) killedAt(at string) error {
	if err := d.restart(at); err != nil {
		return err
	}
	if err := d.create("killed", using("test \"$(cat /v/mine)\" = mine\n"+stay, disk("v", 0, nil))); err != nil {
		return err
	}
	if at == "volumes.iscsi.out" {
		p, err := d.await("killed", "running", running)
		if err != nil {
			return err
		}
		if _, err := d.call(http.MethodDelete, pods+"/killed", nil); err != nil {
			return err
		}
		<-d.exit
		return errors.Join(d.restart(""), d.gone(p), noSession())
	}
	<-d.exit
	if err := d.restart(""); err != nil {
		return err
	}
	if _, err := d.await("killed", "running", running); err != nil {
		return err
	}
	// It dies once more, while the pod runs.
	return errors.Join(d.restart(""), sessions(1), d.remove("killed"), noSession())
}

// deadISCSI is a pod that writes to a target that dies: it is taken away, with its session, and other pods do not notice. When the
// target is back the next pod has what was written before.
func (d *daemon) deadISCSI() error {
	if _, err := d.run("writer", using("while :; do echo line >>/v/log; sync; done", disk("v", 0, nil))); err != nil {
		return err
	}
	began := time.Now()
	err := soon(func() error {
		st, err := os.Stat("/run/disk0")
		if err == nil && !st.ModTime().After(began) {
			err = errors.New("the pod writes nothing")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := write(tpg+"/enable", "0"); err != nil {
		return fmt.Errorf("end the target: %w", err)
	}
	_, err = d.run("beside", spec(container("app", stay, nil)))
	err = errors.Join(err, d.remove("beside"), d.remove("writer"), noSession(), write(tpg+"/enable", "1"))
	if err != nil {
		return err
	}
	return errors.Join(d.completes("after", using("test \"$(cat /v/mine)\" = mine\ntest -e /v/log", disk("v", 0, nil))), noSession())
}
