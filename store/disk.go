package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/killpoint"
)

// The file is a bbolt database of three buckets. Every value begins with a checksum of its bucket, key and content; the
// meta bucket holds one value, which says how many entries there are and the exclusive or of their checksums. So a flipped bit, a
// lost page or an old page anywhere is noticed, which bbolt alone does not do.
//
//	objects: key -> checksum 4, revision 8, expires 8, encoded object
//	records: uid -> checksum 4, data
//	meta:    "state" -> checksum 4, format 4, ceiling 8, entries 8, sum 4
//
// Numbers are big-endian.
const (
	objectsBucket = "objects"
	recordsBucket = "records"
	metaBucket    = "meta"
	stateKey      = "state"

	formatVersion = 1
	revisionBlock = 10000 // how many revisions are reserved at a time
)

// diskKey names an entry of the file.
type diskKey struct{ bucket, key string }

func checksum(k diskKey, content []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte(k.bucket))
	sum = crc32.Update(sum, castagnoli, []byte{0})
	sum = crc32.Update(sum, castagnoli, []byte(k.key))
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return crc32.Update(sum, castagnoli, content)
}

// seal puts the checksum before content.
func seal(k diskKey, content []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(k, content)), content...)
}

// unseal checks and takes away the checksum.
func unseal(k diskKey, value []byte) ([]byte, error) {
	if len(value) < 4 || checksum(k, value[4:]) != binary.BigEndian.Uint32(value) {
		return nil, fmt.Errorf("%w: checksum of %s %q", errCorrupt, k.bucket, k.key)
	}
	return value[4:], nil
}

func sealEntry(e Entry) []byte {
	content := binary.BigEndian.AppendUint64(make([]byte, 0, 16+len(e.Data)), uint64(e.Revision))
	content = binary.BigEndian.AppendUint64(content, uint64(e.Expires))
	return seal(diskKey{objectsBucket, e.Key}, append(content, e.Data...))
}

// state is the value in the meta bucket.
type state struct {
	format  uint32
	ceiling int64
	entries uint64
	sum     uint32
}

func (st state) seal() []byte {
	b := binary.BigEndian.AppendUint32(nil, st.format)
	b = binary.BigEndian.AppendUint64(b, uint64(st.ceiling))
	b = binary.BigEndian.AppendUint64(b, st.entries)
	b = binary.BigEndian.AppendUint32(b, st.sum)
	return seal(diskKey{metaBucket, stateKey}, b)
}

// content is what a file holds.
type content struct {
	ceiling int64
	entries map[diskKey][]byte // sealed
}

// load reads and checks the whole file, and fills the memory with it. No file is no content; a damaged one is errCorrupt.
func (s *Store) load() (content, error) {
	c := content{entries: map[diskKey][]byte{}}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if c.entries, err = readPages(data); err != nil {
		return c, err
	}
	stateValue, ok := c.entries[diskKey{metaBucket, stateKey}]
	if !ok {
		return c, fmt.Errorf("%w: no state", errCorrupt)
	}
	b, err := unseal(diskKey{metaBucket, stateKey}, stateValue)
	if err != nil {
		return c, err
	}
	if len(b) < 4 {
		return c, fmt.Errorf("%w: short state", errCorrupt)
	}
	if binary.BigEndian.Uint32(b) > formatVersion {
		return c, ErrNewer
	}
	if len(b) != 24 {
		return c, fmt.Errorf("%w: short state", errCorrupt)
	}
	c.ceiling = int64(binary.BigEndian.Uint64(b[4:]))
	delete(c.entries, diskKey{metaBucket, stateKey})
	var sum uint32
	for k, v := range c.entries {
		if _, err := unseal(k, v); err != nil {
			return c, err
		}
		sum ^= binary.BigEndian.Uint32(v)
	}
	if uint64(len(c.entries)) != binary.BigEndian.Uint64(b[12:]) || sum != binary.BigEndian.Uint32(b[20:]) {
		return c, fmt.Errorf("%w: entries are missing", errCorrupt)
	}
	for k, v := range c.entries {
		if err := s.take(k, v); err != nil {
			return c, fmt.Errorf("%w: %w", errCorrupt, err)
		}
	}
	return c, nil
}

// begin goes on from what was found, and opens the database.
func (s *Store) begin(c content) error {
	s.rev = max(c.ceiling, 1)
	if s.quarantined != "" {
		s.rev = time.Now().Unix() // above anything that clients have seen, unless podd wrote every second since 1970
	}
	s.history.floor = s.rev
	s.ceiling = s.rev + revisionBlock
	for k, v := range c.entries {
		s.disk[k] = binary.BigEndian.Uint32(v)
	}
	if err := s.rewrite(c.entries); err != nil {
		if len(c.entries) == 0 {
			return err
		}
		// No space, perhaps. The old file is sound: go on with it.
		s.log.Warn("the state file could not be compacted", "file", s.path, "error", err)
		s.ceiling = s.rev
	}
	db, err := bolt.Open(s.path, 0o600, boltOptions())
	if err != nil {
		return err
	}
	s.db = db
	return nil
}

// take puts one entry of the file into memory.
func (s *Store) take(k diskKey, v []byte) error {
	b := append([]byte{}, v[4:]...)
	switch k.bucket {
	case recordsBucket:
		s.records[types.UID(k.key)] = b
	case objectsBucket:
		if len(b) < 16 {
			return fmt.Errorf("read %s: too short", k.key)
		}
		e := Entry{Key: k.key, Revision: int64(binary.BigEndian.Uint64(b)),
			Expires: int64(binary.BigEndian.Uint64(b[8:])), Data: b[16:]}
		s.objects.ReplaceOrInsert(e)
		if !isPod(e.Key) {
			return nil
		}
		pod, err := decodePod(e.Data)
		if err != nil {
			return fmt.Errorf("read %s: %w", k.key, err)
		}
		pod.ResourceVersion = formatRevision(e.Revision)
		s.pods[e.Key], s.podKeys[pod.UID] = pod, e.Key
	}
	return nil
}

func boltOptions() *bolt.Options {
	return &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType}
}

// rewrite puts a fresh file with the entries in the place of the old one: whatever damage hid in pages that are not in
// use is gone, and the file is as small as can be.
func (s *Store) rewrite(entries map[diskKey][]byte) error {
	fresh := s.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(fresh, 0o600, boltOptions())
	if err != nil {
		return err
	}
	err = errors.Join(db.Update(func(tx *bolt.Tx) error { return s.fill(tx, entries) }), db.Close())
	if err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	killpoint.At("store.rewrite.before")
	if err := os.Rename(fresh, s.path); err != nil {
		return err
	}
	killpoint.At("store.rewrite.after")
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s *Store) fill(tx *bolt.Tx, entries map[diskKey][]byte) error {
	for _, name := range []string{metaBucket, objectsBucket, recordsBucket} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	var sum uint32
	for k, v := range entries {
		sum ^= binary.BigEndian.Uint32(v)
		if err := tx.Bucket([]byte(k.bucket)).Put([]byte(k.key), v); err != nil {
			return err
		}
	}
	st := state{format: formatVersion, ceiling: s.ceiling, entries: uint64(len(entries)), sum: sum}
	return tx.Bucket([]byte(metaBucket)).Put([]byte(stateKey), st.seal())
}

// persist writes what is dirty and what is accepted in one transaction. The holder of commit calls it.
func (s *Store) persist(accepted []*op) error {
	changes := map[diskKey][]byte{} // nil removes
	for k := range s.dirty {
		changes[k] = nil
		if e, ok := s.objects.Get(Entry{Key: k.key}); ok {
			changes[k] = sealEntry(e)
		}
	}
	next := s.rev
	for _, o := range accepted {
		k, v := o.sealed()
		changes[k] = v
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
	for k, v := range changes {
		if v == nil {
			delete(s.disk, k)
		} else {
			s.disk[k] = binary.BigEndian.Uint32(v)
		}
	}
	s.ceiling = ceiling
	clear(s.dirty)
	return nil
}

func (o *op) sealed() (diskKey, []byte) {
	if o.record != "" {
		k := diskKey{recordsBucket, string(o.record)}
		if o.value == nil {
			return k, nil
		}
		return k, seal(k, o.value)
	}
	k := diskKey{objectsBucket, o.entry.Key}
	if o.remove {
		return k, nil
	}
	return k, sealEntry(o.entry)
}

// write is one transaction. A fault of the mapped file (its disk is gone) is an error like any other.
func (s *Store) write(changes map[diskKey][]byte, ceiling int64) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	st := state{format: formatVersion, ceiling: ceiling, entries: uint64(len(s.disk))}
	for _, sum := range s.disk {
		st.sum ^= sum
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for k, v := range changes {
			old, had := s.disk[k]
			if had {
				st.sum ^= old
				st.entries--
			}
			if v == nil {
				if err := tx.Bucket([]byte(k.bucket)).Delete([]byte(k.key)); err != nil {
					return err
				}
				continue
			}
			st.sum ^= binary.BigEndian.Uint32(v)
			st.entries++
			if err := tx.Bucket([]byte(k.bucket)).Put([]byte(k.key), v); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(stateKey), st.seal())
	})
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
