package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A directory that never gets empty holds up nobody for longer than its slice of time.
func TestReclaimInSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reclaimer{due: map[string]bool{"a": true, "b": true, "c": true}}
		var looked []string
		endless := true
		look := func(ctx context.Context, key string) error {
			looked = append(looked, key)
			switch {
			case key == "a" && endless:
				<-ctx.Done()
				return fmt.Errorf("remove directory: %w", ctx.Err())
			case key == "c":
				return errors.New("is a mount")
			}
			return nil
		}
		begun := time.Now()
		more, err := r.each(t.Context(), look)
		if got := strings.Join(looked, " "); !more || err == nil || err.Error() != "is a mount" || got != "a b c" || time.Since(begun) != reclaimSlice {
			t.Errorf("after %v: looked at %q, more %v, %v", time.Since(begun), got, more, err)
		}
		if got := slices.Sorted(maps.Keys(r.due)); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("due: %v", got)
		}
		endless = false
		if more, _ := r.each(t.Context(), look); more || len(r.due) != 1 {
			t.Errorf("more %v, due %v", more, r.due)
		}
	})
}
