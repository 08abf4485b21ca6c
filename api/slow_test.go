package api_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// TestSlowWatcher: a watcher that the history passes by while it does not read is told so, with 410 as the last event, and
// the others miss nothing.
func TestSlowWatcher(t *testing.T) {
	const changes, others = 100, 5
	e := serve(t)
	ctx := t.Context()
	maps := e.client.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "busy"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := e.http.Get("http://podd/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=" + list.ResourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	if slow.StatusCode != http.StatusOK {
		t.Fatal(slow.Status)
	}
	var wg sync.WaitGroup
	for n := range others {
		w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer w.Stop()
			for i := range changes {
				event, ok := <-w.ResultChan()
				changed, is := event.Object.(*v1.ConfigMap)
				if !ok || event.Type != watch.Modified || !is || changed.Data["n"] != fmt.Sprint(i) {
					t.Errorf("watcher %d, event %d: %v", n, i, event.Type)
					return
				}
			}
		})
	}
	for i := range changes { // more than the history and all buffers together hold
		patch := fmt.Sprintf(`{"data":{"n":"%d","ballast":"%s"}}`, i, strings.Repeat("x", 100_000))
		if _, err := maps.Patch(ctx, "busy", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	events := json.NewDecoder(bufio.NewReader(slow.Body))
	for seen := 0; ; seen++ {
		var event struct {
			Type   string
			Object struct {
				Code int
				Data map[string]string
			}
		}
		err := events.Decode(&event)
		switch {
		case errors.Is(err, io.EOF):
			t.Fatalf("the watch ended without a word after %d events", seen)
		case err != nil:
			t.Fatalf("after %d events: %v", seen, err)
		case event.Type == "ERROR":
			if event.Object.Code != http.StatusGone {
				t.Errorf("the last event has code %d", event.Object.Code)
			}
			if err := events.Decode(&event); !errors.Is(err, io.EOF) {
				t.Errorf("after the last event: %v", err)
			}
			return
		case event.Object.Data["n"] != fmt.Sprint(seen):
			t.Fatalf("event %d is %s", seen, event.Object.Data["n"])
		case seen == changes:
			t.Fatal("it missed nothing: the test has not made it slow")
		}
	}
}

// TestContinueIsConsistent: the pages of a list are the state at its beginning, as long as the history has it; then 410
// says so, with a token to go on with what is there now.
func TestContinueIsConsistent(t *testing.T) {
	e := serve(t)
	ctx := t.Context()
	maps := e.client.CoreV1().ConfigMaps("default")
	make := func(name string) {
		t.Helper()
		if _, err := maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		make(name)
	}
	page := func(from string, limit int64) (names string, list *v1.ConfigMapList, err error) {
		list, err = maps.List(ctx, metav1.ListOptions{Limit: limit, Continue: from})
		if err == nil {
			for _, m := range list.Items {
				names += m.Name
			}
		}
		return names, list, err
	}
	names, first, err := page("", 2)
	if err != nil || names != "ab" || first.RemainingItemCount == nil || *first.RemainingItemCount != 2 {
		t.Fatalf("first page: %q, %v", names, err)
	}
	make("bb")
	if err := maps.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	names, rest, err := page(first.Continue, 0)
	if err != nil || names != "cd" || rest.ResourceVersion != first.ResourceVersion {
		t.Errorf("the rest is %q at %s, the first page was at %s: %v", names, rest.ResourceVersion, first.ResourceVersion, err)
	}
	e.store.Forget(e.store.Revision())
	_, _, err = page(first.Continue, 0)
	var status interface{ Status() metav1.Status }
	if !errors.As(err, &status) || status.Status().Code != http.StatusGone || status.Status().Continue == "" {
		t.Fatalf("a page of a state that is forgotten: %v", err)
	}
	if names, _, err := page(status.Status().Continue, 0); err != nil || names != "bbd" {
		t.Errorf("the rest of what is there now is %q: %v", names, err)
	}
}
