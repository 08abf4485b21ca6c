package runtime

import (
	"strings"
	"testing"

	"podd/runtime/containers"
)

// TestFreeIDs: pods get the first ids that are free of others and of each other.
func TestFreeIDs(t *testing.T) {
	const first, size = 0x7800_0000, containers.IDs
	for name, c := range map[string]struct {
		subordinate string
		taken       []uint64
		want        uint32 // 0: none are left
	}{
		"nobody has any":           {"", nil, first},
		"useradd's":                {"a:100000:65536\nb:165536:65536\n", nil, first},
		"somebody's of ours":       {"a:2013265919:2\n", nil, first + size},
		"one of somebody's":        {"a:2013265920:1", nil, first + size},
		"just before":              {"a:2013265919:1", nil, first},
		"pods'":                    {"", []uint64{first, first + 2*size}, first + size},
		"pods', of before a line":  {"podd:200000:200000", []uint64{200000 + size/2}, 200000 + 2*size},
		"podd's own":               {"podd:200000:65536", nil, 200000},
		"podd's own, too few":      {"podd:200000:65535", nil, 0},
		"podd's own, all taken":    {"podd:200000:65536", []uint64{200000}, 0},
		"podd's own, in two lines": {"podd:200000:65536\npodd:400000:65536", []uint64{200000}, 400000},
		"the host's own":           {"podd:0:131072", nil, size},
		"beyond what is positive":  {"podd:2147418113:131072", nil, 0},
		"up to it":                 {"podd:2147418112:131072", nil, 2147418112},
		"no such lines":            {"podd:x:y\npodd\n:::\npodd:1:0\npodd:-5:10\n\n", nil, first},
	} {
		t.Run(name, func(t *testing.T) {
			mine, others := subordinate(c.subordinate)
			if mine == nil {
				mine = []span{ids}
			}
			taken := map[uint64]bool{}
			for _, id := range c.taken {
				taken[id] = true
			}
			got, err := firstFree(mine, others, taken)
			if got != c.want || (err != nil) != (c.want == 0) {
				t.Errorf("%d, %v, want %d", got, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), "/etc/subuid") {
				t.Errorf("does not say what to do: %v", err)
			}
		})
	}
}

// TestAllIDs: as many pods as there are ids for get some, and none the same.
func TestAllIDs(t *testing.T) {
	taken := map[uint64]bool{}
	for {
		got, err := firstFree([]span{ids}, nil, taken)
		if err != nil {
			break
		}
		if taken[uint64(got)] || uint64(got)+containers.IDs-1 > maxHostID {
			t.Fatalf("%d was given", got)
		}
		taken[uint64(got)] = true
	}
	for others, end := range map[string]uint64{"systemd-nspawn": 0x7000_0000, "FreeIPA and SSSD": 2_000_200_000} {
		if ids.first < end {
			t.Errorf("pods' ids begin at %d, within those of %s", ids.first, others)
		}
	}
	if len(taken) != 2046 {
		t.Errorf("%d pods", len(taken))
	}
}
