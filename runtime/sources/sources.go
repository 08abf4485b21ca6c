// Package sources turns what a pod refers to into values: the environment of a container, and the files of a volume that
// podd fills (configMap, secret, downwardAPI, projected). The rules and the words of the errors are upstream's.
//
// It reads objects through one small interface and knows nothing of the host's files. Nothing it says of what is missing
// or wrong has a value in it: errors end up in events and logs.
package sources

import (
	"context"
	"fmt"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Kind is what kind of object a pod refers to.
type Kind string

// The kinds.
const (
	ConfigMap Kind = "configmap"
	Secret    Kind = "secret"
)

// Ref names an object in the pod's own namespace.
type Ref struct {
	Kind Kind
	Name string
}

// Objects is where references lead. An object that is not there is an error for which IsNotFound is true. What is
// returned may be shared and must not be changed.
type Objects interface {
	ConfigMap(namespace, name string) (*v1.ConfigMap, error)
	Secret(namespace, name string) (*v1.Secret, error)
	Services(namespace string) ([]*v1.Service, error)
	// Revision is the resourceVersion of an object, 0 if it is not there.
	Revision(namespace string, ref Ref) int64
}

// Tokens makes service account tokens.
type Tokens interface {
	// Token is one for the pod's account and bound to the pod. An empty audience is that of the API. expires is when it
	// stops to be valid, which may be another time than was asked for.
	Token(ctx context.Context, pod *v1.Pod, audience string, expiry time.Duration) (token string, expires time.Time, err error)
	// Key says which key they are signed with.
	Key() string
}

// Host is what a pod may be told of the host and of its place on it.
type Host struct {
	PodIPs      []string // the pod's, in the order of its status
	HostIPs     []string
	Allocatable v1.ResourceList // what stands for a limit that a container has not

	// Open opens a file of one of the pod's volumes. A file that is not there is fs.ErrNotExist.
	Open func(volume, path string) (io.ReadCloser, error)
	// Tokens may be nil: then there are none.
	Tokens Tokens
}

// Unresolved is the error for what a pod refers to and what is not there, or cannot be used. It stays as long as the
// objects stay as they are.
type Unresolved struct{ message string }

func (e *Unresolved) Error() string { return e.message }

// Lacking says that a change of the objects may make it good.
func (e *Unresolved) Lacking() {}

func unresolved(format string, args ...any) error {
	return &Unresolved{fmt.Sprintf(format, args...)}
}

// notFound is upstream's words for an object that is not there, and the error itself for all else.
func notFound(err error, ref Ref) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	return unresolved("%s %q not found", ref.Kind, ref.Name)
}

// absent tells whether err is for an object that is not there and need not be.
func absent(err error, optional *bool) bool {
	return apierrors.IsNotFound(err) && isTrue(optional)
}

func isTrue(b *bool) bool { return b != nil && *b }
