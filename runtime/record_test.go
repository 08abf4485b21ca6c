package runtime

import (
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
		if e != want[i] {
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
