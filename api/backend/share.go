package backend

import (
	"bytes"
	"io"
	"sync"
	"weak"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shared lets all watches of a kind decode a change once, and encode it once for each form in which clients want it. It
// remembers the newest changes, but keeps nothing alive: what no watch holds any more goes with the next garbage
// collection.
type shared struct {
	mu     sync.Mutex
	recent [32]struct {
		rev           int64
		after, before weak.Pointer[sharedObject] // the change
	}
}

// get is the object of a change, decoded by whoever came first. It must not be changed.
func (s *shared) get(rev int64, before bool, decode func() (runtime.Object, error)) (*sharedObject, error) {
	s.mu.Lock()
	slot := &s.recent[rev%int64(len(s.recent))]
	if slot.rev != rev {
		slot.rev, slot.after, slot.before = rev, weak.Pointer[sharedObject]{}, weak.Pointer[sharedObject]{}
	}
	which := &slot.after
	if before {
		which = &slot.before
	}
	o := which.Value()
	if o == nil {
		o = &sharedObject{}
		*which = weak.Make(o)
	}
	s.mu.Unlock()
	o.once.Do(func() { o.object, o.err = decode() })
	return o, o.err
}

// sharedObject is one state of an object with its encodings. Upstream's encoders know it by its CacheEncode.
type sharedObject struct {
	once   sync.Once
	object runtime.Object // never changed
	err    error

	mu    sync.Mutex
	forms map[runtime.Identifier]*form
}

// form is one encoding.
type form struct {
	once sync.Once
	data []byte
	err  error
}

var _ runtime.CacheableObject = (*sharedObject)(nil)

// CacheEncode writes the encoding that id names, and makes it with encode if this is the first time.
func (o *sharedObject) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	o.mu.Lock()
	f := o.forms[id]
	if f == nil {
		if o.forms == nil {
			o.forms = map[runtime.Identifier]*form{}
		}
		f = &form{}
		o.forms[id] = f
	}
	o.mu.Unlock()
	f.once.Do(func() {
		var b bytes.Buffer
		f.err = encode(o.GetObject(), &b)
		f.data = b.Bytes()
	})
	if f.err != nil {
		return f.err
	}
	_, err := w.Write(f.data)
	return err
}

// GetObject is a copy.
func (o *sharedObject) GetObject() runtime.Object { return o.object.DeepCopyObject() }

// GetObjectKind is that of the object.
func (o *sharedObject) GetObjectKind() schema.ObjectKind { return o.object.GetObjectKind() }

// DeepCopyObject is the object itself: nobody may change it.
func (o *sharedObject) DeepCopyObject() runtime.Object { return o }
