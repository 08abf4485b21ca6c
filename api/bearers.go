package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	userinfo "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"

	"podd/store"
)

// bearers are the watches and sessions of service accounts: they go on for long, and end when their token is void or their
// account may not do it any more. Other requests end by themselves.
type bearers struct {
	mu  sync.Mutex
	all map[*bearer]bool // guarded by mu
}

// bearer is one of them.
type bearer struct {
	namespace, account, pod string // pod is the one that the token is bound to, if it is
	holds                   func() bool
	end                     context.CancelFunc
}

// keep has ctx, which is r's with its user, ended when the token is void or the account may not do any longer what r asks
// for. over is to be called when r has been answered.
func (s *Server) keep(ctx context.Context, r *http.Request, who userinfo.Info, token string) (kept context.Context, over func()) {
	namespace, name, err := serviceaccount.SplitUsername(who.GetName())
	info, ok := request.RequestInfoFrom(ctx)
	if err != nil || s.issuer == nil || !ok || !longRunning(r, info) {
		return ctx, func() {}
	}
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return ctx, func() {}
	}
	kept, end := context.WithCancel(ctx)
	b := &bearer{namespace: namespace, account: name, end: end, holds: func() bool {
		if _, _, err := s.issuer.Authenticate(context.WithoutCancel(ctx), token); err != nil {
			return false
		}
		decision, _, _ := s.authorizer.Authorize(ctx, attributes)
		return decision == authorizer.DecisionAllow
	}}
	if names := who.GetExtra()[serviceaccount.PodNameKey]; len(names) > 0 {
		b.pod = names[0]
	}
	s.bearers.mu.Lock()
	if s.bearers.all == nil {
		s.bearers.all = map[*bearer]bool{}
	}
	s.bearers.all[b] = true
	s.bearers.mu.Unlock()
	if !b.holds() { // any more, since it was looked at: nobody will tell of that again
		end()
	}
	return kept, func() {
		s.bearers.mu.Lock()
		delete(s.bearers.all, b)
		s.bearers.mu.Unlock()
		end()
	}
}

// look ends those of whom which is true and whose token does not hold any more.
func (b *bearers) look(which func(*bearer) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for one := range b.all {
		if which(one) && !one.holds() {
			one.end()
		}
	}
}

// bearerKeeper looks at bearers when what their tokens depend on changes: their account, the pod, a secret.
type bearerKeeper struct{ server *Server }

func (k *bearerKeeper) begin([]store.Entry) {
	k.server.bearers.look(func(*bearer) bool { return true }) // something may have been missed
}

func (k *bearerKeeper) change(c store.Change) {
	kind, namespace, name := k.server.stored.of(c.Key)
	switch {
	case kind == nil:
	case kind.prefix == "/serviceaccounts/":
		k.server.bearers.look(func(b *bearer) bool { return b.namespace == namespace && b.account == name })
	case kind.prefix == store.PodPrefix && c.Data == nil:
		k.server.bearers.look(func(b *bearer) bool { return b.namespace == namespace && b.pod == name })
	case kind.prefix == "/secrets/" && c.Data == nil:
		k.server.bearers.look(func(b *bearer) bool { return b.namespace == namespace && b.pod == "" })
	}
}

func (*bearerKeeper) work(context.Context) (more bool, err error) { return false, nil }
func (*bearerKeeper) again() time.Time                            { return time.Time{} }
