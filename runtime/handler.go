package runtime

import (
	"context"

	v1 "k8s.io/api/core/v1"
)

// ensureHandler notes which OCI runtime the pod's runtime class stands for, and sees that this host has it. The pod keeps
// it, whatever becomes of its class.
func (h *host) ensureHandler(ctx context.Context, pod *v1.Pod) error {
	class, name := pod.Spec.RuntimeClassName, h.handler()
	if class == nil || *class == "" {
		return nil
	}
	if name == "" {
		var err error
		if name, err = h.r.Handler(*class); err != nil {
			return err
		}
		if err := h.change(ctx, func(r record) record { r.Handler = name; return r }); err != nil {
			return err
		}
	}
	return h.r.Containers.HasHandler(name)
}

// handler is the OCI runtime of the pod: that of its sandbox, if it has one.
func (h *host) handler() string {
	for _, i := range h.lastSeen().instances {
		if i.Name == "" {
			return i.Handler
		}
	}
	return h.record().Handler
}
