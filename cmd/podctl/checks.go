package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"podd/api/credentials"
	"podd/runtime/handler"
)

// fine is the result of a check that found nothing wrong.
func fine(name, format string, args ...any) result {
	return result{Name: name, Level: ok, Detail: fmt.Sprintf(format, args...)}
}

func kernel() result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return result{"kernel", bad, err.Error(), "podd needs Linux."}
	}
	release := unix.ByteSliceToString(u.Release[:])
	if major, minor := kernelVersion(release); major < 5 || major == 5 && minor < 10 {
		return result{"kernel", bad, "Linux " + release, "podd needs Linux 5.10 or later."}
	}
	return fine("kernel", "Linux %s, %s", release, unix.ByteSliceToString(u.Machine[:]))
}

func kernelVersion(release string) (major, minor int) {
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor) // what cannot be read is 0, which is too old
	return major, minor
}

func namespaces() result {
	var missing []string
	for _, ns := range []string{"net", "mnt", "pid", "ipc", "uts", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return result{"namespaces", bad, "missing: " + strings.Join(missing, ", "), "Use a kernel that has them (CONFIG_NAMESPACES)."}
	}
	if n, err := number("/proc/sys/user/max_user_namespaces"); err == nil && n == 0 {
		return result{"namespaces", warn, "user namespaces are switched off", "Pods with hostUsers: false need them: sysctl -w user.max_user_namespaces=15000"}
	}
	return fine("namespaces", "all kinds")
}

func overlay() result {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return result{"overlayfs", bad, err.Error(), "Mount /proc."}
	}
	if slices.Contains(strings.Fields(string(text)), "overlay") || loadable("overlay") {
		return fine("overlayfs", "there")
	}
	return result{"overlayfs", bad, "the kernel does not know it", "Load the module overlay, or use a kernel that has it: images are mounted with it."}
}

func seccomp() result {
	text, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(text), "errno") {
		return result{"seccomp", bad, "the kernel has no seccomp filters", "Use a kernel with CONFIG_SECCOMP_FILTER: RuntimeDefault profiles need it."}
	}
	return fine("seccomp", "there")
}

// cgroups looks for the controllers that podd sets limits with, in both hierarchies.
func cgroups(mountinfo string) result {
	file, err := os.Open(mountinfo)
	if err != nil {
		return result{"cgroups", bad, err.Error(), "Mount /proc."}
	}
	defer file.Close()
	have, versions := map[string]bool{}, map[string]bool{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			text, _ := os.ReadFile(filepath.Join(mount[4], "cgroup.controllers")) // empty where v1 has them all
			for _, c := range strings.Fields(string(text)) {
				have[c], versions["v2"] = true, true
			}
		case "cgroup":
			for c := range strings.SplitSeq(kind[2], ",") {
				have[c], versions["v1"] = true, true
			}
		}
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return result{"cgroups", bad, "no controller for " + strings.Join(missing, ", "), "Mount the cgroup hierarchies (systemd does), and do not switch controllers off on the kernel's command line."}
	}
	if !have["cpuset"] {
		return result{"cgroups", warn, "no controller cpuset", "Containers cannot be kept to some of the processors."}
	}
	return fine("cgroups", "%s, with cpu, memory, pids, cpuset", strings.Join(slices.Sorted(maps.Keys(versions)), " and "))
}

// modules looks for a part of the kernel that may be built in, loaded, or a module that can be loaded. symbol is a
// function of it, which the kernel lists if it is built in.
func modules(module, symbol, name, what string) result {
	if _, err := os.Stat("/sys/module/" + module); err == nil || loadable(module) {
		return fine(name, "there")
	}
	file, err := os.Open("/proc/kallsyms")
	if err != nil {
		return result{name, warn, "it cannot be told whether the kernel has " + module, what + " need it: see the kernel's configuration."}
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasSuffix(lines.Text(), " "+symbol) {
			return fine(name, "built into the kernel")
		}
	}
	return result{name, bad, "the kernel has no " + module, "Install or load the module " + module + ": " + what + " need it."}
}

// loadable tells whether the running kernel has a module of this name, built in or not.
func loadable(module string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		text, err := os.ReadFile(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), list))
		if err == nil && strings.Contains(string(text), "/"+module+".ko") {
			return true
		}
	}
	return false
}

// forwarding looks at what carries packets between pods and the world.
func forwarding(at place) result {
	on, err := number("/proc/sys/net/ipv4/ip_forward")
	_, bridge := os.Stat("/sys/class/net/" + at.Bridge)
	switch {
	case err != nil:
		return result{"ip forward", bad, err.Error(), "podd needs IPv4."}
	case on == 1 && bridge == nil:
		return fine("ip forward", "on; bridge %s is there", at.Bridge)
	case on == 1:
		return fine("ip forward", "on; bridge %s comes with the first pod", at.Bridge)
	case bridge == nil:
		return result{"ip forward", bad, "off, while bridge " + at.Bridge + " is there", "Something has switched it off, and pods reach nothing: sysctl -w net.ipv4.ip_forward=1"}
	}
	return result{"ip forward", warn, "off", "podd switches it on with the first pod. See that nothing in /etc/sysctl.d switches it off again."}
}

func plugins(bundle string) result {
	var missing []string
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap", "firewall", "bandwidth", "tuning"} {
		if !executable(filepath.Join(bundle, name)) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return result{"CNI plugins", bad, fmt.Sprintf("missing in %s: %s", bundle, strings.Join(missing, ", ")), "Install podd's node bundle (make install), or say where it is: --bundle"}
	}
	return fine("CNI plugins", "%s", bundle)
}

// runtimes looks for the programs of runtime handlers where podd's own containerd does: shims that are named by their type
// in the bundle and in PATH.
func runtimes(handlers map[string]string, bundle string) result {
	var there, missing []string
	for _, name := range slices.Sorted(maps.Keys(handlers)) {
		h, err := handler.Parse(handlers[name])
		if err == nil {
			_, err = h.Find(bundle + ":" + os.Getenv("PATH"))
		}
		if one := name + "=" + handlers[name]; err == nil {
			there = append(there, one)
		} else {
			missing = append(missing, one)
		}
	}
	if len(missing) > 0 {
		return result{"runtimes", bad, "no program: " + strings.Join(missing, ", "), "Install it, or start podd with another --runtime-handler: pods of its RuntimeClasses cannot start."}
	}
	return fine("runtimes", "%s", strings.Join(there, ", "))
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0
}

// binaries asks containerd and runc of the bundle what they are.
func binaries(ctx context.Context, at place) result {
	names := []string{"runc", "containerd"}
	if at.Containerd != "" {
		names = nil // that containerd has its own
	}
	var versions []string
	for _, name := range names {
		path := filepath.Join(at.Bundle, name)
		limit, stop := context.WithTimeout(ctx, 5*time.Second)
		out, err := exec.CommandContext(limit, path, "--version").Output()
		stop()
		if err != nil {
			return result{"binaries", bad, fmt.Sprintf("%s: %v", path, err), "Install podd's node bundle (make install), or say where it is: --bundle"}
		}
		first, _, _ := strings.Cut(string(out), "\n")
		words := strings.Fields(first)
		version := first
		if len(words) >= 3 {
			version = words[2]
		}
		versions = append(versions, name+" "+version)
	}
	if len(names) == 0 {
		return fine("binaries", "those of the containerd at %s", at.Containerd)
	}
	return fine("binaries", "%s", strings.Join(versions, ", "))
}

// containerd looks whether it takes connections.
func containerd(at place) result {
	path := at.Containerd
	if path == "" {
		path = filepath.Join(at.State, "containerd", "containerd.sock")
	}
	conn, err := net.DialTimeout("unix", path, 5*time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return fine("containerd", "answers on %s", path)
	case errors.Is(err, fs.ErrPermission):
		return result{"containerd", skip, "only root may ask " + path, asRoot}
	case at.Containerd != "":
		return result{"containerd", bad, err.Error(), "podd is to use this containerd: start it."}
	case errors.Is(err, fs.ErrNotExist):
		return result{"containerd", warn, "nobody listens on " + path, "podd starts it: systemctl start podd. If podd has another state directory, name its configuration with --config."}
	}
	return result{"containerd", bad, err.Error(), "podd starts it again when it dies. What it said: journalctl -u podd, or containerd.log in podd's state directory."}
}

// socket looks at podd's socket and at who may open it.
func socket(path, group string) result {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return result{"socket", bad, path + " is not there", "podd is not running: systemctl start podd, or podd. If it uses another socket: --socket or PODD_SOCKET."}
	}
	if errors.Is(err, fs.ErrPermission) {
		return result{"socket", skip, "only root may look at " + path, asRoot}
	}
	if err != nil {
		return result{"socket", bad, err.Error(), "Look at the directory that it is in."}
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if st.Mode()&fs.ModeSocket == 0 || !ok {
		return result{"socket", bad, path + " is not a socket", "Remove it and start podd again, or name podd's socket: --socket."}
	}
	if st.Mode().Perm()&0o007 != 0 {
		return result{"socket", bad, fmt.Sprintf("%s has mode %v: everybody on this host is root", path, st.Mode().Perm()), "chmod 0660 " + path}
	}
	owned := strconv.Itoa(int(owner.Gid))
	if g, err := user.LookupGroupId(owned); err == nil {
		owned = g.Name
	}
	if unix.Access(path, unix.W_OK) != nil {
		who, advice := "root", asRoot
		if owner.Gid != 0 {
			who, advice = "root and the group "+owned, "Join that group (usermod -aG "+owned+" NAME, then log in again), or use sudo."
		}
		return result{"socket", skip, fmt.Sprintf("only %s may open %s", who, path), advice}
	}
	if _, err := user.LookupGroup(group); err != nil && owner.Gid == 0 {
		return result{"socket", warn, path + " is for root alone", "There is no group " + group + ": groupadd --system " + group + ", and start podd again."}
	}
	return fine("socket", "%s, mode %04o, group %s", path, st.Mode().Perm(), owned)
}

// disk looks for room where podd keeps images, containers and its state.
func disk(name, root string) result {
	dir := existing(root)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return result{name, bad, dir + ": " + err.Error(), "Look at the file system below " + root + "."}
	}
	free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	detail := fmt.Sprintf("%s of %s free in %s", bytesOf(free), bytesOf(total), dir)
	advice := "Make room: podctl image ls, podctl image rm, and old logs."
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return result{name, bad, dir + " is read-only", "Mount it writable, or use another directory (--root, --log-dir)."}
	case free < 256<<20:
		return result{name, bad, detail, advice}
	case st.Files > 0 && st.Ffree*50 < st.Files:
		return result{name, warn, fmt.Sprintf("%d of %d inodes free in %s", st.Ffree, st.Files, dir), advice}
	case free < 2<<30 || free*20 < total:
		return result{name, warn, detail, advice}
	}
	return fine(name, "%s", detail)
}

// sameDisk tells whether two directories, or those nearest above them that are there, are on one file system.
func sameDisk(a, b string) bool {
	var of [2]unix.Stat_t
	for i, dir := range []string{a, b} {
		if unix.Stat(existing(dir), &of[i]) != nil {
			return false
		}
	}
	return of[0].Dev == of[1].Dev
}

// tmpfs looks at the directory of run-time state, whose content must not outlive a boot.
func tmpfs(state string) result {
	dir := existing(state)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return result{"run dir", bad, dir + ": " + err.Error(), "podd keeps its sockets and namespaces there."}
	}
	if st.Type != unix.TMPFS_MAGIC {
		return result{"run dir", warn, dir + " is not a tmpfs", "What is there has to be gone after a boot: mount a tmpfs on /run, or use a --state that is on one."}
	}
	return fine("run dir", "%s, a tmpfs with %s free", dir, bytesOf(int64(st.Bavail)*st.Bsize))
}

// existing is path or the nearest directory above it that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
		path = filepath.Dir(path)
	}
}

func ram() result {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return result{"memory", bad, err.Error(), "Mount /proc."}
	}
	values := map[string]int64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) > 0 {
			n, _ := strconv.ParseInt(words[0], 10, 64)
			values[name] = n << 10
		}
	}
	detail := fmt.Sprintf("%s of %s available", bytesOf(values["MemAvailable"]), bytesOf(values["MemTotal"]))
	if values["MemAvailable"] < 128<<20 {
		return result{"memory", warn, detail, "Pods will be killed when it runs out: podctl top pods shows what they use."}
	}
	return fine("memory", "%s", detail)
}

// inotify has limits per user that many containers, and programs in them, run into first.
func inotify() result {
	instances, err := number("/proc/sys/fs/inotify/max_user_instances")
	watches, err2 := number("/proc/sys/fs/inotify/max_user_watches")
	if err := errors.Join(err, err2); err != nil {
		return result{"inotify", bad, err.Error(), "Use a kernel with CONFIG_INOTIFY_USER."}
	}
	detail := fmt.Sprintf("%d instances and %d watches for each user", instances, watches)
	if instances < 512 || watches < 32768 {
		return result{"inotify", warn, detail, "Many pods with programs that follow files run out of them:\nsysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288"}
	}
	return fine("inotify", "%s", detail)
}

func processes() result {
	pids, err := number("/proc/sys/kernel/pid_max")
	threads, err2 := number("/proc/sys/kernel/threads-max")
	files, err3 := number("/proc/sys/fs/file-max")
	if err := errors.Join(err, err2, err3); err != nil {
		return result{"limits", bad, err.Error(), "Mount /proc."}
	}
	detail := fmt.Sprintf("%d processes, %d threads, %d files", pids, threads, files)
	if pids < 16384 || threads < 8192 || files < 65536 {
		return result{"limits", warn, detail, "Raise kernel.pid_max, kernel.threads-max or fs.file-max with sysctl."}
	}
	return fine("limits", "%s", detail)
}

// clock asks the kernel whether something keeps it right. Certificates and tokens depend on it.
func clock() result {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	now := time.Now()
	switch {
	case now.Year() < 2024:
		return result{"clock", bad, now.Format(time.RFC3339), "Set the clock: certificates are not valid at that time."}
	case err == nil && state == unix.TIME_ERROR:
		return result{"clock", warn, now.Format(time.RFC3339) + ", kept right by nothing", "Run a time service, like systemd-timesyncd or chrony."}
	case err != nil:
		return fine("clock", "%s", now.Format(time.RFC3339))
	}
	return fine("clock", "%s, synchronised", now.Format(time.RFC3339))
}

func number(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// slow is how long an answer of podd on this host should not take.
const slow = time.Second

// api asks podd how it is, if it answers.
func (p *podctl) api(ctx context.Context) []result {
	ctx, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	began := time.Now()
	res, err := p.client.request(ctx, http.MethodGet, "/readyz", nil, nil)
	took := time.Since(began).Round(time.Millisecond)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return []result{{"podd", skip, "you may not ask it", asRoot}}
		}
		detail, advice := err.Error(), "podd runs and cannot run pods: journalctl -u podd says more."
		if hint := p.client.unreachable(); hint != "" {
			detail, advice = hint, "What it said last: journalctl -u podd"
		}
		return []result{{"podd", bad, detail, advice}}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	res.Body.Close()
	ready := fine("podd", "ready, answers in %s", took)
	if took > slow {
		ready = result{"podd", warn, fmt.Sprintf("ready, and took %s to answer", took), "The host is overloaded, or its disk is slow: podctl top node."}
	}
	return []result{ready, p.versions(), p.certificates(ctx)}
}

func (p *podctl) versions() result {
	info, err := p.serverVersion()
	if err != nil {
		return result{"versions", bad, err.Error(), ""}
	}
	_, theirs, _ := strings.Cut(info.GitVersion, "+podd.")
	detail := fmt.Sprintf("podctl %s, podd %s", release(), info.GitVersion)
	if ours := release(); theirs != "" && !strings.HasPrefix(ours, "devel") && theirs != strings.TrimPrefix(ours, "v") {
		return result{"versions", warn, detail, "Install podd and podctl of the same release, and start podd again."}
	}
	return fine("versions", "%s", detail)
}

// certificates connects to the TLS port as a kubeconfig would, and looks how long that will go on to work.
func (p *podctl) certificates(ctx context.Context) result {
	const name = "TLS port"
	got, err := p.credentials(ctx, credentials.Reader, true)
	if err != nil {
		return result{name, warn, err.Error(), "kubectl and other clients need it; podctl does not."}
	}
	server, err := url.Parse(got.Server)
	if err != nil {
		return result{name, bad, err.Error(), ""}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(got.CA)
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: pool, ServerName: server.Hostname(), MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return result{name, bad, fmt.Sprintf("%s: %v", got.Server, err), "Another program may have the port (ss -ltnp), or the clock of this host jumped: start podd again."}
	}
	defer conn.Close()
	ends := got.Expires
	if secure, ok := conn.(*tls.Conn); ok {
		for _, c := range secure.ConnectionState().PeerCertificates {
			ends = earlier(ends, c.NotAfter)
		}
	}
	if block, _ := pem.Decode(got.CA); block != nil {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			ends = earlier(ends, ca.NotAfter)
		}
	}
	detail := fmt.Sprintf("%s, certificates valid until %s", got.Server, ends.Format(time.DateOnly))
	if left := time.Until(ends); left < 14*24*time.Hour {
		return result{name, warn, detail, "podd renews its own while it runs; get a new kubeconfig with podctl kubeconfig."}
	}
	return fine(name, "%s", detail)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
