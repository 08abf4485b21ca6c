package api

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	endpointsmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"podd/api/exposition"
)

// What podd observes of itself while it works, under the kubelet's names where it has the same.
var (
	podStart = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "kubelet_pod_start_duration_seconds", Help: "Time from when a pod was seen first until all its containers ran",
		Buckets: []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600},
	})
	turns = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "kubelet_pod_worker_duration_seconds", Help: "Time of one look at a pod: what there is, what to do next, its status",
		Buckets: metrics.DefBuckets, ConstLabels: map[string]string{"operation_type": "sync"},
	})
	steps = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: "kubelet_runtime_operations_duration_seconds", Help: "Time that a step on a pod took", Buckets: metrics.ExponentialBuckets(.005, 2.5, 14),
	}, []string{"operation_type"})
	stepCount = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kubelet_runtime_operations_total", Help: "Steps on a pod",
	}, []string{"operation_type"})
	stepErrors = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kubelet_runtime_operations_errors_total", Help: "Steps on a pod that did not work",
	}, []string{"operation_type"})
)

var registerOnce = sync.OnceFunc(func() {
	endpointsmetrics.Register() // requests by verb, resource and code
	legacyregistry.MustRegister(podStart, turns, steps, stepCount, stepErrors)
})

// shown is the families of the process-wide registry that podd has numbers for; upstream's packages register many more.
var shown = []string{
	"apiserver_request_total", "apiserver_request_duration_seconds", "apiserver_longrunning_requests", "apiserver_response_sizes",
	"apiserver_current_inflight_requests", "apiserver_request_terminations_total", "apiserver_request_aborts_total",
	"apiserver_watch_events_total", "apiserver_tls_handshake_errors_total", "go_", "process_", "kubelet_",
}

// ownMetrics is /metrics: what podd does and takes itself.
func (s *Server) ownMetrics() http.Handler {
	registerOnce()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		families, err := legacyregistry.DefaultGatherer.Gather()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
			return !slices.ContainsFunc(shown, func(name string) bool {
				return f.GetName() == name || strings.HasSuffix(name, "_") && strings.HasPrefix(f.GetName(), name)
			})
		})
		zipped(w, r, exposition.ContentType, func(out io.Writer) error {
			for _, f := range families {
				if _, err := expfmt.MetricFamilyToText(out, f); err != nil {
					return err
				}
			}
			return exposition.Own(out, s.own())
		})
	})
}

// own is what is counted when it is asked for.
func (s *Server) own() exposition.State {
	out := exposition.State{Version: s.Version, Node: s.NodeName, Containers: map[string]int{"running": 0, "exited": 0, "created": 0}}
	for _, pod := range s.Store.Pods() {
		if pod.Spec.NodeName != s.NodeName {
			continue
		}
		if pod.Status.Phase == v1.PodRunning {
			out.Pods++
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
			switch {
			case c.State.Running != nil:
				out.Containers["running"]++
			case c.State.Terminated != nil:
				out.Containers["exited"]++
			case c.ContainerID != "":
				out.Containers["created"]++
			}
		}
	}
	counts := s.Store.Counts()
	out.Syncs, out.Objects, out.Watches, out.Bytes = counts.Syncs, counts.Objects, counts.Watches, counts.Bytes
	return out
}

// Turn tells of one look at a pod.
func (s *Server) Turn(took time.Duration) { turns.Observe(took.Seconds()) }

// pull is the step that may bring an image.
const pull = "pull"

// Step tells of one step on a pod; kind is one of a few.
func (s *Server) Step(kind string, took time.Duration, err error) {
	steps.WithLabelValues(kind).Observe(took.Seconds())
	stepCount.WithLabelValues(kind).Inc()
	if kind == pull {
		s.imagesOld.Store(true)
	}
	if err != nil {
		stepErrors.WithLabelValues(kind).Inc()
	}
}

// starts times pods from their first sight until they run.
type starts struct {
	mu    sync.Mutex
	since map[types.UID]time.Time // the zero time: it has run already
}

// followStarts times starts until the returned function is called.
func (s *Server) followStarts() (stop func()) {
	st := &starts{since: map[types.UID]time.Time{}}
	for _, pod := range s.Store.Pods() {
		st.since[pod.UID] = time.Time{} // when it came is not known
	}
	return s.Store.OnPodChange(func(uid types.UID) {
		pod, ok := s.Store.PodByUID(uid)
		st.note(uid, pod, ok, time.Now())
	})
}

func (st *starts) note(uid types.UID, pod *v1.Pod, there bool, now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	since, known := st.since[uid]
	switch {
	case !there:
		delete(st.since, uid)
	case !known:
		st.since[uid] = now
	case !since.IsZero() && pod.Status.Phase != v1.PodPending && len(pod.Status.ContainerStatuses) == len(pod.Spec.Containers):
		podStart.Observe(now.Sub(since).Seconds())
		st.since[uid] = time.Time{}
	}
}
