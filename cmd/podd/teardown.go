package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"podd/network"
	"podd/runtime/bundle"
	"podd/sandbox"
	"podd/volumes"
)

// teardown takes podd away from a host.
type teardown struct {
	config  *config
	purge   bool
	volumes bool // purged as well, those that are to be retained
	grace   int64
	timeout time.Duration
	out     io.Writer

	list   []v1.PersistentVolume // that there were
	asked  map[types.UID]string  // the pods that were deleted, by name and namespace
	silent bool                  // nothing was there that could end
}

const stateFile = "state.db"

// traces tells whether there are files that say that podd ran with these flags.
func (t *teardown) traces() bool {
	for _, path := range []string{filepath.Join(t.config.Root, stateFile), t.config.State} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

func teardownCommand(c *config) *cobra.Command {
	t := teardown{config: c}
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Stop all pods, podd and its containerd, and take away the pod network",
		Long: "teardown deletes all pods, ends podd and the containerd it started, and takes away what podd made on the host:\n" +
			"bridge, nftables table, cgroups, empty directories. With --purge the state directory goes too: objects, images,\n" +
			"histories of pods, and the data of claims whose volumes have the reclaim policy Delete, which is that of class standard.\n" +
			"Volumes that are to be retained stay, and are named; --purge-volumes deletes them as well.\n" +
			"Without --purge all claims keep their data. Pods of manifest files come back when podd is started again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.out = cmd.OutOrStdout()
			if err := asRoot("tear down"); err != nil {
				return err
			}
			if t.volumes && !t.purge {
				return errors.New("--purge-volumes: is for --purge")
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), t.timeout, fmt.Errorf("--timeout=%s is over", t.timeout))
			defer cancel()
			return t.run(ctx)
		},
	}
	cmd.Flags().BoolVar(&t.purge, "purge", false, "remove podd's directories as well, with the data of claims whose reclaim policy is Delete")
	cmd.Flags().BoolVar(&t.volumes, "purge-volumes", false, "with --purge: delete the volumes that are to be retained as well")
	cmd.Flags().Int64Var(&t.grace, "grace-period", -1, "seconds that containers get to end; -1 is what each pod says")
	cmd.Flags().DurationVar(&t.timeout, "timeout", 5*time.Minute, "how long to try at most")
	return cmd
}

func (t *teardown) say(format string, args ...any) {
	if !t.silent {
		_, _ = fmt.Fprintf(t.out, format+"\n", args...)
	}
}

func (t *teardown) run(ctx context.Context) error {
	pid, err := listener(t.config.Listen)
	running := err == nil
	if !running && !t.traces() {
		t.say("nothing of podd was found: nobody listens on %s, and there is neither %s nor %s.\n"+
			"Are these the flags that it was started with?", t.config.Listen, filepath.Join(t.config.Root, stateFile), t.config.State)
		t.silent = true
	}
	if running {
		if err := t.fits(ctx); err != nil {
			return err
		}
		if err := end(ctx, pid); err != nil {
			return err
		}
	} else if err := t.fitsRecord(); err != nil {
		return err
	}
	parts := bundle.Running((&podd{config: *t.config, log: slog.New(slog.DiscardHandler)}).bundleOptions()) // before one is started for this
	if err := t.withOwnDaemon(ctx); err != nil {
		return err
	}
	if running {
		t.say("podd has ended")
	} else {
		t.say("podd did not run")
	}
	return t.clear(ctx, parts)
}

// fits refuses flags by which other things would be taken away than what the podd that runs has made: it would be ended, and its
// pods would go on.
func (t *teardown) fits(ctx context.Context) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	data, err := client.RESTClient().Get().AbsPath("/configz").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("ask podd at %s for its flags: %w", t.config.Listen, err)
	}
	var its struct{ Kubeletconfig config }
	if err := json.Unmarshal(data, &its); err != nil {
		return fmt.Errorf("read the flags of podd at %s: %w", t.config.Listen, err)
	}
	if wrong := t.config.others(its.Kubeletconfig.byName()); len(wrong) > 0 {
		return fmt.Errorf("the podd that listens on %s was started with other flags, and nothing was done; give those that it has: %s",
			t.config.Listen, strings.Join(wrong, ", "))
	}
	return nil
}

// fitsRecord is fits for a podd that does not run, by what it has written down. What cannot be read is said, and holds nothing up.
func (t *teardown) fitsRecord() error {
	for _, of := range []struct{ name, dir string }{{"root", t.config.Root}, {"state", t.config.State}} {
		has, err := recordedSettings(of.dir)
		if err != nil {
			t.say("whether podd was started with other flags is not known: %v", err)
			continue
		}
		delete(has, of.name) // the directory is here, whatever it was called
		if wrong := t.config.others(has); len(wrong) > 0 {
			return fmt.Errorf("the podd that ran with --%s=%s was started with other flags, and nothing was done; give those that it had: %s\n"+
				"-> They are from %s; without that file no flag is refused", of.name, of.dir, strings.Join(wrong, ", "), filepath.Join(of.dir, settingsFile))
		}
	}
	return nil
}

// withOwnDaemon deletes the pods with a podd of its own that does not follow the manifest directory, so that no pod of
// a file comes back meanwhile.
func (t *teardown) withOwnDaemon(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(t.config.Root, stateFile)); errors.Is(err, os.ErrNotExist) {
		return nil // never ran
	}
	c := *t.config
	c.noManifests, c.TLSListen = true, ""                           // nobody else is to use it
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it ends in the end; why that was is said once
	done := make(chan error, 1)
	go func() { done <- run(inner, c, slog.New(slog.DiscardHandler)) }()
	err := t.await(ctx, done)
	if err == nil {
		err = t.deletePods(ctx)
	}
	if err == nil && t.purge {
		err = t.listVolumes(ctx)
	}
	cancel()
	return errors.Join(err, <-done)
}

// await waits until the API answers; done is put back when podd ended before.
func (t *teardown) await(ctx context.Context, done chan error) error {
	for {
		if _, err := listener(t.config.Listen); err == nil {
			return nil
		}
		select {
		case err := <-done:
			done <- nil
			return fmt.Errorf("start podd to delete its pods: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("start podd to delete its pods: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (t *teardown) client() (*kubernetes.Clientset, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", t.config.Listen)
	}
	return kubernetes.NewForConfig(&rest.Config{Host: "http://podd", Dial: dial, QPS: -1})
}

// deletePods deletes every pod and waits until the host has let go of all of them.
func (t *teardown) deletePods(ctx context.Context) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	opts := metav1.DeleteOptions{}
	if t.grace >= 0 {
		opts.GracePeriodSeconds = &t.grace
	}
	t.asked = map[types.UID]string{}
	var left []string
	for {
		list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("list pods: %w", err)
		}
		if err == nil && len(list.Items) == 0 {
			return t.awaitClear(ctx)
		}
		if err == nil {
			left = nil
		}
		for _, pod := range list.Items {
			name := pod.Namespace + "/" + pod.Name
			left = append(left, name)
			if _, asked := t.asked[pod.UID]; asked || ctx.Err() != nil {
				continue
			}
			t.asked[pod.UID] = name
			err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, opts)
			switch {
			case err == nil:
				t.say("deleting pod %s", name)
			case !apierrors.IsNotFound(err) && ctx.Err() == nil:
				return fmt.Errorf("delete pod %s: %w", name, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n-> Do it again with a longer --timeout, or with --grace-period=1 (0 is none) for less time to end.\n"+
				"   podd does not run any more; what has not ended goes on", haveNot("end", left), context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// haveNot is which pods have not done something.
func haveNot(done string, names []string) string {
	const most = 10
	slices.Sort(names)
	all := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		all += fmt.Sprintf(" and %d more", more)
	}
	if len(names) == 1 {
		return "pod " + all + " did not " + done
	}
	return fmt.Sprintf("%d pods did not %s: %s", len(names), done, all)
}

// listVolumes keeps what the volumes say of themselves, which is gone with the state.
func (t *teardown) listVolumes(ctx context.Context) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	t.list = list.Items
	return nil
}

// awaitClear waits until nothing of a pod is on the host: an object that is deleted with no time to end goes before.
func (t *teardown) awaitClear(ctx context.Context) error {
	dir := filepath.Join(t.config.State, "pods")
	for {
		left, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look for what is left of pods: %w", err)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			var names []string
			for _, of := range left {
				names = append(names, cmp.Or(t.asked[types.UID(of.Name())], of.Name()))
			}
			return fmt.Errorf("%s, and something of it is on the host (%s): %w\n-> Do it again with a longer --timeout", haveNot("go in full", names), dir, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// listener is the pid of the process that listens on a unix socket.
func listener(path string) (int, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if inner != nil {
		return 0, inner
	}
	return int(cred.Pid), nil
}

// end asks a process to end and waits until it has. The pidfd makes sure that it is that process and no later one.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end podd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end podd: %w", err)
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("end podd: %w", err)
		}
	}
	return fmt.Errorf("end podd (process %d): %w", pid, context.Cause(ctx))
}

// clear takes away what podd made on the host beside pods, and then the directories that it made for that. parts is what of its bundle ran.
func (t *teardown) clear(ctx context.Context, parts []string) error {
	made, err := directoriesMade(t.config.Root)
	if err != nil {
		return err
	}
	err = t.clearHost(ctx, parts)
	return errors.Join(err, removeMade(t.config.Root, made))
}

func (t *teardown) clearHost(ctx context.Context, parts []string) error {
	c := *t.config
	log := slog.New(slog.DiscardHandler)
	wanted, err := networkOptions(c, log)
	if err != nil {
		return err
	}
	net, err := network.Look(wanted)
	if err != nil {
		return err
	}
	if err := net.Clear(ctx); err != nil {
		return fmt.Errorf("clear the pod network: %w", err)
	}
	p := podd{config: c, log: log}
	if err := bundle.Stop(ctx, p.bundleOptions()); err != nil {
		return fmt.Errorf("end containerd: %w", err)
	}
	switch {
	case len(parts) == 1:
		t.say("%s has ended", parts[0])
	case len(parts) > 1:
		t.say("%s have ended", strings.Join(parts, " and "))
	}
	if err := sandbox.ClearHost(ctx, c.CgroupParent); err != nil {
		return fmt.Errorf("remove cgroups: %w", err)
	}
	state := filepath.Clean(c.State)
	if err := errors.Join(volumes.RemoveAll(ctx, filepath.Dir(state), filepath.Base(state)), volumes.RemoveAll(ctx, c.Root, historyDir)); err != nil {
		return err
	}
	if !t.purge {
		t.say("kept: %s (images, state and data of claims); remove it with --purge", c.Root)
		return nil
	}
	if err := (purge{root: c.Root, all: t.volumes, list: t.list, say: t.say}).run(ctx); err != nil {
		return err
	}
	if file, err := net.RemoveDefault(); err != nil {
		return fmt.Errorf("remove the network configuration: %w", err)
	} else if file != "" {
		t.say("removed: %s", file)
	}
	return nil
}
