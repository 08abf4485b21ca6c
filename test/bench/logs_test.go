//go:build host

package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/test/ociimage"
)

const (
	linesImage = "localhost/lines:bench"
	lineCount  = 4 << 20 // 400 MiB
	lineBytes  = 100
)

// BenchmarkLogs is what of a container's output a client of the API gets per second: while it is written, from the first
// byte written to the last one read, and again from the files, over all the files that it is rotated into. Every line is looked at:
// none may be missing.
func BenchmarkLogs(tb *testing.B) {
	b := open(tb, "--container-log-max-files=100") // of the default size: it is rotated some 60 times, and all of it is there to be read again
	source, err := os.ReadFile("lines/main.go")
	if err != nil {
		tb.Fatal(err)
	}
	program, err := ociimage.Program(tb.Context(), string(source))
	if err != nil {
		tb.Fatal(err)
	}
	b.podd.Load(ociimage.Image{Name: linesImage, Layers: [][]ociimage.File{{{Path: "lines", Content: program}}}})
	used := b.cpu()
	followed, read := b.logs("follow", true), 0.0
	used = b.cpu() - used
	for range 3 {
		read = max(read, b.logs("follow", false))
	}
	tb.ReportMetric(followed, "followed-MB/s")
	tb.ReportMetric(read, "read-MB/s")
	report(tb,
		fmt.Sprintf("%d MB of lines of %d bytes, container to client of the API by follow, over %d rotations   %.0f MB/s (target at least 60)", lineCount*lineBytes/1_000_000, lineBytes, b.rotations("follow"), followed),
		fmt.Sprintf("the same, read again from the log files (best of 3)                      %.0f MB/s", read),
		fmt.Sprintf("podd's own processor time for what was followed                          %.2f s, %.0f MB per second of it", used.Seconds(), lineCount*lineBytes/1e6/used.Seconds()),
		fmt.Sprintf("podd's RssAnon after                                                     %.1f MB", b.status("RssAnon")/1024))
}

// rotations is how many files of the pod's log are full.
func (b *bench) rotations(name string) int {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(b.podd.LogDir, "pods", "default_"+name+"_*", "*", "*"))
	if err != nil || len(files) < 10 {
		b.Fatalf("the log of %s was not rotated: %v, %v", name, files, err)
	}
	return len(files) - 1
}

// logs reads the log of a pod to its end; the pod is made first if follow, and begins to write when the log is read.
func (b *bench) logs(name string, follow bool) float64 {
	b.Helper()
	begin := filepath.Join(b.out, name+".begin")
	if follow {
		pod := b.pod(name)
		pod.Spec.Containers[0].Image = linesImage
		pod.Spec.Containers[0].Command = []string{"/lines", strconv.Itoa(lineCount), "/out/" + name + ".begin"}
		b.create(pod)
		b.await(name, running)
	}
	in, err := b.client.CoreV1().Pods("default").GetLogs(name, &v1.PodLogOptions{Follow: follow}).Stream(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	begun := time.Now()
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	n, err := countLines(in)
	took := time.Since(begun)
	if err != nil || n != lineCount {
		b.Fatalf("the log has %d lines, want %d: %v", n, lineCount, err)
	}
	return float64(lineCount*lineBytes) / 1e6 / took.Seconds()
}

// countLines checks that lines are numbered from 0 and returns how many there are.
func countLines(r io.Reader) (int, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		got := 0
		for _, digit := range line[:12] {
			got = 10*got + int(digit-'0')
		}
		if len(line) != lineBytes || got != n {
			return n, fmt.Errorf("where line %d should be there is %q", n, line)
		}
	}
}
