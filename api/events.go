package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"

	apihistory "podd/api/history"
	"podd/store"
)

// Event records an event of a pod. It does not block; when a thousand events wait already, it is dropped.
func (s *Server) Event(pod *v1.Pod, eventtype, reason, format string, args ...any) {
	s.ContainerEvent(pod, "", eventtype, reason, format, args...)
}

// ContainerEvent records an event of one container of a pod, or of the pod if container is "". It does not block.
func (s *Server) ContainerEvent(pod *v1.Pod, container, eventtype, reason, format string, args ...any) {
	s.event(podReference(pod, container), pod.Namespace, eventtype, reason, fmt.Sprintf(format, args...))
}

// podReference is what an event of a container, or of the pod, is about (upstream: pkg/kubelet/container/ref.go).
func podReference(pod *v1.Pod, container string) v1.ObjectReference {
	about := v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion}
	if container != "" {
		about.FieldPath = "spec." + listOf(pod, container) + "{" + container + "}"
	}
	return about
}

// listOf is the list of the spec that a container is in.
func listOf(pod *v1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "initContainers"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "ephemeralContainers"
		}
	}
	return "containers"
}

// NodeEvent records an event of this host, in the default namespace as upstream does. It does not block.
func (s *Server) NodeEvent(eventtype, reason, format string, args ...any) {
	about := v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: s.NodeName, UID: types.UID(s.NodeName)}
	s.event(about, metav1.NamespaceDefault, eventtype, reason, fmt.Sprintf(format, args...))
}

func (s *Server) event(about v1.ObjectReference, namespace, eventtype, reason, message string) {
	now := metav1.Now()
	event := &v1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: util.GenerateEventName(about.Name, now.UnixNano()), Namespace: namespace},
		InvolvedObject: about,
		Type:           eventtype, Reason: reason, Message: apihistory.Cut(message, 1024), Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source:              v1.EventSource{Component: "podd", Host: s.NodeName},
		ReportingController: "podd", ReportingInstance: s.NodeName,
	}
	select {
	case s.events <- event:
	default:
		s.Log.Warn("event dropped", "object", about.Kind+"/"+about.Name, "reason", reason, "message", event.Message)
	}
}

// How many events are written, as the kubelet's eventRecordQPS and eventBurst. More wait their turn.
const (
	eventRate  = 50 // in a second
	eventBurst = 100
)

// recordEvents writes events until ctx is done. Upstream's correlator joins similar ones and drops spam, with its
// default numbers (client-go/tools/record/events_cache.go).
func (s *Server) recordEvents(ctx context.Context) {
	limit := rate.NewLimiter(eventRate, eventBurst)
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{})
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-s.events:
			result, err := correlator.EventCorrelate(event)
			if err != nil || result.Skip {
				continue
			}
			if err := limit.Wait(ctx); err != nil {
				return
			}
			written, err := persist(ctx, func() (*v1.Event, error) { return s.putEvent(store.Lazily(ctx), result.Event) })
			if err != nil {
				level := slog.LevelWarn
				if errors.Is(err, errNoPlace) {
					level = slog.LevelDebug
				}
				s.Log.Log(ctx, level, "event is lost", "reason", event.Reason, "message", event.Message, "error", err)
				continue
			}
			correlator.UpdateState(written)
		}
	}
}

// How often and how soon one event is written again that could not be stored (client-go/tools/record/event.go). Those after
// it wait meanwhile.
const (
	eventTries = 12
	eventRetry = 10 * time.Second
)

// errNoPlace is of an event that there is no namespace for, or none any more.
var errNoPlace = errors.New("no event can be written there")

// persist has an event written. What the API refuses is refused for good; what the disk does not take it may take later.
func persist(ctx context.Context, write func() (*v1.Event, error)) (*v1.Event, error) {
	for try := 1; ; try++ {
		written, err := write()
		if err == nil || try == eventTries || errors.Is(err, errNoPlace) || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown &&
			!apierrors.IsInternalError(err) {
			return written, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(eventRetry):
		}
	}
}

// putEvent writes an event, or the new count and message of one that was written before.
func (s *Server) putEvent(ctx context.Context, event *v1.Event) (*v1.Event, error) {
	if entry, ok := s.Store.Get(namespacePrefix + event.Namespace); !ok {
		return nil, fmt.Errorf("there is no namespace %s: %w", event.Namespace, errNoPlace)
	} else if m, err := readMetadata(entry.Data); err == nil && m.deleting {
		return nil, fmt.Errorf("namespace %s is being deleted: %w", event.Namespace, errNoPlace)
	}
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{APIVersion: "v1"}) // validated by the rules of core/v1
	ctx, cancel := context.WithTimeout(request.WithNamespace(ctx, event.Namespace), 10*time.Second)
	defer cancel()
	internal := &core.Event{}
	if err := legacyscheme.Scheme.Convert(event, internal, nil); err != nil {
		return nil, err
	}
	if event.Count > 1 {
		internal.ResourceVersion = ""
		info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtimeObject) (runtimeObject, error) {
			was, ok := old.(*core.Event)
			if !ok {
				return nil, fmt.Errorf("not an event: %T", old)
			}
			was = was.DeepCopy()
			was.Count, was.LastTimestamp, was.Message = internal.Count, internal.LastTimestamp, internal.Message
			return was, nil
		})
		obj, _, err := s.registry.events.Update(ctx, event.Name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc,
			false, &metav1.UpdateOptions{})
		if err == nil {
			return externalEvent(obj)
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	internal.ResourceVersion, internal.UID = "", ""
	obj, err := s.registry.events.Create(ctx, internal, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return externalEvent(obj)
}

func externalEvent(obj runtimeObject) (*v1.Event, error) {
	event := &v1.Event{}
	return event, legacyscheme.Scheme.Convert(obj, event, nil)
}
