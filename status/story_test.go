package status

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
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what the stories tell now into testdata")

// TestStories plays testdata/*.txt. Lines that begin with "> " state facts, at an instant counted from the beginning;
// "> publish" writes the status that is published then, after the one before, and "> show" what it says in short: the
// phase, the conditions that are not as they should be at the end, and a line for each container.
//
//	> pod POLICY CONTAINER,...           name, name/init, name/sidecar
//	> set KEY=VALUE ...                  see (*story).set
//	> at DURATION                        now
//	> sandbox ATTEMPT STATE
//	> instance NAME ATTEMPT STATE KEY=VALUE ...
//	> failure OP NAME COUNT MESSAGE      it failed now; NAME - is none
//	> condition TYPE STATUS              somebody else writes a condition
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
			s := &story{t: t}
			for line := range strings.Lines(string(want)) {
				line = strings.TrimRight(line, "\n")
				if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "> ") {
					fmt.Fprintln(&got, line)
				}
				if strings.HasPrefix(line, "> ") {
					s.command(strings.Fields(line[2:]), &got)
				}
			}
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

var zero = time.Date(2030, 1, 1, 0, 0, 0, 123456789, time.UTC)

type story struct {
	t    *testing.T
	pod  *v1.Pod
	f    Facts
	prev v1.PodStatus
}

func (s *story) command(words []string, out *bytes.Buffer) {
	switch words[0] {
	case "pod":
		s.newPod(v1.RestartPolicy(words[1]), strings.Split(words[2], ","))
	case "set":
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			s.set(key, value)
		}
	case "at":
		s.f.Now = zero.Add(s.duration(words[1]))
	case "sandbox":
		n := s.number(words[1])
		box := Sandbox{ID: ContainerID(s.pod.UID, "", n), Attempt: n, State: State(words[2]), Present: true}
		s.f.Sandboxes = append(s.f.Sandboxes[:min(n, len(s.f.Sandboxes))], box)
	case "instance":
		s.instance(words[1], s.number(words[2]), State(words[3]), words[4:])
	case "failure":
		t := Task{Op: Op(words[1]), Name: strings.TrimPrefix(words[2], "-")}
		s.f.Failures[t] = Failed{Count: s.number(words[3]), Last: s.f.Now, Message: strings.Join(words[4:], " ")}
	case "condition":
		c := v1.PodCondition{Type: v1.PodConditionType(words[1]), Status: v1.ConditionStatus(words[2]), LastTransitionTime: second(metav1.NewTime(s.f.Now))}
		s.pod.Status.Conditions = append(s.pod.Status.Conditions, c)
		s.prev.Conditions = append(s.prev.Conditions, c)
	case "publish":
		s.publish(out)
	case "show":
		s.show(out)
	default:
		s.t.Fatalf("story: %q is not a command", words)
	}
}

// show stamps the status and writes it in short.
func (s *story) show(out *bytes.Buffer) {
	s.prev = Stamp(s.prev, Of(s.pod, s.f), s.f.Now)
	fmt.Fprintln(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", s.prev.Phase, s.prev.Reason, s.prev.Message)))
	for _, c := range s.prev.Conditions {
		fine := c.Status == v1.ConditionTrue && c.Reason == ""
		if c.Type == v1.AllContainersRestarting || c.Type == v1.PodResizeInProgress {
			fine = c.Status == v1.ConditionFalse && c.Reason == ""
		}
		if !fine && c.Type != v1.PodReady {
			fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("  %s=%s %s %s", c.Type, c.Status, c.Reason, c.Message), " "))
		}
	}
	if r := s.prev.Resources; r != nil {
		fmt.Fprintf(out, "  the pod has cpu %s of %s\n", r.Requests.Cpu(), s.prev.AllocatedResources.Cpu())
	}
	for _, c := range Statuses(&s.prev) {
		line := fmt.Sprintf("  %s #%d %s", c.Name, c.RestartCount, shortState(c.State))
		if c.Started != nil && *c.Started {
			line += ", started"
		}
		if c.Ready {
			line += ", ready"
		}
		if c.LastTerminationState.Terminated != nil {
			line += ", last " + shortState(c.LastTerminationState)
		}
		if c.StopSignal != nil {
			line += ", stops by " + string(*c.StopSignal)
		}
		if r := c.Resources; r != nil && len(r.Requests)+len(c.AllocatedResources) > 0 {
			line += fmt.Sprintf(", has cpu %s of %s", r.Requests.Cpu(), c.AllocatedResources.Cpu())
		}
		fmt.Fprintln(out, line)
	}
}

func shortState(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Waiting != nil:
		return strings.TrimSpace("waiting " + s.Waiting.Reason + " " + s.Waiting.Message)
	}
	line := fmt.Sprintf("%s(%d)", s.Terminated.Reason, s.Terminated.ExitCode)
	if n := len(s.Terminated.Message); n > 0 {
		line += fmt.Sprintf(" with %d bytes", n)
	}
	return line
}

func (s *story) publish(out *bytes.Buffer) {
	next := Of(s.pod, s.f)
	s.prev = Stamp(s.prev, next, s.f.Now)
	if again := Stamp(s.prev, next, s.f.Now.Add(time.Hour)); !equality.Semantic.DeepEqual(again, s.prev) {
		s.t.Errorf("stamped again, the status is another one: %+v, then %+v", s.prev, again)
	}
	shown := s.prev.DeepCopy()
	for _, list := range [][]v1.ContainerStatus{shown.InitContainerStatuses, shown.ContainerStatuses} {
		for i := range list { // ids as a reader can tell them apart
			c := &list[i]
			c.ContainerID = s.short(c.Name, c.ContainerID)
			for _, state := range []*v1.ContainerState{&c.State, &c.LastTerminationState} {
				if state.Terminated != nil {
					state.Terminated.ContainerID = s.short(c.Name, state.Terminated.ContainerID)
				}
			}
		}
	}
	for _, c := range shown.Conditions {
		line := fmt.Sprintf("%s=%s since %v %s %s", c.Type, c.Status, c.LastTransitionTime.Sub(zero.Truncate(time.Second)), c.Reason, c.Message)
		fmt.Fprintln(out, strings.TrimSpace(line))
	}
	shown.Conditions = nil
	text, err := yaml.Marshal(shown)
	if err != nil {
		s.t.Fatal(err)
	}
	out.Write(text)
}

func (s *story) short(name, id string) string {
	for attempt := range 10 {
		if id == "containerd://"+ContainerID(s.pod.UID, name, attempt) {
			return fmt.Sprintf("containerd://<%s %d>", name, attempt)
		}
	}
	return id
}

func (s *story) newPod(policy v1.RestartPolicy, names []string) {
	s.pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid", Generation: 3}}
	s.pod.Spec.RestartPolicy = policy
	s.prev = v1.PodStatus{}
	s.f = Facts{
		Now: zero, Reachable: true, Node: Node{Name: "host", IPs: []string{"192.0.2.1", "2001:db8::1"}, RecursiveReadOnly: true}, Limits: DefaultLimits(),
		Started: zero, Ground: true, Images: map[string]Image{}, Failures: map[Task]Failed{},
	}
	for _, n := range names {
		name, kind, _ := strings.Cut(n, "/")
		c := v1.Container{Name: name, Image: "img-" + name, ImagePullPolicy: v1.PullIfNotPresent}
		if kind == "sidecar" {
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		if kind == "" {
			s.pod.Spec.Containers = append(s.pod.Spec.Containers, c)
		} else {
			s.pod.Spec.InitContainers = append(s.pod.Spec.InitContainers, c)
		}
		s.f.Images[c.Image] = Image{ID: "sha256:" + name}
	}
}

func (s *story) set(key, value string) {
	first := &s.pod.Spec.Containers[0]
	switch key {
	case "hostNetwork":
		s.pod.Spec.HostNetwork = true
	case "gate":
		s.pod.Spec.ReadinessGates = append(s.pod.Spec.ReadinessGates, v1.PodReadinessGate{ConditionType: v1.PodConditionType(value)})
	case "limit": // of the first container
		first.Resources.Limits = v1.ResourceList{"memory": resource.MustParse(value)}
		first.Resources.Requests = first.Resources.Limits.DeepCopy()
	case "mount":
		enabled := v1.RecursiveReadOnlyEnabled
		first.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: value}, {Name: "w", MountPath: value + "-ro", ReadOnly: true},
			{Name: "x", MountPath: value + "-rro", ReadOnly: true, RecursiveReadOnly: &enabled}}
	case "pull":
		first.ImagePullPolicy = v1.PullPolicy(value)
	case "noimage":
		delete(s.f.Images, "img-"+value)
	case "network":
		s.f.Network = Network{Ready: true, Attached: true, IPs: strings.Split(value, ",")}
	case "reachable":
		s.f.Reachable = value == "yes"
	case "restarted": // podd comes up again: it knows records only
		s.f.Sandboxes, s.f.Containers = nil, nil
	case "rejected":
		s.f.Rejected = &Verdict{Reason: value, Message: "this host cannot"}
	case "concluded": // what the pod has come to is recorded
		s.f.Verdict = Outcome(s.pod, s.f)
	case "verdict":
		s.f.Verdict = &Verdict{Phase: v1.PodPhase(value)}
	case "deleted":
		at := metav1.NewTime(s.f.Now.Add(s.duration(value)))
		s.pod.DeletionTimestamp = &at
	case "deadline":
		seconds := int64(s.duration(value).Seconds())
		s.pod.Spec.ActiveDeadlineSeconds = &seconds
	case "era": // a new one, begun by a container
		s.f.Era, s.f.EraBy = s.f.Era+1, value
	case "cpus": // of the node
		s.f.Node.Allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
	case "room": // cpu that the others leave
		s.f.Room = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
	case "admitted": // what the spec asks for now
		s.f.Allocated = map[string]v1.ResourceRequirements{}
		for _, m := range Members(s.pod) {
			s.f.Allocated[m.Name] = *m.Resources.DeepCopy()
		}
		s.f.Allocated[Whole] = Own(s.pod)
	case "whole": // cpu of the pod
		list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
		s.pod.Spec.Resources = &v1.ResourceRequirements{Requests: list, Limits: list}
	case "before": // cpu of the pod, until a resize that was admitted is through
		if s.f.Before = nil; value != "" {
			list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
			s.f.Before = &v1.ResourceRequirements{Requests: list, Limits: list}
		}
	default:
		name, rest, _ := strings.Cut(value, ":")
		m, ok := MemberOf(s.pod, name)
		if !ok {
			s.t.Fatalf("story: %q cannot be set", key)
		}
		s.setOf(m.Container, key, rest)
	}
}

// setOf sets what is of one container.
func (s *story) setOf(c *v1.Container, key, value string) {
	switch key {
	case "own":
		own := v1.ContainerRestartPolicy(value)
		c.RestartPolicy = &own
	case "restartsAll": // by an exit code
		c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{int32(s.number(value))}}}}
	case "postStart":
		c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{}}
	case "startupProbe":
		c.StartupProbe = &v1.Probe{}
	case "readinessProbe":
		c.ReadinessProbe = &v1.Probe{}
	case "cpu":
		c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
	default:
		s.t.Fatalf("story: %q cannot be set", key)
	}
}

func (s *story) instance(name string, attempt int, state State, words []string) {
	c := Container{
		Name: name, Attempt: attempt, ID: ContainerID(s.pod.UID, name, attempt), Sandbox: ContainerID(s.pod.UID, "", 0), State: state,
		Image: "docker.io/library/img-" + name + ":latest", ImageID: "docker.io/library/img-" + name + "@sha256:0", Present: true,
		Recorded: state == Exited, CreatedAt: s.f.Now,
	}
	old := false
	spec := append(s.pod.Spec.InitContainers, s.pod.Spec.Containers...)
	for i := range spec {
		if spec[i].Name == name {
			c.Key = RestartKey(s.pod, &spec[i])
		}
	}
	switch state {
	case Running:
		c.StartedAt = s.f.Now
		c.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: 1000, GID: 1000}}
	case Exited:
		c.FinishedAt, c.Reason = s.f.Now, "Completed"
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "code":
			c.ExitCode, c.Reason = int32(s.number(value)), "Error"
		case "reason":
			c.Reason = value
		case "signal":
			c.Signal = int32(s.number(value))
		case "ran":
			c.StartedAt = s.f.Now.Add(-s.duration(value))
			c.CreatedAt = c.StartedAt
		case "backoff":
			c.Backoff = s.duration(value)
		case "unrecorded":
			c.Recorded = false
		case "old": // recorded by a podd that did not say whether it was late
			old = true
		case "removed":
			c.Present = false
		case "replace":
			c.Replace = true
		case "era":
			c.Era = s.number(value)
		case "sandbox":
			c.Sandbox = ContainerID(s.pod.UID, "", s.number(value))
		case "stops":
			c.StopSignal = v1.Signal(value)
		case "startup":
			c.Startup = Result(value)
		case "readiness":
			c.Readiness = Result(value)
		case "hook": // postStart has ended: well, or why not
			c.PostStart = Hook{Ended: s.f.Now, Failed: strings.TrimPrefix(value, "well")}
		case "limit": // of cpu, its own or the pod's
			c.Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
		case "cpu":
			c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}
		case "says": // a termination message of so many bytes
			c.Message = strings.Repeat("é", s.number(value)/2)
		default:
			s.t.Fatalf("story: an instance has no %q", key)
		}
	}
	if c.Recorded && !old {
		c.Late = new(Late(s.pod, s.f, c.FinishedAt))
	}
	for i := range s.f.Containers {
		if s.f.Containers[i].Name == name && s.f.Containers[i].Attempt == attempt {
			s.f.Containers[i] = c
			return
		}
	}
	s.f.Containers = append(s.f.Containers, c)
}

func (s *story) number(w string) int {
	n, err := strconv.Atoi(w)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *story) duration(w string) time.Duration {
	d, err := time.ParseDuration(w)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}
