package images

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Remove takes the name ref away, and with its last name an image's content and snapshots. ref may be an ID, and is then
// all the names of that image. It is ErrInUse, and nothing happens, when users knows pods that use one of the names; nil when
// there is no such image.
func (im *Images) Remove(ctx context.Context, ref string, users func(name string) ([]string, error)) error {
	ctx = im.context(ctx)
	names, err := im.namesOf(ctx, ref)
	if err != nil {
		return err
	}
	for _, name := range names {
		if users == nil {
			continue
		}
		pods, err := users(name)
		if err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		if len(pods) > 0 {
			return fmt.Errorf("remove %s: %w by %s", name, ErrInUse, told(pods))
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

// told names pods, the first few of them.
func told(pods []string) string {
	const most = 5
	if len(pods) == 1 {
		return "pod " + pods[0]
	}
	if more := len(pods) - most; more > 0 {
		return fmt.Sprintf("pods %s and %d more", strings.Join(pods[:most], ", "), more)
	}
	return "pods " + strings.Join(pods, ", ")
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
