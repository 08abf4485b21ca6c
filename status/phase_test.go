package status

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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

// TestPhase plays testdata/phase/*.txt, which have a case for every clause of getPhase: a line that begins with "> " has the
// policy, the states of the containers as cs reads them, and whether the pod is initialized and terminal; the next line is
// the phase.
func TestPhase(t *testing.T) {
	files, err := filepath.Glob("testdata/phase/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("stories: %v, %d files", err, len(files))
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for line := range strings.Lines(string(want)) {
			if strings.HasPrefix(line, "#") {
				got.WriteString(line)
			}
			if says, ok := strings.CutPrefix(line, "> "); ok {
				fmt.Fprintf(&got, "%s%s\n", line, phaseOfRow(t, strings.Fields(says)))
			}
		}
		if *update {
			err = os.WriteFile(file, got.Bytes(), 0o644)
		} else if got.String() != string(want) {
			err = fmt.Errorf("it tells another story now; read it with -update and git diff:\n%s", &got)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func phaseOfRow(t *testing.T, words []string) v1.PodPhase {
	t.Helper()
	states, is := map[string][]string{}, map[string]bool{}
	for _, word := range words[1:] {
		key, list, ok := strings.Cut(word, "=")
		switch {
		case ok:
			states[key] = strings.Split(list, ",")
		default:
			is[key] = true
		}
	}
	pod, statuses := row(v1.RestartPolicy(words[0]), states["inits"], states["sidecars"], states["regulars"])
	return phaseOf(pod, statuses, is["terminal"], is["initialized"])
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
