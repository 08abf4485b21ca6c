//go:build host

package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// many is how many pods are started at once.
const many = 100

// volumesOf are ten volumes of all kinds that a pod commonly has.
func (b *bench) volumesOf() []v1.Volume {
	size := resource.MustParse("1Mi")
	seconds := int64(3600)
	items := []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}
	named := v1.LocalObjectReference{Name: "bench"}
	sources := []v1.VolumeSource{
		{EmptyDir: &v1.EmptyDirVolumeSource{}},
		{EmptyDir: &v1.EmptyDirVolumeSource{}},
		{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &size}},
		{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: named}},
		{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: named}},
		{Secret: &v1.SecretVolumeSource{SecretName: "bench"}},
		{Secret: &v1.SecretVolumeSource{SecretName: "bench"}},
		{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: items}},
		{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: named}},
			{Secret: &v1.SecretProjection{LocalObjectReference: named, Items: []v1.KeyToPath{{Key: "k0", Path: "secret/k0"}}}},
		}}},
		{HostPath: &v1.HostPathVolumeSource{Path: b.out}},
	}
	volumes := make([]v1.Volume, len(sources))
	for i, source := range sources {
		volumes[i] = v1.Volume{Name: fmt.Sprintf("v%d", i), VolumeSource: source}
	}
	return volumes
}

// volumesPod is a pod with ten volumes more than others, or with none.
func (b *bench) volumesPod(with bool) *v1.Pod {
	pod, no := b.pod(b.name()), false
	pod.Spec.AutomountServiceAccountToken = &no
	if !with {
		return pod
	}
	pod.Labels = map[string]string{"app": pod.Name}
	app := &pod.Spec.Containers[0]
	for _, v := range b.volumesOf() {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v)
		app.VolumeMounts = append(app.VolumeMounts, v1.VolumeMount{Name: v.Name, MountPath: "/volumes/" + v.Name})
	}
	return pod
}

// atOnce creates many pods one after the other without waiting for any, and returns how long after the first create each
// ran its first instruction, and how long it took until all were deleted.
func (b *bench) atOnce(with bool) (started series, gone time.Duration) {
	b.Helper()
	var names []string
	begun := time.Now()
	for range many {
		pod := b.volumesPod(with)
		b.create(pod)
		names = append(names, pod.Name)
	}
	for _, name := range names { // however long it takes
		b.await(name, running)
	}
	for _, name := range names {
		started = append(started, b.stamp(name).Sub(begun))
	}
	asked := time.Now()
	for _, name := range names {
		b.delete(name, 1)
	}
	for { // a watch of one that is gone says nothing
		left, err := b.client.CoreV1().Pods("default").List(b.Context(), metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if len(left.Items) == 0 {
			return started, time.Since(asked)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// BenchmarkVolumes is what ten volumes add to the start of a pod: one at a time, interleaved, and a hundred at once, in turn.
// That nothing of them is left shows the leak oracle at the end.
func BenchmarkVolumes(tb *testing.B) {
	b := open(tb)
	data := map[string]string{}
	for i := range 10 {
		data[fmt.Sprintf("k%d", i)] = strings.Repeat("x", 100)
	}
	if _, err := b.client.CoreV1().ConfigMaps("default").Create(b.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Data: data},
		metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := b.client.CoreV1().Secrets("default").Create(b.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, StringData: data},
		metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	one := map[bool]series{}
	for i := range warmups + *samples {
		for _, with := range []bool{false, true} {
			pod := b.volumesPod(with)
			took := b.create(pod)
			first := b.stamp(pod.Name).Sub(took)
			b.await(pod.Name, running)
			b.delete(pod.Name, 1)
			b.await(pod.Name, never)
			if i >= warmups {
				one[with] = append(one[with], first)
			}
		}
	}
	ratio := func(of map[bool]series) float64 { return float64(of[true].at(.5)) / float64(of[false].at(.5)) }
	tb.ReportMetric(ratio(one), "with/without")
	report(tb,
		"create to first instruction, without volumes        "+one[false].String(),
		"the same with ten volumes                           "+one[true].String(),
		fmt.Sprintf("ratio of medians                                    %.2f (target at most 1.25)", ratio(one)))
	all, ends, last := map[bool]series{}, map[bool]series{}, map[bool]series{}
	for range 2 {
		for _, with := range []bool{false, true} {
			started, gone := b.atOnce(with)
			all[with], ends[with], last[with] = append(all[with], started...), append(ends[with], gone), append(last[with], started.at(1))
		}
	}
	sum := func(s series) (all time.Duration) {
		for _, d := range s {
			all += d
		}
		return all
	}
	total := float64(sum(last[true])) / float64(sum(last[false]))
	tb.ReportMetric(total, "with/without-at-once")
	report(tb,
		fmt.Sprintf("%d pods at once, each from the first create on     %s", many, all[false]),
		"the same with ten volumes each                      "+all[true].String(),
		fmt.Sprintf("until the last of them runs, ratio                  %.2f (target at most 1.25)", total),
		fmt.Sprintf("all deleted                                         %s without, %s with", ends[false], ends[true]))
}
