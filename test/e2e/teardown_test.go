//go:build host

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"podd/test/hugepages"
)

// TestTeardown takes podd off the host: pods whose objects go at once, by what they say themselves or by force, are
// cleared up like others before podd ends.
func TestTeardown(t *testing.T) {
	t.Parallel()
	noHuge := hugepages.More(t, 1)
	s := start(t)
	s.running(t, sleeper("usual"))
	s.running(t, pod{Name: "talks", Container: `command: [sh, -c, "echo hello; sleep 1d"]`, Spec: "terminationGracePeriodSeconds: 1"})
	torn := func() {}
	if noHuge == nil {
		torn = s.hugePagesKilled(t)
	}
	for i := range 10 { // more than are cleared up while teardown looks once
		s.apply(t, pod{Name: fmt.Sprintf("no-time-%d", i), Container: "command: [sleep, infinity]", Spec: "terminationGracePeriodSeconds: 0"})
	}
	for i := range 10 {
		s.until(t, fmt.Sprintf("no-time-%d", i), "ready", ready)
	}
	s.running(t, pod{Name: "forced", Container: "command: [sleep, infinity]"})
	s.must(t, "delete", "pod", "forced", "--force", "--grace-period=0", "--wait=false")
	if len(s.whyOf(t, "forced").History) != 1 {
		t.Error("there is no history to take away")
	}
	followers := podctlFollows(t, s, map[string]string{"logs -f talks": "hello", "get pods -w -o name": "pod/usual"})
	s.Teardown()
	torn()
	for _, f := range followers {
		_ = f.cmd.Wait() // what it said is looked at
		if said := f.errs.String(); strings.Contains(said, "go on") && !strings.Contains(said, "unless podd teardown ends them") {
			t.Errorf("podctl %s during the teardown says that pods go on: %s", f.args, said)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Root, "history")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after teardown there are histories of pods: %v", err)
	}
	s.Restart()
	s.running(t, sleeper("again"))
}
