package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(Options{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func podData(t testing.TB, name string, change ...func(*v1.Pod)) []byte {
	t.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	for _, f := range change {
		f(pod)
	}
	data, err := encodePod(pod)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putPod(t testing.TB, s *Store, name string, change ...func(*v1.Pod)) Entry {
	t.Helper()
	e, err := s.Put(t.Context(), PodPrefix+"default/"+name, podData(t, name, change...), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPutExpectsTheRevisionThatIsThere(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	ctx := t.Context()
	a, err := s.Put(ctx, "/x/a", []byte("1"), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "/x/a", []byte("2"), 0, 0); !errors.Is(err, ErrConflict) {
		t.Errorf("a second create: %v", err)
	}
	if _, err := s.Put(ctx, "/x/a", []byte("2"), a.Revision+1, 0); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale write: %v", err)
	}
	b, err := s.Put(ctx, "/x/a", []byte("2"), a.Revision, 0)
	if err != nil || b.Revision <= a.Revision {
		t.Errorf("revision %d after %d: %v", b.Revision, a.Revision, err)
	}
	if _, err := s.Delete(ctx, "/x/a", a.Revision); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale delete: %v", err)
	}
	if _, err := s.Delete(ctx, "/x/a", b.Revision); err != nil {
		t.Error(err)
	}
	if _, ok := s.Get("/x/a"); ok {
		t.Error("it is still there")
	}
}

// TestOwnChangesAreNotTold: who writes a status may ask not to be woken by it; all others are.
func TestOwnChangesAreNotTold(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	var mine, all int
	defer s.OnPodChangeByOthers("me", func(types.UID) { mine++ })()
	defer s.OnPodChange(func(types.UID) { all++ })()
	putPod(t, s, "a")
	for i, ctx := range []context.Context{By(t.Context(), "me"), By(t.Context(), "you"), t.Context()} {
		err := s.SetStatus(ctx, "uid-a", func(st v1.PodStatus) v1.PodStatus { st.Message = fmt.Sprint(i); return st })
		if err != nil {
			t.Fatal(err)
		}
	}
	if mine != 3 || all != 4 {
		t.Errorf("told %d times of others' changes, want 3; %d times of all, want 4", mine, all)
	}
}

func TestReopenFindsAllAndNeverGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	putPod(t, s, "a")
	if err := s.PutRecord(t.Context(), "uid-a", []byte("facts")); err != nil {
		t.Fatal(err)
	}
	err := s.SetStatus(t.Context(), "uid-a", func(st v1.PodStatus) v1.PodStatus { st.Phase = v1.PodRunning; return st })
	if err != nil {
		t.Fatal(err)
	}
	rev := s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	pod, ok := s.PodByUID("uid-a")
	if !ok || pod.Status.Phase != v1.PodRunning {
		t.Errorf("the pod after a restart: %v", pod)
	}
	if r, _ := s.Record("uid-a"); string(r) != "facts" {
		t.Errorf("the record after a restart: %q", r)
	}
	if s.Revision() < rev {
		t.Errorf("revision %d went back to %d", rev, s.Revision())
	}
	w, err := s.Watch("/", rev)
	if err != nil {
		t.Fatalf("a watch that had seen everything before the restart: %v", err)
	}
	w.Stop()
	if _, err := s.Watch("/", rev-1); !errors.Is(err, ErrGone) {
		t.Errorf("a watch from before the last change before the restart: %v", err)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	putPod(t, s, "a")
	if _, err := Open(Options{Path: path}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second podd: %v", err)
	}
	putPod(t, s, "b")
}

func TestSetStatusSkipsWhatIsEqual(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	putPod(t, s, "a")
	calls := 0
	defer s.OnPodChange(func(uid types.UID) { calls++ })()
	set := func(phase v1.PodPhase) {
		t.Helper()
		err := s.SetStatus(t.Context(), "uid-a", func(st v1.PodStatus) v1.PodStatus { st.Phase = phase; return st })
		if err != nil {
			t.Fatal(err)
		}
	}
	set(v1.PodRunning)
	rev := s.Revision()
	set(v1.PodRunning)
	if s.Revision() != rev || calls != 1 {
		t.Errorf("an equal status was written: revision %d to %d, %d calls", rev, s.Revision(), calls)
	}
	pod, _ := s.Pod("default", "a")
	if pod.ResourceVersion != formatRevision(rev) {
		t.Errorf("resourceVersion %s, want %d", pod.ResourceVersion, rev)
	}
	if err := s.SetStatus(t.Context(), "no such", nil); err == nil {
		t.Error("a pod that is not there has a status")
	}
}

func TestLazyWritesReachTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if _, err := s.Put(Lazily(t.Context()), "/x/a", []byte("1"), 0, 0); err != nil {
		t.Fatal(err)
	}
	onDisk := func() bool {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		there := false
		_, err = readJournal(data, func(e entry) error { there = there || e.key == "/x/a"; return nil })
		return err == nil && there
	}
	for deadline := time.Now().Add(2 * time.Minute); !onDisk(); {
		if time.Now().After(deadline) {
			t.Fatal("a lazy write is not on disk after two minutes")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestFinishPod(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	ctx := t.Context()
	deleting := func(p *v1.Pod) {
		now := metav1.Now()
		grace := int64(30)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	}
	putPod(t, s, "alive")
	if err := s.FinishPod(ctx, "uid-alive"); err == nil {
		t.Error("a pod that nobody deleted is gone")
	}
	putPod(t, s, "dying", deleting)
	w, err := s.Watch(PodPrefix, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for range 2 { // a second time is no error
		if err := s.FinishPod(ctx, "uid-dying"); err != nil {
			t.Error(err)
		}
	}
	changes, _, err := w.Next()
	if err != nil || len(changes) != 1 || changes[0].Data != nil {
		t.Fatalf("changes %v, %v", changes, err)
	}
	if last, err := decodePod(changes[0].Prev); err != nil || last.DeletionTimestamp == nil {
		t.Errorf("the removed pod has no deletionTimestamp: %v", err)
	}
	putPod(t, s, "held", deleting, func(p *v1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	if err := s.FinishPod(ctx, "uid-held"); err != nil {
		t.Error(err)
	}
	if held, ok := s.PodByUID("uid-held"); !ok || *held.DeletionGracePeriodSeconds != 0 {
		t.Errorf("a pod with a finalizer: %v", held)
	}
}

// TestWatchSeesEveryChangeInOrder lets writers and watchers run against each other.
func TestWatchSeesEveryChangeInOrder(t *testing.T) {
	const writers, each = 8, 50
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	var wg sync.WaitGroup
	for n := range 4 {
		_, w, err := s.ListAndWatch("/x/")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer w.Stop()
			got, last := 0, int64(0)
			for got < writers*each {
				<-w.C
				changes, _, err := w.Next()
				if err != nil {
					t.Errorf("watcher %d: %v", n, err)
					return
				}
				for _, c := range changes {
					if c.Revision <= last {
						t.Errorf("watcher %d: revision %d after %d", n, c.Revision, last)
					}
					last = c.Revision
				}
				got += len(changes)
			}
		})
	}
	for n := range writers {
		wg.Go(func() {
			ctx := t.Context()
			if n%2 == 0 {
				ctx = Lazily(ctx)
			}
			for i := range each {
				if _, err := s.Put(ctx, fmt.Sprintf("/x/%d-%d", n, i), []byte("data"), 0, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSlowWatchIsCutOff(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	w, err := s.Watch("/x/", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	big := []byte(strings.Repeat("x", historyBytes/4))
	rev := int64(0)
	for range 8 {
		e, err := s.Put(Lazily(t.Context()), "/x/a", big, rev, 0)
		if err != nil {
			t.Fatal(err)
		}
		rev = e.Revision
	}
	if _, _, err := w.Next(); !errors.Is(err, ErrGone) {
		t.Errorf("a watch that the history has passed by: %v", err)
	}
	if s.history.bytes > historyBytes {
		t.Errorf("the history holds %d bytes", s.history.bytes)
	}
}

func TestExpire(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	now := time.Unix(1000, 0)
	for name, expires := range map[string]int64{"old": 999, "new": 1001, "ever": 0} {
		if _, err := s.Put(t.Context(), "/events/"+name, []byte("e"), 0, expires); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Expire(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	left, _, _ := s.List("/events/", "", 0)
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestListPages(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	for i := range 5 {
		if _, err := s.Put(Lazily(t.Context()), fmt.Sprintf("/x/%d", i), []byte("e"), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Put(Lazily(t.Context()), "/xy", []byte("e"), 0, 0); err != nil {
		t.Fatal(err)
	}
	first, more, _ := s.List("/x/", "", 2)
	if len(first) != 2 || more != 3 {
		t.Errorf("first page %v, %d more", first, more)
	}
	rest, more, _ := s.List("/x/", first[1].Key+"\x00", 0)
	if len(rest) != 3 || more != 0 {
		t.Errorf("rest %v, %d more", rest, more)
	}
}

// filled makes a state file with many pages, and says what is in it.
func filled(t testing.TB, path string) map[string]string {
	s := open(t, path)
	want := map[string]string{}
	for i := range 60 {
		key, value := fmt.Sprintf("/x/%03d", i), strings.Repeat(fmt.Sprint(i), 300)
		if _, err := s.Put(Lazily(t.Context()), key, []byte(value), 0, 0); err != nil {
			t.Fatal(err)
		}
		want[key] = value
	}
	putPod(t, s, "a")
	if err := s.PutRecord(t.Context(), "uid-a", []byte(strings.Repeat("facts", 2000))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestDamageIsNoticed opens 300 damaged copies of a state file that was closed: each is quarantined.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	want := filled(t, good)
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(1))
	quarantined := 0
	for i := range 300 {
		bad := append([]byte{}, data...)
		switch i % 3 {
		case 0:
			bad = bad[:random.Intn(len(bad))]
		case 1:
			bad[random.Intn(len(bad))] ^= 1 << random.Intn(8)
		case 2: // a page of another file, or lost
			page := random.Intn(len(bad)/4096) * 4096
			for n := range 4096 {
				bad[page+n] = byte(random.Intn(256) * (i % 2))
			}
		}
		path := filepath.Join(dir, fmt.Sprintf("bad%d.db", i))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatalf("mutant %d: %v", i, err)
		}
		if s.Quarantined() != "" {
			quarantined++
			if kept, err := os.ReadFile(s.Quarantined()); err != nil || len(kept) != len(bad) {
				t.Errorf("mutant %d was not kept: %v", i, err)
			}
		} else {
			for key, value := range want {
				if e, ok := s.Get(key); !ok || string(e.Data) != value {
					t.Fatalf("mutant %d: %s is %q", i, key, e.Data)
				}
			}
		}
		if _, err := s.Put(t.Context(), "/x/new", []byte("1"), 0, 0); err != nil {
			t.Errorf("mutant %d: write: %v", i, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("mutant %d: close: %v", i, err)
		}
		for _, f := range []string{path, path + ".lock", s.Quarantined()} {
			_ = os.Remove(f)
		}
	}
	if quarantined != 300 { // the file was closed: all of it counts
		t.Errorf("%d of 300 were quarantined", quarantined)
	}
}

func FuzzDecodePod(f *testing.F) {
	f.Add(podData(f, "a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pod, err := decodePod(data)
		if err != nil {
			return
		}
		if _, err := encodePod(pod); err != nil {
			t.Error(err)
		}
	})
}

// TestSometimeCostsNoCommit: a write that is made Sometime waits for another one.
func TestSometimeCostsNoCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	before := s.journal.syncs
	if _, err := s.Put(Sometime(t.Context()), "/leases/node", []byte("1"), 0, 0); err != nil {
		t.Fatal(err)
	}
	s.commit.Lock()
	waiting, dirty := s.flushed != nil, len(s.dirty)
	s.commit.Unlock()
	if n := s.journal.syncs - before; n != 0 || waiting || dirty != 1 {
		t.Errorf("waited %d times for the disk, another wait is planned: %v, %d entries dirty", n, waiting, dirty)
	}
	if e, ok := s.Get("/leases/node"); !ok || string(e.Data) != "1" {
		t.Errorf("Get = %q, %v", e.Data, ok)
	}
	if _, err := s.Put(t.Context(), "/x/1", []byte("1"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if e, ok := open(t, path).Get("/leases/node"); !ok || string(e.Data) != "1" {
		t.Errorf("after the next commit and a restart: %q, %v", e.Data, ok)
	}
}
