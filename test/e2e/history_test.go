//go:build host

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/api/history"
	"podd/test/harness"
)

// whyReport is what podctl why -o json says of a pod.
type whyReport struct {
	UID      string
	Headline string
	Causes   []struct{ What, Next string }
	History  []history.Pod
}

// whyOf asks for one pod.
func (s *suite) whyOf(t *testing.T, name string) whyReport {
	t.Helper()
	var list struct{ Pods []whyReport }
	if err := json.Unmarshal([]byte(s.must(t, "why", name, "-o", "json")), &list); err != nil || len(list.Pods) != 1 {
		t.Fatalf("podctl why %s: %d reports, %v", name, len(list.Pods), err)
	}
	return list.Pods[0]
}

// inOrder tells whether entries that fit come one after the other, others may be between them.
func inOrder(entries []history.Entry, wanted ...func(history.Entry) bool) error {
	left := entries
	for n, fits := range wanted {
		i := slices.IndexFunc(left, fits)
		if i < 0 {
			text, _ := json.MarshalIndent(entries, "", " ")
			return fmt.Errorf("there is no entry %d of those wanted in\n%s", n, text)
		}
		left = left[i+1:]
	}
	return nil
}

func what(what string) func(history.Entry) bool {
	return func(e history.Entry) bool { return e.What == what && !e.Failed }
}

// TestHistory: what happened to a pod is told, also of a crash loop and a pull that fails; after podd was killed; of a pod
// that is gone, and of the one of the same name after it; and not for ever.
func TestHistory(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=500ms", "--restart-backoff-max=2s", "--pull-backoff=500ms"))
	s.apply(t,
		pod{Name: "crash", Script: "echo out of luck; exit 3", Spec: "restartPolicy: Always", Container: "env: [{name: PASSWORD, value: hunter2hunter2}]"},
		pod{Name: "noimage", Script: "true", Container: "image: localhost:1/nothing:1"},
		sleeper("web"))
	first := s.until(t, "web", "ready", ready)
	s.until(t, "crash", "restarted", func(p *v1.Pod) bool { return app(p).RestartCount >= 2 })
	exit3 := func(e history.Entry) bool {
		return e.What == history.Exited && e.Exit.Code == 3 && e.Container == "app"
	}
	held := func(e history.Entry) bool {
		return e.What == history.BackOff && e.Container == "app" && e.Until.After(e.Time.Add(-time.Second))
	}
	eventually(t, func() error {
		web, crash, image := s.whyOf(t, "web"), s.whyOf(t, "crash"), s.whyOf(t, "noimage")
		if web.UID != string(first.UID) || len(web.History) != 1 || web.History[0].UID != web.UID || len(crash.History) != 1 || len(image.History) != 1 {
			return fmt.Errorf("of web %+v, of crash %+v", web, crash)
		}
		pull := func(e history.Entry) bool {
			return e.What == history.Pulled && e.Failed && e.Image == "localhost:1/nothing:1" && strings.Contains(e.Message, "refused")
		}
		return errors.Join(
			inOrder(web.History[0].Entries, what(history.Mounts), func(e history.Entry) bool {
				return e.What == history.Network && slices.Contains(e.IPs, first.Status.PodIP)
			}, what(history.Started), what(history.Ready)),
			inOrder(web.History[0].Entries, what(history.Sandbox), what(history.Started)),
			inOrder(crash.History[0].Entries, what(history.Created), what(history.Started), exit3, what(history.Started), exit3, held),
			inOrder(image.History[0].Entries, what(history.Pulling), pull, func(e history.Entry) bool {
				return e.What == history.BackOff && e.Image == "localhost:1/nothing:1" && e.Until.After(e.Time)
			}, what(history.Pulling), pull))
	})

	s.Kill()
	s.Restart()
	again := app(s.until(t, "crash", "there", func(p *v1.Pod) bool { return p != nil })).RestartCount
	s.until(t, "crash", "restarted once more", func(p *v1.Pod) bool { return app(p).RestartCount > again })
	eventually(t, func() error {
		web, crash := s.whyOf(t, "web"), s.whyOf(t, "crash")
		attempt := func(e history.Entry) bool { return exit3(e) && e.Attempt >= int(again) }
		return errors.Join(
			inOrder(crash.History[0].Entries, what(history.Mounts), exit3, what(history.Daemon), what(history.Started), attempt),
			inOrder(web.History[0].Entries, what(history.Started), what(history.Ready), what(history.Daemon)))
	})
	var screen string
	eventually(t, func() error { // now and then it runs for a moment
		screen = s.must(t, "why", "crash")
		for _, want := range []string{"crash is started again and again.", "-> See what it said: podctl logs crash", "What happened:", "exited with code 3", "podd was started again"} {
			if !strings.Contains(screen, want) {
				return fmt.Errorf("podctl why crash does not say %q:\n%s", want, screen)
			}
		}
		return nil
	})
	t.Logf("podctl why crash:\n%s", screen)
	_, happened, _ := strings.Cut(screen, "What happened:")
	for line := range strings.Lines(happened) {
		if len([]rune(line)) > 101 {
			t.Errorf("a line of %d columns: %s", len([]rune(line))-1, line)
		}
	}
	if got := s.must(t, "why", "web", "--since=1ms"); !strings.Contains(got, "nothing in this time") {
		t.Errorf("since a millisecond:\n%s", got)
	}
	if got := s.must(t, "why", "web", "-o", "yaml", "--kubeconfig", s.Kubeconfig(true)); !strings.Contains(got, "what: sandbox") {
		t.Errorf("to a reader podctl why says\n%s", got)
	}

	s.must(t, "delete", "pod", "web", "crash", "noimage", "--now")
	s.apply(t, sleeper("web"))
	second := s.until(t, "web", "ready", ready)
	if got := s.whyOf(t, "web"); len(got.History) != 2 || got.History[0].UID != string(first.UID) || got.History[0].Deleted == nil || got.History[1].UID != string(second.UID) {
		t.Errorf("of both pods called web there is %+v", got)
	}
	if got := s.must(t, "why", "web"); !strings.Contains(got, "podctl why web --uid="+string(first.UID)) {
		t.Errorf("podctl why does not speak of the former:\n%s", got)
	}
	s.must(t, "delete", "pod", "web", "--now")
	s.until(t, "web", "gone", gone)
	got := s.whyOf(t, "web")
	if len(got.History) != 2 || got.UID != "" || !strings.Contains(got.Headline, "it was deleted") {
		t.Fatalf("of web, which is gone, there is %+v", got)
	}
	for _, pod := range got.History {
		if err := inOrder(pod.Entries, what(history.Started), what(history.Delete), what(history.Exited), what(history.Deleted)); err != nil || pod.Deleted == nil {
			t.Errorf("%s: %v, %v", pod.UID, pod.Deleted, err)
		}
	}
	if got := s.must(t, "why", "web", "--uid="+string(first.UID)); strings.Contains(got, string(second.UID)) || !strings.Contains(got, "the host has let go of it") {
		t.Errorf("of the first web:\n%s", got)
	}
	for _, name := range []string{"nobody", "web --uid=none"} {
		if out, errs, code := s.Podctl(append([]string{"why"}, strings.Fields(name)...)...); code != 1 || out != "" || !strings.Contains(errs, "known") {
			t.Errorf("podctl why %s: exit %d, %s%s", name, code, out, errs)
		}
	}
	files, err := filepath.Glob(s.Root + "/history/*")
	if err != nil || len(files) != 4 {
		t.Fatalf("there are %v, %v", files, err)
	}
	longAgo := time.Now().Add(-history.KeptFor - time.Minute)
	for _, file := range files {
		if strings.Contains(read(t, file), "hunter2") {
			t.Errorf("%s has a value of the environment in it", file)
		}
		must(t, os.Chtimes(file, longAgo, longAgo))
	}
	s.Restart()
	eventually(t, func() error {
		if files, err := filepath.Glob(s.Root + "/history/*"); err != nil || len(files) > 0 {
			return fmt.Errorf("after an hour there are %v, %v", files, err)
		}
		return nil
	})
}
