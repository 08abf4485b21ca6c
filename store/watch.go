package store

import (
	"strings"
)

// Change is one write as a watch sees it.
type Change struct {
	Key      string
	Revision int64
	Data     []byte // the object after the change; nil when it was removed
	Prev     []byte // the object before; nil when it was created
	PrevRev  int64
}

func newChange(o *op) Change {
	c := Change{Key: o.entry.Key, Revision: o.entry.Revision}
	if o.had {
		c.Prev, c.PrevRev = o.prev.Data, o.prev.Revision
	}
	if !o.remove {
		c.Data = o.entry.Data
	}
	return c
}

const (
	historyChanges = 4096    // how many changes are kept for watches that come back
	historyBytes   = 2 << 20 // and how many bytes of them
)

// history is the newest changes, oldest first. Prev of one change is mostly the Data of another, so it counts once.
type history struct {
	changes []Change
	bytes   int
	floor   int64 // every change after this revision is still here
}

func (h *history) add(c Change) {
	h.changes = append(h.changes, c)
	h.bytes += len(c.Data)
	drop := 0
	for len(h.changes)-drop > 1 && (len(h.changes)-drop > historyChanges || h.bytes > historyBytes) {
		h.bytes -= len(h.changes[drop].Data)
		h.floor = h.changes[drop].Revision
		h.changes[drop] = Change{}
		drop++
	}
	h.changes = h.changes[drop:]
}

// forget drops the changes up to rev.
func (h *history) forget(rev int64) {
	kept := h.after(rev)
	for _, c := range h.changes[:len(h.changes)-len(kept)] {
		h.bytes -= len(c.Data)
	}
	h.changes, h.floor = append([]Change{}, kept...), max(h.floor, rev)
}

// after is the changes after rev.
func (h *history) after(rev int64) []Change {
	lo, hi := 0, len(h.changes)
	for lo < hi {
		if mid := (lo + hi) / 2; h.changes[mid].Revision <= rev {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return h.changes[lo:]
}

// Forget drops the history up to the revision rev, which frees its memory. Watches that have not read it end with ErrGone.
func (s *Store) Forget(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.forget(min(rev, s.rev))
}

// Oldest is the oldest revision that ListAt and Watch still know.
func (s *Store) Oldest() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.history.floor
}

// Watch reads the changes below a prefix. It holds no queue: it reads the store's history at its own pace, and when it
// is so slow that the history has passed it by, Next says ErrGone. It belongs to one goroutine.
type Watch struct {
	C <-chan struct{} // something may be new: call Next

	store  *Store
	prefix string
	rev    int64
	wake   chan struct{}
}

// Watch begins after the revision rev; -1 is the present one. A revision that the history no longer covers is ErrGone.
func (s *Store) Watch(prefix string, rev int64) (*Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		return nil, ErrClosed
	}
	if rev == -1 {
		rev = s.rev
	}
	if rev < s.history.floor {
		return nil, ErrGone
	}
	return s.watch(prefix, rev), nil
}

// ListAndWatch is List, and a watch of all that comes after it.
func (s *Store) ListAndWatch(prefix string) ([]Entry, *Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		return nil, nil, ErrClosed
	}
	found, _ := s.list(prefix, "", 0)
	return found, s.watch(prefix, s.rev), nil
}

func (s *Store) watch(prefix string, rev int64) *Watch {
	w := &Watch{store: s, prefix: prefix, rev: rev, wake: make(chan struct{}, 1)}
	w.C = w.wake
	w.poke() // what the history already has
	s.watchers[w] = struct{}{}
	return w
}

// Next is what has changed since the last call, at most 100 changes at a time, and the revision up to which that is
// everything.
func (w *Watch) Next() (changes []Change, rev int64, err error) {
	const most = 100
	w.store.mu.RLock()
	defer w.store.mu.RUnlock()
	if w.store.watchers == nil {
		return nil, w.rev, ErrClosed
	}
	if w.rev < w.store.history.floor {
		return nil, w.rev, ErrGone
	}
	for _, c := range w.store.history.after(w.rev) {
		if !strings.HasPrefix(c.Key, w.prefix) {
			continue
		}
		if len(changes) == most {
			w.rev = changes[most-1].Revision
			w.poke()
			return changes, w.rev, nil
		}
		changes = append(changes, c)
	}
	w.rev = max(w.rev, w.store.rev)
	return changes, w.rev, nil
}

// Stop ends the watch.
func (w *Watch) Stop() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
}

func (w *Watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Revision is the revision up to which everything was read.
func (w *Watch) Revision() int64 { return w.rev }
