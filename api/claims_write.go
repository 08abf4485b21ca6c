package api

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/storage"

	"podd/api/claims"
	"podd/store"
)

// What the keepers of claims write. What was read at a revision is written only if it is still that. But for new
// volumes it need not be durable: it follows from what is.

func decodeClaim(data []byte) *v1.PersistentVolumeClaim {
	obj, _, err := legacyscheme.Codecs.UniversalDecoder(v1.SchemeGroupVersion).Decode(data, nil, nil)
	claim, ok := obj.(*v1.PersistentVolumeClaim)
	if err != nil || !ok {
		return nil
	}
	return claim
}

func decodeVolume(data []byte) *v1.PersistentVolume {
	obj, _, err := legacyscheme.Codecs.UniversalDecoder(v1.SchemeGroupVersion).Decode(data, nil, nil)
	v, ok := obj.(*v1.PersistentVolume)
	if err != nil || !ok {
		return nil
	}
	return v
}

func (s *Server) createVolume(ctx context.Context, v *v1.PersistentVolume) error {
	internal := &core.PersistentVolume{}
	legacyscheme.Scheme.Default(v)
	if err := legacyscheme.Scheme.Convert(v, internal, nil); err != nil {
		return fmt.Errorf("make volume %s: %w", v.Name, err)
	}
	ctx = s.stored.byPrefix["persistentvolumes"].scope(ctx, "")
	_, err := s.registry.volumes.Create(ctx, internal, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make volume %s: %w", v.Name, err)
	}
	return nil
}

func (s *Server) createClaim(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	internal := &core.PersistentVolumeClaim{}
	legacyscheme.Scheme.Default(claim)
	if err := legacyscheme.Scheme.Convert(claim, internal, nil); err != nil {
		return fmt.Errorf("make claim %s: %w", claim.Name, err)
	}
	if err := s.completeClaim(internal); err != nil {
		return err
	}
	kind := s.stored.byPrefix["persistentvolumeclaims"]
	_, err := s.registry.claims.Create(kind.scope(store.Lazily(ctx), claim.Namespace), internal, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create PVC %s: %w", claim.Name, err)
	}
	return nil
}

func (s *Server) putVolume(ctx context.Context, v *v1.PersistentVolume) error {
	return s.putObject(ctx, s.registry.volumes, v, &core.PersistentVolume{})
}

func (s *Server) putVolumeStatus(ctx context.Context, v *v1.PersistentVolume) error {
	return s.putObject(ctx, s.registry.volumeStatus, v, &core.PersistentVolume{})
}

func (s *Server) putClaim(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	return s.putObject(ctx, s.registry.claims, claim, &core.PersistentVolumeClaim{})
}

func (s *Server) putClaimStatus(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	return s.putObject(ctx, s.registry.claimStatus, claim, &core.PersistentVolumeClaim{})
}

// putObject writes a claim or a volume; internal is an empty object for it in upstream's own form.
func (s *Server) putObject(ctx context.Context, storage rest.Updater, object interface {
	runtimeObject
	metav1.Object
}, internal runtimeObject) error {
	resource := "persistentvolumes"
	if object.GetNamespace() != "" {
		resource = "persistentvolumeclaims"
	}
	err := legacyscheme.Scheme.Convert(object, internal, nil)
	if err == nil {
		ctx = s.stored.byPrefix[resource].scope(store.Lazily(ctx), object.GetNamespace())
		_, _, err = storage.Update(ctx, object.GetName(), rest.DefaultUpdatedObjectInfo(internal), rest.ValidateAllObjectFunc,
			rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("update %s %s: %w", resource, object.GetName(), err)
	}
	return nil
}

// ensureStandard makes the class of claims that name none if there is no class at all: whoever has another one in its
// place does not get it back.
func (s *Server) ensureStandard(ctx context.Context) error {
	if some, _, _ := s.Store.List(classPrefix, "", 1); len(some) > 0 || s.Directories == nil {
		return nil
	}
	yes, immediate := true, storagev1.VolumeBindingImmediate
	class := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: claims.Standard, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: claims.Provisioner, AllowVolumeExpansion: &yes, VolumeBindingMode: &immediate,
	}
	legacyscheme.Scheme.Default(class)
	internal := &storage.StorageClass{}
	if err := legacyscheme.Scheme.Convert(class, internal, nil); err != nil {
		return fmt.Errorf("make storage class %s: %w", class.Name, err)
	}
	ctx = s.stored.byPrefix["storage.k8s.io/storageclasses"].scope(ctx, "")
	_, err := s.registry.storageClasses.Create(ctx, internal, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make storage class %s: %w", class.Name, err)
	}
	return nil
}
