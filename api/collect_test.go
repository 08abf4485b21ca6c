package api_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api"
)

// until waits for a change of the store after which ok is true.
func (e *env) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	changes, err := e.store.Watch("/", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	timeout := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-changes.C:
			if _, _, err := changes.Next(); err != nil {
				t.Fatal(err)
			}
		case <-timeout:
			t.Fatalf("not in time: %s; there are %v", what, e.keys("/configmaps/"))
		}
	}
}

func (e *env) keys(prefix string) (keys []string) {
	entries, _, _ := e.store.List(prefix, "", 0)
	for _, entry := range entries {
		if name := strings.TrimPrefix(entry.Key, prefix); !strings.HasSuffix(name, "/kube-root-ca.crt") {
			keys = append(keys, name)
		}
	}
	return keys
}

func owned(block bool, owners ...*v1.ConfigMap) (refs []metav1.OwnerReference) {
	for _, o := range owners {
		refs = append(refs, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: &block})
	}
	return refs
}

// configMap makes an object to own and be owned.
func (e *env) configMap(t testing.TB, namespace, name string, refs []metav1.OwnerReference, finalizers ...string) *v1.ConfigMap {
	t.Helper()
	made, err := e.client.CoreV1().ConfigMaps(namespace).Create(t.Context(),
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs, Finalizers: finalizers}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (e *env) deleteConfigMap(t testing.TB, namespace, name string, policy metav1.DeletionPropagation) {
	t.Helper()
	err := e.client.CoreV1().ConfigMaps(namespace).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if err != nil {
		t.Fatal(err)
	}
}

func (e *env) unhold(t testing.TB, namespace, name string) {
	t.Helper()
	_, err := e.client.CoreV1().ConfigMaps(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// fence waits until the collector has looked at everything that was written before.
func (e *env) fence(t testing.TB) {
	t.Helper()
	for range 2 { // what the first look made due is behind the first fence
		absent := []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "absent", UID: "absent"}}
		e.configMap(t, "default", "zz-fence", absent)
		e.until(t, "the fence goes", func() bool { return !slices.Contains(e.keys("/configmaps/default/"), "zz-fence") })
	}
}

// TestCollect: each story makes objects, deletes one, and says what is left when all is quiet.
func TestCollect(t *testing.T) {
	for name, story := range map[string]struct {
		run  func(t *testing.T, e *env)
		left string
	}{
		"background: what is owned goes after its owner, down the chain": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			b := e.configMap(t, "default", "b", owned(false, a))
			e.configMap(t, "default", "c", owned(true, b))
			e.configMap(t, "default", "other", nil)
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationBackground)
		}, "other"},
		"a second owner keeps it": {func(t *testing.T, e *env) {
			a, b := e.configMap(t, "default", "a", nil), e.configMap(t, "default", "b", nil)
			e.configMap(t, "default", "c", owned(true, a, b))
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationBackground)
			e.until(t, "c forgets a", func() bool {
				c, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "c", metav1.GetOptions{})
				return err == nil && len(c.OwnerReferences) == 1 && c.OwnerReferences[0].UID == b.UID
			})
		}, "b c"},
		"foreground: the owner goes last": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			e.configMap(t, "default", "b", owned(true, a), "example.com/hold")
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
			e.until(t, "b is asked to go", func() bool {
				b, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "b", metav1.GetOptions{})
				return err == nil && b.DeletionTimestamp != nil
			})
			e.fence(t)
			got, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil || !slices.Contains(got.Finalizers, metav1.FinalizerDeleteDependents) {
				t.Errorf("a went before b: %v", err)
			}
			e.unhold(t, "default", "b")
			e.until(t, "both go", func() bool { return len(e.keys("/configmaps/default/")) == 0 })
		}, ""},
		"foreground: it does not wait for one that does not block": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			e.configMap(t, "default", "b", owned(false, a), "example.com/hold")
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
			e.until(t, "a goes", func() bool { return slices.Equal(e.keys("/configmaps/default/"), []string{"b"}) })
			e.unhold(t, "default", "b")
		}, ""},
		"foreground: the chain goes from its end": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			b := e.configMap(t, "default", "b", owned(true, a))
			e.configMap(t, "default", "c", owned(true, b), "example.com/hold")
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
			e.until(t, "b waits for c", func() bool {
				b, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "b", metav1.GetOptions{})
				return err == nil && slices.Contains(b.Finalizers, metav1.FinalizerDeleteDependents)
			})
			e.unhold(t, "default", "c")
			e.until(t, "all go", func() bool { return len(e.keys("/configmaps/default/")) == 0 })
		}, ""},
		"foreground: two that own each other go": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			b := e.configMap(t, "default", "b", owned(true, a))
			a.OwnerReferences = owned(true, b)
			if _, err := e.client.CoreV1().ConfigMaps("default").Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
			e.until(t, "both go", func() bool { return len(e.keys("/configmaps/default/")) == 0 })
		}, ""},
		"orphan: what is owned stays and forgets": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			e.configMap(t, "default", "b", owned(true, a))
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationOrphan)
			e.until(t, "a goes", func() bool { return slices.Equal(e.keys("/configmaps/default/"), []string{"b"}) })
			b, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "b", metav1.GetOptions{})
			if err != nil || len(b.OwnerReferences) != 0 {
				t.Errorf("the orphan: %v, %v", b, err)
			}
		}, "b"},
		"an owner that was never there": {func(t *testing.T, e *env) {
			e.configMap(t, "default", "a", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: "none", UID: "x"}})
		}, ""},
		"an owner of that name with another uid": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			a.UID = "another"
			e.configMap(t, "default", "b", owned(true, a))
		}, "a"},
		"an owner of a kind that is not served keeps it": {func(t *testing.T, e *env) {
			e.configMap(t, "default", "a", []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "x"}})
		}, "a"},
		"a cluster-scoped owner": {func(t *testing.T, e *env) {
			class, err := e.client.SchedulingV1().PriorityClasses().Get(t.Context(), "system-node-critical", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ref := metav1.OwnerReference{APIVersion: "scheduling.k8s.io/v1", Kind: "PriorityClass", Name: class.Name, UID: class.UID}
			e.configMap(t, "default", "a", []metav1.OwnerReference{ref})
			ref.UID = "another"
			e.configMap(t, "default", "b", []metav1.OwnerReference{ref})
		}, "a"},
		"an owner in another namespace is none": {func(t *testing.T, e *env) {
			a := e.configMap(t, "kube-public", "a", nil)
			e.configMap(t, "default", "b", owned(true, a))
			e.until(t, "an event", func() bool {
				list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=b"})
				return err == nil && len(list.Items) == 1 && list.Items[0].Reason == "OwnerRefInvalidNamespace" &&
					strings.HasSuffix(list.Items[0].Message, `does not exist in namespace "default"`)
			})
		}, ""},
		"an object without a namespace is owned by none that has one": {func(t *testing.T, e *env) {
			a := e.configMap(t, "default", "a", nil)
			class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "mine", OwnerReferences: owned(true, a)}, Value: 1}
			if _, err := e.client.SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			e.until(t, "an event", func() bool {
				list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=mine"})
				return err == nil && len(list.Items) == 1 && list.Items[0].Reason == "OwnerRefInvalidNamespace"
			})
			e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationBackground)
			e.fence(t)
			if _, err := e.client.SchedulingV1().PriorityClasses().Get(t.Context(), "mine", metav1.GetOptions{}); err != nil {
				t.Errorf("it went: %v", err)
			}
		}, ""},
		"deletecollection with a selector": {func(t *testing.T, e *env) {
			for i := range 4 {
				labels := map[string]string{"odd": fmt.Sprint(i%2 == 1)}
				_, err := e.client.CoreV1().ConfigMaps("default").Create(t.Context(),
					&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i), Labels: labels}}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
			}
			err := e.client.CoreV1().ConfigMaps("default").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"})
			if err != nil {
				t.Fatal(err)
			}
		}, "c0 c2"},
	} {
		t.Run(name, func(t *testing.T) {
			e := serve(t)
			story.run(t, e)
			e.fence(t)
			if got := strings.Join(e.keys("/configmaps/default/"), " "); got != story.left {
				t.Errorf("left: %q, want %q", got, story.left)
			}
		})
	}
}

// TestCollectPods: a pod that is owned is deleted with its grace period, and a foreground deletion waits until the host
// has let go of it.
func TestCollectPods(t *testing.T) {
	e := serve(t)
	a := e.configMap(t, "default", "a", nil)
	p := pod("p")
	p.OwnerReferences = owned(true, a)
	p = e.create(t, p)
	e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
	e.until(t, "the pod is asked to go", func() bool {
		p, ok := e.store.Pod("default", "p")
		return ok && p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds == 30 && p.Generation == 2
	})
	e.fence(t)
	if len(e.keys("/configmaps/default/")) != 1 {
		t.Error("the owner did not wait")
	}
	if err := e.store.FinishPod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the owner goes", func() bool { return len(e.keys("/configmaps/default/")) == 0 })
}

// crash goes on, in another directory, with what the disk had at this moment.
func (e *env) crash(t testing.TB, change ...func(*api.Config)) *env {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".lock") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return serveIn(t, dir, change...)
}

// TestCollectAfterACrash: what was half done at any moment is done after the next start, and nothing that must stay goes.
func TestCollectAfterACrash(t *testing.T) {
	for name, policy := range map[string]metav1.DeletionPropagation{"background": metav1.DeletePropagationBackground,
		"foreground": metav1.DeletePropagationForeground, "orphan": metav1.DeletePropagationOrphan} {
		for _, after := range []int{0, 1, 7, 30} {
			t.Run(fmt.Sprintf("%s/%d", name, after), func(t *testing.T) {
				t.Parallel()
				e := serve(t)
				a := e.configMap(t, "default", "a", nil)
				for i := range 40 {
					e.configMap(t, "default", fmt.Sprintf("d%02d", i), owned(true, a))
				}
				e.fence(t)
				changes, err := e.store.Watch("/configmaps/default/", -1)
				if err != nil {
					t.Fatal(err)
				}
				defer changes.Stop()
				e.deleteConfigMap(t, "default", "a", policy)
				for seen := 0; seen < after; {
					<-changes.C
					next, _, err := changes.Next()
					if err != nil {
						t.Fatal(err)
					}
					seen += len(next)
				}
				e = e.crash(t)
				e.until(t, "the owner is gone", func() bool {
					_, ok := e.store.Get("/configmaps/default/a")
					return !ok
				})
				e.fence(t)
				want := 0
				if policy == metav1.DeletePropagationOrphan {
					want = 40
				}
				e.until(t, "the rest is as it should be", func() bool { return len(e.keys("/configmaps/default/")) == want })
			})
		}
	}
}

// TestCollectAfterRestart: a deletion that waits goes on waiting, and ends when what it waits for is gone.
func TestCollectAfterRestart(t *testing.T) {
	e := serve(t)
	a := e.configMap(t, "default", "a", nil)
	e.configMap(t, "default", "b", owned(true, a), "example.com/hold")
	e.deleteConfigMap(t, "default", "a", metav1.DeletePropagationForeground)
	e.stop()
	e = serveIn(t, e.dir)
	e.until(t, "b is asked to go", func() bool {
		b, err := e.client.CoreV1().ConfigMaps("default").Get(t.Context(), "b", metav1.GetOptions{})
		return err == nil && b.DeletionTimestamp != nil
	})
	e.fence(t)
	if _, ok := e.store.Get("/configmaps/default/a"); !ok {
		t.Error("a did not wait")
	}
	e.unhold(t, "default", "b")
	e.until(t, "both go", func() bool { return len(e.keys("/configmaps/default/")) == 0 })
}

func TestDeletionOptions(t *testing.T) {
	e := serve(t)
	client := e.client.CoreV1().Pods("default")
	deletion := func(name string) (grace int64, generation int64, gone bool) {
		p, ok := e.store.Pod("default", name)
		if !ok {
			return 0, 0, true
		}
		if p.DeletionGracePeriodSeconds == nil {
			return -1, p.Generation, false
		}
		return *p.DeletionGracePeriodSeconds, p.Generation, false
	}
	status := func(phase v1.PodPhase) func(t *testing.T, p *v1.Pod) {
		return func(t *testing.T, p *v1.Pod) {
			if err := e.store.SetStatus(t.Context(), p.UID, func(s v1.PodStatus) v1.PodStatus { s.Phase = phase; return s }); err != nil {
				t.Fatal(err)
			}
		}
	}
	seconds := func(n int64) *int64 { return &n }
	running := status(v1.PodRunning)
	for name, test := range map[string]struct {
		spec    func(*v1.Pod)
		before  func(*testing.T, *v1.Pod)
		opts    metav1.DeleteOptions
		refused func(error) bool
		grace   int64
		gone    bool
	}{
		"spec":      {before: running, grace: 30},
		"spec-7":    {spec: func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = seconds(7) }, before: running, grace: 7},
		"options":   {before: running, opts: metav1.DeleteOptions{GracePeriodSeconds: seconds(3)}, grace: 3},
		"negative":  {spec: func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = seconds(-1) }, before: running, grace: 1},
		"zero":      {before: running, opts: metav1.DeleteOptions{GracePeriodSeconds: seconds(0)}, gone: true},
		"succeeded": {before: status(v1.PodSucceeded), gone: true},
		"failed":    {before: status(v1.PodFailed), opts: metav1.DeleteOptions{GracePeriodSeconds: seconds(60)}, gone: true},
		"gated":     {spec: func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/g"}} }, gone: true},
		"other-uid": {before: running, opts: metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("x")}, refused: apierrors.IsConflict, grace: -1},
		"other-version": {before: running, opts: metav1.DeleteOptions{Preconditions: metav1.NewRVDeletionPrecondition("1").Preconditions},
			refused: apierrors.IsConflict, grace: -1},
		"dry-run": {before: running, opts: metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, grace: -1},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod(name)
			if test.spec != nil {
				test.spec(p)
			}
			p = e.create(t, p)
			if p.Generation != 1 {
				t.Errorf("generation %d after the creation", p.Generation)
			}
			if test.before != nil {
				test.before(t, p)
			}
			err := client.Delete(t.Context(), name, test.opts)
			if (test.refused == nil) != (err == nil) || err != nil && !test.refused(err) {
				t.Errorf("delete: %v", err)
			}
			grace, generation, gone := deletion(name)
			wantGeneration := int64(2)
			if test.grace < 0 {
				wantGeneration = 1
			}
			if gone != test.gone || !gone && (grace != test.grace || generation != wantGeneration) {
				t.Errorf("grace %d, generation %d, gone %v", grace, generation, gone)
			}
		})
	}
	t.Run("query, and shorter", func(t *testing.T) {
		e.create(t, pod("q"))
		err := e.client.CoreV1().RESTClient().Delete().AbsPath("/api/v1/namespaces/default/pods/q").Param("gracePeriodSeconds", "9").Do(t.Context()).Error()
		if grace, _, _ := deletion("q"); err != nil || grace != 9 {
			t.Errorf("by query: grace %d, %v", grace, err)
		}
		if err := client.Delete(t.Context(), "q", metav1.DeleteOptions{GracePeriodSeconds: seconds(2)}); err != nil {
			t.Fatal(err)
		}
		if grace, generation, _ := deletion("q"); grace != 2 || generation != 2 {
			t.Errorf("a shorter grace period: %d, generation %d", grace, generation)
		}
	})
	t.Run("collection", func(t *testing.T) {
		err := client.DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: seconds(0)}, metav1.ListOptions{FieldSelector: "metadata.name=spec"})
		if _, _, gone := deletion("spec"); err != nil || !gone {
			t.Errorf("%v, gone %v", err, gone)
		}
		if _, _, gone := deletion("spec-7"); gone {
			t.Error("a pod that the selector does not match is gone")
		}
	})
}
