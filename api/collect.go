package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"podd/store"
)

// collector deletes objects whose owners are gone, and holds owners that are deleted in the foreground until what they
// own is gone (upstream: pkg/controller/garbagecollector). It keeps an index of who is owned by whom, decides by what
// the store holds at that moment, and is driven by changes alone: what a crash has left half done it sees at its start.
type collector struct {
	server     *Server
	owners     map[string][]metav1.OwnerReference // by key of the dependent
	dependents map[types.UID]map[string]bool      // keys, by the owner's uid
	due        []string                           // keys to look at
	isDue      map[string]bool
	failed     []string // keys to look at again, after a while
	failure    error    // of the last of them
	seen       int64    // the revision of the last change; the index is as of it
}

const collectAtOnce = 50 // how many objects are looked at before changes are

func newCollector(s *Server) *collector { return &collector{server: s} }

func (c *collector) again() time.Time { return time.Time{} }

func (c *collector) begin(entries []store.Entry) {
	c.owners, c.dependents = map[string][]metav1.OwnerReference{}, map[types.UID]map[string]bool{}
	c.due, c.isDue = nil, map[string]bool{}
	for _, e := range entries {
		c.change(store.Change{Key: e.Key, Revision: e.Revision, Data: e.Data})
	}
}

func (c *collector) change(change store.Change) {
	c.seen = max(c.seen, change.Revision)
	if strings.HasPrefix(change.Key, "/events/") {
		return // nothing owns them, and they own nothing
	}
	was, err := readMetadata(change.Prev)
	is, err2 := readMetadata(change.Data)
	if err := errors.Join(err, err2); err != nil {
		c.server.Log.Error("an object is not collected", "object", change.Key, "error", err)
		return
	}
	sameOwners := slices.EqualFunc(was.owners, is.owners, sameReference)
	if !sameOwners {
		c.index(change.Key, is.owners)
		_, namespace, _ := c.server.stored.of(change.Key)
		for _, ref := range slices.Concat(was.owners, is.owners) { // who may wait for this one
			if kind := c.ownerKind(ref); kind != nil {
				c.look(kind.key(namespace, ref.Name))
			}
		}
	}
	if was.uid != "" && was.uid != is.uid {
		for key := range c.dependents[was.uid] {
			c.look(key)
		}
	}
	started := is.deleting && (!was.deleting || !slices.Equal(was.finalizers, is.finalizers)) &&
		(slices.Contains(is.finalizers, metav1.FinalizerDeleteDependents) || slices.Contains(is.finalizers, metav1.FinalizerOrphanDependents))
	if started || len(is.owners) > 0 && !sameOwners {
		c.look(change.Key)
	}
}

// sameReference compares what the collector goes by.
func sameReference(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion && blocks(a) == blocks(b)
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// index notes who owns the object at key now.
func (c *collector) index(key string, owners []metav1.OwnerReference) {
	for _, ref := range c.owners[key] {
		if delete(c.dependents[ref.UID], key); len(c.dependents[ref.UID]) == 0 {
			delete(c.dependents, ref.UID)
		}
	}
	delete(c.owners, key)
	for _, ref := range owners {
		if c.dependents[ref.UID] == nil {
			c.dependents[ref.UID] = map[string]bool{}
		}
		c.dependents[ref.UID][key] = true
		c.owners[key] = owners
	}
}

func (c *collector) look(key string) {
	if !c.isDue[key] {
		c.isDue[key] = true
		c.due = append(c.due, key)
	}
}

func (c *collector) work(ctx context.Context) (more bool, err error) {
	for n := 0; n < collectAtOnce && len(c.due) > 0 && ctx.Err() == nil; n++ {
		key := c.due[0]
		c.due = c.due[1:]
		delete(c.isDue, key)
		if err := c.collect(ctx, key); err != nil {
			c.failed = append(c.failed, key)
			c.failure = err
		}
	}
	if len(c.due) > 0 {
		return true, nil
	}
	err = c.failure
	again := c.failed
	c.due, c.failed, c.failure = nil, nil, nil
	for _, key := range again { // later
		c.look(key)
	}
	return false, err
}

// collect looks at one object: whether its deletion waits for what it owns, or whether those that own it are gone.
func (c *collector) collect(ctx context.Context, key string) error {
	entry, ok := c.server.Store.Get(key)
	if !ok {
		return nil
	}
	m, err := readMetadata(entry.Data)
	if err != nil {
		return err
	}
	switch {
	case m.deleting && entry.Revision > c.seen: // it may own what is not in the index yet; the changes are on their way
		c.look(key)
		return nil
	case m.deleting && slices.Contains(m.finalizers, metav1.FinalizerOrphanDependents):
		return c.orphan(ctx, key, m)
	case m.deleting && slices.Contains(m.finalizers, metav1.FinalizerDeleteDependents):
		return c.deleteDependents(ctx, key, m)
	case m.deleting || len(m.owners) == 0:
		return nil
	}
	return c.judge(ctx, key, m)
}

// orphan takes the owner out of all that it owns, and then lets it go.
func (c *collector) orphan(ctx context.Context, key string, m metadata) error {
	for dependent := range c.dependents[m.uid] {
		if err := c.forget(ctx, dependent, m.uid); err != nil {
			return err
		}
	}
	return c.removeFinalizer(ctx, key, m.uid, metav1.FinalizerOrphanDependents)
}

// deleteDependents has all looked at that a going object owns, and lets it go when none is left that it must wait for.
func (c *collector) deleteDependents(ctx context.Context, key string, m metadata) error {
	waits := false
	for dependent := range c.dependents[m.uid] {
		d, ok := c.read(dependent)
		if !ok {
			continue
		}
		if !d.deleting {
			c.look(dependent)
		}
		waits = waits || slices.ContainsFunc(d.owners, func(ref metav1.OwnerReference) bool { return ref.UID == m.uid && blocks(ref) })
	}
	if waits {
		return nil
	}
	return c.removeFinalizer(ctx, key, m.uid, metav1.FinalizerDeleteDependents)
}

func (c *collector) read(key string) (metadata, bool) {
	entry, ok := c.server.Store.Get(key)
	if !ok {
		return metadata{}, false
	}
	m, err := readMetadata(entry.Data)
	return m, err == nil
}

// judge deletes an object that has no owner any more. One that has another owner only forgets those that are gone.
func (c *collector) judge(ctx context.Context, key string, m metadata) error {
	kind, namespace, name := c.server.stored.of(key)
	if kind == nil || kind.resource == "namespaces" && permanent[name] {
		return nil
	}
	var gone []types.UID // or going, with all that they own
	solid, waiting := 0, false
	for _, ref := range m.owners {
		switch c.owner(kind, namespace, name, m.uid, ref) {
		case ownerUnknown:
			return nil // who knows
		case ownerSolid:
			solid++
		case ownerWaits:
			waiting = true
			gone = append(gone, ref.UID)
		case ownerGone:
			gone = append(gone, ref.UID)
		}
	}
	switch {
	case solid > 0 && len(gone) == 0:
		return nil
	case solid > 0:
		return c.forget(ctx, key, gone...)
	case waiting && len(c.dependents[m.uid]) > 0:
		if err := c.openCircle(ctx, key, m.uid); err != nil {
			return err
		}
		return kind.delete(ctx, namespace, name, m.uid, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(m.finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(m.finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return kind.delete(ctx, namespace, name, m.uid, policy)
}

// openCircle makes an object hold nobody up if something that it owns already waits for what that owns: they may own
// each other, and would wait for ever.
func (c *collector) openCircle(ctx context.Context, key string, uid types.UID) error {
	for dependent := range c.dependents[uid] {
		d, ok := c.read(dependent)
		if !ok || !d.deleting || !slices.Contains(d.finalizers, metav1.FinalizerDeleteDependents) {
			continue
		}
		return c.update(ctx, key, uid, func(object metav1.Object) {
			refs := slices.Clone(object.GetOwnerReferences())
			for i := range refs {
				refs[i].BlockOwnerDeletion = new(bool)
			}
			object.SetOwnerReferences(refs)
		})
	}
	return nil
}

// verdicts over an owner reference.
const (
	ownerSolid   = iota // it is there
	ownerWaits          // it is being deleted and waits for what it owns
	ownerGone           // there is no such object, or another one of that name
	ownerUnknown        // podd does not serve its kind
)

func (c *collector) ownerKind(ref metav1.OwnerReference) *storedKind {
	version, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	return c.server.stored.byKind[version.WithKind(ref.Kind)]
}

func (c *collector) owner(kind *storedKind, namespace, name string, uid types.UID, ref metav1.OwnerReference) int {
	owner := c.ownerKind(ref)
	if owner == nil {
		return ownerUnknown
	}
	if owner.namespaced && !kind.namespaced {
		c.warn(kind, namespace, name, uid, ref)
		return ownerUnknown
	}
	m, ok := c.read(owner.key(namespace, ref.Name))
	if !ok || m.uid != ref.UID {
		if owner.namespaced && c.elsewhere(owner, namespace, ref) {
			c.warn(kind, namespace, name, uid, ref)
		}
		return ownerGone
	}
	if m.deleting && slices.Contains(m.finalizers, metav1.FinalizerDeleteDependents) {
		return ownerWaits
	}
	return ownerSolid
}

// elsewhere tells whether the owner is in another namespace, where it cannot own anything of this one.
func (c *collector) elsewhere(owner *storedKind, namespace string, ref metav1.OwnerReference) bool {
	namespaces, _, _ := c.server.Store.List("/namespaces/", "", 0)
	for _, e := range namespaces {
		other := strings.TrimPrefix(e.Key, "/namespaces/")
		if other == namespace {
			continue
		}
		if m, ok := c.read(owner.key(other, ref.Name)); ok && m.uid == ref.UID {
			return true
		}
	}
	return false
}

// warn tells of an owner that is not where it could own this object, in upstream's words.
func (c *collector) warn(kind *storedKind, namespace, name string, uid types.UID, ref metav1.OwnerReference) {
	about := v1.ObjectReference{APIVersion: kind.version.String(), Kind: kind.kind, Namespace: namespace, Name: name, UID: uid}
	in := namespace
	if in == "" {
		in = metav1.NamespaceDefault
	}
	c.server.event(about, in, v1.EventTypeWarning, "OwnerRefInvalidNamespace",
		fmt.Sprintf("ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
			ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID, namespace))
}

// update changes the metadata of the object at key. If it is gone, or another one, nothing is to be done.
func (c *collector) update(ctx context.Context, key string, uid types.UID, change func(metav1.Object)) error {
	kind, namespace, name := c.server.stored.of(key)
	if kind == nil {
		return nil
	}
	return kind.update(ctx, namespace, name, uid, change)
}

// forget takes owners out of an object's metadata.
func (c *collector) forget(ctx context.Context, key string, owners ...types.UID) error {
	m, ok := c.read(key)
	if !ok {
		return nil
	}
	return c.update(ctx, key, m.uid, func(object metav1.Object) {
		object.SetOwnerReferences(slices.DeleteFunc(slices.Clone(object.GetOwnerReferences()),
			func(ref metav1.OwnerReference) bool { return slices.Contains(owners, ref.UID) }))
	})
}

func (c *collector) removeFinalizer(ctx context.Context, key string, uid types.UID, finalizer string) error {
	return c.update(ctx, key, uid, func(object metav1.Object) {
		object.SetFinalizers(slices.DeleteFunc(slices.Clone(object.GetFinalizers()), func(f string) bool { return f == finalizer }))
	})
}
