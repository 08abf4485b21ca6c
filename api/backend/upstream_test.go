package backend

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	"podd/store"
)

// The tests of this file are upstream's own, which etcd's storage and the watch cache have to pass. Left out are those of
// what podd does not have: encryption at rest (stored data that is sound but stale, removal of objects that cannot be
// decrypted), progress notes of etcd, sizes for the cost of a request.

var exampleCodec = func() runtime.Codec {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)
}()

// subject is a Backend whose stored form can be tampered with, as upstream's tests want to.
type subject struct {
	*Backend
	coder *tampered
}

// tampered is a codec with one of upstream's test transformers behind it.
type tampered struct {
	runtime.Codec
	transformer value.Transformer
	inside      atomic.Bool // the transformer itself uses the storage
}

func (c *tampered) Encode(obj runtime.Object, w io.Writer) error {
	var b bytes.Buffer
	if err := c.Codec.Encode(obj, &b); err != nil {
		return err
	}
	out, err := c.transformer.TransformToStorage(context.Background(), b.Bytes(), value.DefaultContext(""))
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

func (c *tampered) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if !c.inside.CompareAndSwap(false, true) {
		return c.Codec.Decode(bytes.TrimPrefix(data, []byte(testPrefix)), gvk, into)
	}
	in, _, err := c.transformer.TransformFromStorage(context.Background(), data, value.DefaultContext(""))
	c.inside.Store(false)
	if err != nil {
		return nil, nil, err
	}
	return c.Codec.Decode(in, gvk, into)
}

const testPrefix = "test!"

func (s *subject) UpdatePrefixTransformer(change storagetesting.PrefixTransformerModifier) func() {
	old := s.coder.transformer
	next := *old.(*storagetesting.PrefixTransformer)
	s.coder.transformer = change(&next)
	return func() { s.coder.transformer = old }
}

func newSubject(t *testing.T) *subject {
	t.Helper()
	s, err := store.Open(store.Options{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	coder := &tampered{Codec: exampleCodec, transformer: storagetesting.NewPrefixTransformer([]byte(testPrefix), false)}
	// Below /pods the store has pods of its own.
	made := &subject{coder: coder, Backend: &Backend{store: s, codec: coder, root: "/test", prefix: "/pods/",
		newFunc: func() runtime.Object { return &example.Pod{} }}}
	made.increase(t.Context(), t)
	return made
}

func (s *subject) checkStored(_ context.Context, t *testing.T, key string) {
	e, ok := s.store.Get(s.root + key)
	if !ok {
		t.Fatalf("nothing at %s", key)
	}
	obj, err := runtime.Decode(s.codec, e.Data)
	if err != nil {
		t.Fatal(err)
	}
	if pod := obj.(*example.Pod); pod.ResourceVersion != "" {
		t.Errorf("stored: resourceVersion %q", pod.ResourceVersion)
	}
}

// compact forgets what is older than a revision.
func (s *subject) compact(_ context.Context, t *testing.T, resourceVersion string) {
	rev, err := versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	s.store.Forget(int64(rev))
}

// expireAlways removes what is over as soon as it is.
func (s *subject) expireAlways(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case now := <-tick.C:
				if err := s.store.Expire(ctx, now); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func (s *subject) increase(ctx context.Context, t *testing.T) int64 {
	e, _ := s.store.Get("/other")
	e, err := s.store.Put(store.Lazily(ctx), "/other", []byte("x"), e.Revision, 0)
	if err != nil {
		t.Fatal(err)
	}
	return e.Revision
}

func TestUpstreamStore(t *testing.T) {
	unchecked := func(*testing.T, uint64, uint64) {} // how often etcd is asked for a page
	for name, run := range map[string]func(context.Context, *testing.T, *subject){
		"Create": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestCreate(ctx, t, s, s.checkStored)
		},
		"CreateWithTTL": func(ctx context.Context, t *testing.T, s *subject) {
			s.expireAlways(t)
			storagetesting.RunTestCreateWithTTL(ctx, t, s)
		},
		"GuaranteedUpdateWithTTL": func(ctx context.Context, t *testing.T, s *subject) {
			s.expireAlways(t)
			storagetesting.RunTestGuaranteedUpdateWithTTL(ctx, t, s)
		},
		"CreateWithKeyExist": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestCreateWithKeyExist(ctx, t, s)
		},
		"Get": func(ctx context.Context, t *testing.T, s *subject) { storagetesting.RunTestGet(ctx, t, s) },
		"UnconditionalDelete": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestUnconditionalDelete(ctx, t, s)
		},
		"ConditionalDelete": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestConditionalDelete(ctx, t, s)
		},
		"DeleteWithSuggestion": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDeleteWithSuggestion(ctx, t, s)
		},
		"DeleteWithSuggestionAndConflict": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDeleteWithSuggestionAndConflict(ctx, t, s)
		},
		"DeleteWithConflict": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDeleteWithConflict(ctx, t, s)
		},
		"DeleteWithSuggestionOfDeletedObject": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(ctx, t, s)
		},
		"ValidateDeletionWithSuggestion": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestValidateDeletionWithSuggestion(ctx, t, s)
		},
		"ValidateDeletionWithOnlySuggestionValid": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(ctx, t, s)
		},
		"PreconditionalDeleteWithSuggestion": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestPreconditionalDeleteWithSuggestion(ctx, t, s)
		},
		"PreconditionalDeleteWithOnlySuggestionPass": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(ctx, t, s)
		},
		"List": func(ctx context.Context, t *testing.T, s *subject) {
			compact := func(ctx context.Context, t *testing.T, resourceVersion string) {
				s.compact(ctx, t, resourceVersion)
				s.increase(ctx, t) // as etcd's compaction does
			}
			storagetesting.RunTestList(ctx, t, s, compact, false, nil)
		},
		"ConsistentList": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestConsistentList(ctx, t, s, s.increase, false, true, false)
		},
		"GetListNonRecursive": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, s)
		},
		"GetListRecursivePrefix": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestGetListRecursivePrefix(ctx, t, s)
		},
		"ListContinuation": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestListContinuation(ctx, t, s, unchecked)
		},
		"ListPaginationRareObject": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestListPaginationRareObject(store.Lazily(ctx), t, s, unchecked)
		},
		"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s, unchecked)
		},
		"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s, s.compact)
		},
		"ListResourceVersionMatch": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, s)
		},
		"ListPaging": func(ctx context.Context, t *testing.T, s *subject) { storagetesting.RunTestListPaging(ctx, t, s) },
		"NamespaceScopedList": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestNamespaceScopedList(ctx, t, s)
		},
		"GuaranteedUpdate": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.checkStored)
		},
		"GuaranteedUpdateWithConflict": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestGuaranteedUpdateWithConflict(ctx, t, s)
		},
		"GuaranteedUpdateWithSuggestionAndConflict": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, s)
		},
		"TransformationFailure": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestTransformationFailure(ctx, t, s)
		},
		"Stats": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestStats(ctx, t, s, exampleCodec, s.coder.transformer, false)
		},
		"KeySchema": func(ctx context.Context, t *testing.T, s *subject) { storagetesting.RunTestKeySchema(ctx, t, s) },
		"CompactRevision": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestCompactRevision(ctx, t, s, s.increase, s.compact)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t.Context(), t, newSubject(t))
		})
	}
}

func TestUpstreamWatch(t *testing.T) {
	for name, run := range map[string]func(context.Context, *testing.T, *subject){
		"Watch": func(ctx context.Context, t *testing.T, s *subject) { storagetesting.RunTestWatch(ctx, t, s) },
		"WatchFromZero": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchFromZero(ctx, t, s, s.compact)
		},
		"DeleteTriggerWatch": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDeleteTriggerWatch(ctx, t, s)
		},
		"WatchFromNonZero": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchFromNonZero(ctx, t, s)
		},
		"DelayedWatchDelivery": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestDelayedWatchDelivery(ctx, t, s)
		},
		"WatchError": func(ctx context.Context, t *testing.T, s *subject) { storagetesting.RunTestWatchError(ctx, t, s) },
		"WatchContextCancel": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchContextCancel(ctx, t, s)
		},
		"WatcherTimeout": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatcherTimeout(ctx, t, s)
		},
		"WatchDeleteEventObjectHaveLatestRV": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, s)
		},
		"WatchInitializationSignal": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchInitializationSignal(ctx, t, s)
		},
		"ClusterScopedWatch": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestClusterScopedWatch(ctx, t, s)
		},
		"NamespaceScopedWatch": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestNamespaceScopedWatch(ctx, t, s)
		},
		"DispatchBookmarkEvents": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, false)
		},
		"SendInitialEventsBackwardCompatibility": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunSendInitialEventsBackwardCompatibility(ctx, t, s)
		},
		"WatchSemantics": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunWatchSemantics(ctx, t, s)
		},
		"WatchListMatchSingle": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunWatchListMatchSingle(ctx, t, s)
		},
		"WatchErrorIsBlockingFurtherEvents": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, s)
		},
		"WatchSemanticInitialEventsExtended": func(ctx context.Context, t *testing.T, s *subject) {
			storagetesting.RunWatchSemanticInitialEventsExtended(ctx, t, s)
		},
	} { // not in parallel: they set feature gates
		t.Run(name, func(t *testing.T) { run(t.Context(), t, newSubject(t)) })
	}
}
