package runtime

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/containers"
)

// stray is a pod of which something is on the host, but that neither the store nor a record knows.
type stray struct {
	who   types.NamespacedName
	spec  *v1.Pod   // what its sandbox was made for; nil without a sandbox
	since time.Time // when its sandbox was made
	first uint32    // the host's id of its root; 0 if it has no users of its own
}

// Claimed is closed once the pods that the store has lost were given back to it, as far as that could be told.
func (r *Runtime) Claimed() <-chan struct{} { return r.claimed }

// claimFirst is the claim of podd's start. With a store that had to begin empty it goes on until containerd has told
// which pods run: before that nobody else may have their names. Otherwise it is tried once; wakeAll repeats it.
func (r *Runtime) claimFirst(ctx context.Context) error {
	for {
		err := r.claim(ctx)
		if err == nil || r.Store.Quarantined() == "" {
			return nil
		}
		r.Log.Warn("wait for containerd, to adopt the pods that run", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// claim gives every stray an owner. One with a sandbox is adopted, whenever it is found: only a store that was lost
// can have forgotten it, and podd may have died between that loss and the adoption. What else is left is taken away.
func (r *Runtime) claim(ctx context.Context) error {
	found, err := sure(func() (map[types.UID]stray, error) { return r.strays(ctx) })
	if err != nil {
		return err
	}
	for uid, s := range found {
		if s.who.Name == "" {
			s.who = r.loggedAs(uid)
		}
		adopted := false
		if s.spec != nil {
			if adopted, err = r.adopt(ctx, uid, s); err != nil {
				r.Log.Error("adopt a running pod", "namespace", s.who.Namespace, "pod", s.who.Name, "uid", uid, "err", err)
				continue // it runs on, and is tried again
			}
		}
		if !adopted {
			r.Log.Warn("something is left of an unknown pod, taking it away", "uid", uid, "pod", s.who)
			if err := r.remember(ctx, uid, s); err != nil {
				r.Log.Error("remember a stray pod", "uid", uid, "err", err)
				continue
			}
		}
		r.Wake(uid)
	}
	return nil
}

// sure is what look finds twice. A pod that is just taken away may be on the host when that is looked at, and have gone
// with its object and its record by the time that these are looked for. They go last: what is found after that is left.
func sure(look func() (map[types.UID]stray, error)) (map[types.UID]stray, error) {
	first, err := look()
	if err != nil || len(first) == 0 {
		return nil, err
	}
	again, err := look()
	if err != nil {
		return nil, err
	}
	for uid := range again {
		if _, ok := first[uid]; !ok {
			delete(again, uid)
		}
	}
	return again, nil
}

// strays finds what is on the host of pods that neither the store nor a record knows. While containerd does not answer
// nothing is a stray. Nor are containers in cgroups that are not below podd's parent: they are another podd's, in the
// same namespace.
func (r *Runtime) strays(ctx context.Context) (map[types.UID]stray, error) {
	instances, err := r.Containers.Look(ctx, "")
	if err != nil {
		return nil, err
	}
	found, foreign := map[types.UID]stray{}, map[types.UID]bool{}
	unknown := func(uid types.UID) bool {
		if _, ok := r.Store.PodByUID(uid); ok || uid == "" || foreign[uid] {
			return false
		}
		_, ok := r.Store.Record(uid)
		return !ok
	}
	for _, i := range instances {
		uid := types.UID(i.UID)
		if i.Cgroup != "" && !r.Sandboxes.Owns(i.Cgroup) {
			foreign[uid] = true
		} else if unknown(uid) {
			s := found[uid]
			s.who = types.NamespacedName{Namespace: i.Namespace, Name: i.Pod}
			s.first = max(s.first, i.FirstID) // all have the same
			if i.PodSpec != nil {
				s.spec, s.since = i.PodSpec, i.CreatedAt
			}
			found[uid] = s
		}
	}
	for _, known := range []func() ([]string, error){
		func() ([]string, error) { return r.Network.Known(ctx) },
		r.Volumes.Known,
		func() ([]string, error) { return r.Containers.Leases(ctx) },
		r.Sandboxes.Known,
	} {
		uids, err := known()
		if err != nil {
			return nil, err
		}
		for _, uid := range uids {
			if _, ok := found[types.UID(uid)]; !ok && unknown(types.UID(uid)) {
				found[types.UID(uid)] = stray{}
			}
		}
	}
	return found, nil
}

// adopt gives a stray back to the store. It is false for one whose name another pod has by now. That the pod is still
// there is looked at once more: it may have been on its way out when it was found, and its object and record go last.
func (r *Runtime) adopt(ctx context.Context, uid types.UID, s stray) (bool, error) {
	instances, err := r.Containers.Look(ctx, string(uid))
	if err != nil {
		return false, err
	}
	box := slices.IndexFunc(instances, func(i containers.Instance) bool { return i.Name == "" })
	if box < 0 {
		return false, nil
	}
	err = r.Adopt(ctx, s.spec)
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt: %w", err)
	}
	r.Log.Warn("adopted a pod that the state file had lost", "namespace", s.who.Namespace, "pod", s.who.Name, "uid", uid)
	// Its next sandbox is to be made by the handler that made this one: another one may isolate it less.
	data, err := record{Namespace: s.who.Namespace, Name: s.who.Name, Started: s.since, Handler: instances[box].Handler, FirstID: instances[box].FirstID}.encode()
	if err != nil {
		return true, err
	}
	return true, r.Store.PutRecord(ctx, uid, data)
}

// loggedAs is the name that the directory of a pod's logs tells, when nothing else does: without it they would stay.
func (r *Runtime) loggedAs(uid types.UID) (who types.NamespacedName) {
	dirs, _ := filepath.Glob(filepath.Join(r.LogDir, "pods", "*_*_"+string(uid))) // a bad pattern finds nothing
	for _, dir := range dirs {
		who.Namespace, who.Name, _ = strings.Cut(strings.TrimSuffix(filepath.Base(dir), "_"+string(uid)), "_")
	}
	return who
}

// remember makes a record for a stray, so that it gets a worker that takes it away. Until then no other pod has its ids.
func (r *Runtime) remember(ctx context.Context, uid types.UID, s stray) error {
	data, err := record{Namespace: s.who.Namespace, Name: s.who.Name, Started: time.Now(), FirstID: s.first}.encode()
	if err != nil {
		return err
	}
	if err := r.Store.PutRecord(ctx, uid, data); err != nil {
		return err
	}
	return markersOf(r.RunDir, uid).put("stray", true) // so that there is something to clear
}
