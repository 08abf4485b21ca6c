package runtime

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"podd/runtime/images"
	"podd/status"
)

// imagesOf are the references of all images that a pod needs: those of its containers and of its volumes.
func imagesOf(pod *v1.Pod) []string {
	var refs []string
	for _, m := range status.Members(pod) {
		refs = append(refs, m.Image)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			refs = append(refs, v.Image.Reference)
		}
	}
	return refs
}

// mountedImages says which image volumes of the pod are mounted.
func (h *host) mountedImages(pod *v1.Pod) map[string]bool {
	var mounted map[string]bool
	for _, v := range pod.Spec.Volumes {
		if v.Image == nil || !h.r.Volumes.ImageMounted(string(h.uid), v.Name) {
			continue
		}
		if mounted == nil {
			mounted = map[string]bool{}
		}
		mounted[v.Name] = true
	}
	return mounted
}

// ensureImageVolumes mounts the image volumes of a container that is about to be made. One that is mounted stays as it is:
// new content of an image comes with another pod.
func (h *host) ensureImageVolumes(ctx context.Context, pod *v1.Pod, c *v1.Container) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	uid := string(h.uid)
	for _, v := range status.ImageVolumes(pod, c) {
		if h.r.Volumes.ImageMounted(uid, v.Name) {
			continue
		}
		ref := v.Image.Reference
		info, ok, err := h.r.Images.Look(ctx, ref)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		if !ok {
			return fmt.Errorf("volume %s: image %s: is not on this host any more", v.Name, ref)
		}
		mounts, err := h.r.Containers.View(ctx, uid, v.Name, info.ChainID, h.record().FirstID)
		if err != nil {
			return fmt.Errorf("volume %s: image %s: %w", v.Name, ref, err)
		}
		if err := h.r.Volumes.MountImage(uid, v.Name, mounts); err != nil {
			return err
		}
		if h.pulled()[ref].IsZero() {
			h.event(pod, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", ref)
		}
	}
	return nil
}

// removeImageVolumes takes the image volumes of the pod away, while its lease still holds their images.
func (h *host) removeImageVolumes(ctx context.Context) error {
	names, err := h.r.Volumes.UnmountImages(ctx, string(h.uid))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := h.r.Containers.RemoveView(ctx, string(h.uid), name); err != nil {
			return err
		}
	}
	return nil
}

// mountsImage are the pods that are not over, as namespace/name, with a volume that is made from the image with this full name.
func (r *Runtime) mountsImage(name string) []string {
	var pods []string
	for _, pod := range r.Store.Pods() {
		if phase := pod.Status.Phase; phase == v1.PodSucceeded || phase == v1.PodFailed || pod.Spec.NodeName != r.Node.Name {
			continue
		}
		if slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool {
			if v.Image == nil {
				return false
			}
			full, err := images.Normalize(v.Image.Reference)
			return err == nil && full == name
		}) {
			pods = append(pods, pod.Namespace+"/"+pod.Name)
		}
	}
	return pods
}
