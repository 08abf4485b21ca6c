package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/killpoint"
)

// Get is the object at key.
func (s *Store) Get(key string) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects.Get(Entry{Key: key})
}

// List is the objects whose key begins with prefix and is not below from, in the order of their keys, and the revision
// at which that is true. With a limit above 0 it is at most that many; more says how many would follow.
func (s *Store) List(prefix, from string, limit int) (found []Entry, more int, rev int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found, more = s.list(prefix, from, limit)
	return found, more, s.rev
}

// ListAt is List without a limit as it was at the revision rev, or ErrGone if the history does not go back to it.
func (s *Store) ListAt(prefix, from string, rev int64) (found []Entry, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if rev < s.history.floor {
		return nil, ErrGone
	}
	then := map[string]Entry{} // what has changed since; without a revision it was not there
	for _, c := range s.history.after(rev) {
		if _, known := then[c.Key]; !known && strings.HasPrefix(c.Key, prefix) && c.Key >= from {
			then[c.Key] = Entry{Key: c.Key, Revision: c.PrevRev, Data: c.Prev}
		}
	}
	now, _ := s.list(prefix, from, 0)
	for _, e := range now {
		if _, changed := then[e.Key]; !changed {
			found = append(found, e)
		}
	}
	if len(then) == 0 {
		return found, nil
	}
	for _, e := range then {
		if e.Revision != 0 {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return found, nil
}

func (s *Store) list(prefix, from string, limit int) (found []Entry, more int) {
	s.objects.AscendGreaterOrEqual(Entry{Key: max(prefix, from)}, func(e Entry) bool {
		if !strings.HasPrefix(e.Key, prefix) {
			return false
		}
		if limit > 0 && len(found) >= limit {
			more++
			return true
		}
		found = append(found, e)
		return true
	})
	return found, more
}

// Put stores data at key if the object there has the revision given; 0 means that there is none. Otherwise the error
// is ErrConflict. It is durable when Put returns nil, unless ctx is marked with Lazily.
func (s *Store) Put(ctx context.Context, key string, data []byte, revision, expires int64) (Entry, error) {
	o := &op{entry: Entry{Key: key, Data: data, Expires: expires}, expect: revision, lazy: lazy(ctx), idle: sometime(ctx)}
	err := s.submit(o)
	return o.entry, err
}

// Delete removes the object at key if it has the revision given, and returns it with the revision of its removal.
func (s *Store) Delete(ctx context.Context, key string, revision int64) (Entry, error) {
	o := &op{entry: Entry{Key: key}, expect: revision, remove: true, lazy: lazy(ctx)}
	err := s.submit(o)
	return o.entry, err
}

// Expire removes every object whose time is over.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	var over []Entry
	s.mu.RLock()
	s.objects.Ascend(func(e Entry) bool {
		if e.Expires != 0 && e.Expires <= now.Unix() {
			over = append(over, e)
		}
		return true
	})
	s.mu.RUnlock()
	for _, e := range over {
		if _, err := s.Delete(Lazily(ctx), e.Key, e.Revision); err != nil && err != ErrConflict {
			return fmt.Errorf("expire %s: %w", e.Key, err)
		}
	}
	return nil
}

// op is one write. Its fields are read by the caller only after submit.
type op struct {
	entry  Entry // out: Revision
	expect int64 // the present revision, or anyRevision
	remove bool
	by     string // who makes it
	lazy   bool
	idle   bool // lazy, and the disk is not written for it
	// make, if set, makes the write from the present object, under the commit lock: it changes entry or remove, or
	// returns skip for nothing to do.
	make func(cur Entry, found bool, o *op) (skip bool, err error)

	record types.UID // instead of all above: the record of this pod
	value  []byte    // nil removes it

	pod  *v1.Pod // the decoded object, if it is a pod and not removed
	prev Entry   // what was there before
	had  bool

	done bool
	err  error
}

const anyRevision = -1

// submit commits o together with whatever else is waiting, and returns its error.
func (s *Store) submit(o *op) error {
	s.queueMu.Lock()
	s.queue = append(s.queue, o)
	s.queueMu.Unlock()
	s.commit.Lock()
	defer s.commit.Unlock()
	if o.done { // another's commit took it along
		return o.err
	}
	s.queueMu.Lock()
	batch := s.queue
	s.queue = nil
	s.queueMu.Unlock()
	s.commitBatch(batch)
	return o.err
}

// commitBatch decides each write in turn, writes the durable ones in one transaction and makes all visible.
func (s *Store) commitBatch(batch []*op) {
	var durable, accepted []*op
	seen := map[string]*op{}
	next := s.rev
	for _, o := range batch {
		o.done = true
		if s.stopped {
			o.err = ErrClosed
			continue
		}
		if o.record != "" {
			durable = append(durable, o)
			accepted = append(accepted, o)
			continue
		}
		if skip, err := s.decide(o, seen); err != nil || skip {
			o.err = err
			continue
		}
		next++
		o.entry.Revision = next
		if o.pod != nil {
			o.pod.ResourceVersion = formatRevision(next)
		}
		seen[o.entry.Key] = o
		accepted = append(accepted, o)
		if !o.lazy {
			durable = append(durable, o)
		}
	}
	if len(accepted) == 0 {
		return
	}
	if len(durable) > 0 || next > s.ceiling {
		killpoint.At("store.commit.before")
		if err := s.persist(accepted); err != nil {
			s.refuse(accepted, len(durable), err)
			return
		}
		killpoint.At("store.commit.after")
	} else {
		for _, o := range accepted {
			s.dirty[diskKey{key: o.entry.Key}] = true
		}
		if slices.ContainsFunc(accepted, func(o *op) bool { return !o.idle }) {
			s.flushLater(lazyDelay)
		}
	}
	s.publish(accepted, next)
}

// refuse gives the writes their error. Lazy ones that came along with durable ones are tried again without them: they
// can do without the disk.
func (s *Store) refuse(accepted []*op, durable int, err error) {
	var again []*op
	for _, o := range accepted {
		if o.err = err; o.lazy && durable > 0 {
			o.err, o.pod = nil, nil
			again = append(again, o)
		}
	}
	s.commitBatch(again)
}

// decide checks o against what is there, including what the same batch has decided before.
func (s *Store) decide(o *op, seen map[string]*op) (skip bool, err error) {
	cur, found := s.objects.Get(Entry{Key: o.entry.Key})
	if before := seen[o.entry.Key]; before != nil {
		cur, found = before.entry, !before.remove
	}
	if o.expect != anyRevision && (found != (o.expect != 0) || found && cur.Revision != o.expect) {
		return false, ErrConflict
	}
	if o.make != nil {
		o.remove = false
		if skip, err := o.make(cur, found, o); skip || err != nil {
			return skip, err
		}
	}
	o.prev, o.had = cur, found
	if o.remove {
		if !found {
			return true, nil
		}
		o.entry.Data, o.entry.Expires = cur.Data, 0
		return false, nil
	}
	if isPod(o.entry.Key) && o.pod == nil {
		if o.pod, err = decodePod(o.entry.Data); err != nil {
			return false, fmt.Errorf("store %s: %w", o.entry.Key, err)
		}
	}
	return false, nil
}

// publish makes the writes visible and tells everybody who listens.
func (s *Store) publish(accepted []*op, rev int64) {
	var pods []podChange
	var others []string
	s.mu.Lock()
	s.rev = rev
	for _, o := range accepted {
		switch {
		case o.record != "" && o.value == nil:
			delete(s.records, o.record)
			continue
		case o.record != "":
			s.records[o.record] = o.value
			continue
		case o.remove:
			s.objects.Delete(o.entry)
		default:
			s.objects.ReplaceOrInsert(o.entry)
		}
		for _, uid := range s.publishPod(o) {
			pods = append(pods, podChange{uid, o.by})
		}
		if !isPod(o.entry.Key) {
			others = append(others, o.entry.Key)
		}
		s.history.add(newChange(o))
	}
	for w := range s.watchers {
		w.poke()
	}
	hooks := slices.Collect(maps.Values(s.hooks))
	s.mu.Unlock()
	for _, h := range hooks {
		for _, change := range pods {
			if h.call != nil && (h.me == "" || h.me != change.by) {
				h.call(change.uid)
			}
		}
		for _, key := range others {
			if h.object != nil {
				h.object(key)
			}
		}
	}
}

// podChange is what hooks are told of.
type podChange struct {
	uid types.UID
	by  string
}

// publishPod keeps the decoded pods, and returns the uids that changed.
func (s *Store) publishPod(o *op) (changed []types.UID) {
	if !isPod(o.entry.Key) {
		return nil
	}
	if old := s.pods[o.entry.Key]; old != nil {
		changed = append(changed, old.UID)
		delete(s.podKeys, old.UID)
		delete(s.pods, o.entry.Key)
	}
	if o.remove {
		return changed
	}
	s.pods[o.entry.Key], s.podKeys[o.pod.UID] = o.pod, o.entry.Key
	if len(changed) == 0 || changed[0] != o.pod.UID {
		changed = append(changed, o.pod.UID)
	}
	return changed
}
