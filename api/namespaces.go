package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/core"

	"podd/store"
)

// permanent are the namespaces that are always there, as in every cluster.
var permanent = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true, "kube-node-lease": true,
}

// clusterScope makes a context for calls into registries of kinds without a namespace.
func clusterScope(ctx context.Context) context.Context {
	return request.WithNamespace(ctx, metav1.NamespaceNone)
}

func (s *Server) ensureNamespaces(ctx context.Context) error {
	for name := range permanent {
		ns := &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		ns.Labels = map[string]string{"kubernetes.io/metadata.name": name}
		_, err := s.registry.namespaces.Create(clusterScope(ctx), ns, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	return nil
}

// finishNamespaces empties namespaces that are being deleted and lets them go. It looks when a namespace changes, when
// a pod changes while one is going, and after a failure.
func (s *Server) finishNamespaces(ctx context.Context) {
	defer s.Store.OnPodChange(func(types.UID) { s.lookAtNamespaces() })()
	changes, err := s.Store.Watch("/namespaces/", -1)
	if err != nil {
		s.Log.Error("namespaces cannot be deleted", "error", err)
		return
	}
	defer changes.Stop()
	going := s.goingNamespaces(ctx)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes.C:
			if _, _, err := changes.Next(); errors.Is(err, store.ErrClosed) {
				return
			}
			going = s.goingNamespaces(ctx)
		case <-s.nsChange:
		case <-retry.C:
		}
		for _, name := range going {
			if err := s.finishNamespace(ctx, name); err != nil && ctx.Err() == nil {
				s.Log.Warn("namespace stays for now", "namespace", name, "error", err)
				retry.Reset(time.Second)
			}
		}
	}
}

func (s *Server) lookAtNamespaces() {
	select {
	case s.nsChange <- struct{}{}:
	default:
	}
}

func (s *Server) goingNamespaces(ctx context.Context) (going []string) {
	list, err := s.registry.namespaces.List(clusterScope(ctx), &internalversion.ListOptions{})
	if err != nil {
		s.Log.Error("list namespaces", "error", err)
		return nil
	}
	namespaces, ok := list.(*core.NamespaceList)
	if !ok {
		return nil
	}
	for _, ns := range namespaces.Items {
		if ns.DeletionTimestamp != nil {
			going = append(going, ns.Name)
		}
	}
	return going
}

// finishNamespace asks for the deletion of what is in the namespace and, once nothing is, removes it.
func (s *Server) finishNamespace(ctx context.Context, name string) error {
	scoped := request.WithNamespace(ctx, name)
	pods, _, _ := s.Store.List(store.PodPrefix+name+"/", "", 0)
	for _, e := range pods {
		pod, ok := s.Store.Pod(name, strings.TrimPrefix(e.Key, store.PodPrefix+name+"/"))
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		_, _, err := s.registry.pods.Delete(scoped, pod.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if left, _, _ := s.Store.List(store.PodPrefix+name+"/", "", 1); len(left) > 0 {
		return nil // the runtime lets go of them one after the other
	}
	events, _, _ := s.Store.List("/events/"+name+"/", "", 0)
	for _, e := range events {
		if _, err := s.Store.Delete(store.Lazily(ctx), e.Key, e.Revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return s.removeNamespace(ctx, name)
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
	if len(ns.Spec.Finalizers) > 0 {
		ns.Spec.Finalizers = nil
		_, _, err := s.registry.namespaceFinalize.Update(ctx, name, rest.DefaultUpdatedObjectInfo(ns), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	_, _, err = s.registry.namespaces.Delete(ctx, name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
