// Package ociimage makes small container images from files, for the tests and the demo: no registry is needed to have one.
// The same input gives the same bytes.
package ociimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	_ "crypto/sha256" // go-digest looks it up
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is one file of an image: a directory if its path ends with a slash, a symlink if it has a Link, else a regular file.
type File struct {
	Path    string // without a leading slash
	Mode    int64  // permission bits; 0: 0755
	UID     int
	GID     int
	Link    string
	Content []byte
	Zeros   int64 // bytes after Content, which take no memory here
}

// Image is what an image is made of.
type Image struct {
	Name         string // reference; empty: the archive names none
	Layers       [][]File
	Config       ocispec.ImageConfig
	Architecture string // empty: this host's
}

// Built is an image as blobs.
type Built struct {
	Name     string
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Blobs    map[digest.Digest][]byte
}

// Busybox is an image of one static busybox binary with a link for each of its applets, the usual directories, and the
// users root and nobody. It runs "sh" unless told otherwise.
func Busybox(name, binary string) (Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return Image{}, fmt.Errorf("make image %s: %w", name, err)
	}
	applets, err := exec.Command(binary, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("make image %s: list applets: %w", name, err)
	}
	files := []File{
		{Path: "bin/"}, {Path: "dev/"}, {Path: "etc/"}, {Path: "home/"}, {Path: "proc/"}, {Path: "root/", Mode: 0o700},
		{Path: "sys/"}, {Path: "tmp/", Mode: 0o1777}, {Path: "usr/"}, {Path: "usr/bin", Link: "../bin"}, {Path: "sbin", Link: "bin"},
		{Path: "usr/sbin", Link: "../bin"}, {Path: "var/"}, {Path: "var/run", Link: "/run"}, {Path: "run/"},
		{Path: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Path: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnobody:x:65534:\n")},
		{Path: "bin/busybox", Content: content},
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Path: "bin/" + applet, Link: "busybox"})
		}
	}
	return Image{Name: name, Layers: [][]File{files}, Config: ocispec.ImageConfig{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"},
	}}, nil
}

// Program compiles the source of one Go program, which may import the standard library only, to a static binary.
func Program(ctx context.Context, source string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "program")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", "program", "main.go")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile: %w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "program"))
}

// Build makes the blobs.
func (i Image) Build() (Built, error) {
	b := Built{Name: i.Name, Blobs: map[digest.Digest][]byte{}}
	if i.Name != "" {
		named, err := reference.ParseDockerRef(i.Name)
		if err != nil {
			return b, fmt.Errorf("make image %q: %w", i.Name, err)
		}
		b.Name = named.String()
	}
	if i.Architecture == "" {
		i.Architecture = runtime.GOARCH
	}
	img := ocispec.Image{
		Platform: ocispec.Platform{Architecture: i.Architecture, OS: "linux"}, Config: i.Config,
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	for _, files := range i.Layers {
		plain, packed, err := layer(files)
		if err != nil {
			return b, fmt.Errorf("make image %s: %w", i.Name, err)
		}
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, plain)
		b.Layers = append(b.Layers, b.add(ocispec.MediaTypeImageLayerGzip, packed))
	}
	var err error
	if b.Config, err = b.addJSON(ocispec.MediaTypeImageConfig, img); err != nil {
		return b, err
	}
	b.Manifest, err = b.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: b.Config, Layers: b.Layers,
	})
	b.Manifest.Platform = &img.Platform
	return b, err
}

func (b *Built) add(mediaType string, blob []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	b.Blobs[d.Digest] = blob
	return d
}

func (b *Built) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	blob, err := json.Marshal(v)
	return b.add(mediaType, blob), err
}

// layer packs files; plain is the digest of what was packed.
func layer(files []File) (plain digest.Digest, packed []byte, err error) {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	if err != nil {
		return "", nil, err
	}
	sum := digest.Canonical.Digester()
	t := tar.NewWriter(io.MultiWriter(sum.Hash(), w))
	for _, f := range files {
		if err := write(t, f); err != nil {
			return "", nil, err
		}
	}
	if err := t.Close(); err != nil {
		return "", nil, err
	}
	err = w.Close()
	return sum.Digest(), z.Bytes(), err
}

func write(t *tar.Writer, f File) error {
	h := &tar.Header{Name: f.Path, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Typeflag: tar.TypeReg, Size: int64(len(f.Content)) + f.Zeros}
	if h.Mode == 0 {
		h.Mode = 0o755
	}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
	case strings.HasSuffix(f.Path, "/"):
		h.Typeflag, h.Size = tar.TypeDir, 0
	}
	if err := t.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	if _, err := t.Write(f.Content); err != nil {
		return err
	}
	_, err := io.CopyN(t, zeros{}, f.Zeros)
	return err
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// WriteOCI writes an archive of an OCI layout.
func WriteOCI(w io.Writer, images ...Built) error {
	t := tar.NewWriter(w)
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	written := map[digest.Digest]bool{}
	for _, b := range images {
		m := b.Manifest
		if b.Name != "" {
			m.Annotations = map[string]string{"io.containerd.image.name": b.Name, ocispec.AnnotationRefName: b.Name}
		}
		idx.Manifests = append(idx.Manifests, m)
		for _, d := range append([]ocispec.Descriptor{b.Manifest, b.Config}, b.Layers...) {
			if written[d.Digest] {
				continue
			}
			written[d.Digest] = true
			if err := put(t, path.Join("blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()), b.Blobs[d.Digest]); err != nil {
				return err
			}
		}
	}
	for name, v := range map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, ocispec.ImageIndexFile: idx,
	} {
		blob, err := json.Marshal(v)
		if err == nil {
			err = put(t, name, blob)
		}
		if err != nil {
			return err
		}
	}
	return t.Close()
}

// WriteDocker writes an archive as "docker save" does.
func WriteDocker(w io.Writer, b Built) error {
	t := tar.NewWriter(w)
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: b.Config.Digest.Encoded() + ".json", RepoTags: []string{b.Name}}
	if err := put(t, entry.Config, b.Blobs[b.Config.Digest]); err != nil {
		return err
	}
	for _, l := range b.Layers {
		name := l.Digest.Encoded() + "/layer.tar"
		entry.Layers = append(entry.Layers, name)
		if err := put(t, name, b.Blobs[l.Digest]); err != nil {
			return err
		}
	}
	blob, err := json.Marshal([]any{entry})
	if err == nil {
		err = put(t, "manifest.json", blob)
	}
	if err != nil {
		return err
	}
	return t.Close()
}

func put(t *tar.Writer, name string, content []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

// ReadOCI reads an archive that WriteOCI wrote.
func ReadOCI(r io.Reader) ([]Built, error) {
	blobs := map[digest.Digest][]byte{}
	var idx ocispec.Index
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		if h.Name == ocispec.ImageIndexFile {
			if err := json.Unmarshal(content, &idx); err != nil {
				return nil, err
			}
		}
		blobs[digest.FromBytes(content)] = content
	}
	var images []Built
	for _, d := range idx.Manifests {
		var m ocispec.Manifest
		if err := json.Unmarshal(blobs[d.Digest], &m); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		b := Built{Name: d.Annotations["io.containerd.image.name"], Manifest: d, Config: m.Config, Layers: m.Layers, Blobs: map[digest.Digest][]byte{}}
		for _, part := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
			b.Blobs[part.Digest] = blobs[part.Digest]
		}
		images = append(images, b)
	}
	return images, nil
}
