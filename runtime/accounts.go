package runtime

import (
	"context"
	"sync"
)

// accounts are the user and group files of one image.
type accounts struct{ passwd, group []byte }

// accountCache keeps the account files of the images used last: reading them takes a mount.
type accountCache struct {
	mu    sync.Mutex
	files map[string]accounts // by chain id; guarded by mu
}

// accountsKept bounds the cache. An image has at most 1 MiB of each file, most have less than a KiB.
const accountsKept = 64

func (r *Runtime) accountsOf(ctx context.Context, chainID string) (accounts, error) {
	r.accounts.mu.Lock()
	a, ok := r.accounts.files[chainID]
	r.accounts.mu.Unlock()
	if ok {
		return a, nil
	}
	passwd, group, err := r.Containers.ReadAccounts(ctx, chainID)
	if err != nil {
		return accounts{}, err
	}
	a = accounts{passwd, group}
	r.accounts.mu.Lock()
	defer r.accounts.mu.Unlock()
	if r.accounts.files == nil || len(r.accounts.files) >= accountsKept {
		r.accounts.files = map[string]accounts{}
	}
	r.accounts.files[chainID] = a
	return a, nil
}
