package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"podd/store"
)

// storedKind is a kind whose objects are in the store, for work that is the same for all kinds.
type storedKind struct {
	version    schema.GroupVersion
	resource   string
	kind       string
	namespaced bool
	prefix     string // of its keys: "/pods/"
	storage    storedStorage
}

// storedStorage is what a registry of stored objects can do.
type storedStorage interface {
	rest.Storage
	rest.Scoper
	rest.GracefulDeleter
	rest.Updater
	rest.Lister
}

// storedKinds are the stored kinds of a table, by what the keys of their objects begin with and by what owner
// references call them.
type storedKinds struct {
	byPrefix map[string]*storedKind // "pods", "coordination.k8s.io/leases"
	byKind   map[schema.GroupVersionKind]*storedKind
	sorted   []*storedKind // one for each prefix, pods first
}

func makeStoredKinds(table served) storedKinds {
	found := storedKinds{byPrefix: map[string]*storedKind{}, byKind: map[schema.GroupVersionKind]*storedKind{}}
	for _, version := range table.versions() {
		for resource, storage := range table[version] {
			stored, ok := storage.(storedStorage)
			if !ok || strings.Contains(resource, "/") {
				continue
			}
			names, _, err := legacyscheme.Scheme.ObjectKinds(stored.New())
			if err != nil {
				continue
			}
			k := &storedKind{version: version, resource: resource, kind: names[0].Kind, namespaced: stored.NamespaceScoped(), storage: stored}
			prefix := version.Group + "/" + resource
			if version.Group == "" || resource == "events" { // there is one kind of event, in two groups
				prefix = resource
			}
			k.prefix = "/" + prefix + "/"
			found.byKind[version.WithKind(k.kind)] = k
			if found.byPrefix[prefix] == nil {
				found.byPrefix[prefix] = k
				found.sorted = append(found.sorted, k)
			}
		}
	}
	slices.SortFunc(found.sorted, func(a, b *storedKind) int {
		if isPods := b.prefix == store.PodPrefix; isPods != (a.prefix == store.PodPrefix) {
			if isPods {
				return 1
			}
			return -1
		}
		return strings.Compare(a.prefix, b.prefix)
	})
	return found
}

// of takes a key of the store apart. A key that is of no stored kind has none.
func (ks storedKinds) of(key string) (k *storedKind, namespace, name string) {
	group, rest, _ := strings.Cut(strings.TrimPrefix(key, "/"), "/")
	k = ks.byPrefix[group]
	if k == nil {
		var resource string
		resource, rest, _ = strings.Cut(rest, "/")
		k = ks.byPrefix[group+"/"+resource]
	}
	if k == nil {
		return nil, "", ""
	}
	if !k.namespaced {
		return k, "", rest
	}
	namespace, name, _ = strings.Cut(rest, "/")
	return k, namespace, name
}

// key is where an object is in the store.
func (k *storedKind) key(namespace, name string) string {
	if k.namespaced {
		return k.prefix + namespace + "/" + name
	}
	return k.prefix + name
}

// scope makes a context for calls into the registry.
func (k *storedKind) scope(ctx context.Context, namespace string) context.Context {
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, APIGroup: k.version.Group,
		APIVersion: k.version.Version, Resource: k.resource, Namespace: namespace})
	return request.WithNamespace(ctx, namespace)
}

// delete asks for the deletion of one object, if it is still the one with that uid. That it is gone already, or another
// one, is no error. It need not be durable: after a crash it is found out again that it must go.
func (k *storedKind) delete(ctx context.Context, namespace, name string, uid types.UID, policy metav1.DeletionPropagation) error {
	opts := &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(uid)), PropagationPolicy: &policy}
	_, _, err := k.storage.Delete(k.scope(store.Lazily(ctx), namespace), name, rest.ValidateAllObjectFunc, opts)
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("delete %s %s/%s: %w", k.resource, namespace, name, err)
}

// update changes the metadata of one object, if it is still the one with that uid. It is as durable as delete is.
func (k *storedKind) update(ctx context.Context, namespace, name string, uid types.UID, change func(metav1.Object)) error {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtimeObject) (runtimeObject, error) {
		next := old.DeepCopyObject()
		object, ok := next.(metav1.Object)
		if !ok {
			return nil, fmt.Errorf("%T has no metadata", old)
		}
		if object.GetUID() != uid {
			return nil, apierrors.NewConflict(k.version.WithResource(k.resource).GroupResource(), name, errors.New("it is another one"))
		}
		change(object)
		return next, nil
	})
	_, _, err := k.storage.Update(k.scope(store.Lazily(ctx), namespace), name, info, rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("update %s %s/%s: %w", k.resource, namespace, name, err)
}

// metadata is what the meaning of an object beyond its kind depends on.
type metadata struct {
	uid        types.UID
	deleting   bool
	owners     []metav1.OwnerReference
	finalizers []string
}

// Numbers of fields in the protobuf form of stored objects: metadata is the first field of every kind.
const (
	rawField         = 2 // of runtime.Unknown, the envelope
	metadataField    = 1
	uidField         = 5
	deletionField    = 9
	ownersField      = 13
	finalizersField  = 14
	envelopeOverhead = 4 // "k8s" and a zero
)

// readMetadata reads the metadata of a stored object and nothing else of it. nil is an object without any.
func readMetadata(data []byte) (metadata, error) {
	var m metadata
	if data == nil {
		return m, nil
	}
	if len(data) < envelopeOverhead {
		return m, errors.New("read metadata: too short")
	}
	var object, meta []byte
	take := func(into *[]byte, field protowire.Number) func(protowire.Number, []byte) error {
		return func(n protowire.Number, value []byte) error {
			if n == field {
				*into = value
			}
			return nil
		}
	}
	if err := eachField(data[envelopeOverhead:], take(&object, rawField)); err != nil {
		return m, err
	}
	if err := eachField(object, take(&meta, metadataField)); err != nil {
		return m, err
	}
	return m, eachField(meta, func(n protowire.Number, value []byte) error {
		switch n {
		case uidField:
			m.uid = types.UID(value)
		case deletionField:
			m.deleting = true
		case finalizersField:
			m.finalizers = append(m.finalizers, string(value))
		case ownersField:
			var ref metav1.OwnerReference
			if err := ref.Unmarshal(value); err != nil {
				return fmt.Errorf("read metadata: owner: %w", err)
			}
			m.owners = append(m.owners, ref)
		}
		return nil
	})
}

// eachField calls f for every field of a message that is bytes.
func eachField(message []byte, f func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("read metadata: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return fmt.Errorf("read metadata: %w", protowire.ParseError(n))
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return fmt.Errorf("read metadata: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if err := f(number, value); err != nil {
			return err
		}
	}
	return nil
}

// follower keeps something true of the objects in the store. Its methods are called by one goroutine.
type follower interface {
	// begin looks at everything there is. It is called at the start, and when changes were missed.
	begin(entries []store.Entry)
	// change looks at one change.
	change(store.Change)
	// work does a part of what has become due. With more there is more to be done at once; a failure is tried again.
	work(ctx context.Context) (more bool, err error)
	// again is when work is due without any change; zero is never.
	again() time.Time
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
)

// follow runs f until ctx is done. It costs nothing while nothing changes.
func (s *Server) follow(ctx context.Context, what string, f follower) {
	var changes *store.Watch
	begin := func() bool {
		if changes != nil {
			changes.Stop()
		}
		entries, watch, err := s.Store.ListAndWatch("/")
		if changes = watch; err != nil {
			return false // the store is closed
		}
		f.begin(entries)
		return true
	}
	if !begin() {
		return
	}
	defer func() {
		if changes != nil {
			changes.Stop()
		}
	}()
	retry, wait := time.NewTimer(0), firstRetry
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes.C:
			next, _, err := changes.Next()
			if err != nil && (!errors.Is(err, store.ErrGone) || !begin()) {
				return
			}
			for _, c := range next {
				f.change(c)
			}
		case <-retry.C:
		}
		more, err := f.work(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.Log.Warn(what, "error", err)
			retry.Reset(wait)
			wait = min(2*wait, lastRetry)
		case more:
			retry.Reset(0)
		default:
			wait = firstRetry
			if at := f.again(); !at.IsZero() {
				retry.Reset(time.Until(at))
			}
		}
	}
}
