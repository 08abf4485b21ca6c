// Package exits turns containerd's event stream into wake-ups. An event says no more than "look again", or how one process
// has ended, which is true whenever it comes: the stream has no replay, and events may be lost, repeated and reordered.
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

// End is how the process of a container has ended.
type End struct {
	ID   string // of the container
	Pid  uint32 // of the process, which tells it from another of the same container
	Code uint32
	At   time.Time
}

// Listener is told what the stream says. Its functions must not block, but for Pod.
type Listener struct {
	// Pod is the uid of the pod of a container id; "" if none.
	Pod func(ctx context.Context, id string) string
	// Ended is called when the process of a container of a pod has ended.
	Ended func(uid string, end End)
	// Wake is called when a task or a container of a pod has gone.
	Wake func(uid string)
	// Lost is called when the stream is up, after each (re)connect: before that anything may have happened, so everything
	// is to be looked at again.
	Lost func()
}

// Run tells l what happens, until ctx is done, which is the only error it returns.
func Run(ctx context.Context, src Source, namespace string, l Listener) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	retry := firstRetry
	for ctx.Err() == nil {
		if serving, err := src.IsServing(ctx); err == nil && serving {
			retry = firstRetry
			stream(ctx, src, namespace, l)
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
func stream(ctx context.Context, src Source, namespace string, l Listener) {
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
				l.Lost()
			default:
				l.tell(ctx, e)
			}
		case <-errs: // also closed at the end
			return
		}
	}
}

// tell passes on an event about a container's own process or record; all others, as the end of a process that was run
// beside it, are nobody's business.
func (l Listener) tell(ctx context.Context, e *events.Envelope) {
	if e.Event == nil {
		return
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return
	}
	switch t := v.(type) {
	case *apievents.TaskExit:
		if t.ID != t.ContainerID {
			return
		}
		if uid := l.Pod(ctx, t.ContainerID); uid != "" {
			l.Ended(uid, End{ID: t.ContainerID, Pid: t.Pid, Code: t.ExitStatus, At: t.ExitedAt.AsTime()})
		}
	case *apievents.TaskDelete:
		if t.ID == "" || t.ID == t.ContainerID {
			l.wake(ctx, t.ContainerID)
		}
	case *apievents.ContainerDelete:
		l.wake(ctx, t.ID)
	}
}

func (l Listener) wake(ctx context.Context, id string) {
	if uid := l.Pod(ctx, id); uid != "" {
		l.Wake(uid)
	}
}
