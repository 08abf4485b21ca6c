package runtime

import (
	"maps"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"podd/api/fit"
	"podd/runtime/containers"
	"podd/status"
)

// ofMemory is a request and a limit of so much memory.
func ofMemory(memory string) v1.ResourceRequirements {
	list := v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	return v1.ResourceRequirements{Requests: list, Limits: list}
}

// TestAllocateWhole: what a pod asks for as a whole counts for all of it, is admitted when it is there, and what it had before
// is known until it is through, also to a podd that comes back.
func TestAllocateWhole(t *testing.T) {
	p := newPromising(t)
	pod, h := p.bound("a", "")
	whole := func(memory string) *v1.Pod { return status.WithOwn(pod, ofMemory(memory)) }
	first := whole("256Mi")
	if err := h.admit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	other, others := p.bound("b", "1")
	if err := others.admit(t.Context(), status.WithOwn(other, ofMemory("256Mi"))); err != nil {
		t.Fatal(err)
	}
	more := whole("1Gi")
	if room := h.room(more, h.record()); room.Memory().Value() != 768<<20 {
		t.Errorf("room %v", room)
	}
	if err := h.allocate(t.Context(), more); err != nil || h.record().Before != nil || fit.Of(h.admitted(more)).Memory != 256<<20 {
		t.Errorf("it got what is not there: %+v, %v", h.record(), err)
	}
	for _, memory := range []string{"512Mi", "768Mi", "128Mi"} {
		if err := h.allocate(t.Context(), whole(memory)); err != nil {
			t.Fatal(err)
		}
		p.Runtime = New(p.Options) // podd comes back
		h = newHost(p.Runtime, pod.UID)
		rec := h.record()
		if rec.Before == nil || !equality.Semantic.DeepEqual(*rec.Before, ofMemory("256Mi")) ||
			!equality.Semantic.DeepEqual(h.admitted(more).Spec.Resources, whole(memory).Spec.Resources) {
			t.Errorf("%s: stored %+v", memory, rec)
		}
	}
	// The resources of containers alone leave it as it is.
	if err := others.allocate(t.Context(), asks(status.WithOwn(other, ofMemory("256Mi")), "500m")); err != nil || others.record().Before != nil {
		t.Errorf("%+v, %v", others.record(), err)
	}
	// They may be taken away from one that had none, by a resize that never was.
	plain, h := p.bound("c", "")
	if err := h.admit(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	if err := h.allocate(t.Context(), status.WithOwn(plain, ofMemory("64Mi"))); err != nil {
		t.Fatal(err)
	}
	if rec := h.record(); rec.Before == nil || len(rec.Before.Limits) != 0 || h.admitted(plain).Spec.Resources == nil {
		t.Errorf("stored %+v", rec)
	}
}

// TestWholeOfOlder: of a pod whose record has only resources of its containers, those of its own are taken from its spec.
func TestWholeOfOlder(t *testing.T) {
	p := newPromising(t)
	pod, h := p.bound("old", "1")
	if err := h.admit(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	err := h.change(t.Context(), func(r record) record {
		r.Allocated = maps.Clone(r.Allocated)
		delete(r.Allocated, status.Whole)
		return r
	})
	if err != nil {
		t.Fatal(err)
	}
	again := newHost(p.Runtime, pod.UID)
	again.storeAdopted(t.Context())
	data, _ := p.Store.Record(pod.UID)
	r, err := decodeRecord(data)
	if own, known := r.Allocated[status.Whole]; err != nil || !known || len(own.Limits) != 0 || fit.Of(withResources(pod, r.Allocated)).CPU != 1000 {
		t.Errorf("stored %+v, %v", r, err)
	}
	if again = newHost(p.Runtime, pod.UID); again.adopted {
		t.Error("what is stored is taken from the spec again")
	}
}

// TestHeldTo: what an instance is held to is known by what its pod had when it was made or last resized, and else, of an
// older podd's, by what the pod had before its first resize.
func TestHeldTo(t *testing.T) {
	own := func(r v1.ResourceRequirements) *v1.ResourceRequirements { return &r }
	small, big, none := ofMemory("1Mi"), ofMemory("2Mi"), v1.ResourceRequirements{}
	for name, c := range map[string]struct {
		instance containers.Instance
		before   *v1.ResourceRequirements
		want     string // memory limit
	}{
		"its own limit":           {containers.Instance{Resources: own(ofMemory("3Mi")), Whole: own(small)}, nil, "3Mi"},
		"the pod's":               {containers.Instance{Resources: own(none), Whole: own(small)}, own(none), "1Mi"},
		"made before":             {containers.Instance{Resources: own(none), Whole: own(none)}, nil, "0"},
		"of an older podd":        {containers.Instance{Resources: own(none)}, nil, "2Mi"},
		"of one, under a resize":  {containers.Instance{Resources: own(none)}, own(small), "1Mi"},
		"of one, that had no own": {containers.Instance{Resources: own(none)}, own(none), "0"},
	} {
		r := record{Allocated: map[string]v1.ResourceRequirements{status.Whole: big}, Before: c.before}
		if has := r.heldTo(c.instance); has == nil || has.Limits == nil || has.Limits.Memory().String() != c.want {
			t.Errorf("%s: %v, want %s", name, has, c.want)
		}
	}
	if has := (record{}).heldTo(containers.Instance{Whole: own(small)}); has != nil {
		t.Errorf("not known: %v", has)
	}
}

// TestMakeRoom: a container is made with what is admitted when there is room for it, which may be later than its making began.
func TestMakeRoom(t *testing.T) {
	p := newPromising(t)
	pod, h := p.bound("a", "1")
	if err := h.admit(t.Context(), status.WithOwn(pod, ofMemory("256Mi"))); err != nil {
		t.Fatal(err)
	}
	begun, later := h.admitted(pod), asks(status.WithOwn(pod, ofMemory("128Mi")), "500m")
	err := h.change(t.Context(), func(r record) record {
		r.Allocated = resourcesOf(later)
		return r
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := h.makeRoom(t.Context(), begun, "c")
	if err != nil || !sameResources(made, resourcesOf(later)) || sameResources(begun, resourcesOf(later)) {
		t.Errorf("made with %+v and %+v, %v", made.Spec.Resources, made.Spec.Containers[0].Resources, err)
	}
}
