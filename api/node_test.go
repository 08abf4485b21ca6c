package api_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"podd/api"
	"podd/api/usage"
)

// Usage is that of a host that was measured once.
func (p *pods) Usage(_ context.Context, want usage.Want) (*usage.Snapshot, error) {
	return &usage.Snapshot{At: time.Now(), Full: want.Full}, nil
}

// Probes are none.
func (p *pods) Probes() []usage.Probe { return nil }

func hasCondition(node *v1.Node, kind v1.NodeConditionType, status v1.ConditionStatus) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == kind && c.Status == status })
}

// The node's conditions are what the runtime says; the time of a change stays until the next one.
func TestNodeConditions(t *testing.T) {
	e := serve(t)
	node, err := e.client.CoreV1().Nodes().Get(t.Context(), "host", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, status := range map[v1.NodeConditionType]v1.ConditionStatus{
		v1.NodeReady: v1.ConditionTrue, v1.NodeMemoryPressure: v1.ConditionFalse, v1.NodeDiskPressure: "", v1.NodePIDPressure: v1.ConditionFalse,
	} {
		if status != "" && !hasCondition(node, kind, status) {
			t.Errorf("%s is not %s: %+v", kind, status, node.Status.Conditions)
		}
	}
	for _, c := range node.Status.Conditions {
		if c.LastTransitionTime.IsZero() || c.LastHeartbeatTime.IsZero() || c.Message == "" || c.Reason == "" {
			t.Errorf("condition %+v", c)
		}
	}
	// Somebody else's condition, and what users write, stay.
	nodes := e.client.CoreV1().Nodes()
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { // podd writes its node meanwhile
		if node, err = nodes.Get(t.Context(), "host", metav1.GetOptions{}); err != nil {
			return err
		}
		node.Status.Conditions = append(node.Status.Conditions, v1.NodeCondition{Type: "example.com/Mine", Status: v1.ConditionTrue})
		_, err = nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := e.dir
	e.stop()
	again := serveIn(t, dir)
	next, err := again.client.CoreV1().Nodes().Get(t.Context(), "host", metav1.GetOptions{})
	if err != nil || !hasCondition(next, "example.com/Mine", v1.ConditionTrue) || next.Status.Conditions[0].LastTransitionTime != node.Status.Conditions[0].LastTransitionTime {
		t.Errorf("after a restart: %+v, %v", next.Status.Conditions, err)
	}
}

// TestNodeEvents: starts, reboots and changes of conditions are told as the kubelet tells of them, and nothing twice.
func TestNodeEvents(t *testing.T) {
	boot := func(id string) func(*api.Config) { return func(c *api.Config) { c.Host.BootID = id } }
	told := func(e *env, wanted map[string]string) {
		t.Helper()
		e.until(t, fmt.Sprint("told ", wanted), func() bool {
			list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=host"})
			if err != nil {
				t.Fatal(err)
			}
			found, times := map[string]string{}, map[string]int32{}
			for _, event := range list.Items {
				times[event.Reason] += event.Count
				found[event.Reason] = fmt.Sprintf("%d %s %s", times[event.Reason], event.Type, event.Message)
			}
			maps.DeleteFunc(found, func(reason, _ string) bool { // the disk of this host is what it is
				return strings.HasPrefix(reason, "NodeHas")
			})
			return maps.Equal(found, wanted)
		})
	}
	want := map[string]string{"Starting": "1 Normal Starting podd."}
	e := serveIn(t, t.TempDir(), boot("one"))
	told(e, want)
	e.runtime.ail(errors.New("containerd is away"))
	for range 2 {
		if err := e.server.UpdateNode(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want["NodeNotReady"] = "1 Normal Node host status is now: NodeNotReady"
	told(e, want)
	e.runtime.ail(nil)
	if err := e.server.UpdateNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	want["NodeReady"] = "1 Normal Node host status is now: NodeReady"
	told(e, want)
	e.stop()
	e = serveIn(t, e.dir, boot("one"))
	want["Starting"] = "2 Normal Starting podd."
	told(e, want)
	e.stop()
	e = serveIn(t, e.dir, boot("two"))
	want["Starting"], want["Rebooted"] = "3 Normal Starting podd.", "1 Warning Node host has been rebooted, boot id: two"
	told(e, want)
}

// Whatever clients ask for, the number of series stays.
func TestSeriesAreBounded(t *testing.T) {
	e := serve(t)
	count := func() int {
		res, err := e.http.Get("http://podd/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for name, f := range families {
			if strings.HasPrefix(name, "apiserver_") {
				n += len(f.Metric)
			}
		}
		return n
	}
	ask := func(i int) {
		for _, path := range []string{"/nothing/%d", "/api/v1/x%d", "/api/v1/namespaces/n%d/pods/p", "/apis/g%d/v1/things", "/api/v1/pods?x=%d"} {
			for _, method := range []string{http.MethodGet, fmt.Sprintf("M%d", i)} {
				r, err := http.NewRequest(method, "http://podd"+fmt.Sprintf(path, i), nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("User-Agent", fmt.Sprintf("agent/%d", i))
				res, err := e.http.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
			}
		}
	}
	ask(0)
	few := count()
	for i := range 100 {
		ask(i + 1)
	}
	if many := count(); many > few || few == 0 {
		t.Errorf("%d series of requests became %d", few, many)
	}
}

// TestNodeLabelsStay: the labels that somebody gives the node are not undone by podd's update of its status at that moment.
func TestNodeLabelsStay(t *testing.T) {
	e := serve(t)
	over := make(chan struct{})
	updated := make(chan error, 1)
	go func() {
		for {
			select {
			case <-over:
				updated <- nil
				return
			default:
			}
			if err := e.server.UpdateNode(context.Background()); err != nil {
				updated <- err
				return
			}
		}
	}()
	for n := range 300 {
		e.patchNode(t, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, n))
		node, err := e.client.CoreV1().Nodes().Get(t.Context(), "host", metav1.GetOptions{})
		if err != nil || node.Labels["n"] != fmt.Sprint(n) {
			t.Errorf("label %d is %q: %v", n, node.Labels["n"], err)
			break
		}
	}
	close(over)
	if err := <-updated; err != nil {
		t.Error(err)
	}
}
