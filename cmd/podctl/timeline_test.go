package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	apihistory "podd/api/history"
)

// TestTimeline holds the screen of a pod's history against what it is to look like.
func TestTimeline(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 30, 0, 0, time.Local)
	at := func(seconds float64) time.Time {
		return now.Add(-time.Minute + time.Duration(seconds*float64(time.Second)))
	}
	until, last := at(45), at(50)
	const noDNS = "There is no cluster DNS on this host: dnsPolicy "
	var out bytes.Buffer
	timeline(&out, []apihistory.Entry{
		{Time: now.Add(-24 * time.Hour), What: apihistory.Daemon},
		{Time: at(0), What: apihistory.Mounts, Seconds: 0.012},
		{Time: at(0.05), What: apihistory.Event, Reason: "MissingClusterDNS", Message: noDNS + "ClusterFirst works like Default"},
		{Time: at(0.1), What: apihistory.Network, IPs: []string{"10.88.0.5", "fd00::5"}, Seconds: 0.08},
		{Time: at(0.2), What: apihistory.Pulled, Image: "busybox:1", Bytes: 3 << 20, Seconds: 1.5},
		{Time: at(0.3), What: apihistory.Pulled, Image: "other:1", Failed: true, Reason: "ErrImagePull", Message: "refused", Seconds: 0.01},
		{Time: at(0.5), What: apihistory.Slow, Reason: "sandbox", Seconds: 5},
		{Time: at(1), What: apihistory.Started, Container: "app", Attempt: 3},
		{Time: at(2), What: apihistory.Exited, Container: "app", Attempt: 3, Exit: &apihistory.Exit{Code: 137, Signal: 9, Reason: "OOMKilled"}, Seconds: 1.25},
		{Time: at(3), What: apihistory.Exited, Container: "app", Attempt: 4, Exit: &apihistory.Exit{Code: 1, Reason: "Error"}, Message: "\x1b[31mred\x1b[0m\nsecond\x07", Count: 7, Last: &last},
		{Time: at(4), What: apihistory.BackOff, Container: "app", Attempt: 5, Until: &until},
		{Time: at(5), What: apihistory.Event, Container: "app", Reason: "Unhealthy", Message: "Liveness probe failed: " + strings.Repeat("long ", 200)},
		{Time: at(5.1), What: apihistory.Volume, Reason: "cm", Failed: true, Message: `configmap "lcm" not found`},
		{Time: at(5.2), What: apihistory.Volume, Reason: "cm"},
		{Time: at(5.3), What: apihistory.Event, Reason: "MissingClusterDNS", Message: noDNS + "ClusterFirstWithHostNet works like Default"},
		{Time: at(6), What: apihistory.Hook, Container: "app", Reason: "preStop", Failed: true, Message: "exit 1"},
		{Time: at(7), What: apihistory.Delete, Until: &until},
		{Time: at(8), What: apihistory.Deleted},
	}, now, screenLines)
	pad := strings.Repeat(" ", 24)
	want := `  Jan  1 12:30          podd was started again and goes on with it
  12:29:00.000          volumes and files are there in 12ms
  12:29:00.100          network 10.88.0.5, fd00::5 in 80ms
  12:29:00.200          pulled busybox:1, 3.0 MiB in 1.5s
  12:29:00.300          the pull of other:1 failed in 10ms: refused
  12:29:00.500          sandbox takes long: 5s so far
  12:29:01.000  app #3  started
  12:29:02.000  app #3  exited with code 137 (killed by SIGKILL) after 1.25s, OOMKilled
  12:29:03.000  app #4  7 times until 12:29:50, the last: exited with code 1: red
` + pad + `second^G
  12:29:04.000  app     back-off: the next start is held back until 12:29:45
`
	if got := out.String(); !strings.HasPrefix(got, want) {
		t.Errorf("the screen is\n%s\nwant\n%s", got, want)
	}
	lines := strings.Split(out.String(), "\n")
	for _, line := range lines {
		if len([]rune(line)) > screenWidth {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
	if n := strings.Count(out.String(), "long"); n < 40 || n > 80 || !strings.Contains(out.String(), "...\n") {
		t.Errorf("of a long output %d words are shown:\n%s", n, out.String())
	}
	if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, "dnsPolicy ClusterFirstWithHostNet works like Default") { // which is nobody's default
		t.Errorf("of the DNS it says\n%s", out.String())
	}
	if !strings.Contains(out.String(), "volume cm shows old content: configmap \"lcm\" not found\n") || !strings.Contains(out.String(), "volume cm follows its sources again\n") {
		t.Errorf("of a volume it says\n%s", out.String())
	}
	if end := strings.Join(lines[len(lines)-4:], "\n"); !strings.Contains(end, "app     preStop hook failed: exit 1\n") ||
		!strings.Contains(end, "the pod is to go, until 12:29:45 at the latest\n") || !strings.Contains(end, "the host has let go of it\n") {
		t.Errorf("it ends with\n%s", end)
	}
}

// TestResizeEvents: what a resize asks for is told in words, whole or not.
func TestResizeEvents(t *testing.T) {
	const summary = `{"initContainers":[{"name":"i","resources":{}}],"containers":[{"name":"c","resources":{"limits":{"memory":"64Mi"},"requests":{"cpu":"1500m","memory":"32Mi"}}}],"generation":2`
	for message, want := range map[string]string{
		"Pod resize started: " + summary + "}":                                                       "Pod resize started; i: nothing asked for; c: cpu 1500m, memory 32Mi (limit 64Mi)",
		"Pod resize Deferred: " + summary + `,"error":"no room: cpu"}`:                               "Pod resize Deferred: no room: cpu; i: nothing asked for; c: cpu 1500m, memory 32Mi (limit 64Mi)",
		"Pod resize completed: " + summary[:100]:                                                     "Pod resize completed",
		"Pod resize Deferred: " + summary[:100] + "..." + summary[150:] + `,"error":"no room: cpu"}`: "Pod resize Deferred: no room: cpu",
		"Readiness probe failed: {":                                                                  "Readiness probe failed: {",
	} {
		if got := words(apihistory.Entry{What: apihistory.Event, Reason: "R", Message: message}); got != "R: "+want {
			t.Errorf("%s: %s", message, got)
		}
	}
}

// TestLongTimeline: of many entries the first and the newest are shown, and how many are between.
func TestLongTimeline(t *testing.T) {
	var entries []apihistory.Entry
	for n := range 100 {
		entries = append(entries, apihistory.Entry{Time: time.Now(), What: apihistory.Event, Reason: fmt.Sprint("R", n), Message: "x"})
	}
	var out bytes.Buffer
	timeline(&out, entries, time.Now(), 30)
	got := out.String()
	if strings.Count(got, "\n") != 30 || !strings.Contains(got, "R9: x\n  71 more: -o yaml shows them\n") || !strings.Contains(got, "R81: x\n") || strings.Contains(got, "R80:") {
		t.Errorf("the screen is\n%s", got)
	}
}

// TestReports is what programs get, in both formats.
func TestReports(t *testing.T) {
	r := report{Namespace: "default", Name: "web", Headline: "runs.", Causes: []cause{{"what", "next"}},
		History: []apihistory.Pod{{Name: "web", UID: "u", Entries: []apihistory.Entry{{What: apihistory.Ready}}}}}
	for output, want := range map[string]string{"json": `"what": "what"`, "yaml": "\n    what: what\n"} {
		var out bytes.Buffer
		if err := (question{output: output}).print(&out, []report{r}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", output, err, out.String())
		}
		var back struct {
			Pods []struct{ History []apihistory.Pod }
		}
		if output == "json" && (json.Unmarshal(out.Bytes(), &back) != nil || len(back.Pods) != 1 || back.Pods[0].History[0].Entries[0].What != apihistory.Ready) {
			t.Errorf("read back it is %+v", back)
		}
	}
	for _, bad := range []question{{output: "table"}, {since: -time.Second}} {
		if bad.check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// TestAnother: the line about a pod that had the name before has room on a screen, and its command asks the same namespace.
func TestAnother(t *testing.T) {
	now := time.Now()
	deleted := now.Add(-90 * time.Second)
	const uid = "0a65fcbf-33a6-4b27-8d4c-5e9d6a8f4c11"
	var out strings.Builder
	report{Namespace: "team", Name: "web-with-a-name-of-its-own", UID: "u", Fine: true, Headline: "runs.",
		History: []apihistory.Pod{{UID: uid, Deleted: &deleted}, {UID: "u"}}}.tell(&out, now)
	if want := "\n  Another pod of this name was there until 90s ago:\n    podctl why web-with-a-name-of-its-own -n team --uid=" + uid + "\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("the screen is\n%s", out.String())
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > screenWidth+1 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}
