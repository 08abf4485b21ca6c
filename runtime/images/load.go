package images

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/gzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	errForeign   = errors.New("archive has no image for " + platforms.DefaultString())
	errNoArchive = errors.New("neither an OCI archive nor a docker archive")
	errCutOff    = errors.New("the archive ends too early: it is cut off, or no archive")
)

// Load reads an archive of images, as "docker save" or tools for OCI layouts write it, plain or gzipped, and unpacks the
// ones that have a name. Nothing but names and content is taken over: labels of an image never become labels of
// containerd's. An archive that cannot be used leaves nothing behind.
func (im *Images) Load(ctx context.Context, r io.Reader) (infos []Info, err error) {
	ctx = im.context(ctx)
	in := bufio.NewReaderSize(r, 64<<10)
	var src io.Reader = in
	if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("load images: %w", err)
		}
		src = z
	}
	err = im.leased(ctx, "load", func(ctx context.Context) error {
		infos, err = im.load(ctx, src)
		return err
	})
	if err != nil {
		switch {
		case strings.Contains(err.Error(), "no match for platform"):
			err = errForeign
		case errors.Is(err, tar.ErrHeader):
			err = errNoArchive
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = errCutOff
		}
		return nil, fmt.Errorf("load images: %w", err)
	}
	return infos, nil
}

func (im *Images) load(ctx context.Context, r io.Reader) ([]Info, error) {
	store := bounded{im.client.ContentStore()}
	checked, done := checkArchive(r)
	index, err := archive.ImportIndex(ctx, store, checked)
	if cerr := done(); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	named, err := names(ctx, store, index)
	if err != nil {
		return nil, err
	}
	// All that a name leads to is kept for as long as the name is.
	for _, image := range named {
		handler := images.SetChildrenLabels(store, images.FilterPlatforms(images.ChildrenHandler(store), platforms.Default()))
		if err := images.WalkNotEmpty(ctx, handler, image.Target); err != nil {
			return nil, fmt.Errorf("%s: %w", image.Name, err)
		}
	}
	var infos []Info
	for _, image := range named {
		info, err := im.place(ctx, image)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", image.Name, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// place unpacks an image whose content is there, and gives it its name.
func (im *Images) place(ctx context.Context, image images.Image) (Info, error) {
	if _, err := im.info(ctx, image); err != nil {
		return Info{}, err
	}
	if err := containerd.NewImage(im.client, image).Unpack(ctx, im.snapshotter); err != nil {
		return Info{}, err
	}
	service := im.client.ImageService()
	for {
		record, err := service.Update(ctx, image, "target", "labels."+pulledLabel)
		if errdefs.IsNotFound(err) {
			record, err = service.Create(ctx, image)
			if errdefs.IsAlreadyExists(err) {
				continue
			}
		}
		if err != nil {
			return Info{}, err
		}
		return im.info(ctx, record)
	}
}

// names reads which images the index of an archive names.
func names(ctx context.Context, store content.Provider, index ocispec.Descriptor) ([]images.Image, error) {
	b, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	var named []images.Image
	foreign := 0
	for _, m := range idx.Manifests {
		ref := m.Annotations[images.AnnotationImageName]
		// The name of OCI layouts may be a whole reference, or a tag alone, which names nothing.
		if oci := m.Annotations[ocispec.AnnotationRefName]; ref == "" && strings.ContainsAny(oci, "/:") {
			ref = oci
		}
		if ref == "" {
			continue
		}
		name, err := Normalize(ref)
		if err != nil {
			return nil, err
		}
		if m.Platform != nil && m.Platform.Architecture != "" && !platforms.Default().Match(*m.Platform) {
			foreign++
			continue
		}
		m.Annotations = nil
		named = append(named, images.Image{Name: name, Target: m})
	}
	if len(named) == 0 && foreign > 0 {
		return nil, errForeign
	}
	if len(named) == 0 {
		return nil, errors.New("archive names no image")
	}
	return named, nil
}

// checkArchive passes an archive on and looks at its files as they go by: JSON that is too long ends it before it is read
// into memory. done must be called; it tells what was wrong.
func checkArchive(r io.Reader) (_ io.Reader, done func() error) {
	pr, pw := io.Pipe()
	result := make(chan error, 1)
	go func() {
		err := checkFiles(tar.NewReader(pr))
		if err != nil {
			_ = pr.CloseWithError(err)
		} else {
			_, _ = io.Copy(io.Discard, pr)
		}
		result <- err
	}()
	return io.TeeReader(r, pw), func() error {
		_ = pw.Close()
		return <-result
	}
}

func checkFiles(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return nil // the reader of the archive says what is wrong with it
		}
		switch name := path.Clean(h.Name); name {
		case "manifest.json", ocispec.ImageIndexFile, ocispec.ImageLayoutFile, "repositories":
			if h.Size > jsonLimit {
				return fmt.Errorf("%s is longer than %d bytes", name, jsonLimit)
			}
		}
	}
}
