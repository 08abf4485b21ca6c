//go:build host

// Package bench measures podd on the host it runs on: start of a pod against the same two containers made one after the
// other through containerd's Go client without a network, exit to phase, deletion, and what podd costs when idle. What is
// compared is interleaved in one run, and quoted as a ratio of medians.
package bench

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"podd/test/harness"
	"podd/test/ociimage"
)

const (
	image   = "localhost/stamp:bench"
	warmups = 5
)

var samples = flag.Int("samples", 50, "how often what is done one after the other is measured")

// bench is one podd with its measuring gear.
type bench struct {
	testing.TB
	podd   *harness.Podd
	client *kubernetes.Clientset
	out    string // shared with the containers: the stamps
	n      int
}

func open(t testing.TB, args ...string) *bench {
	t.Helper()
	source, err := os.ReadFile("stamp/main.go")
	if err != nil {
		t.Fatal(err)
	}
	program, err := ociimage.Program(t.Context(), string(source))
	if err != nil {
		t.Fatal(err)
	}
	p := harness.Start(t, harness.WithArgs(append([]string{"--log-level=warn"}, args...)...))
	p.Load(ociimage.Image{Name: image, Layers: [][]ociimage.File{{{Path: "stamp", Content: program}}}})
	return &bench{TB: t, podd: p, client: p.Client(), out: t.TempDir()}
}

func (b *bench) name() string {
	b.n++
	return "bench-" + strconv.Itoa(b.n)
}

func (b *bench) pod(name string, args ...string) *v1.Pod {
	grace := int64(1)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: &grace, RestartPolicy: v1.RestartPolicyNever,
			Volumes: []v1.Volume{{Name: "out", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: b.out}}}},
			Containers: []v1.Container{{
				Name: "app", Image: image, ImagePullPolicy: v1.PullNever, Command: append([]string{"/stamp", "/out/" + name}, args...),
				VolumeMounts: []v1.VolumeMount{{Name: "out", MountPath: "/out"}},
			}},
		},
	}
}

// stamp waits for a stamp and returns its time.
func (b *bench) stamp(name string) time.Time {
	b.Helper()
	file := filepath.Join(b.out, name)
	for limit := time.Now().Add(20 * time.Second); ; {
		data, err := os.ReadFile(file)
		if err == nil {
			ns, err := strconv.ParseInt(string(data), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return time.Unix(0, ns)
		}
		if time.Now().After(limit) {
			b.Fatalf("no stamp %s", name)
		}
		time.Sleep(200 * time.Microsecond) // polled so that nothing else is woken; the stamp tells the time
	}
}

func (b *bench) create(pod *v1.Pod) time.Time {
	b.Helper()
	begun := time.Now()
	if _, err := b.client.CoreV1().Pods("default").Create(b.Context(), pod, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	return begun
}

// apply measures one start by `podctl apply -f FILE`, from before podctl is executed.
func (b *bench) apply(pod *v1.Pod) time.Duration {
	b.Helper()
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	manifest, err := json.Marshal(pod)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "pod.json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	if out, errs, code := b.podd.Podctl("apply", "-f", file); code != 0 {
		b.Fatalf("podctl apply: exit %d\n%s%s", code, out, errs)
	}
	took := b.stamp(pod.Name).Sub(begun)
	b.await(pod.Name, running)
	b.delete(pod.Name, 1)
	b.await(pod.Name, never) // or its end would run beside the next start
	return took
}

// await waits on a watch until the pod is as wanted, or gone, and returns when that was seen.
func (b *bench) await(name string, want func(*v1.Pod) bool) time.Time {
	b.Helper()
	w, err := b.client.CoreV1().Pods("default").Watch(b.Context(), metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		pod, ok := e.Object.(*v1.Pod)
		if ok && want(pod) || e.Type == "DELETED" {
			return time.Now()
		}
	}
	b.Fatalf("the watch of %s ended", name)
	return time.Time{}
}

func running(p *v1.Pod) bool {
	s := p.Status.ContainerStatuses
	return p.Status.Phase == v1.PodRunning && len(s) == 1 && s[0].State.Running != nil
}

func never(*v1.Pod) bool { return false }

func (b *bench) delete(name string, grace int64) time.Time {
	b.Helper()
	begun := time.Now()
	if err := b.client.CoreV1().Pods("default").Delete(b.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		b.Fatal(err)
	}
	return begun
}

// series is a list of durations of one kind.
type series []time.Duration

func (s series) at(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (s series) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  max %s ms  n=%d", ms(s.at(.5)), ms(s.at(.9)), ms(s.at(.99)), ms(s.at(1)), len(s))
}

// peer starts pause and app one after the other through containerd's client, as the shortest honest sequence does.
type peer struct {
	client *containerd.Client
	image  containerd.Image
	ctx    context.Context
}

func (b *bench) peer() *peer {
	b.Helper()
	c, err := containerd.New(b.podd.ContainerdSocket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	ctx := namespaces.WithNamespace(b.Context(), b.podd.Namespace)
	img, err := c.GetImage(ctx, image)
	if err != nil {
		b.Fatal(err)
	}
	return &peer{c, img, ctx}
}

// run makes one container run. exit tells of its end, after which remove takes it away.
func (p *peer) run(b *bench, id string, args ...string) (task containerd.Task, exit <-chan containerd.ExitStatus, remove func()) {
	b.Helper()
	mount := oci.WithMounts([]specs.Mount{{Destination: "/out", Type: "bind", Source: b.out, Options: []string{"rbind", "rw"}}})
	c, err := p.client.NewContainer(p.ctx, id, containerd.WithNewSnapshot(id, p.image),
		containerd.WithNewSpec(oci.WithImageConfigArgs(p.image, nil), oci.WithProcessArgs(args...), mount))
	if err != nil {
		b.Fatal(err)
	}
	task, err = c.NewTask(p.ctx, cio.NullIO)
	if err != nil {
		b.Fatal(err)
	}
	exit, err = task.Wait(p.ctx)
	if err != nil {
		b.Fatal(err)
	}
	if err := task.Start(p.ctx); err != nil {
		b.Fatal(err)
	}
	return task, exit, func() {
		if _, err := task.Delete(p.ctx); err != nil {
			b.Fatal(err)
		}
		if err := c.Delete(p.ctx, containerd.WithSnapshotCleanup); err != nil {
			b.Fatal(err)
		}
	}
}

// start makes one container run and returns what ends it.
func (p *peer) start(b *bench, id string, args ...string) func() {
	b.Helper()
	task, exit, remove := p.run(b, id, args...)
	return func() {
		if err := task.Kill(p.ctx, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		<-exit
		remove()
	}
}

// pair measures one start of the peer: from the first call to the app's first instruction.
func (p *peer) pair(b *bench, name string) time.Duration {
	begun := time.Now()
	endPause := p.start(b, name+"-pause", "/stamp", "/out/"+name+".pause")
	endApp := p.start(b, name+"-app", "/stamp", "/out/"+name)
	took := b.stamp(name).Sub(begun)
	endApp()
	endPause()
	return took
}

func BenchmarkPodStart(tb *testing.B) {
	b := open(tb)
	p := b.peer()
	var podd, visible, deleted, peers, applied series
	var started, ended counts
	gear := openCounters(tb)
	for i := range warmups + *samples {
		pod := b.pod(b.name())
		before := gear.read(tb)
		begun := b.create(pod)
		first := b.stamp(pod.Name).Sub(begun)
		seen := b.await(pod.Name, running).Sub(begun)
		up := gear.read(tb)
		asked := b.delete(pod.Name, 1)
		gone := b.await(pod.Name, never).Sub(asked)
		down := gear.read(tb)
		other := p.pair(b, pod.Name+"-peer")
		typed := b.apply(b.pod(b.name()))
		if i < warmups {
			continue
		}
		applied = append(applied, typed)
		podd, visible, deleted, peers = append(podd, first), append(visible, seen), append(deleted, gone), append(peers, other)
		started, ended = add(started, up.since(before)), add(ended, down.since(up))
	}
	ratio := float64(podd.at(.5)) / float64(peers.at(.5))
	tb.ReportMetric(ratio, "podd/client")
	tb.ReportMetric(float64(podd.at(.5))/1e6, "first-instruction-p50-ms")
	report(tb,
		"create to the app's first instruction, podd      "+podd.String(),
		"the same, pause then app by containerd's client  "+peers.String(),
		fmt.Sprintf("ratio of medians                                 %.2f (target at most 1.3)", ratio),
		"podctl apply, as a process, to the same          "+applied.String(),
		fmt.Sprintf("ratio of medians with podctl's own time          %.2f", float64(applied.at(.5))/float64(peers.at(.5))),
		"create to Running on a watch                     "+visible.String(),
		"delete to DELETED on a watch                     "+deleted.String(),
		fmt.Sprintf("per start   %.1f execve, %.1f fdatasync and fsync", per(started.execs), per(started.syncs)),
		fmt.Sprintf("per delete  %.1f execve, %.1f fdatasync and fsync", per(ended.execs), per(ended.syncs)))
}

func add(a, b counts) counts { return counts{a.execs + b.execs, a.syncs + b.syncs} }

func per(n uint64) float64 { return float64(n) / float64(*samples) }

// end has the app of that name end, which waits for it.
func (b *bench) end(name string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.out, name+".end"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
}

// ended runs a program and has it end, as the shortest honest sequence does, and returns how long after its last act the
// client heard of its end.
func (p *peer) ended(b *bench, id string) time.Duration {
	b.Helper()
	_, exit, remove := p.run(b, id, "/stamp", "/out/"+id, "again")
	b.stamp(id)
	b.end(id)
	<-exit
	heard := time.Now()
	remove()
	return heard.Sub(b.stamp(id + ".exit"))
}

// exits measures one exit of the app: to its state on a watch, and to the phase. An app that waits to be told is told when
// it is ready.
func (b *bench) exits(pod *v1.Pod) (state, phase time.Duration) {
	b.Helper()
	b.create(pod)
	if pod.Spec.Containers[0].Command[2] == "again" {
		b.await(pod.Name, ready)
		b.end(pod.Name)
	}
	var shown time.Time
	seen := b.await(pod.Name, func(p *v1.Pod) bool {
		if s := p.Status.ContainerStatuses; shown.IsZero() && len(s) > 0 && s[0].State.Terminated != nil {
			shown = time.Now()
		}
		return p.Status.Phase == v1.PodSucceeded
	})
	last := b.stamp(pod.Name + ".exit")
	b.delete(pod.Name, 0)
	return shown.Sub(last), seen.Sub(last)
}

// attended gives the pod all kinds of probes, asked every second, and a sidecar with one. They succeed.
func (b *bench) attended(pod *v1.Pod) *v1.Pod {
	probe := func() *v1.Probe {
		return &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1000, ProbeHandler: v1.ProbeHandler{
			TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(8080)}}}
	}
	always := v1.ContainerRestartPolicyAlways
	app := &pod.Spec.Containers[0]
	sidecar := app.DeepCopy()
	sidecar.Name, sidecar.RestartPolicy, sidecar.Command = "sidecar", &always, []string{"/stamp", "/out/" + pod.Name + ".sidecar", "listen"}
	sidecar.LivenessProbe, sidecar.StartupProbe = probe(), probe()
	app.LivenessProbe, app.ReadinessProbe = probe(), probe()
	pod.Spec.InitContainers = []v1.Container{*sidecar}
	return pod
}

// BenchmarkExitVisible is how long after its last act the end of an app is seen on a watch, alone and with probes and a
// sidecar, which has to be stopped before the pod is over. The same app is run by containerd's client, which waits for it.
// An app that ends as soon as it has begun does so while podd and the shim are still at its start.
func BenchmarkExitVisible(tb *testing.B) {
	b := open(tb)
	p := b.peer()
	var heard, state, phase, attendedState, attendedPhase, hasty series
	for i := range warmups + *samples {
		one := p.ended(b, b.name())
		two, three := b.exits(b.pod(b.name(), "again"))
		four, five := b.exits(b.attended(b.pod(b.name(), "again")))
		_, six := b.exits(b.pod(b.name(), "exit"))
		if i >= warmups {
			heard, state, phase, hasty = append(heard, one), append(state, two), append(phase, three), append(hasty, six)
			attendedState, attendedPhase = append(attendedState, four), append(attendedPhase, five)
		}
	}
	tb.ReportMetric(float64(phase.at(.5))/1e6, "exit-visible-p50-ms")
	tb.ReportMetric(float64(attendedState.at(.5))/1e6, "attended-exit-visible-p50-ms")
	report(tb,
		"exit of the app to the end of Wait in containerd's client  "+heard.String(),
		"exit of the app to terminated on a watch                   "+state.String(),
		"exit of the app to Succeeded on a watch                    "+phase.String()+" (target p50 at most 20)",
		"with probes and a sidecar: to terminated                   "+attendedState.String()+" (target p50 at most 20)",
		"with probes and a sidecar, stopped meanwhile: to Succeeded "+attendedPhase.String(),
		"an app that ends as it begins: to Succeeded                "+hasty.String())
}

// BenchmarkContainerRestart is how soon after an exit the next instance of the app runs its first instruction when there is no
// back-off, against the making and starting of one container by containerd's client.
func BenchmarkContainerRestart(tb *testing.B) {
	b := open(tb, "--restart-backoff=1ns", "--restart-backoff-max=1ns")
	p := b.peer()
	pod := b.pod(b.name(), "again")
	pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	name := pod.Name
	b.create(pod)
	b.stamp(name)
	var again, alone series
	for i := range warmups + *samples {
		id := b.name()
		begun := time.Now()
		end := p.start(b, id, "/stamp", "/out/"+id)
		one := b.stamp(id).Sub(begun)
		end()
		if err := os.Remove(filepath.Join(b.out, name)); err != nil {
			tb.Fatal(err)
		}
		b.end(name)
		two := b.stamp(name).Sub(b.stamp(name + ".exit"))
		if err := os.Remove(filepath.Join(b.out, name+".exit")); err != nil {
			tb.Fatal(err)
		}
		if i >= warmups {
			alone, again = append(alone, one), append(again, two)
		}
	}
	ratio := float64(again.at(.5)) / float64(alone.at(.5))
	tb.ReportMetric(ratio, "restart/client")
	report(tb,
		"exit of the app to the next one's first instruction   "+again.String(),
		"create and start by containerd's client, to the same  "+alone.String(),
		fmt.Sprintf("ratio of medians                                      %.2f (target at most 1.5)", ratio))
}

// idleTime is how long podd is watched doing nothing.
const idleTime = 30 * time.Second

func BenchmarkIdle(tb *testing.B) {
	b := open(tb)
	for _, pods := range []int{0, 50} {
		for range pods {
			b.create(b.pod(b.name()))
		}
		for i := range pods {
			b.await("bench-"+strconv.Itoa(i+1), running)
		}
		settle := time.Now()
		for time.Since(settle) < 10*time.Second { // what starting left to do, such as garbage collections
			time.Sleep(time.Second)
		}
		cpu := b.cpu()
		time.Sleep(idleTime)
		used := b.cpu() - cpu
		percent := 100 * used.Seconds() / idleTime.Seconds()
		tb.ReportMetric(percent, fmt.Sprintf("cpu-%%-%d-pods", pods))
		tb.ReportMetric(b.status("RssAnon")/1024, fmt.Sprintf("RssAnon-MB-%d-pods", pods))
		report(tb, fmt.Sprintf("%3d pods  RssAnon %.1f MB  RSS %.1f MB  threads %.0f  %.2f %% of a core over %s", pods,
			b.status("RssAnon")/1024, b.status("VmRSS")/1024, b.status("Threads"), percent, idleTime))
	}
}

// cpu is the processor time that podd has used, to 10 ms.
func (b *bench) cpu() time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.podd.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var ticks int64
	for _, s := range f[11:13] { // utime, stime: fields 14 and 15 of proc_pid_stat(5)
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// status is a number of /proc/PID/status of podd; sizes are in KiB.
func (b *bench) status(key string) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.podd.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("no %s in /proc/PID/status", key)
	return 0
}

// report prints what was measured, apart from the benchmark's own line.
func report(tb testing.TB, lines ...string) {
	tb.Helper()
	fmt.Printf("\n%s\n  %s\n", tb.Name(), strings.Join(lines, "\n  "))
}
