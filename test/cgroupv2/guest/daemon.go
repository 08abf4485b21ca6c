package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	podd  = "/opt/podd/bin/podd"
	limit = 6 * time.Minute // for anything; the machine is emulated, and slow
	pods  = "/api/v1/namespaces/default/pods"
)

// daemon is a podd in a cgroup.
type daemon struct {
	socket string
	parent string // path of its cgroup parent in the machine's tree
	cgroup string // that it is started in
	args   []string
	log    string
	cmd    *exec.Cmd
	exit   chan error // tells how it ended, and is closed then
	http   *http.Client
}

// unshareCgroup begins a cgroup namespace, and shows it at the usual place.
func unshareCgroup() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Unmount(tree, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", tree, err)
	}
	return unix.Mount("cgroup2", tree, "cgroup2", 0, "")
}

// launch starts a podd of that name in a cgroup and returns when it is ready.
func launch(name, cgroup, parent string, args ...string) (*daemon, error) {
	d := &daemon{parent: parent, cgroup: cgroup, log: "/run/" + name + ".log", socket: "/run/" + name + "/podd.sock"}
	d.args = append([]string{"--state", "/run/" + name, "--root", "/var/lib/podd/" + name, "--group", "root", "--eviction-hard=", "--image-gc-high-threshold=100"}, args...)
	d.dial()
	return d, d.start("")
}

// start starts podd, which is to die at that point if one is named, and returns when it is ready.
func (d *daemon) start(killAt string) error {
	err := os.Setenv("PODD_KILL_AT", killAt)
	if err != nil {
		return err
	}
	if d.cmd, err = startIn(d.cgroup, d.log, append([]string{podd}, d.args...)...); err != nil {
		return err
	}
	d.exit = make(chan error, 1)
	go func(cmd *exec.Cmd, exit chan<- error) {
		exit <- cmd.Wait()
		close(exit)
	}(d.cmd, d.exit)
	return d.ready(d.exit)
}

// restart kills podd, unless it is dead already, and starts it again.
func (d *daemon) restart(killAt string) error {
	_ = d.cmd.Process.Kill()
	<-d.exit
	return d.start(killAt)
}

// dial has requests go to the socket.
func (d *daemon) dial() {
	d.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}}
}

// ready waits until podd serves, unless it ends before, and loads the image.
func (d *daemon) ready(ended <-chan error) error {
	var err error
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if _, err = d.call(http.MethodGet, "/readyz", nil); err == nil {
			break
		}
		select {
		case err := <-ended:
			d.tell()
			return fmt.Errorf("podd ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			d.tell()
			return fmt.Errorf("podd is not ready: %w", err)
		}
	}
	image, err := os.ReadFile("/image.tar")
	if err == nil {
		_, err = d.call(http.MethodPost, "/podd/v1/images/load", image)
	}
	return err
}

// tell prints the end of podd's log.
func (d *daemon) tell() {
	text, _ := os.ReadFile(d.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	fmt.Println("podd's log:\n  " + strings.Join(lines[max(0, len(lines)-25):], "\n  "))
	var events struct {
		Items []struct{ Reason, Message string }
	}
	if b, err := d.call(http.MethodGet, "/api/v1/events", nil); err == nil && json.Unmarshal(b, &events) == nil {
		for _, e := range events.Items {
			fmt.Println("event:", e.Reason, e.Message)
		}
	}
	logs, _ := filepath.Glob("/var/log/pods/*/*/*.log")
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		fmt.Printf("%s:\n  %s\n", l, strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n  "))
	}
}

func (d *daemon) call(method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://podd"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(body, []byte("{")) {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/strategic-merge-patch+json")
		}
	}
	res, err := d.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	return b, err
}

// pod is what the checks need of a Pod.
type pod struct {
	Metadata struct{ Name, UID, ResourceVersion string }
	Status   struct {
		Phase, QOSClass   string
		ContainerStatuses []struct {
			Name, ContainerID string
			State             struct {
				Running    *struct{}
				Waiting    *struct{ Reason, Message string }
				Terminated *struct {
					ExitCode        int
					Reason, Message string
				}
			}
		}
	}
}

// object is JSON to be.
type object = map[string]any

// create posts a pod of that name.
func (d *daemon) create(name string, spec object) error {
	spec["terminationGracePeriodSeconds"] = 1
	body, err := json.Marshal(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name}, "spec": spec})
	if err != nil {
		return err
	}
	_, err = d.call(http.MethodPost, pods, body)
	return err
}

// await follows a pod until it is as wanted and is that pod then; a pod that is deleted is wanted by nobody but gone.
func (d *daemon) await(name, what string, wanted func(p *pod) bool) (*pod, error) {
	var last pod
	err := d.watch(name, func(kind string, p *pod) bool {
		last = *p
		return kind != "DELETED" && wanted(p)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for pod %s to be %s: %w; it is %+v", name, what, err, last.Status)
	}
	return &last, nil
}

func (d *daemon) watch(name string, done func(kind string, p *pod) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	url := "http://podd" + pods + "?watch=true&fieldSelector=metadata.name%3D" + name
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	events := json.NewDecoder(res.Body)
	for {
		var e struct {
			Type   string
			Object pod
		}
		if err := events.Decode(&e); err != nil {
			return err
		}
		if done(e.Type, &e.Object) {
			return nil
		}
	}
}

// run creates a pod and waits until all its containers run.
func (d *daemon) run(name string, spec object) (*pod, error) {
	if err := d.create(name, spec); err != nil {
		return nil, err
	}
	return d.await(name, "running", running)
}

func running(p *pod) bool {
	if len(p.Status.ContainerStatuses) == 0 {
		return false
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil {
			return false
		}
	}
	return p.Status.Phase == "Running"
}

// finish creates a pod and answers how its only container ended.
func (d *daemon) finish(name string, spec object) (code int, reason string, err error) {
	spec["restartPolicy"] = "Never"
	if err := d.create(name, spec); err != nil {
		return 0, "", err
	}
	return d.ended(name)
}

func (d *daemon) ended(name string) (code int, reason string, err error) {
	p, err := d.await(name, "ended", func(p *pod) bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" })
	if err != nil {
		return 0, "", err
	}
	t := p.Status.ContainerStatuses[0].State.Terminated
	if t == nil {
		return 0, "", fmt.Errorf("pod %s: ended without a terminated container", name)
	}
	return t.ExitCode, t.Reason, nil
}

// remove deletes pods and waits until they are gone, with their cgroups and their processes.
func (d *daemon) remove(all ...string) error {
	var errs []error
	for _, name := range all {
		b, err := d.call(http.MethodGet, pods+"/"+name, nil)
		var p pod
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		if err == nil {
			errs = append(errs, d.removeOne(&p))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (d *daemon) removeOne(p *pod) error {
	name := p.Metadata.Name
	if _, err := d.call(http.MethodDelete, pods+"/"+name, nil); err != nil {
		return err
	}
	return d.gone(p)
}

// gone waits until a pod is gone.
func (d *daemon) gone(p *pod) error {
	name := p.Metadata.Name
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		_, err := d.call(http.MethodGet, pods+"/"+name, nil)
		if err != nil && strings.Contains(err.Error(), "404") {
			return noTrace(p.Metadata.UID)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("delete pod %s: still there: %v", name, err)
		}
	}
}
