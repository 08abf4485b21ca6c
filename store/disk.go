package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/killpoint"
)

// revisionBlock is how many revisions are reserved at a time: the file says up to which one they may have been given away.
const revisionBlock = 10000

// diskKey names an entry of the file.
type diskKey struct {
	record bool // of the runtime; else an object
	key    string
}

// content is what is known of the file besides its entries.
type content struct {
	ceiling int64
	journal found
	size    int64
	keep    bool // the file need not be written anew
}

// load reads the whole file into memory. No file is no content; a damaged one is errCorrupt.
func (s *Store) load() (content, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return content{}, nil
	}
	if err != nil {
		return content{}, err
	}
	if !isJournal(data) {
		return s.loadFormat1(data)
	}
	c := content{size: int64(len(data))}
	stale := false
	c.journal, err = readJournal(data, func(e entry) error {
		if e.kind != ceilingEntry {
			e, old, err := s.keys.open(e)
			if err == nil {
				s.take(e)
			}
			stale = stale || old
			return err
		}
		n, err := e.number()
		c.ceiling = int64(n)
		return err
	})
	if err != nil {
		return c, err
	}
	c.keep = !c.journal.torn && !stale && c.journal.format == formatVersion
	return c, s.decodePods()
}

// take puts one entry of the file into memory. Pods are decoded when all is read.
func (s *Store) take(e entry) {
	switch e.kind {
	case objectEntry:
		s.objects.ReplaceOrInsert(Entry{Key: e.key, Revision: e.revision, Expires: e.expires, Data: append([]byte{}, e.data...)})
	case objectGone:
		s.objects.Delete(Entry{Key: e.key})
	case recordEntry:
		s.records[types.UID(e.key)] = append([]byte{}, e.data...)
	case recordGone:
		delete(s.records, types.UID(e.key))
	}
}

// decodePods fills the index of pods from the objects, on all processors: podd's start waits for it.
func (s *Store) decodePods() error {
	var all []Entry
	s.objects.AscendGreaterOrEqual(Entry{Key: PodPrefix}, func(e Entry) bool {
		if isPod(e.Key) {
			all = append(all, e)
		}
		return isPod(e.Key)
	})
	pods, errs := make([]*v1.Pod, len(all)), make([]error, len(all))
	var parts sync.WaitGroup
	for part := range runtime.GOMAXPROCS(0) {
		parts.Go(func() {
			for i := part; i < len(all); i += runtime.GOMAXPROCS(0) {
				pods[i], errs[i] = decodePod(all[i].Data)
			}
		})
	}
	parts.Wait()
	for i, e := range all {
		if errs[i] != nil {
			return fmt.Errorf("%w: read %s: %w", errCorrupt, e.Key, errs[i])
		}
		pods[i].ResourceVersion = formatRevision(e.Revision)
		s.pods[e.Key], s.podKeys[pods[i].UID] = pods[i], e.Key
	}
	return nil
}

// begin goes on from what was found, and opens the file for what comes.
func (s *Store) begin(c content) (err error) {
	s.rev = max(c.ceiling, 1)
	if s.quarantined != "" {
		s.rev = time.Now().Unix() // above anything that clients have seen, unless podd wrote every second since 1970
	}
	s.history.floor = s.rev
	s.ceiling = s.rev
	defer func() {
		if err == nil {
			s.bytes.Store(s.journal.size)
		}
	}()
	if c.journal.torn {
		s.log.Warn("the state file ends in a write that a crash has cut short; nobody was told that it is done", "file", s.path)
	}
	if c.keep {
		if s.journal, err = openJournal(s.path, c.journal, c.size); err == nil && s.journal.long() {
			s.compacting = time.AfterFunc(compactDelay, s.compact)
		}
		return err
	}
	s.ceiling = s.rev + revisionBlock
	if s.journal, err = writeJournal(s.path, s.everything(nil, s.ceiling)); err == nil || s.journal != nil || c.journal.snapshot == 0 {
		return err
	}
	// No space, perhaps. The old file is sound: go on with it.
	s.log.Warn("the state file could not be compacted", "file", s.path, "error", err)
	s.ceiling = s.rev
	if s.journal, err = openJournal(s.path, c.journal, c.size); err == nil && c.journal.torn {
		return s.journal.undo()
	}
	return err
}

// everything gives what is in memory to visit, changed by changes: the content of a new file.
func (s *Store) everything(changes map[diskKey]entry, ceiling int64) func(visit func(entry) error) error {
	return func(visit func(entry) error) (err error) {
		give := func(k diskKey, e entry) bool {
			if _, changed := changes[k]; !changed {
				err = visit(e)
			}
			return err == nil
		}
		s.objects.Ascend(func(e Entry) bool { return give(diskKey{key: e.Key}, s.objectToDisk(e)) })
		for uid, data := range s.records {
			if err != nil || !give(diskKey{true, string(uid)}, entry{kind: recordEntry, key: string(uid), data: data}) {
				return err
			}
		}
		for _, e := range changes {
			if err == nil && (e.kind == objectEntry || e.kind == sealedEntry || e.kind == recordEntry) {
				err = visit(e)
			}
		}
		if err != nil {
			return err
		}
		return visit(numberEntry(ceilingEntry, uint64(ceiling)))
	}
}

func (s *Store) objectToDisk(e Entry) entry {
	return s.keys.seal(entry{kind: objectEntry, key: e.Key, revision: e.Revision, expires: e.Expires, data: e.Data})
}

// persist writes what is dirty and what is accepted in one commit. The holder of commit calls it.
func (s *Store) persist(accepted []*op) error {
	changes := make(map[diskKey]entry, len(s.dirty)+len(accepted))
	for k := range s.dirty {
		changes[k] = entry{kind: objectGone, key: k.key}
		if e, ok := s.objects.Get(Entry{Key: k.key}); ok {
			changes[k] = s.objectToDisk(e)
		}
	}
	next := s.rev
	for _, o := range accepted {
		k, e := s.toDisk(o)
		changes[k] = e
		next = max(next, o.entry.Revision)
	}
	ceiling := s.ceiling
	if next+revisionBlock/10 > ceiling {
		ceiling = next + revisionBlock
	}
	if len(changes) == 0 && ceiling == s.ceiling {
		return nil
	}
	if err := s.write(changes, ceiling); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	s.ceiling = ceiling
	clear(s.dirty)
	if s.journal.long() {
		s.compactSoon()
	}
	return nil
}

func (s *Store) toDisk(o *op) (diskKey, entry) {
	if o.record != "" {
		e := entry{kind: recordEntry, key: string(o.record), data: o.value}
		if o.value == nil {
			e.kind = recordGone
		}
		return diskKey{true, e.key}, e
	}
	if o.remove {
		return diskKey{key: o.entry.Key}, entry{kind: objectGone, key: o.entry.Key}
	}
	return diskKey{key: o.entry.Key}, s.objectToDisk(o.entry)
}

// write is one commit. If the file has failed before, it is a whole new file.
func (s *Store) write(changes map[diskKey]entry, ceiling int64) error {
	if s.journal.broken {
		return s.replace(changes, ceiling)
	}
	room := numberEntry(ceilingEntry, 0).room()
	for _, e := range changes {
		room += e.room()
	}
	body := make([]byte, 0, room)
	for _, e := range changes {
		body = appendEntry(body, e)
	}
	if ceiling != s.ceiling {
		body = appendEntry(body, numberEntry(ceilingEntry, uint64(ceiling)))
	}
	s.synced.Add(1)
	err := s.journal.append(body)
	s.bytes.Store(s.journal.size)
	return err
}

// replace puts a new file in the place of the present one.
func (s *Store) replace(changes map[diskKey]entry, ceiling int64) error {
	fresh, err := writeJournal(s.path, s.everything(changes, ceiling))
	if fresh == nil {
		return err
	}
	_ = s.journal.close()
	s.journal = fresh
	s.synced.Add(2) // the file and its directory
	s.bytes.Store(fresh.size)
	return err
}

// compactSoon makes the file small again, after the commit that has made it long is answered.
func (s *Store) compactSoon() {
	if s.compacting == nil {
		s.compacting = time.AfterFunc(0, s.compact)
	}
}

func (s *Store) compact() {
	s.commit.Lock()
	defer s.commit.Unlock()
	if s.compacting = nil; s.stopped {
		return
	}
	if err := s.replace(nil, s.ceiling); err != nil {
		s.log.Warn("the state file could not be compacted", "file", s.path, "error", err)
		s.journal.base = s.journal.end // and again when as much has come again
		return
	}
	clear(s.dirty)
}

// flushLater writes what is dirty after d. The holder of commit calls it.
func (s *Store) flushLater(d time.Duration) {
	if s.flushed == nil {
		s.flushed = time.AfterFunc(d, s.flush)
	}
}

func (s *Store) flush() {
	s.commit.Lock()
	defer s.commit.Unlock()
	if s.stopped {
		return
	}
	s.flushed = nil
	killpoint.At("store.flush.before")
	if err := s.persist(nil); err != nil {
		s.log.Error("status is not durable yet", "error", err)
		s.flushLater(retryDelay)
	}
}

// loadFormat1 reads the bbolt file of podd's first versions. It had three buckets; each value began with a checksum of its
// bucket, key and content; the meta bucket held one value, which said how many entries there are and the
// exclusive or of their checksums:
//
//	objects: key -> checksum 4, revision 8, expires 8, encoded object
//	records: uid -> checksum 4, data
//	meta:    "state" -> checksum 4, format 4, ceiling 8, entries 8, sum 4
func (s *Store) loadFormat1(data []byte) (c content, err error) {
	entries, err := readPages(data)
	if err != nil {
		return c, err
	}
	var state []byte
	var count uint64
	var sum uint32
	for k, v := range entries {
		b, err := unseal(k, v)
		if err != nil {
			return c, err
		}
		if k == (bucketKey{"meta", "state"}) {
			state = b
			continue
		}
		count++
		sum ^= binary.BigEndian.Uint32(v)
		switch {
		case k.bucket == "records":
			s.take(entry{kind: recordEntry, key: k.key, data: b})
		case k.bucket == "objects" && len(b) >= 16:
			s.take(entry{kind: objectEntry, key: k.key, revision: int64(binary.BigEndian.Uint64(b)),
				expires: int64(binary.BigEndian.Uint64(b[8:])), data: b[16:]})
		default:
			return c, fmt.Errorf("%w: %s %q", errCorrupt, k.bucket, k.key)
		}
	}
	if len(state) >= 4 && binary.BigEndian.Uint32(state) != 1 {
		return c, ErrNewer
	}
	if len(state) != 24 || count != binary.BigEndian.Uint64(state[12:]) || sum != binary.BigEndian.Uint32(state[20:]) {
		return c, fmt.Errorf("%w: entries are missing", errCorrupt)
	}
	c.ceiling = int64(binary.BigEndian.Uint64(state[4:]))
	return c, s.decodePods()
}
