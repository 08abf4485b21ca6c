package status

import (
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// cs is one container of a row: what it is, and its status ("-" is no status at all).
//
//	run | run+ (started) | t0 t1 (terminated) | w (waiting, never ran) | w0 w1 (waiting after an exit) | ? (no state) | -
func cs(name, state string) []v1.ContainerStatus {
	s := v1.ContainerStatus{Name: name}
	exit := func(c string) *v1.ContainerStateTerminated {
		return &v1.ContainerStateTerminated{ExitCode: int32(c[1] - '0')}
	}
	switch state {
	case "-":
		return nil
	case "run", "run+":
		started := state == "run+"
		s.Started, s.State.Running = &started, &v1.ContainerStateRunning{}
	case "t0", "t1":
		s.State.Terminated = exit(state)
	case "tr":
		s.State.Terminated = &v1.ContainerStateTerminated{ExitCode: 1, Reason: restartingAll}
	case "w":
		s.State.Waiting = &v1.ContainerStateWaiting{}
	case "w0", "w1":
		s.State.Waiting, s.LastTerminationState.Terminated = &v1.ContainerStateWaiting{}, exit(state)
	case "wr":
		s.State.Waiting = &v1.ContainerStateWaiting{}
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{ExitCode: 1, Reason: restartingAll}
	}
	return []v1.ContainerStatus{s}
}

// row builds a pod of init containers, sidecars and regular containers in the given states.
func row(policy v1.RestartPolicy, inits, sidecars, regulars []string) (*v1.Pod, []v1.ContainerStatus) {
	pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: policy}}
	var all []v1.ContainerStatus
	always := v1.ContainerRestartPolicyAlways
	for i, s := range inits {
		name := fmt.Sprintf("i%d", i)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, v1.Container{Name: name})
		all = append(all, cs(name, s)...)
	}
	for i, s := range sidecars {
		name := fmt.Sprintf("s%d", i)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, v1.Container{Name: name, RestartPolicy: &always})
		all = append(all, cs(name, s)...)
	}
	for i, s := range regulars {
		name := fmt.Sprintf("r%d", i)
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: name})
		all = append(all, cs(name, s)...)
	}
	return pod, all
}

const (
	always    = v1.RestartPolicyAlways
	onFailure = v1.RestartPolicyOnFailure
	never     = v1.RestartPolicyNever
)

// TestPhase has a row for every clause of getPhase.
func TestPhase(t *testing.T) {
	l := func(s ...string) []string { return s }
	for _, c := range []struct {
		name                      string
		policy                    v1.RestartPolicy
		inits, sidecars, regulars []string
		terminal, initialized     bool
		want                      v1.PodPhase
	}{
		{"init has no status", always, l("-"), nil, l("w"), false, false, v1.PodPending},
		{"init runs", always, l("run"), nil, l("w"), false, false, v1.PodPending},
		{"init has no state", always, l("?"), nil, l("w"), false, false, v1.PodPending},
		{"init waits", always, l("w"), nil, l("w"), false, false, v1.PodPending},
		{"init done, regular waits", always, l("t0"), nil, l("w"), false, false, v1.PodPending},
		{"init done, regular runs", always, l("t0"), nil, l("run"), false, true, v1.PodRunning},
		{"init done and waits, regular runs", always, l("w0"), nil, l("run"), false, true, v1.PodRunning},
		{"init failed, Never", never, l("t1"), nil, l("w"), false, false, v1.PodFailed},
		{"init failed, OnFailure", onFailure, l("t1"), nil, l("w"), false, false, v1.PodPending},
		{"init failed, Always", always, l("t1"), nil, l("w"), false, false, v1.PodPending},
		{"init failed and waits, Never", never, l("w1"), nil, l("w"), false, false, v1.PodFailed},
		{"init failed and waits, OnFailure", onFailure, l("w1"), nil, l("w"), false, false, v1.PodPending},
		{"init killed to restart all, Never", never, l("tr"), nil, l("w"), false, false, v1.PodPending},
		{"init killed to restart all and waits, Never", never, l("wr"), nil, l("w"), false, false, v1.PodPending},
		{"first init failed while the second runs, Never", never, l("t1", "run"), nil, l("run"), false, true, v1.PodFailed},

		{"sidecar has no status", always, nil, l("-"), l("run"), false, true, v1.PodPending},
		{"sidecar runs, not started", always, nil, l("run"), l("w"), false, false, v1.PodPending},
		{"sidecar runs, not started, pod initialized", always, nil, l("run"), l("run"), false, true, v1.PodRunning},
		{"sidecar waits", always, nil, l("w"), l("run"), false, true, v1.PodPending},
		{"sidecar ended", always, nil, l("t1"), l("run"), false, true, v1.PodRunning},
		{"sidecar ended and waits", always, nil, l("w1"), l("run"), false, true, v1.PodRunning},
		{"sidecar has no state", always, nil, l("?"), l("run"), false, true, v1.PodPending},
		{"sidecar alone runs, Never", never, nil, l("run+"), l("t0"), false, true, v1.PodRunning},
		{"sidecar ended, regular succeeded, Never", never, nil, l("t0"), l("t0"), false, true, v1.PodSucceeded},
		{"sidecar failed, regular succeeded, Never", never, nil, l("t1"), l("t0"), false, true, v1.PodSucceeded},

		{"regular has no status", always, nil, nil, l("-"), false, false, v1.PodPending},
		{"one runs, one has no status", always, nil, nil, l("run", "-"), false, true, v1.PodPending},
		{"one runs, one has no state", always, nil, nil, l("run", "?"), false, true, v1.PodPending},
		{"one runs, one waits", always, nil, nil, l("run", "w"), false, true, v1.PodPending},
		{"all run", always, nil, nil, l("run", "run"), false, true, v1.PodRunning},
		{"one runs, one ended, Never", never, nil, nil, l("run", "t1"), false, true, v1.PodRunning},
		{"one runs, one in back-off", always, nil, nil, l("run", "w1"), false, true, v1.PodRunning},
		{"nothing at all", always, nil, nil, nil, false, false, v1.PodPending},

		{"succeeded, Always", always, nil, nil, l("t0"), false, true, v1.PodRunning},
		{"succeeded, OnFailure", onFailure, nil, nil, l("t0"), false, true, v1.PodSucceeded},
		{"succeeded, Never", never, nil, nil, l("t0"), false, true, v1.PodSucceeded},
		{"failed, Always", always, nil, nil, l("t1"), false, true, v1.PodRunning},
		{"failed, OnFailure", onFailure, nil, nil, l("t1"), false, true, v1.PodRunning},
		{"failed, Never", never, nil, nil, l("t1"), false, true, v1.PodFailed},
		{"one of each, Never", never, nil, nil, l("t0", "t1"), false, true, v1.PodFailed},
		{"succeeded and in back-off, OnFailure", onFailure, nil, nil, l("t0", "w1"), false, true, v1.PodRunning},
		{"failed and waits, Never", never, nil, nil, l("w1"), false, true, v1.PodFailed},
		{"succeeded and waits, Never: not counted as success", never, nil, nil, l("w0"), false, true, v1.PodFailed},
		{"killed to restart all, Never", never, nil, nil, l("tr"), false, true, v1.PodRunning},
		{"killed to restart all and waits, Never", never, nil, nil, l("wr"), false, true, v1.PodRunning},

		{"terminal, succeeded, Always", always, nil, nil, l("t0", "t0"), true, true, v1.PodSucceeded},
		{"terminal, failed, Always", always, nil, nil, l("t0", "t1"), true, true, v1.PodFailed},
		{"terminal, in back-off", always, nil, nil, l("w0"), true, true, v1.PodFailed},
		{"terminal, one runs", always, nil, nil, l("run", "t0"), true, true, v1.PodRunning},
		{"terminal, one never ran", always, nil, nil, l("w", "t0"), true, true, v1.PodPending},
	} {
		pod, statuses := row(c.policy, c.inits, c.sidecars, c.regulars)
		if got := phaseOf(pod, statuses, c.terminal, c.initialized); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestPhaseAgainstRules compares phaseOf with the eight rules written down one by one, over every combination that
// chance finds.
func TestPhaseAgainstRules(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	states := []string{"-", "run", "run+", "t0", "t1", "w", "w0", "w1", "?", "tr", "wr"}
	pick := func(most int) []string {
		out := make([]string, rng.IntN(most+1))
		for i := range out {
			out[i] = states[rng.IntN(len(states))]
		}
		return out
	}
	for range 50000 {
		policy := []v1.RestartPolicy{always, onFailure, never}[rng.IntN(3)]
		inits, sidecars, regulars := pick(2), pick(2), pick(3)
		terminal, initialized := rng.IntN(2) == 0, rng.IntN(2) == 0
		pod, statuses := row(policy, inits, sidecars, regulars)
		want := rules(policy, inits, sidecars, regulars, terminal, initialized)
		if got := phaseOf(pod, statuses, terminal, initialized); got != want {
			t.Fatalf("%s init %v sidecars %v regular %v terminal %v initialized %v: %s, the rules say %s",
				policy, inits, sidecars, regulars, terminal, initialized, got, want)
		}
	}
}

// rules is the phase straight from the written rules, on the words of a row instead of on statuses.
func rules(policy v1.RestartPolicy, inits, sidecars, regulars []string, terminal, initialized bool) v1.PodPhase {
	count := func(list []string, words ...string) (n int) {
		for _, s := range list {
			for _, w := range words {
				if s == w {
					n++
				}
			}
		}
		return n
	}
	final := func(list []string) int { // exits after which the container does not run again
		switch policy {
		case never:
			return count(list, "t0", "t1", "w0", "w1")
		case onFailure:
			return count(list, "t0", "w0")
		}
		return 0
	}
	if policy == never && count(inits, "t1", "w1") > 0 {
		return v1.PodFailed
	}
	if count(inits, "-", "run", "run+", "w", "?") > 0 {
		return v1.PodPending
	}
	if count(sidecars, "run", "w", "?") > 0 && !initialized {
		return v1.PodPending
	}
	if count(sidecars, "w")+count(regulars, "w") > 0 {
		return v1.PodPending
	}
	unknown := count(sidecars, "-", "?") + count(regulars, "-", "?")
	running := count(sidecars, "run", "run+") + count(regulars, "run", "run+")
	stopped := count(regulars, "t0", "t1", "tr", "w0", "w1", "wr")
	switch {
	case unknown > 0 || running == 0 && stopped == 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case !terminal && final(regulars) < stopped:
		return v1.PodRunning
	case count(regulars, "t0") == stopped:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

func TestShouldRestart(t *testing.T) {
	p := func(s v1.ContainerRestartPolicy) *v1.ContainerRestartPolicy { return &s }
	rule := func(action v1.ContainerRestartRuleAction, op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) v1.ContainerRestartRule {
		return v1.ContainerRestartRule{Action: action, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	restart, all := v1.ContainerRestartRuleActionRestart, v1.ContainerRestartRuleActionRestartAllContainers
	in, notIn := v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleOnExitCodesOpNotIn
	for _, c := range []struct {
		name  string
		pod   v1.RestartPolicy
		own   *v1.ContainerRestartPolicy
		rules []v1.ContainerRestartRule
		code  int32
		want  bool
	}{
		{"pod Always, 0", always, nil, nil, 0, true},
		{"pod OnFailure, 0", onFailure, nil, nil, 0, false},
		{"pod OnFailure, 1", onFailure, nil, nil, 1, true},
		{"pod Never, 1", never, nil, nil, 1, false},
		{"pod has none, 0", "", nil, nil, 0, true},
		{"own Always over pod Never", never, p("Always"), nil, 0, true},
		{"own Never over pod Always", always, p("Never"), nil, 1, false},
		{"own OnFailure over pod Never, 0", never, p("OnFailure"), nil, 0, false},
		{"own OnFailure over pod Never, 1", never, p("OnFailure"), nil, 1, true},
		{"rule In matches", always, p("Never"), []v1.ContainerRestartRule{rule(restart, in, 3, 42)}, 42, true},
		{"rule In does not match", always, p("Never"), []v1.ContainerRestartRule{rule(restart, in, 3)}, 42, false},
		{"rule NotIn matches", always, p("Never"), []v1.ContainerRestartRule{rule(restart, notIn, 3)}, 42, true},
		{"rule NotIn does not match", always, p("Never"), []v1.ContainerRestartRule{rule(restart, notIn, 42)}, 42, false},
		{"second rule matches", always, p("Never"), []v1.ContainerRestartRule{rule(restart, in, 1), rule(restart, in, 2)}, 2, true},
		{"RestartAllContainers", always, p("Never"), []v1.ContainerRestartRule{rule(all, in, 1)}, 1, true},
		{"unknown action: own policy", always, p("Never"), []v1.ContainerRestartRule{rule("Dance", in, 1), rule(restart, in, 1)}, 1, false},
		{"unknown operator never matches", always, p("Never"), []v1.ContainerRestartRule{rule(restart, "Like", 1)}, 1, false},
		{"rules without an own policy count for nothing", never, nil, []v1.ContainerRestartRule{rule(restart, in, 1)}, 1, false},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: c.pod}}
		if got := ShouldRestart(pod, &v1.Container{RestartPolicy: c.own, RestartPolicyRules: c.rules}, c.code); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
