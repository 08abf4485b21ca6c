//go:build host

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"podd/runtime/containers/containerdtest"
	"podd/test/ociimage"
	"podd/test/registry"
)

const namespace = "images-test"

var address string // of the containerd of all tests here

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("/tmp", "pi")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		c, err := containerdtest.Start(dir)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		address = c.Address
		code := m.Run()
		left, err := c.Stop()
		if len(left) > 0 || err != nil {
			fmt.Println("left:", left, err)
			return 1
		}
		return code
	}())
}

// open gives images of an empty namespace, which is empty again at the end of the test.
func open(t *testing.T, o Options) (*Images, context.Context) {
	t.Helper()
	client, err := containerd.New(address, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	o.Client = client
	im := Open(o)
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), time.Minute)
	t.Cleanup(func() {
		defer cancel()
		defer func() { _ = client.Close() }()
		all, err := im.List(ctx)
		if err != nil {
			t.Error(err)
		}
		for _, i := range all {
			if err := im.Remove(ctx, i.Name, nil); err != nil {
				t.Error(err)
			}
		}
		nothingLeft(t, im, ctx)
	})
	return im, ctx
}

// nothingLeft looks for all that a pull can leave in containerd. Garbage is collected by a lease that goes.
func nothingLeft(t *testing.T, im *Images, ctx context.Context) {
	t.Helper()
	lease, err := im.client.LeasesService().Create(ctx, leases.WithRandomID())
	if err == nil {
		err = im.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		t.Error(err)
	}
	noWork(t, im, ctx)
	err = im.client.ContentStore().Walk(ctx, func(i content.Info) error {
		t.Errorf("left: content %s %v", i.Digest, i.Labels)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = im.client.SnapshotService(im.snapshotter).Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		t.Errorf("left: snapshot %s", i.Name)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// noWork looks for leases and unfinished downloads.
func noWork(t *testing.T, im *Images, ctx context.Context) {
	t.Helper()
	all, err := im.client.LeasesService().List(ctx)
	if err != nil || len(all) > 0 {
		t.Errorf("left: leases %v %v", all, err)
	}
	ingests, err := im.client.ContentStore().ListStatuses(ctx)
	if err != nil || len(ingests) > 0 {
		t.Errorf("left: ingests %v %v", ingests, err)
	}
}

// noise is a layer of bytes that do not compress.
func noise(t *testing.T, size int) []ociimage.File {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	return []ociimage.File{{Path: "noise", Content: b}}
}

func build(t *testing.T, i ociimage.Image) ociimage.Built {
	t.Helper()
	b, err := i.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve gives a registry on loopback and the host to name it by.
func serve(t *testing.T) (*registry.Registry, string) {
	t.Helper()
	r := registry.New()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return r, s.Listener.Addr().String()
}

func TestPullLookRemove(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	bb, err := ociimage.Busybox(host+"/test/busybox:1.36", "/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	bb.Layers = append(bb.Layers, []ociimage.File{{Path: "hello", Content: []byte("hello\n")}})
	bb.Config.Labels = map[string]string{"containerd.io/restart.loguri": "binary:///bin/false"}
	b := build(t, bb)
	if err := r.Push(b); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := im.Look(ctx, b.Name); ok || err != nil {
		t.Fatalf("there before: %v %v", ok, err)
	}
	var seen []Progress
	info, err := im.Pull(ctx, b.Name, func(p Progress) { seen = append(seen, p) })
	if err != nil {
		t.Fatal(err)
	}
	size := b.Manifest.Size + b.Config.Size + b.Layers[0].Size + b.Layers[1].Size
	if info.Name != b.Name || info.ID != b.Config.Digest.String() || info.Digest != b.Manifest.Digest.String() ||
		info.RepoDigest != host+"/test/busybox@"+info.Digest || info.Size != size || info.Created.IsZero() || info.Config.Config.Cmd[0] != "sh" {
		t.Errorf("%+v", info)
	}
	last := seen[len(seen)-1]
	if last.Status != "done" || len(last.Layers) != 2 || last.Layers[0].Offset != b.Layers[0].Size || last.Layers[1].Status != "done" {
		t.Errorf("progress ended with %+v", last)
	}
	got, ok, err := im.Look(ctx, b.Name)
	if !ok || err != nil || got.ChainID != info.ChainID {
		t.Errorf("look: %v %v %+v", ok, err, got)
	}
	record, err := im.client.ImageService().Get(ctx, b.Name)
	if err != nil || !maps.Equal(record.Labels, map[string]string{pulledLabel: "true"}) { // that is podd's own
		t.Errorf("labels of the image went to containerd: %v %v", record.Labels, err)
	}
	busy := func(string) ([]string, error) { return []string{"a/1", "a/2", "b/3", "b/4", "b/5", "c/6", "c/7"}, nil }
	if err := im.Remove(ctx, b.Name, busy); !errors.Is(err, ErrInUse) || !strings.HasSuffix(err.Error(), "image is in use by pods a/1, a/2, b/3, b/4, b/5 and 2 more") {
		t.Errorf("removed in use: %v", err)
	}
	for range 2 {
		if err := im.Remove(ctx, info.ID, func(string) ([]string, error) { return nil, nil }); err != nil {
			t.Error(err)
		}
	}
	if _, ok, _ := im.Look(ctx, b.Name); ok {
		t.Error("there after removing")
	}
	noWork(t, im, ctx)
}

func TestOnePullForAllWhoWait(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	b := build(t, ociimage.Image{Name: host + "/test/one:1", Layers: [][]ociimage.File{noise(t, 3<<20)}})
	if err := r.Push(b); err != nil {
		t.Fatal(err)
	}
	half := make(chan struct{})
	r.Fail(&registry.Fault{Path: b.Layers[0].Digest.String(), After: 1 << 20, Times: 1, Stall: half})
	var all sync.WaitGroup
	var waiting sync.WaitGroup
	waiting.Add(10)
	for range 10 {
		var once sync.Once
		all.Go(func() {
			_, err := im.Pull(ctx, b.Name, func(p Progress) {
				if len(p.Layers) == 1 && p.Layers[0].Offset > 0 {
					once.Do(waiting.Done)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	waiting.Wait() // all of them have seen bytes of the same transfer
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := im.Pull(gone, b.Name, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("one who gave up: %v", err)
	}
	close(half)
	all.Wait()
	asked := map[string]int{}
	for _, q := range r.Requests() {
		if q.Method == http.MethodGet && q.Range == "" {
			asked[filepath.Base(q.Path)]++
		}
	}
	for what, n := range asked {
		if n != 1 && strings.HasPrefix(what, "sha256:") {
			t.Errorf("%s was asked for %d times", what, n)
		}
	}
	noWork(t, im, ctx)
}

func TestLastWaiterEndsThePull(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	b := build(t, ociimage.Image{Name: host + "/test/one:1", Layers: [][]ociimage.File{noise(t, 3<<20)}})
	if err := r.Push(b); err != nil {
		t.Fatal(err)
	}
	never := make(chan struct{})
	defer close(never)
	r.Fail(&registry.Fault{Path: b.Layers[0].Digest.String(), After: 1 << 20, Stall: never})
	for range 3 {
		gone, cancel := context.WithCancel(ctx)
		_, err := im.Pull(gone, b.Name, func(p Progress) {
			if len(p.Layers) == 1 && p.Layers[0].Offset > 0 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		noWork(t, im, ctx)
	}
	r.Fail()
	if _, err := im.Pull(ctx, b.Name, nil); err != nil {
		t.Error(err)
	}
}

// hostsFile configures a registry host that exists only in it.
func hostsFile(t *testing.T, dir, host, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, host), 0o755),
		os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestHTTPSWithOwnCA(t *testing.T) {
	dir := t.TempDir()
	im, ctx := open(t, Options{CertsDir: dir})
	r := registry.New()
	s := httptest.NewTLSServer(r)
	defer s.Close()
	b := build(t, ociimage.Image{Name: "registry.test/app:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	if err := r.Push(b); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hostsFile(t, dir, "registry.test", fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", s.URL))
	_, err := im.Pull(ctx, b.Name, nil)
	if !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
	hostsFile(t, dir, "registry.test", fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", s.URL, ca))
	if _, err := im.Pull(ctx, b.Name, nil); err != nil {
		t.Error(err)
	}
}

// Each way to break a pull gives one clear error and leaves nothing; when the cause is gone, the pull works.
func TestBrokenPulls(t *testing.T) {
	im, ctx := open(t, Options{Stall: 500 * time.Millisecond})
	r, host := serve(t)
	never := make(chan struct{})
	defer close(never)
	for name, c := range map[string]struct {
		fault registry.Fault
		want  string // part of the error; empty: the pull works in spite of it
	}{
		"reset once":          {registry.Fault{Path: "LAYER", After: 1 << 20, Reset: true, Times: 1}, ""},
		"cut twice":           {registry.Fault{Path: "LAYER", After: 1 << 20, Times: 2}, ""},
		"reset always":        {registry.Fault{Path: "LAYER", After: 1000, Reset: true}, "connection broken"},
		"stall once":          {registry.Fault{Path: "LAYER", After: 1 << 20, Stall: never, Times: 1}, ""},
		"stall always":        {registry.Fault{Path: "LAYER", Stall: never}, "no data for 500ms"},
		"stall at the start":  {registry.Fault{Path: "/manifests/", Stall: never}, "no data for 500ms"},
		"wrong digest":        {registry.Fault{Path: "LAYER", WrongBytes: true}, "does not have the digest"},
		"server error":        {registry.Fault{Path: "LAYER", Status: 500}, "500 Internal Server Error"},
		"too many requests":   {registry.Fault{Path: "/manifests/", Status: 429}, "too many requests"},
		"no such image":       {registry.Fault{Path: "/manifests/", Status: 404}, "not found"},
		"no such layer":       {registry.Fault{Path: "LAYER", Status: 404}, "not found"},
		"may not":             {registry.Fault{Path: "/manifests/", Status: 403}, "unauthorized"},
		"redirects to itself": {registry.Fault{Path: "LAYER", Redirect: "http://" + host}, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			b := build(t, ociimage.Image{Name: host + "/test/broken:1", Layers: [][]ociimage.File{noise(t, 3<<20)}})
			if err := r.Push(b); err != nil {
				t.Fatal(err)
			}
			c.fault.Path = strings.ReplaceAll(c.fault.Path, "LAYER", b.Layers[0].Digest.String())
			r.Fail(&c.fault)
			_, err := im.Pull(ctx, b.Name, nil)
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrPull) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
			noWork(t, im, ctx)
			if c.want != "" {
				if _, ok, err := im.Look(ctx, b.Name); ok || err != nil {
					t.Errorf("half an image: %v %v", ok, err)
				}
				nothingLeft(t, im, ctx)
			} else {
				resumed := false
				for _, q := range r.Requests() {
					resumed = resumed || q.Range != "" && q.Range != "bytes=0-"
				}
				if !resumed {
					t.Error("began again instead of going on")
				}
			}
			r.Fail()
			if _, err := im.Pull(ctx, b.Name, nil); err != nil {
				t.Error(err)
			}
			if err := im.Remove(ctx, b.Name, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPullErrors(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	other := build(t, ociimage.Image{Name: host + "/test/arch:1", Architecture: "s390x", Layers: [][]ociimage.File{noise(t, 1000)}})
	if err := r.PushIndex(other); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Pull(ctx, other.Name, nil); !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "manifest has no linux/amd64") {
		t.Errorf("other platform: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := im.Pull(ctx, l.Addr().String()+"/x:1", nil); !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := im.Pull(ctx, "Not A Name", nil); !errors.Is(err, ErrInvalidName) {
		t.Errorf("no name: %v", err)
	}
	r.Require("me", "secret")
	if _, err := im.Pull(ctx, host+"/test/x:1", nil); !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "unauthorized") {
		t.Errorf("no credentials: %v", err)
	}
}

// An index that holds this platform among others.
func TestPullFromIndex(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	files := [][]ociimage.File{noise(t, 1000)}
	mine := build(t, ociimage.Image{Name: host + "/test/multi:1", Layers: files})
	other := build(t, ociimage.Image{Name: host + "/test/multi:1", Architecture: "s390x", Layers: files})
	if err := r.PushIndex(mine, other); err != nil {
		t.Fatal(err)
	}
	info, err := im.Pull(ctx, mine.Name, nil)
	if err != nil || info.ID != mine.Config.Digest.String() || info.Digest == mine.Manifest.Digest.String() {
		t.Errorf("%+v %v", info, err)
	}
}

// Credentials go to the registry they are for, and not where it redirects to.
func TestCredentialsStay(t *testing.T) {
	im, ctx := open(t, Options{Credentials: func(string) (string, string, error) { return "me", "secret", nil }})
	r, host := serve(t)
	elsewhere, elsewhereHost := serve(t)
	b := build(t, ociimage.Image{Name: host + "/test/private:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	if err := errors.Join(r.Push(b), elsewhere.Push(b)); err != nil {
		t.Fatal(err)
	}
	r.Require("me", "secret")
	r.Fail(&registry.Fault{Path: "/blobs/", Redirect: "http://" + strings.Replace(elsewhereHost, "127.0.0.1", "localhost", 1)})
	if _, err := im.Pull(ctx, b.Name, nil); err != nil {
		t.Fatal(err)
	}
	asked := elsewhere.Requests()
	if len(asked) == 0 {
		t.Error("the redirect was not followed")
	}
	for _, q := range asked {
		if q.Authorization != "" {
			t.Errorf("%s got the credentials", q.Path)
		}
	}
}

// Who pulls with credentials gets what they open; who has others, or none, does not, also while the first is at it.
func TestPullAs(t *testing.T) {
	im, ctx := open(t, Options{})
	r, host := serve(t)
	elsewhere, elsewhereHost := serve(t)
	b := build(t, ociimage.Image{Name: host + "/test/private:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	if err := errors.Join(r.Push(b), elsewhere.Push(b)); err != nil {
		t.Fatal(err)
	}
	r.Require("me", "secret")
	r.Fail(&registry.Fault{Path: "/blobs/", Redirect: "http://" + strings.Replace(elsewhereHost, "127.0.0.1", "localhost", 1)})
	for _, auth := range []Auth{{}, {"me", "another"}, {"you", "secret"}} {
		if _, err := im.PullAs(ctx, b.Name, auth, nil); !errors.Is(err, ErrPull) || !strings.Contains(err.Error(), "unauthorized") ||
			auth.Secret != "" && strings.Contains(err.Error(), auth.Secret) {
			t.Errorf("%v: %v", auth, err)
		}
	}
	if _, err := im.PullAs(ctx, b.Name, Auth{"me", "secret"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, q := range elsewhere.Requests() { // CVE-2020-15157
		if q.Authorization != "" {
			t.Errorf("%s got the credentials", q.Path)
		}
	}
	for host, want := range map[string]string{"docker.io": "", "registry-1.docker.io": "", "evil.example": "", "r.example:5000": "me", "r.example": ""} {
		w := wish{"r.example:5000/a:1", Auth{"me", "secret"}}
		if user, _, err := w.credentials(host); user != want || err != nil {
			t.Errorf("%s gets %q, %v", host, user, err)
		}
	}
	hub := wish{"docker.io/library/a:1", Auth{"me", "secret"}}
	if user, _, _ := hub.credentials("registry-1.docker.io"); user != "me" {
		t.Errorf("docker.io's registry gets %q", user)
	}
}

func TestLoad(t *testing.T) {
	im, ctx := open(t, Options{})
	a := build(t, ociimage.Image{Name: "test/a:1", Layers: [][]ociimage.File{noise(t, 100000), noise(t, 1000)}, Config: ocispec.ImageConfig{
		Labels: map[string]string{"containerd.io/restart.loguri": "binary:///bin/false"}, Cmd: []string{"a"}}})
	b := build(t, ociimage.Image{Name: "test/b:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	var oci, docker, packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if err := errors.Join(ociimage.WriteOCI(&oci, a, b), ociimage.WriteDocker(&docker, b), ociimage.WriteOCI(z, a), z.Close()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		archive []byte
		names   []string
	}{
		"oci":     {oci.Bytes(), []string{"docker.io/test/a:1", "docker.io/test/b:1"}},
		"docker":  {docker.Bytes(), []string{"docker.io/test/b:1"}},
		"gzipped": {packed.Bytes(), []string{"docker.io/test/a:1"}},
	} {
		infos, err := im.Load(ctx, bytes.NewReader(c.archive))
		if err != nil || len(infos) != len(c.names) {
			t.Fatalf("%s: %v %v", name, infos, err)
		}
		for i, want := range c.names {
			_, ok, err := im.Look(ctx, want)
			record, rerr := im.client.ImageService().Get(ctx, want)
			if infos[i].Name != want || !ok || err != nil || rerr != nil || len(record.Labels) > 0 {
				t.Errorf("%s: %s: %v %v %v", name, want, ok, err, record.Labels)
			}
		}
		noWork(t, im, ctx)
		for _, want := range c.names {
			if err := im.Remove(ctx, want, nil); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	im, ctx := open(t, Options{})
	ok := build(t, ociimage.Image{Name: "test/a:1", Layers: [][]ociimage.File{noise(t, 300000)}})
	unnamed := build(t, ociimage.Image{Layers: [][]ociimage.File{noise(t, 1000)}})
	other := build(t, ociimage.Image{Name: "test/o:1", Architecture: "s390x", Layers: [][]ociimage.File{noise(t, 1000)}})
	lying := build(t, ociimage.Image{Name: "test/l:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	lying.Blobs[lying.Layers[0].Digest] = []byte("no layer")
	archive := func(b ociimage.Built) []byte {
		var w bytes.Buffer
		if err := ociimage.WriteOCI(&w, b); err != nil {
			t.Fatal(err)
		}
		return w.Bytes()
	}
	var long bytes.Buffer
	w := tar.NewWriter(&long)
	_ = w.WriteHeader(&tar.Header{Name: "manifest.json", Size: jsonLimit + 1, Typeflag: tar.TypeReg})
	_, _ = w.Write(bytes.Repeat([]byte(" "), jsonLimit+1))
	_ = w.Close()
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":        {nil, ""},
		"garbage":        {bytes.Repeat([]byte("garbage"), 1000), ""},
		"cut off":        {archive(ok)[:200000], ""},
		"no name":        {archive(unnamed), "names no image"},
		"other platform": {archive(other), "linux/amd64"},
		"missing layer":  {archive(lying), ""},
		"long JSON":      {long.Bytes(), "manifest.json is longer"},
	} {
		infos, err := im.Load(ctx, bytes.NewReader(c.archive))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v", name, infos, err)
		}
		t.Logf("%s: %v", name, err)
		nothingLeft(t, im, ctx)
	}
}

// An image that something else has fetched is not ready, and can be made ready.
func TestUnpack(t *testing.T) {
	im, ctx := open(t, Options{})
	b := build(t, ociimage.Image{Name: "test/a:1", Layers: [][]ociimage.File{noise(t, 1000)}})
	var w bytes.Buffer
	if err := ociimage.WriteOCI(&w, b); err != nil {
		t.Fatal(err)
	}
	if _, err := im.client.Import(ctx, &w); err != nil {
		t.Fatal(err)
	}
	if info, ok, err := im.Look(ctx, b.Name); ok || err != nil || info.ID != b.Config.Digest.String() {
		t.Errorf("look: %+v %v %v", info, ok, err)
	}
	for range 2 {
		if _, err := im.Unpack(ctx, b.Name); err != nil {
			t.Error(err)
		}
	}
	if _, ok, err := im.Look(ctx, b.Name); !ok || err != nil {
		t.Errorf("look: %v %v", ok, err)
	}
	if _, err := im.Unpack(ctx, "not/there"); err == nil {
		t.Error("unpacks what is not there")
	}
}

// What a podd that was killed has left goes with the next start.
func TestSweep(t *testing.T) {
	im, ctx := open(t, Options{})
	lease, err := im.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithLabel(instanceLabel, "another"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := im.client.ContentStore().Writer(leases.WithLease(ctx, lease.ID), content.WithRef("layer-half"))
	if err == nil {
		_, err = in.Write([]byte("half a layer"))
	}
	if err == nil {
		err = in.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := im.Sweep(ctx); err != nil {
			t.Error(err)
		}
	}
	noWork(t, im, ctx)
}

// BenchmarkLook is what every start of a container asks.
func BenchmarkLook(b *testing.B) {
	client, err := containerd.New(address, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	im, ctx := Open(Options{Client: client}), namespaces.WithNamespace(context.Background(), namespace)
	built, err := ociimage.Image{Name: "test/look:1", Layers: [][]ociimage.File{{{Path: "x", Content: []byte("x")}}}}.Build()
	if err != nil {
		b.Fatal(err)
	}
	var archive bytes.Buffer
	if err := ociimage.WriteOCI(&archive, built); err != nil {
		b.Fatal(err)
	}
	if _, err := im.Load(ctx, &archive); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok, err := im.Look(ctx, built.Name); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	if err := im.Remove(ctx, built.Name, nil); err != nil {
		b.Fatal(err)
	}
}

// TestGivenUp: work that is given up at any time, while its lease is being made too, leaves no lease.
func TestGivenUp(t *testing.T) {
	im, ctx := open(t, Options{})
	for i := range 300 {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel)
		_ = im.leased(ctx, "given up", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	}
	all, err := im.client.LeasesService().List(ctx)
	if err != nil || len(all) > 0 {
		t.Errorf("%d leases are left, %v", len(all), err)
	}
}
