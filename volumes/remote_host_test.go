//go:build host

package volumes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// TestMain is also the programs that podd runs for what other hosts serve: the host's mount helper, for which this stands in
// since this kernel need not have nfs, and podd's own command that unmounts.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "mount.nfs":
		standIn(os.Args[1:])
	case "iscsiadm", "blkid", "dd", "mkfs.ext4", "fsck", "mount", "dmsetup":
		standInDisk(filepath.Base(os.Args[0]), os.Args[1:])
	case "unmount":
		f := func(path string) error { return Unmount(context.Background(), path) }
		if os.Args[1] == "--force" {
			f = Force
		}
		if err := f(os.Args[len(os.Args)-1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn binds the directory "export" that is beside it, and writes down what it was told.
func standIn(args []string) {
	dir := filepath.Dir(os.Args[0])
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(calls, strings.Join(args, " "))
	}
	fail := func(err error) {
		if err != nil {
			fmt.Println("mount.nfs:", err)
			os.Exit(32)
		}
	}
	fail(err)
	server, _, _ := strings.Cut(args[0], ":")
	switch server {
	case "refuses":
		fail(errors.New("Connection refused"))
	case "lies":
		os.Exit(0)
	case "hangs":
		fail(os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600))
		time.Sleep(time.Hour)
	}
	fail(unix.Mount(filepath.Join(dir, "export"), args[1], "", unix.MS_BIND, ""))
	if slices.Contains(args, "ro") {
		fail(unix.Mount("", args[1], "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	os.Exit(0)
}

// remoteIn are volumes below dir, and a directory of programs with what stands in for them; what is exported is below it.
func remoteIn(dir string) (v *Volumes, programs string, err error) {
	programs = filepath.Join(dir, "programs")
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	export := filepath.Join(programs, "export")
	if err := os.MkdirAll(filepath.Join(export, "sub"), 0o755); err != nil {
		return nil, "", err
	}
	for _, name := range []string{"mount.nfs", "unmount", "iscsiadm", "blkid", "dd", "mkfs.ext4", "mount", "dmsetup"} {
		if err := os.Symlink(self, filepath.Join(programs, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, "", err
		}
	}
	if err := os.WriteFile(filepath.Join(export, "precious"), []byte("data"), 0o600); err != nil {
		return nil, "", err
	}
	v, err = Open(Options{Dir: filepath.Join(dir, "pods"), Programs: "/nowhere:" + programs, Unmounter: []string{filepath.Join(programs, "unmount")},
		Sessions: filepath.Join(dir, "sessions"), Secrets: func(namespace, name string) (map[string][]byte, error) {
			return map[string][]byte{"node.session.auth.username": []byte("me"), "node.session.auth.password": []byte("very secret"),
				"discovery.sendtargets.auth.password": []byte("very secret, too")}, nil
		}})
	if err == nil {
		v.locked = func() bool { return false }
		v.multipathd = filepath.Join(programs, "multipathd.pid")
		v.sys, v.iscsiDirs = filepath.Join(programs, "sys"), []string{"/nowhere", filepath.Join(programs, "etc")}
	}
	return v, programs, err
}

func openRemote(t *testing.T) (v *Volumes, programs string) {
	t.Helper()
	v, programs, err := remoteIn(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	noMounts(t, v)
	t.Cleanup(func() { precious(t, programs) })
	return v, programs
}

// from is where a mount of a container comes from.
func from(t *testing.T, v *Volumes, p *v1.Pod, m v1.VolumeMount) (string, error) {
	t.Helper()
	mounts, err := v.Mounts(t.Context(), p, &v1.Container{VolumeMounts: []v1.VolumeMount{m}}, "id", nil)
	if err != nil {
		return "", err
	}
	return mounts[0].Source, nil
}

// precious fails the test if anything was done to what is exported.
func precious(t *testing.T, programs string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(programs, "export", "precious")); err != nil || string(b) != "data" {
		t.Errorf("the server's data: %q, %v", b, err)
	}
}

func nfs(name, server string, readOnly bool) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{Server: server, Path: "/exports/x", ReadOnly: readOnly}}}
}

func calls(t *testing.T, programs string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(programs, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
}

func TestRemote(t *testing.T) {
	v, programs := openRemote(t)
	p, group := pod(nfs("share", "fd00::1", false), nfs("read", "host", true)), int64(2000)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	for range 2 {
		if err := v.Ensure(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(v.path("uid-1"), remotes)
	want := []string{"[fd00::1]:/exports/x " + at + "/share", "host:/exports/x " + at + "/read -o ro"}
	if got := calls(t, programs); !slices.Equal(got, want) {
		t.Errorf("the helper was run with %q, want %q", got, want)
	}
	if _, gid := owner(t, filepath.Join(at, "share", "precious")); gid == 2000 {
		t.Error("the files of a server were given to the pod's group")
	}
	if ok, err := v.Look("uid-1", p); !ok || err != nil {
		t.Errorf("Look = %v, %v", ok, err)
	}
	for name, m := range map[string]v1.VolumeMount{
		"/share": {Name: "share", MountPath: "/v"}, "/read": {Name: "read", MountPath: "/v"}} {
		if source, err := from(t, v, p, m); err != nil || source != at+name {
			t.Errorf("%s is mounted from %s, %v", name, source, err)
		}
	}
	if source, err := from(t, v, p, v1.VolumeMount{Name: "share", MountPath: "/v", SubPath: "sub/made"}); err != nil ||
		!sameFile(t, source, filepath.Join(programs, "export", "sub", "made")) {
		t.Errorf("subPath: %s, %v", source, err)
	}
	// Somebody has unmounted it: the next container gets it again.
	if err := unix.Unmount(at+"/share", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := from(t, v, p, v1.VolumeMount{Name: "share", MountPath: "/v"}); err != nil {
		t.Error(err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	precious(t, programs)
	if known, _ := v.Known(); len(known) != 0 {
		t.Errorf("left: %v", known)
	}
}

// Each cause is one line that says it, and when it goes the volume is made.
func TestRemoteFails(t *testing.T) {
	for server, want := range map[string]string{
		"refuses":        "volume share: mount refuses:/exports/x: this kernel has no nfs, or its module is not loaded (modprobe nfs): mount.nfs: exit status 32: mount.nfs: Connection refused",
		"lies":           "volume share: its mount helper has ended well, but nothing is mounted",
		"-o":             `volume share: nfs server "-o": is not the name of a host`,
		"a b":            `volume share: nfs server "a b": is not the name of a host`,
		"a\nb":           `volume share: nfs server "a\nb": is not the name of a host`,
		"host":           "volume share: mount host:/exports/x: mount.nfs: is not on this host: install nfs-common",
		"host, a moment": "",
	} {
		v, programs := openRemote(t)
		if knowsFS("nfs") {
			want = strings.Replace(want, "this kernel has no nfs, or its module is not loaded (modprobe nfs): ", "", 1)
		}
		helper := filepath.Join(programs, "mount.nfs")
		if server == "host" {
			if err := os.Rename(helper, helper+".away"); err != nil {
				t.Fatal(err)
			}
		}
		server, _, _ := strings.Cut(server, ",")
		p := pod(nfs("share", server, false))
		err := v.Ensure(t.Context(), p)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", server, err, want)
		}
		if server == "host" && want != "" {
			if err := errors.Join(os.Rename(helper+".away", helper), v.Ensure(t.Context(), p)); err != nil {
				t.Errorf("%s: does not heal: %v", server, err)
			}
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Errorf("%s: %v", server, err)
		}
	}
}

// A helper that does not end is ended with what waits for it.
func TestRemoteHelperHangs(t *testing.T) {
	v, programs := openRemote(t)
	unwanted := atomic.Bool{}
	v.wanted = func(uid string) bool { return uid == "uid-1" && !unwanted.Load() }
	done := make(chan error, 1)
	go func() { done <- v.Ensure(t.Context(), pod(nfs("share", "hangs", false))) }()
	file, pid := filepath.Join(programs, "pid"), 0
	for pid == 0 {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(string(b))
		time.Sleep(time.Millisecond)
	}
	unwanted.Store(true) // the pod was deleted
	if err := <-done; !errors.Is(err, errUnwanted) {
		t.Errorf("Ensure = %v", err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("the helper is still there: %v", err)
	}
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}

// dead mounts a file system whose server never answers anything, over what is exported: whoever asks it waits until the
// connection is cut, as on the hard mount of a dead NFS server. asked tells whether somebody waits, and is true once for each.
func dead(t *testing.T, programs string) (asked func() bool) {
	t.Helper()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a dead file server needs fuse: %v", err)
	}
	export := filepath.Join(programs, "export")
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", server)
	if err := unix.Mount("dead", export, "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(export, unix.MNT_DETACH)
		_ = unix.Close(server)
	})
	return func() bool {
		const initialize = 26 // what the kernel asks first, and sends nothing before it is answered (linux/fuse.h)
		request := make([]byte, 64<<10)
		switch n, err := unix.Read(server, request); {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil || n < 16:
			t.Fatalf("read %d bytes of a request: %v", n, err)
		case binary.NativeEndian.Uint32(request[4:]) != initialize:
			return true
		}
		answer := binary.NativeEndian.AppendUint32(nil, 80)      // its length
		answer = append(answer, 0, 0, 0, 0)                      // no error
		answer = append(answer, request[8:16]...)                // to what
		answer = binary.NativeEndian.AppendUint32(answer, 7)     // version 7.31
		answer = binary.NativeEndian.AppendUint32(answer, 31)    // of the protocol
		answer = append(answer, make([]byte, 80-len(answer))...) // as little as there is
		binary.NativeEndian.PutUint32(answer[36:], 4096)         // the longest write
		if _, err := unix.Write(server, answer); err != nil {
			t.Fatal(err)
		}
		return false
	}
}

// The server is dead: nothing that podd does itself waits for it, but for what needs it, and that only as long as it is told
// to. The volume is taken away nevertheless.
func TestRemoteIsDead(t *testing.T) {
	v, programs := openRemote(t)
	p := pod(nfs("share", "host", false))
	t.Run("group", func(t *testing.T) {
		dead(t, programs)
		share := v1.VolumeMount{Name: "share", MountPath: "/v"}
		done := make(chan error, 1)
		go func() {
			err := v.Ensure(t.Context(), p)
			ok, err2 := v.Look("uid-1", p)
			_, err3 := from(t, v, p, share)
			if !ok {
				err = errors.Join(err, errors.New("Look does not see it"))
			}
			done <- errors.Join(err, err2, err3)
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("podd waits for a dead server")
		}
		// It really is dead: who asks it waits.
		asked := make(chan error, 1)
		path := filepath.Join(v.path("uid-1"), remotes, "share")
		go func() { _, err := os.ReadDir(path); asked <- err }()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		share.SubPath = "sub"
		c := v1.Container{VolumeMounts: []v1.VolumeMount{share}}
		if _, err := v.Mounts(ctx, p, &c, "id", nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "server does not answer") {
			t.Errorf("a subPath: %v", err)
		}
		select {
		case err := <-asked:
			t.Errorf("the server answers: %v", err)
		default:
		}
		if err := v.Remove(t.Context(), "uid-1"); err != nil {
			t.Error(err)
		}
		if known, _ := v.Known(); len(known) != 0 {
			t.Errorf("left: %v", known)
		}
	})
}

// A mount that does not go is left as it is, with all that is on it, however often podd tries; and nobody waits for who was
// to unmount it.
func TestRemoteStays(t *testing.T) {
	v, programs := openRemote(t)
	if err := v.Ensure(t.Context(), pod(nfs("share", "host", false), emptyDir("own", ""))); err != nil {
		t.Fatal(err)
	}
	real := v.programs.self
	for name, script := range map[string]string{"does nothing": "#!/bin/sh\n", "fails": "#!/bin/sh\necho no; exit 1\n", "hangs": "#!/bin/sh\necho $$ >>${0%/*}/pids; exec sleep 1000\n"} {
		t.Run(name, func(t *testing.T) {
			file, pids := filepath.Join(t.TempDir(), "unmount"), ""
			pids = filepath.Join(filepath.Dir(file), "pids")
			if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			v.programs.self = []string{file}
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				err := v.Remove(ctx, "uid-1")
				cancel()
				if err == nil || !strings.Contains(err.Error(), "unmount "+v.path("uid-1")) {
					t.Errorf("Remove = %v", err)
				}
				precious(t, programs)
			}
			if b, err := os.ReadFile(pids); err == nil {
				for _, line := range strings.Fields(string(b)) {
					pid, err := strconv.Atoi(line)
					if err != nil {
						t.Fatal(err)
					}
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
			for left := 1; left > 0; time.Sleep(time.Millisecond) {
				v.programs.mu.Lock()
				left = len(v.programs.held)
				v.programs.mu.Unlock()
			}
		})
	}
	// Neither does what deletes walk into it, if it has come where it should not be.
	if err := RemoveAll(t.Context(), filepath.Join(v.dir, "uid-1"), subdir); err == nil || !strings.Contains(err.Error(), "is a mount") {
		t.Errorf("RemoveAll = %v", err)
	}
	precious(t, programs)
	v.programs.self = real
	if err := v.Remove(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
}
