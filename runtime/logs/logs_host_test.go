//go:build host

package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"podd/runtime/containers/containerdtest"
)

const (
	namespace = "logs-test"
	image     = "docker.io/test/busybox:1"
)

var (
	daemon *containerdtest.Containerd
	logd   string // the binary
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("/tmp", "pl")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		logd = filepath.Join(dir, "podd-logd")
		build := exec.Command("go", "build", "-o", logd, "podd/cmd/podd-logd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Printf("%s", out)
			return 1
		}
		if daemon, err = containerdtest.Start(dir); err == nil {
			_, _, err = daemon.Busybox(namespace, image, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}, nil)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		code := m.Run()
		left, err := daemon.Stop()
		cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/" + namespace)
		for _, c := range append(cgroups, "/sys/fs/cgroup/"+namespace) {
			if rerr := os.Remove(c); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				left = append(left, rerr.Error())
			}
		}
		if len(left) > 0 || err != nil {
			fmt.Println("left:", left, err)
			return 1
		}
		return code
	}())
}

// process is one podd-logd.
type process struct {
	cmd *exec.Cmd
	*Writer
}

func startProcess(t testing.TB, dir string) *process {
	t.Helper()
	socket := filepath.Join(dir, "logd.sock")
	p := &process{cmd: exec.Command(logd, "--socket", socket), Writer: Dial(socket)}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := openWatch(dir)
	defer w.close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		h, err := p.Hello(ctx)
		if err == nil && h.PID == p.cmd.Process.Pid {
			return p
		}
		if ctx.Err() != nil {
			t.Fatalf("podd-logd does not answer: %v", err)
		}
		w.wait(ctx)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// fifos is the IO of a container that writes straight into the FIFOs.
type fifos struct{ config cio.Config }

func (f fifos) Config() cio.Config { return f.config }
func (fifos) Cancel()              {}
func (fifos) Wait()                {}
func (fifos) Close() error         { return nil }

// runContainer runs a shell script with its output in the FIFOs of tg. The exit code comes when it has ended and is gone.
func runContainer(t testing.TB, ctx context.Context, tg Target, script string) <-chan uint32 {
	t.Helper()
	client, err := containerd.New(daemon.Address, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	img, err := client.GetImage(ctx, image)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewContainer(ctx, tg.ID, containerd.WithNewSnapshot(tg.ID, img),
		containerd.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("sh", "-c", script)))
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.NewTask(ctx, func(string) (cio.IO, error) {
		return fifos{cio.Config{Stdout: tg.Stdout, Stderr: tg.Stderr}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	exited, err := task.Wait(ctx)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	code := make(chan uint32, 1)
	go func() {
		st := <-exited
		_, derr := task.Delete(ctx)
		if err := errors.Join(st.Error(), derr, c.Delete(ctx, containerd.WithSnapshotCleanup), client.Close()); err != nil {
			t.Error(err)
		}
		code <- st.ExitCode()
	}()
	return code
}

// written gives the bytes in all files of a log.
func written(path string) (size int64) {
	all, _ := filepath.Glob(path + "*")
	for _, name := range all {
		if st, err := os.Stat(name); err == nil {
			size += st.Size()
		}
	}
	return size
}

func awaitWritten(t testing.TB, ctx context.Context, path string, size int64) {
	t.Helper()
	w := openWatch(filepath.Dir(path))
	defer w.close()
	for written(path) < size {
		if ctx.Err() != nil {
			t.Fatalf("only %d bytes were written", written(path))
		}
		w.wait(ctx)
	}
}

// count writes numbered lines as fast as it can.
func count(lines int) string {
	return fmt.Sprintf(`awk 'BEGIN{for(i=0;i<%d;i++) print "line", i}'`, lines)
}

// gaps reads numbered lines and says how many bytes of them are missing. Lines that are torn where something is missing
// count as missing; what is there must be in order.
func gaps(t testing.TB, text string, lines int) (missing int) {
	t.Helper()
	next := 0
	for l := range strings.Lines(text) {
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(l, "line "), "\n"))
		if err != nil || n < next || n >= lines {
			continue // torn
		}
		for ; next < n; next++ {
			missing += len("line \n") + len(strconv.Itoa(next))
		}
		next = n + 1
	}
	for ; next < lines; next++ {
		missing += len("line \n") + len(strconv.Itoa(next))
	}
	return missing
}

// While a container writes, podd-logd is replaced again and again. The container goes on, and nothing is lost.
func TestReplacedUnderAContainer(t *testing.T) {
	const lines = 400000
	dir, ctx := t.TempDir(), short(t)
	p := startProcess(t, dir)
	tg := target(dir, "replaced")
	tg.MaxFiles = 100
	if err := p.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	code := runContainer(t, ctx, tg, count(lines))
	for i := range 5 {
		awaitWritten(t, ctx, tg.Path, int64(i+1)<<20)
		if err := p.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		p = startProcess(t, dir)
	}
	if c := <-code; c != 0 {
		t.Errorf("the container exited with %d", c)
	}
	if err := p.Drain(ctx, tg.ID); err != nil {
		t.Fatal(err)
	}
	stdout, _ := read(t, tg.Path, ReadOptions{})
	checkLines(t, stdout, 0, lines)
	if err := errors.Join(p.Remove(ctx, tg.ID), p.Shutdown(ctx), p.cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// While a container writes, podd-logd is killed again and again. The container goes on, and of each death no more is
// lost than one buffer.
func TestKilledUnderAContainer(t *testing.T) {
	const lines, kills = 400000, 10
	dir, ctx := t.TempDir(), short(t)
	p := startProcess(t, dir)
	tg := target(dir, "killed")
	tg.MaxFiles = 100
	if err := p.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	code := runContainer(t, ctx, tg, count(lines))
	for i := range kills {
		awaitWritten(t, ctx, tg.Path, int64(i+1)<<20)
		p.kill()
		p = startProcess(t, dir)
	}
	if c := <-code; c != 0 {
		t.Errorf("the container exited with %d", c)
	}
	if err := p.Drain(ctx, tg.ID); err != nil {
		t.Fatal(err)
	}
	stdout, _ := read(t, tg.Path, ReadOptions{})
	missing := gaps(t, stdout, lines)
	t.Logf("%d bytes of %d lost in %d deaths", missing, len(stdout)+missing, kills)
	if missing > kills*bufferSize {
		t.Errorf("%d bytes are lost", missing)
	}
	if err := errors.Join(p.Remove(ctx, tg.ID), p.Shutdown(ctx), p.cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// What is written while no podd-logd runs is in the log once one does, and the writer does not wait for that.
func TestWritesWhileNobodyReads(t *testing.T) {
	const lines = 20000 // fit into the FIFO
	dir, ctx := t.TempDir(), short(t)
	p := startProcess(t, dir)
	tg := target(dir, "alone")
	if err := p.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	out, done := openWriter(t, tg.Stdout)
	p.kill()
	for i := range lines {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	p = startProcess(t, dir)
	done()
	if err := p.Drain(ctx, tg.ID); err != nil {
		t.Fatal(err)
	}
	stdout, _ := read(t, tg.Path, ReadOptions{})
	checkLines(t, stdout, 0, lines)
	if err := errors.Join(p.Remove(ctx, tg.ID), p.Shutdown(ctx), p.cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// A full disk does not stop the container; the log says how much is missing.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "pods")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	out, done := openWriter(t, tg.Stdout)
	const lines = 100000
	for i := range lines { // more than the disk and the FIFO together take
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	done()
	if err := errors.Join(w.Drain(ctx, "c1"), os.Remove(filler)); err != nil {
		t.Fatal(err)
	}
	out, done = openWriter(t, tg.Stdout)
	if _, err := fmt.Fprintln(out, "after"); err != nil {
		t.Fatal(err)
	}
	done()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := read(t, tg.Path, ReadOptions{})
	told, err := w.Losses(ctx)
	if err != nil || len(told) != 1 || told[0].ID != "c1" || told[0].Cause != "no space left on device" {
		t.Fatalf("told of losses: %+v, %v", told, err)
	}
	if again, err := w.Losses(ctx); err != nil || len(again) > 0 {
		t.Errorf("told again: %+v, %v", again, err)
	}
	var lost int
	for note := range strings.Lines(stderr) { // there is more than one where a short chunk fits in when a long one did not
		var n int
		if _, err := fmt.Sscanf(note, "podd-logd: %d lines", &n); err != nil || !strings.Contains(note, "no space left on device") {
			t.Errorf("stderr has %q: %v", note, err)
		}
		lost += n
	}
	kept := strings.Count(stdout, "\n") - 1
	if told[0].Lines != lost {
		t.Errorf("told of %d lines, the log of %d", told[0].Lines, lost)
	}
	if kept+lost != lines || lost == 0 || !strings.HasSuffix(stdout, "after\n") {
		t.Errorf("%d lines kept and %d told to be lost, of %d", kept, lost, lines)
	}
	if err := w.Remove(ctx, "c1"); err != nil {
		t.Error(err)
	}
}

// BenchmarkContainer is the whole way of 100-byte lines: container, shim, FIFO, podd-logd, file.
func BenchmarkContainer(b *testing.B) {
	const size = 300 << 20
	dir := b.TempDir()
	ctx := context.Background()
	p := startProcess(b, dir)
	for i := 0; b.Loop(); i++ {
		tg := target(dir, fmt.Sprintf("bench-%d", i))
		if err := p.Ensure(ctx, tg); err != nil {
			b.Fatal(err)
		}
		code := runContainer(b, ctx, tg, fmt.Sprintf("yes %s | head -c %d >/f; for i in 0 1 2 3 4 5 6 7 8 9; do cat /f; done",
			strings.Repeat("x", 99), size/10))
		awaitWritten(b, ctx, tg.Path, 1)
		begin := time.Now()
		if c := <-code; c != 0 {
			b.Errorf("exit %d", c)
		}
		if err := p.Drain(ctx, tg.ID); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(size/1e6/time.Since(begin).Seconds(), "MB/s")
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		for l := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(l, "RssAnon:"); ok {
				kb, _ := strconv.Atoi(strings.Fields(v)[0])
				b.ReportMetric(float64(kb), "RssAnon-kB")
			}
		}
		if err := p.Remove(ctx, tg.ID); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(p.Shutdown(ctx), p.cmd.Wait()); err != nil {
		b.Error(err)
	}
}
