package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"podd/api"
)

// examples are the rest of a valid object of each kind.
var examples = map[string]string{
	"Pod":            `"spec":{"containers":[{"name":"app","image":"busybox"}]}`,
	"ConfigMap":      `"data":{"a":"b"}`,
	"Secret":         `"data":{"a":"Yg=="}`,
	"ServiceAccount": `"secrets":[]`,
	"v1/Event":       `"involvedObject":{"kind":"Pod","namespace":"mine","name":"x"},"reason":"Test"`,
	"events.k8s.io/v1/Event": `"regarding":{"kind":"Pod","namespace":"mine","name":"x"},"reason":"Test","type":"Normal","action":"test",
		"eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"example.com/test","reportingInstance":"me"`,
	"PodTemplate":   `"template":{"spec":{"containers":[{"name":"app","image":"busybox"}]}}`,
	"Service":       `"spec":{"ports":[{"port":80}]}`,
	"Endpoints":     `"subsets":[]`,
	"EndpointSlice": `"addressType":"IPv4","endpoints":[]`,
	"Lease":         `"spec":{"holderIdentity":"me"}`,

	"PersistentVolumeClaim": `"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}`,
}

func decode(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(text), &obj.Object); err != nil {
		t.Fatal(err)
	}
	return obj
}

func (e *env) namespace(t testing.TB, name string, finalizers ...string) {
	t.Helper()
	_, err := e.client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (e *env) deleteNamespace(t testing.TB, name string) {
	t.Helper()
	if err := e.client.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// gone waits until the namespace is, and checks that nothing of it is left.
func (e *env) gone(t testing.TB, name string) {
	t.Helper()
	e.until(t, "the namespace goes", func() bool { _, ok := e.store.Get("/namespaces/" + name); return !ok })
	entries, _, _ := e.store.List("/", "", 0)
	for _, entry := range entries {
		if strings.Contains(entry.Key, "/"+name+"/") {
			t.Errorf("left behind: %s", entry.Key)
		}
	}
}

// says waits for a condition of a namespace.
func (e *env) says(t testing.TB, name string, kind v1.NamespaceConditionType, reason, message string) {
	t.Helper()
	e.until(t, string(kind)+" "+reason, func() bool {
		ns, err := e.client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || ns.Status.Phase != v1.NamespaceTerminating {
			return false
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == kind && c.Reason == reason && c.Message == message && !c.LastTransitionTime.IsZero() {
				return true
			}
		}
		return false
	})
}

// TestNamespaceTakesEverything makes one object of every kind that lives in a namespace.
func TestNamespaceTakesEverything(t *testing.T) {
	e := serve(t)
	e.namespace(t, "mine")
	made := 0
	lists, err := e.client.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		t.Fatal(err)
	}
	client := dynamic.NewForConfigOrDie(e.config)
	for _, list := range lists {
		for _, r := range list.APIResources {
			example, ok := examples[r.Kind]
			if r.Kind == "Event" {
				example, ok = examples[list.GroupVersion+"/Event"]
			}
			switch {
			case strings.Contains(r.Name, "/") || !strings.Contains(strings.Join(r.Verbs, " "), "delete "):
				continue
			case !ok:
				t.Errorf("no example of %s", r.Kind)
				continue
			}
			name := "x"
			if list.GroupVersion == "events.k8s.io/v1" {
				name = "y" // the same objects as those of v1
			}
			obj := decode(t, `{"apiVersion":"`+list.GroupVersion+`","kind":"`+r.Kind+`","metadata":{"name":"`+name+`"},`+example+`}`)
			_, err := client.Resource(obj.GroupVersionKind().GroupVersion().WithResource(r.Name)).Namespace("mine").Create(t.Context(), obj, metav1.CreateOptions{})
			if err != nil {
				t.Errorf("%s: %v", r.Kind, err)
			}
			made++
		}
	}
	if made < 9 {
		t.Errorf("only %d kinds", made)
	}
	p, _ := e.store.Pod("mine", "x")
	e.deleteNamespace(t, "mine")
	e.says(t, "mine", v1.NamespaceContentRemaining, "SomeResourcesRemain", "Some resources are remaining: pods. has 1 resource instances")
	if _, err := e.client.CoreV1().Secrets("mine").Get(t.Context(), "x", metav1.GetOptions{}); err != nil {
		t.Errorf("what a pod may use until it has ended: %v", err)
	}
	if err := e.store.FinishPod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	e.gone(t, "mine")
}

func TestNamespaceRefusesNewContent(t *testing.T) {
	e := serve(t)
	e.namespace(t, "mine")
	e.configMap(t, "mine", "held", nil, "example.com/hold")
	e.deleteNamespace(t, "mine")
	_, err := e.client.CoreV1().Secrets("mine").Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
		t.Errorf("a create in a namespace that goes: %v", err)
	}
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		if err := e.client.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	var status *apierrors.StatusError
	if _, err := e.client.CoreV1().Secrets("none").Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); !errors.As(err, &status) || status.ErrStatus.Code != 404 {
		t.Errorf("a create in no namespace: %v", err)
	}
}

// TestNamespaceHeld: finalizers of the content and of the namespace itself hold it, also over a restart, and it says so.
func TestNamespaceHeld(t *testing.T) {
	e := serve(t)
	e.namespace(t, "mine", "example.com/mine")
	e.configMap(t, "mine", "a", nil, "example.com/hold")
	e.configMap(t, "mine", "b", nil, "example.com/hold", "example.com/too")
	e.deleteNamespace(t, "mine")
	told := func() {
		t.Helper()
		e.says(t, "mine", v1.NamespaceContentRemaining, "SomeResourcesRemain", "Some resources are remaining: configmaps. has 2 resource instances")
		e.says(t, "mine", v1.NamespaceFinalizersRemaining, "SomeFinalizersRemain",
			"Some content in the namespace has finalizers remaining: example.com/hold in 2 resource instances, example.com/too in 1 resource instances")
		e.says(t, "mine", v1.NamespaceDeletionContentFailure, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	}
	told()
	e.stop()
	e = serveIn(t, e.dir)
	told()
	e.unhold(t, "mine", "a")
	e.says(t, "mine", v1.NamespaceFinalizersRemaining, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances, example.com/too in 1 resource instances")
	_, err := e.client.CoreV1().ConfigMaps("mine").Patch(t.Context(), "b", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/too"]}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.says(t, "mine", v1.NamespaceFinalizersRemaining, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: example.com/too in 1 resource instances")
	e.unhold(t, "mine", "b")
	e.says(t, "mine", v1.NamespaceContentRemaining, "ContentRemoved", "All content successfully removed")
	e.says(t, "mine", v1.NamespaceFinalizersRemaining, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	e.until(t, "only the namespace's own finalizer is left", func() bool {
		ns, err := e.client.CoreV1().Namespaces().Get(t.Context(), "mine", metav1.GetOptions{})
		return err == nil && len(ns.Spec.Finalizers) == 0
	})
	_, err = e.client.CoreV1().Namespaces().Patch(t.Context(), "mine", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.gone(t, "mine")
}

func TestNamespaceAfterACrash(t *testing.T) {
	for _, after := range []int{0, 1, 5, 20} {
		e := serve(t)
		e.namespace(t, "mine")
		for i := range 30 {
			e.configMap(t, "mine", strings.Repeat("c", i+1), nil)
		}
		changes, err := e.store.Watch("/configmaps/mine/", -1)
		if err != nil {
			t.Fatal(err)
		}
		e.deleteNamespace(t, "mine")
		for seen := 0; seen < after; {
			<-changes.C
			next, _, err := changes.Next()
			if err != nil {
				t.Fatal(err)
			}
			seen += len(next)
		}
		changes.Stop()
		e = e.crash(t)
		e.gone(t, "mine")
		e.namespace(t, "mine")
	}
}

// TestNamespaceDefaults: every namespace has its service account from the start, and gets it back.
func TestNamespaceDefaults(t *testing.T) {
	e := serve(t)
	e.namespace(t, "mine")
	accounts := e.client.CoreV1().ServiceAccounts("mine")
	account, err := accounts.Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := accounts.Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(t, "another account", func() bool {
		again, err := accounts.Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil && again.UID != account.UID
	})
	e.deleteNamespace(t, "mine")
	e.gone(t, "mine")
}

// TestAuthorityInEveryNamespace: with a TLS port there is the certificate authority of it, and it comes back.
func TestAuthorityInEveryNamespace(t *testing.T) {
	e := serveIn(t, t.TempDir(), func(c *api.Config) { c.TLSListen, c.PKIDir = "127.0.0.1:0", t.TempDir() })
	e.namespace(t, "mine")
	maps := e.client.CoreV1().ConfigMaps("mine")
	ca, err := maps.Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(ca.Data["ca.crt"], "-----BEGIN CERTIFICATE-----") {
		t.Fatalf("%v, %v", ca, err)
	}
	same := func() bool {
		again, err := maps.Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil && again.Data["ca.crt"] == ca.Data["ca.crt"]
	}
	changed := ca.DeepCopy()
	changed.Data["ca.crt"] = "another"
	if _, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the authority is put right", same)
	if err := maps.Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the authority is there again", same)
	e.deleteNamespace(t, "mine")
	e.gone(t, "mine")
}

// TestAdoptedPodBringsItsNamespace: both were lost with the state, and the pod runs.
func TestAdoptedPodBringsItsNamespace(t *testing.T) {
	e := serve(t)
	lost := pod("lost")
	lost.Namespace, lost.UID, lost.Spec.NodeName = "lost", "uid-of-before", "host"
	if _, err := e.server.CreatePod(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.CoreV1().Namespaces().Get(t.Context(), "lost", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// TestStray: what was written at the moment at which its namespace went does not stay.
func TestStray(t *testing.T) {
	e := serve(t)
	made := e.configMap(t, "default", "a", nil)
	entry, _ := e.store.Get("/configmaps/default/" + made.Name)
	if _, err := e.store.Put(t.Context(), "/configmaps/none/a", entry.Data, 0, 0); err != nil {
		t.Fatal(err)
	}
	e.until(t, "the stray goes", func() bool { _, ok := e.store.Get("/configmaps/none/a"); return !ok })
	if _, ok := e.store.Get("/configmaps/default/a"); !ok {
		t.Error("another one of that name went")
	}
}

// BenchmarkDeleteNamespace deletes a namespace of 1,000 objects.
func BenchmarkDeleteNamespace(b *testing.B) {
	e := serve(b)
	for b.Loop() {
		b.StopTimer()
		e.namespace(b, "mine")
		for i := range 1000 {
			e.configMap(b, "mine", fmt.Sprintf("c%d", i), nil)
		}
		b.StartTimer()
		e.deleteNamespace(b, "mine")
		e.until(b, "the namespace goes", func() bool { _, ok := e.store.Get("/namespaces/mine"); return !ok })
	}
}
