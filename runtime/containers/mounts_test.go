package containers

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A host's directory over one of the places that podd mounts on must not hide what podd mounts below it.
func TestMountsParentsFirst(t *testing.T) {
	c := Config{Mounts: []specs.Mount{
		{Destination: "/data/in", Type: "bind"}, {Destination: "/sys", Type: "bind"}, {Destination: "/dev", Type: "bind"}, {Destination: "/data", Type: "bind"},
	}}
	mounts, _, err := allMounts(c, false)
	if err != nil {
		t.Fatal(err)
	}
	at := func(destination string) int {
		return slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == destination })
	}
	for _, below := range [][2]string{{"/dev", "/dev/pts"}, {"/sys", "/sys/fs/cgroup"}, {"/data", "/data/in"}} {
		if p, c := at(below[0]), at(below[1]); p < 0 || c < 0 || p > c {
			t.Errorf("%s is mount %d, %s is mount %d", below[0], p, below[1], c)
		}
	}
	for _, d := range []string{"/dev", "/sys"} {
		if m := mounts[at(d)]; m.Type != "bind" {
			t.Errorf("%s is a %s, want the given one", d, m.Type)
		}
	}
}
