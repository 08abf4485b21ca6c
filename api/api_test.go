package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applyv1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/exec"

	"podd/api"
	"podd/api/history"
	"podd/store"
)

// pods is a Runtime that echoes: the API's own tests need to see what arrives, not a container.
type pods struct {
	mu      sync.Mutex
	healthy error
	sizes   []remotecommand.TerminalSize
	deaf    atomic.Int64 // commands that hear nothing
}

func (p *pods) Logs(ctx context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error {
	if opts.Previous {
		return apierrors.NewBadRequest("previous terminated container not found")
	}
	if _, err := fmt.Fprintf(out, "log of %s/%s %s\n", pod.Namespace, pod.Name, opts.Container); err != nil {
		return err
	}
	for opts.Container == "floods" {
		if _, err := out.Write(flood); err != nil {
			return err
		}
	}
	if opts.Follow {
		<-ctx.Done()
	}
	return nil
}

// early is how many KiB the command of that name writes: more than the library's queues hold, and less than those of the connection.
const early = 150

var flood = bytes.Repeat([]byte("x"), 64<<10)

func (p *pods) Exec(ctx context.Context, pod *v1.Pod, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize) error {
	if cmd[0] == "exit" {
		return exec.CodeExitError{Err: errors.New("exit 7"), Code: 7}
	}
	if cmd[0] == "early" { // it says a lot, and ends without having heard anything
		for range early {
			if _, err := out.Write(flood[:1<<10]); err != nil {
				return err
			}
		}
		return exec.CodeExitError{Err: errors.New("exit 7"), Code: 7}
	}
	if cmd[0] == "deaf" { // it hears nothing, and ends when it is told to
		p.deaf.Add(1)
		defer p.deaf.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}
	for cmd[0] == "flood" {
		if _, err := out.Write(flood); err != nil {
			return err
		}
	}
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if tty {
		size := <-resize
		p.mu.Lock()
		p.sizes = append(p.sizes, size)
		p.mu.Unlock()
	}
	if errOut != nil {
		_, _ = errOut.Write([]byte("err"))
	}
	return nil
}

func (p *pods) Images(context.Context) ([]api.ImageInfo, error) {
	return []api.ImageInfo{{Name: "docker.io/library/busybox:1"}}, nil
}

func (p *pods) PullImage(_ context.Context, ref string, progress func(api.PullProgress)) (api.ImageInfo, error) {
	progress(api.PullProgress{Ref: ref, Status: "downloading"})
	if strings.Contains(ref, "none") {
		return api.ImageInfo{}, errors.New("pull: not found")
	}
	return api.ImageInfo{Name: ref}, nil
}

func (p *pods) LoadImages(_ context.Context, r io.Reader) ([]api.ImageInfo, error) {
	n, err := io.Copy(io.Discard, r)
	return []api.ImageInfo{{Name: "loaded", Size: n}}, err
}
func (p *pods) RemoveImage(context.Context, string) error { return nil }

func (p *pods) History(namespace, name, uid string) ([]history.Pod, error) {
	if name == "none" {
		return nil, nil
	}
	return []history.Pod{{Namespace: namespace, Name: name, UID: uid, Entries: []history.Entry{{What: history.Ready}}}}, nil
}

func (p *pods) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.healthy
}

// ail is what Healthy answers from now on.
func (p *pods) ail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healthy = err
}

type env struct {
	store   *store.Store
	server  *api.Server
	config  *rest.Config
	client  *kubernetes.Clientset // protobuf
	http    *http.Client
	runtime *pods
	dir     string // of the state
	stop    func() // ends the server and closes the store; twice is once
}

// serve starts a server on a socket, and ends it with the test.
func serve(t testing.TB) *env { return serveIn(t, t.TempDir()) }

// serveIn is serve on the state that an earlier one may have left in dir.
func serveIn(t testing.TB, dir string, change ...func(*api.Config)) *env {
	t.Helper()
	s, err := store.Open(store.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{store: s, runtime: &pods{}, dir: dir}
	socket := filepath.Join(dir, "podd.sock")
	config := api.Config{Store: s, Runtime: e.runtime, NodeName: "host", NodeIPs: []string{"192.0.2.1"},
		SocketPath: socket, SocketGroup: "no-such-group", Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&config)
	}
	e.server, err = api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.server.Run(ctx) }()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(e.stop)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	e.http = &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(e.http.CloseIdleConnections)
	e.config = &rest.Config{Host: "http://podd", Dial: dial, QPS: -1}
	protobuf := rest.CopyConfig(e.config)
	protobuf.ContentType, protobuf.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	e.client = kubernetes.NewForConfigOrDie(protobuf)
	for deadline := time.Now().Add(2 * time.Minute); ; {
		res, err := e.http.Get("http://podd/livez")
		if err == nil {
			_ = res.Body.Close()
			break
		}
		select {
		case err := <-done:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return e
}

func pod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "busybox"}}}}
}

func (e *env) create(t testing.TB, p *v1.Pod) *v1.Pod {
	t.Helper()
	created, err := e.client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func TestPodLife(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	client := e.client.CoreV1().Pods("default")
	w, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: ""})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	created := e.create(t, pod("a"))
	if created.Spec.NodeName != "host" || created.Status.Phase != v1.PodPending || created.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("created: %+v", created)
	}
	if stored, ok := e.store.PodByUID(created.UID); !ok || stored.ResourceVersion != created.ResourceVersion {
		t.Errorf("the store has %v", stored)
	}
	err = e.store.SetStatus(ctx, created.UID, func(s v1.PodStatus) v1.PodStatus { s.Phase = v1.PodRunning; return s })
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	dying, err := client.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || dying.DeletionTimestamp == nil || *dying.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("a deleted pod: %v, %v", dying, err)
	}
	if err := e.store.FinishPod(ctx, created.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a finished pod: %v", err)
	}
	want := []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted}
	for _, kind := range want {
		event := <-w.ResultChan()
		if event.Type != kind {
			t.Fatalf("event %s, want %s", event.Type, kind)
		}
		if p, ok := event.Object.(*v1.Pod); kind == watch.Deleted && (!ok || p.DeletionTimestamp == nil) {
			t.Errorf("the DELETED event has no deletionTimestamp: %v", event.Object)
		}
	}
}

func TestForceDeleteAndFinalizers(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	client := e.client.CoreV1().Pods("default")
	zero := int64(0)
	e.create(t, pod("forced"))
	if err := client.Delete(ctx, "forced", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.store.Pod("default", "forced"); ok {
		t.Error("a forced delete left the pod")
	}
	held := pod("held")
	held.Finalizers = []string{"example.com/hold"}
	uid := e.create(t, held).UID
	if err := client.Delete(ctx, "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.store.FinishPod(ctx, uid); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Patch(ctx, "held", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`),
		metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.store.Pod("default", "held"); ok {
		t.Error("the pod outlived its last finalizer")
	}
}

// TestDeleteUnbound: a pod that no host has goes at once, whatever its grace period, and its finalizers alone hold it. One that
// podd died over, between the two writes of its deletion, goes at podd's next start.
func TestDeleteUnbound(t *testing.T) {
	e := serve(t)
	client := e.client.CoreV1().Pods("default")
	unbound := func(name string, finalizers ...string) *v1.Pod {
		p := pod(name)
		p.Spec.NodeSelector, p.Finalizers = map[string]string{"zone": "nowhere"}, finalizers
		return p
	}
	e.create(t, unbound("p"))
	e.scheduled(t, "p", "", "Unschedulable", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
	minute := int64(60)
	if err := client.Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &minute}); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.store.Pod("default", "p"); ok {
		t.Error("it is there after its deletion")
	}
	e.create(t, unbound("held", "example.com/hold"))
	if err := client.Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cut := unbound("cut")
	now := metav1.Now()
	cut.Namespace, cut.UID, cut.DeletionTimestamp, cut.DeletionGracePeriodSeconds = "default", "cut", &now, new(int64)
	e.stop()
	e = serveIn(t, e.dir)
	if _, err := e.store.AdoptPod(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	e.until(t, "cut is gone", func() bool { _, there := e.store.Pod("default", "cut"); return !there })
	held, ok := e.store.Pod("default", "held")
	if !ok || held.DeletionTimestamp == nil || *held.DeletionGracePeriodSeconds != 0 {
		t.Fatalf("held is %v", held)
	}
	if _, err := e.client.CoreV1().Pods("default").Patch(t.Context(), "held", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`),
		metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(t, "held is gone", func() bool { _, there := e.store.Pod("default", "held"); return !there })
}

func TestConflictsAndPreconditions(t *testing.T) {
	e := serve(t)
	client := e.client.CoreV1().Pods("default")
	first := e.create(t, pod("a"))
	if _, err := client.Create(t.Context(), pod("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second create: %v", err)
	}
	changed := first.DeepCopy()
	changed.Labels["x"] = "y"
	if _, err := client.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Update(t.Context(), changed, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a stale update: %v", err)
	}
	err := client.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")})
	if !apierrors.IsConflict(err) {
		t.Errorf("a delete of another uid: %v", err)
	}
}

func TestPatchTypesApplyAndDryRun(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	client := e.client.CoreV1().Pods("default")
	e.create(t, pod("a"))
	for kind, patch := range map[types.PatchType]string{
		types.StrategicMergePatchType: `{"metadata":{"labels":{"p":"strategic"}}}`,
		types.MergePatchType:          `{"metadata":{"labels":{"p":"merge"}}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/p","value":"json"}]`,
	} {
		p, err := client.Patch(ctx, "a", kind, []byte(patch), metav1.PatchOptions{})
		if err != nil || p.Labels["p"] == "" {
			t.Errorf("%s: %v, %v", kind, p, err)
		}
	}
	config := applyv1.Pod("b", "default").WithLabels(map[string]string{"x": "1"}).
		WithSpec(applyv1.PodSpec().WithContainers(applyv1.Container().WithName("app").WithImage("busybox")))
	if _, err := client.Apply(ctx, config, metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	other := applyv1.Pod("b", "default").WithLabels(map[string]string{"x": "2"})
	if _, err := client.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("two managers of a field: %v", err)
	}
	if _, err := client.Create(ctx, pod("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if _, err := client.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run was stored: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	e := serve(t)
	client := e.client.CoreV1().Pods("default")
	bad := pod("bad")
	profile := &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}
	bad.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: profile}
	bad.Spec.Containers[0].SecurityContext = &v1.SecurityContext{AppArmorProfile: profile}
	_, err := client.Create(t.Context(), bad, metav1.CreateOptions{})
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Code != http.StatusUnprocessableEntity || len(status.ErrStatus.Details.Causes) != 2 {
		t.Fatalf("refused fields: %#v", err)
	}
	if !strings.Contains(err.Error(), "spec.securityContext.appArmorProfile: Forbidden: not supported by podd yet") {
		t.Errorf("the message: %v", err)
	}
	e.create(t, pod("good"))
	patch := []byte(`{"spec":{"securityContext":{"appArmorProfile":{"type":"Unconfined"}}}}`)
	if _, err := client.Patch(t.Context(), "good", types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a refused field by patch: %v", err)
	}
	patch = []byte(`{"spec":{"activeDeadlineSeconds":10}}`)
	if p, err := client.Patch(t.Context(), "good", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil || *p.Spec.ActiveDeadlineSeconds != 10 {
		t.Errorf("a deadline by patch: %v", err)
	}
	if _, err := e.client.CoreV1().Pods("none").Create(t.Context(), pod("a"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a missing namespace: %v", err)
	}
	elsewhere := pod("elsewhere")
	elsewhere.Spec.NodeName = "other"
	if p := e.create(t, elsewhere); p.Spec.NodeName != "other" {
		t.Errorf("another node's pod: %v", p.Spec.NodeName)
	}
	all := pod("full")
	all.Spec.Containers[0].Resources.Limits = v1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("64Mi")}
	if p := e.create(t, all); p.Status.QOSClass != v1.PodQOSGuaranteed {
		t.Errorf("QoS class %s", p.Status.QOSClass)
	}
}

func (e *env) post(t *testing.T, path, contentType string, body io.Reader) (int, string) {
	t.Helper()
	res, err := e.http.Post("http://podd"+path, contentType, body)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res.StatusCode, string(text)
}

func TestEvilBodies(t *testing.T) {
	e := serve(t)
	const path = "/api/v1/namespaces/default/pods?fieldValidation=Strict"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	for name, test := range map[string]struct {
		kind, body string
		want       int
	}{
		"unknown field": {"application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"contaners":[]}}`, 400},
		"duplicate":     {"application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","name":"b"}}`, 400},
		"truncated":     {"application/json", `{"apiVersion":"v1","kind":"Pod"`, 400},
		"wrong type":    {"application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":"x"}}`, 400},
		"path as name":  {"application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"../../etc"}}`, 422},
		"deep JSON":     {"application/json", strings.Repeat(`{"a":`, 500000), 400},
		"deep YAML":     {"application/yaml", strings.Repeat("[", 100000), 400},
		"alias bomb":    {"application/yaml", bomb, 400},
		"broken proto":  {"application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff\xff", 400},
		"media type":    {"application/x-nothing", "x", 415},
	} {
		begun := time.Now()
		code, text := e.post(t, path, test.kind, strings.NewReader(test.body))
		if code != test.want {
			t.Errorf("%s: %d, want %d: %.300s", name, code, test.want, text)
		}
		if took := time.Since(begun); took > time.Minute { // what a bomb would take has no end; a busy host has none of that
			t.Errorf("%s took %s", name, took)
		}
	}
	begun := time.Now()
	code, text := e.post(t, path, "application/json", io.LimitReader(zeros{}, 100<<20))
	if code != http.StatusRequestEntityTooLarge && !strings.Contains(text, "broken pipe") && !strings.Contains(text, "reset") {
		t.Errorf("100 MB: %d %.200s", code, text)
	}
	if took := time.Since(begun); took > time.Minute { // what a bomb would take has no end; a busy host has none of that
		t.Errorf("100 MB took %s", took)
	}
	e.create(t, pod("after")) // podd is still there
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSelectorsPagesAndTables(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	client := e.client.CoreV1().Pods("default")
	for i := range 5 {
		e.create(t, pod(fmt.Sprintf("p%d", i)))
	}
	for selector, want := range map[metav1.ListOptions]int{
		{LabelSelector: "app=p1"}:               1,
		{FieldSelector: "metadata.name=p2"}:     1,
		{FieldSelector: "spec.nodeName=host"}:   5,
		{FieldSelector: "status.phase=Running"}: 0,
		{ResourceVersion: "0"}:                  5,
	} {
		list, err := client.List(ctx, selector)
		if err != nil || len(list.Items) != want {
			t.Errorf("%+v: %d items, %v", selector, len(list.Items), err)
		}
	}
	var names []string
	page := metav1.ListOptions{Limit: 2}
	for {
		list, err := client.List(ctx, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		if page.Continue = list.Continue; page.Continue == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "p0 p1 p2 p3 p4" {
		t.Errorf("pages: %s", got)
	}
	req, err := http.NewRequest(http.MethodGet, "http://podd/api/v1/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	res, err := e.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(res.Body)
	if !bytes.Contains(text, []byte(`"kind":"Table"`)) || !bytes.Contains(text, []byte(`"Restarts"`)) {
		t.Errorf("table: %.300s", text)
	}
}

func TestWatchListAndInformer(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	yes := true
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if event := <-w.ResultChan(); event.Type != watch.Added {
		t.Errorf("first %v", event)
	}
	event := <-w.ResultChan()
	if p, ok := event.Object.(*v1.Pod); event.Type != watch.Bookmark || !ok || p.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("second %v", event)
	}
	if _, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "1"}); err != nil && !apierrors.IsResourceExpired(err) {
		t.Errorf("an old version: %v", err)
	}
	factory := informers.NewSharedInformerFactory(e.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	seen := make(chan string, 10)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen <- "add " + obj.(*v1.Pod).Name },
		UpdateFunc: func(_, obj any) { seen <- "update " + string(obj.(*v1.Pod).Status.Phase) },
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	defer factory.Shutdown()
	defer close(stop)
	factory.WaitForCacheSync(stop)
	b := e.create(t, pod("b"))
	if err := e.store.SetStatus(t.Context(), b.UID, func(s v1.PodStatus) v1.PodStatus { s.Phase = v1.PodRunning; return s }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"add a", "add b", "update Running"} {
		if got := <-seen; got != want {
			t.Errorf("informer saw %q, want %q", got, want)
		}
	}
}

// A client that takes nothing but protobuf has its watch in it, with objects of their types.
func TestWatchProtobuf(t *testing.T) {
	e := serve(t)
	config := rest.CopyConfig(e.config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	var kind string
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err == nil {
				kind = res.Header.Get("Content-Type")
			}
			return res, err
		})
	})
	w, err := kubernetes.NewForConfigOrDie(config).CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if kind != "application/vnd.kubernetes.protobuf;stream=watch" {
		t.Errorf("the watch is in %s", kind)
	}
	created := e.create(t, pod("a"))
	if err := e.client.CoreV1().Pods("default").Delete(t.Context(), "a", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	for event := range w.ResultChan() {
		p, ok := event.Object.(*v1.Pod)
		if !ok || p.UID != created.UID || p.Spec.Containers[0].Image != "busybox" {
			t.Fatalf("%s %T %v", event.Type, event.Object, event.Object)
		}
		if event.Type == watch.Deleted {
			return
		}
	}
	t.Error("the watch ended before the pod was told to be deleted")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestLogs(t *testing.T) {
	e := serve(t)
	two := pod("a")
	two.Spec.Containers = append(two.Spec.Containers, v1.Container{Name: "b", Image: "busybox"})
	e.create(t, two)
	client := e.client.CoreV1().Pods("default")
	text, err := client.GetLogs("a", &v1.PodLogOptions{Container: "b"}).DoRaw(t.Context())
	if err != nil || string(text) != "log of default/a b\n" {
		t.Errorf("%q, %v", text, err)
	}
	for container, want := range map[string]string{
		"":  "a container name must be specified for pod a, choose one of: [app b]",
		"c": "container c is not valid for pod a",
	} {
		_, err := client.GetLogs("a", &v1.PodLogOptions{Container: container}).Stream(t.Context())
		if err == nil || err.Error() != want {
			t.Errorf("container %q: %v", container, err)
		}
	}
	_, err = client.GetLogs("a", &v1.PodLogOptions{Container: "b", Previous: true}).DoRaw(t.Context())
	if !apierrors.IsBadRequest(err) {
		t.Errorf("previous: %v", err)
	}
	follow, err := client.GetLogs("a", &v1.PodLogOptions{Container: "b", Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	if n, err := follow.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "log of") {
		t.Errorf("follow: %q, %v", line[:n], err)
	}
	_ = follow.Close()
	unbound := pod("unbound")
	unbound.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/wait"}}
	e.create(t, unbound)
	var code int
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a follower would wait for ever
	defer cancel()
	for _, follow := range []bool{false, true} {
		result := e.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("unbound").SubResource("log").
			Param("follow", fmt.Sprint(follow)).Do(ctx).StatusCode(&code)
		if text, err := result.Raw(); err != nil || len(text) > 0 || code != http.StatusNoContent {
			t.Errorf("of a pod without a node, follow %v: %d %q, %v", follow, code, text, err)
		}
	}
	if _, err := client.GetLogs("unbound", &v1.PodLogOptions{Container: "c"}).DoRaw(t.Context()); !apierrors.IsBadRequest(err) {
		t.Errorf("of no container of a pod without a node: %v", err)
	}
}

func TestExec(t *testing.T) {
	e := serve(t)
	e.create(t, pod("a"))
	tcp := httptest.NewServer(e.server.Handler()) // client-go's executors dial no unix socket
	defer tcp.Close()
	config := &rest.Config{Host: tcp.URL}
	session := func(cmd []string, in io.Reader, tty bool, method string) (string, string, error) {
		opts := &v1.PodExecOptions{Command: cmd, Stdin: in != nil, Stdout: true, Stderr: !tty, TTY: tty}
		url := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("a").SubResource("exec").
			VersionedParams(opts, scheme.ParameterCodec).URL()
		var executor remotecommand.Executor
		var err error
		if method == http.MethodGet {
			executor, err = remotecommand.NewWebSocketExecutor(config, method, url.String())
		} else {
			executor, err = remotecommand.NewSPDYExecutor(config, method, url)
		}
		if err != nil {
			return "", "", err
		}
		var out, errOut bytes.Buffer
		streams := remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: tty}
		if tty {
			streams.TerminalSizeQueue = &oneSize{}
		} else {
			streams.Stderr = &errOut
		}
		err = executor.StreamWithContext(t.Context(), streams)
		return out.String(), errOut.String(), err
	}
	for name, method := range map[string]string{"websocket": http.MethodGet, "SPDY": http.MethodPost} {
		out, errOut, err := session([]string{"cat"}, strings.NewReader("hello"), false, method)
		if out != "hello" || errOut != "err" || err != nil {
			t.Errorf("%s: %q %q %v", name, out, errOut, err)
		}
		_, _, err = session([]string{"exit"}, nil, false, method)
		var code exec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 7 {
			t.Errorf("%s exit: %v", name, err)
		}
		if out, _, err := session([]string{"cat"}, strings.NewReader("tty"), true, method); out != "tty" || err != nil {
			t.Errorf("%s tty: %q %v", name, out, err)
		}
	}
	e.runtime.mu.Lock()
	defer e.runtime.mu.Unlock()
	if len(e.runtime.sizes) != 2 || e.runtime.sizes[0].Width != 80 {
		t.Errorf("sizes %v", e.runtime.sizes)
	}
}

type oneSize struct{ sent bool }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	if o.sent {
		return nil
	}
	o.sent = true
	return &remotecommand.TerminalSize{Width: 80, Height: 24}
}

func TestEvents(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	w, err := e.client.CoreV1().Events("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for range 2 {
		e.server.ContainerEvent(p, "app", v1.EventTypeNormal, "Started", "Started container %s", "app")
	}
	added, changed := <-w.ResultChan(), <-w.ResultChan()
	first, ok := added.Object.(*v1.Event)
	if !ok || added.Type != watch.Added || first.Message != "Started container app" || first.InvolvedObject.FieldPath != "spec.containers{app}" {
		t.Errorf("first: %v", added)
	}
	if second, ok := changed.Object.(*v1.Event); !ok || changed.Type != watch.Modified || second.Count != 2 {
		t.Errorf("second: %v", changed)
	}
	p.Spec.InitContainers = []v1.Container{{Name: "first"}}
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "look"}}}
	for _, of := range []struct{ container, want string }{
		{"", ""}, {"first", "spec.initContainers{first}"}, {"look", "spec.ephemeralContainers{look}"},
	} {
		e.server.ContainerEvent(p, of.container, v1.EventTypeNormal, "Tested", "of %q", of.container)
		got := <-w.ResultChan()
		if event, ok := got.Object.(*v1.Event); !ok || event.InvolvedObject.FieldPath != of.want {
			t.Errorf("container %q: %v", of.container, got)
		}
	}
}

func TestNodeAndNamespaces(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	node, err := e.client.CoreV1().Nodes().Get(ctx, "host", metav1.GetOptions{})
	if err != nil || !hasCondition(node, v1.NodeReady, v1.ConditionTrue) || node.Status.Addresses[0].Address != "192.0.2.1" ||
		node.Status.Capacity.Memory().IsZero() {
		t.Errorf("node: %+v, %v", node.Status, err)
	}
	namespaces := e.client.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, "default", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete default: %v", err)
	}
	if _, err := namespaces.Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := e.client.CoreV1().Pods("mine").Create(ctx, pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := namespaces.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=mine"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	pods, err := e.client.CoreV1().Pods("mine").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Stop()
	if err := namespaces.Delete(ctx, "mine", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.CoreV1().Pods("mine").Create(ctx, pod("b"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create in a namespace that goes: %v", err)
	}
	for event := range pods.ResultChan() { // the runtime lets go of the pod once it is asked to
		if event.Object.(*v1.Pod).DeletionTimestamp != nil {
			break
		}
	}
	if err := e.store.FinishPod(ctx, p.UID); err != nil {
		t.Fatal(err)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return
		}
	}
	t.Error("the namespace stays")
}

func TestStatic(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	first, err := e.server.PutStatic(ctx, pod("s"))
	if err != nil || first.Annotations[api.SourceAnnotation] != api.SourceFile || first.Spec.NodeName != "host" {
		t.Fatalf("%v, %v", first, err)
	}
	again, err := e.server.PutStatic(ctx, pod("s"))
	if err != nil || again.UID != first.UID {
		t.Errorf("the same file again: %v, %v", again, err)
	}
	changed := pod("s")
	changed.Spec.Containers[0].Image = "other"
	if _, err := e.server.PutStatic(ctx, changed); !errors.Is(err, api.ErrTerminating) {
		t.Errorf("a changed file: %v", err)
	}
	if err := e.store.FinishPod(ctx, first.UID); err != nil {
		t.Fatal(err)
	}
	second, err := e.server.PutStatic(ctx, changed)
	if err != nil || second.UID == first.UID {
		t.Errorf("after the old one is gone: %v, %v", second, err)
	}
	if err := e.server.RemoveStatic(ctx, "default", "s"); err != nil {
		t.Error(err)
	}
	if p, ok := e.store.Pod("default", "s"); !ok || p.DeletionTimestamp == nil {
		t.Errorf("a removed file: %v", p)
	}
	e.create(t, pod("taken"))
	if _, err := e.server.PutStatic(ctx, pod("taken")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	bad := pod("bad")
	bad.Spec.Containers[0].Name = "Not A Name"
	if _, err := e.server.PutStatic(ctx, bad); !apierrors.IsInvalid(err) {
		t.Errorf("an invalid pod: %v", err)
	}
}

func TestAdoptKeepsTheUID(t *testing.T) {
	e := serve(t)
	lost := pod("lost")
	lost.UID, lost.Spec.NodeName = "uid-of-before", "host"
	for range 2 { // a second time is no error
		if adopted, err := e.server.CreatePod(t.Context(), lost); err != nil || adopted.UID != lost.UID {
			t.Fatalf("%v, %v", adopted, err)
		}
	}
	got, err := e.client.CoreV1().Pods("default").Get(t.Context(), "lost", metav1.GetOptions{})
	if err != nil || got.UID != lost.UID || got.Spec.RestartPolicy != v1.RestartPolicyAlways {
		t.Errorf("%v, %v", got, err)
	}
	other := pod("lost")
	other.UID = "another"
	if _, err := e.server.CreatePod(t.Context(), other); !apierrors.IsAlreadyExists(err) {
		t.Errorf("another pod of that name: %v", err)
	}
	patch := []byte(`{"metadata":{"labels":{"x":"y"}}}`)
	if _, err := e.client.CoreV1().Pods("default").Patch(t.Context(), "lost", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDiscoveryOpenAPIAndHealth(t *testing.T) {
	e := serve(t)
	discovery := e.client.Discovery()
	if v, err := discovery.ServerVersion(); err != nil || v.Minor != "36" {
		t.Errorf("version: %v, %v", v, err)
	}
	resources, err := discovery.ServerPreferredResources()
	if err != nil || len(resources) < 8 || len(resources[0].APIResources) < 11 {
		t.Errorf("resources: %v, %v", resources, err)
	}
	if doc, err := discovery.OpenAPISchema(); err != nil || doc.GetDefinitions() == nil {
		t.Errorf("OpenAPI v2: %v", err)
	}
	paths, err := discovery.OpenAPIV3().Paths()
	if err != nil || paths["api/v1"] == nil {
		t.Fatalf("OpenAPI v3: %v, %v", paths, err)
	}
	if doc, err := paths["api/v1"].Schema("application/json"); err != nil || !bytes.Contains(doc, []byte("io.k8s.api.core.v1.PodSpec")) {
		t.Errorf("OpenAPI v3 api/v1: %d bytes, %v", len(doc), err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/api": 200, "/apis": 200, "/nothing": 404,
		"/apis/apps/v1/deployments": 404, "/api/v1/namespaces/default/pods/none": 404} {
		res, err := e.http.Get("http://podd" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
}

func TestImages(t *testing.T) {
	e := serve(t)
	if code, text := e.post(t, "/podd/v1/images/pull?ref=busybox", "", nil); code != 200 || strings.Count(text, "\n") != 2 ||
		!strings.Contains(text, `"done":true,"image":{"name":"busybox"`) {
		t.Errorf("pull: %d %s", code, text)
	}
	if code, text := e.post(t, "/podd/v1/images/pull?ref=none", "", nil); code != 200 || !strings.Contains(text, `"error":"pull: not found"`) {
		t.Errorf("failed pull: %d %s", code, text)
	}
	if code, _ := e.post(t, "/podd/v1/images/pull", "", nil); code != 400 {
		t.Errorf("pull of nothing: %d", code)
	}
	if code, text := e.post(t, "/podd/v1/images/load", "", io.LimitReader(zeros{}, 8<<20)); code != 200 || !strings.Contains(text, "8388608") {
		t.Errorf("load: %d %s", code, text)
	}
	res, err := e.http.Get("http://podd/podd/v1/images")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, _ := io.ReadAll(res.Body); !bytes.Contains(text, []byte("busybox")) {
		t.Errorf("images: %s", text)
	}
}

// BenchmarkCreateToWatch is a durable POST and the time until a watch has seen it.
func BenchmarkCreateToWatch(b *testing.B) {
	e := serve(b)
	w, err := e.client.CoreV1().Pods("default").Watch(b.Context(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	for n := 0; b.Loop(); n++ {
		e.create(b, pod(fmt.Sprintf("p%d", n)))
		<-w.ResultChan()
	}
}

// TestHistory: the history of a pod is asked for by name or uid; of one that is not known it is empty.
func TestHistory(t *testing.T) {
	e := serve(t)
	for query, want := range map[string]string{
		"":                         "which pod?",
		"?pod=web":                 `{"pods":[{"namespace":"default","name":"web","uid":"","since":"0001-01-01T00:00:00Z","entries":[{"time":"0001-01-01T00:00:00Z","what":"ready"}]}]}`,
		"?namespace=n&pod=a&uid=u": `{"pods":[{"namespace":"n","name":"a","uid":"u",`,
		"?uid=u":                   `{"pods":[{"namespace":"","name":"","uid":"u",`,
		"?pod=none":                `{"pods":[]}`,
	} {
		res, err := e.http.Get("http://podd" + history.Path + query)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if good := query != ""; err != nil || (res.StatusCode == http.StatusOK) != good || !strings.Contains(string(text), want) {
			t.Errorf("%q: %s %s, %v; want %s", query, res.Status, text, err, want)
		}
	}
}
