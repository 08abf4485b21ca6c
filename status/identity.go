package status

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ContainerID is containerd's id of one instance: 64 hex digits, the same ones whenever asked, so that every step on
// an instance can be repeated without looking up what an earlier try made. A sandbox has the name "".
func ContainerID(uid types.UID, name string, attempt int) string {
	sum := sha256.Sum256([]byte("podd/" + string(uid) + "/" + name + "/" + strconv.Itoa(attempt)))
	return hex.EncodeToString(sum[:])
}

// RestartKey identifies what a crash loop is counted for: another image or other resources start a new count
// (pkg/kubelet/kuberuntime/helpers.go GetBackoffKey). It is made of named fields only, never of a marshalled struct:
// a new release of podd or of the API must not change the key of a running container.
func RestartKey(pod *v1.Pod, c *v1.Container) string {
	h := fnv.New64a()
	for _, part := range []string{
		pod.Name, pod.Namespace, string(pod.UID), c.Name, c.Image,
		list(c.Resources.Limits), list(c.Resources.Requests),
	} {
		_, _ = h.Write([]byte(part + "\n"))
	}
	return strconv.FormatUint(h.Sum64(), 16)
}

// list writes quantities in one fixed form: sorted by name, each in its canonical notation.
func list(r v1.ResourceList) string {
	parts := make([]string, 0, len(r))
	for name, q := range r {
		parts = append(parts, string(name)+"="+q.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
