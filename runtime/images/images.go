// Package images keeps the images of this host: it pulls them from registries, loads them from archives, and says which
// are there. Everything is done through containerd's core services (content, images, leases, snapshots, diff), which
// containerd has had since 1.6; the transfer service is not needed.
//
// An image is "there" when its record exists and its layers are unpacked, so that a container can be made from it without
// another look at its content.
package images

import (
	"log/slog"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say where images are kept and how registries are reached.
type Options struct {
	Client      *containerd.Client
	Namespace   string        // containerd namespace; empty: the one of the context, or else of the client
	Snapshotter string        // empty: overlayfs
	CertsDir    string        // hosts.toml layout: <dir>/<registry host>/hosts.toml; empty: no configuration
	Stall       time.Duration // give a download up that brought nothing for so long; 0: one minute
	Log         *slog.Logger  // nil: slog.Default
}

// Info describes one image. It is a value: nobody may change what Config refers to.
type Info struct {
	Name       string // docker.io/library/busybox:1.36
	ID         string // digest of the config
	Digest     string // digest of what the name points to: an index or a manifest
	RepoDigest string // docker.io/library/busybox@sha256:...
	ChainID    string // the snapshot that is the parent of a container's own
	Size       int64  // bytes of manifest, config and layers as they are transferred
	Created    time.Time
	Config     ocispec.Image
}

// Images is the images of one containerd namespace.
type Images struct {
	client      *containerd.Client
	namespace   string
	snapshotter string
	certs       string
	stall       time.Duration
	log         *slog.Logger

	mu    sync.Mutex
	infos map[digest.Digest]Info // by digest of the target; Name and RepoDigest are left empty; guarded by mu
	pulls map[string]*flight     // by normalized name; guarded by mu
}

// Open makes the images of a client ready for use. It touches nothing yet.
func Open(o Options) *Images {
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Namespace == "" && o.Client != nil {
		o.Namespace = o.Client.DefaultNamespace()
	}
	return &Images{
		client: o.Client, namespace: o.Namespace, snapshotter: o.Snapshotter, certs: o.CertsDir, stall: o.Stall, log: o.Log,
		infos: map[digest.Digest]Info{}, pulls: map[string]*flight{},
	}
}
