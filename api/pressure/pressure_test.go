package pressure

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		Default:                  "memory.available 100Mi, nodefs.available 100, imagefs.available 150, nodefs.inodesFree 50, imagefs.inodesFree 50",
		"pid.available<2k":       "pid.available 2k",
		" nodefs.available < 5 ": "nodefs.available 5",
		"memory.available<0%":    "",
		"memory.available<100%,nodefs.inodesFree<12.5%": "nodefs.inodesFree 125",
		"memory.available":                          "memory.available<100Mi",
		"memory.available<100Mi,memory.available<1": "two thresholds of memory.available",
		"memory.free<1Mi":                           `unknown signal "memory.free": there are memory.available, nodefs.available`,
		"memory.available<":                         "must be a quantity above 0",
		"memory.available<0":                        "must be a quantity above 0",
		"memory.available<-1Mi":                     "must be a quantity above 0",
		"memory.available<101%":                     "must be from 0% to 100%",
		"memory.available<NaN%":                     "must be from 0% to 100%",
	} {
		all, err := Parse(text)
		var got []string
		for _, th := range all {
			got = append(got, string(th.Signal)+" "+th.Quantity(1000).String())
		}
		if says := strings.Join(got, ", "); err == nil && says != want || err != nil && !strings.Contains(err.Error(), want) || err != nil && want == "" {
			t.Errorf("%q: %q, %v; want %q", text, says, err, want)
		}
	}
}

func parsed(t *testing.T, text string) Thresholds {
	t.Helper()
	all, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A condition holds for its period after it was last seen, and what was not observed is not met.
func TestConditions(t *testing.T) {
	all := parsed(t, Default+",pid.available<10%")
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := Conditions{}
	holds := func(want ...v1.NodeConditionType) {
		t.Helper()
		if got := c.Hold(now, time.Minute); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", now, got, want)
		}
	}
	c.See(all.Met(Observations{MemoryAvailable: {100 << 20, 1 << 30}, NodeFSAvailable: {10, 100}}), now)
	holds()
	c.See(all.Met(Observations{MemoryAvailable: {100<<20 - 1, 1 << 30}, ImageFSInodesFree: {4, 100}, PIDAvailable: {9, 100}}), now)
	holds(v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure)
	now = now.Add(30 * time.Second)
	c.See(all.Met(Observations{NodeFSAvailable: {9, 100}}), now)
	now = now.Add(30 * time.Second)
	holds(v1.NodeDiskPressure)
	now = now.Add(30 * time.Second)
	holds()
}

func named(name string, priority int32, requests v1.ResourceList) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Priority: &priority,
		Containers: []v1.Container{{Name: "app", Resources: v1.ResourceRequirements{Requests: requests}}}}}
}

func asks(name v1.ResourceName, amount string) v1.ResourceList {
	return v1.ResourceList{name: resource.MustParse(amount)}
}

func TestRank(t *testing.T) {
	memory := func(amount string) v1.ResourceList { return asks(v1.ResourceMemory, amount) }
	for name, c := range map[string]struct {
		of   v1.ResourceName
		pods []Uses
		want string
	}{
		"memory: beyond its request, priority, how far beyond": {v1.ResourceMemory, []Uses{
			{Pod: named("within-low", -5, memory("100")), Known: true, Amount: 90},
			{Pod: named("beyond-high", 10, nil), Known: true, Amount: 500},
			{Pod: named("little-beyond", 0, memory("300")), Known: true, Amount: 310},
			{Pod: named("far-beyond", 0, memory("10")), Known: true, Amount: 200},
			{Pod: named("unknown", 10, nil)},
		}, "unknown far-beyond little-beyond beyond-high within-low"},
		"inodes: nobody asks for any": {Inodes, []Uses{
			{Pod: named("few", 0, asks(v1.ResourceEphemeralStorage, "1Gi")), Known: true, Amount: 5},
			{Pod: named("many", 0, nil), Known: true, Amount: 50},
		}, "many few"},
		"process ids: priority first": {PIDs, []Uses{
			{Pod: named("many-high", 1, nil), Known: true, Amount: 50},
			{Pod: named("few-low", 0, nil), Known: true, Amount: 2},
			{Pod: named("some-low", 0, nil), Known: true, Amount: 3},
		}, "some-low few-low many-high"},
	} {
		for range 2 {
			slices.Reverse(c.pods)
			Rank(c.of, c.pods)
			var got []string
			for _, u := range c.pods {
				got = append(got, u.Pod.Name)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: %s, want %s", name, s, c.want)
			}
		}
	}
}

func TestMessage(t *testing.T) {
	pod := named("p", 0, asks(v1.ResourceMemory, "10Mi"))
	pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: "other"}, v1.Container{Name: "idle", Resources: pod.Spec.Containers[0].Resources})
	used := Uses{Pod: pod, Known: true, Amount: 61 << 20, Containers: map[string]int64{"app": 20 << 20, "other": 40 << 20, "idle": 1 << 20}}
	got := Message(parsed(t, "memory.available<100Mi")[0], Observation{50 << 20, 1 << 30}, used)
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
		"Container app was using 20Mi, request is 10Mi, has larger consumption of memory. " +
		"Container other was using 40Mi, request is 0, has larger consumption of memory. "
	if got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	got = Message(parsed(t, "nodefs.inodesFree<5%")[0], Observation{499, 10240}, used)
	if want := "The node was low on resource: inodes. Threshold quantity: 512, available: 499. "; got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	pod.Spec.Resources = &v1.ResourceRequirements{Requests: asks(v1.ResourceMemory, "30Mi")}
	used.Containers = nil
	got = Message(parsed(t, "memory.available<10%")[0], Observation{50 << 20, 1 << 30}, used)
	want = "The node was low on resource: memory. Threshold quantity: 107374184, available: 50Mi. " +
		"Pod p was using 61Mi, request is 30Mi, has larger consumption of memory. "
	if got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}
