package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"

	"podd/api/fit"
	"podd/store"
)

// Reasons of the condition PodScheduled that are podd's own.
const (
	otherNode      = "OtherNode"      // the pod is bound to a node that is not this one
	otherScheduler = "OtherScheduler" // the pod waits for somebody to bind it
)

// knownNode is the node object at a revision.
type knownNode struct {
	revision int64
	node     *v1.Node
}

// thisNode is this host's node object as it is in the store, shared and read-only; nil while there is none.
func (s *Server) thisNode() *v1.Node {
	entry, ok := s.Store.Get("/nodes/" + s.NodeName)
	if !ok {
		return nil
	}
	if known := s.known.Load(); known != nil && known.revision == entry.Revision {
		return known.node
	}
	obj, _, err := legacyscheme.Codecs.UniversalDecoder(v1.SchemeGroupVersion).Decode(entry.Data, nil, nil)
	node, ok := obj.(*v1.Node)
	if err != nil || !ok {
		s.Log.Error("read node", "node", s.NodeName, "error", err)
		return nil
	}
	s.known.Store(&knownNode{entry.Revision, node})
	return node
}

// unfit says why the pod may not run on the node, in upstream's words (pkg/scheduler/framework/plugins); empty is that
// it may.
func unfit(pod *v1.Pod, node *v1.Node) string {
	if node.Spec.Unschedulable && !tolerates(pod, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}) {
		return "node(s) were unschedulable"
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != v1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
			return fmt.Sprintf("node(s) had untolerated taint(s) {%s}", taint.ToString())
		}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return unmatched
	}
	return ""
}

func tolerates(pod *v1.Pod, taint v1.Taint) bool {
	return corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, false)
}

// Rejects says why this node does not take a pod that names it, past all scheduling, as the kubelet does
// (pkg/kubelet/lifecycle/predicate.go); no reason is that it takes it.
func (s *Server) Rejects(pod *v1.Pod) (reason, message string) {
	if why := forbiddenSysctl(pod); why != "" {
		return "SysctlForbidden", why
	}
	if os, ok := pod.Labels[v1.LabelOSStable]; ok && os != string(v1.Linux) {
		return "PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	node := s.thisNode()
	if node == nil {
		return "", ""
	}
	if pod.Spec.NodeSelector != nil || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
			return "NodeAffinity", "Predicate NodeAffinity failed: " + unmatched
		}
	}
	exempt := pod.Annotations[SourceAnnotation] == SourceFile || pod.DeletionTimestamp != nil // perhaps by the taint
	if !exempt && slices.ContainsFunc(node.Spec.Taints, func(taint v1.Taint) bool {
		return taint.Effect == v1.TaintEffectNoExecute && !tolerates(pod, taint)
	}) {
		return "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
	}
	return "", ""
}

// unmatched is upstream's word for a node that the pod did not ask for.
const unmatched = "node(s) didn't match Pod's node affinity/selector"

// scheduler binds pods that could not be bound when they were made, says of those that stay Pending why, and evicts
// what a NoExecute taint of this node drives away.
type scheduler struct {
	server  *Server
	due     map[string]bool       // keys of pods to look at
	pending map[string]bool       // keys of pods that wait for the node to change
	short   map[string]bool       // those of them that wait for room
	alone   map[string]bool       // those of them that other pods keep away, or that miss another
	beside  map[string]standing   // what rules of others look at, of each pod of the node
	takes   map[string]fit.Amount // what each pod of the node takes
	leaves  map[string]time.Time  // keys of pods that tolerate a taint of the node until then
	since   map[v1.Taint]time.Time
	node    *v1.Node // as it was looked at last

	claiming map[string]bool      // keys of pods that wait for something of claims
	hushed   map[string]time.Time // keys of those of them that podd has just to do with; why they wait is told then
}

func (s *scheduler) begin(entries []store.Entry) {
	s.due, s.pending, s.leaves, s.since = map[string]bool{}, map[string]bool{}, map[string]time.Time{}, map[v1.Taint]time.Time{}
	s.short, s.takes = map[string]bool{}, map[string]fit.Amount{}
	s.alone, s.beside = map[string]bool{}, map[string]standing{}
	s.claiming, s.hushed = map[string]bool{}, map[string]time.Time{}
	s.node = nil
	for _, e := range entries {
		s.change(store.Change{Key: e.Key, Data: e.Data})
	}
	s.lookAtNode()
}

func (s *scheduler) change(c store.Change) {
	kind, namespace, name := s.server.stored.of(c.Key)
	switch {
	case kind == nil:
	case kind.prefix == "/nodes/" && name == s.server.NodeName:
		s.lookAtNode()
	case kind.prefix == namespacePrefix:
		maps.Copy(s.due, s.alone)
	case kind.prefix == claimPrefix, kind.prefix == volumePrefix, kind.prefix == classPrefix:
		maps.Copy(s.due, s.claiming)
	case kind.prefix != store.PodPrefix:
	case c.Data == nil:
		s.drop(c.Key)
		delete(s.due, c.Key)
		s.take(c.Key, fit.Amount{})
		s.stand(c.Key, standing{})
		maps.Copy(s.due, s.claiming) // it may have had a claim for itself
	default:
		pod, ok := s.server.Store.Pod(namespace, name)
		if ok && s.server.takesRoom(pod) {
			s.take(c.Key, fit.Counted(pod))
			s.stand(c.Key, standing{here: true, leaves: pod.DeletionTimestamp != nil, labels: pod.Labels})
		} else {
			s.take(c.Key, fit.Amount{})
			s.stand(c.Key, standing{})
			maps.Copy(s.due, s.claiming)
		}
		if ok && (pod.Spec.NodeName != s.server.NodeName || len(s.evicting()) > 0) {
			s.due[c.Key] = true
		}
	}
}

// take notes what a pod takes of the node. When it takes less than before, all that wait for room are due.
func (s *scheduler) take(key string, now fit.Amount) {
	was := s.takes[key]
	if now.Same(fit.Amount{}) {
		delete(s.takes, key)
	} else {
		s.takes[key] = now
	}
	if now.Less(was) {
		for key := range s.short {
			s.due[key] = true
		}
	}
}

// standing is what rules of other pods look at, of a pod.
type standing struct {
	here, leaves bool
	labels       map[string]string
}

// stand notes how a pod stands to others. When that changes, all that wait for others are due.
func (s *scheduler) stand(key string, now standing) {
	was := s.beside[key]
	if now.here {
		s.beside[key] = now
	} else {
		delete(s.beside, key)
	}
	if now.here != was.here || now.leaves != was.leaves || !maps.Equal(now.labels, was.labels) {
		maps.Copy(s.due, s.alone)
	}
}

// lookAtNode makes all pods due that wait for the node, or that it may drive away, if it has changed in what matters.
func (s *scheduler) lookAtNode() {
	node := s.server.thisNode()
	if node == nil || s.node != nil && s.node.Spec.Unschedulable == node.Spec.Unschedulable &&
		equality.Semantic.DeepEqual(s.node.Spec.Taints, node.Spec.Taints) && maps.Equal(s.node.Labels, node.Labels) &&
		fit.Capacity(s.node.Status.Allocatable).Same(fit.Capacity(node.Status.Allocatable)) {
		return
	}
	was := s.evicting()
	s.node = node
	for key := range s.pending {
		s.due[key] = true
	}
	taints := s.evicting()
	since := map[v1.Taint]time.Time{}
	for _, taint := range taints {
		at := time.Now()
		if taint.TimeAdded != nil {
			at = taint.TimeAdded.Time
		}
		taint.TimeAdded = nil
		if known, ok := s.since[taint]; ok {
			at = known
		}
		since[taint] = at
	}
	s.since = since
	clear(s.leaves)
	if len(taints)+len(was) > 0 {
		for _, pod := range s.server.Store.Pods() {
			s.due[store.PodPrefix+pod.Namespace+"/"+pod.Name] = true
		}
	}
}

// evicting are the taints of the node that drive pods away.
func (s *scheduler) evicting() []v1.Taint {
	if s.node == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.node.Spec.Taints), func(t v1.Taint) bool { return t.Effect != v1.TaintEffectNoExecute })
}

func (s *scheduler) again() (at time.Time) {
	for _, leave := range s.leaves {
		if at.IsZero() || leave.Before(at) {
			at = leave
		}
	}
	for _, told := range s.hushed {
		if at.IsZero() || told.Before(at) {
			at = told
		}
	}
	return at
}

// drop forgets what is known of a pod that waits.
func (s *scheduler) drop(key string) {
	delete(s.pending, key)
	delete(s.short, key)
	delete(s.alone, key)
	delete(s.claiming, key)
	delete(s.hushed, key)
	delete(s.leaves, key)
}

func (s *scheduler) work(ctx context.Context) (more bool, err error) {
	now := time.Now()
	for key, at := range s.leaves {
		if !at.After(now) {
			s.due[key] = true
		}
	}
	for key, at := range s.hushed {
		if !at.After(now) {
			s.due[key] = true
		}
	}
	var errs []error
	for _, key := range s.inOrder() {
		delete(s.due, key)
		_, namespace, name := s.server.stored.of(key)
		pod, ok := s.server.Store.Pod(namespace, name)
		if !ok || pod.DeletionTimestamp != nil {
			s.drop(key)
			if ok && pod.Spec.NodeName == "" { // podd may have died between the two writes of its deletion
				if err := s.server.Store.FinishPod(ctx, pod.UID); err != nil {
					s.due[key] = true
					errs = append(errs, err)
				}
			}
			continue
		}
		if err := s.look(ctx, key, pod, now); err != nil && !apierrors.IsNotFound(err) {
			s.due[key] = true
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

// inOrder is the keys of the pods that are due: those of more priority first, then the older ones.
func (s *scheduler) inOrder() []string {
	pods := make([]*v1.Pod, 0, len(s.due))
	for key := range s.due {
		_, namespace, name := s.server.stored.of(key)
		if pod, ok := s.server.Store.Pod(namespace, name); ok {
			pods = append(pods, pod)
		} else {
			delete(s.due, key)
		}
	}
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		return cmp.Or(cmp.Compare(corev1.PodPriority(b), corev1.PodPriority(a)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	keys := make([]string, len(pods))
	for i, pod := range pods {
		keys[i] = store.PodPrefix + pod.Namespace + "/" + pod.Name
	}
	return keys
}

// look does what is to be done with one pod.
func (s *scheduler) look(ctx context.Context, key string, pod *v1.Pod, now time.Time) error {
	hushed := s.hushed[key]
	s.drop(key)
	switch {
	case pod.Spec.NodeName == s.server.NodeName:
		return s.drive(ctx, key, pod, now)
	case pod.Spec.NodeName != "":
		return s.explain(ctx, pod, otherNode, fmt.Sprintf("the pod is bound to node %q, and podd runs the pods of node %q",
			pod.Spec.NodeName, s.server.NodeName))
	case len(pod.Spec.SchedulingGates) > 0:
		return nil // the registry has said so
	case pod.Spec.SchedulerName != v1.DefaultSchedulerName:
		return s.explain(ctx, pod, otherScheduler, fmt.Sprintf("the pod waits for scheduler %q to bind it: podd binds the pods of %q",
			pod.Spec.SchedulerName, v1.DefaultSchedulerName))
	}
	if s.node == nil {
		s.pending[key] = true
		return nil
	}
	if why := unfit(pod, s.node); why != "" {
		s.pending[key] = true
		return s.explain(ctx, pod, v1.PodReasonUnschedulable, "0/1 nodes are available: 1 "+why+".")
	}
	claimed, err := s.server.needs(pod, s.node)
	if err != nil {
		return err
	}
	if !hushed.IsZero() {
		s.hushed[key] = hushed
	}
	if claimed.why != "" {
		return s.awaitClaims(ctx, key, pod, claimed, now)
	}
	stored, lacks, why := s.server.reserve(pod, s.node)
	if len(lacks) > 0 {
		s.pending[key], s.short[key] = true, true
		return s.explain(ctx, pod, v1.PodReasonUnschedulable, unschedulable(lacks))
	}
	if why != "" {
		s.pending[key], s.alone[key] = true, true
		return s.explain(ctx, pod, v1.PodReasonUnschedulable, "0/1 nodes are available: 1 "+why+".")
	}
	defer stored()
	if len(claimed.delayed) > 0 {
		claimed.why, claimed.soon = "waiting for its PersistentVolumeClaims to be bound", true
		return errors.Join(s.choose(ctx, claimed.delayed), s.awaitClaims(ctx, key, pod, claimed, now))
	}
	delete(s.hushed, key)
	return s.bind(ctx, pod)
}

// bind gives the pod to this node. A conflict is somebody else's change, which will be looked at.
func (s *scheduler) bind(ctx context.Context, pod *v1.Pod) error {
	binding := &core.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target: core.ObjectReference{Kind: "Node", Name: s.server.NodeName}}
	s.server.labelPlace(&binding.ObjectMeta, s.server.NodeName)
	kind := s.server.stored.byPrefix["pods"]
	_, err := s.server.registry.bindings.Create(kind.scope(ctx, pod.Namespace), pod.Name, binding, rest.ValidateAllObjectFunc,
		&metav1.CreateOptions{})
	if err == nil {
		s.server.Event(pod, v1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, s.server.NodeName)
	}
	if err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("bind pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// explain says in the pod's status why it stays Pending, and in an event if that is news.
func (s *scheduler) explain(ctx context.Context, pod *v1.Pod, reason, message string) error {
	news := false
	err := s.server.Store.SetStatus(ctx, pod.UID, func(status v1.PodStatus) v1.PodStatus {
		news = setCondition(&status, v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: pod.Generation})
		return status
	})
	if err == nil && news && reason != otherScheduler {
		s.server.Event(pod, v1.EventTypeWarning, "FailedScheduling", "%s", message)
	}
	return err
}

// setCondition puts a condition into a status, and tells whether that says something new.
func setCondition(status *v1.PodStatus, c v1.PodCondition) (news bool) {
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
	at := slices.IndexFunc(status.Conditions, func(old v1.PodCondition) bool { return old.Type == c.Type })
	if at < 0 {
		status.Conditions = append(status.Conditions, c)
		return true
	}
	old := status.Conditions[at]
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	status.Conditions[at] = c
	return old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
}

// drive evicts a pod of this node that does not tolerate a NoExecute taint of it, or no longer
// (upstream: pkg/controller/tainteviction). The pods of manifest files stay: only their file decides.
func (s *scheduler) drive(ctx context.Context, key string, pod *v1.Pod, now time.Time) error {
	if pod.Annotations[SourceAnnotation] == SourceFile {
		return nil
	}
	var leave time.Time
	for _, taint := range s.evicting() {
		until, stays := s.until(pod, taint)
		if stays {
			continue
		}
		if leave.IsZero() || until.Before(leave) {
			leave = until
		}
	}
	switch {
	case leave.IsZero():
		return nil
	case leave.After(now):
		s.leaves[key] = leave
		return nil
	}
	err := s.server.Store.SetStatus(ctx, pod.UID, func(status v1.PodStatus) v1.PodStatus {
		setCondition(&status, v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "DeletionByTaintManager",
			Message: "Taint manager: deleting due to NoExecute taint", ObservedGeneration: pod.Generation})
		return status
	})
	if err != nil {
		return err
	}
	s.server.Event(pod, v1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	return s.server.stored.byPrefix["pods"].delete(ctx, pod.Namespace, pod.Name, types.UID(pod.UID), metav1.DeletePropagationBackground)
}

// until is how long the pod may stay under a taint: for ever, or until the shortest of its tolerations has passed.
func (s *scheduler) until(pod *v1.Pod, taint v1.Taint) (until time.Time, stays bool) {
	taint.TimeAdded = nil
	begun := s.since[taint]
	shortest, tolerated := int64(-1), false
	for _, t := range pod.Spec.Tolerations {
		if !t.ToleratesTaint(klog.Background(), &taint, false) {
			continue
		}
		tolerated = true
		if t.TolerationSeconds != nil && (shortest < 0 || *t.TolerationSeconds < shortest) {
			shortest = max(0, *t.TolerationSeconds)
		}
	}
	if tolerated && shortest < 0 {
		return time.Time{}, true
	}
	return begun.Add(time.Duration(max(0, shortest)) * time.Second), false
}

// lookDelay is what the followers, each of which reads all objects first, leave to podd's first answers.
const lookDelay = 50 * time.Millisecond

// keepMeaning keeps true what objects mean to each other, until ctx is done.
func (s *Server) keepMeaning(ctx context.Context) {
	select {
	case <-time.After(lookDelay):
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.follow(ctx, "namespace stays as it is for now", &keeper{server: s}) })
	wg.Go(func() { s.follow(ctx, "object is not collected for now", newCollector(s)) })
	wg.Go(func() { s.follow(ctx, "pod is not scheduled for now", &scheduler{server: s}) })
	wg.Go(func() { s.follow(ctx, "claim stays as it is for now", &claimKeeper{server: s}) })
	wg.Go(func() { s.follow(ctx, "request of a service account goes on for now", &bearerKeeper{server: s}) })
	wg.Go(func() { s.follow(ctx, "volume is not deleted for now", &reclaimer{server: s}) })
}
