package plan

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/status"
)

var (
	lifeSeed = flag.Uint64("life.seed", 0, "live this one life only, and tell it")
	lives    = flag.Int("life.count", 10000, "how many random lives to live")
	wrongs   = flag.Uint64("life.wrong", 1, "how many lives may go wrong before the others are not lived")
)

// TestRandomLives lives many random lives of a pod: init containers, sidecars, hooks, probes, rules and deadlines; steps of
// random length that fail in every way, exits, kills of podd, deaths of the sandbox, reboots, a containerd that is away,
// changes of the spec, and a deletion at any point. world and model check each step and each status; here it is checked
// that the pod always gets where it should.
func TestRandomLives(t *testing.T) {
	if *lifeSeed != 0 {
		life(t, *lifeSeed, true)
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // little lives long here
	begin := time.Now()
	var next, failed atomic.Uint64
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for failed.Load() < *wrongs {
				n := next.Add(1)
				if n > uint64(*lives) {
					return
				}
				seed := n
				if n > known {
					seed = rand.Uint64()
				}
				if !life(t, seed, false) {
					failed.Add(1)
					t.Errorf("live it again with -run TestRandomLives -v -life.seed=%d", seed)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d lives in %v", min(next.Load(), uint64(*lives)), time.Since(begin).Round(time.Millisecond))
}

// known is how many lives are the same in every run. Those after them are others each time.
const known = 10000

// judge is a reporter that remembers whether something was wrong, and tells the beginning of it.
type judge struct {
	*testing.T
	wrong int
}

func (j *judge) Errorf(format string, args ...any) {
	j.Helper()
	if j.wrong++; j.wrong <= 2 {
		j.T.Errorf(format, args...)
	}
}

// eventful is after how many looks enough has happened in a life.
const eventful = 150

// life lives one life and tells whether all was well.
func life(t *testing.T, seed uint64, tells bool) bool {
	j := &judge{T: t}
	rng := rand.New(rand.NewPCG(seed, 2)) // of what happens
	w := randomWorld(j, rand.New(rand.NewPCG(seed, 3)), seed)
	w.tells = tells
	if tells {
		w.log = func(format string, args ...any) {
			t.Logf("%12s  "+format, append([]any{stamp(w.now.Sub(w.started))}, args...)...)
		}
		w.log("%s", spec(w.pod))
	}
	if seed%3 == 0 { // the host admits a pod when it takes it up; without that its resources are never changed
		w.effect(Step{Op: Allocate})
	}
	w.boot()
	trouble(w, rng)
	// Calm: nothing fails any more. Images that were never pulled may be loaded now.
	w.happens(func() {
		w.fails = func(Step) fate { return works }
		w.reachable = true
		for _, c := range everyContainer(w.pod) {
			w.images[c.Image] = true
		}
		for _, v := range w.pod.Spec.Volumes {
			w.images[v.Image.Reference] = true
		}
	})
	if !reaches(w, 4*time.Hour, func() bool { return w.finished || w.pod.DeletionTimestamp == nil && !w.gone && atRest(w) }) {
		j.Errorf("%s: not where it should be: %s\n%s", w.name, summary(w.d.prev), state(w))
	}
	w.happens(func() { w.remove(30 * time.Second) })
	if !reaches(w, 10*time.Minute, func() bool { return w.finished }) {
		j.Errorf("%s: not gone\n%s", w.name, state(w))
	}
	return j.wrong == 0
}

// spec is a pod in one line.
func spec(pod *v1.Pod) string {
	line := string(pod.Spec.RestartPolicy)
	for _, c := range everyContainer(pod) {
		line += " " + c.Name
		if c.RestartPolicy != nil {
			line += "/" + string(*c.RestartPolicy)
		}
		for _, r := range c.RestartPolicyRules {
			line += fmt.Sprintf("/%s%v", r.Action, r.ExitCodes.Values)
		}
		for name, p := range map[string]*v1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			if p != nil {
				line += "/" + name
			}
		}
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
			line += "/postStart"
		}
		if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
			line += "/preStop"
		}
	}
	if d := pod.Spec.ActiveDeadlineSeconds; d != nil {
		line += fmt.Sprintf(" for %d s", *d)
	}
	return line
}

func state(w *world) string {
	return fmt.Sprintf("ground %v/%v network %+v\nsandboxes %+v\ncontainers %+v\nverdict %+v jobs %+v failures %+v",
		w.ground, w.groundLeft, w.network, w.sandboxes, w.containers, w.verdict, w.d.jobs, w.d.failures)
}

// trouble lets things happen for a while.
func trouble(w *world, rng *rand.Rand) {
	for range 1 + rng.IntN(10) {
		w.pass(span(rng))
		if w.finished || w.looks > eventful {
			return
		}
		switch rng.IntN(17) {
		case 11:
			w.happens(func() { w.log("-- debug"); w.images["img-"+debugger] = rng.IntN(2) == 0; w.debug() })
		case 0, 1:
			w.kill()
			w.log("-- podd was killed")
			w.pass(span(rng))
			w.boot()
		case 2:
			w.happens(func() { w.log("-- sandbox dies"); w.sandboxDies(rng.IntN(2) == 0) })
		case 3:
			w.kill()
			w.log("-- reboot")
			w.reboot()
			w.pass(span(rng))
			w.boot()
		case 4:
			w.happens(func() { w.log("-- containerd is away"); w.reachable = false })
			if rng.IntN(3) == 0 {
				w.kill()
				w.boot()
			}
			w.pass(span(rng))
			w.happens(func() { w.log("-- containerd is back"); w.reachable = true })
		case 5:
			w.happens(func() {
				for _, c := range slices.Clone(w.containers) {
					w.exit(c.ID, 139, "Error")
				}
			})
		case 6:
			w.happens(func() { w.log("-- delete"); w.remove(time.Duration(rng.IntN(40)) * time.Second) })
		case 7:
			if rng.IntN(4) == 0 {
				w.happens(func() { w.log("-- delete by force"); w.gone = true })
			}
		case 16:
			if rng.IntN(3) == 0 {
				w.happens(func() {
					w.d.beyond = &status.Eviction{Message: "too much", Reason: []string{"", "", "Preempting"}[rng.IntN(3)], Disruption: rng.IntN(2) == 0}
					w.log("-- it is to be evicted: %+v", *w.d.beyond)
				})
			}
		case 12, 13, 14, 15:
			w.happens(func() { change(w, rng) })
		case 10:
			w.happens(func() { w.log("-- a source changes"); w.sources++ })
		case 9:
			w.happens(func() { w.log("-- somebody removes the sandbox"); w.sandboxes = nil })
		case 8:
			w.happens(func() {
				for i := range w.images {
					delete(w.images, i)
				}
			})
		}
	}
}

// change is somebody else's: of the spec, of a condition, of what other pods leave.
func change(w *world, rng *rand.Rand) {
	w.pod = w.pod.DeepCopy()
	pod := w.pod
	c := &pod.Spec.Containers[rng.IntN(len(pod.Spec.Containers))]
	if n := len(pod.Spec.InitContainers); n > 0 && rng.IntN(3) == 0 {
		c = &pod.Spec.InitContainers[rng.IntN(n)]
	}
	switch rng.IntN(5) {
	case 4:
		pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{"cpu": []resource.Quantity{one, two}[rng.IntN(2)]}}
		w.log("-- the resources of the pod are changed")
	case 0:
		c.Image = []string{"x", "y"}[rng.IntN(2)]
		w.log("-- the image of %s is %s", c.Name, c.Image)
	case 1:
		c.Resources.Requests = v1.ResourceList{"cpu": []resource.Quantity{one, two}[rng.IntN(2)]}
		w.log("-- the resources of %s are changed", c.Name)
	case 2:
		pod.Status.Conditions = []v1.PodCondition{{Type: "gate", Status: []v1.ConditionStatus{"True", "False"}[rng.IntN(2)]}}
	case 3:
		if left := pod.Spec.ActiveDeadlineSeconds; left != nil && *left > 5 && w.verdict == nil {
			*left = 1 + rng.Int64N(*left)
			w.log("-- for %d s", *left)
		}
	}
}

var one, two = resource.MustParse("1"), resource.MustParse("2")

// span is a random time: mostly as long as a step takes, sometimes as long as a back-off.
func span(rng *rand.Rand) time.Duration {
	longest := []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 5 * time.Second, time.Minute, 15 * time.Minute}
	return 1 + time.Duration(rng.Int64N(int64(longest[rng.IntN(len(longest))])))
}

// reaches lets time pass until goal holds.
func reaches(w *world, limit time.Duration, goal func() bool) bool {
	for end := w.now.Add(limit); w.now.Before(end); w.pass(3 * time.Second) {
		if goal() {
			return true
		}
	}
	return false
}

// atRest tells whether a pod that is not deleted is where it should be: over and taken down, or with each container that
// is due running and asked what it is to be asked, done, or waiting for its back-off, in one sandbox with its network.
func atRest(w *world) bool {
	for task := range w.d.jobs {
		if !Waits(task.Op) || task.Op == Stop || task.Op == PreStop || task.Op == PullImage {
			return false
		}
	}
	if w.verdict != nil {
		return len(w.sandboxes)+len(w.containers) == 0 && !w.network.Attached && !(newModel(w).expelled() && w.stored)
	}
	if len(w.sandboxes) != 1 || w.sandboxes[0].State != status.Running || !w.network.Ready || !w.ground || w.written != w.sources {
		return false
	}
	if w.before != nil || !w.held() || slices.ContainsFunc(w.containers, w.unheld) {
		return false
	}
	m := newModel(w)
	if m.ending() || m.restartsAll() || !m.attended() {
		return false
	}
	for _, b := range m.all {
		here := b.last != nil && b.last.Sandbox == m.sandbox && !b.old
		switch {
		case b.part == regularPart && b.last != nil && b.last == b.exit && !m.again(b):
		case !here || b.last.State == status.Created:
			if m.begun() && b.part == plainPart {
				continue
			}
			return false
		case b.last.State == status.Running && !m.begun() && (b.part == plainPart || !b.started):
			return true // the others wait for it
		case b.last.State == status.Exited && !(b.part == plainPart && b.last.ExitCode == 0) && m.again(b):
			if !resting(w, b.last) {
				return false
			}
			if b.part == plainPart {
				return true
			}
		}
	}
	return debugged(w)
}

// resting tells whether the back-off after an exit may hold.
func resting(w *world, last *status.Container) bool {
	return last.Backoff > 0 && w.now.Sub(last.FinishedAt) < min(last.Backoff, 300*time.Second)
}

// debugged tells whether the ephemeral container of a pod has got to run, if it has one.
func debugged(w *world) bool {
	if len(w.pod.Spec.EphemeralContainers) == 0 {
		return true
	}
	all := w.instances(w.containers)
	i := slices.IndexFunc(all, func(c status.Container) bool { return c.Name == debugger })
	return i >= 0 && all[i].State != status.Created && all[i].Attempt == 0
}

func randomWorld(t reporter, rng *rand.Rand, seed uint64) *world {
	w := newWorld(t, randomPod(rng))
	w.name = fmt.Sprintf("seed %d", seed)
	w.networkFirst = seed%4 == 0
	for _, c := range everyContainer(w.pod) {
		if rng.IntN(2) == 0 {
			w.images[c.Image] = true
		}
	}
	broken := rng.Float64() * 0.4
	w.run = func(c string, _ int) (time.Duration, int32) {
		switch rng.IntN(4) {
		case 0:
			return -1, 0
		case 1:
			if strings.HasPrefix(c, "i") {
				return span(rng) / 100, 0
			}
		}
		return span(rng), []int32{0, 0, 1, 2}[rng.IntN(4)]
	}
	w.obeys = func(string) time.Duration {
		if rng.IntN(3) == 0 {
			return -1
		}
		return span(rng)
	}
	w.take = func(Step) (time.Duration, time.Duration) {
		short := func() time.Duration { return 1 + time.Duration(rng.Int64N(int64(300*time.Millisecond))) }
		if rng.IntN(10) == 0 {
			return span(rng) / 10, span(rng) / 10
		}
		return short(), short()
	}
	w.fails = func(s Step) fate {
		if s.Op == Finish || rng.Float64() > broken {
			return works
		}
		return []fate{failsBefore, failsHalfway, failsAfter}[rng.IntN(3)]
	}
	w.hooks = func(Step) (time.Duration, string) {
		switch rng.IntN(8) {
		case 0:
			return -1, ""
		case 1:
			return span(rng), "it exited with 1"
		}
		return span(rng) / 10, ""
	}
	w.probes = func(s Step) (time.Duration, status.Result) {
		result := []status.Result{status.Success, status.Failure}[rng.IntN(2)]
		switch {
		case rng.IntN(3) == 0:
			return -1, ""
		case s.Op == Liveness:
			result = status.Failure
		case s.Op == Startup && rng.IntN(3) > 0:
			result = status.Success
		}
		return span(rng), result
	}
	w.lag = func() time.Duration {
		if rng.IntN(2) == 0 {
			return 0
		}
		return time.Duration(rng.Int64N(int64(100 * time.Millisecond)))
	}
	return w
}

func randomPod(rng *rand.Rand) *v1.Pod {
	often := func(n int) bool { return rng.IntN(n) == 0 }
	policies := []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}
	names := []string{"a", "b", "c"}[:1+rng.IntN(3)]
	if often(2) {
		for n := range 1 + rng.IntN(3) {
			names = append(names, fmt.Sprintf("i%d/%s", n, []string{"init", "sidecar"}[rng.IntN(2)]))
		}
	}
	pod := newPod(policies[rng.IntN(3)], rng, names...)
	pod.Spec.HostNetwork = often(5)
	pod.Annotations = map[string]string{}
	for i, key := range []string{"static", "rejected", "bad"} {
		if often([]int{8, 20, 15}[i]) {
			pod.Annotations[key] = "a"
		}
	}
	grace := rng.Int64N(40)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	if often(10) {
		seconds := 5 + rng.Int64N(300)
		pod.Spec.ActiveDeadlineSeconds = &seconds
	}
	if often(8) {
		pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "gate"}}
	}
	pod.Spec.HostPID = often(8)
	restartsAll := often(5)
	for i := range pod.Spec.InitContainers {
		randomContainer(&pod.Spec.InitContainers[i], rng, true, restartsAll)
	}
	for i := range pod.Spec.Containers {
		randomContainer(&pod.Spec.Containers[i], rng, false, restartsAll)
	}
	return pod
}

// randomContainer gives c an image, policies, hooks and probes, as far as the API lets it have them.
func randomContainer(c *v1.Container, rng *rand.Rand, init, restartsAll bool) {
	c.ImagePullPolicy = []v1.PullPolicy{v1.PullIfNotPresent, v1.PullIfNotPresent, v1.PullAlways, v1.PullNever}[rng.IntN(4)]
	c.Image = []string{"x", "y"}[rng.IntN(2)]
	sidecar := init && c.RestartPolicy != nil
	if rng.IntN(4) == 0 && !sidecar {
		own := []v1.ContainerRestartPolicy{v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyOnFailure, v1.ContainerRestartPolicyNever}[rng.IntN(3)]
		if init && own == v1.ContainerRestartPolicyAlways {
			own = v1.ContainerRestartPolicyOnFailure
		}
		c.RestartPolicy = &own
		if rng.IntN(2) == 0 {
			rule(c, v1.ContainerRestartRuleActionRestart, 1)
		}
	}
	if restartsAll && rng.IntN(2) == 0 {
		if c.RestartPolicy == nil {
			own := v1.ContainerRestartPolicyNever
			c.RestartPolicy = &own
		}
		rule(c, v1.ContainerRestartRuleActionRestartAllContainers, 2)
	}
	if init && !sidecar {
		return
	}
	probe := func() *v1.Probe {
		switch rng.IntN(8) {
		case 0:
			seconds := 1 + rng.Int64N(20)
			return &v1.Probe{TerminationGracePeriodSeconds: &seconds}
		case 1:
			return &v1.Probe{}
		}
		return nil
	}
	c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = probe(), probe(), probe()
	if c.ReadinessProbe != nil {
		c.ReadinessProbe.TerminationGracePeriodSeconds = nil
	}
	hook := func() *v1.LifecycleHandler {
		if rng.IntN(4) == 0 {
			return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hook"}}}
		}
		return nil
	}
	c.Lifecycle = &v1.Lifecycle{PostStart: hook(), PreStop: hook()}
}

func rule(c *v1.Container, action v1.ContainerRestartRuleAction, code int32) {
	c.RestartPolicyRules = append(c.RestartPolicyRules, v1.ContainerRestartRule{Action: action,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{code}}})
}
