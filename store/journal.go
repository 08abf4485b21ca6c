package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// The state file is a journal: a snapshot of everything, and after it one frame for each commit. A commit is one write
// and one fdatasync. When the commits have become longer than the snapshot, a new file with a new snapshot takes the place
// of the old one.
//
//	file:  magic 8 | format 4 | checksum 4 | frames | zeros
//	frame: length of the body 4 | checksum 4 | sequence 8 | body
//	body:  entries: kind 1 | key | revision and expiry 8 each (objects only, sealed or not) | data
//
// Numbers are big-endian; keys and data have their length, a uvarint, before them. A frame's checksum covers its length,
// its sequence and its body. The snapshot may be many frames; the last entry of the last one says how many entries it has.
//
// The zeros are there before most commits need their place: overwriting them changes no size that the file system would
// have to write too, and what a write has not reached when the power goes is known to be zero. So a torn last
// frame can be told from a damaged one, as far as that is possible: see tail. A file that was closed is a snapshot alone:
// nothing may be missing from it.
const (
	journalMagic  = "podd\x00log"
	formatVersion = 3 // 1 was a bbolt file, see pages.go; 2 had nothing sealed
	fileHeader    = 16
	frameHeader   = 16
	snapshotFrame = 256 << 10 // about the size of a snapshot's frames
	reserve       = 256 << 10 // zeros are added in pieces of this size
	sector        = 512       // what a disk writes as a whole
)

// The kinds of entries.
const (
	objectEntry  byte = 1 + iota // an object
	objectGone                   // its removal
	recordEntry                  // a record of the runtime
	recordGone                   // its removal
	ceilingEntry                 // no revision above this one was given away; key is empty, data 8 bytes
	snapshotEnd                  // data is the number of entries before it, 8 bytes
	sealedEntry                  // an object whose data is sealed, see seal.go
)

// entry is one change as the file has it.
type entry struct {
	kind              byte
	key               string
	revision, expires int64
	data              []byte
}

func appendEntry(b []byte, e entry) []byte {
	b = append(b, e.kind)
	b = binary.AppendUvarint(b, uint64(len(e.key)))
	b = append(b, e.key...)
	if e.kind == objectEntry || e.kind == sealedEntry {
		b = binary.BigEndian.AppendUint64(b, uint64(e.revision))
		b = binary.BigEndian.AppendUint64(b, uint64(e.expires))
	}
	b = binary.AppendUvarint(b, uint64(len(e.data)))
	return append(b, e.data...)
}

// room is at least what appendEntry takes for e.
func (e entry) room() int { return 1 + 2*binary.MaxVarintLen64 + 16 + len(e.key) + len(e.data) }

func numberEntry(kind byte, n uint64) entry {
	return entry{kind: kind, data: binary.BigEndian.AppendUint64(nil, n)}
}

// number is the inverse of numberEntry.
func (e entry) number() (uint64, error) {
	if len(e.data) != 8 {
		return 0, fmt.Errorf("%w: a number of %d bytes", errCorrupt, len(e.data))
	}
	return binary.BigEndian.Uint64(e.data), nil
}

// readEntries takes a body apart. The data of an entry is a part of body.
func readEntries(body []byte, visit func(entry) error) error {
	field := func() ([]byte, bool) {
		n, used := binary.Uvarint(body)
		if used <= 0 || n > uint64(len(body)-used) {
			return nil, false
		}
		f := body[used : used+int(n)]
		body = body[used+int(n):]
		return f, true
	}
	for len(body) > 0 {
		e := entry{kind: body[0]}
		body = body[1:]
		key, ok := field()
		if ok && (e.kind == objectEntry || e.kind == sealedEntry) {
			if ok = len(body) >= 16; ok {
				e.revision, e.expires = int64(binary.BigEndian.Uint64(body)), int64(binary.BigEndian.Uint64(body[8:]))
				body = body[16:]
			}
		}
		if ok {
			e.data, ok = field()
		}
		if !ok || e.kind < objectEntry || e.kind > sealedEntry {
			return fmt.Errorf("%w: an entry of kind %d cannot be read", errCorrupt, e.kind)
		}
		e.key = string(key)
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

func header() []byte {
	b := binary.BigEndian.AppendUint32([]byte(journalMagic), formatVersion)
	return binary.BigEndian.AppendUint32(b, headerSum(b))
}

func headerSum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// frame is body with its header, and zeros behind it.
func frame(sequence uint64, body []byte, zeros int) []byte {
	whole := frameHeader + len(body)
	b := make([]byte, whole+zeros)
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint64(b[8:], sequence)
	copy(b[frameHeader:], body)
	binary.BigEndian.PutUint32(b[4:], frameSum(b[:whole]))
	return b
}

func frameSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
}

// frameAt is the body of the frame that data begins with, if it is whole.
func frameAt(data []byte, sequence uint64) (body []byte, ok bool) {
	if len(data) < frameHeader {
		return nil, false
	}
	end := frameHeader + uint64(binary.BigEndian.Uint32(data))
	if end == frameHeader || end > uint64(len(data)) || binary.BigEndian.Uint64(data[8:]) != sequence ||
		binary.BigEndian.Uint32(data[4:]) != frameSum(data[:end]) {
		return nil, false
	}
	return data[frameHeader:end], true
}

// isJournal tells whether data is a journal, whatever its format, and not something older.
func isJournal(data []byte) bool { return bytes.HasPrefix(data, []byte(journalMagic)) }

// found is what reading a journal came to.
type found struct {
	format   int    // of the file
	end      int    // where the next frame goes
	snapshot int    // where the snapshot ends
	sequence uint64 // of the last frame
	torn     bool   // behind end is the beginning of a commit that was never acknowledged
}

// readJournal gives all entries to visit, oldest first. Damage is errCorrupt, a newer format ErrNewer.
func readJournal(data []byte, visit func(entry) error) (found, error) {
	if len(data) < fileHeader || binary.BigEndian.Uint32(data[12:]) != headerSum(data[:12]) {
		return found{}, fmt.Errorf("%w: the header", errCorrupt)
	}
	f := found{format: int(binary.BigEndian.Uint32(data[8:])), end: fileHeader}
	if f.format > formatVersion {
		return found{}, ErrNewer
	}
	entries := uint64(0)
	for {
		body, ok := frameAt(data[f.end:], f.sequence+1)
		if !ok {
			break
		}
		err := readEntries(body, func(e entry) error {
			if e.kind != snapshotEnd {
				entries++
				return visit(e)
			}
			if n, err := e.number(); err != nil || n != entries || f.snapshot != 0 {
				return fmt.Errorf("%w: a snapshot of %d entries has %d", errCorrupt, n, entries)
			}
			f.snapshot = f.end + frameHeader + len(body)
			return nil
		})
		if err != nil {
			return f, err
		}
		f.end += frameHeader + len(body)
		f.sequence++
	}
	if f.snapshot == 0 {
		return f, fmt.Errorf("%w: the snapshot has no end", errCorrupt)
	}
	var err error
	f.torn, err = tail(data[f.end:], f.end, f.sequence)
	return f, err
}

// tail judges what is behind the last whole frame, which ends at the offset at. Only zeros: that is the end. Otherwise it is
// a commit that a crash has torn, of which nobody was told that it is durable, or it is damage. It is damage if there is a later
// whole frame, for a frame is not begun before the one before it is on disk; and if no part of it is missing, where
// a part is a sector or the end of the file.
func tail(rest []byte, at int, sequence uint64) (torn bool, err error) {
	used := len(bytes.TrimRight(rest, "\x00"))
	if used == 0 {
		return false, nil
	}
	const most = 1 << 20 // frames that a file has
	for i := 1; i < used && i+frameHeader <= len(rest); i++ {
		if next := binary.BigEndian.Uint64(rest[i+8:]); next > sequence && next-sequence < most {
			if _, ok := frameAt(rest[i:], next); ok {
				return false, fmt.Errorf("%w: frame %d", errCorrupt, sequence+1)
			}
		}
	}
	end := max(used, frameHeader) // of what should be there
	if len(rest) >= frameHeader {
		end = max(end, frameHeader+int(binary.BigEndian.Uint32(rest)))
	}
	if end > len(rest) { // cut off, if the file is written up to its end; else the length is not one
		if used > len(rest)-sector {
			return true, nil
		}
		end = min(max(used, frameHeader), len(rest))
	}
	for from := 0; from < end; {
		to := min((at+from)/sector*sector+sector-at, end)
		if len(bytes.TrimRight(rest[from:to], "\x00")) == 0 {
			return true, nil
		}
		from = to
	}
	return false, fmt.Errorf("%w: the last frame", errCorrupt)
}

// journal is an open state file. It belongs to the holder of the commit lock.
type journal struct {
	file     *os.File
	path     string
	end      int64 // where the next frame goes
	size     int64 // of the file; what is behind end is zeros
	base     int64 // where the snapshot ends
	sequence uint64
	syncs    int  // how often a commit has waited for the disk
	broken   bool // what the disk has is not known: only a new file helps
}

// openJournal goes on with a file that was read. Neither its name nor its last commit may be on disk yet: a podd may have
// been killed after the rename, or between its write and the sync.
func openJournal(path string, f found, size int64) (*journal, error) {
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if f.end != f.snapshot {
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return nil, errors.Join(&fs.PathError{Op: "fdatasync", Path: path, Err: err}, file.Close())
		}
	}
	return &journal{file: file, path: path, end: int64(f.end), size: size, base: int64(f.snapshot), sequence: f.sequence}, nil
}

// append makes one commit durable: one write, one fdatasync. After an error it is as if nothing had been written.
func (j *journal) append(body []byte) error {
	if j.broken {
		return errors.New("the state file is broken")
	}
	whole, zeros := frameHeader+len(body), int64(0)
	if end := j.end + int64(whole); end > j.size {
		zeros = (end+reserve-1)/reserve*reserve - end
	}
	n, err := j.file.WriteAt(frame(j.sequence+1, body, int(zeros)), j.end)
	if n < whole {
		return errors.Join(err, j.undo())
	}
	j.size = max(j.size, j.end+int64(n)) // without all zeros, if the disk is full
	killpoint.At("store.append.written")
	j.syncs++
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		j.broken = true // the kernel may have dropped what it could not write, and will not say so again
		return &fs.PathError{Op: "fdatasync", Path: j.path, Err: err}
	}
	j.end += int64(whole)
	j.sequence++
	return nil
}

// undo cuts off what a failed write has left.
func (j *journal) undo() error {
	if err := j.file.Truncate(j.end); err != nil {
		j.broken = true
		return err
	}
	j.size = j.end
	return nil
}

// long tells whether a new snapshot would make the file much smaller.
func (j *journal) long() bool { return j.end-j.base > max(1<<20, j.base) }

func (j *journal) close() error { return j.file.Close() }

// writeJournal puts a fresh file with the entries in the place of the one at path. If it fails the old one stays, or, with a
// journal that is broken, it may be either after a crash.
func writeJournal(path string, each func(visit func(entry) error) error) (_ *journal, err error) {
	fresh := path + ".new"
	file, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	renamed := false
	defer func() {
		if err != nil && !renamed {
			err = errors.Join(err, file.Close(), os.Remove(fresh))
		}
	}()
	j := &journal{file: file, path: path, end: fileHeader}
	if err := j.snapshot(each); err != nil {
		return nil, err
	}
	killpoint.At("store.rewrite.before")
	if err := os.Rename(fresh, path); err != nil {
		return nil, err
	}
	renamed = true
	killpoint.At("store.rewrite.after")
	if err := syncDir(filepath.Dir(path)); err != nil {
		j.broken = true
		return j, err
	}
	return j, nil
}

// snapshot fills an empty file.
func (j *journal) snapshot(each func(visit func(entry) error) error) error {
	var body []byte
	entries := uint64(0)
	out := func() error {
		if len(body) == 0 {
			return nil
		}
		j.sequence++
		b := frame(j.sequence, body, 0)
		_, err := j.file.WriteAt(b, j.end)
		j.end += int64(len(b))
		body = body[:0]
		return err
	}
	err := each(func(e entry) error {
		entries++
		if body = appendEntry(body, e); len(body) < snapshotFrame {
			return nil
		}
		return out()
	})
	if err != nil {
		return err
	}
	body = appendEntry(body, numberEntry(snapshotEnd, entries))
	if err := out(); err != nil {
		return err
	}
	j.base, j.size = j.end, j.end
	if _, err := j.file.WriteAt(header(), 0); err != nil {
		return err
	}
	return j.file.Sync()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
