// Package backend puts the Kubernetes registries on podd's store: it is what etcd is to a cluster's API server.
package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"podd/store"
)

// Backend is one kind's view of the store.
type Backend struct {
	store   *store.Store
	codec   runtime.Codec
	root    string // put before every key; empty but in tests
	prefix  string // "/pods/"
	newFunc func() runtime.Object

	shared shared // what watches have decoded
}

var (
	_         storage.Interface = (*Backend)(nil)
	versioner                   = storage.APIObjectVersioner{}
)

// Versioner says how a resourceVersion is kept in an object.
func (b *Backend) Versioner() storage.Versioner { return versioner }

// decode reads the stored form into obj.
func (b *Backend) decode(data []byte, rev int64, obj runtime.Object) error {
	if _, err := conversion.EnforcePtr(obj); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, _, err := b.codec.Decode(data, nil, obj); err != nil {
		return storage.NewInternalError(fmt.Errorf("decode: %w", err))
	}
	return versioner.UpdateObject(obj, uint64(rev))
}

// encode is the stored form of obj.
func (b *Backend) encode(obj runtime.Object) ([]byte, error) {
	if err := versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return runtime.Encode(b.codec, obj)
}

func expires(ttl uint64) int64 {
	if ttl == 0 {
		return 0
	}
	return time.Now().Add(time.Duration(ttl) * time.Second).Unix()
}

// check refuses keys that are not one of this kind.
func (b *Backend) check(key string) error {
	_, err := storage.PrepareKey(b.prefix, key, false)
	return err
}

// Get reads the object at key.
func (b *Backend) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	if err := b.check(key); err != nil {
		return err
	}
	if err := b.notNewer(opts.ResourceVersion); err != nil {
		return err
	}
	e, ok := b.store.Get(b.root + key)
	if !ok {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	return b.decode(e.Data, e.Revision, out)
}

// notNewer refuses a resourceVersion that does not exist yet.
func (b *Backend) notNewer(resourceVersion string) error {
	rv, err := versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if now := uint64(b.store.Revision()); rv > now {
		return storage.NewTooLargeResourceVersionError(rv, now, 1)
	}
	return nil
}

// Create adds an object; it is durable when Create returns.
func (b *Backend) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := b.check(key); err != nil {
		return err
	}
	if rv, err := versioner.ObjectResourceVersion(obj); err == nil && rv != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	data, err := b.encode(obj)
	if err != nil {
		return err
	}
	e, err := b.store.Put(ctx, b.root+key, data, 0, expires(ttl))
	if errors.Is(err, store.ErrConflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if out == nil {
		return nil
	}
	return b.decode(e.Data, e.Revision, out)
}

// Delete removes the object at key if the preconditions and validate allow it, and reads its last state into out.
func (b *Backend) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	if err := b.check(key); err != nil {
		return err
	}
	for {
		e, ok := b.store.Get(b.root + key)
		if !ok {
			return storage.NewKeyNotFoundError(key, 0)
		}
		current := b.newFunc()
		if err := b.decode(e.Data, e.Revision, current); err != nil {
			return err
		}
		if err := preconditions.Check(key, current); err != nil {
			return err
		}
		if err := validate(ctx, current); err != nil {
			return err
		}
		gone, err := b.store.Delete(ctx, b.root+key, e.Revision)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return b.decode(gone.Data, gone.Revision, out)
	}
}

// GuaranteedUpdate writes what try makes of the present object, and tries again while somebody else is faster.
func (b *Backend) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, try storage.UpdateFunc, _ runtime.Object) error {
	if err := b.check(key); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return storage.NewTimeoutError(key, err.Error())
		}
		current := b.newFunc()
		e, found := b.store.Get(b.root + key)
		if !found && !ignoreNotFound {
			return storage.NewKeyNotFoundError(key, 0)
		}
		if found {
			if err := b.decode(e.Data, e.Revision, current); err != nil {
				return err
			}
		}
		if err := preconditions.Check(key, current); err != nil {
			return err
		}
		next, ttl, err := try(current, storage.ResponseMeta{ResourceVersion: uint64(e.Revision)})
		if err != nil {
			return err
		}
		data, err := b.encode(next)
		if err != nil {
			return err
		}
		if found && bytes.Equal(data, e.Data) {
			return b.decode(e.Data, e.Revision, destination)
		}
		expiry := e.Expires
		if ttl != nil {
			expiry = expires(*ttl)
		}
		written, err := b.store.Put(ctx, b.root+key, data, e.Revision, expiry)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		return b.decode(written.Data, written.Revision, destination)
	}
}

// GetList reads the objects below key. At an exact older resourceVersion, and so for a list that is continued, it is what the
// store's history gives; when that no longer goes back so far, it is 410 Gone, with a token to go on in the present
// state.
func (b *Backend) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	listPtr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(listPtr)
	if err != nil || v.Kind() != reflect.Slice {
		return fmt.Errorf("list %s: not a list: %T", key, listObj)
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	prefix, err := storage.PrepareKey(b.prefix, key, opts.Recursive)
	if err != nil {
		return err
	}
	rev, from, err := storage.ValidateListOptions(prefix, versioner, opts)
	if err != nil {
		return err
	}
	if from == "" {
		if err := b.notNewer(opts.ResourceVersion); err != nil {
			return err
		}
	}
	var entries []store.Entry
	if rev == 0 {
		entries, _, rev = b.store.List(b.root+prefix, b.root+from, 0)
	} else if entries, err = b.listAt(prefix, from, rev); err != nil {
		return err
	}
	if !opts.Recursive {
		entries = slices.DeleteFunc(entries, func(e store.Entry) bool { return e.Key != b.root+key })
	}
	return b.page(ctx, prefix, rev, entries, opts, v, listObj)
}

func (b *Backend) listAt(prefix, from string, rev int64) ([]store.Entry, error) {
	if now := b.store.Revision(); rev > now {
		return nil, storage.NewTooLargeResourceVersionError(uint64(rev), uint64(now), 0)
	}
	entries, err := b.store.ListAt(b.root+prefix, b.root+from, rev)
	if !errors.Is(err, store.ErrGone) {
		return entries, err
	}
	if from == "" {
		return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	// Clients of upstream's API server know this error and its token.
	token, err := storage.EncodeContinue(from, prefix, -1)
	if err != nil {
		return nil, err
	}
	gone := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"Begin again, or go on with the token of this answer: what was changed since the first part may then be missing or come twice.")
	gone.ErrStatus.ListMeta.Continue = token
	return nil, gone
}

// page fills the list until the limit is reached.
func (b *Backend) page(ctx context.Context, prefix string, rev int64, entries []store.Entry, opts storage.ListOptions,
	v reflect.Value, listObj runtime.Object) error {
	last, more := "", false
	seen := 0
	if opts.Predicate.Empty() && opts.Predicate.Limit <= 0 {
		v.Grow(len(entries))
	}
	for _, e := range entries {
		if opts.Predicate.Limit > 0 && int64(v.Len()) >= opts.Predicate.Limit {
			more = true
			break
		}
		if err := ctx.Err(); err != nil {
			return storage.NewTimeoutError(e.Key, "the request took too long")
		}
		seen++
		last = e.Key[len(b.root):]
		if err := b.appendMatching(e, opts, v); err != nil {
			return err
		}
	}
	next, remaining, err := storage.PrepareContinueToken(last, prefix, rev, int64(len(entries)), more, opts)
	if err != nil {
		return err
	}
	if remaining != nil { // the function above takes all items as belonging to the first page
		*remaining = int64(len(entries) - seen)
	}
	return versioner.UpdateList(listObj, uint64(rev), next, remaining)
}

func (b *Backend) appendMatching(e store.Entry, opts storage.ListOptions, v reflect.Value) error {
	obj := b.newFunc()
	if err := b.decode(e.Data, e.Revision, obj); err != nil {
		return storage.NewInternalError(fmt.Errorf("%s: %w", e.Key, err))
	}
	if ok, err := opts.Predicate.Matches(obj); err == nil && ok {
		v.Set(reflect.Append(v, reflect.ValueOf(obj).Elem()))
	}
	return nil
}

// Watch sends the changes below key. An empty resourceVersion or "0" begins with the present objects.
func (b *Backend) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	prefix, err := storage.PrepareKey(b.prefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	rv, err := versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if rv > math.MaxInt64 {
		return nil, apierrors.NewBadRequest("invalid resource version: too large")
	}
	if err := b.notNewer(strconv.FormatUint(rv, 10)); err != nil {
		return nil, err
	}
	return b.watch(ctx, prefix, int64(rv), opts)
}

// Stats counts the objects.
func (b *Backend) Stats(ctx context.Context) (storage.Stats, error) {
	entries, _, _ := b.store.List(b.root+b.prefix, "", 0)
	return storage.Stats{ObjectCount: int64(len(entries))}, nil
}

// ReadinessCheck is nil: the store is open as long as the server is.
func (b *Backend) ReadinessCheck() error { return nil }

// RequestWatchProgress is for watch caches, of which there is none.
func (b *Backend) RequestWatchProgress(ctx context.Context) error { return nil }

// GetCurrentResourceVersion is the newest resourceVersion.
func (b *Backend) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	return uint64(b.store.Revision()), nil
}

// EnableResourceSizeEstimation is for watch caches, of which there is none.
func (b *Backend) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision is the oldest revision that can still be listed and watched from.
func (b *Backend) CompactRevision() int64 { return b.store.Oldest() }
