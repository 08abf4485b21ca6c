package api

import (
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"podd/store"
)

// TestCollectNothingFromTheFuture: what the store shows of an object's deletion is not acted on before the changes up to it
// have come, since the index lacks what it has come to own since.
func TestCollectNothingFromTheFuture(t *testing.T) {
	objects, err := store.Open(store.Options{Path: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer objects.Close()
	now := metav1.Now()
	going := v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "u", DeletionTimestamp: &now,
		Finalizers: []string{metav1.FinalizerOrphanDependents}}}
	raw, err := going.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	data, err := (&runtime.Unknown{Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const key = "/configmaps/default/a"
	c := newCollector(&Server{Config: Config{Store: objects}})
	c.begin(nil)
	entry, err := objects.Put(t.Context(), key, append([]byte("k8s\x00"), data...), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, early := range []bool{true, false} {
		if !early {
			c.change(store.Change{Key: "/events/default/b", Revision: entry.Revision})
			c.due, c.isDue = nil, map[string]bool{}
		}
		if err := c.collect(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if c.isDue[key] != early {
			t.Errorf("too early: %v; to be looked at again: %v", early, c.isDue[key])
		}
	}
}
