package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Starts that hang, as many as there are slots, do not keep another pod's start waiting for longer than slotLimit.
func TestHangingStartsGiveTheirSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Parallel: 2})
		hang := make(chan struct{})
		for range 2 {
			go func() { _ = r.slot(t.Context(), func() error { <-hang; return nil }) }()
		}
		synctest.Wait()
		begun := time.Now()
		if err := r.slot(t.Context(), func() error { return nil }); err != nil {
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
		if err := r.slot(ended, func() error { return nil }); err == nil {
			t.Error("a start whose context has ended ran without a slot")
		}
	})
}
