package store

// Counts is what the store has and what it has done.
type Counts struct {
	Syncs    uint64 // waits for the disk since podd started
	Objects  int
	Pods     int
	Watches  int
	Revision int64
	Bytes    int64 // of the state file
}

// Counts may be a little old while a commit is on its way: it does not wait for the disk.
func (s *Store) Counts() Counts {
	s.mu.RLock()
	c := Counts{Objects: s.objects.Len(), Pods: len(s.pods), Watches: len(s.watchers), Revision: s.rev}
	s.mu.RUnlock()
	c.Syncs, c.Bytes = s.synced.Load(), s.bytes.Load()
	return c
}
