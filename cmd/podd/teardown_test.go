package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTeardownAsUser: who is not root is told so, before anything else is said or done.
func TestTeardownAsUser(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		if os.Geteuid() == 0 {
			if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); no != 0 {
				ended <- no
				return
			}
		}
		cmd := command()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"teardown", "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--config-dir", filepath.Join(dir, "etc")})
		ended <- cmd.Execute()
	}()
	if err := <-ended; err == nil || err.Error() != "tear down: must be root" || out.Len() > 0 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

// TestTeardownFinds: where there is nothing of podd, nothing is said to have ended. Who listens is asked apart from that, once.
func TestTeardownFinds(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "podd.sock")
	found := func() bool {
		return (&teardown{config: &config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Listen: socket}}).traces()
	}
	if found() {
		t.Error("found in an empty directory")
	}
	var out bytes.Buffer
	quiet := teardown{out: &out, silent: true}
	if quiet.say("podd has ended"); out.Len() > 0 {
		t.Errorf("said %q", out.String())
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if found() {
		t.Error("a socket was found")
	}
	if pid, err := listener(socket); pid != os.Getpid() || err != nil {
		t.Errorf("the listener is %d, %v", pid, err)
	}
	l.Close()
	for _, path := range []string{"state", "root/state.db"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if !found() {
			t.Errorf("%s is not found", path)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTeardownLate: a teardown whose time is over says which pods did not end, each with its namespace, and what to do, and of the time
// only that.
func TestTeardownLate(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "podd.sock")
	ctx, late := context.WithCancelCause(t.Context())
	deleted := 0
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == http.MethodDelete:
			deleted++
			_, _ = fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Success"}`)
		case deleted == 2:
			late(errors.New("--timeout=3s is over"))
			fallthrough
		default:
			_, _ = fmt.Fprint(w, `{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"namespace": "team", "name": "b", "uid": "1"}},
				{"metadata": {"namespace": "default", "name": "a", "uid": "2"}}]}`)
		}
	}
	l, err := net.Listen("unix", socket)
	must(t, err)
	server := http.Server{Handler: http.HandlerFunc(handler)}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	var out bytes.Buffer
	td := teardown{config: &config{State: filepath.Join(dir, "state"), Listen: socket}, out: &out, grace: -1}
	err = td.deletePods(ctx)
	if err == nil || !strings.HasPrefix(err.Error(), "2 pods did not end: default/a, team/b: --timeout=3s is over\n-> ") {
		t.Errorf("the error is %v", err)
	}
	if out.String() != "deleting pod team/b\ndeleting pod default/a\n" {
		t.Errorf("said %s", out.String())
	}
	must(t, os.MkdirAll(filepath.Join(dir, "state/pods/2"), 0o700))
	if err := td.awaitClear(ctx); err == nil || !strings.HasPrefix(err.Error(), "pod default/a did not go in full, and ") {
		t.Errorf("the error is %v", err)
	}
	if got := haveNot("end", strings.Split("k j i h g f e d c b a", " ")); got != "11 pods did not end: a, b, c, d, e, f, g, h, i, j and 1 more" {
		t.Error(got)
	}
}
