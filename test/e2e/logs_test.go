//go:build host

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
)

func testLogs(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"format":   testLogFormat,
		"choose":   testLogChoose,
		"previous": testLogPrevious,
		"follow":   testLogFollow,
		"errors":   testLogErrors,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// logFile is where the log of an instance of container app is.
func (s *suite) logFile(pod *v1.Pod, attempt int) string {
	return filepath.Join(s.LogDir, "pods", fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID), "app", strconv.Itoa(attempt)+".log")
}

var record = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF]) (.*)$`)

// The file is in the CRI format, long lines in parts, where log shippers look for it.
func testLogFormat(t *testing.T, s *suite) {
	p := pod{Name: "log-format", Script: "echo one; sleep 0.1; echo two >&2; sleep 0.1; head -c 40000 /dev/zero | tr '\\0' x; echo; echo; sleep 0.1; printf end"}
	s.apply(t, p)
	pod := s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
	file := s.logFile(pod, 0)
	x := strings.Repeat("x", 40000)
	want := []string{"stdout F one", "stderr F two", "stdout P " + x[:16384], "stdout P " + x[:16384], "stdout F " + x[:40000-2*16384], "stdout F ", "stdout F end"}
	got := strings.Split(strings.TrimSuffix(read(t, file), "\n"), "\n")
	for i, line := range got {
		m := record.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d is not in the format: %.100s", i, line)
		}
		got[i] = m[1] + " " + m[2] + " " + m[3]
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log has %d records, want %d:\n%.2000s", len(got), len(want), strings.Join(got, "\n"))
	}
	id := strings.TrimPrefix(app(pod).ContainerID, "containerd://")
	link := filepath.Join(s.LogDir, "containers", p.Name+"_default_app-"+id+".log")
	if to, err := os.Readlink(link); err != nil || to != file {
		t.Errorf("link %s: %q, %v; want %s", link, to, err, file)
	}
	if out := s.must(t, "logs", p.Name); out != "one\ntwo\n"+x+"\n\nend\n" && out != "one\ntwo\n"+x+"\n\nend" {
		t.Errorf("podctl logs: %d bytes", len(out))
	}
	s.remove(t, p.Name)
	eventually(t, func() error { // a pod that has ended goes from the API at once, its files follow
		for _, name := range []string{link, filepath.Dir(filepath.Dir(file))} {
			if _, err := os.Lstat(name); err == nil {
				return fmt.Errorf("%s is still there", name)
			}
		}
		return nil
	})
}

// What is chosen of a log: containers, the last lines, those since a time, with their times.
func testLogChoose(t *testing.T, s *suite) {
	dir := t.TempDir()
	p := hostDir(pod{Name: "log-choose", Script: "for i in 1 2 3; do echo old $i; done; touch /host/old; until [ -e /host/go ]; do sleep 0.02; done; for i in 4 5; do echo new $i; done",
		More: "- name: other\n  image: " + busybox + "\n  command: [echo, from other]"}, dir)
	s.apply(t, p)
	logs := func(args ...string) string { return s.must(t, append([]string{"logs", p.Name}, args...)...) }
	eventually(t, func() error { _, err := os.Stat(filepath.Join(dir, "old")); return err })
	eventually(t, func() error {
		if got := logs("-c", "app", "--tail=1"); got != "old 3\n" {
			return fmt.Errorf("the last line: %q", got)
		}
		return nil
	})
	between := time.Now().Truncate(time.Second).Add(time.Second) // clients send whole seconds
	time.Sleep(time.Until(between))
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.until(t, p.Name, "succeeded", phase(v1.PodSucceeded))
	const all = "old 1\nold 2\nold 3\nnew 4\nnew 5\n"
	for _, c := range []struct{ args, want string }{
		{"-c app", all},
		{"--container other", "from other\n"},
		{"", all}, // the first container, with a note on stderr
		{"-c app --tail=2", "new 4\nnew 5\n"},
		{"-c app --tail=0", ""},
		{"-c app --tail=-1", all},
		{"-c app --since=1h", all},
		{"-c app --since-time=" + between.Format(time.RFC3339Nano), "new 4\nnew 5\n"},
		{"-c app --limit-bytes=9", all[:9]},
		{"-c app --tail=1 -f", "new 5\n"},
	} {
		if got := logs(strings.Fields(c.args)...); got != c.want {
			t.Errorf("podctl logs %s: %q, want %q", c.args, got, c.want)
		}
	}
	both := strings.SplitAfter(logs("--all-containers", "--prefix", "--tail=1"), "\n")
	slices.Sort(both) // podctl promises no order
	if got := strings.Join(both, ""); got != "[pod/log-choose/app] new 5\n[pod/log-choose/other] from other\n" {
		t.Errorf("podctl logs --all-containers: %q", got)
	}
	for line := range strings.Lines(logs("-c", "app", "--timestamps", "--tail=2")) {
		stamp, text, _ := strings.Cut(line, " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || at.Before(between) || !strings.HasPrefix(text, "new ") {
			t.Errorf("podctl logs --timestamps: %q after %s", line, between)
		}
	}
}

func testLogPrevious(t *testing.T, s *suite) {
	p := failing("log-previous", 2, sleepScript)
	p.Spec += "\nrestartPolicy: Always"
	s.apply(t, p)
	pod := s.until(t, p.Name, "restarted twice", restarts(2))
	s.logged(t, "run 3\n", p.Name)
	s.logged(t, "run 2\n", p.Name, "-p")
	for attempt, want := range []bool{false, true, true} { // upstream keeps the newest dead instance, and so do we at least
		if _, err := os.Stat(s.logFile(pod, attempt)); want && err != nil {
			t.Error(err)
		}
	}
}

// Following goes on until the container ends, and then ends.
func testLogFollow(t *testing.T, s *suite) {
	p := pod{Name: "log-follow", Script: "for i in $(seq 30); do echo $i; sleep 0.03; done"}
	s.apply(t, p)
	s.until(t, p.Name, "running or over", func(pod *v1.Pod) bool { return pod != nil && pod.Status.Phase != v1.PodPending })
	if got := s.must(t, "logs", "-f", p.Name); len(got) == 0 || got != numbers(1, 30) {
		t.Errorf("podctl logs -f: %q", got)
	}
}

// numbers are the lines from..to.
func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func testLogErrors(t *testing.T, s *suite) {
	p := sleeper("log-errors")
	p.More = "- name: other\n  image: example.invalid/none:1\n  imagePullPolicy: Never"
	s.apply(t, p)
	s.until(t, p.Name, "held back", func(pod *v1.Pod) bool {
		w := container(pod, "other").State.Waiting
		return w != nil && w.Reason == "ErrImageNeverPull"
	})
	for _, c := range []struct{ args, want string }{
		{"logs no-such-pod", `pods "no-such-pod" not found`},
		{"logs log-errors -c nope", "container nope is not valid for pod log-errors"},
		{"logs log-errors -c other", "is waiting to start: ErrImageNeverPull"},
		{"logs log-errors -c app -p", `previous terminated container "app" in pod "log-errors" not found`},
	} {
		if got := s.refused(t, "", strings.Fields(c.args)...); !strings.Contains(got, c.want) || strings.Count(got, "\n") > 2 {
			t.Errorf("podctl %s says %q, want %q", c.args, got, c.want)
		}
	}
}

// TestLogsOfAWriter: one pod writes all the time. Its log is rotated, followed over the rotations, and written on while
// podd is dead; the pod does not wait for any of it.
func TestLogsOfAWriter(t *testing.T) {
	const size, files = 60_000, 5
	s := start(t, harness.WithArgs("--container-log-max-size="+strconv.Itoa(size), "--container-log-max-files="+strconv.Itoa(files)))
	t.Run("rotation", func(t *testing.T) { testRotation(t, s, size, files) })
	t.Run("podd-is-dead", func(t *testing.T) { testLogsWithoutPodd(t, s) })
}

func testRotation(t *testing.T, s *suite, size, files int) {
	const lines = 6000 // about 370 KB, and 300 KB are kept
	p := pod{Name: "rotation", Script: fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; [ $((i %% 60)) -ne 0 ] || sleep 0.02; done; %s", lines, sleepScript)}
	pod := s.running(t, p)
	log := s.must(t, "logs", p.Name, "-f", "--limit-bytes="+strconv.Itoa(len(numbers(1, lines))))
	if log != numbers(1, lines) {
		t.Errorf("followed over rotations, the log has %d lines, want %d without a gap: %s", strings.Count(log, "\n"), lines, gap(log))
	}
	file := s.logFile(pod, 0)
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^0\.log(\.\d{8}-\d{6}(\.\d+)?(\.gz)?)?$`)
	rotated := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") { // being packed
			continue
		}
		if !name.MatchString(e.Name()) {
			t.Errorf("a file called %s", e.Name())
		}
		if e.Name() != "0.log" {
			rotated++
		}
		if st, err := e.Info(); err == nil && st.Size() > int64(size) {
			t.Errorf("%s has %d bytes, more than %d", e.Name(), st.Size(), size)
		}
	}
	if rotated == 0 || rotated > files {
		t.Errorf("%d rotated files, want 1 to %d", rotated, files-1)
	}
	kept := s.must(t, "logs", p.Name)
	first, _, _ := strings.Cut(kept, "\n")
	from, err := strconv.Atoi(first)
	if err != nil || from >= lines || kept != numbers(from, lines) {
		t.Errorf("podctl logs begins with %q and has %s", first, gap(kept))
	}
}

// gap says where numbered lines are not one more than the line before.
func gap(log string) string {
	last := 0
	for line := range strings.Lines(log) {
		n, err := strconv.Atoi(strings.Fields(line + " ")[0])
		if err != nil || last != 0 && n != last+1 {
			return fmt.Sprintf("after %d comes %q", last, strings.TrimSpace(line))
		}
		last = n
	}
	return fmt.Sprintf("no gap up to %d", last)
}

// A writer tells the time of the machine with each line, so that it shows if it ever had to wait.
func testLogsWithoutPodd(t *testing.T, s *suite) {
	p := pod{Name: "writer", Script: "i=0; while :; do i=$((i+1)); read up rest </proc/uptime; echo $i $up; sleep 0.01; done"}
	file := s.logFile(s.running(t, p), 0)
	grow := func(by int) {
		t.Helper()
		before, last := newest(file), 0
		eventually(t, func() error {
			if last = newest(file); last < before+by {
				return fmt.Errorf("line %d of %d", last, before+by)
			}
			return nil
		})
	}
	grow(20)
	s.Kill()
	down := newest(file)
	grow(200) // some seconds, with nobody but the log writer
	up := newest(file)
	s.Restart()
	grow(50)
	log := s.must(t, "logs", p.Name)
	if n := newest(file); !strings.Contains(log, fmt.Sprintf("\n%d ", up)) || !strings.Contains(log, fmt.Sprintf("\n%d ", down)) || n < up {
		t.Errorf("lines %d to %d were written while podd was dead, and are not in the log", down, up)
	}
	if !strings.HasPrefix(gap(log), "no gap") {
		t.Errorf("the log has a gap: %s", gap(log))
	}
	var before float64
	for line := range strings.Lines(log) {
		at, err := strconv.ParseFloat(strings.Fields(line)[1], 64)
		if err != nil {
			t.Fatalf("line %q", line)
		}
		if before != 0 && at-before > 1.5 {
			t.Errorf("before line %q the writer had to wait for %.1f s", strings.TrimSpace(line), at-before)
		}
		before = at
	}
	if pod := s.until(t, p.Name, "ready", ready); app(pod).RestartCount != 0 {
		t.Errorf("the writer was restarted %d times", app(pod).RestartCount)
	}
}

// newest is the number of the last whole line in a log file.
func newest(file string) int {
	data, _ := os.ReadFile(file)
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 2; i >= 0; i-- {
		if m := record.FindStringSubmatch(lines[i]); m != nil {
			n, _ := strconv.Atoi(strings.Fields(m[3])[0])
			return n
		}
	}
	return 0
}
