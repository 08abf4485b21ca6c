package containers

import (
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// What an older podd wrote is read, and what it did not write is not known.
func TestRecordOfAnOlderPodd(t *testing.T) {
	old := []byte(`{"uid":"u1","namespace":"default","pod":"web","name":"app","attempt":3,"sandbox":"s1","key":"k","image":"docker.io/library/busybox:1","backoff":1000,"stopSignal":"SIGTERM"}`)
	r, err := readRecord(containers.Container{Extensions: map[string]typeurl.Any{extension: &anypb.Any{TypeUrl: extension, Value: old}}})
	if err != nil {
		t.Fatal(err)
	}
	i := r.instance(containers.Container{ID: "c1"})
	if i.Name != "app" || i.Attempt != 3 || i.Key != "k" || i.Image == "" {
		t.Errorf("instance: %+v", i)
	}
	if i.Ref != "" || i.Era != 0 || i.Resources != nil {
		t.Errorf("it knows the reference %q, the era %d, the resources %v", i.Ref, i.Era, i.Resources)
	}
}
