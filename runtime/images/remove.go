package images

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Remove takes the name ref away, and with its last name an image's content and snapshots. ref may be an ID, and is then
// all the names of that image. It is ErrInUse, and nothing happens, when inUse says so of one of the names; nil when there
// is no such image.
func (im *Images) Remove(ctx context.Context, ref string, inUse func(name string) bool) error {
	ctx = im.context(ctx)
	names, err := im.namesOf(ctx, ref)
	if err != nil {
		return err
	}
	for _, name := range names {
		if inUse != nil && inUse(name) {
			return fmt.Errorf("remove %s: %w", name, ErrInUse)
		}
	}
	for _, name := range names {
		err := im.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	return nil
}

func (im *Images) namesOf(ctx context.Context, ref string) ([]string, error) {
	if _, err := digest.Parse(ref); err != nil {
		name, err := Normalize(ref)
		return []string{name}, err
	}
	all, err := im.List(ctx)
	var names []string
	for _, info := range all {
		if info.ID == ref {
			names = append(names, info.Name)
		}
	}
	return names, err
}
