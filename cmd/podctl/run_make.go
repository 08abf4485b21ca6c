package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"podd/api/manifest"
	"podd/status"
)

// runMark is the annotation of what a run has made. Its value is unique to the run and the object: it tells a run whether an
// object is its own when podd was lost before it could say so, and --replace what it may delete.
const runMark = "podd/run"

// thing is an object that a run makes.
type thing struct {
	doc    manifest.Document
	object *unstructured.Unstructured
	client dynamic.ResourceInterface
	kind   string                     // in lower case, as people write it
	old    *unstructured.Unstructured // what an earlier run has left under the name

	name  string    // empty until it is made if the server gives it
	uid   types.UID // empty until it is made
	asked bool      // it was asked for, so that it may be there also if no answer came
}

func (t *thing) String() string { return t.kind + "/" + cmp.Or(t.name, t.object.GetGenerateName()+"*") }

// where is t with its namespace, as podctl delete takes it.
func (t *thing) where() string {
	if ns := t.object.GetNamespace(); ns != "" && ns != metav1.NamespaceDefault {
		return t.String() + " -n " + ns
	}
	return t.String()
}

// list is what docs say, in the order in which it is made: namespaces, what pods may use, pods.
func list(f cmdutil.Factory, config *rest.Config, docs []manifest.Document) ([]*thing, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper, err := f.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	namespace, enforced, err := f.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	run := strings.ToLower(rand.Text())
	var all []*thing
	for i, doc := range docs {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(doc.Raw); err != nil {
			return nil, fmt.Errorf("%s: %w", called(doc), err)
		}
		kind := object.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return nil, err
		}
		t := &thing{doc: doc, object: object, kind: strings.ToLower(doc.Kind), name: doc.Name, client: client.Resource(mapping.Resource)}
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			if enforced && doc.Namespace != "" && doc.Namespace != namespace {
				return nil, fmt.Errorf("%s: metadata.namespace: it is %s, and --namespace is %s", called(doc), doc.Namespace, namespace)
			}
			object.SetNamespace(cmp.Or(doc.Namespace, namespace))
			t.client = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
		}
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[runMark] = fmt.Sprintf("%s.%d", run, i)
		object.SetAnnotations(annotations)
		all = append(all, t)
	}
	rank := map[string]int{"namespace": 0, "pod": 2}
	order := func(t *thing) int {
		if n, ok := rank[t.kind]; ok {
			return n
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b *thing) int { return order(a) - order(b) })
	return all, nil
}

// choose finds the container of --exit-from, and that there is a pod at all.
func (r *runner) choose() error {
	pods := r.pods()
	if len(pods) == 0 {
		return errors.New("there is no pod in these manifests: podctl apply makes other objects")
	}
	if r.o.exitFrom == "" {
		return nil
	}
	pod, name, both := strings.Cut(r.o.exitFrom, "/")
	if !both {
		pod, name = "", pod
	}
	var found []string
	for _, t := range pods {
		if pod != "" && pod != t.doc.Name && pod != t.object.GetGenerateName() {
			continue
		}
		for _, c := range slices.Concat(t.doc.Pod.Spec.InitContainers, t.doc.Pod.Spec.Containers) {
			if c.Name == name {
				r.from, r.pick = t, name
				found = append(found, cmp.Or(t.doc.Name, t.object.GetGenerateName())+"/"+name)
			}
		}
	}
	switch len(found) {
	case 0:
		return fmt.Errorf("--exit-from=%s: there is no such container in these manifests", r.o.exitFrom)
	case 1:
		return nil
	}
	return fmt.Errorf("--exit-from=%s: which one? %s", r.o.exitFrom, strings.Join(found, ", "))
}

// endless finds pods that never complete though that is what is waited for.
func (r *runner) endless() error {
	if r.o.until != untilComplete || r.from != nil {
		return nil
	}
	var problems manifest.Problems
	for _, t := range r.pods() {
		for i := range t.doc.Pod.Spec.Containers {
			c := &t.doc.Pod.Spec.Containers[i]
			if !status.ShouldRestart(t.doc.Pod, c, 0) {
				continue
			}
			path := "spec.restartPolicy"
			if c.RestartPolicy != nil {
				path = fmt.Sprintf("spec.containers[%d].restartPolicy", i)
			}
			line, column := manifest.Line(t.doc, path)
			problems = append(problems, manifest.Problem{Source: t.doc.Source, Line: line, Column: column, Path: path, Message: fmt.Sprintf(
				"container %s is started again whenever it ends, so the pod never completes: set Never or OnFailure, or use --until=ready or --exit-from=CONTAINER", c.Name)})
			break
		}
	}
	if len(problems) > 0 {
		return r.refuse(problems)
	}
	return nil
}

// look finds objects that are there already. They are an error, unless an earlier run made them and they may be replaced.
func (r *runner) look(ctx context.Context) error {
	var problems manifest.Problems
	for _, t := range r.things {
		if t.name == "" {
			continue
		}
		found, err := t.client.Get(ctx, t.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		line, column := manifest.Line(t.doc, "metadata.name")
		problem := manifest.Problem{Source: t.doc.Source, Line: line, Column: column, Path: "metadata.name"}
		switch marked := found.GetAnnotations()[runMark] != ""; {
		case marked && r.o.replace:
			t.old = found
			continue
		case marked:
			problem.Message = t.where() + " is there already, from an earlier run: --replace deletes it first"
		default:
			problem.Message = t.where() + " is there already: delete it, or use another name, namespace (-n) or generateName"
		}
		problems = append(problems, problem)
	}
	if len(problems) > 0 {
		return r.refuse(problems)
	}
	return nil
}

// build makes all things. If that does not work the outcome says why.
func (r *runner) build() (outcome, bool) {
	for _, t := range slices.Backward(r.things) {
		if t.old != nil && t.kind != "namespace" {
			if err := r.takeAway(t); err != nil {
				return r.unbuilt(t, err), false
			}
		}
	}
	for _, t := range r.things {
		if r.work.Err() != nil {
			return r.cut(), false
		}
		if t.old != nil && t.kind == "namespace" { // it goes in the end, with what this run makes in it
			t.uid = t.old.GetUID()
			continue
		}
		if err := r.create(t); err != nil {
			return r.unbuilt(t, err), false
		}
		r.say("%s created", t)
	}
	return outcome{}, true
}

// takeAway deletes what an earlier run has left in t's place.
func (r *runner) takeAway(t *thing) error {
	r.say("%s is of an earlier run: it is deleted first", t)
	uid := t.old.GetUID()
	err := t.client.Delete(r.work, t.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return untilGone(r.work, t, uid)
}

// unbuilt is the outcome when t could not be made.
func (r *runner) unbuilt(t *thing, err error) outcome {
	if r.work.Err() != nil {
		return r.cut()
	}
	lines := causes(err, t.doc)
	if len(lines) == 0 {
		lines = []string{called(t.doc) + ": " + err.Error()}
	}
	return outcome{code: codeNever, why: fmt.Sprintf("%s could not be made:\n%s", t, strings.Join(lines, "\n"))}
}

// create makes t, over deaths of podd. A request that is on its way is waited for also after a signal: what it makes has to be
// known, so that it can be deleted.
func (r *runner) create(t *thing) error {
	t.asked = true
	began := time.Now()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.work), answerLimit)
		made, err := t.client.Create(ctx, t.object, metav1.CreateOptions{FieldManager: "podctl", FieldValidation: metav1.FieldValidationStrict})
		if err != nil && (lost(err) || apierrors.IsAlreadyExists(err)) {
			if found, other := t.find(ctx); other == nil && found != nil {
				made, err = found, nil
			}
		}
		cancel()
		if err == nil {
			t.name, t.uid = made.GetName(), made.GetUID()
			return nil
		}
		if !lost(err) || time.Since(began) > awayLimit {
			return err
		}
		select {
		case <-r.work.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// How patient a run is with podd.
const (
	retryFirst  = 50 * time.Millisecond
	retryMost   = time.Second
	answerLimit = 30 * time.Second
	awayLimit   = 2 * time.Minute // podd may be restarted meanwhile
)

// lost says whether err is not an answer of podd's, so that what was asked for may have been done or not, or may be later.
func lost(err error) bool {
	var answer apierrors.APIStatus
	return !errors.As(err, &answer) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err)
}

// find is the object that a request of this run has made for t, nil if none has.
func (t *thing) find(ctx context.Context) (*unstructured.Unstructured, error) {
	mark := t.object.GetAnnotations()[runMark]
	if t.name != "" {
		found, err := t.client.Get(ctx, t.name, metav1.GetOptions{})
		if err != nil || found.GetAnnotations()[runMark] != mark {
			return nil, err
		}
		return found, nil
	}
	all, err := t.client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range all.Items {
		if all.Items[i].GetAnnotations()[runMark] == mark {
			return &all.Items[i], nil
		}
	}
	return nil, nil
}

// policyOf tells whether a container of the pod is started again after it has ended with code.
func policyOf(pod *v1.Pod, name string, code int32) bool {
	if isInit(pod, name) && !isSidecar(pod, name) && code == 0 {
		return false
	}
	c := specOf(pod, name)
	return c != nil && status.ShouldRestart(pod, c, code)
}

// specOf is what the spec says of a container; nil if it has none of that name.
func specOf(pod *v1.Pod, name string) *v1.Container {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == name {
			return &c
		}
	}
	return nil
}
