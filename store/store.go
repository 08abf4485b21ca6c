// Package store is the durable truth of podd: the API's objects with their resourceVersion, watches on them, and the
// runtime's records. The API and the runtime meet here and nowhere else.
//
// All objects live in memory, encoded; pods also decoded, as shared read-only values. A commit appends what changed to
// one file, and then makes it visible: nobody sees an object that a crash could take back. Writes marked with
// Lazily, and status writes of the runtime, are the exception: they are visible at once and reach the disk with the
// next commit, because whoever made them can make them again.
package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Options say where the store lives.
type Options struct {
	Path string // the file; its directory must exist
	Keys string // the file of the keys that seal Secrets on disk, made if there is none; empty seals nothing
	Log  *slog.Logger
}

// Store holds everything durable. All methods may be called from many goroutines.
type Store struct {
	path        string
	log         *slog.Logger
	quarantined string
	lock        *os.File
	keys        *keyring // nil seals nothing

	queueMu sync.Mutex
	queue   []*op // writes that wait for a commit

	// commit is held by whoever writes; what follows belongs to its holder.
	commit     sync.Mutex
	journal    *journal
	dirty      map[diskKey]bool // entries whose memory is newer than the disk
	ceiling    int64            // no revision above it may be given away before a higher one is on disk
	flushed    *time.Timer      // writes what is dirty
	compacting *time.Timer      // makes the file small
	stopped    bool

	synced atomic.Uint64 // how often the disk was waited for
	bytes  atomic.Int64  // of the state file

	// mu guards what readers see. Only the holder of commit changes it.
	mu       sync.RWMutex
	rev      int64
	objects  *btree.BTreeG[Entry]
	pods     map[string]*v1.Pod // by key
	podKeys  map[types.UID]string
	records  map[types.UID][]byte
	history  history
	watchers map[*Watch]struct{}
	hooks    map[int]hook
	hookID   int
}

// Entry is one object as it is stored.
type Entry struct {
	Key      string
	Revision int64  // the resourceVersion of its last change
	Data     []byte // the encoded object; never changed after
	Expires  int64  // unix seconds after which Expire removes it; 0 is never
}

// The errors that callers tell apart.
var (
	ErrConflict = errors.New("the object has changed")             // the revision asked for is not the present one
	ErrGone     = errors.New("the revision is no longer known")    // a watch from there would miss something
	ErrClosed   = errors.New("the store is closed")                // podd is going down
	ErrNewer    = errors.New("written by a newer version of podd") // the file's format is not known
	ErrInUse    = errors.New("in use by another podd")             // the lock is held
	errCorrupt  = errors.New("the state file is corrupt")          // it is moved aside
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

const (
	lazyDelay  = 50 * time.Millisecond // how long a lazy write may stay in memory only
	retryDelay = time.Second           // until lazy writes are tried again after the disk refused them

	compactDelay = 10 * time.Second // until a long file that was found is made small: podd's start has better to do
)

// Open opens or makes the store at o.Path. A second store on the same path is ErrInUse. A corrupt file is moved aside
// and a fresh one is made; Quarantined then says where it went.
func Open(o Options) (*Store, error) {
	s := &Store{
		path: o.Path, log: o.Log,
		dirty:    map[diskKey]bool{},
		watchers: map[*Watch]struct{}{}, hooks: map[int]hook{},
	}
	s.empty()
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.open(o.Keys); err != nil {
		if s.lock != nil {
			_ = s.lock.Close()
		}
		return nil, fmt.Errorf("open state %s: %w", o.Path, err)
	}
	return s, nil
}

// empty forgets all objects and records.
func (s *Store) empty() {
	s.objects = btree.NewG(16, func(a, b Entry) bool { return a.Key < b.Key })
	s.pods, s.podKeys, s.records = map[string]*v1.Pod{}, map[types.UID]string{}, map[types.UID][]byte{}
}

func (s *Store) open(keys string) error {
	lock, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return ErrInUse
	}
	s.lock = lock
	if keys != "" {
		if s.keys, err = openKeyring(keys); err != nil {
			return err
		}
	}
	found, err := s.load()
	if errors.Is(err, errCorrupt) {
		if err = s.quarantine(err); err != nil {
			return err
		}
		found = content{}
		s.empty()
	}
	if err != nil {
		return err
	}
	if s.keys != nil {
		if err := s.keys.make(); err != nil {
			return err
		}
	}
	return s.begin(found)
}

// quarantine moves the state file aside.
func (s *Store) quarantine(cause error) error {
	s.quarantined = s.path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(s.path, s.quarantined); err != nil {
		return fmt.Errorf("move the corrupt file aside: %w", err)
	}
	s.log.Error("the state file was corrupt: podd starts with an empty state and adopts the pods that run",
		"file", s.path, "movedTo", s.quarantined, "cause", cause)
	return nil
}

// Close writes what is pending and lets the file go. Watches end.
func (s *Store) Close() error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	// A fresh snapshot: nothing is missing from it, the next start reads it as it is, and revisions go on without a jump.
	err := s.replace(nil, s.rev)
	if err != nil {
		s.log.Warn("the state file could not be compacted", "file", s.path, "error", err)
		err = s.persist(nil)
	}
	for _, timer := range []*time.Timer{s.flushed, s.compacting} {
		if timer != nil {
			timer.Stop()
		}
	}
	s.mu.Lock()
	for w := range s.watchers {
		w.poke()
	}
	s.watchers = nil
	s.mu.Unlock()
	return errors.Join(err, s.journal.close(), s.lock.Close())
}

// Quarantined is the path that a corrupt state file was moved to when the store was opened, or empty.
func (s *Store) Quarantined() string { return s.quarantined }

// Revision is the newest resourceVersion given away.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rev
}

type lazyKey struct{}

// Lazily marks writes with ctx as such that need not be durable when they return.
func Lazily(ctx context.Context) context.Context { return context.WithValue(ctx, lazyKey{}, false) }

// Sometime marks writes with ctx as such that are not worth a commit: they reach the disk with the next one there is.
func Sometime(ctx context.Context) context.Context { return context.WithValue(ctx, lazyKey{}, true) }

func lazy(ctx context.Context) bool { return ctx.Value(lazyKey{}) != nil }

func sometime(ctx context.Context) bool { return ctx.Value(lazyKey{}) == true }
