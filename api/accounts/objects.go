package accounts

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"podd/store"
)

// objects looks up what tokens are bound to.
type objects struct{ store *store.Store }

// Account is the service account as it is stored.
func Account(s *store.Store, namespace, name string) (*v1.ServiceAccount, error) {
	account := &v1.ServiceAccount{}
	return account, read(s, "/serviceaccounts/"+namespace+"/"+name, "serviceaccounts", name, account)
}

func (o *objects) GetServiceAccount(_ context.Context, namespace, name string) (*v1.ServiceAccount, error) {
	return Account(o.store, namespace, name)
}

func (o *objects) GetPod(_ context.Context, namespace, name string) (*v1.Pod, error) {
	pod, ok := o.store.Pod(namespace, name)
	if !ok {
		return nil, apierrors.NewNotFound(v1.Resource("pods"), name)
	}
	return pod, nil
}

func (o *objects) GetSecret(_ context.Context, namespace, name string) (*v1.Secret, error) {
	secret := &v1.Secret{}
	return secret, read(o.store, "/secrets/"+namespace+"/"+name, "secrets", name, secret)
}

func (o *objects) GetNode(_ context.Context, name string) (*v1.Node, error) {
	node := &v1.Node{}
	return node, read(o.store, "/nodes/"+name, "nodes", name, node)
}

// read decodes a stored object: protobuf in an envelope, after four bytes that say so.
func read(s *store.Store, key, resource, name string, into interface{ Unmarshal([]byte) error }) error {
	entry, ok := s.Get(key)
	if !ok {
		return apierrors.NewNotFound(v1.Resource(resource), name)
	}
	const magic = 4
	if len(entry.Data) < magic {
		return fmt.Errorf("read %s %s: too short", resource, name)
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(entry.Data[magic:]); err != nil {
		return fmt.Errorf("read %s %s: %w", resource, name, err)
	}
	if err := into.Unmarshal(envelope.Raw); err != nil {
		return fmt.Errorf("read %s %s: %w", resource, name, err)
	}
	return nil
}
