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

	"podd/status"
)

var update = flag.Bool("update", false, "write what the stories tell now into testdata")

// TestStories plays testdata/*.txt. Each is one behaviour: lines that begin with "> " are what happens, the others are
// all that podd did since: instant, step begun, given up or failed, and the published status whenever it changed.
//
//	> pod Always app,side            restart policy and containers; each has the image img-<name>, which is on the host
//	> set KEY=VALUE ...              hostNetwork, static, grace=DURATION, rejected=MESSAGE, bad=CONTAINER, pull=POLICY, noimage=CONTAINER,
//	>                                took=STEP:DURATION (default 100ms), ends=CONTAINER:DURATION:CODE, stubborn=CONTAINER
//	> boot, kill, reboot, away, back podd starts, is killed; the host boots again; containerd goes and comes back
//	> fail STEP, heal                every try of STEP fails; nothing fails any more
//	> debug                          the pod gets an ephemeral container, debugger, whose image is on the host
//	> exit CONTAINER CODE, pause dies, shim dies, load CONTAINER, delete GRACE, force
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
	s := &story{t: t, out: out, took: map[status.Op]time.Duration{}, ends: map[string]string{}, fail: map[status.Op]bool{}}
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
	}
	switch words[0] {
	case "pod":
		s.pod(v1.RestartPolicy(words[1]), strings.Split(words[2], ","))
	case "set":
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			s.set(key, value)
		}
	case "boot":
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
	case "debug":
		w.happens(func() { w.images["img-"+debugger] = true; w.debug() })
	case "load":
		w.happens(func() { w.images["img-"+words[1]] = true })
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
	default:
		s.t.Fatalf("story: %q cannot be set", key)
	}
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
