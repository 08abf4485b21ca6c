package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFormat1IsTaken opens a state file of podd's first format, and finds all of it, also when it is opened again.
func TestFormat1IsTaken(t *testing.T) {
	old, err := os.ReadFile("testdata/format1.db")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for range 2 {
		s := open(t, path)
		if s.Quarantined() != "" {
			t.Fatal("a sound file was moved aside")
		}
		for i := range 8 {
			key, want := fmt.Sprintf("/x/%03d", i), strings.Repeat(fmt.Sprint(i), 300)
			if e, ok := s.Get(key); !ok || string(e.Data) != want || e.Revision == 0 {
				t.Errorf("%s is %q at %d", key, e.Data, e.Revision)
			}
		}
		if _, ok := s.PodByUID("uid-a"); !ok {
			t.Error("the pod is gone")
		}
		if r, _ := s.Record("uid-a"); string(r) != strings.Repeat("facts", 2000) {
			t.Errorf("the record is %.40q", r)
		}
		e, err := s.Put(t.Context(), fmt.Sprintf("/y/%d", last), nil, 0, 0)
		if err != nil || e.Revision <= max(last, 10001) { // the file says that 10001 may have been given away
			t.Fatalf("revision %d after %d: %v", e.Revision, last, err)
		}
		last = e.Revision
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := 3; i < len(old); i += len(old) / 50 { // the old format's damage is noticed as before
		bad := append([]byte{}, old...)
		bad[i] ^= 8
		s := &Store{}
		s.empty()
		if _, err := s.loadFormat1(bad); err == nil && s.objects.Len() != 9 {
			t.Errorf("byte %d damaged: %d objects", i, s.objects.Len())
		}
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	filled(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(data[8:], formatVersion+1)
	if _, err := readJournal(data, func(entry) error { return nil }); !errors.Is(err, errCorrupt) {
		t.Errorf("another format without its checksum: %v", err)
	}
	copy(data[12:], binary.BigEndian.AppendUint32(nil, headerSum(data[:12])))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("opened: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || len(now) != len(data) {
		t.Errorf("the file of a newer podd was touched: %v", err)
	}
}

// TestOneSyncPerCommit counts how often the disk is waited for.
func TestOneSyncPerCommit(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	const alone, together = 50, 400
	before := s.journal.syncs
	for i := range alone {
		if _, err := s.Put(t.Context(), fmt.Sprintf("/x/%d", i), []byte("1"), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.journal.syncs - before; n != alone {
		t.Errorf("%d writes one after the other waited %d times for the disk", alone, n)
	}
	// A flood that comes while the disk is busy is one commit.
	before = s.journal.syncs
	s.commit.Lock()
	var wg sync.WaitGroup
	for i := range together {
		wg.Go(func() {
			if _, err := s.Put(t.Context(), fmt.Sprintf("/y/%d", i), []byte("1"), 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
	for {
		s.queueMu.Lock()
		n := len(s.queue)
		s.queueMu.Unlock()
		if n == together {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.commit.Unlock()
	wg.Wait()
	if n := s.journal.syncs - before; n != 1 {
		t.Errorf("%d writes together waited %d times for the disk", together, n)
	}
}

// TestFileStaysSmall changes one object 100,000 times.
func TestFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	data, rev, largest := []byte(strings.Repeat("x", 500)), int64(0), int64(0)
	for i := range 100_000 {
		e, err := s.Put(Lazily(t.Context()), "/x/a", data, rev, 0)
		if err != nil {
			t.Fatal(err)
		}
		rev = e.Revision
		if i%250 == 0 {
			s.flush()
		}
		if i%5000 == 0 {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			largest = max(largest, info.Size())
		}
	}
	for i := range 1500 { // and durably, if less often
		e, err := s.Put(t.Context(), "/x/a", []byte(strings.Repeat("y", 6000+i%2)), rev, 0)
		if err != nil {
			t.Fatal(err)
		}
		rev = e.Revision
		if i%100 == 0 {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			largest = max(largest, info.Size())
		}
	}
	if largest > 3<<20 {
		t.Errorf("the file of one object has grown to %d bytes", largest)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if e, ok := s.Get("/x/a"); !ok || e.Revision != rev || s.Revision() != rev {
		t.Errorf("after a reopen: revision %d at %d, want %d", e.Revision, s.Revision(), rev)
	}
}

// journaled makes a state file as a crash leaves it after some commits: state[i] is what is known when the file ends
// at ends[i].
func journaled(t testing.TB, commits int) (data []byte, ends []int, states []map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	random := rand.New(rand.NewSource(7))
	state := map[string]string{}
	note := func() {
		now := map[string]string{}
		for k, v := range state {
			now[k] = v
		}
		ends, states = append(ends, int(s.journal.end)), append(states, now)
	}
	note()
	for i := range commits {
		key := fmt.Sprintf("/x/%d", i%5)
		text := make([]byte, 30+random.Intn(2500))
		for n := range text {
			text[n] = byte('a' + random.Intn(26))
		}
		cur, _ := s.Get(key)
		if i%7 == 6 {
			if _, err := s.Delete(t.Context(), key, cur.Revision); err != nil {
				t.Fatal(err)
			}
			delete(state, key)
		} else {
			if _, err := s.Put(t.Context(), key, text, cur.Revision, 0); err != nil {
				t.Fatal(err)
			}
			state[key] = string(text)
		}
		note()
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data, ends, states
}

// readState is what a state file holds.
func readState(data []byte) (map[string]string, error) {
	state := map[string]string{}
	_, err := readJournal(data, func(e entry) error {
		switch e.kind {
		case objectEntry:
			state[e.key] = string(e.data)
		case objectGone:
			delete(state, e.key)
		}
		return nil
	})
	return state, err
}

func same(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// TestTornAtEveryBoundary lets the power go in each commit: any of the sectors that it wrote may have reached the
// disk, and the file may end anywhere in it. What was acknowledged before is there, exactly, and nothing is corrupt.
func TestTornAtEveryBoundary(t *testing.T) {
	data, ends, states := journaled(t, 40)
	random := rand.New(rand.NewSource(3))
	torn, whole := 0, 0
	check := func(what string, image []byte, i int) {
		t.Helper()
		got, err := readState(image)
		switch {
		case err != nil:
			t.Fatalf("commit %d, %s: %v", i, what, err)
		case same(got, states[i]):
			torn++
		case same(got, states[i+1]):
			whole++
		default:
			t.Fatalf("commit %d, %s: another state", i, what)
		}
	}
	for i := range ends[:len(ends)-1] {
		from, to := ends[i], ends[i+1]
		blank := append(append([]byte{}, data[:from]...), make([]byte, len(data)-from)...)
		for cut := from; cut <= to; cut += 1 + random.Intn(60) { // a process killed in write, or a file that grew
			check(fmt.Sprintf("%d bytes, then the file ends", cut-from), data[:cut], i)
			image := append([]byte{}, blank...)
			copy(image[from:cut/sector*sector+sector], data[from:to])
			if cut/sector*sector+sector < to {
				check(fmt.Sprintf("whole sectors, to %d", cut-from), image, i)
			}
		}
		for range 30 { // any set of sectors
			image := append([]byte{}, blank...)
			for at := from; at < to; {
				end := min(at/sector*sector+sector, to)
				if random.Intn(2) == 0 {
					copy(image[at:end], data[at:end])
				}
				at = end
			}
			check("some sectors", image, i)
		}
	}
	if torn < 1000 || whole < 10 {
		t.Errorf("%d torn and %d whole commits: the test has not tried what it should", torn, whole)
	}
}

// TestTornFileGoesOn opens a torn file, writes to it and opens it again.
func TestTornFileGoesOn(t *testing.T) {
	data, ends, states := journaled(t, 3)
	path := filepath.Join(t.TempDir(), "state.db")
	cut := (ends[2] + ends[3]) / 2
	if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		s := open(t, path)
		if s.Quarantined() != "" {
			t.Fatal("moved aside")
		}
		for key, value := range states[2] {
			if e, _ := s.Get(key); string(e.Data) != value {
				t.Errorf("round %d: %s is %q", round, key, e.Data)
			}
		}
		if _, err := s.Put(t.Context(), fmt.Sprintf("/y/%d", round), nil, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledFileGoesOn: the file of a podd that was killed is not written anew before the next one answers. Its commits stay,
// the new ones follow them, and no revision is given away twice, however often that happens.
func TestKilledFileGoesOn(t *testing.T) {
	data, _, states := journaled(t, 12)
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want, revision := states[12], int64(0)
	for round := range 4 {
		s := open(t, path)
		if s.Quarantined() != "" {
			t.Fatal("moved aside")
		}
		now, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(first, now) {
			t.Errorf("round %d: the file was written anew", round)
		}
		for key, value := range want {
			if e, _ := s.Get(key); string(e.Data) != value {
				t.Errorf("round %d: %s is %q, want %q", round, key, e.Data, value)
			}
		}
		key := fmt.Sprintf("/y/%d", round)
		e, err := s.Put(t.Context(), key, []byte(key), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if e.Revision <= revision {
			t.Errorf("round %d: revision %d after %d", round, e.Revision, revision)
		}
		want[key], revision = key, e.Revision
		kill(s)
	}
}

// kill has a store end as with its process.
func kill(s *Store) {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.stopped = true
	_ = s.journal.close()
	_ = s.lock.Close()
}

// TestDamageBeforeTheEndIsNoticed flips one bit of every 16th byte of a file that a crash has left, up to the last
// commit, and loses each of its pages.
func TestDamageBeforeTheEndIsNoticed(t *testing.T) {
	data, ends, _ := journaled(t, 12)
	last := ends[len(ends)-2]
	for i := 0; i < last; i += 16 {
		bad := append([]byte{}, data...)
		bad[i] ^= 1 << (i % 8)
		if _, err := readState(bad); !errors.Is(err, errCorrupt) {
			t.Fatalf("bit %d of byte %d of %d: %v", i%8, i, last, err)
		}
	}
	for i := 0; i+sector < last; i += sector {
		bad := append([]byte{}, data...)
		clear(bad[i : i+sector])
		if _, err := readState(bad); !errors.Is(err, errCorrupt) {
			t.Fatalf("sector at %d of %d lost: %v", i, last, err)
		}
	}
}

// TestAfterAFailedWrite breaks the file under the store: the write is refused, and the next one goes to a new file.
func TestAfterAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	putPod(t, s, "a")
	if err := s.journal.file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "/x/a", []byte("1"), 0, 0); err == nil {
		t.Fatal("a write to a closed file was acknowledged")
	}
	if _, ok := s.Get("/x/a"); ok {
		t.Error("what was refused is visible")
	}
	if _, err := s.Put(t.Context(), "/x/b", []byte("2"), 0, 0); err != nil {
		t.Fatalf("the next write: %v", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	state, err := readState(data)
	if err != nil || state["/x/b"] != "2" || len(state) != 2 {
		t.Errorf("the new file: %v, %v", state, err)
	}
}

// FuzzReadJournal is the decoding of what is stored: nothing may panic, and what is read is read again the same.
func FuzzReadJournal(f *testing.F) {
	data, ends, _ := journaled(f, 8)
	f.Add(data[:ends[len(ends)-1]])
	f.Add(data[:ends[3]+40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksums would keep the fuzzer out: they are made right, one frame after the other.
		data = append([]byte{}, data...)
		mend(data)
		first, err := readState(data)
		if err != nil {
			return
		}
		if second, err := readState(data); err != nil || !same(first, second) {
			t.Errorf("read twice: %v", err)
		}
	})
}

// mend makes all checksums and sequences right.
func mend(data []byte) {
	if len(data) < fileHeader {
		return
	}
	binary.BigEndian.PutUint32(data[12:], headerSum(data[:12]))
	for at, n := fileHeader, uint64(1); at+frameHeader < len(data); n++ {
		end := at + frameHeader + int(binary.BigEndian.Uint32(data[at:]))
		if end > len(data) || end == at+frameHeader {
			return
		}
		binary.BigEndian.PutUint64(data[at+8:], n)
		binary.BigEndian.PutUint32(data[at+4:], frameSum(data[at:end]))
		at = end
	}
}

// FuzzReadPages is the same for the first format.
func FuzzReadPages(f *testing.F) {
	data, err := os.ReadFile("testdata/format1.db")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:min(len(data), 8<<12)])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = readPages(data) })
}
