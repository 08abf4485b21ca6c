package runtime

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"podd/runtime/plan"
	"podd/runtime/sources"
	"podd/status"
	"podd/store"
)

// Where the API keeps what pods refer to: the prefix + namespace + "/" + name.
const (
	configMapPrefix = "/configmaps/"
	secretPrefix    = "/secrets/"
	servicePrefix   = "/services/"
)

// objects are those of the store, as one step reads them: each is decoded once. It belongs to one goroutine.
type objects struct {
	store *store.Store
	read  map[string]any // by key; nil is not there
}

func (r *Runtime) objects() *objects { return &objects{store: r.Store, read: map[string]any{}} }

// get reads an object into into, which is empty; what was read before is what it returns.
func (o *objects) get(key string, into interface{ Unmarshal(data []byte) error }) (any, error) {
	if known, ok := o.read[key]; ok {
		return known, nil
	}
	entry, ok := o.store.Get(key)
	if !ok {
		o.read[key] = nil
		return nil, nil
	}
	if err := store.Decode(entry.Data, into); err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.TrimPrefix(key, "/"), err)
	}
	o.read[key] = into
	return into, nil
}

func (o *objects) ConfigMap(namespace, name string) (*v1.ConfigMap, error) {
	found, err := o.get(configMapPrefix+namespace+"/"+name, &v1.ConfigMap{})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
	}
	return found.(*v1.ConfigMap), nil
}

func (o *objects) Secret(namespace, name string) (*v1.Secret, error) {
	found, err := o.get(secretPrefix+namespace+"/"+name, &v1.Secret{})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
	}
	return found.(*v1.Secret), nil
}

func (o *objects) Services(namespace string) ([]*v1.Service, error) {
	entries, _, _ := o.store.List(servicePrefix+namespace+"/", "", 0)
	services := make([]*v1.Service, 0, len(entries))
	for _, e := range entries {
		s := &v1.Service{}
		if err := store.Decode(e.Data, s); err != nil {
			return nil, fmt.Errorf("read %s: %w", strings.TrimPrefix(e.Key, "/"), err)
		}
		services = append(services, s)
	}
	return services, nil
}

func (o *objects) Revision(namespace string, ref sources.Ref) int64 {
	prefix := configMapPrefix
	if ref.Kind == sources.Secret {
		prefix = secretPrefix
	}
	entry, _ := o.store.Get(prefix + namespace + "/" + ref.Name)
	return entry.Revision
}

// sourceChanged has the pods looked at that use the object of a key, and what failed of them for want of it tried again
// at once. It does not block.
func (r *Runtime) sourceChanged(key string) {
	kind, rest := sources.ConfigMap, ""
	switch {
	case strings.HasPrefix(key, configMapPrefix):
		rest = strings.TrimPrefix(key, configMapPrefix)
	case strings.HasPrefix(key, secretPrefix):
		kind, rest = sources.Secret, strings.TrimPrefix(key, secretPrefix)
	default:
		r.claimChanged(key)
		return
	}
	namespace, name, _ := strings.Cut(rest, "/")
	ref := sources.Ref{Kind: kind, Name: name}
	for _, pod := range r.Store.Pods() {
		if pod.Namespace == namespace && pod.Spec.NodeName == r.Node.Name && sources.Uses(pod, ref) {
			r.forgive(pod.UID)
		}
	}
}

// needSources are the steps that need what a pod refers to.
var needSources = []status.Op{plan.EnsureGround, plan.Create, plan.Refresh}

// forgive has what failed of a pod for want of something tried again at once, since that may be there now.
func (r *Runtime) forgive(uid types.UID) {
	r.mu.Lock()
	w, ok := r.workers[uid]
	r.mu.Unlock()
	if !ok {
		r.Wake(uid)
		return
	}
	w.Forgive(needSources...)
}
