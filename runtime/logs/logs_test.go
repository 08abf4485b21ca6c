package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5, time.UTC)

func TestFrame(t *testing.T) {
	long := strings.Repeat("x", maxText)
	for _, c := range []struct{ name, in, want, rest string }{
		{"lines", "a\n\nb c\n", "F a|F |F b c|", ""},
		{"no end yet", "a\nb", "F a|", "b"},
		{"as long as may be", long + "\n", "F " + long + "|", ""},
		{"longer", long + "tail\n", "P " + long + "|F tail|", ""},
		{"longer, no end", long + "tail", "P " + long + "|", "tail"},
		{"binary", "\x00\xff\r\n", "F \x00\xff\r|", ""},
	} {
		h := head(nil, noon, "stdout")
		out, rest, _, more := frame(nil, h, []byte(c.in), 1<<20)
		got := strings.ReplaceAll(strings.ReplaceAll(string(out), string(h), ""), "\n", "|")
		if got != c.want || string(rest) != c.rest || more {
			t.Errorf("%s: got %q rest %q more %v", c.name, got, rest, more)
		}
	}
	if got := string(head(nil, noon, "stderr")); got != "2026-01-02T12:00:00.000000005Z stderr " {
		t.Errorf("head is %q", got)
	}
}

func TestFrameIsBounded(t *testing.T) {
	src := bytes.Repeat([]byte("\n"), bufferSize)
	h := head(nil, noon, "stdout")
	total := 0
	for more := true; more; {
		var out []byte
		var n int
		out, src, n, more = frame(nil, h, src, 1000)
		if len(out) > 1000+len(h)+3 {
			t.Fatalf("%d bytes at once", len(out))
		}
		total += n
	}
	if total != bufferSize {
		t.Errorf("%d records", total)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"2026-01-02T12:00:00.5Z stdout F hello you":         "stdout true hello you",
		"2026-01-02T12:00:00.000000005Z stderr P ":          "stderr false ",
		"2026-01-02T12:00:00.000000005+01:00 stdout F:a b ": "stdout true b ",
		"2026-01-02T12:00:00.5Z stdout X hello":             "",
		"2026-01-02T12:00:00.5Z stdlog F hello":             "",
		"2026-01-02T12:00:00.5Z stdout F":                   "",
		"":                                                  "",
	} {
		got := ""
		if l, ok := parse([]byte(in)); ok {
			stream := "stdout"
			if l.stderr {
				stream = "stderr"
			}
			got = fmt.Sprint(stream, " ", l.full, " ", string(l.text))
		}
		if got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"2026-01-02T12:00:00.5Z stdout F hello", "2026-01-02T12:00:00.123456789+01:00 stderr P:x  two blanks", "2026-01-02T12:00:00Z stdout F ",
		"2026-01-02T12:00:00Z stdout F", "2026-01-02T12:00:00Z stdlog F x", "2026-01-02T12:00:00Z stdout X x", "", " ", "   ",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := parse(b)
		// The same, said in another way.
		part := strings.SplitN(string(b), " ", 4)
		good := len(part) == 4 && len(part[0]) >= len("2006-01-02T15:04:05Z") && (part[1] == "stdout" || part[1] == "stderr") &&
			(part[2] == "F" || part[2] == "P" || strings.HasPrefix(part[2], "F:") || strings.HasPrefix(part[2], "P:"))
		if ok != good {
			t.Fatalf("%q is a record: %v", b, ok)
		}
		if ok && (string(l.stamp) != part[0] || l.stderr != (part[1] == "stderr") || l.full != (part[2][0] == 'F') || string(l.text) != part[3]) {
			t.Errorf("%q: %+v", b, l)
		}
	})
}

func TestNames(t *testing.T) {
	if got := Path("/var/log", "default", "web", "u-1", "app", 2); got != "/var/log/pods/default_web_u-1/app/2.log" {
		t.Errorf("path %s", got)
	}
	long := Path("/l", strings.Repeat("n", 63), strings.Repeat("p", 253), strings.Repeat("u", 36), "c", 0)
	if dir := filepath.Base(filepath.Dir(filepath.Dir(long))); len(dir) != maxName || !strings.HasSuffix(dir, strings.Repeat("u", 36)) {
		t.Errorf("directory of %d characters: %s", len(dir), dir)
	}
	dir := t.TempDir()
	to := Path(dir, "default", "web", "u-1", "app", 0)
	other := Path(dir, "default", "other", "u-2", "app", 0)
	for range 2 {
		if err := errors.Join(EnsureLink(dir, "default", "web", "app", "id1", to), EnsureLink(dir, "default", "other", "app", "id2", other),
			os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.Readlink(filepath.Join(dir, "containers", "web_default_app-id1.log")); got != to {
		t.Errorf("link to %q", got)
	}
	for range 2 {
		if err := RemovePod(dir, "default", "web", "u-1"); err != nil {
			t.Error(err)
		}
	}
	left, _ := filepath.Glob(dir + "/*/*")
	if len(left) != 1 || filepath.Base(left[0]) != "other_default_app-id2.log" {
		t.Errorf("left: %v", left)
	}
	for range 2 {
		if err := RemoveLink(dir, "default", "other", "app", "id2"); err != nil {
			t.Error(err)
		}
	}
}

func TestRotatedNamesAreOrdered(t *testing.T) {
	var last age
	var names []string
	for i := range 30 { // ten times a second, and the clock goes back in the middle
		now := noon.Add(time.Duration(i) * 100 * time.Millisecond)
		if i > 15 {
			now = now.Add(-time.Hour)
		}
		next := after(last, now)
		if next.compare(last) <= 0 {
			t.Fatalf("%v is not after %v", next, last)
		}
		last = next
		names = append(names, next.name("0.log"))
	}
	for i, name := range names {
		r, ok := parseRotated("0.log", name)
		if !ok || r.name != name {
			t.Errorf("%s is not understood", name)
		}
		if i > 0 && names[i-1] >= name {
			t.Errorf("%s sorts after %s", names[i-1], name)
		}
	}
	if names[0] != "0.log.20260102-120000" || names[1] != "0.log.20260102-120000.0001" {
		t.Errorf("names are %v", names[:2])
	}
	for _, name := range []string{"0.log", "0.log.new", "10.log.20260102-120000", "0.log.20260102-120000.tmp", "0.log.20260102-120000.gz.tmp"} {
		if _, ok := parseRotated("0.log", name); ok {
			t.Errorf("%s is taken for a rotated file", name)
		}
	}
}

// start runs podd-logd in this process, on a socket of its own.
func start(t *testing.T, dir string) (w *Writer, stop func()) {
	t.Helper()
	socket := filepath.Join(dir, "logd.sock")
	l, unlock, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	w = Dial(socket)
	over := make(chan error, 1)
	go func() {
		over <- Serve(context.Background(), l, ServeOptions{State: socket + ".d", Build: "test"})
		unlock()
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := w.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return w, stop
}

func target(dir, id string) Target {
	return Target{
		ID: id, Stdout: filepath.Join(dir, "fifo", id, "stdout"), Stderr: filepath.Join(dir, "fifo", id, "stderr"),
		Path: filepath.Join(dir, "pods", id, "0.log"),
	}
}

// openWriter does as the shim does: it opens for writing and for reading, so that no writer ever sees EPIPE.
func openWriter(t *testing.T, path string) (w *os.File, done func()) {
	t.Helper()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w, func() { _, _ = w.Close(), r.Close() }
}

func read(t *testing.T, path string, o ReadOptions) (string, string) {
	t.Helper()
	var stdout, stderr strings.Builder
	if err := Read(context.Background(), path, o, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

// short is a context for what takes a moment, on a host that may be busy.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	for range 2 {
		if err := w.Ensure(ctx, tg); err != nil {
			t.Fatal(err)
		}
	}
	h, err := w.Hello(ctx)
	if err != nil || h.Protocol != Protocol || h.Build != "test" || h.PID != os.Getpid() {
		t.Errorf("hello: %+v %v", h, err)
	}
	out, outDone := openWriter(t, tg.Stdout)
	errs, errDone := openWriter(t, tg.Stderr)
	fmt.Fprint(out, "one\ntwo\nthr")
	fmt.Fprint(errs, "bad\n")
	fmt.Fprint(out, "ee\nno end")
	outDone()
	errDone()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := read(t, tg.Path, ReadOptions{})
	if stdout != "one\ntwo\nthree\nno end\n" || stderr != "bad\n" {
		t.Errorf("stdout %q stderr %q", stdout, stderr)
	}
	if ids, err := w.List(ctx); err != nil || len(ids) != 1 || ids[0] != "c1" {
		t.Errorf("list: %v %v", ids, err)
	}
	for range 2 {
		if err := w.Remove(ctx, "c1"); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(dir + "/fifo/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if left, _ := filepath.Glob(dir + "/logd.sock.d/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if st, err := os.Stat(tg.Path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("log: %v %v", st, err)
	}
	if st, _ := os.Stat(dir + "/logd.sock"); st.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v", st.Mode())
	}
}

// A task that could not be made is made again on the same FIFOs: the second shim must find a reader, too.
func TestSecondWriterFindsReader(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		out, done := openWriter(t, tg.Stdout)
		fmt.Fprintf(out, "try %d\n", i)
		done()
		if err := w.Drain(ctx, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if stdout, _ := read(t, tg.Path, ReadOptions{}); stdout != "try 0\ntry 1\ntry 2\n" {
		t.Errorf("got %q", stdout)
	}
}

// A daemon started with other limits may change them; a limit of nonsense does no harm.
func TestLimitsMayChange(t *testing.T) {
	dir := t.TempDir()
	w, stop := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	tg.MaxSize, tg.MaxFiles = 1, 3
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	stop()
	w, _ = start(t, dir)
	out, done := openWriter(t, tg.Stdout)
	for i := range 10 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	done()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if all, _ := filepath.Glob(tg.Path + "*"); len(all) != 3 {
		t.Errorf("files: %v", all)
	}
	stdout, _ := read(t, tg.Path, ReadOptions{})
	if stdout != "line 7\nline 8\nline 9\n" {
		t.Errorf("kept %q", stdout)
	}
	tg.Path += "x"
	if err := w.Ensure(ctx, tg); err == nil {
		t.Error("one container into two files")
	}
}

// A record that cannot be taken up again goes with its FIFOs when its container does.
func TestRemoveWhatCouldNotBeRestored(t *testing.T) {
	dir := t.TempDir()
	w, stop := start(t, dir)
	ctx, tg := short(t), target(dir, "c1")
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := errors.Join(os.Remove(tg.Path), os.Mkdir(tg.Path, 0o755)); err != nil {
		t.Fatal(err)
	}
	w, _ = start(t, dir)
	if ids, err := w.List(ctx); err != nil || len(ids) > 0 {
		t.Errorf("%v %v", ids, err)
	}
	if err := w.Remove(ctx, "c1"); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(dir + "/fifo/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	w, _ := start(t, dir)
	ctx := short(t)
	tg := target(dir, "c1")
	if err := os.MkdirAll(filepath.Dir(tg.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", tg.Path); err != nil {
		t.Fatal(err)
	}
	bad := map[string]Target{"symlink": tg}
	tg = target(dir, "../c2")
	bad["id"] = tg
	tg = target(dir, "c3")
	tg.Path = "relative.log"
	bad["path"] = tg
	tg = target(dir, "c4")
	tg.Stdout = "/dev/null"
	bad["no FIFO"] = tg
	for name, tg := range bad {
		if err := w.Ensure(ctx, tg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if ids, _ := w.List(ctx); len(ids) != 0 {
		t.Errorf("under way: %v", ids)
	}
	if err := w.Remove(ctx, "../x"); err == nil {
		t.Error("removes what is no id")
	}
	r, err := w.ask(ctx, request{Op: "dance"})
	if err == nil {
		t.Errorf("answers an unknown operation: %+v", r)
	}
}

// A podd-logd that is sent away leaves what it has not read to the next one; a line may be in two parts then.
func TestHandover(t *testing.T) {
	dir := t.TempDir()
	ctx, tg := short(t), target(dir, "c1")
	w, stop := start(t, dir)
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	out, done := openWriter(t, tg.Stdout)
	const lines = 20000
	wrote := make(chan error, 1)
	go func() {
		for i := range lines {
			if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	for range 5 {
		stop()
		w, stop = start(t, dir)
	}
	if _, err := w.Hello(ctx); err != nil { // it answers once it has the FIFO open, which nobody else may have in a moment
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	done()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	stdout, _ := read(t, tg.Path, ReadOptions{})
	checkLines(t, stdout, 0, lines)
}

func checkLines(t *testing.T, got string, from, to int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != to-from {
		t.Errorf("%d lines, not %d", len(lines), to-from)
	}
	for i, l := range lines {
		if want := fmt.Sprintf("line %d", from+i); l != want {
			t.Fatalf("line %d is %q", from+i, l)
		}
	}
}

// Files are rotated many times a second while one reader follows from the start, and another asks for tails.
func TestFollowOverRotation(t *testing.T) {
	dir := t.TempDir()
	ctx, tg := short(t), target(dir, "c1")
	tg.MaxSize, tg.MaxFiles = 40<<10, 1000
	w, _ := start(t, dir)
	if err := w.Ensure(ctx, tg); err != nil {
		t.Fatal(err)
	}
	out, done := openWriter(t, tg.Stdout)
	const lines = 30000
	var all sync.WaitGroup
	over := make(chan struct{})
	var followed strings.Builder
	all.Go(func() {
		if err := Read(ctx, tg.Path, ReadOptions{Follow: true, Done: over}, &followed, io.Discard); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		n := int64(100)
		for {
			var tail strings.Builder
			if err := Read(ctx, tg.Path, ReadOptions{TailLines: &n}, &tail, io.Discard); err != nil {
				t.Error(err)
			}
			if l := strings.Split(strings.TrimSuffix(tail.String(), "\n"), "\n"); len(l) > 1 {
				var first int
				if _, err := fmt.Sscanf(l[0], "line %d", &first); err != nil {
					t.Error(err)
				}
				checkLines(t, tail.String(), first, first+len(l))
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	for i := range lines {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	done()
	if err := w.Drain(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	close(over)
	all.Wait()
	checkLines(t, followed.String(), 0, lines)
	files, _ := rotatedFiles(tg.Path)
	if len(files) < 20 {
		t.Errorf("only %d rotations", len(files))
	}
	for _, f := range files {
		if st, err := os.Stat(filepath.Join(filepath.Dir(tg.Path), f.name)); err != nil || st.Size() > tg.MaxSize {
			t.Errorf("%s: %v %v", f.name, st.Size(), err)
		}
	}
}

func TestKeepsAsManyFilesAsAllowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	told := 0
	f, err := openFile(path, 100, 3, func(string) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for i := range 10 {
		text := fmt.Sprintf("line %d %s", i, strings.Repeat("x", 40))
		f.write(record(nil, head(nil, noon, "stdout"), 'F', []byte(text)), 1, noon)
	}
	files, _ := os.ReadDir(filepath.Dir(path))
	if len(files) != 3 || told != 9 {
		t.Errorf("%v, rotated %d times", files, told)
	}
	stdout, _ := read(t, path, ReadOptions{})
	if !strings.HasPrefix(stdout, "line 7 ") || strings.Count(stdout, "\n") != 3 {
		t.Errorf("kept %q", stdout)
	}
}

func TestMend(t *testing.T) {
	const whole = "2026-01-02T12:00:00.000000005Z stdout F one\n"
	for left, want := range map[string]string{
		"":                                      "one\nnext\n",
		whole[:len(whole)-1]:                    "one\none\nnext\n",
		whole[:len(whole)-3]:                    "one\no\nnext\n",
		"2026-01-02T12:00:00.0":                 "one\nnext\n",
		"2026-01-02T12:00:00.000000005Z stdout": "one\nnext\n",
	} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, []byte(whole+left), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := openFile(path, 1000, 3, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		f.write(record(nil, head(nil, noon, "stdout"), 'F', []byte("next")), 1, noon)
		f.close()
		if got, _ := read(t, path, ReadOptions{}); got != want {
			t.Errorf("after %q: %q", left, got)
		}
	}
}

func TestReadOptions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	at := func(s int) string { return noon.Add(time.Duration(s) * time.Second).Format(stampLayout) }
	files := map[string]string{
		"0.log.20260102-120002":      at(0) + " stdout F a\n" + at(1) + " stderr F B\n" + at(2) + " stdout P c\n",
		"0.log.20260102-120002.0001": at(2) + " stdout F d\n" + at(2) + " stdout F e\nnonsense\n",
		"0.log":                      at(3) + " stderr F G\n" + at(4) + " stdout P h\n" + at(4) + " stdout P i\n" + at(5) + " stdout F j\n" + at(5) + " stdo",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := func(n int64) *int64 { return &n }
	cases := []struct {
		name string
		o    ReadOptions
		want string
	}{
		{"all", ReadOptions{}, "a\nB\ncd\ne\nG\nhij\n"},
		{"tail 0", ReadOptions{TailLines: n(0)}, ""},
		{"tail 1", ReadOptions{TailLines: n(1)}, "hij\n"},
		{"tail 2", ReadOptions{TailLines: n(2)}, "G\nhij\n"},
		{"tail 3", ReadOptions{TailLines: n(3)}, "e\nG\nhij\n"},
		{"tail 4", ReadOptions{TailLines: n(4)}, "d\ne\nG\nhij\n"}, // of a line over two files only the end
		{"tail 5", ReadOptions{TailLines: n(5)}, "B\ncd\ne\nG\nhij\n"},
		{"tail 100", ReadOptions{TailLines: n(100)}, "a\nB\ncd\ne\nG\nhij\n"},
		{"since", ReadOptions{SinceTime: noon.Add(3 * time.Second)}, "G\nhij\n"},
		{"since, tail", ReadOptions{SinceTime: noon.Add(4 * time.Second), TailLines: n(3)}, "hij\n"},
		{"since the future", ReadOptions{SinceTime: noon.Add(time.Hour)}, ""},
		{"limit", ReadOptions{LimitBytes: n(6)}, "a\nB\ncd"},
		{"limit 0", ReadOptions{LimitBytes: n(0)}, ""},
		{"times", ReadOptions{Timestamps: true, TailLines: n(2)}, at(3) + " G\n" + at(4) + " hij\n"},
	}
	run := func(state string) {
		for _, c := range cases {
			var out strings.Builder
			if err := Read(context.Background(), path, c.o, &out, &out); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("%s, %s: %q", c.name, state, out.String())
			}
		}
	}
	run("plain")
	if packAll(context.Background(), path, time.Hour) != true {
		t.Error("packs what is too young")
	}
	if packAll(context.Background(), path, 0) {
		t.Error("something is left to pack")
	}
	if left, _ := filepath.Glob(dir + "/*.gz"); len(left) != 1 || left[0] != filepath.Join(dir, "0.log.20260102-120002.gz") {
		t.Errorf("packed: %v", left)
	}
	run("packed")
	if err := packFile(filepath.Join(dir, "0.log.20260102-120002.0001")); err != nil {
		t.Fatal(err)
	}
	run("all packed")
	if err := Read(context.Background(), dir+"/1.log", ReadOptions{}, io.Discard, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that is not there: %v", err)
	}
	if err := RemoveContainer(path); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A follower sees a line soon after it was written, and ends with its context without an error.
func TestFollowIsPrompt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f, err := openFile(path, 1<<20, 3, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	over := make(chan error, 1)
	go func() { over <- Read(ctx, path, ReadOptions{Follow: true}, pw, pw) }()
	in := make([]byte, 100)
	for i := range 20 {
		begin := time.Now()
		f.write(record(nil, head(nil, begin, "stdout"), 'F', []byte("x")), 1, begin)
		if _, err := io.ReadAtLeast(pr, in, 2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("line %d took %v", i, took)
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func BenchmarkFrame(b *testing.B) {
	src := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), bufferSize/100)
	out := make([]byte, 0, 2*bufferSize)
	h := head(nil, noon, "stdout")
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		rest, more := src, true
		for more {
			_, rest, _, more = frame(out[:0], h, rest, bufferSize)
		}
	}
}

// BenchmarkServe is from the FIFO to the file, of 100-byte lines, with rotation.
func BenchmarkServe(b *testing.B) {
	dir := b.TempDir()
	socket := filepath.Join(dir, "logd.sock")
	l, unlock, err := Listen(socket)
	if err != nil {
		b.Fatal(err)
	}
	defer unlock()
	w, over := Dial(socket), make(chan error, 1)
	go func() { over <- Serve(context.Background(), l, ServeOptions{State: socket + ".d"}) }()
	tg := target(dir, "c1")
	if err := w.Ensure(context.Background(), tg); err != nil {
		b.Fatal(err)
	}
	out, err := os.OpenFile(tg.Stdout, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	chunk := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 327)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = out.Close()
	if err := errors.Join(w.Drain(context.Background(), "c1"), w.Shutdown(context.Background()), <-over); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFollow is what a follower costs while 100-byte lines are written as fast as the disk takes them, in pieces as
// podd-logd writes them: processor time of this process, the writer's small part included.
func BenchmarkFollow(b *testing.B) {
	defer func(was time.Duration) { pace = was }(pace)
	var piece []byte
	for len(piece) < 32<<10 {
		piece = append(piece, "2026-01-02T15:04:05.999999999Z stdout F "+strings.Repeat("x", 99)+"\n"...)
	}
	for _, pace = range []time.Duration{0, pace} {
		b.Run(pace.String(), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "0.log")
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			done, over := make(chan struct{}), make(chan error, 1)
			var got, writes int
			go func() {
				out := writerFunc(func(p []byte) (int, error) { got += len(p); writes++; return len(p), nil })
				over <- Read(context.Background(), path, ReadOptions{Follow: true, Done: done}, out, out)
			}()
			began := processorTime(b)
			for b.Loop() {
				if _, err := f.Write(piece); err != nil {
					b.Fatal(err)
				}
				time.Sleep(300 * time.Microsecond) // 100 MB a second at most
			}
			close(done)
			if err := <-over; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(processorTime(b)-began)/1e6/(float64(got)/1e6), "cpu-ms/MB")
			b.ReportMetric(float64(got)/float64(writes), "bytes/write")
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func processorTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
