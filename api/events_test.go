package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestEventsInBothGroups: an event is one object, with its count or its series, whichever API it is read by.
func TestEventsInBothGroups(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	for range 3 {
		e.server.Event(p, v1.EventTypeNormal, "Pulled", "the same")
	}
	e.until(t, "an event with its count", func() bool {
		list, err := e.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Pulled"})
		return err == nil && len(list.Items) == 1 && list.Items[0].DeprecatedCount == 3 && list.Items[0].Note == "the same" && list.Items[0].Regarding.UID == p.UID
	})
	now := metav1.NowMicro()
	made, err := e.client.EventsV1().Events("default").Create(t.Context(), &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "new"}, EventTime: now,
		Series: &eventsv1.EventSeries{Count: 2, LastObservedTime: now}, ReportingController: "example.com/c", ReportingInstance: "c-1", Action: "Do",
		Reason: "Done", Type: v1.EventTypeNormal, Regarding: v1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`{"series":{"count":5,"lastObservedTime":%q}}`, now.UTC().Format(metav1.RFC3339Micro))
	if _, err := e.client.EventsV1().Events("default").Patch(t.Context(), made.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	old, err := e.client.CoreV1().Events("default").Get(t.Context(), "new", metav1.GetOptions{})
	if err != nil || old.Series == nil || old.Series.Count != 5 || old.InvolvedObject.Name != "a" {
		t.Errorf("by the old API: %+v, %v", old, err)
	}
}

// TestSpam: of many events about one object only the first 25 count, and of those that differ in nothing but their messages
// the first nine are written, and all others as one.
func TestSpam(t *testing.T) {
	e := serve(t)
	p, other := e.create(t, pod("a")), e.create(t, pod("b"))
	for i := range 60 {
		e.server.Event(p, v1.EventTypeWarning, "Broken", "reason %d", i)
	}
	e.server.Event(other, v1.EventTypeNormal, "Last", "after all others")
	e.eventually(t, "b", "Last", "after all others")
	list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"})
	if err != nil || len(list.Items) != 10 {
		t.Fatalf("%d events, %v", len(list.Items), err)
	}
	for _, event := range list.Items {
		combined := strings.HasPrefix(event.Message, "(combined from similar events): reason ")
		if want := map[bool]int32{false: 1, true: 25 - 9}[combined]; event.Count != want {
			t.Errorf("%q counts %d, want %d", event.Message, event.Count, want)
		}
		if combined && (event.Message != "(combined from similar events): reason 24" || event.LastTimestamp.Before(&event.FirstTimestamp)) {
			t.Errorf("combined: %+v", event)
		}
	}
}

// TestEventRate: a flood of events is written bit by bit, and nobody waits for it.
func TestEventRate(t *testing.T) {
	e := serve(t)
	const flood = 250
	began := time.Now()
	for i := range flood {
		about := pod(fmt.Sprint("p", i))
		about.Namespace = "default"
		e.server.Event(about, v1.EventTypeNormal, "Flood", "x")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("telling of %d events took %s", flood, took)
	}
	written := func() int {
		entries, _, _ := e.store.List("/events/default/", "", 0)
		return len(entries)
	}
	e.until(t, "the burst is written", func() bool { return written() >= 100 })
	if n, most := written(), 100+int(50*time.Since(began).Seconds())+1; n > most {
		t.Errorf("%d were written at once, at most %d are to be", n, most)
	}
	e.until(t, "all are written", func() bool { return written() >= flood })
	if took := time.Since(began); took < (flood-100-1)*time.Second/50 {
		t.Errorf("%d events were written in %s", flood, took)
	}
	e.stop()
	began = time.Now()
	for range 2000 { // twice the queue, with nobody at its end
		e.server.Event(pod("a"), v1.EventTypeNormal, "Flood", "x")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("telling of events that nobody writes took %s", took)
	}
}

// TestEventsAreCut: a message of any bytes and length becomes text that fits.
func TestEventsAreCut(t *testing.T) {
	e := serve(t)
	e.server.Event(e.create(t, pod("a")), v1.EventTypeWarning, "Unhealthy", "%s", "\xff"+strings.Repeat("é", 1000))
	want := "\ufffd" + strings.Repeat("é", 253) + "..." + strings.Repeat("é", 255)
	e.eventually(t, "a", "Unhealthy", want)
}

// TestEventTTL: an event lives for an hour from when it was last written, also over a restart.
func TestEventTTL(t *testing.T) {
	e := serve(t)
	e.server.Event(e.create(t, pod("a")), v1.EventTypeNormal, "Started", "x")
	e.eventually(t, "a", "Started", "x")
	entries, _, _ := e.store.List("/events/default/", "", 0)
	if left := time.Until(time.Unix(entries[0].Expires, 0)); left < 59*time.Minute || left > time.Hour {
		t.Errorf("it has %s left", left)
	}
	if _, err := e.store.Put(t.Context(), "/events/default/old", entries[0].Data, 0, time.Now().Unix()-1); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e = serveIn(t, e.dir)
	e.until(t, "the old one goes", func() bool { _, ok := e.store.Get("/events/default/old"); return !ok })
	again, ok := e.store.Get(entries[0].Key)
	if !ok || again.Expires != entries[0].Expires {
		t.Errorf("after the restart it expires at %d, before at %d", again.Expires, entries[0].Expires)
	}
}

// TestNoEventsInAGoingNamespace: they would hold it, or outlive it.
func TestNoEventsInAGoingNamespace(t *testing.T) {
	e := serve(t)
	e.namespace(t, "mine")
	p, err := e.client.CoreV1().Pods("mine").Create(t.Context(), pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.deleteNamespace(t, "mine")
	e.server.Event(p, v1.EventTypeNormal, "Killing", "Stopping container")
	e.until(t, "the pod is asked to go", func() bool { now, ok := e.store.PodByUID(p.UID); return ok && now.DeletionTimestamp != nil })
	if err := e.store.FinishPod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	e.server.Event(p, v1.EventTypeNormal, "Killing", "Stopping container again")
	e.server.Event(e.create(t, pod("b")), v1.EventTypeNormal, "Last", "after all others")
	e.eventually(t, "b", "Last", "after all others")
	e.gone(t, "mine")
}

// TestEventsOfContainers: an event about a container names it by the list that it is in.
func TestEventsOfContainers(t *testing.T) {
	e := serve(t)
	p := e.create(t, pod("a"))
	p.Spec.InitContainers = []v1.Container{{Name: "first"}}
	p.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug"}}}
	for container, want := range map[string]string{
		"": "", p.Spec.Containers[0].Name: "spec.containers{" + p.Spec.Containers[0].Name + "}", "first": "spec.initContainers{first}",
		"debug": "spec.ephemeralContainers{debug}", "pause": "spec.containers{pause}",
	} {
		reason := "About" + container
		e.server.ContainerEvent(p, container, v1.EventTypeNormal, reason, "told")
		e.eventually(t, "a", reason, "told")
		list, err := e.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
		if err != nil || list.Items[0].InvolvedObject.FieldPath != want {
			t.Errorf("an event on container %q: %+v, %v; want it on %q", container, list.Items, err, want)
		}
	}
}
