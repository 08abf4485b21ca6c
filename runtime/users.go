package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/containers"
)

// The files that say who may have which ids of the host (subuid(5), subgid(5)).
const (
	subUIDs = "/etc/subuid"
	subGIDs = "/etc/subgid"
)

// ids is what the pods with users of their own take theirs from, unless root has given podd some by name: beyond those that
// useradd, systemd and directories (up to 2000200000, by FreeIPA and SSSD) give to users and containers, and below those that
// some programs take for negative.
var ids = span{0x7800_0000, 0x7ffe_0000}

// span is ids of the host, from first to before end.
type span struct{ first, end uint64 }

func (s span) overlaps(t span) bool { return s.first < t.end && t.first < s.end }

// users gives out ids. Who has which is in the records.
type users struct{ mu sync.Mutex }

// ensureUsers gives a pod that wants users of its own the ids of the host for them. It keeps them as long as there is
// anything of it: files in the writable layers of its containers belong to them.
func (h *host) ensureUsers(ctx context.Context, pod *v1.Pod) error {
	if !containers.OwnUsers(pod) {
		return nil
	}
	if err := h.r.Containers.CanMapUsers(ctx, h.handler()); err != nil {
		return err
	}
	if err := h.r.Containers.OpenTaskDir(); err != nil || h.record().FirstID != 0 {
		return err
	}
	h.r.users.mu.Lock()
	defer h.r.users.mu.Unlock()
	if h.record().FirstID != 0 { // another step was first
		return nil
	}
	first := madeWith(h.lastSeen().instances)
	if first == 0 {
		var err error
		if first, err = h.r.freeIDs(); err != nil {
			return fmt.Errorf("hostUsers: false: %w", err)
		}
	}
	return h.change(ctx, func(r record) record { r.FirstID = first; return r })
}

// madeWith is the first id that what there is of a pod was made with, 0 if nothing of it has users of its own.
func madeWith(instances []containers.Instance) (first uint32) {
	for _, i := range instances {
		first = max(first, i.FirstID) // all have the same
	}
	return first
}

// findUsers has the ids of a pod known whose record was lost since it was given some: without them its next container would
// have the host's own users.
func (h *host) findUsers(ctx context.Context, pod *v1.Pod) error {
	if h.record().FirstID != 0 {
		return nil
	}
	return h.ensureUsers(ctx, pod)
}

// freeIDs are the first that no pod has. users.mu is held.
func (r *Runtime) freeIDs() (uint32, error) {
	taken := map[uint64]bool{}
	for uid, data := range r.Store.Records() {
		rec, err := decodeRecord(data)
		if err != nil {
			return 0, fmt.Errorf("which ids pod %s has: %w", uid, err)
		}
		if rec.FirstID != 0 {
			taken[uint64(rec.FirstID)] = true
		}
	}
	spans, given, err := givenIDs()
	if err != nil {
		return 0, err
	}
	return firstFree(spans, given, taken)
}

// givenIDs are the spans that podd may use, and those that are others'.
func givenIDs() (podd, others []span, err error) {
	var own [2][]span
	for i, file := range []string{subUIDs, subGIDs} {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		mine, rest := subordinate(string(text))
		own[i], others = mine, append(others, rest...)
	}
	switch {
	case !slices.Equal(own[0], own[1]):
		return nil, nil, fmt.Errorf("the lines for podd in %s and %s differ: a pod has the same ids for users and groups", subUIDs, subGIDs)
	case own[0] != nil:
		return own[0], others, nil
	}
	return []span{ids}, others, nil
}

// subordinate reads lines of the form name:first:count. Others are somebody else's to mend.
func subordinate(text string) (podd, others []span) {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		parts := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(parts) != 3 {
			continue
		}
		first, err := strconv.ParseUint(parts[1], 10, 32)
		count, err2 := strconv.ParseUint(parts[2], 10, 32)
		if err != nil || err2 != nil || count == 0 {
			continue
		}
		if s := (span{first, first + count}); parts[0] == "podd" {
			podd = append(podd, s)
		} else {
			others = append(others, s)
		}
	}
	return podd, others
}

// maxHostID is the highest id that a pod's may be on the host: above, some programs take them for negative.
const maxHostID = 1<<31 - 1

// firstFree is where the first ids begin that are within the spans, nobody else's, and not taken. None begin at 0 or below
// containers.IDs: those are the host's own users.
func firstFree(spans, others []span, taken map[uint64]bool) (uint32, error) {
	for _, s := range spans {
		for first := max(s.first, containers.IDs); first+containers.IDs <= min(s.end, maxHostID+1); first += containers.IDs {
			one := span{first, first + containers.IDs}
			if !overlapsAny(one, others) && !overlapsTaken(one, taken) {
				return uint32(first), nil
			}
		}
	}
	return 0, fmt.Errorf("no ids are left for users of another pod: each takes %d; a line podd:FIRST:COUNT in %s and in %s gives podd others", containers.IDs, subUIDs, subGIDs)
}

func overlapsAny(one span, others []span) bool { return slices.ContainsFunc(others, one.overlaps) }

func overlapsTaken(one span, taken map[uint64]bool) bool {
	if taken[one.first] {
		return true
	}
	for first := range taken {
		if one.overlaps(span{first, first + containers.IDs}) {
			return true
		}
	}
	return false
}

// namespaces has those of one sandbox of the pod that members join, and tells where its network's is, "" with hostNetwork.
func (h *host) namespaces(ctx context.Context, pod *v1.Pod, attempt int) (netns string, err error) {
	if err := h.own(ctx, pod, attempt); err != nil {
		return "", err
	}
	return h.r.Network.Netns(ctx, h.netPod(pod, attempt))
}

// own has the namespaces that belong to the pod's own users, if it has such.
func (h *host) own(ctx context.Context, pod *v1.Pod, attempt int) error {
	if err := h.findUsers(ctx, pod); err != nil {
		return err
	}
	first := h.record().FirstID
	if first == 0 {
		return nil
	}
	if err := h.r.Sandboxes.EnsureNamespaces(pod, attempt, first); err != nil {
		return err
	}
	hosts := h.r.Sandboxes.EtcMounts(pod, &v1.Container{})[0]
	if err := h.sandboxOf(pod, attempt, "").MapMount(&hosts); err != nil { // later kernels can map tmpfs than others
		return fmt.Errorf("hostUsers: false takes Linux 6.3: /etc/hosts of the pod: %w", err)
	}
	return nil
}

// sandboxOf is what members of one sandbox join.
func (h *host) sandboxOf(pod *v1.Pod, attempt int, netns string) containers.Sandbox {
	return h.r.Sandboxes.Ref(pod, attempt, netns, h.record().FirstID)
}

// mapMounts has the files of the pod shown with its own ids. What an image of several layers shows is so already.
func (h *host) mapMounts(ctx context.Context, pod *v1.Pod, c *v1.Container, box containers.Sandbox, mounts []specs.Mount) error {
	if box.UserNS == "" {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- mapMounts(pod, c, box, mounts) }() // a dead server holds whoever asks
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func mapMounts(pod *v1.Pod, c *v1.Container, box containers.Sandbox, mounts []specs.Mount) error {
	for i := range mounts {
		name, image := volumeAt(pod, c, mounts[i].Destination)
		if image && containers.Layered(mounts[i].Source) {
			continue
		}
		if err := box.MapMount(&mounts[i]); err != nil && name != "" {
			return fmt.Errorf("volumeMount %s: %w", name, err)
		} else if err != nil {
			return fmt.Errorf("mount %s: %w", mounts[i].Destination, err)
		}
	}
	return nil
}

// volumeAt is the volume that a container mounts at a path, and whether it is that of an image; "" if none is.
func volumeAt(pod *v1.Pod, c *v1.Container, path string) (name string, image bool) {
	m := slices.IndexFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return filepath.Clean(m.MountPath) == path })
	if m < 0 {
		return "", false
	}
	name = c.VolumeMounts[m].Name
	return name, slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == name && v.Image != nil })
}
