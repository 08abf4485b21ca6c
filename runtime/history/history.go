// Package history keeps what happened to each pod, for a while after it is gone: a file of JSON lines per pod, by uid,
// in one directory.
//
// A line is appended with one write, and neither is waited for the disk: a podd that is killed loses nothing, a machine
// that goes down perhaps the last lines. What was cut off in the middle of a line is dropped when the file is next read.
// Lines are only folded (fold.go) when the file has grown, and whenever it is read. Nothing is kept in memory but
// what tells a repetition.
package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"podd/api/history"
)

// Bounds of the files.
const (
	maxFile  = 256 << 10 // bytes at which the file of a pod is folded
	maxRead  = 4 << 20   // bytes read of a file; podd never writes that many
	maxGone  = 1000      // pods that are gone
	maxTotal = 32 << 20  // bytes of all files, as far as there are pods that are gone
)

const suffix = ".jsonl"

// History is the histories of all pods. A nil one keeps nothing.
type History struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]*file // by uid; guarded by mu
}

// file is what is known of one that was read in this life of podd.
type file struct {
	size int64
	last map[kind]string // what a repetition is told by
}

// head is the first line of a file.
type head struct {
	Version   int    `json:"version"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

const version = 1

// Open makes dir if need be.
func Open(dir string, log *slog.Logger) (*History, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	return &History{dir: dir, log: log, files: map[string]*file{}}, nil
}

func (h *History) path(uid string) string { return filepath.Join(h.dir, uid+suffix) }

// usable tells whether uid can name a file.
func usable(uid string) bool {
	return uid != "" && len(uid) < 200 && uid[0] != '.' && !strings.ContainsAny(uid, "/\x00")
}

// Add notes that something happened to a pod. An error is logged: no pod waits for its history.
func (h *History) Add(namespace, name, uid string, e history.Entry) {
	if h == nil || !usable(uid) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.add(head{version, namespace, name, uid}, e); err != nil {
		delete(h.files, uid) // it is read again, and mended, before the next line
		h.log.Debug("note the history of a pod", "uid", uid, "err", err)
	}
}

// Resume notes that podd goes on with a pod that an earlier podd has told of.
func (h *History) Resume(uid string) {
	if h == nil || !usable(uid) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	data, err := os.ReadFile(h.path(uid))
	if err != nil {
		return
	}
	f, pod, err := h.begun(uid, data)
	if err != nil || pod.Deleted != nil || len(pod.Entries) == 0 {
		return
	}
	h.files[uid] = f
	if err := h.add(head{version, pod.Namespace, pod.Name, uid}, history.Entry{Time: time.Now(), What: history.Daemon}); err != nil {
		delete(h.files, uid)
		h.log.Debug("note the history of a pod", "uid", uid, "err", err)
	}
}

func (h *History) add(of head, e history.Entry) error {
	f, ok := h.files[of.UID]
	if !ok {
		var err error
		if f, err = h.load(of); err != nil {
			return err
		}
		h.files[of.UID] = f
	}
	k, sign := repetition(e)
	if sign != "" && f.last[k] == sign || e.What == history.Unready && f.last[k] == "" {
		return nil
	}
	e.Message = history.Cut(e.Message, history.MaxBytes)
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := h.write(of.UID, f, append(line, '\n'), os.O_APPEND); err != nil {
		return err
	}
	if sign != "" {
		f.last[k] = sign
	}
	if e.What == history.Deleted {
		delete(h.files, of.UID)
		return nil
	}
	if f.size > maxFile {
		return h.compact(of.UID, f)
	}
	return nil
}

// repetition is by what an entry is known that says again what the last one of its kind has said: a look at the pod, of
// which there are many, and each podd's first, say again until when it is held back and whether it is ready.
func repetition(e history.Entry) (kind, string) {
	switch e.What {
	case history.BackOff:
		return kind{what: e.What, container: e.Container, image: e.Image}, e.Until.UTC().Format(time.RFC3339Nano)
	case history.Delete:
		sign := "gone"
		if e.Until != nil {
			sign = e.Until.UTC().Format(time.RFC3339Nano)
		}
		return kind{what: e.What}, sign
	case history.Ready, history.Unready:
		return kind{what: history.Ready}, e.What
	}
	return kind{}, ""
}

// load reads what there is of a pod's file; one that is not there is begun.
func (h *History) load(of head) (*file, error) {
	data, err := os.ReadFile(h.path(of.UID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if bytes.IndexByte(data, '\n') >= 0 {
		f, _, err := h.begun(of.UID, data)
		return f, err
	}
	line, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	f := &file{last: map[kind]string{}}
	return f, h.write(of.UID, f, append(line, '\n'), os.O_TRUNC)
}

// begun is a pod's file by what was read of it. What was cut off is taken off it.
func (h *History) begun(uid string, data []byte) (*file, history.Pod, error) {
	f := &file{size: int64(bytes.LastIndexByte(data, '\n') + 1), last: map[kind]string{}}
	if f.size < int64(len(data)) {
		if err := os.Truncate(h.path(uid), f.size); err != nil {
			return nil, history.Pod{}, err
		}
	}
	pod, err := parse(data[:f.size])
	if err != nil {
		return nil, history.Pod{}, err
	}
	for _, e := range pod.Entries {
		if k, sign := repetition(e); sign != "" {
			f.last[k] = sign
		}
	}
	return f, pod, nil
}

func (h *History) write(uid string, f *file, lines []byte, how int) error {
	out, err := os.OpenFile(h.path(uid), os.O_WRONLY|os.O_CREATE|how, 0o600)
	if err != nil {
		return err
	}
	n, err := out.Write(lines)
	f.size += int64(n)
	return errors.Join(err, out.Close())
}

// compact writes a pod's file anew, folded. What it is written to first is removed by Sweep if podd dies meanwhile.
func (h *History) compact(uid string, f *file) error {
	pod, err := read(h.path(uid))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	if err := lines.Encode(head{version, pod.Namespace, pod.Name, uid}); err != nil {
		return err
	}
	for _, e := range pod.Entries {
		if err := lines.Encode(e); err != nil {
			return err
		}
	}
	fresh := filepath.Join(h.dir, uid+".new")
	if err := os.WriteFile(fresh, out.Bytes(), 0o600); err != nil {
		return err
	}
	f.size = int64(out.Len())
	return os.Rename(fresh, h.path(uid))
}

// Pods is the histories of the pods of a name, or the one of a uid, oldest first.
func (h *History) Pods(namespace, name, uid string) ([]history.Pod, error) {
	if h == nil {
		return nil, nil
	}
	if uid != "" {
		if !usable(uid) {
			return nil, nil
		}
		pod, err := read(h.path(uid))
		if errors.Is(err, fs.ErrNotExist) || err == nil && (name != "" && pod.Name != name || namespace != "" && pod.Namespace != namespace) {
			return nil, nil
		}
		return []history.Pod{pod}, err
	}
	files, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, err
	}
	var found []history.Pod
	for _, entry := range files {
		path := filepath.Join(h.dir, entry.Name())
		if of, err := headOf(path); err != nil || of.Namespace != namespace || of.Name != name || !strings.HasSuffix(path, suffix) {
			continue
		}
		if pod, err := read(path); err == nil { // else it has just gone
			found = append(found, pod)
		}
	}
	slices.SortFunc(found, func(a, b history.Pod) int { return a.Since.Compare(b.Since) })
	return found, nil
}

// headOf reads whose file it is.
func headOf(path string) (head, error) {
	f, err := os.Open(path)
	if err != nil {
		return head{}, err
	}
	defer func() { _ = f.Close() }()
	start := make([]byte, 1024) // names and uids are shorter than 600 bytes in all
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return head{}, err
	}
	line, _, _ := bytes.Cut(start[:n], []byte("\n"))
	var of head
	return of, json.Unmarshal(line, &of)
}

func read(path string) (history.Pod, error) {
	f, err := os.Open(path)
	if err != nil {
		return history.Pod{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRead))
	if err != nil {
		return history.Pod{}, err
	}
	return parse(data)
}

// parse reads a file. Lines that are none are left out: only the last can be one that was cut off, but a file that a
// broken disk has touched is to tell the rest.
func parse(data []byte) (history.Pod, error) {
	line, data, _ := bytes.Cut(data, []byte("\n"))
	var of head
	if err := json.Unmarshal(line, &of); err != nil {
		return history.Pod{}, fmt.Errorf("read history: %w", err)
	}
	if of.Version != version {
		return history.Pod{}, fmt.Errorf("read history of pod %s: version %d is not known", of.UID, of.Version)
	}
	entries := []history.Entry{}
	for len(data) > 0 {
		var e history.Entry
		var whole bool
		line, data, whole = bytes.Cut(data, []byte("\n"))
		if whole && json.Unmarshal(line, &e) == nil && e.What != "" {
			entries = append(entries, e)
		}
	}
	pod := history.Pod{Namespace: of.Namespace, Name: of.Name, UID: of.UID, Entries: entries}
	if n := len(entries); n > 0 && entries[n-1].What == history.Deleted {
		at := entries[n-1].Time
		pod.Deleted = &at
	}
	slices.SortStableFunc(pod.Entries, func(a, b history.Entry) int { return a.Time.Compare(b.Time) }) // an exit is noted after it
	pod.Entries = fold(pod.Entries)
	if len(pod.Entries) > 0 {
		pod.Since = pod.Entries[0].Time
	}
	return pod, nil
}

// Sweep removes the histories of pods that are gone for KeptFor, and the oldest of such that are more than the bounds.
// known tells whether a pod is not gone.
func (h *History) Sweep(known func(uid string) bool) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return fmt.Errorf("sweep history: %w", err)
	}
	var gone []fs.FileInfo
	var errs []error
	total := int64(0)
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue
		}
		uid, ok := strings.CutSuffix(entry.Name(), suffix)
		switch {
		case !ok || !known(uid) && time.Since(info.ModTime()) > history.KeptFor: // all else in the directory is half of a compact
			errs = append(errs, h.remove(entry.Name()))
			continue
		case !known(uid):
			gone = append(gone, info)
		}
		total += info.Size()
	}
	slices.SortFunc(gone, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for n := len(gone); n > 0 && (n > maxGone || total > maxTotal); n-- {
		oldest := gone[len(gone)-n]
		total -= oldest.Size()
		errs = append(errs, h.remove(oldest.Name()))
	}
	return errors.Join(errs...)
}

func (h *History) remove(name string) error {
	delete(h.files, strings.TrimSuffix(name, suffix))
	if err := os.Remove(filepath.Join(h.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep history: %w", err)
	}
	return nil
}
