package runtime

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/store"
)

// Secrets reads the data of secrets in the store.
func Secrets(s *store.Store) func(namespace, name string) (map[string][]byte, error) {
	return func(namespace, name string) (map[string][]byte, error) {
		secret := &v1.Secret{}
		if ok, err := readObject(s, secretPrefix+namespace+"/"+name, secret); err != nil || !ok {
			return nil, errors.Join(err, fmt.Errorf("secret %s/%s: not found", namespace, name))
		}
		return secret.Data, nil
	}
}

// Wants tells whether a pod is to have what is being made for it: false when it is to go, or podd is.
func (r *Runtime) Wants(uid types.UID) bool {
	select {
	case <-r.down:
		return false
	default:
		pod, ok := r.Store.PodByUID(uid)
		return ok && pod.DeletionTimestamp == nil
	}
}
