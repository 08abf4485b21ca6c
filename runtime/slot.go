package runtime

import (
	"context"
	"sync"
	"time"
)

// slotLimit is how long a step may keep others waiting: ten times what a slow one takes.
const slotLimit = 5 * time.Second

// slot runs f when fewer than Parallel others of its kind run: more at a time make all of them slower, and containerd too
// slow to answer anybody. Starts and removals have slots of their own, so that none waits for the other. A step that takes
// longer than slotLimit hangs on something, such as the server behind a hostPath, and does not slow the others down: it
// goes on without its slot.
func slot(ctx context.Context, slots chan struct{}, f func() error) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	giveBack := sync.OnceFunc(func() { <-slots })
	defer giveBack()
	defer time.AfterFunc(slotLimit, giveBack).Stop()
	return f()
}
