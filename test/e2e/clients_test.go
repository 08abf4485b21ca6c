//go:build host

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// TestClients drives client-go as it is: typed clients in protobuf, dynamic and metadata clients, informers.
func TestClients(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, part := range map[string]func(*testing.T, *suite){
		"typed": clientsTyped, "dynamic": clientsDynamic, "metadata": clientsMetadata, "informers": clientsInformers,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); part(t, s) })
	}
}

// connection is what a client speaks through; what it leaves open is closed at the end of the test.
func connection(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	must(t, err)
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.Transport) })
	return client
}

// wire remembers what a client asked for and was given.
type wire struct {
	next http.RoundTripper

	mu      sync.Mutex
	queries []string // of all requests, as path?query
	types   map[string]int
}

// spied is config with everything that goes over it seen.
func spied(config *rest.Config) (*rest.Config, *wire) {
	w := &wire{types: map[string]int{}}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { w.next = next; return w })
	return config, w
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := w.next.RoundTrip(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queries = append(w.queries, r.URL.Path+"?"+r.URL.RawQuery)
	if err == nil {
		kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
		w.types[kind]++
	}
	return answer, err
}

// WrappedRoundTripper lets idle connections be closed.
func (w *wire) WrappedRoundTripper() http.RoundTripper { return w.next }

// asked tells how many requests had all of these in path or query.
func (w *wire) asked(parts ...string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queries {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(q, p) }) {
			n++
		}
	}
	return n
}

func clientsTyped(t *testing.T, s *suite) {
	config, seen := spied(s.TLSConfig())
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfigAndClient(config, connection(t, config))
	must(t, err)
	ctx, pods := t.Context(), client.CoreV1().Pods("default")
	manifest := &v1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "typed-"}, Spec: v1.PodSpec{
		RestartPolicy: v1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64),
		Containers: []v1.Container{{Name: "app", Image: busybox, Command: []string{"sleep", "1000"}}}}}
	made, err := pods.Create(ctx, manifest, metav1.CreateOptions{})
	must(t, err)
	if !strings.HasPrefix(made.Name, "typed-") || made.Generation != 1 || made.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("the pod that was made is %+v", made.ObjectMeta)
	}
	s.until(t, made.Name, "ready", ready)
	applied, err := pods.Apply(ctx, corev1.Pod(made.Name, "default").WithLabels(map[string]string{"by": "apply"}),
		metav1.ApplyOptions{FieldManager: "typed"})
	must(t, err)
	if applied.Labels["by"] != "apply" || applied.Status.Phase != v1.PodRunning {
		t.Errorf("after apply the labels are %v, the phase is %s", applied.Labels, applied.Status.Phase)
	}
	stale := made.DeepCopy()
	stale.Labels = map[string]string{"by": "update"}
	if _, err := pods.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version is %v, want a conflict", err)
	}
	wrongUID := types.UID("another")
	err = pods.Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrongUID}})
	if !apierrors.IsConflict(err) {
		t.Errorf("a delete of another uid is %v, want a conflict", err)
	}
	must(t, pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "by=apply"}))
	s.until(t, made.Name, "gone", gone)
	for kind, n := range seen.types {
		if kind != "application/vnd.kubernetes.protobuf" {
			t.Errorf("%d answers were %q, want protobuf only", n, kind)
		}
	}
}

func clientsDynamic(t *testing.T, s *suite) {
	config := s.Config()
	client, err := dynamic.NewForConfigAndClient(config, connection(t, config))
	must(t, err)
	ctx, maps := t.Context(), client.Resource(v1.SchemeGroupVersion.WithResource("configmaps")).Namespace("default")
	list, err := maps.List(ctx, metav1.ListOptions{})
	must(t, err)
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), LabelSelector: "kind=dynamic"})
	must(t, err)
	defer w.Stop()
	object := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": name, "labels": map[string]any{"kind": "dynamic"}},
			"data":     map[string]any{"a": "1"}}}
	}
	for _, name := range []string{"dynamic-1", "dynamic-2"} {
		_, err := maps.Create(ctx, object(name), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
		must(t, err)
	}
	bad := object("dynamic-3")
	bad.Object["date"] = map[string]any{}
	if _, err := maps.Create(ctx, bad, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field that there is not is %v, want a bad request", err)
	}
	_, err = maps.Patch(ctx, "dynamic-1", types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = maps.Patch(ctx, "dynamic-2", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/labels/kind"}]`), metav1.PatchOptions{})
	must(t, err)
	must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "kind=dynamic"}))
	must(t, maps.Delete(ctx, "dynamic-2", metav1.DeleteOptions{}))
	want := []string{"ADDED dynamic-1", "ADDED dynamic-2", "MODIFIED dynamic-1", "DELETED dynamic-2", "DELETED dynamic-1"}
	if got := collect(t, w, len(want)); !slices.Equal(got, want) {
		t.Errorf("the watch saw\n%q, want\n%q", got, want)
	}
}

// collect is the next n events, as type and name.
func collect(t *testing.T, w watch.Interface, n int) (got []string) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for len(got) < n {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return append(got, "END")
			}
			if object, ok := e.Object.(metav1.Object); ok && e.Type != watch.Bookmark {
				got = append(got, fmt.Sprintf("%s %s", e.Type, object.GetName()))
			}
		case <-late.C:
			return append(got, "SILENCE")
		}
	}
	return got
}

func clientsMetadata(t *testing.T, s *suite) {
	config, seen := spied(s.Config())
	client, err := metadata.NewForConfigAndClient(config, connection(t, config))
	must(t, err)
	pod := sleeper("metadata")
	s.apply(t, pod)
	object, err := client.Resource(v1.SchemeGroupVersion.WithResource("pods")).Namespace("default").Get(t.Context(), pod.Name, metav1.GetOptions{})
	must(t, err)
	if object.Name != pod.Name || object.UID == "" {
		t.Errorf("the metadata is %+v", object)
	}
	if n := seen.asked("/pods/" + pod.Name); n != 1 || seen.types["application/vnd.kubernetes.protobuf"]+seen.types["application/json"] != 1 {
		t.Errorf("%d requests were answered as %v", n, seen.types)
	}
	s.remove(t, pod.Name)
}

// clientsInformers asks that an informer begins by a watch list, and sees what a list sees.
func clientsInformers(t *testing.T, s *suite) {
	config, seen := spied(s.Config())
	client, err := kubernetes.NewForConfigAndClient(config, connection(t, config))
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	secrets := s.client.CoreV1().Secrets("default")
	for i := range 50 {
		_, err := secrets.Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("informer-%d", i)}}, metav1.CreateOptions{})
		must(t, err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Secrets()
	typed := informer.Informer()
	dyn, err := dynamic.NewForConfigAndClient(s.Config(), connection(t, s.Config()))
	must(t, err)
	untyped := dynamicinformer.NewDynamicSharedInformerFactory(dyn, 0)
	other := untyped.ForResource(v1.SchemeGroupVersion.WithResource("secrets")).Informer()
	factory.Start(ctx.Done())
	untyped.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), typed.HasSynced, other.HasSynced) {
		t.Fatal("the informers do not get in step")
	}
	if seen.asked("/secrets", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan") == 0 {
		t.Errorf("the informer did not begin by a watch list; it asked %q", seen.queries)
	}
	if n := seen.asked("/secrets?limit="); n != 0 {
		t.Errorf("the informer listed %d times", n)
	}
	must(t, secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	eventually(t, func() error {
		if n, m := len(typed.GetStore().List()), len(other.GetStore().List()); n != 0 || m != 0 {
			return fmt.Errorf("the informers still have %d and %d secrets", n, m)
		}
		return nil
	})
	stop()
	factory.Shutdown()
	untyped.Shutdown()
}

// TestReconcile runs a controller of the usual kind, informer, queue and workers, while podd is killed: for each ConfigMap
// of one label it makes one of another. None is missed, none is made twice, and the informer tells of none twice.
func TestReconcile(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, stop := context.WithCancel(t.Context())
	c := newController(t, s)
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	const objects, kills = 120, 3
	for i := range objects {
		if i%(objects/(kills+1)) == objects/(kills+1)-1 && i < objects-1 {
			s.Kill()
			s.Launch()
			s.WaitReady()
		}
		c.put(t, fmt.Sprintf("want-%d", i))
	}
	eventually(t, func() error { // what comes and goes while the informer is cut off is nothing it could tell of
		if n := c.told(); n != objects {
			return fmt.Errorf("the informer told of %d objects", n)
		}
		return nil
	})
	for i := 0; i < objects; i += 3 {
		must(t, s.client.CoreV1().ConfigMaps("default").Delete(t.Context(), fmt.Sprintf("want-%d", i), metav1.DeleteOptions{}))
	}
	eventually(t, func() error { return c.complete(t.Context(), objects) })
	eventually(t, func() error {
		if n := len(c.informer.GetStore().List()); n != objects-(objects+2)/3 {
			return fmt.Errorf("the informer has %d objects", n)
		}
		return nil
	})
	stop()
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, n := range c.added {
		if n != 1 {
			t.Errorf("the informer told %d times of the object with uid %s", n, uid)
		}
	}
	for uid, n := range c.deleted {
		if n != 1 {
			t.Errorf("the informer told %d times of the end of the object with uid %s", n, uid)
		}
	}
	if len(c.added) != objects || len(c.deleted) != (objects+2)/3 {
		t.Errorf("the informer told of %d objects and of the end of %d, want %d and %d", len(c.added), len(c.deleted), objects, (objects+2)/3)
	}
	for name, n := range c.made {
		if n != 1 {
			t.Errorf("%s was made %d times", name, n)
		}
	}
}

// controller is the loop of TestReconcile.
type controller struct {
	client   *kubernetes.Clientset
	factory  informers.SharedInformerFactory
	informer cache.SharedIndexInformer
	queue    workqueue.TypedRateLimitingInterface[string]

	mu             sync.Mutex
	added, deleted map[types.UID]int // what the informer told
	made           map[string]int    // creations that podd has confirmed
}

func newController(t *testing.T, s *suite) *controller {
	config := s.Config()
	client, err := kubernetes.NewForConfigAndClient(config, connection(t, config))
	must(t, err)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = "role=want"
	}))
	c := &controller{client: client, factory: factory, informer: factory.Core().V1().ConfigMaps().Informer(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, 200*time.Millisecond)),
		added: map[types.UID]int{}, deleted: map[types.UID]int{}, made: map[string]int{}}
	_, err = c.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { c.tell(c.added, o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			c.tell(c.deleted, o)
		},
	})
	must(t, err)
	return c
}

func (c *controller) tell(of map[types.UID]int, o any) {
	object, ok := o.(metav1.Object)
	if !ok {
		return
	}
	c.mu.Lock()
	of[object.GetUID()]++
	c.mu.Unlock()
	c.queue.Add(object.GetName())
}

// told is how many objects the informer has told of.
func (c *controller) told() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.added)
}

func (c *controller) run(ctx context.Context) {
	c.factory.Start(ctx.Done())
	cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for c.work(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	workers.Wait()
	c.factory.Shutdown()
}

func (c *controller) work(ctx context.Context) bool {
	name, over := c.queue.Get()
	if over {
		return false
	}
	defer c.queue.Done(name)
	if err := c.reconcile(ctx, name); err != nil {
		c.queue.AddRateLimited(name)
	} else {
		c.queue.Forget(name)
	}
	return true
}

// reconcile has the counterpart of an object there, or not there.
func (c *controller) reconcile(ctx context.Context, name string) error {
	maps, counterpart := c.client.CoreV1().ConfigMaps("default"), strings.Replace(name, "want", "have", 1)
	_, wanted, err := c.informer.GetStore().GetByKey("default/" + name)
	if err != nil {
		return err
	}
	if !wanted {
		err := maps.Delete(ctx, counterpart, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	_, err = maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: counterpart, Labels: map[string]string{"role": "have"}}},
		metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		c.mu.Lock()
		c.made[counterpart]++
		c.mu.Unlock()
	}
	return err
}

func (c *controller) put(t *testing.T, name string) {
	t.Helper()
	_, err := c.client.CoreV1().ConfigMaps("default").Create(t.Context(),
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"role": "want"}}}, metav1.CreateOptions{})
	must(t, err)
}

// complete is nil when there is a counterpart of each object and no other.
func (c *controller) complete(ctx context.Context, objects int) error {
	want := map[string]bool{}
	for i := range objects {
		if i%3 != 0 {
			want[fmt.Sprintf("have-%d", i)] = true
		}
	}
	list, err := c.client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{LabelSelector: "role=have"})
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, m := range list.Items {
		have[m.Name] = true
	}
	if maps.Equal(want, have) {
		return nil
	}
	var wrong []error
	for name := range want {
		if !have[name] {
			wrong = append(wrong, fmt.Errorf("%s is missing", name))
		}
	}
	for name := range have {
		if !want[name] {
			wrong = append(wrong, fmt.Errorf("%s is too many", name))
		}
	}
	return errors.Join(wrong...)
}
