// Package static runs the pods of the files in a directory: a file that appears makes pods, one that changes replaces
// them, one that goes takes them away. What is there is compared with what the store has, again and again, so a change
// that was made while podd was down is found like any other.
package static

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"podd/api/manifest"
)

// Annotations of a static pod. The first two are the kubelet's (pkg/kubelet/types/pod_update.go).
const (
	SourceAnnotation = "kubernetes.io/config.source" // "file"
	HashAnnotation   = "kubernetes.io/config.hash"   // the pod's uid, made from the file's content
	FileAnnotation   = "podd/manifest"               // name of the file
)

// ErrTerminating says that the pod a file had before is still ending; the new one is put again shortly.
var ErrTerminating = errors.New("the previous pod is still ending")

// again is how soon a pod is put again whose predecessor is still ending.
const again = 250 * time.Millisecond

// check is how often the directory is read even if nothing was notified (the kubelet's fileCheckFrequency).
const check = 20 * time.Second

// Options say where manifests are and what becomes of them.
type Options struct {
	Dir  string
	Node string // name of the node; static pods are named <name>-<node>, as the kubelet does

	Static func() []*v1.Pod                                        // the static pods that the store has
	Put    func(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) // create or replace; ErrTerminating: later
	Remove func(ctx context.Context, namespace, name string) error // delete gracefully; none is no error
	Report func(file string, err error)                            // a file that cannot be run
	Log    *slog.Logger
}

// Source follows one directory.
type Source struct {
	o        Options
	reported map[string]string // file -> what was last reported of it
	check    time.Duration     // how often the directory is read whatever was notified
	notify   func() (*fsnotify.Watcher, error)
}

// New gives a source that does nothing before Run.
func New(o Options) *Source {
	return &Source{o: o, reported: map[string]string{}, check: check, notify: fsnotify.NewWatcher}
}

// Run follows the directory until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.o.Dir, 0o755); err != nil {
		return fmt.Errorf("make manifest directory: %w", err)
	}
	watcher, err := s.notify()
	watch := func() error { return err }
	if err != nil { // no inotify instance left: the timer still finds everything
		watcher = &fsnotify.Watcher{}
	} else {
		defer func() { _ = watcher.Close() }()
		watch = func() error { return watcher.Add(s.o.Dir) }
	}
	if err := watch(); err != nil {
		s.o.Log.Warn("watch manifest directory; changes are found every 20 s only", "dir", s.o.Dir, "err", err)
	}
	timer := time.NewTimer(s.check)
	defer timer.Stop()
	for {
		_ = watch() // the directory may be another one by now
		wait := s.check
		if !s.Reconcile(ctx) {
			wait = again
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-watcher.Events:
			settle(watcher)
		case err := <-watcher.Errors: // the watcher waits until it is taken; events were lost, so anything may have changed
			s.o.Log.Warn("watch manifest directory; all of it is read again", "dir", s.o.Dir, "err", err)
		}
	}
}

// settle takes the events that belong to the same change: an editor makes several for one save. The directory is read after it,
// so that events were lost makes no difference.
func settle(w *fsnotify.Watcher) {
	quiet := time.NewTimer(50 * time.Millisecond)
	defer quiet.Stop()
	for {
		select {
		case <-w.Events:
		case <-w.Errors:
		case <-quiet.C:
			return
		}
	}
}

// Reconcile makes the store hold the pods of the directory, and no other static pods. The pods of a file that cannot be
// read stay as they are: a slip of the pen does not stop what runs. done is false when it is to be called again soon.
func (s *Source) Reconcile(ctx context.Context) (done bool) {
	wanted, broken, err := s.read()
	if err != nil {
		s.report(s.o.Dir, err)
		return true
	}
	delete(s.reported, s.o.Dir)
	for _, old := range s.o.Static() {
		file := old.Annotations[FileAnnotation]
		key := types.NamespacedName{Namespace: old.Namespace, Name: old.Name}
		if _, ok := wanted[key]; ok || broken[file] || old.DeletionTimestamp != nil {
			continue
		}
		if err := s.o.Remove(ctx, old.Namespace, old.Name); err != nil {
			s.o.Log.Error("remove static pod", "namespace", old.Namespace, "pod", old.Name, "err", err)
		}
	}
	done = true
	for _, pod := range wanted {
		file := pod.Annotations[FileAnnotation]
		_, err := s.o.Put(ctx, pod)
		switch {
		case errors.Is(err, ErrTerminating):
			done = false
		case err != nil:
			s.report(file, err)
		default:
			delete(s.reported, file)
		}
	}
	return done
}

// read decodes all files. broken holds the names of those that cannot be used; they are reported.
func (s *Source) read() (wanted map[types.NamespacedName]*v1.Pod, broken map[string]bool, err error) {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, nil, err
	}
	wanted, broken = map[types.NamespacedName]*v1.Pod{}, map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		switch filepath.Ext(name) {
		case ".yaml", ".yml", ".json":
		default:
			continue
		}
		if strings.HasPrefix(name, ".") || e.IsDir() {
			continue
		}
		pods, err := s.decode(name)
		if errors.Is(err, fs.ErrNotExist) {
			if !isLink(filepath.Join(s.o.Dir, name)) {
				continue
			}
			err = errors.New("is a symbolic link to something that is not there")
		}
		for _, p := range pods {
			key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
			if other, ok := wanted[key]; ok && err == nil {
				err = fmt.Errorf("pod %s: is in %s as well", key, other.Annotations[FileAnnotation])
			}
		}
		if err != nil {
			broken[name] = true
			s.report(name, err)
			continue
		}
		for _, p := range pods {
			wanted[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
		}
	}
	return wanted, broken, nil
}

func (s *Source) decode(name string) ([]*v1.Pod, error) {
	// A fifo that nobody writes to would hold up all files for ever.
	f, err := os.OpenFile(filepath.Join(s.o.Dir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", name)
	}
	docs, err := manifest.Decode(name, f)
	if err != nil {
		return nil, err
	}
	var pods []*v1.Pod
	for _, d := range docs {
		pods = append(pods, s.static(name, d))
	}
	return pods, nil
}

// static is the pod of a document as it runs: bound to this node, with a uid that changes when the content does.
func (s *Source) static(file string, d manifest.Document) *v1.Pod {
	pod := d.Pod.DeepCopy()
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	pod.Name += "-" + strings.ToLower(s.o.Node)
	pod.UID = uid(s.o.Node, file, pod.Namespace, pod.Name, d.Raw)
	pod.Spec.NodeName = s.o.Node
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[SourceAnnotation] = "file"
	pod.Annotations[HashAnnotation] = string(pod.UID)
	pod.Annotations[FileAnnotation] = file
	return pod
}

// uid is made from all that identifies a static pod, in the form of a UUID of version 8.
func uid(node, file, namespace, name string, raw []byte) types.UID {
	h := sha256.New()
	for _, part := range []string{node, file, namespace, name} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	_, _ = h.Write(raw)
	sum := h.Sum(nil)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	x := hex.EncodeToString(sum[:16])
	return types.UID(x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:])
}

// report says once what is wrong with a file, and again when it is something else.
func (s *Source) report(file string, err error) {
	if s.reported[file] == err.Error() {
		return
	}
	s.reported[file] = err.Error()
	s.o.Log.Error("static manifest", "file", file, "err", err)
	s.o.Report(file, err)
}

// isLink tells whether path is a symbolic link, whatever it leads to.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
