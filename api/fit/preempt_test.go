package fit

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPreempt(t *testing.T) {
	holder := func(name string, r v1.ResourceList, guaranteed bool) Holder {
		c := asks("app", r)
		if guaranteed {
			c.Resources.Limits = r
		}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Containers: []v1.Container{c}}}
		return Holder{pod, Of(pod)}
	}
	least, small, big, sure := holder("least", nil, false), holder("small", list("100m", "1Mi"), false), holder("big", list("900m", "9Mi"), false), holder("sure", list("2", "20Mi"), true)
	all := []Holder{sure, big, least, small}
	cpu := func(n int64) []Lack {
		return []Lack{{Resource: v1.ResourceCPU, Requested: n, Used: 5000, Capacity: 5000}}
	}
	for name, c := range map[string]struct {
		lacks []Lack
		going []Holder
		want  string
	}{
		"the one that fits":                {cpu(50), nil, "small"},
		"the bigger one alone":             {cpu(800), nil, "big"},
		"both before a guaranteed one":     {cpu(1000), nil, "big small"},
		"a guaranteed one when it must be": {cpu(1100), nil, "sure"},
		"and what it does not free":        {cpu(2050), nil, "small sure"},
		"all would not do":                 {cpu(9000), nil, "no"},
		"what goes anyway is enough":       {cpu(900), []Holder{big}, ""},
		"a place":                          {[]Lack{{Resource: v1.ResourcePods, Requested: 1, Used: 4, Capacity: 4}}, nil, "least"},
		"a port":                           {[]Lack{{Resource: hostPorts}}, nil, "no"},
	} {
		chosen, ok := Preempt(c.lacks, c.going, all)
		var names []string
		for _, pod := range chosen {
			names = append(names, pod.Name)
		}
		got := strings.Join(names, " ")
		if !ok {
			got = "no"
		}
		slices.Sort(names)
		if ok && strings.Join(names, " ") != c.want || !ok && c.want != "no" {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
