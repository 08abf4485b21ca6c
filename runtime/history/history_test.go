package history

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"podd/api/history"
)

var begin = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) *History {
	t.Helper()
	h, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// only is the history of the one pod called web.
func only(t *testing.T, h *History) history.Pod {
	t.Helper()
	pods, err := h.Pods("default", "web", "")
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d histories of web, %v", len(pods), err)
	}
	return pods[0]
}

func told(pod history.Pod) string {
	var all []string
	for _, e := range pod.Entries {
		text := e.What
		if e.Container != "" {
			text += fmt.Sprintf(" %s/%d", e.Container, e.Attempt)
		}
		if e.Count > 0 {
			text += fmt.Sprintf(" x%d", e.Count)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func at(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }

// TestTornEntry: what a death cut off is dropped, what comes after it is on a line of its own.
func TestTornEntry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history")
	open(t, dir).Add("default", "web", "u1", history.Entry{Time: at(0), What: history.Mounts})
	path := filepath.Join(dir, "u1.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := `{"time":"2026-01-02T12:00:01Z","what":"sandbox","attempt":0}`
	for cutAt := range len(torn) + 1 {
		if err := os.WriteFile(path, append(whole[:len(whole):len(whole)], torn[:cutAt]...), 0o600); err != nil {
			t.Fatal(err)
		}
		h := open(t, dir)
		if got := told(only(t, h)); got != "mounts" {
			t.Fatalf("cut at %d it reads %q", cutAt, got)
		}
		h.Resume("u1")
		h.Add("default", "web", "u1", history.Entry{Time: time.Now(), What: history.Network, IPs: []string{"10.88.0.2"}})
		if got := told(only(t, open(t, dir))); got != "mounts, daemon, network" {
			t.Fatalf("cut at %d and gone on with it reads %q", cutAt, got)
		}
	}
	for cutAt := range len(whole) { // in the very first lines
		if err := os.WriteFile(path, whole[:cutAt], 0o600); err != nil {
			t.Fatal(err)
		}
		h := open(t, dir)
		h.Add("default", "web", "u1", history.Entry{Time: at(2), What: history.Sandbox})
		if got := told(only(t, h)); got != "sandbox" {
			t.Fatalf("begun anew after a cut at %d it reads %q", cutAt, got)
		}
	}
}

// TestFolded: of a crash loop the beginning and the end stay, and how often it went round in between.
func TestFolded(t *testing.T) {
	h := open(t, t.TempDir())
	h.Add("default", "web", "u1", history.Entry{Time: at(0), What: history.Pulled, Image: "i", Bytes: 7, Seconds: 1.5})
	const rounds = 1000
	for n := range rounds {
		now := at(10 * n)
		until := now.Add(9 * time.Second)
		h.Add("default", "web", "u1", history.Entry{Time: now.Add(time.Second), What: history.Started, Container: "app", Attempt: n})
		h.Add("default", "web", "u1", history.Entry{Time: now.Add(2 * time.Second), What: history.Exited, Container: "app", Attempt: n,
			Exit: &history.Exit{Code: 1, Reason: "Error"}, Message: fmt.Sprintf("error %d", n)})
		for range 3 { // each look says it again
			h.Add("default", "web", "u1", history.Entry{Time: now.Add(3 * time.Second), What: history.BackOff, Container: "app", Attempt: n + 1, Until: &until})
		}
	}
	pod := only(t, h)
	if len(pod.Entries) != 1+3*(firstKept+1+lastKept) {
		t.Errorf("%d entries: %s", len(pod.Entries), told(pod))
	}
	var counted, folded int
	for _, e := range pod.Entries {
		if e.What != history.Exited {
			continue
		}
		counted += max(e.Count, 1)
		if e.Count > 1 {
			folded++
			if !e.Time.Equal(at(10*firstKept+2)) || e.Last == nil || !e.Last.Equal(at(10*(rounds-lastKept-1)+2)) {
				t.Errorf("folded: %+v until %v", e, e.Last)
			}
		}
	}
	if counted != rounds || folded != 1 {
		t.Errorf("%d exits are told of in %d folds: %s", counted, folded, told(pod))
	}
	if !strings.HasPrefix(told(pod), "pulled, started app/0, exited app/0, back-off app/1, started app/1") ||
		!strings.HasSuffix(told(pod), fmt.Sprintf("exited app/%d, back-off app/%d", rounds-1, rounds)) {
		t.Errorf("it begins or ends otherwise: %s", told(pod))
	}
	if again := fold(fold(pod.Entries)); !reflect.DeepEqual(again, pod.Entries) {
		t.Errorf("folded once more it is %s", told(history.Pod{Entries: again}))
	}
	info, err := os.Stat(h.path("u1"))
	if err != nil || info.Size() > maxFile+4096 || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if info, err := os.Stat(h.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

// TestBounded: a pod of which everything is different and long does not grow either, and says what is left out.
func TestBounded(t *testing.T) {
	h := open(t, t.TempDir())
	const all = 800
	for n := range all {
		h.Add("default", "web", "u1", history.Entry{Time: at(n), What: history.Event, Reason: fmt.Sprint("R", n), Message: strings.Repeat("\x00é", 5000)})
	}
	info, err := os.Stat(h.path("u1"))
	if err != nil || info.Size() > maxFile+10000 {
		t.Errorf("the file: %v, %v", info, err)
	}
	pod := only(t, h)
	counted, size := 0, 0
	for _, e := range pod.Entries {
		counted += max(e.Count, 1)
		size += len(e.Message)
		if len(e.Message) > history.MaxBytes {
			t.Fatalf("a message of %d bytes", len(e.Message))
		}
	}
	if counted != all || len(pod.Entries) > maxEntries || size > maxBytes {
		t.Errorf("%d entries with %d bytes stand for %d", len(pod.Entries), size, counted)
	}
	if first, last := pod.Entries[0], pod.Entries[len(pod.Entries)-1]; first.Reason != "R0" || last.Reason != fmt.Sprint("R", all-1) {
		t.Errorf("it goes from %s to %s", first.Reason, last.Reason)
	}
}

// TestByName: pods of one name are told apart, and a deleted one is there for an hour.
func TestByName(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dir)
	for n, uid := range []string{"old", "former", "now"} {
		h.Add("default", "web", uid, history.Entry{Time: at(10 * n), What: history.Mounts})
		if uid != "now" {
			h.Add("default", "web", uid, history.Entry{Time: at(10*n + 5), What: history.Deleted})
		}
	}
	h.Add("default", "other", "o", history.Entry{Time: at(0), What: history.Mounts})
	h.Add("kube-system", "web", "k", history.Entry{Time: at(0), What: history.Mounts})
	longAgo := time.Now().Add(-history.KeptFor - time.Minute)
	for _, uid := range []string{"old", "now"} {
		if err := os.Chtimes(h.path(uid), longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "x.new"), nil, 0o600); err != nil { // of a podd that died
		t.Fatal(err)
	}
	h = open(t, dir)
	if err := h.Sweep(func(uid string) bool { return uid == "now" || uid == "o" || uid == "k" }); err != nil {
		t.Fatal(err)
	}
	pods, err := h.Pods("default", "web", "")
	if err != nil || len(pods) != 2 || pods[0].UID != "former" || pods[0].Deleted == nil || !pods[0].Deleted.Equal(at(15)) || pods[1].UID != "now" || pods[1].Deleted != nil {
		t.Errorf("of web there is %+v, %v", pods, err)
	}
	if pods, err := h.Pods("", "", "former"); err != nil || len(pods) != 1 || pods[0].Name != "web" {
		t.Errorf("by uid: %+v, %v", pods, err)
	}
	for _, bad := range []string{"none", "../history", ".", strings.Repeat("x", 300)} {
		if pods, err := h.Pods("", "", bad); err != nil || len(pods) != 0 {
			t.Errorf("uid %.20q: %+v, %v", bad, pods, err)
		}
	}
	var left []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			left = append(left, filepath.Base(path))
		}
		return nil
	})
	if want := []string{"former.jsonl", "k.jsonl", "now.jsonl", "o.jsonl"}; !reflect.DeepEqual(left, want) {
		t.Errorf("there are %v", left)
	}
	h.Resume("former") // podd has nothing to go on with
	if got := told(byUID(t, h, "former")); got != "mounts, deleted" {
		t.Errorf("a deleted pod's is %q", got)
	}
}

func byUID(t *testing.T, h *History, uid string) history.Pod {
	t.Helper()
	pods, err := h.Pods("", "", uid)
	if err != nil || len(pods) != 1 {
		t.Fatalf("%+v, %v", pods, err)
	}
	return pods[0]
}

// TestSweepBounds: too many deleted pods push out the oldest of them, and never one that is there.
func TestSweepBounds(t *testing.T) {
	h := open(t, t.TempDir())
	for n := range maxGone + 10 {
		uid := fmt.Sprintf("u%05d", n)
		h.Add("default", "web", uid, history.Entry{Time: at(n), What: history.Mounts})
		when := time.Now().Add(time.Duration(n-2000) * time.Second)
		if err := os.Chtimes(h.path(uid), when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Sweep(func(uid string) bool { return uid == "u00000" }); err != nil {
		t.Fatal(err)
	}
	pods, err := h.Pods("default", "web", "")
	if err != nil || len(pods) != maxGone+1 || pods[0].UID != "u00000" || pods[1].UID != "u00010" {
		t.Errorf("%d are left, the first %s and %s, %v", len(pods), pods[0].UID, pods[1].UID, err)
	}
}

// TestReadyIsToldOnce: a pod that was never ready is not told to be so no more, and neither is said twice.
func TestReadyIsToldOnce(t *testing.T) {
	dir := t.TempDir()
	for n, what := range []string{history.Unready, history.Ready, history.Ready, history.Unready, history.Unready, history.Ready} {
		open(t, dir).Add("default", "web", "u1", history.Entry{Time: at(n), What: what}) // a new podd each time
	}
	if got := told(only(t, open(t, dir))); got != "ready, unready, ready" {
		t.Errorf("told: %s", got)
	}
	var none *History
	none.Add("default", "web", "u1", history.Entry{})
	none.Resume("u1")
}
