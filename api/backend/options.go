package backend

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"podd/store"
)

// Options hands every registry its view of the store. It implements generic.RESTOptionsGetter.
type Options struct{ Store *store.Store }

// GetRESTOptions is called by the registry of a resource when it is made.
func (o Options) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	codec, err := storageCodec(resource.Group, example)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("storage of %s: %w", resource, err)
	}
	config := storagebackend.NewDefaultConfig("/", codec)
	config.EncodeVersioner = nil
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(resource),
		ResourcePrefix:          prefix(resource),
		DeleteCollectionWorkers: 1,
		EnableGarbageCollection: true,
		Decorator: func(config *storagebackend.ConfigForResource, resourcePrefix string,
			_ func(obj runtime.Object) (string, error), newFunc func() runtime.Object, _ func() runtime.Object,
			_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			b := &Backend{store: o.Store, codec: config.Codec, prefix: resourcePrefix + "/", newFunc: newFunc}
			return b, func() {}, nil
		},
	}, nil
}

// prefix is where a resource lives in the store. store.PodPrefix is the one of pods.
func prefix(resource schema.GroupResource) string {
	if resource.Group == "" {
		return "/" + resource.Resource
	}
	return "/" + resource.Group + "/" + resource.Resource
}

// storageCodec writes protobuf of the newest external version of the kind in the group, and reads into the internal one. A
// kind may be in several groups, as events are.
func storageCodec(group string, example runtime.Object) (runtime.Codec, error) {
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(example)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(kinds, func(kind schema.GroupVersionKind) bool { return kind.Group == group }) {
		return nil, fmt.Errorf("%T is not of group %q", example, group)
	}
	versions := legacyscheme.Scheme.PrioritizedVersionsForGroup(group)
	if len(versions) == 0 {
		return nil, fmt.Errorf("no version of group %q", group)
	}
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, fmt.Errorf("no protobuf serializer")
	}
	internal := schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
	return legacyscheme.Codecs.CodecForVersions(info.Serializer, info.Serializer, versions[0], internal), nil
}
