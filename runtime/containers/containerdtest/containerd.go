// Package containerdtest runs a containerd of its own for tests on the host: own root, state and socket, the binaries of
// the node bundle, and an image made of busybox.
package containerdtest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Containerd is one that runs.
type Containerd struct {
	Dir     string // everything of it is below
	Address string
	Runc    string
	cmd     *exec.Cmd
	env     []string
}

// Bundle is where the node binaries are: PODD_BUNDLE, else libexec/podd of this checkout, else a search of PATH ("").
func Bundle() string {
	if b := os.Getenv("PODD_BUNDLE"); b != "" {
		return b
	}
	for dir, _ := os.Getwd(); dir != "/"; dir = filepath.Dir(dir) {
		b := filepath.Join(dir, "libexec", "podd")
		if _, err := os.Stat(filepath.Join(b, "containerd")); err == nil {
			return b
		}
	}
	return ""
}

// Start runs a containerd until Stop. It waits until it answers.
func Start(dir string) (*Containerd, error) {
	c := &Containerd{Dir: dir, Address: filepath.Join(dir, "c.sock")}
	c.env = append(os.Environ(), "PATH="+Bundle()+":"+os.Getenv("PATH"))
	c.Runc = filepath.Join(Bundle(), "runc")
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
address = %q
[ttrpc]
address = %q
[plugins."io.containerd.snapshotter.v1.overlayfs"]
mount_options = ["volatile"]
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.Address, c.Address+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	return c, c.Run()
}

// Run starts the process, again after Kill.
func (c *Containerd) Run() error {
	log, err := os.OpenFile(filepath.Join(c.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	binary := filepath.Join(Bundle(), "containerd")
	if Bundle() == "" {
		binary = "containerd"
	}
	c.cmd = exec.Command(binary, "--config", filepath.Join(c.Dir, "config.toml"))
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = c.env, log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cc, err := client.New(c.Address, client.WithTimeout(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	if ok, err := cc.IsServing(ctx); err != nil || !ok {
		_ = c.Kill()
		return fmt.Errorf("containerd does not answer: %v; see %s", err, log.Name())
	}
	return nil
}

// Kill ends the process at once; containers go on.
func (c *Containerd) Kill() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = c.cmd.Wait()
	return nil
}

// Stop ends the process and says what is left: mounts below its directory, and shims.
func (c *Containerd) Stop() (left []string, err error) {
	err = c.cmd.Process.Signal(unix.SIGTERM)
	_ = c.cmd.Wait()
	b, rerr := os.ReadFile("/proc/self/mountinfo")
	if rerr != nil {
		return nil, rerr
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], c.Dir) {
			left = append(left, "mount "+f[4])
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	return append(left, c.Shims()...), err
}

// Shims is the command lines of its shims that run.
func (c *Containerd) Shims() []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if bytes.Contains(b, []byte("containerd-shim")) && bytes.Contains(b, []byte(c.Address)) {
			out = append(out, "shim "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// Busybox imports and unpacks an image of busybox, and answers with its chain id and config.
func (c *Containerd) Busybox(namespace, name string, config ocispec.ImageConfig, files map[string]string) (chainID string, image ocispec.Image, err error) {
	layer, err := layerOf(files)
	if err != nil {
		return "", image, err
	}
	image = ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: config,
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}
	archive, err := archiveOf(name, layer, image)
	if err != nil {
		return "", image, err
	}
	cc, err := client.New(c.Address)
	if err != nil {
		return "", image, err
	}
	defer func() { _ = cc.Close() }()
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	got, err := cc.Import(ctx, bytes.NewReader(archive))
	if err != nil {
		return "", image, err
	}
	if err := client.NewImage(cc, got[0]).Unpack(ctx, "overlayfs"); err != nil {
		return "", image, err
	}
	return identity.ChainID(image.RootFS.DiffIDs).String(), image, nil
}

// layerOf is a root with busybox under all its names, and files.
func layerOf(files map[string]string) ([]byte, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err == nil {
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	for _, d := range []string{"bin/", "etc/", "proc/", "sys/", "dev/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, n := range strings.Fields(string(names)) {
		if n != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + n, Linkname: "busybox"}, nil)
		}
	}
	for name, content := range files {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content))
	}
	if err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// archiveOf is an OCI image layout as a tar.
func archiveOf(name string, layer []byte, image ocispec.Image) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var err error
	put := func(name string, content []byte) {
		if err == nil {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	blob := func(mediaType string, v any) ocispec.Descriptor {
		content, ok := v.([]byte)
		if !ok {
			content, err = json.Marshal(v)
		}
		put(fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(content)), content)
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	}
	manifest := ocispec.Manifest{
		Versioned: imagespec.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: blob(ocispec.MediaTypeImageConfig, image),
		Layers: []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayer, layer)},
	}
	d := blob(ocispec.MediaTypeImageManifest, manifest)
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	index, err2 := json.Marshal(ocispec.Index{Versioned: manifest.Versioned, Manifests: []ocispec.Descriptor{d}})
	put("index.json", index)
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = err2
	}
	return b.Bytes(), err
}

// Output reads what a container writes to one FIFO. Its Path goes to containerd; Started is to be called when the process
// was started, Text when it has ended.
type Output struct {
	Path       string
	read, hold *os.File
}

// NewOutput makes a FIFO below dir.
func NewOutput(t testing.TB, dir string) *Output {
	t.Helper()
	o := &Output{Path: filepath.Join(dir, fmt.Sprintf("out-%d", time.Now().UnixNano()))}
	var err error
	if err = unix.Mkfifo(o.Path, 0o600); err == nil {
		if o.hold, err = os.OpenFile(o.Path, unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
			o.read, err = os.OpenFile(o.Path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Started lets go of the end that the shim has opened now.
func (o *Output) Started() { _ = o.hold.Close() }

// Text is all that was written, once the shim has closed its end.
func (o *Output) Text() string {
	_ = o.hold.Close()
	_ = o.read.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(o.read)
	_ = o.read.Close()
	_ = os.Remove(o.Path)
	if err != nil {
		return string(b) + "\n" + err.Error()
	}
	return string(b)
}

// ReadFull reads exactly as much as fits into b.
func (o *Output) ReadFull(b []byte) (int, error) { return io.ReadFull(o.read, b) }
