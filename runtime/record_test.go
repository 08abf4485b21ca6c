package runtime

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"podd/status"
)

func TestRecordKeepsTheNewestTwoExits(t *testing.T) {
	r := record{Namespace: "default", Name: "web"}
	for _, name := range []string{"b", "a"} {
		for attempt := range 4 {
			r = r.withExit(status.Container{Name: name, Attempt: attempt, ExitCode: int32(attempt), Present: true, Recorded: true})
		}
	}
	r = r.withExit(status.Container{Name: "a", Attempt: 3, ExitCode: 9}) // told twice: replaced, not added
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	want := []status.Container{
		{Name: "a", Attempt: 2, ExitCode: 2}, {Name: "a", Attempt: 3, ExitCode: 9},
		{Name: "b", Attempt: 2, ExitCode: 2}, {Name: "b", Attempt: 3, ExitCode: 3},
	}
	if len(got.Exits) != len(want) {
		t.Fatalf("exits = %+v, want %+v", got.Exits, want)
	}
	for i, e := range got.Exits {
		if !reflect.DeepEqual(e, want[i]) {
			t.Errorf("exit %d = %+v, want %+v", i, e, want[i])
		}
	}
	if _, ok := got.exit("a", 1); ok {
		t.Error("an instance older than the newest two is still remembered")
	}
}

func TestRecordOfANewerPoddIsRefused(t *testing.T) {
	if _, err := decodeRecord([]byte(`{"version":2}`)); err == nil {
		t.Error("a record of version 2 was read")
	}
	if _, err := decodeRecord([]byte(`{"version":`)); err == nil {
		t.Error("a torn record was read")
	}
}

func TestWithExitLeavesTheOldRecordAlone(t *testing.T) {
	old := record{}.withExit(status.Container{Name: "a", FinishedAt: time.Unix(1, 0)})
	_ = old.withExit(status.Container{Name: "a", Attempt: 1})
	if len(old.Exits) != 1 {
		t.Errorf("the old record has %d exits, want 1", len(old.Exits))
	}
}

func TestAnEraEndsWhatWasBefore(t *testing.T) {
	r := record{}
	r = r.withExit(status.Container{Name: "init", Reason: "Completed"})
	r = r.withExit(status.Container{Name: "app", Attempt: 0, ExitCode: 1, Reason: "Error"})
	r = r.withExit(status.Container{Name: "app", Attempt: 1, ExitCode: 42, Reason: "Error"})
	before := r
	r = r.withEra(1, "app")
	r = r.withEra(1, "other") // told again after a death of podd
	r = r.withExit(status.Container{Name: "side", ExitCode: 137, Reason: "Error"})
	r = r.withExit(status.Container{Name: "init", Attempt: 1, Era: 1, Reason: "Completed"})
	if r.Era != 1 || r.EraBy != "app" {
		t.Errorf("era %d by %s, want 1 by app", r.Era, r.EraBy)
	}
	want := map[string]string{
		"app/0": "Error", "app/1": "RestartingAllContainers", "init/0": "RestartingAllContainers", "init/1": "Completed",
		"side/0": "RestartingAllContainers",
	}
	for _, e := range r.Exits {
		name := fmt.Sprintf("%s/%d", e.Name, e.Attempt)
		if e.Reason != want[name] {
			t.Errorf("%s ended by %s, want %s", name, e.Reason, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("no exit of %v", want)
	}
	if c, _ := r.exit("app", 1); c.ExitCode != 42 {
		t.Errorf("the exit code that began the era is %d, want 42", c.ExitCode)
	}
	if c, _ := before.exit("app", 1); c.Reason != "Error" {
		t.Error("the old record was changed")
	}
}
