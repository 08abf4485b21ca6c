package runtime

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"podd/store"
)

// TestSure: only what is there at both looks is left of unknown pods; the first is on its way out, the last has just come
// into view.
func TestSure(t *testing.T) {
	looks := []map[types.UID]stray{{"going": {}, "left": {}}, {"left": {}, "next": {}}}
	n := 0
	found, err := sure(func() (map[types.UID]stray, error) { n++; return looks[n-1], nil })
	if got := slices.Collect(maps.Keys(found)); err != nil || !slices.Equal(got, []types.UID{"left"}) {
		t.Errorf("found %v, %v", got, err)
	}
	n = 0
	if found, err := sure(func() (map[types.UID]stray, error) { n++; return nil, nil }); len(found) > 0 || err != nil || n != 1 {
		t.Errorf("of nothing found %v, %v, in %d looks", found, err, n)
	}
	away := errors.New("containerd is away")
	if _, err := sure(func() (map[types.UID]stray, error) {
		if n++; n > 2 {
			return nil, away
		}
		return map[types.UID]stray{"x": {}}, nil
	}); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
}

// TestStrayKeepsIDs: what is left of a pod that nobody knows is its, until that is taken away.
func TestStrayKeepsIDs(t *testing.T) {
	state, err := store.Open(store.Options{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = state.Close() }()
	r := New(Options{Store: state, RunDir: t.TempDir()})
	first, err := r.freeIDs()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.remember(t.Context(), "left", stray{first: first}); err != nil {
		t.Fatal(err)
	}
	if next, err := r.freeIDs(); err != nil || next == first {
		t.Errorf("another pod gets %d of %d, %v", next, first, err)
	}
}
