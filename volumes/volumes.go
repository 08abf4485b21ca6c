// Package volumes turns the volumes of a pod into directories and mounts on the host, and into mounts of its containers.
//
// All that podd makes for a pod's volumes lies below <Dir>/<uid>/volumes. Containers can write there, so nothing that
// is found there is trusted: paths are walked by descriptor, symbolic links are never followed, and removal never
// crosses into another mount. The content of a hostPath is the user's and is never changed or deleted.
package volumes

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// Options say where volumes live.
type Options struct {
	Dir string // <state>/pods; one directory per pod uid below it
}

// Volumes makes and removes the volumes of pods.
type Volumes struct{ o Options }

// Open makes the directory that volumes live below, mode 0700.
func Open(o Options) (*Volumes, error) { return nil, errors.New("volumes: not built") }

// Ensure makes all volumes of the pod: emptyDir directories and tmpfs mounts; hostPaths are checked, and created where
// their type says so. It is repeatable and keeps what is there.
func (v *Volumes) Ensure(ctx context.Context, pod *v1.Pod) error {
	return errors.New("volumes: not built")
}

// Mounts are the mounts of one container for its volumeMounts. It changes nothing.
func (v *Volumes) Mounts(pod *v1.Pod, c *v1.Container) ([]specs.Mount, error) {
	return nil, errors.New("volumes: not built")
}

// Look says whether all volumes of the pod are there.
func (v *Volumes) Look(uid string, pod *v1.Pod) (bool, error) {
	return false, errors.New("volumes: not built")
}

// Remove unmounts and deletes all volumes of the pod; nil when nothing is left. The pod's directory itself goes when
// it is empty.
func (v *Volumes) Remove(ctx context.Context, uid string) error {
	return errors.New("volumes: not built")
}

// Known lists the uids that have a directory below Dir.
func (v *Volumes) Known() ([]string, error) { return nil, errors.New("volumes: not built") }

// RemoveAll deletes what lies at name below dir, and name itself, without following a symbolic link or crossing into
// another mount (which it reports as an error, and leaves alone). It is nil when nothing is there.
func RemoveAll(ctx context.Context, dir, name string) error { return errors.New("volumes: not built") }

// Unmount unmounts everything at and below path, stacked mounts included, innermost first.
func Unmount(ctx context.Context, path string) error { return errors.New("volumes: not built") }
