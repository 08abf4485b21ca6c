// Package images keeps the images of this host: it pulls them from registries, loads them from archives, and says which
// are there. Everything is done through containerd's core services (content, images, leases, snapshots, diff), which
// containerd has had since 1.6; the transfer service is not needed.
//
// An image is "there" when its record exists and its layers are unpacked, so that a container can be made from it without
// another look at its content.
package images

import (
	"log/slog"
	"os"
	"strconv"
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

	// Credentials gives the user and secret for a registry host; nil or empty answers: none.
	Credentials func(host string) (user, secret string, err error)
}

// Info describes one image. It is a value: nobody may change what Config refers to.
type Info struct {
	Name       string    // docker.io/library/busybox:1.36
	ID         string    // digest of the config
	Digest     string    // digest of what the name points to: an index or a manifest
	RepoDigest string    // docker.io/library/busybox@sha256:...
	ChainID    string    // the snapshot that is the parent of a container's own
	Size       int64     // bytes of manifest, config and layers as they are transferred
	Created    time.Time // when the name was last written on this host; Config.Created is when the image was built
	Config     ocispec.Image

	Pulled bool // podd has pulled it from a registry, and nobody has loaded one of that name since
	Pinned bool // somebody wants it to stay, by the label that the CRI plugin has for that
}

const (
	pulledLabel = "podd/pulled" // of the records of images
	pinnedLabel = "io.cri-containerd.pinned"
)

// Images is the images of one containerd namespace.
type Images struct {
	client      *containerd.Client
	namespace   string
	snapshotter string
	certs       string
	credentials func(host string) (user, secret string, err error)
	stall       time.Duration
	log         *slog.Logger
	instance    string // of this process: whose leases are whose

	mu    sync.Mutex
	infos map[digest.Digest]Info // by digest of the target; Name and RepoDigest are left empty; guarded by mu
	pulls map[wish]*flight       // guarded by mu
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
		client: o.Client, namespace: o.Namespace, snapshotter: o.Snapshotter,
		certs: o.CertsDir, credentials: o.Credentials, stall: o.Stall, log: o.Log,
		instance: strconv.Itoa(os.Getpid()) + "." + strconv.FormatInt(time.Now().UnixNano(), 36),
		infos:    map[digest.Digest]Info{}, pulls: map[wish]*flight{},
	}
}
