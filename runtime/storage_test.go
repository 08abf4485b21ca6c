package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/volumes"
)

// What a pod stores in a tree that cannot be counted is beyond its limits, whichever they are.
func TestDeepVolumeIsBeyond(t *testing.T) {
	p := newPromising(t)
	var err error
	if p.Volumes, err = volumes.Open(volumes.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	pod, _ := p.bound("web", "")
	pod = pod.DeepCopy()
	for _, name := range []string{"flat", "deep"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	}
	for _, dir := range []string{"flat", "deep", "deep" + strings.Repeat("/d", 300)} {
		if err := os.MkdirAll(filepath.Join(p.Volumes.Path(string(pod.UID), dir)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	size := resource.MustParse("1Gi")
	if got := p.exceeds(t.Context(), pod); got != "" {
		t.Errorf("without a limit it is beyond one: %s", got)
	}
	pod.Spec.Volumes[0].EmptyDir.SizeLimit = &size
	if got := p.exceeds(t.Context(), pod); got != "" {
		t.Errorf("beyond the limit of another volume: %s", got)
	}
	pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: size}
	if got := p.exceeds(t.Context(), pod); !strings.Contains(got, "total limit of containers 1Gi") {
		t.Errorf("not beyond the limit of the pod: %q", got)
	}
	pod.Spec.Volumes[1].EmptyDir.SizeLimit = &size
	if got := p.exceeds(t.Context(), pod); !strings.Contains(got, `EmptyDir volume "deep" exceeds the limit "1Gi"`) {
		t.Errorf("not beyond the limit of the volume: %q", got)
	}
}
