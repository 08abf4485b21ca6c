package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// PodPrefix is where the API keeps pods: PodPrefix + namespace + "/" + name.
const PodPrefix = "/pods/"

func isPod(key string) bool { return strings.HasPrefix(key, PodPrefix) }

// Pods is every pod. The objects are shared and must not be changed.
func (s *Store) Pods() []*v1.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	pods := make([]*v1.Pod, 0, len(s.pods))
	for _, p := range s.pods {
		pods = append(pods, p)
	}
	return pods
}

// Pod is the pod of that name, shared and read-only.
func (s *Store) Pod(namespace, name string) (*v1.Pod, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.pods[PodPrefix+namespace+"/"+name]
	return p, ok
}

// PodByUID is the pod with that uid, shared and read-only.
func (s *Store) PodByUID(uid types.UID) (*v1.Pod, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.pods[s.podKeys[uid]]
	return p, ok
}

// OnPodChange calls f with the uid of every pod that was added, changed or removed, from then on. f must not block and
// must not change the store. cancel ends it; a call that has begun may still come.
func (s *Store) OnPodChange(f func(uid types.UID)) (cancel func()) {
	return s.onPodChange(hook{call: f})
}

// OnObjectChange calls f with the key of every object but pods that was added, changed or removed, as OnPodChange does.
func (s *Store) OnObjectChange(f func(key string)) (cancel func()) {
	return s.onPodChange(hook{object: f})
}

// OnPodChangeByOthers is OnPodChange without the changes that were made with a context of By(ctx, me): who writes what it
// has seen need not look again.
func (s *Store) OnPodChangeByOthers(me string, f func(uid types.UID)) (cancel func()) {
	return s.onPodChange(hook{me: me, call: f})
}

// hook is somebody who listens.
type hook struct {
	me     string // whose own changes are not told; empty: all are
	call   func(uid types.UID)
	object func(key string) // instead: of all other objects
}

func (s *Store) onPodChange(h hook) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hookID++
	id := s.hookID
	s.hooks[id] = h
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.hooks, id)
	}
}

type byKey struct{}

// By names who makes a change of status with ctx.
func By(ctx context.Context, who string) context.Context { return context.WithValue(ctx, byKey{}, who) }

func by(ctx context.Context) string {
	who, _ := ctx.Value(byKey{}).(string)
	return who
}

// SetStatus replaces the status of a pod by what mutate makes of it. Nothing is written when it is equal. A pod that is
// gone is an error for which IsNotFound is true. The new status is visible at once and durable within 50 ms or with
// the next commit. mutate is called with the store locked: it must be quick and not call the store.
func (s *Store) SetStatus(ctx context.Context, uid types.UID, mutate func(prev v1.PodStatus) v1.PodStatus) error {
	return s.changePod(by(ctx), uid, true, func(pod *v1.Pod, o *op) (bool, error) {
		next := mutate(*pod.Status.DeepCopy())
		if next.QOSClass == "" {
			next.QOSClass = pod.Status.QOSClass
		}
		if equality.Semantic.DeepEqual(pod.Status, next) {
			return true, nil
		}
		o.pod = pod.DeepCopy()
		next.DeepCopyInto(&o.pod.Status)
		return false, nil
	})
}

// AdoptPod puts a pod with its uid into the store, durably. A pod of that name that is there already is an error for
// which IsAlreadyExists is true, unless it is the same one.
func (s *Store) AdoptPod(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	if old, ok := s.PodByUID(pod.UID); ok {
		return old, nil
	}
	data, err := encodePod(pod)
	if err != nil {
		return nil, err
	}
	_, err = s.Put(ctx, PodPrefix+pod.Namespace+"/"+pod.Name, data, 0, 0)
	if errors.Is(err, ErrConflict) {
		return nil, apierrors.NewAlreadyExists(v1.Resource("pods"), pod.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	adopted, _ := s.PodByUID(pod.UID)
	return adopted, nil
}

// FinishPod removes a pod that the host has let go of. A pod with finalizers stays until they are gone; a pod that is
// gone is no error; one that nobody asked to delete is.
func (s *Store) FinishPod(ctx context.Context, uid types.UID) error {
	err := s.changePod("", uid, false, func(pod *v1.Pod, o *op) (bool, error) {
		if pod.DeletionTimestamp == nil {
			return false, fmt.Errorf("finish pod %s/%s: nobody asked to delete it", pod.Namespace, pod.Name)
		}
		if len(pod.Finalizers) == 0 {
			o.remove = true
			return false, nil
		}
		if pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
			return true, nil
		}
		o.pod = pod.DeepCopy()
		o.pod.DeletionGracePeriodSeconds = new(int64) // the last finalizer's removal removes the pod
		return false, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// changePod writes what change makes of a pod: it sets o.pod to a changed copy, or o.remove.
func (s *Store) changePod(by string, uid types.UID, lazy bool, change func(pod *v1.Pod, o *op) (skip bool, err error)) error {
	notFound := apierrors.NewNotFound(v1.Resource("pods"), string(uid))
	s.mu.RLock()
	key, ok := s.podKeys[uid]
	s.mu.RUnlock()
	if !ok {
		return notFound
	}
	return s.submit(&op{by: by, entry: Entry{Key: key}, expect: anyRevision, lazy: lazy,
		make: func(cur Entry, found bool, o *op) (bool, error) {
			pod := s.pods[key]
			if found && (pod == nil || formatRevision(cur.Revision) != pod.ResourceVersion) { // changed in this batch
				var err error
				if pod, err = decodePod(cur.Data); err != nil {
					return false, err
				}
			}
			if !found || pod.UID != uid {
				return false, notFound
			}
			skip, err := change(pod, o)
			if skip || err != nil || o.remove {
				return skip, err
			}
			o.entry.Data, err = encodePod(o.pod)
			return false, err
		}})
}

var protobufPrefix = []byte("k8s\x00")

// decodePod reads a pod in the form the API's storage codec writes: protobuf in an envelope. The resourceVersion is
// not part of it.
func decodePod(data []byte) (*v1.Pod, error) {
	pod := &v1.Pod{}
	if err := Decode(data, pod); err != nil {
		return nil, fmt.Errorf("decode pod: %w", err)
	}
	return pod, nil
}

// Decode reads an object of any kind from an Entry's data into into, which is empty and of that kind.
func Decode(data []byte, into interface{ Unmarshal(data []byte) error }) error {
	if !strings.HasPrefix(string(data[:min(len(data), len(protobufPrefix))]), string(protobufPrefix)) {
		return errors.New("not protobuf")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(data[len(protobufPrefix):]); err != nil {
		return err
	}
	return into.Unmarshal(envelope.Raw)
}

// encodePod is the inverse of decodePod.
func encodePod(pod *v1.Pod) ([]byte, error) {
	stripped := *pod
	stripped.ResourceVersion = ""
	raw, err := stripped.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
	data, err := envelope.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	return append(protobufPrefix[:len(protobufPrefix):len(protobufPrefix)], data...), nil
}

func formatRevision(rev int64) string { return strconv.FormatInt(rev, 10) }

// PutRecord keeps the runtime's facts of a pod. They are durable when it returns nil.
func (s *Store) PutRecord(ctx context.Context, uid types.UID, data []byte) error {
	if uid == "" {
		return errors.New("put record: no uid")
	}
	return s.submit(&op{record: uid, value: append([]byte{}, data...)})
}

// Records is every record, by pod uid. The data must not be changed.
func (s *Store) Records() map[types.UID][]byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	records := make(map[types.UID][]byte, len(s.records))
	for uid, data := range s.records {
		records[uid] = data
	}
	return records
}

// Record is the record of one pod. The data must not be changed.
func (s *Store) Record(uid types.UID) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	data, ok := s.records[uid]
	return data, ok
}

// DeleteRecord forgets the record of a pod; none is no error.
func (s *Store) DeleteRecord(ctx context.Context, uid types.UID) error {
	if _, ok := s.Record(uid); !ok {
		return nil
	}
	return s.submit(&op{record: uid})
}
