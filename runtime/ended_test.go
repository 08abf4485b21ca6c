package runtime

import (
	"testing"
	"time"

	"podd/runtime/containers"
	"podd/status/exits"
)

// TestEndsAreTakenOver: an event tells how a process has ended, and what containerd showed before stands for all else. An
// answer that was on its way meanwhile does not bring the process back to life.
func TestEndsAreTakenOver(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	shown := func() []containers.Instance {
		return []containers.Instance{
			{ID: "pause", HasTask: true, Task: containers.TaskRunning, Pid: 6},
			{ID: "app", HasTask: true, Task: containers.TaskRunning, Pid: 7},
		}
	}
	end := exits.End{ID: "app", Pid: 7, Code: 3, At: at}
	for _, c := range []struct {
		name     string
		answered bool
		end      exits.End
		known    bool
		task     containers.TaskStatus
	}{
		{"its process", true, end, true, containers.TaskStopped},
		{"another process", true, exits.End{ID: "app", Pid: 8, Code: 3, At: at}, false, containers.TaskRunning},
		{"not seen yet", true, exits.End{ID: "next", Pid: 9, At: at}, false, containers.TaskRunning},
		{"containerd is away", false, end, false, containers.TaskStopped},
	} {
		h := &host{r: &Runtime{}, ends: map[string]exits.End{}, removed: map[string]time.Time{}, last: sight{instances: shown(), answered: c.answered}}
		before := h.last.instances
		if got := h.ended(c.end); got != c.known {
			t.Errorf("%s: known = %v, want %v", c.name, got, c.known)
		}
		i, _ := h.last.of("", 0)
		if i.Task != containers.TaskRunning {
			t.Errorf("%s: the sandbox is %v", c.name, i.Task)
		}
		if i := h.last.instances[1]; i.Task != c.task || i.Task == containers.TaskStopped && (i.ExitCode != 3 || !i.ExitedAt.Equal(at)) {
			t.Errorf("%s: %+v", c.name, i)
		}
		if before[1].Task != containers.TaskRunning {
			t.Errorf("%s: what others may be reading was changed", c.name)
		}
		late := shown()
		h.mu.Lock()
		h.endSeen(late)
		h.mu.Unlock()
		if late[1].Task != c.task {
			t.Errorf("%s: an answer from before makes it %v", c.name, late[1].Task)
		}
	}
}

// TestRemovedIsStruckOut: what podd has removed is gone without another question, also when the answer to an earlier one
// comes later. The answer to a later one counts.
func TestRemovedIsStruckOut(t *testing.T) {
	shown := func() []containers.Instance { return []containers.Instance{{ID: "pause"}, {ID: "app"}} }
	h := &host{r: &Runtime{}, ends: map[string]exits.End{}, removed: map[string]time.Time{}, last: sight{instances: shown(), answered: true}}
	before := time.Now()
	h.strike("app")
	if n := len(h.lastSeen().instances); n != 1 {
		t.Errorf("%d instances are left, want the sandbox", n)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if late := h.meanwhile(shown(), before); len(late) != 1 || late[0].ID != "pause" {
		t.Errorf("an answer from before shows %+v", late)
	}
	if again := h.meanwhile(shown(), time.Now()); len(again) != 2 {
		t.Errorf("made again, there are %+v", again)
	}
}
