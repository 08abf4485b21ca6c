package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"podd/store"
)

const (
	bookmarkEvery = time.Minute // as upstream's watch cache
	watchBuffer   = 16          // events that wait for the client; more wait in the store's history
)

// watcher turns the store's changes into events. One goroutine fills the channel; it ends with ctx or Stop.
type watcher struct {
	b      *Backend
	key    string // of one object, or a prefix
	opts   storage.ListOptions
	cancel context.CancelFunc
	out    chan watch.Event
}

func (w *watcher) Stop()                          { w.cancel() }
func (w *watcher) ResultChan() <-chan watch.Event { return w.out }

// watch begins a watch. With rv 0 it depends on the options whether the present objects come first.
func (b *Backend) watch(ctx context.Context, prefix string, rv int64, opts storage.ListOptions) (watch.Interface, error) {
	initial := rv == 0 && opts.SendInitialEvents == nil || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	var entries []store.Entry
	var changes *store.Watch
	var err error
	switch {
	case initial:
		entries, changes, err = b.store.ListAndWatch(b.root + prefix)
	case rv == 0:
		changes, err = b.store.Watch(b.root+prefix, -1)
	default:
		changes, err = b.store.Watch(b.root+prefix, rv)
	}
	if errors.Is(err, store.ErrGone) { // upstream's server accepts the watch, too, and says it then
		expired := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", rv)).ErrStatus
		return endedWatch(watch.Event{Type: watch.Error, Object: &expired}), nil
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{b: b, key: b.root + prefix, opts: opts, cancel: cancel, out: make(chan watch.Event, watchBuffer)}
	go func() { // ends with the request's context, which the server waits for
		defer close(w.out)
		defer changes.Stop()
		defer cancel()
		w.run(ctx, entries, initial, changes)
	}()
	utilflowcontrol.WatchInitialized(ctx)
	return w, nil
}

// endedWatch has one last event.
func endedWatch(last watch.Event) watch.Interface {
	out := make(chan watch.Event, 1)
	out <- last
	close(out)
	return &watcher{out: out, cancel: func() {}}
}

func (w *watcher) run(ctx context.Context, entries []store.Entry, initial bool, changes *store.Watch) {
	for _, e := range entries {
		if !w.present(ctx, e) {
			return
		}
	}
	entries = nil
	rev := changes.Revision()
	if initial && w.opts.SendInitialEvents != nil && w.opts.Predicate.AllowWatchBookmarks && !w.bookmark(ctx, rev, true) {
		return
	}
	var tick <-chan time.Time
	if w.opts.Predicate.AllowWatchBookmarks {
		ticker := time.NewTicker(bookmarkEvery)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			if !w.bookmark(ctx, rev, false) {
				return
			}
		case <-changes.C:
			next, upTo, err := changes.Next()
			if err != nil {
				w.fail(ctx, err)
				return
			}
			for _, c := range next {
				if !w.change(ctx, c) {
					return
				}
			}
			rev = upTo
		}
	}
}

// present sends an object that was there when the watch began.
func (w *watcher) present(ctx context.Context, e store.Entry) bool {
	if !w.opts.Recursive && e.Key != w.key {
		return true
	}
	obj := w.b.newFunc()
	if err := w.b.decode(e.Data, e.Revision, obj); err != nil {
		w.fail(ctx, err)
		return false
	}
	return !w.matches(obj) || w.send(ctx, watch.Event{Type: watch.Added, Object: obj})
}

// change sends what the change means to this watch: an object that begins to match is added, one that no longer does
// is deleted.
func (w *watcher) change(ctx context.Context, c store.Change) bool {
	if !w.opts.Recursive && c.Key != w.key {
		return true
	}
	now, err := w.state(c.Revision, false, c.Data)
	if err != nil {
		w.fail(ctx, err)
		return false
	}
	var before *sharedObject
	was := c.Prev != nil
	if was && (c.Data == nil || !w.opts.Predicate.Empty()) {
		// The revision of a deleted object is that of its removal.
		if before, err = w.state(c.Revision, true, c.Prev); err != nil {
			w.fail(ctx, err)
			return false
		}
		was = before != nil
	}
	switch {
	case now != nil && was:
		return w.send(ctx, watch.Event{Type: watch.Modified, Object: now})
	case now != nil:
		return w.send(ctx, watch.Event{Type: watch.Added, Object: now})
	case was:
		return w.send(ctx, watch.Event{Type: watch.Deleted, Object: before})
	}
	return true
}

// state is the object after or before a change, or nil if it is not there or does not match.
func (w *watcher) state(rev int64, before bool, data []byte) (*sharedObject, error) {
	if data == nil {
		return nil, nil
	}
	obj, err := w.b.shared.get(rev, before, func() (runtime.Object, error) {
		obj := w.b.newFunc()
		return obj, w.b.decode(data, rev, obj)
	})
	if err != nil || !w.matches(obj.object) {
		return nil, err
	}
	return obj, nil
}

func (w *watcher) matches(obj runtime.Object) bool {
	if w.opts.Predicate.Empty() {
		return true
	}
	ok, err := w.opts.Predicate.Matches(obj)
	return ok && err == nil
}

func (w *watcher) bookmark(ctx context.Context, rev int64, initialEnd bool) bool {
	obj := w.b.newFunc()
	if err := versioner.UpdateObject(obj, uint64(rev)); err != nil {
		return false
	}
	if initialEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return false
		}
	}
	return w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
}

// fail tells the client why the watch ends, if it still listens.
func (w *watcher) fail(ctx context.Context, err error) {
	status := apierrors.NewInternalError(err).ErrStatus
	switch {
	case errors.Is(err, store.ErrGone):
		status = apierrors.NewResourceExpired("the watch was too slow: begin again").ErrStatus
	case errors.Is(err, store.ErrClosed):
		return
	}
	if status.Code == 0 {
		status.Code = http.StatusInternalServerError
	}
	w.send(ctx, watch.Event{Type: watch.Error, Object: &metav1.Status{Status: status.Status, Code: status.Code,
		Reason: status.Reason, Message: status.Message}})
}

func (w *watcher) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
