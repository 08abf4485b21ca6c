package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// jsonLimit is the longest index, manifest or config that is read into memory.
const jsonLimit = 8 << 20

func (im *Images) context(ctx context.Context) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok || im.namespace == "" {
		return ctx
	}
	return namespaces.WithNamespace(ctx, im.namespace)
}

// askLimit bounds a look: a containerd that hangs is one that cannot be asked.
const askLimit = 10 * time.Second

// Look says what is known of ref, and whether it is there and unpacked. Of an image that is there but not unpacked, which
// Unpack changes, it gives the Info and false. After the first time it asks containerd for the record and for the snapshot
// only, and reads no content.
func (im *Images) Look(ctx context.Context, ref string) (Info, bool, error) {
	ctx, cancel := context.WithTimeout(im.context(ctx), askLimit)
	defer cancel()
	name, err := Normalize(ref)
	if err != nil {
		return Info{}, false, err
	}
	record, err := im.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, fmt.Errorf("look at image %s: %w", name, err)
	}
	info, err := im.info(ctx, record)
	if errdefs.IsNotFound(err) { // a record without its content
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, fmt.Errorf("look at image %s: %w", name, err)
	}
	_, err = im.client.SnapshotService(im.snapshotter).Stat(ctx, info.ChainID)
	if err != nil && !errdefs.IsNotFound(err) {
		return Info{}, false, fmt.Errorf("look at image %s: %w", name, err)
	}
	return info, err == nil, nil
}

// Unpack makes an image whose content is on the host, but which is not unpacked, ready for use: one that another client of
// containerd has fetched. It does nothing for an image that is ready.
func (im *Images) Unpack(ctx context.Context, ref string) (Info, error) {
	ctx = im.context(ctx)
	info, ok, err := im.Look(ctx, ref)
	if ok || err != nil {
		return info, err
	}
	if info.Name == "" {
		return info, fmt.Errorf("unpack %s: %w", ref, errdefs.ErrNotFound)
	}
	err = im.leased(ctx, "unpack", func(ctx context.Context) error {
		record, err := im.client.ImageService().Get(ctx, info.Name)
		if err != nil {
			return err
		}
		return containerd.NewImage(im.client, record).Unpack(ctx, im.snapshotter)
	})
	if err != nil {
		return info, fmt.Errorf("unpack %s: %w", info.Name, err)
	}
	return info, nil
}

// List gives all images whose content is there, by name. Names that are made of a digest alone are left out.
func (im *Images) List(ctx context.Context) ([]Info, error) {
	ctx = im.context(ctx)
	records, err := im.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	infos := make([]Info, 0, len(records))
	for _, r := range records {
		info, err := im.info(ctx, r)
		if err != nil {
			im.log.Debug("leave image out of the list", "image", r.Name, "err", err)
			continue
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// info completes a record from its content, which is read once per digest.
func (im *Images) info(ctx context.Context, record images.Image) (Info, error) {
	im.mu.Lock()
	info, ok := im.infos[record.Target.Digest]
	im.mu.Unlock()
	if !ok {
		var err error
		if info, err = describe(ctx, bounded{im.client.ContentStore()}, record.Target); err != nil {
			return Info{}, err
		}
		im.mu.Lock()
		if len(im.infos) > 1000 {
			clear(im.infos)
		}
		im.infos[record.Target.Digest] = info
		im.mu.Unlock()
	}
	info.Name, info.Created = record.Name, record.UpdatedAt
	info.Pulled, info.Pinned = record.Labels[pulledLabel] != "", record.Labels[pinnedLabel] == "pinned"
	if repo := repository(record.Name); repo != "" {
		info.RepoDigest = repo + "@" + info.Digest
	}
	return info, nil
}

// describe reads what an image of this host's platform is.
func describe(ctx context.Context, p content.Provider, target ocispec.Descriptor) (Info, error) {
	manifest, err := images.Manifest(ctx, p, target, platforms.Default())
	if err != nil {
		return Info{}, err
	}
	b, err := content.ReadBlob(ctx, p, manifest.Config)
	if err != nil {
		return Info{}, err
	}
	info := Info{ID: manifest.Config.Digest.String(), Digest: target.Digest.String(), Size: manifest.Config.Size}
	if err := json.Unmarshal(b, &info.Config); err != nil {
		return Info{}, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	if len(info.Config.RootFS.DiffIDs) == 0 {
		return Info{}, errors.New("image has no layers")
	}
	info.ChainID = identity.ChainID(slices.Clone(info.Config.RootFS.DiffIDs)).String()
	for _, l := range manifest.Layers {
		info.Size += l.Size
	}
	if !images.IsIndexType(target.MediaType) {
		info.Size += target.Size
	}
	return info, nil
}

// bounded refuses to read JSON that is too long, whatever a descriptor says of it.
type bounded struct{ content.Store }

func (b bounded) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := b.Store.ReaderAt(ctx, desc)
	if err != nil || !isJSON(desc.MediaType) || ra.Size() <= jsonLimit {
		return ra, err
	}
	_ = ra.Close()
	return nil, tooLong(desc.Digest, ra.Size())
}

func tooLong(d digest.Digest, size int64) error {
	return fmt.Errorf("%s is %d bytes of JSON, more than %d: %w", d, size, jsonLimit, errdefs.ErrInvalidArgument)
}

func isJSON(mediaType string) bool {
	return images.IsManifestType(mediaType) || images.IsIndexType(mediaType) || images.IsConfigType(mediaType)
}
