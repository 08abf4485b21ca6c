//go:build host

// Package e2e shows what pods mean, from outside: manifests go in through podctl, and what the containers, the host and
// the API show is compared with what the manifest says. Everything runs on real containerd, in directories, cgroups and
// networks of its own, and every podd ends with the leak oracle of package harness.
//
// TestPods runs on one podd all that needs no podd of its own; its parts are in the other files, each named for what it is
// about. Pods are told apart by their names.
package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"podd/test/harness"
	"podd/test/hugepages"
	"podd/test/ociimage"
)

// patience is how long a test waits for what it expects. It is far above what is measured elsewhere, and only ever used up
// by a test that fails.
const patience = 2 * time.Minute

// busybox is the image of most pods here.
const busybox = "busybox:e2e"

// variants are images of the same files that differ in what they say of themselves.
var variants = map[string]ocispec.ImageConfig{
	busybox: {Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	"entrypoint:e2e": {
		Entrypoint: []string{"echo", "entrypoint"}, Cmd: []string{"cmd"}, WorkingDir: "/image/work", StopSignal: "SIGUSR1",
		Env: []string{"PATH=/bin:/image/bin", "IMAGE=image", "NOVALUE", "HOME"}, // the last two are malformed (CVE-2026-57231)
	},
	"user-1000:e2e":   {Env: []string{"PATH=/bin"}, User: "1000:2000"},
	"user-nobody:e2e": {Env: []string{"PATH=/bin"}, User: "nobody"},
}

// archives are the images that tests load, made once.
var archives struct {
	dir    string
	built  map[string]ociimage.Built
	oci    string // all variants, as an OCI archive
	docker string // busybox under another name, as a docker archive
}

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(inPod) != "" {
		if err := askFromPod(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} { // in the background they are ignored, by what is run here, too
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	// What these tests do is waiting, for the most part; but some have limits of time, which a machine that is too busy breaks.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("3")
	}
	code := 1
	if err := makeArchives(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(archives.dir)
	os.Exit(code)
}

func makeArchives() (err error) {
	if archives.dir, err = os.MkdirTemp("", "e2e"); err != nil {
		return err
	}
	image, err := ociimage.Busybox(busybox, "/bin/busybox")
	if err != nil {
		return err
	}
	archives.built = map[string]ociimage.Built{}
	for name, config := range variants {
		image.Name, image.Config = name, config
		if archives.built[name], err = image.Build(); err != nil {
			return err
		}
	}
	image.Name = "example.com/other/busybox:docker"
	docker, err := image.Build()
	if err != nil {
		return err
	}
	archives.oci, archives.docker = filepath.Join(archives.dir, "oci.tar"), filepath.Join(archives.dir, "docker.tar")
	return write(map[string]func(io.Writer) error{
		archives.oci:    func(w io.Writer) error { return ociimage.WriteOCI(w, slices.Collect(maps.Values(archives.built))...) },
		archives.docker: func(w io.Writer) error { return ociimage.WriteDocker(w, docker) },
	})
}

func write(files map[string]func(io.Writer) error) error {
	for name, fill := range files {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := fill(f); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// TestPods is everything that can share one podd.
func TestPods(t *testing.T) {
	huge := hugepages.More(t, 16) // before podd looks at them
	s := start(t, harness.WithArgs("--restart-backoff=1s", "--pull-backoff=1s"))
	s.huge = huge
	for name, part := range map[string]func(*testing.T, *suite){
		"fields": testFields, "users": testUsers, "security": testSecurity, "refused": testRefused, "volumes": testVolumes, "mounts": testMounts, "content": testContent, "documented": testDocumented, "network": testNetwork, "life": testLife, "init": testInit, "logs": testLogs, "images": testImages, "events": testEvents, "exec": testExec, "attach": testAttach, "podctl": testPodctl, "whole": testWhole,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); part(t, s) })
	}
}

// suite is one podd and what tests ask it with.
type suite struct {
	*harness.Podd
	client *kubernetes.Clientset
	huge   error // why there are no huge pages; nil if there are
}

// start runs a podd that has the busybox image.
func start(t *testing.T, opts ...harness.Option) *suite {
	t.Helper()
	p := harness.Start(t, opts...)
	s := &suite{Podd: p, client: p.Client()}
	s.must(t, "image", "load", archives.oci)
	p.Rebase()
	return s
}

// must runs podctl, which has to succeed, and returns what it printed.
func (s *suite) must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := s.Podctl(args...)
	if code != 0 {
		t.Fatalf("podctl %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// refused runs podctl, which has to fail, and returns the one error it printed.
func (s *suite) refused(t *testing.T, in string, args ...string) string {
	t.Helper()
	out, errs, code := s.PodctlInput(strings.NewReader(in), args...)
	if code == 0 {
		t.Fatalf("podctl %s: should fail, printed\n%s%s", strings.Join(args, " "), out, errs)
	}
	return errs
}

// apply makes pods. It asks the API itself: podctl takes more of the processor for its start than the API for the pod. What is
// no pod, and what is there and has to be changed, is given to podctl with all that follows.
func (s *suite) apply(t *testing.T, manifests ...fmt.Stringer) {
	t.Helper()
	for i, m := range manifests {
		p, ok := m.(pod)
		if !ok {
			s.podctlApply(t, manifests[i:]...)
			return
		}
		err := s.make(t.Context(), p)
		if apierrors.IsAlreadyExists(err) {
			s.podctlApply(t, manifests[i:]...)
			return
		}
		if err != nil {
			t.Fatalf("create %s: %v\nof\n%s", p.Name, err, p)
		}
	}
}

// podctlApply gives manifests to podctl apply and returns what it printed.
func (s *suite) podctlApply(t *testing.T, manifests ...fmt.Stringer) string {
	t.Helper()
	var all []string
	for _, m := range manifests {
		all = append(all, m.String())
	}
	in := strings.Join(all, "---\n")
	out, errs, code := s.PodctlInput(strings.NewReader(in), "apply", "-f", "-")
	if code != 0 {
		t.Fatalf("podctl apply: exit %d\n%s%s\nof\n%s", code, out, errs, in)
	}
	return out
}

// pod is a manifest of a pod with one container, app, of the busybox image.
type pod struct {
	Name      string
	Script    string // what the shell of app runs; empty: Container says what runs
	Spec      string // more lines of the spec
	Container string // more lines of the container
	More      string // more containers
	Meta      string // more lines of the metadata
}

// String is the manifest. What it does not say is set so that tests are quick: the pod is not restarted, and gets one
// second to end.
func (p pod) String() string {
	if !strings.Contains(p.Spec, "restartPolicy:") {
		p.Spec += "\nrestartPolicy: Never"
	}
	if !strings.Contains(p.Spec, "terminationGracePeriodSeconds:") {
		p.Spec += "\nterminationGracePeriodSeconds: 1"
	}
	if !strings.Contains(p.Container, "image:") {
		p.Container += "\nimage: " + busybox
	}
	if p.Script != "" {
		script, _ := json.Marshal(p.Script)
		p.Container += "\ncommand: [sh, -c, " + string(script) + "]"
	}
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + p.Name + "\n" + indent(2, p.Meta) +
		"spec:\n" + indent(2, p.Spec) + "  containers:\n  - name: app\n" + indent(4, p.Container) + indent(2, p.More)
}

// indent puts blanks before every line of text that is not empty.
func indent(n int, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			b.WriteString(strings.Repeat(" ", n) + strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}

// sleeper is a pod that runs until it is deleted, and ends at once then.
func sleeper(name string) pod { return pod{Name: name, Script: sleepScript} }

const sleepScript = "trap 'exit 0' TERM; sleep 1000000 & wait"

// until follows a pod until what is wanted is true of it. The pod that is gone is nil.
func (s *suite) until(t *testing.T, name, what string, wanted func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pod, err := s.follow(ctx, name, wanted)
	if err != nil {
		t.Fatalf("pod %s: wait until %s: %v\n%s", name, what, err, s.story(name))
	}
	return pod
}

// follow looks and then watches, and again if the watch ends.
func (s *suite) follow(ctx context.Context, name string, wanted func(*v1.Pod) bool) (*v1.Pod, error) {
	pods := s.client.CoreV1().Pods(metav1.NamespaceDefault)
	for ctx.Err() == nil {
		version := ""
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			if pod = nil; wanted(nil) {
				return nil, nil
			}
		case err != nil:
			return nil, err
		case wanted(pod):
			return pod, nil
		default:
			version = pod.ResourceVersion
		}
		only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(), ResourceVersion: version}
		w, err := pods.Watch(ctx, only)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) { // podd was restarted and the pod has not changed since
			only.ResourceVersion = ""
			w, err = pods.Watch(ctx, only)
		}
		if err != nil {
			return nil, err
		}
		pod, ok := among(w, wanted)
		w.Stop()
		if ok {
			return pod, nil
		}
	}
	return nil, ctx.Err()
}

func among(w watch.Interface, wanted func(*v1.Pod) bool) (*v1.Pod, bool) {
	for e := range w.ResultChan() {
		pod, ok := e.Object.(*v1.Pod)
		if !ok {
			return nil, false
		}
		if e.Type == watch.Deleted {
			pod = nil
		}
		if wanted(pod) {
			return pod, true
		}
	}
	return nil, false
}

// story is what podd tells of a pod, for a test that failed.
func (s *suite) story(name string) string {
	yaml, _, _ := s.Podctl("get", "pod", name, "-o", "jsonpath={.status}")
	events, _, _ := s.Podctl("events", "--for", "pod/"+name)
	logs, _, _ := s.Podctl("logs", name, "--all-containers", "--tail", "20")
	return "status: " + yaml + "\nevents:\n" + events + "\nlogs:\n" + logs
}

// Conditions on a pod that tests wait for. None is true of a pod that is gone, but gone.

func phase(p v1.PodPhase) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool { return pod != nil && pod.Status.Phase == p }
}

func gone(pod *v1.Pod) bool { return pod == nil }

func ready(pod *v1.Pod) bool { return condition(pod, v1.PodReady) == v1.ConditionTrue }

// condition is the status of a condition, or nothing.
func condition(pod *v1.Pod, kind v1.PodConditionType) v1.ConditionStatus {
	if pod == nil {
		return ""
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// restarts is true when container app runs and was restarted so often.
func restarts(n int32) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool {
		c := app(pod)
		return c.RestartCount >= n && c.State.Running != nil
	}
}

// waiting is true when container app waits for that reason.
func waiting(reason string) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool {
		w := app(pod).State.Waiting
		return w != nil && w.Reason == reason
	}
}

// app is the status of container app; empty while there is none.
func app(pod *v1.Pod) v1.ContainerStatus { return container(pod, "app") }

func container(pod *v1.Pod, name string) v1.ContainerStatus {
	if pod != nil {
		for _, c := range pod.Status.ContainerStatuses {
			if c.Name == name {
				return c
			}
		}
	}
	return v1.ContainerStatus{}
}

// running applies a pod and waits until it is ready.
func (s *suite) running(t *testing.T, p pod) *v1.Pod {
	t.Helper()
	s.apply(t, p)
	return s.until(t, p.Name, "ready", ready)
}

// logged waits until the log of a container that runs is want: that it has been started does not mean that it has said anything.
func (s *suite) logged(t *testing.T, want string, args ...string) {
	t.Helper()
	eventually(t, func() error {
		if got := s.must(t, append([]string{"logs"}, args...)...); got != want {
			return fmt.Errorf("podctl logs %s: %q, want %q", strings.Join(args, " "), got, want)
		}
		return nil
	})
}

// output applies a pod, waits until it has succeeded, and returns what it printed. The pod is deleted.
func (s *suite) output(t *testing.T, p pod) string {
	t.Helper()
	s.apply(t, p)
	s.until(t, p.Name, "ended", func(pod *v1.Pod) bool {
		return phase(v1.PodSucceeded)(pod) || phase(v1.PodFailed)(pod)
	})
	out, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).GetLogs(p.Name, &v1.PodLogOptions{Container: "app"}).DoRaw(t.Context())
	if err != nil {
		t.Errorf("log of pod %s: %v", p.Name, err)
	}
	if pod := s.until(t, p.Name, "there", func(*v1.Pod) bool { return true }); !phase(v1.PodSucceeded)(pod) {
		t.Errorf("pod %s failed:\n%s", p.Name, s.story(p.Name))
	}
	s.remove(t, p.Name)
	return strings.TrimSuffix(string(out), "\n")
}

// remove deletes a pod with a second of grace and waits until it is gone.
func (s *suite) remove(t *testing.T, name string) {
	t.Helper()
	s.removeIn(t, name, 1)
}

// removeIn is remove with time to end in order, in seconds.
func (s *suite) removeIn(t *testing.T, name string, grace int64) {
	t.Helper()
	if err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatalf("delete pod %s: %v", name, err)
	}
	s.until(t, name, "gone", gone)
}

// sh runs a script in container app and returns what it printed.
func (s *suite) sh(t *testing.T, name, script string) string {
	t.Helper()
	return strings.TrimSuffix(s.must(t, "exec", name, "-c", "app", "--", "sh", "-c", script), "\n")
}

// eventually asks again until the answer is nil, ever more rarely. It is for what has no watch: files, processes, the network.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	var err error
	wait := 10 * time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait = min(wait*3/2, time.Second/4) {
		if err = ask(); err == nil {
			return
		}
		time.Sleep(wait)
	}
	t.Fatalf("after %s: %v", patience, err)
}
