package images

import (
	"context"
	"errors"
	"io"
)

// Progress is how far a pull has come.
type Progress struct {
	Ref    string
	Status string // resolving, pulling, unpacking, done
	Layers []Layer
}

// Layer is how far one blob of a pull has come.
type Layer struct {
	Digest string
	Status string // waiting, downloading, done, exists
	Offset int64  // bytes
	Total  int64  // bytes
}

// ErrInvalidName is the kind of error of a reference that is none.
var ErrInvalidName = errors.New("invalid image name")

// ErrPull is the kind of error of a pull that did not work.
var ErrPull = errors.New("pull")

type flight struct{}

var errTodo = errors.New("not built yet")

// Normalize gives the full name of ref as containerd names it.
func Normalize(ref string) (string, error) { return ref, nil }

// Look says what is known of ref, and whether it is there and unpacked.
func (im *Images) Look(ctx context.Context, ref string) (Info, bool, error) {
	return Info{}, false, errTodo
}

// Pull fetches and unpacks ref.
func (im *Images) Pull(ctx context.Context, ref string, progress func(Progress)) (Info, error) {
	return Info{}, errTodo
}

// Load reads images from an archive.
func (im *Images) Load(ctx context.Context, r io.Reader) ([]Info, error) { return nil, errTodo }

// Remove takes the name ref away.
func (im *Images) Remove(ctx context.Context, ref string, inUse func(name string) bool) error {
	return errTodo
}

// List names all images.
func (im *Images) List(ctx context.Context) ([]Info, error) { return nil, errTodo }

// Sweep removes what a pull that was cut off by the death of podd has left.
func (im *Images) Sweep(ctx context.Context) error { return errTodo }
