package plan

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
)

var (
	lifeSeed = flag.Uint64("life.seed", 0, "live this one life only, and tell it")
	lifeTime = flag.Duration("life.for", 2*time.Second, "how long to live random lives")
)

// TestRandomLives lives many random lives of a pod: steps of random length that fail in every way, exits, kills of
// podd, deaths of the sandbox, reboots, a containerd that is away, and a deletion at any point. world checks each
// step and each status; here it is checked that the pod always gets where it should.
func TestRandomLives(t *testing.T) {
	if *lifeSeed != 0 {
		life(t, *lifeSeed, true)
		return
	}
	begin, lives := time.Now(), 0
	for seed := uint64(1); !t.Failed() && (lives < 100 || time.Since(begin) < *lifeTime); seed++ {
		at := seed
		if seed > 1000 {
			at = rand.Uint64() // beyond the first thousand every run lives others
		}
		life(t, at, false)
		if t.Failed() {
			t.Logf("live it again with -run TestRandomLives -life.seed=%d", at)
		}
		lives++
	}
	t.Logf("%d lives in %v", lives, time.Since(begin).Round(time.Millisecond))
}

func life(t *testing.T, seed uint64, tells bool) {
	rng := rand.New(rand.NewPCG(seed, 2)) // of what happens
	w := randomWorld(t, rand.New(rand.NewPCG(seed, 3)), seed)
	w.tells = tells
	w.log = func(format string, args ...any) {
		if tells {
			t.Logf("%12s  "+format, append([]any{stamp(w.now.Sub(w.started))}, args...)...)
		}
	}
	w.log("%s, %d containers", w.pod.Spec.RestartPolicy, len(w.pod.Spec.Containers))
	w.boot()
	trouble(w, rng)
	// Calm: nothing fails any more. Images that were never pulled may be loaded now.
	w.happens(func() {
		w.fails = func(Step) fate { return works }
		w.reachable = true
		for _, c := range everyContainer(w.pod) {
			w.images[c.Image] = true
		}
	})
	if !reaches(w, 40*time.Minute, func() bool { return w.finished || w.pod.DeletionTimestamp == nil && !w.gone && atRest(w) }) {
		t.Errorf("seed %d: not where it should be: %s\n%s", seed, summary(w.d.prev), state(w))
	}
	w.happens(func() { w.remove(30 * time.Second) })
	if !reaches(w, 10*time.Minute, func() bool { return w.finished }) {
		t.Errorf("seed %d: not gone\n%s", seed, state(w))
	}
}

func state(w *world) string {
	return fmt.Sprintf("ground %v/%v network %+v\nsandboxes %+v\ncontainers %+v\nverdict %+v jobs %+v failures %+v",
		w.ground, w.groundLeft, w.network, w.sandboxes, w.containers, w.verdict, w.d.jobs, w.d.failures)
}

// trouble lets things happen for a while.
func trouble(w *world, rng *rand.Rand) {
	for range 1 + rng.IntN(10) {
		w.pass(span(rng))
		if w.finished {
			return
		}
		switch rng.IntN(12) {
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

// span is a random time: mostly as long as a step takes, sometimes as long as a back-off.
func span(rng *rand.Rand) time.Duration {
	longest := []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 5 * time.Second, time.Minute, 15 * time.Minute}
	return 1 + time.Duration(rng.Int64N(int64(longest[rng.IntN(len(longest))])))
}

// reaches lets time pass until goal holds.
func reaches(w *world, limit time.Duration, goal func() bool) bool {
	for end := w.now.Add(limit); w.now.Before(end); w.pass(time.Second) {
		if goal() {
			return true
		}
	}
	return false
}

// atRest tells whether a pod that is not deleted is where it should be: over and taken down, or with each container
// running, done, or waiting for its back-off, in one sandbox with its network.
func atRest(w *world) bool {
	if len(w.d.jobs) > 0 {
		return false
	}
	if w.verdict != nil {
		return len(w.sandboxes)+len(w.containers) == 0 && !w.network.Attached
	}
	if len(w.sandboxes) != 1 || w.sandboxes[0].State != status.Running || !w.network.Ready || !w.ground {
		return false
	}
	all := w.instances(w.containers)
	f := status.Facts{Now: w.now, Limits: status.DefaultLimits(), Containers: all}
	for i := range w.pod.Spec.Containers {
		c := &w.pod.Spec.Containers[i]
		last, ok := f.Newest(c.Name)
		if !ok || last.State == status.Created {
			return false
		}
		if last.State == status.Exited && status.ShouldRestart(w.pod, c, last.ExitCode) {
			if until, _ := status.RestartBackoff(last, f, status.RestartKey(w.pod, c)); !until.After(f.Now) {
				return false
			}
		}
	}
	if len(w.pod.Spec.EphemeralContainers) > 0 {
		last, ok := f.Newest(debugger)
		return ok && last.State != status.Created && last.Attempt == 0
	}
	return true
}

func randomWorld(t *testing.T, rng *rand.Rand, seed uint64) *world {
	policies := []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}
	pod := newPod(policies[rng.IntN(3)], rng, []string{"a", "b", "c"}[:1+rng.IntN(3)]...)
	pod.Spec.HostNetwork = rng.IntN(5) == 0
	pod.Annotations = map[string]string{}
	if rng.IntN(8) == 0 {
		pod.Annotations["static"] = "yes"
	}
	if rng.IntN(20) == 0 {
		pod.Annotations["rejected"] = "no"
	}
	if rng.IntN(15) == 0 {
		pod.Annotations["bad"] = "a"
	}
	w := newWorld(t, pod)
	w.name = fmt.Sprintf("seed %d", seed)
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		c.ImagePullPolicy = []v1.PullPolicy{v1.PullIfNotPresent, v1.PullIfNotPresent, v1.PullAlways, v1.PullNever}[rng.IntN(4)]
		c.Image = []string{"x", "y"}[rng.IntN(2)]
		w.images[c.Image] = rng.IntN(2) == 0
		if !w.images[c.Image] {
			delete(w.images, c.Image)
		}
		if rng.IntN(4) == 0 {
			own := []v1.ContainerRestartPolicy{v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyOnFailure, v1.ContainerRestartPolicyNever}[rng.IntN(3)]
			c.RestartPolicy = &own
			if rng.IntN(2) == 0 {
				c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
					ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1}}}}
			}
		}
	}
	broken := rng.Float64() * 0.4
	w.run = func(string, int) (time.Duration, int32) {
		if rng.IntN(3) == 0 {
			return -1, 0
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
	return w
}
