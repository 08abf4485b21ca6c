package runtime

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"podd/runtime/plan"
	"podd/status"
)

// Starts that hang, as many as there are slots, do not keep another pod's start waiting for longer than slotLimit.
func TestHangingStartsGiveTheirSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Parallel: 2})
		hang := make(chan struct{})
		for range 2 {
			go func() { _ = slot(t.Context(), r.starts, func() error { <-hang; return nil }) }()
		}
		synctest.Wait()
		begun := time.Now()
		if err := slot(t.Context(), r.starts, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(begun); waited != slotLimit {
			t.Errorf("the start of another pod waited %s, want %s", waited, slotLimit)
		}
		close(hang)
		synctest.Wait()
		if len(r.starts) != 0 {
			t.Errorf("%d slots are taken after all has ended", len(r.starts))
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		r.starts <- struct{}{}
		r.starts <- struct{}{}
		if err := slot(ended, r.starts, func() error { return nil }); err == nil {
			t.Error("a start whose context has ended ran without a slot")
		}
	})
}

// What takes something of a pod away waits for its turn, and does not take the starts' turns.
func TestRemovalsWaitForTheirTurn(t *testing.T) {
	r := New(Options{Parallel: 1})
	r.ends <- struct{}{}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	h := &host{r: r}
	for _, op := range []status.Op{plan.Remove, plan.RemoveSandbox, plan.DetachNetwork} {
		if err := h.do(ended, nil, plan.Step{Op: op}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s beside as many others as may go on: %v", op, err)
		}
	}
	if err := slot(t.Context(), r.starts, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
