package backend

import (
	"bytes"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// counting counts what a codec reads.
type counting struct {
	runtime.Codec
	decoded atomic.Int64
}

func (c *counting) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	c.decoded.Add(1)
	return c.Codec.Decode(data, gvk, into)
}

// TestChangesAreShared: many watches decode a change once, and encode it once for each form.
func TestChangesAreShared(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // what nobody holds may be decoded again
	const watches, changes = 30, 20
	s := newSubject(t)
	codec := &counting{Codec: exampleCodec}
	s.codec = codec
	ctx := t.Context()
	var all []watch.Interface
	for range watches {
		w, err := s.Watch(ctx, "/pods", storage.ListOptions{Predicate: storage.Everything, Recursive: true})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		all = append(all, w)
	}
	var encoded atomic.Int64
	var wg sync.WaitGroup
	forms := make([]string, watches)
	for n, w := range all {
		wg.Go(func() {
			for range changes {
				e := <-w.ResultChan()
				shared, ok := e.Object.(runtime.CacheableObject)
				if !ok {
					t.Errorf("watch %d: %v of %T", n, e.Type, e.Object)
					return
				}
				var out bytes.Buffer
				err := shared.CacheEncode("name", func(obj runtime.Object, w io.Writer) error {
					encoded.Add(1)
					pod := obj.(*example.Pod)
					pod.Labels = map[string]string{"mine": "to change"} // it is a copy
					_, err := fmt.Fprintln(w, pod.Name, pod.ResourceVersion)
					return err
				}, &out)
				if err != nil || shared.GetObject().(*example.Pod).Labels != nil {
					t.Errorf("watch %d: the shared object has changed, or %v", n, err)
				}
				forms[n] += out.String()
			}
		})
	}
	before := codec.decoded.Load()
	for i := range changes {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}}
		if err := s.Create(ctx, "/pods/"+pod.Name, pod, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if n := codec.decoded.Load() - before; n != changes {
		t.Errorf("%d changes were decoded %d times by %d watches", changes, n, watches)
	}
	if n := encoded.Load(); n != changes {
		t.Errorf("%d changes were encoded %d times by %d watches", changes, n, watches)
	}
	for n, form := range forms {
		if form != forms[0] {
			t.Errorf("watch %d has seen other events: %s", n, form)
		}
	}
}
