package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// markers are small files on the tmpfs that say what was done for a pod in this boot of the host. They are a memory that
// survives podd and goes with the boot, which is what "done in this boot" has to do; they cost no fsync.
//
//	<dir>/ground         all of the pod's directories, cgroup and volumes were made
//	<dir>/network        the addresses that the hosts file was written with
//	<dir>/overdue        it was told that the pod's deadline has passed
//	<dir>/killed/<id>    podd has sent container <id> SIGKILL, or is about to: no lack of memory has ended it
//	<dir>/started/<id>   when the process of container <id> was started; the zero time from just before its start
//	<dir>/found/<id>/    what was found out about container <id> since: a file for each hook that has ended and for each
//	                     probe that has come to a result, by the name of the step, and condemned
type markers struct{ dir string }

func markersOf(runDir string, uid types.UID) markers {
	return markers{filepath.Join(runDir, "pods", string(uid), "marks")}
}

// put writes a marker; it is there whole or not at all.
func (m markers) put(name string, value any) error {
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	return nil
}

// get reads a marker; false if it is not there.
func (m markers) get(name string, value any) bool {
	data, err := os.ReadFile(filepath.Join(m.dir, name))
	return err == nil && json.Unmarshal(data, value) == nil
}

func (m markers) drop(name string) error {
	err := os.Remove(filepath.Join(m.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// started is when the process of a container was started in this boot; false if it was not.
func (m markers) started(id string) (time.Time, bool) {
	var at time.Time
	ok := m.get(filepath.Join("started", id), &at)
	return at, ok
}

// condemned is the name of the note that podd ends an instance.
const condemned = "condemned"

// found is the marker of what was found out about a container; the directory of all of them if what is "".
func found(id, what string) string { return filepath.Join("found", id, what) }

// has tells whether there is such a marker, or a directory of them.
func (m markers) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.dir, name))
	return err == nil
}

// forget drops all that is known of a container.
func (m markers) forget(id string) error {
	return errors.Join(os.RemoveAll(filepath.Join(m.dir, found(id, ""))),
		m.drop(filepath.Join("stdin", id)), m.drop(filepath.Join("killed", id)), m.drop(filepath.Join("started", id)))
}

// any tells whether there is a directory of the pod at all: clear may have ended before it was removed.
func (m markers) any() bool {
	_, err := os.Stat(filepath.Dir(m.dir))
	return err == nil
}

// clear removes all markers of the pod, and the directory of the pod when nothing else is in it.
func (m markers) clear() error {
	if err := os.RemoveAll(m.dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Dir(m.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
