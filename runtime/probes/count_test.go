package probes

import (
	"testing"
	"time"

	"podd/api/usage"
	"podd/status"
)

func TestCounts(t *testing.T) {
	var c Counts
	a := usage.Probe{Namespace: "default", Pod: "a", UID: "1", Container: "app", Kind: "Liveness"}
	b := usage.Probe{Namespace: "default", Pod: "b", UID: "2", Container: "app", Kind: "Readiness"}
	for _, took := range []time.Duration{5 * time.Millisecond, 6 * time.Millisecond, 10 * time.Second, 11 * time.Second} {
		c.Add(b, status.Success, took)
	}
	c.Add(a, status.Failure, time.Second)
	a.Failed = 1
	b.Succeeded, b.Took = 4, 21*time.Second+11*time.Millisecond
	b.Within[0], b.Within[1], b.Within[10] = 1, 1, 1
	if all := c.All(); len(all) != 2 || all[0] != a || all[1] != b {
		t.Errorf("%+v", all)
	}
	c.Forget("2")
	if all := c.All(); len(all) != 1 || all[0] != a {
		t.Errorf("%+v", all)
	}
}
