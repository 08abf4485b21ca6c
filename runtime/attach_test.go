package runtime

import (
	"testing"

	"podd/runtime/containers"
	"podd/status"
)

// TestRunningOf: a container whose state containerd cannot say just now is running, for an exec as for its pod's status.
func TestRunningOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		of   []containers.Instance
		want string
	}{
		{"it runs", []containers.Instance{{ID: "a", Name: "app", HasTask: true, Task: containers.TaskRunning}}, "a"},
		{"nobody knows", []containers.Instance{{ID: "a", Name: "app", HasTask: true, Task: containers.TaskUnknown}}, "a"},
		{"it is paused", []containers.Instance{{ID: "a", Name: "app", HasTask: true, Task: containers.TaskPaused}}, "a"},
		{"the second runs", []containers.Instance{
			{ID: "a", Name: "app", HasTask: true, Task: containers.TaskStopped}, {ID: "b", Name: "app", HasTask: true, Task: containers.TaskRunning}}, "b"},
		{"it is only made", []containers.Instance{{ID: "a", Name: "app", HasTask: true, Task: containers.TaskCreated}}, ""},
		{"it has no process", []containers.Instance{{ID: "a", Name: "app"}}, ""},
		{"it is another", []containers.Instance{{ID: "a", Name: "other", HasTask: true, Task: containers.TaskRunning}}, ""},
	} {
		id, ok := runningOf(c.of, "app")
		if id != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", c.what, id, ok)
		}
		h := &host{r: &Runtime{}}
		for _, i := range c.of {
			if state, _ := h.state(i); i.HasTask && i.Name == "app" && (state == status.Running) != (i.ID == c.want) {
				t.Errorf("%s: the status of %s says %s", c.what, i.ID, state)
			}
		}
	}
}
