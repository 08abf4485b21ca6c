package runtime

import "k8s.io/apimachinery/pkg/types"

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
