package api

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// What a node has of huge pages is none of its memory for pods.
func TestAllocatable(t *testing.T) {
	pages := func(n string) resource.Quantity { return resource.MustParse(n) }
	for _, c := range []struct {
		memory uint64
		huge   map[v1.ResourceName]resource.Quantity
		left   string
	}{
		{1 << 30, nil, "1Gi"},
		{1 << 30, map[v1.ResourceName]resource.Quantity{"hugepages-2Mi": pages("0")}, "1Gi"},
		{3 << 30, map[v1.ResourceName]resource.Quantity{"hugepages-2Mi": pages("512Mi"), "hugepages-1Gi": pages("1Gi")}, "1536Mi"},
		{1 << 30, map[v1.ResourceName]resource.Quantity{"hugepages-1Gi": pages("2Gi")}, "0"},
	} {
		f := hostFacts{memory: c.memory, hugepages: c.huge}
		got, all := f.allocatable(), f.capacity()
		if got.Memory().Cmp(pages(c.left)) != 0 || all.Memory().Value() != int64(c.memory) {
			t.Errorf("of %d with %v: %s", c.memory, c.huge, got.Memory())
		}
		for name, q := range c.huge {
			if own := got[name]; own.Cmp(q) != 0 {
				t.Errorf("%s: %s, want %s", name, own.String(), q.String())
			}
		}
	}
}
