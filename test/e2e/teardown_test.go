//go:build host

package e2e

import (
	"testing"
)

// TestTeardown takes podd off the host: pods whose objects go at once, by what they say themselves or by force, are
// cleared up like others before podd ends.
func TestTeardown(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.running(t, sleeper("usual"))
	s.running(t, pod{Name: "no-time", Container: "command: [sleep, infinity]", Spec: "terminationGracePeriodSeconds: 0"})
	s.running(t, pod{Name: "forced", Container: "command: [sleep, infinity]"})
	s.must(t, "delete", "pod", "forced", "--force", "--grace-period=0", "--wait=false")
	s.Teardown()
	s.Restart()
	s.running(t, sleeper("again"))
}
