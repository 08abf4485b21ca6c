package plan

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/status"
)

var update = flag.Bool("update", false, "write what the stories tell now into testdata")

// TestStories plays testdata/*.txt. Each is one behaviour: lines that begin with "> " are what happens, the others are
// all that podd did since: instant, step begun, given up or failed, and the published status whenever it changed.
//
//	> pod Always app,side            restart policy and containers, also NAME/init and NAME/sidecar; each has the image img-<name>,
//	>                                which is on the host
//	> set KEY=VALUE ...              hostNetwork, sharePIDs, static, grace=DURATION, rejected=MESSAGE, taken (no longer rejected), bad=CONTAINER, pull=POLICY, noimage=CONTAINER,
//	>                                took=STEP:DURATION (default 100ms), ends=CONTAINER:DURATION:CODE, stubborn=CONTAINER,
//	>                                deadline=DURATION, own=CONTAINER:POLICY, rule=CONTAINER:ACTION:CODE, image=CONTAINER:REF,
//	>                                volume=CONTAINER:REF:POLICY (an image volume; the image is not on the host),
//	>                                hook=CONTAINER:STEP:DURATION:WHY (WHY it fails), probe=CONTAINER:STEP:GRACE (GRACE may be empty),
//	>                                cpu=CONTAINER:QUANTITY, memory=CONTAINER:QUANTITY, restarts=CONTAINER:RESOURCE, cpus=QUANTITY (of
//	>                                the node), room=QUANTITY (cpu that others leave), whole=RESOURCE:QUANTITY (request and limit of the pod)
//	> says CONTAINER STEP RESULT     a probe under way comes to a result
//	> boot, kill, reboot, away, back podd starts, is killed; the host boots again; containerd goes and comes back
//	> fail STEP, heal                every try of STEP fails; nothing fails any more
//	> source                         what the pod reads has changed
//	> beyond LIMIT                   the pod is found to store more than it may, until podd is killed
//	> pressed MESSAGE                the pod is chosen to go since the host has too little left, until podd is killed
//	> debug                          the pod gets an ephemeral container, debugger, whose image is on the host
//	> exit CONTAINER CODE, pause dies, pause vanishes, shim dies, load CONTAINER, unload CONTAINER, delete GRACE, force
//	> run DURATION                   time passes
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("stories: %v, %d files", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			tell(t, string(want), &got)
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(want) {
				t.Errorf("%s tells another story now; read it with -update and git diff:\n%s", file, &got)
			}
		})
	}
}

// tell plays the commands of a script and writes them out with what podd does.
func tell(t *testing.T, script string, out *bytes.Buffer) {
	s := &story{t: t, out: out, took: map[status.Op]time.Duration{}, ends: map[string]string{}, fail: map[status.Op]bool{},
		hooks: map[status.Task]string{}}
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "#"), line == "":
			fmt.Fprintln(out, line)
		case strings.HasPrefix(line, "> "):
			if s.w != nil {
				s.w.pass(0) // what podd does at this instant is told before the next command
			}
			fmt.Fprintln(out, line)
			s.command(strings.Fields(line[2:]))
		}
	}
}

type story struct {
	t     *testing.T
	w     *world
	out   *bytes.Buffer
	steps int
	took  map[status.Op]time.Duration
	ends  map[string]string
	fail  map[status.Op]bool
	hooks map[status.Task]string
}

func (s *story) command(words []string) {
	w := s.w
	switch strings.Join(words[:min(2, len(words))], " ") {
	case "pause dies":
		w.happens(func() { w.sandboxDies(false) })
		return
	case "shim dies":
		w.happens(func() { w.sandboxDies(true) })
		return
	case "pause vanishes":
		w.happens(func() { w.sandboxes = nil })
		return
	}
	switch words[0] {
	case "pod":
		s.pod(v1.RestartPolicy(words[1]), strings.Split(words[2], ","))
	case "set":
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			s.set(key, value)
		}
		w.event()
	case "boot":
		if w.allocatable != nil && w.allocated == nil { // the host admits a pod when it takes it up
			w.effect(Step{Op: Allocate})
		}
		w.boot()
	case "kill":
		w.kill()
	case "reboot":
		w.reboot()
	case "away", "back":
		w.happens(func() { w.reachable = words[0] == "back" })
	case "fail":
		s.fail[status.Op(words[1])] = true
	case "heal":
		clear(s.fail)
	case "exit":
		code, _ := strconv.Atoi(words[2])
		w.happens(func() {
			for _, c := range w.containers {
				if c.Name == words[1] {
					w.exit(c.ID, int32(code), "")
				}
			}
		})
	case "says":
		s.says(words[1], status.Op(words[2]), status.Result(words[3]))
	case "beyond":
		w.happens(func() { w.d.beyond = &status.Eviction{Message: strings.Join(words[1:], " ")} })
	case "pressed":
		w.happens(func() { w.d.beyond = &status.Eviction{Message: strings.Join(words[1:], " "), Disruption: true} })
	case "source":
		w.happens(func() { w.sources++ })
	case "debug":
		w.happens(func() { w.images["img-"+debugger] = true; w.debug() })
	case "load":
		w.happens(func() { w.images["img-"+words[1]] = true })
	case "unload":
		w.happens(func() { delete(w.images, "img-"+words[1]) })
	case "delete":
		w.happens(func() { w.remove(duration(s.t, words[1])) })
	case "force":
		w.happens(func() { w.gone = true })
	case "run":
		w.pass(duration(s.t, words[1]))
	default:
		s.t.Fatalf("story: %q is not a command", words)
	}
}

func (s *story) pod(policy v1.RestartPolicy, names []string) {
	s.w = newWorld(s.t, newPod(policy, nil, names...))
	s.w.pod.Annotations = map[string]string{}
	for _, c := range everyContainer(s.w.pod) {
		s.w.images[c.Image] = true
	}
	s.w.tells = true
	s.w.log = func(format string, args ...any) {
		fmt.Fprintf(s.out, "%11s  "+format+"\n", append([]any{stamp(s.w.now.Sub(s.w.started))}, args...)...)
	}
	s.w.take = func(step Step) (time.Duration, time.Duration) {
		s.steps++ // no two steps end at one instant: their order would be chance
		jitter := time.Duration(s.steps%100) * time.Microsecond
		if d, ok := s.took[step.Op]; ok {
			return d + jitter, 0
		}
		return 100*time.Millisecond + jitter, 0
	}
	s.w.fails = func(step Step) fate {
		if s.fail[step.Op] {
			return failsBefore
		}
		return works
	}
	s.w.hooks = func(step Step) (time.Duration, string) {
		d, why, _ := strings.Cut(s.hooks[step.Task()], ":")
		if d == "" {
			return time.Second, ""
		}
		return duration(s.t, d), why
	}
	s.w.run = func(c string, _ int) (time.Duration, int32) {
		d, code, ok := strings.Cut(s.ends[c], ":")
		if !ok {
			return -1, 0
		}
		n, _ := strconv.Atoi(code)
		return duration(s.t, d), int32(n)
	}
}

func (s *story) set(key, value string) {
	spec := &s.w.pod.Spec
	switch key {
	case "sharePIDs":
		spec.ShareProcessNamespace = new(true)
	case "hostNetwork":
		spec.HostNetwork = true
	case "grace":
		seconds := int64(duration(s.t, value).Seconds())
		spec.TerminationGracePeriodSeconds = &seconds
	case "static", "rejected", "bad":
		s.w.pod.Annotations[key] = value + strings.Repeat("yes", max(0, 1-len(value)))
	case "pull":
		for i := range spec.Containers {
			spec.Containers[i].ImagePullPolicy = v1.PullPolicy(value)
		}
	case "noimage":
		delete(s.w.images, "img-"+value)
	case "taken":
		delete(s.w.pod.Annotations, "rejected")
	case "took":
		op, d, _ := strings.Cut(value, ":")
		s.took[status.Op(op)] = duration(s.t, d)
	case "ends":
		name, rest, _ := strings.Cut(value, ":")
		s.ends[name] = rest
	case "stubborn":
		s.w.obeys = func(c string) time.Duration {
			if c == value {
				return -1
			}
			return time.Second
		}
	case "cpus":
		s.w.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
	case "room":
		s.w.room = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
	case "whole":
		name, quantity, _ := strings.Cut(value, ":")
		list := v1.ResourceList{v1.ResourceName(name): resource.MustParse(quantity)}
		spec.Resources = &v1.ResourceRequirements{Requests: list, Limits: list}
	case "deadline":
		seconds := int64(duration(s.t, value).Seconds())
		spec.ActiveDeadlineSeconds = &seconds
	default:
		name, rest, _ := strings.Cut(value, ":")
		m, ok := status.MemberOf(s.w.pod, name)
		if !ok {
			s.t.Fatalf("story: %q cannot be set", key)
		}
		s.setOf(m.Container, key, rest)
	}
}

// setOf sets what is of one container.
func (s *story) setOf(c *v1.Container, key, value string) {
	first, rest, _ := strings.Cut(value, ":")
	switch key {
	case "own":
		own := v1.ContainerRestartPolicy(value)
		c.RestartPolicy = &own
	case "rule":
		code, _ := strconv.Atoi(rest)
		c.RestartPolicyRules = append(c.RestartPolicyRules, v1.ContainerRestartRule{Action: v1.ContainerRestartRuleAction(first),
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{int32(code)}}})
	case "image":
		c.Image = value
		s.w.images[value] = true
	case "volume":
		addImageVolume(s.w.pod, c, first, v1.PullPolicy(rest))
	case "hook":
		if c.Lifecycle == nil {
			c.Lifecycle = &v1.Lifecycle{}
		}
		h := &v1.LifecycleHandler{}
		if first == string(PreStop) {
			c.Lifecycle.PreStop = h
		} else {
			c.Lifecycle.PostStart = h
		}
		s.hooks[status.Task{Op: status.Op(first), Name: c.Name}] = rest
	case "probe":
		probe := &v1.Probe{}
		if rest != "" {
			seconds := int64(duration(s.t, rest).Seconds())
			probe.TerminationGracePeriodSeconds = &seconds
		}
		*map[string]**v1.Probe{string(Startup): &c.StartupProbe, string(Readiness): &c.ReadinessProbe, string(Liveness): &c.LivenessProbe}[first] = probe
	case "cpu", "memory":
		if c.Resources.Requests == nil {
			c.Resources.Requests = v1.ResourceList{}
		}
		c.Resources.Requests[v1.ResourceName(key)] = resource.MustParse(value)
	case "restarts":
		c.ResizePolicy = append(c.ResizePolicy, v1.ContainerResizePolicy{ResourceName: v1.ResourceName(value), RestartPolicy: v1.RestartContainer})
	default:
		s.t.Fatalf("story: %q cannot be set", key)
	}
}

// says lets a probe that is under way come to a result.
func (s *story) says(name string, op status.Op, is status.Result) {
	j := s.w.d.jobs[status.Task{Op: op, Name: name}]
	if j == nil {
		s.t.Fatalf("story: no %s of %s is under way", op, name)
	}
	s.w.note(j.step, func(c *status.Container) {
		*map[status.Op]*status.Result{Startup: &c.Startup, Readiness: &c.Readiness, Liveness: &c.Liveness}[op] = is
	})
	if op == Readiness {
		s.w.event()
		return
	}
	s.w.end(s.w.d, j, nil)
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
