package backend

import (
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// A watch that allows bookmarks gets one each minute, with the revision up to which it has seen everything, be it of this kind
// or not. One that does not allow them gets none.
func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubject(t)
		begin := func(bookmarks bool) watch.Interface {
			opts := storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}
			opts.Predicate.AllowWatchBookmarks = bookmarks
			w, err := s.Watch(t.Context(), "/pods/", opts)
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
		with, without := begin(true), begin(false)
		defer with.Stop()
		defer without.Stop()
		start := time.Now()
		for minute := range 2 {
			want := uint64(s.increase(t.Context(), t))
			event := <-with.ResultChan()
			bookmark, ok := event.Object.(*example.Pod)
			if event.Type != watch.Bookmark || !ok {
				t.Fatalf("after %s: %v", time.Since(start), event)
			}
			if got, err := versioner.ObjectResourceVersion(bookmark); got != want || err != nil {
				t.Errorf("bookmark %d has revision %d, %v, want %d", minute, got, err, want)
			}
			if passed := time.Since(start); passed != time.Duration(minute+1)*time.Minute {
				t.Errorf("bookmark %d came after %s", minute, passed)
			}
		}
		// What the other watch gets first is the object: there was nothing before it.
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}
		if err := s.Create(t.Context(), "/pods/default/a", pod, nil, 0); err != nil {
			t.Fatal(err)
		}
		if event := <-without.ResultChan(); event.Type != watch.Added {
			t.Errorf("without bookmarks: %v", event)
		}
	})
}
