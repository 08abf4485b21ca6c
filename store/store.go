// Package store is the durable truth of podd: the API's objects with their resourceVersion, watches on them, and the
// runtime's records. The API and the runtime meet here and nowhere else.
//
// All objects live in memory, encoded; pods also decoded, as shared read-only values. A commit writes what changed to
// one bbolt file, and then makes it visible: nobody sees an object that a crash could take back. Status writes of the
// runtime are the exception: they are visible at once and reach the disk with the next commit, because the runtime can
// compute them again.
package store

import (
	"context"
	"errors"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Options say where the store lives.
type Options struct {
	Path string // the file; its directory must exist
	Log  *slog.Logger
}

// Store holds everything durable. All methods may be called from many goroutines.
type Store struct{}

var errUnbuilt = errors.New("store: not built yet")

// Open opens or makes the store at o.Path.
func Open(o Options) (*Store, error) { return nil, errUnbuilt }

// Close writes what is pending and lets the file go.
func (s *Store) Close() error { return nil }

// Quarantined is the path that a corrupt state file was moved to when the store was opened, or empty.
func (s *Store) Quarantined() string { return "" }

// Pods is every pod. The objects are shared and must not be changed.
func (s *Store) Pods() []*v1.Pod { return nil }

// Pod is the pod of that name, shared and read-only.
func (s *Store) Pod(namespace, name string) (*v1.Pod, bool) { return nil, false }

// PodByUID is the pod with that uid, shared and read-only.
func (s *Store) PodByUID(uid types.UID) (*v1.Pod, bool) { return nil, false }

// OnPodChange calls f with the uid of every pod that was added, changed or removed, from then on. f must not block and
// must not call the store. cancel ends it.
func (s *Store) OnPodChange(f func(uid types.UID)) (cancel func()) { return func() {} }

// SetStatus replaces the status of a pod by what mutate makes of it. Nothing is written when it is equal. A pod that is
// gone is an error for which IsNotFound is true. The new status is visible at once and durable within 50 ms or with
// the next commit. mutate is called with the store locked: it must be quick and not call the store.
func (s *Store) SetStatus(ctx context.Context, uid types.UID, mutate func(prev v1.PodStatus) v1.PodStatus) error {
	return errUnbuilt
}

// FinishPod removes a pod that the host has let go of. A pod with finalizers stays; one that is gone is no error.
func (s *Store) FinishPod(ctx context.Context, uid types.UID) error { return errUnbuilt }

// PutRecord keeps the runtime's facts of a pod. They are durable when it returns nil.
func (s *Store) PutRecord(ctx context.Context, uid types.UID, data []byte) error { return errUnbuilt }

// Records is every record, by pod uid. The data must not be changed.
func (s *Store) Records() map[types.UID][]byte { return nil }

// Record is the record of one pod. The data must not be changed.
func (s *Store) Record(uid types.UID) ([]byte, bool) { return nil, false }

// DeleteRecord forgets the record of a pod; none is no error.
func (s *Store) DeleteRecord(ctx context.Context, uid types.UID) error { return errUnbuilt }
