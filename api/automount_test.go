package api_test

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const tokenMount = "/var/run/secrets/kubernetes.io/serviceaccount"

// TestAutomount: which pods get a token, and where. (Upstream: plugin/pkg/admission/serviceaccount.)
func TestAutomount(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	yes, no := true, false
	admin := kubernetes.NewForConfigOrDie(p.unix)
	for name, automount := range map[string]*bool{"willing": &yes, "unwilling": &no} {
		if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name},
			AutomountServiceAccountToken: automount}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, account string
		pod           *bool
		want          bool
	}{
		{"a", "default", nil, true}, {"b", "willing", nil, true}, {"c", "unwilling", nil, false}, {"d", "unwilling", &yes, true},
		{"e", "willing", &no, false}, {"f", "default", &no, false},
	} {
		made := pod(c.name)
		made.Spec.ServiceAccountName, made.Spec.AutomountServiceAccountToken = c.account, c.pod
		made.Spec.InitContainers = []v1.Container{{Name: "init", Image: "busybox"}}
		made.Spec.Volumes = []v1.Volume{{Name: "own", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		made.Spec.Containers = append(made.Spec.Containers, v1.Container{Name: "other", Image: "busybox",
			VolumeMounts: []v1.VolumeMount{{Name: "own", MountPath: tokenMount}}})
		made, err := admin.CoreV1().Pods("default").Create(t.Context(), made, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mounts := func(container v1.Container) string {
			i := slices.IndexFunc(container.VolumeMounts, func(m v1.VolumeMount) bool { return m.MountPath == tokenMount })
			if i < 0 {
				return ""
			}
			return container.VolumeMounts[i].Name
		}
		name := mounts(made.Spec.Containers[0])
		if (name != "") != c.want || mounts(made.Spec.InitContainers[0]) != name || mounts(made.Spec.Containers[1]) != "own" {
			t.Errorf("%s: mounts %q, %q, %q", c.name, name, mounts(made.Spec.InitContainers[0]), mounts(made.Spec.Containers[1]))
		}
		if !c.want {
			if len(made.Spec.Volumes) != 1 {
				t.Errorf("%s: volumes %v", c.name, made.Spec.Volumes)
			}
			continue
		}
		volume := made.Spec.Volumes[len(made.Spec.Volumes)-1]
		if volume.Name != name || !strings.HasPrefix(name, "kube-api-access-") || len(name) != len("kube-api-access-")+5 || volume.Projected == nil {
			t.Fatalf("%s: volume %+v", c.name, volume)
		}
		sources := volume.Projected.Sources
		if *volume.Projected.DefaultMode != 0o644 || len(sources) != 3 || sources[0].ServiceAccountToken.Path != "token" ||
			*sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || sources[0].ServiceAccountToken.Audience != "" ||
			sources[1].ConfigMap.Name != "kube-root-ca.crt" || sources[1].ConfigMap.Items[0].Path != "ca.crt" ||
			sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" {
			t.Errorf("%s: sources %+v", c.name, sources)
		}
	}
	// Pods of manifest files have none, and may not ask.
	static, err := p.server.PutStatic(t.Context(), pod("static"))
	if err != nil || len(static.Spec.Volumes) != 0 {
		t.Errorf("static: %v, %v", static, err)
	}
	asks := pod("asks")
	asks.Spec.Volumes = []v1.Volume{{Name: "t", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "t"}}}}}}}
	if _, err := p.server.PutStatic(t.Context(), asks); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a pod of a manifest file has no token") {
		t.Errorf("static that asks: %v", err)
	}
}
