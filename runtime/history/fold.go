package history

import (
	"encoding/json"

	"podd/api/history"
)

// Bounds of one pod. Of entries of a kind the first and the last ones are kept apart.
const (
	firstKept  = 4
	lastKept   = 8
	maxEntries = 300
	maxBytes   = 128 << 10
)

// kind is what entries have in common that are folded when there are many. Messages are no part of it: those of a broken
// program may all be different.
type kind struct {
	what, container, image, reason, exit string
	failed                               bool
}

func kindOf(e history.Entry) kind {
	k := kind{what: e.What, container: e.Container, image: e.Image, reason: e.Reason, failed: e.Failed}
	if e.Exit != nil {
		k.exit = e.Exit.Reason
	}
	return k
}

// fold brings entries, oldest first, within the bounds. To fold what was folded before and some more is the same as to
// fold all at once.
func fold(entries []history.Entry) []history.Entry {
	places := map[kind][]int{}
	for i, e := range entries {
		places[kindOf(e)] = append(places[kindOf(e)], i)
	}
	into := map[int]int{} // the place of an entry that goes, and the one that takes it up
	for _, at := range places {
		for _, i := range at[min(firstKept+1, len(at)):max(len(at)-lastKept, min(firstKept+1, len(at)))] {
			into[i] = at[firstKept]
		}
	}
	var left []history.Entry
	moved := map[int]int{}
	for i, e := range entries {
		if to, ok := into[i]; ok {
			left[moved[to]] = join(left[moved[to]], e)
			continue
		}
		moved[i] = len(left)
		left = append(left, e)
	}
	return bound(left)
}

// join is a, with b, which came later, counted in.
func join(a, b history.Entry) history.Entry {
	last := b.Time
	if b.Last != nil {
		last = *b.Last
	}
	joined := b
	joined.Time, joined.Last, joined.Count = a.Time, &last, max(a.Count, 1)+max(b.Count, 1)
	return joined
}

// bound leaves out entries after the first quarter until the rest fits.
func bound(entries []history.Entry) []history.Entry {
	sizes, all := make([]int, len(entries)), 0
	for i, e := range entries {
		if line, err := json.Marshal(e); err == nil {
			sizes[i] = len(line) + 1
		}
		all += sizes[i]
	}
	if len(entries) <= maxEntries && all <= maxBytes {
		return entries
	}
	from := 0
	for size := 0; from < maxEntries/4 && size+sizes[from] < maxBytes/4; from++ {
		size += sizes[from]
	}
	gap := history.Entry{Time: entries[from].Time, What: history.LeftOut}
	to := from
	for ; to < len(entries) && (len(entries)-(to-from)+1 > maxEntries || all > maxBytes); to++ {
		all -= sizes[to]
		gap.Count += max(entries[to].Count, 1)
		gap.Last = &entries[to].Time
		if entries[to].Last != nil {
			gap.Last = entries[to].Last
		}
	}
	return append(append(entries[:from:from], gap), entries[to:]...)
}
