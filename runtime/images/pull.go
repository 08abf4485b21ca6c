package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

const (
	pullTries     = 3 // of one pull, each going on where the connection broke
	pullParallel  = 3 // layers at a time, the registries' usual limit
	progressEvery = 100 * time.Millisecond
)

// quiet swallows what containerd's client logs of a pull: what matters of it is in the error.
var quiet = logrus.NewEntry(&logrus.Logger{Out: io.Discard, Level: logrus.PanicLevel, Formatter: new(logrus.TextFormatter)})

// wish is what is pulled, and by whom.
type wish struct {
	name string // normalized
	auth Auth
}

// credentials are those of the wish for the registry of its name, and none for any other host.
func (w wish) credentials(host string) (user, secret string, err error) {
	domain, _, _ := strings.Cut(w.name, "/")
	if host == domain || domain == "docker.io" && host == "registry-1.docker.io" {
		return w.auth.User, w.auth.Secret, nil
	}
	return "", "", nil
}

// flight is one pull, however many wait for it.
type flight struct {
	track  *track
	cancel context.CancelFunc
	done   chan struct{} // closed at the end; then info and err are valid
	info   Info
	err    error

	waiters int // guarded by Images.mu
}

// Pull fetches and unpacks ref, also if it is there already: the name may point to something newer. One pull runs per name,
// however many wait for it; each sees its progress, called by the waiting goroutine. The end of ctx gives the waiting up,
// and the last who gives up ends the pull and waits until it has left nothing behind. Other errors are ErrInvalidName and
// ErrPull.
func (im *Images) Pull(ctx context.Context, ref string, progress func(Progress)) (Info, error) {
	return im.PullAs(ctx, ref, Auth{}, progress)
}

// Auth is who pulls. It goes to the registry that the image's name has, and to no other: not to mirrors either.
type Auth struct{ User, Secret string }

// PullAs is Pull with credentials that are used in place of Options.Credentials. Those who pull with others, or with none, do not
// wait for each other's pulls: one may be refused what the other is given.
func (im *Images) PullAs(ctx context.Context, ref string, auth Auth, progress func(Progress)) (Info, error) {
	ctx = im.context(ctx)
	name, err := Normalize(ref)
	if err != nil {
		return Info{}, err
	}
	what := wish{name, auth}
	f := im.join(ctx, what)
	var tick <-chan time.Time
	if progress != nil {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		tick = ticker.C
		progress(f.track.now())
	}
	for {
		select {
		case <-f.done:
			im.part(what, f)
			if progress != nil {
				progress(f.track.now())
			}
			return f.info, f.err
		case <-tick:
			progress(f.track.now())
		case <-ctx.Done():
			im.part(what, f)
			return Info{}, fmt.Errorf("pull %s: %w", name, context.Cause(ctx))
		}
	}
}

// join waits for the pull that is under way, or starts one. part must follow.
func (im *Images) join(ctx context.Context, what wish) *flight {
	im.mu.Lock()
	defer im.mu.Unlock()
	f := im.pulls[what]
	if f == nil {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{track: newTrack(what.name), cancel: cancel, done: make(chan struct{})}
		im.pulls[what] = f
		go func() { // part waits for it
			defer close(f.done)
			f.info, f.err = im.pull(work, what, f.track)
			im.mu.Lock()
			defer im.mu.Unlock()
			if im.pulls[what] == f {
				delete(im.pulls, what)
			}
		}()
	}
	f.waiters++
	return f
}

// part ends the waiting; the last one ends the pull.
func (im *Images) part(what wish, f *flight) {
	im.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && im.pulls[what] == f {
		delete(im.pulls, what) // who comes now starts anew
	}
	im.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}

// pull does the work of one pull.
func (im *Images) pull(ctx context.Context, what wish, t *track) (info Info, err error) {
	name := what.name
	err = im.leased(ctx, name, func(ctx context.Context) error {
		for try := 1; ; try++ {
			if info, err = im.fetch(ctx, what, t); err == nil || !cut(err) || try == pullTries || ctx.Err() != nil {
				return err
			}
			im.log.Info("a pull goes on after its connection broke", "image", name, "try", try, "err", err)
		}
	})
	if err != nil {
		if ctx.Err() != nil {
			return Info{}, fmt.Errorf("pull %s: %w", name, ctx.Err())
		}
		return Info{}, &PullError{Name: name, Cause: words(err), Err: err}
	}
	t.finish()
	return info, nil
}

// fetch is one try: it takes up what an earlier one has left in the content store under the same lease.
func (im *Images) fetch(ctx context.Context, what wish, t *track) (Info, error) {
	ctx, cancel := context.WithCancelCause(log.WithLogger(ctx, quiet))
	defer cancel(nil)
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		t.watchStall(over, im.stall, cancel)
	}()
	image, err := im.client.Pull(ctx, what.name,
		containerd.WithPullUnpack,
		containerd.WithPullLabel(pulledLabel, "true"),
		containerd.WithPullSnapshotter(im.snapshotter),
		containerd.WithMaxConcurrentDownloads(pullParallel),
		containerd.WithResolver(&resolver{Resolver: im.resolver(ctx, what), track: t}),
		containerd.WithImageHandlerWrapper(im.guard(t)),
	)
	close(over)
	<-watched
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return Info{}, err
	}
	return im.info(ctx, image.Metadata())
}

// resolver reaches the registries as the configuration says; it is read anew for each pull.
func (im *Images) resolver(ctx context.Context, what wish) remotes.Resolver {
	hosts := config.HostOptions{Credentials: im.credentials}
	if what.auth != (Auth{}) {
		hosts.Credentials = what.credentials
	}
	if im.certs != "" {
		hosts.HostDir = config.HostDirFromRoot(im.certs)
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, hosts)})
}

// guard refuses JSON that is too long before anything reads it, and tells the track of the blobs that are found.
func (im *Images) guard(t *track) func(images.Handler) images.Handler {
	store := im.client.ContentStore()
	return func(h images.Handler) images.Handler {
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			if isJSON(desc.MediaType) {
				size := desc.Size
				if there, err := store.Info(ctx, desc.Digest); err == nil { // it may be there as something else
					size = max(size, there.Size)
				} else if !errdefs.IsNotFound(err) {
					return nil, err
				}
				if size > jsonLimit {
					return nil, tooLong(desc.Digest, size)
				}
			}
			children, err := h.Handle(ctx, desc)
			if err == nil {
				t.found(desc, children)
			}
			return children, err
		})
	}
}
