package runtime

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// ensureHandler notes which OCI runtime or shim the pod's runtime class stands for, and sees that this host has it. The pod keeps
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
	if h.r.Containers.IsShim(name) && sharesHost(pod) {
		return fmt.Errorf("runtime for %q: a shim gives each pod namespaces of its own: hostNetwork, hostPID and hostIPC are not to be had with it", name)
	}
	return h.r.Containers.HasHandler(name)
}

// sharesHost tells whether a pod is to use namespaces of the host. Shims that bring a kernel of their own leave that out
// without a word, and none says which kind it is.
func sharesHost(pod *v1.Pod) bool {
	return pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC
}

// handler is that of the pod: the one of its sandbox, if it has one.
func (h *host) handler() string {
	for _, i := range h.lastSeen().instances {
		if i.Name == "" {
			return i.Handler
		}
	}
	return h.record().Handler
}
