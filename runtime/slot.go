package runtime

import (
	"context"
	"sync"
	"time"
)

// slotLimit is how long a start may keep others waiting: ten times what a slow one takes.
const slotLimit = 5 * time.Second

// slot runs f when fewer than Parallel other starts run: more at a time make all of them slower. A start that takes
// longer than slotLimit hangs on something, such as the server behind a hostPath, and does not slow the others down: it
// goes on without its slot.
func (r *Runtime) slot(ctx context.Context, f func() error) error {
	select {
	case r.starts <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	giveBack := sync.OnceFunc(func() { <-r.starts })
	defer giveBack()
	defer time.AfterFunc(slotLimit, giveBack).Stop()
	return f()
}
