// Package exits turns containerd's event stream into wake-ups. An event says no more than "look again": the stream has no
// replay, and events may be lost, repeated and reordered.
package exits

import (
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
)

// Source is the stream of events and a way to ask whether it is there; containerd's client is one.
type Source interface {
	EventService() client.EventService
	IsServing(ctx context.Context) (bool, error)
}

// subscribed is the topic of the event that Run publishes to learn that its subscription is in force: containerd does
// not say so, and what ends between the request and that moment would be missed by stream and look alike.
const subscribed = "/podd/subscribed"

// subscribeTimeout bounds the wait for it.
const subscribeTimeout = 2 * time.Second

// The pauses between two tries to reach containerd. containerd's client connects again by itself in half a second.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
)

// Run calls wake with the uid of a pod whenever a task or a container of it has ended or gone, until ctx is done, which is
// the only error it returns. uid tells the pod of a container id; "" if none. lost is called when the stream is up, after
// each (re)connect: before that anything may have happened, so everything is to be looked at again. wake and lost must
// not block.
func Run(ctx context.Context, src Source, namespace string, uid func(ctx context.Context, id string) string, wake func(uid string), lost func()) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	retry := firstRetry
	for ctx.Err() == nil {
		if serving, err := src.IsServing(ctx); err == nil && serving {
			retry = firstRetry
			stream(ctx, src, namespace, uid, wake, lost)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(retry*2, lastRetry)
	}
	return ctx.Err()
}

// stream follows one connection to its end.
func stream(ctx context.Context, src Source, namespace string, uid func(context.Context, string) string, wake func(string), lost func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filter := func(topic string) string { return fmt.Sprintf("namespace==%q,topic==%q", namespace, topic) }
	list, errs := src.EventService().Subscribe(ctx, filter("/tasks/exit"), filter("/tasks/delete"), filter("/containers/delete"), filter(subscribed))
	if err := src.EventService().Publish(ctx, subscribed, &apievents.NamespaceUpdate{Name: namespace}); err != nil {
		return
	}
	late := time.NewTimer(subscribeTimeout)
	defer late.Stop()
	up := false
	for {
		select {
		case <-late.C:
			if !up {
				return
			}
		case e := <-list:
			switch {
			case e == nil:
			case e.Topic == subscribed && !up:
				up = true
				lost()
			default:
				if id := containerOf(e); id != "" {
					if u := uid(ctx, id); u != "" {
						wake(u)
					}
				}
			}
		case <-errs: // also closed at the end
			return
		}
	}
}

// containerOf is the id of the container whose own process or record an event is about; "" for anything else, as the end
// of a process that was run beside it.
func containerOf(e *events.Envelope) string {
	if e.Event == nil {
		return ""
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return ""
	}
	switch t := v.(type) {
	case *apievents.TaskExit:
		if t.ID == t.ContainerID {
			return t.ContainerID
		}
	case *apievents.TaskDelete:
		if t.ID == "" || t.ID == t.ContainerID {
			return t.ContainerID
		}
	case *apievents.ContainerDelete:
		return t.ID
	}
	return ""
}
