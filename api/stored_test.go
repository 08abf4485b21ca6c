package api

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// stored is an object in the form in which the store has it.
func stored(t testing.TB, meta metav1.ObjectMeta) []byte {
	t.Helper()
	raw, err := (&metav1.PartialObjectMetadata{ObjectMeta: meta}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	data, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), data...)
}

func example() metav1.ObjectMeta {
	yes, now := true, metav1.Now()
	return metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "u-1", Generation: 3, Labels: map[string]string{"a": "b", "c": ""},
		CreationTimestamp: now, DeletionTimestamp: &now, Finalizers: []string{"example.com/a", ""},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:data":{}}`)}},
		OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "o", UID: "u-2", BlockOwnerDeletion: &yes},
			{APIVersion: "v1", Kind: "Node", Name: "host", UID: "u-3", Controller: &yes}}}
}

func sameMetadata(m metadata, meta metav1.ObjectMeta) bool {
	return m.uid == meta.UID && m.deleting == (meta.DeletionTimestamp != nil) && slices.Equal(m.finalizers, meta.Finalizers) &&
		slices.EqualFunc(m.owners, meta.OwnerReferences, sameReference)
}

func TestReadMetadata(t *testing.T) {
	for name, meta := range map[string]metav1.ObjectMeta{"all": example(), "none": {}, "plain": {Name: "a", UID: types.UID("x")}} {
		if m, err := readMetadata(stored(t, meta)); err != nil || !sameMetadata(m, meta) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	whole := stored(t, example())
	for n := 1; n < len(whole); n++ { // a part of an object is an error, or an object with less
		_, _ = readMetadata(whole[:n])
	}
	if _, err := readMetadata(whole[:len(whole)-20]); err == nil {
		t.Error("half an object is read")
	}
	if _, err := readMetadata([]byte("k8")); err == nil {
		t.Error("two bytes are read")
	}
}

// FuzzReadMetadata: whatever the bytes are, reading them ends; and what the kind's own decoder reads is read the same.
func FuzzReadMetadata(f *testing.F) {
	f.Add(stored(f, example()))
	f.Add(stored(f, metav1.ObjectMeta{Name: "a"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readMetadata(data)
		var object metav1.PartialObjectMetadata
		if object.Unmarshal(data) != nil {
			return
		}
		if m, err := readMetadata(stored(t, object.ObjectMeta)); err != nil || !sameMetadata(m, object.ObjectMeta) {
			t.Errorf("%+v, %v: want %+v", m, err, object.ObjectMeta)
		}
	})
}

func BenchmarkReadMetadata(b *testing.B) {
	data := stored(b, example())
	for b.Loop() {
		if _, err := readMetadata(data); err != nil {
			b.Fatal(err)
		}
	}
}
