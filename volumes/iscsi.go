package volumes

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
)

// iscsi is a disk of another host that a pod is to have, as a file system (pkg/volume/iscsi).
type iscsi struct {
	portals   []string // address:port, the first one first
	iqn       string
	lun       int32
	iface     string
	initiator string // name of its own, for which an iface is made
	fsType    string
	discovery bool // authenticates
	session   bool // authenticates
	secret    *v1.SecretReference
}

var (
	validPortal = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9.:_\[\]-]{0,255}$`)
	validIQN    = regexp.MustCompile(`^(iqn|eui|naa)\.[A-Za-z0-9.:_-]{1,219}$`)
	validIface  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:_-]{0,127}$`)
	validFSType = regexp.MustCompile(`^[a-z0-9][a-z0-9_]{0,31}$`)
)

// check fills in what is not said, and refuses what would not be a name in a path or to a program.
func (d *iscsi) check() error {
	for i, p := range d.portals { // pkg/volume/iscsi: portalMounter
		if !strings.Contains(p, ":") || strings.HasSuffix(p, "]") {
			d.portals[i] = p + ":3260"
		}
		if !validPortal.MatchString(d.portals[i]) {
			return fmt.Errorf("iscsi portal %q: is not an address", p)
		}
		if at, err := netip.ParseAddrPort(d.portals[i]); err == nil {
			d.portals[i] = at.String() // as the kernel writes it
		}
	}
	slices.Sort(d.portals[1:])
	d.portals = slices.Compact(d.portals)
	if d.iface == "" {
		d.iface = "default"
	}
	if d.fsType == "" {
		d.fsType = "ext4"
	}
	switch {
	case !validIQN.MatchString(d.iqn):
		return fmt.Errorf("iscsi target %q: is not the name of one", d.iqn)
	case !validIface.MatchString(d.iface):
		return fmt.Errorf("iscsiInterface %q: is not the name of one", d.iface)
	case d.initiator != "" && !validIQN.MatchString(d.initiator):
		return fmt.Errorf("initiatorName %q: is not the name of one", d.initiator)
	case !validFSType.MatchString(d.fsType):
		return fmt.Errorf("fsType %q: is not the name of one", d.fsType)
	case d.lun < 0 || d.lun > 255:
		return fmt.Errorf("lun %d: must be 0 to 255", d.lun)
	}
	return nil
}

// sessions are those by which the disk is reached, one for each portal. The iface is the same for all who ask for the same: two
// sessions would show one disk as two, and what is on it would be mounted twice.
func (d *iscsi) sessions() (all []session) {
	iface := d.iface
	if d.initiator != "" {
		sum := sha256.Sum256([]byte(strings.Join([]string{d.iqn, d.portals[0], d.iface, d.initiator}, "\x00")))
		iface = "podd-" + hex.EncodeToString(sum[:8])
	}
	for _, p := range d.portals {
		all = append(all, session{IQN: d.iqn, Portal: p, Iface: iface, Made: d.initiator != ""})
	}
	return all
}

// session is a session that podd has begun, or a pod uses. It is stored as it is.
type session struct {
	IQN, Portal, Iface string
	Made               bool `json:",omitempty"` // the iface was made for it
}

func (s session) same(o session) bool {
	return s.IQN == o.IQN && s.Portal == o.Portal && s.Iface == o.Iface
}

// begun is what is written down of a session that podd begins.
type begun struct {
	session
	Prepared bool `json:",omitempty"` // podd has not come to log in: a session that there is then is somebody else's
}

// args are those of iscsiadm for the session's target.
func (s session) args(more ...string) []string {
	return append([]string{"-m", "node", "-p", s.Portal, "-T", s.IQN, "-I", s.Iface}, more...)
}

// uses is the directory, below the pod's volumes, of what is written down of its iSCSI sessions.
const uses = ".iscsi"

// mountISCSI logs in to the target, unless somebody has, formats the disk if it is blank, and mounts it.
func (v *Volumes) mountISCSI(ctx context.Context, uid, name, path string, r remote) error {
	d := *r.iscsi
	if err := d.check(); err != nil {
		return err
	}
	iscsiadm, err := v.findISCSIAdm()
	if err != nil {
		return fmt.Errorf("iscsi %s: %w", d.iqn, err)
	}
	unlock, err := v.targets.lock(ctx, d.iqn)
	if err != nil {
		return fmt.Errorf("iscsi %s: %w", d.iqn, err)
	}
	defer unlock()
	if err := v.noteUses(uid, name, &d); err != nil {
		return fmt.Errorf("iscsi %s: %w", d.iqn, err)
	}
	killpoint.At("volumes.iscsi.noted")
	device, err := v.attach(ctx, iscsiadm, &d)
	if err != nil {
		return fmt.Errorf("iscsi %s: %w", d.iqn, err)
	}
	return v.formatAndMount(ctx, unit{d.iqn, d.lun}, device, path, d.fsType, r)
}

// noteUses writes down, before anything is done, which sessions a pod uses.
func (v *Volumes) noteUses(uid, name string, d *iscsi) error {
	return writeRecord(filepath.Join(v.path(uid), uses), name+".json", d.sessions())
}

// writeRecord writes what is to be known after podd, or the host, has died.
func writeRecord(dir, name string, what any) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := json.Marshal(what)
	if err != nil {
		return err
	}
	f, err := root.OpenFile(name+fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(name+fresh, name); err != nil {
		return err
	}
	in, err := root.Open(".")
	if err != nil {
		return err
	}
	defer in.Close()
	return in.Sync()
}

// attach is the path of the disk, looked for by each portal; one portal is enough.
func (v *Volumes) attach(ctx context.Context, iscsiadm string, d *iscsi) (string, error) {
	var errs []error
	var devices []string
	for _, s := range d.sessions() {
		device, err := v.attachBy(ctx, iscsiadm, d, s)
		if err != nil {
			errs = append(errs, fmt.Errorf("portal %s: %w", s.Portal, err))
			continue
		}
		devices = append(devices, device)
	}
	if len(devices) == 0 {
		return "", errors.Join(errs...)
	}
	devices, err := v.multipaths(ctx, d, devices)
	if err != nil {
		return "", err
	}
	return v.oneOf(d, devices)
}

// multipaths puts the multipath devices in the place of those that they stand for, before all others. If the disk has more than
// one portal, multipathd is given time to make one. It makes none of a disk that is mounted.
func (v *Volumes) multipaths(ctx context.Context, d *iscsi, found []string) ([]string, error) {
	mounted, err := v.mounted()
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(v.multipathLimit)
	defer wait.Stop()
	for over := len(d.portals) < 2 || slices.ContainsFunc(found, mounted) || !v.hasMultipathd(); ; {
		var made, single []string
		for _, device := range found {
			if through := v.multipath(device); through != device {
				made = append(made, through)
			} else {
				single = append(single, device)
			}
		}
		if len(made) > 0 || over {
			return append(made, single...), nil
		}
		select {
		case <-wait.C:
			over = true
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// hasMultipathd tells whether multipathd is at work.
func (v *Volumes) hasMultipathd() bool {
	pid := word(v.multipathd)
	if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
		return false
	}
	_, err := os.Stat(filepath.Join("/proc", pid))
	return err == nil
}

// oneOf chooses among the devices that are all the same disk: that which is mounted, for another pod, or the first one. If
// somebody has mounted the disk as another device than these it is an error.
func (v *Volumes) oneOf(d *iscsi, devices []string) (string, error) {
	mounted, err := v.mounted()
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(devices, mounted); i >= 0 {
		return devices[i], nil
	}
	for _, session := range v.sessionsOf(d.iqn) {
		name := disk(session, d.lun)
		if name == "" {
			continue
		}
		if device := v.multipath(filepath.Join(v.dev, name)); mounted(device) {
			return "", fmt.Errorf("lun %d: is mounted already, as %s, by another session", d.lun, device)
		}
	}
	return devices[0], nil
}

func (v *Volumes) attachBy(ctx context.Context, iscsiadm string, d *iscsi, s session) (string, error) {
	host, dir := v.findSession(s)
	if dir == "" {
		if err := v.login(ctx, iscsiadm, d, s); err != nil {
			return "", err
		}
		if host, dir = v.findSession(s); dir == "" {
			return "", errors.New("iscsiadm has logged in, but there is no session")
		}
	}
	// Only this unit is looked for (pkg/volume/iscsi: scanOneLun). The kernel asks the target, which may not answer.
	_, err := apart(ctx, func() (int, error) {
		return -1, os.WriteFile(filepath.Join(v.sys, "class/scsi_host", host, "scan"), []byte("0 0 "+strconv.Itoa(int(d.lun))), 0o200)
	})
	if err != nil {
		return "", fmt.Errorf("look for lun %d: %w", d.lun, err)
	}
	for wait := time.NewTimer(deviceLimit); ; {
		if disk := disk(dir, d.lun); disk != "" {
			return filepath.Join(v.dev, disk), nil
		}
		select {
		case <-wait.C:
			return "", fmt.Errorf("lun %d: there is no such disk", d.lun)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

const deviceLimit = 30 * time.Second // for a disk to appear (pkg/volume/iscsi: deviceDiscoveryTimeout)

// login begins a session. That podd does is written down before, so that it is ended by whoever comes last. If it comes to nothing
// that is taken back: a session that there is later is somebody else's, and so is one that there is now, if it has come before podd
// logged in. But one for which iscsiadm was not waited for may still come.
func (v *Volumes) login(ctx context.Context, iscsiadm string, d *iscsi, s session) (err error) {
	secret, err := v.chap(d)
	if err != nil {
		return err
	}
	run := func(args ...string) error {
		_, err := v.runISCSIAdm(ctx, iscsiadm, d.iqn, args...)
		return err
	}
	before, known, err := v.noted(s)
	if err != nil {
		return err
	}
	mayCome := known && !before.Prepared
	others := !mayCome // so that one that there is was not begun by podd
	note := func(prepared bool) error { return writeRecord(v.sessions, s.file(), begun{s, prepared}) }
	if err := note(others); err != nil {
		return err
	}
	defer func() {
		if _, dir := v.findSession(s); others || err != nil && dir == "" && !mayCome {
			err = errors.Join(err, os.Remove(filepath.Join(v.sessions, s.file())))
		}
	}()
	killpoint.At("volumes.iscsi.begun")
	if d.initiator != "" {
		if err := v.makeIface(ctx, iscsiadm, d, s.Iface); err != nil {
			return err
		}
	}
	db := []string{"-m", "discoverydb", "-t", "sendtargets", "-p", s.Portal, "-I", s.Iface}
	_ = run(append(db, "-o", "new")...) // it may be there
	if d.discovery {
		if err := errors.Join(run(append(db, "-o", "update", "-n", "discovery.sendtargets.auth.authmethod", "-v", "CHAP")...),
			v.setSecret("send_targets", s, "discovery.sendtargets.auth.", secret)); err != nil {
			return err
		}
	}
	if err := run(append(db, "--discover")...); err != nil {
		_ = run(append(db, "-o", "delete")...)
		return fmt.Errorf("discover targets: %w", err)
	}
	// Not all units of the target, and not by itself after a reboot.
	_ = run(s.args("-o", "update", "-n", "node.session.scan", "-v", "manual")...) // old ones do not know it
	err = run(s.args("-o", "update", "-n", "node.startup", "-v", "manual")...)
	if err == nil && d.session {
		err = errors.Join(run(s.args("-o", "update", "-n", "node.session.auth.authmethod", "-v", "CHAP")...),
			v.setSecret("nodes", s, "node.session.auth.", secret))
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		if _, dir := v.findSession(s); dir != "" { // it has come while the target was asked
			return nil
		}
		err = note(false)
	}
	if err == nil {
		var said string
		said, err = v.runISCSIAdm(ctx, iscsiadm, d.iqn, s.args("--login")...)
		// Of a session that there is an iscsiadm tells by its exit code, and one since 2011 by doing nothing. It is that of podd, if
		// there was one, or somebody else's. If both have logged in at once, the one cannot be told from the other.
		exit := (*exitError)(nil)
		under := errors.As(err, &exit) && exit.code == sessionExists || err == nil && !strings.Contains(said, "successful")
		mayCome = !ended(err) || under && mayCome
		others = others && (under || err == nil && len(v.findSessions(s)) > 1)
	}
	if err != nil {
		_ = run(s.args("-o", "delete")...)
		return fmt.Errorf("log in: %w", err)
	}
	killpoint.At("volumes.iscsi.in")
	return nil
}

// noted is what is written down of a session, if anything is.
func (v *Volumes) noted(s session) (b begun, known bool, err error) {
	text, err := os.ReadFile(filepath.Join(v.sessions, s.file()))
	if errors.Is(err, fs.ErrNotExist) {
		return b, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	return b, true, err
}

// file is the name of the record of a session that podd has begun.
func (s session) file() string {
	sum := sha256.Sum256([]byte(s.IQN + "\x00" + s.Portal + "\x00" + s.Iface))
	return hex.EncodeToString(sum[:16]) + ".json"
}

// chap is what the target is told of who podd is.
func (v *Volumes) chap(d *iscsi) (map[string][]byte, error) {
	if !d.discovery && !d.session {
		return nil, nil
	}
	if d.secret == nil || v.secrets == nil {
		return nil, errors.New("chap: no secretRef")
	}
	secret, err := v.secrets(d.secret.Namespace, d.secret.Name)
	if err != nil {
		return nil, &lacking{fmt.Errorf("chap: %w", err)}
	}
	return secret, nil
}

// setSecret writes names and passwords into the record that iscsiadm has made, where only root reads them: as arguments of
// iscsiadm all users would.
func (v *Volumes) setSecret(kind string, s session, prefix string, secret map[string][]byte) error {
	file, err := v.recordFile(kind, s)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("chap: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		key, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		secret := key == prefix+"username" || key == prefix+"password" || key == prefix+"username_in" || key == prefix+"password_in"
		if !secret && !strings.HasPrefix(line, "# END RECORD") {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	for _, key := range []string{"username", "password", "username_in", "password_in"} {
		value := string(secret[prefix+key])
		if strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("chap: %s%s: has more than one line", prefix, key)
		}
		if value != "" {
			lines = append(lines, prefix+key+" = "+value)
		}
	}
	text := strings.Join(append(lines, "# END RECORD"), "\n") + "\n"
	return writeFile(file, []byte(text))
}

// writeFile writes over what is there, as iscsiadm does: beside it a file would be another record.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("chap: %w", err)
	}
	if err = errors.Join(f.Chmod(0o600), f.Truncate(0)); err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("chap: %w", err)
	}
	return nil
}

// recordFile is where iscsiadm keeps what it knows: nodes/<iqn>/<address>,<port>,<group>/<iface>, or without the group a
// file; send_targets/<address>,<port>/st_config.
func (v *Volumes) recordFile(kind string, s session) (string, error) {
	at := strings.LastIndexByte(s.Portal, ':')
	portal := strings.Trim(s.Portal[:at], "[]") + "," + s.Portal[at+1:]
	for _, dir := range v.iscsiDirs {
		in, name := filepath.Join(dir, kind), "st_config"
		if kind == "nodes" {
			in, name = filepath.Join(in, s.IQN), s.Iface
		}
		entries, err := os.ReadDir(in)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Name() != portal && !strings.HasPrefix(e.Name(), portal+",") {
				continue
			}
			path := filepath.Join(in, e.Name())
			if e.IsDir() {
				path = filepath.Join(path, name)
			}
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("chap: what iscsiadm knows of %s is not below %s", s.Portal, strings.Join(v.iscsiDirs, " or "))
}

// makeIface makes an iface like the pod's, but with the initiator's name (pkg/volume/iscsi: cloneIface).
func (v *Volumes) makeIface(ctx context.Context, iscsiadm string, d *iscsi, name string) error {
	run := func(args ...string) (string, error) {
		return v.runISCSIAdm(ctx, iscsiadm, d.iqn, append([]string{"-m", "iface", "-I"}, args...)...)
	}
	shown, err := run(d.iface, "-o", "show")
	if err != nil {
		return fmt.Errorf("iscsiInterface %s: %w", d.iface, err)
	}
	_, err = run(name, "-o", "new")
	if exit := (*exitError)(nil); errors.As(err, &exit) && exit.code == sessionExists {
		return nil // by another portal, so it is as it has to be
	}
	if err != nil {
		return fmt.Errorf("make iface %s: %w", name, err)
	}
	set := [][2]string{}
	for line := range strings.Lines(shown) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if ok && strings.HasPrefix(key, "iface.") && value != "<empty>" && key != "iface.iscsi_ifacename" && key != "iface.initiatorname" {
			set = append(set, [2]string{key, value})
		}
	}
	for _, kv := range append(set, [2]string{"iface.initiatorname", d.initiator}) {
		if _, err := run(name, "-o", "update", "-n", kv[0], "-v", kv[1]); err != nil {
			return fmt.Errorf("make iface %s: %s: %w", name, kv[0], err)
		}
	}
	return nil
}

// sessionExists is iscsiadm's exit code for an iface that is there and in use, and for a session that there is, or is being begun
// (include/iscsi_err.h of open-iscsi).
const sessionExists = 15

// findSession is the SCSI host of a session and its directory in sysfs; empty if there is none.
func (v *Volumes) findSession(s session) (host, dir string) {
	all := v.findSessions(s)
	if len(all) == 0 {
		return "", ""
	}
	return filepath.Base(filepath.Dir(all[0])), all[0]
}

// findSessions are the directories in sysfs of a session: of more than one, if there were two logins at once.
func (v *Volumes) findSessions(s session) (all []string) {
	for class, device := range v.sessionsOf(s.IQN) {
		if name := word(filepath.Join(class, "ifacename")); name != "" && name != s.Iface {
			continue
		}
		connections, _ := filepath.Glob(filepath.Join(device, "connection*", "iscsi_connection", "connection*"))
		for _, c := range connections {
			address := word(filepath.Join(c, "persistent_address"))
			if strings.Contains(address, ":") {
				address = "[" + address + "]"
			}
			if address+":"+word(filepath.Join(c, "persistent_port")) == s.Portal {
				all = append(all, device)
				break
			}
		}
	}
	return all
}

// sessionsOf are the directories in sysfs of all sessions with a target: of the class, and of the device.
func (v *Volumes) sessionsOf(iqn string) iter.Seq2[string, string] {
	return func(yield func(class, device string) bool) {
		all, _ := os.ReadDir(filepath.Join(v.sys, "class/iscsi_session"))
		for _, e := range all {
			class := filepath.Join(v.sys, "class/iscsi_session", e.Name())
			if word(filepath.Join(class, "targetname")) != iqn {
				continue
			}
			device, err := filepath.EvalSymlinks(filepath.Join(class, "device"))
			if err == nil && !yield(class, device) {
				return
			}
		}
	}
}

func word(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}

// disk is the name of the disk that a session shows as a unit.
func disk(session string, lun int32) string {
	found, _ := filepath.Glob(filepath.Join(session, "target*", "*:*:*:"+strconv.Itoa(int(lun)), "block", "*"))
	if len(found) == 0 {
		return ""
	}
	return filepath.Base(found[0])
}

// multipath is the device that stands for all paths to a disk, if there is one.
func (v *Volumes) multipath(device string) string {
	holders, _ := os.ReadDir(filepath.Join(v.sys, "block", filepath.Base(device), "holders"))
	for _, h := range holders {
		if strings.HasPrefix(word(filepath.Join(v.sys, "block", h.Name(), "dm/uuid")), "mpath-") {
			return filepath.Join(v.dev, h.Name())
		}
	}
	return device
}

// detachISCSI ends the sessions of a pod whose volumes are unmounted: those that podd has begun, and no other pod uses. It is
// done again until what is written down of them is gone.
func (v *Volumes) detachISCSI(ctx context.Context, uid string) error {
	dir := filepath.Join(v.path(uid), uses)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		if err := v.endUses(ctx, uid, filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// endUses ends the sessions of one volume, and takes away what is written down of them before another pod of the target can look:
// of two that go at the same time the second would leave the session to the first.
func (v *Volumes) endUses(ctx context.Context, uid, file string) error {
	all, err := readUses(file)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		unlock, err := v.targets.lock(ctx, all[0].IQN)
		if err != nil {
			return fmt.Errorf("iscsi %s: %w", all[0].IQN, err)
		}
		defer unlock()
	}
	if at := filepath.Join(v.path(uid), remotes, strings.TrimSuffix(filepath.Base(file), ".json")); v.programs.busy(at) {
		return fmt.Errorf("what was to mount %s does not end", at)
	}
	if err := v.leave(ctx, uid, all); err != nil {
		return fmt.Errorf("iscsi %s: %w", all[0].IQN, err)
	}
	if len(all) > 0 && all[0].Made {
		if err := v.removeIface(ctx, uid, all[0]); err != nil {
			return fmt.Errorf("iscsi %s: %w", all[0].IQN, err)
		}
	}
	return os.Remove(file)
}

func readUses(file string) (all []session, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return all, nil
}

// leave ends those of a volume's sessions that are podd's to end: all of them or, if a disk of one is used, none. The target is
// locked.
func (v *Volumes) leave(ctx context.Context, uid string, all []session) error {
	if v.programs.busy("unmount " + v.path(uid)) {
		return errors.New("what was written is still on its way to the target")
	}
	var ending []session
	var dirs []string
	for _, s := range all {
		b, known, err := v.noted(s)
		if err != nil {
			return err
		}
		if !known {
			continue // somebody else's
		}
		used, err := v.usedByOthers(uid, s.same)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		found := v.findSessions(s)
		if b.Prepared && len(found) > 0 { // somebody else's as well
			if err := os.Remove(filepath.Join(v.sessions, s.file())); err != nil {
				return err
			}
			continue
		}
		ending, dirs = append(ending, s), append(dirs, found...)
	}
	if len(ending) == 0 {
		return nil
	}
	iscsiadm, err := v.findISCSIAdm()
	if err != nil {
		return err
	}
	unlock, err := v.unused(ctx, all[0].IQN, dirs)
	if err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	defer unlock()
	for _, s := range ending {
		if err := v.logout(ctx, iscsiadm, s); err != nil {
			return err
		}
	}
	return nil
}

// logout ends a session that nobody uses, and forgets it. The target is locked.
func (v *Volumes) logout(ctx context.Context, iscsiadm string, s session) error {
	// Whether it is done is seen at the session and at the record of the target: iscsiadm has many codes for what is gone.
	run := func(args []string) error {
		_, err := v.runISCSIAdm(ctx, iscsiadm, s.IQN, args...)
		return err
	}
	err := run(s.args("--logout"))
	if host, _ := v.findSession(s); host != "" || !ended(err) {
		return fmt.Errorf("log out: %w", cmp.Or(err, errors.New("the session is still there")))
	}
	err = run(s.args("-o", "delete"))
	if _, gone := v.recordFile("nodes", s); err != nil && (gone == nil || !ended(err)) {
		return fmt.Errorf("forget the target: %w", err)
	}
	killpoint.At("volumes.iscsi.out")
	return os.Remove(filepath.Join(v.sessions, s.file()))
}

// unused is an error if one of the disks of sessions that are to end together is used, that podd can see; they may have others than
// those they are for. If one is a path of a multipath device, no other target is left until unlock. The target is locked.
func (v *Volumes) unused(ctx context.Context, iqn string, sessions []string) (unlock func(), err error) {
	var disks []string
	for _, dir := range sessions {
		found, err := filepath.Glob(filepath.Join(dir, "target*", "*:*:*:*", "block", "*"))
		if err != nil {
			return nil, err
		}
		disks = append(disks, found...)
	}
	l := leaving{v: v}
	for _, disk := range disks {
		l.own = append(l.own, filepath.Base(disk))
	}
	unlock = func() {}
	if slices.ContainsFunc(l.own, v.isPath) {
		if unlock, err = v.targets.lock(ctx, everyTarget); err != nil {
			return nil, err
		}
		l.locked = true
	}
	if err := l.unused(ctx, iqn, disks); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// isPath tells whether a multipath device stands for a disk.
func (v *Volumes) isPath(disk string) bool {
	in := filepath.Join(v.sys, "class/block")
	holders, _ := os.ReadDir(filepath.Join(in, disk, "holders"))
	return slices.ContainsFunc(holders, func(h fs.DirEntry) bool {
		return strings.HasPrefix(word(filepath.Join(in, h.Name(), "dm/uuid")), "mpath-")
	})
}

// everyTarget is the lock that is held, besides that of the target, while sessions end because a multipath device has other paths,
// which may be another target's. It is no name of one.
const everyTarget = ""

// leaving is a look at disks that are to go.
type leaving struct {
	v       *Volumes
	own     []string // the names of all of them
	locked  bool     // nobody else's go meanwhile
	mounted func(device string) bool
}

func (l *leaving) unused(ctx context.Context, iqn string, disks []string) (err error) {
	v := l.v
	if l.mounted, err = v.mounted(); err != nil {
		return err
	}
	for _, disk := range disks {
		address, device := filepath.Base(filepath.Dir(filepath.Dir(disk))), filepath.Join(v.dev, filepath.Base(disk))
		// A number of more bits no pod can name, so podd has run nothing on such a disk.
		if lun, err := strconv.ParseInt(address[strings.LastIndexByte(address, ':')+1:], 10, 32); err == nil {
			u := unit{iqn, int32(lun)}
			if err := v.idle(u); err != nil {
				return fmt.Errorf("disk %s: %w", device, err)
			}
			if v.programs.busy(u.String()) {
				return fmt.Errorf("disk %s: a program that was run on it %w", device, errHeld)
			}
		}
		if err := l.unheld(ctx, filepath.Base(disk)); err != nil {
			return fmt.Errorf("disk %s: %w", device, err)
		}
	}
	return nil
}

// unheld is nil if a disk is not used, nor one of its partitions, nor a multipath device that stands for it and needs it.
func (l *leaving) unheld(ctx context.Context, name string) error {
	in := filepath.Join(l.v.sys, "class/block", name)
	if l.mounted(filepath.Join(l.v.dev, name)) {
		return fmt.Errorf("%s is mounted", name)
	}
	// A file system that is mounted where podd does not see it, or is still being written back, is shown all the same.
	for _, shown := range []string{"ext4", "xfs", "f2fs", "btrfs/*/devices"} {
		if found, err := filepath.Glob(filepath.Join(l.v.sys, "fs", shown, name)); err != nil || len(found) > 0 {
			return fmt.Errorf("the file system on %s is in use", name)
		}
	}
	holders, err := os.ReadDir(filepath.Join(in, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, h := range holders {
		uuid := word(filepath.Join(l.v.sys, "class/block", h.Name(), "dm/uuid"))
		if !strings.Contains(uuid, "mpath-") { // or part1-mpath-
			return fmt.Errorf("%s is held by %s", name, h.Name())
		}
		if strings.HasPrefix(uuid, "mpath-") && l.locked && l.hasOtherPath(ctx, h.Name(), uuid) {
			continue
		}
		if err := l.unheld(ctx, h.Name()); err != nil {
			return err
		}
	}
	partitions, err := filepath.Glob(filepath.Join(in, "*", "partition"))
	if err != nil {
		return err
	}
	for _, p := range partitions {
		if err := l.unheld(ctx, filepath.Base(filepath.Dir(p))); err != nil {
			return err
		}
	}
	return nil
}

// hasOtherPath tells whether a multipath device has a path that works besides the disks that are to go: one that it would use by
// itself, not only one whose disk is there, which a path that was failed for what the target says of it has as well. Without
// dmsetup nothing is known of that.
func (l *leaving) hasOtherPath(ctx context.Context, name, uuid string) bool {
	dmsetup, err := l.v.programs.find("dmsetup", "dmsetup")
	if err != nil {
		return false
	}
	ctx, done := context.WithTimeout(ctx, dmsetupLimit)
	defer done()
	said, err := l.v.programs.run(ctx, "multipath "+name, false, dmsetup, "status", "-u", uuid)
	if err != nil {
		return false
	}
	active := activePaths(said)
	paths, _ := os.ReadDir(filepath.Join(l.v.sys, "class/block", name, "slaves"))
	return slices.ContainsFunc(paths, func(p fs.DirEntry) bool {
		disk := filepath.Join(l.v.sys, "class/block", p.Name())
		return !slices.Contains(l.own, p.Name()) && word(filepath.Join(disk, "device/state")) == "running" &&
			slices.Contains(active, word(filepath.Join(disk, "dev")))
	})
}

const dmsetupLimit = 10 * time.Second

// activePaths are the numbers (8:16) of the disks that the status of one multipath device calls active, in groups that are not
// bypassed; none if it is not clear (drivers/md/dm-mpath.c: multipath_status).
func activePaths(status string) (active []string) {
	words := strings.Fields(status)
	next := func() (w string) {
		if len(words) > 0 {
			w, words = words[0], words[1:]
		}
		return w
	}
	sure := true
	number := func() int {
		n, err := strconv.ParseUint(next(), 10, 16)
		sure = sure && err == nil && int(n) <= len(words)
		return int(n)
	}
	skip := func(n int) { words = words[min(n, len(words)):] }
	skip(2) // where it is mapped to
	sure = next() == "multipath"
	skip(number()) // features
	skip(number()) // of the hardware's handler
	groups := number()
	skip(1) // the next group
	for range groups {
		state := next()
		sure = sure && (state == "A" || state == "E" || state == "D")
		skip(number())
		paths, more := number(), number()
		for range paths {
			path, is := next(), next()
			skip(1 + more)
			sure = sure && (is == "A" || is == "F")
			if is == "A" && state != "D" {
				active = append(active, path)
			}
		}
	}
	if !sure || len(words) > 0 {
		return nil
	}
	return active
}

// ended tells whether a program has come to its end, good or bad.
func ended(err error) bool {
	var exit *exitError
	return err == nil || errors.As(err, &exit)
}

// removeIface takes away what makeIface has made for a session, and nobody else has of his. The target is locked.
func (v *Volumes) removeIface(ctx context.Context, uid string, s session) error {
	used, err := v.usedByOthers(uid, func(o session) bool { return o.Iface == s.Iface })
	if err != nil || used {
		return err
	}
	iscsiadm, err := v.findISCSIAdm()
	if err != nil {
		return err
	}
	for _, op := range []string{"show", "delete"} {
		_, err := v.runISCSIAdm(ctx, iscsiadm, s.IQN, "-m", "iface", "-I", s.Iface, "-o", op)
		if op == "show" && err != nil && ended(err) {
			return nil // it is not there
		}
		if err != nil {
			return fmt.Errorf("%s iface %s: %w", op, s.Iface, err)
		}
	}
	return nil
}

const databaseLimit = 40 * time.Second // iscsiadm waits 30 s for the lock on its database

// runISCSIAdm runs iscsiadm for a target. If it is about its database alone it is not ended with ctx, and is run also when ctx has
// ended, to take away what is there. None is killed while its database is locked: that would stay so, for everybody.
func (v *Volumes) runISCSIAdm(ctx context.Context, iscsiadm, iqn string, args ...string) (string, error) {
	if slices.Contains(args, "-o") {
		database, done := context.WithTimeout(context.WithoutCancel(ctx), databaseLimit)
		defer done()
		ctx = database
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return v.programs.runAs(ctx, way{most: 1, locked: v.locked}, "iscsi "+iqn, iscsiadm, args...)
}

// iscsiLocked tells whether an iscsiadm has its database locked (usr/idbm.c: idbm_lock): a link, which only the one that has made it
// takes away.
func iscsiLocked() bool {
	for _, dir := range []string{"/run/lock/iscsi", "/var/lock/iscsi"} {
		if _, err := os.Lstat(filepath.Join(dir, "lock.write")); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

func (v *Volumes) findISCSIAdm() (string, error) {
	return v.programs.find("open-iscsi (Debian, Ubuntu, SUSE) or iscsi-initiator-utils (Fedora, RHEL)", "iscsiadm")
}

// usedByOthers tells whether another pod uses a session that is meant.
func (v *Volumes) usedByOthers(uid string, meant func(session) bool) (bool, error) {
	uids, err := v.Known()
	if err != nil {
		return false, err
	}
	for _, other := range uids {
		files, err := os.ReadDir(filepath.Join(v.path(other), uses))
		if other == uid || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".json") {
				continue
			}
			all, err := readUses(filepath.Join(v.path(other), uses, f.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return false, err
			}
			if slices.ContainsFunc(all, meant) {
				return true, nil
			}
		}
	}
	return false, nil
}
