package runtime

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	told "podd/api/history"
	"podd/runtime/sources"
	"podd/status"
	"podd/volumes"
)

// place is what a pod may be told of the host and of itself.
func (h *host) place(pod *v1.Pod, ips []string) sources.Host {
	p := sources.Host{
		PodIPs: status.PodIPs(pod, ips, h.r.Node.IPs), HostIPs: h.r.Node.IPs, Tokens: h.r.Tokens,
		Open: func(volume, path string) (io.ReadCloser, error) { return h.r.Volumes.OpenFile(pod, volume, path) },
	}
	if h.r.Allocatable != nil {
		p.Allocatable = h.r.Allocatable()
	}
	return p
}

// environment is the variables of a container of the pod, with the resources that are admitted.
func (h *host) environment(ctx context.Context, admitted *v1.Pod, c *v1.Container) ([]v1.EnvVar, error) {
	var ips []string
	if status.NeedsAddress(c) && !admitted.Spec.HostNetwork {
		st, err := h.r.Network.Look(string(h.uid))
		if err != nil {
			return nil, err
		}
		ips = st.Result.IPs
	}
	return sources.Environment(ctx, h.r.objects(), h.place(admitted, ips), admitted, c)
}

// ensureContent has all volumes that podd fills, of the sources as they are now. An error for one of them is *volumes.Error,
// for several they are joined.
func (h *host) ensureContent(ctx context.Context, pod *v1.Pod) error {
	return h.write(ctx, h.admitted(pod), func(vol *v1.Volume, _ volumes.Written, err error) error {
		return &volumes.Error{Volume: vol.Name, Err: err}
	})
}

// refresh has the volumes follow their sources. One whose sources are not there any more stays as it is, and an event says
// so: its containers run, and go on with what they have.
func (h *host) refresh(ctx context.Context, pod *v1.Pod) error {
	pod = h.admitted(pod)
	return h.write(ctx, pod, func(vol *v1.Volume, from volumes.Written, err error) error {
		var unresolved *sources.Unresolved
		if !errors.As(err, &unresolved) {
			return &volumes.Error{Volume: vol.Name, Err: err}
		}
		h.failedMount(pod, &volumes.Error{Volume: vol.Name, Err: err})
		h.r.Log.Warn("a volume stays as it is", "namespace", pod.Namespace, "pod", pod.Name, "volume", vol.Name, "err", err)
		return h.r.Volumes.Keep(pod, vol, from)
	})
}

// keptAgain is how soon a volume is tried again that stays as it is though it is due.
const keptAgain = time.Minute

// write writes every volume that is not of its sources as they are now. amiss says what becomes of it if there is no
// content for one; from is what there would have been content of, due as before. One volume that goes wrong stops none after it.
func (h *host) write(ctx context.Context, pod *v1.Pod, amiss func(vol *v1.Volume, from volumes.Written, err error) error) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	written, err := h.r.Volumes.Written(string(h.uid))
	if err != nil {
		return err
	}
	var wrong []error
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if !sources.IsContent(vol) {
			continue
		}
		objects, place := h.r.objects(), h.place(pod, nil)
		from := volumes.Written{Stamp: sources.Stamp(objects, place, pod, vol)} // before the sources are read: they may change meanwhile
		was, ok := written[vol.Name]
		if ok && !stale(was, from.Stamp, time.Now()) {
			continue
		}
		content, err := sources.Files(ctx, objects, place, pod, vol)
		if err == nil {
			from.Due = content.Due
			files := make(map[string]volumes.File, len(content.Files))
			for path, f := range content.Files {
				files[path] = volumes.File(f)
			}
			if err = h.r.Volumes.Write(ctx, pod, vol, files, from); err == nil && was.Amiss != "" {
				h.story.add(pod, told.Entry{What: told.Volume, Reason: vol.Name})
			}
		} else {
			from.Amiss = err.Error()
			if from.Due = was.Due; !from.Due.IsZero() && !from.Due.After(time.Now()) {
				from.Due = time.Now().Add(keptAgain)
			}
			if err = amiss(vol, from, err); err == nil && was.Amiss != from.Amiss {
				h.story.add(pod, told.Entry{What: told.Volume, Reason: vol.Name, Failed: true, Message: from.Amiss})
			}
		}
		if err != nil {
			wrong = append(wrong, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(wrong...)
}

func stale(was volumes.Written, stamp string, now time.Time) bool {
	return was.Stamp != stamp || !was.Due.IsZero() && !was.Due.After(now)
}

// observeContent tells whether the volumes are of their sources as they are now.
func (h *host) observeContent(pod *v1.Pod, f *status.Facts) error {
	if !f.Ground || !slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return sources.IsContent(&v) }) {
		return nil
	}
	written, err := h.r.Volumes.Written(string(h.uid))
	if err != nil {
		return err
	}
	pod = h.admitted(pod)
	objects, place := h.r.objects(), h.place(pod, nil)
	change := fnv.New32a()
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if !sources.IsContent(vol) {
			continue
		}
		was, there := written[vol.Name]
		stamp := sources.Stamp(objects, place, pod, vol)
		if !there || stale(was, stamp, f.Now) {
			fmt.Fprintf(change, "%s %s %v\n", vol.Name, stamp, was.Due)
			f.Stale = int(change.Sum32()) | 1
		}
		if !was.Due.IsZero() && (f.RefreshAt.IsZero() || was.Due.Before(f.RefreshAt)) {
			f.RefreshAt = was.Due
		}
	}
	return nil
}
