package runtime

import (
	"strconv"
	"testing"

	"github.com/moby/sys/signal"
)

// TestSignalName: every signal has the name that upstream has for it, whichever way an image names it.
func TestSignalName(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 64; n++ {
		if n == 32 || n == 33 { // the C library's own
			continue
		}
		name := string(signalName(strconv.Itoa(n)))
		if back, err := signal.ParseSignal(name); err != nil || int(back) != n {
			t.Errorf("signal %d is %q, which is %d: %v", n, name, back, err)
		}
	}
	for given, want := range map[string]string{
		"SIGQUIT": "SIGQUIT", "USR1": "SIGUSR1", "34": "SIGRTMIN", "37": "SIGRTMIN+3", "49": "SIGRTMIN+15", "50": "SIGRTMAX-14", "64": "SIGRTMAX",
	} {
		if got := string(signalName(given)); got != want {
			t.Errorf("%s is %s, want %s", given, got, want)
		}
	}
}
