package api

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper"
	"k8s.io/kubernetes/pkg/apis/storage"

	"podd/api/claims"
)

// claim gives a new claim its class and its finalizer, and refuses what podd has no way to do. (Upstream: the admission plugins
// DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.)
func (a *admit) claim(attr admission.Attributes, claim *core.PersistentVolumeClaim) error {
	if attr.GetSubresource() != "" {
		return nil
	}
	switch attr.GetOperation() {
	case admission.Create:
		if errs := checkClaim(&claim.Spec, field.NewPath("spec")); len(errs) > 0 {
			return apierrors.NewInvalid(core.Kind("PersistentVolumeClaim"), claim.Name, errs)
		}
		return a.server.completeClaim(claim)
	case admission.Update:
		old, ok := attr.GetOldObject().(*core.PersistentVolumeClaim)
		if !ok {
			return nil
		}
		want, had := claim.Spec.Resources.Requests[core.ResourceStorage], old.Spec.Resources.Requests[core.ResourceStorage]
		switch {
		case want.Cmp(had) <= 0:
		case old.Status.Phase != core.ClaimBound:
			//lint:ignore ST1005 upstream's words
			return admission.NewForbidden(attr, fmt.Errorf("Only bound persistent volume claims can be expanded"))
		case !a.server.expands(old):
			return admission.NewForbidden(attr, fmt.Errorf("only dynamically provisioned pvc can be resized and "+
				"the storageclass that provisions the pvc must support resize"))
		}
	}
	return nil
}

// completeClaim gives a claim that names no class the default one, and the finalizer that keeps what is in use.
func (s *Server) completeClaim(claim *core.PersistentVolumeClaim) error {
	if !slices.Contains(claim.Finalizers, claims.ClaimProtection) {
		claim.Finalizers = append(claim.Finalizers, claims.ClaimProtection)
	}
	if helper.PersistentVolumeClaimHasClass(claim) {
		return nil
	}
	classes, err := s.objects().classes()
	if err != nil {
		return err
	}
	if class := claims.Default(classes); class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

func (s *Server) objects() *objectCache {
	return &objectCache{server: s, known: map[string]knownObject{}}
}

// expands tells whether the claim may ask for more. Only what podd's own provisioner has made grows by asking.
func (s *Server) expands(claim *core.PersistentVolumeClaim) bool {
	read := s.objects()
	class, err := read.class(helper.GetPersistentVolumeClaimClass(claim))
	if err != nil || class == nil || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return false
	}
	v, err := read.volume(volumePrefix + claim.Spec.VolumeName)
	return err == nil && v != nil && claims.Provisioned(v)
}

// checkClaim refuses what podd would not do of what a claim asks for.
func checkClaim(spec *core.PersistentVolumeClaimSpec, path *field.Path) (errs field.ErrorList) {
	if spec.DataSource != nil {
		errs = append(errs, field.Forbidden(path.Child("dataSource"), "not supported by podd (a volume begins empty)"))
	}
	if spec.DataSourceRef != nil && spec.DataSource == nil {
		errs = append(errs, field.Forbidden(path.Child("dataSourceRef"), "not supported by podd (a volume begins empty)"))
	}
	if spec.VolumeAttributesClassName != nil {
		errs = append(errs, field.Forbidden(path.Child("volumeAttributesClassName"), "not supported by podd (directories have no attributes)"))
	}
	return errs
}

// volume gives a new volume its finalizer and refuses what podd cannot give to pods.
func (a *admit) volume(attr admission.Attributes, v *core.PersistentVolume) error {
	if attr.GetOperation() != admission.Create || attr.GetSubresource() != "" {
		return nil
	}
	if !slices.Contains(v.Finalizers, claims.VolumeProtection) {
		v.Finalizers = append(v.Finalizers, claims.VolumeProtection)
	}
	path := field.NewPath("spec")
	var errs field.ErrorList
	bound, mounted := v.Spec.HostPath != nil || v.Spec.Local != nil, v.Spec.NFS != nil || v.Spec.ISCSI != nil
	if name := sourceName(v.Spec.PersistentVolumeSource); !bound && !mounted && name != "" { // without any the validation says so
		errs = append(errs, field.Forbidden(path.Child(name), "not supported by podd (of the sources of volumes it has hostPath, local, nfs and iscsi)"))
	}
	if v.Spec.ISCSI != nil && v.Spec.VolumeMode != nil && *v.Spec.VolumeMode == core.PersistentVolumeBlock {
		errs = append(errs, field.Forbidden(path.Child("volumeMode"), "Block: not supported by podd for iscsi"))
	}
	if v.Spec.Local != nil && v.Spec.Local.FSType != nil {
		errs = append(errs, field.Forbidden(path.Child("local", "fsType"), "not supported by podd (it neither formats nor mounts devices)"))
	}
	if len(v.Spec.MountOptions) > 0 && bound {
		errs = append(errs, field.Forbidden(path.Child("mountOptions"), "not supported by podd (hostPath and local are not mounted, but bound)"))
	}
	if v.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "Recycle: not supported by podd (deprecated: use Delete or Retain)"))
	}
	if v.Spec.VolumeAttributesClassName != nil {
		errs = append(errs, field.Forbidden(path.Child("volumeAttributesClassName"), "not supported by podd (directories have no attributes)"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(core.Kind("PersistentVolume"), v.Name, errs)
	}
	return nil
}

// sourceName is the field that says what a volume is made of, as manifests have it; empty if none does.
func sourceName(source core.PersistentVolumeSource) string {
	set := reflect.ValueOf(source)
	for i := range set.NumField() {
		if set.Field(i).IsZero() {
			continue
		}
		if f, ok := reflect.TypeFor[v1.PersistentVolumeSource]().FieldByName(set.Type().Field(i).Name); ok {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}

// checkClass refuses what podd's provisioner would not do.
func checkClass(class *storage.StorageClass) error {
	if class.Provisioner != claims.Provisioner {
		return nil
	}
	var errs field.ErrorList
	for name := range class.Parameters {
		errs = append(errs, field.Forbidden(field.NewPath("parameters").Key(name), "not supported by "+claims.Provisioner+": it has no parameters"))
	}
	if len(class.MountOptions) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("mountOptions"), "not supported by "+claims.Provisioner+": directories are not mounted, but bound"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(storage.Kind("StorageClass"), class.Name, errs)
	}
	return nil
}
