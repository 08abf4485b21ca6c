package api

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/discovery"
	discoveryvalidation "k8s.io/kubernetes/pkg/apis/discovery/validation"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"

	"podd/api/backend"
)

// Upstream's registries of these kinds import whole controllers and the signing of tokens, for a constant each. Defaults,
// validation and tables here are upstream's; only the strategies are podd's own.

// registry is a store of one kind.
type registry struct {
	*genericregistry.Store
	short []string
}

// ShortNames are what kubectl takes for the resource's name.
func (r *registry) ShortNames() []string { return r.short }

// strategy is what a kind wants at a write.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
	rest.RESTDeleteStrategy
}

func newRegistry(opts backend.Options, plural, singular schema.GroupResource, strategy strategy, short string,
	object, list func() runtime.Object) (*registry, error) {
	store := &genericregistry.Store{
		NewFunc: object, NewListFunc: list, DefaultQualifiedResource: plural, SingularQualifiedResource: singular,
		CreateStrategy: strategy, UpdateStrategy: strategy, DeleteStrategy: strategy,
		TableConvertor: printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)},
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: opts}); err != nil {
		return nil, err
	}
	r := &registry{Store: store}
	if short != "" {
		r.short = []string{short}
	}
	return r, nil
}

// plain is what the strategies below have in common: namespaced, made by POST, changed with or without a version.
type plain struct {
	runtime.ObjectTyper
	names.NameGenerator
}

var plainStrategy = plain{legacyscheme.Scheme, names.SimpleNameGenerator}

func (plain) NamespaceScoped() bool                                            { return true }
func (plain) AllowCreateOnUpdate() bool                                        { return false }
func (plain) AllowUnconditionalUpdate() bool                                   { return true }
func (plain) Canonicalize(runtime.Object)                                      {}
func (plain) PrepareForCreate(context.Context, runtime.Object)                 {}
func (plain) PrepareForUpdate(_ context.Context, _, _ runtime.Object)          {}
func (plain) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (plain) WarningsOnUpdate(_ context.Context, _, _ runtime.Object) []string { return nil }

type accountStrategy struct{ plain }

func newServiceAccounts(opts backend.Options) (*registry, error) {
	r, err := newRegistry(opts, core.Resource("serviceaccounts"), core.Resource("serviceaccount"), accountStrategy{plainStrategy}, "sa",
		func() runtime.Object { return &core.ServiceAccount{} }, func() runtime.Object { return &core.ServiceAccountList{} })
	if err != nil {
		return nil, err
	}
	r.ReturnDeletedObject = true
	return r, nil
}

// PrepareForCreate keeps nothing of the references to secrets but their names: the namespace is the account's.
func (accountStrategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	account := obj.(*core.ServiceAccount)
	for i, secret := range account.Secrets {
		account.Secrets[i] = core.ObjectReference{Name: secret.Name}
	}
}

func (s accountStrategy) PrepareForUpdate(ctx context.Context, obj, _ runtime.Object) {
	s.PrepareForCreate(ctx, obj)
}

func (accountStrategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateServiceAccount(obj.(*core.ServiceAccount))
}

func (accountStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateServiceAccountUpdate(obj.(*core.ServiceAccount), old.(*core.ServiceAccount))
}

type endpointsStrategy struct{ plain }

// AllowCreateOnUpdate is true for endpoints: leader election of long ago made them by PUT.
func (endpointsStrategy) AllowCreateOnUpdate() bool { return true }

func newEndpoints(opts backend.Options) (*registry, error) {
	return newRegistry(opts, core.Resource("endpoints"), core.Resource("endpoints"), endpointsStrategy{plainStrategy}, "ep",
		func() runtime.Object { return &core.Endpoints{} }, func() runtime.Object { return &core.EndpointsList{} })
}

func (endpointsStrategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateEndpointsCreate(obj.(*core.Endpoints))
}

func (endpointsStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateEndpointsUpdate(obj.(*core.Endpoints), old.(*core.Endpoints))
}

func (endpointsStrategy) WarningsOnCreate(_ context.Context, obj runtime.Object) (warnings []string) {
	for i, subset := range obj.(*core.Endpoints).Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, address := range subset.Addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), address.IP)...)
		}
		for j, address := range subset.NotReadyAddresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), address.IP)...)
		}
	}
	return warnings
}

func (s endpointsStrategy) WarningsOnUpdate(ctx context.Context, obj, _ runtime.Object) []string {
	return s.WarningsOnCreate(ctx, obj)
}

type sliceStrategy struct{ plain }

func newEndpointSlices(opts backend.Options) (*registry, error) {
	return newRegistry(opts, discovery.Resource("endpointslices"), discovery.Resource("endpointslice"), sliceStrategy{plainStrategy}, "",
		func() runtime.Object { return &discovery.EndpointSlice{} }, func() runtime.Object { return &discovery.EndpointSliceList{} })
}

// PrepareForCreate drops the topology of v1beta1, which cannot be written through v1.
func (sliceStrategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	slice := obj.(*discovery.EndpointSlice)
	slice.Generation = 1
	for i := range slice.Endpoints {
		slice.Endpoints[i].DeprecatedTopology = nil
	}
}

// PrepareForUpdate counts the generation up when anything but metadata changes, or the labels do.
func (sliceStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	slice, was := obj.(*discovery.EndpointSlice), old.(*discovery.EndpointSlice)
	for i := range slice.Endpoints {
		slice.Endpoints[i].DeprecatedTopology = nil
	}
	a, b := *slice, *was
	a.ObjectMeta, b.ObjectMeta = metav1.ObjectMeta{Labels: slice.Labels}, metav1.ObjectMeta{Labels: was.Labels}
	slice.Generation = was.Generation
	if !equality.Semantic.DeepEqual(&a, &b) {
		slice.Generation++
	}
}

func (sliceStrategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	slice := obj.(*discovery.EndpointSlice)
	return rest.ValidateDeclarativelyWithMigrationChecks(ctx, legacyscheme.Scheme, slice, nil,
		discoveryvalidation.ValidateEndpointSliceCreate(slice), operation.Create)
}

func (sliceStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	slice, was := obj.(*discovery.EndpointSlice), old.(*discovery.EndpointSlice)
	return rest.ValidateDeclarativelyWithMigrationChecks(ctx, legacyscheme.Scheme, slice, was,
		discoveryvalidation.ValidateEndpointSliceUpdate(slice, was), operation.Update)
}

func (sliceStrategy) WarningsOnCreate(_ context.Context, obj runtime.Object) (warnings []string) {
	slice := obj.(*discovery.EndpointSlice)
	if slice.AddressType == discovery.AddressTypeFQDN {
		warnings = append(warnings, fmt.Sprintf("%s: FQDN endpoints are deprecated", field.NewPath("spec", "addressType")))
	}
	for i, endpoint := range slice.Endpoints {
		for j, address := range endpoint.Addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), address)...)
		}
	}
	return warnings
}

func (s sliceStrategy) WarningsOnUpdate(ctx context.Context, obj, _ runtime.Object) []string {
	return s.WarningsOnCreate(ctx, obj)
}
