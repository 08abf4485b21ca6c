package static

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
)

// world is what a source sees of the store.
type world struct {
	pods    map[string]*v1.Pod
	reports []string
	refuse  string // name of a pod that admission refuses
}

func (w *world) source(t *testing.T, dir string) *Source {
	t.Helper()
	w.pods = map[string]*v1.Pod{}
	return New(Options{
		Dir: dir, Node: "Edge",
		Static: func() []*v1.Pod { return slices.Collect(maps.Values(w.pods)) },
		Put: func(_ context.Context, p *v1.Pod) (*v1.Pod, error) {
			if p.Name == w.refuse {
				return nil, errors.New("refused")
			}
			w.pods[p.Namespace+"/"+p.Name] = p
			return p, nil
		},
		Remove: func(_ context.Context, namespace, name string) error {
			delete(w.pods, namespace+"/"+name)
			return nil
		},
		Report: func(file string, err error) { w.reports = append(w.reports, file+": "+err.Error()) },
		Log:    slog.New(slog.DiscardHandler),
	})
}

func write(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func podYAML(name, image string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  containers:\n  - {name: c, image: " + image + "}\n"
}

// A link to nothing is told of, and what ran of it goes on.
func TestDanglingLink(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	write(t, dir, "target", podYAML("a", "one"))
	if err := os.Symlink(filepath.Join(dir, "target"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s.Reconcile(t.Context())
	if err := os.Remove(filepath.Join(dir, "target")); err != nil {
		t.Fatal(err)
	}
	s.Reconcile(t.Context())
	if len(w.pods) != 1 || len(w.reports) != 1 || !strings.Contains(w.reports[0], "a.yaml: is a symbolic link to something that is not there") {
		t.Errorf("pods %v, reports %q", w.pods, w.reports)
	}
}

func TestReconcile(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	look := func() []string {
		s.Reconcile(t.Context())
		return slices.Sorted(maps.Keys(w.pods))
	}
	write(t, dir, "a.yaml", podYAML("a", "one"))
	write(t, dir, "b.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"x"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	write(t, dir, ".hidden.yaml", podYAML("hidden", "i"))
	write(t, dir, "notes.txt", "not a manifest")
	if got := look(); !slices.Equal(got, []string{"default/a-edge", "x/b-edge"}) {
		t.Fatalf("pods = %v", got)
	}
	first := w.pods["default/a-edge"]
	if first.Spec.NodeName != "Edge" || first.Annotations[SourceAnnotation] != "file" || first.Annotations[FileAnnotation] != "a.yaml" {
		t.Errorf("static pod = %+v", first.ObjectMeta)
	}
	if look(); w.pods["default/a-edge"].UID != first.UID {
		t.Error("the uid changed without the file")
	}
	write(t, dir, "a.yaml", podYAML("a", "two"))
	if look(); w.pods["default/a-edge"].UID == first.UID {
		t.Error("the uid did not change with the file")
	}
	write(t, dir, "a.yaml", "apiVersion: v1\nkind: Pod\nspec: {contaners: []}\n")
	if got := look(); !slices.Equal(got, []string{"default/a-edge", "x/b-edge"}) {
		t.Errorf("a bad file took its running pod away: %v", got)
	}
	look()
	if len(w.reports) != 1 || !strings.Contains(w.reports[0], "contaners") {
		t.Errorf("reports = %q, want one that names the bad field", w.reports)
	}
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := look(); !slices.Equal(got, []string{"x/b-edge"}) {
		t.Errorf("pods after the file went = %v", got)
	}
}

func TestTheSamePodInTwoFilesIsReported(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	write(t, dir, "a.yaml", podYAML("a", "one"))
	write(t, dir, "b.yaml", podYAML("a", "two"))
	s.Reconcile(t.Context())
	if len(w.reports) != 1 || !strings.Contains(w.reports[0], "a.yaml as well") {
		t.Errorf("reports = %q", w.reports)
	}
	if p := w.pods["default/a-edge"]; p == nil || p.Spec.Containers[0].Image != "one" {
		t.Errorf("pod = %v, want the first file's", p)
	}
}

func TestAFifoHoldsNothingUp(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	if err := syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "b.yaml", podYAML("b", "one"))
	done := make(chan struct{})
	go func() { s.Reconcile(t.Context()); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a fifo is waited for")
	}
	if len(w.reports) != 1 || !strings.Contains(w.reports[0], "not a regular file") || w.pods["default/b-edge"] == nil {
		t.Errorf("reports = %q, pods = %v", w.reports, w.pods)
	}
}

func TestARefusedPodIsReported(t *testing.T) {
	dir, w := t.TempDir(), &world{refuse: "a-edge"}
	s := w.source(t, dir)
	write(t, dir, "a.yaml", podYAML("a", "one"))
	s.Reconcile(t.Context())
	s.Reconcile(t.Context())
	if len(w.reports) != 1 || w.reports[0] != "a.yaml: refused" {
		t.Errorf("reports = %q", w.reports)
	}
}

func TestAChangeIsFollowedAtOnce(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	put := make(chan string, 10)
	s.o.Put = func(_ context.Context, p *v1.Pod) (*v1.Pod, error) {
		put <- p.Name
		return p, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	write(t, dir, "a.yaml", podYAML("a", "one"))
	select {
	case name := <-put:
		if name != "a-edge" {
			t.Errorf("put %q", name)
		}
	case <-time.After(check / 2): // the timer alone would take longer
		t.Error("a new file was not noticed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Without a notification the timer finds what was added, what changed and what went, each time that it ends.
func TestTheTimerFindsChanges(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	s.check = time.Millisecond
	s.notify = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
	looked := make(chan string)
	put, remove := s.o.Put, s.o.Remove
	tell := func(ctx context.Context, what string) {
		select {
		case looked <- what:
		case <-ctx.Done():
		}
	}
	s.o.Put = func(ctx context.Context, p *v1.Pod) (*v1.Pod, error) {
		if old := w.pods[p.Namespace+"/"+p.Name]; old == nil || old.UID != p.UID {
			defer tell(ctx, p.Name+" "+p.Spec.Containers[0].Image)
		}
		return put(ctx, p)
	}
	s.o.Remove = func(ctx context.Context, namespace, name string) error {
		defer tell(ctx, name+" gone")
		return remove(ctx, namespace, name)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	path := filepath.Join(dir, "a.yaml")
	for _, c := range []struct {
		want   string
		change func() error
	}{
		{"a-edge one", func() error { return replace(path, podYAML("a", "one")) }},
		{"a-edge two", func() error { return replace(path, podYAML("a", "two")) }},
		{"a-edge gone", func() error { return os.Remove(path) }},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-looked:
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: was not found", c.want)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// replace gives a file its content at once, so that nobody reads half of it.
func replace(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func TestAnotherDirectoryIsFollowed(t *testing.T) {
	dir, w := filepath.Join(t.TempDir(), "manifests"), &world{}
	s := w.source(t, dir)
	looked, put := make(chan struct{}, 100), make(chan string, 10)
	s.o.Static = func() []*v1.Pod { looked <- struct{}{}; return nil }
	s.o.Put = func(_ context.Context, p *v1.Pod) (*v1.Pod, error) {
		put <- p.Name
		return p, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-looked
	other := dir + ".new"
	if err := os.Mkdir(other, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Rename(other, dir); err != nil {
		t.Fatal(err)
	}
	<-looked
	write(t, dir, "a.yaml", podYAML("a", "one"))
	select {
	case <-put:
	case <-time.After(check / 2):
		t.Error("the new directory is not followed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// More changes than the kernel keeps for a reader that is busy are a lost event, and no end of the notifications.
func TestLostEventsEndNothing(t *testing.T) {
	dir, w := t.TempDir(), &world{}
	s := w.source(t, dir)
	s.check = time.Hour
	put, busy, release := make(chan string), make(chan bool), make(chan bool)
	s.o.Static = func() []*v1.Pod { return nil }
	seen := map[string]bool{}
	s.o.Put = func(ctx context.Context, p *v1.Pod) (*v1.Pod, error) {
		switch {
		case seen[p.Name]:
			return p, nil
		case len(seen) == 0:
			busy <- true
			<-release
		default:
			select {
			case put <- p.Name:
			case <-ctx.Done():
			}
		}
		seen[p.Name] = true
		return p, nil
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	write(t, dir, "first.yaml", podYAML("first", "one"))
	go func() { done <- s.Run(ctx) }()
	<-busy
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	const read = 64 << 10 / syscall.SizeofInotifyEvent // what the watcher has read already, at most
	for n := 0; n < kept+read; n += 2 {
		write(t, dir, "much", "") // an event each: what is like the one before it is not kept
		if err := os.Remove(filepath.Join(dir, "much")); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	for i := range 20 { // by then all that was kept has been read
		name := fmt.Sprintf("pod%d", i)
		write(t, dir, name+".yaml", podYAML(name, "one"))
		select {
		case got := <-put:
			if got != name+"-edge" {
				t.Fatalf("pod %s was put, want %s", got, name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("file %d after events were lost was not noticed", i)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
