package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/core"
	namespacestorage "k8s.io/kubernetes/pkg/registry/core/namespace/storage"

	"podd/store"
)

// permanent are the namespaces that are always there, as in every cluster.
var permanent = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true, "kube-node-lease": true,
}

const (
	namespacePrefix = "/namespaces/"
	accountPrefix   = "/serviceaccounts/"
	configMapPrefix = "/configmaps/"
	rootCA          = "kube-root-ca.crt" // upstream: pkg/controller/certificates/rootcacertpublisher
)

// clusterScope makes a context for calls into registries of kinds without a namespace.
func clusterScope(ctx context.Context) context.Context {
	return request.WithNamespace(ctx, metav1.NamespaceNone)
}

func (s *Server) ensureNamespaces(ctx context.Context) error {
	for name := range permanent {
		if err := s.ensureNamespace(ctx, name); err != nil {
			return err
		}
		if err := s.ensureDefaults(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) ensureNamespace(ctx context.Context, name string) error {
	if _, ok := s.Store.Get(namespacePrefix + name); ok {
		return nil
	}
	ns := &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ns.Labels = map[string]string{v1.LabelMetadataName: name}
	_, err := s.registry.namespaces.Create(clusterScope(ctx), ns, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	return nil
}

// namespaceREST makes with a namespace what every namespace has: who creates one may use it at once.
type namespaceREST struct {
	*namespacestorage.REST
	server *Server
}

func (r *namespaceREST) Create(ctx context.Context, obj runtimeObject, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtimeObject, error) {
	created, err := r.REST.Create(ctx, obj, validate, opts)
	if ns, ok := created.(*core.Namespace); err == nil && ok && len(opts.DryRun) == 0 {
		if err := r.server.ensureDefaults(ctx, ns.Name); err != nil {
			r.server.Log.Warn("namespace lacks its default objects for now", "namespace", ns.Name, "error", err)
		}
	}
	return created, err
}

// ensureDefaults makes the service account and the certificate authority that pods expect in a namespace.
func (s *Server) ensureDefaults(ctx context.Context, namespace string) error {
	ctx = store.Lazily(ctx) // found out again when it is lost
	if kind := s.stored.byPrefix["serviceaccounts"]; kind != nil {
		account := &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultAccount, Namespace: namespace}}
		if err := kind.ensure(ctx, namespace, defaultAccount, account); err != nil {
			return err
		}
	}
	ca := ""
	if s.pki != nil {
		ca = string(s.pki.Authority())
	}
	kind := s.stored.byPrefix["configmaps"]
	if kind == nil || ca == "" {
		return nil
	}
	config := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rootCA, Namespace: namespace, Annotations: map[string]string{
		"kubernetes.io/description": "The certificate authority with which the API of this host can be verified."}},
		Data: map[string]string{"ca.crt": ca}}
	if err := kind.ensure(ctx, namespace, rootCA, config); err != nil {
		return err
	}
	return s.renewAuthority(ctx, kind, namespace, ca)
}

// ensure creates an object that is not there.
func (k *storedKind) ensure(ctx context.Context, namespace, name string, obj runtimeObject) error {
	creater, ok := k.storage.(rest.Creater)
	if !ok {
		return nil
	}
	if _, err := k.storage.(rest.Getter).Get(k.scope(ctx, namespace), name, &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := creater.Create(k.scope(ctx, namespace), obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make %s %s/%s: %w", k.resource, namespace, name, err)
	}
	return nil
}

// renewAuthority writes the certificate authority into a config map that has another one.
func (s *Server) renewAuthority(ctx context.Context, kind *storedKind, namespace, ca string) error {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtimeObject) (runtimeObject, error) {
		config, ok := old.DeepCopyObject().(*core.ConfigMap)
		if !ok {
			return nil, fmt.Errorf("not a config map: %T", old)
		}
		config.Data = map[string]string{"ca.crt": ca}
		return config, nil
	})
	_, _, err := kind.storage.Update(kind.scope(ctx, namespace), rootCA, info, rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("renew %s/%s: %w", namespace, rootCA, err)
	}
	return nil
}

// keeper empties namespaces that are being deleted and lets them go, gives every namespace its default objects, and
// removes what was made in a namespace at the moment at which it went.
type keeper struct {
	server *Server
	going  map[string]bool
	due    map[string]bool // namespaces to look at
	strays map[string]bool // keys of objects without a namespace
	lost   bool            // the service "kubernetes", or its endpoints
}

func (k *keeper) again() time.Time { return time.Time{} }

func (k *keeper) begin(entries []store.Entry) {
	k.going, k.due, k.strays = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		k.change(store.Change{Key: e.Key, Data: e.Data})
	}
}

func (k *keeper) change(c store.Change) {
	if name, ok := strings.CutPrefix(c.Key, namespacePrefix); ok {
		m, err := readMetadata(c.Data)
		switch {
		case err != nil || c.Data == nil:
			delete(k.going, name)
		case m.deleting:
			k.going[name], k.due[name] = true, true
		case c.Prev == nil:
			k.due[name] = true
		}
		return
	}
	kind, namespace, name := k.server.stored.of(c.Key)
	if kind == nil || namespace == "" {
		return
	}
	k.lost = k.lost || c.Data == nil && namespace == metav1.NamespaceDefault && name == kubernetesService && slices.Contains(kubernetesKinds, kind.prefix)
	switch {
	case c.Data != nil && c.Prev == nil:
		if _, ok := k.server.Store.Get(namespacePrefix + namespace); !ok {
			k.strays[c.Key] = true
		}
		k.due[namespace] = k.due[namespace] || k.going[namespace]
	case c.Data == nil && (k.going[namespace] || kind.prefix == accountPrefix && name == defaultAccount || name == rootCA):
		k.due[namespace] = true
	case k.going[namespace]:
		was, _ := readMetadata(c.Prev)
		is, _ := readMetadata(c.Data)
		k.due[namespace] = k.due[namespace] || !slices.Equal(was.finalizers, is.finalizers)
	case kind.prefix == configMapPrefix && name == rootCA:
		k.due[namespace] = true
	}
}

func (k *keeper) work(ctx context.Context) (more bool, err error) {
	var errs []error
	if k.lost {
		if err := k.server.ensureKubernetes(ctx); err != nil {
			errs = append(errs, err)
		} else {
			k.lost = false
		}
	}
	for key := range maps.Clone(k.strays) {
		delete(k.strays, key)
		if err := k.removeStray(ctx, key); err != nil {
			k.strays[key] = true
			errs = append(errs, err)
		}
	}
	for name, is := range maps.Clone(k.due) {
		delete(k.due, name)
		if !is || ctx.Err() != nil {
			continue
		}
		if err := k.look(ctx, name); err != nil {
			k.due[name] = true
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

// look does what a namespace needs.
func (k *keeper) look(ctx context.Context, name string) error {
	if k.going[name] {
		return k.server.finishNamespace(ctx, name)
	}
	if _, ok := k.server.Store.Get(namespacePrefix + name); !ok {
		return nil
	}
	return k.server.ensureDefaults(ctx, name)
}

// removeStray deletes an object whose namespace is not there.
func (k *keeper) removeStray(ctx context.Context, key string) error {
	kind, namespace, name := k.server.stored.of(key)
	entry, ok := k.server.Store.Get(key)
	if _, lives := k.server.Store.Get(namespacePrefix + namespace); !ok || lives || kind == nil {
		return nil
	}
	m, err := readMetadata(entry.Data)
	if err != nil || m.deleting {
		return err
	}
	return kind.delete(ctx, namespace, name, m.uid, metav1.DeletePropagationBackground)
}

// remains is what is still in a namespace.
type remains struct {
	kinds      map[string]int // objects, by "resource.group"
	finalizers map[string]int
	errs       []error
}

// finishNamespace asks for the deletion of what is in the namespace, pods first, says in its conditions what is left,
// and removes it once nothing is.
func (s *Server) finishNamespace(ctx context.Context, name string) error {
	left := remains{kinds: map[string]int{}, finalizers: map[string]int{}}
	for _, kind := range s.stored.sorted {
		if !kind.namespaced {
			continue
		}
		s.empty(ctx, kind, name, &left)
		if kind.prefix == store.PodPrefix && len(left.kinds) > 0 {
			break // pods use the rest until they are gone
		}
	}
	if err := s.tellRemains(ctx, name, left); err != nil {
		left.errs = append(left.errs, err)
	}
	if len(left.kinds) > 0 || len(left.errs) > 0 {
		return errors.Join(left.errs...)
	}
	return s.removeNamespace(ctx, name)
}

// empty asks for the deletion of all objects of a kind and notes those that stay.
func (s *Server) empty(ctx context.Context, kind *storedKind, namespace string, left *remains) {
	entries, _, _ := s.Store.List(kind.prefix+namespace+"/", "", 0)
	for _, e := range entries {
		_, _, name := s.stored.of(e.Key)
		m, err := readMetadata(e.Data)
		if err == nil && !m.deleting {
			err = kind.delete(ctx, namespace, name, m.uid, metav1.DeletePropagationBackground)
		}
		if err != nil {
			left.errs = append(left.errs, err)
		}
		if _, stays := s.Store.Get(e.Key); stays {
			left.kinds[kind.resource+"."+kind.version.Group]++
			for _, finalizer := range m.finalizers {
				left.finalizers[finalizer]++
			}
		}
	}
}

// namespaceConditions are the conditions of a namespace that goes, in upstream's words
// (pkg/controller/namespace/deletion/status_condition_utils.go).
func namespaceConditions(left remains) []core.NamespaceCondition {
	conditions := []core.NamespaceCondition{
		{Type: core.NamespaceConditionType(v1.NamespaceDeletionDiscoveryFailure), Reason: "ResourcesDiscovered",
			Message: "All resources successfully discovered"},
		{Type: core.NamespaceConditionType(v1.NamespaceDeletionGVParsingFailure), Reason: "ParsedGroupVersions",
			Message: "All legacy kube types successfully parsed"},
		{Type: core.NamespaceConditionType(v1.NamespaceDeletionContentFailure), Reason: "ContentDeleted",
			Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: core.NamespaceConditionType(v1.NamespaceContentRemaining), Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: core.NamespaceConditionType(v1.NamespaceFinalizersRemaining), Reason: "ContentHasNoFinalizers",
			Message: "All content-preserving finalizers finished"},
	}
	for i := range conditions {
		conditions[i].Status = core.ConditionFalse
	}
	set := func(i int, reason, message string) {
		conditions[i].Status, conditions[i].Reason, conditions[i].Message = core.ConditionTrue, reason, message
	}
	if err := errors.Join(left.errs...); err != nil {
		set(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(left.errs),
			strings.ReplaceAll(err.Error(), "\n", ", ")))
	}
	list := func(counts map[string]int, format string) string {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf(format, name, counts[name]))
		}
		return strings.Join(parts, ", ")
	}
	if len(left.kinds) > 0 {
		set(3, "SomeResourcesRemain", "Some resources are remaining: "+list(left.kinds, "%s has %d resource instances"))
	}
	if len(left.finalizers) > 0 {
		set(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+list(left.finalizers, "%s in %d resource instances"))
	}
	return conditions
}

// tellRemains writes the conditions of a namespace that goes, if they have changed.
func (s *Server) tellRemains(ctx context.Context, name string, left remains) error {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtimeObject) (runtimeObject, error) {
		ns, ok := old.DeepCopyObject().(*core.Namespace)
		if !ok {
			return nil, fmt.Errorf("not a namespace: %T", old)
		}
		for _, c := range namespaceConditions(left) {
			c.LastTransitionTime = metav1.Now()
			at := slices.IndexFunc(ns.Status.Conditions, func(o core.NamespaceCondition) bool { return o.Type == c.Type })
			if at < 0 {
				ns.Status.Conditions = append(ns.Status.Conditions, c)
				continue
			}
			if ns.Status.Conditions[at].Status == c.Status {
				c.LastTransitionTime = ns.Status.Conditions[at].LastTransitionTime
			}
			ns.Status.Conditions[at] = c
		}
		return ns, nil
	})
	_, _, err := s.registry.namespaceStatus.Update(clusterScope(store.Lazily(ctx)), name, info, rest.ValidateAllObjectFunc,
		rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("update namespace %s: %w", name, err)
	}
	return nil
}

func (s *Server) removeNamespace(ctx context.Context, name string) error {
	ctx = clusterScope(ctx)
	obj, err := s.registry.namespaces.Get(ctx, name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ns, ok := obj.(*core.Namespace)
	if !ok || ns.DeletionTimestamp == nil {
		return nil
	}
	finalizers := slices.DeleteFunc(slices.Clone(ns.Spec.Finalizers), func(f core.FinalizerName) bool { return f == core.FinalizerKubernetes })
	if len(finalizers) < len(ns.Spec.Finalizers) {
		ns.Spec.Finalizers = finalizers
		_, _, err := s.registry.namespaceFinalize.Update(ctx, name, rest.DefaultUpdatedObjectInfo(ns), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			return fmt.Errorf("finalize namespace %s: %w", name, err) // again
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("finalize namespace %s: %w", name, err)
		}
	}
	if len(finalizers) > 0 || len(ns.Finalizers) > 0 {
		return nil // others hold it
	}
	_, _, err = s.registry.namespaces.Delete(ctx, name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
